"""What several tests on the embedded model share: a behavior that steers it, and its vector."""

from typing import Any

import pytest

import caa_interp as caa


@pytest.fixture(scope="session")
def optimism() -> caa.Behavior:
    return caa.load_behavior("optimism")


@pytest.fixture(scope="session")
def activations(embedded: Any, optimism: caa.Behavior) -> caa.Activations:
    """Of every fifth train pair, as texts, at all layers."""
    return caa.collect_activations(embedded, optimism.train[::5], format="text")


@pytest.fixture(scope="session")
def vector(activations: caa.Activations) -> caa.SteeringVector:
    return caa.vectors.vector_from_activations(activations, behavior="optimism")
