"""Candidates at equal cost: each is calibrated, then scored as a sweep scores it."""

import math

import pytest

import caa_interp as caa

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


def test_wrong_input_is_told(tiny_llama, vector, pairs):
    with pytest.raises(caa.InputError, match="candidates: the mapping is empty"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {}, pairs, **OPTIONS)
    with pytest.raises(caa.InputError, match="layer 9: the vector has layers 0 to 3"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"v": vector}, pairs, **{**OPTIONS, "layer": 9})
    with pytest.raises(caa.InputError, match=r"layer: SteeringVector.* needs one. Give one of its layers"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"v": vector}, pairs, **{**OPTIONS, "layer": None})
    with pytest.raises(caa.InputError, match=r"candidates\['none'\]: nothing in it adds"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"none": None}, pairs, **OPTIONS)
