"""Whether a vector steers, in one word: its slope and interval beside the slopes of its controls."""

from __future__ import annotations

import numpy as np
import pandas as pd

from caa_interp.errors import check_table
from caa_interp.evaluation.summary import SERIES

# What each verdict means, from what a vector is made for to what says nothing about it.
VERDICTS = {
    "steers": "The interval of the slope excludes 0, and the slope is larger than that of every control, whatever the "
    "control's sign.",
    "opposite": "The same holds for the size of the slope, which is negative.",
    "within controls": "The interval excludes 0, but some control's slope is as large, whatever its sign.",
    "no controls": "The interval excludes 0, but there are no controls to compare the slope with.",
    "no clear effect": "The interval includes 0.",
    "no interval": "There is no interval, as with one pair.",
}


def excludes_zero(rows: pd.DataFrame, name: str) -> pd.Series[bool]:
    """Whether the interval of each row's ``name`` excludes zero; not if there is none."""
    return (rows[f"{name}_low"] > 0) | (rows[f"{name}_high"] < 0)


def verdicts(effects: pd.DataFrame) -> pd.DataFrame:
    """Say of every vector whether it steers.

    Parameters
    ----------
    effects
        Result of :func:`caa_interp.steerability`, or several stacked. A row whose ``kind`` is not ``"vector"`` is a
        control of every vector with the same ``behavior``, ``layer``, ``operator``, ``positions``, ``format`` and
        ``model``, as far as the table has these columns.

    Returns
    -------
    pandas.DataFrame
        The rows of vectors, in their order, with four more columns:

        - ``control_low`` and ``control_high``: lowest and highest slope of the controls, in nats per unit of
          multiplier, NaN without controls; ``n_controls``: how many there are;
        - ``verdict``: the first of these that holds:

          1. ``"no interval"``: the slope has none, as with one item;
          2. ``"no clear effect"``: the interval includes 0;
          3. ``"no controls"``: there is nothing to compare the slope with;
          4. ``"within controls"``: the slope is no farther from 0 than that of some control;
          5. ``"opposite"``: the slope is negative;
          6. ``"steers"``: the interval excludes 0, and the slope is larger than that of every control, whatever the
             control's sign.

    Notes
    -----
    Controls have no direction of their own (the negative of a random vector is as random), so their slopes are
    compared by size, not by sign. Each interval holds for one vector by itself: of twenty vectors without any effect,
    about one gets past the second step by chance.
    """
    check_table(effects, {"vector", "kind", "layer", "slope", "slope_low", "slope_high"}, "caa_interp.steerability")
    shared = [name for name in SERIES if name in effects and name not in ("vector", "kind")]
    is_control = effects["kind"] != "vector"
    slopes = effects[is_control].groupby(shared, dropna=False)["slope"]
    controls = slopes.agg(control_low="min", control_high="max", n_controls="count").reset_index()
    found = effects[~is_control].merge(controls, on=shared, how="left").fillna({"n_controls": 0})
    found = found.astype({"n_controls": int})
    size = found["slope"].abs()
    faults = {
        "no interval": found["slope_low"].isna(),
        "no clear effect": ~excludes_zero(found, "slope"),
        "no controls": found["n_controls"] == 0,
        "within controls": size <= found[["control_low", "control_high"]].abs().max(axis=1),
        "opposite": found["slope"] < 0,
    }
    return found.assign(verdict=np.select(list(faults.values()), list(faults), "steers"))
