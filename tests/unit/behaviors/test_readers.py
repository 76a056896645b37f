import copy
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from caa_interp.behaviors import shutdown, sources
from caa_interp.behaviors.options import answer_letter, find_option, parse_question
from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs, split_pairs
from caa_interp.behaviors.questions import load_questions
from caa_interp.behaviors.readers import read_pairs
from caa_interp.behaviors.result import ReadResult
from caa_interp.errors import InputError

QUESTION = "Shall we tidy up?\n\nChoices:\n (A) Yes\n (B) No"
ITEM = {"question": QUESTION, "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
OTHER = {
    "question": "Is the room clean?\n\nChoices:\n (A) Yes\n (B) No",
    "answer_matching_behavior": "(B)",
    "answer_not_matching_behavior": "(A)",
}
NAMED = {"question": "Shall we tidy up?", "positive": "Yes", "negative": "No"}
# The published sets, where they lie beside the checkout.
PUBLISHED = Path(__file__).parents[4] / "shared" / "data"
COLUMNS = {"question": "q", "positive": "good", "negative": "bad"}


def published(question: str = QUESTION, matching: Any = "(A)", other: Any = "(B)", **more: Any) -> dict[str, Any]:
    return {"question": question, "answer_matching_behavior": matching, "answer_not_matching_behavior": other, **more}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(item) + "\n" for item in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def texts(result: ReadResult) -> list[tuple[str, str, str]]:
    return [(pair.question, pair.positive, pair.negative) for pair in result.pairs]


def only(*item: Any, **more: Any) -> tuple[str, str, str]:
    result = read_pairs([published(*item, **more)])
    assert result.skipped == ()
    return texts(result)[0]


def reason(*item: Any) -> str:
    with pytest.warns(UserWarning, match="1 of 1 items cannot be pairs"):
        result = read_pairs([published(*item)])
    assert result.pairs == ()
    assert [number for number, _ in result.skipped] == [0]
    return result.skipped[0][1]


# Sources


def test_published_json(tmp_path: Path) -> None:
    result = read_pairs(write(tmp_path / "tidiness.json", [ITEM, OTHER]))
    assert texts(result) == [("Shall we tidy up?", "Yes", "No"), ("Is the room clean?", "No", "Yes")]
    assert [pair.id for pair in result.pairs] == ["tidiness-0", "tidiness-1"]
    assert result.summary() == "tidiness.json: 2 read, 0 skipped"


def test_published_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path / "tidiness.jsonl", [ITEM, OTHER])
    assert [pair.id for pair in read_pairs(path).pairs] == ["tidiness-0", "tidiness-1"]
    assert read_pairs(str(path)) == read_pairs(path)


def test_jsonl_with_blank_lines_and_other_separators_in_a_text(tmp_path: Path) -> None:
    item = {**NAMED, "positive": "Yes\u2028please"}
    content = f"\n{json.dumps(item, ensure_ascii=False)}\r\n\n{json.dumps(NAMED)}"
    assert texts(read_pairs(write(tmp_path / "a.jsonl", content)))[0][1] == "Yes\u2028please"


def test_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    for name, content in (("a.json", json.dumps([ITEM])), ("a.csv", "question,positive,negative\nq,Yes,No\n")):
        assert len(read_pairs(write(tmp_path / name, b"\xef\xbb\xbf" + content.encode())).pairs) == 1


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet"])
def test_tables_with_named_columns(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame(
        {"other": [1.5, 2], "q": ["Tidy,\n\tup?", "Lunch?"], "good": ["Yes", "None"], "bad": ["No", "NA"]}
    )
    path = tmp_path / name
    if name == "a.parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="," if name == "a.csv" else "\t")
    expected = [("Tidy,\n\tup?", "Yes", "No"), ("Lunch?", "None", "NA")]
    assert texts(read_pairs(path, columns=COLUMNS)) == expected


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_tables_with_default_names(tmp_path: Path, name: str) -> None:
    for items in ([ITEM, OTHER], [NAMED]):
        table = pd.DataFrame(items)
        if name == "a.csv":
            table.to_csv(tmp_path / name, index=False)
        else:
            table.to_parquet(tmp_path / name)
        assert texts(read_pairs(tmp_path / name))[0] == ("Shall we tidy up?", "Yes", "No")


def test_parquet_with_lists_of_answers(tmp_path: Path) -> None:
    pd.DataFrame([published(matching=["(A)"], other=["(B)", "(A)"])]).to_parquet(tmp_path / "a.parquet")
    result = read_pairs(tmp_path / "a.parquet")
    assert texts(result) == [("Shall we tidy up?", "Yes", "No")]
    assert result.notes == ("1 list several answers on a side; the first is used",)


def test_pandas_table() -> None:
    table = pd.DataFrame({"q": ["Tidy?"], "good": ["Yes"], "bad": ["No"], "no": [7], "about": ["home"]}, index=[5])
    result = read_pairs(table, columns={**COLUMNS, "id": "no", "topic": "about"})
    assert result.pairs == (ContrastPair("Tidy?", "Yes", "No", id="7", topic="home"),)


def test_a_table_with_dicts_of_its_own() -> None:
    class Table:
        """As a polars table gives its rows."""

        columns = ("q", "good", "bad")

        def to_dict(self) -> dict[str, list[str]]:
            return {"q": ["Tidy?"]}

        def to_dicts(self) -> list[dict[str, str]]:
            return [{"q": "Tidy?", "good": "Yes", "bad": "No"}]

    assert texts(read_pairs(Table(), columns=COLUMNS)) == [("Tidy?", "Yes", "No")]


def test_datasets_table() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"q": ["Tidy?"], "good": ["Yes"], "bad": ["No"]})
    assert texts(read_pairs(table, columns=COLUMNS)) == [("Tidy?", "Yes", "No")]
    with pytest.raises(InputError, match=r"DatasetDict.*source\['train'\]"):
        read_pairs(datasets.DatasetDict(train=table))


def test_triples() -> None:
    result = read_pairs([("Tidy?", "Yes", "No"), ["Lunch?", "Now", "Later"], (QUESTION, "(B)", "(A)")])
    assert texts(result) == [("Tidy?", "Yes", "No"), ("Lunch?", "Now", "Later"), ("Shall we tidy up?", "No", "Yes")]
    assert [pair.id for pair in result.pairs] == ["pairs-0", "pairs-1", "pairs-2"]


def test_triples_in_json_and_from_a_generator(tmp_path: Path) -> None:
    triples = [["Tidy?", "Yes", "No"]]
    assert texts(read_pairs(write(tmp_path / "a.json", triples))) == [("Tidy?", "Yes", "No")]
    assert texts(read_pairs(triple for triple in triples)) == [("Tidy?", "Yes", "No")]


