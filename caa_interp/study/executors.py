"""Where shards are worked on: here, or in several processes of a Ray cluster."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from caa_interp.errors import InputError, ModelError
from caa_interp.study.ray_cluster import Actor, connect, settings

if TYPE_CHECKING:
    from caa_interp.study.config import ModelConfig
    from caa_interp.study.shards import Shard
    from caa_interp.study.work import Worker

T = TypeVar("T")

# A shard that has killed its worker this many times is considered the cause.
ATTEMPTS = 4


def new_worker() -> Worker:
    """A :class:`caa_interp.study.work.Worker`, imported where it works."""
    from caa_interp.study.work import Worker

    return Worker()


class Executor(Protocol):
    """Does shards for :func:`caa_interp.study.run_experiment`."""

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it, see :meth:`caa_interp.study.work.Worker.describe`."""
        ...

    def run(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, bytes]]:
        """Do shards; each comes with its result the moment it is finished, in whichever order that is."""
        ...

    def close(self) -> None:
        """Release what it holds; it cannot be used any more."""
        ...


class InProcess:
    """Does shards in this process, in their order.

    Parameters
    ----------
    worker
        Makes what does the work; default :class:`caa_interp.study.work.Worker`.
    """

    def __init__(self, *, worker: Callable[[], Worker] = new_worker) -> None:
        self._worker: Worker | None = worker()

    def describe(self, model: ModelConfig) -> dict[str, Any]:
        """Load a model and describe it."""
        return self._open().describe(model)

    def run(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, bytes]]:
        """Do one shard after the other, each when it is asked for."""
        worker = self._open()
        for shard in shards:
            yield shard, worker.work(shard)

    def close(self) -> None:
        """Let go of the model."""
        self._worker = None

    def _open(self) -> Worker:
        if self._worker is None:
            raise InputError("executor: it is closed. Make a new InProcess().")
        return self._worker


class RayWorkers:
    """Does shards in several processes, on this machine or on those of a Ray cluster (Moritz et al. 2018).

    Needs the same version of ``caa-interp[ray]`` on every machine, and no shared files. A worker that dies is started
    again and repeats its shard. Tables equal those made in one process with as many threads to the last bit.

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
        worker: Callable[[], Worker] = new_worker,
    ) -> None:
        for name, value in (("n_workers", n_workers), ("cpus_per_worker", cpus_per_worker)):
            whole = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and not (whole and value >= 1):
                raise InputError(f"{name}: {value!r}; it must be a whole number of at least 1.")
        if not (math.isfinite(gpus_per_worker) and gpus_per_worker >= 0):
            raise InputError(f"gpus_per_worker: {gpus_per_worker!r}; it must be a number of at least 0.")
        self._needs = {"CPU": float(cpus_per_worker), "GPU": float(gpus_per_worker)}
        self._make = worker
        self._actors: list[Any] = []
        self._facts: dict[ModelConfig, dict[str, Any]] = {}
        self._closed = False
        self._ray, self._opened, self._own = connect(address, n_workers and n_workers * cpus_per_worker)
        try:
            self._n_workers = self._room(n_workers)
        except BaseException:
            self.close()
            raise

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
        loading = [(model, f"loading {getattr(model, 'name', model)}")]
        ((_, facts),) = self._do(loading, lambda actor, model: actor.describe.remote(model))
        self._facts[model] = facts
        return facts

    def run(self, shards: Sequence[Shard]) -> Iterator[tuple[Shard, bytes]]:
        """Do shards, each in the first worker that is free.

        Raises
        ------
        ModelError
            If a shard kills its worker again and again, or a worker's model or libraries differ from those that
            :meth:`describe` returned.
        CAAError
            An error of a shard in its worker is raised here, and the others are given up.
        """
        return self._do(
            [(shard, shard.label) for shard in shards],
            lambda actor, shard: actor.work.remote(shard, self._facts.get(shard.model)),
        )

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        if self._closed:
            return
        self._closed = True
        self._dismiss([])
        if self._opened:
            self._ray.shutdown()  # a cluster that was not started here is only left

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

    def _workers(self) -> list[Any]:
        """The workers; they are started when first needed and after a run that broke off."""
        if not self._actors:
            n_threads = int(self._needs["CPU"])
            start = self._ray.remote(Actor).options(
                num_cpus=self._needs["CPU"],
                num_gpus=self._needs["GPU"],
                max_restarts=-1,
                max_task_retries=ATTEMPTS - 1,
                runtime_env={"env_vars": settings(n_threads, gpus=self._needs["GPU"] > 0)},
            )
            self._actors = [start.remote(self._make, n_threads) for _ in range(self._n_workers)]
        return self._actors

    def _dismiss(self, tasks: Iterable[Any]) -> None:
        """Stop all workers, with what they are doing."""
        actors, self._actors = self._actors, []
        if self._ray.is_initialized():
            for task in tasks:
                self._ray.cancel(task)  # else Ray would say that it tries it again
            for actor in actors:
                self._ray.kill(actor)

    def _do(self, tasks: Sequence[tuple[T, str]], submit: Callable[[Any, T], Any]) -> Iterator[tuple[T, Any]]:
        """Give each task, with its name, to a worker that is free: one at a time, so that a death has one reason."""
        if self._closed:
            raise InputError("executor: it is closed. Make a new RayWorkers().")
        waiting = deque(tasks)
        if not waiting:
            return
        # A worker that waits for its place in the cluster is given no task.
        busy: dict[Any, tuple[Any, tuple[T, str] | None]] = {
            actor.ready.remote(): (actor, None) for actor in self._workers()
        }
        n_left = len(waiting)
        try:
            while n_left:
                (done, *_), _ = self._ray.wait(list(busy))
                actor, task = busy.pop(done)
                result = self._result(done, task[1] if task else "starting a worker")
                if waiting:
                    following = waiting.popleft()
                    busy[submit(actor, following[0])] = actor, following
                if task:
                    n_left -= 1
                    yield task[0], result
        except KeyboardInterrupt:
            self._dismiss(busy)
            self.close()
            raise
        finally:
            if n_left:
                self._dismiss(busy)

    def _result(self, done: Any, label: str) -> Any:
        """Result of a task that ended; what it raised is raised as it was."""
        try:
            return self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            # The error of a worker that cannot be made ends with the reason; that of one that died says nothing useful.
            made = not (isinstance(error, self._ray.exceptions.RayActorError) and error.actor_init_failed)
            died = isinstance(error, self._ray.exceptions.RayActorError | self._ray.exceptions.OutOfMemoryError)
            if made and died:
                raise ModelError(
                    f"{label}: the worker died each of the {ATTEMPTS} times that this was tried. If it needs more "
                    "memory than there is, take fewer workers, a smaller dtype, or machines with more memory."
                ) from error
            reason = [type(error).__name__, *filter(None, str(error).splitlines())][-1].strip()
            raise ModelError(
                f"{label}: {reason}. Workers need the same Python and the same version of caa-interp as this process."
            ) from error
