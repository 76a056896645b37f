"""What is installed, and what there is to run on."""

from __future__ import annotations

import importlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import psutil

from caa_interp.devices import environment, version_of
from caa_interp.files import cache_folder

# Modules, what they are needed for, and the extra that installs them.
EXTRAS = {
    "figures": (("kaleido",), "figures as PNG, SVG and PDF"),
    "judge": (("openai",), "judging answers through an API"),
    "finetune": (("peft", "accelerate"), "fine-tuning as a baseline"),
    "notebooks": (("ipywidgets",), "progress bars and the explorer in notebooks"),
    "ray": (("ray",), "studies on several machines or GPUs"),
}


def environment_report() -> dict[str, Any]:
    """Report what is installed and what there is to run on, without the network.

    Returns
    -------
    dict
        JSON types only. What :func:`caa_interp.devices.environment` tells, and

        - ``memory``: ``total_bytes`` and ``available_bytes``;
        - ``cache``: ``folder``, ``free_bytes`` on its disk, ``writable``;
        - ``extras``: by name ``usable``, and ``detail``: what it is for, and what to install where it is not.
    """
    memory = psutil.virtual_memory()
    return {
        **environment(),
        "memory": {"total_bytes": memory.total, "available_bytes": memory.available},
        "cache": _cache(),
        "extras": {"embedded model": _embedded(), **{name: _extra(name) for name in EXTRAS}},
    }


def _cache() -> dict[str, Any]:
    folder = cache_folder().absolute()
    there = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "folder": str(folder),
        "free_bytes": shutil.disk_usage(there).free,
        "writable": there.is_dir() and os.access(there, os.W_OK | os.X_OK),
    }


def _embedded() -> dict[str, Any]:
    from caa_interp.errors import MissingDependencyError
    from caa_interp.models.loading import EMBEDDED, embedded_file

    try:
        file = embedded_file()
    except MissingDependencyError as error:
        return {"usable": False, "detail": str(error)}
    return {"usable": True, "detail": f"{EMBEDDED}, the model that needs no network: {file.name}"}


def _extra(name: str) -> dict[str, Any]:
    """Whether an extra's modules can be imported; being installed is not enough."""
    modules, purpose = EXTRAS[name]
    for module in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            what = f"{missing} is not installed: pip install 'caa-interp[{name}]'"
            return {"usable": False, "detail": f"For {purpose}; {what}"}
        # A package that does not fit the others can fail in any way while it is imported.
        except Exception as error:
            what = f"{module} is installed and does not import ({type(error).__name__}: {' '.join(str(error).split())})"
            return {"usable": False, "detail": f"For {purpose}; {what}: pip install -U 'caa-interp[{name}]'"}
    installed = ", ".join(f"{module} {version_of(module)}" for module in modules)
    if name != "figures":
        return {"usable": True, "detail": f"For {purpose}; {installed}"}
    browser = _browser()
    if browser is None:
        what = "no Chrome or Chromium is found: install one, run `kaleido_get_chrome`, or set BROWSER_PATH"
        return {"usable": False, "detail": f"For {purpose}; {installed}, but {what}"}
    return {"usable": True, "detail": f"For {purpose}; {installed}, drawn by {browser}"}


def _browser() -> Path | None:
    """Return the program with which kaleido draws; it is not started."""
    from choreographer.browsers.chromium import Chromium

    found = Chromium.find_browser(skip_local=False)
    return Path(found) if found and Path(found).is_file() else None
