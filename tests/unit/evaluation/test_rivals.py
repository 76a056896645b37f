"""What steering vectors are compared with: one contract for a learned vector, chosen heads, and several layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import caa_interp as caa
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.evaluation import learned_vector
from caa_interp.evaluation.learned import _loss, _scores
from caa_interp.evaluation.sweep import scored_renderings
from caa_interp.prompts.format import PromptFormat
from caa_interp.study.measures import check_rival
from caa_interp.vectors import head_vector
from tests.tiny_models import SHAPE, TREE, save_tiny

WORDS = ("house", "tree", "lamp", "road", "cup", "bird", "song", "stone")
PAIRS = [ContrastPair(f"Is the {word} fine?", f"Yes, the {word} is good", f"No, the {word} is bad") for word in WORDS]


@pytest.fixture(scope="module")
def start(tiny_llama):
    return caa.extract_vector(tiny_llama, PAIRS, format="text", behavior="fine", progress=False)


def slope(model, vector, pairs=PAIRS, format=None):
    table = caa.sweep(model, vector, pairs, layers=1, multipliers=(-1, 1), format=format, progress=False)
    return float(caa.steerability(table)["slope"].iloc[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda model, start: learned_vector(model, start, PAIRS, layer=1, epochs=1, progress=False),
        lambda model, start: head_vector(model, PAIRS, n_heads=3, format="text", behavior="fine", progress=False),
    ],
    ids=["learned", "heads"],
)
def test_a_rival_is_a_steering_vector_like_any_other(tiny_llama, start, tmp_path, make):
    weights = {name: one.detach().clone() for name, one in tiny_llama.named_parameters()}
    trained = {name: one.requires_grad for name, one in tiny_llama.named_parameters()}
    rival, again = make(tiny_llama, start), make(tiny_llama, start)
    assert rival == again
    assert (rival.name, rival.metadata["format"], rival.metadata["n_pairs"]) == ("fine", "text", len(PAIRS))
    assert rival.metadata["model"] == start.metadata["model"]
    rival.save(tmp_path / "rival.safetensors")
    assert caa.SteeringVector.load(tmp_path / "rival.safetensors") == rival
    every_layer = [caa.Intervention(rival, layer) for layer in rival.layers]
    table = caa.sweep(tiny_llama, {"unsteered": None, "rival": every_layer}, PAIRS[:2], progress=False)
    assert table.groupby("vector")["logit_difference"].mean().nunique() == 2
    for name, one in tiny_llama.named_parameters():
        assert torch.equal(one, weights[name])
        assert one.requires_grad == trained[name]
    assert not any(point.fwd_hooks for point in tiny_llama.hook_dict.values())


# The learned vector


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize("format", ["text", "choices"])
def test_what_is_trained_is_what_a_sweep_scores(tiny_llama_64, format):
    values = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    form = PromptFormat.of(tiny_llama_64)
    rendered = scored_renderings(form, PAIRS, format, None)
    vector = caa.SteeringVector(values[None], (1,))
    table = caa.sweep(tiny_llama_64, vector, PAIRS, multipliers=(0, 1), format=format, progress=False)
    for multiplier, rows in table.groupby("multiplier"):
        with torch.no_grad():
            found = _scores(tiny_llama_64, rendered, format, 1, values, multiplier)
        np.testing.assert_allclose(found.numpy(), rows.groupby("item")["logit_difference"].mean(), atol=1e-9)

    unsteered = torch.zeros(len(PAIRS), dtype=torch.float64)
    values.requires_grad_()
    (gradient,) = torch.autograd.grad(_loss(tiny_llama_64, rendered, format, unsteered, 1, values, 5.0), values)
    step = 1e-5 * torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        losses = [_loss(tiny_llama_64, rendered, format, unsteered, 1, values + sign * step, 5.0) for sign in (1, -1)]
    assert float(losses[0] - losses[1]) / 2 == pytest.approx(float(gradient @ step), rel=1e-4)


def test_training_does_more_than_the_mean_difference_in_both_directions(tiny_llama, start):
    learned = learned_vector(tiny_llama, start, PAIRS, layer=1, epochs=10, progress=False)
    assert learned.layers == (1,)
    shortened = learned * float(start.at(1).norm() / learned.norms)  # the direction, not the length
    assert slope(tiny_llama, shortened) > 1.5 * slope(tiny_llama, start)
    table = caa.sweep(tiny_llama, learned, PAIRS, multipliers=(-1, 0, 1), progress=False)
    down, zero, up = table.groupby("multiplier")["logit_difference"].mean()
    assert down < zero < up


def test_it_learns_where_gradients_are_switched_off(tiny_llama, start):
    options = {"layer": 1, "epochs": 1, "progress": False}
    with torch.no_grad():
        learned = learned_vector(tiny_llama, start, PAIRS, **options)
    assert learned == learned_vector(tiny_llama, start, PAIRS, **options)


def test_letters_can_be_learned_too(tiny_llama, start):
    learned = learned_vector(tiny_llama, start, PAIRS, layer=1, format="choices", epochs=10, progress=False)
    assert learned.metadata["format"] == "choices"
    assert slope(tiny_llama, learned) > slope(tiny_llama, start, format="choices")


def test_what_is_learned_from_a_control_or_in_another_form_says_so(tiny_llama, start):
    (control,) = caa.random_vectors(start, 1).values()
    published = replace(control, metadata={**control.metadata, "sides": "as published", "mine": 1})
    learned = learned_vector(tiny_llama, published, PAIRS, layer=1, format="choices", epochs=1, progress=False)
    assert (control.kind, learned.kind) == ("random", "vector")
    own = caa.extract_vector(tiny_llama, PAIRS, format="choices", progress=False).metadata
    told = {"estimator": "learned by preference", "kind": "vector", "seed": 0, "behavior": "random 0", "mine": 1}
    assert learned.metadata == {**own, **told}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"layer": None}, "layer: .* needs one"),
        ({"epochs": 0}, "epochs: 0"),
        ({"beta": -1.0}, "beta: -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate: nan"),
    ],
)
def test_settings_that_cannot_be_used_are_named(tiny_llama, start, arguments, said):
    with pytest.raises(caa.InputError, match=said):
        learned_vector(tiny_llama, start, PAIRS, **{"layer": 1, "progress": False, **arguments})


def test_a_zero_start_is_refused(tiny_llama, start):
    with pytest.raises(caa.InputError, match="it is zero at layer 1"):
        learned_vector(tiny_llama, 0.0 * start, PAIRS, layer=1, progress=False)


# Heads


@pytest.mark.parametrize("format", ["text", "choices"])
def test_all_heads_together_are_the_mean_difference_of_attention(tiny_llama, format):
    n_layers, n_heads = tiny_llama.cfg.n_layers, tiny_llama.cfg.n_heads
    vector = head_vector(tiny_llama, PAIRS, n_heads=n_layers * n_heads, format=format, progress=False)
    assert vector.layers == tuple(range(n_layers))
    form = PromptFormat.of(tiny_llama)
    names = [f"blocks.{layer}.hook_attn_out" for layer in range(n_layers)]
    differences = []
    for pair in PAIRS:
        for one in form.render(pair, format, None, what="pair"):
            means = []
            for tokens in (one.positive, one.negative):
                begin = one.n_prompt if format == "text" else one.n_shared
                end = len(tokens) if format == "text" else begin + 1
                with torch.no_grad():
                    _, cache = tiny_llama.run_with_cache(torch.tensor([tokens]), names_filter=names)
                means.append(torch.stack([cache[name][0, begin:end].mean(0) for name in names]))
            differences.append(means[0] - means[1])
    torch.testing.assert_close(vector.values, torch.stack(differences).mean(0), atol=1e-5, rtol=1e-4)


def test_a_head_that_alone_knows_the_side_is_chosen(tiny_llama, monkeypatch):
    shape = (tiny_llama.cfg.n_layers, tiny_llama.cfg.n_heads, len(PAIRS), 2, tiny_llama.cfg.d_head)
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outputs[2, 1, :, 0] += 5.0
    monkeypatch.setattr("caa_interp.vectors.heads._outputs", lambda *_: outputs)
    vector = head_vector(tiny_llama, PAIRS, n_heads=1, format="text", progress=False)
    assert vector.metadata["heads"] == [[2, 1]]
    shift = (outputs[2, 1, :, 0] - outputs[2, 1, :, 1]).mean(0).float()
    torch.testing.assert_close(vector.at(2), shift @ tiny_llama.blocks[2].attn.W_O[1].detach().float())


def test_too_many_heads_and_too_few_pairs_are_refused(tiny_llama):
    with pytest.raises(caa.InputError, match="n_heads: 1000"):
        head_vector(tiny_llama, PAIRS, n_heads=1000, progress=False)
    with pytest.raises(caa.InputError, match="at least 5 pairs"):
        head_vector(tiny_llama, PAIRS[:3], n_heads=1, progress=False)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gemma 2", "a norm or a factor follows its attention in block 0, which is no head's own. Use extract_vector"),
        ("granite, scaled", "a norm or a factor follows its attention in block 0"),
        ("deepseek 3", "the values of its heads in block 0 are not as wide as its queries"),
        ("mamba", "it has no 'blocks.0.attn.hook_z'"),
    ],
)
def test_heads_that_do_not_write_by_themselves_are_refused_before_any_work(tmp_path, monkeypatch, name, said):
    monkeypatch.setitem(TREE, "granite, scaled", ("granite", SHAPE | {"residual_multiplier": 0.5}))
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu", dtype="float32", progress=False)
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(caa.errors.ModelError, match=said):
        head_vector(model, PAIRS, n_heads=1, format="text", progress=False)
    with pytest.raises(caa.InputError, match=f"rivals.methods: 'attention heads' does not go with this model.*{said}"):
        check_rival(model, method="attention heads")
