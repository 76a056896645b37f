"""Reading vectors and states as tokens with HookedTransformer (TransformerLens 3 only), against TransformerBridge.

Run these in an environment with TransformerLens 3.9: ``python -m pytest tests/hooked``.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from importlib.metadata import version

import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.models.readout import COMPONENTS, component_states, read_logits
from caa_interp.prompts.format import PromptFormat
from tests.tiny_models import random_llama, small_tokenizer

if int(version("transformer-lens").split(".")[0]) >= 4:
    pytest.skip(
        f"HookedTransformer left TransformerLens with version 4 (installed: {version('transformer-lens')}); "
        "these tests need transformer-lens>=3.9,<4",
        allow_module_level=True,
    )

PROMPT, ANSWER = "What do you think of the weather?", "I like it."


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same weights as HookedTransformer and as TransformerBridge."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = small_tokenizer()
    random_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tuple(caa.load_model(folder, backend=backend, device="cpu") for backend in ("hooked", "bridge"))


@pytest.fixture(scope="module")
def vector():
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(values, (0, 1, 2, 3), {"model": "tiny"})


def test_logit_lens(both, vector):
    found, expected = (caa.logit_lens(model, vector, top_k=6) for model in both)
    assert len(found) == 4 * 2 * 6
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("answer", ["", ANSWER])
def test_steered_lens(both, vector, answer):
    options = {"layer": 1, "multipliers": (-1, 0, 2), "answer": answer}
    found, expected = (caa.steered_lens(model, PROMPT, vector, **options) for model in both)
    assert list(found["component"].unique()) == list(COMPONENTS)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_effect_lens(both, vector):
    found, expected = (caa.effect_lens(model, vector, [PROMPT, "Do you agree?"], n_tokens=5) for model in both)
    assert set(found["path"]) == {"tree"}
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_monitor(both, vector):
    found, expected = (caa.analysis.monitor(model, {"one": vector}, [PROMPT, ANSWER], layer=1) for model in both)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("answer", [None, ANSWER])
def test_token_similarity(both, vector, answer):
    found, expected = (caa.token_similarity(model, PROMPT, vector, answer=answer) for model in both)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_the_last_blocks_output_gives_the_models_own_logits_also_capped(both, monkeypatch):
    hooked, _ = both
    tokens = PromptFormat.of(hooked).tokens(PROMPT).tokens
    plain = hooked(torch.tensor([tokens]))[0, -1].detach()
    monkeypatch.setattr(hooked.cfg, "output_logits_soft_cap", 1.5)
    expected = hooked(torch.tensor([tokens]))[0, -1].detach()
    assert float(expected.abs().max()) < 1.5 < float(plain.abs().max())
    state = component_states(hooked, tokens, [3])[3, "block output"]
    torch.testing.assert_close(read_logits(hooked, state[None])[0], expected, rtol=1e-4, atol=1e-4)
