"""Executors: the same results here and in Ray's workers, also when workers die; what fails, fails as itself."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from caa_interp.errors import InputError, MissingDependencyError, ModelError
from caa_interp.study import executors
from caa_interp.study.executors import InProcess, RayWorkers
from caa_interp.study.ray_cluster import Actor, connect


@dataclass(frozen=True)
class Piece:
    """What a shard is to an executor."""

    label: str
    kind: str = "echo"
    arguments: Any = None
    model: str = "model"


class Tiny:
    """Stands in for a worker: no model, and every way to end."""

    def describe(self, model):
        if model == "absent":
            raise InputError("model 'absent': there is none. Name another.")
        return {"id": model, "n_layers": 2}

    def work(self, shard):
        return getattr(self, f"_{shard.kind}")(shard)

    def _echo(self, shard):
        return shard.label.encode()

    def _wait(self, shard):
        folder, gate = shard.arguments
        with open(Path(folder) / shard.label, "a") as starts:
            starts.write(f"{os.getpid()}\n")
        for _ in range(60_000):  # processes that a failed test leaves behind end some time
            if os.path.exists(gate):
                return f"{shard.label} in {os.getpid()}".encode()
            time.sleep(0.01)
        raise TimeoutError(gate)

    def _setting(self, shard):
        return f"{torch.get_num_threads()} {[os.environ.get(name) for name in shard.arguments]}".encode()

    def _raise(self, shard):
        while not starts(Path(shard.arguments)):
            time.sleep(0.01)
        raise InputError(f"pairs: those of {shard.label} are empty. Give some.")

    def _die(self, shard):
        os.kill(os.getpid(), signal.SIGKILL)


class Changing(Tiny):
    """Its facts are never the same."""

    def describe(self, model):
        return {"id": model, "versions": time.perf_counter_ns()}


def starts(folder: Path) -> dict[str, list[int]]:
    """Of each shard, the processes that began it."""
    return {path.name: [int(line) for line in path.read_text().split()] for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cluster():
    """Ray on four CPUs of this machine; executors of the tests find it running."""
    pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where workers find Tiny
        with RayWorkers(4) as owner:
            yield owner


def test_in_process_does_shards_in_order_and_only_when_asked(tmp_path):
    executor = InProcess(worker=Tiny)
    assert executor.describe("model") == {"id": "model", "n_layers": 2}
    shards = [Piece(str(n), "wait", (tmp_path, tmp_path)) for n in range(3)]
    results = executor.run(shards)
    assert not starts(tmp_path)
    assert next(results)[0] == shards[0]
    assert set(starts(tmp_path)) == {"0"}
    assert [shard for shard, _ in results] == shards[1:]
    executor.close()
    with pytest.raises(InputError, match=r"executor: it is closed\. Make a new InProcess"):
        executor.describe("model")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n_workers": 0}, "n_workers: 0; it must be a whole number of at least 1"),
        ({"n_workers": 1.5}, "n_workers: 1.5; it must be a whole number"),
        ({"cpus_per_worker": True}, "cpus_per_worker: True; it must be a whole number"),
        ({"gpus_per_worker": -1}, "gpus_per_worker: -1; it must be a number of at least 0"),
        ({"gpus_per_worker": float("nan")}, "gpus_per_worker: nan"),
    ],
)
def test_numbers_are_checked_before_anything_is_started(given, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=message):
        RayWorkers(**given)


def test_a_missing_ray_names_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'caa-interp\[ray\]'"):
        RayWorkers()
    assert "RAY_USAGE_STATS_ENABLED" not in os.environ


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_answers(address, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=rf"no Ray cluster answers at '{address}' \(.+ray start --head"):
        RayWorkers(address=address)


@pytest.mark.parametrize("fails", [1, 3])
def test_a_start_that_ray_gives_up_on_is_tried_again_and_leaves_nothing_behind(monkeypatch, fails):
    """Ray waits half a minute for itself, which a busy machine may exceed."""
    stopped, tried = [], []

    class Node:
        def kill_all_processes(self, **_):
            stopped.append(self)

        def start(self):
            raise Exception("The current node timed out during startup.")

    def init(**_):
        tried.append(1)
        if len(tried) <= fails:
            Node().start()

    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    if fails == 3:
        with pytest.raises(ModelError, match=r"could not be started on this machine in 3 tries .*timed out"):
            connect(None, 1)
    else:
        assert connect(None, 1)[1:] == (True, True)
    assert (len(tried), len(stopped)) == (min(fails + 1, 3), fails)


def test_workers_whose_models_differ_are_found_out():
    threads = torch.get_num_threads()
    actor = Actor(Changing, threads)
    # What they agree in is not listed.
    with pytest.raises(ModelError, match=r"two workers differ in versions: 1 and \d+, so"):
        actor.work(Piece("a"), {"id": "model", "versions": 1})


def test_a_killed_worker_comes_back_and_every_shard_arrives_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = tmp_path / "starts"
    folder.mkdir()
    gate = tmp_path / "gate"  # the first shard is not kept waiting, the others until a worker is killed
    shards = [Piece(f"shard {n}", "wait", (folder, gate if n else folder)) for n in range(8)]
    with RayWorkers(2, cpus_per_worker=2, worker=Tiny) as executor:
        assert executor.describe("model") == {"id": "model", "n_layers": 2}
        results = executor.run(shards)
        arrived = [next(results)]
        # The first shard's worker is at its next one by now, or will be at once.
        victim = int(arrived[0][1].split()[-1])
        while not (caught := {label for label, pids in starts(folder).items() if victim in pids} - {"shard 0"}):
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        gate.touch()
        arrived += results
        asked = Piece("setting", "setting", ("CAA_INTERP_CACHE", "HF_TOKEN", "CUDA_VISIBLE_DEVICES"))
        ((_, setting),) = executor.run([asked])

    assert sorted(shard.label for shard, _ in arrived) == [shard.label for shard in shards]
    assert all(content.decode().startswith(f"{shard.label} in ") for shard, content in arrived)
    again = {label: pids for label, pids in starts(folder).items() if len(pids) > 1}
    assert set(again) == caught
    assert all(pids[0] == victim != pids[1] for pids in again.values())
    # Two threads though this process may have another number; settings hold, secrets stay.
    assert setting.decode() == f"2 {[str(tmp_path / 'cache'), None, '']}"
    assert cluster._ray.is_initialized(), "a cluster that was found running is left running"


def test_what_a_shard_raises_arrives_as_it_was_and_the_rest_is_given_up(cluster, tmp_path):
    shards = [Piece("bad", "raise", tmp_path), *(Piece(str(n), "wait", (tmp_path, "never")) for n in range(3))]
    with RayWorkers(2, worker=Tiny) as executor:
        with pytest.raises(InputError) as caught:
            list(executor.run(shards))
        assert type(caught.value) is InputError
        assert str(caught.value) == "pairs: those of bad are empty. Give some."
        assert "_raise" in str(caught.value.__cause__), "the worker's own traceback is kept"
        assert [content for _, content in executor.run([Piece("good")])] == [b"good"]
        assert len(starts(tmp_path)) == 1
        with pytest.raises(InputError, match="model 'absent': there is none"):
            executor.describe("absent")
    with pytest.raises(InputError, match=r"executor: it is closed\. Make a new RayWorkers"):
        executor.describe("model")
    executor.close()


def test_too_many_workers_for_the_cluster(cluster):
    with pytest.raises(
        InputError, match=r"n_workers: 1 with 1 CPUs and 64 GPUs each; there is room for 0\. Take fewer"
    ):
        RayWorkers(gpus_per_worker=64, worker=Tiny)
    assert RayWorkers(cpus_per_worker=2, worker=Tiny)._n_workers == 2


@pytest.mark.slow
def test_a_shard_that_kills_its_workers_is_named(cluster, monkeypatch):
    monkeypatch.setattr(executors, "ATTEMPTS", 2)
    shards = [Piece("good"), Piece("sycophancy: pairs 1 to 10", "die"), *(Piece(str(n)) for n in range(4))]
    with RayWorkers(2, worker=Tiny) as executor:
        results = executor.run(shards)
        arrived = [next(results)[0].label for _ in range(5)]
        with pytest.raises(ModelError) as caught:
            next(results)
    assert str(caught.value).startswith("sycophancy: pairs 1 to 10: the worker died each of the 2 times")
    assert "fewer workers" in str(caught.value)
    assert sorted(arrived) == ["0", "1", "2", "3", "good"]


PROGRAM = """
    from test_executors import Piece, Tiny
    from caa_interp.study.executors import RayWorkers
