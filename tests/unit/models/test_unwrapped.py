"""A tree runs Hugging Face's blocks as they are, and a bridge's wherever somebody looks into them or changes them."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import caa_interp as caa
from caa_interp.models.access import lock_of, runner
from caa_interp.models.unwrapped import bare, fuses_attention
from caa_interp.tree import run_tree
from tests.tiny_models import edit_from, save_tiny

PAIR = caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")


@pytest.fixture
def model(tiny_folder):
    return caa.load_model(tiny_folder, device="cpu", progress=False)


def runs_bare(model) -> bool:
    """Whether a tree runs without the bridge's wrappers."""
    with bare(model) as module:
        assert module is runner(model)
        return module is not model


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
    assert runs_bare(model)
    unhooked, _ = both_paths(model)
    with model.hooks(fwd_hooks=[(name, lambda value, hook: 2 * value)]):
        assert not runs_bare(model)
        tree, plain = both_paths(model)
    torch.testing.assert_close(tree, plain, rtol=1e-4, atol=1e-4)
    assert (tree - unhooked).abs().max() > 0.01
    assert runs_bare(model)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize(
    "part", [lambda m: m, lambda m: m.blocks[0], lambda m: m.blocks[0].mlp, lambda m: m.blocks[0].hook_in]
)
def test_a_hook_of_pytorch_on_a_module_of_the_bridge_counts(model, register, part):
    handle = getattr(part(model), register)(lambda *_: None)
    assert not runs_bare(model)
    handle.remove()
    assert runs_bare(model)


@pytest.mark.parametrize("name", ["llama", "gpt-2", "pythia", "phi 3 with a window", "opt", "glm 4", "gpt bigcode"])
def test_every_hook_point_that_a_model_calls_counts(tmp_path, name):
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu", progress=False)
    assert runs_bare(model)
    called = []
    for point in model.hook_dict.values():
        point.add_hook(lambda value, hook: called.append(hook.name))
    with torch.no_grad():
        model(torch.tensor([[0, 5, 9, 12]]))
    model.reset_hooks()
    assert len(called) > 40
    for point in dict.fromkeys(called):
        with model.hooks(fwd_hooks=[(point, lambda value, hook: None)]):
            assert not runs_bare(model), point


def test_processed_weights_are_run_by_the_bridge(model):
    model.enable_compatibility_mode()
    assert not runs_bare(model)
    tree, plain = both_paths(model)
    torch.testing.assert_close(tree, plain, rtol=1e-4, atol=1e-3)


