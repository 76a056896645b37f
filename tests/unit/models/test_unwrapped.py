"""A tree runs Hugging Face's blocks as they are, and a bridge's wherever somebody looks into them or changes them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import caa_interp as caa
from caa_interp.models.unwrapped import changes_nothing, fuses_attention, unwrapped, wrappers
from caa_interp.tree import run_tree
from tests.conftest import edit_from
from tests.tiny_models import save_tiny

PAIR = caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")


@pytest.fixture
def model(tiny_folder):
    return caa.load_model(tiny_folder, device="cpu", progress=False)


def bare(model) -> bool:
    return changes_nothing(model, wrappers(model.original_model))


def branches():
    edit = edit_from(1, torch.full((64,), 0.3), 4)
    return [
        caa.tree.Branch((0, 5, 9, 12, 30, 31), edits, ((5, 7),), tuple(range(6)), label="any")
        for edits in ((), (edit,))
    ]


def both_paths(model):
    """Log-probabilities and residual streams by tree and by plain passes."""
    for path in ("tree", "plain"):
        result = run_tree(model, branches(), range(4), path)
        yield torch.cat([*result.log_probs, result.residual.flatten()])


@pytest.mark.parametrize("name", ["blocks.0.attn.hook_q", "blocks.2.mlp.hook_out", "blocks.1.hook_resid_post"])
def test_what_a_user_hooks_counts(model, name):
    assert bare(model)
    unhooked, _ = both_paths(model)
    with model.hooks(fwd_hooks=[(name, lambda value, hook: 2 * value)]):
        assert not bare(model)
        tree, plain = both_paths(model)
    torch.testing.assert_close(tree, plain, rtol=1e-4, atol=1e-4)
    assert (tree - unhooked).abs().max() > 0.01
    assert bare(model)


def test_a_hook_of_pytorch_on_a_module_of_the_bridge_counts(model):
    handle = model.blocks[0].mlp.register_forward_hook(lambda *_: None)
    assert not bare(model)
    handle.remove()
    assert bare(model)


def test_processed_weights_are_run_by_the_bridge(model):
    model.enable_compatibility_mode()
    assert not bare(model)
    tree, plain = both_paths(model)
    torch.testing.assert_close(tree, plain, rtol=1e-4, atol=1e-3)


def test_all_is_as_before_afterwards_whatever_happens(model):
    found, modules = wrappers(model.original_model), list(model.modules())
    asked = model.original_model.config._attn_implementation

    def interrupted():
        with unwrapped(model, found):
            assert not wrappers(model.original_model)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(model.modules()) == modules
    assert model.original_model.config._attn_implementation == asked
    _, cache = model.run_with_cache(torch.tensor([[0, 5, 9]]))
    assert "blocks.1.attn.hook_pattern" in cache


def test_another_thread_waits_with_its_hooks(model):
    vector = caa.SteeringVector(torch.full((4, 64), 3.0), (0, 1, 2, 3), {"behavior": "any"})

    def answer():
        return caa.generate(model, ["Is it?"], vector=vector, layer=1, max_new_tokens=6, progress=False)["answer"][0]

    expected = answer()
    assert expected != caa.generate(model, ["Is it?"], max_new_tokens=6, progress=False)["answer"][0]
    with ThreadPoolExecutor(1) as other:
        with unwrapped(model, wrappers(model.original_model)):
            waiting = other.submit(answer)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
        assert waiting.result(timeout=60) == expected


@pytest.mark.parametrize(("name", "fused"), [("llama", True), ("gemma 2", False), ("gpt-oss", False)])
def test_attention_is_fused_where_the_model_allows_it(tmp_path, name, fused):
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu", progress=False)
    assert fuses_attention(model) is fused
    assert bare(model)
