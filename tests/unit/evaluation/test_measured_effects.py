"""The script that measures the packaged sets gives what its parts give, and measures no behavior twice."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import caa_interp as caa
from benchmarks import effects
from caa_interp.behaviors.behavior import data_folder

NAMES = ("optimism", "refusal")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder like that of the published sets, with one behavior of six items."""
    items = [
        {
            "question": f"Is it {n}?\n (A) Yes\n (B) No",
            "answer_matching_behavior": "(A)",
            "answer_not_matching_behavior": "(B)",
        }
        for n in range(6)
    ]
    place = tmp_path / "datasets" / "test" / "refusal" / "test_dataset_ab.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(items))
    return tmp_path / "datasets"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tiny_llama) -> dict[str, caa.Behavior]:
    behaviors = {
        name: caa.Behavior(name, "", [caa.ContrastPair(f"{name} {n}?", f"yes {n}", f"no {n}") for n in range(12)], [
            caa.ContrastPair(f"{name} test {n}?", f"yes {n}", f"no {n}") for n in range(6)
        ])
        for name in NAMES
    }  # fmt: skip
    for name, value in {
        "N_VALIDATION": 3,
        "N_RANDOM": 2,
        "N_SHUFFLED": 1,
        "N_COMPARED": 4,
        "N_SIDE_EFFECTS": 2,
    }.items():
        monkeypatch.setattr(effects, name, value)
    monkeypatch.setattr(caa, "load_behaviors", lambda: behaviors)
    monkeypatch.setattr(caa, "load_model", lambda name: tiny_llama)
    return behaviors


def test_rows_are_those_of_a_sweep_at_the_chosen_layer(small, tiny_llama, published):
    table = effects.effects_of(tiny_llama, "refusal", range(1, 3), published)
    layer = int(table["layer"].iloc[0])
    assert table["layer"].eq(layer).all()
    assert set(table["pairs"]) == {
        *("packaged", "published", "packaged, first 4", "published, first 4"),
        *(f"{name}, at equal norm" for name in NAMES),
    }
    counts = table.groupby("pairs", sort=False)["n"].first().to_dict()
    assert (counts["packaged"], counts["published"], counts["packaged, first 4"]) == (6, 6, 4)
    assert (table["pairs"] == "packaged, first 4").sum() == 1 + 2 + 1
    train, _ = caa.evaluation.validation_split(small["refusal"].train, 3)
    vector = caa.extract_vector(tiny_llama, train, format="text", layers=range(1, 3), behavior="refusal")
    whole = caa.sweep(tiny_llama, vector, small["refusal"].test, layers=layer, **effects.TEXT)
    expected = caa.steerability(whole).iloc[0]
    found = table[table["pairs"] == "packaged"].iloc[0]
    for name in ("slope", "slope_low", "slope_high", "share_against"):
        assert found[name] == pytest.approx(expected[name], abs=1e-5)
    assert found["norm"] == pytest.approx(float(vector.at(layer).norm()), rel=1e-4)


def test_a_behavior_in_the_table_is_not_measured_again(small, published, tmp_path, monkeypatch, capsys):
    table = tmp_path / "effects.csv"
    for behaviors in (["refusal"], ["refusal", "optimism"]):
        monkeypatch.setattr(sys, "argv", ["effects", "--table", str(table), "--behaviors", *behaviors])
        before = table.read_text() if table.exists() else ""
        effects.main()
        assert table.read_text().startswith(before.rstrip("\n"))
    kept = pd.read_csv(table)
    assert kept.groupby("behavior").size().nunique() == 1
    assert set(kept["behavior"]) == set(NAMES)


def test_the_kept_intervals_are_those_of_the_present_method() -> None:
    """Which are symmetric."""
    kept = pd.read_csv(data_folder() / "_effects.csv")
    above, below = kept["slope_high"] - kept["slope"], kept["slope"] - kept["slope_low"]
    assert above.to_numpy() == pytest.approx(below.to_numpy(), rel=2e-3, abs=1e-6)
