"""Behaviors: contrast pairs for training and testing, with their descriptions and questions, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, check_ending
from caa_interp.files import read_json, write_atomically

FORMAT = "caa_interp/behavior/1"


@dataclass(frozen=True)
class Behavior:
    """Train and test pairs of a behavior, its open-ended questions, and texts that describe it.

    Parameters
    ----------
    name
        Short name, as in the paper's tables, e.g. ``"sycophancy"``.
    description
        What the behavior is and which way positive points.
    train, test
        Pairs to make vectors and choose layers with, and pairs to report effects on.
    open_ended
        Questions for free answers.
    system_prompts
        ``{"positive": ..., "negative": ...}``: instructions to show the behavior, or its opposite.
    rubric
        Instructions to a judge who rates an answer from 0 to 10.
    license
        License of the texts.
    """

    name: str
    description: str
    train: Sequence[ContrastPair]
    test: Sequence[ContrastPair]
    open_ended: Sequence[str] = ()
    system_prompts: Mapping[str, str] = field(default_factory=dict)
    rubric: str = ""
    license: str = ""

    def __repr__(self) -> str:
        return (
            f"Behavior({self.name!r}: {len(self.train)} train and {len(self.test)} test pairs, "
            f"{len(self.open_ended)} open-ended questions)"
        )

    def save(self, path: str | Path) -> Path:
        """Write the ``.json`` file that :func:`load_behavior` reads; fields that are empty are left out.

        Raises
        ------
        InputError
            If the path has another ending, or the behavior could not be read back: a text is missing, two pairs have
            one id, or pairs are kept as published.
        """
        path = Path(path)
        check_ending(path, ".json")
        items = {}
        for name, pairs in (("train", self.train), ("test", self.test)):
            checked = check_pairs(pairs) if pairs else []
            if any(isinstance(pair, PublishedPair) for pair in checked):
                raise InputError("pairs: some are kept as published, with letters. Read them without compat.")
            items[name] = [{k: v for k, v in vars(pair).items() if v is not None} for pair in checked]
        fields = {name: value for name, value in vars(self).items() if value}
        content = {"format": FORMAT, **fields, "system_prompts": dict(self.system_prompts), **items}
        text, source = json.dumps(content, indent=2, ensure_ascii=False), f"behavior {self.name!r}"
        parse_behavior(json.loads(text), source)
        try:
            write_atomically(path, f"{text}\n".encode())
        except UnicodeEncodeError as error:
            raise InputError(f"{source}: {text[error.start]!r} is half of a character. Take it out.") from error
        return path


def check_behavior(behavior: Any, name: str = "behavior") -> None:
    """Raise :class:`InputError` unless ``behavior`` is a :class:`Behavior`."""
    if not isinstance(behavior, Behavior):
        raise InputError(f"{name}: {type(behavior).__name__}; give a Behavior, such as load_behavior('sycophancy').")


def check_behaviors(behaviors: Any) -> None:
    """Raise :class:`InputError` unless ``behaviors`` is a mapping that is not empty."""
    if not isinstance(behaviors, Mapping):
        raise InputError(
            f"behaviors: {type(behaviors).__name__}; give behaviors by name, such as {{behavior.name: behavior}}."
        )
    if not behaviors:
        raise InputError("behaviors: the mapping is empty; give at least one behavior.")


def load_behaviors() -> dict[str, Behavior]:
    """Load all behaviors that come with the package.

    Returns
    -------
    dict
        ``{name: Behavior}``, sorted by name.
    """
    return {name: load_behavior(name) for name in behavior_names()}


def behavior_names() -> list[str]:
    """Names of the behaviors that come with the package, sorted."""
    return sorted(path.stem for path in data_folder().glob("[!_]*.json"))


def load_behavior(name_or_path: str | Path) -> Behavior:
    """Load one behavior by name, or from a JSON file of this project's format.

    Parameters
    ----------
    name_or_path
        A name such as ``"sycophancy"``, or a path that ends in ``.json``.

    Raises
    ------
    InputError
        If there is no such behavior, or the file cannot be read; the message names file, item and field.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        known = behavior_names()
        if str(name_or_path) not in known:
            raise InputError(
                f"behavior: {str(name_or_path)!r} is not one of {', '.join(known)}. Give one of these names, or the "
                "path of a .json file; caa-interp data convert turns other files into one."
            )
        path = data_folder() / f"{name_or_path}.json"
    return parse_behavior(read_json(path, f"behavior file {path}"), source=str(path))


