"""A study that is killed at random moments, again and again, and continued each time, is the undisturbed study."""

import contextlib
import hashlib
import json
import random
import time
from pathlib import Path
from signal import SIGKILL
from typing import Any

import psutil
import pytest

from caa_interp.study.config import ExperimentConfig
from tests.killable import Sessions, errors
from tests.small_study import LITTLE, TOPICS, behavior_file, pairs, study_file


def workers(cache: Path) -> list[psutil.Process]:
    """Processes of the workers of a study that has this cache."""
    return [
        one
        for one in psutil.process_iter(["cmdline", "environ"])
        if (one.info["environ"] or {}).get("CAA_INTERP_CACHE") == str(cache)
        and any(word in " ".join(one.info["cmdline"] or []) for word in ("spawn_main", "ray::_Actor"))
    ]


@pytest.fixture
def study(tmp_path, tiny_folder):
    """TOML file of a small study on the tiny Llama, in several shards."""
    items = pairs(TOPICS[:6], n=5)
    open_ended = ["How is the rain?", "Do you like it?"]
    behavior = behavior_file(tmp_path / "likes.json", items[:10], items[10:], open_ended=open_ended)
    return study_file(
        tmp_path / "study.toml",
        [tiny_folder],
        [behavior],
        n_validation=4,
        controls={"random": 1, "shuffled": 0},
        answers={"max_new_tokens": 3},
        costs=LITTLE["costs"],
    )


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
    sessions = Sessions(study, tmp_path / "whole", tmp_path / "whole-cache", kind=kind, address=address)
    moments = random.Random(0)
    n_killed = n_drivers = number = 0
    caches = [tmp_path / "alone-cache"]
    try:
        sessions.start(study, tmp_path / "alone", caches[0])
        begun = time.monotonic()
        assert sessions.end() == 0
        seconds = time.monotonic() - begun
        whole = results(tmp_path / "whole")
        assert results(tmp_path / "alone") == whole
        while n_killed < times:
            folder, number, code, resumed = tmp_path / f"run-{number}", number + 1, None, False
            caches.append(cache := tmp_path / f"{folder.name}-cache")
            while code != 0:
                begun, n_before = time.monotonic(), n_killed
                driver = sessions.start(study, folder, cache)
                for _ in range(3):  # a task may lose its worker three times
                    with contextlib.suppress(psutil.TimeoutExpired):
                        driver.wait(moments.uniform(0, seconds))
                        break
                    victim = moments.choice([driver, *workers(cache)])
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.send_signal(SIGKILL)
                        n_killed, n_drivers = n_killed + 1, n_drivers + (victim == driver)
                code = sessions.end()
                if n_killed == n_before and not resumed:  # the first study may have been slower than the others
                    seconds = min(seconds, time.monotonic() - begun)
                resumed = True  # from here on a session may be too short for moments at which anything is made
                assert code in (0, -SIGKILL)
                assert_consistent(folder, whole)
            assert results(folder) == whole
            assert [path.name for path in folder.rglob(".*")] == [".lock"]
            limit = time.monotonic() + 60
            while workers(cache):
                assert time.monotonic() < limit, "workers outlive their study"
                time.sleep(0.1)
    finally:
        outside = sessions.close()
    print(f"\n{kind}: {n_killed} SIGKILLs, {n_drivers} of them to the driver, in {number} studies of {seconds:.1f} s")
    assert n_killed >= times
    assert [outside, *map(errors, caches)] == [""] * (1 + len(caches))
