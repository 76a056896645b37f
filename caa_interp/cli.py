"""The command ``caa-interp``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from caa_interp.errors import CAAError

app = typer.Typer(no_args_is_help=True, help="Interpretability for Contrastive Activation Addition.")


@app.callback()
def _about() -> None:
    """Interpretability for Contrastive Activation Addition."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for the vector, the tables and the page.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="Model name, folder or .gguf file.")] = "smollm2-135m-instruct",
    behavior: Annotated[str, typer.Option(help="Name of a behavior, or a .json file.")] = "optimism",
) -> None:
    """Steer a real chat model, from contrast pairs to a page of figures.

    Example: caa-interp demo --folder demo
    """
    from caa_interp.demo import run_demo

    run_demo(folder, model_name=model, behavior_name=behavior, say=typer.echo)


@app.command()
def reproduce(
    folder: Annotated[
        Path,
        typer.Argument(help="Folder for vectors, tables and the page; what fits of an earlier run is used again."),
    ],
    data: Annotated[Path, typer.Option(help="Copy of github.com/nrimsky/CAA, or a folder of <behavior>.json files.")],
    model: Annotated[str, typer.Option(help="Model name, folder or .gguf file.")] = "meta-llama/Llama-2-7b-chat-hf",
    behaviors: Annotated[str, typer.Option(help="Names with commas between; default: the paper's seven.")] = "",
    layers: Annotated[str, typer.Option(help="Layers with commas between, such as 12,13,14; default: all.")] = "",
    dtype: Annotated[str, typer.Option(help="Such as float32; default: float32 on the CPU, bfloat16 on a GPU.")] = "",
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a cell is outside its tolerance.")] = False,
) -> None:
    """Measure the paper's multiple-choice tables and layer sweeps, and print them beside the published numbers.

    Example: caa-interp reproduce llama-2-7b --data CAA
    """
    from caa_interp import paper
    from caa_interp.reproduction import reproduce as measure_again

    try:
        chosen = [int(layer) for layer in layers.split(",")] if layers else None
    except ValueError:
        raise typer.BadParameter(f"--layers: {layers!r} must be whole numbers with commas between.") from None
    comparison = measure_again(
        folder,
        data,
        model_name=model,
        behaviors=[name.strip() for name in behaviors.split(",")] if behaviors else paper.BEHAVIORS,
        layers=chosen,
        dtype=dtype or None,
        progress=True,
        say=typer.echo,
    )
    if strict and not comparison["within"].fillna(True).all():
        raise typer.Exit(1)


data_app = typer.Typer(no_args_is_help=True, help="Contrast sets: check, convert, fetch.")
app.add_typer(data_app, name="data")


@data_app.command()
def check(
    behaviors: Annotated[
        list[str] | None, typer.Argument(help="Names or .json files; default: all packaged.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure how good contrast sets are as data; exit code 2 if one falls short.

    Example: caa-interp data check sycophancy
    """
    import pandas as pd

    from caa_interp.behaviors import load_behavior, load_behaviors
    from caa_interp.data_quality import measure_quality

    chosen = [load_behavior(name) for name in behaviors] if behaviors else list(load_behaviors().values())
    measured = [measure_quality(behavior) for behavior in chosen]
    table = pd.DataFrame(map(vars, measured))
    problems = [f"{quality.name}: {what}" for quality in measured for what in quality.problems()]
    typer.echo(table.to_json(orient="records", indent=2) if as_json else table.round(2).to_string(index=False))
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(2)


@data_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Published JSON or JSONL, CSV or Parquet.")],
    target: Annotated[Path, typer.Argument(help="File to write, in this project's JSON.")],
    name: Annotated[str, typer.Option(help="Name of the behavior; default: the target's.")] = "",
    test_share: Annotated[float, typer.Option(help="Share of pairs held out as test.")] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of the split.")] = 0,
) -> None:
    """Turn a published contrast set into this project's format; says what was skipped and why.

    Example: caa-interp data convert survival-instinct.jsonl my-survival-instinct.json
    """
    from caa_interp.behaviors import behavior_json, split_pairs
    from caa_interp.files import write_atomically
    from caa_interp.readers import read_pairs

    if target.suffix != ".json" or target.exists():
        raise typer.BadParameter(f"{str(target)!r} must be a new file that ends in .json.")
    # The published survival-instinct set points the other way; its file says so too, whatever the new name is.
    result = read_pairs(source, behavior=name if name == "survival-instinct" else None)
    typer.echo(result.summary())
    train, test = split_pairs(result.pairs, test_share, seed)
    write_atomically(target, behavior_json(name or target.stem, train, test).encode("utf-8"))
    typer.echo(f"{len(train)} train and {len(test)} test pairs in {target}")


@data_app.command()
def fetch(
    collection: Annotated[str, typer.Argument(help="anthropic or caa.")],
    behavior: Annotated[str, typer.Argument(help="Name of the set, such as survival-instinct.")],
) -> None:
    """Download a published set into the cache folder, checked by size and sha256.

    Example: caa-interp data fetch anthropic survival-instinct
    """
    from caa_interp.fetch import fetch as download

    if collection not in ("anthropic", "caa"):
        raise typer.BadParameter(f"{collection!r} is not one of anthropic, caa.")
    typer.echo(download(collection, behavior))  # type: ignore[arg-type]


def main() -> None:
    """Run the command; an error of this package or of the disk is one line on standard error and exit code 1."""
    try:
        app()
    except (CAAError, OSError) as error:
        typer.echo(f"caa-interp: {error}", err=True)
        sys.exit(1)
