"""Behaviors: contrast pairs for training and testing, and the texts that go with them, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair
from caa_interp.errors import InputError

FORMAT = "caa_interp/behavior/1"
MAX_FILE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Behavior:
    """A behavior: train and test pairs, open-ended questions and the texts that go with them.

    Parameters
    ----------
    name
        Short name, as in the paper's tables, e.g. ``"sycophancy"``.
    description
        What the behavior is and which way positive points.
    train, test
        Pairs to make vectors and choices from, and pairs to report effects on.
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


def load_behaviors() -> dict[str, Behavior]:
    """Load all behaviors that come with the package.

    Returns
    -------
    dict
        ``{name: Behavior}``, sorted by name.
    """
    return {path.stem: load_behavior(path) for path in _packaged()}


def load_behavior(name_or_path: str | Path) -> Behavior:
    """Load one behavior by name, or from a JSON file of this project's format.

    Parameters
    ----------
    name_or_path
        A name such as ``"sycophancy"``, or a path that ends in ``.json``.

    Raises
    ------
    InputError
        If there is no such behavior, or if the file cannot be read; the message names the file, the
        item and the field.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        known = {p.stem: p for p in _packaged()}
        if str(name_or_path) not in known:
            raise InputError(
                f"behavior: {str(name_or_path)!r} is not one of {', '.join(known)}. "
                "Give one of these names, or the path of a .json file."
            )
        path = known[str(name_or_path)]
    return parse_behavior(read_json(path), source=str(path))


def read_json(path: Path) -> Any:
    """Read a JSON file of at most 64 MiB; every failure is an :class:`InputError` that names it."""
    if not path.is_file():
        raise InputError(f"behavior file: there is no file {path}. Check the path.")
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise InputError(f"behavior file {path}: {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Split the file.")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"behavior file {path}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"behavior file {path}: not valid JSON ({error}). Correct it there.") from error


def parse_behavior(data: Any, source: str) -> Behavior:
    """Check the content of a behavior file and build a :class:`Behavior` from it.

    Parameters
    ----------
    data
        The decoded JSON.
    source
        Name of the file, for messages.
    """
    if not isinstance(data, dict):
        raise InputError(f"{source}: the top level is {type(data).__name__}; it must be an object.")
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
    train, test = (_pairs(data, split, source) for split in ("train", "test"))
    ids: set[str] = set()
    for pair in [*train, *test]:
        if pair.id is not None and pair.id in ids:
            raise InputError(f"{source}: field 'id' {pair.id!r} is given to two items; make ids unique.")
        ids.add(pair.id or "")
    return Behavior(
        name=_typed(data, "name", str, source),
        description=_typed(data, "description", str, source, default=""),
        train=train,
        test=test,
        open_ended=tuple(open_ended),
        system_prompts=prompts,
        rubric=_typed(data, "rubric", str, source, default=""),
        license=_typed(data, "license", str, source, default=""),
    )


def behavior_json(name: str, train: Sequence[ContrastPair], test: Sequence[ContrastPair]) -> str:
    """Return the JSON file of a behavior that has pairs and no more."""
    if any(isinstance(pair, PublishedPair) for pair in [*train, *test]):
        raise InputError("pairs: some are kept as published, with letters for answers. Read them without compat.")

    def items(pairs: Sequence[ContrastPair]) -> list[dict[str, str]]:
        return [{key: value for key, value in vars(pair).items() if value is not None} for pair in pairs]

    content = {"format": FORMAT, "name": name, "description": "", "train": items(train), "test": items(test)}
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def data_folder() -> Path:
    """Folder of the packaged data: inside an installed package, or beside it in a checkout."""
    installed = Path(str(files("caa_interp"))) / "data"
    return installed if installed.is_dir() else installed.parent.parent / "data"


def _packaged() -> list[Path]:
    """Files of the behaviors; names that begin with ``_`` hold something else."""
    return sorted(path for path in data_folder().glob("*.json") if not path.stem.startswith("_"))


def _typed(data: dict[str, Any], key: str, kind: type, where: str, default: Any = None) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind):
        given = "missing" if value is None else f"{type(value).__name__}"
        raise InputError(f"{where}: field {key!r} is {given}; it must be {kind.__name__}.")
    return value


def _pairs(data: dict[str, Any], split: str, source: str) -> tuple[ContrastPair, ...]:
    pairs = []
    for number, item in enumerate(_typed(data, split, list, source)):
        where = f"{source}: {split}[{number}]"
        if not isinstance(item, dict):
            raise InputError(f"{where} is {type(item).__name__}; it must be an object.")
        for key in ("id", "topic"):
            if not isinstance(item.get(key), str | None):
                raise InputError(f"{where}: field {key!r} must be a text.")
        texts = {key: _typed(item, key, str, where) for key in ("question", "positive", "negative")}
        try:
            pairs.append(ContrastPair(**texts, id=item.get("id"), topic=item.get("topic")))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    return tuple(pairs)
