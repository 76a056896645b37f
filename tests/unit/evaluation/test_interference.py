"""Two vectors at once: all at one divergence, scored as a sweep scores them, with interference that was planted."""

import math
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.interference import QUESTIONS, _combined

PROMPTS = ["Is the weather good?", "What do you think of the sea?"]
OPTIONS = {"layers": {"weather": 1, "sea": 2}, "target": 0.05, "format": "text", "n_tokens": 6, "progress": False}


@pytest.fixture(scope="module")
def vectors(tiny_llama, pairs):
    made = caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")
    return {"weather": made, "sea": caa.random_vectors(made, 1)["random 0"]}


@pytest.fixture(scope="module")
def table(tiny_llama, vectors, pairs):
    behaviors = {"weather": pairs, "sea": pairs[1:], "other": pairs[:1]}
    return caa.evaluation.interference(tiny_llama, vectors, behaviors, PROMPTS, questions=pairs[:2], **OPTIONS)


def test_every_condition_is_there_at_the_target(tiny_llama, vectors, table):
    assert table["behavior"].unique().tolist() == ["weather", "sea", "other", QUESTIONS]
    found = table.groupby("behavior", sort=False)["vector"].unique().map(list)
    together = ["weather + sea", "weather + sea, orthogonalized", "weather + sea, merged"]
    assert found["weather"] == ["unsteered", "weather", *together]
    assert found["sea"] == ["unsteered", "sea", *together]
    assert found["other"] == found[QUESTIONS] == ["unsteered", "weather", "sea", *together]
    for row in table.drop_duplicates("vector").itertuples():
        if row.combination in ("alone", "both"):
            given = [caa.Intervention(vectors[row.first], OPTIONS["layers"][row.first], row.multiplier)]
            if row.combination == "both":
                given.append(caa.Intervention(vectors["sea"], 2, row.second_multiplier))
            else:
                assert math.isnan(row.second_multiplier)
            moved = caa.divergence(tiny_llama, [given], PROMPTS, n_tokens=6, progress=False)
            assert moved["divergence"].mean() == pytest.approx(0.05, rel=0.021)
    # Both keep the proportion in which each alone reaches the target.
    doses = table.drop_duplicates("vector").set_index("vector")
    both = doses.loc["weather + sea"]
    alone = doses.loc["weather", "multiplier"] / doses.loc["sea", "multiplier"]
    assert both["multiplier"] / both["second_multiplier"] == pytest.approx(alone)


def test_scores_are_those_of_a_sweep(tiny_llama, vectors, pairs, table):
    row = table[table["vector"] == "weather + sea"].iloc[0]
    given = [
        caa.Intervention(vectors["weather"], 1, row["multiplier"]),
        caa.Intervention(vectors["sea"], 2, row["second_multiplier"]),
    ]
    alone = caa.sweep(tiny_llama, [given], pairs, format="text", progress=False)
    found = table[(table["vector"] == "weather + sea") & (table["behavior"] == "weather")]
    np.testing.assert_allclose(found["logit_difference"], alone["logit_difference"], atol=1e-4)


def test_questions_are_asked_as_for_capability(tiny_llama, vectors, pairs, table):
    asked = table[table["behavior"] == QUESTIONS]
    assert table.loc[table["behavior"] != QUESTIONS, "correct"].isna().all()
    row = asked[asked["vector"] == "sea"].iloc[0]
    options = {"layers": 2, "multipliers": (row["multiplier"],), "format": "text", "progress": False}
    expected = caa.capability(tiny_llama, vectors["sea"], pairs[:2], **options)
    found = asked[asked["vector"] == "sea"]
    np.testing.assert_allclose(found["logit_difference"], expected["logit_difference"], atol=1e-4)
    assert found["correct"].tolist() == expected["correct"].tolist()
    summary = caa.evaluation.summarize_interference(table)
    assert summary.loc[summary["behavior"] == QUESTIONS, "correct_n"].eq(2).all()


def made(*values: float) -> caa.Intervention:
    return caa.Intervention(caa.SteeringVector(torch.tensor([values]), (3,)), 3, 2.0)


def test_planted_vectors_are_combined_as_said():
    ways = _combined(made(3.0, 0.0, 0.0), made(1.0, 1.0, 0.0))
    assert [one.vector.at(3).tolist() for one in ways["both"]] == [[3, 0, 0], [1, 1, 0]]
    first, second = (one.vector.at(3) for one in ways["orthogonalized"])
    assert first.tolist() == [1.5, -1.5, 0.0]  # no part along (1, 1, 0) is left
    assert second.tolist() == [0.0, 1.0, 0.0]
    (merged,) = ways["merged"]
    assert merged.vector.at(3).tolist() == [4, 1, 0]
    assert [one.multiplier for one in ways["orthogonalized"]] == [2.0, 2.0]


