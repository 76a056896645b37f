"""Reliability against slow literal definitions and planted data, and its figure."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import caa_interp as caa
from caa_interp.plotting.theme import BEHAVIOR_STYLES
from caa_interp.statistics import wilson_interval

JACKKNIFED = (
    "agreement",
    "pairwise_cosine",
    "separation",
    "variance_share",
    "length_correlation",
    "letter_cosine",
    "letter_share",
)
VECTOR_PANELS = 7


def contrast_pairs(n):
    """Pairs whose answers differ in length by 3, -1, 1, -3, 3, ... characters."""
    return tuple(
        caa.ContrastPair(f"Question {number}?", "yes" + "!" * (number % 2 * 4), "no, not" + "." * (number % 3))
        for number in range(n)
    )


def activations(positive, negative, pairs=None, orders=()):
    """Activations at layer 3, or at layers 3, 4, ... of arrays ``[n, n_layers, d_model]``."""
    positive, negative = (torch.tensor(np.asarray(side), dtype=torch.float64) for side in (positive, negative))
    if positive.ndim == 2:
        positive, negative = positive[:, None], negative[:, None]
    layers = tuple(range(3, 3 + positive.shape[1]))
    return caa.Activations(positive, negative, layers, pairs or contrast_pairs(len(positive)), "choices", orders)


def measured(*arguments, **keywords):
    """The one row of activations at one layer."""
    (row,) = caa.reliability(activations(*arguments, **keywords)).to_dict("records")
    return row


def drawn(n=9, width=5, shift=1.0, seed=0, questions=2.0):
    """Both sides ``[n, width]``: a question's part in common, noise of their own, and ``shift`` on the first axis."""
    generator = np.random.default_rng(seed)
    question = generator.normal(size=(n, width)) * questions
    positive, negative = (question + generator.normal(size=(n, width)) for _ in range(2))
    positive[:, 0] += shift
    return positive, negative


def cosine(first, second):
    return first @ second / math.sqrt((first @ first) * (second @ second))


def literal(positive, negative, lengths, letter):
    """Every statistic by its definition, one pair at a time."""
    n = len(positive)
    difference = positive - negative
    cosines, along, above, below, right = [], [], [], [], 0
    for i in range(n):
        others = [j for j in range(n) if j != i]
        vector = difference[others].mean(0)
        direction = vector / np.linalg.norm(vector)
        midpoint = (positive[others].mean(0) + negative[others].mean(0)) / 2
        cosines.append(cosine(difference[i], vector))
        along.append(difference[i] @ direction)
        above.append((positive[i] - midpoint) @ direction)
        below.append((negative[i] - midpoint) @ direction)
        right += int(above[-1] > 0) + int(below[-1] < 0)
    vector = difference.mean(0)
    projections = [sign * letter[i] @ vector + difference[i] @ vector for i in range(n) for sign in (1, -1)]
    of_letter = [sign * letter.mean(0) @ vector for _ in range(n) for sign in (1, -1)]
    return {
        "agreement": np.mean(cosines),
        "pairwise_cosine": np.mean([cosine(*difference[[i, j]]) for i, j in itertools.combinations(range(n), 2)]),
        "separation": (np.mean(above) - np.mean(below))
        / math.sqrt((np.var(above, ddof=1) + np.var(below, ddof=1)) / 2),
        "probe_accuracy": right / (2 * n),
        "variance_share": np.sum(np.square(along)) / np.sum(difference**2),
        "length_correlation": stats.pearsonr(along, lengths).statistic,
        "letter_cosine": cosine(letter.mean(0), vector),
        "letter_share": np.sum(np.square(of_letter)) / np.sum(np.square(projections - np.mean(projections))),
    }


def both_orders(n=9, width=5, seed=0, lean=1.0, **keywords):
    """Activations with the orders of each pair kept apart, and their parts: both sides' means and the letter."""
    positive, negative = drawn(n, width, seed=seed, **keywords)
    letter = np.random.default_rng(seed + 100).normal(size=(n, width)) + lean * np.arange(width) / 3
    rows = [np.stack([side + sign * letter / 2, side - sign * letter / 2], 1).reshape(2 * n, width)
            for side, sign in ((positive, 1), (negative, -1))]  # fmt: skip
    pairs = tuple(pair for pair in contrast_pairs(n) for _ in range(2))
    return activations(*rows, pairs=pairs, orders=("AB", "BA") * n), positive, negative, letter


