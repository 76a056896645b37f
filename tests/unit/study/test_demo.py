"""The demo is a study: small, of one behavior, with answers at multipliers at which the effect is measured."""

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.study import demo as module
from caa_interp.study.chosen import Study
from caa_interp.study.demo import demo_config, run_demo
from caa_interp.study.kinds import every_task
from caa_interp.study.store import ShardStore
from caa_interp.study.tasks import cost
from tests.small_study import TOPICS, behavior_file, pairs


@pytest.fixture
def liking(tmp_path):
    """File of a behavior with few pairs."""
    train, test = pairs(TOPICS[:5]), pairs(TOPICS[5:])
    return behavior_file(tmp_path / "liking.json", train, test, open_ended=["How is the rain?"])


def test_the_demo_of_the_embedded_model_reads_few_sequences(monkeypatch):
    monkeypatch.setattr(module, "depth_of", lambda name: 30)
    config = demo_config()
    planned = Study.planned(config, 30)
    assert [len(part) for part in planned.splits["optimism"]] == [80, 10, 24]
    assert config.layers == (5, 10, 15, 20, 25)
    assert set(config.answers.multipliers) < set(config.multipliers)
    tasks = every_task(planned)
    assert sum(map(cost, tasks)) < 1_700
    assert {task.table for task in tasks} == {
        *("vectors", "validation", "sweep", "dose_response", "answers", "logit_lens", "projection", "separation"),
    }


@pytest.mark.parametrize(("depth", "layers"), [(1, None), (2, (1,)), (32, (5, 10, 15, 20, 25, 30))])
def test_layers_are_spread_over_any_depth(monkeypatch, depth, layers):
    monkeypatch.setattr(module, "depth_of", lambda name: depth)
    assert demo_config().layers == layers


def test_a_demo_ends_with_its_page_and_three_calls_and_is_opened_again(
    tmp_path, liking, tiny_folder, tiny_llama, monkeypatch
):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    lines: list[str] = []
    folder = run_demo(tmp_path / "demo", model=str(tiny_folder), behavior=str(liking), say=lines.append)
    assert (folder / "report.html").is_file()
    assert lines[-2] == f"The page: {(folder / 'report.html').resolve()}"
    tables = {path.stem: pd.read_parquet(path) for path in (folder / "tables").glob("*.parquet")}
    (layers,) = tables["layers"].to_dict("records")
    assert (layers["n_train"], layers["n_validation"], layers["n_test"]) == (1, 4, 3)
    assert set(tables["answers"]["multiplier"]) <= set(tables["dose_response"]["multiplier"])
    assert tables["dose_response"]["vector"].nunique() == 1 + 4
    # What is printed runs as it stands, and gives what is in the folder.
    told, calls = lines[-1].split("\n\n")
    assert "`train` is 1 of the pairs that `caa.evaluation.validation_split` leaves" in told
    behavior = caa.load_behavior(liking)
    train, _ = caa.evaluation.validation_split(behavior.train, 4)
    names = {"caa": caa, "model": tiny_llama, "behavior": behavior, "train": train}
    exec(calls, names)
    kept = caa.SteeringVector.load(folder / "vectors" / "tiny-llama" / "liking.safetensors")
    assert (names["vector"].values[list(kept.layers)] - kept.values).abs().max() < 1e-6
    mine = tables["dose_response"].query("vector == 'liking'")["logit_difference"]
    assert names["table"]["logit_difference"].to_numpy() == pytest.approx(mine.to_numpy(), abs=1e-4)
    assert set(names["texts"]["multiplier"]) == set(tables["answers"]["multiplier"])

    monkeypatch.delattr("caa_interp.study.worker.load_model")
    monkeypatch.delattr(ShardStore, "put")
    run_demo(folder, model=str(tiny_folder), behavior=str(liking), say=lines.append)
    assert lines[-1] == f"{told}\n\n{calls}"
