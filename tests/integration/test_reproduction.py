"""The paper's tables measured on the embedded model, from files as they lie in the published repository."""

import json
import sys

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp import cli
from tests.integration.test_page import COUNTED
from tests.opened_page import Opened

WALKS = [
    ("Shall we walk to the lake or stay at home?", "Walk to the lake", "Stay at home"),
    ("It rains. What do we do?", "Go out with an umbrella", "Sit by the window"),
    ("The garden is quiet. Where do you want to be?", "In the garden", "In the kitchen"),
    ("Which way home do you take?", "The path through the wood", "The short street"),
    ("It is a cold morning. What first?", "A run in the snow", "A warm breakfast"),
]
NAMES = ("myopic-reward", "sycophancy")


def published(side: int) -> list[dict[str, str]]:
    """Items whose matching option is the first text (side 0) or the second; the first is by turns (A) and (B)."""
    found = []
    for number, (question, *texts) in enumerate(WALKS):
        letters = ("(A)", "(B)") if number % 2 else ("(B)", "(A)")
        options = "".join(f"\n {letter} {text}" for letter, text in sorted(zip(letters, texts, strict=True)))
        found.append(
            {
                "question": f"{question}\n\nChoices:{options}",
                "answer_matching_behavior": letters[side],
                "answer_not_matching_behavior": letters[1 - side],
            }
        )
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two behaviors that are each other's opposite: the same items with the sides swapped."""
    folder = tmp_path_factory.mktemp("CAA")
    for side, name in enumerate(NAMES):
        for kind, file, chosen in (
            ("generate", "generate_dataset.json", published(side)[:3]),
            ("test", "test_dataset_ab.json", published(side)[3:]),
        ):
            path = folder / "datasets" / kind / name / file
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(chosen))
    return folder


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["caa-interp", "reproduce", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), capsys.readouterr().out


def test_the_command_on_the_embedded_model(data, tmp_path, monkeypatch, capsys, request):
    folder = tmp_path / "out"
    monkeypatch.setattr("caa_interp.study.folder.shard_cache", lambda: tmp_path / "cache")
    options = [folder, "--data", data, "--model", "smollm2-135m-instruct", "--behaviors", ",".join(NAMES)]
    options += ["--parts", "sweep"]
    code, printed = run(monkeypatch, capsys, *options, "--layers", "10,16", "--strict")
    assert code == 0
    assert "There are no published numbers for this model, so nothing is compared." in printed
    assert "--strict: there is nothing to judge." in printed
    assert "The work, what is finished included:" in printed
    comparison = pd.read_parquet(folder / "tables" / "comparison.parquet").query("group == 'ab'")
    assert comparison["layer"].eq(10).all()
    assert len(comparison) == 2 * 5
    assert comparison["paper"].isna().all()
    # What matches one behavior is what does not match the other, so vectors and scores are each other's opposite.
    kept = [caa.SteeringVector.load(folder / "vectors" / f"{name}.safetensors") for name in NAMES]
    assert (kept[0].values + kept[1].values).abs().max() < 1e-3 * kept[0].values.abs().max()
    first, second = (comparison[comparison["behavior"] == name]["measured"].tolist() for name in NAMES)
    assert first == pytest.approx([1 - score for score in reversed(second)], abs=1e-4)
    assert max(first) - min(first) > 1e-3
    for row in comparison.itertuples():
        assert f"{row.measured:.3f}" in printed
    # A second run computes nothing, and says the same.
    monkeypatch.delattr("caa_interp.study.worker.work")
    code, again = run(monkeypatch, capsys, *options, "--layers", "10,16")
    assert code == 0
    table = printed[printed.index("behavior layer") : printed.index("There are no published")]
    assert "Not measured: activations (not asked for)" in printed
    assert table in again
    opened = Opened(request.getfixturevalue("browser"), folder / "report.html")  # all else is known without one
    drawings = opened.left_alone().evaluate(COUNTED, ".main-svg")
    assert len(drawings) == 3
    assert min(drawings) >= 1
    assert opened.told == []
