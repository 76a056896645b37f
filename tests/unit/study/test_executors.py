"""Executors: the same results here and in other processes, also when these die; what fails, fails as itself."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import torch
from tiny_worker import Model, Piece, starts

from caa_interp.errors import InputError, MissingDependencyError, ModelError
from caa_interp.study import executors
from caa_interp.study.executors import InProcess, work
from caa_interp.study.processes import Processes
from caa_interp.study.ray_workers import RayWorkers

MODEL = Model()


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Work is done by a module that needs no model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "WORKER", "tiny_worker")
        yield


@pytest.fixture(scope="module")
def cluster(ray_address):
    """Ray, connected to a cluster; executors of the tests find it so."""
    ray = pytest.importorskip("ray")
    ray.init(address=ray_address, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_in_process_does_tasks_in_order_and_only_when_asked(tmp_path):
    executor = InProcess()
    assert executor.describe(MODEL) == {"id": "model", "n_layers": 2}
    tasks = [Piece(str(n), "wait", (tmp_path, tmp_path)) for n in range(3)]
    results = executor.run(MODEL, tasks)
    assert not starts(tmp_path)
    assert next(results)[0] == tasks[0]
    assert set(starts(tmp_path)) == {"0"}
    assert [task for task, _ in results] == tasks[1:]


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


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_nobody_answers(address, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=rf"no Ray cluster answers at '{address}' \(.+ray start --head"):
        RayWorkers(address=address)


def test_workers_whose_models_differ_are_found_out():
    # What they agree in is not listed.
    with pytest.raises(ModelError, match=r"two workers differ in versions: 1 and \d+, so"):
        work("tiny_worker", Model("changing"), Piece("a"), {"id": "changing", "versions": 1})
    assert work("tiny_worker", MODEL, Piece("a"), {"id": "model", "n_layers": 2}) == b"a"


def test_a_killed_worker_comes_back_and_every_task_arrives_once(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    folder = tmp_path / "starts"
    folder.mkdir()
    gate = tmp_path / "gate"  # the first task is not kept waiting, the others until a worker is killed
    tasks = [Piece(f"task {n}", "wait", (folder, gate if n else folder)) for n in range(8)]
    with RayWorkers(2, cpus_per_worker=2) as executor:
        assert executor.describe(MODEL) == {"id": "model", "n_layers": 2}
        results = executor.run(MODEL, tasks)
        arrived = [next(results)]
        # The first task's worker is at its next one by now, or will be at once.
        victim = int(arrived[0][1].split()[-1])
        while not (caught := {label for label, pids in starts(folder).items() if victim in pids} - {"task 0"}):
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)
        gate.touch()
        arrived += results
        asked = Piece("setting", "setting", ("CAA_INTERP_CACHE", "HF_TOKEN", "CUDA_VISIBLE_DEVICES"))
        ((_, setting),) = executor.run(MODEL, [asked])

    assert sorted(task.label for task, _ in arrived) == [task.label for task in tasks]
    assert all(content.decode().startswith(f"{task.label} in ") for task, content in arrived)
    again = {label: pids for label, pids in starts(folder).items() if len(pids) > 1}
    assert set(again) == caught
    assert all(pids[0] == victim != pids[1] for pids in again.values())
    # Two threads though this process may have another number; settings hold, secrets stay.
    assert setting.decode() == f"2 {[str(tmp_path / 'cache'), None, '']}"
    assert cluster.is_initialized(), "a cluster that was found running is left running"


def test_what_a_task_raises_arrives_as_it_was_and_the_rest_is_given_up(cluster, tmp_path):
    tasks = [Piece("bad", "raise", tmp_path), *(Piece(str(n), "wait", (tmp_path, "never")) for n in range(3))]
    with RayWorkers(2) as executor:
        with pytest.raises(InputError) as caught:
            list(executor.run(MODEL, tasks))
        assert type(caught.value) is InputError
        assert str(caught.value) == "pairs: those of bad are empty. Give some."
        assert "_raise" in str(caught.value.__cause__), "the worker's own traceback is kept"
        assert [content for _, content in executor.run(MODEL, [Piece("good")])] == [b"good"]
        assert len(starts(tmp_path)) == 1
        with pytest.raises(InputError, match="model 'absent': there is none"):
            executor.describe(Model("absent"))
    with pytest.raises(InputError, match=r"executor: it is closed\. Make a new RayWorkers"):
        executor.describe(MODEL)
    executor.close()


@pytest.fixture(scope="module")
def two():
    with Processes(2) as executor:
        yield executor


def test_a_process_that_dies_is_replaced_and_every_task_arrives_once(two, tmp_path):
    folder, gate = tmp_path / "starts", tmp_path / "gate"
    folder.mkdir()
    tasks = [Piece(f"task {n}", "wait", (folder, gate)) for n in range(5)]
    assert two.describe(MODEL) == {"id": "model", "n_layers": 2}
    results = two.run(MODEL, tasks)
    with ThreadPoolExecutor(1) as pool:
        arrived = pool.submit(list, results)
        wait_until(lambda: len(starts(folder)) == 2)  # one task in each, and no more
        ((victim,), (other,)) = (starts(folder)[f"task {n}"] for n in range(2))
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(starts(folder)) == 3)  # its place is taken, and the task is tried again at the end
        gate.touch()
        done = arrived.result()
    assert sorted(task.label for task, _ in done) == [task.label for task in tasks]
    assert all(content.decode().startswith(f"{task.label} in ") for task, content in done)
    begun = starts(folder)
    assert begun["task 0"][1] != victim
    assert len({pid for pids in begun.values() for pid in pids} - {victim, other}) == 1  # one process took its place
    assert [len(begun[f"task {n}"]) for n in range(5)] == [2, 1, 1, 1, 1]


def test_what_a_task_raises_in_a_process_arrives_as_it_was_and_the_rest_is_given_up(two, tmp_path):
    tasks = [Piece("bad", "raise", tmp_path), *(Piece(str(n), "wait", (tmp_path, "never")) for n in range(3))]
    with pytest.raises(InputError, match="pairs: those of bad are empty") as caught:
        list(two.run(MODEL, tasks))
    assert "_raise" in str(caught.value.__cause__), "the process's own traceback is kept"
    ((pid,),) = starts(tmp_path).values()
    assert not psutil.pid_exists(pid)
    assert [content for _, content in two.run(MODEL, [Piece("good")])] == [b"good"]
    with pytest.raises(InputError, match="model 'absent': there is none"):
        two.describe(Model("absent"))


def test_processes_that_were_closed_are_not_asked():
    executor = Processes(2)
    executor.close()
    with pytest.raises(InputError, match=r"executor: it is closed\. Make a new Processes"):
        executor.describe(MODEL)


def test_a_task_that_kills_its_processes_is_named(two, monkeypatch):
    monkeypatch.setattr(executors, "ATTEMPTS", 2)
    tasks = [Piece("sycophancy: pairs 1 to 10", "die"), *(Piece(str(n)) for n in range(4))]
    arrived = []
    with pytest.raises(ModelError, match=r"^sycophancy: pairs 1 to 10: the worker died each of the 2 times"):
        arrived.extend(task.label for task, _ in two.run(MODEL, tasks))
    assert two.describe(MODEL)


def test_what_others_are_at_is_finished_when_tasks_are_given_up(two, tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "ATTEMPTS", 2)
    folder, gate = tmp_path / "starts", tmp_path / "gate"
    folder.mkdir()
    deaths, stop = [], two._stop

    def stopped(worker):
        deaths.append(worker)
        if len(deaths) == 4:  # two of each that dies
            gate.touch()
        stop(worker)

    monkeypatch.setattr(two, "_stop", stopped)
    tasks = [Piece("first", "wait", (folder, gate)), Piece("bad", "die"), Piece("worse", "die"), Piece("last")]
    arrived = []
    with pytest.raises(ModelError, match=r"^bad, worse: the worker died each of the 2 times"):
        arrived.extend(task.label for task, _ in two.run(MODEL, tasks))
    assert sorted(arrived) == ["first", "last"]
    assert len(starts(folder)["first"]) == 1


def test_processes_share_the_threads_of_this_one(two, monkeypatch):
    (_, setting), *_ = two.run(MODEL, [Piece("setting", "setting", ("OMP_NUM_THREADS",))])
    n = max(1, torch.get_num_threads() // 2)
    assert setting.decode() == f"{n} ['{n}']"
    for wrong in (0, 1.5, True):
        with pytest.raises(InputError, match=r"n: .*; it must be a whole number of at least 1"):
            Processes(wrong)


def test_each_process_has_a_gpu_of_its_own_if_there_are_several(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    folder, gate = tmp_path / "starts", tmp_path / "gate"
    folder.mkdir()
    with Processes(2) as executor:
        with ThreadPoolExecutor(1) as pool:
            tasks = [Piece(str(n), "wait", (folder, gate)) for n in range(2)]
            arrived = pool.submit(list, executor.run(MODEL, tasks))
            wait_until(lambda: len(starts(folder)) == 2)  # both processes are up
            gate.touch()
            arrived.result()
        n = max(1, torch.get_num_threads() // 2)
        asked = [Piece(str(n), "setting", ("CUDA_VISIBLE_DEVICES",)) for n in range(2)]  # one each
        seen = {content.decode() for _, content in executor.run(MODEL, asked)}
    assert seen == {f"{n} ['3']", f"{n} ['5']"}


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_processes_do_not_outlive_the_one_that_started_them(tmp_path, sent):
    folder = tmp_path / "starts"
    folder.mkdir()
    program = start(
        f"""
        import signal
        from caa_interp.study.processes import Processes
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
            with Processes(2) as executor:
                try:
                    list(executor.run(MODEL, [Piece(str(n), "wait", ({str(folder)!r}, "never")) for n in range(4)]))
                except KeyboardInterrupt:
                    print("interrupted")
        """,
        mark := str(tmp_path),
    )
    wait_until(lambda: len(starts(folder)) == 2)
    (os.killpg if sent == signal.SIGINT else os.kill)(program.pid, sent)  # Ctrl-C goes to all, as from a terminal
    out, errors = program.communicate(timeout=300)
    if sent == signal.SIGKILL:  # it could not put away its own semaphores
        errors = "".join(line for line in errors.splitlines() if "resource_tracker" not in line)
    assert (out, errors) == ("interrupted\n" if sent == signal.SIGINT else "", "")
    wait_until(lambda: not marked(mark))


def test_a_script_that_would_start_processes_without_end_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from caa_interp.study.processes import Processes\n"
        "from tiny_worker import Model\n"
        "Processes(1).describe(Model())\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=300
    )
    assert "starting a worker: the worker died each of the 4 times" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr.splitlines()[-1]


def test_too_many_workers_for_the_cluster(cluster):
    with pytest.raises(InputError, match=r"room for none with 1 CPUs and 64 GPUs each\. Lower cpus_per_worker or"):
        RayWorkers(gpus_per_worker=64)
    assert len(RayWorkers(cpus_per_worker=2)._slots) == 2


@pytest.mark.slow
def test_a_task_that_kills_its_workers_is_named(cluster, monkeypatch):
    monkeypatch.setattr(executors, "ATTEMPTS", 2)
    tasks = [Piece("good"), Piece("sycophancy: pairs 1 to 10", "die"), *(Piece(str(n)) for n in range(4))]
    with RayWorkers(2) as executor:
        results = executor.run(MODEL, tasks)
        arrived = [next(results)[0].label for _ in range(5)]
        with pytest.raises(ModelError) as caught:
            next(results)
    assert str(caught.value).startswith("sycophancy: pairs 1 to 10: the worker died each of the 2 times")
    assert "fewer workers" in str(caught.value)
    assert sorted(arrived) == ["0", "1", "2", "3", "good"]


TRACKER = "multiprocessing.resource_tracker"
PROGRAM = """
    from tiny_worker import Model, Piece
    from caa_interp.study import executors
    from caa_interp.study.ray_workers import RayWorkers
    MODEL = Model()
    executors.WORKER = "tiny_worker"
