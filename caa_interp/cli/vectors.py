"""One vector: extracted, measured on held-out pairs, and heard."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caa_interp.cli import options
from caa_interp.cli.output import check_target, print_json, print_table, records, say, write_table
from caa_interp.errors import InputError, ModelError
from caa_interp.prompts.rendering import Format, Style

if TYPE_CHECKING:
    import pandas as pd

    from caa_interp.prompts.format import PromptFormat
    from caa_interp.vectors.vector import SteeringVector


def extract(
    behavior: options.BehaviorName,
    out: Annotated[Path, typer.Option(help="File to write, .safetensors.")],
    model: options.Model = options.EMBEDDED,
    format: Annotated[
        Format,
        typer.Option(
            help="choices reads the answer letter, as in the paper; text reads the answer itself, for small models."
        ),
    ] = "choices",
    layers: options.LayersOption = None,
    estimator: options.EstimatorOption = "mean_difference",
    style: options.StyleOption = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Extract a steering vector from a behavior's train pairs.

    Example: caa-interp extract optimism --format text --out optimism.safetensors
    """
    check_target(out, (".safetensors",), force)
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.models import load_model
    from caa_interp.prompts.format import PromptFormat
    from caa_interp.vectors.estimators import estimator_named
    from caa_interp.vectors.extraction import extract_vector

    chosen, pairs = estimator_named(estimator), load_behavior(behavior)
    loaded = load_model(model, device=device, dtype=dtype)
    asked: dict[str, Any] = {"format": format, "layers": layers, "estimator": chosen, "behavior": pairs.name}
    asked["prompt_format"] = PromptFormat.of(loaded, style=style)
    vector = extract_vector(loaded, pairs.train, progress=True, **asked)
    vector.save(out)
    if as_json:
        norms = [float(norm) for norm in vector.norms]
        print_json({**vector.metadata, "path": str(out), "layers": list(vector.layers), "norms": norms})
    else:
        typer.echo(f"{vector!r}, {len(pairs.train)} pairs in {format} form, in {out}")


