"""What leaving out a pair does, against refits without it, and on pairs with a mislabeled one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.vectors.estimators import ESTIMATORS

WIDTH = 24


def contrast_pairs(n):
    return tuple(caa.ContrastPair(f"Question {number}?", "Yes.", "No.", id=f"p{number}") for number in range(n))


def drawn(n=9, n_layers=2, seed=0, pairs=None, orders=()):
    """Activations whose pairs share a direction at each layer, with noise of their own."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(pairs or range(n)), n_layers, WIDTH)
    negative = torch.randn(shape, generator=generator, dtype=torch.float64)
    positive = negative + 1 + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    pairs = pairs or contrast_pairs(n)
    return caa.Activations(positive, negative, tuple(range(3, 3 + n_layers)), pairs, "text", orders, {"model": "m"})


def literal(activations, estimator):
    """The table by its definition: the vector is made again from the rows of all other pairs."""
    rows = []
    for place, layer in enumerate(activations.layers):
        whole = estimator(activations.positive, activations.negative)[place]
        for pair in dict.fromkeys(activations.pairs):
            mine = torch.tensor([one == pair for one in activations.pairs])
            without = estimator(activations.positive[~mine], activations.negative[~mine])[place]
            own = (activations.positive[mine] - activations.negative[mine]).mean(0)[place]
            rows.append(
                {
                    "layer": layer,
                    "id": pair.id,
                    "projection": float(own @ without / (without @ without)),
                    "cosine": float(torch.cosine_similarity(without, whole, dim=0)),
                    "norm_change": float(without.norm() / whole.norm() - 1),
                }
            )
    return pd.DataFrame(rows).sort_values(["layer", "projection"]).reset_index(drop=True)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=list(ESTIMATORS))
def test_every_number_is_that_of_a_vector_made_without_the_pair(estimator):
    pairs = contrast_pairs(8)
    # Both letter orders of some pairs, and an equal pair that comes again.
    rows = (pairs[0], pairs[0], *pairs[1:], pairs[3])
    activations = drawn(pairs=rows, orders=("AB", "BA", *("",) * 8))
    table = caa.analysis.influence(activations, estimator=estimator, progress=False)
    expected = literal(activations, estimator)
    pd.testing.assert_frame_equal(table[list(expected)], expected, rtol=1e-6, check_dtype=False)
    assert set(table["estimator"]) == {estimator.__name__}
    assert set(table["n"]) == {8}


def test_the_mean_difference_is_not_fitted_again():
    activations = drawn()

    def counted(positive, negative):
        calls.append(tuple(positive.shape))
        return caa.vectors.mean_difference(positive, negative)

    calls = []
    fitted = caa.analysis.influence(activations, estimator=counted, progress=False)
    assert calls == [(n, 1, WIDTH) for n in [9, *[8] * 9] * 2]  # one layer at a time
    subtracted = caa.analysis.influence(activations)
    pd.testing.assert_frame_equal(fitted.drop(columns="estimator"), subtracted.drop(columns="estimator"))


@pytest.mark.parametrize("planted", [0, 17, 39])
def test_a_mislabeled_pair_comes_first(planted):
    activations = drawn(40)
    positive, negative = activations.positive.clone(), activations.negative.clone()
    positive[planted], negative[planted] = activations.negative[planted], activations.positive[planted]
    table = caa.analysis.influence(replace(activations, positive=positive, negative=negative))
    first = table[table["rank"] == 1]
    assert first["id"].tolist() == [f"p{planted}"] * 2
    assert (first["projection"] < -0.5).all()
    assert (table.loc[table["rank"] > 1, "projection"] > 0.5).all()
    # Without it the vector is longer, by two of forty parts.
    assert first["norm_change"].to_numpy() == pytest.approx([2 / 38] * 2, abs=0.02)


def test_a_pair_far_from_the_others_turns_the_vector_most_without_pointing_against_it():
    activations = drawn(40)
    positive = activations.positive.clone()
    positive[5, :, 0] += 12
    positive[5, :, 1] -= 12
    table = caa.analysis.influence(replace(activations, positive=positive))
    lowest = table.loc[table.groupby("layer")["cosine"].idxmin()]
    assert lowest["id"].tolist() == ["p5"] * 2
    assert (lowest["projection"] > 0.5).all()


def test_rows_hold_the_texts_of_their_pairs_sorted_at_every_layer():
    table = caa.analysis.influence(drawn(5, n_layers=3), layers=[5, 3])
    assert table["layer"].tolist() == [5] * 5 + [3] * 5
    assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 2
    for _, rows in table.groupby("layer"):
        assert rows["projection"].is_monotonic_increasing
        assert sorted(rows["pair"]) == [0, 1, 2, 3, 4]
    assert (table["id"] == "p" + table["pair"].astype(str)).all()
    assert (table["question"] == "Question " + table["pair"].astype(str) + "?").all()
    assert table[["positive", "negative", "format", "model"]].drop_duplicates().values.tolist() == [
        ["Yes.", "No.", "text", "m"]
    ]


def test_a_vector_of_nothing_has_no_direction():
    positive = torch.zeros(2, 1, WIDTH)
    positive[0] = 1
    table = caa.analysis.influence(
        caa.Activations(positive, torch.zeros_like(positive), (0,), contrast_pairs(2), "text")
    )
    assert table.set_index("id")["projection"].isna().tolist() == [False, True]
    assert np.isnan(table.set_index("id")["cosine"]["p0"])


def test_what_cannot_be_left_out_is_refused():
    with pytest.raises(caa.InputError, match=r"1 different pair, and 2 are needed. Collect more"):
        caa.analysis.influence(drawn(pairs=contrast_pairs(1) * 3))
    with pytest.raises(caa.InputError, match=r"activations: list; give the result of caa_interp.collect_activations"):
        caa.analysis.influence([1])
    with pytest.raises(caa.InputError, match="layer 9: the activations has layers 3 to 4"):
        caa.analysis.influence(drawn(), layers=9)
