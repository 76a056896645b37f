"""Workers in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from caa_interp.errors import check_count
from caa_interp.study.executors import Workers


class Processes(Workers):
    """Does tasks in several processes on this machine.

    A process that dies is replaced, and its task is tried again, up to four times in all. Tables equal those made in
    one process with as many threads to the last bit.

    If there are several GPUs, each process sees one of them: processes share GPUs only if there are more processes.
    Models then name no GPU, or ``"cuda"``.

    Parameters
    ----------
    n
        Number of processes, at least 1. Each loads the model, and has an equal share of this process's torch threads.

    Raises
    ------
    InputError
        If ``n`` is out of range.

    Examples
    --------
    In a script, below ``if __name__ == "__main__":``, because each process reads the script.

    >>> with Processes(2) as executor:  # doctest: +SKIP
    ...     run_experiment("study.toml", "runs/study", executor=executor)
    """

    def __init__(self, n: int) -> None:
        check_count("n", n)
        super().__init__(n)
        import torch

        self._n_threads = max(1, torch.get_num_threads() // n)
        n_gpus = torch.cuda.device_count()
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(n_gpus)))
        self._gpus = visible.split(",")[:n_gpus]

    def _start(self, slot: int) -> _Process:
        gpu = self._gpus[slot % len(self._gpus)] if len(self._gpus) > 1 else None
        end, held = multiprocessing.Pipe(duplex=False)
        # A pool of one, so that it is known which task a process that dies was at.
        given = (end, self._n_threads, gpu)
        return _Process(ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, given), held)

    def _call(self, worker: _Process, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        try:
            return worker.pool.submit(function, *arguments)
        except BrokenExecutor as error:  # it died since its last call
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def _stop(self, worker: _Process) -> None:
        worker.held.close()
        worker.pool.shutdown(cancel_futures=True)


class _Process(NamedTuple):
    """A pool of one process, and what that process lives on: it ends once this is closed, or its holder is gone."""

    pool: ProcessPoolExecutor
    held: Connection


def _begin(end: Connection, n_threads: int, gpu: str | None) -> None:
    """Prepare a process: Ctrl-C is its parent's business, and it does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(end,), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = str(n_threads)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch
    from tqdm import tqdm

    torch.set_num_threads(n_threads)
    tqdm.set_lock(threading.RLock())  # its own holds a semaphore, which a process that is ended leaves behind


def _end_with(end: Connection) -> None:
    end.poll(None)  # nothing is ever sent
    os._exit(1)
