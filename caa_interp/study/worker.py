"""What runs where the work is done: load a model once, describe it, and turn tasks into tables."""

from __future__ import annotations

import inspect
import io
import sys
import time
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from caa_interp.files import files_digest
from caa_interp.models import load_model
from caa_interp.models.access import model_id, model_revision, n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.template import pin_date
from caa_interp.steering.operators import operator_named
from caa_interp.steering.positions import positions_named
from caa_interp.study.config import ModelConfig, PromptConfig
from caa_interp.study.kinds import KINDS
from caa_interp.study.tasks import Task
from caa_interp.vectors.estimators import estimator_named

_LIBRARIES = ("torch", "transformers", "transformer-lens", "tokenizers", "numpy", "scipy", "scikit-learn")
# Code that reads, draws, or writes for other tools cannot change the result of a task.
_IRRELEVANT = (
    *("cli/", "plotting/", "doctor/", "interchange/", "study/", "report/", "paper/", "explorer/"),
    *("behaviors/downloads.py", "progress.py", "files.py", "devices.py"),
)
_RELEVANT = ("study/worker.py", "study/measures.py")
# Arguments that a task holds by their names.
_NAMED: dict[str, Callable[[str], Any]] = {
    "estimator": estimator_named,
    "operator": operator_named,
    "positions": positions_named,
}
_last: tuple[ModelConfig, Any] | None = None  # the model that was loaded last, and what it was asked for with


def describe(config: ModelConfig) -> dict[str, Any]:
    """Load a model, and describe all in it and in the code that a result may depend on, in JSON types."""
    model = _loaded(config)
    form = _form(model, config)
    device = torch.device(model.cfg.device or "cpu")
    return {
        "id": model_id(model),
        "revision": model_revision(model),
        "backend": type(model).__name__,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "n_layers": n_layers(model),
        "d_model": int(model.cfg.d_model),
        "prompt_style": form.style,
        "prompt_digest": form.digest(),
        "template_arguments": dict(form.template_arguments),
        **software(),
    }


@cache
def software() -> dict[str, Any]:
    """Facts that no model is needed for: the sha256 of the relevant source, and the versions of libraries."""
    code = files_digest(Path(str(files("caa_interp"))), source())
    return {"code": code, "versions": {name: version(name) for name in _LIBRARIES}}


def source() -> list[Path]:
    """Files of this package that the result of a task may depend on."""
    root = Path(str(files("caa_interp")))
    names = {path: path.relative_to(root).as_posix() for path in root.rglob("*.py")}
    return [path for path, name in names.items() if name in _RELEVANT or not name.startswith(_IRRELEVANT)]


def work(config: ModelConfig, task: Task) -> bytes:
    """Do a task; returns the Parquet file of its table, with its time, threads and the process's peak memory."""
    model = _loaded(config)
    start = time.perf_counter()
    function = KINDS[task.kind].run
    taken = inspect.signature(function).parameters
    passes_on = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    arguments = {name: _NAMED.get(name, lambda given: given)(value) for name, value in task.arguments.items()}
    own = {"progress": False, "prompt_format": _form(model, config)}
    table = function(model, **arguments, **{name: own[name] for name in own if passes_on or name in taken})
    took = {
        "seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
        "peak_memory_bytes": _peak_memory(),
    }
    return encode(table, took)


def forget() -> None:
    """Let go of the model that was loaded last."""
    global _last
    _last = None


def encode(table: pd.DataFrame, took: Mapping[str, Any]) -> bytes:
    """Parquet file of a table, with what it took to make."""
    table = table.copy(deep=False)
    table.attrs = {**table.attrs, "took": dict(took)}
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def decode(content: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and what it took, from :func:`encode`."""
    table = pd.read_parquet(io.BytesIO(content))
    return table, table.attrs.pop("took")


def _loaded(config: ModelConfig) -> Any:
    global _last
    if _last is None or _last[0] != config:
        _last = None  # two models may not fit side by side
        given = config.model_dump(exclude={"name", "prompt"})
        model = load_model(config.name, **given, progress=False)
        pin_date(model.tokenizer)  # results of two days may stand in one table
        _last = config, model
    return _last[1]


def _form(model: Any, config: ModelConfig) -> PromptFormat:
    prompt = config.prompt or PromptConfig()
    return PromptFormat.of(model, style=prompt.style, **dict(prompt.template_arguments))


def _peak_memory() -> int:
    """Most bytes that this process has held so far: on the GPU if it used one, else in main memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)
