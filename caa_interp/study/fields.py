"""The parts of a study: what single fields may hold, the models, and what is measured with them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from caa_interp.behaviors.behavior import Behavior, behavior_names, data_folder, load_behavior
from caa_interp.errors import InputError, is_number
from caa_interp.files import slug
from caa_interp.models.loading import EMBEDDED, Backend
from caa_interp.prompts.format import Style
from caa_interp.study.problems import explained, nearest, shown

MOST = 1e6
# Controls, the model without a vector, and what a measurement of several behaviors asks and belongs to.
_TAKEN = re.compile(r"(random|orthogonal|shuffled) \d+|unsteered|questions with a right answer|every behavior")


@lru_cache(64)
def _parsed(name: str, changed: int, size: int) -> Behavior:
    return load_behavior(name)


def studied_behavior(name: str) -> Behavior:
    """Load a behavior by its name or file, which is parsed again only if it has changed since."""
    try:
        state = Path(name if name.endswith(".json") else data_folder() / f"{name}.json").stat()
    except OSError:
        return load_behavior(name)  # says what is wrong
    return _parsed(name, state.st_mtime_ns, state.st_size)


def check_distinct(names: Sequence[str], advice: str, *, of_files: bool = True) -> None:
    """Raise :class:`InputError` if two names would be one in tables or, ``of_files``, on a disk that ignores case."""
    keys = [(slug(name) if of_files else name).casefold() for name in names]
    if same := tuple(name for name, own in zip(names, keys, strict=True) if keys.count(own) > 1):
        raise InputError(f"{shown(same)} would be one in tables{' and files' * of_files}. {advice}")


def check_free(names: Iterable[str]) -> None:
    """Raise :class:`InputError` if tables use one of these names for something else."""
    for name in names:
        if _TAKEN.fullmatch(name):
            raise InputError(f"{shown(name)}; tables use this name for something else. Give another 'name'.")


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise InputError(f"{shown(values)} lists one twice; list each once.")
    return values


def with_zero(multipliers: tuple[float, ...]) -> tuple[float, ...]:
    """Check the multipliers of a study."""
    if 0 not in multipliers or len(multipliers) < 2:
        raise InputError(f"{shown(multipliers)}; they must include 0, the unsteered model, and at least one other.")
    return multipliers


def _absolute(name: str, info: ValidationInfo) -> str:
    """Path from the folder of the config file, or from the current one."""
    path = str(Path((info.context or {}).get("folder", Path.cwd()), os.path.expanduser(name)))
    path.encode()  # fails if no config could hold it
    return path


def _behavior(name: str, info: ValidationInfo) -> str:
    if not name.endswith(".json"):
        if name not in (known := behavior_names()):
            hint = nearest(name, known) or "."
            raise InputError(f"{shown(name)}; it must be one of {', '.join(known)}, or a .json file{hint}")
        return name
    path = _absolute(name, info)
    behavior = studied_behavior(path)
    for part in ("name", "train", "test"):
        if not getattr(behavior, part):
            raise InputError(f"{shown(name)}; its {part!r} is empty, and a study needs it.")
    return path


def _distinct_behaviors(values: tuple[str, ...]) -> tuple[str, ...]:
    names = [studied_behavior(value).name for value in values]
    check_free(names)
    check_distinct(names, "Give each file a 'name' of its own.")
    return values


def _model(name: str, info: ValidationInfo) -> str:
    """Check what can be known without loading; names of the Hugging Face Hub are left as they are."""
    if name == EMBEDDED:
        return name
    path = _absolute(name, info)
    is_path = os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1
    if is_path or name.endswith(".gguf") or os.path.isdir(path):
        needed = path if name.endswith(".gguf") else os.path.join(path, "config.json")
        # The models of a run may have been moved since.
        if not os.path.isfile(needed) and not (info.context or {}).get("is_kept"):
            raise InputError(f"{shown(name)}; there is no file {needed}. Give a .gguf file, or a folder of a model.")
        return path
    if "/" not in name and (hint := nearest(name, [EMBEDDED])):
        allowed = f"{EMBEDDED!r}, a folder, a .gguf file or a Hugging Face name such as 'owner/name'"
        raise InputError(f"{shown(name)}; it must be {allowed}{hint}")
    return name


def _spelled(text: str, info: ValidationInfo) -> str:
    """Name of an estimator, an operator or positions as tables spell it."""
    from caa_interp.steering.operators import name_of, operator_named
    from caa_interp.steering.positions import name_of_positions, positions_named
    from caa_interp.vectors.estimators import estimator_named

    if info.field_name == "positions":
        return name_of_positions(positions_named(text))
    return name_of(operator_named(text)) if info.field_name == "operator" else estimator_named(text).__name__


def _arguments(value: Any) -> tuple[tuple[str, Any], ...]:
    """Names and values of a table, which are then as unchangeable as everything else."""
    if not isinstance(value, Mapping):
        raise InputError(f"{shown(value)}; it must be a table.")
    for name, one in value.items():
        if not (isinstance(one, bool | str) or is_number(one)):
            raise InputError(f"{shown(name)} is {shown(one)}; it must be true, false, a finite number or a text.")
        f"{name}{one}".encode()  # fails if no config could hold it
    return tuple((str(name), one) for name, one in value.items())


# Anything larger is a typo.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
CountFrom1 = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy's generators take
# With a constraint, pydantic also refuses what UTF-8 cannot write.
SystemPrompt = Annotated[str, StringConstraints(min_length=0), AfterValidator(lambda text: text or None)]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]
_PathAsText = BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value)
ModelName = Annotated[Text, _PathAsText, AfterValidator(_model)]
BehaviorName = Annotated[Text, _PathAsText, AfterValidator(_behavior)]
Spelled = Annotated[Text, AfterValidator(_spelled)]
TemplateArguments = Annotated[tuple[tuple[str, Any], ...], BeforeValidator(_arguments), PlainSerializer(dict)]

# Lists are kept as tuples; a set has no order that would stay the same.
AsTuple = BeforeValidator(lambda value: tuple(value) if isinstance(value, list | range) else value)
Some = Field(min_length=1, max_length=1000)
Multiplier = Annotated[float, Field(ge=-MOST, le=MOST)]
Multipliers = Annotated[tuple[Multiplier, ...], AsTuple, Some, AfterValidator(_each_once)]
Layers = Annotated[tuple[Count, ...], AsTuple, Some, AfterValidator(_each_once)]
Behaviors = Annotated[tuple[BehaviorName, ...], AsTuple, Some, AfterValidator(_distinct_behaviors)]


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
        if value is not None and (name == EMBEDDED or name.endswith(".gguf") or Path(name).is_dir()):
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
    """What steering costs: on prose, on open-ended questions, on knowledge."""

    passages: Count = 12
    """Number of passages of :func:`caa_interp.load_prose` for perplexity, the first ones; 0: none. Default: 12."""
    questions: Count = 24
    """Number of packaged questions for capability, evenly spread over subjects; 0: none. Default: 24."""
    prompts: Count = 6
    """Number of each behavior's open-ended questions, the first ones, for divergence and the effect lens; 0: none.
    Default: 6."""


class SideEffects(Part):
    """What each vector does to the other behaviors."""

    pairs: Count = 12
    """Number of each behavior's test pairs, scored under every vector; 0: no matrix. Default: 12."""


