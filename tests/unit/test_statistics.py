"""Intervals cover as often as they say, and slopes are least squares."""

import math

import numpy as np
import pytest

from caa_interp.statistics import bootstrap_mean, jackknife_interval, slopes, wilson_interval


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
