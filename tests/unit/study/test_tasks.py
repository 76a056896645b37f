"""The tasks of a study: which there are, what they are asked, and that a key tells apart whatever is not the same."""

import dataclasses
import pickle

import pytest
import torch

import caa_interp as caa
from caa_interp.study import chosen as chosen_module
from caa_interp.study.chosen import Study
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.kinds import every_task, remaining_tasks
from caa_interp.study.tasks import (
    EVERY,
    ITEMS_PER_TASK,
    Task,
    check_tasks,
    cost,
    key,
    score_tasks,
    vector_tasks,
)

NAMES = ("optimism", "refusal")
LAYERS = (4, 5, 6)
CHOSEN = {"optimism": 4, "refusal": 6}
PAIR = caa.ContrastPair("How is it?", "Good.", "Bad.", id="1", topic="weather")


class Stages:
    """All tasks of a study of two behaviors on a model of 30 layers, of which some are studied."""

    def __init__(self, layers=LAYERS, **fields):
        config = ExperimentConfig(behaviors=NAMES, layers=layers, **fields)
        planned = Study.planned(config, 30)
        self.splits = planned.splits
        names = [f"{kind} {one}" for kind, n in config.controls.model_dump().items() for one in range(n)]
        vector = caa.SteeringVector(torch.ones(3, 4), LAYERS)
        vectors = {name: dict.fromkeys([name, *names], vector) for name in NAMES}
        self.vectors = vector_tasks(config, self.splits, layers)
        self.scores = score_tasks(config, self.splits, layers, vectors)
        self.rest = remaining_tasks(dataclasses.replace(planned, vectors=vectors, layer=CHOSEN))
        self.planned = every_task(planned)
        self.checks = check_tasks(config, self.planned)


def test_every_pair_is_in_one_task_of_each_table():
    stages = Stages(n_train=30, n_validation=12, n_test=25)
    for name in NAMES:
        train, validation, test = stages.splits[name]
        assert [len(part) for part in (train, validation, test)] == [30, 12, 25]
        assert not {pair.id for pair in train} & {pair.id for pair in validation}
        for table, pairs in (("validation", validation), ("sweep", test)):
            tasks = [task for task in stages.scores if (task.behavior, task.table) == (name, table)]
            assert [task.first for task in tasks] == list(range(0, len(pairs), ITEMS_PER_TASK))
            assert [pair for task in tasks for pair in task.arguments["pairs"]] == pairs


def test_all_that_is_asked_is_checked_first():
    stages = Stages(
        answers={"prompts": 2, "max_new_tokens": 40},
        costs={"questions": 5},
        safety_audit={"requests": 3, "pairs": 2},
        conversations={"conversations": 1, "turns": 2, "max_new_tokens": 7},
    )
    (check,) = (task.arguments for task in stages.checks)
    asked = set(check["pairs"])
    for parts in stages.splits.values():
        assert {pair for part in parts for pair in part} <= asked
    for behavior in caa.load_behaviors().values():
        assert set(behavior.test[:2]) <= asked
    for name in NAMES:
        questions = caa.load_behavior(name).open_ended
        # Answers are longer than those whose divergence is measured, on more questions.
        assert [check["prompts"][one] for one in questions[:6]] == [40, 40, 32, 32, 32, 32]
    for requests in caa.behaviors.load_requests().values():
        assert [check["prompts"][one] for one in requests[:3]] == [40] * 3
    assert len(check["prompts"]) == 2 * 6 + 2 * 3
    assert [len(talk) for talk in check["conversations"]] == [2, 2]
    assert check["max_new_tokens"] == 7
    refusal = caa.load_behavior("refusal").train
    (alone,) = check_of("optimism", safety_audit={"requests": 1})
    assert set(refusal) <= set(alone.arguments["pairs"])


def check_of(name, **fields):
    config = ExperimentConfig(behaviors=[name], layers=LAYERS, **fields)
    return check_tasks(config, every_task(Study.planned(config, 30)))


