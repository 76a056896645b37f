"""What several tests on the embedded model share: pairs that steer it strongly, and their vector."""

from typing import Any

import pytest

import caa_interp as caa
from tests.integration.cheerful import CHEERFUL

N_TRAIN = 24


@pytest.fixture(scope="session")
def train_pairs() -> list[caa.ContrastPair]:
    return CHEERFUL[:N_TRAIN]


@pytest.fixture(scope="session")
def test_pairs() -> list[caa.ContrastPair]:
    return CHEERFUL[N_TRAIN:]


@pytest.fixture(scope="session")
def activations(embedded: Any, train_pairs: list[caa.ContrastPair]) -> caa.Activations:
    """Of the train pairs, as texts, at all layers."""
    return caa.collect_activations(embedded, train_pairs, format="text")


@pytest.fixture(scope="session")
def vector(activations: caa.Activations) -> caa.SteeringVector:
    return caa.vectors.vector_from_activations(activations, behavior="cheerful")
