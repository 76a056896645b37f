"""A study that is killed, starved of disk, damaged, doubled: its tables are those of an undisturbed one."""

import json
import os
import shutil
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import psutil
import pytest
import torch
from filelock import FileLock

import caa_interp as caa
from caa_interp.errors import InputError
from caa_interp.files import slug
from caa_interp.study import engine, run as run_module, tasks as tasks_module, worker
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.executors import InProcess
from caa_interp.study.folder import check_same_study
from caa_interp.study.run import run_experiment
from caa_interp.study.store import cache_contents, clear_cache
from tests.killable import Sessions, errors
from tests.small_study import LITTLE, TOPICS, behavior_file, pairs, study_file


def likes_file(path: Path, positive: str, negative: str) -> Path:
    """File of a behavior whose pairs have ids and topics, and whose answers begin as given."""
    train = pairs(TOPICS[:5], positive, negative, 2, "train")
    test = pairs(TOPICS[5:], positive, negative, 2, "test")
    return behavior_file(path, train, test, open_ended=["How is the rain?", "Do you like it?"])


@pytest.fixture(scope="module")
def study(tmp_path_factory, tiny_folder) -> Path:
    """TOML file of a small study: two behaviors, all four layers of the tiny Llama."""
    folder = tmp_path_factory.mktemp("study")
    likes = likes_file(folder / "likes.json", "Yes, I like", "No, I do not like")
    agrees = likes_file(folder / "agrees.json", "I agree with you on", "I do not agree on")
    return study_file(
        folder / "study.toml",
        [tiny_folder],
        [likes, agrees],
        multipliers=[-1, 0, 2],
        n_validation=4,
        controls={"random": 2, "shuffled": 2},
        answers={"max_new_tokens": 5},
        costs={"passages": 2, "questions": 0},
        side_effects={"pairs": 3},
        interference={"pairs": 2, "prompts": 2},
        conversations={"conversations": 3, "turns": 2, "max_new_tokens": 4},
    )


@pytest.fixture(scope="module")
def brief(study) -> Path:
    """TOML file of the same study with little of each."""
    full = ExperimentConfig.load(study)
    return study_file(
        study.with_name("brief.toml"),
        [full.models[0].name],
        list(full.behaviors),
        layers=[1, 2],
        multipliers=[-1, 0, 2],
        n_validation=4,
        controls={"random": 1, "shuffled": 1},
        **LITTLE | {"answers": {"max_new_tokens": 5}},
    )


class Counting(InProcess):
    """Counts the tasks that are really done, and the models that are loaded."""

    def __init__(self):
        super().__init__()
        self.done, self.loaded = [], []

    def describe(self, model):
        self.loaded.append(model.name)
        return super().describe(model)

    def run(self, model, tasks):
        for one, content in super().run(model, tasks):
            self.done.append(one.label)
            yield one, content


class Finished(NamedTuple):
    """A run that nothing happened to: its folder and cache, the tasks that were done, and the lines that it said."""

    folder: Path
    cache: Path
    done: list[str]
    lines: list[str]