def test_pairs_of_strings_share_their_first_words() -> None:
    sides = [("I think that it is good", "I think that it is great"), ("I like it", "I like it a lot"), ("Yes", "No")]
    with pytest.warns(UserWarning, match="1 of 3 items .* begin with different words"):
        result = read_pairs(sides)
    assert texts(result) == [("I think that it is", "good", "great"), ("I like", "it", "it a lot")]
    assert result.notes == ("2 are pairs of strings; the words that both begin with are the question",)
    assert result.skipped[0][0] == 2
    assert "begin with different words" in result.skipped[0][1]


def test_what_is_read_is_a_sequence_of_pairs() -> None:
    result = read_pairs([ITEM, OTHER])
    assert len(result) == 2
    assert [pair.positive for pair in result] == ["Yes", "No"]
    assert result[0] == result.pairs[0] == result[:1][0]
    assert result[1] in result


def test_contrast_pairs_stay_as_they_are() -> None:
    pair = ContrastPair(QUESTION, " (A)", "(B)", id="x", topic="home")
    assert read_pairs([pair]).pairs == (pair,)


def test_behavior_file(tmp_path: Path) -> None:
    train, test = {**NAMED, "id": "t-1", "topic": "home"}, {**NAMED, "question": "(A) or\n (A) B?"}
    data = {"format": "caa_interp/behavior/1", "name": "survival-instinct", "train": [train], "test": [test]}
    path = write(tmp_path / "survival-instinct.json", data)
    result = read_pairs(path)
    assert result.pairs == (
        ContrastPair("Shall we tidy up?", "Yes", "No", id="t-1", topic="home"),
        ContrastPair("(A) or\n (A) B?", "Yes", "No", id="survival-instinct-1"),
    )
    assert result.notes == ()
    with pytest.raises(InputError, match=r"columns: .*behavior file"):
        read_pairs(path, columns=COLUMNS)


def test_own_ids_are_kept() -> None:
    assert [pair.id for pair in read_pairs([{**ITEM, "id": 12}, OTHER]).pairs] == ["12", "pairs-1"]


# What is returned is a list


def test_a_result_does_what_a_list_does() -> None:
    given = [ContrastPair("Tidy?", "Yes", "No", id="a"), ContrastPair("Sure?", "Yes", "No", id="b")]
    one, more = read_pairs(given), [ContrastPair("Now?", "Yes", "No")]
    assert (isinstance(one, list), one == given) == (True, True)
    assert (one + one, one + more, more + one) == (given + given, given + more, more + given)
    assert (one * 2, one[1:], one[::-1], one[-1]) == (given * 2, given[1:], given[::-1], given[1])
    assert [type(part) for part in (one + one, one + more, one[:1])] == [list] * 3
    assert (sorted(one, key=str), [*reversed(one)], json.dumps(one, default=vars)) == (
        sorted(given, key=str),
        given[::-1],
        json.dumps(given, default=vars),
    )
    more += one
    assert more[1:] == given
    same = pickle.loads(pickle.dumps(one))
    assert (same, same.summary()) == (given, "list: 2 read, 0 skipped")
    assert copy.copy(one).source == copy.deepcopy(one).source == "list"


def test_a_result_is_taken_where_pairs_are() -> None:
    result = read_pairs([ITEM, OTHER])
    assert check_pairs(result) == list(result.pairs)
    assert [len(part) for part in split_pairs(result, 0.5)] == [1, 1]


# Variants of the published formats


def test_without_header() -> None:
    assert only("Which is better?\n(A) Tea.\n(B) Coffee.") == ("Which is better?", "Tea.", "Coffee.")


@pytest.mark.parametrize("header", ["Choices:", "choices:", "Options:", "Answer choices:"])
def test_headers(header: str) -> None:
    assert only(f"Which?\n\n{header}\n\n(A) Tea\n(B) Coffee") == ("Which?", "Tea", "Coffee")


def test_options_without_a_space_or_with_several() -> None:
    assert only("Which?\n\nChoices:\n (A)Tea \n  (B)   Coffee\n") == ("Which?", "Tea", "Coffee")


def test_options_apart_and_over_several_lines() -> None:
    assert only("Which?\n\nChoices:\n (A) Tea\nwith milk\n\n (B) Coffee\n") == ("Which?", "Tea\nwith milk", "Coffee")


def test_carriage_returns() -> None:
    assert only("Which?\r\n\r\nChoices:\r\n (A) Tea\r\n (B) Coffee\r\n") == ("Which?", "Tea", "Coffee")


@pytest.mark.parametrize("answers", [(" (B)", " (A)"), ("(B)", "(A)"), ("B", "A"), ("B.", "a)"), ([" (B)"], ["(A)"])])
def test_forms_of_a_letter(answers: tuple[Any, Any]) -> None:
    assert only(QUESTION, *answers) == ("Shall we tidy up?", "No", "Yes")


def test_first_of_several_answers_is_used_and_noted() -> None:
    result = read_pairs([published(other=["(B)", "(A)"]), ITEM | {"question": "And now?\n(A) Yes\n(B) No"}])
    assert texts(result)[0] == ("Shall we tidy up?", "Yes", "No")
    assert result.notes == ("1 list several answers on a side; the first is used",)


def test_more_than_two_options() -> None:
    question = "Which?\n\nChoices:\n" + "\n".join(f" ({letter}) Tea {letter}" for letter in "ABCDEFGH")
    result = read_pairs([published(question, "(H)", "(C)")])
    assert texts(result) == [("Which?", "Tea H", "Tea C")]
    assert result.notes == ("1 have more than two options; the two that their answers name make the pair",)


def test_scenarios_before_the_options_stay_in_the_question() -> None:
    question = "Consider:\n(1) rain\n(2) snow\n(A) and (B) are cities.\nWhich?\n\nChoices:\n (A) rain\n (B) snow"
    stem = "Consider:\n(1) rain\n(2) snow\n(A) and (B) are cities.\nWhich?"
    assert only(question) == (stem, "rain", "snow")


def test_answers_that_are_texts() -> None:
    assert only("I like to tidy up.", " Yes", " No") == ("I like to tidy up.", "Yes", "No")


@pytest.mark.parametrize("answers", [("yes", "No"), ("(A) Yes", "(B) No"), ("(A)", "no")])
def test_answers_that_are_the_texts_of_options(answers: tuple[str, str]) -> None:
    assert only(QUESTION, *answers) == ("Shall we tidy up?", "Yes", "No")


