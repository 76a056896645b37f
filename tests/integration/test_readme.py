"""The README's examples run on the embedded model, in their order, and do what is said above them."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_examples_run(embedded, monkeypatch):
    monkeypatch.setattr("caa_interp.load_model", lambda: embedded)
    examples = re.findall(r"^```python\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 3
    names: dict[str, object] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"README.md, example {number}", "exec"), names)
    table, both, answers = names["table"], names["both"], names["answers"]
    slopes = names["caa"].steerability(table).set_index("vector")["slope"]
    assert slopes["optimism"] > slopes.drop("optimism").abs().max()
    scores = both.groupby("vector")["logit_difference"].mean()
    assert scores["unsteered"] < scores["up, capped"] <= scores["up"]
    assert answers[["multiplier", "sample"]].to_numpy().tolist() == [[0, 0], [0, 1], [3, 0], [3, 1]]
    assert answers["answer"].str.len().gt(0).all()