def sweep(
    vector: options.VectorFile,
    behavior: options.BehaviorName,
    model: options.ModelOfVector = None,
    layers: options.LayersOption = None,
    multipliers: options.MultipliersOption = options.MULTIPLIERS,
    operator: options.OperatorOption = options.ADD,
    positions: options.PositionsOption = options.FROM_LAST_PROMPT_TOKEN,
    format: Annotated[Format | None, typer.Option(help="Default: the form in which the vector was made.")] = None,
    style: options.StyleOption = None,
    out: Annotated[
        Path | None, typer.Option(help="File for the score of every item, .parquet or .csv; default: none.")
    ] = None,
    controls: options.ControlsOption = 0,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Measure a vector on a behavior's test pairs, at every layer and multiplier, with 95 % intervals.

    Example: caa-interp sweep optimism.safetensors optimism --layers 12 --controls 2
    """
    if out is not None:
        check_target(out, (".parquet", ".csv"), force)
    from caa_interp.behaviors.behavior import load_behavior
    from caa_interp.evaluation.summary import interval_texts, quantity, summarize
    from caa_interp.evaluation.sweep import sweep as score
    from caa_interp.models.access import check_layers

    applied = applied_by(operator, positions)
    loaded, asked = read_vector(vector), load_behavior(behavior)
    named = with_controls(loaded, controls, seed)
    check_layers(layers, loaded.layers, f"the vector {loaded.name!r}")
    subject, form = load_for(loaded, vector, model, style, device, dtype)
    applied |= {"format": format, "layers": layers, "multipliers": multipliers}
    table = score(subject, named, asked.test, prompt_format=form, **applied)
    if out is not None:
        write_table(table, out)
    summary = summarize(table, seed=seed)
    name, unit = quantity(table, "logit_difference")
    say(
        f"{len(asked.test)} test pairs of {asked.name} in {table['format'].iloc[0]} form. Difference: {name}, in "
        f"{unit}. Beside each mean: its 95 % interval. No layer is chosen here: choose one on other pairs, as "
        "caa-interp run does."
    )
    if as_json:
        # These columns have one value in all rows.
        names = ("format", "model", "operator", "positions", "path", "prompt_digest")
        facts = {name: " + ".join(sorted(set(table[name]))) for name in names}
        print_json({"behavior": asked.name, **facts, "rows": records(summary)})
        return
    shown = summary[["vector", "layer", "multiplier", "n"]].copy()
    titles = {"logit_difference": "difference", "logit_difference_change": "change", "p_positive": "p(positive)"}
    for measure, title in titles.items():
        if measure in summary:
            shown[title] = interval_texts(summary, measure)
    print_table(shown)


def generate(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="VECTOR... [PROMPT]...",
            help=".safetensors files of vectors, applied together; then the prompts; - reads standard input, one "
            "prompt per line.",
        ),
    ],
    layer: Annotated[
        options.Values,
        typer.Option(
            parser=options.read_layers,
            metavar="LAYERS",
            help="0-based; one for all vectors, or one per vector: 10,12. One vector may be applied at several: 10-16.",
        ),
    ],
    multiplier: Annotated[
        options.Values,
        typer.Option(
            parser=options.read_multipliers,
            metavar="NUMBERS",
            help="One for all vectors, or one per vector: 1,-0.5; default: 1.",
            show_default=False,
        ),
    ] = options.ONE,
    multipliers: options.MultipliersOption = options.MULTIPLIERS,
    operator: options.EachOperatorOption = options.ADD_EACH,
    positions: options.EachPositionsOption = options.FROM_LAST_PROMPT_TOKEN_EACH,
    prompt_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="Text file, one prompt per line.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of an answer, at most.")] = 100,
    n: Annotated[int, typer.Option("--n", min=1, help="Samples per prompt and column; they need a temperature.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Sample among the likeliest tokens that together have this probability.")
    ] = 1.0,
    seed: options.Seed = 0,
    style: options.StyleOption = None,
    model: options.ModelOfVector = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
    as_json: options.Json = False,
) -> None:
    """Answer prompts with a steered model, multipliers side by side.

    Several vectors are applied together, in the order given. Each of --multipliers is a column and scales them all.

    Example: caa-interp generate optimism.safetensors "How will it go?" --layer 12
    """
    files = [Path(one) for one in arguments if one.endswith(".safetensors")]
    files *= len(layer) if len(files) == 1 else 1
    if not files:
        raise typer.BadParameter("there is no vector. Give a .safetensors file.")
    asked = _prompts([one for one in arguments if not one.endswith(".safetensors")], prompt_file)
    layers = _per_vector(layer, len(files), "--layer")
    scales = _per_vector(multiplier, len(files), "--multiplier")
    from caa_interp.steering.generation import check_sampling, generate as answer
    from caa_interp.steering.intervention import Intervention

    operators = _per_vector(operator, len(files), "--operator")
    rules = _per_vector(positions, len(files), "--positions")
    applied = [applied_by(*one) for one in zip(operators, rules, strict=True)]
    vectors = [read_vector(file) for file in files]
    added = [Intervention(*one, **how) for *one, how in zip(vectors, layers, scales, applied, strict=True)]
    steering = [[one * factor for one in added] for factor in multipliers]
    sampled = {"n": n, "max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    check_sampling(**sampled)  # type: ignore[arg-type]
    subject, form = load_for(vectors[0], files[0], model, style, device, dtype)
    table = answer(subject, asked, steering=steering, prompt_format=form, **sampled)  # type: ignore[arg-type]
    if as_json:
        print_json(records(table))
    else:
        _print_side_by_side(table, multipliers, scales)


def applied_by(operator: str, positions: str) -> dict[str, Any]:
    """Operator and positions by their names."""
    from caa_interp.steering.operators import operator_named
    from caa_interp.steering.positions import positions_named

    return {"operator": operator_named(operator), "positions": positions_named(positions)}


def _per_vector(values: Sequence[Any], n: int, option: str) -> list[Any]:
    if len(values) not in (1, n):
        raise typer.BadParameter(
            f"{option}: {len(values)} values for {n} vectors. Give one per vector, or one for all."
        )
    return list(values) * (n if len(values) == 1 else 1)


def read_vector(path: Path) -> SteeringVector:
    """Read a vector's file."""
    from caa_interp.vectors.vector import SteeringVector

    return SteeringVector.load(path)


def with_controls(vector: SteeringVector, n: int, seed: int) -> dict[str, SteeringVector]:
    """Return a vector by its name, with ``n`` random ones of the same norms."""
    from caa_interp.evaluation.controls import random_vectors

    controls = random_vectors(vector, n, seed=seed) if n else {}
    if vector.name in controls:
        raise InputError(f"--controls: the vector is named {vector.name!r}, as one of its controls. Give --controls 0.")
    return {vector.name: vector, **controls}


def load_for(
    vector: SteeringVector, path: Path, model: str | None, style: Style | None, device: str | None, dtype: str | None
) -> tuple[Any, PromptFormat]:
    """Load the model of ``--model``, else the one that the vector names; and its form in the style of ``--style``."""
    from caa_interp.models import load_model
    from caa_interp.prompts.format import PromptFormat

    named = vector.metadata.get("model") if model is None else model
    if named is None:
        raise InputError(f"vector file {path}: it does not say which model it was made from. Give --model.")
    try:
        loaded = load_model(str(named), device=device, dtype=dtype)
    except ModelError as error:
        if model is not None:
            raise
        raise ModelError(f"{error} {path} names it; if it is somewhere else, give --model.") from error
    return loaded, PromptFormat.of(loaded, style=style)


def _prompts(given: list[str], file: Path | None) -> list[str]:
    """Prompts of the command line, of standard input where one is ``-``, and of a file."""
    asked: list[str] = []
    for prompt in given:
        asked += sys.stdin.read().splitlines() if prompt == "-" else [prompt]
    if file is not None:
        from caa_interp.files import read_text

        asked += read_text(file, f"prompts: {file}").splitlines()
    asked = [prompt for prompt in asked if prompt.strip()]
    if not asked:
        raise typer.BadParameter("there is no prompt. Give one in quotes, - for standard input, or --prompts FILE.")
    return asked


def _print_side_by_side(table: pd.DataFrame, factors: Sequence[float], scales: Sequence[float]) -> None:
    """One grid per prompt: a column per factor of the vectors' multipliers, a row per sample."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console, alike = Console(), len(set(scales)) == 1
    for _, answers in table.groupby("item", sort=False):
        grid = Table(title=Text(answers["prompt"].iloc[0], style="bold"), title_justify="left", expand=True)
        for factor in factors:
            steered = f"multiplier {factor * scales[0]:+g}" if alike else f"multipliers times {factor:g}"
            grid.add_column(steered if factor else "unsteered", ratio=1)
        for _, samples in answers.groupby("sample"):
            grid.add_row(*(Text(answer.strip()) for answer in samples["answer"]))
        console.print(grid)
