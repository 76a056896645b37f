"""Texts and conversations from a list, a data set or a file, one after the other: nothing is read ahead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from caa_interp.errors import InputError
from caa_interp.files import opened_parquet, parse_json

Text = str | list[dict[str, Any]]
_COLUMNS = ("text", "messages")
_ROWS_AT_ONCE = 256


def iterate_texts(source: Any, column: str | None = None) -> Iterator[tuple[str, Text]]:
    """Yield a name for messages, and the text or the conversation, of every row of a source.

    Parameters
    ----------
    source
        An iterable of texts, of conversations (lists of ``{"role": ..., "content": ...}``) or of mappings, such as a
        ``datasets.Dataset``; a pandas or polars table; or the path of a ``.jsonl`` or ``.parquet`` file, which is read
        in portions.
    column
        Name of the field that holds the text or the conversation; default: ``"text"``, else ``"messages"``.

    Raises
    ------
    InputError
        At once, if there is no such file or the source is nothing of these; at its row, if one holds neither a text
        nor a conversation.
    """
    if isinstance(source, str | Path):
        path = Path(os.path.expanduser(source))
        if path.suffix.lower() not in (".jsonl", ".parquet"):
            raise InputError(
                f"texts: {str(source)[:80]!r} is neither a list of texts nor the path of a .jsonl or .parquet file. "
                "Give one of these; a single text as a list of one."
            )
        if not path.is_file():
            raise InputError(f"texts: there is no file {path}. Check the path.")
        rows = _lines(path) if path.suffix.lower() == ".jsonl" else _parquet(path, column)
        return _texts(rows, column, f"{path.name}: item ")
    if hasattr(source, "to_dicts"):  # a polars table, which iterates over its columns, as a pandas table does
        source = source.to_dicts()
    elif hasattr(source, "to_dict") and hasattr(source, "columns"):
        source = source.to_dict("records")
    if isinstance(source, Mapping | bytes) or not isinstance(source, Iterable):
        raise InputError(
            f"texts: {type(source).__name__}; give a list of texts, of conversations or of rows, one split of a data "
            "set, such as source['train'], or the path of a .jsonl or .parquet file."
        )
    return _texts(source, column, "texts[", "]")


def _lines(path: Path) -> Iterator[Any]:
    # Only "\\n" ends a line: a JSON text may hold other line separators.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield parse_json(line, f"{path.name}: line {number}")
        except UnicodeDecodeError as error:
            raise InputError(f"{path.name}: not UTF-8 ({error}). Save it as UTF-8.") from error


def _parquet(path: Path, column: str | None) -> Iterator[Any]:
    with opened_parquet(path) as file:
        chosen = _column(dict.fromkeys(file.schema_arrow.names), column, path.name)
        for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[chosen]):
            yield from batch.to_pylist()


def _texts(rows: Iterable[Any], column: str | None, begin: str, end: str = "") -> Iterator[tuple[str, Text]]:
    for number, row in enumerate(rows):
        where = f"{begin}{number}{end}"
        value = row[_column(row, column, where)] if isinstance(row, Mapping) else row
        value = value.tolist() if hasattr(value, "tolist") else value  # of a pandas table
        if isinstance(value, str) and value.strip():
            yield where, value
        elif isinstance(value, Sequence) and not isinstance(value, str) and value:
            yield where, [_message(message, f"{where}[{turn}]") for turn, message in enumerate(value)]
        else:
            raise InputError(
                f"{where}: {value!r:.80} is neither a text nor a conversation, or is empty. Leave such rows out, as "
                "in (row for row in rows if ...)."
            )


def _column(row: Mapping[str, Any], column: str | None, where: str) -> str:
    for name in _COLUMNS if column is None else (column,):
        if name in row:
            return name
    raise InputError(
        f"{where}: it has the columns {', '.join(map(repr, row))}, and none of them is "
        f"{' or '.join(map(repr, _COLUMNS if column is None else (column,)))}. Name the one to read with column=..."
    )


def _message(message: Any, where: str) -> dict[str, Any]:
    """Role and content of a message of a data set, which may say more of it."""
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise InputError(f"{where}: {message!r:.80}; a turn must have the keys 'role' and 'content'.")
    return {name: message[name] for name in ("role", "content")}
