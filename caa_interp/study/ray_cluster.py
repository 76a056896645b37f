"""A Ray cluster, found or started, and what runs in its processes."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from caa_interp.errors import InputError, MissingDependencyError, ModelError

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig
    from caa_interp.study.shards import Shard
    from caa_interp.study.work import Worker

# Settings that a worker takes from here even if its cluster was started elsewhere; never one that holds a secret.
_SETTINGS = ("CAA_INTERP_", "HF_", "TRANSFORMERS_")


class Actor:
    """A worker within its process."""

    def __init__(self, make: Callable[[], Worker], n_threads: int) -> None:
        import torch

        torch.set_num_threads(n_threads)
        self._worker = make()
        self._compared: ModelConfig | None = None

    def ready(self) -> None:
        """Return when the process is up."""

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it."""
        return self._worker.describe(model)

    def work(self, shard: Shard, facts: Mapping[str, Any] | None) -> bytes:
        """Do a shard with a model that must be the one of ``facts``."""
        if facts is not None and self._compared != shard.model:
            own = self._worker.describe(shard.model)
            different = [
                f"{name}: {facts.get(name)!r} and {own[name]!r}" for name in own if own[name] != facts.get(name)
            ]
            if different:
                raise ModelError(
                    f"executor: two workers differ in {'; '.join(different)}, so their results cannot be combined. "
                    "Use machines of one kind, with the same versions and the same model files."
                )
            self._compared = shard.model
        return self._worker.work(shard)


# A busy machine may take longer to start Ray than Ray waits.
_TRIES = 3


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
            # "local", because Ray would otherwise take any cluster that it finds on this machine, whoever owns it.
            for tries_left in reversed(range(_TRIES)):
                try:
                    ray.init(address="local", num_cpus=n_cpus, include_dashboard=False, **options)
                    return ray, True, True
                except Exception as error:  # Ray raises nothing more special, and waits no longer than half a minute
                    for frame, _ in traceback.walk_tb(error.__traceback__):
                        # Ray leaves running what it had started.
                        if stop := getattr(frame.f_locals.get("self"), "kill_all_processes", None):
                            stop(check_alive=False, allow_graceful=False)
                    if not tries_left:
                        raise ModelError(
                            f"RayWorkers: Ray could not be started on this machine in {_TRIES} tries ({error}). Try "
                            "again when the machine is less busy."
                        ) from error
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


def settings(n_threads: int, gpus: bool) -> dict[str, str]:
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
