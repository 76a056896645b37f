"""Activations and steering vectors as points on a plane (Rimsky et al. 2024, section 3.2 and its appendix).

1. Take the activations of both sides of every pair at a layer.
2. Project them onto their first two principal components (or a neighbor embedding: UMAP, t-SNE).
3. The layers at which clusters appear show where a behavior becomes a direction.

Beyond the paper: several behaviors on one map, held-out activations, maps of vectors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import InputError, by_text, check_choice
from caa_interp.models.access import shared_layers
from caa_interp.vectors.activations import Activations, check_activations
from caa_interp.vectors.vector import SteeringVector, check_widths, direction_at, named_vectors, same_model

Method = Literal["pca", "umap", "tsne"]
Fit = Literal["each", "shared"]

# The usual values of both methods.
N_NEIGHBORS = 15
PERPLEXITY = 30
SETTINGS: dict[Method, dict[str, int]] = {
    "pca": {},
    "umap": {"n_neighbors": N_NEIGHBORS},
    "tsne": {"perplexity": PERPLEXITY},
}
# Three points make a plane; neighbors, and a perplexity, must be fewer than the points.
FEWEST: dict[Method, int] = {"pca": 3, "umap": N_NEIGHBORS + 1, "tsne": PERPLEXITY + 1}


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
        0-based block indices; default: those that all of the activations have.
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
        If activations differ in width, format or model, lack a layer or have none in common, if the points are too few
        or all the same, or if the method is unknown.
    """
    check_choice("fit", fit, get_args(Fit))
    if held_out is not None and isinstance(held_out, Activations) != isinstance(activations, Activations):
        raise InputError("held_out: give it as activations are given, either one of them or a mapping of names.")
    groups = _named(activations, "activations")
    others = {} if held_out is None else _named(held_out, "held_out")
    every = {**_labelled(groups, "activations"), **_labelled(others, "held_out")}
    _check_alike(every)
    chosen = shared_layers(layers, {label: group.layers for label, group in every.items()})
    batches = [chosen] if fit == "shared" else [[layer] for layer in chosen]
    _check_method(method, sum(2 * len(group.pairs) for group in groups.values()) * len(batches[0]), "activations")
    if others and method == "tsne":
        raise InputError("held_out: t-SNE cannot place further points. Use method='pca' or 'umap'.")

    frames = []
    for batch in batches:
        points = _points(groups, batch)
        further = _points(others, batch) if others else points[:0]
        labels = _labels({"fit": groups, "held out": others}, batch)
        what = f"activations at layer {', '.join(map(str, batch))}"
        frames.append(labels.assign(**_on_plane(points, further, method, seed, what)))
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
        As in :func:`project`; by default the layers that all of the vectors have.
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
        If the vectors differ in width, or have no layer in common.
    """
    named = named_vectors(vectors)
    check_widths(named)
    every = _labelled(named, "vectors")
    chosen = shared_layers(layers, {label: vector.layers for label, vector in every.items()})
    _check_method(method, len(named) * len(chosen), "vectors")
    values = points = torch.cat([vector.at_layers(chosen).values.double() for vector in named.values()])
    if normalize:
        advice = "Leave it out, or give normalize=False."
        units = [direction_at(vector, layer, label, advice) for label, vector in every.items() for layer in chosen]
        points = torch.stack(units)
    names = [name for name in named for _ in chosen]
    table = pd.DataFrame({"vector": names, "layer": chosen * len(named), "norm": values.norm(dim=1).numpy()})
    table = table.assign(**_on_plane(points.numpy(), points[:0].numpy(), method, seed, "vectors"))
    table = table.assign(method=method, normalize=normalize, seed=seed, **SETTINGS[method])
    table["model"] = [named[name].metadata.get("model") for name in names]
    return table


def _points(groups: Mapping[str, Activations], layers: Sequence[int]) -> np.ndarray:
    """Points of all groups, ``[n_layers * n_points, d_model]``: layer by layer, each group's positive side first."""
    taken = [group.at_layers(layers) for group in groups.values()]
    sides = torch.cat([side for group in taken for side in (group.positive, group.negative)])
    return sides.double().transpose(0, 1).flatten(0, 1).numpy()


