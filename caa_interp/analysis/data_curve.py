"""How many pairs a steering vector needs: its effect, direction and reliability from more and more of them.

1. Order the pairs at random, and take the first few, then more, up to all (a draw); repeat with other orders.
2. Make the vector of each of these sets from activations that were collected once.
3. Give it the norm of the vector of all pairs, add it at one layer, and score held-out pairs.

Step 3 does not apply the vectors as they are: few pairs give a longer vector, because noise adds to its norm. As far as
effects are linear, the mean effect of raw vectors does not depend on the number of pairs at all; what fewer pairs
cost is the noise that is added with it. At equal norms the effect shows how much of a vector is what the pairs share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count
from caa_interp.evaluation.response import item_slopes, steerability
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import check_layers
from caa_interp.statistics import check_confidence, random_halves, split_half_cosines
from caa_interp.steering.intervention import check_multipliers
from caa_interp.vectors.activations import Activations, check_activations, mean_by_pair
from caa_interp.vectors.estimators import Estimator, check_estimator, mean_difference
from caa_interp.vectors.extraction import vector_from_activations
from caa_interp.vectors.vector import SteeringVector, with_norms

CLOSE = 0.1  # share of the effect of all pairs that an effect may be off, to be called the same
_ALL = "all pairs"
_MEASURES = ("slope", "cosine", "split_half")
_COLUMNS = (
    *("layer", "n_pairs", "n_draws"),
    *(f"{name}{end}" for name in _MEASURES for end in ("", "_low", "_high")),
    *("chance", "norm", "enough", "n", "confidence", "format", "model"),
)


def data_curve(
    model: Any,
    activations: Activations,
    pairs: Iterable[ContrastPair],
    *,
    layer: int,
    sizes: int | Sequence[int] | None = None,
    n_draws: int = 10,
    estimator: Estimator = mean_difference,
    multipliers: Sequence[float] = (-1.0, 1.0),
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Measure the vectors of random subsets of the pairs: effect on held-out pairs, direction and reliability.

    Parameters
    ----------
    model, multipliers, progress, **options
        As in :func:`caa_interp.sweep`; at least two multipliers, for a slope.
    activations
        Result of :func:`caa_interp.collect_activations`, of at least two different pairs. Nothing is collected again.
    pairs
        Held-out pairs that are scored, usually a behavior's ``test``; none that is among the activations'.
    layer
        0-based block index at which the vectors are made and added, chosen on other pairs.
    sizes
        Numbers of different pairs; all pairs are added. Default: all, half of them, a quarter and so on, down to 2.
    n_draws
        Number of random orders of the pairs; the sets of one draw contain each other.
    estimator
        As in :func:`caa_interp.extract_vector`.
    confidence
        Share of the draws, between 0 and 1, that lies between ``_low`` and ``_high``.
    seed
        Seed of the draws, the halves and the interval of the effect of all pairs.

    Returns
    -------
    pandas.DataFrame
        One row per number of pairs. ``_low`` and ``_high`` are percentiles over draws: what one set of that many pairs
        gives, not an interval of the mean. They are NaN for all pairs, of which there is one draw.

        - ``layer``, ``n_pairs``, ``n_draws``;
        - ``slope``: mean over draws of the slope of :func:`caa_interp.steerability`, in nats per multiplier of a
          vector with the norm of the vector of all pairs;
        - ``cosine`` (-1 to 1): mean cosine with the vector of all pairs; ``chance``: about what it would be if the
          pairs were unrelated, sqrt(n_pairs / number of all), since the subset is part of the whole;
        - ``split_half`` (-1 to 1): mean of that of :func:`caa_interp.reliability`; NaN for one pair;
        - ``norm``: mean norm of the vectors before it was made equal;
        - ``enough``: the smallest of the numbers of pairs from which on the mean ``slope`` is within 10 % of that of
          all pairs, for it and every larger number. Missing if there is none below all, and if the effect of all
          pairs has an interval over held-out pairs that includes zero;
        - ``n``: number of held-out pairs; ``confidence``, ``format``, ``model``.

    Raises
    ------
    InputError
        If the activations hold one pair, ``pairs`` some of theirs, or an argument is not one of those above.
    VectorMismatchError
        If the activations are not of this model.

    Notes
    -----
    The curve ends in the vector of these pairs, not of very many: whether more pairs would do better shows in
    ``split_half``, not in ``cosine``. Larger sets overlap more, so that their spread narrows even where new pairs would
    differ. ``enough`` holds for pairs like these, at this layer.
    """
    (layer,) = check_layers([layer], check_activations(activations, n_pairs=2).layers, "the activations")
    scored, different = check_pairs(pairs), set(activations.pairs)
    if shared := sum(pair in different for pair in scored):
        raise InputError(f"pairs: {shared} of {len(scored)} made the activations. Give held-out pairs, which did not.")
    if len(check_multipliers(multipliers)) < 2:
        raise InputError(f"multipliers: {list(multipliers)}; a slope needs at least two. Give two or more.")
    for name, number, least in (("n_draws", n_draws, 1), ("seed", seed, 0)):
        check_count(name, number, least)
    check_confidence(confidence)
    check_estimator(estimator)
    draws, vectors = _draws(activations, layer, _sizes(sizes, len(different)), n_draws, estimator, seed)
    table = sweep(model, vectors, scored, layers=layer, multipliers=multipliers, progress=progress, **options)
    draws["slope"] = draws["name"].map(item_slopes(table).groupby("vector")["slope"].mean())
    effect = steerability(table[table["vector"] == _ALL], seed=seed).iloc[0]
    curve = _over_draws(draws, confidence)
    return curve.assign(
        layer=layer,
        chance=np.sqrt(curve["n_pairs"] / len(different)),
        enough=pd.array([_enough(curve, effect)] * len(curve), dtype="Int64"),
        n=int(effect["n"]),
        confidence=confidence,
        format=table["format"].iloc[0],
        model=table["model"].iloc[0],
    )[list(_COLUMNS)]


