"""Options that several commands share: one spelling, one reading of lists and ranges, one completion each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

import typer

from caa_interp.prompts.rendering import Style

# Written out, because the module that has it takes long to import; a test holds the two together.
EMBEDDED = "smollm2-135m-instruct"

_RANGE = re.compile(r"(\d{1,6})-(\d{1,6})")


class Values(tuple[Any, ...]):
    """Layers, multipliers or names, as one option gives them."""


# Defaults are texts, which typer reads like what is given.
MULTIPLIERS: Any = "-1,0,1"
ONE: Any = "1"
ADD, FROM_LAST_PROMPT_TOKEN = "add", "from_last_prompt_token"
ADD_EACH: Any = (ADD,)
FROM_LAST_PROMPT_TOKEN_EACH: Any = (FROM_LAST_PROMPT_TOKEN,)


def read_layers(text: str) -> Values:
    """Read ``"10,12-14"`` as 10, 12, 13, 14."""
    layers: list[int] = []
    for part in _parts(text):
        ends = _RANGE.fullmatch(part)
        if ends and int(ends[1]) <= int(ends[2]):
            layers += range(int(ends[1]), int(ends[2]) + 1)
        elif part.isascii() and part.isdecimal():
            layers.append(int(part))
        else:
            raise typer.BadParameter(
                f"{text!r}: {part!r} is neither a layer nor a range of layers. Give 0-based block indices and ranges "
                "separated by commas, such as 10,12-14."
            )
    return Values(layers)


def read_multipliers(text: str) -> Values:
    """Read ``"-1,0,1.5"`` as numbers."""
    try:
        return Values(map(float, _parts(text)))
    except ValueError:
        raise typer.BadParameter(f"{text!r}: give numbers separated by commas, such as -1,0,1.") from None


def read_names(text: str) -> Values:
    """Read names separated by commas."""
    return Values(_parts(text))


def read_columns(text: str) -> Values:
    """Read ``"question=ask,positive=warm"`` as pairs of a field and the name of its column."""
    if not all("=" in part for part in _parts(text)):
        raise typer.BadParameter(
            f"{text!r}: name each field's column, such as question=ask,positive=warm,negative=cold."
        )
    return Values(tuple(part.split("=", 1)) for part in _parts(text))


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Complete what was typed by names, which are looked up when they are needed: imports take long."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


complete_behavior = completing(lambda: resolve_name("caa_interp.behaviors.behavior:behavior_names")())
# Folders and files are for the shell to complete.
complete_model = completing(
    lambda: [EMBEDDED, *(one.name for one in resolve_name("caa_interp.paper.published:MODELS"))]
)


def _named(option: str, metavar: str, help: str, names: Callable[[], Iterable[str]]) -> Any:
    return typer.Option(option, metavar=metavar, help=help, autocompletion=completing(names))


def _operators() -> list[str]:
    from caa_interp.steering.operators import OPERATORS, WITH_PARAMETERS

    return [*OPERATORS, *(f"{name}(" for name in WITH_PARAMETERS)]


_MODEL = "Model name, folder or .gguf file; caa-interp models lists them."

BehaviorName = Annotated[
    str, typer.Argument(metavar="BEHAVIOR", help="Name, or a .json file.", autocompletion=complete_behavior)
]
Model = Annotated[str, typer.Option("--model", help=_MODEL, autocompletion=complete_model)]
ModelOfVector = Annotated[
    str | None,
    typer.Option(
        "--model", help=f"{_MODEL} Default: the model that the vector was made from.", autocompletion=complete_model
    ),
]
Device = Annotated[
    str | None,
    typer.Option("--device", help="Such as cpu or cuda:1; default: the first GPU if there is one, else the CPU."),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", help="Such as float32; default: float32 on the CPU, bfloat16 on a GPU.")
]
LayersOption = Annotated[
    Values | None,
    typer.Option("--layers", parser=read_layers, metavar="LAYERS", help="0-based, such as 10,12-14; default: all."),
]
MultipliersOption = Annotated[
    Values,
    typer.Option(
        "--multipliers",
        parser=read_multipliers,
        metavar="NUMBERS",
        help="Separated by commas; 0 is unsteered; default: -1,0,1. Give 0,1 for ablate, ProjectTo and Cap, which are "
        "complete at 1.",
        show_default=False,
    ),
]
EstimatorOption = Annotated[
    str,
    _named(
        "--estimator",
        "NAME",
        "How the vector is made from activations.",
        lambda: resolve_name("caa_interp.vectors.estimators:ESTIMATORS"),
    ),
]


def _rules() -> list[str]:
    return [*resolve_name("caa_interp.steering.positions:RULES"), "FirstAnswerTokens("]


_OPERATOR = "What the vector does, such as ablate or 'Cap(high=3)'."
_POSITIONS = "Steered positions, such as all, answer, 'FirstAnswerTokens(3)' or 3,4,7."
_EACH = " Give it again for each further vector, or once for all."
OperatorOption = Annotated[str, _named("--operator", "NAME", _OPERATOR, _operators)]
EachOperatorOption = Annotated[list[str], _named("--operator", "NAME", _OPERATOR + _EACH, _operators)]
PositionsOption = Annotated[str, _named("--positions", "RULE", _POSITIONS, _rules)]
EachPositionsOption = Annotated[list[str], _named("--positions", "RULE", _POSITIONS + _EACH, _rules)]
StyleOption = Annotated[
    Style | None,
    typer.Option("--style", help="Prompt form, such as base; default: the one that fits the model."),
]
ControlsOption = Annotated[
    int, typer.Option("--controls", min=0, help="Number of random control vectors of the same norms.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of whatever is drawn at random.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and everything else to standard error.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
VectorFile = Annotated[Path, typer.Argument(metavar="VECTOR", help=".safetensors file of a vector.")]
