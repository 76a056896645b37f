"""Exported vectors in the hands of their real readers: lm-evaluation-harness, llama.cpp and repeng.

The readers need not stand in this environment; say where they are::

    python -m venv readers
    readers/bin/pip install "lm_eval[hf]" xllamacpp gguf scikit-learn
    readers/bin/pip install --no-deps repeng
    CAA_INTERP_READERS=readers/bin/python pytest -m slow tests/integration/test_interchange_readers.py

repeng asks for numpy 1 because of one name in its type hints, which is given back to numpy here.
"""

import json
import os
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector

pytestmark = pytest.mark.slow
PYTHON = os.environ.get("CAA_INTERP_READERS", sys.executable)
TOKENS = [5, 17, 200, 33, 34, 35, 120, 7, 61]

HARNESS = """
import sys, torch
from lm_eval.models.hf_steered import SteeredModel

model = SteeredModel(pretrained=sys.argv[1], steer_path=sys.argv[2], device="cpu", dtype="float32", batch_size=1)
torch.save(model._model_call(torch.tensor([eval(sys.argv[3])])), sys.argv[4])
"""

REPENG = """
import sys, numpy as np, torch
from transformers import AutoModelForCausalLM

np.float_ = np.float64
from repeng import ControlModel, ControlVector

vector = ControlVector.import_gguf(sys.argv[2])
vector.export_gguf(sys.argv[3])
plain = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
model = ControlModel(plain, list(vector.directions))
model.set_control(vector, -1.5)
with torch.no_grad():
    torch.save(model(torch.tensor([eval(sys.argv[4])]), use_cache=False).logits, sys.argv[5])
"""

# llama.cpp's own loader and graph, by their symbols: the wheel's Python side does not reach control vectors. Its
# parameter structures are passed as they come, in structures larger than theirs.
LLAMA_CPP = """
import ctypes as c, json, pathlib, struct, sys
import numpy as np, xllamacpp

P = c.c_void_p
class Params(c.Structure):
    _fields_ = [("content", c.c_char * 4096)]
class Batch(c.Structure):
    _fields_ = [("content", c.c_char * 56)]
class Vector(c.Structure):  # std::vector
    _fields_ = [("begin", P), ("end", P), ("room", P)]
class Info(c.Structure):  # float, std::string, which is a pointer in this wheel's ABI
    _fields_ = [("strength", c.c_float), ("name", P)]
class Data(c.Structure):  # int, std::vector<float>
    _fields_ = [("width", c.c_int), ("data", Vector)]

(library,) = pathlib.Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
llama = c.CDLL(str(library))
def function(name, result, *arguments):
    found = getattr(llama, name)
    found.restype, found.argtypes = result, arguments
    return found
model_params = function("llama_model_default_params", Params)
context_params = function("llama_context_default_params", Params)
load_model = function("llama_model_load_from_file", P, c.c_char_p, Params)
new_context = function("llama_init_from_model", P, P, Params)
batch_of = function("llama_batch_get_one", Batch, P, c.c_int32)
decode = function("llama_decode", c.c_int32, P, Batch)
logits_of = function("llama_get_logits_ith", c.POINTER(c.c_float), P, c.c_int32)
apply = function("llama_set_adapter_cvec", c.c_int32, P, P, c.c_size_t, c.c_int32, c.c_int32, c.c_int32)
load = function("_Z26common_control_vector_loadRKSt6vectorI31common_control_vector_load_infoSaIS0_EE", P, P, P)

def control_vector(path, strength):
    name = path.encode()
    text = c.create_string_buffer(struct.pack("<QQQ", len(name), len(name), 0) + name)
    info, data = Info(strength, c.addressof(text) + 24), Data()
    end = c.addressof(info) + c.sizeof(info)
    infos = Vector(c.addressof(info), end, end)
    load(c.addressof(data), c.addressof(infos))
    n = ((data.data.end or 0) - (data.data.begin or 0)) // 4
    return data.width, np.ctypeslib.as_array((c.c_float * n).from_address(data.data.begin)).copy() if n else None

path, vectors, tokens, n_vocab, out = sys.argv[1], *map(json.loads, sys.argv[2:5]), sys.argv[5]
function("llama_backend_init", None)()
model, rows = load_model(path.encode(), model_params()), []
ids = (c.c_int32 * len(tokens))(*tokens)
for file, strength in vectors:
    context, row = new_context(model, context_params()), None
    width, data = control_vector(file, strength)
    if data is not None:
        assert apply(context, data.ctypes.data, len(data), width, 1, 10_000) == 0
        assert decode(context, batch_of(ids, len(ids))) == 0
        row = np.ctypeslib.as_array(logits_of(context, -1), (n_vocab,)).tolist()
    rows.append(row)
pathlib.Path(out).write_text(json.dumps(rows))
"""