def configurations(model) -> list:
    """Which configuration each module goes by, and the attention it names."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    return [(id(config), getattr(config, "_attn_implementation", None)) for config in configs]


def test_all_is_as_before_afterwards_whatever_happens(model):
    modules, asked = list(model.modules()), configurations(model)

    def interrupted():
        with bare(model):
            assert runner(model) is model.original_model
            assert "original_component" not in dir(model.original_model.model.layers[0].mlp)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert runner(model) is model
    assert list(model.modules()) == modules
    assert configurations(model) == asked
    _, cache = model.run_with_cache(torch.tensor([[0, 5, 9]]))
    assert "blocks.1.attn.hook_pattern" in cache


def test_an_interrupt_while_wrappers_are_put_back_leaves_none_away(model):
    class Modules(dict):
        """Raises when the second module is set again, once."""

        left = 2

        def __setitem__(self, name, value):
            Modules.left -= 1
            if Modules.left == 0:
                raise KeyboardInterrupt
            super().__setitem__(name, value)

    modules, layers = list(model.modules()), model.original_model.model.layers
    asked = configurations(model)
    with pytest.raises(KeyboardInterrupt), bare(model):
        layers._modules = Modules(layers._modules)
    assert list(model.modules()) == modules
    assert configurations(model) == asked
    assert runner(model) is model
    assert runs_bare(model)


def test_another_thread_waits_with_its_hooks(model):
    vector = caa.SteeringVector(torch.full((4, 64), 3.0), (0, 1, 2, 3), {"behavior": "any"})

    def answer():
        return caa.generate(model, ["Is it?"], vector=vector, layer=1, max_new_tokens=6, progress=False)["answer"][0]

    expected = answer()
    assert expected != caa.generate(model, ["Is it?"], max_new_tokens=6, progress=False)["answer"][0]
    with ThreadPoolExecutor(1) as other:
        with bare(model):
            waiting = other.submit(answer)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=1)
        assert waiting.result(timeout=60) == expected


@pytest.mark.parametrize(("name", "fused"), [("llama", True), ("gemma 2", False), ("gpt-oss", False)])
def test_attention_is_fused_where_the_model_allows_it(tmp_path, name, fused):
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu", progress=False)
    assert fuses_attention(model) is fused
    assert runs_bare(model)


def test_two_threads_on_one_model_get_what_each_gets_alone(model):
    pairs = [[caa.ContrastPair(f"{'Is it ' * (n + 1)}{i}?", "Yes it is.", "No.") for i in range(6)] for n in range(2)]
    collect = caa.collect_activations
    alone = [collect(model, some, format="text", progress=False).positive for some in pairs]
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda some: collect(model, some, format="text", progress=False).positive, pairs))
        for one, other in zip(both, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_sweep_that_runs_is_not_steered_by_a_context_of_another_thread(model):
    vector = caa.SteeringVector(torch.full((4, 64), 3.0), (0, 1, 2, 3), {"behavior": "any"})
    pairs = [caa.ContrastPair(f"Is it {n}?", "Yes it is.", "No.") for n in range(40)]
    options = {"layers": 1, "format": "text", "progress": False}
    alone = caa.sweep(model, vector, pairs, **options)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(caa.sweep, model, vector, pairs, **options)
        while lock_of(model).acquire(blocking=False) and not running.done():  # until the sweep has begun
            lock_of(model).release()
        with caa.steer(model, vector, 2, 2.0, positions="all"):
            beside = running.result()
            model(torch.tensor([[0, 5, 9]]))
    assert set(beside["path"]) == {"tree"}
    assert (beside["logit_difference"] - alone["logit_difference"]).abs().max() < 1e-4


@pytest.mark.parametrize("starts_bare", [True, False])
def test_wrappers_may_come_and_go_while_a_user_runs_the_model(model, starts_bare, monkeypatch):
    tokens, context = torch.tensor([[0, 5, 9]]), bare(model)
    with torch.no_grad():
        expected = model(tokens)
    block = model.blocks[0].original_component
    part = model.blocks[0].attn.original_component if starts_bare else block
    own = part.forward

    def forward(*args, **kwargs):
        # Masks are made by now.
        context.__exit__(None, None, None) if starts_bare else context.__enter__()
        return own(*args, **kwargs)

    monkeypatch.setattr(part, "forward", forward)
    if starts_bare:
        context.__enter__()
    with torch.no_grad():
        found = model(tokens)
    if not starts_bare:
        context.__exit__(None, None, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_user_may_run_the_model_in_another_thread_meanwhile(model):
    vector = caa.SteeringVector(torch.full((4, 64), 3.0), (0, 1, 2, 3), {"behavior": "any"})
    pairs = [caa.ContrastPair(f"Is it {n}?", "Yes it is.", "No.") for n in range(30)]
    options = {"layers": 1, "format": "text", "progress": False}
    alone = caa.sweep(model, vector, pairs, **options)["logit_difference"]
    tokens = torch.tensor([[0, 5, 9]])
    with torch.no_grad():
        expected = model(tokens)
    with ThreadPoolExecutor(1) as other:
        running = other.submit(caa.sweep, model, vector, pairs, **options)
        while not running.done():
            with torch.no_grad():
                torch.testing.assert_close(model(tokens), expected, rtol=1e-4, atol=1e-4)
    assert (running.result()["logit_difference"] - alone).abs().max() < 1e-4


def test_in_16_bits_a_hooked_unembedding_is_the_models_own(tiny_folder):
    model = caa.load_model(tiny_folder, device="cpu", dtype="bfloat16", progress=False)
    hook = ("unembed.hook_out", lambda logits, hook: torch.zeros_like(logits))
    with model.hooks(fwd_hooks=[hook]):
        for path in ("tree", "plain"):
            found = torch.cat(run_tree(model, branches(), [1], path).log_probs)
            assert found.exp().mul(model.cfg.d_vocab).sub(1).abs().max() < 0.01  # every token is as likely


def test_an_offloaded_model_takes_plain_passes(model, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"model.embed_tokens": "cpu", "model.layers": "cpu", "model.rotary_emb": "cpu"}
    offloaded = caa.load_model(
        tiny_folder, device_map={**places, "model.norm": "disk", "lm_head": "disk"}, progress=False
    )
    result, expected = run_tree(offloaded, branches(), [1]), run_tree(model, branches(), [1])
    assert result.path == "plain"
    torch.testing.assert_close(torch.cat(result.log_probs), torch.cat(expected.log_probs), rtol=1e-4, atol=1e-4)
