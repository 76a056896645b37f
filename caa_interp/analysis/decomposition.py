"""Decomposition of a steering vector into the features of a sparse autoencoder.

A steering vector is a difference of activations, for which the encoder is wrong in two ways (Mayne, Yang and Mahdi
2024): the vector is far smaller than an activation, so the encoder's bias decides which features fire; and feature
activations cannot be negative, so a feature that the vector removes never shows. The decoder has neither problem: the
difference of two sums of features is a sum of the same directions with signed coefficients. Hence:

1. Scale the feature directions (rows of the decoder) to length 1.
2. Choose the feature with the largest absolute inner product with the residual, which is the vector at first.
3. Fit all chosen features to the vector by least squares, subtract the fit to get the new residual, and repeat from 2
   (orthogonal matching pursuit; Pati, Rezaiifar and Krishnaprasad 1993).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import InputError, VectorMismatchError, check_count
from caa_interp.files import parse_json, read_text
from caa_interp.models.access import hook_name
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
N_RANDOM = 20
# Residual, relative to the vector, that counts as rounding.
EXACT = 1e-6


@dataclass(frozen=True)
class SparseAutoencoder:
    """Decoder of a sparse autoencoder, see :func:`load_sae`.

    Attributes
    ----------
    decoder
        ``[n_features, d_model]``, floating point; row ``i`` is the direction of feature ``i``.
    bias
        ``[d_model]``, what the decoder adds to every reconstruction.
    hook
        Name of the reconstructed activation, such as ``"blocks.13.hook_resid_post"``; None if not known.
    metadata
        Anything else, such as the model and the architecture.
    """

    decoder: torch.Tensor
    bias: torch.Tensor
    hook: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.decoder.ndim != 2 or not self.decoder.numel() or self.bias.shape != self.decoder.shape[1:]:
            raise InputError(
                f"decoder: shape {tuple(self.decoder.shape)} with a bias of shape {tuple(self.bias.shape)}; they "
                "must be [n_features, d_model] and [d_model]. Transpose a decoder whose columns are the features."
            )
        for name, values in (("decoder", self.decoder), ("bias", self.bias)):
            if not values.is_floating_point() or not bool(values.isfinite().all()):
                raise InputError(f"{name}: of type {values.dtype}; it must hold finite floating-point numbers.")

    def __repr__(self) -> str:
        return f"SparseAutoencoder({self.n_features} features, d_model {self.d_model}, hook {self.hook})"

    @property
    def n_features(self) -> int:
        """Number of features."""
        return int(self.decoder.shape[0])

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.decoder.shape[1])


def load_sae(path: str | Path) -> SparseAutoencoder:
    """Read a sparse autoencoder that SAELens saved.

    Parameters
    ----------
    path
        A folder with ``sae_weights.safetensors`` and ``cfg.json``, as written by SAELens's ``save_model``; or a
        safetensors file, with or without ``cfg.json`` next to it. Only ``W_dec`` ``[d_sae, d_in]`` and ``b_dec``
        ``[d_in]`` are read, after their shapes have been checked.

    Returns
    -------
    SparseAutoencoder
        On the CPU, in the type of the file. ``metadata`` is the content of ``cfg.json``.

    Raises
    ------
    InputError
        If there is no such file, if it is not safetensors, if a tensor is missing, or if shapes disagree with each
        other or with ``cfg.json``, as those of a transposed decoder do. A square decoder needs ``cfg.json``.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    weights = path / WEIGHTS if path.is_dir() else path
    if not weights.is_file():
        raise InputError(f"sparse autoencoder: there is no file {weights}. Give a folder or file saved by SAELens.")
    config = _config(weights.with_name(CONFIG))
    try:
        with safe_open(weights, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(weights, shapes, config)
            decoder, bias = file.get_tensor("W_dec"), file.get_tensor("b_dec")
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"sparse autoencoder {weights}: not a safetensors file ({error}). Save it with SAELens's save_model; "
            "pickled files (.pt) are not read."
        ) from error
    # SAELens 6 keeps the hook under "metadata", older versions at the top level; a transcoder has an output hook.
    known = {**config, **config.get("metadata", {})}
    hook = known.get("hook_name_out") or known.get("hook_name") or known.get("hook_point")
    return SparseAutoencoder(decoder, bias, hook, config)


