"""A study as one object: read from TOML or made in Python, checked as a whole before any work, then unchangeable."""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import Field, ValidationError, ValidationInfo, field_validator

from caa_interp.behaviors.behavior import load_behavior
from caa_interp.errors import InputError
from caa_interp.prompts.rendering import Format
from caa_interp.study.fields import (
    MOST,
    Answers,
    AnyText,
    Behaviors,
    Controls,
    Costs,
    CountFrom1,
    Layers,
    ModelConfig,
    Models,
    Multipliers,
    Part,
    PromptConfig,
    Seed,
    SideEffects,
    Spelled,
    Text,
    packaged,
    slug,
)
from caa_interp.study.problems import explained, flat, shown

__all__ = ["Answers", "Controls", "Costs", "ExperimentConfig", "ModelConfig", "PromptConfig", "SideEffects", "slug"]

_TOLD_APART_BY = ("revision", "dtype", "backend", "device")
MAX_BYTES = 64 * 1024
# tomllib takes time and memory by the square of a dotted key's length: 64 KiB of `a.a.a` would take a minute.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')[ \t]*+\.[ \t]*+){64}""")


class ExperimentConfig(Part):
    """A study: which models, which behaviors, and what is measured.

    Parameters
    ----------
    **fields
        Those below, from Python: numbers, texts, lists, and dicts or objects for the parts. Relative paths start at
        the current folder.

    Raises
    ------
    InputError
        One for everything that is wrong: a line per field with what was given, what is allowed, and the nearest valid
        name. All that needs no model is checked: behavior files are read and their pairs counted.

    Examples
    --------
    As a TOML file, for :meth:`load`; every field may be left out::

        name = "Two behaviors"
        behaviors = ["sycophancy", "my-behavior.json"]
        format = "text"
        estimator = "mean_difference"
        layers = [10, 12, 14]
        operator = "add"
        positions = "from_last_prompt_token"
        multipliers = [-2, -1, 0, 1, 2]
        system_prompt = "Be brief."
        n_validation = 20
        n_train = 96
        n_test = 50
        seed = 0

        [prompt]
        style = "chat-template"
        template_arguments = {enable_thinking = false}

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
        temperature = 0.7
        n = 2
        top_p = 0.9
        seed = 0

        [costs]
        passages = 12
        questions = 24
        prompts = 6

        [side_effects]
        pairs = 12

    From Python:

    >>> from caa_interp.study.config import ExperimentConfig
    >>> config = ExperimentConfig(behaviors=["optimism"], format="text", controls={"random": 8})
    >>> config.controls
    Controls(random=8, orthogonal=0, shuffled=4)
    """

    name: Text = "study"
    """Title. Default: the name of the file without ``.toml``, or ``"study"``."""
    behaviors: Behaviors = Field(default_factory=packaged)
    """Names or ``.json`` files; a path is made absolute. Default: all packaged behaviors, sorted."""
    format: Format = "choices"
    """``"choices"`` (default, the paper's) or ``"text"``."""
    estimator: Spelled = "mean_difference"
    """Name of a function of :mod:`caa_interp.vectors.estimators`. Default: ``"mean_difference"``, the paper's."""
    layers: Layers | None = None
    """0-based block indices, each once. Default: all of each model."""
    operator: Spelled = "add"
    """As :func:`caa_interp.steering.operator_named` reads it, such as ``"Cap(high=3.0)"``. Default: ``"add"``."""
    positions: Spelled = "from_last_prompt_token"
    """As :func:`caa_interp.steering.positions_named` reads it. Default: ``"from_last_prompt_token"``, the paper's."""
    multipliers: Multipliers = (-2.0, -1.0, 0.0, 1.0, 2.0)
    """Numbers from -1e6 to 1e6, each once: 0, and at least one other. Default: -2, -1, 0, 1, 2."""
    system_prompt: AnyText | None = None
    """Put before every question. Default, and the same as ``""``: none."""
    n_validation: CountFrom1 = 20
    """Train pairs on which the layer is chosen, at least 1; unused where ``layers`` has only one. Default: 20."""
    n_train: CountFrom1 | None = None
    """Train pairs that make the vector, drawn at random, at least 1. Default: all that validation leaves."""
    n_test: CountFrom1 | None = None
    """Test pairs that are scored, drawn at random, at least 1. Default: all."""
    seed: Seed = 0
    """Seed of splits, draws, controls and intervals, from 0 to 2**32 - 1. Default: 0."""
    prompt: PromptConfig = PromptConfig()
    """Table of :class:`PromptConfig`, for all models that have none of their own."""
    models: Models = (ModelConfig(),)
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
        _distinct([load_behavior(value).name for value in values])
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
        if value is None:
            return value
        field = str(info.field_name)
        apart = _set_apart({**info.data, field: value})
        for behavior in map(load_behavior, info.data.get("behaviors", ())):
            n_train, n_test = len(behavior.train), len(behavior.test)
            used, most, why = {
                "n_validation": (apart, n_train - 1, f"{n_train} train pairs, and one must be left for the vector"),
                "n_train": (value, n_train - apart, f"{n_train} train pairs, of which validation takes {apart}"),
                "n_test": (value, n_test, f"{n_test} test pairs"),
            }[field]
            if used > most:
                raise InputError(f"{value}; it must be at most {max(0, most)}: {shown(behavior.name)} has {why}.")
        return value

    @field_validator("models")
    @classmethod
    def _distinct_models(cls, values: tuple[ModelConfig, ...], info: ValidationInfo) -> tuple[ModelConfig, ...]:
        _distinct(_labels(values))
        prompt = {"prompt": info.data.get("prompt")}
        return tuple(value if value.prompt else value.model_copy(update=prompt) for value in values)

    @field_validator("controls")
    @classmethod
    def _enough_to_shuffle(cls, value: Controls, info: ValidationInfo) -> Controls:
        for behavior in map(load_behavior, info.data.get("behaviors", ()) if value.shuffled else ()):
            left = len(behavior.train) - _set_apart(info.data)
            if min(left, info.data.get("n_train") or left) == 1:
                raise InputError(
                    f"shuffled is {value.shuffled}, but one pair makes the vector of {shown(behavior.name)}, and "
                    "labels are shuffled between at least 2. Give it more train pairs, or shuffled = 0."
                )
        return value

    @field_validator("answers")
    @classmethod
    def _answers_of_the_study(cls, value: Answers, info: ValidationInfo) -> Answers:
        value = value if value.seed is not None else value.model_copy(update={"seed": info.data.get("seed")})
        if value.multipliers is not None or "multipliers" not in info.data:
            return value
        doses = info.data["multipliers"]
        # Doses may all lie on one side of 0, and then two of these are one.
        twice = dict.fromkeys([max(2 * min(doses), -MOST), 0.0, min(2 * max(doses), MOST)])
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
        fields = {"name": path.stem, **_read(path)}
        try:
            return cls.model_validate(fields, context={"folder": path.absolute().parent})
        except ValidationError as error:
            raise explained(cls, error, f"config file {path}") from None

    def to_toml(self) -> str:
        """Write everything, given or default, as TOML that loads back to an equal object; None is left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each model is called in tables and files: its id, ``@`` and what tells it from another of that id."""
        return _labels(self.models)

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