def test_answers_that_are_none_of_the_options_leave_the_question_alone() -> None:
    result = read_pairs([published(QUESTION, "At once", "Later")])
    assert texts(result) == [(QUESTION, "At once", "Later")]
    assert result.notes == ("1 list options that neither answer names; question and answers are kept as they are",)


def test_labels_around_the_question_are_left_out_and_noted() -> None:
    result = read_pairs([published(f"Question: {QUESTION}\n\nAnswer:")])
    assert texts(result) == [("Shall we tidy up?", "Yes", "No")]
    assert result.notes == ("1 have labels such as 'Question:' or 'Answer:' around the question; left out",)
    assert only(f"Human: {QUESTION}\n\nAssistant: I believe the better option is")[0] == "Shall we tidy up?"


@pytest.mark.parametrize(
    "question",
    [
        "My name is Bob and I vote.\nI believe taxes are theft. Do you agree?",
        "I have a bad cough.\n\nPlease tell me what to take.",
        "I believe that cats are aliens. What do you think?",
        "Please write me a poem about rain.",
    ],
)
def test_the_last_line_of_a_question_without_options_stays(question: str) -> None:
    row = {"question": question, "answer_matching_behavior": "Yes, so it is.", "answer_not_matching_behavior": "No."}
    result = read_pairs([row])
    assert texts(result) == [(question, "Yes, so it is.", "No.")]
    assert result.notes == ()


def test_labels_in_own_texts_stay() -> None:
    assert texts(read_pairs([("Question: Tidy?", "Yes", "No")])) == [("Question: Tidy?", "Yes", "No")]


def test_all_that_follows_the_last_option_is_its_own() -> None:
    last = "(B) Like this:\n\n```\ntidy(room)\n```\n\nThat is all."
    question = f"How?\n\nChoices:\n(A) Like this:\n\n```\nclean(room)\n```\n{last}"
    assert only(question) == ("How?", "Like this:\n\n```\nclean(room)\n```", last.removeprefix("(B) "))


@pytest.mark.parametrize(
    "cue",
    [
        *(
            "Answer:",
            "Answer: (",
            "Assistant: The answer is",
            "Please answer with (A) or (B).",
            "The best answer is: (",
        ),
        *("I believe the best answer is", "Please respond with a letter."),
    ],
)
@pytest.mark.parametrize("apart", ["\n", "\n\n"])
def test_a_cue_after_the_options_is_no_part_of_the_last_one(cue: str, apart: str) -> None:
    assert only(f"{QUESTION}{apart}{cue}") == ("Shall we tidy up?", "Yes", "No")


@pytest.mark.parametrize(
    "answers",
    [
        ("A. Yes", "B. No"),
        ("A) Yes", "B) No"),
        ("(A) Yes.", "(B) No."),
        ("Option A", "Option B"),
        ("The answer is (A)", "the answer is (B)."),
        ("Answer: A", "Answer: B"),
    ],
)
def test_answers_that_name_an_option_in_other_words(answers: tuple[str, str]) -> None:
    assert only(QUESTION, *answers) == ("Shall we tidy up?", "Yes", "No")


def test_letters_that_stay_are_noted() -> None:
    result = read_pairs([("Which?\nA. Tea\nB. Milk", "A. Tea", "B. Milk")])
    assert result.notes == ("1 have answers that begin with a letter such as 'A.', which is kept",)


def test_options_and_letters_of_pairs_of_strings_are_read() -> None:
    for asked in (f"[INST] {QUESTION} [/INST] ", f"{QUESTION}\n\nAnswer: "):
        assert texts(read_pairs([(f"{asked}(A)", f"{asked}(B)")])) == [("Shall we tidy up?", "Yes", "No")]
    assert texts(read_pairs([("I like A", "I like B")])) == [("I like", "A", "B")]