def finish(study: Path, place: Path) -> Finished:
    executor, lines = Counting(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAA_INTERP_CACHE", str(place / "cache"))
        folder = run_experiment(study, place / "run", executor=executor, say=lines.append)
    return Finished(folder, place / "cache", executor.done, lines)


@pytest.fixture(scope="module")
def undisturbed(study, tmp_path_factory) -> Finished:
    return finish(study, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(scope="module")
def undisturbed_brief(brief, tmp_path_factory) -> Finished:
    return finish(brief, tmp_path_factory.mktemp("undisturbed-brief"))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def undrawn(monkeypatch):
    """No page is drawn, which takes longest: for tests of what is done and kept."""
    monkeypatch.setattr(run_module, "write_page", lambda folder: None)


@pytest.fixture
def finished(undisturbed, tmp_path, own_cache) -> Path:
    """Folder of a finished run of the test's own, with its cache."""
    shutil.copytree(undisturbed.cache, own_cache)
    return shutil.copytree(undisturbed.folder, tmp_path / "run")


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    return {path.stem: pd.read_parquet(path) for path in sorted((folder / "tables").glob("*.parquet"))}


def assert_same_tables(folder: Path, expected: Path) -> None:
    found, wanted = tables(folder), tables(expected)
    assert list(found) == list(wanted)
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, wanted[name], check_exact=True)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def test_the_folder_holds_what_was_asked(undisturbed, study):
    folder = undisturbed.folder
    found = tables(folder)
    assert set(found) == {
        *("layers", "validation", "sweep", "dose_response", "effects", "reliability", "projection"),
        *("separation", "logit_lens", "effect_lens", "answers", "perplexity", "divergence", "side_effects"),
        *("interference", "persistence", "examples"),
    }
    for table in found.values():
        assert list(table.columns[:2]) == ["model", "behavior"]
        assert list(table["behavior"].unique()) == ["likes", "agrees"]
        assert list(table["model"].unique()) == ["tiny-llama"]
    sweep = found["sweep"]
    assert sorted(sweep["layer"].unique()) == [0, 1, 2, 3]
    assert sorted(sweep["multiplier"].unique()) == [-1, 0, 2]
    assert sweep.groupby("behavior")["item"].agg(["min", "max"]).to_numpy().tolist() == [[0, 5], [0, 5]]
    assert len(sweep) == 2 * 6 * 4 * 3
    controls = found["dose_response"]["vector"].unique().tolist()
    assert controls == ["likes", "random 0", "random 1", "shuffled 0", "shuffled 1", "agrees"]
    assert set(found["side_effects"]["vector"]) == {"likes", "agrees"}
    assert ExperimentConfig.load(folder / "config.toml") == ExperimentConfig.load(study)
    assert (folder / "report.html").is_file()
    assert undisturbed.lines[-1] == f"The page: {(folder / 'report.html').resolve()}"


def test_tables_are_those_of_the_single_calls(undisturbed, study, tiny_folder):
    folder = undisturbed.folder
    config = ExperimentConfig.load(study)
    model = caa.load_model(tiny_folder, device="cpu", dtype="float32")
    likes = caa.load_behavior(config.behaviors[0])
    found = tables(folder)
    vector = caa.SteeringVector.load(folder / "vectors" / "tiny-llama" / "likes.safetensors")
    rest, validation = caa.evaluation.validation_split(likes.train, 4, seed=0)
    made = caa.extract_vector(model, rest, format="text", behavior="likes")
    assert (vector.values - made.values).abs().max() < 1e-6
    assert vector.metadata == made.metadata

    swept = caa.sweep(model, vector, likes.test, multipliers=(-1, 0, 2)).drop(columns="model")
    mine = found["sweep"][found["sweep"]["behavior"] == "likes"].drop(columns=["model", "behavior"])
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), swept, atol=1e-5)
    validated = caa.sweep(model, vector, validation, format="text", multipliers=(-1, 2))
    layers = found["layers"].set_index("behavior")
    assert layers.loc["likes", "layer"] == caa.choose_layer(validated)
    assert layers.loc["likes", ["n_train", "n_validation", "n_test"]].tolist() == [6, 4, 6]
    dose = found["dose_response"]
    slopes = caa.steerability(dose[dose["behavior"] == "likes"].drop(columns=["model", "behavior"]))
    mine = found["effects"][found["effects"]["behavior"] == "likes"].drop(columns=["model", "behavior"])
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), slopes.reset_index(drop=True))
    measured = caa.reliability(caa.collect_activations(model, rest, format="text")).drop(columns="model")
    mine = found["reliability"][found["reliability"]["behavior"] == "likes"].drop(columns=["model", "behavior"])
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), measured, atol=1e-5, check_dtype=False)
    held_out = caa.collect_activations(model, likes.test, format="text", layers=int(layers.loc["likes", "layer"]))
    apart = caa.analysis.separation(held_out, vector).drop(columns="model")
    mine = found["separation"][found["separation"]["behavior"] == "likes"].drop(columns=["model", "behavior"])
    pd.testing.assert_frame_equal(mine.reset_index(drop=True), apart, atol=1e-5)
    assert not {"question", "d_prime"} & set(found["projection"])


