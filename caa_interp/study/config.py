"""A study as one object: read from TOML or made in Python, checked as a whole before any work, then unchangeable."""

from __future__ import annotations

import os
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import tomli_w
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from caa_interp.behaviors.behavior import Behavior, behavior_names
from caa_interp.errors import InputError
from caa_interp.files import fingerprint, read_text, slug
from caa_interp.prompts.rendering import Format
from caa_interp.study.fields import (
    MOST,
    Answers as Answers,
    Applied as Applied,
    Behaviors,
    Combination as Combination,
    Combinations,
    Controls as Controls,
    Conversations as Conversations,
    Costs as Costs,
    CountFrom1,
    Interference as Interference,
    Layers,
    ModelConfig as ModelConfig,
    Models,
    Multipliers,
    Part,
    PromptConfig as PromptConfig,
    Rivals as Rivals,
    SafetyAudit as SafetyAudit,
    Seed,
    SideEffects as SideEffects,
    Spelled,
    SystemPrompt,
    Text,
    check_distinct,
    check_free,
    studied_behavior as studied_behavior,
    with_zero,
)
from caa_interp.study.problems import explained, nearest, shown

# tomllib takes time and memory by the square of a dotted key's length: 1 GB for a key of so many dots, 4 GB for twice.
MAX_DOTS = 16 * 1024


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

        behaviors = ["sycophancy", "my-behavior.json"]
        layers = [10, 12, 14]
        models = ["smollm2-135m-instruct"]

        [answers]
        prompts = 6

    From Python:

    >>> from caa_interp.study.config import ExperimentConfig
    >>> config = ExperimentConfig(behaviors=["optimism"], format="text", controls={"random": 8})
    >>> config.controls
    Controls(random=8, orthogonal=0, shuffled=4)
    """

    name: Text = "study"
    """Title. Default: the name of the file without ``.toml``, or ``"study"``."""
    behaviors: Behaviors = Field(default_factory=lambda: tuple(behavior_names()))
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
    multipliers: Annotated[Multipliers, AfterValidator(with_zero)] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    """Numbers from -1e6 to 1e6, each once: 0, and at least one other. Default: -2, -1, 0, 1, 2."""
    system_prompt: SystemPrompt | None = None
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
    interference: Interference = Interference()
    """Table of :class:`Interference`."""
    safety_audit: SafetyAudit = SafetyAudit()
    """Table of :class:`SafetyAudit`."""
    conversations: Conversations = Conversations()
    """Table of :class:`Conversations`."""
    combinations: Combinations = ()
    """Tables of :class:`Combination`, each measured beside the single vectors. Default: none."""
    rivals: Rivals = Rivals()
    """Table of :class:`Rivals`."""

    @field_validator("n_validation", "n_train", "n_test")
    @classmethod
    def _enough_pairs(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None:
            return None
        field = str(info.field_name)
        apart = _set_apart({**info.data, field: value})
        for behavior in _loaded(info):
            n_train, n_test = len(behavior.train), len(behavior.test)
            used, most = {
                "n_validation": (apart, n_train - 1),
                "n_train": (value, n_train - apart),
                "n_test": (value, n_test),
            }[field]
            if used > most:
                raise InputError(
                    f"{value}; it must be at most {most}: {shown(behavior.name)} has {n_train} train pairs, of which "
                    f"validation takes {apart} and the vector at least 1, and {n_test} test pairs."
                )
        return value

    @field_validator("n_train")
    @classmethod
    def _enough_for_the_estimator(cls, value: int | None, info: ValidationInfo) -> int | None:
        fields = {**info.data, "n_train": value}
        for behavior in _loaded(info) if fields.get("estimator") == "whitened_mean_difference" else ():
            if _n_train(behavior, fields) < 2:
                raise InputError(
                    f"one pair makes the vector of {shown(behavior.name)}, and {fields['estimator']} needs at least 2. "
                    "Give it more train pairs, or take another estimator."
                )
        return value

    @field_validator("models")
    @classmethod
    def _distinct_and_addressed(cls, values: tuple[ModelConfig, ...], info: ValidationInfo) -> tuple[ModelConfig, ...]:
        prompt = {"prompt": info.data.get("prompt")}
        addressed = tuple(value if value.prompt else value.model_copy(update=prompt) for value in values)
        check_distinct(_labels(addressed), "Give the two a different setting, rename a folder, or leave one out.")
        return addressed

    @field_validator("controls")
    @classmethod
    def _enough_to_shuffle(cls, value: Controls, info: ValidationInfo) -> Controls:
        for behavior in _loaded(info) if value.shuffled else ():
            if _n_train(behavior, info.data) < 2:
                raise InputError(
                    f"shuffled is {value.shuffled}, but one pair makes the vector of {shown(behavior.name)}, and "
                    "labels are shuffled between at least 2. Give it more train pairs, or shuffled = 0."
                )
        return value

    @field_validator("answers")
    @classmethod
    def _answers_of_the_study(cls, value: Answers, info: ValidationInfo) -> Answers:
        filled: dict[str, Any] = {}
        if value.seed is None:
            filled["seed"] = info.data.get("seed")
        if value.multipliers is None and (doses := info.data.get("multipliers")):
            # Doses may all lie on one side of 0, and then two of these are one.
            strong = max(2 * min(doses), -MOST), 0.0, min(2 * max(doses), MOST)
            filled["multipliers"] = tuple(dict.fromkeys(strong))
        return value.model_copy(update=filled)

    @field_validator("combinations")
    @classmethod
    def _of_the_study(cls, values: tuple[Combination, ...], info: ValidationInfo) -> tuple[Combination, ...]:
        names = [behavior.name for behavior in _loaded(info)]
        own = [one.name for one in values]
        check_free(own)
        check_distinct([*names, *own] if own else [], "Give each combination another name.", of_files=False)
        for part in (part for one in values for part in one.interventions):
            if names and part.vector not in names:
                allowed = f"it must be one of {', '.join(names)}{nearest(part.vector, names) or '.'}"
                raise InputError(f"a vector is {shown(part.vector)}; {allowed}")
            if (layers := info.data.get("layers")) and (other := set(part.layers or ()) - set(layers)):
                raise InputError(f"layers has {min(other)}, which is none of the study's {shown(layers)}.")
        return values

    @field_validator("rivals")
    @classmethod
    def _comparable(cls, value: Rivals, info: ValidationInfo) -> Rivals:
        needs = {"examples": 4, "attention heads": 5}  # train pairs
        costs, doses = info.data.get("costs", Costs()), info.data.get("multipliers", [1.0])
        if value.methods and not (costs.prompts and max(doses) > 0):
            raise InputError("they are compared at equal cost: costs.prompts and a multiplier must be above 0.")
        for behavior in _loaded(info) if value.methods else ():
            check_distinct([behavior.name, *value.methods], "Give the behavior another name.", of_files=False)
            least, n = max(needs.get(one, 1) for one in value.methods), _n_train(behavior, info.data)
            prompted = "system prompt" not in value.methods or "positive" in behavior.system_prompts
            if not (behavior.open_ended and prompted and n >= least):
                raise InputError(
                    f"{shown(value.methods)} need open-ended questions, at least {least} train pairs and, for a system "
                    f"prompt, a positive one; {shown(behavior.name)} lacks one of these. Add it, or leave methods out."
                )
        return value

    @field_validator("conversations")
    @classmethod
    def _of_one_turn(cls, value: Conversations, info: ValidationInfo) -> Conversations:
        from caa_interp.steering.positions import check_turn, positions_named

        if value.conversations and (positions := info.data.get("positions")):
            check_turn(positions_named(positions), f"conversations is {value.conversations}, but positions")
        return value

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a study from a TOML file.

        Parameters
        ----------
        path
            Relative paths in it start at its folder.

        Raises
        ------
        InputError
            One for everything that is wrong, as above; for broken TOML with its place.
        """
        return cls._checked(Path(path), _read(Path(path)))

    @classmethod
    def _checked(cls, path: Path, fields: Mapping[str, Any], is_kept: bool = False) -> Self:
        """Study of the fields in a file; of one that ``is_kept`` in a run's folder, the models may be elsewhere now."""
        context = {"folder": path.absolute().parent, "is_kept": is_kept}
        try:
            return cls.model_validate({"name": path.stem, **fields}, context=context)
        except ValidationError as error:
            raise explained(cls, error, f"config file {path}") from None

    def to_toml(self) -> str:
        """Write everything, given or default, as TOML that loads back to an equal object; None is left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True))

    @property
    def labels(self) -> tuple[str, ...]:
        """What each model is called in tables and files: its id, ``@`` and what tells it from another of that id."""
        return _labels(self.models)

    @property
    def asked(self) -> dict[str, Any]:
        """How pairs are asked."""
        return {"format": self.format, "system_prompt": self.system_prompt}

    @property
    def applied(self) -> dict[str, Any]:
        """How vectors are applied."""
        return {"operator": self.operator, "positions": self.positions}

    @property
    def data(self) -> dict[str, str]:
        """Digest of the pairs and questions of each behavior, by its name."""
        behaviors = map(studied_behavior, self.behaviors)
        return {one.name: fingerprint([one.train, one.test, one.open_ended]) for one in behaviors}

    def differences(self, path: Path) -> list[str]:
        """Name each field in which the study that :meth:`to_toml` wrote into a file differs from this one.

        Files may have been moved since: of a local model the name alone counts, and behaviors are left out. What
        they hold is told by their revisions, and by :attr:`data`.

        Returns
        -------
        list of str
            Such as ``"controls.random: 4 and 8"``, the file's value first; empty if the studies are equal.

        Raises
        ------
        InputError
            If the file holds no study.
        """
        kept = self._checked(path, {**_read(path), "behaviors": self.behaviors}, is_kept=True)
        before, now = _flat(kept), _flat(self)
        return [
            f"{name}: {shown(before.get(name))} and {shown(now.get(name))}"
            for name in before | now
            if before.get(name) != now.get(name)
        ]


def _read(path: Path) -> dict[str, Any]:
    """Fields of a TOML file; :class:`InputError` if it is none."""
    what = f"config file {path}"
    text = read_text(path, what)
    if text.count(".") > MAX_DOTS:
        raise InputError(f"{what}: more than {MAX_DOTS:,} dots, too many for a study. Check that it is the right file.")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError(f"{what}: not valid: lists or tables nested too deep. A study needs two levels.") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise InputError(f"{what}: not valid TOML: {error}. Correct it there.") from None


def _flat(study: ExperimentConfig) -> dict[Any, Any]:
    """Fields that hold no others, by their dotted names; of a path the last part."""
    import pandas as pd

    fields = study.model_dump()
    for number, model in enumerate(fields.pop("models")):
        if os.path.isabs(model["name"]):
            model["name"] = os.path.join("...", os.path.basename(model["name"]))
        fields[f"models[{number}]"] = model
    return pd.json_normalize(fields).iloc[0].to_dict()


def _labels(models: Sequence[ModelConfig]) -> tuple[str, ...]:
    ids = [slug(model.id).casefold() for model in models]
    settings = [_settings(model) for model in models]
    shared = Counter((own, one) for own, given in zip(ids, settings, strict=True) for one in given.items())
    return tuple(
        "@".join([model.id, *(value for name, value in given.items() if shared[own, (name, value)] < ids.count(own))])
        for model, own, given in zip(models, ids, settings, strict=True)
    )


def _settings(model: ModelConfig) -> dict[str, str]:
    """What one model may be studied with in two ways, by its name, as far as it is given."""
    plain = {"revision", "dtype", "backend", "device", "device_map"}
    prompt = model.prompt or PromptConfig()
    style = {"style": prompt.style} if prompt.style else {}
    arguments = {name: f"{name}={value}" for name, value in prompt.template_arguments}
    return {**model.model_dump(include=plain, exclude_defaults=True), **style, **arguments}


def _loaded(info: ValidationInfo) -> list[Behavior]:
    """Behaviors of a study that is being checked; none if something is wrong with them."""
    return [studied_behavior(one) for one in info.data.get("behaviors", ())]


def _n_train(behavior: Behavior, fields: Mapping[str, Any]) -> int:
    """Return how many train pairs make the vector."""
    left = len(behavior.train) - _set_apart(fields)
    return min(left, fields.get("n_train") or left)


def _set_apart(fields: Mapping[str, Any]) -> int:
    """Return how many train pairs choose the layer: 0 if there is only one layer."""
    return 0 if len(fields.get("layers") or ()) == 1 else int(fields.get("n_validation", 0))
