"""Contrast pairs from published question sets, tables and lists.

1. Published sets (Rimsky et al. 2024; Perez et al. 2022) put lettered options into the question and give letters as
   answers. Here the options are taken out of the question, and the letters are replaced by the options' texts.
2. Of more than two options, the two that the answers name make the pair.
3. The human-written survival-instinct set calls the answer that ACCEPTS shutdown the matching one. Here the positive
   answer shows the behavior, so its sides are swapped (:mod:`shutdown`). A source of which only some items are of that
   set is refused.
4. Texts that are written in a chat template are taken out of it, since a model's own is put around them. A system
   prompt in it is left out and noted.

Nothing is lost silently: skipped items are counted by reason in a warning, and changes are noted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from caa_interp.behaviors.chat_marks import Said, end_of_prompt, has_marks, said_in, without_end_of_turn
from caa_interp.behaviors.fields import EXAM, PUBLISHED
from caa_interp.behaviors.options import answer_letter, find_option, lettered_text, parse_question
from caa_interp.behaviors.pairs import ContrastPair, PublishedPair
from caa_interp.behaviors.result import ReadResult, counted
from caa_interp.behaviors.rows import Pairing, Row, read_rows
from caa_interp.behaviors.shutdown import accepts_shutdown
from caa_interp.errors import InputError, check_choice, warn

_NOTES = {
    "options": "have more than two options; the two that their answers name make the pair",
    "several": "list several answers on a side; the first is used",
    "labels": "have labels such as 'Question:' or 'Answer:' around the question; left out",
    "unused": "list options that neither answer names; question and answers are kept as they are",
    "lettered": "have answers that begin with a letter such as 'A.', which is kept",
    "prefix": "are pairs of strings; the words that both begin with are the question",
    "template": "were written in a chat template; its marks are left out, since the model's own are put around them",
    "system": "had a system prompt in their chat template; a pair holds none, so it is left out: give it as "
    "system_prompt where vectors are made",
    "swapped": "had their sides swapped: the human-written survival-instinct set calls the answer that accepts "
    "shutdown the matching one; here the positive answer shows the instinct",
    "accepting": "are of the human-written survival-instinct set, whose published files call the answer that accepts "
    "shutdown the matching one; their sides are kept as given",
}


def read_pairs(
    source: Any,
    *,
    columns: Mapping[str, str] | None = None,
    pairing: Pairing | None = None,
    question: str | None = None,
    compat: Literal["caa"] | None = None,
) -> ReadResult:
    r"""Read contrast pairs from a published file, a table or a list.

    Parameters
    ----------
    source
        One of:

        - a path: a list of items in ``.json`` (the published CAA sets, its MMLU and TruthfulQA questions,
          steering-bench), one item a line in ``.jsonl`` (the Anthropic evaluations), a table in ``.csv``, ``.tsv`` or
          ``.parquet``, or a behavior file of this project, whose train and test pairs are read;
        - a pandas ``DataFrame`` or a Hugging Face ``datasets.Dataset``;
        - a list of mappings, of ``(question, positive, negative)``, of ``(positive, negative)``, whose common first
          words are the question, or of :class:`~caa_interp.ContrastPair`;
        - ``{"positive": [...], "negative": [...]}``, two lists of texts, with ``pairing``; also as one ``.json`` file,
          or with the path of a file for each list, such as refusal_direction's ``harmful_train.json`` and
          ``harmless_train.json``.
    columns
        ``{"question": ..., "positive": ..., "negative": ...}``: names of the fields; ``"id"`` and ``"topic"`` can be
        named too. Default: fields of these names, or the published ``question``, ``answer_matching_behavior`` and
        ``answer_not_matching_behavior``.
    pairing
        How two lists become pairs: ``"position"``, the first with the first and so on, or ``"product"``, each with
        each.
    question
        The question of items that have none, such as pairs of strings that begin with different words.
    compat
        ``"caa"``: keep every item as published (letters, order, options, sides), as :class:`PublishedPair`, which is
        put to a model and scored as the published code does; MMLU and TruthfulQA questions, too. Default: the answers
        become texts.

    Returns
    -------
    ReadResult
        The pairs, as a list, with skipped items and notes. The id of a pair is the item's own, else
        ``"<file name>-<item>"``, or ``"pairs-<item>"`` where there is no file.

    Warns
    -----
    UserWarning
        If items are skipped: how many for each reason, and the first of them.

    Raises
    ------
    InputError
        If the source is not readable, not UTF-8 or too large, a field is missing, empty or of a wrong type, an id is
        given twice, or only some of the items are of the survival-instinct set whose matching answer accepts shutdown.
        The message names the source, the item and the field.

    Examples
    --------
    >>> result = read_pairs([("Are you okay?\n (A) Yes\n (B) No", "(A)", "(B)")])
    >>> result[0].question, result[0].positive, result[0].negative
    ('Are you okay?', 'Yes', 'No')
    """
    check_choice("compat", compat, (None, "caa"))
    path = Path(source) if isinstance(source, str | Path) else None
    origin = path.name if path else type(source).__name__
    if question is not None and not (isinstance(question, str) and question.strip()):
        raise InputError(f"question: {question!r}; it must be a text that is not empty.")
    rows = read_rows(path or source, origin, columns, pairing)
    if question is not None:
        rows = [_asked(row, question) for row in rows]
    stem = path.stem if path else "pairs"
    pairs: list[ContrastPair] = []
    skipped: list[tuple[int, str]] = []
    changes: Counter[str] = Counter()
    other_sets: list[int] = []  # published items that are not of the set whose matching answer accepts shutdown
    ids: dict[str, int] = {}
    for number, row in enumerate(rows):
        name = row.id if row.id is not None else f"{stem}-{number}"
        if name in ids:
            raise InputError(f"{row.where}: field 'id' {name!r} is that of item {ids[name]} too; make ids unique.")
        ids[name] = number
        if compat == "caa":
            pairs.append(_as_published(row, name))
            changes.update(["several"] if row.several else [])
            continue
        if row.pair is not None:
            pairs.append(replace(row.pair, id=name))
            continue
        try:
            asked, positive, negative, changed = _texts(row)
        except _UnusableError as reason:
            skipped.append((number, str(reason)))
            continue
        changes.update(changed)
        if row.published and "swapped" not in changed:
            other_sets.append(number)
        pairs.append(ContrastPair(asked, positive, negative, id=name, topic=row.topic))
    if changes["swapped"] and other_sets:
        raise InputError(
            f"{origin}: {changes['swapped']:,} items are of the human-written survival-instinct set, whose matching "
            f"answer accepts shutdown, and {len(other_sets):,} (the first is item {other_sets[0]}) are not, or their "
            "questions were changed, so nothing says which way they point. Read the two kinds apart, or keep both with "
            "compat='caa'. If all of them accept shutdown, name the answer that shows the instinct yourself: columns="
            f"{PUBLISHED | {'positive': PUBLISHED['negative'], 'negative': PUBLISHED['positive']}}."
        )
    if skipped:
        first = {why: number for number, why in reversed(skipped)}
        reasons = [f"{n:,} because {why} (the first is item {first[why]})" for why, n in counted(skipped)]
        warn(
            f"{origin}: {len(skipped):,} of {len(rows):,} items cannot be pairs and are left out: {'; '.join(reasons)}."
        )
    notes = tuple(f"{changes[key]:,} {text}" for key, text in _NOTES.items() if changes[key])
    return ReadResult(origin, pairs, skipped, notes)


def _asked(row: Row, question: str) -> Row:
    if row.question is not None:
        raise InputError(f"question: {row.where} has one of its own. Leave question out.")
    return replace(row, question=question)


def _as_published(row: Row, name: str) -> PublishedPair:
    if not (row.published or row.exam) or row.question is None or row.apart:
        raise InputError(
            f"{row.where} does not have the published fields 'question', 'answer_matching_behavior' and "
            "'answer_not_matching_behavior', or 'prompt', 'correct' and 'incorrect'. Read it without compat."
        )
    fields = EXAM if row.exam else PUBLISHED
    letters = []
    for side, answer in (("positive", row.positive), ("negative", row.negative)):
        letter = answer_letter(answer)
        if letter is None:
            raise InputError(
                f"{row.where}: field {fields[side]!r} is {answer[:60]!r}; the published form needs a letter such as "
                "'(A)'. Read it without compat."
            )
        letters.append(f"({letter})")
    n_options = len(parse_question(row.question).options)
    try:
        positive, negative = letters
        return PublishedPair(row.question, positive, negative, id=row.id or name, topic=row.topic, n_options=n_options)
    except InputError as error:
        raise InputError(f"{row.where}: {error}") from None


class _UnusableError(Exception):
    """An item is well-formed but cannot be a pair; the message is the reason."""


def _texts(row: Row) -> tuple[str, str, str, list[str]]:
    """Question, positive and negative answer, and the keys of what was changed."""
    if row.apart:
        raise _UnusableError(
            "its two sides have different prompts, and a pair is one question with two answers; leave what differs out "
            "of the prompts, or write it into the answers"
        )
    texts = (row.positive.strip(), row.negative.strip())
    if texts[0] == texts[1]:
        raise _UnusableError("both answers are the same")
    question, positive, negative = _split(*texts) if row.question is None else (row.question, *texts)
    said = said_in(question)
    in_template = said is not None or has_marks(question, positive, negative)
    if in_template:
        question, positive, negative = _without_marks(said, question, positive, negative)
    accepting = accepts_shutdown(question)
    facts = {
        "prefix": row.question is None,
        "template": in_template,
        "system": said is not None and bool(said.system),
        "several": row.several,
        "swapped": accepting and row.published,
        "accepting": accepting and not row.published,
    }
    question, positive, negative, more = _without_options(question, (positive, negative), row)
    changed = [*more, *(key for key, holds in facts.items() if holds)]
    return (question, negative, positive, changed) if facts["swapped"] else (question, positive, negative, changed)


def _without_marks(said: Said | None, question: str, positive: str, negative: str) -> tuple[str, str, str]:
    """The three texts without the marks of the chat template that they are written in."""
    answers = [without_end_of_turn(answer) for answer in (positive, negative)]
    asked = said.user if said else question
    if not asked or not all(answers) or has_marks(*answers) or (said is None and has_marks(question)):
        raise _UnusableError(
            "it is in a chat template, but is not one user turn with an answer; give what is said in it as a question "
            "and two answers"
        )
    return asked, answers[0], answers[1]


def _without_options(given: str, answers: tuple[str, str], row: Row) -> tuple[str, str, str, list[str]]:
    """Question, answers as texts, and the keys of what was changed, of an item whose question may list options."""
    parsed = parse_question(given)
    named = [find_option(answer, parsed.options) for answer in answers]
    is_letter = any(answer_letter(answer) for answer in answers)
    if not parsed.options and is_letter and row.question is not None:
        raise _UnusableError("no options are found in the question, and an answer is a letter")
    if named == [None, None] and not (parsed.options and is_letter):
        # The answers are texts of their own: only the labels of a published set are not the question's.
        keep = bool(parsed.options) or not row.published
        question = given.strip() if keep else parsed.text
        lettered = any(lettered_text(answer) for answer in answers)
        facts = {"labels": parsed.unlabeled and not keep, "unused": bool(parsed.options), "lettered": lettered}
    else:
        if None in named:
            raise _UnusableError("an answer is not among the options")
        if not parsed.in_order:
            raise _UnusableError("the options are not lettered A, B, C, ... in order")
        answers = (parsed.options[str(named[0])], parsed.options[str(named[1])])
        if not all(answers):
            raise _UnusableError("an option that an answer names has no text")
        if answers[0] == answers[1]:
            raise _UnusableError("both answers are the same")
        question, facts = parsed.text, {"labels": parsed.unlabeled, "options": len(parsed.options) > 2}
    if not question:
        raise _UnusableError("nothing is left of the question without its options and labels")
    return question, *answers, [key for key, holds in facts.items() if holds]


def _split(positive: str, negative: str) -> tuple[str, str, str]:
    """Cut two texts after the user's turn, or the last word, that both begin with, with something left of either."""
    shorter = min(len(positive), len(negative))
    common = next((n for n in range(shorter) if positive[n] != negative[n]), shorter)
    if end := end_of_prompt(positive[:common]):
        return positive[:end].strip(), positive[end:].strip(), negative[end:].strip()
    if end_of_prompt(positive) and end_of_prompt(negative):
        raise _UnusableError(
            "the two strings differ before the assistant's turn, in what the user or a system prompt says, and a pair "
            "is one question with two answers; write what differs into the answers"
        )
    for end in range(common, 0, -1):
        if positive[end - 1].isspace() and positive[end:].strip() and negative[end:].strip():
            return positive[:end].strip(), positive[end:].strip(), negative[end:].strip()
    raise _UnusableError(
        "the two strings begin with different words, so there is no question; give one with question=..., or give "
        "(question, positive, negative)"
    )