def run(script, module, *arguments):
    """Run a script in the readers' environment, or skip the test if its reader is not there."""
    finds = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    if subprocess.run([PYTHON, "-c", finds]).returncode:
        pytest.skip(f"{PYTHON} has no {module}; see the top of this file.")
    done = subprocess.run([PYTHON, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert not done.returncode, done.stderr[-4000:]


def vector(model):
    values = torch.randn(4, model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(values, (0, 1, 2, 3), {"model": model.cfg.model_name})


def steered(model, one, layer, multiplier):
    with caa.steer(model, one, layer, multiplier, positions="all"), torch.no_grad():
        return model(torch.tensor([TOKENS]))


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_lm_evaluation_harness_steers_the_same(tiny_folder, tiny_llama, tmp_path, layer):
    one = vector(tiny_llama)
    path = export_vector(one, tmp_path / "v.pt", layers=layer, multiplier=-1.5)
    run(HARNESS, "lm_eval", tiny_folder, path, TOKENS, tmp_path / "logits.pt")
    expected = steered(tiny_llama, one, layer, -1.5)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=0, atol=1e-4)
    assert float((expected - steered(tiny_llama, one, layer, 0.0)).abs().max()) > 0.1


@pytest.mark.parametrize("layer", [1, 3])
def test_repeng_steers_the_same_and_what_it_writes_is_read(tiny_folder, tiny_llama, tmp_path, layer):
    one = vector(tiny_llama)
    path, back = export_vector(one, tmp_path / "v.gguf", layers=layer), tmp_path / "back.gguf"
    run(REPENG, "repeng", tiny_folder, path, back, TOKENS, tmp_path / "logits.pt")
    found = import_vector(back)
    assert torch.equal(found.at(layer), one.at(layer))
    assert found.metadata["model_hint"] == "tiny-llama"
    expected = steered(tiny_llama, one, layer, -1.5)
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), expected, rtol=0, atol=1e-4)


def in_gguf(plain, path):
    """A Hugging Face Llama as a GGUF file without a tokenizer, float32."""
    config = plain.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in plain.state_dict().items():
        values, kind = weight.numpy(), name.split(".")[-2]
        if kind in heads:  # llama.cpp turns neighboring coordinates, Hugging Face those half a head apart
            values = values.reshape(heads[kind], 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def by_llama_cpp(plain, vectors, tmp_path):
    """Logits of the last token under every control vector of ``[(file, strength)]``, None for one that is refused."""
    model, out = in_gguf(plain, tmp_path / "model.gguf"), tmp_path / "logits.json"
    given = json.dumps([(str(file), strength) for file, strength in vectors])
    run(LLAMA_CPP, "xllamacpp", model, given, json.dumps(TOKENS), plain.config.vocab_size, out)
    return json.loads(out.read_text())


def test_llama_cpp_steers_the_same_block(tiny_llama, plain_llama, tmp_path):
    one = vector(tiny_llama)
    cases = [(layer, strength) for layer in (1, 2, 3) for strength in (0.0, 1.0, -1.5)]
    files = [(export_vector(one, tmp_path / f"{n}.gguf", layers=n), strength) for n, strength in cases]
    found = by_llama_cpp(plain_llama, files, tmp_path)
    for (layer, strength), logits in zip(cases, found, strict=True):
        expected = steered(tiny_llama, one, layer, strength)[0, -1]
        # llama.cpp keeps keys and values in half precision.
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=0, atol=0.01)
    of_each_layer = torch.tensor(found[1::3])
    assert float(torch.pdist(of_each_layer, p=torch.inf).min()) > 0.1


def test_llama_cpp_refuses_what_we_refuse_to_write(plain_llama, tmp_path):
    files = []
    for name, values in {
        "direction.0": np.ones(64, np.float32),
        "direction.1": np.ones(64, np.float32),
        "direction.2": np.ones(64, np.float16),
        "direction.3": np.ones((2, 32), np.float32),
        "blk.1": np.ones(64, np.float32),
    }.items():
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "controlvector")
        writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append((tmp_path / f"{name}.gguf", 1.0))
    refused = [logits is None for logits in by_llama_cpp(plain_llama, files, tmp_path)]
    assert refused == [True, False, True, True, True]
