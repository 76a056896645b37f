"""Where tasks are done: in this process, or spread over workers that are processes of their own.

:mod:`caa_interp.study.processes` and :mod:`caa_interp.study.ray_workers` say where these are.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import TYPE_CHECKING, Any, Protocol, Self

from caa_interp.errors import InputError, ModelError

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig
    from caa_interp.study.tasks import Task

# Module whose functions ``describe`` and ``work`` are called where the work is done.
WORKER = "caa_interp.study.worker"
# A task that has killed its worker this many times is considered the cause.
ATTEMPTS = 4
STARTING = "starting a worker"
_CAUSES = (
    "What it printed may say why. If it needs more memory than there is, take fewer workers, a smaller dtype, or "
    "machines with more memory. If this is a script, make Processes below "
    '`if __name__ == "__main__":`, because each process reads the script.'
)


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
    """Does tasks in this process, in their order."""

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it."""
        return describe(WORKER, model)

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do one task after the other, each when it is asked for."""
        for task in tasks:
            yield task, work(WORKER, model, task, None)

    def close(self) -> None:
        """Let go of the model."""
        importlib.import_module(WORKER).forget()


class Workers(ABC):
    """Does tasks in ``n`` processes: one at a time in each, so that a death has one reason.

    A subclass says how such a process is started, called and stopped.
    """

    def __init__(self, n: int) -> None:
        self._slots: list[Any] = [None] * n  # workers that are up; None where one is still to be started
        self._facts: dict[ModelConfig, dict[str, Any]] = {}
        self._closed = False

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
        ((_, facts),) = self._do(describe, [f"loading {model.name}"], [(WORKER, model)])
        self._facts[model] = facts
        return facts

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do tasks, each in the first worker that is free.

        Raises
        ------
        ModelError
            If a task kills its worker again and again (the others are done first), or a worker's model or libraries
            differ from those that :meth:`describe` returned.
        CAAError
            An error of a task in its worker is raised here, and the others are given up.
        """
        facts = self._facts.get(model)
        calls = [(WORKER, model, task, facts) for task in tasks]
        for number, content in self._do(work, [task.label for task in tasks], calls):
            yield tasks[number], content

    def close(self) -> None:
        """Stop the workers."""
        self._closed = True
        for slot in range(len(self._slots)):
            self._vacate(slot)

    @abstractmethod
    def _start(self, slot: int) -> Any:
        """Start a worker."""

    @abstractmethod
    def _call(self, worker: Any, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in a worker."""

    @abstractmethod
    def _stop(self, worker: Any) -> None:
        """Kill a worker, whatever it is doing; it may be dead already."""

    def _result(self, done: Future[Any], label: str) -> Any:
        """Result of a call; raises BrokenExecutor if its worker died, else what the call raised."""
        return done.result()

    def _vacate(self, slot: int) -> None:
        worker, self._slots[slot] = self._slots[slot], None
        if worker is not None:
            self._stop(worker)

    def _do(
        self, function: Callable[..., Any], labels: Sequence[str], calls: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any]]:
        """Call a function with each tuple of arguments; yields the number of each call with its result."""
        if self._closed:
            raise InputError(f"executor: it is closed. Make a new {type(self).__name__}().")
        waiting, deaths, n_left = deque(range(len(calls))), Counter[int | None](), len(calls)
        busy: dict[Future[Any], tuple[int, int | None]] = {}  # slot, and number of its call; None: it is starting
        free, arrived = list(range(len(self._slots))), list[tuple[int, Any]]()
        given_up: dict[str, BrokenExecutor] = {}  # what killed its workers, told once the others are done
        try:
            while n_left:
                for slot in free:
                    if self._slots[slot] is None:  # a worker that is not up, or waits for its place, is given no task
                        self._slots[slot] = self._start(slot)
                        busy[self._call(self._slots[slot], ready)] = slot, None
                    elif waiting:
                        number = waiting.popleft()
                        busy[self._call(self._slots[slot], function, *calls[number])] = slot, number
                yield from arrived  # only now, so that the worker is not kept waiting
                n_left -= len(arrived)
                if n_left:
                    done = next(iter(wait(busy, return_when=FIRST_COMPLETED).done))
                    slot, called = busy.pop(done)
                    free, arrived = [slot], []
                    label = STARTING if called is None else labels[called]
                    try:
                        result = self._result(done, label)
                    except BrokenExecutor as error:
                        self._vacate(slot)
                        deaths[called] += 1
                        if deaths[called] == ATTEMPTS:
                            given_up[label] = error
                            if called is None:
                                break
                            n_left -= 1
                        elif called is not None:
                            waiting.append(called)  # after the others: it may be the cause
                    else:
                        if called is None:
                            deaths[None] = 0
                        else:
                            arrived = [(called, result)]
            if given_up:
                told = f"{', '.join(given_up)}: the worker died each of the {ATTEMPTS} times that this was tried."
                raise ModelError(f"{told} {_CAUSES}") from next(iter(given_up.values()))
        except KeyboardInterrupt:
            self.close()
            raise
        finally:
            for slot, _ in busy.values():  # of a run that broke off, or starting although not needed any more
                self._vacate(slot)


def ready() -> None:
    """Return when a worker is up."""


def describe(worker: str, model: ModelConfig) -> dict[str, Any]:
    """Load a model in a worker and describe it."""
    return importlib.import_module(worker).describe(model)


def work(worker: str, model: ModelConfig, task: Task, facts: Mapping[str, Any] | None) -> bytes:
    """Do a task in a worker, with a model that must be the one of ``facts``."""
    if facts is not None:
        own = describe(worker, model)
        different = [f"{name}: {facts.get(name)!r} and {one!r}" for name, one in own.items() if one != facts.get(name)]
        if different:
            raise ModelError(
                f"executor: two workers differ in {'; '.join(different)}, so their results cannot be combined. "
                "Use machines of one kind, with the same versions and the same model files."
            )
    return importlib.import_module(worker).work(model, task)
