"""Questions with a right answer, and neutral prose: what comes with the package and what is read from the hub."""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import caa_interp as caa

ITEM = {"id": "x-1", "subject": "sea", "question": "Is it wet?", "correct": "Yes", "incorrect": "No"}


def questions_file(path: Path, items: Any, **more: Any) -> Path:
    path.write_text(json.dumps({"format": "caa_interp/questions/1", "name": "x", "items": items, **more}))
    return path


def test_a_warning_points_to_the_line_that_reads_the_file(tmp_path):
    items = [{"question": "Is it wet?", "positive": answer, "negative": "No"} for answer in ("Yes", "No")]
    (tmp_path / "q.json").write_text(json.dumps(items))
    with pytest.warns(UserWarning, match="1 of 2 items") as caught:
        assert len(caa.load_questions(tmp_path / "q.json")) == 1
    assert caught[0].filename == __file__


# Packaged sets


def test_capability_has_20_questions_of_12_subjects():
    questions = caa.load_questions("capability")
    assert len(questions) == 240
    assert sorted(Counter(question.topic for question in questions).values()) == [20] * 12
    assert all(isinstance(question, caa.ContrastPair) for question in questions)


def test_misconceptions_has_80_questions():
    assert len(caa.load_questions("misconceptions")) == 80


@pytest.mark.parametrize("name", ["capability", "misconceptions"])
def test_no_question_comes_twice(name):
    questions = caa.load_questions(name)
    assert len({question.question for question in questions}) == len(questions)
    assert len({question.id for question in questions}) == len(questions)


def test_the_right_answer_is_the_positive_one():
    by_id = {question.id: question for question in caa.load_questions("capability")}
    assert by_id["capability-001"].positive == "Jupiter"
    assert by_id["capability-001"].topic == "astronomy"


@pytest.mark.parametrize("per_subject", [1, 7])
def test_a_draw_takes_that_many_of_every_subject(per_subject):
    whole = caa.load_questions("capability")
    drawn = caa.load_questions("capability", per_subject=per_subject)
    assert set(drawn) <= set(whole)
    assert sorted(Counter(question.topic for question in drawn).values()) == [per_subject] * 12
    assert len({question.id for question in drawn}) == 12 * per_subject
    assert [question.id for question in drawn] == [q.id for q in whole if q in drawn]


