"""Hardware and installed packages, in JSON types."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

CPU_FACTS = Path("/proc/cpuinfo")
PACKAGES = (
    "torch",
    "transformers",
    "transformer-lens",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "plotly",
    "ray",
)


def environment() -> dict[str, Any]:
    """Return what this process runs on, in JSON types.

    ``caa_interp``, ``python`` and ``platform`` are versions; ``packages`` has the version by name of those of
    :data:`PACKAGES` that are installed; ``devices`` and ``threads`` are the results of the functions of these names.
    """
    versions = {name: version_of(name) for name in PACKAGES}
    return {
        "caa_interp": version_of("caa-interp"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: number for name, number in versions.items() if number is not None},
        "devices": devices(),
        "threads": threads(),
    }


def devices() -> list[dict[str, Any]]:
    """``name`` (``"cpu"``, ``"cuda:0"``), ``description`` and ``memory_bytes`` of each, the CPU first."""
    import torch

    memory = psutil.virtual_memory().total
    rows = [{"name": "cpu", "description": _cpu(), "memory_bytes": memory}]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        rows.append({"name": f"cuda:{index}", "description": gpu.name, "memory_bytes": gpu.total_memory})
    if torch.backends.mps.is_available():
        rows.append({"name": "mps", "description": "Apple GPU, which shares the memory", "memory_bytes": memory})
    return rows


def threads() -> dict[str, Any]:
    """``cores`` that this process may use, ``torch`` (threads of one operation) and ``OMP_NUM_THREADS`` if set."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cores": cores, "torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def version_of(package: str) -> str | None:
    """Version of a package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    """Model of the CPU, from /proc/cpuinfo on Linux and from Python elsewhere."""
    if CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