"""


def start(program: str, mark: str, **environment: str) -> subprocess.Popen[str]:
    """Run Python code in a session of its own, all of whose processes have ``MARK`` in their environment."""
    head = textwrap.dedent(PROGRAM)
    return subprocess.Popen(
        # What processes leave behind is a warning of Python's tracker, which says nothing where it is an error.
        [sys.executable, "-W", "error", "-W", f"default:::{TRACKER}", "-c", head + textwrap.dedent(program)],
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


def wait_until(true) -> None:
    limit = time.monotonic() + 300  # a busy machine takes long to start a process
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_of_a_cluster(ray_address, tmp_path):
    folder = tmp_path / "starts"
    folder.mkdir()
    program = start(
        f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in a shell's background ignores it
        executor = RayWorkers(2, address={ray_address!r})
        try:
            for task, _ in executor.run(MODEL, [Piece(str(n), "wait", ({str(folder)!r}, "never")) for n in range(4)]):
                print("arrived", task.label)
        except KeyboardInterrupt:
            import ray
            print("interrupted,", "still connected" if ray.is_initialized() else "not connected")
        """,
        mark := str(tmp_path),
    )
    wait_until(lambda: len(starts(folder)) == 2)
    os.killpg(program.pid, signal.SIGINT)  # what a terminal does
    out, errors = program.communicate(timeout=300)
    assert out == "interrupted, not connected\n", errors
    wait_until(lambda: not any(psutil.pid_exists(pid) for pids in starts(folder).values() for pid in pids))
    wait_until(lambda: not marked(mark))


@pytest.mark.slow
def test_a_cluster_at_an_address_is_used_and_left_running(ray_address):
    program = start(
        f"""
        import ray
        for address in ({ray_address!r}, "auto"):  # the second time by RAY_ADDRESS
            with RayWorkers(1, address=address) as executor:
                print([content for _, content in executor.run(MODEL, [Piece("far")])], ray.is_initialized())
            print(ray.is_initialized())
        """,
        "driver",
        RAY_ADDRESS=ray_address,
    )
    out, errors = program.communicate(timeout=300)
    assert out == "[b'far'] True\nFalse\n" * 2, errors  # the second time there was still a cluster