def test_the_manifest_tells_where_it_all_comes_from(undisturbed):
    told = manifest(undisturbed.folder)
    assert told["models"]
    assert told["data"].keys() == {"likes", "agrees"}
    (facts,) = told["models"].values()
    assert (facts["id"], facts["n_layers"], facts["dtype"], facts["device"]) == ("tiny-llama", 4, "float32", "cpu")
    assert told["seed"] == 0
    (session,) = told["sessions"]
    assert session["started"] <= session["finished"]
    assert told["seconds"] > 0
    assert told["peak_memory_bytes"] > 1e7
    assert told["paths"]["sweep"] == ["tree"]
    kinds = {one["kind"] for one in told["shards"]}
    assert {"vectors", "sweep", "answers", "side_effects"} <= kinds
    assert not any(one["reused"] for one in told["shards"])


@pytest.mark.usefixtures("undrawn")
def test_what_was_chosen_is_what_is_done(study, tmp_path, own_cache, tiny_folder):
    chosen = {
        "behaviors": ExperimentConfig.load(study).behaviors[:1],
        "estimator": "logistic_probe",
        "layers": [2],
        "operator": "ProjectTo(value=2.0)",
        "positions": "all",
        "conversations": {},  # these take positions of one turn
        "prompt": {"style": "llama-2-chat"},
        "answers": {"prompts": 1, "multipliers": [0, 1], "max_new_tokens": 3, "temperature": 1.0, "n": 2, "seed": 3},
    }
    config = ExperimentConfig(
        **(ExperimentConfig.load(study).model_dump(exclude={"models"}) | chosen), models=[tiny_folder]
    )
    folder = run_experiment(config, tmp_path / "run", say=lambda line: None)
    found = tables(folder)
    for name in ("sweep", "dose_response", "perplexity", "divergence", "answers"):
        assert set(found[name]["operator"]) == {"ProjectTo(value=2.0)"}, name
        assert set(found[name]["positions"]) == {"all"}, name
    model, likes = caa.load_model(tiny_folder), caa.load_behavior(config.behaviors[0])
    form = caa.PromptFormat.of(model, style="llama-2-chat")
    vector = caa.SteeringVector.load(folder / "vectors" / "tiny-llama" / "likes.safetensors")
    assert (vector.metadata["estimator"], vector.metadata["prompt_style"]) == ("logistic_probe", "llama-2-chat")
    up = caa.Intervention(vector, 2, operator=caa.steering.ProjectTo(2.0), positions="all")
    table = caa.sweep(model, up, likes.test, prompt_format=form)
    mine = found["sweep"][found["sweep"]["multiplier"] == 2]
    twice = caa.sweep(model, 2 * up, likes.test, prompt_format=form)
    assert mine["logit_difference"].to_numpy() == pytest.approx(twice["logit_difference"].to_numpy(), abs=1e-4)
    assert set(mine["prompt_digest"]) == set(table["prompt_digest"]) == {form.digest()}
    sampling = {"n": 2, "temperature": 1.0, "seed": 3, "max_new_tokens": 3, "prompt_format": form}
    answers = caa.generate(model, likes.open_ended[:1], steering=[0 * up, up], **sampling)
    assert found["answers"]["answer"].tolist() == answers["answer"].tolist()
    (facts,) = manifest(folder)["models"].values()
    assert (facts["prompt_style"], facts["prompt_digest"]) == ("llama-2-chat", form.digest())


