"""Rows of a question and two answers, from a file, a table or a list, with every field checked.

Nothing is interpreted here: options stay in the question, and letters stay letters.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any, Literal

from caa_interp.behaviors.behavior import (
    FORMAT,
    MAX_FILE_BYTES,
    check_file,
    opened_parquet,
    parse_behavior,
    parse_json,
    read_text,
)
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError

PUBLISHED = {
    "question": "question",
    "positive": "answer_matching_behavior",
    "negative": "answer_not_matching_behavior",
}
OWN = {"question": "question", "positive": "positive", "negative": "negative"}
LABELS = {"id": "id", "topic": "topic"}
EXAM = {"question": "prompt", "positive": "correct", "negative": "incorrect", "topic": "category"}  # CAA's MMLU
RESPONSES = {"question": "prompt", "positive": "positive_response", "negative": "negative_response"}  # steering-bench
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SIDES = {"positive", "negative"}
Pairing = Literal["position", "product"]
_PART = {"prompt", "response"}  # of a side in steering-bench
_PROMPT_FIELDS = ("instruction", "prompt", "text")  # of one prompt in refusal_direction's and others' lists
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
    fields = _check_columns(columns)
    items = _read_file(source, fields) if isinstance(source, Path) else _in_memory(source, name)
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
    fields = fields or _fields(first, name)
    rows = [_row(item, fields, f"{name}: item {n}") for n, item in enumerate(items)]
    if pairing is not None and not is_two_lists:
        raise InputError(f"pairing: the items of {name} are pairs already. Leave pairing out.")
    return rows


def _check_columns(columns: Mapping[str, str] | None) -> dict[str, str] | None:
    if columns is None:
        return None
    if not isinstance(columns, Mapping) or not all(isinstance(value, str) for value in columns.values()):
        raise InputError(f"columns: {columns!r} must map 'question', 'positive' and 'negative' to names of columns.")
    if not set(OWN) <= set(columns) <= {*OWN, *LABELS}:
        raise InputError(
            f"columns: its keys are {sorted(map(str, columns))}; they must be 'question', 'positive' and 'negative', "
            "optionally 'id' and 'topic'. Name the column of each."
        )
    if len(set(columns.values())) < len(columns):
        raise InputError(f"columns: {dict(columns)} names one column twice; give each its own.")
    return dict(columns)


def _fields(item: Mapping[str, Any], name: str) -> dict[str, str]:
    """Names of the fields, from the first item: this project's, or the published ones."""
    for known in (OWN, PUBLISHED):
        if not item or known["positive"] in item or known["negative"] in item:
            return {**known, **LABELS}
    for known in (EXAM, RESPONSES):
        if set(known.values()) <= set(item):
            return {**LABELS, **known}
    if any(field in item for field in _PROMPT_FIELDS):
        raise InputError(
            f"{name}: its fields are {', '.join(map(repr, item))}: it seems to be one side of the pairs. Give the "
            "files of both, {'positive': 'harmful.json', 'negative': 'harmless.json'}, with pairing and question. "
            "If its items have both answers, give columns={'question': ..., 'positive': ..., 'negative': ...}."
        )
    raise InputError(
        f"{name}: its fields are {', '.join(map(repr, item))}; expected {', '.join(map(repr, OWN.values()))}, or "
        f"{', '.join(map(repr, PUBLISHED.values()))}. Name others with "
        "columns={'question': ..., 'positive': ..., 'negative': ...}."
    )


