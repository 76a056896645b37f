"""Stands in for :mod:`caa_interp.study.worker` in tests of executors: no model, and every way to end."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from caa_interp.errors import InputError


@dataclass(frozen=True)
class Model:
    """What a model is to an executor."""

    name: str = "model"


@dataclass(frozen=True)
class Piece:
    """What a task is to an executor."""

    label: str
    kind: str = "echo"
    arguments: Any = None


def describe(model):
    if model.name == "absent":
        raise InputError("model 'absent': there is none. Name another.")
    if model.name == "changing":
        return {"id": model.name, "versions": time.perf_counter_ns()}
    return {"id": model.name, "n_layers": 2}


def work(model, task):
    return globals()[f"_{task.kind}"](task)


def forget():
    pass


def starts(folder: Path) -> dict[str, list[int]]:
    """Of each task, the processes that began it."""
    return {path.name: [int(line) for line in path.read_text().split()] for path in folder.iterdir()}


def _echo(task):
    return task.label.encode()


def _wait(task):
    folder, gate = task.arguments
    with open(Path(folder) / task.label, "a") as begun:
        begun.write(f"{os.getpid()}\n")
    with open(os.devnull, "w") as nowhere:  # a progress bar, as work has, that is not seen
        for _ in tqdm(range(60_000), file=nowhere):  # processes that a failed test leaves behind end some time
            if os.path.exists(gate):
                return f"{task.label} in {os.getpid()}".encode()
            time.sleep(0.01)
    raise TimeoutError(gate)


def _setting(task):
    import torch

    return f"{torch.get_num_threads()} {[os.environ.get(name) for name in task.arguments]}".encode()


def _raise(task):
    while not starts(Path(task.arguments)):
        time.sleep(0.01)
    raise InputError(f"pairs: those of {task.label} are empty. Give some.")


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)
