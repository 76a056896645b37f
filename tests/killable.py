"""Studies in processes of their own, which a test may stop or kill."""

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil

# Loads everything once, then does each study in a process of its own.
SERVER = """
import contextlib, os, sys
import caa_interp.study.worker, transformer_lens.model_bridge
from caa_interp.study import Processes, RayWorkers, run_experiment
from caa_interp.study.store import ShardStore
put = ShardStore.put
if sys.argv[1:]:
    study, folder, os.environ["CAA_INTERP_CACHE"] = sys.argv[1:]
    run_experiment(study, folder, say=lambda line: None)
for line in sys.stdin:
    study, folder, cache, kind, address, n_shards, sent = line.split()
    session = os.fork()
    if not session:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray tells there of workers that died
        os.dup2(os.open(cache + "-errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        os.environ["CAA_INTERP_CACHE"] = cache
        def put_and_stop(self, key, content):
            put(self, key, content)
            if len(self) == int(n_shards):
                os.kill(os.getpid(), int(sent))
        ShardStore.put = put_and_stop
        try:
            if kind == "processes":
                executor = Processes(2)
            elif kind == "ray":
                executor = RayWorkers(2, address=address)
            else:
                executor = contextlib.nullcontext()
            with executor as spread:
                run_experiment(study, folder, executor=spread, say=lambda line: None)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(session, flush=True)
    print(os.waitpid(session, 0)[1], flush=True)
"""


class Sessions:
    """Runs studies, or continues them, each session in a process of its own, one at a time.

    ``first`` is a study, its folder and its cache: done at once, so that all it loads is there for the others.
    """

    def __init__(self, *first: Path, n_threads: int = 1, kind: str = "here", address: str = "none") -> None:
        self._place = kind, address
        self._server: Any = subprocess.Popen(
            [sys.executable, "-c", SERVER, *first],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(n_threads)},
        )

    def start(self, study: Path, folder: Path, cache: Path, n_shards: int = -1, sent: int = SIGKILL) -> psutil.Process:
        """Process that does the study; it sends itself a signal when so many shards are finished."""
        print(study, folder, cache, *self._place, n_shards, int(sent), file=self._server.stdin, flush=True)
        return psutil.Process(int(self._server.stdout.readline()))

    def end(self) -> int:
        """Exit code of the session, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))

    def run(self, study: Path, folder: Path, cache: Path) -> int:
        self.start(study, folder, cache)
        return self.end()

    def close(self) -> str:
        """What went wrong outside of the sessions."""
        return _without_tracker(self._server.communicate()[1])


def errors(cache: Path) -> str:
    """What went wrong in all sessions that had a cache."""
    return _without_tracker(cache.with_name(f"{cache.name}-errors").read_text(encoding="utf-8"))


def _without_tracker(told: str) -> str:
    """Python removes the semaphores that a killed process left, and tells so."""
    return "".join(line for line in told.splitlines(keepends=True) if "resource_tracker" not in line)
