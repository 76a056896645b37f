"""Steering vectors: combining, comparing, saving and loading them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError, VectorMismatchError, by_text
from caa_interp.models.access import (
    CENTERED,
    block_indices,
    check_layer,
    check_layers,
    check_model,
    identity,
    model_id,
    n_layers,
    short_name,
)
from caa_interp.vectors.files import finite_floats, opened, save

_IDENTITY = ("model", "model_revision", "weight_processing")  # what the metadata say of the model


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A steering vector at one or more layers.

    Attributes
    ----------
    values
        ``[n_layers, d_model]``, float32 or float64, on the CPU; raw, not normalized. A copy of what is given.
    layers
        0-based block index of each row; the vector of layer L is added after block L.
    metadata
        Model id and revision, hook, format, position, estimator, number of pairs, library versions, and whatever the
        user adds; JSON types only.
    """

    values: torch.Tensor
    layers: tuple[int, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata: {type(self.metadata).__name__}; it must be a mapping.")
        object.__setattr__(self, "values", finite_floats(self.values, 2, "values").clone())
        object.__setattr__(self, "layers", block_indices(self.layers))
        if len(self.values) != len(self.layers):
            raise InputError(
                f"values: shape {tuple(self.values.shape)} with {len(self.layers)} layers; it must be "
                "[n_layers, d_model] with one row per layer."
            )

    def __eq__(self, other: object) -> bool:
        """Same layers, metadata, type and numbers."""
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return (
            (self.layers, self.values.dtype, dict(self.metadata))
            == (other.layers, other.values.dtype, dict(other.metadata))
        ) and torch.equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.layers, float(self.values.double().sum())))

    def __repr__(self) -> str:
        return (
            f"SteeringVector({self.name}, layers {self.layers[0]} to {self.layers[-1]}, "
            f"d_model {self.d_model}, model {self.metadata.get('model')})"
        )

    @property
    def name(self) -> str:
        """Behavior in the metadata, else ``"vector"``."""
        return str(self.metadata.get("behavior") or "vector")

    @property
    def kind(self) -> str:
        """Kind of control (``"random"``, ``"orthogonal"``, ``"shuffled"``, ``"other"``), or ``"vector"`` for none."""
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
        layer = check_layer(layer, self.layers, "the vector")
        return self.values[self.layers.index(layer)]

    def at_layers(self, layers: int | Sequence[int] | None) -> SteeringVector:
        """Return the vector at some of its layers, in their order; at all for None."""
        chosen = check_layers(layers, self.layers, "the vector")
        rows = self.values[[self.layers.index(layer) for layer in chosen]]
        return replace(self, values=rows, layers=tuple(chosen))

    def __mul__(self, factor: object) -> SteeringVector:
        return replace(self, values=self.values * float(factor)) if isinstance(factor, Real) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> SteeringVector:
        return replace(self, values=self.values / float(divisor)) if isinstance(divisor, Real) else NotImplemented

    def __neg__(self) -> SteeringVector:
        return self * -1.0

    def __add__(self, other: SteeringVector) -> SteeringVector:
        if not isinstance(other, SteeringVector):
            return NotImplemented
        check_same_shape(self, other)
        if differing := _differing(self.metadata, other.metadata):
            raise VectorMismatchError(
                f"vectors: they were made from {differing[0]} and {differing[1]}, so they cannot be added. If that is "
                "intended, use vector.transferred_to(model) first."
            )
        return replace(self, values=self.values + other.values, metadata=_common(self.metadata, other.metadata))

    def __sub__(self, other: SteeringVector) -> SteeringVector:
        return self + (-other) if isinstance(other, SteeringVector) else NotImplemented

    def check_fits(self, model: Any) -> None:
        """Raise :class:`VectorMismatchError` unless this vector was made for ``model``.

        Width, layers and the model's revision must match; where a revision is unknown, the model's name decides, or its
        last part where one of the two has no organization.
        Weights must be centered in both cases or in neither.
        """
        check_model(model)
        width = int(model.cfg.d_model)
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
        if differing := _differing(self.metadata, identity(model)):
            raise VectorMismatchError(
                f"vector: it was made from {differing[0]}, but the model is {differing[1]}. Extract a vector from "
                "this model, or declare the transfer: vector.transferred_to(model)."
            )

    def transferred_to(self, model: Any) -> SteeringVector:
        """Return a copy that may be applied to another model of the same width; its metadata says so."""
        check_model(model)
        metadata = {**self.metadata, **identity(model), "transferred_from": self.metadata.get("model")}
        moved = replace(self, metadata=metadata)
        moved.check_fits(model)
        return moved

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file; an existing file is replaced only once the new one is complete.

        Raises :class:`InputError` if the path has another ending, or JSON cannot hold the metadata.
        """
        return save(path, "vector", (self.values,), self.layers, self.metadata)

    @classmethod
    def load(cls, path: str | Path) -> SteeringVector:
        """Read a file written by :meth:`save`; other tools' files: :func:`caa_interp.import_vector`.

        Raises :class:`InputError` if the file is missing, damaged, not a steering vector, or of an unknown version.
        """
        with opened(path, "vector") as (fields, (values,)):
            return cls(values, *fields)


def one_vector(vector: Any, name: str = "vector") -> SteeringVector:
    """Return ``vector`` if it is one steering vector, or raise an :class:`InputError`."""
    if isinstance(vector, SteeringVector):
        return vector
    if isinstance(vector, Mapping):
        what = f"give one of them, such as {name}s[{next(iter(vector), 'name')!r}]"
    elif isinstance(vector, list | tuple):
        what = "give one of them"
    elif isinstance(vector, str | Path):
        what = f"load it: SteeringVector.load({str(vector)!r})"
    elif isinstance(vector, torch.Tensor):
        what = "say which layers its rows are: SteeringVector(values, layers)"
    else:
        what = "make one with extract_vector(model, behavior.train)"
    raise InputError(f"{name}: {type(vector).__name__}; it must be one SteeringVector: {what}.")


def named_vectors(vectors: Any, name: str = "vectors") -> dict[str, SteeringVector]:
    """Return ``{name: vector}`` from such a mapping or from one vector, or raise an :class:`InputError`."""
    if isinstance(vectors, Mapping):
        if not vectors:
            raise InputError(f"{name}: the mapping is empty; give at least one vector.")
        return {key: one_vector(vector, f"{name}[{key!r}]") for key, vector in by_text(vectors, name).items()}
    if isinstance(vectors, list | tuple):
        raise InputError(
            f"{name}: {type(vectors).__name__}; several vectors have names: give a mapping such as "
            "{v.name: v for v in vectors}."
        )
    return {one_vector(vectors, name).name: vectors}


def direction_at(
    vector: SteeringVector, layer: int, name: str = "vector", what_to_do: str = "Leave the layer out."
) -> torch.Tensor:
    """Return the unit vector of one layer, ``[d_model]`` in float64; :class:`InputError` if it is zero there."""
    values = vector.at(layer).double()
    norm = values.norm()
    if not norm > 0:
        raise InputError(f"{name}: it is zero at layer {layer}, so it has no direction there. {what_to_do}")
    return values / norm


def check_widths(vectors: Mapping[str, SteeringVector]) -> None:
    """Raise :class:`VectorMismatchError` unless all vectors are of one width."""
    if len({vector.d_model for vector in vectors.values()}) > 1:
        widths = ", ".join(f"{name!r}: {vector.d_model}" for name, vector in vectors.items())
        raise VectorMismatchError(
            f"vectors: their widths differ ({widths}), so they cannot be compared. Give vectors of one width."
        )


def check_same_shape(first: SteeringVector, second: SteeringVector) -> None:
    """Raise :class:`VectorMismatchError` unless two vectors have the same layers and width."""
    if first.layers != second.layers or first.d_model != second.d_model:
        raise VectorMismatchError(
            f"vectors: {first!r} and {second!r} differ in layers or width. Extract both from one model, at the same "
            "layers."
        )


def match_norms(vectors: Mapping[str, SteeringVector]) -> dict[str, SteeringVector]:
    """Rescale vectors, at every layer, to their mean norm at that layer (Rimsky et al. 2024, section 4).

    Parameters
    ----------
    vectors
        ``{behavior: vector}`` with the same layers and width.
    """
    vectors = named_vectors(vectors)
    first = next(iter(vectors.values()))
    for vector in vectors.values():
        check_same_shape(vector, first)
    mean = torch.stack([vector.norms for vector in vectors.values()]).mean(0)
    return {name: replace(vector, values=with_norms(vector.values, mean)) for name, vector in vectors.items()}


def with_norms(values: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    """Directions ``[n_layers, d_model]`` with other norms, ``[n_layers]``; those of no length are refused."""
    lengths = values.double().norm(dim=1)
    if not bool((lengths > 0).all()):
        raise InputError("vector: it is zero at some layer, so it has no direction to rescale. Leave that layer out.")
    return (values * (norms / lengths)[:, None]).to(values)


def without_part(values: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Take from each row of ``values``, ``[..., d_model]``, its projection on that of ``directions``; float64.

    What is left of a parallel row is rounding, which a large multiplier would make a direction: it becomes 0.
    """
    values, units = values.double(), torch.nn.functional.normalize(directions.double(), dim=-1)
    rest = values - (values * units).sum(dim=-1, keepdim=True) * units
    return rest * (rest.norm(dim=-1, keepdim=True) > 1e-5 * values.norm(dim=-1, keepdim=True))


