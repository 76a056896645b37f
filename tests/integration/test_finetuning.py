"""On a real chat model, fine-tuning teaches letters that the model cannot use, and a vector still works on top."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.finetuning import fine_tune
from caa_interp.statistics import bootstrap_mean

LAYER = 16

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def behavior() -> caa.Behavior:
    return caa.load_behavior("hallucination")


@pytest.fixture(scope="module")
def vector(embedded: Any, behavior: caa.Behavior) -> caa.SteeringVector:
    return caa.extract_vector(embedded, behavior.train[:48], format="text", layers=LAYER)


@pytest.fixture(scope="module")
def tuned(embedded: Any, behavior: caa.Behavior, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained on the letters of 120 pairs, written and loaded again."""
    folder = tmp_path_factory.mktemp("tuned") / "smollm2-hallucination"
    fine_tune(embedded, behavior.train[:120], output=folder)
    return caa.load_model(folder)


def accuracy(table: pd.DataFrame) -> tuple[float, float, float]:
    """Share of letter orders that are answered positively, unsteered, with its interval over items."""
    unsteered = table[table["multiplier"] == 0]
    right = (unsteered["logit_difference"] > 0).groupby(unsteered["item"]).mean()
    mean, low, high = bootstrap_mean(right.to_numpy(), np.random.default_rng(0))
    return float(mean), float(low), float(high)


def test_letters_are_learned(embedded: Any, tuned: Any, vector: caa.SteeringVector, behavior: caa.Behavior) -> None:
    _, low, high = accuracy(caa.sweep(embedded, vector, behavior.test[::2], multipliers=(0.0,)))
    assert low <= 0.5 <= high
    table = caa.sweep(tuned, vector.transferred_to(tuned), behavior.test, multipliers=(0.0,))
    mean, low, _ = accuracy(table)  # measured: 0.87 of 50 pairs
    assert mean > 0.65
    assert low > 0.5
    # In either order: it is not one of the letters that was learned.
    by_order = (table["logit_difference"] > 0).groupby(table["order"]).mean()
    assert by_order.min() > 0.6
    # The two letters have nearly all of the probability.
    assert np.exp(table[["log_p_positive", "log_p_negative"]]).sum(axis=1).mean() > 0.9
    summary = caa.summarize(table).iloc[0]
    assert summary["p_positive_low"] > 0.5


def test_the_vector_of_the_untuned_model_steers_the_tuned_one(
    tuned: Any, vector: caa.SteeringVector, behavior: caa.Behavior
) -> None:
    """On its answers: measured 0.029 nats per token per unit of multiplier, against 0.036 in the untuned model."""
    table = caa.sweep(tuned, vector.transferred_to(tuned), behavior.test, format="text", multipliers=(-2.0, 2.0))
    assert caa.steerability(table)["slope_low"].item() > 0
