"""Points in many dimensions as points on a plane: principal components, UMAP, t-SNE. numpy in, numpy out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from caa_interp.errors import InputError

Method = Literal["pca", "umap", "tsne"]

# The usual values of both methods.
N_NEIGHBORS = 15
PERPLEXITY = 30
SETTINGS: dict[Method, dict[str, int]] = {
    "pca": {},
    "umap": {"n_neighbors": N_NEIGHBORS},
    "tsne": {"perplexity": PERPLEXITY},
}
# Three points make a plane; a perplexity must be less than the number of points.
FEWEST: dict[Method, int] = {"pca": 3, "umap": 3, "tsne": PERPLEXITY + 1}


@dataclass(frozen=True)
class Plane:
    """A plane that was fitted to points.

    Attributes
    ----------
    placed
        Where the points are on it, ``[n_points, 2]``.
    shares
        Share of their variance along each axis, 0 to 1; NaN for UMAP and t-SNE.
    place
        Returns the places ``[n, 2]`` of further points ``[n, d]``; None for t-SNE, which has no such step.
    """

    placed: np.ndarray
    shares: tuple[float, float]
    place: Callable[[np.ndarray], np.ndarray] | None


def check_method(method: Method, n_points: int, what: str = "points") -> None:
    """Raise :class:`InputError` unless there is such a method, and ``n_points`` are enough for it."""
    if method not in FEWEST:
        raise InputError(f"method: {method!r} is not one of {', '.join(map(repr, FEWEST))}.")
    fewest = FEWEST[method]
    if n_points < fewest:
        other = ", or use method='pca'" if method == "tsne" else ""
        raise InputError(f"{what}: {n_points} points; method {method!r} needs at least {fewest}. Give more{other}.")


def fit_plane(points: np.ndarray, method: Method, seed: int, what: str = "points") -> Plane:
    """Fit a plane.

    Parameters
    ----------
    points
        ``[n_points, d]``, float64, as many as :func:`check_method` asks for.
    method
        ``"pca"``: exact; the entry of each component that is largest in absolute value is positive. ``"umap"``: with
        15 neighbors, fewer if there are not as many. ``"tsne"``: with perplexity 30. Both start from the principal
        components, which keeps the large-scale arrangement (Kobak and Linderman 2021), and run in one thread, so
        that they repeat to the bit.
    seed
        Seed of UMAP and t-SNE; the principal components do not depend on it.
    what
        Name of the points in messages.
    """
    if (points == points[0]).all():
        raise InputError(f"{what}: all {len(points)} points are the same, so there is nothing to see on a plane.")
    return {"pca": _pca, "umap": _umap, "tsne": _tsne}[method](points, seed)


def _pca(points: np.ndarray, seed: int) -> Plane:
    from sklearn.decomposition import PCA

    # Truncated, so quick at any width, and exact to rounding; but it cannot give all components there are.
    solver = "arpack" if points.shape[1] > 2 else "full"
    fit = PCA(n_components=2, svd_solver=solver, random_state=seed).fit(points)
    x_share, y_share = fit.explained_variance_ratio_
    return Plane(fit.transform(points), (float(x_share), float(y_share)), fit.transform)


def _umap(points: np.ndarray, seed: int) -> Plane:
    with warnings.catch_warnings():
        # It says that it has no TensorFlow, which nothing here needs.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    n_neighbors = min(N_NEIGHBORS, len(points) - 1)
    fit = UMAP(n_neighbors=n_neighbors, init="pca", random_state=seed, n_jobs=1).fit(points)
    return Plane(fit.embedding_.astype(np.float64), (np.nan, np.nan), fit.transform)


def _tsne(points: np.ndarray, seed: int) -> Plane:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Three or more threads add up in an order of their own, and the descent makes that visible.
    with threadpool_limits(limits=1, user_api="openmp"):
        placed = TSNE(perplexity=PERPLEXITY, init="pca", random_state=seed).fit_transform(points)
    return Plane(placed.astype(np.float64), (np.nan, np.nan), None)
