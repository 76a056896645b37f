"""Where tasks are done: in this process or in several on this machine; :mod:`caa_interp.study.ray_workers` has more."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Protocol, Self

from caa_interp.errors import InputError, ModelError, check_count

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig
    from caa_interp.study.tasks import Task

# Module whose functions ``describe`` and ``work`` are called where the work is done.
WORKER = "caa_interp.study.worker"
# A task that has killed its worker this many times is considered the cause.
ATTEMPTS = 4


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


class Processes:
    """Does tasks in several processes on this machine.

    A process that dies is started again and repeats its task. Tables equal those made in one process with as many
    threads to the last bit. If there are GPUs, all processes use the one that the study's models name; for a GPU each,
    take :class:`caa_interp.study.RayWorkers`.

    Parameters
    ----------
    n
        Number of processes, at least 1. Each loads the model, and has an equal share of this process's torch threads.
    worker
        As in :class:`InProcess`.

    Examples
    --------
    In a script, below ``if __name__ == "__main__":``, because each process reads the script.

    >>> with Processes(2) as executor:  # doctest: +SKIP
    ...     run_experiment("study.toml", "runs/study", executor=executor)
    """

    def __init__(self, n: int, *, worker: str = WORKER) -> None:
        check_count("n", n)
        import torch

        n_threads = max(1, torch.get_num_threads() // n)
        self._processes = [_Process(worker, n_threads) for _ in range(n)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model in one process and describe it.

        Raises
        ------
        CAAError
            If the model cannot be loaded.
        """
        ((_, facts),) = self._do("describe", [(f"loading {model.name}", (model,))])
        return facts

    def run(self, model: ModelConfig, tasks: Sequence[Task]) -> Iterator[tuple[Task, bytes]]:
        """Do tasks, each in the first process that is free.

        Raises
        ------
        ModelError
            If a task kills its process again and again.
        CAAError
            An error of a task is raised here, and the others are given up.
        """
        for (_, task), content in self._do("work", [(task.label, (model, task)) for task in tasks]):
            yield task, content

    def close(self) -> None:
        """Stop the processes."""
        for process in self._processes:
            process.stop()
        self._processes = []

    def _do(self, name: str, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Call a function of the workers with each tuple of arguments; ``calls`` also have a label for people."""
        if not self._processes:
            raise InputError("executor: it is closed. Make a new Processes().")
        waiting = deque((*call, 1) for call in calls)
        free = list(reversed(self._processes))  # so that the one that described a model is the first to use it
        busy: dict[Future[Any], tuple[_Process, str, tuple[Any, ...], int]] = {}
        try:
            while waiting or busy:
                while waiting and free:
                    process, (label, arguments, attempt) = free.pop(), waiting.popleft()
                    busy[process.call(name, arguments)] = process, label, arguments, attempt
                done, _ = wait(busy, return_when=FIRST_COMPLETED)
                for future in done:
                    process, label, arguments, attempt = busy[future]
                    if not isinstance(future.exception(), BrokenProcessPool):
                        result = future.result()
                        del busy[future]
                        free.append(process)
                        yield arguments, result
                    elif attempt < ATTEMPTS:
                        del busy[future]
                        process.stop()
                        free.append(process)
                        waiting.appendleft((label, arguments, attempt + 1))
                    else:
                        raise died(label) from future.exception()
        finally:
            for process, *_ in busy.values():  # those of a run that broke off
                process.stop()


class _Process:
    """A process that does one thing at a time; it is started when it is first needed, and again after a stop."""

    def __init__(self, worker: str, n_threads: int) -> None:
        self._worker, self._n_threads = worker, n_threads
        self._pool: ProcessPoolExecutor | None = None
        self._id: Future[int] | None = None

    def call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        """Call a function of the worker; the result is a BrokenProcessPool if the process dies."""
        if self._pool is None:
            # A pool of its own for each process: when one dies, it is known which task it was at.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, context, _begin, (self._n_threads,))
            self._id = self._pool.submit(os.getpid)
        return self._pool.submit(_call, self._worker, name, self._n_threads, arguments)

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        if self._pool is None or self._id is None:
            return
        with contextlib.suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self._id.result(), signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)
        self._pool = self._id = None


def _begin(n_threads: int) -> None:
    """Prepare a process: Ctrl-C is its parent's business, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _call(worker: str, name: str, n_threads: int, arguments: tuple[Any, ...]) -> Any:
    import torch

    torch.set_num_threads(n_threads)
    return getattr(importlib.import_module(worker), name)(*arguments)


def died(label: str) -> ModelError:
    """Error of a task that has killed its worker again and again."""
    return ModelError(
        f"{label}: the worker died each of the {ATTEMPTS} times that this was tried. If it needs more memory than "
        "there is, take fewer workers, a smaller dtype, or machines with more memory."
    )