def without(vector: SteeringVector, other: SteeringVector, layer: int) -> SteeringVector:
    """A vector at one layer minus its projection on another vector there, as in :func:`without_part`."""
    rest = without_part(vector.at(layer), other.at(layer))
    return replace(vector, values=rest[None].to(vector.values), layers=(layer,))


def same_model(first: str, second: str) -> bool:
    """Whether two names are of one model: their last parts decide where one has no organization.

    TransformerLens 3 keeps the last part alone.
    """
    if "/" in first and "/" in second:
        return first == second
    return short_name(first) == short_name(second)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[str, str] | None:
    """Names of the models in two sets of metadata, with what differs between them; None if nothing does."""
    names, revisions, processing = ((first.get(key), second.get(key)) for key in _IDENTITY)
    labels = [repr(name) for name in names]
    if None not in revisions and revisions[0] != revisions[1]:
        labels = [f"{name} at revision {str(one)[:12]!r}" for name, one in zip(labels, revisions, strict=True)]
    elif None not in processing and (processing[0] == CENTERED) != (processing[1] == CENTERED):
        labels = [f"{name} with weight processing {how!r}" for name, how in zip(labels, processing, strict=True)]
    elif None in names or same_model(*map(str, names)) or None not in revisions:
        return None
    return labels[0], labels[1]


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Entries that two sets of metadata of one model share, and what either of them knows of that model."""
    known = {key: one[key] for one in (second, first) for key in _IDENTITY if one.get(key) is not None}
    return {key: value for key, value in first.items() if key in second and second[key] == value} | known
