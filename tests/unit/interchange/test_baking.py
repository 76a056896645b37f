"""Steering as part of the weights: the same as steering while the model runs, also after it was saved and loaded."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

import caa_interp as caa
from caa_interp.interchange.baking import bake, orthogonalize
from tests.tiny_models import small_tokenizer

TOKENS = torch.tensor([[0, 17, 5, 200, 33, 34, 35, 120, 7, 61], [0, 61, 7, 120, 35, 34, 33, 200, 5, 17]])
# Hugging Face's RMSNorm and rotary embeddings round to float32 within a float64 model.
TOLERANCE = {"rtol": 0, "atol": 1e-5}
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
CONFIGS = {
    "tied llama": LlamaConfig(**SHAPE, num_key_value_heads=2, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True),
    "gpt-2": GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=256),
    "pythia": GPTNeoXConfig(**SHAPE),
    "gpt-j": GPTJConfig(n_embd=64, n_layer=4, n_head=4, n_positions=256, rotary_dim=8),
    "opt": OPTConfig(
        hidden_size=64,
        ffn_dim=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=256,
        word_embed_proj_dim=64,
    ),
    "phi": PhiConfig(**SHAPE),
}


def loaded(config, folder, dtype="float64"):
    """A random model of a configuration, loaded as a user would."""
    tokenizer = small_tokenizer()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu", dtype=dtype)


@pytest.fixture(scope="module", params=CONFIGS)
def architecture(request, tmp_path_factory):
    return loaded(CONFIGS[request.param], tmp_path_factory.mktemp("baking") / "model")


def vector(model, seed=0, scale=1.0):
    values = scale * torch.randn(4, model.cfg.d_model, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(values, (0, 1, 2, 3), {"model": model.cfg.model_name, "behavior": "b"})


def steered(model, one, layer, multiplier):
    with caa.steer(model, one, layer, multiplier, positions="all"), torch.no_grad():
        return model(TOKENS)


def logits(plain):
    with torch.no_grad():
        return plain(TOKENS).logits


def reloaded(plain, folder):
    """Plain transformers: a fresh model of what is in the folder, and nothing else."""
    plain.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=plain.dtype, trust_remote_code=False).eval()


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_baked_model_is_the_steered_one_saved_and_loaded_too(tiny_llama, tmp_path, layer):
    one = vector(tiny_llama)
    expected = steered(tiny_llama, one, layer, -1.5)
    baked = bake(tiny_llama, one, layer=layer, multiplier=-1.5)
    torch.testing.assert_close(logits(baked), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(logits(reloaded(baked, tmp_path)), expected, rtol=0, atol=1e-4)
    assert float((expected - tiny_llama(TOKENS).detach()).abs().max()) > 0.1


def test_the_model_that_is_given_stays_as_it_is(tiny_llama):
    before, settings = tiny_llama(TOKENS).detach(), tiny_llama.original_model.config.to_dict()
    bake(tiny_llama, vector(tiny_llama), layer=1, multiplier=3)
    orthogonalize(tiny_llama, vector(tiny_llama), layer=1)
    assert torch.equal(tiny_llama(TOKENS), before)
    assert tiny_llama.original_model.config.to_dict() == settings


def test_multiplier_0_changes_nothing(tiny_llama, plain_llama):
    baked = bake(tiny_llama, vector(tiny_llama), layer=1, multiplier=0)
    torch.testing.assert_close(logits(baked), logits(plain_llama), **TOLERANCE)


def test_half_precision(tiny_folder, tmp_path):
    model = caa.load_model(tiny_folder, device="cpu", dtype="bfloat16")
    one = vector(model)
    expected = steered(model, one, 2, 1.5)
    baked = reloaded(bake(model, one, layer=2, multiplier=1.5), tmp_path)
    assert baked.dtype == torch.bfloat16
    change = (expected - model(TOKENS).detach()).norm()
    assert float((logits(baked) - expected).norm()) < 0.05 * float(change)
    assert orthogonalize(model, one, layer=2).dtype == torch.bfloat16


def test_only_one_bias_is_not_zero(tiny_llama):
    one = vector(tiny_llama)
    baked = bake(tiny_llama, one, layer=2, multiplier=2.0)
    biases = {name: weight for name, weight in baked.named_parameters() if name.endswith("bias") and weight.any()}
    assert list(biases) == ["model.layers.2.mlp.down_proj.bias"]
    torch.testing.assert_close(biases["model.layers.2.mlp.down_proj.bias"].detach(), 2 * one.at(2))


def test_several_interventions_are_baked_at_once(tiny_llama):
    one, other = vector(tiny_llama), vector(tiny_llama, seed=1)
    several = [caa.Intervention(one, 2, 0.5), caa.Intervention(other, 2), caa.Intervention(other, 0, -1.0)]
    with caa.steer(tiny_llama, several, prompt_length=1), torch.no_grad():
        expected = tiny_llama(TOKENS)
    baked = bake(tiny_llama, several)
    torch.testing.assert_close(logits(baked), expected, rtol=0, atol=1e-4)
    assert [(done["layer"], done["multiplier"]) for done in baked.config.steering] == [(2, 0.5), (2, 1.0), (0, -1.0)]


def test_the_saved_configuration_says_what_was_done(tiny_llama, tmp_path):
    bake(tiny_llama, vector(tiny_llama), layer=2, multiplier=2).save_pretrained(tmp_path / "add")
    orthogonalize(tiny_llama, vector(tiny_llama), layer=2).save_pretrained(tmp_path / "ablate")
    saved = {name: json.loads((tmp_path / name / "config.json").read_text()) for name in ("add", "ablate")}
    assert saved["add"]["steering"] == [{"operation": "add", "behavior": "b", "layer": 2, "multiplier": 2.0}]
    assert saved["ablate"]["steering"] == [{"operation": "ablate", "behavior": "b", "layer": 2}]
    assert saved["add"]["architectures"] == ["LlamaForCausalLM"]
    assert not list(tmp_path.rglob("*.py"))


def test_what_was_done_before_stays_in_the_configuration(tiny_llama, tmp_path):
    first = vector(tiny_llama)
    bake(tiny_llama, first, layer=2, multiplier=2).save_pretrained(tmp_path)
    tiny_llama.tokenizer.save_pretrained(tmp_path)
    model = caa.load_model(tmp_path, device="cpu", dtype="float32")
    again = vector(model, seed=1)
    added = {"operation": "add", "behavior": "b", "layer": 2, "multiplier": 2.0}
    then = {"operation": "add", "behavior": "b", "layer": 0, "multiplier": -1.0}
    assert bake(model, again, layer=0, multiplier=-1).config.steering == [added, then]
    ablated = {"operation": "ablate", "behavior": "b", "layer": 1}
    assert orthogonalize(model, again, layer=1).config.steering == [added, ablated]
    assert model.original_model.config.steering == [added]


def test_every_supported_architecture_is_baked(architecture, tmp_path):
    one = vector(architecture)
    expected = steered(architecture, one, 2, 1.5)
    baked = bake(architecture, one, layer=2, multiplier=1.5)
    torch.testing.assert_close(logits(baked), expected, **TOLERANCE)
    torch.testing.assert_close(logits(reloaded(baked, tmp_path)), expected, **TOLERANCE)
    assert float((expected - architecture(TOKENS).detach()).abs().max()) > 1e-2


def ablated_at_every_write(plain, r, writes):
    """The definition: after every module that writes to the residual stream, the part along r is taken out."""

    def hook(_, __, output):
        first = output[0] if isinstance(output, tuple) else output
        removed = first - (first @ r)[..., None] * r
        return (removed, *output[1:]) if isinstance(output, tuple) else removed

    handles = [module.register_forward_hook(hook) for module in writes]
    try:
        return logits(plain)
    finally:
        for handle in handles:
            handle.remove()


def test_orthogonalized_weights_are_ablation_at_every_write(tiny_llama_64, plain_llama_64, tmp_path):
    one = vector(tiny_llama_64)
    one = caa.SteeringVector(one.values.double(), one.layers, one.metadata)
    r = one.at(1) / one.at(1).norm()
    blocks = plain_llama_64.model.layers
    writes = [plain_llama_64.model.embed_tokens, *(b.self_attn for b in blocks), *(b.mlp for b in blocks)]
    expected = ablated_at_every_write(plain_llama_64, r, writes)
    changed = orthogonalize(tiny_llama_64, one, layer=1)
    torch.testing.assert_close(logits(changed), expected, **TOLERANCE)
    torch.testing.assert_close(logits(reloaded(changed, tmp_path)), expected, **TOLERANCE)
    assert float((expected - logits(plain_llama_64)).abs().max()) > 0.1


def test_every_supported_architecture_is_orthogonalized(architecture, tmp_path):
    one = vector(architecture)
    r = one.at(1).double() / one.at(1).double().norm()
    plain = caa.models.wrapping.plain_copy(architecture)
    base = plain.base_model
    blocks = next(m for m in base.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
    attentions = [m for b in blocks for n, m in b.named_children() if n in ("self_attn", "attn", "attention")]
    mlps = [m for b in blocks for n, m in b.named_children() if n in ("mlp", "fc2")]
    positions = [m for n, m in base.named_modules() if n.split(".")[-1] in ("wpe", "embed_positions")]
    writes = [plain.get_input_embeddings(), *positions, *attentions, *mlps]
    assert len(attentions) == len(mlps) == 4
    expected = ablated_at_every_write(plain, r, writes)
    changed = orthogonalize(architecture, one, layer=1)
    torch.testing.assert_close(logits(changed), expected, **TOLERANCE)
    torch.testing.assert_close(logits(reloaded(changed, tmp_path)), expected, **TOLERANCE)


def test_orthogonalizing_twice_is_orthogonalizing_once(tiny_llama_64):
    one = vector(tiny_llama_64)
    once = orthogonalize(tiny_llama_64, one, layer=1)
    expected = logits(once)
    again = caa.models.wrapping.wrap(once, tiny_llama_64.tokenizer, tiny_llama_64.cfg.model_name)
    torch.testing.assert_close(logits(orthogonalize(again, one, layer=1)), expected, **TOLERANCE)


def test_a_tied_unembedding_is_kept(tmp_path):
    model = loaded(CONFIGS["tied llama"], tmp_path / "model")
    changed = orthogonalize(model, vector(model), layer=1)
    assert torch.equal(changed.lm_head.weight.detach(), model.original_model.get_output_embeddings().weight.detach())
    assert not torch.equal(changed.lm_head.weight, changed.model.embed_tokens.weight)


@pytest.mark.parametrize(
    "config",
    [Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=16), Qwen2Config(**SHAPE, num_key_value_heads=2)],
)
def test_architectures_without_a_bias_are_told(tmp_path, config):
    model = loaded(config, tmp_path / "model")
    said = r"made part of the weights of .*: no bias is added to the output of its MLP. It can for Llama"
    with pytest.raises(caa.errors.ModelError, match=said):
        bake(model, vector(model), layer=1, multiplier=1)


@pytest.mark.parametrize("multiplier", [0.01, 1.0])
def test_an_architecture_that_changes_what_its_mlp_writes_is_told(tmp_path, multiplier):
    """Granite multiplies it before it is added to the residual stream."""
    config = GraniteConfig(**SHAPE, num_key_value_heads=2, mlp_bias=True, residual_multiplier=0.5)
    model = loaded(config, tmp_path / "model")
    with pytest.raises(caa.errors.ModelError, match="what its MLP writes is changed before it is added"):
        bake(model, vector(model), layer=1, multiplier=multiplier)


def test_an_architecture_with_norms_behind_its_writes_is_told(tmp_path):
    model = loaded(Gemma2Config(**SHAPE, num_key_value_heads=2, head_dim=16), tmp_path / "model")
    with pytest.raises(caa.errors.ModelError, match="other modules write to its residual stream"):
        orthogonalize(model, vector(model), layer=1)


def test_an_architecture_of_several_experts_is_told(tmp_path):
    config = MixtralConfig(**SHAPE, num_key_value_heads=2, num_local_experts=2)
    model = loaded(config, tmp_path / "model", dtype="float32")  # PyTorch multiplies experts in no other precision
    with pytest.raises(caa.errors.ModelError, match="no bias is added to the output of its MLP"):
        bake(model, vector(model), layer=1)
    with pytest.raises(
        caa.errors.ModelError, match=r"what 'mlp\.out' of a block writes is not the output of one matrix"
    ):
        orthogonalize(model, vector(model), layer=1)


def test_what_is_refused(tiny_llama):
    one = vector(tiny_llama)
    with pytest.raises(caa.InputError, match="multiplier: nan is not a finite number"):
        bake(tiny_llama, one, layer=1, multiplier=float("nan"))
    for function, given in ((bake, {"multiplier": 1}), (orthogonalize, {})):
        with pytest.raises(caa.InputError, match="layer 4: the vector has layers 0 to 3"):
            function(tiny_llama, one, layer=4, **given)
        with pytest.raises(caa.errors.VectorMismatchError, match="made from 'other'"):
            function(tiny_llama, caa.SteeringVector(one.values, one.layers, {"model": "other"}), layer=1, **given)
    with pytest.raises(caa.InputError, match=r"operator: ablate; weights can only add\. For ablation see"):
        bake(tiny_llama, caa.Intervention(one, 1, operator=caa.ablate))
    with pytest.raises(caa.InputError, match="vector: it is None; give a vector or an Intervention"):
        bake(tiny_llama, None)
    with pytest.raises(caa.InputError, match=r"layer: .* needs one\. Give one of its layers"):
        bake(tiny_llama, one)
    with pytest.raises(caa.InputError, match="vector: it is zero at layer 1, so it has no direction there"):
        orthogonalize(tiny_llama, 0 * one, layer=1)


@pytest.mark.parametrize("positions", ["prompt", "answer", "after_thinking", caa.steering.FirstAnswerTokens(3), [3, 4]])
def test_positions_that_weights_cannot_honor(tiny_llama, positions):
    given = caa.Intervention(vector(tiny_llama), 1, positions=positions)
    with pytest.raises(caa.InputError, match=r"positions: .*; weights steer every position. Give 'all'"):
        bake(tiny_llama, given)
