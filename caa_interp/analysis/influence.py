"""Which pairs pull a steering vector elsewhere: the vector without each of them.

1. Make the vector of all pairs, and that of all pairs but one, for each pair in turn.
2. Compare the two, and project the pair's own difference on the vector that it had no part in.

For the mean difference step 1 is a subtraction; any other estimator is fitted again without each pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from caa_interp.models.access import check_layers
from caa_interp.progress import track
from caa_interp.vectors.activations import Activations, check_activations, mean_by_pair, pair_texts
from caa_interp.vectors.estimators import Estimator, check_estimator, mean_difference


def influence(
    activations: Activations,
    *,
    layers: int | Sequence[int] | None = None,
    estimator: Estimator = mean_difference,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each pair does to the steering vector, by leaving it out.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations`, of at least two different pairs. Rows of equal pairs, and
        both letter orders of a pair, are left out together.
    layers
        0-based block indices; default: all of the activations'.
    estimator
        As in :func:`caa_interp.extract_vector`. With the default the cost grows with the number of pairs; any other is
        fitted once per pair and layer.
    progress
        Show a progress bar where an estimator is fitted once per pair.

    Returns
    -------
    pandas.DataFrame
        One row per layer and pair, at each layer the lowest ``projection`` first:

        - ``layer``, ``rank`` (from 1 at each layer), ``pair`` (0-based number among the different pairs), ``id``,
          ``topic``, ``question``, ``positive``, ``negative``;
        - ``projection``: dot product of the pair's own difference (positive minus negative) and the vector of the
          other pairs, divided by that vector's squared norm. 1 is as much along it as the vector itself, 0 is nothing,
          and a negative pair points in the opposite direction;
        - ``cosine`` (-1 to 1): cosine of the vectors without and with the pair;
        - ``norm_change`` (from -1): norm of the vector without the pair, divided by its norm with all pairs, minus 1;
        - ``n``: number of different pairs; ``estimator``, ``format``, ``model``.

        NaN where a vector is zero.

    Raises
    ------
    InputError
        If there are fewer than two different pairs, or a layer is not among the activations'.

    Notes
    -----
    With n pairs alike, each moves the vector by about 1 / n of a difference: a low ``cosine`` is low beside the other
    pairs, not by itself. A negative ``projection`` does not show that a pair is mislabeled: its answers may differ in
    something else, or its question may be read in another way. Read it. Pairs that are left out because of this table
    no longer tell how well the others agree; measure the effect on held-out pairs.
    """
    chosen = check_layers(layers, check_activations(activations, n_pairs=2).layers, "the activations")
    check_estimator(estimator)
    texts = pair_texts(activations)
    texts.insert(0, "pair", range(len(texts)))
    numbers = torch.tensor(activations.pair_numbers)
    tables = []
    for layer in track(chosen, "Leaving out pairs", progress and estimator is not mean_difference):
        measured = _measure(*activations.at(layer), numbers, estimator)
        table = texts.assign(**{name: values.numpy() for name, values in measured.items()})
        table = table.sort_values("projection", kind="stable")
        table.insert(0, "layer", layer)
        table.insert(1, "rank", range(1, len(texts) + 1))
        tables.append(table)
    return pd.concat(tables, ignore_index=True).assign(
        n=len(texts),
        estimator=getattr(estimator, "__name__", str(estimator)),
        format=activations.format,
        model=activations.model,
    )


def _measure(
    positive: torch.Tensor, negative: torch.Tensor, numbers: torch.Tensor, estimator: Estimator
) -> dict[str, torch.Tensor]:
    """What each pair does at one layer, ``[n_pairs]``, from both sides ``[n_rows, d_model]``."""
    positive, negative = positive[:, None], negative[:, None]  # estimators take layers
    own, sizes = torch.from_numpy(mean_by_pair(positive - negative, numbers))[:, 0], numbers.bincount()[:, None]
    whole = estimator(positive, negative)[0]
    if estimator is mean_difference:
        without = ((sizes * own).sum(0) - sizes * own) / (len(numbers) - sizes)
    else:
        kept = (numbers != pair for pair in range(len(own)))
        without = torch.cat([estimator(positive[rows], negative[rows]) for rows in kept])
    norm = without.norm(dim=1)
    return {
        "projection": (own * without).sum(1) / norm**2,
        "cosine": ((without @ whole) / (norm * whole.norm())).clamp(-1, 1),
        "norm_change": norm / whole.norm() - 1,
    }
