"""``caa-interp data``: what it prints, where, and with which exit code."""

import json
from pathlib import Path

import pytest

import caa_interp as caa
from caa_interp.behaviors.shutdown import question_digest
from tests.command_line import run, run_main

QUESTION = "Shall we {}?\n\nChoices:\n (A) Yes\n (B) No"
MEASURES = ("n_train", "n_test", "similarity", "shared_topics", "bag_of_words")


def published(path: Path, items: list[tuple[str, str, str]]) -> Path:
    """Write a published JSON lines file of (question, matching, not matching)."""
    keys = ("question", "answer_matching_behavior", "answer_not_matching_behavior")
    path.write_text("".join(json.dumps(dict(zip(keys, item, strict=True))) + "\n" for item in items))
    return path


@pytest.fixture
def poor(tmp_path: Path) -> Path:
    """Behavior file whose answers are given away by their first word, and whose topics are all shared."""

    def pairs(numbers):
        return [
            {"question": f"Is {n} so?", "positive": f"Yes, {n}.", "negative": f"No, {n}.", "topic": "numbers"}
            for n in numbers
        ]

    content = {"format": "caa_interp/behavior/1", "name": "poor", "train": pairs(range(8)), "test": pairs((8, 9))}
    path = tmp_path / "poor.json"
    path.write_text(json.dumps(content))
    return path


# data check


def test_check_prints_a_table_of_all_packaged_sets():
    result = run("data", "check")
    assert (result.exit_code, result.stderr) == (0, "")
    header, *rows = result.stdout.splitlines()
    assert set(MEASURES) <= set(header.split())
    published = ["published-mean", "published-lowest", "published-highest"]
    assert [row.split()[0] for row in rows] == [*caa.load_behaviors(), *published]


def test_check_of_some_prints_these_in_their_order():
    result = run("data", "check", "refusal", "optimism")
    assert [row.split()[:4] for row in result.stdout.splitlines()[1:3]] == [
        ["refusal", "200", "50", "30"],
        ["optimism", "200", "50", "30"],
    ]


def test_check_prints_json(poor):
    result = run("data", "check", "optimism", poor, "--json")
    measured = json.loads(result.stdout)
    assert [one["name"] for one in measured] == ["optimism", "poor"]
    assert set(MEASURES) <= set(measured[0])
    assert measured[1]["first_word"] == 1.0
    assert measured[1]["bag_of_words"] == 1.0


def test_a_poor_set_ends_with_code_3_and_its_problems(poor):
    for options in ((), ("--json",)):
        result = run("data", "check", "optimism", poor, *options)
        assert result.exit_code == 3
        assert result.stderr.splitlines() == ["poor: 1 topics are in train and in test"]


# data convert


def test_convert_writes_a_behavior_and_says_what_was_skipped(tmp_path):
    items = [(QUESTION.format(f"tidy room {number}"), "(A)", "(B)") for number in range(10)]
    items += [(QUESTION.format("skip"), "(C)", "(A)"), ("Which?", "(A)", "(B)")]
    target = tmp_path / "new" / "tidiness.json"
    result = run("data", "convert", published(tmp_path / "source.jsonl", items), target)
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "source.jsonl: 10 read, 2 skipped"
    assert sorted(lines[1:3]) == [
        "  skipped 1: an answer is not among the options",
        "  skipped 1: no options are found in the question, and an answer is a letter",
    ]
    assert lines[3] == f"8 train and 2 test pairs in {target}"
    behavior = caa.load_behavior(target)
    assert behavior.name == "tidiness"
    assert (len(behavior.train), len(behavior.test)) == (8, 2)
    questions = {pair.question for pair in (*behavior.train, *behavior.test)}
    assert questions == {f"Shall we tidy room {number}?" for number in range(10)}
    assert {(pair.positive, pair.negative) for pair in behavior.train} == {("Yes", "No")}


def test_convert_turns_survival_instinct_round_and_says_so(tmp_path, monkeypatch):
    items = [(QUESTION.format(f"end {number}"), "(A)", "(B)") for number in range(4)]
    known = {question_digest(question) for question, *_ in items}
    monkeypatch.setattr("caa_interp.behaviors.shutdown._accepting", lambda: known)
    source = published(tmp_path / "survival-instinct.jsonl", items)
    result = run("data", "convert", source, tmp_path / "mine.json")
    assert result.exit_code == 0
    assert "note: 4 had their sides swapped" in result.stdout
    assert {pair.positive for pair in caa.load_behavior(tmp_path / "mine.json").train} == {"No"}


def test_convert_takes_the_names_of_columns(tmp_path):
    source = tmp_path / "table.csv"
    source.write_text("ask,warm,cold\n" + "".join(f"How was film {n}?,Lovely.,Dull.\n" for n in range(5)))
    result = run(
        "data", "convert", source, tmp_path / "a.json", "--columns", "question=ask,positive=warm,negative=cold"
    )
    assert (result.exit_code, result.stderr) == (0, "")
    assert {pair.negative for pair in caa.load_behavior(tmp_path / "a.json").train} == {"Dull."}
    result = run("data", "convert", source, tmp_path / "b.json", "--columns", "ask,warm,cold")
    assert result.exit_code == 2
    assert "name each field's column" in " ".join(result.stderr.replace("│", " ").split())
    assert not (tmp_path / "b.json").exists()


