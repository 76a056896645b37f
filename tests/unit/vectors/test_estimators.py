"""One contract for every estimator, and what each finds that the others do not."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

import caa_interp as caa

ESTIMATORS = [
    caa.vectors.mean_difference,
    caa.vectors.principal_difference,
    caa.vectors.logistic_probe,
    caa.vectors.whitened_mean_difference,
]
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.__name__)


def planted(n: int = 120, width: int = 24, size: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Two sides ``[n, 2, width]`` that differ by a direction of their own at each of two layers."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(2, width, generator=generator, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    noise = torch.randn(2, n, 2, width, generator=generator, dtype=torch.float64)
    offset = 5 * torch.randn(2, width, generator=generator, dtype=torch.float64)
    return noise[0] + offset + size * direction, noise[1] + offset, direction


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a, b, dim=-1)


@each
def test_a_planted_direction_is_found_at_every_layer(estimator):
    positive, negative, direction = planted(n=400)
    found = estimator(positive, negative)
    assert found.shape == direction.shape
    assert bool((cosine(found, direction) > 0.9).all())


@each
def test_the_norm_is_that_of_the_mean_difference_and_the_type_that_of_the_input(estimator):
    positive, negative, _ = planted()
    norms = caa.vectors.mean_difference(positive, negative).norm(dim=-1)
    torch.testing.assert_close(estimator(positive, negative).norm(dim=-1), norms)
    assert estimator(positive.float(), negative.float()).dtype == torch.float32


@each
def test_exchanging_the_sides_turns_the_vector_around(estimator):
    positive, negative, _ = planted()
    torch.testing.assert_close(estimator(negative, positive), -estimator(positive, negative), rtol=1e-4, atol=1e-4)


@each
def test_the_order_of_the_pairs_does_not_matter(estimator):
    positive, negative, _ = planted()
    order = torch.randperm(len(positive), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        estimator(positive[order], negative[order]), estimator(positive, negative), rtol=1e-4, atol=1e-4
    )


@each
def test_a_common_offset_and_a_scale_do_not_turn_it(estimator):
    positive, negative, _ = planted()
    moved = estimator(100 * positive + 7, 100 * negative + 7)
    assert bool((cosine(moved, estimator(positive, negative)) > 1 - 1e-6).all())


@each
def test_extraction_takes_it_and_says_so(estimator, tiny_llama, pairs):
    vector = caa.extract_vector(tiny_llama, pairs, format="text", layers=[1, 2], estimator=estimator)
    acts = caa.collect_activations(tiny_llama, pairs, format="text", layers=[1, 2])
    torch.testing.assert_close(vector.values, estimator(acts.positive, acts.negative))
    assert vector.metadata["estimator"] == estimator.__name__


def test_the_principal_direction_is_that_of_the_uncentered_differences():
    positive, negative, _ = planted(size=2.0)
    difference = (positive - negative)[:, 0].numpy()
    values, vectors = np.linalg.eigh(difference.T @ difference)
    found = caa.vectors.principal_difference(positive, negative)[0]
    assert abs(float(cosine(found, torch.from_numpy(vectors[:, np.argmax(values)])))) == pytest.approx(1)


def test_centering_would_lose_the_mean():
    """Pairs that all differ by the same step, and a little in another direction: the step is what counts."""
    step, other = torch.eye(8, dtype=torch.float64)[:2]
    noise = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    negative = torch.zeros(50, 8, dtype=torch.float64)
    positive = 3 * step + noise * other
    assert float(cosine(caa.vectors.principal_difference(positive, negative), step)) > 0.99
    centered = positive - positive.mean(0)
    assert abs(float(cosine(torch.linalg.svd(centered).Vh[0], step))) < 0.01


def test_whitening_equals_scikit_learns_shrunken_discriminant():
    positive, negative, _ = planted(n=30)
    stretch = torch.linspace(0.2, 6, 24, dtype=torch.float64)
    positive, negative = positive[:, :1] * stretch, negative[:, :1] * stretch
    found = caa.vectors.whitened_mean_difference(positive, negative)[0]
    centered = torch.cat([positive[:, 0] - positive[:, 0].mean(0), negative[:, 0] - negative[:, 0].mean(0)])
    from sklearn.covariance import LedoitWolf

    oracle = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=_Fixed(LedoitWolf(assume_centered=True).fit(centered.numpy()).covariance_)
    ).fit(torch.cat([positive, negative])[:, 0].numpy(), [1] * 30 + [0] * 30)
    assert float(cosine(found, torch.from_numpy(oracle.coef_[0]))) == pytest.approx(1, abs=1e-6)
    # The mean difference follows the stretched dimensions, the discriminant does not.
    assert float(cosine(caa.vectors.mean_difference(positive, negative)[0], found)) < 0.95


class _Fixed:
    """A covariance estimator that gives one covariance for both classes."""

    def __init__(self, covariance: np.ndarray) -> None:
        self.covariance_ = covariance

    def fit(self, _: np.ndarray) -> "_Fixed":
        return self

    def __sklearn_clone__(self) -> "_Fixed":
        return self


def test_the_probe_separates_what_it_was_fitted_to():
    positive, negative, _ = planted(size=6.0)
    found = caa.vectors.logistic_probe(positive, negative)
    ours, theirs = ((side * found).sum(-1) for side in (positive, negative))
    assert bool((ours.min(0).values > theirs.max(0).values).all())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_whitening_pairs_that_are_all_alike_is_refused(n):
    positive, negative, _ = planted(n=1)
    with pytest.raises(caa.InputError, match=r"pairs: all of them are alike, .* two different pairs, or"):
        caa.vectors.whitened_mean_difference(positive.repeat(n, 1, 1), negative.repeat(n, 1, 1))
