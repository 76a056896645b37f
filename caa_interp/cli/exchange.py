"""Vectors to and from the files of other tools."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name
from tempfile import TemporaryDirectory
from typing import Annotated, get_args

import typer

from caa_interp.cli.options import EMBEDDED, Force, LayersOption, ModelOfVector, VectorFile, completing
from caa_interp.cli.output import check_target, say
from caa_interp.cli.vectors import read_vector
from caa_interp.errors import InputError, ModelError, check_installed

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
HookOption = Annotated[str, typer.Option("--hook", help="lm-eval only: name of a block in the Hugging Face model.")]


def export(
    vector: VectorFile,
    target: Annotated[Path, typer.Argument(help="File to write, or a folder for caa.")],
    format: FormatOption = None,
    layers: LayersOption = None,
    multiplier: Annotated[float, typer.Option(help="lm-eval only: the multiplier.")] = 1.0,
    hook: HookOption = "layers.{layer}",
    force: Force = False,
) -> None:
    """Write a vector in the file format of another tool.

    Example: caa-interp export optimism.safetensors optimism.gguf --layers 1-29
    """
    if not target.is_dir():  # into a folder the layers are written one by one
        check_target(target, (), force)
    from caa_interp.interchange.exchange import export_vector

    loaded = read_vector(vector)
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


def lm_eval(
    vector: VectorFile,
    tasks: Annotated[str, typer.Option(help="Names of the harness's tasks, separated by commas, such as mmlu.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENT]...", help="The harness's own, such as -- --limit 100.")
    ] = None,
    layer: Annotated[int | None, typer.Option(help="0-based; default: the vector's, if it has one.")] = None,
    multiplier: Annotated[float, typer.Option(help="0 is the unsteered model.")] = 1.0,
    model: ModelOfVector = None,
    hook: HookOption = "layers.{layer}",
) -> None:
    """Run lm-evaluation-harness on the steered model: Hugging Face's, with the vector added at every position.

    The paper steers from the last token of the prompt on, so the same multiplier does more here. The harness prints its
    table; what else it writes, and where, are arguments of its own. The vector's own model is read at the revision that
    the vector was made at.

    Example: caa-interp lm-eval optimism.safetensors --tasks mmlu --layer 13 --multiplier 1.5 -- --limit 100
    """
    from caa_interp.interchange.exchange import export_vector

    check_installed("lm_eval", "lm-eval", "'lm_eval[hf]'")
    loaded = read_vector(vector)
    name, revision = model or loaded.metadata.get("model"), str(loaded.metadata.get("model_revision"))
    if name is None or name == EMBEDDED or str(name).endswith(".gguf"):
        raise InputError(
            f"model: {name!r}; the harness loads models by a Hugging Face name or from a folder. Give one with --model."
        )
    # A commit has 40 digits; the digest of a folder or a GGUF file, which its name alone does not find, has 64.
    if model is None and re.fullmatch("[0-9a-f]{64}", revision):
        raise InputError(
            f"model: {name!r} was a folder or a GGUF file when the vector was made, and the harness would look for "
            "that name elsewhere. Give a Hugging Face name or the folder with --model."
        )
    if own := [given for given in arguments or [] if re.match("--model|-[am]", given)]:
        raise InputError(
            f"arguments: {own[0]!r} would replace the steered model. Leave it out; name another model by this "
            "command's own --model, before the --."
        )
    if re.search("[,=]", str(name)):
        raise InputError(f"model: {name!r}; the harness cuts it at commas and equals signs. Give a path without them.")
    at = f",revision={revision}" if model is None and re.fullmatch("[0-9a-f]{40}", revision) else ""
    with TemporaryDirectory() as folder:
        path = export_vector(loaded, Path(folder) / "steering.pt", layers=layer, multiplier=multiplier, hook=hook)
        command = [sys.executable, "-m", "lm_eval", "--model", "steered", "--tasks", tasks]
        command += ["--model_args", f"pretrained={name}{at},steer_path={path}", *(arguments or [])]
        say(f"Running {' '.join(command[2:])}")
        code = subprocess.run(command).returncode
    if code:
        raise ModelError(f"lm-eval: the harness ended with exit code {code}; what it said stands above.")
