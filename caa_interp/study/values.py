"""What single fields of a study may hold."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, ValidationInfo

from caa_interp.behaviors.behavior import load_behavior, load_behaviors
from caa_interp.errors import InputError
from caa_interp.models.loading import EMBEDDED
from caa_interp.study.problems import nearest, shown

MOST_ITEMS = 1000
MOST = 1e6


def slug(name: str) -> str:
    """Name of a file or folder for a model or a behavior, whatever characters it has."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"


@cache
def packaged() -> tuple[str, ...]:
    """Names of the behaviors that come with the package, sorted."""
    return tuple(load_behaviors())


def _as_tuple(value: Any) -> Any:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        return value
    if len(value) > MOST_ITEMS:
        raise InputError(f"{len(value):,} of them; at most {MOST_ITEMS:,} are taken.")
    return tuple(value)


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _writable(value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{shown(value)}; it must be a text that UTF-8 can write.")
    return value


def _not_empty(value: str) -> str:
    if not value.strip():
        raise InputError(f"{shown(value)}; it must be a text that is not empty.")
    return value


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise InputError(f"{shown(values)} names one twice; name each once.")
    return values


def _absolute(path: str, info: ValidationInfo) -> str:
    """Path from the folder of the config file, or from the current one."""
    folder = info.context["folder"] if info.context else Path.cwd()
    return _writable(str(folder / os.path.expanduser(path)))


def _behavior(name: str, info: ValidationInfo) -> str:
    if not name.endswith(".json"):
        known = packaged()
        if name not in known:
            raise InputError(
                f"{shown(name)}; it must be one of {', '.join(known)}, or a .json file{nearest(name, known) or '.'}"
            )
        return name
    path = _absolute(name, info)
    if not os.path.isfile(path):
        raise InputError(f"{shown(name)}; there is no file {path}.")
    try:
        behavior = load_behavior(path)
    except OSError as error:
        raise InputError(f"{shown(name)}; the file cannot be read ({error}).") from error
    for part in ("name", "train", "test"):
        if not getattr(behavior, part):
            raise InputError(f"{shown(name)}; its {part!r} is empty, and a study needs it.")
    return path


def _model(name: str, info: ValidationInfo) -> str:
    """Check what can be known without loading; names of the Hugging Face hub are left as they are."""
    if name == EMBEDDED:
        return name
    path = _absolute(name, info)
    if name.endswith(".gguf"):
        if not os.path.isfile(path):
            raise InputError(f"{shown(name)}; there is no file {path}.")
        return path
    if os.path.isdir(path):
        if not os.path.isfile(os.path.join(path, "config.json")):
            raise InputError(f"{shown(name)}; the folder {path} has no config.json, so it holds no model.")
        return path
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{shown(name)}; there is no folder {path}.")
    if "/" not in name and (hint := nearest(name, [EMBEDDED], 0.7)):
        raise InputError(
            f"{shown(name)}; it must be {EMBEDDED!r}, a folder, a .gguf file or a Hugging Face name such as "
            f"'owner/name'{hint}"
        )
    return name


def _spelled(text: str, info: ValidationInfo) -> str:
    """Name of an estimator, an operator or positions as tables spell it."""
    from caa_interp.steering.operators import name_of, operator_named
    from caa_interp.steering.positions import name_of_positions, positions_named
    from caa_interp.vectors.estimators import estimator_named

    try:
        if info.field_name == "positions":
            return name_of_positions(positions_named(text))
        if info.field_name == "operator":
            return name_of(operator_named(text))
        return estimator_named(text).__name__
    except InputError as error:
        raise InputError(str(error).removeprefix(f"{info.field_name}: ")) from None


def _arguments(value: Any) -> tuple[tuple[str, Any], ...]:
    """Names and values of a table, which are then as unchangeable as everything else."""
    if not isinstance(value, Mapping):
        raise InputError(f"{shown(value)}; it must be a table.")
    for name, one in value.items():
        text = isinstance(one, str) and _writable(one) == one
        if not text and not (isinstance(one, bool | int | float) and math.isfinite(one)):
            raise InputError(f"{shown(name)} is {shown(one)}; it must be true, false, a finite number or a text.")
    return tuple((_writable(str(name)), one) for name, one in value.items())


# More of anything is a slip of the keyboard.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
CountFrom1 = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's generators take
AnyText = Annotated[str, AfterValidator(_writable)]
Text = Annotated[str, AfterValidator(_writable), AfterValidator(_not_empty)]
ModelName = Annotated[Text, BeforeValidator(_as_text), AfterValidator(_model)]
BehaviorName = Annotated[Text, BeforeValidator(_as_text), AfterValidator(_behavior)]
Spelled = Annotated[Text, AfterValidator(_spelled)]
TemplateArguments = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_arguments), PlainSerializer(dict)]

# Lists are kept as tuples; a set has no order that would stay the same.
AsTuple = BeforeValidator(_as_tuple)
Some = Field(min_length=1)
_Once = AfterValidator(_each_once)
Multiplier = Annotated[float, Field(ge=-MOST, le=MOST)]
Multipliers = Annotated[tuple[Multiplier, ...], AsTuple, Some, _Once]
Layers = Annotated[tuple[Count, ...], AsTuple, Some, _Once]
Behaviors = Annotated[tuple[BehaviorName, ...], AsTuple, Some]
