"""Through which parts a vector acts: against plain hooked passes, and vectors whose parts are known."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import caa_interp as caa
from caa_interp.analysis import effect_attribution
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.statistics import bootstrap_mean
from tests.oracles import attribution as oracle
from tests.tiny_models import save_tiny


def random_vector(size: float = 3.0, seed: int = 0, **metadata) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metadata = {"behavior": "cheer", "format": "text", **metadata}
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), metadata)


VECTOR = random_vector()
UNSCORED = PublishedPair("Is it good?\n (A) Yes\n (B) No\n (C) Maybe", "(C)", "(A)", n_options=3)


@pytest.fixture(scope="module", params=["llama", "gpt-2", "pythia"])
def both(request, tmp_path_factory, tiny_folder):
    """A model in float64 and Hugging Face's own: RMSNorm, LayerNorm with biases, and parallel attention and MLP."""
    folder = tiny_folder if request.param == "llama" else save_tiny(tmp_path_factory.mktemp("parts"), request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    return caa.load_model(folder, device="cpu", dtype="float64"), plain


def attributed(model, vector, pairs, **options) -> pd.DataFrame:
    return effect_attribution(model, vector, pairs, **{"layer": 1, "progress": False, **options})


def parts_of(table) -> list[tuple[int, str, int | None]]:
    """Parts as the oracle has them."""
    rows = table[~table["component"].isin(["direct", "remainder"])]
    named = [(*name.split(), None) if name.startswith("head") else (name, None) for name in rows["component"]]
    parts = []
    for layer, (name, head, *_) in zip(rows["layer"], named, strict=True):
        parts.append((int(layer), "attention" if name == "head" else name, None if head is None else int(head)))
    return parts


def assert_is(table, pairs, model, plain, vector, multiplier=1.0, **options):
    """Means over pairs of what the oracle finds, and parts that sum to the whole."""
    parts = parts_of(table)
    found = [
        oracle.attribution(plain, model.tokenizer, pair, 1, multiplier * vector.at(1), parts, **options)
        for pair in pairs
    ]
    np.testing.assert_allclose(table["effect"], np.mean([one[0] for one in found]) / multiplier, atol=1e-8)
    contributions = [[one[1], *one[2].values()] for one in found]
    np.testing.assert_allclose(table["contribution"][:-1], np.mean(contributions, axis=0) / multiplier, atol=1e-5)
    restored = [list(one[3].values()) for one in found]
    np.testing.assert_allclose(table["restored"][1:-1], np.mean(restored, axis=0) / multiplier, atol=1e-8)
    assert table["contribution"].sum() == pytest.approx(table["effect"].iloc[0], abs=1e-12)
    assert abs(table["contribution"].iloc[-1]) < 1e-5
    for name in ("contribution", "restored"):
        assert table[name].abs()[1:-1].max() > 1e-2


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize("multiplier", [1.0, -2.0])
def test_parts_are_those_of_plain_hooked_passes_and_sum_to_the_effect(both, pairs, multiplier):
    model, plain = both
    table = attributed(model, VECTOR, pairs[:2], multiplier=multiplier)
    assert table["component"].tolist() == ["direct", *["attention", "MLP"] * 2, "remainder"]
    assert table["layer"].tolist() == [1, 2, 2, 3, 3, pd.NA]
    assert_is(table, pairs[:2], model, plain, VECTOR, multiplier)


@pytest.mark.usefixtures("stay_double")
def test_heads_are_those_of_plain_hooked_passes_and_sum_to_their_attention(both, pairs):
    model, plain = both
    table = attributed(model, VECTOR, pairs[:1], per="head")
    assert table["component"].tolist() == ["direct", *[*(f"head {n}" for n in range(4)), "MLP"] * 2, "remainder"]
    assert_is(table, pairs[:1], model, plain, VECTOR)
    whole = attributed(model, VECTOR, pairs[:1], patch=False)
    heads = table[table["component"].str.startswith("head")].groupby("layer")["contribution"].sum()
    attention = whole[whole["component"] == "attention"].set_index("layer")["contribution"]
    np.testing.assert_allclose(heads, attention[heads.index], atol=1e-10)


@pytest.mark.usefixtures("stay_double")
def test_choices_are_scored_in_both_letter_orders(tiny_llama_64, plain_llama_64, pairs):
    table = attributed(tiny_llama_64, VECTOR, pairs[:1], format="choices")
    assert_is(table, pairs[:1], tiny_llama_64, plain_llama_64, VECTOR, form="choices")
    assert set(table["format"]) == {"choices"}


@pytest.mark.usefixtures("stay_double")
def test_what_an_open_context_does_is_the_baseline(tiny_llama_64, plain_llama_64, pairs):
    other = random_vector(4.0, seed=3)
    with caa.steer(tiny_llama_64, other, layer=0):
        table = attributed(tiny_llama_64, VECTOR, pairs[:1])
    assert_is(table, pairs[:1], tiny_llama_64, plain_llama_64, VECTOR, below=[(0, other.at(0))])


@pytest.mark.parametrize("format", ["text", "choices"])
def test_the_effect_is_what_a_sweep_scores(tiny_llama, pairs, format):
    vectors = {"cheer": VECTOR, **caa.random_vectors(VECTOR, 1)}
    table = attributed(tiny_llama, vectors, pairs, multiplier=1.5, format=format, patch=False)
    scores = caa.sweep(tiny_llama, vectors, pairs, layers=1, multipliers=(0, 1.5), format=format, progress=False)
    means = scores.groupby(["vector", "multiplier"])["logit_difference"].mean().unstack()
    expected = (means[1.5] - means[0.0]) / 1.5
    found = table.groupby("vector")["effect"].first()
    pd.testing.assert_series_equal(found, expected[found.index], check_names=False, atol=1e-4, rtol=0)
    assert table["contribution"].iloc[[5, -1]].abs().max() < 1e-4
    assert set(zip(table["vector"], table["kind"], strict=True)) == {("cheer", "vector"), ("random 0", "random")}


@pytest.mark.usefixtures("stay_double")
def test_intervals_are_over_pairs(tiny_llama_64, pairs):
    table = attributed(tiny_llama_64, VECTOR, pairs)
    single = [attributed(tiny_llama_64, VECTOR, [pair]) for pair in pairs]
    assert set(table["n"]) == {3}
    for name in ("contribution", "restored", "effect"):
        mean, low, high = bootstrap_mean(np.array([one[name] for one in single]), np.random.default_rng(0))
        for end, expected in zip(("", "_low", "_high"), (mean, low, high), strict=True):
            # Shares of a resample's spread are the same for each column by itself.
            np.testing.assert_allclose(table[name + end], expected, atol=1e-9)
        assert single[0][[f"{name}_low", f"{name}_high"]].isna().all(axis=None)


@pytest.mark.usefixtures("stay_double")
def test_after_the_last_block_there_is_the_direct_path_alone(both, pairs):
    table = attributed(both[0], VECTOR, pairs, layer=3)
    assert table["component"].tolist() == ["direct", "remainder"]
    direct, remainder = table["contribution"]
    assert direct == pytest.approx(table["effect"].iloc[0], abs=1e-5)
    assert abs(direct) > 1e-2 > 1e-5 > abs(remainder)


@pytest.mark.usefixtures("stay_double")
def test_what_no_norm_lets_through_has_no_part(tmp_path, pairs):
    """Every LayerNorm removes the mean over d_model, so nothing reads a vector of equal entries."""
    model = caa.load_model(save_tiny(tmp_path / "model", "gpt-2"), device="cpu", dtype="float64")
    even = caa.SteeringVector(torch.ones(4, 64, dtype=torch.float64), (0, 1, 2, 3), {"format": "text"})
    table = attributed(model, {"even": even, "cheer": VECTOR}, pairs)
    numbers = table.groupby("vector")[["contribution", "restored", "effect"]].agg(lambda some: some.abs().max())
    assert (numbers.loc["even"] < 1e-8).all()
    assert (numbers.loc["cheer"] > 1e-2).all()


def test_without_patching_nothing_is_restored(tiny_llama, pairs):
    names = ["contribution", "contribution_low", "contribution_high", "effect"]
    with_patches, without = (attributed(tiny_llama, VECTOR, pairs, patch=patch) for patch in (True, False))
    assert without[["restored", "restored_low", "restored_high"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(with_patches[names], without[names])


@pytest.mark.parametrize("name", ["gpt-neo", "bloom", "gemma 2", "opt"])
def test_models_that_take_no_tree_or_have_norms_after_their_parts(tmp_path, pairs, name):
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu", dtype="float32")
    table = attributed(model, VECTOR, pairs[:2])
    assert abs(table["contribution"].iloc[-1]) < 1e-4 < table["contribution"].abs().max()


def test_half_precision_rounds_and_no_more(tiny_folder, tiny_llama, pairs):
    half = caa.load_model(tiny_folder, device="cpu", dtype="bfloat16")
    for per in ("component", "head"):
        found, expected = (attributed(model, 4 * VECTOR, pairs, per=per) for model in (half, tiny_llama))
        for name in ("contribution", "restored", "effect"):
            np.testing.assert_allclose(found[name], expected[name], atol=0.1 * expected[name].abs().max())
        assert abs(found["contribution"].iloc[-1]) > abs(expected["contribution"].iloc[-1])


def test_parts_that_cannot_be_told_apart_are_refused(tmp_path, pairs, monkeypatch):
    gemma = caa.load_model(save_tiny(tmp_path / "gemma", "gemma 2"), device="cpu")
    mamba = caa.load_model(save_tiny(tmp_path / "mamba", "mamba"), device="cpu")
    monkeypatch.setattr(type(gemma), "forward", lambda *_, **__: pytest.fail("the model ran"))
    with pytest.raises(
        caa.errors.ModelError, match=r"a norm or a factor follows its attention in block 2, .* Use per='component'"
    ):
        attributed(gemma, VECTOR, pairs, per="head")
    with pytest.raises(caa.errors.ModelError, match=r"it has no 'blocks.2.hook_attn_out', .* Use a model whose blocks"):
        attributed(mamba, VECTOR, pairs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiplier": 0}, r"vector: 'cheer' changes nothing, .*\(0 of cheer, layer 1,.* multiplier other than 0"),
        ({"vector": 0 * VECTOR}, r"vector: 'cheer' changes nothing, .*\(1 of cheer, layer 1,.* is not zero"),
        ({"multiplier": float("inf")}, "multiplier: inf is not a finite number"),
        ({"per": "neuron"}, "per: 'neuron' is not one of 'component', 'head'"),
        ({"layer": 9}, "layer 9: the vector has layers 0 to 3"),
        ({"layer": None}, "layer: .* needs one. Give one of its layers"),
        ({"format": "letters"}, "format: 'letters' is not one of"),
        ({"vector": {}}, "vector: the mapping is empty"),
        ({"vector": [VECTOR]}, "vector: list; several vectors have names"),
        ({"pairs": []}, "pairs: "),
        ({"pairs": [UNSCORED], "format": "choices"}, r"pairs\[0\]: its matching answer is neither \(A\) nor \(B\)"),
    ],
)
def test_what_cannot_be_split_is_refused_before_any_work(tiny_llama, pairs, monkeypatch, options, message):
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_, **__: pytest.fail("the model ran"))
    given = {"vector": VECTOR, "pairs": pairs, **options}
    with pytest.raises(caa.InputError, match=message):
        attributed(tiny_llama, given.pop("vector"), given.pop("pairs"), **given)


def test_heads_that_cannot_be_told_apart_are_refused(tmp_path):
    model = caa.load_model(save_tiny(tmp_path / "model", "deepseek 3"), device="cpu", progress=False)
    vector = caa.SteeringVector(torch.ones(4, 64), (0, 1, 2, 3), {"behavior": "any"})
    pairs = [caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")]
    options = {"layer": 1, "format": "text", "progress": False}
    with pytest.raises(caa.errors.ModelError, match=r"does not tell the heads apart\. Use per='component'"):
        effect_attribution(model, vector, pairs, per="head", **options)
    assert len(effect_attribution(model, vector, pairs, **options)) == 6
