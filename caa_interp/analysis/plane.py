"""Points in many dimensions as points on a plane: principal components, UMAP, t-SNE."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from caa_interp.errors import InputError, check_choice

Method = Literal["pca", "umap", "tsne"]

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


@dataclass(frozen=True)
class Plane:
    """A plane fitted to points: their coordinates ``[n_points, 2]`` on it, and how to place others.

    ``shares`` of their variance along each axis, 0 to 1, are NaN for UMAP and t-SNE. ``place`` maps further points
    ``[n, d]`` to ``[n, 2]``; it is None for t-SNE, which cannot.
    """

    placed: np.ndarray
    shares: tuple[float, float]
    place: Callable[[np.ndarray], np.ndarray] | None


def check_method(method: Method, n_points: int, what: str = "points") -> None:
    """Raise :class:`InputError` unless the method exists and ``n_points`` are enough for it."""
    check_choice("method", method, FEWEST)
    fewest = FEWEST[method]
    if n_points < fewest:
        other = ", or use method='pca'" if method != "pca" else ""
        raise InputError(f"{what}: {n_points} points; method {method!r} needs at least {fewest}. Give more{other}.")


def fit_plane(points: np.ndarray, method: Method, seed: int, what: str = "points") -> Plane:
    """Fit a plane to ``points`` ``[n_points, d]``, float64, by a method of :func:`caa_interp.analysis.project`.

    UMAP and t-SNE start from the principal components, which keeps the large-scale arrangement (Kobak and Linderman
    2021), and run in one thread, so that they repeat to the bit. ``what`` names the points in messages.
    """
    if (points == points[0]).all():
        raise InputError(f"{what}: all {len(points)} points are the same, so there is nothing to see on a plane.")
    return {"pca": _pca, "umap": _umap, "tsne": _tsne}[method](points, seed)


def _pca(points: np.ndarray, seed: int) -> Plane:
    from sklearn.decomposition import PCA

    # Truncated, so quick at any width, and exact to rounding; but it cannot return all components.
    solver = "arpack" if points.shape[1] > 2 else "full"
    fit = PCA(n_components=2, svd_solver=solver, random_state=seed).fit(points)
    x_share, y_share = fit.explained_variance_ratio_
    return Plane(fit.transform(points), (float(x_share), float(y_share)), fit.transform)


def _umap(points: np.ndarray, seed: int) -> Plane:
    with warnings.catch_warnings():
        # UMAP warns about missing TensorFlow, which is not needed here.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    with _threads_kept():
        fit = UMAP(n_neighbors=N_NEIGHBORS, init="pca", random_state=seed, n_jobs=1).fit(points)
    return Plane(fit.embedding_.astype(np.float64), (np.nan, np.nan), _threads_kept()(fit.transform))


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Give PyTorch its number of threads back: Numba, on which UMAP runs, sets it to that of all cores."""
    n_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _tsne(points: np.ndarray, seed: int) -> Plane:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # The order of sums differs between threads, and the descent amplifies it.
    with threadpool_limits(limits=1, user_api="openmp"):
        placed = TSNE(perplexity=PERPLEXITY, init="pca", random_state=seed).fit_transform(points)
    return Plane(placed.astype(np.float64), (np.nan, np.nan), None)