def test_vectors_that_undo_each_other_cannot_be_combined(tiny_llama, vectors, pairs):
    """Planted: the second vector is the opposite of the first, so that their sum is zero, and so is either's rest."""
    opposed = {"weather": vectors["weather"], "sea": -vectors["weather"]}
    options = {**OPTIONS, "layers": 1}
    table = caa.evaluation.interference(tiny_llama, opposed, {"weather": pairs}, PROMPTS, **options)
    assert set(table["combination"]) >= {"unsteered", "alone"}
    assert not set(table["combination"]) & {"orthogonalized", "merged"}
    same = {"weather": vectors["weather"], "sea": 2 * vectors["weather"]}
    table = caa.evaluation.interference(tiny_llama, same, {"weather": pairs}, PROMPTS, **options)
    means = table.groupby("vector")["logit_difference"].mean()
    # Planted: the same vector twice is no other vector, and keeps the whole effect.
    assert means["weather + sea"] - means["unsteered"] == pytest.approx(means["weather"] - means["unsteered"], rel=0.05)
    assert means["weather + sea, merged"] == pytest.approx(means["weather"], abs=0.05)


def test_vectors_that_are_combined_need_each_others_layer(tiny_llama, pairs, monkeypatch):
    monkeypatch.setattr(import_module("caa_interp.evaluation.interference"), "own_answers", None)
    single = {
        name: caa.extract_vector(tiny_llama, pairs, format="text", layers=[layer], behavior=name, progress=False)
        for name, layer in OPTIONS["layers"].items()
    }
    with pytest.raises(caa.InputError, match="layers: 'weather' has no layer 2, at which 'sea' is added"):
        caa.evaluation.interference(tiny_llama, single, {"sea": pairs}, PROMPTS, **OPTIONS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": None}, r"format: the vectors were made in different forms, \['choices', 'text'\]"),
        (
            {"behaviors": {"sea": [caa.ContrastPair("Is it good? " * 99, "Yes.", "No.")]}},
            r"behaviors\['sea'\]: 'Is it good",
        ),
        ({"n_tokens": 0}, "n_tokens: 0; it must be a whole number of at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_calibrated(
    tiny_llama, vectors, pairs, monkeypatch, change, message
):
    monkeypatch.setattr(import_module("caa_interp.evaluation.interference"), "at_target", None)
    sea = replace(vectors["sea"], metadata={**vectors["sea"].metadata, "format": "choices"})
    given = {"behaviors": {"weather": pairs}, "prompts": PROMPTS, **OPTIONS, **change}
    with pytest.raises(caa.InputError, match=message):
        caa.evaluation.interference(tiny_llama, {**vectors, "sea": sea}, **given)


@pytest.mark.parametrize("names", [("x", "y", "x + y"), ("x", "y", "x + y, merged"), ("x", "y + z", "x + y", "z")])
def test_no_combination_takes_the_name_of_another_condition(tiny_llama, vectors, pairs, monkeypatch, names):
    monkeypatch.setattr(import_module("caa_interp.evaluation.interference"), "at_target", None)
    given = dict.fromkeys(names, vectors["weather"])
    with pytest.raises(caa.InputError, match=r"vectors: 'x \+ y.*' would be the name of two conditions"):
        caa.evaluation.interference(tiny_llama, given, {"other": pairs}, PROMPTS, **{**OPTIONS, "layers": 1})


def test_wrong_input_is_told(tiny_llama, vectors, pairs):
    given = {"vectors": vectors, "behaviors": {"weather": pairs}, "prompts": PROMPTS, **OPTIONS}
    for change, message in (
        ({"vectors": {"weather": vectors["weather"]}}, "vectors: give a mapping of at least two"),
        ({"target": 0}, "target: 0; it must be a positive"),
        ({"layers": {"weather": 1}}, "layers: there is none for 'sea'"),
        ({"layers": 9}, "layer 9: the vector has layers 0 to 3"),
        ({"behaviors": {}}, "behaviors: the mapping is empty"),
        ({"behaviors": {QUESTIONS: pairs}, "questions": pairs}, "behaviors: 'questions with a right answer' are the"),
    ):
        with pytest.raises(caa.InputError, match=message):
            caa.evaluation.interference(tiny_llama, **{**given, **change})
