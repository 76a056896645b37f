"""The pieces of a study: which there are, what they are asked, and that none is left out."""

import pytest
import torch

import caa_interp as caa
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.plan import ITEMS_PER_SHARD, Found, Plan

NAMES = ("optimism", "refusal")


def plan_of(n_layers=30, **fields):
    config = ExperimentConfig(behaviors=NAMES, **fields)
    return Plan(config, {name: caa.load_behavior(name) for name in NAMES}, n_layers)


@pytest.fixture
def found():
    def vectors(name):
        return {one: caa.SteeringVector(torch.ones(3, 4), (4, 5, 6)) for one in (name, "random 0", "shuffled 0")}

    return Found({name: vectors(name) for name in NAMES}, {"optimism": 4, "refusal": 6})


def test_every_pair_is_in_one_piece_of_each_table():
    plan = plan_of(n_train=30, n_validation=12, n_test=25)
    for name in NAMES:
        train, validation, test = plan.splits[name]
        assert [len(part) for part in (train, validation, test)] == [30, 12, 25]
        assert not {pair.id for pair in train} & {pair.id for pair in validation}
        scores = [piece for piece in plan.scores() if piece.behavior == name]
        for table, pairs in (("validation", validation), ("sweep", test)):
            pieces = [piece for piece in scores if piece.table == table]
            assert [piece.first for piece in pieces] == list(range(0, len(pairs), ITEMS_PER_SHARD))
            found = Found({name: {name: None}}, {})
            assert [pair for piece in pieces for pair in piece.arguments(found)["pairs"]] == pairs


def test_a_layer_is_chosen_between_the_ends_and_measured_at_all_doses():
    plan = plan_of(multipliers=(-3, -1, 0, 2), layers=(4, 5, 6))
    asked = {
        piece.table: piece.arguments(Found({piece.behavior: {piece.behavior: None}}, {})) for piece in plan.scores()
    }
    assert asked["validation"]["multipliers"] == (-3, 2)
    assert asked["sweep"]["multipliers"] == (-3, -1, 0, 2)
    assert asked["validation"]["layers"] == asked["sweep"]["layers"] == [4, 5, 6]


def test_the_last_stage_stands_at_the_chosen_layer(found):
    pieces = plan_of(layers=(4, 5, 6), controls={"random": 1, "shuffled": 1}).rest()
    assert {piece.kind for piece in pieces} == {
        *("sweep", "answers", "logit_lens", "projection", "perplexity", "divergence", "capability", "side_effects"),
    }
    for piece in pieces:
        asked, layer = piece.arguments(found), found.layer[piece.behavior]
        if piece.kind == "side_effects":
            assert asked["layers"] == found.layer
            assert list(asked["vectors"]) == list(NAMES)
        elif piece.kind == "answers":
            assert asked["layer"] == layer
        elif piece.kind == "projection":
            assert asked["layers"] == sorted({5, 10, layer})
        else:
            assert asked["layers"] == [layer]
        if piece.table == "dose_response":
            assert list(asked["vector"]) == ["random 0", "shuffled 0"]


def test_the_system_prompt_is_asked_in_every_piece_that_asks_something(found):
    plan = plan_of(layers=(4, 5, 6), system_prompt="Be brief.")
    for piece in [*plan.vectors(), *plan.scores(), *plan.rest()]:
        # Prose stands by itself, and the lens asks nothing.
        without = piece.kind in ("perplexity", "logit_lens")
        assert piece.arguments(found).get("system_prompt") == (None if without else "Be brief."), piece.label


def test_what_steers_is_asked_in_every_piece_that_steers(found):
    steered = {"operator": "ablate", "positions": "answer"}
    plan = plan_of(layers=(4, 5, 6), estimator="logistic_probe", **steered)
    assert {piece.arguments(found)["estimator"] for piece in plan.vectors()} == {"logistic_probe"}
    for piece in [*plan.scores(), *plan.rest()]:
        asked = piece.arguments(found)
        applied = {name: asked[name] for name in steered if name in asked}
        assert applied == ({} if piece.kind in ("logit_lens", "projection") else steered), piece.label


def test_answers_are_sampled_as_asked(found):
    sampled = {"n": 3, "temperature": 0.5, "top_p": 0.9}
    for seed in ({}, {"seed": 7}):
        plan = plan_of(layers=(4, 5, 6), seed=5, answers={**sampled, **seed})
        asked = next(piece for piece in plan.rest() if piece.kind == "answers").arguments(found)
        assert asked.items() >= {**sampled, "seed": seed.get("seed", 5)}.items()


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        ({"controls": {"random": 0, "shuffled": 0}}, {"dose_response"}),
        ({"answers": {"prompts": 0}}, {"answers"}),
        ({"costs": {"passages": 0, "prompts": 0, "questions": 0}}, {"perplexity", "divergence", "capability"}),
        ({"side_effects": {"pairs": 0}}, {"side_effects"}),
    ],
)
def test_what_is_left_out_has_no_piece(left_out, gone):
    def tables(**fields):
        return {piece.table for piece in plan_of(**fields).rest()}

    assert tables() - tables(**left_out) == gone


def test_one_layer_is_not_chosen():
    plan = plan_of(layers=(4,))
    assert not any(piece.table == "validation" for piece in plan.scores())


def test_a_layer_that_the_model_has_not():
    with pytest.raises(caa.InputError, match="layer 30: the model has layers 0 to 29"):
        plan_of(layers=(29, 30))


def test_questions_are_spread_over_subjects(found):
    (piece, *_) = [
        piece for piece in plan_of(layers=(4, 5, 6), costs={"questions": 12}).rest() if piece.kind == "capability"
    ]
    questions = piece.arguments(found)["questions"]
    assert len(questions) == 12
    assert len({question.topic for question in questions}) == 12
