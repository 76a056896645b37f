"""``caa-interp data``: contrast sets checked, converted and fetched."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from caa_interp.cli.options import Force, Json, Seed, Values, complete_behavior, read_columns
from caa_interp.cli.output import check_target, print_json, print_table, records, say
from caa_interp.errors import InputError

app = typer.Typer(no_args_is_help=True, help="Contrast sets: check, convert, fetch.")


@app.command()
def check(
    behaviors: Annotated[
        list[str] | None,
        typer.Argument(help="Names or .json files; default: all packaged.", autocompletion=complete_behavior),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure contrast sets as data, beside the published ones; exit code 3 if questions are alike or topics shared.

    Example: caa-interp data check sycophancy
    """
    import pandas as pd

    from caa_interp.behaviors.behavior import load_behavior, load_behaviors
    from caa_interp.behaviors.quality import PUBLISHED, measure_quality, problems

    chosen = [load_behavior(name) for name in behaviors] if behaviors else list(load_behaviors().values())
    qualities = [measure_quality(behavior) for behavior in chosen]
    table = pd.DataFrame(qualities)
    if as_json:
        print_json(records(table))
    else:
        print_table(pd.concat([table.round(2).astype(str), pd.DataFrame(PUBLISHED)], ignore_index=True).fillna(""))
    found = [f"{quality['name']}: {what}" for quality in qualities for what in problems(quality)]
    for problem in found:
        say(problem)
    if found:
        raise typer.Exit(3)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Published JSON or JSONL, CSV or Parquet.")],
    target: Annotated[Path, typer.Argument(help="File to write, in this project's JSON.")],
    name: Annotated[str, typer.Option(help="Name of the behavior; default: the target's.")] = "",
    columns: Annotated[
        Values | None,
        typer.Option(
            parser=read_columns, metavar="FIELDS", help="Names of the fields: question=...,positive=...,negative=..."
        ),
    ] = None,
    pairing: Annotated[str | None, typer.Option(help="How two lists become pairs: position or product.")] = None,
    question: Annotated[str | None, typer.Option(help="The question of items that have none.")] = None,
    test_share: Annotated[float, typer.Option(help="Share of pairs held out as test.")] = 0.2,
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Turn a contrast set or a table into this project's format, and say what was skipped and why.

    Example: caa-interp data convert survival-instinct.jsonl my-survival-instinct.json
    """
    from caa_interp.behaviors.behavior import Behavior
    from caa_interp.behaviors.pairs import split_pairs
    from caa_interp.behaviors.readers import read_pairs

    check_target(target, (".json",), force)
    if _is_behavior(source):
        raise InputError(f"source: {source} is a behavior file already, and would lose all but its pairs. Copy it.")
    asked: dict[str, Any] = {"columns": dict(columns) if columns else None, "pairing": pairing, "question": question}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # the summary says it
        result = read_pairs(source, **asked)
    typer.echo(result.summary())
    train, test = split_pairs(result.pairs, test_share, seed)
    Behavior(name or target.stem, "", train, test).save(target)
    typer.echo(f"{len(train)} train and {len(test)} test pairs in {target}")


def _is_behavior(path: Path) -> bool:
    from caa_interp.behaviors.behavior import load_behavior

    try:
        load_behavior(path)
    except InputError:
        return False
    return True


@app.command()
def fetch(
    collection: Annotated[Literal["anthropic", "caa"], typer.Argument(help="Which sets.")],
    name: Annotated[
        str | None, typer.Argument(help="One file, such as survival-instinct or test/mmlu/mmlu.json; default: all.")
    ] = None,
) -> None:
    """Download published sets into the cache folder, check the sha256 of each file, and print the folder.

    What is there already is not downloaded again.

    Example: caa-interp data fetch caa
    """
    from caa_interp.behaviors.downloads import fetch as download

    typer.echo(download(collection, name))
