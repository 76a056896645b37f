"""From activations to a direction: the paper's mean difference, and alternatives.

An estimator is a function ``(positive, negative) -> vector`` from two tensors ``[n_pairs, ..., d_model]`` to a vector
``[..., d_model]``. All estimators point from negative to positive and have the norm of the mean difference, so only
their directions differ and a multiplier means the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError

Estimator = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def mean_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of (positive - negative), the paper's estimator (Rimsky et al. 2024, section 3).

    Parameters
    ----------
    positive, negative
        ``[n_pairs, ..., d_model]``.

    Returns
    -------
    torch.Tensor
        ``[..., d_model]``, summed in float64, in the type of ``positive``.
    """
    return (positive.double() - negative.double()).mean(0).to(positive)


def principal_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """First principal direction of the pairs' differences, not centered (Zou et al. 2023, section 3.1).

    Centering would remove the mean difference itself. Shapes as in :func:`mean_difference`.
    """

    def direction(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        _, _, rows = torch.linalg.svd(ours - theirs, full_matrices=False)
        return rows[0]

    return _like_mean_difference(positive, negative, direction)


def logistic_probe(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Normal of the plane that a logistic regression puts between the two sides.

    Activations are divided by their overall root mean square; the penalty is scikit-learn's default (C = 1). Shapes
    as in :func:`mean_difference`.
    """
    from sklearn.linear_model import LogisticRegression

    def direction(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        points = torch.cat([ours, theirs])
        points = points - points.mean(0)
        scale = points.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
        sides = np.repeat([1, 0], len(ours))
        fitted = LogisticRegression(max_iter=1000).fit((points / scale).numpy(), sides)
        return torch.from_numpy(fitted.coef_[0])

    return _like_mean_difference(positive, negative, direction)


def whitened_mean_difference(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean difference whitened by the covariance within the sides, as in linear discriminant analysis.

    The covariance is shrunk toward a multiple of the identity (Ledoit and Wolf 2004), since there are usually fewer
    pairs than dimensions. Shapes as in :func:`mean_difference`; at least two different pairs.
    """
    from sklearn.covariance import ledoit_wolf

    def direction(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        if all(torch.allclose(side, side[:1]) for side in (ours, theirs)):
            raise InputError(
                "pairs: all of them are alike, and whitened_mean_difference needs a spread within the sides. Give at "
                "least two different pairs, or another estimator."
            )
        within = torch.cat([ours - ours.mean(0), theirs - theirs.mean(0)])
        covariance, _ = ledoit_wolf(within.numpy(), assume_centered=True)
        return torch.linalg.lstsq(torch.from_numpy(covariance), (ours - theirs).mean(0)[:, None]).solution[:, 0]

    return _like_mean_difference(positive, negative, direction)


ESTIMATORS: dict[str, Estimator] = {
    one.__name__: one for one in (mean_difference, principal_difference, logistic_probe, whitened_mean_difference)
}


def estimator_named(text: str) -> Estimator:
    """Return the estimator with this name, or raise :class:`InputError`."""
    if text not in ESTIMATORS:
        raise InputError(f"estimator: {text!r}; give one of {', '.join(ESTIMATORS)}.")
    return ESTIMATORS[text]


def check_name(behavior: Any) -> None:
    """Raise :class:`InputError` unless the name of a vector's behavior is a text or None."""
    if behavior is not None and not isinstance(behavior, str):
        raise InputError(f"behavior: {type(behavior).__name__}; give its name, a text such as behavior.name.")


def check_estimator(estimator: Any) -> None:
    """Raise :class:`InputError` unless an estimator is a function."""
    if not callable(estimator):
        raise InputError(
            f"estimator: {estimator!r}; it must be a function of both sides, such as caa.vectors.mean_difference. Give "
            f"one of your own, or of caa.vectors: {', '.join(ESTIMATORS)}."
        )


def _like_mean_difference(
    positive: torch.Tensor,
    negative: torch.Tensor,
    direction: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Apply ``direction`` at every layer; give the results the norm and the sign of the mean difference."""
    mean = mean_difference(positive.double(), negative.double())
    places = mean.reshape(-1, mean.shape[-1])
    ours, theirs = (side.double().reshape(len(side), *places.shape) for side in (positive, negative))
    directions = torch.stack([direction(ours[:, place], theirs[:, place]) for place in range(len(places))])
    signs = torch.where((directions * places).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    lengths = places.norm(dim=-1, keepdim=True) / directions.norm(dim=-1, keepdim=True)
    return (directions * signs * lengths).reshape(mean.shape).to(positive)
