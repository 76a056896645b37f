"""A study as one object: read from TOML or made in Python, checked as a whole before any work, the same ever after."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from caa_interp.behaviors import load_behavior, load_behaviors
from caa_interp.errors import InputError
from caa_interp.experiment.problems import explained, flat, nearest, shown
from caa_interp.experiment.toml import read_toml, to_toml
from caa_interp.models.loading import EMBEDDED, Backend
from caa_interp.prompts import Format


def slug(name: str) -> str:
    """Name of a file or folder for a model or a behavior, whatever characters it has."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"


def _sequence(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def _text(value: str) -> str:
    if not value.strip():
        raise InputError(f"{value!r}; it must be a text that is not empty.")
    return _writable(value)


def _writable(value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{shown(value)}; it must be a text that UTF-8 can write.")
    return value


def _each_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise InputError(f"{shown(values)} names one twice; name each once.")
    return values


def _place(value: str, info: ValidationInfo) -> str:
    """Absolute path, from the folder of the config file, or from the current one."""
    folder = (info.context or {}).get("folder", Path.cwd())
    return str(folder / os.path.expanduser(value))


def _behavior(name: str, info: ValidationInfo) -> str:
    if not name.endswith(".json"):
        known = list(load_behaviors())
        if name not in known:
            raise InputError(
                f"{shown(name)}; it must be one of {', '.join(known)}, or a .json file{nearest(name, known) or '.'}"
            )
        return name
    path = _place(name, info)
    if not os.path.isfile(path):
        raise InputError(f"{shown(name)}; there is no file {path}.")
    try:
        behavior = load_behavior(path)
    except OSError as error:
        raise InputError(f"{shown(name)}; the file cannot be read ({error}).") from error
    _text(behavior.name)
    for split in ("train", "test"):
        if not getattr(behavior, split):
            raise InputError(f"{shown(name)}; it has no {split} pairs, and a study needs some.")
    return path


def _model(name: str, info: ValidationInfo) -> str:
    """Check what can be known without loading; names of the Hugging Face hub are left as they are."""
    if name == EMBEDDED:
        return name
    path = _place(name, info)
    if name.endswith(".gguf"):
        if not os.path.isfile(path):
            raise InputError(f"{shown(name)}; there is no file {path}.")
        return path
    if os.path.isdir(path):
        return path
    if os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1:
        raise InputError(f"{shown(name)}; there is no folder {path}.")
    if "/" not in name and (hint := nearest(name, [EMBEDDED], 0.75)):
        raise InputError(
            f"{shown(name)}; it must be {EMBEDDED!r}, a folder, a .gguf file or a Hugging Face name such as "
            f"'owner/name'{hint}"
        )
    return name


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str | Path) else value


def _path_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


# More of anything is a slip of the keyboard.
Count = Annotated[int, Field(ge=0, le=1_000_000)]
CountFrom1 = Annotated[int, Field(ge=1, le=1_000_000)]
Text = Annotated[str, AfterValidator(_text)]
Multipliers = Annotated[
    tuple[float, ...], BeforeValidator(_sequence), Field(min_length=1), AfterValidator(_each_once)
]
Layers = Annotated[tuple[Count, ...], BeforeValidator(_sequence), Field(min_length=1), AfterValidator(_each_once)]


class _Part(BaseModel):
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


class ModelConfig(_Part):
    """A model, as :func:`caa_interp.load_model` takes it."""

    name: Annotated[str, BeforeValidator(_path_text), AfterValidator(_text), AfterValidator(_model)] = EMBEDDED
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
    """How a model is spread over devices, such as ``"auto"``; bridge only, excludes ``device``. Default: it is not."""

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


class Controls(_Part):
    """Vectors of equal norm that ought to do nothing, beside each behavior's vector."""

    random: Count = 4
    """Number of random directions, at least 0. Default: 4."""
    orthogonal: Count = 0
    """Number of random directions orthogonal to the vector, at least 0. Default: 0."""
    shuffled: Count = 4
    """Number of vectors of shuffled labels, at least 0. Default: 4."""


class Answers(_Part):
    """Free answers, steered at the chosen layer."""

    prompts: Count = 6
    """Number of each behavior's open-ended questions, the first ones; 0: no answers. Default: 6."""
    multipliers: Multipliers | None = None
    """Finite numbers, each once. Default: twice the outermost of the study's ``multipliers``, and 0."""
    max_new_tokens: CountFrom1 = 60
    """Longest answer in tokens, at least 1. Default: 60."""


class Costs(_Part):
    """What steering costs besides: on prose, on open-ended questions, on knowledge."""

    passages: Count = 12
    """Number of passages of :func:`caa_interp.load_prose` for perplexity, the first ones; 0: none. Default: 12."""
    questions: Count = 24
    """Number of packaged questions for capability, evenly spread over subjects; 0: none. Default: 24."""
    prompts: Count = 6
    """Number of each behavior's open-ended questions for divergence, the first ones; 0: none. Default: 6."""


class SideEffects(_Part):
    """What each vector does to the other behaviors."""

    pairs: Count = 12
    """Number of each behavior's test pairs, scored under every vector; 0: no matrix. Default: 12."""


class ExperimentConfig(_Part):
    """A study: which models, which behaviors, and what is measured.

    Parameters
    ----------
    **fields
        Those below, from Python: numbers, texts, lists, and dicts or objects for the parts. Relative paths start at
        the current folder.

    Raises
    ------
    InputError
        One for everything that is wrong: a line for each field with what was given, what is allowed, and the nearest
        valid name. Checked is all that can be without a model: behavior files are read and their pairs counted.

    Examples
    --------
    As a TOML file, for :meth:`load`; every field may be left out::

        name = "Two behaviors"
        behaviors = ["sycophancy", "my-behavior.json"]
        format = "text"
        layers = [10, 12, 14]
        multipliers = [-2, -1, 0, 1, 2]
        system_prompt = "Be brief."
        n_validation = 20
        n_train = 96
        n_test = 50
        seed = 0

        [[models]]
        name = "smollm2-135m-instruct"
        dtype = "float32"

        [controls]
        random = 4
        orthogonal = 0
        shuffled = 4

        [answers]
        prompts = 6
        multipliers = [-4, 0, 4]
        max_new_tokens = 60

        [costs]
        passages = 12
        questions = 24
        prompts = 6

        [side_effects]
        pairs = 12

    From Python:

    >>> from caa_interp.experiment.config import ExperimentConfig
    >>> config = ExperimentConfig(behaviors=["optimism"], format="text", controls={"random": 8})
    >>> config.controls
    Controls(random=8, orthogonal=0, shuffled=4)
    """

    name: Text = "study"
    """Title. Default: the name of the file without ``.toml``, or ``"study"``."""
    behaviors: Annotated[
        tuple[Annotated[str, BeforeValidator(_path_text), AfterValidator(_behavior)], ...],
        BeforeValidator(_sequence),
        Field(min_length=1, default_factory=lambda: tuple(load_behaviors())),
    ]
    """Names or ``.json`` files; a path is made absolute. Default: all packaged behaviors, sorted."""
    format: Format = "choices"
    """``"choices"`` (default, the paper's) or ``"text"``."""
    layers: Layers | None = None
    """0-based block indices, each once. Default: all of each model."""
    multipliers: Multipliers = (-2.0, -1.0, 0.0, 1.0, 2.0)
    """Finite numbers, each once: 0, and at least one other. Default: -2, -1, 0, 1, 2."""
    system_prompt: Annotated[str, AfterValidator(_writable)] | None = None
    """Put before every question. Default, and the same as ``""``: none."""
    n_validation: CountFrom1 = 20
    """Train pairs on which the layer is chosen, at least 1; unused where ``layers`` has only one. Default: 20."""
    n_train: CountFrom1 | None = None
    """Train pairs that make the vector, drawn at random, at least 1. Default: all that validation leaves."""
    n_test: CountFrom1 | None = None
    """Test pairs that are scored, drawn at random, at least 1. Default: all."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """Seed of splits, draws, controls and intervals, from 0 to 2**32 - 1. Default: 0."""
    models: Annotated[
        tuple[Annotated[ModelConfig, BeforeValidator(_named)], ...], BeforeValidator(_sequence), Field(min_length=1)
    ] = (ModelConfig(),)
    """Models, or their names. Default: the embedded one."""
    controls: Controls = Controls()
    """Table of :class:`Controls`."""
    answers: Answers = Answers()
    """Table of :class:`Answers`."""
    costs: Costs = Costs()
    """Table of :class:`Costs`."""
    side_effects: SideEffects = SideEffects()
    """Table of :class:`SideEffects`."""

    @field_validator("behaviors")
    @classmethod
    def _distinct_behaviors(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        _distinct([load_behavior(value).name for value in values], "behaviors")
        return values

    @field_validator("multipliers")
    @classmethod
    def _with_zero(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if 0 not in values or len(values) < 2:
            raise InputError(f"{shown(values)}; they must hold 0, the unsteered model, and at least one other.")
        return values

    @field_validator("system_prompt")
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        return value or None

    @field_validator("n_validation", "n_train", "n_test")
    @classmethod
    def _enough_pairs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None or "behaviors" not in info.data:
            return value
        # With one layer there is nothing to choose, and no pair is set apart.
        one_layer = len(info.data.get("layers") or ()) == 1
        apart = 0 if one_layer else info.data.get("n_validation", 0)
        for behavior in map(load_behavior, info.data["behaviors"]):
            n_train, n_test = len(behavior.train), len(behavior.test)
            most, why = {
                "n_validation": (n_train - 1, f"has {n_train} train pairs, and one must be left for the vector"),
                "n_train": (n_train - apart, f"has {n_train} train pairs, of which validation takes {apart}"),
                "n_test": (n_test, f"has {n_test} test pairs"),
            }[str(info.field_name)]
            if value > most and not (one_layer and info.field_name == "n_validation"):
                raise InputError(f"{value}; it must be at most {max(0, most)}: behavior {behavior.name!r} {why}.")
        return value

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, values: tuple[ModelConfig, ...]) -> tuple[ModelConfig, ...]:
        _distinct([value.id for value in values], "models")
        return values

    @field_validator("controls")
    @classmethod
    def _enough_to_shuffle(cls, value: Controls, info: ValidationInfo) -> Controls:
        for behavior in map(load_behavior, info.data.get("behaviors", ()) if value.shuffled else ()):
            one_layer = len(info.data.get("layers") or ()) == 1
            left = len(behavior.train) - (0 if one_layer else info.data.get("n_validation", 0))
            if min(left, info.data.get("n_train") or left) == 1:
                raise InputError(
                    f"shuffled is {value.shuffled}, but one pair makes the vector of {behavior.name!r}, and shuffling "
                    "labels needs 2. Give it more train pairs, or shuffled = 0."
                )
        return value

    @field_validator("answers")
    @classmethod
    def _answers_at_twice_the_dose(cls, value: Answers, info: ValidationInfo) -> Answers:
        if value.multipliers is not None or "multipliers" not in info.data:
            return value
        doses = info.data["multipliers"]
        # Doses may all lie on one side of 0.
        twice = dict.fromkeys([2 * min(doses), 0.0, 2 * max(doses)])
        return value.model_copy(update={"multipliers": tuple(twice)})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study from a TOML file.

        Parameters
        ----------
        path
            At most 64 KiB. Relative paths in it start at its folder.

        Raises
        ------
        InputError
            One for everything that is wrong, as above; for broken TOML with line and column.
        """
        path = Path(path)
        fields = {"name": path.stem, **read_toml(path)}
        try:
            return cls.model_validate(fields, context={"folder": path.absolute().parent})
        except ValidationError as error:
            raise explained(cls, error, f"config file {path}") from None

    def to_toml(self) -> str:
        """Write everything, given or default, as TOML that loads back to an equal object; None is left out."""
        return to_toml(self.model_dump())

    def differences(self, other: ExperimentConfig) -> list[str]:
        """Name each field in which two studies differ, with this one's value and the other's.

        Returns
        -------
        list of str
            Such as ``"controls.random: 4 and 8"``; empty if the studies are equal.
        """
        mine, others = dict(flat(self)), dict(flat(other))
        return [
            f"{name}: {shown(mine.get(name))} and {shown(others.get(name))}"
            for name in mine | others
            if mine.get(name) != others.get(name)
        ]

    @property
    def answer_multipliers(self) -> tuple[float, ...]:
        """Multipliers of the answers; in a study they are never None."""
        return self.answers.multipliers or ()


def _distinct(names: Sequence[str], what: str) -> None:
    """Raise :class:`InputError` if two names are one in tables and on disks that take no heed of capitals."""
    counts = Counter(slug(name).lower() for name in names)
    same = [name for name in names if counts[slug(name).lower()] > 1]
    if same:
        raise InputError(
            f"{', '.join(map(shown, same))} would have one name in tables and files; give each {what} once."
        )
