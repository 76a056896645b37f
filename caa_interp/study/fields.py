"""The parts of a study: what single fields may hold, the models, and what is measured with them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from caa_interp.behaviors.behavior import load_behavior, load_behaviors
from caa_interp.errors import InputError
from caa_interp.models.loading import EMBEDDED, Backend
from caa_interp.prompts.format import Style
from caa_interp.study.problems import explained, nearest, shown

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
    behavior = load_behavior(path)
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


# Anything larger is a typo.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
CountFrom1 = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's generators take
AnyText = Annotated[str, AfterValidator(_writable)]
Text = Annotated[str, AfterValidator(_writable), AfterValidator(_not_empty)]
_PathAsText = BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)
ModelName = Annotated[Text, _PathAsText, AfterValidator(_model)]
BehaviorName = Annotated[Text, _PathAsText, AfterValidator(_behavior)]
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


class Part(BaseModel):
    """Immutable, of exactly these fields and types; everything that is wrong is in one InputError."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise explained(type(self), error, type(self).__name__) from None

    # Parts of a study that are given as dicts are then not made by the method above, but checked with the whole.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


class PromptConfig(Part):
    """How a model is addressed, as :meth:`caa_interp.PromptFormat.of` takes it."""

    style: Style | None = None
    """``"llama-2-chat"``, ``"base"`` or ``"chat-template"``. Default: the one that fits the model."""
    template_arguments: TemplateArguments = Field(default_factory=dict)  # type: ignore[arg-type]
    """What is handed to the chat template, such as ``{enable_thinking = false}``. Default: nothing."""


class ModelConfig(Part):
    """A model, as :func:`caa_interp.load_model` takes it."""

    name: ModelName = EMBEDDED
    """Name, folder or ``.gguf`` file; a path is made absolute. Default: the embedded model."""
    backend: Backend = "auto"
    """``"auto"`` (default), ``"bridge"`` or ``"hooked"``."""
    device: Text | None = None
    """Such as ``"cpu"`` or ``"cuda:1"``. Default: the first GPU if there is one, else the CPU."""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] | None = None
    """Floating-point type of the weights. Default: float32 on the CPU, bfloat16 on a GPU."""
    revision: Text | None = None
    """Branch, tag or commit of a Hugging Face name. Default: its main branch."""
    device_map: Text | None = None
    """How to spread it over devices, such as ``"auto"``; bridge only, excludes ``device``. Default: it is on one."""
    prompt: PromptConfig | None = None
    """Table of :class:`PromptConfig`. Default: the study's."""

    @field_validator("revision")
    @classmethod
    def _of_the_hub(cls, value: str | None, info: ValidationInfo) -> str | None:
        name = info.data.get("name", "")
        if value is not None and (name == EMBEDDED or name.endswith(".gguf")):
            raise InputError(f"{shown(value)}, but {shown(name)} has no revisions. Drop it.")
        return value

    @field_validator("device_map")
    @classmethod
    def _placed_once(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("device") is not None:
            raise InputError(f"{shown(value)}, but device is given too; a model is placed by one of them. Drop one.")
        if value is not None and info.data.get("backend") == "hooked":
            raise InputError(f"{shown(value)}, but backend 'hooked' takes none. Use 'bridge', or device.")
        return value

    @property
    def id(self) -> str:
        """What the model is called in tables and files once it is loaded."""
        path = Path(self.name)
        if path.suffix == ".gguf":
            return path.stem
        return path.resolve().name if path.is_dir() else self.name


class Controls(Part):
    """Vectors of equal norm that ought to do nothing, beside each behavior's vector."""

    random: Count = 4
    """Number of random directions, at least 0. Default: 4."""
    orthogonal: Count = 0
    """Number of random directions orthogonal to the vector, at least 0. Default: 0."""
    shuffled: Count = 4
    """Number of vectors of shuffled labels, at least 0. Default: 4."""


class Answers(Part):
    """Free answers, steered at the chosen layer."""

    prompts: Count = 6
    """Number of each behavior's open-ended questions, the first ones; 0: no answers. Default: 6."""
    multipliers: Multipliers | None = None
    """Numbers from -1e6 to 1e6, each once. Default: twice the outermost of the study's ``multipliers``, and 0."""
    max_new_tokens: CountFrom1 = 60
    """Longest answer in tokens, at least 1. Default: 60."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 is greedy, else tokens are sampled at this temperature. Default: 0."""
    n: CountFrom1 = 1
    """Number of samples per question and multiplier; more than 1 needs a temperature. Default: 1."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample among the likeliest tokens that together have this probability, above 0. Default: 1, all of them."""
    seed: Seed | None = None
    """Seed of the sampling, from 0 to 2**32 - 1. Default: the study's."""

    @field_validator("n", "top_p")
    @classmethod
    def _sampled(cls, value: float, info: ValidationInfo) -> float:
        if value != 1 and info.data.get("temperature") == 0:
            raise InputError(
                f"{shown(value)}, but temperature is 0, so every sample would be the same. Give it too, such as 0.7."
            )
        return value


class Costs(Part):
    """What steering costs besides: on prose, on open-ended questions, on knowledge."""

    passages: Count = 12
    """Number of passages of :func:`caa_interp.load_prose` for perplexity, the first ones; 0: none. Default: 12."""
    questions: Count = 24
    """Number of packaged questions for capability, evenly spread over subjects; 0: none. Default: 24."""
    prompts: Count = 6
    """Number of each behavior's open-ended questions for divergence, the first ones; 0: none. Default: 6."""


class SideEffects(Part):
    """What each vector does to the other behaviors."""

    pairs: Count = 12
    """Number of each behavior's test pairs, scored under every vector; 0: no matrix. Default: 12."""


def _as_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str | Path) else value


Models = Annotated[tuple[Annotated[ModelConfig, BeforeValidator(_as_table)], ...], AsTuple, Some]