def parse_behavior(data: Any, source: str) -> Behavior:
    """Build a :class:`Behavior` from the decoded JSON of a file, whose name ``source`` begins every message."""
    if not isinstance(data, dict):
        raise InputError(
            f"{source}: the top level is {type(data).__name__}; it must be an object. Lists of pairs are read by "
            "read_pairs, and turned into behavior files by caa-interp data convert."
        )
    if data.get("format") != FORMAT:
        raise InputError(
            f"{source}: field 'format' is {data.get('format')!r}; this version reads {FORMAT!r}. "
            "Convert the file, or install a version that reads it."
        )
    prompts = _typed(data, "system_prompts", dict, source, default={})
    if set(prompts) - {"positive", "negative"} or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError(f"{source}: field 'system_prompts' must hold texts under 'positive' and 'negative' only.")
    open_ended = _typed(data, "open_ended", list, source, default=[])
    for number, question in enumerate(open_ended):
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"{source}: open_ended[{number}] must be a non-empty text, not {question!r}.")
    splits: dict[str, Any] = {
        name: parse_pairs(_typed(data, name, list, source), f"{source}: {name}") for name in ("train", "test")
    }
    ids: set[str | None] = set()
    for pair in [*splits["train"], *splits["test"]]:
        if pair.id is not None and pair.id in ids:
            raise InputError(f"{source}: field 'id' {pair.id!r} is given to two items; make ids unique.")
        ids.add(pair.id)
    texts = {name: _typed(data, name, str, source, default="") for name in ("description", "rubric", "license")}
    name = _typed(data, "name", str, source)
    return Behavior(name=name, open_ended=tuple(open_ended), system_prompts=prompts, **splits, **texts)


def data_folder() -> Path:
    """Folder of the packaged data: inside an installed package, or beside it in a checkout."""
    installed = Path(str(files("caa_interp"))) / "data"
    return installed if installed.is_dir() else installed.parent.parent / "data"


def _typed(data: dict[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind):
        given = "missing" if value is None else f"{type(value).__name__}"
        raise InputError(f"{where}: field {key!r} is {given}; it must be {kind.__name__}.")
    return value


def parse_pairs(
    items: Sequence[Any],
    where: str,
    texts: Sequence[str] = ("question", "positive", "negative"),
    topic: str = "topic",
) -> tuple[ContrastPair, ...]:
    """Build the pairs that a file lists; ``texts`` and ``topic`` are what its fields are called."""
    pairs = []
    for number, item in enumerate(items):
        at = f"{where}[{number}]"
        if not isinstance(item, dict):
            raise InputError(f"{at} is {type(item).__name__}; it must be an object.")
        for key in texts:
            if not isinstance(item.get(key), str) or not item[key].strip():
                given = "missing" if item.get(key) is None else repr(item[key])
                raise InputError(f"{at}: field {key!r} is {given}; it must be a non-empty text.")
        for key in ("id", topic):
            if not isinstance(item.get(key), str | None):
                raise InputError(f"{at}: field {key!r} is {item[key]!r}; it must be a text.")
        try:
            question, positive, negative = (item[key] for key in texts)
            pairs.append(ContrastPair(question, positive, negative, item.get("id"), item.get(topic)))
        except InputError as error:
            raise InputError(f"{at}: {error}") from None
    return tuple(pairs)
