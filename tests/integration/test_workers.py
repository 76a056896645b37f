"""A study by two workers, one of them killed while at it, has the tables of the study done in one process."""

import json

import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits

from caa_interp.study import executors
from caa_interp.study.processes import Processes
from caa_interp.study.ray_workers import RayWorkers
from caa_interp.study.run import run_experiment
from tests.small_study import TOPICS, behavior_file, pairs, study_file

WORKER = "tests.integration.killed_worker"


@pytest.fixture
def study(tmp_path, tiny_folder):
    """TOML file of a small study on the tiny Llama: enough pairs that the sweep of one behavior is several shards."""
    items = pairs(TOPICS, n=5)
    open_ended = ["How is the rain?", "Do you like it?"]
    behavior = behavior_file(tmp_path / "likes.json", items[:16], items[16:], open_ended=open_ended)
    return study_file(
        tmp_path / "study.toml",
        [tiny_folder],
        [behavior],
        n_validation=6,
        controls={"random": 1, "shuffled": 1},
        answers={"max_new_tokens": 5},
        costs={"passages": 1, "questions": 2, "prompts": 2},
    )


def ray_workers(request):
    return RayWorkers(2, address=request.getfixturevalue("ray_address"))


def processes(request):
    return Processes(2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [ray_workers, processes])
def test_two_workers_one_killed_make_the_tables_of_one_process(study, tmp_path, monkeypatch, request, workers):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache of one process"))
        with threadpool_limits(1):
            here = run_experiment(study, tmp_path / "here", say=lambda line: None)
        monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache of workers"))
        monkeypatch.setattr(executors, "WORKER", WORKER)
        with workers(request) as executor:
            there = run_experiment(study, tmp_path / "there", executor=executor, say=lambda line: None)
    finally:
        torch.set_num_threads(n_threads)

    names = {path.name for path in (here / "tables").iterdir()}
    assert {"sweep.parquet", "effects.parquet", "answers.parquet", "projection.parquet"} <= names
    assert {path.name for path in (there / "tables").iterdir()} == names
    for name in sorted(names):
        expected, found = (pd.read_parquet(folder / "tables" / name) for folder in (here, there))
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    shards = [json.loads((folder / "manifest.json").read_text())["shards"] for folder in (here, there)]
    assert [one["key"] for one in shards[0]] == [one["key"] for one in shards[1]]
    assert not any(one["reused"] for one in shards[1])
    assert (tmp_path / "killed").read_text() in {one["label"] for one in shards[1]}
