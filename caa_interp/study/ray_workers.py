"""Workers of a Ray cluster, on this machine or on others."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from caa_interp.errors import InputError, MissingDependencyError, ModelError, check_count
from caa_interp.study.executors import ATTEMPTS, WORKER, Served, Spread, died

# Settings that a worker takes from here even if its cluster was started elsewhere; never one that holds a secret.
_SETTINGS = ("CAA_INTERP_", "HF_", "TRANSFORMERS_")
# A busy machine may take longer to start Ray than Ray waits.
_TRIES = 3


class RayWorkers(Spread):
    """Does tasks in several processes, on this machine or on those of a Ray cluster (Moritz et al. 2018).

    Needs the same version of ``caa-interp[ray]`` on every machine, and no shared files. A worker that dies is started
    again and repeats its task. Tables equal those made in one process with as many threads to the last bit.

    Parameters
    ----------
    n_workers
        Number of processes; each loads the model. Default: as many as the cluster has CPUs and GPUs for.
    address
        A running cluster, as :func:`ray.init` takes it (``"auto"``, ``"host:6379"``, ``"ray://host:10001"``), which
        is left running. Default: the environment variable ``RAY_ADDRESS``, else one is started on this machine and
        stopped by :meth:`close`. If this process uses Ray already, that cluster is taken, and left running.
    cpus_per_worker
        CPUs, and torch threads, of each worker; at least 1.
    gpus_per_worker
        GPUs of each worker. 0 (default): it sees none. Less than 1: several workers share a GPU.
    worker
        As in :class:`InProcess`.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    InputError
        If a number is out of range, no cluster answers at the address, or the cluster has no room.
    ModelError
        If Ray cannot be started on this machine.

    Notes
    -----
    Environment variables that begin with ``CAA_INTERP_``, ``HF_`` or ``TRANSFORMERS_`` hold for the workers too;
    tokens go along to a cluster that is started here, and to no other.

    References
    ----------
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.

    Examples
    --------
    >>> with RayWorkers(2) as executor:  # doctest: +SKIP
    ...     run_experiment("study.toml", "runs/study", executor=executor)
    """

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        address: str | None = None,
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
        worker: str = WORKER,
    ) -> None:
        if n_workers is not None:
            check_count("n_workers", n_workers)
        check_count("cpus_per_worker", cpus_per_worker)
        if not (math.isfinite(gpus_per_worker) and gpus_per_worker >= 0):
            raise InputError(f"gpus_per_worker: {gpus_per_worker!r}; it must be a number of at least 0.")
        super().__init__()
        self._needs = {"CPU": float(cpus_per_worker), "GPU": float(gpus_per_worker)}
        self._ray, self._opened, self._own = connect(address, n_workers and n_workers * cpus_per_worker)
        try:
            n_workers = self._room(n_workers)
        except BaseException:
            self.close()
            raise
        kind = self._ray.remote(Served).options(
            num_cpus=cpus_per_worker,
            num_gpus=gpus_per_worker,
            max_restarts=-1,
            max_task_retries=ATTEMPTS - 1,
            runtime_env={"env_vars": _variables(cpus_per_worker, gpus=gpus_per_worker > 0)},
        )
        self._slots = [_Actor(self._ray, kind, worker, cpus_per_worker) for _ in range(n_workers)]

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        if self._ray.is_initialized():
            super().close()
        self._closed = True
        if self._opened:
            self._ray.shutdown()  # a cluster that was not started here is only left
            self._opened = False

    def _room(self, n_workers: int | None) -> int:
        """Number of workers to start."""
        room = sum(
            int(min(node["Resources"].get(kind, 0) / need for kind, need in self._needs.items() if need))
            for node in self._ray.nodes()
            if node["Alive"]
        )
        # More may join a cluster that others run, and workers wait for that.
        if room < 1 or (self._own and n_workers is not None and n_workers > room):
            asked = f"{n_workers or 1} with {self._needs['CPU']:g} CPUs and {self._needs['GPU']:g} GPUs each"
            raise InputError(
                f"n_workers: {asked}; there is room for {room}. Take fewer workers, or lower cpus_per_worker or "
                "gpus_per_worker."
            )
        return room if n_workers is None else n_workers

    def _result(self, slot: _Actor, done: Future[Any], label: str, attempt: int) -> Any:
        """Result of a call that ended; what it raised is raised as it was. Ray itself tries again."""
        try:
            return done.result()
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            # The error of a worker that cannot be made ends with the reason; that of one that died says nothing useful.
            made = not (isinstance(error, self._ray.exceptions.RayActorError) and error.actor_init_failed)
            if made and isinstance(error, self._ray.exceptions.RayActorError | self._ray.exceptions.OutOfMemoryError):
                raise died(label) from error
            reason = [type(error).__name__, *filter(None, str(error).splitlines())][-1].strip()
            raise ModelError(
                f"{label}: {reason}. Workers need the same Python and the same version of caa-interp as this process."
            ) from error


class _Actor:
    """A :class:`caa_interp.study.executors.Slot`: an actor of Ray."""

    def __init__(self, ray: Any, kind: Any, worker: str, n_threads: int) -> None:
        self._ray, self._kind, self._given = ray, kind, (worker, n_threads)
        self._actor: Any = None
        self._doing: Any = None

    def start(self) -> Future[Any]:
        if self._actor is None:
            self._actor = self._kind.remote(*self._given)
        return self.call("ready", ())

    def call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        self._doing = getattr(self._actor, name).remote(*arguments)
        return self._doing.future()

    def stop(self) -> None:
        if self._actor is not None:
            self._ray.cancel(self._doing)  # else Ray would say that it tries it again
            self._ray.kill(self._actor)
        self._actor = None


def connect(address: str | None, n_cpus: int | None) -> tuple[Any, bool, bool]:
    """Ray, connected to a cluster; whether it was connected here, and whether the cluster was started here."""
    own = not (address or os.environ.get("RAY_ADDRESS"))
    if own:
        # Report nothing to the makers of Ray, and use this Python rather than a copy of what `uv run` would set up.
        variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    else:
        # "auto" may mean a cluster that is gone; Ray would try twenty times, for half a minute each.
        variables = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    with _environment(variables):  # Ray reads them when it is imported and when it starts
        try:
            import ray
        except ImportError as error:
            raise MissingDependencyError(
                "RayWorkers: it needs the package ray; pip install 'caa-interp[ray]'"
            ) from error
        if ray.is_initialized():
            return ray, False, False
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if own:
            _start(ray, num_cpus=n_cpus, include_dashboard=False, **options)
            return ray, True, True
        address = address or os.environ["RAY_ADDRESS"]
        try:
            _knock(address)
            ray.init(address=address, **options)
        except (OSError, OverflowError, ValueError, RuntimeError) as error:
            raise InputError(
                f"address: no Ray cluster answers at {address!r} ({error}). Start one with `ray start --head`, or "
                "leave the address out to use this machine."
            ) from error
        return ray, True, False


def _start(ray: Any, **options: Any) -> None:
    """Start Ray on this machine."""
    for tries_left in reversed(range(_TRIES)):
        try:
            # "local", because Ray would otherwise take any cluster that it finds on this machine, whoever owns it.
            ray.init(address="local", **options)
            return
        except Exception as error:  # Ray raises nothing more special, and waits no longer than half a minute
            for frame, _ in traceback.walk_tb(error.__traceback__):
                # Ray leaves running what it had started.
                if stop := getattr(frame.f_locals.get("self"), "kill_all_processes", None):
                    stop(check_alive=False, allow_graceful=False)
            if not tries_left:
                raise ModelError(
                    f"RayWorkers: Ray could not be started on this machine in {_TRIES} tries ({error}). Try again "
                    "when the machine is less busy."
                ) from error


def _variables(n_threads: int, gpus: bool) -> dict[str, str]:
    """Environment variables of a worker."""
    given = {name: text for name, text in os.environ.items() if name.startswith(_SETTINGS) and "TOKEN" not in name}
    # A worker that was given no GPU would otherwise take the first one, like every other.
    return given | {"OMP_NUM_THREADS": str(n_threads)} | ({} if gpus else {"CUDA_VISIBLE_DEVICES": ""})


def _knock(address: str) -> None:
    """Raise at once if nobody listens at an address; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, while the context is open."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)