@pytest.mark.parametrize("name", ["load_requests", "load_behaviors", "load_behavior"])
def test_other_texts_of_an_audit_are_other_work(monkeypatch, name):
    def audit_key():
        config = ExperimentConfig(behaviors=["optimism"], layers=[4], safety_audit={"requests": 1})
        planned = every_task(Study.planned(config, 30))
        return [key(task, {}) for task in planned if task.kind == "safety_audit"]

    def changed(*given):
        texts = loaded(*given)
        if name == "load_requests":
            return {kind: [f"{one} Now." for one in some] for kind, some in texts.items()}
        (behavior, *_), part = (texts.values(), "test") if name == "load_behaviors" else ([texts], "train")
        longer = [dataclasses.replace(pair, positive=f"{pair.positive} Now.") for pair in getattr(behavior, part)]
        other = dataclasses.replace(behavior, **{part: longer})
        return {**texts, other.name: other} if name == "load_behaviors" else other

    before, loaded = audit_key(), getattr(chosen_module, name)
    assert audit_key() == before
    monkeypatch.setattr(chosen_module, name, changed)
    assert audit_key() != before


def test_the_number_of_tasks_is_known_beforehand():
    rivals = {"rivals": {"methods": ["system prompt", "examples", "learned vector", "attention heads"]}}
    for fields in ({}, {"controls": {"random": 0, "shuffled": 0}}, {"costs": {"prompts": 0}}, {"n_test": 11}, rivals):
        stages = Stages(**fields)
        done = [*stages.vectors, *stages.scores, *stages.rest]
        assert [task.label for task in stages.planned] == [task.label for task in done]
        assert list(map(cost, stages.planned)) == list(map(cost, done))


def test_a_task_costs_as_many_sequences_as_the_model_reads():
    fields = {"n_train": 30, "n_validation": 12, "n_test": 25, "controls": {"random": 1, "shuffled": 1}}
    fields |= {
        "conversations": {"conversations": 2, "turns": 3, "max_new_tokens": 6},
        "answers": {"max_new_tokens": 24},
    }
    stages = Stages(**fields, costs={"passages": 5, "questions": 6, "prompts": 3}, side_effects={"pairs": 3})
    costs: dict[str, list[int]] = {}
    for task in [*stages.vectors, *stages.scores, *stages.rest]:
        if task.behavior == NAMES[0]:
            costs.setdefault(task.table, []).append(cost(task))
    assert costs == {
        "vectors": [30],  # all layers at once
        "validation": [10 * 3 * 2, 2 * 3 * 2],  # three layers, the outermost multipliers
        "sweep": [10 * 3 * 5, 10 * 3 * 5, 5 * 3 * 5],
        "dose_response": [2 * 10 * 5, 2 * 10 * 5, 2 * 5 * 5],  # two controls at one layer
        "answers": [6 * 3 * (1 + 2)],  # twelve tokens in the time of one pair
        "logit_lens": [1],
        "projection": [25],
        "separation": [25],
        "perplexity": [5 * 5 * 5],  # a passage is long
        "divergence": [3 * 3 * 5 + 8],  # the vector and two controls, and the unsteered model's answers
        "effect_lens": [3 * 3 * 2 + 8],  # the vector and two controls, two multipliers
        "capability": [2 * 5],  # a question is short
        "side_effects": [3 * 2 * 3],  # two vectors
        "persistence": [2 * 3 * (4 * 3 + 1) * 2 + 39],  # four conditions of three vectors, and the unsteered model
    }


# Seconds of a study with nearly every part (SmolLM2-135M-Instruct, two cores), as its shards keep them.
REVIEW = {
    "behaviors": ["optimism", "refusal", "sycophancy"],
    "format": "text",
    "layers": [10, 12, 15, 18, 20],
    **{"n_validation": 12, "n_train": 80, "n_test": 30},
    "controls": {"random": 3, "shuffled": 1},
    "safety_audit": {"requests": 8, "pairs": 4, "answers": 2},
    "conversations": {"conversations": 4, "turns": 3, "max_new_tokens": 24},
}
SECONDS = {
    **{"vectors": 44.1, "sweep": 489.0, "answers": 33.1, "projection": 15.7, "perplexity": 108.5, "divergence": 23.5},
    **{"effect_lens": 27.0, "capability": 11.2, "safety_audit": 446.5, "persistence": 377.5, "side_effects": 35.9},
}


