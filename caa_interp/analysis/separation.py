"""Held-out answers along a steering vector, and how far it sets their two sides apart.

1. Project both answers of every pair on the vector's unit direction, averaged over letter orders.
2. Compare the two sides: d', and the chance that a positive answer lies beyond a negative one (AUC).
3. Leave out each pair in turn for the interval of d' (jackknife).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import VectorMismatchError
from caa_interp.models.access import shared_layers
from caa_interp.statistics import check_confidence, jackknife_interval, wilson_interval
from caa_interp.vectors.activations import Activations, check_activations, mean_by_pair, pair_texts
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector


def separation(
    activations: Activations,
    vector: SteeringVector,
    *,
    layers: int | Sequence[int] | None = None,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Place both answers of every pair along a vector.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations` on pairs that the vector is not made from: on its own, any
        mean difference separates the sides. Rows of equal pairs are averaged and count as one pair.
    vector
        Steering vector of the same width.
    layers
        0-based block indices; default: all that both have.
    confidence
        Confidence of the intervals, between 0 and 1.

    Returns
    -------
    pandas.DataFrame
        One row per layer, pair and side:

        - ``vector`` (its behavior), ``layer``, ``pair`` (0-based number among the different pairs), ``id``, ``topic``,
          ``question``, ``positive``, ``negative``, ``side`` (``"positive"`` or ``"negative"``);
        - ``projection``: length along the vector in units of the residual stream, 0 halfway between the sides' means;
        - ``d_prime``: difference of the sides' means in units of the root mean square of their standard deviations;
          ``auc`` (0 to 1): share of all combinations of a positive and a negative answer in which the positive one
          lies farther along the vector, ties counted as half, 0.5 by chance. Both are the same in all rows of a layer
          and have columns with ``_low`` and ``_high``: Student's t with the jackknife's standard error over pairs, NaN
          with two pairs, and Wilson's with the pairs as trials, which is wide but keeps a width where the sides do not
          overlap;
        - ``n``: number of pairs; ``confidence``, ``format``, ``model``.

    Raises
    ------
    InputError
        If there are fewer than two different pairs, if the vector is zero at a layer, or if a layer is missing.
    VectorMismatchError
        If vector and activations differ in width.
    """
    check_activations(activations, n_pairs=2)
    chosen = shared_layers(layers, {"the activations": activations.layers, "the vector": one_vector(vector).layers})
    check_confidence(confidence)
    if activations.d_model != vector.d_model:
        raise VectorMismatchError(
            f"vector: its width is {vector.d_model}, that of the activations {activations.d_model}; both must be of "
            "one model."
        )
    texts = pair_texts(activations)
    numbers = torch.tensor(activations.pair_numbers)
    frames = []
    for layer in chosen:
        direction = direction_at(vector, layer)
        positive, negative = (mean_by_pair(side @ direction, numbers) for side in activations.at(layer))
        middle = (positive.mean() + negative.mean()) / 2
        measured = {"layer": layer, **_measure(positive, negative, confidence)}
        for side, values in (("positive", positive), ("negative", negative)):
            rows = texts.assign(pair=range(len(texts)), side=side, projection=values - middle, **measured)
            frames.append(rows)
    return pd.concat(frames, ignore_index=True).assign(
        vector=vector.name,
        n=len(texts),
        confidence=confidence,
        format=activations.format,
        model=activations.model,
    )


def _measure(positive: np.ndarray, negative: np.ndarray, confidence: float) -> dict[str, float]:
    """Both statistics with their intervals, of all pairs and without each one."""
    n = len(positive)
    d_prime = _d_prime(positive, negative)
    without = np.array([_d_prime(np.delete(positive, i), np.delete(negative, i)) for i in range(n)])
    auc = (np.sign(positive[:, None] - negative[None, :]).mean() + 1) / 2
    ends = {
        "d_prime": (d_prime, *jackknife_interval(d_prime, without, confidence)),
        "auc": (auc, *wilson_interval(auc, n, confidence)),
    }
    parts = ("", "_low", "_high")
    return {f"{name}{end}": float(one) for name, row in ends.items() for end, one in zip(parts, row, strict=True)}


def _d_prime(positive: np.ndarray, negative: np.ndarray) -> float:
    if len(positive) < 2:
        return np.nan
    spread = np.sqrt((positive.var(ddof=1) + negative.var(ddof=1)) / 2)
    return float((positive.mean() - negative.mean()) / spread) if spread > 0 else np.nan
