"""Control vectors, which should have no effect of their own.

Each kind rules out one more explanation of an effect, and has the vector's norm at every layer, so that direction
alone differs:

1. random directions: any addition of that size would do it;
2. directions orthogonal to the vector: the same, without the chance likeness that a random direction has in a narrow
   model;
3. vectors of shuffled labels: any mean of differences between the same answers would do it, in the directions in
   which this model's answers to these questions vary;
4. another behavior's vector (:func:`rescaled_to`): any behavior would do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError, check_count
from caa_interp.vectors.activations import Activations, check_activations
from caa_interp.vectors.estimators import Estimator, mean_difference
from caa_interp.vectors.extraction import vector_from_activations
from caa_interp.vectors.vector import SteeringVector, check_same_shape, one_vector, with_norms, without_part


def vector_with_controls(
    activations: Activations,
    behavior: str,
    *,
    estimator: Estimator = mean_difference,
    n_random: int = 0,
    n_orthogonal: int = 0,
    n_shuffled: int = 0,
    seed: int = 0,
) -> dict[str, SteeringVector]:
    """Make the vector of a behavior, named by it, and so many controls of each kind."""
    check_control_names([behavior], random=n_random, orthogonal=n_orthogonal, shuffled=n_shuffled)
    vector = vector_from_activations(activations, estimator=estimator, behavior=behavior)
    vectors = {behavior: vector}
    if n_random:
        vectors |= random_vectors(vector, n_random, seed=seed)
    if n_orthogonal:
        vectors |= orthogonal_vectors(vector, n_orthogonal, seed=seed)
    if n_shuffled:
        vectors |= _shuffled(activations, vector, n_shuffled, seed)
    return vectors


def check_control_names(behaviors: Iterable[str], **counts: int) -> None:
    """Raise :class:`InputError` if a behavior has the name of one of its controls, which are so many of each kind."""
    controls = {f"{kind} {number}" for kind, count in counts.items() for number in range(count)}
    if taken := [name for name in behaviors if name in controls]:
        raise InputError(f"behaviors: {taken[0]!r} is also the name of one of its controls. Give it another name.")


def random_vectors(vector: SteeringVector, n: int = 20, *, seed: int = 0) -> dict[str, SteeringVector]:
    """Random directions with the same norm as ``vector`` at every layer.

    Parameters
    ----------
    vector, n, seed
        The vector to match, the number of controls, and the seed of their directions.

    Returns
    -------
    dict
        ``{"random 0": ..., ...}``; directions are uniform on the sphere and independent over layers.
    """
    return _controls(vector, "random", "random direction", n, seed, lambda generator: _directions(vector, generator))


def orthogonal_vectors(vector: SteeringVector, n: int = 20, *, seed: int = 0) -> dict[str, SteeringVector]:
    """Random directions orthogonal to ``vector``, with the same norm at every layer.

    Parameters
    ----------
    vector, n, seed
        As in :func:`random_vectors`; the vector's width is at least 2.

    Returns
    -------
    dict
        ``{"orthogonal 0": ..., ...}``; directions are uniform among the orthogonal ones and independent over layers.
        They are orthogonal to the vector, not to one another.
    """
    if one_vector(vector).d_model < 2:
        raise InputError("vector: its width is 1, where nothing is orthogonal to it; the least is 2.")

    def draw(generator: torch.Generator) -> torch.Tensor:
        return without_part(_directions(vector, generator), vector.values)

    # Many dimensions make a random direction nearly orthogonal already: drawn from the same numbers, the controls
    # of one seed would be those of random_vectors over again.
    return _controls(vector, "orthogonal", "random direction orthogonal to the vector", n, seed, draw, stream=1)


def shuffled_vectors(activations: Activations, n: int = 20, *, seed: int = 0) -> dict[str, SteeringVector]:
    """Vectors of the same pairs with shuffled labels, with the norm of their mean difference at every layer.

    Half of the pairs, chosen at random, have their answers exchanged before the mean difference is taken. What the
    pairs share cancels, and what is left is how they differ from one another. It is shorter than the vector (about
    one standard error of it), so it is rescaled to the same norm: direction alone differs.

    Parameters
    ----------
    activations
        Those that the vector was made of, at least two different pairs: nothing is run again. Both letter orders of a
        pair are exchanged together.
    n, seed
        Number of controls, and seed of the exchanges.

    Returns
    -------
    dict
        ``{"shuffled 0": ..., ...}``.

    Notes
    -----
    Exactly half are exchanged (if odd, one more is left as is). Independent coin flips would leave a share of the
    vector itself, of either sign, which rescaling would make larger: such a control steers.
    """
    return _shuffled(activations, vector_from_activations(activations), n, seed)


def _shuffled(activations: Activations, vector: SteeringVector, n: int, seed: int) -> dict[str, SteeringVector]:
    """As :func:`shuffled_vectors`, with the norms of a vector that was made of the activations."""
    distinct = check_activations(activations, n_pairs=2).different_pairs
    rows = torch.tensor(activations.pair_numbers)
    differences = activations.positive.double() - activations.negative.double()

    def draw(generator: torch.Generator) -> torch.Tensor:
        exchanged = torch.randperm(len(distinct), generator=generator) < len(distinct) // 2
        signs = 1 - 2 * exchanged[rows].double()
        return torch.einsum("p,pld->ld", signs, differences)

    return _controls(vector, "shuffled", "mean difference of shuffled labels", n, seed, draw)


def rescaled_to(vector: SteeringVector, reference: SteeringVector) -> SteeringVector:
    """Return ``vector`` with the norms of ``reference``, so that it can serve as its control.

    Parameters
    ----------
    vector, reference
        The vector to rescale, such as another behavior's, and a vector of the same layers and width.
    """
    one_vector(vector), one_vector(reference, "reference")
    check_same_shape(vector, reference)
    values = with_norms(vector.values, reference.norms)
    return replace(vector, values=values, metadata=dict(vector.metadata, kind="other"))


def _controls(
    vector: SteeringVector,
    kind: str,
    estimator: str,
    n: int,
    seed: int,
    draw: Callable[[torch.Generator], torch.Tensor],
    stream: int = 0,
) -> dict[str, SteeringVector]:
    """Controls by name; ``stream`` tells the random numbers of one kind from those of another with the same seed."""
    one_vector(vector)
    check_count("n", n)
    check_count("seed", seed, least=0)
    start = int(np.random.SeedSequence([seed, stream]).generate_state(1)[0]) if stream else seed
    generator = torch.Generator().manual_seed(start)
    controls = {}
    for number in range(n):
        name = f"{kind} {number}"
        metadata: dict[str, Any] = dict(vector.metadata, behavior=name, kind=kind, estimator=estimator, seed=seed)
        values = with_norms(draw(generator), vector.norms).to(vector.values)
        controls[name] = replace(vector, values=values, metadata=metadata)
    return controls


def _directions(vector: SteeringVector, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(vector.values.shape, generator=generator, dtype=torch.float64)