def test_equal_costs_take_about_equal_times():
    config = ExperimentConfig(**REVIEW)
    costs = dict.fromkeys(SECONDS, 0)
    for task in every_task(Study.planned(config, 30)):
        if task.kind == "divergence":  # was measured without controls
            task = dataclasses.replace(task, arguments={**task.arguments, "vector": [task.behavior]})
        if task.kind in costs:
            costs[task.kind] += cost(task)
    rates = {kind: SECONDS[kind] / costs[kind] for kind in costs}
    assert max(rates.values()) / min(rates.values()) < 2.4
    for kind, seconds in SECONDS.items():
        share = costs[kind] / sum(costs.values())
        assert share == pytest.approx(seconds / sum(SECONDS.values()), rel=0.5, abs=0.01), kind


def test_rivals_are_made_of_the_vectors_train_pairs():
    methods = ["system prompt", "examples", "learned vector", "attention heads"]
    stages = Stages(n_train=30, n_validation=12, n_test=25, rivals={"methods": methods}, costs={"prompts": 3})
    tasks = [task for task in stages.rest if task.kind == "rivals"]
    assert [(task.behavior, task.arguments["method"]) for task in tasks] == [(a, b) for a in NAMES for b in methods]
    for task in tasks:
        asked, (train, _, test) = task.arguments, stages.splits[task.behavior]
        prompted = asked["method"] in methods[:2]
        assert asked["train"] == ([] if prompted else train)
        assert asked["layers"] == [CHOSEN[task.behavior]]
        # Five multipliers, of a prompt none; and the unsteered model's answers.
        read = (len(asked["train"]) + len(test) + 3) * (1 if prompted else 5) + 8
        assert cost(task) == read + (30 * 40 if asked["method"] == "learned vector" else 0)
    # Prompts are checked with the texts that come before them, heads without any pair.
    checks = [(one.arguments["method"], one.arguments["system_prompt"]) for one in stages.checks[1:]]
    assert checks == [
        (one.arguments["method"], one.arguments["text"])
        for one in stages.planned
        if one.kind == "rivals" and one.arguments["method"] != "learned vector"
    ]
    assert stages.checks[1].arguments["system_prompt"] == caa.load_behavior(NAMES[0]).system_prompts["positive"]
    assert stages.checks[1].arguments["pairs"] == stages.splits[NAMES[0]][2]


def test_interference_is_measured_where_it_is_asked_for():
    stages = Stages(interference={"pairs": 5, "prompts": 3, "target": 0.2}, costs={"prompts": 0, "questions": 7})
    (task,) = [task for task in stages.rest if task.kind == "interference"]
    assert task.behavior == EVERY
    asked = task.arguments
    assert list(asked["vectors"]) == list(asked["behaviors"]) == list(NAMES)
    assert (asked["layers"], asked["target"]) == (CHOSEN, 0.2)
    assert [len(pairs) for pairs in asked["behaviors"].values()] == [5, 5]
    assert len(asked["questions"]) == 7
    prompts = [caa.load_behavior(name).open_ended for name in NAMES]
    assert asked["prompts"] == [prompts[0][0], prompts[1][0], prompts[0][1]]
    # Two vectors alone and at once: for each, calibration on the prompts, then all that is asked.
    assert cost(task) == round((5 + 5 + 7 / 3 + 3 + 20 * 3) * 3 + 8)
    assert [one.label for one in stages.planned if one.kind == "interference"] == [task.label]
    assert len(stages.checks[0].arguments["prompts"]) == 2 * 6  # those of the answers
    assert not any(task.kind == "interference" for task in Stages().rest)


@pytest.mark.parametrize(
    ("operator", "doses"), [("add", (-1.0, 1.0)), ("ablate", (0.0, 1.0)), ("Cap(high=3.0)", (0.0, 1.0))]
)
def test_the_effect_lens_reads_what_is_complete_at_1_from_nothing(operator, doses):
    tasks = [task for task in Stages(operator=operator).rest if task.kind == "effect_lens"]
    assert {task.arguments["multipliers"] for task in tasks} == {doses}