def decompose(
    vector: SteeringVector, sae: SparseAutoencoder, *, layer: int, n_features: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Write the vector of one layer as a sparse, signed sum of feature directions.

    Parameters
    ----------
    vector
        A steering vector.
    sae
        A sparse autoencoder of the output of block ``layer`` of the same model, see :func:`load_sae`.
    layer
        0-based block index.
    n_features
        Number of features to use, at least 1 and at most ``sae.n_features`` and ``sae.d_model``.
    seed
        Seed of the random directions.

    Returns
    -------
    pandas.DataFrame
        One row per feature, in the order of choice; fewer than ``n_features`` if the residual vanishes or is
        orthogonal to every feature:

        - ``vector``, ``layer``, ``norm``: the vector's name, its layer, and its norm there;
        - ``rank``: from 1;
        - ``feature``: row of the decoder;
        - ``coefficient``: of the feature's unit direction in the least-squares fit of all rows, in units of the
          residual stream; negative if the vector removes the feature;
        - ``cosine``: of the feature's direction and the vector (-1 to 1);
        - ``error``: norm of the residual after this many features, as a share of the vector's norm (0 to 1);
        - ``random_error``: the same for random directions, averaged over 20;
        - ``n_features``: of the autoencoder; ``model``: of the vector, missing if it does not say.

    Raises
    ------
    InputError
        If the vector lacks the layer or is zero there, or if ``n_features`` is out of range.
    VectorMismatchError
        If the widths differ, or if the autoencoder is known to be of another hook.

    Notes
    -----
    With enough features any direction can be fitted, so judge the features by how far ``error`` lies below
    ``random_error``. Features overlap, so a fit is not unique: a feature with a large cosine may be left out because
    a similar one was chosen first. The encoder is not used, for the reasons in Mayne, Yang and Mahdi 2024,
    arXiv:2411.08790.
    """
    direction = direction_at(one_vector(vector), layer, what_to_do="Choose another layer.")
    norm = vector.at(layer).double().norm()
    _check_fit(vector, sae, layer)
    check_count("n_features", n_features, 1, min(sae.n_features, sae.d_model))
    # Half precision is too coarse for inner products. A zero direction stays zero and is never chosen.
    decoder = sae.decoder if sae.decoder.dtype == torch.float64 else sae.decoder.float()
    directions = torch.nn.functional.normalize(decoder, dim=1)
    features, coefficients, errors = _pursue(directions, norm * direction, n_features)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(N_RANDOM, sae.d_model, generator=generator, dtype=torch.float64)
    random = [_pursue(directions, one, n_features)[2] for one in drawn]
    # A pursuit that ends early keeps its last error.
    ranks = range(1, len(features) + 1)
    random_errors = [[each[min(rank, len(each) - 1)] for each in random] for rank in ranks]
    return pd.DataFrame(
        {
            "vector": vector.name,
            "layer": layer,
            "norm": float(norm),
            "rank": ranks,
            "feature": features,
            "coefficient": coefficients,
            "cosine": (directions[features].cpu().double() @ direction).tolist(),
            "error": errors[1:],
            "random_error": np.reshape(random_errors, (-1, N_RANDOM)).mean(1),
            "n_features": sae.n_features,
            "model": vector.metadata.get("model"),
        }
    )


def _pursue(
    directions: torch.Tensor, target: torch.Tensor, n_features: int
) -> tuple[list[int], list[float], list[float]]:
    """Orthogonal matching pursuit: features, their coefficients, and the relative error after 0, 1, ... features.

    ``directions`` ``[n_features, d_model]`` have length 1 or 0; ``target`` ``[d_model]`` is not zero, in float64 on the
    CPU.
    """
    features: list[int] = []
    coefficients: list[float] = []
    errors = [1.0]
    residual = target
    while len(features) < n_features and residual.norm() > EXACT * target.norm():
        match = (directions @ residual.to(directions)).abs()
        match[features] = 0  # as it is up to rounding
        best = int(match.argmax())
        if float(match[best]) <= EXACT * float(residual.norm()):
            break
        features.append(best)
        columns = directions[features].cpu().double().T
        fit = torch.linalg.lstsq(columns, target[:, None]).solution[:, 0]
        residual = target - columns @ fit
        coefficients = fit.tolist()
        errors.append(float(residual.norm() / target.norm()))
    return features, coefficients, errors


def _config(path: Path) -> dict[str, Any]:
    """Content of ``cfg.json``; empty if there is no such file."""
    if not path.is_file():
        return {}
    config = parse_json(read_text(path, str(path)), f"{path}, which must be as SAELens wrote it")
    if not isinstance(config, dict) or not isinstance(config.get("metadata", {}), dict):
        raise InputError(f"{path}: not an object with an object 'metadata'. Give the cfg.json that SAELens wrote.")
    return config


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> None:
    missing = [name for name in ("W_dec", "b_dec") if name not in shapes]
    if missing:
        raise InputError(
            f"sparse autoencoder {path}: it holds {sorted(shapes)}, and no {' and no '.join(missing)}. "
            "Save it with SAELens's save_model."
        )
    given, width = shapes["W_dec"], shapes["b_dec"]
    declared = (config.get("d_sae", given[0] if given else 0), config.get("d_out", config.get("d_in", *width[:1])))
    if len(given) != 2 or width != given[1:] or declared != given:
        said = f", and {CONFIG} says {list(declared)}" if config else ""
        raise InputError(
            f"sparse autoencoder {path}: W_dec has shape {list(given)} and b_dec {list(width)}{said}; they must be "
            "[d_sae, d_in] and [d_in]. If the decoder is transposed, save its transpose."
        )
    if given[0] == given[1] and "d_sae" not in config:
        raise InputError(
            f"sparse autoencoder {path}: W_dec is square, {list(given)}, so that its shape does not tell rows from "
            f"columns. Put SAELens's {CONFIG} next to it."
        )


def _check_fit(vector: SteeringVector, sae: SparseAutoencoder, layer: int) -> None:
    if sae.d_model != vector.d_model:
        raise VectorMismatchError(
            f"sae: its width is {sae.d_model}, that of the vector {vector.d_model}. Give an autoencoder of the same "
            "model's residual stream."
        )
    # The output of one block is the input of the next.
    following = f"blocks.{layer + 1}"
    same = {hook_name(layer), f"blocks.{layer}.hook_out", f"{following}.hook_resid_pre", f"{following}.hook_in"}
    if sae.hook is not None and sae.hook not in same:
        raise VectorMismatchError(
            f"sae: it is of {sae.hook!r}, and the vector of layer {layer} belongs to {hook_name(layer)!r}. Choose "
            "its layer, or say that the hook does not matter: dataclasses.replace(sae, hook=None)."
        )
