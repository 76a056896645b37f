"""A shard: a piece of work that depends on nothing but itself, known by a hash of all that determines its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.files import files_digest, fingerprint

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig

# Code that reads, draws, or writes for other tools cannot change the content of a shard.
_IRRELEVANT = (
    *("cli/", "plotting/", "doctor/", "interchange/", "study/", "report/", "paper/", "explorer/"),
    *("behaviors/downloads.py", "progress.py", "files.py", "devices.py"),
)


@dataclass(frozen=True)
class Shard:
    """One piece of work; ``label`` is its name for people, ``key`` 64 hexadecimal digits, see :func:`shard`.

    ``kind`` names a function of :data:`caa_interp.study.work.KINDS`, which is called with ``model`` and ``arguments``.
    """

    key: str
    kind: str
    label: str
    model: ModelConfig
    arguments: Mapping[str, Any]


def shard(kind: str, label: str, model: ModelConfig, facts: Mapping[str, Any], arguments: Mapping[str, Any]) -> Shard:
    """Make a shard; its key is the sha256 of kind, arguments and the facts of ``Worker.describe``, by content."""
    return Shard(fingerprint([kind, facts, arguments]), kind, label, model, arguments)


@cache
def code_digest() -> str:
    """Return the sha256 of that part of this package's source that a shard's result may depend on."""
    root = Path(str(files("caa_interp")))
    read = (path for path in root.rglob("*.py") if not path.relative_to(root).as_posix().startswith(_IRRELEVANT))
    return files_digest(root, [*read, root / "study" / "work.py"])
