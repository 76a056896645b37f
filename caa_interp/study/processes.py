"""Workers in processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from typing import Any

from caa_interp.errors import ModelError, check_count
from caa_interp.study.executors import AGAIN, ATTEMPTS, STARTING, WORKER, Served, Spread, died


class Processes(Spread):
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
        super().__init__()
        import torch

        n_threads = max(1, torch.get_num_threads() // n)
        self._slots = [_Process(worker, n_threads) for _ in range(n)]

    def _result(self, slot: _Process, done: Future[Any], label: str, attempt: int) -> Any:
        if not isinstance(done.exception(), BrokenProcessPool):
            return done.result()
        if label == STARTING:
            raise ModelError(
                "Processes: a process could not be started; what it printed says why. In a script, call this below "
                '`if __name__ == "__main__":`, because each process reads the script.'
            ) from done.exception()
        if attempt == ATTEMPTS:
            raise died(label) from done.exception()
        slot.stop()
        return AGAIN


class _Process:
    """A :class:`Slot`: a pool of one process, so that it is known which task a process that dies was at."""

    def __init__(self, worker: str, n_threads: int) -> None:
        self._given = worker, n_threads
        self._pool: ProcessPoolExecutor | None = None
        self._id: Future[int] | None = None

    def start(self) -> Future[int]:
        if self._pool is None or self._id is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, self._given)
            self._id = self._pool.submit(os.getpid)
        return self._id

    def call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        self.start()
        assert self._pool is not None
        return self._pool.submit(_call, name, arguments)

    def stop(self) -> None:
        if self._pool is None:
            return
        with contextlib.suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self.start().result(), signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)
        self._pool = self._id = None


_given: tuple[str, int] = (WORKER, 1)


@cache
def _served() -> Served:
    return Served(*_given)


def _begin(worker: str, n_threads: int) -> None:
    """Prepare a process: Ctrl-C is its parent's business, and it does not outlive its parent."""
    global _given
    _given = worker, n_threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_served(), name)(*arguments)
