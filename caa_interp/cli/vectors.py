"""One vector: extracted, measured on held-out pairs, and heard."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caa_interp.cli.options import (
    EMBEDDED,
    MULTIPLIERS,
    AnswerFormat,
    BehaviorName,
    Device,
    Dtype,
    Force,
    Json,
    LayersOption,
    Model,
    ModelOfVector,
    MultipliersOption,
    Seed,
    VectorFile,
)
from caa_interp.cli.output import (
    check_target,
    print_json,
    print_table,
    records,
    say,
    with_interval,
    write_table,
)
from caa_interp.errors import InputError, ModelError

if TYPE_CHECKING:
    import pandas as pd

    from caa_interp.vectors.vector import SteeringVector


class Estimator(StrEnum):
    """Functions from activations to a vector, by their public names."""

    MEAN_DIFFERENCE = "mean_difference"
    PRINCIPAL_DIFFERENCE = "principal_difference"
    LOGISTIC_PROBE = "logistic_probe"
    WHITENED_MEAN_DIFFERENCE = "whitened_mean_difference"


def extract(
    behavior: BehaviorName,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    model: Model = EMBEDDED,
    format: Annotated[
        AnswerFormat,
        typer.Option(help="choices reads the answer letter, as the paper does; text the answer, as small models need."),
    ] = AnswerFormat.CHOICES,
    layers: LayersOption = None,
    estimator: Annotated[
        Estimator, typer.Option(metavar="NAME", help=f"How the vector is made: {', '.join(Estimator)}.")
    ] = Estimator.MEAN_DIFFERENCE,
    device: Device = None,
    dtype: Dtype = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Extract a steering vector from a behavior's train pairs.

    Example: caa-interp extract optimism --format text --out optimism.safetensors
    """
    check_target(out, (".safetensors",), force)
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.vectors import estimators
    from caa_interp.vectors.extraction import extract_vector

    loaded = load_behavior(behavior)
    vector = extract_vector(
        load(model, device, dtype),
        loaded.train,
        format=format.value,
        layers=layers,
        estimator=getattr(estimators, estimator.value),
        behavior=loaded.name,
        progress=True,
    )
    vector.save(out)
    if as_json:
        norms = [float(norm) for norm in vector.norms]
        print_json({**vector.metadata, "path": str(out), "layers": list(vector.layers), "norms": norms})
    else:
        typer.echo(f"{vector!r}, {len(loaded.train)} pairs in {format.value} form, in {out}")


