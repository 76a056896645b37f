"""HookedTransformer (TransformerLens 3 only) takes the tree, and gives what plain Hugging Face passes give."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import caa_interp as caa
from tests.oracles import definition
from tests.tiny_models import save_tiny
from tests.unit.models.test_architectures import PAIRS

try:
    from transformer_lens import HookedTransformer as HookedTransformer
except ImportError:
    pytest.skip("HookedTransformer left TransformerLens with version 4", allow_module_level=True)

TREE = (
    "llama 3, with scaled rotary embeddings",
    "qwen 2",
    "qwen 3",
    "mistral with a window",
    "mixtral with a window",
    "phi 3 with a window",
    "gpt-oss",
    "olmo 3",
    "olmoe",
    "pythia",
    "opt",
    "gpt-j",
)
PLAIN = ("bloom",)  # adds a bias by row (ALiBi)


@pytest.mark.parametrize("name", TREE + PLAIN)
def test_steered_scores_and_the_path(name, tmp_path):
    folder = save_tiny(tmp_path / "model", name)
    model = caa.load_model(folder, backend="hooked", device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    vector = caa.SteeringVector(torch.randn(4, 64, generator=torch.Generator().manual_seed(3)), (0, 1, 2, 3))
    for format in ("choices", "text"):
        table = caa.sweep(model, vector, PAIRS, format=format, layers=[0, 2, 3], multipliers=(-1.0, 0.0, 1.0))
        assert set(table["path"]) == {"tree" if name in TREE else "plain"}
        for (item, layer, multiplier), rows in table.groupby(["item", "layer", "multiplier"]):
            expected = definition.scores(
                plain, model.tokenizer, PAIRS[item], format, layer, multiplier * vector.at(layer)
            )
            assert rows[["log_p_positive", "log_p_negative"]].to_numpy().tolist() == [
                pytest.approx(order, abs=1e-4) for order in expected
            ]
