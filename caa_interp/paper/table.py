"""Measured means beside the paper's published ones, with a tolerance for each cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError
from caa_interp.paper import published as paper
from caa_interp.statistics import interval_text


def compare(summary: pd.DataFrame, layer: int, published: paper.PublishedModel | None) -> pd.DataFrame:
    """Put the measured means of one layer beside the published ones.

    Parameters
    ----------
    summary
        Result of :func:`caa_interp.summarize` for one or more of the paper's behaviors, with a column ``behavior``
        and norms matched over these behaviors.
    layer
        Layer of the table.
    published
        The paper's model, or None if the model is another.

    Returns
    -------
    pandas.DataFrame
        One row per behavior and multiplier: ``behavior``, ``layer``, ``multiplier``, ``n`` (items), ``paper``,
        ``measured`` with ``low`` and ``high`` (95 % interval), ``difference`` (measured - paper), ``tolerance`` and
        ``within`` (True, False, or missing where there is nothing to judge).

    Notes
    -----
    The tolerance of a cell is 0.005, half a unit of the paper's last decimal, plus the square root of 2 times the
    longer side of the measured interval (which is cut off at 0 and 1): the sampling error of the difference of two
    means over so many items each. If the two are draws from one population, about one cell in 20 lies outside by
    chance. With the paper's own items and model most should agree to the second decimal.

    Steered cells are judged only if all of the paper's behaviors are there: else norms are matched to another mean.
    """
    rows = summary[summary["layer"] == layer].reset_index(drop=True)
    if rows.empty:
        raise InputError(f"layer: {layer} is not in the table; it holds {sorted(summary['layer'].unique().tolist())}.")
    unit_is_the_papers = set(rows["behavior"]) == set(paper.BEHAVIORS)
    cells = rows[["behavior", "layer", "multiplier", "n"]].copy()
    printed = {
        (name, multiplier): mean
        for name, means in (published.choices if published else {}).items()
        for multiplier, mean in zip(paper.MULTIPLIERS, means, strict=True)
    }
    keys = zip(rows["behavior"], rows["multiplier"], strict=True)
    cells["paper"] = [printed.get(key, np.nan) for key in keys]
    cells["measured"] = rows["p_positive"]
    cells["low"], cells["high"] = rows["p_positive_low"], rows["p_positive_high"]
    cells["difference"] = cells["measured"] - cells["paper"]
    reach = np.maximum(cells["high"] - cells["measured"], cells["measured"] - cells["low"])
    tolerance = paper.ROUNDING + np.sqrt(2) * reach
    cells["tolerance"] = tolerance.where(cells["paper"].notna())
    judged = cells["tolerance"].notna() & ((cells["multiplier"] == 0) | unit_is_the_papers)
    within = (cells["difference"].abs() <= cells["tolerance"] + 1e-9).astype("boolean")
    cells["within"] = within.where(judged)
    return cells


def printable(comparison: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`compare` as texts; the paper's columns are left out if it has no number at all."""
    shown = pd.DataFrame(
        {
            "behavior": comparison["behavior"],
            "layer": comparison["layer"].astype(str),
            "multiplier": [f"{m:+g}" if m else "0" for m in comparison["multiplier"]],
            "paper": _texts(comparison["paper"], ".2f"),
            "measured (95 % interval)": [
                interval_text(*row, form=".3f")
                for row in zip(comparison["measured"], comparison["low"], comparison["high"], strict=True)
            ],
            "difference": _texts(comparison["difference"], "+.3f"),
            "tolerance": _texts(comparison["tolerance"], ".3f"),
            "within tolerance?": comparison["within"].map({True: "yes", False: "NO"}).astype(object).fillna(""),
        }
    )
    if comparison["paper"].isna().all():
        return shown.drop(columns=["paper", "difference", "tolerance", "within tolerance?"])
    return shown


def _texts(values: pd.Series[Any], form: str) -> list[str]:
    return ["" if pd.isna(value) else format(value, form) for value in values]