def sweep(
    vector: VectorFile,
    behavior: BehaviorName,
    model: ModelOfVector = None,
    layers: LayersOption = None,
    multipliers: MultipliersOption = MULTIPLIERS,
    format: Annotated[AnswerFormat | None, typer.Option(help="Default: the one that the vector was made in.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the score of every item, .parquet or .csv; default: none.")
    ] = None,
    controls: Annotated[int, typer.Option(min=0, help="Number of random vectors of the same norms beside it.")] = 0,
    seed: Seed = 0,
    device: Device = None,
    dtype: Dtype = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Measure a vector on a behavior's test pairs, at every layer and multiplier, with 95 % intervals.

    Example: caa-interp sweep optimism.safetensors optimism --layers 12 --controls 2
    """
    if out is not None:
        check_target(out, (".parquet", ".csv"), force)
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.evaluation.controls import random_vectors
    from caa_interp.evaluation.summary import quantity, summarize
    from caa_interp.evaluation.sweep import sweep as score

    loaded, asked = read_vector(vector), load_behavior(behavior)
    named = {loaded.name: loaded, **(random_vectors(loaded, controls, seed=seed) if controls else {})}
    form = format.value if format else _form(loaded)
    table = score(
        load_for(loaded, vector, model, device, dtype),
        named,
        asked.test,
        format=form,  # type: ignore[arg-type]
        layers=layers,
        multipliers=multipliers,
        progress=True,
    )
    if out is not None:
        write_table(table, out)
    summary = summarize(table, seed=seed)
    name, unit = quantity(summary, "logit_difference")
    say(
        f"{len(asked.test)} test pairs of {asked.name} in {form} form. Difference: {name}, in {unit}. In parentheses: "
        "95 % intervals. No layer is chosen here: choose one on other pairs, as caa-interp run does."
    )
    if as_json:
        print_json(
            {
                **{name: str(table[name].iloc[0]) for name in ("format", "model", "operator")},
                "path": "+".join(sorted(table["path"].unique())),
                "behavior": asked.name,
                "confidence": float(summary["confidence"].iloc[0]),
                "rows": records(summary),
            }
        )
    else:
        print_table(_readable(summary))


def generate(
    vector: VectorFile,
    layer: Annotated[int, typer.Option(help="0-based; where the vector is added.")],
    prompts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PROMPT", help="What the user says; - reads standard input, a prompt a line."),
    ] = None,
    multipliers: MultipliersOption = MULTIPLIERS,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Text file, a prompt a line.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 100,
    model: ModelOfVector = None,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """Let a steered model answer, with the answers of all multipliers side by side. Greedy, so the same every time.

    Example: caa-interp generate optimism.safetensors "How will it go?" --layer 12
    """
    asked = _prompts(prompts or [], prompt_file)
    from caa_interp.steering.generation import generate as answer

    loaded = read_vector(vector)
    table = answer(
        load_for(loaded, vector, model, device, dtype),
        asked,
        vector=loaded,
        layer=layer,
        multipliers=multipliers,
        max_new_tokens=max_new_tokens,
        progress=True,
    )
    if as_json:
        print_json(records(table))
    else:
        _print_side_by_side(table)


def read_vector(path: Path) -> SteeringVector:
    """Read a vector's file."""
    from caa_interp.vectors.vector import SteeringVector

    return SteeringVector.load(path)


def load(model: str, device: str | None, dtype: str | None) -> Any:
    """Load a model, and say so: it takes a while."""
    from caa_interp.models import load_model

    say(f"Loading {model}")
    return load_model(model, device=device, dtype=dtype)


def load_for(vector: SteeringVector, path: Path, model: str | None, device: str | None, dtype: str | None) -> Any:
    """Load the model of ``--model``, else the one that the vector names."""
    if model is not None:
        return load(model, device, dtype)
    named = vector.metadata.get("model")
    if named is None:
        raise InputError(f"vector file {path}: it does not say which model it was made from. Give --model.")
    try:
        return load(str(named), device, dtype)
    except ModelError as error:
        raise ModelError(f"{error} {path} names it; if it lies somewhere else, give --model.") from error


def _form(vector: SteeringVector) -> str:
    """Form that a vector was made in, as far as it tells."""
    known = [form.value for form in AnswerFormat]
    return given if (given := vector.metadata.get("format")) in known else AnswerFormat.CHOICES.value


def _readable(summary: pd.DataFrame) -> pd.DataFrame:
    """Columns for people: each mean beside its interval."""
    shown = summary[["vector", "layer", "multiplier", "n"]].copy()
    titles = {"logit_difference": "difference", "logit_difference_change": "change", "p_positive": "p(positive)"}
    for measure, title in titles.items():
        if measure in summary:
            shown[title] = with_interval(summary, measure)
    return shown


def _prompts(given: list[str], file: Path | None) -> list[str]:
    """Prompts of the command line, of standard input where one is ``-``, and of a file."""
    asked: list[str] = []
    for prompt in given:
        asked += sys.stdin.read().splitlines() if prompt == "-" else [prompt]
    if file is not None:
        try:
            asked += file.read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise InputError(f"prompts: {file} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from error
    asked = [prompt for prompt in asked if prompt.strip()]
    if not asked:
        raise typer.BadParameter("there is no prompt. Give one in quotes, - for standard input, or --prompts FILE.")
    return asked


def _print_side_by_side(table: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for _, answers in table.groupby("item", sort=False):
        grid = Table(title=Text(answers["prompt"].iloc[0], style="bold"), title_justify="left", expand=True)
        for multiplier in answers["multiplier"]:
            grid.add_column(f"multiplier {multiplier:+g}" if multiplier else "unsteered", ratio=1)
        grid.add_row(*(Text(answer.strip()) for answer in answers["answer"]))
        console.print(grid)