# Against the definitions


@pytest.mark.parametrize(("n", "width", "seed"), [(9, 5, 0), (6, 30, 1), (4, 2, 2)])
def test_every_statistic_and_interval_is_its_literal_definition(n, width, seed):
    acts, positive, negative, letter = both_orders(n, width, seed)
    (row,) = caa.reliability(acts, confidence=0.8).to_dict("records")
    lengths = np.array([len(pair.positive) - len(pair.negative) for pair in contrast_pairs(n)])
    expected = literal(positive, negative, lengths, letter)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    subsets = [[j for j in range(n) if j != i] for i in range(n)]
    left_out = [literal(positive[s], negative[s], lengths[s], letter[s]) for s in subsets]
    for name in JACKKNIFED:
        values = np.array([each[name] for each in left_out])
        error = math.sqrt((n - 1) / n * np.sum((values - values.mean()) ** 2))
        reach = stats.t.ppf(0.9, n - 1) * error
        least = {"separation": -math.inf, "variance_share": 0, "letter_share": 0}.get(name, -1)
        most = math.inf if name == "separation" else 1
        interval = row[f"{name}_low"], row[f"{name}_high"]
        assert interval == pytest.approx((max(least, row[name] - reach), min(most, row[name] + reach))), name
    interval = row["probe_accuracy_low"], row["probe_accuracy_high"]
    assert interval == pytest.approx(wilson_interval(expected["probe_accuracy"], n, 0.8))


def test_norms_are_those_of_the_vector_and_of_the_activations():
    row = measured([[3.0, 4.0], [0.0, 5.0]], [[0.0, 0.0], [5.0, 12.0]])
    # Differences (3, 4) and (-5, -7); activations of norm 5, 5, 0, 13.
    assert row["norm"] == pytest.approx(math.sqrt(1 + 1.5**2))
    assert row["residual_norm"] == pytest.approx(23 / 4)
    assert row["relative_norm"] == pytest.approx(row["norm"] / row["residual_norm"])