def test_a_layer_is_chosen_between_the_ends_and_measured_at_all_doses():
    asked = {task.table: task.arguments for task in Stages(multipliers=(-3, -1, 0, 2)).scores}
    assert asked["validation"]["multipliers"] == (-3, 2)
    assert asked["sweep"]["multipliers"] == (-3, -1, 0, 2)
    assert asked["validation"]["layers"] == asked["sweep"]["layers"] == LAYERS


def test_the_last_stage_stands_at_the_chosen_layer():
    tasks = Stages(controls={"random": 1, "shuffled": 1}).rest
    assert {task.kind for task in tasks} == {
        *("sweep", "answers", "logit_lens", "effect_lens", "projection", "separation"),
        *("perplexity", "divergence", "capability", "side_effects"),
    }
    for task in tasks:
        asked, layer = task.arguments, CHOSEN[task.behavior]
        if task.kind == "side_effects":
            assert asked["layers"] == CHOSEN
            assert list(asked["vectors"]) == list(NAMES)
        elif task.kind == "answers":
            assert asked["layer"] == layer
        elif task.kind == "projection":
            assert asked["layers"] == sorted({5, 10, layer})
        elif task.kind == "separation":
            assert asked["layer"] == layer
        else:
            assert asked["layers"] == [layer]
        if task.table == "dose_response":
            assert list(asked["vector"]) == ["random 0", "shuffled 0"]


def test_the_system_prompt_is_asked_in_every_task_that_asks_something():
    stages = Stages(system_prompt="Be brief.")
    for task in [*stages.checks, *stages.vectors, *stages.scores, *stages.rest]:
        # Prose stands by itself, and the lens asks nothing.
        without = task.kind in ("perplexity", "logit_lens")
        assert task.arguments.get("system_prompt") == (None if without else "Be brief."), task.label


def test_what_steers_is_asked_in_every_task_that_steers():
    steered = {"operator": "ablate", "positions": "answer"}
    stages = Stages(estimator="logistic_probe", **steered)
    assert {task.arguments["estimator"] for task in stages.vectors} == {"logistic_probe"}
    for task in [*stages.scores, *stages.rest]:
        applied = {name: task.arguments[name] for name in steered if name in task.arguments}
        assert applied == ({} if task.kind in ("logit_lens", "projection", "separation") else steered), task.label


def test_answers_are_sampled_as_asked():
    sampled = {"n": 3, "temperature": 0.5, "top_p": 0.9}
    for seed in ({}, {"seed": 7}):
        tasks = Stages(seed=5, answers={**sampled, **seed}).rest
        asked = next(task for task in tasks if task.kind == "answers").arguments
        assert asked.items() >= {**sampled, "seed": seed.get("seed", 5)}.items()


@pytest.mark.parametrize(
    ("left_out", "gone"),
    [
        ({"controls": {"random": 0, "shuffled": 0}}, {"dose_response"}),
        ({"answers": {"prompts": 0}}, {"answers"}),
        (
            {"costs": {"passages": 0, "prompts": 0, "questions": 0}},
            {"perplexity", "divergence", "effect_lens", "capability"},
        ),
        ({"side_effects": {"pairs": 0}}, {"side_effects"}),
    ],
)
def test_what_is_left_out_has_no_task(left_out, gone):
    def tables(**fields):
        return {task.table for task in Stages(**fields).rest}

    assert tables() - tables(**left_out) == gone


