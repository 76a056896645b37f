"""A folder holds the run of one study, wherever that study's files lie."""

import json
import shutil
from pathlib import Path

import pytest

from caa_interp.errors import InputError
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.executors import InProcess
from caa_interp.study.run import run_experiment
from tests.small_study import LITTLE, TOPICS, behavior_file, pairs, study_file


class Idle(InProcess):
    """An executor of a study that is finished."""

    def describe(self, model, *_):
        raise AssertionError(f"{model.name} is loaded")


@pytest.fixture
def project(tmp_path, tiny_folder, monkeypatch) -> Path:
    """Folder of a project that has run its study: behaviors, a model, and ``run``."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    project = tmp_path / "before"
    shutil.copytree(tiny_folder, project / "model")
    for name in ("likes", "agrees"):
        behavior_file(project / f"{name}.json", pairs(TOPICS[:4]), pairs(TOPICS[4:]))
    study_file(
        project / "study.toml",
        ["model"],
        ["likes.json", "agrees.json"],
        layers=[2],
        multipliers=[0, 1],
        controls={"random": 1, "shuffled": 0},
        **LITTLE,
    )
    run_experiment(project / "study.toml", project / "run", say=lambda line: None)
    return project


def again(project: Path) -> Path:
    return run_experiment(project / "study.toml", project / "run", executor=Idle(), say=lambda line: None)


def test_a_project_that_was_moved_goes_on(project, tmp_path):
    moved = project.rename(tmp_path / "after")
    config = ExperimentConfig.load(again(moved) / "config.toml")
    assert config.models[0].name == str(moved / "model")
    assert len(json.loads((moved / "run" / "manifest.json").read_text())["sessions"]) == 2
    again(moved)  # writes nothing
    assert len(json.loads((moved / "run" / "manifest.json").read_text())["sessions"]) == 2
    settings = moved / "model" / "config.json"
    settings.write_text(settings.read_text() + "\n")
    with pytest.raises(AssertionError, match="model is loaded"):
        again(moved)


def test_behaviors_are_known_by_their_names_and_content(project):
    study, config = project / "study.toml", project / "run" / "config.toml"
    (project / "likes.json").rename(project / "renamed.json")
    study.write_text(study.read_text().replace("likes.json", "renamed.json"))
    again(project)
    kept = config.read_text()
    assert "renamed.json" in kept
    whole = study.read_text()
    study.write_text(whole.replace('"renamed.json",', ""))
    with pytest.raises(InputError, match="on other data: likes changed since, or is in one of the two only"):
        again(project)
    study.write_text(whole)
    behavior = project / "renamed.json"
    behavior.write_text(behavior.read_text().replace("Yes, I like", "Yes, I love"))
    with pytest.raises(InputError, match="on other data: likes changed since"):
        again(project)
    assert config.read_text() == kept
