"""Places along a vector are the literal projections, and the statistics those of an oracle."""

import numpy as np
import pytest
import torch
from scipy import stats

import caa_interp as caa
from caa_interp.statistics import wilson_interval

LAYERS, WIDTH = (2, 5), 8


def activations(n=12, apart=1.0, width=WIDTH, orders=("",), seed=0):
    """Both sides at random places, the positive one ``apart`` farther along the first axis at layer 5 only."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [caa.ContrastPair(f"q{i}", f"yes {i}", f"no {i}", id=f"id {i}") for i in range(n) for _ in orders]
    positive, negative = (torch.randn(len(pairs), len(LAYERS), width, generator=generator) for _ in range(2))
    positive[:, 1, 0] += apart
    return caa.Activations(
        positive=positive,
        negative=negative,
        layers=LAYERS,
        pairs=tuple(pairs),
        orders=tuple(orders) * n,
        format="choices" if orders[0] else "text",
        metadata={},
    )


def vector(width=WIDTH, layers=LAYERS, behavior="optimism"):
    values = torch.zeros(len(layers), width)
    values[:, 0] = 3.0
    return caa.SteeringVector(values, layers, {"behavior": behavior})


def at(table, layer, side):
    return table[(table["layer"] == layer) & (table["side"] == side)]["projection"].to_numpy()


def test_projections_are_lengths_along_the_unit_vector_around_the_middle():
    acts = activations()
    table = caa.analysis.separation(acts, vector())
    for place, layer in enumerate(LAYERS):
        positive, negative = (side[:, place, 0].double().numpy() for side in (acts.positive, acts.negative))
        middle = (positive.mean() + negative.mean()) / 2
        np.testing.assert_allclose(at(table, layer, "positive"), positive - middle)
        np.testing.assert_allclose(at(table, layer, "negative"), negative - middle)
    assert set(table["vector"]) == {"optimism"}
    assert list(table["question"][:2]) == ["q0", "q1"]


@pytest.mark.parametrize("apart", [0.0, 1.0, 30.0])
def test_statistics_are_those_of_an_oracle(apart):
    table = caa.analysis.separation(activations(apart=apart), vector(), layers=5, confidence=0.9)
    positive, negative = at(table, 5, "positive"), at(table, 5, "negative")
    row = table.iloc[0]
    auc = stats.mannwhitneyu(positive, negative).statistic / len(positive) ** 2
    assert row["auc"] == pytest.approx(auc)
    np.testing.assert_allclose([row["auc_low"], row["auc_high"]], wilson_interval(auc, 12, 0.9))

    def d_prime(one, other):
        return (one.mean() - other.mean()) / np.sqrt((one.std(ddof=1) ** 2 + other.std(ddof=1) ** 2) / 2)

    assert row["d_prime"] == pytest.approx(d_prime(positive, negative))
    left_out = [d_prime(np.delete(positive, i), np.delete(negative, i)) for i in range(12)]
    reach = stats.t.ppf(0.95, 11) * np.sqrt(11 * np.var(left_out))
    assert (row["d_prime_low"], row["d_prime_high"]) == pytest.approx((row["d_prime"] - reach, row["d_prime"] + reach))


def test_letter_orders_of_a_pair_are_one_answer():
    acts = activations(orders=("AB", "BA"))
    table = caa.analysis.separation(acts, vector(), layers=5)
    assert (table["n"] == 12).all()
    positive = acts.positive[:, 1, 0].double().reshape(12, 2).mean(1)
    np.testing.assert_allclose(np.diff(at(table, 5, "positive")), np.diff(positive))


def test_the_scale_of_the_vector_does_not_matter_and_its_sign_does():
    acts = activations()
    one, other = (caa.analysis.separation(acts, caa.SteeringVector(vector().values * k, LAYERS)) for k in (7, -1))
    np.testing.assert_allclose(one["projection"], -other["projection"])
    np.testing.assert_allclose(one["auc"], 1 - other["auc"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (activations(), vector(width=4)),
            "vector: its width is 4, that of the activations 8; both must be of one mod",
        ),
        ((activations(n=1), vector()), "activations: they hold 1 different pair, and 2 are needed"),
        (
            (activations(), caa.SteeringVector(torch.zeros(2, WIDTH), LAYERS)),
            "vector: it is zero at layer 2, so it has",
        ),
        ((activations(), vector(layers=(2,)), 5), "layer"),
        (("acts", vector()), "activations: str; give the result of caa_interp.collect_activations"),
        ((activations(), {"a": vector()}), "vector: dict; it must be one SteeringVector"),
    ],
    ids=["width", "pairs", "zero", "layer", "type", "several"],
)
def test_what_is_refused(arguments, message):
    acts, given, *layers = arguments
    with pytest.raises(caa.InputError, match=message):
        caa.analysis.separation(acts, given, layers=layers[0] if layers else None)


def test_the_figure_counts_every_answer_once():
    table = caa.analysis.separation(activations(n=40), vector())
    fig = caa.plotting.plot_separation(table)
    bars = [one for one in fig.data if one.type == "bar"]
    assert [sum(one.y) for one in bars] == [40] * 4
    ticks = [one for one in fig.data if one.type == "scatter"]
    np.testing.assert_allclose(sorted(ticks[3].x), sorted(at(table, 5, "negative")))
    assert ticks[0].customdata[0].startswith("pair 0, positive answer: ")
    row = table[table["layer"] == 5].iloc[0]
    text = fig.layout.annotations[1].text
    assert f"AUC {row['auc']:.2f} ({row['auc_low']:.2f} to {row['auc_high']:.2f})" in text
    assert f"d' {row['d_prime']:.2f} (" in text
    assert "n = 40 held-out pairs; d' and AUC with 95 % interval" in fig.layout.title.text


def test_a_vector_without_layers_in_common_is_refused_before_any_work():
    with pytest.raises(caa.InputError, match=r"none that all have \(the activations: \[2, 5\]; the vector: \[7, 9\]\)"):
        caa.analysis.separation(activations(), vector(layers=(7, 9)))
