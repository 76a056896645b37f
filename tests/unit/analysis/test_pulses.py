"""Where and for how long a vector acts: against plain hooked passes, and pulses that cannot spread."""

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
import caa_interp.tree.run as tree_run
from caa_interp.analysis import position_map
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.statistics import bootstrap_mean
from tests.oracles import attribution as oracle

N_TOKENS = 6
UNSCORED = PublishedPair("Is it good?\n (A) Yes\n (B) No\n (C) Maybe", "(C)", "(A)", n_options=3)
VALUES = torch.randn(4, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
VECTOR = caa.SteeringVector(
    3 * VALUES / VALUES.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"behavior": "cheer", "format": "text"}
)


@pytest.fixture(params=["tree", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)
    return request.param


def mapped(model, vector, pairs, **options) -> pd.DataFrame:
    return position_map(model, vector, pairs, **{"layer": 1, "n_tokens": N_TOKENS, "progress": False, **options})


def assert_is_mean(rows, values):
    """A row's numbers are those of the pairs that have a value."""
    there = np.array([value for value in values if value is not None])
    assert rows["n"] == len(there)
    mean, low, high = bootstrap_mean(there, np.random.default_rng(0))
    if rows["measure"] == "divergence":
        low = max(low, 0)
    np.testing.assert_allclose(rows[["value", "value_low", "value_high"]].astype(float), [mean, low, high], atol=1e-8)


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize(("layer", "multiplier", "read"), [(0, 1.0, [1, 2, 3]), (1, -2.0, [2, 3]), (3, 1.0, [3])])
def test_is_that_of_plain_hooked_passes(tiny_llama_64, plain_llama_64, pairs, path, layer, multiplier, read):
    table = mapped(tiny_llama_64, VECTOR, pairs, layer=layer, multiplier=multiplier, n_tokens=14)
    assert set(table["path"]) == {path}
    added = multiplier * VECTOR.at(layer)
    known = [oracle.single_positions(plain_llama_64, tiny_llama_64.tokenizer, pair, layer, added, 14) for pair in pairs]
    effects = table[table["measure"] == "effect"]
    assert len(effects) == 17
    for (_, row), values in zip(effects.iterrows(), zip(*known, strict=True), strict=True):
        assert_is_mean(row, [None if value is None else value / multiplier for value in values])
    assert effects["n"].max() == 3 > effects["n"].min()  # some answers are too short
    for distance in (0, 1, 5, 14):
        found = [
            oracle.pulse(plain_llama_64, tiny_llama_64.tokenizer, pair, layer, added, distance, read) for pair in pairs
        ]
        rows = table[table["distance"] == distance]
        assert rows["layer"].tolist() == [pd.NA, *read]
        for number, (_, row) in enumerate(rows.iterrows()):
            assert_is_mean(row, [None if one is None else one[number] for one in found])


@pytest.mark.usefixtures("stay_double", "path")
def test_what_an_open_context_does_is_the_baseline(tiny_llama_64, plain_llama_64, pairs):
    other = caa.SteeringVector(2 * VECTOR.values.roll(7, dims=1), VECTOR.layers)
    with caa.steer(tiny_llama_64, other, layer=0):
        table = mapped(tiny_llama_64, VECTOR, pairs[:1], n_tokens=2)
    below, added = [(0, other.at(0))], VECTOR.at(1)
    for distance in range(3):
        known = oracle.pulse(plain_llama_64, tiny_llama_64.tokenizer, pairs[0], 1, added, distance, [2, 3], below)
        np.testing.assert_allclose(table.loc[table["distance"] == distance, "value"], known, atol=1e-8)


@pytest.mark.usefixtures("stay_double")
def test_a_pulse_after_the_last_block_is_gone_one_token_later(tiny_llama_64, pairs):
    table = mapped(tiny_llama_64, VECTOR, pairs, layer=3)
    for measure, at_once in (("divergence", None), ("projection", 1.0)):
        values = table[table["measure"] == measure].set_index("distance")["value"]
        assert values[0] > 1e-3 if at_once is None else values[0] == pytest.approx(1, abs=1e-9)
        assert values[1:].abs().max() < 1e-12


@pytest.mark.usefixtures("stay_double")
def test_the_first_row_is_what_a_sweep_scores(tiny_llama_64, pairs):
    vectors = {"cheer": VECTOR, **caa.random_vectors(VECTOR, 1)}
    for format in ("text", "choices"):
        table = mapped(tiny_llama_64, vectors, pairs, multiplier=1.5, format=format)
        scores = caa.sweep(tiny_llama_64, vectors, pairs, layers=1, multipliers=(0, 1.5), format=format, progress=False)
        means = scores.groupby(["vector", "multiplier"])["logit_difference"].mean().unstack()
        whole = table[table["steered"] == "from the last prompt token on"].set_index("vector")["value"]
        expected = ((means[1.5] - means[0.0]) / 1.5)[whole.index]
        pd.testing.assert_series_equal(whole, expected, check_names=False, atol=1e-9, rtol=0)
        assert set(zip(table["vector"], table["kind"], strict=True)) == {("cheer", "vector"), ("random 0", "random")}


@pytest.mark.usefixtures("stay_double")
def test_the_letters_have_two_steered_positions(tiny_llama_64, pairs):
    table = mapped(tiny_llama_64, VECTOR, pairs, format="choices")
    effects = table[table["measure"] == "effect"].set_index("steered")
    n_asked = int((effects["n"] == 3).sum()) - 1  # the whole beside the positions
    assert effects["n"].tolist() == [3] * (1 + n_asked) + [0] * (len(effects) - 1 - n_asked)
    assert effects["value"].isna().tolist() == [n == 0 for n in effects["n"]]
    assert n_asked >= 2


@pytest.mark.usefixtures("stay_double")
def test_a_place_is_the_same_however_many_are_asked_for(tiny_llama_64, pairs):
    short, long = (mapped(tiny_llama_64, VECTOR, pairs, n_tokens=n) for n in (1, N_TOKENS))
    assert short["steered"].unique().tolist()[-1] == "from answer token 2 on"
    shared = short.merge(long, on=["measure", "steered", "distance", "layer"])
    assert len(shared) == len(short) - 1
    np.testing.assert_allclose(shared["value_x"], shared["value_y"], atol=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiplier": 0}, r"vector: 'cheer' changes nothing, .*\(0 of cheer, layer 1,.* multiplier other than 0"),
        ({"vector": 0 * VECTOR}, r"vector: 'cheer' changes nothing, .*\(1 of cheer, layer 1,.* is not zero"),
        ({"multiplier": float("nan")}, "multiplier: nan is not a finite number"),
        ({"n_tokens": 0}, "n_tokens: 0; it must be a whole number of at least 1"),
        ({"layer": 9}, "layer 9: the vector has layers 0 to 3"),
        ({"layer": None}, "layer: .* needs one. Give one of its layers"),
        ({"format": "letters"}, "format: 'letters' is not one of"),
        ({"vector": {}}, "vector: the mapping is empty"),
        ({"pairs": []}, "pairs: "),
        ({"pairs": [UNSCORED], "format": "choices"}, r"pairs\[0\]: its matching answer is neither \(A\) nor \(B\)"),
    ],
)
def test_what_cannot_be_mapped_is_refused_before_any_work(tiny_llama, pairs, monkeypatch, options, message):
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_, **__: pytest.fail("the model ran"))
    given = {"vector": VECTOR, "pairs": pairs, **options}
    with pytest.raises(caa.InputError, match=message):
        mapped(tiny_llama, given.pop("vector"), given.pop("pairs"), **given)
