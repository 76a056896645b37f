"""Controls differ from their vector in direction alone, and do not steer where it does."""

from dataclasses import replace

import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.controls import orthogonal_vectors, rescaled_to, shuffled_vectors, vector_with_controls
from caa_interp.vectors.activations import Activations
from caa_interp.vectors.estimators import ESTIMATORS

LAYERS = (2, 5, 9)


def wide_vector(seed=0):
    values = torch.randn(3, 4096, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(values * torch.tensor([[0.1], [1.0], [50.0]]), LAYERS, {"model": "m", "behavior": "b"})


def cosines(one, other):
    return torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)


def activations(n_pairs=40, width=512, noise=1.0, orders=("",), seed=0):
    """Pairs whose positive side is shifted by 1 along the first axis, at every layer, in noise."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [caa.ContrastPair(f"Question {number}?", "Yes.", "No.") for number in range(n_pairs)]
    rows = [(pair, order) for pair in pairs for order in orders]
    sides = noise * torch.randn(2, len(rows), len(LAYERS), width, generator=generator)
    sides[0, :, :, 0] += 1
    return Activations(*sides, LAYERS, tuple(p for p, _ in rows), "text", tuple(o for _, o in rows), {"model": "tiny"})


def vector_of(found):
    return caa.SteeringVector(caa.vectors.mean_difference(found.positive, found.negative), found.layers)


def test_random_vectors_have_the_norms_and_no_other_likeness():
    vector = wide_vector()
    controls = caa.random_vectors(vector, n=5)
    assert list(controls) == [f"random {number}" for number in range(5)]
    directions = [vector.values]
    for control in controls.values():
        torch.testing.assert_close(control.norms, vector.norms)
        assert control.layers == (2, 5, 9)
        assert control.metadata["model"] == "m"
        assert control.metadata["estimator"] == "random direction"
        directions.append(control.values)
    rows = torch.nn.functional.normalize(torch.cat(directions), dim=1)
    assert float((rows @ rows.T - torch.eye(len(rows))).abs().max()) < 6 / 4096**0.5


def test_random_vectors_by_seed():
    vector = caa.SteeringVector(torch.ones(2, 16), (0, 1))
    one, same, other = (caa.random_vectors(vector, n=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one["random 1"].values, same["random 1"].values)
    assert not torch.equal(one["random 1"].values, other["random 1"].values)
    more = caa.random_vectors(vector, n=4)
    assert torch.equal(one["random 1"].values, more["random 1"].values)


def test_no_random_vectors():
    with pytest.raises(caa.InputError, match="n: 0; it must be a whole number of at least 1"):
        caa.random_vectors(caa.SteeringVector(torch.ones(2, 16), (0, 1)), n=0)

    with pytest.raises(caa.InputError, match="n: -1; it must be a whole number of at least 1"):
        orthogonal_vectors(wide_vector(), n=-1)
    with pytest.raises(caa.InputError, match="n: 0; it must be a whole number of at least 1"):
        shuffled_vectors(activations(), n=0)


def test_a_seed_is_a_whole_number():
    for seed in (0.5, -1):
        with pytest.raises(caa.InputError, match=f"seed: {seed}; it must be a whole number of at least 0"):
            caa.random_vectors(wide_vector(), seed=seed)


def test_orthogonal_vectors_are_so_at_every_layer_and_have_the_norms():
    vector = wide_vector()
    controls = orthogonal_vectors(vector, n=4)
    assert list(controls) == [f"orthogonal {number}" for number in range(4)]
    for control in controls.values():
        torch.testing.assert_close(control.norms, vector.norms)
        assert float(cosines(control.values, vector.values).abs().max()) < 1e-6
        assert control.metadata["model"] == "m"
        assert control.metadata["estimator"] == "random direction orthogonal to the vector"


def test_in_two_dimensions_only_one_line_is_orthogonal():
    vector = caa.SteeringVector(torch.tensor([[3.0, 4.0]]), (0,))
    for control in orthogonal_vectors(vector, n=5).values():
        torch.testing.assert_close(control.values.abs(), torch.tensor([[4.0, 3.0]]))
        assert float(control.values.prod()) < 0
    with pytest.raises(caa.InputError, match="vector: its width is 1, where nothing is orthogonal to it"):
        orthogonal_vectors(caa.SteeringVector(torch.ones(2, 1), (0, 1)))


@pytest.mark.parametrize("n_pairs", [40, 41])
def test_shuffled_vectors_are_mean_differences_of_half_exchanged_pairs(n_pairs):
    found = activations(n_pairs)
    (control,) = shuffled_vectors(found, n=1, seed=3).values()
    differences = (found.positive - found.negative).double()
    # Which pairs were exchanged follows from one layer alone: there are fewer pairs than axes.
    weights = torch.linalg.lstsq(differences[:, 0].T, control.at(2).double()[:, None]).solution[:, 0]
    assert set(torch.sign(weights).tolist()) == {1.0, -1.0}
    assert int((weights < 0).sum()) == n_pairs // 2
    expected = torch.einsum("p,pld->ld", torch.sign(weights), differences)
    assert float(cosines(control.values, expected).min()) > 1 - 1e-6
    torch.testing.assert_close(control.norms, vector_of(found).norms)
    assert control.metadata["estimator"] == "mean difference of shuffled labels"
    assert control.metadata["model"] == "tiny"


def test_shuffled_labels_lose_what_the_pairs_share_and_keep_how_they_vary():
    found = activations(60, noise=0.2)
    vector = vector_of(found)
    assert float(vector.values[:, 0].min()) > 0.9
    controls = shuffled_vectors(found, n=20)
    assert list(controls) == [f"shuffled {number}" for number in range(20)]
    likeness = torch.stack([cosines(control.values, vector.values) for control in controls.values()])
    assert float(likeness.abs().max()) < 0.2
    # Differences live in the span of those of the pairs; a random direction of this width hardly does.
    basis = torch.linalg.svd((found.positive - found.negative)[:, 0].double(), full_matrices=False).Vh
    inside = [float((basis @ c.at(2).double()).norm() / c.at(2).norm()) for c in controls.values()]
    assert min(inside) > 1 - 1e-6
    outside = [float((basis @ c.at(2).double()).norm() / c.at(2).norm()) for c in caa.random_vectors(vector).values()]
    assert max(outside) < 0.5


def test_both_letter_orders_of_a_pair_are_exchanged_together():
    apart = activations(12, orders=("AB", "BA"))
    averaged = Activations(
        *(side.unflatten(0, (12, 2)).mean(1) for side in (apart.positive, apart.negative)),
        LAYERS,
        apart.pairs[::2],
        "choices",
    )
    one, other = shuffled_vectors(apart, n=3), shuffled_vectors(averaged, n=3)
    for name, control in one.items():
        torch.testing.assert_close(control.values, other[name].values)


def test_shuffled_vectors_by_seed():
    found = activations()
    one, same, other = (shuffled_vectors(found, n=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one["shuffled 1"].values, same["shuffled 1"].values)
    assert not torch.equal(one["shuffled 1"].values, other["shuffled 1"].values)
    assert not torch.equal(one["shuffled 0"].values, one["shuffled 1"].values)
    assert torch.equal(one["shuffled 1"].values, shuffled_vectors(found, n=4)["shuffled 1"].values)


def test_one_pair_has_no_labels_to_shuffle():
    with pytest.raises(caa.InputError, match="activations: they hold 1 different pair, and 2 are needed"):
        shuffled_vectors(activations(1))


def test_another_vector_takes_the_norms_and_keeps_its_direction():
    vector, other = wide_vector(), 7.0 * wide_vector(seed=1)
    rescaled = rescaled_to(other, vector)
    torch.testing.assert_close(rescaled.norms, vector.norms)
    assert float(cosines(rescaled.values, other.values).min()) > 1 - 1e-6
    assert rescaled.metadata == {**other.metadata, "kind": "other"}


def test_every_control_tells_its_kind(tmp_path):
    vector = wide_vector()
    assert vector.kind == (2 * vector).kind == "vector"
    controls = {
        "random": caa.random_vectors(vector, n=1)["random 0"],
        "orthogonal": orthogonal_vectors(vector, n=1)["orthogonal 0"],
        "shuffled": shuffled_vectors(activations(4), n=1)["shuffled 0"],
        "other": rescaled_to(wide_vector(seed=1), vector),
    }
    for kind, control in controls.items():
        kept = caa.SteeringVector.load(control.save(tmp_path / "v.safetensors"))
        assert control.kind == (-control).kind == kept.kind == kind


def unit_vector(positive, negative):
    return torch.nn.functional.normalize((positive - negative).mean(0), dim=-1)


@pytest.mark.parametrize("estimator", [*ESTIMATORS.values(), unit_vector])
def test_controls_have_the_norms_of_the_vector_whatever_its_estimator(estimator):
    found = activations(12, width=32)
    numbers = {"n_random": 2, "n_orthogonal": 2, "n_shuffled": 2}
    vectors = vector_with_controls(found, "weather", estimator=estimator, **numbers, seed=3)
    assert {one.kind for one in vectors.values()} == {"vector", "random", "orthogonal", "shuffled"}
    for control in vectors.values():
        torch.testing.assert_close(control.norms, vectors["weather"].norms)
    if estimator is caa.vectors.mean_difference:
        shuffled = shuffled_vectors(found, 2, seed=3)
        assert shuffled == {name: vectors[name] for name in shuffled}


def test_a_vector_that_cannot_be_rescaled():
    with pytest.raises(
        caa.errors.VectorMismatchError, match=r"differ in layers or width\. Extract both from one model"
    ):
        rescaled_to(wide_vector(), caa.SteeringVector(torch.ones(3, 8), LAYERS))
    zero = replace(wide_vector(), values=torch.zeros(3, 4096))
    with pytest.raises(caa.InputError, match="vector: it is zero at some layer, so it has no direction to rescale"):
        rescaled_to(zero, wide_vector())


def test_kinds_of_controls_with_one_seed_are_different_directions():
    """In many dimensions a random direction is nearly orthogonal to the vector, so equal draws would show."""
    vector = caa.SteeringVector(torch.randn(1, 400, generator=torch.Generator().manual_seed(1)), (0,))
    ours = caa.random_vectors(vector, 3, seed=5)
    for number, other in enumerate(caa.evaluation.orthogonal_vectors(vector, 3, seed=5).values()):
        cosine = torch.nn.functional.cosine_similarity(ours[f"random {number}"].values, other.values)
        assert abs(float(cosine)) < 0.25
