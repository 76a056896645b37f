"""``caa-interp lm-eval``: what lm-evaluation-harness is started with, by a stand-in that writes that down."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import caa_interp as caa
from caa_interp import cli

STAND_IN = """
import json, sys
import torch

arguments = sys.argv[1:]
model = dict(part.split("=") for part in arguments[arguments.index("--model_args") + 1].split(","))
steering = {
    hook: [entry["steering_vector"].tolist(), entry["steering_coefficient"]]
    for hook, entry in torch.load(model["steer_path"], weights_only=True).items()
}
json.dump([arguments, model, steering], open("started.json", "w"))
sys.exit(7 if "--break" in arguments else 0)
"""


@pytest.fixture
def vector(tmp_path, monkeypatch) -> caa.SteeringVector:
    monkeypatch.chdir(tmp_path)
    found = caa.SteeringVector(torch.arange(6.0).reshape(2, 3), (12, 13), {"model": "some/model"})
    found.save("v.safetensors")
    return found


@pytest.fixture
def harness(tmp_path, monkeypatch) -> None:
    package = tmp_path / "site" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    importlib.invalidate_caches()


def run(*arguments):
    return CliRunner().invoke(cli.app, ["lm-eval", "v.safetensors", "--tasks", "mmlu,arc_easy", *arguments])


def test_the_harness_is_started_on_the_steered_model(vector, harness):
    result = run("--layer", "13", "--multiplier", "-1.5", "--hook", "h.{layer}", "--", "--limit", "100")
    assert result.exit_code == 0, result.exception
    arguments, model, steering = json.loads(Path("started.json").read_text())
    begin = ["--model", "steered", "--tasks", "mmlu,arc_easy", "--model_args"]
    assert arguments == [*begin, f"pretrained=some/model,steer_path={model['steer_path']}", "--limit", "100"]
    assert steering == {"h.13": [vector.at(13).tolist(), -1.5]}
    assert "Running lm_eval --model steered --tasks mmlu,arc_easy" in result.stderr


def test_another_model_can_be_named_and_multiplier_0_is_unsteered(vector, harness, tmp_path):
    assert run("--layer", "12", "--multiplier", "0", "--model", str(tmp_path)).exit_code == 0
    _, model, steering = json.loads(Path("started.json").read_text())
    assert model["pretrained"] == str(tmp_path)
    assert steering == {"layers.12": [vector.at(12).tolist(), 0.0]}


def test_what_the_harness_cannot_do_is_told(vector, harness):
    assert "a file of lm-evaluation-harness steers one layer" in str(run().exception)
    assert "the harness ended with exit code 7" in str(run("--layer", "13", "--", "--break").exception)
    for model in ("smollm2-135m-instruct", "one.gguf"):
        said = str(run("--layer", "13", "--model", model).exception)
        assert said.startswith(f"model: {model!r}; the harness loads models by a Hugging Face name")


@pytest.mark.parametrize(
    "own", [["--model", "hf"], ["--model=hf"], ["--model_args", "dtype=float16"], ["-m", "hf"], ["-mhf"], ["-a", "x=1"]]
)
def test_the_steered_model_cannot_be_replaced(vector, harness, own):
    said = str(run("--layer", "13", "--", "--limit", "2", *own).exception)
    assert said.startswith(f"arguments: {own[0]!r} would replace the steered model.")
    assert not Path("started.json").exists()


@pytest.mark.parametrize("model", ["a,b", "a=b"])
def test_a_path_that_the_harness_would_cut_is_told(vector, harness, model):
    said = str(run("--layer", "13", "--model", f"models/{model}").exception)
    assert said.startswith(f"model: 'models/{model}'; the harness cuts it at commas and equals signs.")
    assert not Path("started.json").exists()


def test_the_model_is_read_at_the_revision_of_the_vector(vector, harness):
    for revision, arguments, expected in (
        ("0123456789" * 4, [], "0123456789" * 4),
        ("0123456789" * 4, ["--model", "some/other"], None),
        ("ab" * 32, ["--model", "some/model"], None),  # the digest of a folder
    ):
        found = caa.SteeringVector(vector.values, vector.layers, {"model": "some/model", "model_revision": revision})
        found.save("v.safetensors")
        assert run("--layer", "13", *arguments).exit_code == 0
        assert json.loads(Path("started.json").read_text())[1].get("revision") == expected


def test_a_model_of_a_folder_or_a_file_is_not_looked_for_by_its_name(vector, harness):
    made_in = {"model": "gpt2", "model_revision": "ab" * 32}
    caa.SteeringVector(vector.values, vector.layers, made_in).save("v.safetensors")
    said = str(run("--layer", "13").exception)
    assert said.startswith("model: 'gpt2' was a folder or a GGUF file when the vector was made")
    assert not Path("started.json").exists()


def test_without_the_harness_its_install_line_is_told(vector, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    error = run("--layer", "13").exception
    assert isinstance(error, caa.errors.MissingDependencyError)
    assert "pip install 'lm_eval[hf]'" in str(error)
