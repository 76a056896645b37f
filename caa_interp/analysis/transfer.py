"""The vector of one layer, applied at other layers and in other models (Rimsky et al. 2024).

1. Take the vector of one layer, such as layer 13's.
2. Add it to the output of every other layer in turn, raw as it is, and score the pairs as in a sweep.
3. Do so for the vector of every layer, and with the vector of a base model in its chat model.

Where this differs from the paper: every source layer is scored at every layer, all in about one forward pass per item.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import check_layers, n_layers
from caa_interp.prompts.rendering import Format
from caa_interp.vectors.vector import SteeringVector


def transfer(
    model: Any,
    vector: SteeringVector,
    pairs: Iterable[ContrastPair],
    *,
    source_layers: int | Sequence[int] | None = None,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    format: Format | None = None,
    system_prompt: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score contrast pairs while the vector of one layer is applied at other layers.

    Parameters
    ----------
    model
        The model.
    vector
        A steering vector of this model. One of another model of the same width, such as the base model's for its chat
        model, must be declared to be meant: ``vector.transferred_to(model)``. That needs every layer of the vector to
        be one of the model's; where the other model had more, keep those that there are first:
        ``caa.SteeringVector(vector.values[:n], vector.layers[:n], vector.metadata).transferred_to(model)``.
    pairs
        Pairs to score, usually a behavior's ``test``.
    source_layers
        Layers whose vectors are applied, 0-based block indices; default: all of the vector's.
    layers
        Layers that they are applied at, 0-based block indices; default: all of the model's. The number of conditions
        is source layers times layers times multipliers.
    multipliers, format, system_prompt, progress
        As in :func:`caa_interp.sweep`.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep`, where ``source_layer`` is the layer whose vector is applied, and
        ``layer`` the one that it is applied at. It can be given to :func:`caa_interp.summarize` and
        :func:`caa_interp.steerability`.

    Raises
    ------
    InputError
        If a source layer is not one of the vector's, or a layer not one of the model's; and as in
        :func:`caa_interp.sweep`.
    VectorMismatchError
        If the vector was not made for this model.

    Notes
    -----
    Vectors are raw, as in the paper. The residual stream grows with depth, so a late layer's vector is a strong one
    for an early layer. To compare directions alone, give all layers the same norm before:
    ``caa.SteeringVector(norm * vector.values / vector.norms[:, None], vector.layers, vector.metadata)``. What norm
    alone does, the transfer of a random vector shows: ``caa.random_vectors(vector, 1)["random 0"]``.
    """
    if not isinstance(vector, SteeringVector):
        raise InputError(f"vector: {type(vector).__name__}; give one SteeringVector.")
    vector.check_fits(model)
    sources = check_layers(source_layers, vector.layers, "the vector")
    targets = check_layers(layers, range(n_layers(model)), "the model")
    name = vector.name
    moved = {
        f"{name} of layer {source}": SteeringVector(
            vector.at(source).repeat(len(targets), 1),
            tuple(targets),
            dict(vector.metadata, source_layer=source),
        )
        for source in sources
    }
    table = sweep(
        model,
        moved,
        pairs,
        format=format,
        multipliers=multipliers,
        system_prompt=system_prompt,
        progress=progress,
    )
    numbers = dict(zip(moved, sources, strict=True))
    table.insert(list(table.columns).index("layer"), "source_layer", table["vector"].map(numbers))
    return table.assign(vector=name)
