"""Reliability of a steering vector, from the activations that it was made from.

Any set of pairs has a mean difference, even if the pairs share nothing. Vectors steer more reliably if the differences
of the pairs point the same way and the two sides are well separated (Braun et al. 2025), and part of their effect may
be due to the answer letter (Tan et al. 2024). These statistics need no steered pass.

1. Take the difference of the two activations of every pair, averaged over letter orders.
2. Compare every pair with the mean difference of the OTHER pairs.
3. Leave out each pair in turn for the intervals (jackknife). Everything follows from inner products between pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from caa_interp.models.access import check_layers
from caa_interp.statistics import (
    check_confidence,
    jackknife_interval,
    random_halves,
    split_half_cosines,
    sums_within,
    wilson_interval,
)
from caa_interp.vectors.activations import Activations, check_activations, mean_by_pair

_WITH_INTERVAL = (
    "agreement",
    "pairwise_cosine",
    "split_half",
    "separation",
    "probe_accuracy",
    "variance_share",
    "length_correlation",
    "letter_cosine",
    "letter_share",
)


def reliability(
    activations: Activations,
    *,
    layers: int | Sequence[int] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure at each layer how well the pairs agree on the steering vector.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations`. Rows of equal pairs are averaged and count as one pair.
    layers
        0-based block indices; default: all of the activations'.
    confidence
        Confidence of the intervals, between 0 and 1.
    seed
        Seed of the random halves.

    Returns
    -------
    pandas.DataFrame
        One row per layer. A statistic with an interval has columns with ``_low`` and ``_high``.

        - ``n``: number of pairs.
        - ``agreement`` (interval; -1 to 1): mean cosine of a pair's difference and the mean difference of the other
          pairs. 0 for unrelated differences. It grows with ``n``.
        - ``pairwise_cosine`` (interval; -1 to 1): mean cosine of the differences of two pairs. Its expectation does
          not depend on ``n``.
        - ``split_half`` (range; -1 to 1): mean cosine of the vectors of two random halves of the pairs; ``_low`` and
          ``_high`` are percentiles over 1000 splits of these same pairs, not a confidence interval.
        - ``separation`` (interval): d' of the two sides along the vector of the other pairs: the difference of the
          means in units of the root mean square of the two standard deviations.
        - ``probe_accuracy`` (interval; 0 to 1): share of answers on the right side of the midpoint of the other
          pairs, along the vector of the other pairs. Chance is 0.5; a fitted probe may do better.
        - ``variance_share`` (interval; 0 to 1): share of the differences' sum of squares that lies along the vector
          of the other pairs. About ``1 / d_model`` for isotropic noise.
        - ``norm``, ``residual_norm``, ``relative_norm``: norm of the vector, mean norm of the activations, and their
          ratio. Noise makes the norm larger than that of the true mean difference.
        - ``length_correlation`` (interval; -1 to 1): correlation over pairs of the difference along the vector of the
          other pairs with the difference of the answers' lengths in characters.
        - ``letter_cosine`` (interval; -1 to 1): cosine of the vector with the mean letter direction, half the
          difference between a pair's two letter orders (A minus B).
        - ``letter_share`` (interval; 0 to 1): share of the variance of the differences' projections on the vector,
          over pairs and orders, that the letter explains.

        NaN where something is undefined: all but the norms with one pair, the jackknife's intervals with two pairs,
        directions of zero differences, correlations with equal length differences, and the letter's statistics unless
        both orders are kept apart. ``confidence``, ``format`` and ``model`` are columns, too.

    Raises
    ------
    InputError
        If a layer is not among the activations', or ``confidence`` not between 0 and 1.

    Notes
    -----
    With ``split_half`` r, two sets of ``n`` pairs each would give vectors with a cosine of about 2r / (1 + r), and the
    cosine of this vector with that of very many pairs is about sqrt(2r / (1 + r)) (Spearman 1910, Brown 1910).

    Intervals are Student's t with the jackknife's standard error; that of ``probe_accuracy`` is Wilson's with the pairs
    as trials, which is wide, since the two answers of a pair seldom err together. All treat pairs as independent, which
    pairs written from one template are not.

    High values say that the pairs share a direction, which may be that of a letter, a length or a tone instead of the
    behavior (Tan et al. 2024, arXiv:2407.12404; Braun et al. 2025, arXiv:2505.22637).
    """
    chosen = check_layers(layers, check_activations(activations).layers, "the activations")
    check_confidence(confidence)
    pair_of_row = torch.tensor(activations.pair_numbers)
    pairs = activations.different_pairs
    lengths = np.array([len(pair.positive) - len(pair.negative) for pair in pairs], dtype=np.float64)
    halves = random_halves(len(pairs), seed)
    rows = []
    for layer in chosen:
        sides = activations.at(layer)
        positive, negative = (mean_by_pair(side, pair_of_row) for side in sides)
        letter = _letter(sides[0] - sides[1], pair_of_row, len(pairs), activations.orders)
        with np.errstate(divide="ignore", invalid="ignore"):
            row = _measure(positive, negative, lengths, letter, halves, confidence)
        rows.append({"layer": layer, "n": len(pairs), **row})
    return pd.DataFrame(rows).assign(confidence=confidence, format=activations.format, model=activations.model)


