"""Which attention heads and neurons write along a steering vector, and which read from it, by their weights alone.

1. The vector of layer L is taken after block L. Blocks 0 to L may have written it; later blocks may read it.
2. A head writes through W_O and reads through W_Q, W_K and W_V; a neuron writes its row of W_out and reads its
   columns of W_in and W_gate. Norms are folded in (:mod:`caa_interp.models.weights`).
3. The alignment of a unit vector ``v`` with a matrix ``W`` whose rows are directions of the residual stream is
   ``|W v| / |W|_F``: the composition score of Elhage et al. (2021, "A Mathematical Framework for Transformer
   Circuits", section "Composition of attention heads") for a matrix of rank 1. For the one row of a neuron it is
   the absolute cosine.
4. A random direction is the control: its squared alignment has mean ``1 / d_model`` for every matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import check_count
from caa_interp.models.access import check_layers, model_id, n_layers
from caa_interp.models.weights import BlockWeights, block_weights
from caa_interp.statistics import chance_alignment
from caa_interp.steering.intervention import one_layer
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector

_COLUMNS = (
    *("vector", "vector_layer", "layer", "where", "component", "index", "query_heads"),
    *("role", "alignment", "chance", "model"),
)


def weight_alignment(
    model: Any,
    vector: SteeringVector,
    *,
    layer: int | None = None,
    layers: int | Sequence[int] | None = None,
    top_k: int = 20,
) -> pd.DataFrame:
    """Find the attention heads and MLP neurons that write along a vector, and those that read from it.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`. Only its weights are used.
    vector
        The steering vector; its length does not matter.
    layer
        Layer of the vector, a 0-based block index; needed if it has several.
    layers
        Blocks whose heads and neurons are compared with it; default: all.
    top_k
        Number of neurons to keep per block and role, those with the largest absolute cosine; at least 1. All heads are
        kept.

    Returns
    -------
    pandas.DataFrame
        One row per component and role:

        - ``vector`` (its name), ``vector_layer``, ``layer``, ``where`` (``"before"``: the block is at or before the
          vector's layer and may have written it; ``"after"``: the block may read it);
        - ``component`` (``"head"`` or ``"neuron"``), ``index``, ``query_heads`` (that a head serves, such as ``"3"``,
          or ``"3-5"`` for a key or value head that three share; empty for neurons);
        - ``role``: ``"writes"``, ``"reads query"``, ``"reads key"``, ``"reads value"``, ``"reads gate"`` or
          ``"reads input"``;
        - ``alignment``: for a neuron the cosine with the vector (-1 to 1); for a head ``|W v| / |W|`` (0 to 1);
        - ``chance``: bound on the largest absolute alignment of a random direction among all heads, or all neurons, of
          the block and role, with a probability of at least 95 %. Without any relation, one block and role in twenty
          exceeds it;
        - ``model``.

    Raises
    ------
    InputError
        If an argument is invalid, or the vector is zero at its layer.
    VectorMismatchError
        If the vector was not made for this model.
    ModelError
        If the blocks are not attention heads and one MLP (mixtures of experts, recurrent blocks), or quantized.

    Notes
    -----
    Weights say what a component can do, not what it does on a text: a head may never attend, and a neuron may never be
    active. Many components share some directions of the residual stream, so vectors of other behaviors are a stricter
    control than a random direction.
    """
    one_vector(vector).check_fits(model)
    at = one_layer(vector, layer)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    check_count("top_k", top_k)
    direction = direction_at(vector, at, what_to_do="Choose another layer.")
    frames = []
    for block in chosen:
        weights = block_weights(model, block)
        parts = [*_heads(weights, direction), *_neurons(weights, direction, top_k)]
        where = "before" if block <= at else "after"
        frames += [part.assign(vector_layer=at, layer=block, where=where) for part in parts]
    table = pd.concat(frames, ignore_index=True).assign(vector=vector.name, model=model_id(model))
    return table[list(_COLUMNS)]


def _heads(weights: BlockWeights, direction: torch.Tensor) -> Iterator[pd.DataFrame]:
    n_query_heads = len(weights.queries)
    for role, matrices in (
        ("writes", weights.outputs),
        ("reads query", weights.queries.mT),
        ("reads key", weights.keys.mT),
        ("reads value", weights.values.mT),
    ):
        shared = n_query_heads // len(matrices)
        first = np.arange(len(matrices)) * shared
        alignment, chance = _aligned(matrices.double(), direction)
        yield pd.DataFrame(
            {
                "component": "head",
                "index": np.arange(len(matrices)),
                "query_heads": [f"{n}-{n + shared - 1}" if shared > 1 else f"{n}" for n in first],
                "role": role,
                "alignment": alignment,
                "chance": chance,
            }
        )


def _neurons(weights: BlockWeights, direction: torch.Tensor, top_k: int) -> Iterator[pd.DataFrame]:
    for role, rows in (
        ("writes", weights.neuron_outputs),
        ("reads gate", None if weights.neuron_gates is None else weights.neuron_gates.T),
        ("reads input", weights.neuron_inputs.T),
    ):
        if rows is None:
            continue
        cosine = torch.cosine_similarity(rows.double(), direction[None], dim=1).numpy()
        kept = np.argsort(-np.abs(cosine), kind="stable")[:top_k]
        yield pd.DataFrame(
            {
                "component": "neuron",
                "index": kept,
                "query_heads": "",
                "role": role,
                "alignment": cosine[kept],
                "chance": chance_alignment(len(direction), len(cosine)),
            }
        )


def _aligned(matrices: torch.Tensor, direction: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``|W v| / |W|`` of matrices ``[n, rows, d_model]`` and a unit vector, and its bound by chance, ``[n]`` each."""
    norms = matrices.flatten(1).norm(dim=1)
    alignment = (matrices @ direction).norm(dim=1) / norms
    concentration = (matrices @ matrices.mT).flatten(1).norm(dim=1) ** 2 / norms**4
    n, _, width = matrices.shape
    return alignment.numpy(), np.array([chance_alignment(width, n, value) for value in concentration.tolist()])