class Interference(Part):
    """What two vectors do to each other, at the same total divergence."""

    pairs: Count = 0
    """Number of each behavior's test pairs, scored under its vector beside each other one; 0: no matrix. Default: 0."""
    prompts: CountFrom1 = 6
    """Number of open-ended questions, in turn of each behavior, on which the divergence is measured. Default: 6."""
    target: Annotated[float, Field(gt=0, le=100)] = 0.1
    """Divergence of every condition, in nats per token, above 0. Default: 0.1."""


class SafetyAudit(Part):
    """What each vector has to do with refusal."""

    requests: Count = 0
    """Number of packaged requests of each kind, the first ones of 30; 0: no audit. Default: 0."""
    pairs: CountFrom1 = 12
    """Number of test pairs of each packaged behavior, at least 1. Default: 12."""
    answers: Count = 0
    """Number of requests of each kind that are also answered. Default: 0."""


class Conversations(Part):
    """What is left of steering in later turns."""

    conversations: Count = 0
    """Number of conversations, at most one for each test pair, with which it begins; 0: none. Default: 0."""
    turns: Annotated[int, Field(ge=2, le=100)] = 3
    """Turns of each, from 2 to 100. Default: 3."""
    multiplier: Multiplier = 1.0
    """Number from -1e6 to 1e6, not 0. Default: 1."""
    max_new_tokens: CountFrom1 = 40
    """Longest answer in tokens, at least 1. Default: 40."""

    @field_validator("multiplier")
    @classmethod
    def _steers(cls, value: float) -> float:
        if not value:
            raise InputError(f"{shown(value)}; 0 is the unsteered model. Give another number.")
        return value


Method = Literal["system prompt", "examples", "learned vector", "attention heads"]


class Rivals(Part):
    """What else makes a model show a behavior, measured as its vector is."""

    methods: Annotated[tuple[Method, ...], AsTuple, AfterValidator(_each_once)] = ()
    """Some of ``"system prompt"``, ``"examples"``, ``"learned vector"``, ``"attention heads"``. Default: none."""


class Applied(Part):
    """One vector of a combination."""

    vector: Text
    """Name of a behavior of the study."""
    layers: Layers | None = None
    """0-based block indices after each of which it is applied, of the study's. Default: the behavior's chosen layer."""
    multiplier: Multiplier = 1.0
    """Number from -1e6 to 1e6. Default: 1."""
    operator: Spelled | None = None
    """As :func:`caa_interp.steering.operator_named` reads it. Default: the study's."""
    positions: Spelled | None = None
    """As :func:`caa_interp.steering.positions_named` reads it. Default: the study's."""


class Combination(Part):
    """Several interventions at once, such as two vectors, or one after several layers."""

    name: Text
    """What tables and the page call it."""
    interventions: Annotated[tuple[Applied, ...], AsTuple, Some]
    """Tables of :class:`Applied`, applied in turn."""


Combinations = Annotated[tuple[Combination, ...], AsTuple, Field(max_length=1000)]
_NameAsTable = BeforeValidator(lambda value: {"name": value} if isinstance(value, str | Path) else value)
Models = Annotated[tuple[Annotated[ModelConfig, _NameAsTable], ...], AsTuple, Some]