def test_nothing_is_done_twice_in_a_run_or_in_another(study, tmp_path, finished, undisturbed):
    assert len(undisturbed.done) == len(set(undisturbed.done)) > 10
    executor = Counting()
    run_experiment(study, finished, executor=executor, say=lambda line: None)
    assert executor.loaded == []  # what is finished is opened without the model
    run_experiment(study, tmp_path / "another", executor=executor, say=lambda line: None)
    clear_cache()
    run_experiment(study, tmp_path / "another", executor=executor, say=lambda line: None)
    assert executor.done == []
    assert len(executor.loaded) == 1
    assert len(manifest(finished)["sessions"]) == 1
    assert all(one["reused"] for one in manifest(tmp_path / "another")["shards"])
    assert_same_tables(tmp_path / "another", undisturbed.folder)


@pytest.mark.usefixtures("undrawn")
def test_another_study_does_only_what_is_new(study, tmp_path, finished):
    executor = Counting()
    changed = ExperimentConfig.load(study).model_copy(update={"answers": {"prompts": 1, "max_new_tokens": 5}})
    changed = ExperimentConfig(**changed.model_dump(warnings=False))
    run_experiment(changed, tmp_path / "changed", executor=executor, say=lambda line: None)
    assert [label.partition(":")[2].split()[0] for label in executor.done] == ["answers", "answers"]


@pytest.mark.usefixtures("undrawn")
def test_no_shard_of_another_prompt_form_is_used(study, tmp_path, finished, undisturbed):
    executor = Counting()
    changed = ExperimentConfig.load(study).model_dump(exclude={"models"}) | {"prompt": {"style": "llama-2-chat"}}
    models = [ExperimentConfig.load(study).models[0].name]
    run_experiment(ExperimentConfig(**changed, models=models), tmp_path / "b", executor=executor, say=lambda line: None)
    assert sorted(executor.done) == sorted(undisturbed.done)


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_shard_is_done_again(study, finished, own_cache, undisturbed):
    executor = Counting()
    shards = sorted(finished.glob("shards/*/*.parquet"))
    damaged = shards[len(shards) // 2]
    for path in (damaged, next(own_cache.rglob(damaged.name))):
        os.truncate(path, path.stat().st_size - 1)
    lines: list[str] = []
    run_experiment(study, finished, executor=executor, say=lines.append)
    assert (len(executor.done), len(executor.loaded)) == (1, 1)
    assert sum("is damaged" in line for line in lines) == 2
    assert_same_tables(finished, undisturbed.folder)


def test_another_study_or_other_files_in_the_folder_are_refused(study, tmp_path, finished):
    other = ExperimentConfig.load(study).model_copy(update={"seed": 1})
    with pytest.raises(InputError, match=r"holds a run of another study \(.*seed.*\). Name another folder"):
        run_experiment(other, finished, say=lambda line: None)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(InputError, match="is not empty, and holds no run"):
        run_experiment(study, tmp_path / "thesis", say=lambda line: None)
    with pytest.raises(InputError, match="is a file"):
        run_experiment(study, tmp_path / "thesis" / "chapter.tex", say=lambda line: None)


@pytest.mark.usefixtures("undrawn")
def test_a_folder_that_another_run_writes_to_is_refused(brief, tmp_path, own_cache):
    folder = tmp_path / "run"
    folder.mkdir()
    with FileLock(folder / ".lock"), pytest.raises(InputError, match="another run is writing to"):
        run_experiment(brief, folder, say=lambda line: None)
    run_experiment(brief, folder, say=lambda line: None)


class Interrupted(Counting):
    """Ctrl-C at the third shard."""

    def run(self, model, tasks):
        for number, result in enumerate(super().run(model, tasks)):
            if number == 1 and len(self.done) > 2:
                raise KeyboardInterrupt
            yield result


@pytest.mark.usefixtures("undrawn")
def test_after_ctrl_c_it_says_how_to_go_on(brief, tmp_path, own_cache, undisturbed_brief):
    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run_experiment(brief, tmp_path / "run", executor=Interrupted(), say=lines.append)
    assert lines[-1] == f"Stopped. 2 finished pieces of work are kept in {tmp_path / 'run'}; run it again to go on."
    run_experiment(brief, tmp_path / "run", say=lines.append)
    assert_same_tables(tmp_path / "run", undisturbed_brief.folder)


@pytest.fixture(scope="module")
def sessions():
    started = Sessions(n_threads=torch.get_num_threads())
    yield started
    assert started.close() == ""


def test_a_run_that_is_killed_gets_to_its_end(sessions, brief, undisturbed_brief, tmp_path):
    folder, cache = tmp_path / "run", tmp_path / "cache"
    sessions.start(brief, folder, cache, 8)
    assert sessions.end() == -signal.SIGKILL
    assert sessions.run(brief, folder, cache) == 0
    assert_same_tables(folder, undisturbed_brief.folder)
    assert [session["finished"] is None for session in manifest(folder)["sessions"]] == [True, False]
    assert errors(cache) == ""


def test_a_full_disk_loses_nothing(sessions, brief, undisturbed_brief, tmp_path):
    mounted, cache = tmp_path / "disk", tmp_path / "cache"
    mounted.mkdir()
    size = "size={}k".format
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size(300), "tmpfs", str(mounted)], capture_output=True).returncode:
        pytest.skip("a file system of a fixed size can be mounted by root only")
    try:
        assert sessions.run(brief, mounted / "run", cache) == 1
        n_kept = len(list((mounted / "run").glob("shards/*/*.parquet")))
        assert n_kept > 0
        subprocess.run(["mount", "-o", f"remount,{size(20_000)}", str(mounted)], check=True)
        assert sessions.run(brief, mounted / "run", cache) == 0
        assert sum(one["reused"] for one in manifest(mounted / "run")["shards"]) >= n_kept
        assert_same_tables(mounted / "run", undisturbed_brief.folder)
        assert "No space left on device" in errors(cache)
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_two_runs_at_once_cannot_disturb_each_other(sessions, brief, undisturbed_brief, tmp_path, own_cache):
    process = sessions.start(brief, tmp_path / "run", own_cache, 1, signal.SIGSTOP)
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    try:
        with pytest.raises(InputError, match="another run is writing to"):
            run_experiment(brief, tmp_path / "run", say=lambda line: None)
    finally:
        process.resume()
    assert sessions.end() == 0
    assert errors(own_cache) == ""
    assert_same_tables(tmp_path / "run", undisturbed_brief.folder)


