"""Intervals, slopes and rank correlations, and how an estimate is written.

numpy and scipy only; every random number comes from a generator that is passed in.
"""

from __future__ import annotations

import re

import numpy as np
from scipy import stats

from caa_interp.errors import InputError, check_count

N_RESAMPLES = 2000
LEAST_SPREAD = 0.25  # of a resample, as a share of the sample's
N_SPLITS = 1000


def check_confidence(confidence: object) -> None:
    """Raise :class:`InputError` unless ``confidence`` lies between 0 and 1."""
    if not isinstance(confidence, float | np.floating) or not 0 < confidence < 1:
        raise InputError(f"confidence: {confidence!r}; it must lie between 0 and 1, such as 0.95.")


def check_resampling(confidence: object, seed: object) -> None:
    """Raise :class:`InputError` unless ``confidence`` and ``seed`` are those of a bootstrap."""
    check_confidence(confidence)
    check_count("seed", seed, least=0)


def bootstrap_mean(
    values: np.ndarray,
    generator: np.random.Generator,
    confidence: float = 0.95,
    *,
    simultaneous: bool = False,
    n_resamples: int = N_RESAMPLES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over items of ``values`` ``[n_items, ...]`` with a symmetric bootstrap-t interval (Hall 1988, JRSS B 50).

    ``confidence`` is between 0 and 1. Returns mean, low and high, ``[...]`` each: with one item, low and high are NaN;
    with none, all are.

    1. Resample items as a whole, so that conditions measured on the same items stay paired. In every resample divide
       each condition's deviation from its mean by the standard error in that resample.
    2. Take the ``confidence`` quantile of the absolute value over resamples, but no less than Student's t, which is
       exact for normal values and which the resamples of two or three items cannot reach.
    3. The interval of a condition is its mean plus and minus that many of its own standard errors.

    With ``simultaneous``, the intervals hold for all conditions at once: step 2 takes the largest value over
    conditions (single-step max-t, Westfall and Young 1993, chapter 2; studentized as in Romano and Wolf 2005,
    Econometrica 73). Correlated conditions cost less than with Bonferroni's correction. With fewer than ten items,
    many conditions cannot be covered at once.

    A condition in which all items agree has an interval of width 0, and does not widen the others.
    """
    values = np.asarray(values, dtype=np.float64)
    n_items = len(values)
    mean = values.mean(axis=0) if n_items else np.full(values.shape[1:], np.nan)
    if n_items < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    spread = values.std(axis=0)
    # Equal values may leave a spread of rounding errors, whose ratios mean nothing.
    differ = spread > 1e-12 * np.abs(values).max(axis=0)
    standardized = (np.where(differ, values - mean, 0) / np.where(differ, spread, 1)).reshape(n_items, -1)
    shares = resampled(n_items, generator, n_resamples)
    means = shares @ standardized
    errors = np.sqrt(np.maximum(shares @ standardized**2 - means**2, 0) / (n_items - 1))
    reach = studentized_reach(means, errors, n_items - 1, confidence, simultaneous).reshape(mean.shape) * spread
    return mean, mean - reach, mean + reach


class RunningMean:
    """Mean of items that are seen one after the other, with Student's t intervals (Welford 1962, Technometrics 4).

    ``mean`` and ``squares``, the sum of squared deviations from it, have the ``shape`` of an item, in float64; ``n`` is
    the number of items. Memory does not grow with it.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.n, self.mean, self.squares = 0, np.zeros(shape), np.zeros(shape)

    def add(self, values: np.ndarray) -> None:
        """Take in one more item."""
        self.n += 1
        deviation = values - self.mean
        self.mean += deviation / self.n
        self.squares += deviation * (values - self.mean)

    def reach(self, confidence: float = 0.95, n_together: int = 1) -> np.ndarray:
        """Half the width of each interval around ``mean``; NaN with fewer than two items.

        With ``n_together``, that many intervals hold at once, by Bonferroni's correction.
        """
        if self.n < 2:
            return np.full_like(self.mean, np.nan)
        t = float(stats.t.isf((1 - confidence) / (2 * n_together), self.n - 1))
        return t * np.sqrt(self.squares / (self.n * (self.n - 1)))


def bootstrap_means(
    values: np.ndarray, confidence: float = 0.95, simultaneous: bool = False, seed: int = 0
) -> list[np.ndarray]:
    """Mean, low, high and number of items of every column of ``values`` ``[n_items, n_conditions]``, NaN left out.

    The intervals are those of :func:`bootstrap_mean`.
    """
    there = ~np.isnan(values)
    together: dict[bytes, list[int]] = {}
    for column in range(values.shape[1]):
        together.setdefault(there[:, column].tobytes(), []).append(column)
    sets = [(there[:, columns[0]], columns) for columns in together.values()]
    within = confidence ** (1 / max(1, sum(own.sum() > 1 for own, _ in sets))) if simultaneous else confidence
    found = np.empty((3, values.shape[1]))
    for own, columns in sets:
        generator = np.random.default_rng(seed)
        found[:, columns] = bootstrap_mean(values[np.ix_(own, columns)], generator, within, simultaneous=simultaneous)
    return [*found, there.sum(axis=0)]


def bootstrap_ratio(
    over: np.ndarray, under: np.ndarray, generator: np.random.Generator, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Ratio of the means of two measures of the same items, ``[n_items]`` each, with a bootstrap-t interval.

    As :func:`bootstrap_mean`, with the delta method's standard error (Efron and Tibshirani 1993, chapters 12 and 14).
    Use it where the mean of ``under`` is clearly not 0. Returns ratio, low and high: with one item, low and high are
    NaN; with none, all are.
    """
    n_items = len(over)
    if n_items < 2:
        return (float(over[0] / under[0]) if n_items else np.nan), np.nan, np.nan
    shares = resampled(n_items, generator)
    means = shares @ under
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = shares @ over / means
        # The mean of what is left of each item is 0 in every resample.
        squares = shares @ over**2 - 2 * ratios * (shares @ (over * under)) + ratios**2 * (shares @ under**2)
        errors = np.sqrt(np.maximum(squares, 0) / (n_items - 1)) / np.abs(means)
    reach = studentized_reach(ratios, errors, n_items - 1, confidence)
    return float(ratios[0]), float(ratios[0] - reach), float(ratios[0] + reach)


def resampled(n_items: int, generator: np.random.Generator, n_resamples: int = N_RESAMPLES) -> np.ndarray:
    """Share of each item in the sample, the first row, and in its resamples, ``[1 + n_resamples, n_items]``."""
    equal = np.full(n_items, 1 / n_items)
    return np.vstack([equal, generator.multinomial(n_items, equal, size=n_resamples) / n_items])


def studentized_reach(
    estimates: np.ndarray, errors: np.ndarray, freedom: float, confidence: float, simultaneous: bool = False
) -> np.ndarray:
    """Half the width ``[...]`` of bootstrap-t intervals, no less than Student's t with ``freedom`` degrees of freedom.

    ``estimates`` and their standard ``errors`` ``[1 + n_resamples, ...]`` are those of :func:`resampled`. With
    ``simultaneous``, all intervals hold at once. 0 where the error of the sample is, NaN where it is NaN.
    """
    known = errors[0] > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        # A resample without the one item that stands out has hardly any spread. Unless that is bounded from below, a
        # single such condition widens the intervals of all.
        t = np.abs(estimates[1:] - estimates[0]) / np.maximum(errors[1:], LEAST_SPREAD * errors[0])
    t = np.where(known, t, 0).reshape(len(t), -1)
    t = t[~np.isnan(t).any(axis=1)]
    largest = np.quantile(t.max(axis=1, keepdims=True) if simultaneous else t, confidence, axis=0)
    least = stats.t.ppf((1 + confidence) / 2, freedom)
    reach = np.broadcast_to(np.maximum(largest, least), t.shape[1:]).reshape(known.shape)
    return np.where(known, reach * errors[0], errors[0])


def slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares slope of every row of ``y`` ``[..., n]`` over ``x`` ``[n]``, in units of y per unit of x."""
    x = np.asarray(x, dtype=np.float64)
    centered = x - x.mean()
    return np.asarray(y, dtype=np.float64) @ centered / (centered @ centered)


def rank_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman correlation of every row of ``y`` ``[..., n]`` with ``x`` ``[n]``, from -1 to 1.

    Equal values share the mean of their ranks. A row of equal values has no order and gets 0, not NaN: it did not
    respond, and leaving it out of a mean would hide that.
    """
    ranks_x, ranks_y = (stats.rankdata(values, axis=-1) for values in (x, y))
    centered_x, centered_y = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (ranks_x, ranks_y))
    size = np.sqrt((centered_x**2).sum() * (centered_y**2).sum(axis=-1))
    return np.divide(centered_y @ centered_x, size, out=np.zeros_like(size), where=size > 0)


def jackknife_interval(estimate: float, left_out: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of the statistic ``estimate`` from its values without each item, ``left_out`` ``[n_items]``.

    The jackknife's standard error with Student's t (Tukey 1958; Efron and Tibshirani 1993, chapter 11). It suits
    smooth statistics in which every item is compared with the others (Arvesen 1969), where a bootstrap would
    compare an item with copies of itself. NaN with fewer than two items, or where a value is NaN.
    """
    values = np.asarray(left_out, dtype=np.float64)
    n_items = len(values)
    if n_items < 2:
        return np.nan, np.nan
    error = np.sqrt((n_items - 1) * values.var())
    reach = float(stats.t.ppf((1 + confidence) / 2, n_items - 1) * error)
    return estimate - reach, estimate + reach


def sums_within(products: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Sum ``[n_sets]`` of the ``products`` ``[n, n]`` of every two items in each set, ``kept`` ``[n_sets, n]``."""
    return ((kept @ products) * kept).sum(1)


def random_halves(n_items: int, seed: int = 0) -> np.ndarray:
    """Which items are in the first of two random halves, ``[1000, n_items]``; an odd item more is in the second."""
    return np.random.default_rng(seed).random((N_SPLITS, n_items)).argsort(1) < n_items // 2


def split_half_cosines(products: np.ndarray, halves: np.ndarray) -> np.ndarray:
    """Cosines ``[n_splits]`` (-1 to 1) of the sums of the items in ``halves`` ``[n_splits, n]`` and of the others.

    ``products`` ``[n, n]`` holds the inner products of the items' vectors. NaN with fewer than two items.
    """
    one, other = (sums_within(products, part) for part in (halves, ~halves))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (halves @ products.sum(1) - one) / np.sqrt(one * other)


def wilson_interval(
    share: float | np.ndarray, n_items: int | np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Score interval (low, high; 0 to 1) of each ``share`` (0 to 1) of ``n_items`` independent trials (Wilson 1927).

    Unlike a bootstrap it keeps a width where all trials agree. Unlike :func:`scipy.stats.binomtest` it takes any
    share, such as that of pairs of which one answer in two is right, and arrays. NaN with fewer than two items, or
    for a NaN share.
    """
    n = np.where(np.asarray(n_items) > 1, n_items, np.nan)
    z = stats.norm.ppf((1 + confidence) / 2)
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = np.clip([center - reach, center + reach], 0, 1)
    return low, high


def paired_shares_interval(
    after: np.ndarray, before: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Interval (low, high; -1 to 1) of the change of a share, where the same items were tried twice.

    ``after`` and ``before`` ``[n_items, ...]`` are 0 or 1, or a share of an item's own trials. Newcombe's hybrid of
    Wilson's intervals (1998, Statistics in Medicine 17:2635, method 10): it keeps a width where no item changes. NaN
    with fewer than two items.
    """
    n = len(after)
    if n < 2:
        none = np.full(np.shape(after)[1:], np.nan)
        return none, none
    p, q = after.mean(axis=0), before.mean(axis=0)
    (p_low, p_high), (q_low, q_high) = (wilson_interval(share, n, confidence) for share in (p, q))
    together = ((after - p) * (before - q)).mean(axis=0)
    together = np.where(together > 0, np.maximum(together - 0.5 / n, 0), together)  # continuity
    spread = np.sqrt(p * (1 - p) * q * (1 - q))
    phi = np.divide(together, spread, out=np.zeros_like(spread), where=spread > 1e-12)
    low, high = (
        np.sqrt(np.maximum(one**2 - 2 * phi * one * other + other**2, 0))
        for one, other in ((p - p_low, q_high - q), (p_high - p, q - q_low))
    )
    return p - q - low, p - q + high


def chance_alignment(width: int, n: int = 1, concentration: float = 1.0) -> float:
    """Bound on the largest of ``n`` alignments of a random direction, with a probability of at least 95 %.

    The alignment of a unit vector ``v`` with a matrix ``W`` of that ``width`` is ``|W v| / |W|_F`` (0 to 1); with one
    row, the default, the absolute cosine of two directions. Its square is a mean of the squared coordinates of ``v``,
    weighted by the squared singular values (divided by their sum). It has mean ``1 / width`` and mean square
    ``(1 + 2 concentration) / (width (width + 2))``, where the concentration is the sum of the squared weights, from 1
    for one row down to ``1 / width``, where every direction is aligned alike. A beta distribution with these moments is
    exact for one row (Beta(1/2, (width - 1)/2)), and close for several. That the ``n`` alignments share one direction
    only makes the bound safer (Šidák 1967, Royen 2014).
    """
    mean = 1 / width
    variance = (1 + 2 * concentration) / (width * (width + 2)) - mean**2
    if variance < 1e-12 * mean**2:  # nothing but rounding
        return float(np.sqrt(mean))
    size = mean * (1 - mean) / variance - 1
    return float(np.sqrt(stats.beta.ppf(0.95 ** (1 / n), mean * size, (1 - mean) * size)))


def number_text(value: float, form: str = "+.3f") -> str:
    """A number as text, with one digit where ``form`` would show none but zeros; empty if it is missing."""
    if value != value:
        return ""
    text = format(value, form)
    return text if value == 0 or re.search("[1-9]", text) else format(value, "+.1g" if "+" in form else ".1g")


def ends_text(low: float, high: float, form: str = "+.3f") -> str:
    """The ends of an interval as text, such as ``"+0.400 to +0.600"``."""
    return f"{number_text(low, form)} to {number_text(high, form)}" if low == low else "no interval"


def interval_text(mean: float, low: float, high: float, form: str = "+.3f") -> str:
    """A mean with its interval as text, such as ``"+0.500 (+0.400 to +0.600)"``."""
    return f"{number_text(mean, form)} ({ends_text(low, high, form)})" if mean == mean else ""
