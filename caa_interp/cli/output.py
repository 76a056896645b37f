"""What commands write: results to standard output, messages to standard error, files only where there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from caa_interp.errors import InputError
from caa_interp.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd


def say(text: str) -> None:
    """Print a message to standard error, apart from the results."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print JSON, with ``null`` for what is not a finite number."""
    finite = json.loads(json.dumps(value), parse_constant=lambda name: None)
    typer.echo(json.dumps(finite, indent=2, ensure_ascii=False))


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows of a table as JSON objects."""
    return list(json.loads(table.to_json(orient="records", double_precision=15)))


def print_table(table: pd.DataFrame) -> None:
    """Print all rows and columns of a table as plain text: texts to the left, numbers to the right."""
    texts = table.select_dtypes(exclude="number").astype(str)
    padded = {str(name): texts[name].str.pad(int(texts[name].str.len().max()), side="right") for name in texts}
    typer.echo(table.assign(**padded).to_string(index=False, na_rep="", justify="left"))


def check_target(path: Path, endings: Sequence[str], force: bool) -> None:
    """Raise before any work is done if ``path`` must not be written; no ``endings``: any will do."""
    if endings and path.suffix not in endings:
        raise typer.BadParameter(f"{str(path)!r} must end in {' or '.join(endings)}.")
    if path.exists() and not force:
        raise InputError(f"{path} already exists. Name another file, or replace it with --force.")


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as the ending says, ``.parquet`` or ``.csv``."""
    content = table.to_csv(index=False).encode() if path.suffix == ".csv" else table.to_parquet(index=False)
    write_atomically(path, content)


def size(n_bytes: float) -> str:
    """Bytes in the unit that people read."""
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} GB"


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values, one a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        typer.echo(f"{name:{width}}  {value}")
