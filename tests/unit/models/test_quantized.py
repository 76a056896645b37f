"""Quantized weights are loaded, read and steered as Hugging Face runs them; nothing is written into them.

Only bitsandbytes runs without a GPU. Its 8 bits quantize activations too, by what shares their batch, so that no two
ways of running a model agree to more than a percent or two.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import caa_interp as caa
from caa_interp.errors import ModelError
from caa_interp.interchange import bake, orthogonalize
from tests.oracles import definition
from tests.tiny_models import random_llama, small_tokenizer

pytest.importorskip("bitsandbytes")
pytestmark = [
    pytest.mark.filterwarnings("ignore:MatMul8bitLt"),
    pytest.mark.filterwarnings("ignore:.*the token tree does not agree"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
PAIR = caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")
CONFIGS = {
    "4 bits": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "8 bits": BitsAndBytesConfig(load_in_8bit=True),
}
TOLERANCE = {"4 bits": 1e-4, "8 bits": 0.05}


@pytest.fixture(scope="module", params=CONFIGS)
def loaded(request, tmp_path_factory):
    """(bits, model, the same as a plain Hugging Face model)."""
    base, folder = (tmp_path_factory.mktemp("models") / name for name in ("base", "quantized"))
    tokenizer = small_tokenizer()
    random_llama(tokenizer).save_pretrained(base)
    quantized = AutoModelForCausalLM.from_pretrained(base, quantization_config=CONFIGS[request.param], device_map="cpu")
    quantized.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(plain.model.layers[0].mlp.up_proj).__module__.startswith("bitsandbytes")
    return request.param, caa.load_model(folder, device="cpu", progress=False), plain


def test_vectors_and_scores_are_those_of_hugging_face(loaded):
    bits, model, plain = loaded
    vector = caa.extract_vector(model, [PAIR], format="text", progress=False)
    expected = definition.steering_vectors(plain, model.tokenizer, [PAIR], "text")
    assert float((vector.values - expected).norm() / expected.norm()) < TOLERANCE[bits]
    table = caa.sweep(model, vector, [PAIR], format="text", layers=1, progress=False)
    for multiplier, found in zip(table["multiplier"], table["log_p_positive"], strict=True):
        scores = definition.scores(plain, model.tokenizer, PAIR, "text", 1, multiplier * vector.at(1))
        assert found == pytest.approx(scores[0][0], abs=TOLERANCE[bits])


def test_answers_are_steered(loaded):
    _, model, _ = loaded
    values = 20 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    vector = caa.SteeringVector(values, (0, 1, 2, 3), {"behavior": "any"})
    options = {"vector": vector, "layer": 1, "max_new_tokens": 6, "progress": False}
    answers = caa.generate(model, ["Is it good?"], multipliers=(0, 1), **options)
    assert answers["answer"].nunique() == 2


@pytest.mark.parametrize("write", [bake, orthogonalize])
def test_nothing_is_written_into_them(loaded, write):
    _, model, _ = loaded
    vector = caa.SteeringVector(torch.ones(4, 64), (0, 1, 2, 3), {"behavior": "any"})
    with pytest.raises(ModelError, match=r"weights are quantized \(bitsandbytes\)"):
        write(model, vector, layer=1)
