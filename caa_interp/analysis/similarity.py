"""Cosine similarity of steering vectors: between layers, behaviors and models (Rimsky et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import InputError, check_choice
from caa_interp.models.access import check_layers, shared_layers
from caa_interp.statistics import chance_alignment
from caa_interp.vectors.vector import SteeringVector, check_widths, named_vectors

Between = Literal["layers", "vectors"]


def cosine_similarity(
    vectors: SteeringVector | Mapping[str, SteeringVector],
    *,
    between: Between | None = None,
    layers: int | Sequence[int] | None = None,
) -> pd.DataFrame:
    """Cosine similarity of steering vectors, and what to expect of two random directions.

    Parameters
    ----------
    vectors
        A steering vector, or several by name, of different behaviors or models (``{"base": ..., "chat": ...}``).
    between
        ``"layers"`` compares every two layers of the same vector, ``"vectors"`` every two vectors at the same layer.
        Default: ``"layers"`` for one vector, ``"vectors"`` for several.
    layers
        0-based block indices that every vector has. Default: between layers, all of each vector's; between vectors,
        the layers that all of them have.

    Returns
    -------
    pandas.DataFrame
        One row per ordered pair, including each vector with itself:

        - ``first``, ``first_layer``, ``second``, ``second_layer``: the two vectors;
        - ``cosine``: from -1 to 1, computed in float64; NaN if one of the two is zero;
        - ``chance``: the cosine of two independent, uniformly random directions of that width lies between
          ``-chance`` and ``chance`` with a probability of 95 %;
        - ``first_model``, ``second_model``: that they were made from, missing where a vector does not say.

    Raises
    ------
    InputError
        If there is no vector, if ``between="vectors"`` and there is only one, or if a vector lacks one of ``layers``.
    VectorMismatchError
        If the vectors to be compared differ in width, or have no layer in common.

    Notes
    -----
    ``chance`` is for one comparison: of the 28 pairs of eight unrelated vectors, one or two lie beyond it. It assumes
    that all directions are equally likely. Activations favor a few directions, so a cosine beyond ``chance`` need not
    mean that two behaviors are related. Cosines between models have a meaning only if one model was trained from the
    other, as a chat model from its base model.

    The square of a random cosine in d dimensions has the Beta(1/2, (d - 1)/2) distribution.

    Examples
    --------
    >>> import torch, caa_interp as caa
    >>> vector = caa.SteeringVector(torch.tensor([[1.0, 0.0], [3.0, 4.0]]), layers=(7, 8))
    >>> caa.cosine_similarity(vector)["cosine"].round(2).tolist()
    [1.0, 0.6, 0.6, 1.0]
    """
    named = named_vectors(vectors)
    if between is None:
        between = "layers" if len(named) == 1 else "vectors"
    check_choice("between", between, ("layers", "vectors"))
    if between == "vectors":
        if len(named) == 1:
            raise InputError(
                f"between: 'vectors' with {next(iter(named))!r} alone; give at least two vectors, or compare its "
                "layers: between='layers'."
            )
        check_widths(named)
        shared = shared_layers(layers, {f"the vector {name!r}": vector.layers for name, vector in named.items()})
        groups = [[(name, layer) for name in named] for layer in shared]
    else:
        groups = [
            [(name, layer) for layer in check_layers(layers, vector.layers, f"the vector {name!r}")]
            for name, vector in named.items()
        ]
    return pd.concat([_compared(named, group) for group in groups], ignore_index=True)


def _compared(named: Mapping[str, SteeringVector], group: Sequence[tuple[str, int]]) -> pd.DataFrame:
    """Compare every ordered pair in a group of (name, layer)."""
    values = torch.stack([named[name].at(layer).double() for name, layer in group])
    # Scale by the largest entry first, so that squares neither vanish nor overflow; a zero vector gives NaN.
    values = values / values.abs().amax(dim=1, keepdim=True)
    values = values / values.norm(dim=1, keepdim=True)
    first, second = (index.ravel() for index in np.indices((len(group), len(group))))
    names, layers = (np.array(part) for part in zip(*group, strict=True))
    models = np.array([named[name].metadata.get("model") for name in names], dtype=object)
    return pd.DataFrame(
        {
            "first": names[first],
            "first_layer": layers[first],
            "second": names[second],
            "second_layer": layers[second],
            "cosine": (values @ values.T).clamp(-1, 1).flatten().numpy(),
            "chance": chance_alignment(values.shape[1]),
            "first_model": models[first],
            "second_model": models[second],
        }
    )
