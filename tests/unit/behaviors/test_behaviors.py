"""Behaviors that come with the package, and behavior files of one's own."""

import json
from dataclasses import replace

import pytest

import caa_interp as caa
from caa_interp.behaviors.behavior import FORMAT
from caa_interp.behaviors.pairs import PublishedPair, check_pairs


def content(**changes) -> dict:
    """A whole behavior file, with some fields changed."""
    return {
        "format": FORMAT,
        "name": "brevity",
        "description": "Positive is short.",
        "license": "CC0-1.0",
        "rubric": "Rate from 0 to 10.",
        "system_prompts": {"positive": "Be short.", "negative": "Be long."},
        "open_ended": ["Why?"],
        "train": [{"id": "a", "topic": "t", "question": "What?", "positive": "This.", "negative": "This and that."}],
        "test": [{"question": "Who?", "positive": "I.", "negative": "I and you."}],
        **changes,
    }


def written(folder, **changes):
    path = folder / "brevity.json"
    path.write_text(json.dumps(content(**changes)), encoding="utf-8")
    return path


def test_a_file_is_read_whole(tmp_path):
    behavior = caa.load_behavior(written(tmp_path))
    assert behavior.name == "brevity"
    assert behavior.train == (caa.ContrastPair("What?", "This.", "This and that.", id="a", topic="t"),)
    assert behavior.test == (caa.ContrastPair("Who?", "I.", "I and you."),)
    assert behavior.open_ended == ("Why?",)
    assert behavior.system_prompts == {"positive": "Be short.", "negative": "Be long."}
    assert behavior.rubric == "Rate from 0 to 10."
    assert behavior.license == "CC0-1.0"
    assert repr(behavior) == "Behavior('brevity': 1 train and 1 test pairs, 1 open-ended questions)"


def test_a_path_may_be_a_text(tmp_path):
    assert caa.load_behavior(str(written(tmp_path))) == caa.load_behavior(written(tmp_path))


def test_optional_fields_may_be_left_out(tmp_path):
    left = {key: value for key, value in content().items() if key in ("format", "name", "train", "test")}
    path = tmp_path / "short.json"
    path.write_text(json.dumps(left), encoding="utf-8")
    behavior = caa.load_behavior(path)
    assert behavior.open_ended == ()
    assert behavior.system_prompts == {}
    assert behavior.rubric == behavior.license == behavior.description == ""


def test_texts_of_any_language(tmp_path):
    pair = {"question": "Où ? 东京 🙂", "positive": "Ça", "negative": "Là"}
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content(train=[pair]), ensure_ascii=False), encoding="utf-8")
    assert caa.load_behavior(path).train[0].question == "Où ? 东京 🙂"


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "b.json"
    path.write_text(json.dumps(content()), encoding="utf-8-sig")
    assert caa.load_behavior(path).name == "brevity"


def test_every_packaged_behavior_is_whole():
    behaviors = caa.load_behaviors()
    assert list(behaviors) == sorted(behaviors)
    assert {"optimism", "sycophancy"} <= set(behaviors)
    for name, behavior in behaviors.items():
        assert behavior.name == name
        assert behavior.description
        assert behavior.license
        assert behavior.rubric
        assert set(behavior.system_prompts) == {"positive", "negative"}
        assert len(behavior.train) >= 10
        assert len(behavior.test) >= 10
        assert behavior.open_ended


def test_no_packaged_test_question_is_in_train():
    for behavior in caa.load_behaviors().values():
        train = {pair.question.strip().lower() for pair in behavior.train}
        assert not train & {pair.question.strip().lower() for pair in behavior.test}
        assert not train & {question.strip().lower() for question in behavior.open_ended}


