"""The parts of a study: a model, and what is measured with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from caa_interp.errors import InputError
from caa_interp.models.loading import EMBEDDED, Backend
from caa_interp.prompts.format import Style
from caa_interp.study.problems import explained, shown
from caa_interp.study.values import (
    AsTuple,
    Count,
    CountFrom1,
    ModelName,
    Multipliers,
    Seed,
    Some,
    TemplateArguments,
    Text,
)


class Part(BaseModel):
    """Immutable, of exactly these fields and types; everything that is wrong is told in one InputError."""

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
