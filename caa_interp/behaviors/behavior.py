"""Behaviors: contrast pairs for training and testing, and the texts that go with them, in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.files import write_atomically

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

    def save(self, path: str | Path) -> Path:
        """Write the ``.json`` file that :func:`load_behavior` reads; fields that are empty are left out.

        The old file, if any, is replaced only when the new one is whole.

        Raises
        ------
        InputError
            If the path has another ending, or the behavior could not be read again: a text is missing, two pairs have
            one id, or pairs are kept as published.
        """
        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"path: {str(path)!r} must end in '.json'.")
        splits = {
            name: check_pairs(pairs) if pairs else [] for name, pairs in (("train", self.train), ("test", self.test))
        }
        if any(isinstance(pair, PublishedPair) for pairs in splits.values() for pair in pairs):
            raise InputError("pairs: some are kept as published, with letters for answers. Read them without compat.")
        fields = {name: value for name, value in vars(self).items() if value}
        items = {
            name: [{k: v for k, v in vars(pair).items() if v is not None} for pair in splits[name]] for name in splits
        }
        content = {"format": FORMAT, **fields, "system_prompts": dict(self.system_prompts), **items}
        text = json.dumps(content, indent=2, ensure_ascii=False)
        parse_behavior(json.loads(text), source=f"behavior {self.name!r}")
        write_atomically(path, f"{text}\n".encode())
        return path


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
    train, test = (parse_pairs(_typed(data, split, list, source), f"{source}: {split}") for split in ("train", "test"))
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
