"""Activations and steering vectors as points on a plane (Rimsky et al. 2024, section 3.2 and its appendix).

1. Take the activations of both sides of every pair at a layer.
2. Project them onto their first two principal components (or a neighbor embedding: UMAP, t-SNE).
3. The layers at which clusters appear show where a behavior becomes a direction.

Beyond the paper: several behaviors on one map, held-out activations, maps of vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from caa_interp.analysis.plane import SETTINGS, Method, check_method, fit_plane
from caa_interp.errors import InputError, by_text, check_choice
from caa_interp.models.access import check_layers
from caa_interp.vectors.activations import Activations, check_activations
from caa_interp.vectors.vector import SteeringVector, check_widths, direction_at, named_vectors, same_model

Fit = Literal["each", "shared"]


def project(
    activations: Activations | Mapping[str, Activations],
    *,
    method: Method = "pca",
    layers: int | Sequence[int] | None = None,
    fit: Fit = "each",
    held_out: Activations | Mapping[str, Activations] | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Project activations to two dimensions, at every layer.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations`, or several on one map, ``{behavior: activations}``, from one
        model in one format.
    method
        ``"pca"``: exact principal components, each with its largest entry positive. ``"umap"``: UMAP with 15
        neighbors, for more than 15 points. ``"tsne"``: t-SNE with perplexity 30, for more than 30 points. Both start
        from the principal components (Kobak and Linderman 2021).
    layers
        0-based block indices; default: all of the activations'.
    fit
        ``"each"`` (default): one map per layer. ``"shared"``: one map for all layers, so that coordinates can be
        compared between layers.
    held_out
        Further activations, given like ``activations``, to place on the map without fitting it to them; not with
        t-SNE.
    seed
        Seed of UMAP and t-SNE; the principal components do not depend on it.

    Returns
    -------
    pandas.DataFrame
        One row per behavior, row of the activations, side and layer:

        - ``behavior`` (``""`` if not named), ``item`` (0-based number of the pair), ``id``, ``topic``,
          ``order`` (as in :class:`Activations`), ``side`` (``"positive"`` or ``"negative"``), ``split`` (``"fit"`` or
          ``"held out"``), ``layer``;
        - ``x``, ``y``: for PCA in units of the residual stream, with the mean of the fitted points at 0;
        - ``x_share``, ``y_share``: share of the fitted points' variance along each component, 0 to 1; only for PCA;
        - ``method``, ``fit``, ``seed``, ``format``, ``model``, and ``n_neighbors`` of UMAP or ``perplexity`` of t-SNE.

    Raises
    ------
    InputError
        If activations differ in layers, width, format or model, if the points are too few or all the same, or if the
        method is unknown.
    """
    check_choice("fit", fit, get_args(Fit))
    if held_out is not None and isinstance(held_out, Activations) != isinstance(activations, Activations):
        raise InputError("held_out: give it as activations are given, either one of them or a mapping of names.")
    groups = _named(activations, "activations")
    others = {} if held_out is None else _named(held_out, "held_out")
    every = {**_labelled(groups, "activations"), **_labelled(others, "held_out")}
    _check_alike(every)
    chosen = _common_layers(every, layers)
    batches = [chosen] if fit == "shared" else [[layer] for layer in chosen]
    check_method(method, sum(2 * len(group.pairs) for group in groups.values()) * len(batches[0]), "activations")
    if others and method == "tsne":
        raise InputError("held_out: t-SNE cannot place further points. Use method='pca' or 'umap'.")

    frames = []
    for batch in batches:
        plane = fit_plane(_points(groups, batch), method, seed, f"activations at layer {', '.join(map(str, batch))}")
        frames.append(_with_places(_labels(groups, batch, "fit"), plane.placed, plane.shares))
        if others and plane.place is not None:
            placed = plane.place(_points(others, batch))
            frames.append(_with_places(_labels(others, batch, "held out"), placed, plane.shares))
    table = pd.concat(frames, ignore_index=True).sort_values("layer", kind="stable", ignore_index=True)
    first = next(iter(groups.values()))
    return table.assign(method=method, fit=fit, seed=seed, format=first.format, model=first.model, **SETTINGS[method])