def test_the_norm_is_that_of_the_extracted_vector(tiny_llama, pairs):
    acts = caa.collect_activations(tiny_llama, pairs, format="text")
    vector = caa.extract_vector(tiny_llama, pairs, format="text")
    table = caa.reliability(acts)
    assert table["layer"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(table["norm"], vector.norms, rtol=1e-5)


def test_split_half_is_the_mean_over_the_ways_to_halve():
    positive, negative = drawn(n=4)
    difference = positive - negative
    ways = [cosine(difference[[0, j]].sum(0), np.delete(difference, [0, j], 0).sum(0)) for j in (1, 2, 3)]
    row = measured(positive, negative)
    error = np.std(ways) / math.sqrt(1000)
    assert row["split_half"] == pytest.approx(np.mean(ways), abs=4 * error)
    assert (row["split_half_low"], row["split_half_high"]) == pytest.approx((min(ways), max(ways)))


def test_an_odd_number_of_pairs_is_split_as_evenly_as_can_be():
    positive, negative = drawn(n=3)
    difference = positive - negative
    ways = [cosine(difference[i], np.delete(difference, i, 0).sum(0)) for i in range(3)]
    row = measured(positive, negative)
    assert (row["split_half_low"], row["split_half_high"]) == pytest.approx((min(ways), max(ways)))


# Planted data


@pytest.mark.parametrize("d_prime", [0.5, 2.0])
def test_a_planted_separation_is_found(d_prime):
    positive, negative = drawn(n=600, width=3, shift=d_prime * math.sqrt(2.0**2 + 1), seed=5)
    row = measured(positive, negative)
    assert row["separation_low"] < d_prime < row["separation_high"]
    assert row["separation"] == pytest.approx(d_prime, abs=0.15)
    # Two normals that far apart, cut halfway.
    assert row["probe_accuracy"] == pytest.approx(stats.norm.cdf(d_prime / 2), abs=0.03)


def test_noise_shows_nothing_although_the_vector_fits_its_own_pairs():
    positive, negative = drawn(n=60, width=100, shift=0.0, questions=1.0)
    row = measured(positive, negative)
    for name, nothing in (("agreement", 0), ("pairwise_cosine", 0), ("separation", 0), ("probe_accuracy", 0.5)):
        assert row[f"{name}_low"] < nothing < row[f"{name}_high"], name
    assert row["agreement"] == pytest.approx(0, abs=0.03)
    assert row["probe_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert row["variance_share"] == pytest.approx(1 / 100, abs=0.005)
    difference = positive - negative
    assert np.mean([cosine(each, difference.mean(0)) for each in difference]) > 0.1
    assert np.mean((positive - (positive + negative).mean(0) / 2) @ difference.mean(0) > 0) > 0.6


def test_equal_differences_agree_in_everything():
    _, negative = drawn(n=12)
    row = measured(negative + np.array([100.0, 20.0, 0.0, 0.0, 0.0]), negative)
    for name in ("agreement", "pairwise_cosine", "split_half", "variance_share", "probe_accuracy"):
        assert row[name] == row[f"{name}_high"] == pytest.approx(1), name
    assert row["agreement_low"] == pytest.approx(1)
    assert row["probe_accuracy_low"] == pytest.approx(wilson_interval(1.0, 12)[0])
    assert row["probe_accuracy_low"] < 0.8


def test_pairwise_cosine_does_not_depend_on_the_number_of_pairs_and_agreement_does():
    few, many = (
        caa.reliability(activations(*(np.stack(sides, 1) for sides in zip(*draws, strict=True)))).mean(
            numeric_only=True
        )
        for draws in ([drawn(n, 40, 2.0, seed) for seed in range(100)] for n in (5, 40))
    )
    assert few["pairwise_cosine"] == pytest.approx(many["pairwise_cosine"], abs=0.01)
    assert many["agreement"] > few["agreement"] + 0.05


def test_split_half_tells_how_near_the_vector_is_to_the_true_direction():
    vectors, halves = [], []
    for seed in range(20):
        positive, negative = drawn(n=40, width=100, shift=3.0, seed=seed)
        halves.append(measured(positive, negative)["split_half"])
        vectors.append((positive - negative).mean(0))
    r = np.mean(halves)
    assert 0.3 < r < 0.7
    assert math.sqrt(2 * r / (1 + r)) == pytest.approx(np.mean([v[0] / np.linalg.norm(v) for v in vectors]), abs=0.02)
    between = [cosine(first, second) for first, second in itertools.combinations(vectors, 2)]
    assert 2 * r / (1 + r) == pytest.approx(np.mean(between), abs=0.03)


def test_an_answer_length_that_is_read_off_shows():
    pairs = contrast_pairs(60)
    lengths = np.array([len(pair.positive) - len(pair.negative) for pair in pairs])
    positive, negative = drawn(n=60, shift=0.0)
    positive[:, 1] += 8 + lengths
    row = measured(positive, negative, pairs=pairs)
    assert row["length_correlation"] > 0.8
    assert row["length_correlation_low"] > 0.7


def test_a_planted_letter_shows():
    acts, *_ = both_orders(40, 20, lean=0.0, shift=3.0)
    plain = caa.reliability(acts).iloc[0]
    toward_a = torch.zeros_like(acts.positive)
    toward_a[::2, :, 0], toward_a[1::2, :, 0] = 10, -10
    leaking = activations((acts.positive + toward_a)[:, 0], acts.negative[:, 0], acts.pairs, acts.orders)
    leaking = caa.reliability(leaking).iloc[0]
    assert leaking["letter_share"] > 0.8
    assert plain["letter_share"] < 0.1
    assert plain["letter_cosine_low"] < 0 < plain["letter_cosine_high"]
    assert leaking["letter_cosine_low"] > 0.5
    # What both orders have in common is as it was.
    assert leaking["agreement"] == pytest.approx(plain["agreement"])


# What a change of the input changes


def test_letter_orders_kept_apart_are_one_item():
    acts, positive, negative, _ = both_orders()
    apart, averaged = caa.reliability(acts), caa.reliability(activations(positive, negative))
    letters = [name for name in apart if name.startswith("letter")]
    assert apart["n"].item() == averaged["n"].item() == 9
    assert averaged[letters].isna().all(axis=None)
    assert apart[letters].notna().all(axis=None)
    pd.testing.assert_frame_equal(apart.drop(columns=letters), averaged.drop(columns=letters))


def test_orders_that_a_model_read_are_one_item_too(tiny_llama, pairs):
    apart, averaged = (
        caa.reliability(caa.collect_activations(tiny_llama, pairs, layers=[1, 3], average_orders=average))
        for average in (False, True)
    )
    assert apart["n"].tolist() == [3, 3]
    assert apart["letter_share"].between(0, 1).all()
    same = [name for name in apart if not name.startswith("letter")]
    pd.testing.assert_frame_equal(apart[same], averaged[same], rtol=1e-3)
    assert set(apart["model"]) == {"tiny-llama"}


def test_the_letter_needs_both_orders_of_every_pair():
    acts, *_ = both_orders()
    cut = activations(acts.positive[:-1, 0], acts.negative[:-1, 0], acts.pairs[:-1], acts.orders[:-1])
    row = caa.reliability(cut).iloc[0]
    assert np.isnan(row["letter_cosine"])
    assert np.isnan(row["letter_share"])
    assert row["n"] == 9


def test_a_pair_that_is_given_twice_does_not_vouch_for_itself():
    positive, negative = drawn(width=50, shift=0.0)
    pairs = contrast_pairs(9)
    twice = measured(*(np.concatenate([side, side]) for side in (positive, negative)), pairs=pairs * 2)
    assert twice == pytest.approx(measured(positive, negative), nan_ok=True)


def test_a_turn_a_scale_and_a_shift_of_the_space_change_nothing():
    acts, *_ = both_orders()
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(5, 5)))[0]
    moved = [3 * (side[:, 0].numpy() @ turn) + 1e4 for side in (acts.positive, acts.negative)]
    one, other = caa.reliability(acts), caa.reliability(activations(*moved, acts.pairs, acts.orders))
    norms = ["norm", "residual_norm", "relative_norm"]
    pd.testing.assert_frame_equal(one.drop(columns=norms), other.drop(columns=norms), rtol=1e-6)
    np.testing.assert_allclose(3 * one["norm"], other["norm"])


