"""Through which parts and where a vector acts in the embedded model."""

from typing import Any

import pandas as pd
import pytest

import caa_interp as caa

MULTIPLIER = 2.0


@pytest.fixture(scope="module")
def effects(embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector) -> dict[int, float]:
    """What a sweep finds, per unit of the multiplier."""
    table = caa.sweep(embedded, vector, test_pairs[:4], layers=[16, 26], multipliers=(0, MULTIPLIER), progress=False)
    means = table.groupby(["layer", "multiplier"])["logit_difference"].mean().unstack()
    return ((means[MULTIPLIER] - means[0.0]) / MULTIPLIER).to_dict()


@pytest.mark.parametrize("per", ["component", "head"])
def test_parts_sum_to_the_effect_that_a_sweep_scores(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector, effects: dict[int, float], per: Any
) -> None:
    table = caa.analysis.effect_attribution(
        embedded, vector, test_pairs[:4], layer=26, multiplier=MULTIPLIER, per=per, patch=False, progress=False
    )
    assert effects[26] > 1e-2
    assert table["effect"].iloc[0] == pytest.approx(effects[26], abs=1e-4)
    parts = table[table["component"] != "remainder"]
    assert parts["contribution"].sum() == pytest.approx(effects[26], abs=1e-4)
    assert len(parts) == 1 + 3 * (2 if per == "component" else 10)


def test_a_cheerful_vector_acts_all_along_the_answer(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector, effects: dict[int, float]
) -> None:
    table = caa.analysis.position_map(
        embedded, vector, test_pairs[:4], layer=16, multiplier=MULTIPLIER, n_tokens=3, progress=False
    )
    by_place = table[table["measure"] == "effect"].set_index("steered")["value"]
    assert by_place["from the last prompt token on"] == pytest.approx(effects[16], abs=1e-4)
    assert by_place["from the last prompt token on"] > by_place[1:].max() > 0
    pulse: pd.DataFrame = table[table["measure"] == "projection"].pivot(
        index="distance", columns="layer", values="value"
    )
    # It stays where it was added, and attention carries a little of it on.
    assert (pulse.loc[0] > 0.5).all()
    assert 0 < pulse.loc[1:, 29].min() < pulse.loc[1:, 29].max() < 0.5 * pulse.loc[0, 29]