def test_a_packaged_behavior_by_name():
    assert caa.load_behavior("optimism") == caa.load_behaviors()["optimism"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "caa_interp/behavior/9"}, "field 'format' is 'caa_interp/behavior/9'; this version reads"),
        ({"format": None}, "field 'format' is None; this version reads 'caa_interp/behavior/1'"),
        ({"name": 3}, "field 'name' is int; it must be str"),
        ({"train": {}}, "field 'train' is dict; it must be list"),
        ({"train": ["text"]}, r"train\[0\] is str; it must be an object"),
        (
            {"test": [{"question": "a", "positive": "b"}]},
            r"test\[0\]: field 'negative' is missing; it must be a",
        ),
        ({"test": [{"question": "a", "positive": 1, "negative": "b"}]}, r"test\[0\]: field 'positive' is 1;"),
        (
            {"test": [{"question": " ", "positive": "a", "negative": "b"}]},
            r"test\[0\]: field 'question' is ' '; it must be a non-empty",
        ),
        ({"test": [{"question": "a", "positive": "b", "negative": "b "}]}, r"test\[0\]: .*they must differ"),
        (
            {"test": [{"question": "a", "positive": "b", "negative": "c", "id": 7}]},
            r"test\[0\]: field 'id' is 7; it must be",
        ),
        (
            {"test": [{"question": "a", "positive": "b", "negative": "c", "id": "a"}]},
            "field 'id' 'a' is given to two items; make ids unique",
        ),
        ({"open_ended": ["Why?", ""]}, r"open_ended\[1\] must be a non-empty text, not ''"),
        ({"open_ended": "Why?"}, "field 'open_ended' is str; it must be list"),
        ({"system_prompts": {"neutral": "a"}}, "field 'system_prompts' must hold texts under 'positive' and"),
        ({"system_prompts": {"positive": 1}}, "field 'system_prompts' must hold texts under 'positive' and"),
        ({"rubric": ["a"]}, "field 'rubric' is list; it must be str"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path, changes, said):
    path = written(tmp_path, **changes)
    with pytest.raises(caa.InputError, match=said) as caught:
        caa.load_behavior(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"text"'])
def test_a_top_level_that_is_no_object(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(caa.InputError, match=r"the top level is .*; it must be an object"):
        caa.load_behavior(path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a": ' + "1" * 5000 + "}", "\x00"],
    ids=["empty", "not closed", "nested too deep", "number too long", "null byte"],
)
def test_json_that_cannot_be_read(tmp_path, text):
    path = tmp_path / "b.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(caa.InputError, match=r"behavior file .*not valid JSON"):
        caa.load_behavior(path)


def test_a_file_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("caa_interp.files.MAX_FILE_BYTES", 100)
    path = written(tmp_path)
    with pytest.raises(caa.InputError, match=r"[\d,]+ bytes; at most 100 are read. Split the file"):
        caa.load_behavior(path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(caa.InputError, match=r"behavior: 'sycophancey' is not one of .*sycophancy.*Give one of these"):
        caa.load_behavior("sycophancey")


@pytest.mark.parametrize("field", ["question", "positive", "negative"])
@pytest.mark.parametrize(
    ("value", "said"), [("", "is empty; give it a text"), (" \n", "is empty"), (None, "is NoneType; it must be a")]
)
def test_a_pair_needs_three_texts(field, value, said):
    texts = {"question": "a", "positive": "b", "negative": "c", field: value}
    with pytest.raises(caa.InputError, match=f"ContrastPair 'x': {field} {said}"):
        caa.ContrastPair(**texts, id="x")


@pytest.mark.parametrize("label", ["id", "topic"])
def test_a_label_is_a_text_or_none(label):
    with pytest.raises(caa.InputError, match=f"ContrastPair: {label} is 3; it must be a text, or None"):
        caa.ContrastPair("a", "b", "c", **{label: 3})


def test_pairs_are_checked_one_by_one():
    pair = caa.ContrastPair("a", "b", "c")
    assert check_pairs(iter([pair, pair])) == [pair, pair]
    with pytest.raises(caa.InputError, match=r"pairs\[1\] is tuple; every item must be a ContrastPair. Build it with"):
        check_pairs([pair, ("a", "b", "c")])


PAIRS = (
    caa.ContrastPair("Why «this»?", "Yes, 🙂.", "No.", id="1", topic="sea"),
    caa.ContrastPair("Why not?", "I agree.\n", "I do not."),
)


@pytest.mark.parametrize(
    "behavior",
    [
        *caa.load_behaviors().values(),
        caa.Behavior("bare", "", PAIRS, ()),
        caa.Behavior("ids", "", tuple(replace(PAIRS[0], id=label) for label in (None, "", None)), ()),
        caa.Behavior("full", "d", PAIRS, PAIRS[:1][:0], ("Why?",), {"negative": "Be sad."}, "Rate.", "MIT"),
    ],
    ids=lambda behavior: behavior.name,
)
def test_a_behavior_is_read_as_it_was_saved(tmp_path, behavior):
    path = behavior.save(tmp_path / "new" / "b.json")
    assert caa.load_behavior(path) == behavior
    behavior.save(str(path))
    assert [item.name for item in path.parent.iterdir()] == ["b.json"]


@pytest.mark.parametrize(
    ("path", "changes", "said"),
    [
        ("b.txt", {}, r"path: '.*b\.txt' must end in '\.json'"),
        ("b.json", {"test": PAIRS}, "behavior 'b': field 'id' '1' is given to two items; make ids unique"),
        ("b.json", {"train": ("Why?",)}, r"pairs\[0\] is str; every item must be a ContrastPair"),
        ("b.json", {"train": (PublishedPair("Why?", "(A)", "(B)"),)}, "some are kept as published"),
        ("b.json", {"open_ended": ("",)}, r"behavior 'b': open_ended\[0\] must be a non-empty text"),
        ("b.json", {"system_prompts": {"up": "x"}}, "behavior 'b': field 'system_prompts' must hold"),
        ("b.json", {"description": "a \ud800"}, r"behavior 'b': '\\ud800' is half of a character. Take it out"),
    ],
)
def test_a_behavior_that_could_not_be_read_again_is_not_saved(tmp_path, path, changes, said):
    good = caa.Behavior("b", "", PAIRS, ()).save(tmp_path / "b.json").read_bytes()
    with pytest.raises(caa.InputError, match=said):
        caa.Behavior(**{"name": "b", "description": "", "train": PAIRS, "test": (), **changes}).save(tmp_path / path)
    assert (tmp_path / "b.json").read_bytes() == good