def _read_file(path: Path, fields: dict[str, str] | None) -> Any:
    """Items of a file: a list of mappings or sequences, or the one object of a behavior file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"source: {str(path)[:200]!r} does not end in one of {', '.join(SUFFIXES)}. Convert it.")
    if suffix == ".parquet":
        return _parquet(path, fields)
    text = read_text(path, path.name)
    if suffix in (".csv", ".tsv"):
        return _csv(text, path.name, "," if suffix == ".csv" else "\t")
    if suffix == ".jsonl":
        # Only "\n" ends a line: a JSON text may hold other line separators.
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [parse_json(line, f"{path.name}: item {item} (line {n})") for item, (n, line) in enumerate(lines)]
    data = parse_json(text, path.name)
    if not isinstance(data, list) and not (isinstance(data, dict) and ("format" in data or set(data) == SIDES)):
        raise InputError(
            f"{path.name}: the top level is {type(data).__name__}; it must be a list of items, an object of two lists, "
            f"'positive' and 'negative', or one whose field 'format' is {FORMAT!r}. A file of JSON lines must "
            "end in .jsonl."
        )
    return data


def _csv(text: str, name: str, separator: str) -> list[dict[str, str]]:
    import pandas as pd

    try:
        # The header is read as a row, so that a row with more fields than it has is an error.
        table = pd.read_csv(StringIO(text), sep=separator, header=None, dtype=str, na_filter=False)
    except pd.errors.EmptyDataError:
        return []
    except pd.errors.ParserError as error:
        raise InputError(f"{name}: not a readable table ({str(error).strip()}). Correct it there.") from error
    header, *rows = table.to_numpy().tolist()
    _check_header(header, name)
    return [dict(zip(header, row, strict=True)) for row in rows]


def _parquet(path: Path, fields: dict[str, str] | None) -> list[dict[str, Any]]:
    check_file(path, path.name)
    with opened_parquet(path) as file:
        header = file.schema_arrow.names
        _check_header(header, path.name)
        wanted = list((fields or _fields(dict.fromkeys(header), path.name)).values())
        meta = file.metadata
        chunks = [meta.row_group(g).column(c) for g in range(meta.num_row_groups) for c in range(meta.num_columns)]
        size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in wanted)
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{path.name}: unpacked it has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Split it."
            )
        # A question may be inside the sides.
        missing = [column for column in wanted if column not in {*header, *LABELS.values(), OWN["question"]}]
        if missing:
            raise InputError(f"{path.name}: there is no column {missing[0]!r}; it has {', '.join(header)}.")
        rows: list[dict[str, Any]] = file.read(columns=[column for column in header if column in wanted]).to_pylist()
        return rows


def _in_memory(source: Any, name: str) -> Any:
    """Items of an object: a list, or a mapping of the two sides."""
    if hasattr(source, "to_dicts"):  # a polars table
        return list(source.to_dicts())
    if hasattr(source, "to_dict") and hasattr(source, "columns"):  # a pandas table
        _check_header(list(source.columns), name)
        table = source.astype(object).where(source.notna(), None)
        return list(table.to_dict("records"))
    if isinstance(source, Mapping) and set(source) == SIDES:
        return {side: _list_of_file(Path(given)) if _is_path(given) else given for side, given in source.items()}
    if isinstance(source, Mapping):
        raise InputError(
            f"source: a {name} holds several tables or fields; give one, such as source['train'], or "
            "{'positive': [...], 'negative': [...]}."
        )
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        raise InputError(
            f"source: {name} is not a source of pairs; give a path, a table, or a list of pairs, triples or mappings."
        )
    return list(source)


def _is_path(given: Any) -> bool:
    return isinstance(given, Path) or (isinstance(given, str) and given.lower().endswith(SUFFIXES))


def _list_of_file(path: Path) -> Any:
    """Items of a file that is one side of the pairs."""
    if path.suffix.lower() == ".parquet":
        raise InputError(f"{path.name}: one side's texts are read from .json, .jsonl, .csv or .tsv. Convert it.")
    items = _read_file(path, None)
    if not isinstance(items, list):
        raise InputError(f"{path.name}: the top level is {type(items).__name__}; one side is a list of texts.")
    return items


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
        field = next((f for f in _PROMPT_FIELDS if f in item), None) if isinstance(item, Mapping) else None
        texts.append(_text(item[field] if field else item, field or "text", f"{where}: item {number}"))
    return texts


def _check_header(header: Sequence[Any], name: str) -> None:
    twice = [column for column in dict.fromkeys(header) if list(header).count(column) > 1]
    if twice:
        raise InputError(f"{name}: column {twice[0]!r} occurs twice; rename or remove one of them.")


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
