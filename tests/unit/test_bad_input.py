"""What cannot be used is refused: the message names the input, what was given, what is allowed and what to do."""

import json

import pytest
import torch

import caa_interp as caa
from caa_interp.behaviors.behavior import FORMAT


def message(error, call, *given, **options) -> str:
    with pytest.raises(error) as caught:
        call(*given, **options)
    assert isinstance(caught.value, caa.errors.CAAError)
    return str(caught.value)


def fitting(values=None) -> caa.SteeringVector:
    return caa.SteeringVector(torch.ones(4, 64) if values is None else values, (0, 1, 2, 3), {"model": "tiny-llama"})


def assert_says(text, *parts):
    for part in parts:
        assert part in text, f"{part!r} is not in: {text}"


@pytest.mark.parametrize("call", ["extract_vector", "collect_activations", "sweep"])
def test_an_empty_list_of_pairs(tiny_llama, call):
    given = (tiny_llama, fitting(), []) if call == "sweep" else (tiny_llama, [])
    text = message(caa.InputError, getattr(caa, call), *given)
    assert_says(text, "pairs", "empty", "give at least one ContrastPair")


@pytest.mark.parametrize("call", ["extract_vector", "collect_activations"])
def test_what_is_no_prompt_format(tiny_llama, pairs, call):
    text = message(caa.InputError, getattr(caa, call), tiny_llama, pairs, prompt_format="base")
    assert_says(text, "prompt_format: 'base'", "give one such as PromptFormat.of(model, style='base')")


def test_identical_answers():
    text = message(caa.InputError, caa.ContrastPair, "Why?", "Yes.", " Yes. ", id="q7")
    assert_says(text, "'q7'", "positive and negative", "'Yes.'", "must differ", "Leave the pair out, or correct")


@pytest.mark.parametrize("layer", [4, -1, 1.5])
def test_a_layer_out_of_range(tiny_llama, pairs, layer):
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, layers=[0, layer])
    assert_says(text, f"layer {layer}", "the model has layers 0 to 3", "0-based block indices", "Choose one of these")


def test_one_layer_that_is_no_whole_number(tiny_llama, pairs):
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, layers=1.5)
    assert_says(text, "layer 1.5", "0 to 3", "Choose one of these")


def test_layers_as_text(tiny_llama, pairs):
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, layers="1")
    assert_says(text, "layer '1'", "0 to 3", "as an int, such as")


def test_no_layers_and_a_layer_twice(tiny_llama, pairs):
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, layers=[])
    assert_says(text, "layers", "empty", "give at least one layer, or None for all")
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, layers=[2, 2])
    assert_says(text, "layers", "[2, 2]", "name each once")


def test_a_multiplier_that_is_nan(tiny_llama, pairs):
    text = message(caa.InputError, caa.sweep, tiny_llama, fitting(), pairs, multipliers=(0, float("nan")))
    assert_says(text, "multiplier", "nan", "finite number", "give one such as")


def test_a_vector_of_another_model(tiny_llama, pairs):
    foreign = caa.SteeringVector(torch.ones(4, 64), (0, 1, 2, 3), {"model": "gpt2"})
    text = message(caa.errors.VectorMismatchError, caa.sweep, tiny_llama, foreign, pairs)
    assert_says(text, "vector", "'gpt2'", "'tiny-llama'", "Extract a vector from this model", "transferred_to(model)")


def test_a_vector_of_another_width(tiny_llama, pairs):
    text = message(caa.errors.VectorMismatchError, caa.sweep, tiny_llama, fitting(torch.ones(4, 32)), pairs)
    assert_says(text, "vector", "32", "64", "'tiny-llama'", "Extract a vector from this model")


def test_a_vector_of_nan():
    text = message(caa.InputError, fitting, torch.full((4, 64), float("nan")))
    assert_says(text, "values", "NaN", "must be finite")


def test_no_vectors_at_all(tiny_llama, pairs):
    assert_says(message(caa.InputError, caa.sweep, tiny_llama, {}, pairs), "vector", "empty", "give at least one")


def test_a_behavior_file_that_is_missing(tmp_path):
    path = tmp_path / "kindness.json"
    assert_says(
        message(caa.InputError, caa.load_behavior, path), "behavior file", str(path), "no file", "Check the path"
    )


def test_a_behavior_file_that_is_not_json(tmp_path):
    path = tmp_path / "kindness.json"
    path.write_text('{"name": "kindness",}', encoding="utf-8")
    text = message(caa.InputError, caa.load_behavior, path)
    assert_says(text, "behavior file", str(path), "not valid JSON", "line 1 column", "Correct it there")


def test_a_behavior_file_that_is_not_utf_8(tmp_path):
    path = tmp_path / "kindness.json"
    path.write_bytes('{"name": "Güte"}'.encode("latin-1"))
    text = message(caa.InputError, caa.load_behavior, path)
    assert_says(text, "behavior file", str(path), "not UTF-8 at byte 11", "Save it as UTF-8")


