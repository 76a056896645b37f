"""Rows of a question and two answers, from the items of any source, with every field checked.

Nothing is interpreted here: options stay in the question, and letters stay letters.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from caa_interp.behaviors.behavior import parse_behavior
from caa_interp.behaviors.fields import EXAM, LABELS, PROMPTS, PUBLISHED, check_columns, fields_of
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.behaviors.sources import SIDES, in_memory, read_file
from caa_interp.errors import InputError

Pairing = Literal["position", "product"]
_PART = {"prompt", "response"}  # of a side in steering-bench
# A cell such as "(A), (C)" or "['(A)' '(C)']".
_LETTERS = re.compile(r"[\[\]'\",;/\s]*(\([A-Z]\))(?:[\[\]'\",;/\s]*\([A-Z]\))*[\[\]'\",;/\s]*")


@dataclass(frozen=True)
class Row:
    """One item as it is given."""

    where: str  # source and number of the item, for messages
    question: str | None  # options included; None for a pair of strings
    positive: str  # the first answer of each side
    negative: str
    several: bool = False  # whether a side lists more than one answer
    id: str | None = None
    topic: str | None = None
    published: bool = False  # whether the positive side is the published ``answer_matching_behavior``
    exam: bool = False  # whether the positive side is ``correct``, of CAA's MMLU and TruthfulQA questions
    pair: ContrastPair | None = None  # the item itself, if it is a finished one
    apart: bool = False  # whether the negative side has a question of its own, other than this one


def read_rows(
    source: Any, name: str, columns: Mapping[str, str] | None = None, pairing: Pairing | None = None
) -> list[Row]:
    """Read and check the rows of any source of :func:`read_pairs`; ``name`` begins every message."""
    fields = check_columns(columns)
    items = read_file(source, fields) if isinstance(source, Path) else in_memory(source, name)
    is_two_lists = isinstance(items, dict) and set(items) == SIDES
    if is_two_lists:
        items = _paired(items, pairing, name)
    if isinstance(items, dict):
        if fields is not None:
            raise InputError(f"columns: {name} is a behavior file, whose fields have fixed names. Leave columns out.")
        behavior = parse_behavior(items, name)
        items = [*behavior.train, *behavior.test]
    if not items:
        raise InputError(f"{name}: it holds no items; at least one is needed. Check that it is the right one.")
    first = next((item for item in items if isinstance(item, Mapping)), {})
    fields = fields or fields_of(first, name)
    rows = [_row(item, fields, f"{name}: item {n}") for n, item in enumerate(items)]
    if pairing is not None and not is_two_lists:
        raise InputError(f"pairing: the items of {name} are pairs already. Leave pairing out.")
    return rows


def _paired(sides: Mapping[str, Any], pairing: Pairing | None, name: str) -> list[tuple[str, str]]:
    """Pairs of strings from two lists of prompts."""
    prompts = {side: _prompts(sides[side], f"{name}: {side}") for side in ("positive", "negative")}
    n_positive, n_negative = map(len, prompts.values())
    if pairing == "product":
        return list(product(prompts["positive"], prompts["negative"]))
    if pairing != "position":
        raise InputError(
            f"pairing: {pairing!r}; {name} is two lists, of {n_positive} and {n_negative} texts, which are not "
            "paired. Give 'position' (the first with the first) or 'product' (each with each)."
        )
    if n_positive != n_negative:
        raise InputError(
            f"{name}: {n_positive} positive and {n_negative} negative texts cannot be paired by position. Give as many "
            "of each, or pairing='product'."
        )
    return list(zip(prompts["positive"], prompts["negative"], strict=True))


def _prompts(items: Any, where: str) -> list[str]:
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise InputError(f"{where} is {type(items).__name__}; it must be a list of texts, or the path of such a file.")
    texts = []
    for number, item in enumerate(items):
        field = next((f for f in PROMPTS if f in item), None) if isinstance(item, Mapping) else None
        texts.append(_text(item[field] if field else item, field or "text", f"{where}: item {number}"))
    return texts


def _row(item: Any, fields: Mapping[str, str], where: str) -> Row:
    if isinstance(item, ContrastPair):
        return Row(where, item.question, item.positive, item.negative, id=item.id, topic=item.topic, pair=item)
    if isinstance(item, Mapping):
        sides = [item.get(fields[side]) for side in ("positive", "negative")]
        sides = [side for side in sides if isinstance(side, Mapping) and set(side) >= _PART]
        if len(sides) == 2:
            return _of_parts(sides, where, *(_label(item, fields.get(name), where) for name in LABELS))
        (positive, more), (negative, yet_more) = (_answer(item, fields[s], where) for s in ("positive", "negative"))
        return Row(
            where=where,
            question=_text(_get(item, fields["question"], where), fields["question"], where),
            positive=positive,
            negative=negative,
            several=more or yet_more,
            id=_label(item, fields.get("id"), where),
            topic=_label(item, fields.get("topic"), where),
            published=fields["positive"] == PUBLISHED["positive"],
            exam=fields["positive"] == EXAM["positive"],
        )
    given = type(item).__name__
    if isinstance(item, list | tuple):
        if len(item) in (2, 3):
            names = ("question", "positive", "negative")[-len(item) :]
            texts = [_text(value, name, where) for name, value in zip(names, item, strict=True)]
            return Row(where, texts[0] if len(texts) == 3 else None, texts[-2], texts[-1])
        given = f"{given} of length {len(item)}"
    raise InputError(
        f"{where} is {given}; it must be a mapping of fields, (question, positive, negative), (positive, negative) "
        "or a ContrastPair. Two lists of texts are given as {'positive': [...], 'negative': [...]}."
    )


def _of_parts(sides: Sequence[Any], where: str, name: str | None, topic: str | None) -> Row:
    """Row of an item of steering-bench, whose sides, those of the published sets, have a prompt and a response each."""
    (asked, positive), (also_asked, negative) = (
        [_text(side[part], part, where) for part in ("prompt", "response")] for side in sides
    )
    apart = asked != also_asked
    return Row(where, asked, positive, negative, id=name, topic=topic, published=True, apart=apart)


def _get(item: Mapping[str, Any], field: str, where: str) -> Any:
    if field in item and item[field] is None:
        raise InputError(
            f"{where}: field {field!r} has no value. If the text got lost in a CSV file, read that with "
            "pd.read_csv(..., keep_default_na=False); else add it, or remove the item."
        )
    if field not in item:
        given = ", ".join(repr(name) for name, value in item.items() if value is not None)
        raise InputError(f"{where}: field {field!r} is missing; it has {given or 'none'}. Add it, or see columns.")
    return item[field]


def _text(value: Any, field: str, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: field {field!r} is {type(value).__name__}; it must be a text.")
    if not value.strip():
        raise InputError(f"{where}: field {field!r} is empty; give it a text, or remove the item.")
    return value


def _answer(item: Mapping[str, Any], field: str, where: str) -> tuple[str, bool]:
    """First answer of a field, which holds a text or a list of texts, and whether there are more."""
    value = _get(item, field, where)
    values = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(values, str):
        values = _cell(values)
    if not isinstance(values, list | tuple):
        return _text(values, field, where), False
    if not values:
        raise InputError(f"{where}: field {field!r} is an empty list; give it an answer, or remove the item.")
    first, *more = [_text(one, field, where) for one in values]
    return first, bool(more)


def _cell(text: str) -> str | list[str]:
    """The list that a cell of a table spells out, of letters or of texts; any other text as it is."""
    text = text.strip()
    if _LETTERS.fullmatch(text):
        return re.findall(r"\([A-Z]\)", text)
    if not (text.startswith("[") and text.endswith("]")):
        return text
    if re.search(r"""['"]\s+['"]""", text):  # as NumPy prints a list
        return [one or other for one, other in re.findall(r"""'([^']*)'|"([^"]*)\"""", text)]
    for read in (json.loads, ast.literal_eval):
        try:
            values = read(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(values, list) and values and all(isinstance(one, str) for one in values):
            return values
    return text


def _label(item: Mapping[str, Any], field: str | None, where: str) -> str | None:
    value = item.get(field) if field else None
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise InputError(f"{where}: field {field!r} is {type(value).__name__}; it must be a text or a whole number.")
    return str(value)