@pytest.mark.usefixtures("undrawn")
def test_the_cache_is_cut_to_its_limit_after_a_run(brief, tmp_path, own_cache, monkeypatch):
    monkeypatch.setenv("CAA_INTERP_CACHE_LIMIT", "0.0001")
    run_experiment(brief, tmp_path / "run", say=lambda line: None)
    assert sum(cache_contents().values()) <= 100_000


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_manifest_is_written_anew(study, finished, undisturbed):
    for damage in ("", '{"sessions": 1}'):
        (finished / "manifest.json").write_text(damage)
        lines: list[str] = []
        run_experiment(study, finished, say=lines.append)
        assert "manifest.json is damaged" in lines[0]
        assert len(manifest(finished)["sessions"]) == 1
    assert_same_tables(finished, undisturbed.folder)


@pytest.mark.usefixtures("undrawn")
def test_a_damaged_config_can_be_deleted(study, finished):
    config = finished / "config.toml"
    config.write_text("name = ")
    with pytest.raises(InputError, match=r"if it is this one, delete .*config.toml: the shards stay"):
        run_experiment(study, finished, say=lambda line: None)
    config.unlink()
    executor = Counting()
    run_experiment(study, finished, executor=executor, say=lambda line: None)
    assert executor.done == []


@pytest.mark.usefixtures("undrawn")
def test_other_data_or_another_model_are_another_run(brief, tmp_path, own_cache, tiny_folder):
    behavior = likes_file(tmp_path / "moods.json", "It is good,", "It is bad,")
    model = tmp_path / "model"
    shutil.copytree(tiny_folder, model)
    config = ExperimentConfig.load(brief).model_dump() | {"behaviors": [str(behavior)], "models": [str(model)]}
    run = partial(run_experiment, ExperimentConfig(**config), tmp_path / "run", say=lambda line: None)
    run()
    before = manifest(tmp_path / "run")
    behavior.write_text(behavior.read_text().replace("It is bad,", "It is very bad,"))
    with pytest.raises(InputError, match="holds a run on other data: moods changed since"):
        run()
    likes_file(behavior, "It is good,", "It is bad,")
    settings = model / "config.json"
    settings.write_text(settings.read_text() + "\n")
    with pytest.raises(InputError, match=r"as it was before .files changed since"):
        run()
    assert manifest(tmp_path / "run") == before  # what is in the folder is still told truly


