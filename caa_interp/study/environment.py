"""What a run was made with: code, libraries and devices, as its manifest keeps them."""

from __future__ import annotations

import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

from caa_interp import devices

GIT_SECONDS = 10.0


def environment() -> dict[str, Any]:
    """As :func:`caa_interp.devices.environment`, with ``commit`` and ``dirty`` of the code."""
    commit, dirty = checkout(Path(str(files("caa_interp"))))
    return {**devices.environment(), "commit": commit, "dirty": dirty}


def checkout(package: Path) -> tuple[str | None, bool | None]:
    """Full id of the commit of a package's folder, and whether a tracked file differs from it.

    Both are None if the package is not part of a checkout (it may be installed inside one), or if git is missing, fails
    or takes longer than ten seconds.
    """
    known = _git(package, "ls-files", "--error-unmatch", "--", "__init__.py")
    commit = _git(package, "rev-parse", "--verify", "HEAD") if known is not None else None
    changes = _git(package, "status", "--porcelain", "--untracked-files=no") if commit is not None else None
    return (None, None) if commit is None or changes is None else (commit.strip(), bool(changes.strip()))


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of git in a folder, or None if there is none."""
    # A variable such as GIT_DIR, which git sets for its hooks, would lead to another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *arguments],
            cwd=folder,
            env={**variables, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
