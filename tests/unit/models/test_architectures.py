"""The tree on small random models of several architectures, against the plain path, with the path that was taken."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

import caa_interp as caa
from caa_interp.tree import Branch, run_tree
from tests.conftest import edit_from, small_tokenizer

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
HEADS = {"head_dim": 16}
MODELS = {
    "llama": (LlamaConfig(**SHAPE), "tree"),
    "llama with scaled rotary embedding": (
        LlamaConfig(
            **SHAPE,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        ),
        "tree",
    ),
    "qwen 2": (Qwen2Config(**SHAPE), "tree"),
    "qwen 3": (Qwen3Config(**SHAPE, **HEADS), "tree"),
    "gemma": (GemmaConfig(**SHAPE, **HEADS), "tree"),
    "gemma 2, with sliding-window layers and capped logits": (Gemma2Config(**SHAPE, **HEADS), "plain"),
    "mistral": (MistralConfig(**SHAPE, sliding_window=None), "tree"),
    "mistral with a sliding window": (MistralConfig(**SHAPE, sliding_window=8), "plain"),
    "gpt-2": (GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=256), "tree"),
    "pythia": (
        GPTNeoXConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
        ),
        "tree",
    ),
}


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, tmp_path_factory):
    """(model, path that it must take), loaded from a folder as a user would."""
    config, path = MODELS[request.param]
    folder = tmp_path_factory.mktemp("architectures") / "model"
    tokenizer = small_tokenizer()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu"), path


def branches():
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(4, 64, generator=generator)
    trunk = tuple(range(20, 50))
    found = []
    for ending in ((60, 61), (60, 62, 63, 64), (70,)):
        tokens = trunk + ending
        targets = tuple((p, 80 + p % 7) for p in range(len(trunk) - 1, len(tokens)))
        every = (
            (),
            (edit_from(0, vectors[0], 29),),
            (edit_from(2, vectors[1], 29),),
            (edit_from(3, vectors[2], 29),),
            (edit_from(1, vectors[0], 28), edit_from(2, vectors[3], 30)),
        )
        found += [Branch(tokens, edits, targets, reads=(28, len(tokens) - 1)) for edits in every]
    return found


def test_tree_equals_plain_passes(loaded):
    model, path = loaded
    asked = branches()
    found = run_tree(model, asked, range(4))
    assert found.path == path
    expected = run_tree(model, asked, range(4), path="plain")
    for ours, theirs in zip(found.log_probs, expected.log_probs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-3, atol=1e-3)


def test_edits_change_what_they_should(loaded):
    model, _ = loaded
    unsteered, steered = branches()[:2]
    found = run_tree(model, [unsteered, steered], range(4))
    assert not torch.allclose(found.log_probs[0], found.log_probs[1], atol=1e-3)


def test_sweep_says_which_path_it_took(loaded):
    model, path = loaded
    pair = caa.ContrastPair("Is the weather good?", "I like it.", "I do not.")
    vector = caa.extract_vector(model, [pair], format="text")
    assert set(caa.sweep(model, vector, [pair], format="text", layers=[1])["path"]) == {path}


def test_a_context_steers_token_by_token(loaded):
    """A cache that forgets what lies outside a sliding window does not say how many tokens came before."""
    model, _ = loaded
    vector = caa.SteeringVector(8 * torch.randn(4, 64, generator=torch.Generator().manual_seed(2)), (0, 1, 2, 3))
    *_, expected = caa.steering.stream_answer(
        model, "Is the weather good?", caa.Intervention(vector, 1), max_new_tokens=8
    )
    prompt = torch.tensor([caa.PromptFormat.of(model).tokens("Is the weather good?").tokens])
    with caa.steer(model, vector, 1):
        found = model.generate(prompt, max_new_tokens=8, do_sample=False, stop_at_eos=False, verbose=False)
    assert found[0, prompt.shape[1] :].tolist()[: len(expected.tokens)] == list(expected.tokens)