@pytest.fixture
def small(study, tiny_folder) -> ExperimentConfig:
    """A study of one behavior at one layer, with little else."""
    nothing = {"answers": {"prompts": 0}, "costs": {"passages": 0, "questions": 0, "prompts": 0}}
    few = {"behaviors": ExperimentConfig.load(study).behaviors[:1], "layers": [2], "controls": {"shuffled": 0}}
    return ExperimentConfig(models=[tiny_folder], format="text", multipliers=[0, 1], **few, **nothing)


@pytest.mark.usefixtures("undrawn")
def test_one_model_at_two_precisions_is_one_study(small, tmp_path, own_cache, tiny_folder):
    models = [{"name": tiny_folder, "dtype": dtype} for dtype in ("float32", "float64")]
    config = ExperimentConfig(**small.model_dump(exclude={"models"}), models=models)
    folder = run_experiment(config, tmp_path / "run", say=lambda line: None)
    labels = ["tiny-llama@float32", "tiny-llama@float64"]
    assert config.labels == tuple(labels)
    for name, table in tables(folder).items():
        assert list(table["model"].unique()) == labels, name
    vectors = [caa.SteeringVector.load(folder / "vectors" / slug(label) / "likes.safetensors") for label in labels]
    assert not torch.equal(vectors[0].values.double(), vectors[1].values.double())
    assert [facts["dtype"] for facts in manifest(folder)["models"].values()] == ["float32", "float64"]


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_newer_code_makes_anew_is_said_and_nothing_older_stays_beside_it(small, tmp_path, own_cache, monkeypatch):
    folder, lines = tmp_path / "run", []
    run_experiment(small, folder, say=lines.append)
    before = manifest(folder)["shards"]
    assert not any("changed" in line for line in lines)
    newer = {**worker.software(), "code": "0" * 64}
    for module in (worker, run_module, engine):
        monkeypatch.setattr(module, "software", lambda: newer)
    with monkeypatch.context() as patch:
        patch.setattr(caa.SteeringVector, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(small, folder, say=lines.append)
    assert "tiny-llama: code changed since this run was begun, so its work is done again." in lines
    assert [path.name for path in folder.glob("[!.]*")] == ["config.toml", "manifest.json", "shards"]
    assert not {one["key"] for one in before} & {one["key"] for one in manifest(folder)["shards"]}
    run_experiment(small, folder, say=lines.append)
    assert (folder / "report.html").is_file()
    assert [one["finished"] is None for one in manifest(folder)["sessions"]] == [False, True, False]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"answers": {"max_new_tokens": 250}}, r"prompt 'How is the rain.': .* do not fit the model's context"),
        (
            {"conversations": {"conversations": 1, "turns": 6, "max_new_tokens": 50}},
            r"conversations\[0\]: up to 3\d\d tok",
        ),
        ({"safety_audit": {"requests": 1}}, "pair .* tokens"),  # the context is short for the packaged pairs
        ({"layers": [1, 9]}, "layer 9: the model has layers 0 to 3"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_computed(study, tmp_path, own_cache, fields, told):
    executor = Counting()
    config = ExperimentConfig(**ExperimentConfig.load(study).model_dump() | fields)
    with pytest.raises(InputError, match=told):
        run_experiment(config, tmp_path / "run", executor=executor, say=lambda line: None)
    assert executor.done == []
    check_same_study(ExperimentConfig.load(study), tmp_path / "run")  # the corrected study may take the folder


def test_what_another_version_asks_besides_is_done_on_the_same_model_only(small, tmp_path, own_cache, monkeypatch):
    executor, folder = Counting(), tmp_path / "run"
    run_experiment(small, folder, executor=executor, say=lambda line: None)
    before = manifest(folder)["shards"]
    monkeypatch.setattr(tasks_module, "ITEMS_PER_TASK", 4)
    monkeypatch.setattr(run_module, "made_of", lambda *_: "newer code")
    with monkeypatch.context() as patch:
        elsewhere = {**manifest(folder)["models"]["tiny-llama"], "device": "another"}
        patch.setattr(executor, "describe", lambda model: elsewhere)
        with pytest.raises(InputError, match=r"had model '.*tiny-llama' on another device or of another precision"):
            run_experiment(small, folder, executor=executor, say=lambda line: None)
    assert manifest(folder)["shards"] == before
    executor.done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(caa.SteeringVector, "save", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(small, folder, executor=executor, say=lambda line: None)
    # Results of other pieces of work are not beside these, though the model's facts are the same.
    assert [path.name for path in folder.glob("[!.]*")] == ["config.toml", "manifest.json", "shards"]
    n_done = len(executor.done)
    assert n_done == 4  # the sweep and that of the controls, of 6 pairs in two parts
    run_experiment(small, folder, executor=executor, say=lambda line: None)
    assert len(executor.done) == n_done
    assert (folder / "report.html").is_file()


def state(folder: Path) -> dict[str, int]:
    """When each file of a run was written, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files}


def test_a_finished_study_writes_nothing_when_run_again(small, tmp_path, own_cache, monkeypatch):
    executor, folder, lines = Counting(), tmp_path / "run", []
    run_experiment(small, folder, executor=executor, say=lines.append)
    before = state(folder)
    run_experiment(small, folder, executor=executor, say=lines.append)
    assert state(folder) == before
    assert lines[-1] == lines[-2] == f"The page: {(folder / 'report.html').resolve()}"
    for name in ("report.html", "tables/sweep.parquet", "figures/findings.json"):
        (folder / name).write_bytes(b"cut short")
        run_experiment(small, folder, executor=executor, say=lines.append)
        assert (folder / name).stat().st_size > 1000
    before = state(folder)
    monkeypatch.setattr(run_module, "made_of", lambda *_: "another version of the page, say")
    run_experiment(small, folder, executor=executor, say=lines.append)
    assert state(folder)["report.html"] > before["report.html"]
    before = state(folder)
    run_experiment(small, folder, executor=executor, say=lines.append)
    assert state(folder) == before
    assert len(executor.loaded) == 1


def test_what_an_earlier_version_wrote_does_not_stay_and_what_a_user_put_there_does(
    small, tmp_path, own_cache, monkeypatch
):
    folder = run_experiment(small, tmp_path / "run", say=lambda line: None)
    names = ("tables/{}.parquet", "figures/{}.json", "vectors/{0}/{0}.safetensors")
    former, own = ([name.format(which) for name in names] for which in ("capability", "mine"))
    for name in (*former, *own):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("not to be read")
    record = manifest(folder)
    (folder / "manifest.json").write_text(json.dumps({**record, "files": record["files"] | dict.fromkeys(former)}))
    run_experiment(small, folder, say=lambda line: None)
    assert not any((folder / name).exists() for name in (*former, "vectors/capability"))
    newer = {**worker.software(), "code": "0" * 64}
    for module in (worker, run_module, engine):
        monkeypatch.setattr(module, "software", lambda: newer)
    run_experiment(small, folder, say=lambda line: None)
    assert all((folder / name).read_text() == "not to be read" for name in own)
    assert manifest(folder)["files"].keys() == record["files"].keys()