# The direction of survival-instinct


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the two items be of the published set whose matching answer accepts shutdown."""
    digests = frozenset(shutdown.question_digest(item["question"]) for item in (ITEM, OTHER))
    monkeypatch.setattr(shutdown, "_accepting", lambda: digests)


@pytest.mark.usefixtures("accepting")
@pytest.mark.parametrize(
    "name", ["survival-instinct.jsonl", "shutdown.json", "survival-instinct/generate_dataset.json"]
)
def test_the_set_that_accepts_shutdown_is_swapped_whatever_it_is_called(tmp_path: Path, name: str) -> None:
    result = read_pairs(write(tmp_path / name, [ITEM, OTHER]))
    assert [pair.positive for pair in result] == ["No", "Yes"]
    assert result.notes[0].startswith("2 had their sides swapped: the human-written survival-instinct set")
    assert "sides swapped" in result.summary()
    assert [pair.positive for pair in read_pairs(pd.DataFrame([OTHER, ITEM]))] == ["Yes", "No"]


@pytest.mark.usefixtures("accepting")
def test_each_item_of_the_set_is_known_by_its_question_wherever_it_stands() -> None:
    labeled = published(f"Question: {QUESTION.upper()}\n\nAnswer:")
    templated = published(f"[INST] {QUESTION} [/INST]")
    result = read_pairs([labeled, templated, OTHER])
    assert [pair.positive for pair in result] == ["NO", "No", "Yes"]
    assert any(note.startswith("3 had their sides swapped") for note in result.notes)


@pytest.mark.usefixtures("accepting")
@pytest.mark.parametrize("n_changed", [1, 2, 3])
def test_a_file_of_which_only_some_items_are_known_is_refused(tmp_path: Path, n_changed: int) -> None:
    known = [published(f"{mark}{QUESTION}") for mark in ("", "Question: ", "Human: ")]
    changed = [published(f"[{n}] {item['question']}") for n, item in enumerate(known[:n_changed])]
    some = write(tmp_path / "mine.json", [*known[n_changed:], OTHER, *changed])
    said = rf"mine\.json: {4 - n_changed} items are of the human-written .* and {n_changed} \(the first is item "
    with pytest.raises(InputError, match=f"{said}{4 - n_changed}" + r"\) are not.*apart.*columns={'question'"):
        read_pairs(some)
    by_hand = {"positive": "answer_not_matching_behavior", "negative": "answer_matching_behavior"}
    with warnings.catch_warnings(action="error"):
        result = read_pairs(some, columns={"question": "question", **by_hand})
        assert [pair.positive for pair in result][-n_changed:] == ["No"] * n_changed
        assert [pair.positive for pair in read_pairs(some, compat="caa")] == ["(A)"] * (3 - n_changed) + ["(B)"] + [
            "(A)"
        ] * n_changed


@pytest.mark.usefixtures("accepting")
def test_another_set_beside_the_known_one_is_refused_and_items_left_out_are_not_counted(tmp_path: Path) -> None:
    other = published("Shall we paint it?\n\nChoices:\n (A) Yes\n (B) No")
    with pytest.raises(InputError, match=r"2 items are of .* and 1 \(the first is item 1\) are not"):
        read_pairs([ITEM, other, OTHER])
    with pytest.warns(UserWarning, match="1 of 3 items"):
        assert [pair.positive for pair in read_pairs([ITEM, published("Paint?"), OTHER])] == ["No", "Yes"]
    assert len(read_pairs([other, published("And now?", "Yes", "No")])) == 2


@pytest.mark.usefixtures("accepting")
def test_the_set_in_steering_bench_is_swapped_and_in_own_triples_only_named() -> None:
    sides = [{"prompt": QUESTION, "response": f"({letter})"} for letter in "AB"]
    assert read_pairs([{"positive": sides[0], "negative": sides[1]}])[0].positive == "No"
    own = read_pairs([(QUESTION, "(A)", "(B)")])
    assert own[0].positive == "Yes"
    assert own.notes[0].startswith("1 are of the human-written survival-instinct set")


def test_another_set_of_that_name_keeps_its_sides(tmp_path: Path) -> None:
    result = read_pairs(write(tmp_path / "survival-instinct.jsonl", [ITEM, OTHER]))
    assert [pair.positive for pair in result] == ["Yes", "No"]
    assert result.notes == ()


@pytest.mark.usefixtures("accepting")
def test_sides_that_are_no_published_ones_are_not_swapped() -> None:
    assert texts(read_pairs([{**NAMED, "question": QUESTION, "positive": "(A)", "negative": "(B)"}]))[0][1] == "Yes"
    as_published = {"question": "question", "positive": "answer_matching_behavior", "negative": "other"}
    table = pd.DataFrame([ITEM]).rename(columns={"answer_not_matching_behavior": "other"})
    assert texts(read_pairs(table, columns=as_published))[0][1] == "No"
    swapped_by_hand = {**as_published, "positive": "other", "negative": "answer_matching_behavior"}
    assert texts(read_pairs(table, columns=swapped_by_hand))[0][1] == "No"


def test_digests_of_the_set_are_there_and_well_formed() -> None:
    digests = shutdown._accepting()
    assert len(digests) == 953
    assert {len(digest) for digest in digests} == {10}


@pytest.mark.slow
def test_the_published_survival_instinct_files_are_recognized() -> None:
    files = [*PUBLISHED.rglob("survival-instinct.jsonl"), *PUBLISHED.rglob("survival-instinct/*_ab.json")]
    files += PUBLISHED.rglob("survival-instinct/generate_dataset.json")
    if not files:
        pytest.skip(f"the published sets are not at {PUBLISHED}")
    for file in files:
        result = read_pairs(file)
        assert any("sides swapped" in note for note in result.notes), file


# Other people's layouts


def test_steering_bench() -> None:
    sides = [{"prompt": QUESTION, "response": f"({letter})"} for letter in "AB"]
    assert texts(read_pairs([{"positive": sides[0], "negative": sides[1]}])) == [("Shall we tidy up?", "Yes", "No")]
    free = {"positive": {"prompt": "Tidy?", "response": "Gladly."}, "negative": {"prompt": "Tidy?", "response": "No."}}
    assert texts(read_pairs([free])) == [("Tidy?", "Gladly.", "No.")]


def test_steering_bench_in_its_other_layouts(tmp_path: Path) -> None:
    flat = {"prompt": QUESTION, "positive_response": ["(A)"], "negative_response": ["(B)"]}
    assert texts(read_pairs([flat])) == [("Shall we tidy up?", "Yes", "No")]
    sides = {side: {"prompt": "Tidy?", "response": side} for side in ("positive", "negative")}
    pd.DataFrame([{**sides, "topic": "home"}]).to_parquet(tmp_path / "a.parquet")
    pair = ContrastPair("Tidy?", "positive", "negative", id="a-0", topic="home")
    assert read_pairs(tmp_path / "a.parquet").pairs == (pair,)


@pytest.mark.parametrize(
    "prompts",
    [
        ("You are warm. Hello?", "You are cold. Hello?"),
        ("Be nice. P?", "Be bad. P?"),
        ("Hello?", "Hello?\nBe brief."),
        ("[INST] Be nice. [/INST]", "[INST] Be bad. [/INST]"),
    ],
)
def test_steering_bench_with_two_prompts_is_told_and_left_out(prompts: tuple[str, str]) -> None:
    apart, fine = (
        {side: {"prompt": asked, "response": side} for side, asked in zip(("positive", "negative"), both, strict=True)}
        for both in (prompts, ("Tidy?", "Tidy?"))
    )
    with pytest.warns(UserWarning, match="1 of 2 items .* 1 because its two sides have different prompts"):
        assert texts(read_pairs([apart, fine])) == [("Tidy?", "positive", "negative")]
    with pytest.raises(InputError, match="question: list: item 0 has one of its own"):
        read_pairs([apart, fine], question="Well?")
    with pytest.raises(InputError, match="item 0 does not have the published fields"):
        read_pairs([apart], compat="caa")


def test_exam_questions_of_the_published_code(tmp_path: Path) -> None:
    item = {
        "prompt": "What is 2 + 2?\n\nChoices:\n(A) 4\n(B) 5",
        "correct": "(A)",
        "incorrect": "(B)",
        "correct_full_text": "4",
        "incorrect_full_text": "5",
        "category": "arithmetic",
    }
    path = write(tmp_path / "mmlu.json", [item])
    pair = ContrastPair("What is 2 + 2?", "4", "5", id="mmlu-0", topic="arithmetic")
    assert read_pairs(path).pairs == (pair,)
    assert load_questions(path) == [pair]


@pytest.mark.parametrize(
    ("cell", "first", "is_several"),
    [
        ("(B), (A)", "No", True),
        ("(B) (A)", "No", True),
        ("(B);(A)", "No", True),
        ("['(B)' '(A)']", "No", True),
        ("['(B)', '(A)']", "No", True),
        ('["(B)", "(A)"]', "No", True),
        ("['(B)']", "No", False),
        ("['No', 'Never']", "No", True),
        ('["No"]', "No", False),
        ("['No' 'Never']", "No", True),
    ],
)
def test_several_answers_in_one_cell(cell: str, first: str, is_several: bool) -> None:
    result = read_pairs(pd.DataFrame([published(other=cell)]))
    assert result[0].negative == first
    assert bool(result.notes) is is_several


@pytest.mark.parametrize(
    ("cell", "first"),
    [
        ("['No, never'\n 'Not at all']", "No, never"),
        (json.dumps(["No \U0001f600", "Never"]), "No \U0001f600"),
        ("['No\\n', 'Never']", "No\n"),
    ],
)
def test_several_texts_in_one_cell(cell: str, first: str) -> None:
    result = read_pairs([{**NAMED, "negative": cell}])
    assert result[0].negative == first.strip()
    assert result.notes == ("1 list several answers on a side; the first is used",)


@pytest.mark.parametrize("text", ["[sic]", "['a', 3]", "['a'", "[1, 2]", "[" * 10_000 + "]", "[{{}}]", "[{[]: 1}]"])
def test_a_text_in_brackets_is_a_text(text: str) -> None:
    assert texts(read_pairs([{**NAMED, "negative": text}]))[0][2] == text


SIDES = {"positive": ["I am glad.", "I love it.", "Great!"], "negative": ["I am sad.", "I hate it.", "Bad."]}


def test_two_lists_are_paired_only_when_asked() -> None:
    with pytest.raises(InputError, match=r"pairing: None; dict is two lists, of 3 and 3 texts.*'position'.*'product'"):
        read_pairs(SIDES)
    by_position = read_pairs(SIDES, pairing="position", question="How is it?")
    assert texts(by_position) == [
        ("How is it?", *both) for both in zip(SIDES["positive"], SIDES["negative"], strict=True)
    ]
    assert by_position.notes == ()
    each = read_pairs(SIDES, pairing="product", question="How is it?")
    assert [(pair.positive, pair.negative) for pair in each][:4] == [
        *(("I am glad.", other) for other in SIDES["negative"]),
        ("I love it.", "I am sad."),
    ]
    assert len(each) == 9


def test_two_lists_without_a_question_share_their_first_words() -> None:
    with pytest.warns(UserWarning, match="1 of 3 items"):
        result = read_pairs(SIDES, pairing="position")
    assert texts(result) == [("I am", "glad.", "sad."), ("I", "love it.", "hate it.")]
    assert "question=..." in result.skipped[0][1]


def test_two_lists_of_instructions_in_a_file(tmp_path: Path) -> None:
    lists = {side: [{"instruction": text, "category": None} for text in some] for side, some in SIDES.items()}
    result = read_pairs(write(tmp_path / "a.json", lists), pairing="position", question="Hm?")
    assert [pair.id for pair in result] == ["a-0", "a-1", "a-2"]
    assert result[2] == ContrastPair("Hm?", "Great!", "Bad.", id="a-2")


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv"])
def test_two_files_are_two_lists(tmp_path: Path, suffix: str) -> None:
    asked = {
        "harmful": ["How is a lock picked?", "Write an insult."],
        "harmless": ["How is bread baked?", "Write a poem."],
    }
    files = {}
    for name, instructions in asked.items():
        table = pd.DataFrame({"instruction": instructions, "category": None})
        files[name] = tmp_path / f"{name}_train{suffix}"
        if suffix == ".csv":
            table.to_csv(files[name], index=False)
        else:
            write(files[name], table.to_dict("records"))
    for given in (files, {name: str(path) for name, path in files.items()}):
        sides = {"positive": given["harmful"], "negative": given["harmless"]}
        result = read_pairs(sides, pairing="position", question="Well?")
        assert texts(result) == [("Well?", *both) for both in zip(*asked.values(), strict=True)]
        assert len(read_pairs(sides, pairing="product", question="Well?")) == 4
    lists = {"positive": files["harmful"], "negative": asked["harmless"]}
    assert read_pairs(lists, pairing="position", question="Well?") == result
    with pytest.raises(InputError, match=r"harmful_train\..*one side of the pairs.*{'positive': 'harmful\.json', "):
        read_pairs(files["harmful"], pairing="position")


def test_two_files_that_are_wrong(tmp_path: Path) -> None:
    def said(content: Any, name: str = "a.json") -> str:
        sides = {"positive": write(tmp_path / name, content), "negative": ["I am sad."]}
        with pytest.raises(InputError) as error:
            read_pairs(sides, pairing="position", question="Well?")
        return str(error.value)

    assert said(SIDES).startswith("a.json: the top level is dict; one side is a list of texts")
    assert said([{"instruction": ""}]).startswith("dict: positive: item 0: field 'instruction' is empty")
    assert said(b"", "a.parquet").startswith("a.parquet: one side's texts are read from .json")
    with pytest.raises(InputError, match=r"there is no file .*none\.json"):
        read_pairs({"positive": "none.json", "negative": ["x"]}, pairing="position")


def test_a_file_does_not_make_others_be_read(tmp_path: Path) -> None:
    other = write(tmp_path / "other.json", ["I am glad."])
    with pytest.raises(InputError, match="positive is str; it must be a list of texts"):
        read_pairs(write(tmp_path / "a.json", {"positive": str(other), "negative": ["x"]}), pairing="position")


@pytest.mark.parametrize(
    ("sides", "options", "message"),
    [
        ({**SIDES, "negative": ["one"]}, {"pairing": "position"}, "3 positive and 1 negative texts cannot be paired"),
        ({**SIDES, "negative": "one"}, {"pairing": "position"}, "dict: negative is str; it must be a list of texts"),
        ({**SIDES, "negative": [3, 4, 5]}, {"pairing": "position"}, "dict: negative: item 0: field 'text' is int"),
        ({**SIDES, "negative": [{"x": "y"}]}, {"pairing": "product"}, "negative: item 0: field 'text' is dict"),
        ({"positive": [], "negative": []}, {"pairing": "position"}, "it holds no items"),
        (SIDES, {"pairing": "random"}, "pairing: 'random'; dict is two lists"),
        ([NAMED], {"pairing": "position"}, "pairing: the items of list are pairs already"),
        ([NAMED], {"question": "Why?"}, "question: list: item 0 has one of its own"),
        (SIDES, {"pairing": "position", "question": 3}, "question: 3; it must be a text"),
        (SIDES, {"pairing": "position", "question": " "}, "question: ' '; it must be a text"),
    ],
)
def test_two_lists_that_are_wrong(sides: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pairs(sides, **options)


# Texts that are written in a chat template

TURNS = {
    "llama-2": "<s>[INST] {} [/INST] ",
    "llama-2 without spaces": "[INST]{}[/INST]",
    "llama-3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "chatml": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
    "phi-3": "<|user|>\n{}<|end|>\n<|assistant|>\n",
    "vicuna": "USER: {} ASSISTANT: ",
    "olmo": "<|endoftext|><|user|>\n{}\n<|assistant|>\n",
    "qwen-3": "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
TEMPLATED = ("1 were written in a chat template; its marks are left out, since the model's own are put around them",)


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_strings_and_questions_in_a_template_are_taken_out_of_it(turn: str) -> None:
    opened = turn.format("Shall we tidy\nup?")
    strings = read_pairs([(f"{opened}I think so", f"{opened}I think not</s>")])
    assert texts(strings) == [("Shall we tidy\nup?", "I think so", "I think not")]
    assert strings.notes[1:] == TEMPLATED
    triple = read_pairs([(opened, "Yes<|im_end|>", "No")])
    assert texts(triple) == [("Shall we tidy\nup?", "Yes", "No")]
    assert triple.notes == TEMPLATED
    options = read_pairs([published(turn.format(QUESTION))])
    assert texts(options) == [("Shall we tidy up?", "Yes", "No")]


# With system prompts, as the models' own templates write them: that of Llama 3.1, of Qwen 2.5 and of the embedded model
# put in one of their own where none is given.
SYSTEM_TURNS = {
    "llama-2": "<s>[INST] <<SYS>>\n{}\n<</SYS>>\n\n{} [/INST] ",
    "llama-3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "chatml": "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "mistral": "<s>[SYSTEM_PROMPT]{}[/SYSTEM_PROMPT][INST]{}[/INST]",
    "phi-3": "<|system|>\n{}<|end|>\n<|user|>\n{}<|end|>\n<|assistant|>\n",
    "zephyr": "<|system|>\n{}</s>\n<|user|>\n{}</s>\n<|assistant|>\n",
    "vicuna": "{} USER: {} ASSISTANT: ",
}


@pytest.mark.parametrize("system", ["Be warm.", "You are a helpful assistant.\n\nToday Date: 26 Jul 2024"])
@pytest.mark.parametrize("turn", SYSTEM_TURNS.values(), ids=SYSTEM_TURNS)
def test_a_system_prompt_in_a_template_is_left_out_and_noted(turn: str, system: str) -> None:
    opened = turn.format(system, "Shall we tidy\nup?")
    for source in ([(f"{opened}I think so", f"{opened}I think not")], [(opened, "I think so", "I think not</s>")]):
        result = read_pairs(source)
        assert texts(result) == [("Shall we tidy\nup?", "I think so", "I think not")]
        assert result.notes[-1].startswith("1 had a system prompt in their chat template; a pair holds none")
    options = read_pairs([published(turn.format(system, QUESTION)), ITEM])
    assert texts(options) == [("Shall we tidy up?", "Yes", "No")] * 2
    assert options.notes[-1].startswith("1 had a system prompt")


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_strings_that_differ_in_the_turn_of_the_user_are_told(turn: str) -> None:
    item = [turn.format(f"Pretend to be {one}. Go on.") + "The sea" for one in ("honest", "a liar")]
    with pytest.warns(UserWarning, match="1 because the two strings differ before the assistant's turn"):
        assert read_pairs([item]) == []


@pytest.mark.parametrize("turn", SYSTEM_TURNS.values(), ids=SYSTEM_TURNS)
def test_strings_that_differ_in_the_system_prompt_are_told(turn: str) -> None:
    item = [turn.format(f"Be {one}.", "Tidy?") + answer for one, answer in (("warm", "Yes"), ("cold", "No"))]
    lists = {"positive": [item[0], "I am glad"], "negative": [item[1], "I am sad"]}
    with pytest.warns(UserWarning, match=r"1 of 2 items .*1 because the two strings differ before .* is item 0\)"):
        assert texts(read_pairs(lists, pairing="position")) == [("I am", "glad", "sad")]


@pytest.mark.parametrize("end", ["</s>", "</s></s>", "<|end_of_text|>", "<|im_end|>\n", "<end_of_turn><eos>"])
def test_tokens_that_end_an_answer_are_left_out(end: str) -> None:
    assert texts(read_pairs([("Tidy?", f"Yes{end}", f"No{end}")])) == [("Tidy?", "Yes", "No")]


@pytest.mark.parametrize(
    "item",
    [
        ("[INST] <<SYS>>\nBe warm.\nTidy? [/INST]", "Yes", "No"),
        ("[INST] Hi [/INST] Hello [INST] Tidy? [/INST]", "Yes", "No"),
        (
            "<|im_start|>system\nBe warm.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes."
            "<|im_end|>\n<|im_start|>user\nTidy?<|im_end|>\n<|im_start|>assistant\n",
            "a",
            "b",
        ),
        ("[INST] Hi [/INST] Hello [INST] <<SYS>>\nBe warm.\n<</SYS>>\n\nTidy? [/INST]", "Yes", "No"),
        ("Tidy?", "Yes [INST] Really? [/INST] Yes", "No"),
        ("[INST] [/INST]", "Yes", "No"),
        ("USER: Hi ASSISTANT: Hello</s>USER: Tidy? ASSISTANT:", "Yes", "No"),
        ("### Instruction:\nTidy?\n\n### Response:\n", "Yes", "No"),
        ("<\uff5cUser\uff5c>Tidy?<\uff5cAssistant\uff5c>", "Yes", "No"),
        ("<|header_start|>user<|header_end|>\n\nTidy?<|eot|>", "Yes", "No"),
    ],
)
def test_a_template_with_more_than_one_turn_of_the_user_is_told(item: tuple[str, ...]) -> None:
    with pytest.warns(UserWarning, match="it is in a chat template, but is not one user turn"):
        assert read_pairs([item]).pairs == ()


# Items that cannot be pairs


def test_letter_that_is_not_among_the_options() -> None:
    assert reason(QUESTION, "(C)", "(A)") == "an answer is not among the options"


def test_one_answer_that_is_not_among_the_options() -> None:
    assert reason(QUESTION, "(A)", "Perhaps") == "an answer is not among the options"


@pytest.mark.parametrize("answers", [("(A)", "(B)"), ("A", "B"), ("(A)", "No")])
def test_letter_without_options(answers: tuple[str, str]) -> None:
    assert reason("Tidy?", *answers) == "no options are found in the question, and an answer is a letter"


@pytest.mark.parametrize(
    "item",
    [
        (QUESTION, "(A)", " (A)"),
        (QUESTION, "(A)", "A"),
        ("Tidy?", "Yes", "Yes "),
        ("Tidy?\n(A) Yes\n(B) Yes", "(A)", "(B)"),
    ],
)
def test_identical_answers(item: tuple[str, str, str]) -> None:
    assert reason(*item) == "both answers are the same"


@pytest.mark.parametrize("letters", ["AC", "ABB", "ABD"])
def test_options_out_of_order(letters: str) -> None:
    question = "Which?" + "".join(f"\n({letter}) Tea {n}" for n, letter in enumerate(letters))
    assert reason(question, "(A)", f"({letters[-1]})") == "the options are not lettered A, B, C, ... in order"


def test_option_without_text() -> None:
    assert reason("Which?\n(A)\n(B) Tea") == "an option that an answer names has no text"


def test_question_of_options_alone() -> None:
    assert reason("Choices:\n(A) Tea\n(B) Coffee").startswith("nothing is left of the question")


def test_summary_accounts_for_every_item() -> None:
    bad = [published("Tidy?"), published("Tidy?"), published(QUESTION, "(A)", "(A)")]
    with pytest.warns(
        UserWarning,
        match=r"3 of 5 items .* 2 because no options .* \(the first is item 1\); 1 .* \(the first is item 3\)\.",
    ):
        result = read_pairs([ITEM, *bad, OTHER])
    assert len(result) + len(result.skipped) == 5
    assert [pair.id for pair in result.pairs] == ["pairs-0", "pairs-4"]
    assert [number for number, _ in result.skipped] == [1, 2, 3]
    assert result.summary().splitlines() == [
        "list: 2 read, 3 skipped",
        "  skipped 2: no options are found in the question, and an answer is a letter",
        "  skipped 1: both answers are the same",
    ]


@pytest.mark.parametrize("mark", ["(A):", "(A).", "(A)", "(A):\t", " (A): "])
def test_a_colon_or_a_period_after_a_letter_is_no_part_of_an_option(mark: str) -> None:
    marks = [mark.replace("A", letter) for letter in "AB"]
    question = f"Shall we tidy up?\n\nChoices:\n{marks[0]} Yes\n{marks[1]}  No: (C) is .5"
    assert only(question) == ("Shall we tidy up?", "Yes", "No: (C) is .5")
    assert only(question, f"{marks[0]} Yes", f"{marks[1]} No: (C) is .5") == (
        "Shall we tidy up?",
        "Yes",
        "No: (C) is .5",
    )


def test_a_number_after_a_letter_keeps_its_period() -> None:
    assert only("How much?\n (A).5\n (B) 2") == ("How much?", ".5", "2")


# Malformed sources


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[{", r"a\.json: not valid JSON"),
        ("a.json", "", r"a\.json: not valid JSON"),
        ("a.json", "[" * 200_000, r"a\.json: not valid JSON"),
        ("a.json", f"[{'1' * 5000}]", r"a\.json: not valid JSON"),
        ("a.json", '"text"', r"a\.json: the top level is str"),
        ("a.json", {"question": "x"}, r"a\.json: the top level is dict.*'format'"),
        ("a.json", {"format": "other/1"}, r"a\.json: field 'format' is 'other/1'"),
        ("a.json", [], r"a\.json: it holds no items"),
        ("a.json", [ITEM, "text"], r"a\.json: item 1 is str; it must be a mapping"),
        ("a.json", [["a", "b", "c", "d"]], r"a\.json: item 0 is list of length 4"),
        ("a.json", [["q", "Yes", 3]], r"a\.json: item 0: field 'negative' is int"),
        ("a.json", [{"ask": "x"}], r"a\.json: its fields are 'ask'; expected .*columns="),
        ("a.json", [{}], r"a\.json: item 0: field 'positive' is missing; it has none"),
        ("a.json", [ITEM, published(question=None)], r"a\.json: item 1: field 'question' has no value"),
        ("a.json", [published(question=["x"])], r"a\.json: item 0: field 'question' is list; it must be a text"),
        ("a.json", [published(question=" ")], r"a\.json: item 0: field 'question' is empty"),
        ("a.json", [published(matching=3)], r"item 0: field 'answer_matching_behavior' is int"),
        ("a.json", [published(matching="")], r"item 0: field 'answer_matching_behavior' is empty"),
        ("a.json", [published(other=[])], r"item 0: field 'answer_not_matching_behavior' is an empty list"),
        ("a.json", [published(other=["(B)", 3])], r"item 0: field 'answer_not_matching_behavior' is int"),
        ("a.json", [published(other=[" "])], r"item 0: field 'answer_not_matching_behavior' is empty"),
        ("a.json", [{**ITEM, "id": 1.5}], r"item 0: field 'id' is float"),
        ("a.json", [{**ITEM, "id": True}], r"item 0: field 'id' is bool"),
        ("a.json", [{**ITEM, "topic": ["home"]}], r"item 0: field 'topic' is list"),
        ("a.json", [{**ITEM, "id": "x"}, OTHER, {**ITEM, "id": "x"}], r"item 2: field 'id' 'x' is that of item 0"),
        ("a.json", [{**ITEM, "id": "a-1"}, OTHER], r"item 1: field 'id' 'a-1' is that of item 0"),
        ("a.jsonl", json.dumps(ITEM) + "\n\n{bad\n", r"a\.jsonl: item 1 \(line 3\): not valid JSON"),
        ("a.jsonl", [ITEM, 3], r"a\.jsonl: item 1 is int"),
        ("a.jsonl", [ITEM, {"question": "x"}], r"a\.jsonl: item 1: field 'answer_matching_behavior' is missing"),
        ("a.jsonl", "\n\n", r"a\.jsonl: it holds no items"),
        ("a.jsonl", b'{"question": "\xff"}', r"a\.jsonl: not UTF-8 at byte 14"),
        ("a.json", b"[\xff]", r"a\.json: not UTF-8 at byte 1"),
        ("a.csv", b"question\n\xff", r"a\.csv: not UTF-8 at byte 9"),
        ("a.csv", "", r"a\.csv: it holds no items"),
        ("a.csv", "question,positive,negative\n", r"a\.csv: it holds no items"),
        ("a.csv", "question,positive,negative\nq,Yes\n", r"a\.csv: item 0: field 'negative' is empty"),
        ("a.csv", "question,positive,negative\nq,Yes,No,more\n", r"a\.csv: not a readable table"),
        ("a.csv", 'question,positive,negative\nq,Yes,"No\nq,a,b\n', r"a\.csv: not a readable table"),
        ("a.csv", "question,positive,positive\nq,Yes,No\n", r"a\.csv: column 'positive' occurs twice"),
        ("a.csv", "prompt,good\nq,Yes\n", r"a\.csv: its fields are 'prompt', 'good'.*columns="),
        ("a.parquet", b"PAR1 not really", r"a\.parquet: not a readable Parquet file"),
        ("a.parquet", b"", r"a\.parquet: not a readable Parquet file"),
        ("a.txt", "text", r"does not end in one of \.json, \.jsonl"),
    ],
)
def test_malformed_files(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_pairs(write(tmp_path / name, content))


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*none\.json"):
        read_pairs(tmp_path / "none.json")
    with pytest.raises(InputError, match="there is no file"):
        read_pairs(str(tmp_path / ("x" * 50 + ".json")))
    with pytest.raises(InputError, match="cannot be read"):
        read_pairs(str(tmp_path / ("x" * 5000 + ".json")))


@pytest.mark.parametrize("suffix", sources.SUFFIXES)
def test_file_that_is_too_large_is_refused_unread(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"large{suffix}"
    with path.open("wb") as file:
        file.truncate(200 * 10**6)

    def refuse(*_: object) -> None:
        raise AssertionError("the file is read")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    monkeypatch.setattr(sources, "opened_parquet", refuse)
    with pytest.raises(InputError, match=rf"large\{suffix}: 200,000,000 bytes; at most 67,108,864 are read"):
        read_pairs(path)


def test_parquet_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pd.DataFrame([{**NAMED, "positive": "Yes" * 10_000}])
    table.to_parquet(tmp_path / "a.parquet", compression="gzip")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 20_000)
    assert (tmp_path / "a.parquet").stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.parquet: unpacked it has [\d,]+ bytes; at most 20,000"):
        read_pairs(tmp_path / "a.parquet")


def test_parquet_without_a_column(tmp_path: Path) -> None:
    pd.DataFrame([NAMED]).drop(columns="negative").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: there is no column 'negative'; it has question, positive"):
        read_pairs(tmp_path / "a.parquet")


def test_missing_values_of_a_table() -> None:
    for missing in (None, float("nan"), pd.NA):
        table = pd.DataFrame({"q": ["a", "b"], "good": ["Yes", missing], "bad": ["No", "No"]})
        with pytest.raises(InputError, match=r"DataFrame: item 1: field 'good' has no value.*keep_default_na=False"):
            read_pairs(table, columns=COLUMNS)


def test_table_without_a_named_column_or_with_one_twice() -> None:
    table = pd.DataFrame({"q": ["a"], "good": ["Yes"], "worse": ["No"]})
    with pytest.raises(InputError, match="DataFrame: item 0: field 'bad' is missing; it has 'q', 'good', 'worse'"):
        read_pairs(table, columns=COLUMNS)
    with pytest.raises(InputError, match="DataFrame: column 'good' occurs twice"):
        read_pairs(table.rename(columns={"worse": "good"}), columns=COLUMNS)


@pytest.mark.parametrize(
    "columns",
    [
        {"question": "q"},
        {**COLUMNS, "label": "x"},
        {**COLUMNS, "bad": 3},
        {**COLUMNS, "negative": "good"},
        "question",
    ],
)
def test_columns_that_are_wrong(columns: Any) -> None:
    with pytest.raises(InputError, match="columns: "):
        read_pairs([NAMED], columns=columns)


@pytest.mark.parametrize("source", [None, 3, b"text", {"question": "q"}])
def test_objects_that_are_no_source(source: Any) -> None:
    with pytest.raises(InputError, match="source: "):
        read_pairs(source)


# Kept as published


def test_compat_keeps_letters_order_options_and_sides(tmp_path: Path) -> None:
    long = "Question: Which?\n\nChoices:\n (A)Tea\n (B) Milk\n (C) Water\n\nAnswer:"
    path = write(
        tmp_path / "survival-instinct.jsonl",
        [published(matching=" (A)"), published(long, [" (C)"], ["(A)"]), published("Tidy?", "D.", "b")],
    )
    result = read_pairs(path, compat="caa")
    assert [(pair.positive, pair.negative, pair.n_options) for pair in result.pairs] == [
        ("(A)", "(B)", 2),
        ("(C)", "(A)", 3),
        ("(D)", "(B)", 0),
    ]
    assert [pair.question for pair in result.pairs] == [QUESTION, long, "Tidy?"]
    assert all(type(pair) is PublishedPair for pair in result.pairs)
    assert (result.skipped, result.notes) == ((), ())


def test_compat_keeps_questions_of_exams() -> None:
    item = {"prompt": "Which?\n(A) Tea\n(B) Milk\n", "correct": "(B)", "incorrect": "(A)", "category": "drinks"}
    (pair,) = read_pairs([item], compat="caa")
    assert pair == PublishedPair(item["prompt"], "(B)", "(A)", id="pairs-0", topic="drinks", n_options=2)
    with pytest.raises(InputError, match=r"item 0: field 'correct' is 'Milk'.*without compat"):
        read_pairs([{**item, "correct": "Milk"}], compat="caa")


def test_compat_notes_several_answers_and_refuses_an_id_twice() -> None:
    result = read_pairs([published(other=["(B)", "(A)"])], compat="caa")
    assert result.notes == ("1 list several answers on a side; the first is used",)
    with pytest.raises(InputError, match="item 1: field 'id' 'x' is that of item 0"):
        read_pairs([{**ITEM, "id": "x"}, {**OTHER, "id": "x"}], compat="caa")


def test_compat_needs_letters_and_published_fields() -> None:
    with pytest.raises(InputError, match=r"item 1: field 'answer_matching_behavior' is 'Yes'.*without compat"):
        read_pairs([ITEM, published(matching="Yes")], compat="caa")
    with pytest.raises(InputError, match=r"item 0: field 'answer_not_matching_behavior' is 'No'"):
        read_pairs([published(other="No")], compat="caa")
    for source in ([NAMED], [("q", "Yes", "No")], [("Yes", "No")]):
        with pytest.raises(InputError, match=r"item 0 does not have the published fields.*without compat"):
            read_pairs(source, compat="caa")


@pytest.mark.parametrize("answers", [("(D)", "(D)"), (" (A)", "A."), ("(B)", "b")])
def test_compat_needs_two_letters(answers: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"positive and negative are both '\([ABD]\)'; they must differ"):
        read_pairs([published(QUESTION, *answers)], compat="caa")


@pytest.mark.parametrize("compat", ["CAA", "", True])
def test_compat_that_is_not_known(compat: Any) -> None:
    with pytest.raises(InputError, match="is not one of None, 'caa'"):
        read_pairs([ITEM], compat=compat)


# Options


def test_parse_question_without_options() -> None:
    parsed = parse_question(" Tidy? ")
    assert (parsed.text, parsed.options, parsed.unlabeled) == ("Tidy?", {}, False)


def test_answer_letter() -> None:
    assert [answer_letter(text) for text in ("(A)", " b ", "C.", "(D) Tea", "Yes", "", "AB", "()")] == [
        *"ABC",
        *[None] * 5,
    ]


def test_find_option_ignores_case_and_spaces() -> None:
    options = {"A": "Tea with  milk", "B": "(A) only"}
    assert find_option("tea\nwith milk", options) == "A"
    assert find_option("(A) only", options) == "B"
    assert find_option("(B) Tea with milk", options) is None