def _labels(models: Sequence[ModelConfig]) -> tuple[str, ...]:
    ids = [model.id for model in models]
    groups: dict[str, list[ModelConfig]] = {}
    for name, model in zip(ids, models, strict=True):
        groups.setdefault(slug(name).lower(), []).append(model)
    tells = {  # fields that tell models of one id apart
        name: [field for field in _TOLD_APART_BY if len({getattr(one, field) for one in same}) > 1]
        for name, same in groups.items()
    }
    return tuple(
        "@".join([name, *filter(None, (getattr(model, field) for field in tells[slug(name).lower()]))])
        for name, model in zip(ids, models, strict=True)
    )


def _read(path: Path) -> dict[str, Any]:
    """Read a TOML file of at most 64 KiB; for broken TOML, :class:`InputError` names line and column."""
    what = f"config file {path}"
    if not os.path.isfile(path):
        raise InputError(f"{what}: there is no such file. Check the path.")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(f"{what}: more than {MAX_BYTES:,} bytes, which is no study. Check that it is the right file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{what}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    if long := _LONG_KEY.search(text):
        line = text.count("\n", 0, long.start()) + 1
        raise InputError(f"{what}: not valid: a key of 64 parts or more (at line {line}). Correct it there.")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")
        why = str(error).replace("end of document", f"line {len(lines)}, column {len(lines[-1]) + 1}")
        raise InputError(f"{what}: not valid TOML: {why}. Correct it there.") from None
    except RecursionError:
        raise InputError(f"{what}: not valid: lists or tables nested too deep. A study needs two levels.") from None
    except ValueError as error:
        raise InputError(f"{what}: not valid: a number with too many digits ({error}). Correct it.") from None


def _set_apart(fields: Mapping[str, Any]) -> int:
    """Return how many train pairs choose the layer: 0 if there is only one layer."""
    return 0 if len(fields.get("layers") or ()) == 1 else int(fields.get("n_validation", 0))


def _distinct(names: Sequence[str]) -> None:
    """Raise :class:`InputError` if two names would be one in tables, or on a disk that ignores case."""
    counts = Counter(slug(name).lower() for name in names)
    same = [name for name in names if counts[slug(name).lower()] > 1]
    if same:
        raise InputError(f"{shown(tuple(same))} would be one in tables and files; give each a name of its own.")
