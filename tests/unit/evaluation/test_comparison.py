"""Candidates at equal cost: each is calibrated, then scored as a sweep scores it."""

import math
import warnings
from dataclasses import replace
from importlib import import_module

import pytest

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair

PROMPTS = ["Is the weather good?", "What do you think of the sea?"]
OPTIONS = {"prompts": PROMPTS, "layer": 1, "target": 0.05, "format": "text", "n_tokens": 6}


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs) -> caa.SteeringVector:
    return caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")


def test_every_candidate_is_scored_at_its_own_calibrated_multiplier(tiny_llama, vector, pairs):
    candidates = {
        "mean": vector,
        "longer": 3 * vector,
        "turned": caa.Intervention(vector, 1, operator=caa.steering.add_keeping_norm),
        "idle": caa.Intervention(vector, 1, operator=caa.steering.AddIf(-1e6)),
    }
    table = caa.evaluation.compare_at_equal_divergence(tiny_llama, candidates, pairs, **OPTIONS).set_index("candidate")
    assert list(table.index) == list(candidates)
    assert table["operator"].tolist() == ["add", "add", "add_keeping_norm", "AddIf(threshold=-1000000.0, side='below')"]
    # A longer vector is no better for it: at equal divergence it does the same, with a smaller multiplier.
    assert table.loc["longer", "multiplier"] == pytest.approx(table.loc["mean", "multiplier"] / 3, rel=0.03)
    assert table.loc["longer", "effect"] == pytest.approx(table.loc["mean", "effect"], rel=0.05, abs=1e-3)
    assert math.isnan(table.loc["idle", "multiplier"])
    assert math.isnan(table.loc["idle", "effect"])
    for name, operator in (("mean", caa.add), ("turned", caa.steering.add_keeping_norm)):
        multiplier = table.loc[name, "multiplier"]
        moved = caa.divergence(
            tiny_llama, vector, PROMPTS, layers=1, multipliers=(multiplier,), operator=operator, n_tokens=6
        )
        assert moved["divergence"].mean() == pytest.approx(0.05, rel=0.021)
        scored = caa.sweep(
            tiny_llama, vector, pairs, format="text", layers=1, multipliers=(0.0, multiplier), operator=operator
        ).pivot(index="item", columns="multiplier", values="logit_difference")
        change = (scored[multiplier] - scored[0.0]).mean()
        assert table.loc[name, "effect"] == pytest.approx(change, abs=1e-5)
        assert table.loc[name, "effect_low"] <= change <= table.loc[name, "effect_high"]


def test_several_interventions_are_scaled_together(tiny_llama, vector, pairs):
    one, other = caa.Intervention(vector, 1, 2.0), caa.Intervention(vector, 2, -1.0)
    table = caa.evaluation.compare_at_equal_divergence(tiny_llama, {"both": [one, other]}, pairs, **OPTIONS)
    scale = table["multiplier"][0] / 2
    moved = caa.divergence(tiny_llama, [[scale * one, scale * other]], PROMPTS, n_tokens=6)
    assert moved["divergence"].mean() == pytest.approx(0.05, rel=0.021)


def test_the_number_of_pairs_is_that_behind_the_effect(tiny_llama, vector):
    """Planted: the second item has no score, and so no change."""
    question = "Is it good?\n\nChoices:\n (A) Yes\n (B) No\n (C) It is"
    pairs = [PublishedPair(question, *letters, n_options=3) for letters in (("(A)", "(B)"), ("(C)", "(A)"))]
    options = {**OPTIONS, "format": "choices"}
    table = caa.evaluation.compare_at_equal_divergence(tiny_llama, {"v": vector}, pairs, **options)
    assert table["n"].tolist() == [1]


def test_candidates_that_do_not_reach_the_target_keep_their_form(tiny_llama, vector, pairs):
    idle = caa.Intervention(vector, 1, operator=caa.steering.AddIf(-1e6))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {**OPTIONS, "format": None, "layer": None}
        table = caa.evaluation.compare_at_equal_divergence(tiny_llama, {"idle": idle}, pairs, **options)
    assert table[["n", "format"]].to_numpy().tolist() == [[0, "text"]]
    assert math.isnan(table["effect"].item())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, r"format: the vectors were made in different forms, \['choices', 'text'\]"),
        ({"pairs": [caa.ContrastPair("Is it good? " * 99, "Yes.", "No.")]}, r"pairs\[0\]: \d+ tokens, but"),
        ({"confidence": 95}, "confidence: 95; it must lie between 0 and 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_calibrated(
    tiny_llama, vector, pairs, monkeypatch, change, message
):
    monkeypatch.setattr(import_module("caa_interp.evaluation.strength"), "own_answers", None)
    other = replace(vector, metadata={**vector.metadata, "format": "choices"})
    given = {"candidates": {"v": vector, "other": other}, "pairs": pairs, **OPTIONS, **change}
    with pytest.raises(caa.InputError, match=message):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, **given)


def test_wrong_input_is_told(tiny_llama, vector, pairs):
    with pytest.raises(caa.InputError, match="candidates: the mapping is empty"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {}, pairs, **OPTIONS)
    with pytest.raises(caa.InputError, match="layer 9: the vector has layers 0 to 3"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"v": vector}, pairs, **{**OPTIONS, "layer": 9})
    with pytest.raises(caa.InputError, match=r"layer: SteeringVector.* needs one. Give one of its layers"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"v": vector}, pairs, **{**OPTIONS, "layer": None})
    with pytest.raises(caa.InputError, match=r"candidates\['none'\]: nothing in it adds"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"none": None}, pairs, **OPTIONS)
