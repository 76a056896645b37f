"""Steering vectors: how they are estimated, combined, saved and loaded.

Contrastive Activation Addition (Rimsky et al. 2024, section 3), at every layer L:

1. for every contrast pair take the residual stream after block L at the positive and at the negative answer;
2. the steering vector is the mean over pairs of (positive - negative). It is not normalized;
3. to compare behaviors, rescale each vector to the mean norm over behaviors at that layer (``match_norms``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError, VectorMismatchError
from caa_interp.files import write_atomically
from caa_interp.models.access import check_layers, model_id, n_layers
from caa_interp.vectors.files import from_file, to_bytes


@dataclass(frozen=True)
class SteeringVector:
    """A steering vector at one or more layers.

    Attributes
    ----------
    values
        ``[n_layers, d_model]``, float32 or float64, on the CPU; raw, not normalized.
    layers
        0-based block index of each row; the vector of layer L belongs to the output of block L.
    metadata
        What is needed to apply it: model id and revision, hook, format, position, estimator, number of
        pairs, library versions, and whatever the user adds (JSON types only).
    """

    values: torch.Tensor
    layers: tuple[int, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata: {type(self.metadata).__name__}; it must be a mapping.")
        layers = self.layers
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers) or len(set(layers)) < len(
            layers
        ):
            raise InputError(f"layers: {layers}; they must be different 0-based block indices.")
        if not self.values.is_floating_point():
            raise InputError(f"values: of type {self.values.dtype}; they must be floating-point numbers.")
        if self.values.ndim != 2 or len(self.values) != len(self.layers) or not len(self.layers):
            raise InputError(
                f"values: shape {tuple(self.values.shape)} with {len(self.layers)} layers; it must be "
                "[n_layers, d_model] with one row a layer, and at least one."
            )
        if not bool(torch.isfinite(self.values).all()):
            raise InputError("values: there are NaN or infinite entries; a steering vector must be finite.")

    def __repr__(self) -> str:
        return (
            f"SteeringVector({self.name}, layers {self.layers[0]} to {self.layers[-1]}, "
            f"d_model {self.d_model}, model {self.metadata.get('model')})"
        )

    @property
    def name(self) -> str:
        """Behavior that the metadata names, else ``"vector"``."""
        return str(self.metadata.get("behavior") or "vector")

    @property
    def kind(self) -> str:
        """What it stands for in an experiment: ``"vector"`` (default), or the kind of control that the metadata names.

        Controls are ``"random"``, ``"orthogonal"``, ``"shuffled"``, and ``"other"`` (another behavior's vector).
        """
        return str(self.metadata.get("kind") or "vector")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.values.shape[1])

    @property
    def norms(self) -> torch.Tensor:
        """Euclidean norm at every layer, ``[n_layers]``."""
        return self.values.norm(dim=1)

    def at(self, layer: int) -> torch.Tensor:
        """Return the vector ``[d_model]`` of one layer."""
        (layer,) = check_layers(layer, self.layers, "the vector")
        return self.values[self.layers.index(layer)]

    def __mul__(self, factor: float) -> SteeringVector:
        return replace(self, values=self.values * factor)

    __rmul__ = __mul__

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        if self.layers != other.layers or self.d_model != other.d_model:
            raise VectorMismatchError(
                f"vectors: {self!r} and {other!r} differ in layers or width, so they cannot be added."
            )
        models = {str(v.metadata["model"]) for v in (self, other) if v.metadata.get("model") is not None}
        if len(models) > 1:
            raise VectorMismatchError(
                f"vectors: they were made from {' and '.join(sorted(models))}, so they cannot be added. If it is "
                "meant, use vector.transferred_to(model) first."
            )
        return replace(self, values=self.values + other.values, metadata=_common(self.metadata, other.metadata))

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + (-other)

    def check_fits(self, model: Any) -> None:
        """Raise :class:`VectorMismatchError` unless this vector was made for ``model``."""
        given, width = self.metadata.get("model"), int(model.cfg.d_model)
        if self.d_model != width:
            raise VectorMismatchError(
                f"vector: its width is {self.d_model}, but the residual stream of {model_id(model)!r} is {width} "
                "wide. Extract a vector from this model."
            )
        if max(self.layers) >= n_layers(model):
            raise VectorMismatchError(
                f"vector: it has layer {max(self.layers)}, but {model_id(model)!r} has layers 0 to "
                f"{n_layers(model) - 1}. Extract a vector from this model."
            )
        if given is not None and given != model_id(model):
            raise VectorMismatchError(
                f"vector: it was made from {given!r}, but the model is {model_id(model)!r}. Extract a vector from "
                "this model, or say that the transfer is meant: vector.transferred_to(model)."
            )

    def transferred_to(self, model: Any) -> SteeringVector:
        """Return a copy that may be applied to another model of the same width; its metadata says so."""
        metadata = dict(self.metadata, model=model_id(model), transferred_from=self.metadata.get("model"))
        moved = replace(self, metadata=metadata)
        moved.check_fits(model)
        return moved

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file; the old one, if any, is replaced only when the new one is whole.

        Raises
        ------
        InputError
            If the path has another ending, or the metadata holds what JSON does not.
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"path: {str(path)!r} must end in '.safetensors'.")
        write_atomically(path, to_bytes(self.values, self.layers, self.metadata))
        return path

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a file written by :meth:`save`; other tools' files: :func:`caa_interp.import_vector`.

        Raises
        ------
        InputError
            If there is no such file, if it is damaged or no steering vector, or of a version not known here.
        """
        try:
            return cls(*from_file(Path(path)))
        except InputError as error:
            raise InputError(f"vector file {path}: {error}") from error.__cause__


def match_norms(vectors: Mapping[str, SteeringVector]) -> dict[str, SteeringVector]:
    """Rescale vectors, at every layer, to their mean norm at that layer (Rimsky et al. 2024, section 4).

    Parameters
    ----------
    vectors
        ``{behavior: vector}`` with the same layers and width.
    """
    if not vectors:
        raise InputError("vectors: the mapping is empty; give at least one vector.")
    first = next(iter(vectors.values()))
    for vector in vectors.values():
        if vector.layers != first.layers or vector.d_model != first.d_model:
            raise VectorMismatchError(f"vectors: {vector!r} and {first!r} differ in layers or width.")
    norms = torch.stack([vector.norms for vector in vectors.values()])
    if not bool((norms > 0).all()):
        raise InputError("vectors: one of them is zero at some layer, so it cannot be rescaled. Leave it out.")
    mean = norms.mean(0)
    return {
        name: replace(vector, values=vector.values * (mean / vector.norms)[:, None]) for name, vector in vectors.items()
    }


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What two sets of metadata agree on."""
    return {key: value for key, value in first.items() if second.get(key) == value}
