"""A shard: a piece of work that depends on nothing but itself, known by a hash of all that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.vectors.vector import SteeringVector

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig

# Code that reads, draws, or writes for other tools cannot change what a shard holds.
_IRRELEVANT = (
    *("cli/", "plotting/", "doctor/", "interchange/", "study/", "report/", "paper/", "explorer/"),
    *("behaviors/downloads.py", "progress.py", "files.py", "devices.py"),
)


@dataclass(frozen=True)
class Shard:
    """One piece of work.

    Attributes
    ----------
    key
        64 hexadecimal digits, see :func:`shard`.
    kind
        What is done, a name of :data:`caa_interp.study.work.KINDS`.
    label
        What people call it.
    model
        The model that it is done with.
    arguments
        Those of the function; pairs, vectors, numbers and texts.
    """

    key: str
    kind: str
    label: str
    model: ModelConfig
    arguments: Mapping[str, Any]


def shard(kind: str, label: str, model: ModelConfig, facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> Shard:
    """Make a shard; its key is the sha256 of the kind, the facts and the arguments, by content.

    Parameters
    ----------
    kind, label, model, arguments
        See :class:`Shard`.
    facts
        What was found about the model when it was loaded: revision, type, device, versions of code.
    """
    content = {"kind": kind, "facts": _content(facts), "arguments": _content(arguments)}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return Shard(hashlib.sha256(text.encode()).hexdigest(), kind, label, model, arguments)


def fingerprint(value: Any) -> str:
    """Return the sha256 of pairs, vectors, numbers and texts, nested in lists and mappings."""
    return hashlib.sha256(json.dumps(_content(value), sort_keys=True).encode()).hexdigest()


@cache
def code_digest() -> str:
    """Return the sha256 of that part of this package's source that a shard's result may depend on."""
    root = Path(str(files("caa_interp")))
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_IRRELEVANT) or name == "study/work.py":
            digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _content(value: Any) -> Any:
    """JSON that two values share exactly when they are equal."""
    if isinstance(value, ContrastPair):
        return {"pair": type(value).__name__, **vars(value)}
    if isinstance(value, SteeringVector):
        array = value.values.contiguous().numpy()
        return {
            "vector": hashlib.sha256(array.tobytes()).hexdigest(),
            "type": str(array.dtype),
            "layers": list(value.layers),
            "metadata": _content(value.metadata),
        }
    if isinstance(value, Mapping):
        # The order of vectors is that of the rows of a result.
        return [[name, _content(one)] for name, one in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_content(one) for one in value]
    return value