def test_exchanged_sides_are_as_reliable():
    positive, negative = drawn()
    exchanged = tuple(caa.ContrastPair(pair.question, pair.negative, pair.positive) for pair in contrast_pairs(9))
    one, other = measured(positive, negative), measured(negative, positive, pairs=exchanged)
    names = [name for name in one if not name.startswith("length")]
    assert [one[name] for name in names] == pytest.approx([other[name] for name in names], nan_ok=True)
    assert one["length_correlation"] == pytest.approx(-other["length_correlation"])


def test_layers_are_measured_one_by_one_in_the_order_asked_for():
    first, second = drawn(seed=1), drawn(seed=2)
    both = activations(*(np.stack(sides, 1) for sides in zip(first, second, strict=True)))
    table = caa.reliability(both, layers=[4, 3])
    assert table["layer"].tolist() == [4, 3]
    pd.testing.assert_frame_equal(table.iloc[[1]].reset_index(drop=True), caa.reliability(both, layers=3))
    assert table.iloc[0]["agreement"] == pytest.approx(measured(*second)["agreement"])
    assert table[["confidence", "format"]].drop_duplicates().values.tolist() == [[0.95, "choices"]]
    assert not table.attrs


def test_the_seed_moves_the_halves_alone():
    acts = activations(*drawn())
    one, same, other = (caa.reliability(acts, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    halves = ["split_half", "split_half_low", "split_half_high"]
    assert one["split_half"].item() != other["split_half"].item()
    pd.testing.assert_frame_equal(one.drop(columns=halves), other.drop(columns=halves))


# Where nothing is defined


def test_one_pair_has_norms_and_nothing_else():
    row = measured([[3.0, 4.0]], [[0.0, 0.0]])
    assert {name for name, value in row.items() if not pd.isna(value)} == {
        "layer",
        "n",
        "confidence",
        "format",
        "norm",
        "residual_norm",
        "relative_norm",
    }


def test_two_pairs_have_values_and_no_jackknife():
    row = measured([[1.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]])
    root = math.sqrt(0.5)
    assert (row["agreement"], row["pairwise_cosine"], row["split_half"]) == pytest.approx((root, root, root))
    assert row["variance_share"] == pytest.approx((root**2 + 1) / 3)
    # The first positive answer lies exactly halfway, which is half a hit; the other three are right.
    assert row["probe_accuracy"] == 3.5 / 4
    assert np.isnan([row["agreement_low"], row["agreement_high"], row["separation_low"]]).all()


def test_a_difference_of_zero_has_no_direction():
    positive, negative = drawn()
    positive[2] = negative[2]
    row = measured(positive, negative)
    assert np.isnan([row["agreement"], row["pairwise_cosine"], row["agreement_low"]]).all()
    assert row["separation"] > 0
    assert row["variance_share"] > 0


def test_equal_lengths_correlate_with_nothing():
    pairs = tuple(caa.ContrastPair(f"Question {number}?", "yes", "not") for number in range(9))
    row = measured(*drawn(), pairs=pairs)
    assert np.isnan([row["length_correlation"], row["length_correlation_low"]]).all()
    assert row["agreement"] > 0


# What is refused


def test_something_that_is_no_activations():
    with pytest.raises(caa.InputError, match=r"activations: dict; give the result of caa_interp\.collect_activations"):
        caa.reliability({})


def test_a_layer_that_is_not_there():
    with pytest.raises(caa.InputError, match="layer 9: the activations has layers 3 to 3"):
        caa.reliability(activations(*drawn()), layers=9)


@pytest.mark.parametrize("confidence", [0, 1, 95, float("nan")])
def test_a_confidence_out_of_range(confidence):
    with pytest.raises(caa.InputError, match=r"confidence: .*; it must lie between 0 and 1, such as 0\.95"):
        caa.reliability(activations(*drawn()), confidence=confidence)


# The figure


def table(n_layers=4, seed=0, **keywords):
    sides = [np.stack(each, 1) for each in zip(*(drawn(seed=seed + i) for i in range(n_layers)), strict=True)]
    return caa.reliability(activations(*sides), **keywords)


def lines(fig):
    return [one for one in fig.data if one.fill is None]


def bands(fig):
    return [one for one in fig.data if one.fill == "toself"]


def test_the_figure_shows_every_statistic_with_its_interval():
    shown = table()
    fig = caa.plot_reliability(shown.sample(frac=1, random_state=0))
    names = ["agreement", "split_half", "separation", "probe_accuracy", "variance_share", "relative_norm"]
    names += ["length_correlation"]
    assert len(lines(fig)) == len(names) == VECTOR_PANELS
    for name, line in zip(names, lines(fig), strict=True):
        assert list(line.x) == [3, 4, 5, 6]
        np.testing.assert_allclose(line.y, shown[name])
    with_interval = [name for name in names if f"{name}_low" in shown]
    assert len(bands(fig)) == len(with_interval) == 6
    for name, band in zip(with_interval, bands(fig), strict=True):
        assert list(band.x) == [3, 4, 5, 6, 6, 5, 4, 3]
        np.testing.assert_allclose(band.y, [*shown[f"{name}_high"], *shown[f"{name}_low"][::-1]])


def test_the_figure_names_statistics_units_n_and_confidence():
    fig = caa.plot_reliability(table(confidence=0.8), title="Mine")
    assert fig.layout.title.text.startswith("Mine<br>")
    assert "n = 9 pairs" in fig.layout.title.text
    assert "80 % interval, or" in fig.layout.title.text
    titles = [one.text for one in fig.layout.annotations]
    assert titles[:2] == ["agreement of pairs", "split halves"]
    assert "answer letter" not in titles
    assert fig.layout.yaxis3.title.text == "d' (standard deviations)"
    bottom = [axis for axis in fig.select_xaxes() if axis.title.text == "layer (block index)"]
    assert len(bottom) == 3  # as many as there are columns
    assert not fig.layout.showlegend


def test_chance_is_drawn_where_it_lies():
    fig = caa.plot_reliability(table())
    chance = {shape.yref: shape.y0 for shape in fig.layout.shapes}
    assert chance["y4"] == 0.5
    assert chance["y"] == 0
    assert len(chance) == VECTOR_PANELS - 1
    assert "y6" not in chance


def test_the_letter_is_shown_where_the_orders_were_kept_apart():
    acts, *_ = both_orders()
    titles = [one.text for one in caa.plot_reliability(caa.reliability(acts)).layout.annotations]
    assert titles[-1] == "answer letter"
    assert len(titles) == VECTOR_PANELS + 1


def test_several_behaviors_look_like_themselves_and_are_named_once():
    tables = {"refusal": table(seed=0), "my <b>own</b>": table(seed=50)}
    fig = caa.plot_reliability(tables)
    assert len(lines(fig)) == 2 * VECTOR_PANELS
    named = [one.name for one in fig.data if one.showlegend]
    assert named == ["refusal", "my &lt;b&gt;own&lt;/b&gt;"]
    refusal = [one for one in lines(fig) if one.name == "refusal"]
    assert {(one.line.color, one.marker.symbol) for one in refusal} == {BEHAVIOR_STYLES["refusal"][:2]}
    assert all("markers" in one.mode for one in lines(fig))
    np.testing.assert_allclose(refusal[0].y, tables["refusal"]["agreement"])
    assert fig.layout.showlegend


def test_sets_of_different_sizes_are_said_to_be_so():
    small, large = (caa.reliability(activations(*drawn(n=n))) for n in (5, 8))
    assert "n = 5 to 8 pairs" in caa.plot_reliability({"a": small, "b": large}).layout.title.text


def test_a_missing_value_is_a_gap():
    shown = table()
    shown.loc[1, ["agreement", "agreement_low", "agreement_high"]] = np.nan
    fig = caa.plot_reliability(shown)
    line = lines(fig)[0]
    assert np.isnan(line.y[1])
    assert not line.connectgaps
    first = bands(fig)[0]
    assert list(first.x) == [3, 3, None, 5, 6, 6, 5]
    np.testing.assert_allclose(first.y[:2], shown.loc[0, ["agreement_high", "agreement_low"]].astype(float))
    assert first.y[2] is None


def test_one_layer_is_a_point_and_not_an_invisible_line():
    assert "markers" in lines(caa.plot_reliability(table(n_layers=1)))[0].mode
    assert lines(caa.plot_reliability(table()))[0].mode == "lines"


def test_one_pair_shows_the_norm_alone():
    fig = caa.plot_reliability(caa.reliability(activations(*drawn(n=1))))
    assert [one.text for one in fig.layout.annotations] == ["norm of the vector"]
    assert len(fig.data) == 1


def test_a_table_of_something_else_is_refused():
    with pytest.raises(
        caa.InputError, match=r"columns \['agreement'\] are missing; give the result of caa_interp\.rel"
    ):
        caa.plot_reliability(table().drop(columns="agreement"))
    with pytest.raises(caa.InputError, match="the mapping is empty"):
        caa.plot_reliability({})
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plot_reliability({"refusal": table().iloc[:0]})


def test_stacked_tables_are_refused():
    stacked = pd.concat([table().assign(behavior=name) for name in ("refusal", "optimism")])
    with pytest.raises(
        caa.InputError, match=r"rows that agree in \['layer'\] differ in 'behavior'.*give the rows of one"
    ):
        caa.plot_reliability(stacked)
    with pytest.raises(caa.InputError, match=r"differ in 'behavior'"):
        caa.plot_reliability({"both": stacked})


def test_the_table_is_left_as_it_was():
    shown = table()
    before = shown.copy(deep=True)
    caa.plot_reliability(shown)
    pd.testing.assert_frame_equal(shown, before)
