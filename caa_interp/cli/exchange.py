"""Vectors to and from the files of other tools."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, get_args

import typer

from caa_interp.cli.options import Force, LayersOption, VectorFile, completing
from caa_interp.cli.output import check_target

FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        autocompletion=completing(lambda: get_args(resolve_name("caa_interp.interchange.exchange:FileFormat"))),
        help="caa: the published code's folder; gguf: llama.cpp and repeng; lm-eval: lm-evaluation-harness; npz: "
        "numpy. Default: by the file's ending.",
    ),
]


def export(
    vector: VectorFile,
    target: Annotated[Path, typer.Argument(help="File to write, or a folder for caa.")],
    format: FormatOption = None,
    layers: LayersOption = None,
    multiplier: Annotated[float, typer.Option(help="lm-eval only: the multiplier.")] = 1.0,
    hook: Annotated[
        str, typer.Option(help="lm-eval only: name of a block in the Hugging Face model.")
    ] = "layers.{layer}",
    force: Force = False,
) -> None:
    """Write a vector in the file format of another tool.

    Example: caa-interp export optimism.safetensors optimism.gguf --layers 1-29
    """
    check_target(target, (), force)
    from caa_interp.interchange.exchange import export_vector
    from caa_interp.vectors.vector import SteeringVector

    loaded = SteeringVector.load(vector)
    options = {"layers": layers, "multiplier": multiplier, "hook": hook}
    export_vector(loaded, target, format=format, **options)  # type: ignore[arg-type]
    written = sorted(layers or loaded.layers)
    typer.echo(f"{loaded.name}, {len(written)} layers from {written[0]} to {written[-1]}, in {target}")


def import_(
    source: Annotated[Path, typer.Argument(help="The other tool's file, or a folder for caa.")],
    target: Annotated[Path, typer.Argument(help="File to write, .safetensors.")],
    format: FormatOption = None,
    model: Annotated[
        str | None,
        typer.Option(help="Name of the model that it was made from, if the file does not say; it is not loaded."),
    ] = None,
    layers: LayersOption = None,
    force: Force = False,
) -> None:
    """Read a vector from the file of another tool.

    Example: caa-interp import optimism.gguf back.safetensors
    """
    check_target(target, (".safetensors",), force)
    from caa_interp.interchange.exchange import import_vector

    vector = import_vector(source, format=format, model=model, layers=layers)  # type: ignore[arg-type]
    vector.save(target)
    typer.echo(f"{vector!r} in {target}")