def _sizes(sizes: int | Sequence[int] | None, n: int) -> list[int]:
    """Numbers of pairs below all ``n``, by size."""
    if sizes is None:
        return [n >> halvings for halvings in range(n.bit_length() - 2, 0, -1)]
    given = list(sizes) if isinstance(sizes, Iterable) else [sizes]
    for size in given:
        check_count("sizes", size)
    if max(given, default=1) > n or len(set(given)) < len(given):
        raise InputError(f"sizes: {given}; they must be different numbers of at most {n} pairs, such as [{n // 2}].")
    return sorted({int(size) for size in given} - {n})


def _draws(
    activations: Activations, layer: int, sizes: Sequence[int], n_draws: int, estimator: Estimator, seed: int
) -> tuple[pd.DataFrame, dict[str, SteeringVector]]:
    """One row per set of pairs, and the vector of each set, at one layer and with the norm of that of all pairs."""
    at_layer, numbers = activations.at_layers(layer), torch.tensor(activations.pair_numbers)
    positive, negative = at_layer.positive, at_layer.negative
    means = mean_by_pair((positive.double() - negative.double())[:, 0], numbers)
    products, generator = means @ means.T, np.random.default_rng(seed)
    sets = {_ALL: np.arange(len(means))}
    for draw in range(n_draws):
        order = generator.permutation(len(means))
        sets |= {f"{size} pairs, draw {draw}": order[:size] for size in sizes}
    halves = {size: random_halves(size, seed) for size in (*sizes, len(means))}
    whole = vector_from_activations(at_layer, estimator=estimator)
    found, vectors = [], {}
    for name, chosen in sets.items():
        rows = torch.isin(numbers, torch.from_numpy(chosen))
        values = estimator(positive[rows], negative[rows])
        vectors[name] = replace(whole, values=with_norms(values, whole.norms))
        found.append(
            {
                "name": name,
                "n_pairs": len(chosen),
                "cosine": float(torch.cosine_similarity(values.double(), whole.values.double())),
                "split_half": split_half_cosines(products[np.ix_(chosen, chosen)], halves[len(chosen)]).mean(),
                "norm": float(values.norm(dim=1)),
            }
        )
    return pd.DataFrame(found), vectors


def _over_draws(draws: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Mean of each measure for every number of pairs, with percentiles over draws if there are several."""
    groups = draws.groupby("n_pairs")
    curve = groups.agg(n_draws=("name", "size"), norm=("norm", "mean"))
    for name in _MEASURES:
        low, high = (
            groups[name].quantile(share).where(curve["n_draws"] > 1)
            for share in ((1 - confidence) / 2, (1 + confidence) / 2)
        )
        curve = curve.assign(**{name: groups[name].mean(), f"{name}_low": low, f"{name}_high": high})
    return curve.reset_index()


def _enough(curve: pd.DataFrame, effect: pd.Series) -> int | None:
    """The number of pairs from which on the effect is that of all pairs; ``curve`` is by rising number."""
    if not effect["slope_low"] * effect["slope_high"] > 0:
        return None
    *fewer, whole = zip(curve["n_pairs"], curve["slope"], strict=True)
    close = takewhile(lambda row: abs(row[1] - whole[1]) <= CLOSE * abs(whole[1]), reversed(fewer))
    return min((size for size, _ in close), default=None)
