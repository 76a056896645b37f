"""Where tasks are done: in this process, or spread over workers that are processes of their own.

:mod:`caa_interp.study.processes` and :mod:`caa_interp.study.ray_workers` say where these are.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TYPE_CHECKING, Any, Protocol, Self

from caa_interp.errors import InputError, ModelError

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig
    from caa_interp.study.tasks import Task

# Module whose functions ``describe`` and ``work`` are called where the work is done.
WORKER = "caa_interp.study.worker"
# A task that has killed its worker this many times is considered the cause.
ATTEMPTS = 4
AGAIN = object()
STARTING = "starting a worker"


class Executor(Protocol):
    """Does tasks for :func:`caa_interp.study.run_experiment`."""

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it, see :func:`caa_interp.study.worker.describe`."""
        ...

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do tasks with a model that was described; each comes with its result once that is there, in any order."""
        ...

    def close(self) -> None:
        """Release what it holds; it cannot be used any more."""
        ...


class InProcess:
    """Does tasks in this process, in their order.

    Parameters
    ----------
    worker
        Name of the module that does the work. Default: :mod:`caa_interp.study.worker`.
    """

    def __init__(self, *, worker: str = WORKER) -> None:
        self._worker: str | None = worker

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it."""
        return self._open().describe(model)

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do one task after the other, each when it is asked for."""
        worker = self._open()
        for task in tasks:
            yield task, worker.work(model, task)

    def close(self) -> None:
        """Let go of the model."""
        if self._worker is not None:
            self._open().forget()
        self._worker = None

    def _open(self) -> Any:
        if self._worker is None:
            raise InputError("executor: it is closed. Make a new InProcess().")
        return importlib.import_module(self._worker)


class Spread(ABC):
    """Does tasks in several workers, each in a process of its own: one at a time, so that a death has one reason."""

    _slots: Sequence[Slot] = ()
    _closed = False

    def __init__(self) -> None:
        self._facts: dict[ModelConfig, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model in one worker and describe it; the others compare theirs when they load it.

        Raises
        ------
        CAAError
            If the model cannot be loaded.
        """
        ((_, facts),) = self._do("describe", [(f"loading {model.name}", (model,))])
        self._facts[model] = facts
        return facts

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do tasks, each in the first worker that is free.

        Raises
        ------
        ModelError
            If a task kills its worker again and again, or a worker's model or libraries differ from those that
            :meth:`describe` returned.
        CAAError
            An error of a task in its worker is raised here, and the others are given up.
        """
        facts = self._facts.get(model)
        for (_, task, _), content in self._do("work", [(task.label, (model, task, facts)) for task in tasks]):
            yield task, content

    def close(self) -> None:
        """Stop the workers."""
        self._closed = True
        for slot in self._slots:
            slot.stop()

    @abstractmethod
    def _result(self, slot: Any, done: Future[Any], label: str, attempt: int) -> Any:
        """Result of a call that ended, or :data:`AGAIN` if its worker died and it is worth another attempt."""

    def _do(self, name: str, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Call a method of :class:`Served` with each tuple of arguments; ``calls`` have a label for people in front."""
        if self._closed:
            raise InputError(f"executor: it is closed. Make a new {type(self).__name__}().")
        waiting = deque((*call, 1) for call in calls)
        n_left = len(waiting)
        busy: dict[Future[Any], tuple[Slot, str, tuple[Any, ...] | None, int]] = {}
        try:
            if n_left:  # a worker that is not ready, or waits for its place in a cluster, is given no task
                busy |= {slot.start(): (slot, STARTING, None, 1) for slot in self._slots}
            while n_left:
                finished, _ = wait(busy, return_when=FIRST_COMPLETED)
                for done in finished:
                    slot, label, arguments, attempt = busy[done]
                    result = self._result(slot, done, label, attempt)
                    del busy[done]
                    if result is AGAIN and arguments is not None:
                        waiting.appendleft((label, arguments, attempt + 1))
                    if waiting:
                        following = waiting.popleft()
                        busy[slot.call(name, following[1])] = slot, *following
                    if result is not AGAIN and arguments is not None:
                        n_left -= 1
                        yield arguments, result
        except KeyboardInterrupt:
            self.close()
            raise
        finally:
            for slot, *_ in busy.values() if n_left else ():  # of a run that broke off
                slot.stop()


class Slot(Protocol):
    """Place of one worker: its process is started when it is first needed, and again after a stop."""

    def start(self) -> Future[Any]:
        """Start the process if there is none; done when it is up."""
        ...

    def call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Call a method of its :class:`Served`."""
        ...

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        ...


class Served:
    """A worker within its process."""

    def __init__(self, worker: str, n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._worker = importlib.import_module(worker)
        self._compared: ModelConfig | None = None

    def ready(self) -> None:
        """Return when the process is up."""

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it."""
        return self._worker.describe(model)

    def work(self, model: ModelConfig, task: Task, facts: Mapping[str, Any] | None) -> bytes:
        """Do a task with a model that must be the one of ``facts``."""
        if facts is not None and self._compared != model:
            own = self._worker.describe(model)
            different = [
                f"{name}: {facts.get(name)!r} and {one!r}" for name, one in own.items() if one != facts.get(name)
            ]
            if different:
                raise ModelError(
                    f"executor: two workers differ in {'; '.join(different)}, so their results cannot be combined. "
                    "Use machines of one kind, with the same versions and the same model files."
                )
            self._compared = model
        return self._worker.work(model, task)


def died(label: str) -> ModelError:
    """Error of a task that has killed its worker again and again."""
    return ModelError(
        f"{label}: the worker died each of the {ATTEMPTS} times that this was tried. If it needs more memory than "
        "there is, take fewer workers, a smaller dtype, or machines with more memory."
    )