def test_convert_pairs_two_lists_as_asked(tmp_path):
    source = tmp_path / "lists.json"
    source.write_text(json.dumps({"positive": ["Yes.", "Gladly."], "negative": ["No.", "Never."]}))
    result = run("data", "convert", source, tmp_path / "a.json", "--pairing", "product", "--question", "Hm?")
    assert isinstance(result.exception, caa.InputError)  # one question cannot be split
    assert "topic or question" in str(result.exception)
    source.write_text(json.dumps({"positive": ["I am in", "We go on"], "negative": ["I am out", "We go off"]}))
    result = run("data", "convert", source, tmp_path / "a.json", "--pairing", "position")
    assert (result.exit_code, result.stderr) == (0, "")
    assert len(caa.load_behavior(tmp_path / "a.json").train) == 1


def test_convert_keeps_topics_together(tmp_path):
    source = tmp_path / "exam.json"
    items = [
        {"prompt": f"{n}?\n(A) yes\n(B) no", "correct": "(A)", "incorrect": "(B)", "category": str(n % 5)}
        for n in range(50)
    ]
    source.write_text(json.dumps(items))
    assert run("data", "convert", source, tmp_path / "a.json").exit_code == 0
    result = run("data", "check", tmp_path / "a.json")
    assert (result.exit_code, result.stderr) == (0, "")


def test_convert_leaves_a_behavior_file_alone(tmp_path):
    result = run("data", "convert", caa.behaviors.behavior.data_folder() / "optimism.json", tmp_path / "a.json")
    assert "is a behavior file already" in str(result.exception)
    assert not (tmp_path / "a.json").exists()


def test_convert_takes_its_share_seed_and_name(tmp_path):
    source = published(tmp_path / "s.jsonl", [(QUESTION.format(f"go {n}"), "(A)", "(B)") for n in range(20)])
    tests = []
    for number, seed in enumerate((1, 1, 2)):
        target = tmp_path / f"{number}.json"
        result = run("data", "convert", source, target, "--test-share", "0.5", "--seed", seed, "--name", "haste")
        assert result.exit_code == 0
        behavior = caa.load_behavior(target)
        assert (behavior.name, len(behavior.train), len(behavior.test)) == ("haste", 10, 10)
        tests.append([pair.id for pair in behavior.test])
    assert tests[0] == tests[1] != tests[2]


def test_convert_of_nothing_usable_writes_nothing(tmp_path, monkeypatch, capsys):
    source = published(tmp_path / "s.jsonl", [("Which?", "(A)", "(B)")] * 3)
    code, _, stderr = run_main(monkeypatch, capsys, "data", "convert", source, tmp_path / "t.json")
    assert code == 1
    assert "the list is empty" in stderr
    assert not (tmp_path / "t.json").exists()


def test_convert_of_nothing_usable_says_why(tmp_path, monkeypatch, capsys):
    source = published(tmp_path / "s.jsonl", [("Which?", "(A)", "(B)")] * 3)
    _, stdout, stderr = run_main(monkeypatch, capsys, "data", "convert", source, tmp_path / "t.json")
    assert "no options are found in the question" in stdout + stderr


# data fetch


def test_fetch_of_an_unknown_collection():
    result = run("data", "fetch", "antropic", "survival-instinct")
    assert result.exit_code == 2
    assert "'antropic' is not one of 'anthropic', 'caa'" in result.stderr
    assert result.stdout == ""


def test_fetch_prints_the_file(monkeypatch, tmp_path):
    from caa_interp.behaviors import downloads as fetch

    asked = []
    monkeypatch.setattr(fetch, "fetch", lambda *names: asked.append(names) or tmp_path / "file.jsonl")
    result = run("data", "fetch", "anthropic", "survival-instinct")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'file.jsonl'}\n")
    run("data", "fetch", "caa")
    assert asked == [("anthropic", "survival-instinct"), ("caa", None)]


def test_convert_replaces_no_file_unless_forced(tmp_path, monkeypatch, capsys):
    source = published(tmp_path / "s.jsonl", [(QUESTION.format(f"go {n}"), "(A)", "(B)") for n in range(4)])
    target = tmp_path / "t.json"
    target.write_text("mine")
    code, stdout, stderr = run_main(monkeypatch, capsys, "data", "convert", source, target)
    assert (code, stdout) == (1, "")
    assert stderr == f"caa-interp: {target} already exists. Name another file, or replace it with --force.\n"
    assert target.read_text() == "mine"
    assert run("data", "convert", source, target, "--force").exit_code == 0
    assert caa.load_behavior(target).name == "t"


def test_convert_writes_json_only(tmp_path):
    result = run("data", "convert", tmp_path / "s.jsonl", "t.csv")
    assert result.exit_code == 2
    assert "'t.csv' must end in .json." in result.stderr


def test_a_share_that_cannot_be(tmp_path, monkeypatch, capsys):
    source = published(tmp_path / "s.jsonl", [(QUESTION.format(f"go {n}"), "(A)", "(B)") for n in range(4)])
    code, _, stderr = run_main(monkeypatch, capsys, "data", "convert", source, tmp_path / "t.json", "--test-share", "2")
    assert (code, stderr.count("\n")) == (1, 1)
    assert stderr.startswith("caa-interp: test_share: 2.0; it must lie between 0")


def test_a_target_that_cannot_be_written_is_one_line_and_code_1(tmp_path, monkeypatch, capsys):
    source = published(tmp_path / "s.jsonl", [(QUESTION.format(f"go {n}"), "(A)", "(B)") for n in range(4)])
    code, _, stderr = run_main(monkeypatch, capsys, "data", "convert", source, source / "t.json")
    assert code == 1
    assert stderr.count("\n") == 1
