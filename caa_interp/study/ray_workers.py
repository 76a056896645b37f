"""Workers of a Ray cluster, on several machines."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from caa_interp.errors import InputError, ModelError, check_count, check_installed
from caa_interp.study.executors import Workers

# Settings that a worker takes from here though its cluster was started elsewhere; never one that holds a secret.
_SETTINGS = ("CAA_INTERP_", "HF_", "TRANSFORMERS_")


class RayWorkers(Workers):
    """Does tasks in several processes of a Ray cluster that is running (Moritz et al. 2018).

    Needs the same version of ``caa-interp[ray]`` on every machine, and no shared files. A worker that dies is replaced,
    and its task is tried again, up to four times in all. Tables equal those made in one process with as many threads to
    the last bit. For one machine, :class:`caa_interp.study.Processes` does the same without Ray.

    Parameters
    ----------
    n_workers
        Number of processes; each loads the model. Default: as many as the cluster has CPUs and GPUs for. Those that
        find no room begin once there is some.
    address
        Where the cluster is, as :func:`ray.init` takes it: ``"auto"`` (default; the one of the environment variable
        ``RAY_ADDRESS``, else the one on this machine), ``"host:6379"`` or ``"ray://host:10001"``. If this process uses
        Ray already, that cluster is taken.
    cpus_per_worker
        CPUs, and torch threads, of each worker; at least 1.
    gpus_per_worker
        GPUs of each worker. 0 (default): it sees none. Less than 1: several workers share a GPU.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    InputError
        If a number is out of range, no cluster answers at the address, or the cluster has no room.

    Notes
    -----
    Environment variables that begin with ``CAA_INTERP_``, ``HF_`` or ``TRANSFORMERS_`` hold for the workers too, except
    for tokens.

    References
    ----------
    Moritz et al., "Ray: A Distributed Framework for Emerging AI Applications", OSDI 2018.

    Examples
    --------
    >>> with RayWorkers(address="auto") as executor:  # doctest: +SKIP
    ...     run_experiment("study.toml", "runs/study", executor=executor)
    """

    def __init__(
        self,
        n_workers: int | None = None,
        *,
        address: str = "auto",
        cpus_per_worker: int = 1,
        gpus_per_worker: float = 0,
    ) -> None:
        if n_workers is not None:
            check_count("n_workers", n_workers)
        check_count("cpus_per_worker", cpus_per_worker)
        if not (math.isfinite(gpus_per_worker) and gpus_per_worker >= 0):
            raise InputError(f"gpus_per_worker: {gpus_per_worker!r}; it must be a number of at least 0.")
        self._ray, self._connected = _connect(address)
        needs = {"CPU": cpus_per_worker, "GPU": gpus_per_worker}
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        room = sum(int(min(one.get(kind, 0) / n for kind, n in needs.items() if n)) for one in machines)
        super().__init__(n_workers or room)
        if not room:
            self.close()
            raise InputError(
                f"n_workers: there is room for none with {cpus_per_worker} CPUs and {gpus_per_worker:g} GPUs each. "
                "Lower cpus_per_worker or gpus_per_worker."
            )
        settings = {name: text for name, text in os.environ.items() if name.startswith(_SETTINGS)}
        variables = {name: text for name, text in settings.items() if "TOKEN" not in name}
        variables["OMP_NUM_THREADS"] = str(cpus_per_worker)
        if not gpus_per_worker:  # it would otherwise take the first one, like every other
            variables["CUDA_VISIBLE_DEVICES"] = ""
        self._actor = self._ray.remote(_Actor).options(
            num_cpus=cpus_per_worker, num_gpus=gpus_per_worker, runtime_env={"env_vars": variables}
        )

    def close(self) -> None:
        """Stop the workers, and leave the cluster running."""
        if self._ray.is_initialized():
            super().close()
        if self._connected:
            self._ray.shutdown()
            self._connected = False

    def _start(self, slot: int) -> Any:
        return self._actor.remote()

    def _call(self, worker: Any, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return worker.call.remote(function, *arguments).future()

    def _stop(self, worker: Any) -> None:
        self._ray.kill(worker)

    def _result(self, done: Future[Any], label: str) -> Any:
        known = self._ray.exceptions
        try:
            return done.result()
        except known.RayTaskError as error:
            raise error.cause from error  # as it was raised
        except known.RayError as error:
            dead = isinstance(error, known.RayActorError) and not error.actor_init_failed
            if dead or isinstance(error, known.OutOfMemoryError):
                raise BrokenExecutor from error
            reason = [type(error).__name__, *filter(None, str(error).splitlines())][-1].strip()
            raise ModelError(
                f"{label}: {reason}. Workers need the same Python and the same version of caa-interp as this process."
            ) from error


class _Actor:
    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _connect(address: str) -> tuple[Any, bool]:
    """Ray, connected to a cluster, and whether it was connected here."""
    # "auto" may mean a cluster that is gone; Ray would try twenty times, for half a minute each.
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    check_installed("ray", "RayWorkers", "'caa-interp[ray]'")
    import ray

    if ray.is_initialized():
        return ray, False
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    try:
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if port.isdigit():  # Ray would try for minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise InputError(
            f"address: no Ray cluster answers at {address!r} ({error}). Start one with `ray start --head`; for this "
            "machine alone, take caa_interp.study.Processes, which needs no Ray."
        ) from error
    return ray, True