"""


def start(program: str, mark: str, **environment: str) -> subprocess.Popen[str]:
    """Run Python code in a session of its own, all of whose processes have ``MARK`` in their environment."""
    head = textwrap.dedent(PROGRAM)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "MARK": mark, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def marked(mark: str) -> list[str]:
    """Processes that are left of a program."""
    running = psutil.process_iter(["name", "environ"])
    return [one.info["name"] for one in running if (one.info["environ"] or {}).get("MARK") == mark]


def wait_until(true, seconds: float) -> None:
    limit = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_stops_a_cluster_that_was_started_here(tmp_path):
    folder = tmp_path / "starts"
    folder.mkdir()
    program = start(
        f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
        executor = RayWorkers(2, worker=Tiny)
        try:
            for shard, _ in executor.run([Piece(str(n), "wait", ({str(folder)!r}, "never")) for n in range(4)]):
                print("arrived", shard.label)
        except KeyboardInterrupt:
            import ray
            print("interrupted, Ray is", "up" if ray.is_initialized() else "down")
        """,
        mark := str(tmp_path),
    )
    wait_until(lambda: len(starts(folder)) == 2, 120)
    os.killpg(program.pid, signal.SIGINT)  # what a terminal does
    out, errors = program.communicate(timeout=120)
    assert out == "interrupted, Ray is down\n", errors
    wait_until(lambda: not marked(mark), 60)


@pytest.mark.slow
def test_a_cluster_at_an_address_is_used_and_left_running(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    host, port = address.split(":")
    ray = str(Path(sys.executable).with_name("ray"))
    # A folder of its own, or Ray would take this cluster for the machine's latest; its sockets need a short path.
    folder = tempfile.mkdtemp(prefix="ray-")
    options = [f"--port={port}", f"--node-ip-address={host}", f"--temp-dir={folder}", "--num-cpus=2"]
    head = subprocess.Popen(
        [ray, "start", "--head", "--block", "--disable-usage-stats", "--include-dashboard=false", *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), "MARK": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: "raylet" in marked(str(tmp_path)), 120)
        program = start(
            f"""
            for address in ({address!r}, None):  # the second time by RAY_ADDRESS
                with RayWorkers(1, address=address, worker=Tiny) as executor:
                    print([content for _, content in executor.run([Piece("far")])], executor._own)
            """,
            "driver",
            RAY_ADDRESS=address,
        )
        out, errors = program.communicate(timeout=120)
        assert out == "[b'far'] False\n" * 2, errors
        assert "raylet" in marked(str(tmp_path))
    finally:
        head.terminate()
        head.wait(30)
        wait_until(lambda: not marked(str(tmp_path)), 60)
        shutil.rmtree(folder)
