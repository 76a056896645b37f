"""HookedTransformers that somebody made, not load_model: folded, without a norm, with norms after attention and MLP."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from caa_interp.models.attention import takes_tree_masks
from caa_interp.models.readout import unembed
from caa_interp.models.weights import block_weights

try:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
except ImportError:
    pytest.skip("HookedTransformer left TransformerLens with version 4", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore:HookedTransformer is deprecated:DeprecationWarning")


def made(**options):
    torch.manual_seed(0)
    config = {
        "n_layers": 2,
        "d_model": 16,
        "n_heads": 2,
        "d_head": 8,
        "d_mlp": 24,
        "n_ctx": 32,
        "d_vocab": 40,
        "act_fn": "silu",
        "normalization_type": "RMS",
        "device": "cpu",
    }
    return HookedTransformer(HookedTransformerConfig(**config | options))


@pytest.mark.parametrize("normalization", ["LNPre", "RMSPre", "LN", "RMS"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_states_in_half_precision(normalization, dtype):
    model = made(normalization_type=normalization, dtype=dtype)
    states = torch.randn(3, 16, dtype=dtype)
    with torch.no_grad():
        expected = (model.ln_final(states[None]).float() @ model.W_U.float() + model.b_U.float())[0]
    found = unembed(model, states)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_a_model_without_a_final_norm_takes_plain_passes():
    assert takes_tree_masks(made())
    assert not takes_tree_masks(made(normalization_type=None))


@pytest.mark.parametrize("architecture", ["Olmo2ForCausalLM", "Olmo3ForCausalLM"])
def test_norms_after_attention_and_mlp_are_folded_into_what_they_write(architecture):
    model = made(original_architecture=architecture, gated_mlp=True)
    block = model.blocks[1]
    with torch.no_grad():
        for norm in (block.ln1, block.ln2):
            norm.w.uniform_(0.5, 2.0)
    weights = block_weights(model, 1)
    torch.testing.assert_close(weights.queries, block.attn.W_Q.data)
    torch.testing.assert_close(weights.values, block.attn.W_V.data)
    assert_same_direction(weights.outputs, block.attn.W_O.data * block.ln1.w.data)
    torch.testing.assert_close(weights.neuron_inputs, block.mlp.W_in.data)
    torch.testing.assert_close(weights.neuron_gates, block.mlp.W_gate.data)
    assert_same_direction(weights.neuron_outputs, block.mlp.W_out.data * block.ln2.w.data)


def assert_same_direction(found, expected):
    """A norm is known up to one factor, the division by the length."""
    torch.testing.assert_close(found / found.norm(), expected / expected.norm())