def project_vectors(
    vectors: SteeringVector | Mapping[str, SteeringVector],
    *,
    method: Method = "pca",
    layers: int | Sequence[int] | None = None,
    normalize: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Project the vectors of all layers to two dimensions, on one map.

    Parameters
    ----------
    vectors
        One vector, or several by name, all of one width; they may be of different models.
    method, layers, seed
        As in :func:`project`.
    normalize
        Divide each vector by its norm first (default), so that the map shows directions. Otherwise it mostly shows
        that norms grow with depth.

    Returns
    -------
    pandas.DataFrame
        One row per vector and layer: ``vector``, ``layer``, ``norm`` (of the vector as given, in units of the
        residual stream), ``x``, ``y``, ``x_share`` and ``y_share`` as in :func:`project`, and ``method``,
        ``normalize``, ``seed``, ``n_neighbors`` of UMAP or ``perplexity`` of t-SNE, and ``model`` (missing where a
        vector does not say).

    Raises
    ------
    InputError
        If there are too few points, if they are all the same, or if a vector to be normalized is zero.
    VectorMismatchError
        If the vectors differ in width.
    """
    named = named_vectors(vectors)
    check_widths(named)
    every = _labelled(named, "vectors")
    chosen = _common_layers(every, layers)
    check_method(method, len(named) * len(chosen), "vectors")
    if normalize:
        for label, vector in every.items():
            for layer in chosen:
                direction_at(vector, layer, label, "Leave it out, or give normalize=False.")
    values = np.concatenate([vector.at_layers(chosen).values.double().numpy() for vector in named.values()])
    norms = np.linalg.norm(values, axis=-1)
    plane = fit_plane(values / norms[:, None] if normalize else values, method, seed, "vectors")
    names = [name for name in named for _ in chosen]
    table = pd.DataFrame({"vector": names, "layer": chosen * len(named), "norm": norms})
    table = _with_places(table, plane.placed, plane.shares)
    table = table.assign(method=method, normalize=normalize, seed=seed, **SETTINGS[method])
    table["model"] = [named[name].metadata.get("model") for name in names]
    return table


def _points(groups: Mapping[str, Activations], layers: Sequence[int]) -> np.ndarray:
    """Points of all groups, ``[n_layers * n_points, d_model]``: layer by layer, each group's positive side first."""
    taken = [group.at_layers(layers) for group in groups.values()]
    sides = torch.cat([side for group in taken for side in (group.positive, group.negative)])
    return sides.double().transpose(0, 1).flatten(0, 1).numpy()


def _labels(groups: Mapping[str, Activations], layers: Sequence[int], split: str) -> pd.DataFrame:
    """Label columns of each point, in the order of :func:`_points`."""
    rows = [
        (name, item, pair.id, pair.topic, order, side, split, layer)
        for layer in layers
        for name, group in groups.items()
        for side in ("positive", "negative")
        for item, pair, order in zip(group.items, group.pairs, group.orders, strict=True)
    ]
    return pd.DataFrame(rows, columns=["behavior", "item", "id", "topic", "order", "side", "split", "layer"])


def _with_places(table: pd.DataFrame, placed: np.ndarray, shares: tuple[float, float]) -> pd.DataFrame:
    return table.assign(x=placed[:, 0], y=placed[:, 1], x_share=shares[0], y_share=shares[1])


def _named(given: Any, what: str) -> dict[str, Activations]:
    """Activations by name; those that are alone have none."""
    if isinstance(given, Mapping) and not given:
        raise InputError(f"{what}: the mapping is empty; give at least one result of collect_activations.")
    if not isinstance(given, Mapping):
        return {"": check_activations(given, what)}
    return {name: check_activations(one, f"{what}[{name!r}]") for name, one in by_text(given, what).items()}


def _labelled(groups: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Activations or vectors by their name in messages."""
    return {f"{what}[{name!r}]" if name else what: group for name, group in groups.items()}


def _check_alike(every: Mapping[str, Activations]) -> None:
    """Raise :class:`InputError` unless all activations are of one width, format and model."""
    label, first = next(iter(every.items()))
    for other_label, other in every.items():
        for what, mine, theirs in (
            ("width", first.d_model, other.d_model),
            ("format", first.format, other.format),
            ("model", first.model, other.model),
        ):
            same = mine == theirs or (what == "model" and same_model(str(mine), str(theirs)))
            if not same and None not in (mine, theirs):
                raise InputError(
                    f"{other_label}: its {what} is {theirs!r}, but that of {label} is {mine!r}. Points of one map "
                    "must come from one model, read in one way."
                )


def _common_layers(every: Mapping[str, Any], layers: int | Sequence[int] | None) -> list[int]:
    """Return ``layers`` if all groups have them; by default all layers, which must then be the same."""
    label, first = next(iter(every.items()))
    for other_label, other in every.items():
        if layers is None and set(other.layers) != set(first.layers):
            raise InputError(
                f"{other_label}: its layers are {list(other.layers)}, but those of {label} are {list(first.layers)}. "
                "Name layers that all have."
            )
        check_layers(layers, other.layers, other_label)
    return check_layers(layers, first.layers, label)
