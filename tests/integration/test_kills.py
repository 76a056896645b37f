"""A study that is killed at random moments, again and again, and continued each time, is the undisturbed study."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil
import pytest

from caa_interp.study.config import ExperimentConfig

# Does the study once, with all that it loads, then each time in a process of its own, which the test kills.
SERVER = """
import contextlib, os, sys
from caa_interp.study import Processes, RayWorkers, run_experiment
config = sys.argv[1]
os.environ["CAA_INTERP_CACHE"] = sys.argv[2] + "-cache"
run_experiment(config, sys.argv[2], say=lambda line: None)
for line in sys.stdin:
    cache, folder, kind, address = line.split()
    driver = os.fork()
    if not driver:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Ray tells there of workers that died
        os.environ["CAA_INTERP_CACHE"] = cache
        try:
            if kind == "processes":
                executor = Processes(2)
            elif kind == "ray":
                executor = RayWorkers(2, address=address)
            else:
                executor = contextlib.nullcontext()
            with executor as spread:
                run_experiment(config, folder, executor=spread, say=lambda line: None)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(driver, flush=True)
    print(os.waitpid(driver, 0)[1], flush=True)
"""


class Sessions:
    """Runs a study, or continues it, in a process of its own."""

    def __init__(self, study: Path, whole: Path, kind: str, address: str):
        self._kind, self._address = kind, address
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, study, whole],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def start(self, folder: Path) -> psutil.Process:
        cache = folder.with_name(f"{folder.name}-cache")
        print(cache, folder, self._kind, self._address, file=self._server.stdin, flush=True)
        return psutil.Process(int(self._server.stdout.readline()))

    def end(self) -> int:
        """Exit code of the session, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(int(self._server.stdout.readline()))

    def workers(self, folder: Path) -> list[psutil.Process]:
        """Processes of this study's workers."""
        cache = str(folder.with_name(f"{folder.name}-cache"))
        return [
            one
            for one in psutil.process_iter(["cmdline", "environ"])
            if (one.info["environ"] or {}).get("CAA_INTERP_CACHE") == cache
            and any(word in " ".join(one.info["cmdline"] or []) for word in ("spawn_main", "ray::_Actor"))
        ]

    def close(self) -> str:
        """What went wrong in all sessions; Python removes the semaphores that a killed process left, and tells so."""
        lines = self._server.communicate()[1].splitlines(keepends=True)
        return "".join(line for line in lines if "resource_tracker" not in line)


@pytest.fixture
def study(tmp_path, tiny_folder):
    """TOML file of a small study on the tiny Llama, in several shards."""
    topics = ["rain", "the sea", "a garden", "the day", "an answer", "the weather"]
    pairs = [
        {"question": f"What of {topic}, {n}?", "positive": f"Yes, I like {topic}.", "negative": f"No, not {topic}."}
        for n in range(5)
        for topic in topics
    ]
    content = {"format": "caa_interp/behavior/1", "name": "likes", "description": ""}
    content |= {"train": pairs[:10], "test": pairs[10:], "open_ended": ["How is the rain?", "Do you like it?"]}
    behavior = tmp_path / "likes.json"
    behavior.write_text(json.dumps(content), encoding="utf-8")
    path = tmp_path / "study.toml"
    path.write_text(
        f"""
        models = ['{tiny_folder}']
        behaviors = ['{behavior}']
        format = "text"
        n_validation = 4
        [controls]
        random = 1
        shuffled = 0
        [answers]
        max_new_tokens = 3
        [costs]
        passages = 0
        questions = 0
        prompts = 0
        """,
        encoding="utf-8",
    )
    return path


def results(folder: Path) -> dict[str, Any]:
    """Tables and vectors of a run, to the last bit."""
    found: dict[str, Any] = {path.stem: path.read_bytes() for path in folder.glob("tables/*.parquet")}
    for path in folder.glob("vectors/*/*.safetensors"):
        content = path.read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        found[path.name] = json.loads(content[8:start]), content[start:]  # the order of the header is free
    return found


def assert_consistent(folder: Path, whole: dict[str, Any]) -> None:
    """All that stands in a folder is whole, and belongs to the study."""
    for path in folder.glob("shards/*/*.parquet"):
        assert path.stem.endswith(f"-{hashlib.sha256(path.read_bytes()).hexdigest()}")
    found = results(folder)
    assert found == {name: whole[name] for name in found}
    for path in [*folder.glob("*.json"), *folder.glob("figures/*.json")]:
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.glob("config.toml"):
        ExperimentConfig.load(path)
    for path in folder.glob("report.html"):
        assert found == whole
        assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    if found:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert len({one["key"] for one in manifest["shards"]}) == len(list(folder.glob("shards/*/*.parquet")))


@pytest.mark.parametrize(
    ("kind", "times"),
    [
        ("here", 3),
        pytest.param("here", 100, marks=pytest.mark.slow),
        pytest.param("processes", 100, marks=pytest.mark.slow),
        pytest.param("ray", 100, marks=pytest.mark.slow),
    ],
)
def test_a_study_that_is_killed_again_and_again_is_the_undisturbed_study(request, study, tmp_path, kind, times):
    address = request.getfixturevalue("ray_address") if kind == "ray" else "none"
    sessions = Sessions(study, tmp_path / "whole", kind, address)
    moments = random.Random(0)
    n_killed = n_drivers = number = 0
    try:
        sessions.start(tmp_path / "alone")
        begun = time.monotonic()
        assert sessions.end() == 0
        seconds = time.monotonic() - begun
        whole = results(tmp_path / "whole")
        assert results(tmp_path / "alone") == whole
        while n_killed < times:
            folder, number, code = tmp_path / f"run-{number}", number + 1, None
            while code != 0:
                driver = sessions.start(folder)
                for _ in range(3):  # a task may lose its worker three times
                    with contextlib.suppress(psutil.TimeoutExpired):
                        driver.wait(moments.uniform(0, seconds))
                        break
                    victim = moments.choice([driver, *sessions.workers(folder)])
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.send_signal(SIGKILL)
                        n_killed, n_drivers = n_killed + 1, n_drivers + (victim == driver)
                code = sessions.end()
                assert code in (0, -SIGKILL)
                assert_consistent(folder, whole)
            assert results(folder) == whole
            assert [path.name for path in folder.rglob(".*")] == [".lock"]
            limit = time.monotonic() + 60
            while sessions.workers(folder):
                assert time.monotonic() < limit, "workers outlive their study"
                time.sleep(0.1)
    finally:
        errors = sessions.close()
    print(f"\n{kind}: {n_killed} SIGKILLs, {n_drivers} of them to the driver, in {number} studies of {seconds:.1f} s")
    assert n_killed >= times
    assert errors == ""