def _letter(difference: torch.Tensor, pair_of_row: torch.Tensor, n: int, orders: Sequence[str]) -> np.ndarray | None:
    """Half the difference of each pair's letter orders ``[n, d_model]``; None unless every pair has both."""
    means = []
    for order in ("AB", "BA"):
        rows = torch.tensor([given == order for given in orders])
        if len(pair_of_row[rows].unique()) < n:
            return None
        means.append(mean_by_pair(difference[rows], pair_of_row[rows]))
    return (means[0] - means[1]) / 2


def _measure(
    positive: np.ndarray,
    negative: np.ndarray,
    lengths: np.ndarray,
    letter: np.ndarray | None,
    halves: np.ndarray,
    confidence: float,
) -> dict[str, float]:
    """Statistics and intervals of one layer, from both sides ``[n, d_model]``; 0 / 0 gives NaN on purpose."""
    n = len(positive)
    difference, middle = positive - negative, (positive + negative) / 2
    gram = difference @ difference.T
    # All pairs in the first row, all but one in each of the others.
    kept = np.vstack([np.ones(n, dtype=bool), ~np.eye(n, dtype=bool)])
    along, center = _held_out(gram, (middle - middle.mean(0)) @ difference.T, kept)
    own, size = np.diag(gram), kept.sum(1)
    unit = gram / np.sqrt(np.outer(own, own))
    spread = (_variance(center, kept) + _variance(along, kept) / 4) * size / (size - 1)
    # The range of each statistic, and its values with all pairs and without each one.
    jackknifed = {
        "agreement": (-1, 1, _mean(along / np.sqrt(own), kept)),
        "pairwise_cosine": (-1, 1, (sums_within(unit, kept) - kept @ np.diag(unit)) / (size * (size - 1))),
        "separation": (-np.inf, np.inf, _mean(along, kept) / np.sqrt(spread)),
        "variance_share": (0, 1, _mean(along**2, kept) / _mean(own, kept)),
        "length_correlation": (-1, 1, _correlation(along, lengths, kept)),
        **_letter_statistics(letter, difference, gram, kept),
    }
    intervals = {
        name: (values[0], *np.clip(jackknife_interval(values[0], values[1:], confidence), least, most))
        for name, (least, most, values) in jackknifed.items()
    }
    # The positive side is at center + along / 2, the negative one at center - along / 2; 0 is halfway.
    accuracy = 0.5 + (np.sign(center + along / 2) - np.sign(center - along / 2))[0].mean() / 4
    intervals["probe_accuracy"] = (accuracy, *wilson_interval(accuracy, n, confidence))
    cosines = split_half_cosines(gram, halves)
    intervals["split_half"] = (cosines.mean(), *np.quantile(cosines, [(1 - confidence) / 2, (1 + confidence) / 2]))
    row = {
        f"{name}{end}": float(value)
        for name in _WITH_INTERVAL
        for end, value in zip(("", "_low", "_high"), intervals[name], strict=True)
    }
    norm = float(np.linalg.norm(difference.mean(0)))
    residual_norm = float(np.linalg.norm([positive, negative], axis=-1).mean())
    return {**row, "norm": norm, "residual_norm": residual_norm, "relative_norm": norm / residual_norm}


def _held_out(gram: np.ndarray, cross: np.ndarray, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project each pair on the unit vector of the other pairs, in every set of pairs ``kept`` ``[n_sets, n]``.

    ``gram`` ``[n, n]`` holds the inner products of the differences, and ``cross`` ``[n, n]`` those of each pair's
    midpoint (row) and each difference (column). Returns the projections ``[n_sets, n]`` of the difference and of the
    midpoint, the latter from the other pairs' mean midpoint; only entries in ``kept`` have a meaning.
    """
    sums = kept @ gram
    length = np.sqrt(np.maximum(sums_within(gram, kept)[:, None] - 2 * sums + np.diag(gram), 0))
    toward, own = kept @ cross.T - np.diag(cross), kept @ cross
    others = (sums_within(cross, kept)[:, None] - toward - own) / (kept.sum(1)[:, None] - 1)
    return (sums - np.diag(gram)) / length, (toward - others) / length


def _letter_statistics(
    letter: np.ndarray | None, difference: np.ndarray, gram: np.ndarray, kept: np.ndarray
) -> dict[str, tuple[float, float, np.ndarray]]:
    """Cosine of the letter direction and the vector, and the letter's share of the variance along the vector."""
    if letter is None:
        undefined = np.full(len(kept), np.nan)
        return {"letter_cosine": (-1, 1, undefined), "letter_share": (0, 1, undefined)}
    cross = letter @ difference.T
    cosine = sums_within(cross, kept) / np.sqrt(sums_within(letter @ letter.T, kept) * sums_within(gram, kept))
    # Along the vector the two orders of a pair lie at pair + letter and pair - letter.
    of_letter, of_pair = kept @ cross.T, kept @ gram
    total = _variance(of_pair, kept) + _mean(of_letter**2, kept)
    return {"letter_cosine": (-1, 1, cosine), "letter_share": (0, 1, _mean(of_letter, kept) ** 2 / total)}


def _mean(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept, values, 0).sum(1) / kept.sum(1)


def _variance(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return _mean((values - _mean(values, kept)[:, None]) ** 2, kept)


def _correlation(values: np.ndarray, other: np.ndarray, kept: np.ndarray) -> np.ndarray:
    deviations = (values - _mean(values, kept)[:, None]) * (other - _mean(other, kept)[:, None])
    return _mean(deviations, kept) / np.sqrt(_variance(values, kept) * _variance(other, kept))
