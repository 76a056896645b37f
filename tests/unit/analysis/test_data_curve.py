"""Vectors of more and more pairs: against the literal steps, and where the number of pairs is known to be enough."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.analysis.data_curve import _enough
from tests.oracles import definition

WORDS = ("rain", "sea", "garden", "day", "weather", "text", "answer", "choice")


def asked(words):
    return [caa.ContrastPair(f"Is the {word} good?", f"Yes, the {word} is bright.", f"No {word}.") for word in words]


@pytest.fixture(scope="module")
def activations(tiny_llama):
    return caa.collect_activations(tiny_llama, asked(WORDS), format="text", progress=False)


def curve(model, activations, pairs, **options):
    return caa.analysis.data_curve(model, activations, pairs, progress=False, **{"layer": 1, "n_draws": 3, **options})


def test_every_number_is_that_of_the_steps_taken_one_by_one(tiny_llama, plain_llama, tokenizer, activations, pairs):
    table = curve(tiny_llama, activations, pairs[:2], sizes=[3, 5], multipliers=(-2.0, 3.0), confidence=0.8, seed=4)
    difference = (activations.positive - activations.negative)[:, 1].double()
    whole = difference.mean(0)
    generator = np.random.default_rng(4)
    orders = [generator.permutation(8) for _ in range(3)]
    for row, sets in zip(
        table.itertuples(), [*([order[:n] for order in orders] for n in (3, 5)), [np.arange(8)]], strict=True
    ):
        found = {"slope": [], "cosine": [], "split_half": [], "norm": []}
        for chosen in sets:
            vector = difference[chosen].mean(0)
            unit = (vector / vector.norm() * whole.norm()).float()
            slopes = []
            for pair in pairs[:2]:
                ends = [
                    np.subtract(*definition.scores(plain_llama, tokenizer, pair, "text", 1, multiplier * unit)[0])
                    for multiplier in (-2.0, 3.0)
                ]
                slopes.append((ends[1] - ends[0]) / 5)
            found["slope"].append(np.mean(slopes))
            found["cosine"].append(float(torch.cosine_similarity(vector, whole, dim=0)))
            subset = replace(
                activations,
                positive=activations.positive[chosen],
                negative=activations.negative[chosen],
                pairs=tuple(activations.pairs[number] for number in chosen),
                orders=(),
            )
            found["split_half"].append(caa.reliability(subset, layers=1, seed=4)["split_half"].item())
            found["norm"].append(float(vector.norm()))
        assert (row.n_pairs, row.n_draws, row.n, row.layer) == (len(sets[0]), len(sets), 2, 1)
        for name, values in found.items():
            assert getattr(row, name) == pytest.approx(np.mean(values), abs=2e-4), name
        for name in ("slope", "cosine", "split_half"):
            ends = [getattr(row, f"{name}_low"), getattr(row, f"{name}_high")]
            expected = np.quantile(found[name], [0.1, 0.9]) if len(sets) > 1 else [np.nan] * 2
            assert ends == pytest.approx(expected, abs=2e-4, nan_ok=True), name
        assert row.chance == pytest.approx(np.sqrt(len(sets[0]) / 8))
    assert table["slope"].abs().min() > 0.001


def test_the_last_row_is_the_vector_of_all_pairs(tiny_llama, activations, pairs):
    last = curve(tiny_llama, activations, pairs).iloc[-1]
    vector = caa.vectors.vector_from_activations(activations)
    swept = caa.steerability(caa.sweep(tiny_llama, vector, pairs, layers=1, multipliers=(-1, 1), progress=False))
    assert (last["n_pairs"], last["n_draws"]) == (8, 1)
    assert last["slope"] == pytest.approx(swept["slope"].item(), abs=1e-5)
    assert (last["cosine"], last["chance"]) == pytest.approx((1, 1))
    assert last["norm"] == pytest.approx(float(vector.norms[1]))
    assert last["split_half"] == pytest.approx(caa.reliability(activations, layers=1)["split_half"].item())


def test_activations_are_not_collected_again_and_all_draws_are_one_sweep(tiny_llama, activations, pairs, monkeypatch):
    sweeps = []

    def counted(model, vectors, scored, **options):
        sweeps.append((list(vectors), options))
        return caa.sweep(model, vectors, scored, **options)

    monkeypatch.setattr(sys.modules["caa_interp.analysis.data_curve"], "sweep", counted)
    monkeypatch.setattr("caa_interp.vectors.activations.iterate_activations", None)
    curve(tiny_llama, activations, pairs, system_prompt="Be short.")
    ((names, options),) = sweeps
    assert len(names) == 1 + 2 * 3
    assert options["system_prompt"] == "Be short."


def test_pairs_with_nothing_in_common_have_the_cosine_of_chance(tiny_llama, pairs):
    noise = torch.randn(64, 1, 64, generator=torch.Generator().manual_seed(0))
    many = tuple(caa.ContrastPair(f"Is {number} good?", "Yes.", "No.") for number in range(64))
    given = caa.Activations(noise, torch.zeros_like(noise), (1,), many, "text")
    table = curve(tiny_llama, given, pairs[:1], n_draws=30)
    assert table["n_pairs"].tolist() == [2, 4, 8, 16, 32, 64]
    assert table["cosine"].to_numpy() == pytest.approx(table["chance"].to_numpy(), abs=0.06)
    assert table["split_half"].abs().max() < 0.1


def test_pairs_that_all_say_the_same_are_enough_at_the_smallest_number(tiny_llama, pairs):
    same = torch.zeros(8, 1, 64)
    same[:] = 2 * torch.randn(64, generator=torch.Generator().manual_seed(3))
    given = caa.Activations(same, torch.zeros_like(same), (1,), tuple(asked(WORDS)), "text")
    table = curve(tiny_llama, given, pairs)
    assert table["cosine"].to_numpy() == pytest.approx(1)
    assert table["slope"].to_numpy() == pytest.approx(table["slope"].iloc[-1], abs=1e-5)


@pytest.mark.parametrize(
    ("slopes", "low", "expected"),
    [
        ([0.5, 0.91, 0.95, 1.0], 0.2, 10),
        ([0.5, 0.91, 0.85, 1.0], 0.2, None),
        ([0.95, 0.8, 1.09, 1.0], 0.2, 20),
        ([0.95, 0.95, 0.95, 1.0], -0.1, None),
        ([0.89, 0.89, 0.89, 1.0], 0.2, None),
    ],
)
def test_enough_is_the_number_from_which_on_the_effect_is_that_of_all(slopes, low, expected):
    table = pd.DataFrame({"n_pairs": [5, 10, 20, 40], "slope": slopes})
    assert _enough(table, pd.Series({"slope_low": low, "slope_high": 1.5})) == expected
    mirrored = pd.Series({"slope_low": -1.5, "slope_high": -low})
    assert _enough(table.assign(slope=-table["slope"]), mirrored) == expected


def test_both_letter_orders_of_a_pair_are_drawn_together(tiny_llama, pairs):
    apart = caa.collect_activations(tiny_llama, asked(WORDS[:4]), average_orders=False, progress=False)
    together = caa.collect_activations(tiny_llama, asked(WORDS[:4]), progress=False)
    tables = [curve(tiny_llama, given, pairs, sizes=[2]) for given in (apart, together)]
    assert set(tables[0]["format"]) == {"choices"}
    pd.testing.assert_frame_equal(*tables, rtol=1e-4, atol=1e-5)


def test_other_estimators_are_fitted_to_every_draw(tiny_llama, activations, pairs):
    fitted = []

    def estimator(positive, negative):
        fitted.append(len(positive))
        return caa.vectors.principal_difference(positive, negative)

    table = curve(tiny_llama, activations, pairs, sizes=5, estimator=estimator)
    assert sorted(fitted) == [5, 5, 5, 8, 8]
    assert table["n_pairs"].tolist() == [5, 8]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sizes": [4, 9]}, r"sizes: \[4, 9\]; they must be different numbers of at most 8 pairs"),
        ({"sizes": [0]}, "sizes: 0; it must be a whole number of at least 1"),
        ({"n_draws": 0}, "n_draws: 0; it must be a whole number of at least 1"),
        ({"multipliers": (1,)}, r"multipliers: \[1\]; a slope needs at least two. Give two or more"),
        ({"confidence": 1.0}, "confidence: 1.0; it must lie between 0 and 1"),
        ({"layer": 7}, "layer 7: the activations has layers 0 to 3"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tiny_llama, activations, pairs, options, said):
    with pytest.raises(caa.InputError, match=said):
        curve(tiny_llama, activations, pairs, **options)


def test_pairs_that_made_the_vector_are_no_test(tiny_llama, activations, pairs):
    with pytest.raises(caa.InputError, match=r"pairs: 1 of 4 made the activations. Give held-out pairs"):
        curve(tiny_llama, activations, [*pairs, activations.pairs[0]])
    single = caa.collect_activations(tiny_llama, asked(WORDS[:1]), format="text", progress=False)
    with pytest.raises(caa.InputError, match="1 different pair, and 2 are needed"):
        curve(tiny_llama, single, pairs)
