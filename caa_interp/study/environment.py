"""What a run was made with: code, libraries, data and devices, as its manifest keeps them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from caa_interp import devices
from caa_interp.behaviors.behavior import data_folder
from caa_interp.files import files_digest, fingerprint
from caa_interp.study.config import ExperimentConfig, studied_behavior

GIT_SECONDS = 10.0


def environment() -> dict[str, Any]:
    """As :func:`caa_interp.devices.environment`, with ``commit`` and ``dirty`` of the code."""
    commit, dirty = checkout(Path(str(files("caa_interp"))).parent)
    return {**devices.environment(), "commit": commit, "dirty": dirty}


def made_of(config: ExperimentConfig, models: Mapping[str, Any]) -> str:
    """Return the sha256 of all that the files of a study depend on; ``models`` are the facts of each, by its label."""
    root = Path(str(files("caa_interp")))
    code = files_digest(root, root.rglob("*.py"))
    texts = files_digest(data_folder(), (path for path in data_folder().iterdir() if path.is_file()))
    prompts = [dict(studied_behavior(one).system_prompts) for one in config.behaviors]
    packages = devices.environment()["packages"]
    return fingerprint([config.to_toml(), config.data, prompts, models, code, texts, packages])


def checkout(folder: Path) -> tuple[str | None, bool | None]:
    """Full id of the commit that is checked out in a folder, and whether a tracked file differs from it.

    Both are None if the folder is not the root of a checkout with a commit, or if git is missing, fails or takes longer
    than ten seconds.
    """
    if not (folder / ".git").exists():  # a package may be installed somewhere inside another checkout
        return None, None
    # A variable such as GIT_DIR, which git sets for its hooks, would lead to another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "status"]
    asked = ["--porcelain=v2", "--branch", "--untracked-files=no"]
    options: Any = {"cwd": folder, "env": variables, "stdin": subprocess.DEVNULL, "timeout": GIT_SECONDS}
    try:
        told = subprocess.run([*command, *asked], capture_output=True, check=True, **options).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None, None
    commit = told[0].removeprefix(b"# branch.oid ").decode()
    return (None, None) if commit == "(initial)" else (commit, any(not line.startswith(b"# ") for line in told))
