"""Installed packages and hardware."""

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

# By extra: the modules that it installs, and what they are needed for.
EXTRAS = {
    "figures": (("kaleido", "choreographer"), "figures as PNG, SVG and PDF"),
    "judge": (("openai",), "judging answers through an API"),
    "finetune": (("peft", "accelerate"), "fine-tuning as a baseline"),
    "notebooks": (("ipywidgets",), "progress bars and the explorer in notebooks"),
    "ray": (("ray",), "studies on several machines"),
}


def environment_report() -> dict[str, Any]:
    """Report installed packages and hardware, without the network.

    Returns
    -------
    dict
        JSON types only: the entries of :func:`caa_interp.devices.environment`, and

        - ``memory``: ``total_bytes`` and ``available_bytes``;
        - ``cache``: ``folder``, ``free_bytes`` on its disk, ``writable``;
        - ``extras``: by name ``usable`` and ``detail``, its purpose and what to install if it is not usable.
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
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return {
        "folder": str(folder),
        "free_bytes": shutil.disk_usage(existing).free,
        "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
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
    modules, purpose = EXTRAS[name]
    usable, what = _importable(name, modules)
    return {"usable": usable, "detail": f"For {purpose}; {what}"}


def _importable(name: str, modules: tuple[str, ...]) -> tuple[bool, str]:
    """Whether an extra's modules can be imported (being installed is not enough), and what to say of it."""
    for module in modules:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            return False, f"{missing} is not installed: pip install 'caa-interp[{name}]'"
        # An incompatible package can raise anything on import.
        except Exception as error:
            what = f"{module} is installed and does not import ({type(error).__name__}: {' '.join(str(error).split())})"
            return False, f"{what}: pip install -U 'caa-interp[{name}]'"
    installed = ", ".join(f"{module} {version_of(module)}" for module in modules)
    if name != "figures":
        return True, installed
    from choreographer.browsers.chromium import Chromium

    browser = Chromium.find_browser(skip_local=False)
    if not browser or not Path(browser).is_file():
        what = "no Chrome or Chromium is found: install one, run `kaleido_get_chrome`, or set BROWSER_PATH"
        return False, f"{installed}, but {what}"
    return True, f"{installed}, drawn by {browser}"
