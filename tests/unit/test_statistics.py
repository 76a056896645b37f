"""Intervals cover as often as they say, and slopes are least squares."""

import math
from functools import partial

import numpy as np
import pytest

from caa_interp.statistics import (
    RunningMean,
    bootstrap_mean,
    bootstrap_ratio,
    jackknife_interval,
    paired_shares_interval,
    rank_correlations,
    slopes,
    wilson_interval,
)

together = partial(bootstrap_mean, simultaneous=True)


@pytest.mark.parametrize(("n_items", "confidence"), [(8, 0.95), (30, 0.95), (30, 0.8), (50, 0.5)])
def test_the_interval_covers_the_true_mean_as_often_as_it_says(n_items, confidence):
    n_experiments = 1000
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(n_experiments):
        _, low, high = bootstrap_mean(generator.normal(3.0, 2.0, n_items), generator, confidence, n_resamples=500)
        covered += bool(low <= 3.0 <= high)
    error = math.sqrt(confidence * (1 - confidence) / n_experiments)
    assert abs(covered / n_experiments - confidence) < 3 * error + 0.01


def test_the_interval_is_that_of_students_t_for_normal_values():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=40)
    mean, low, high = bootstrap_mean(values, np.random.default_rng(1), n_resamples=20_000)
    expected = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))


@pytest.mark.parametrize("n_items", [2, 3, 50])
def test_a_running_mean_has_the_interval_of_all_its_items(n_items):
    from scipy import stats

    # Far from zero, where a sum of squares minus a squared sum has lost its digits.
    values = 1e6 + np.random.default_rng(0).normal(size=(n_items, 3, 2))
    running = RunningMean((3, 2))
    for one in values:
        running.add(one)
    low, high = stats.t.interval(0.9, n_items - 1, loc=values.mean(0), scale=stats.sem(values))
    assert running.n == n_items
    np.testing.assert_allclose(running.mean, values.mean(0), rtol=1e-15)
    np.testing.assert_allclose(running.reach(0.9), (high - low) / 2, rtol=1e-6)
    low, high = stats.t.interval(1 - 0.1 / 6, n_items - 1, loc=values.mean(0), scale=stats.sem(values))
    np.testing.assert_allclose(running.reach(0.9, n_together=6), (high - low) / 2, rtol=1e-6)


def test_a_running_mean_of_one_item_has_no_interval():
    running = RunningMean((2,))
    running.add(np.array([1.0, 2.0]))
    assert running.mean.tolist() == [1, 2]
    assert np.isnan(running.reach()).all()


def test_conditions_of_the_same_items_stay_paired():
    """The difference of two columns that differ by a constant has no spread."""
    values = np.random.default_rng(0).normal(size=(20, 1)) + np.array([0.0, 5.0])
    _, low, high = bootstrap_mean(values, np.random.default_rng(1))
    np.testing.assert_allclose(low[1] - low[0], 5.0)
    np.testing.assert_allclose(high[1] - high[0], 5.0)


def test_any_number_of_axes():
    values = np.random.default_rng(0).normal(size=(12, 3, 4))
    mean, low, high = bootstrap_mean(values, np.random.default_rng(1))
    np.testing.assert_allclose(mean, values.mean(0))
    assert low.shape == high.shape == (3, 4)
    assert (low < mean).all()
    assert (mean < high).all()
    alone = bootstrap_mean(values[:, 1, 2], np.random.default_rng(1))
    np.testing.assert_allclose((mean[1, 2], low[1, 2], high[1, 2]), alone)


def test_equal_values_have_no_spread():
    mean, low, high = bootstrap_mean(np.full(9, 2.5), np.random.default_rng(0))
    np.testing.assert_allclose((mean, low, high), 2.5)


def test_one_item_has_a_mean_and_no_interval():
    mean, low, high = bootstrap_mean(np.array([[1.0, 2.0]]), np.random.default_rng(0))
    np.testing.assert_array_equal(mean, [1.0, 2.0])
    assert np.isnan(low).all()
    assert np.isnan(high).all()


