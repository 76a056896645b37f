"""The examples that a newcomer reads first run on the embedded model, and do what is said above them."""

import re
from pathlib import Path

import pytest

import caa_interp as caa

ROOT = Path(__file__).parents[2]


def run(page: str, names: dict[str, object], *headings: str) -> None:
    """Run the examples below each heading; "" is the text before the first one."""
    title, *parts = re.split(r"^## ", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    below = {"": title} | dict(part.split("\n", 1) for part in parts)
    for heading in headings:
        examples = re.findall(r"^```python\n(.*?)^```$", below[heading], flags=re.MULTILINE | re.DOTALL)
        assert examples
        for example in examples:
            exec(compile(example, f"{page}, {heading}", "exec"), names)


def along_the_vector(model, vector, *steering: caa.Intervention) -> float:
    """Projection of the residual stream on the vector of the layer that is steered, at the last token."""
    layer = steering[0].layer
    with caa.steer(model, list(steering)):
        _, cache = model.run_with_cache("I start a new job tomorrow.")
    return float(cache[f"blocks.{layer}.hook_resid_post"][0, -1] @ vector.at(layer) / vector.at(layer).norm())


def test_one_vector_several_and_a_conversation(embedded, monkeypatch):
    """One vector does more than random ones, a cap bounds it, and a conversation is answered under each condition."""
    monkeypatch.setattr("caa_interp.load_model", lambda: embedded)
    names: dict[str, object] = {}
    run("README.md", names, "Ten lines")
    slopes = names["caa"].steerability(names["table"]).set_index("vector")["slope"]
    assert slopes["optimism"] > slopes.drop("optimism").abs().max()
    up, cap = names["up"], names["cap"]
    assert along_the_vector(embedded, names["vector"], up) > 15
    assert along_the_vector(embedded, names["vector"], up, cap) == pytest.approx(12, abs=1e-3)
    assert names["answers"]["vector"].tolist() == ["unsteered", "up", "up, then capped"]
    assert names["answers"]["answer"].str.len().gt(0).all()


def test_several_interventions_a_conversation_and_samples(embedded, monkeypatch):
    monkeypatch.setattr("caa_interp.load_model", lambda: embedded)
    page, names = "docs/howto/steer.md", {}
    run(page, names, "", "One vector", "A cap after an addition", "Measure it")
    scores = names["table"].groupby("vector")["logit_difference"].mean()
    assert scores["unsteered"] < scores[["capped", "up"]].min()
    assert along_the_vector(embedded, names["optimism"], names["up"]) > 15
    assert along_the_vector(embedded, names["optimism"], names["up"], names["cap"]) == pytest.approx(12, abs=1e-3)
    run(page, names, "A conversation")
    assert names["answers"]["multiplier"].tolist() == [0, 3]
    assert names["answers"]["answer"].str.len().gt(0).all()
    run(page, names, "Samples")
    assert names["answers"][["multiplier", "sample"]].to_numpy().tolist() == [[m, n] for m in (0, 3) for n in range(3)]
