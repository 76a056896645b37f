"""How far the texts of a file lie along vectors."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caa_interp.cli import options
from caa_interp.cli.analysis import named_files
from caa_interp.cli.output import print_json, print_table, records, say
from caa_interp.cli.vectors import load_for

if TYPE_CHECKING:
    import pandas as pd

_LONGEST = 100  # letters of a text in the printed table


def monitor(
    texts: Annotated[Path, typer.Argument(metavar="TEXTS", help="File of texts or conversations, .jsonl or .parquet.")],
    files: Annotated[list[Path], typer.Argument(metavar="VECTOR...", help=".safetensors files of vectors.")],
    layer: Annotated[int, typer.Option(min=0, help="0-based block index.")],
    column: Annotated[
        str | None, typer.Option(help="Field with the text or messages; default: text, else messages.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of Parquet files, written during the run; a stopped run goes on where it was."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of most and of least aligned texts to print.")] = 5,
    model: options.ModelOfVector = None,
    style: options.StyleOption = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Project texts, or turns of conversations, onto vectors, and print the most and the least aligned ones.

    z is in standard deviations of neutral prose, read by the same model. With --out the whole table is saved.

    Example: caa-interp monitor chats.jsonl optimism.safetensors --layer 12 --out chats.parquet
    """
    from caa_interp.analysis.monitor import monitor as read

    vectors = named_files(files)
    subject, form = load_for(next(iter(vectors.values())), files[0], model, style, device, dtype)
    table = read(subject, vectors, texts, layer=layer, column=column, output=out, prompt_format=form)
    say(f"{table['item'].nunique()} rows of {texts}, layer {layer}, model {table['model'].iloc[0]}")
    found = {}
    for name, own in table.groupby("vector", sort=False):
        most, least = own.nlargest(top, "z"), own.nsmallest(top, "z")
        found[str(name)] = {"most aligned": most, "least aligned": least.drop(most.index, errors="ignore")}
    if as_json:
        print_json({name: {end: records(rows) for end, rows in ends.items()} for name, ends in found.items()})
        return
    for number, (name, ends) in enumerate(found.items()):
        for end, rows in ends.items():
            if len(rows):
                typer.echo("\n" * (number > 0 or end != "most aligned") + f"{end} with {name}")
                _print(rows)


def _print(rows: pd.DataFrame) -> None:
    """Print z, place and text, the place as far as rows have turns."""
    columns = ["z", "item", *(["turn", "role"] if (rows["role"] != "").any() else []), "n_tokens", "text"]
    texts = rows["text"].map(lambda text: textwrap.shorten(text, _LONGEST, placeholder=" ..."))
    print_table(rows.assign(z=rows["z"].round(2), text=texts)[columns])