def _labels(splits: Mapping[str, Mapping[str, Activations]], layers: Sequence[int]) -> pd.DataFrame:
    """Label columns of each point, in the order of :func:`_points` of one split after the other."""
    rows = [
        (name, item, pair.id, pair.topic, order, side, split, layer)
        for split, groups in splits.items()
        for layer in layers
        for name, group in groups.items()
        for side in ("positive", "negative")
        for item, pair, order in zip(group.items, group.pairs, group.orders, strict=True)
    ]
    return pd.DataFrame(rows, columns=["behavior", "item", "id", "topic", "order", "side", "split", "layer"])


def _check_method(method: Method, n_points: int, what: str) -> None:
    """Raise :class:`InputError` unless the method exists and ``n_points`` are enough for it."""
    check_choice("method", method, FEWEST)
    fewest = FEWEST[method]
    if n_points < fewest:
        other = ", or use method='pca'" if method != "pca" else ""
        raise InputError(f"{what}: {n_points} points; method {method!r} needs at least {fewest}. Give more{other}.")


def _on_plane(points: np.ndarray, further: np.ndarray, method: Method, seed: int, what: str) -> dict[str, Any]:
    """Columns ``x``, ``y``, ``x_share`` and ``y_share`` of ``points`` and ``further`` ones, of which t-SNE takes none.

    The plane is fitted to ``points`` ``[n_points, d]``, float64, alone. UMAP and t-SNE start from the principal
    components, which keeps the large-scale arrangement (Kobak and Linderman 2021), and run in one thread, so that they
    repeat to the bit. ``what`` names the points in messages.
    """
    if (points == points[0]).all():
        raise InputError(f"{what}: all {len(points)} points are the same, so there is nothing to see on a plane.")
    shares = (np.nan, np.nan)
    if method == "pca":
        placed, shares = _pca(points, further, seed)
    else:
        placed = _umap(points, further, seed) if method == "umap" else _tsne(points, seed)
    return {"x": placed[:, 0], "y": placed[:, 1], "x_share": shares[0], "y_share": shares[1]}


def _pca(points: np.ndarray, further: np.ndarray, seed: int) -> tuple[np.ndarray, tuple[float, float]]:
    from sklearn.decomposition import PCA

    # Truncated, so quick at any width, and exact to rounding; but it cannot return all components.
    solver = "arpack" if points.shape[1] > 2 else "full"
    fit = PCA(n_components=2, svd_solver=solver, random_state=seed).fit(points)
    x_share, y_share = fit.explained_variance_ratio_
    return fit.transform(np.concatenate([points, further])), (float(x_share), float(y_share))


def _umap(points: np.ndarray, further: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # UMAP warns about missing TensorFlow, which is not needed here.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    with _threads_kept():
        fit = UMAP(n_neighbors=N_NEIGHBORS, init="pca", random_state=seed, n_jobs=1).fit(points)
        placed = [fit.embedding_, *([fit.transform(further)] if len(further) else [])]
    return np.concatenate(placed).astype(np.float64)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Give PyTorch its number of threads back: Numba, on which UMAP runs, sets it to that of all cores."""
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _tsne(points: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # The order of sums differs between threads, and the descent amplifies it.
    with threadpool_limits(limits=1, user_api="openmp"):
        placed = TSNE(perplexity=PERPLEXITY, init="pca", random_state=seed).fit_transform(points)
    return placed.astype(np.float64)


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
    for (label, one), (other_label, other) in combinations(every.items(), 2):
        for what, mine, theirs in (
            ("width", one.d_model, other.d_model),
            ("format", one.format, other.format),
            ("model", one.model, other.model),
        ):
            same = mine == theirs or (what == "model" and same_model(str(mine), str(theirs)))
            if not same and None not in (mine, theirs):
                raise InputError(
                    f"{other_label}: its {what} is {theirs!r}, but that of {label} is {mine!r}. Points of one map "
                    "must come from one model, read in one way."
                )
