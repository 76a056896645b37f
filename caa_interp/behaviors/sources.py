"""Items of a file, a table or a list as they stand there: mappings, sequences, or the one object of a file.

Nothing is checked but that they can be read: what a field holds is the matter of :mod:`rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from caa_interp.behaviors.behavior import FORMAT
from caa_interp.behaviors.fields import LABELS, OWN, fields_of
from caa_interp.errors import InputError
from caa_interp.files import MAX_FILE_BYTES, check_file, opened_parquet, parse_json, read_text

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
SIDES = {"positive", "negative"}


def read_file(path: Path, fields: dict[str, str] | None) -> Any:
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
        wanted = list((fields or fields_of(dict.fromkeys(header), path.name)).values())
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


def in_memory(source: Any, name: str) -> Any:
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
    items = read_file(path, None)
    if not isinstance(items, list):
        raise InputError(f"{path.name}: the top level is {type(items).__name__}; one side is a list of texts.")
    return items


def _check_header(header: Sequence[Any], name: str) -> None:
    twice = [column for column in dict.fromkeys(header) if list(header).count(column) > 1]
    if twice:
        raise InputError(f"{name}: column {twice[0]!r} occurs twice; rename or remove one of them.")
