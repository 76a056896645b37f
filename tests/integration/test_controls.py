"""On a real chat model the vector steers, and what differs from it in its labels or its direction alone does not."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.controls import orthogonal_vectors, shuffled_vectors
from caa_interp.evaluation.summary import item_slopes
from caa_interp.statistics import bootstrap_mean

LAYER = 17
N_SHUFFLED = 3


@pytest.fixture(scope="module")
def held_out(embedded: Any) -> pd.DataFrame:
    optimism = caa.load_behavior("optimism")
    activations = caa.collect_activations(embedded, optimism.train[::2], format="text", layers=LAYER)
    values = caa.vectors.mean_difference(activations.positive, activations.negative)
    vector = caa.SteeringVector(values, activations.layers, {"model": activations.model})
    vectors = {
        "optimism": vector,
        **shuffled_vectors(activations, N_SHUFFLED),
        **orthogonal_vectors(vector, 1),
    }
    return caa.sweep(embedded, vectors, optimism.test[::2], format="text", multipliers=(-1.0, 1.0))


def test_the_vector_steers_and_shuffled_labels_do_not(held_out: pd.DataFrame) -> None:
    slopes = item_slopes(held_out).pivot(index="item", columns="vector", values="slope")
    shuffled = slopes[[f"shuffled {number}" for number in range(N_SHUFFLED)]]
    _, low, _ = bootstrap_mean(slopes["optimism"].to_numpy(), np.random.default_rng(0))
    assert low > 0
    # One control is one direction, and may do something of either sign; shuffling the labels as such does nothing.
    mean, low, high = bootstrap_mean(shuffled.to_numpy().mean(axis=1), np.random.default_rng(0))
    assert low < 0 < high
    assert slopes["optimism"].mean() > 2 * abs(mean)


def test_no_control_reaches_the_vector(held_out: pd.DataFrame) -> None:
    slopes = caa.steerability(held_out).set_index("vector")
    controls = slopes.drop("optimism")
    assert len(controls) == N_SHUFFLED + 1
    assert (slopes.loc["optimism", "slope"] > controls["slope"].abs()).all()
    # With two multipliers an item's correlation is the sign of its slope, in which one direction may have luck.
    assert slopes.loc["optimism", "rank_correlation"] > controls["rank_correlation"].mean()