def test_a_draw_is_reproducible_by_its_seed():
    one, same, other = (caa.load_questions("capability", per_subject=5, seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_a_draw_of_more_than_there_are_takes_all():
    whole = caa.load_questions("capability")
    assert sorted(q.id for q in caa.load_questions("capability", per_subject=1000)) == sorted(q.id for q in whole)


@pytest.mark.parametrize("per_subject", [0, -1])
def test_a_draw_of_none(per_subject):
    with pytest.raises(caa.InputError, match=f"per_subject: {per_subject}; it must be a whole number of at least 1"):
        caa.load_questions("capability", per_subject=per_subject)


def test_a_name_that_is_not_known():
    with pytest.raises(caa.InputError, match="'capabilty' is not one of capability, misconceptions, mmlu, truthfulqa"):
        caa.load_questions("capabilty")


# Own files


def test_an_own_file(tmp_path):
    bare = {"question": "Is it dry?", "correct": "No", "incorrect": "Yes"}
    path = questions_file(tmp_path / "own.json", [ITEM, bare])
    assert caa.load_questions(path) == [
        caa.ContrastPair("Is it wet?", "Yes", "No", id="x-1", topic="sea"),
        caa.ContrastPair("Is it dry?", "No", "Yes"),
    ]
    assert caa.load_questions(str(path)) == caa.load_questions(path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", r"own\.json': items\[1\] is str; it must be an object"),
        ({"question": "q", "incorrect": "No"}, r"own\.json': items\[1\]: field 'correct' is missing"),
        ({"question": "q", "correct": "No"}, r"own\.json': items\[1\]: field 'incorrect' is missing"),
        ({**ITEM, "question": 3}, r"own\.json': items\[1\]: field 'question' is 3; it must be a non-empty text"),
        ({**ITEM, "question": " "}, r"own\.json': items\[1\]: field 'question' is ' '; it must be a non-empty text"),
        ({**ITEM, "incorrect": "Yes"}, r"own\.json': items\[1\]: .* both 'Yes'; they must differ"),
    ],
)
def test_a_malformed_item_is_named(tmp_path, item, message):
    with pytest.raises(caa.InputError, match=message):
        caa.load_questions(questions_file(tmp_path / "own.json", [ITEM, item]))


@pytest.mark.parametrize("field", ["correct", "incorrect"])
@pytest.mark.parametrize("value", [7, ""])
def test_a_malformed_answer_is_named_by_the_files_own_field(tmp_path, field, value):
    with pytest.raises(caa.InputError, match=rf"items\[0\]: .*\b{field}\b"):
        caa.load_questions(questions_file(tmp_path / "own.json", [{**ITEM, field: value}]))


@pytest.mark.parametrize("field", ["id", "subject"])
def test_a_label_must_be_a_text(tmp_path, field):
    with pytest.raises(caa.InputError, match=rf"items\[0\]: .*'{field}'"):
        caa.load_questions(questions_file(tmp_path / "own.json", [{**ITEM, field: ["sea"]}]))


@pytest.mark.parametrize(
    "content",
    [
        {"items": [ITEM]},
        {"format": "caa_interp/behavior/1", "items": []},
        {"format": "caa_interp/questions/1"},
    ],
)
def test_a_file_of_another_form(tmp_path, content):
    path = tmp_path / "own.json"
    path.write_text(json.dumps(content))
    with pytest.raises(caa.InputError, match=r"own\.json.*'caa_interp/questions/1' with a list 'items'"):
        caa.load_questions(path)


def test_a_file_that_is_no_json_or_not_there(tmp_path):
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(caa.InputError, match=r"own\.json': not valid JSON"):
        caa.load_questions(tmp_path / "own.json")
    with pytest.raises(caa.InputError, match=r"there is no file .*none\.json"):
        caa.load_questions(tmp_path / "none.json")


# Sets of the Hugging Face Hub


@pytest.fixture
def hub(monkeypatch):
    """``hub(columns)``: what the hub's data set holds from now on, and the list of what was asked for."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def provide(columns):
        def load_dataset(*args, **options):
            asked.append((args, options))
            return datasets.Dataset.from_dict(columns)

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return provide


def mmlu(n=30):
    return {
        "question": [f"What is {number} plus 1?" for number in range(n)],
        "subject": [("algebra", "geometry", "logic")[number % 3] for number in range(n)],
        "choices": [[f"{number + shift} apples" for shift in (0, 1, 2, 3)] for number in range(n)],
        "answer": [1] * n,
    }


def test_mmlu_keeps_the_answer_and_one_wrong_option(hub):
    asked = hub(mmlu())
    questions = caa.load_questions("mmlu")
    assert asked == [(("cais/mmlu", "all"), {"split": "test"})]
    assert len(questions) == 30
    for number, question in enumerate(questions):
        assert question.question == f"What is {number} plus 1?"
        assert question.positive == f"{number + 1} apples"
        assert question.negative in {f"{number + shift} apples" for shift in (0, 2, 3)}
        assert question.id == f"mmlu-{number}"
    assert [question.topic for question in questions[:4]] == ["algebra", "geometry", "logic", "algebra"]
    places = {question.negative.split()[0] for question in questions if question.topic == "algebra"}
    assert len(places) > 1


def test_the_wrong_option_is_drawn_by_the_seed(hub):
    hub(mmlu())
    one, same, other = (caa.load_questions("mmlu", seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert [q.negative for q in one] != [q.negative for q in other]
    offsets = {int(q.negative.split()[0]) - number for number, q in enumerate(one)}
    assert offsets == {0, 2, 3}


def test_mmlu_by_subject(hub):
    hub(mmlu())
    drawn = caa.load_questions("mmlu", per_subject=4)
    assert Counter(question.topic for question in drawn) == {"algebra": 4, "geometry": 4, "logic": 4}


def test_options_that_repeat_the_answer_are_never_the_wrong_one(hub):
    hub(
        {
            "question": ["Which?", "Which then?"],
            "subject": ["logic", "logic"],
            "choices": [["yes", "yes", "yes", "no"], ["yes", "yes", "yes", "yes"]],
            "answer": [0, 2],
        }
    )
    questions = caa.load_questions("mmlu")
    assert [(question.positive, question.negative) for question in questions] == [("yes", "no")]


@pytest.mark.parametrize("odd", ["yes ", " "])
def test_options_that_cannot_be_an_answer_are_never_the_wrong_one(hub, odd):
    hub({"question": ["Which?"], "subject": ["logic"], "choices": [["yes", odd, odd, "no"]], "answer": [0]})
    for seed in range(8):
        assert caa.load_questions("mmlu", seed=seed)[0].negative == "no"


def test_truthfulqa_keeps_the_true_answer_and_one_false_one(hub):
    asked = hub(
        {
            "question": ["What falls from clouds?", "What is in the sea?"],
            "mc1_targets": [
                {"choices": ["Rain", "Frogs", "Stones"], "labels": [1, 0, 0]},
                {"choices": ["Fire", "Salt"], "labels": [0, 1]},
            ],
            "mc2_targets": [
                {"choices": ["Rain", "Snow", "Frogs"], "labels": [1, 1, 0]},
                {"choices": ["Salt", "Fire"], "labels": [1, 0]},
            ],
        }
    )
    questions = caa.load_questions("truthfulqa")
    assert asked == [(("truthfulqa/truthful_qa", "multiple_choice"), {"split": "validation"})]
    assert [question.positive for question in questions] == ["Rain", "Salt"]
    assert questions[0].negative in ("Frogs", "Stones")
    assert questions[1].negative == "Fire"
    assert [question.id for question in questions] == ["truthfulqa-0", "truthfulqa-1"]


@pytest.mark.parametrize("name", ["mmlu", "truthfulqa"])
def test_without_a_network_the_packaged_sets_are_named(name, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(caa.InputError, match=r"cannot be read from the Hugging Face Hub.*Check the network") as caught:
        caa.load_questions(name)
    assert "capability, misconceptions, which come with the package" in str(caught.value)


def test_without_datasets_its_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        caa.errors.MissingDependencyError, match="questions 'mmlu': it needs the package datasets; pip install datasets"
    ):
        caa.load_questions("mmlu")


# Prose


def test_prose_is_15_passages_of_4000_to_8000_tokens():
    passages = caa.load_prose()
    assert len(passages) == len(set(passages)) == 15
    assert all(passage == passage.strip() and len(passage.split()) > 100 for passage in passages)
    assert 4_000 < 1.3 * sum(len(passage.split()) for passage in passages) < 8_000