def test_audits_and_conversations_are_there_when_asked_for():
    asked = {"safety_audit": {"requests": 5, "answers": 2}, "conversations": {"conversations": 4, "turns": 3}}
    tasks = Stages(**asked, operator="ablate", system_prompt="Be brief.").rest
    found = {task.kind: task.arguments for task in tasks if task.behavior == NAMES[1]}
    audit, talks = found["safety_audit"], found["persistence"]
    assert audit["layer"] == talks["layer"] == CHOSEN[NAMES[1]]
    assert ({len(some) for some in audit["requests"].values()}, audit["n_answers"]) == ({5}, 2)
    assert {name: len(pairs) for name, pairs in audit["behaviors"].items()} == dict.fromkeys(caa.load_behaviors(), 12)
    assert audit["operator"] == talks["operator"] == "ablate"
    assert audit["system_prompt"] == talks["system_prompt"] == "Be brief."
    assert [len(pairs) for pairs in talks["conversations"]] == [3] * 4
    assert talks["conversations"][1][0] == talks["conversations"][0][1]  # each pair takes each turn
    assert (talks["multiplier"], talks["max_new_tokens"]) == (1.0, 40)


def test_there_is_one_conversation_for_a_test_pair_at_most():
    tasks = Stages(n_test=4, conversations={"conversations": 9, "turns": 3}).rest
    talks = next(task.arguments["conversations"] for task in tasks if task.kind == "persistence")
    assert len({talk[0] for talk in talks}) == len(talks) == 4


@pytest.mark.parametrize(("n_test", "n_talks", "turns"), [(12, 5, 5), (12, 8, 3), (3, 9, 5)])
def test_turns_are_measured_on_the_same_pairs(n_test, n_talks, turns):
    tasks = Stages(n_test=n_test, conversations={"conversations": n_talks, "turns": turns}).rest
    talks = next(task.arguments["conversations"] for task in tasks if task.kind == "persistence")
    first, *later = ({pair.id for pair in pairs} for pairs in zip(*talks, strict=True))
    assert later == [first] * (turns - 1)
    assert len(first) == len(talks) == min(n_talks, n_test)
    assert all(len(set(talk)) == min(turns, n_test) for talk in talks)  # no question comes again before all were asked


def test_one_layer_is_not_chosen():
    assert not any(task.table == "validation" for task in Stages(layers=(4,)).scores)


def test_questions_are_spread_over_subjects():
    task = next(task for task in Stages(costs={"questions": 12}).rest if task.kind == "capability")
    assert len(task.arguments["questions"]) == 12
    assert len({question.topic for question in task.arguments["questions"]}) == 12


# Keys


def vector(value=1.0, layer=3, dtype=torch.float32, **metadata):
    return caa.SteeringVector(torch.full((1, 4), value, dtype=dtype), (layer,), metadata)


def key_of(kind="sweep", facts=None, label="label", table="sweep", behavior="b", first=0, **arguments):
    given = {"pairs": [PAIR], "vector": {"a": vector(), "b": vector(2.0)}, "multipliers": (0.0, 1.0)} | arguments
    return key(Task(kind, table, behavior, first, label, given), {"revision": "1"} if facts is None else facts)


def test_equal_work_has_an_equal_key_whatever_it_is_called_and_wherever_it_goes():
    elsewhere = key_of(label="another", table="validation", behavior="c", first=10)
    assert key_of() == elsewhere == key_of(pairs=(dataclasses.replace(PAIR),))
    assert len(key_of()) == 64


@pytest.mark.parametrize(
    "changed",
    [
        {"kind": "answers"},
        {"facts": {"revision": "2"}},
        {"multipliers": (0.0, 1.5)},
        {"multipliers": (1.0, 0.0)},
        {"pairs": [PAIR, PAIR]},
        {"pairs": [dataclasses.replace(PAIR, positive="good.")]},
        {"pairs": [dataclasses.replace(PAIR, id="2")]},
        {"vector": {"a": vector(1.0000001), "b": vector(2.0)}},
        {"vector": {"a": vector(layer=4), "b": vector(2.0)}},
        {"vector": {"a": vector(dtype=torch.float64), "b": vector(2.0)}},
        {"vector": {"a": vector(model="x"), "b": vector(2.0)}},
        {"vector": {"b": vector(2.0), "a": vector()}},
        {"system_prompt": None},
    ],
)
def test_whatever_changes_the_result_changes_the_key(changed):
    assert key_of(**changed) != key_of()


def test_a_task_travels_between_processes():
    for task in Stages().rest:
        assert key(pickle.loads(pickle.dumps(task)), {}) == key(task, {})