def test_a_behavior_file_without_a_field(tmp_path):
    path = tmp_path / "kindness.json"
    good = {"question": "Why?", "positive": "Yes.", "negative": "No."}
    bad = {"question": "Why not?", "positive": "Yes."}
    data = {"format": FORMAT, "name": "kindness", "train": [good, good, bad], "test": [good]}
    path.write_text(json.dumps(data), encoding="utf-8")
    text = message(caa.InputError, caa.load_behavior, path)
    assert_says(text, str(path), "train[2]", "'negative'", "missing", "must be a non-empty text")


def test_an_unknown_behavior():
    text = message(caa.InputError, caa.load_behavior, "kindness")
    assert_says(text, "behavior", "'kindness'", "coordinate-other-ais", "sycophancy", "path of a .json file")


@pytest.mark.parametrize("call", ["extract_vector", "sweep"])
def test_a_pair_longer_than_the_context(tiny_llama, pairs, call):
    asked = [*pairs, caa.ContrastPair("What do you think? " * 60, "Yes.", "No.")]
    given = (tiny_llama, fitting(), asked) if call == "sweep" else (tiny_llama, asked)
    text = message(caa.InputError, getattr(caa, call), *given)
    assert_says(text, "pairs[3]", "tokens", "the model's context holds 256", "Shorten it, or leave it out")


def test_a_prompt_longer_than_the_context(tiny_llama):
    text = message(caa.InputError, caa.generate, tiny_llama, ["Why?", "What do you think? " * 60])
    assert_says(text, "prompts[1]", "tokens", "the model's context holds 256", "Shorten it")


def test_an_unknown_format(tiny_llama, pairs):
    text = message(caa.InputError, caa.extract_vector, tiny_llama, pairs, format="letters")
    assert_says(text, "format", "'letters'", "'choices', 'text'")
    text = message(caa.InputError, caa.sweep, tiny_llama, fitting(), pairs, format="letters")
    assert_says(text, "format", "'letters'", "'choices', 'text'")


def test_an_unknown_backend(tiny_folder):
    text = message(caa.InputError, caa.load_model, tiny_folder, backend="nnsight")
    assert_says(text, "backend", "'nnsight'", "'auto', 'bridge', 'hooked'")


@pytest.mark.parametrize("dtype", ["float31", "int64", "bfloat", "Tensor", 32])
def test_an_unknown_dtype(tiny_folder, dtype):
    text = message(caa.InputError, caa.load_model, tiny_folder, dtype=dtype)
    assert_says(text, "dtype", repr(dtype), "torch.float32, torch.bfloat16", "torch.float64", "or its name")


def test_a_device_and_a_device_map(tiny_folder):
    text = message(caa.InputError, caa.load_model, tiny_folder, device="cpu", device_map="auto")
    assert_says(text, "device and device_map", "both were given", "Drop one")


@pytest.mark.parametrize("name", ["/nowhere/nothing", "./nothing", "a/b/nothing", "~/no such folder"])
def test_a_folder_that_is_missing(name):
    text = message(caa.errors.ModelError, caa.load_model, name)
    assert_says(text, f"model {name!r}", "no such folder", "Check the path, or give a Hugging Face name")


def test_a_folder_without_a_model(tmp_path):
    text = message(caa.errors.ModelError, caa.load_model, tmp_path)
    assert_says(text, f"model {str(tmp_path)!r}", "no config.json", "Give a folder written by save_pretrained")


def test_a_model_file_that_is_missing(tmp_path):
    path = tmp_path / "model.gguf"
    assert_says(
        message(caa.errors.ModelError, caa.load_model, path), repr(str(path)), "there is no file", "Check the path"
    )


def test_a_revision_of_what_has_none(tmp_path):
    text = message(caa.InputError, caa.load_model, tmp_path / "model.gguf", revision="main")
    assert_says(text, "revision", "'main'", "Drop it")


def test_a_config_that_cannot_be_read(tmp_path):
    (tmp_path / "config.json").write_text("{not json", encoding="utf-8")
    assert_says(
        message(caa.errors.ModelError, caa.load_model, tmp_path), f"model {str(tmp_path)!r}", "cannot be loaded"
    )


def test_a_model_without_its_weights(tmp_path, tiny_folder):
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    assert_says(
        message(caa.errors.ModelError, caa.load_model, tmp_path), f"model {str(tmp_path)!r}", "cannot be loaded"
    )


def test_weights_that_are_cut_off(tmp_path, tiny_folder):
    for file in tiny_folder.iterdir():
        content = file.read_bytes()
        cut = len(content) // 2 if file.suffix == ".safetensors" else len(content)
        (tmp_path / file.name).write_bytes(content[:cut])
    assert_says(
        message(caa.errors.ModelError, caa.load_model, tmp_path), f"model {str(tmp_path)!r}", "cannot be loaded"
    )


def test_a_model_that_is_no_causal_language_model(tmp_path):
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = message(caa.errors.ModelError, caa.load_model, tmp_path)
    assert_says(text, "BertForMaskedLM", "is not a causal language model", "Give a decoder-only model")


def test_a_name_that_is_not_in_the_cache_while_offline():
    text = message(caa.errors.ModelError, caa.load_model, "gtp2")
    assert_says(text, "model 'gtp2'", "Check the name and the network, or give a local folder")