def test_a_higher_confidence_is_wider():
    values = np.random.default_rng(0).normal(size=30)
    intervals = [bootstrap_mean(values, np.random.default_rng(1), confidence)[1:] for confidence in (0.5, 0.9, 0.99)]
    widths = [high - low for low, high in intervals]
    assert widths == sorted(widths)
    assert len(set(widths)) == 3


def test_the_generator_decides():
    values = np.random.default_rng(0).normal(size=30)
    same = [bootstrap_mean(values, np.random.default_rng(seed))[1] for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_slopes_are_those_of_polyfit():
    generator = np.random.default_rng(0)
    x, y = np.array([-2.0, 5.0, 0.0, 1.0]), generator.normal(size=(3, 7, 4))
    found = slopes(x, y)
    assert found.shape == (3, 7)
    expected = np.polyfit(x, y.reshape(-1, 4).T, 1)[0].reshape(3, 7)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_exact_line_has_its_slope():
    x = np.array([-1, 0, 1])
    assert slopes(x, np.array([[3, 5, 7], [1, 1, 1], [2, 0, -2]])).tolist() == [2.0, 0.0, -2.0]


def test_the_jackknife_of_a_mean_is_students_t():
    from scipy import stats

    values = np.random.default_rng(0).exponential(size=12)
    left_out = (values.sum() - values) / 11
    expected = stats.t.interval(0.8, 11, loc=values.mean(), scale=stats.sem(values))
    assert jackknife_interval(values.mean(), left_out, 0.8) == pytest.approx(expected)


def test_the_jackknife_covers_a_mean_of_products_of_pairs():
    """Every item stands against every other, which plain resampling of items would take for half the variance."""
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(600):
        values = generator.normal(2.0, 1.0, 15)
        total, n = values.sum(), len(values)
        products = total**2 - values @ values
        left_out = (products - 2 * values * (total - values)) / ((n - 1) * (n - 2))
        low, high = jackknife_interval(products / (n * (n - 1)), left_out)
        covered += bool(low <= 4.0 <= high)
    assert 0.92 < covered / 600 < 0.98


def test_the_jackknife_needs_two_items():
    assert np.isnan(jackknife_interval(1.0, np.array([1.0]))).all()
    assert np.isnan(jackknife_interval(1.0, np.array([1.0, np.nan, 2.0]))).all()


@pytest.mark.parametrize(("right", "n_items"), [(0, 5), (3, 7), (40, 50), (12, 12)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_interval_of_a_share_is_wilsons(right, n_items, confidence):
    from scipy import stats

    expected = stats.binomtest(right, n_items).proportion_ci(confidence, method="wilson")
    assert wilson_interval(right / n_items, n_items, confidence) == pytest.approx(tuple(expected))


def test_a_share_that_is_missing_has_no_interval():
    assert np.isnan(wilson_interval(float("nan"), 5)).all()


# Intervals for all conditions at once


def no_effect(generator, n_items, n_conditions, shared, draw):
    """Scores of items whose means are 0; ``shared`` of the variance is common to all conditions of an item."""
    common, own = draw(generator, (n_items, 1)), draw(generator, (n_items, n_conditions))
    return math.sqrt(shared) * common + math.sqrt(1 - shared) * own


def normal(generator, shape):
    return generator.normal(size=shape)


def skewed(generator, shape):
    return generator.exponential(size=shape) - 1


def coverage(interval, data, truth=0.0):
    """Share of single intervals that hold the truth, and share of data sets in which all do."""
    held = []
    for number, values in enumerate(data):
        _, low, high = interval(values, np.random.default_rng(number), n_resamples=400)
        held.append((low <= truth) & (truth <= high))
    return float(np.mean(held)), float(np.all(held, axis=1).mean())


@pytest.mark.parametrize(
    ("n_items", "n_conditions", "shared", "draw"),
    [(25, 12, 0.0, normal), (25, 12, 0.7, normal), (50, 60, 0.5, normal), (50, 12, 0.3, skewed)],
)
def test_without_an_effect_intervals_hold_zero_at_their_rate(n_items, n_conditions, shared, draw):
    n_experiments = 300
    generator = np.random.default_rng(2)
    data = [no_effect(generator, n_items, n_conditions, shared, draw) for _ in range(n_experiments)]
    error = math.sqrt(0.95 * 0.05 / n_experiments)
    single, all_of_them = coverage(bootstrap_mean, data)
    # Conditions of an item go together, so that they count for less than their number; skewed means are off a little.
    assert abs(single - 0.95) < 3 * error + (0.02 if draw is skewed else 0)
    assert all_of_them < 0.85
    _, all_of_them = coverage(together, data)
    assert abs(all_of_them - 0.95) < 3 * error + 0.01


def test_planted_effects_are_found_and_power_grows_with_the_number_of_items():
    generator = np.random.default_rng(3)
    planted = np.zeros(20)
    planted[[3, 11]] = 0.7, -0.7
    power, false = [], []
    for n_items in (10, 20, 40, 80):
        found = []
        for number in range(100):
            values = planted + no_effect(generator, n_items, 20, 0.3, normal)
            _, low, high = together(values, np.random.default_rng(number), n_resamples=400)
            found.append(np.sign((low > 0) * 1.0 - (high < 0) * 1.0))
        found = np.array(found)
        power.append((found == np.sign(planted))[:, planted != 0].mean())
        false.append((found != 0)[:, planted == 0].any(axis=1).mean())
    assert power == sorted(power)
    assert power[0] < 0.5
    assert power[-1] > 0.98
    assert max(false) < 0.05 + 3 * math.sqrt(0.95 * 0.05 / 100)


def test_simultaneous_intervals_are_those_of_the_literal_max_t():
    values = np.random.default_rng(0).exponential(size=(12, 3))
    mean, low, high = together(values, np.random.default_rng(5), 0.9, n_resamples=200)
    counts = np.random.default_rng(5).multinomial(12, np.full(12, 1 / 12), size=200)
    largest = []
    for drawn in counts:
        resample = np.repeat(values, drawn, axis=0)
        error = np.maximum(resample.std(axis=0), values.std(axis=0) / 4)
        largest.append(np.max(np.abs(resample.mean(axis=0) - values.mean(axis=0)) / error))
    reach = np.quantile(largest, 0.9) * values.std(axis=0)
    np.testing.assert_allclose((mean, low, high), (values.mean(0), values.mean(0) - reach, values.mean(0) + reach))


def test_one_condition_has_about_students_interval():
    from scipy import stats

    values = np.random.default_rng(0).normal(size=40)
    mean, low, high = together(values, np.random.default_rng(1), n_resamples=20_000)
    expected = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected, abs=0.05 * (expected[1] - expected[0]))
    assert low < mean < high


def test_the_same_condition_many_times_costs_nothing():
    values = np.random.default_rng(0).normal(size=(30, 1))
    alone, repeated = (together(v, np.random.default_rng(1)) for v in (values, np.tile(values, 50)))
    np.testing.assert_allclose(np.array(repeated), np.tile(np.array(alone), 50))


def test_conditions_without_spread_or_value_do_not_widen_the_others():
    values = np.random.default_rng(0).normal(size=(30, 2))
    alone = np.array(together(values, np.random.default_rng(1)))
    idle = np.column_stack([values, np.full(30, 0.1), np.zeros(30), np.full(30, np.nan)])
    beside = np.array(together(idle, np.random.default_rng(1)))
    np.testing.assert_allclose(beside[:, :2], alone)
    np.testing.assert_allclose(beside[:, 2:], np.tile([0.1, 0.0, np.nan], (3, 1)))


def test_one_condition_with_an_outlier_does_not_make_the_others_useless():
    generator = np.random.default_rng(0)
    values = generator.normal(size=(50, 2))
    spoilt = np.column_stack([values, 1e-9 * generator.normal(size=50) + (np.arange(50) == 0)])
    widths = []
    for given in (values, spoilt):
        _, low, high = together(given, np.random.default_rng(1))
        widths.append((high - low)[:2])
    assert (widths[1] < 2 * widths[0]).all()


def test_simultaneous_intervals_of_one_item_or_none():
    mean, low, high = together(np.array([[1.0, 2.0]]), np.random.default_rng(0))
    np.testing.assert_array_equal(mean, [1.0, 2.0])
    assert np.isnan([low, high]).all()
    assert np.isnan(together(np.zeros((0, 2)), np.random.default_rng(0))).all()


# Rank correlations


def test_rank_correlations_are_spearmans():
    from scipy import stats

    generator = np.random.default_rng(0)
    x = np.array([-2.0, 5.0, 0.0, 1.0])
    y = generator.integers(0, 4, size=(6, 5, 4)).astype(float)
    y[..., 0] += 0.5 * (np.ptp(y, axis=-1) == 0)
    found = rank_correlations(x, y)
    assert found.shape == (6, 5)
    expected = [stats.spearmanr(x, row).statistic for row in y.reshape(-1, 4)]
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-12)
    assert len({len(set(row)) for row in y.reshape(-1, 4)}) > 1


def test_rank_correlation_asks_for_the_order_alone():
    x = np.array([-1, 0, 1])
    assert rank_correlations(x, np.array([[0, 1, 1000], [5, 5, 5], [3, 2, -1]])).tolist() == [1.0, 0.0, -1.0]
    # Ranks 1, 2.5, 2.5 against 1, 2, 3: 1.5 / sqrt(2 * 1.5), by hand.
    assert rank_correlations(x, np.array([0, 7, 7])) == pytest.approx(1.5 / math.sqrt(3))


def test_the_interval_of_a_ratio_covers_it():
    """Planted: items have effects of their own, of which 70 % is kept, each with noise."""
    generator = np.random.default_rng(0)
    for n_items, least in ((8, 0.92), (12, 0.93), (24, 0.93)):
        held = 0
        for _ in range(600):
            under = generator.normal(1, 0.8, n_items)
            over = 0.7 * under + generator.normal(0, 0.4, n_items)
            ratio, low, high = bootstrap_ratio(over, under, generator)
            assert ratio == pytest.approx(over.mean() / under.mean())
            held += low <= 0.7 <= high
        assert held / 600 >= least, n_items


def test_a_ratio_of_the_same_values_is_one_and_of_one_item_has_no_interval():
    generator = np.random.default_rng(0)
    values = np.array([1.0, 2.0, 3.0])
    assert bootstrap_ratio(values, values, generator) == pytest.approx((1, 1, 1))
    assert bootstrap_ratio(2 * values, values, generator) == pytest.approx((2, 2, 2))
    ratio, low, high = bootstrap_ratio(values[:1], 2 * values[:1], generator)
    assert (ratio, np.isnan(low), np.isnan(high)) == (0.5, True, True)
    assert np.isnan(bootstrap_ratio(values[:0], values[:0], generator)).all()


@pytest.mark.parametrize(
    ("both", "gained", "lost", "neither", "low", "high"),
    # Of the source's own examples, by its method 10.
    [(36, 12, 2, 0, 0.0569, 0.3404), (18, 12, 2, 18, 0.0562, 0.3290), (53, 0, 0, 1, -0.0729, 0.0729)],
)
def test_changes_of_shares_have_published_intervals(both, gained, lost, neither, low, high):
    after = np.repeat([1.0, 1.0, 0.0, 0.0], [both, gained, lost, neither])
    before = np.repeat([1.0, 0.0, 1.0, 0.0], [both, gained, lost, neither])
    assert paired_shares_interval(after, before) == pytest.approx((low, high), abs=1e-4)
    assert paired_shares_interval(before, after) == pytest.approx((-high, -low), abs=1e-4)


def test_a_share_that_did_not_change_has_a_width_that_falls_with_the_items():
    widths = [np.diff(paired_shares_interval(np.ones(n), np.ones(n)))[0] for n in (2, 24, 240)]
    assert widths[0] > widths[1] > widths[2] > 0
    assert np.isnan(paired_shares_interval(np.ones(1), np.ones(1))).all()
    columns = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    together = np.transpose(paired_shares_interval(columns, columns[::-1]))
    for column, found in zip(range(2), together, strict=True):
        alone = paired_shares_interval(columns[:, column], columns[::-1][:, column])
        assert tuple(found) == pytest.approx(alone)
