"""The vector of one layer, applied at other layers and in other models (Rimsky et al. 2024).

1. Take the vector of one layer, such as layer 13.
2. Add it after every other layer in turn, without rescaling it, and score the pairs as in a sweep.
3. Repeat with the vector of a base model in its chat model.

Beyond the paper: the vector of every layer is scored at every layer, all in about one forward pass per item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import check_layers, n_layers
from caa_interp.vectors.vector import SteeringVector, one_vector


def transfer(
    model: Any,
    vector: SteeringVector,
    pairs: Iterable[ContrastPair],
    *,
    source_layers: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score contrast pairs while the vector of one layer is applied at other layers.

    Parameters
    ----------
    model
        The model.
    vector
        A steering vector of this model, or ``vector.transferred_to(model)`` for one of another model of the same
        width, such as the base model. If that model has more layers, drop the extra ones first:
        ``vector.at_layers(range(n)).transferred_to(model)``.
    pairs
        Pairs to score, usually a behavior's ``test``.
    source_layers
        Layers whose vectors are applied, 0-based block indices; default: all of the vector's.
    layers
        Layers at which they are applied, 0-based block indices; default: all of the model's. There are
        source layers * layers * multipliers conditions.
    **options
        As in :func:`caa_interp.sweep`: ``multipliers``, ``format``, ``operator`` and the others.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep`, with ``source_layer``, whose vector is applied at ``layer``. It can be
        given to :func:`caa_interp.summarize` and :func:`caa_interp.steerability`.

    Raises
    ------
    InputError
        If the vector lacks a source layer or the model a layer, and as in :func:`caa_interp.sweep`.
    VectorMismatchError
        If the vector was not made for this model.

    Notes
    -----
    The residual stream grows with depth, so a late layer's vector is strong at an early layer. To compare directions
    alone, give all layers the same norm first:
    ``caa.SteeringVector(norm * vector.values / vector.norms[:, None], vector.layers, vector.metadata)``. To see the
    effect of the norm alone, transfer a random vector: ``caa.random_vectors(vector, 1)["random 0"]``.
    """
    one_vector(vector).check_fits(model)
    sources = check_layers(source_layers, vector.layers, "the vector")
    targets = check_layers(layers, range(n_layers(model)), "the model")
    name = vector.name
    moved = {
        f"{name} of layer {source}": SteeringVector(
            vector.at(source).repeat(len(targets), 1), tuple(targets), {**vector.metadata, "source_layer": source}
        )
        for source in sources
    }
    table = sweep(model, moved, pairs, **options)
    numbers = dict(zip(moved, sources, strict=True))
    table.insert(list(table.columns).index("layer"), "source_layer", table["vector"].map(numbers))
    return table.assign(vector=name)
