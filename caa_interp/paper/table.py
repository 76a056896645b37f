"""Measured means beside the paper's published ones, and what is claimed about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from caa_interp.paper import published as paper
from caa_interp.statistics import interval_text

CONFIDENCE = 0.95
SAME, OTHER = "same items and model", "other items"
# An independent rerun by others at 7B, on the paper's items: two decimals the same where unsteered; where steered, this
# far off at most and on average.
UNSTEERED, STEERED_MOST, STEERED_MEAN = 0.01, 0.10, 0.03
# What tells groups of cells apart, and what a cell holds.
CONDITIONS = ["group", "system_prompt", "weights"]
COLUMNS = ["behavior", "layer", "multiplier", "n", "paper", "measured", "low", "high", "difference"]
COLUMNS += ["basis", "tolerance", "within"]


@dataclass(frozen=True)
class Claim:
    """A sentence about measured and published numbers, and whether it holds."""

    text: str
    holds: bool

    def __str__(self) -> str:
        return f"{self.text}: {'yes' if self.holds else 'NO'}."


def compare(
    summary: pd.DataFrame,
    theirs: pd.DataFrame | None,
    basis: str,
    *,
    unsteered: str | None = None,
    measure: str = "p_positive",
    n_theirs: int | None = None,
) -> pd.DataFrame:
    """Put measured means beside the published ones.

    Parameters
    ----------
    summary
        Result of :func:`caa_interp.summarize` with ``confidence=0.95`` for one or more of the paper's behaviors, with a
        column ``behavior`` and norms matched over these behaviors.
    theirs
        Rows of :func:`caa_interp.paper.numbers` of one group and condition, or None if there are none of this model.
    basis
        What can make two numbers differ, see below.
    unsteered
        That of unsteered cells, in which no vector has a part; default: ``basis``.
    measure
        What was measured: ``"p_positive"`` (default), or ``"score"`` of judged answers.
    n_theirs
        Number of the paper's items; default: that of each behavior's test.

    Returns
    -------
    pandas.DataFrame
        One row per row of the summary: ``behavior``, ``layer``, ``multiplier``, ``n`` (items), ``paper``,
        ``measured`` with ``low`` and ``high`` (95 % interval), ``difference`` (measured - paper), ``basis``,
        ``tolerance`` and ``within`` (True, False, or missing where there is nothing to judge).

    Notes
    -----
    A tolerance depends on the basis:

    - ``"same items and model"``: rounding and number types. An independent rerun by others had the same two decimals
      where unsteered, and was .10 off at most where steered: the tolerances are .01 and .10. No cell should be outside.
    - ``"other items"``: the sampling error of both sides. With n items, it is sqrt(1 + n / n_theirs) times the longer
      side of the measured interval (which is cut off at 0 and 1). Of two draws from one population, one cell in 20 lies
      outside by chance. The tolerance is wide, and to be within it is no agreement. The sampling error of the vectors
      is not in it.
    - Any other text says why nothing can be judged, such as ``"weights trained anew"``.

    Steered cells are judged only if all of the paper's behaviors are there: else norms are matched to another mean.
    """
    rows = summary.reset_index(drop=True)
    unit_is_the_papers = set(rows["behavior"]) == set(paper.BEHAVIORS)
    cells = rows[["behavior", "layer", "multiplier", "n"]].copy()
    printed: dict[Any, float] = {}
    if theirs is not None:
        printed = theirs.set_index(["behavior", "layer", "multiplier"])["value"].to_dict()
    keys = cells[["behavior", "layer", "multiplier"]].itertuples(index=False, name=None)
    cells["paper"] = [printed.get(key, np.nan) for key in keys]
    cells["measured"] = rows[measure]
    cells["low"], cells["high"] = rows[f"{measure}_low"], rows[f"{measure}_high"]
    cells["difference"] = cells["measured"] - cells["paper"]
    reach = np.maximum(cells["high"] - cells["measured"], cells["measured"] - cells["low"])
    steered = cells["multiplier"] != 0
    of_theirs = n_theirs or cells["behavior"].map(lambda name: paper.SIZES[name][1])
    tolerances = {
        SAME: np.where(steered, STEERED_MOST, UNSTEERED),
        OTHER: reach * np.sqrt(1 + cells["n"] / of_theirs),
    }
    cells["basis"] = np.where(steered, basis, unsteered or basis)
    known = [(cells["basis"] == one) & cells["paper"].notna() for one in tolerances]
    cells["tolerance"] = np.select(known, [*tolerances.values()], np.nan)
    judged = cells["tolerance"].notna() & (~steered | unit_is_the_papers)
    within = (cells["difference"].abs() <= cells["tolerance"] + 1e-9).astype("boolean")
    cells["within"] = within.where(judged)
    return cells[COLUMNS]


def claims(comparison: pd.DataFrame) -> list[Claim]:
    """What is claimed of the judged cells of a comparison; nothing, if there are none.

    With the paper's own items and model, as much as an independent rerun reached. With other items, only that chance
    explains the differences: no cell is further off than happens to the furthest of that many in one run in 20
    (Bonferroni; the cells of a behavior share their items).
    """
    judged = comparison.dropna(subset="within")
    return [claim for _, rows in judged.groupby("basis", sort=False) for claim in _claims(rows)]


def _claims(judged: pd.DataFrame) -> list[Claim]:
    """What is claimed of judged cells of one basis."""
    n, outside = len(judged), int((~judged["within"].astype(bool)).sum())
    off, steered = judged["difference"].abs(), judged["multiplier"] != 0
    if judged["basis"].iloc[0] == OTHER:
        level = (1 - CONFIDENCE) / 2
        further = stats.norm.isf(level / n) / stats.norm.isf(level)
        return [
            Claim(
                f"The items are not the paper's own, so cells may differ by the sampling error of both sides, "
                f"{judged['tolerance'].min():.2f} to {judged['tolerance'].max():.2f}; to be within it is no agreement. "
                f"Outside: {2 * level * n:.2g} of {n} cells expected by chance, {outside} seen. No cell is further off "
                "than chance would have it in one run in 20",
                bool((off <= further * judged["tolerance"] + 1e-9).all()),
            )
        ]
    begin = (
        "The items and the model are the paper's own, so only rounding and number types differ. Outside: 0 of "
        f"{n} cells expected, {outside} seen. "
    )
    found = []
    if not steered.all():
        text = f"Unsteered cells are within {UNSTEERED} of the paper's"
        found.append(Claim(begin + text, bool(judged.loc[~steered, "within"].all())))
    if steered.any():
        most, mean = off[steered].max(), off[steered].mean()
        text = (
            f"Steered cells are as near as those of an independent rerun, {STEERED_MOST} off at most and "
            f"{STEERED_MEAN} on average: here {most:.3f} and {mean:.3f}"
        )
        near = bool(judged.loc[steered, "within"].all() and mean <= STEERED_MEAN)
        found.append(Claim(text if found else begin + text, near))
    return found


def groups(comparison: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The cells of :func:`caa_interp.paper.reproduce` by what they are about."""
    found = {}
    for _, rows in comparison.groupby(CONDITIONS, sort=False):
        group, prompt, weights = rows[CONDITIONS].iloc[0]
        about = [f"system prompt {prompt}"] * bool(prompt) + [f"trained on {weights} answers"] * bool(weights)
        found[", ".join([group, *about])] = rows
    return found


def all_claims(comparison: pd.DataFrame) -> list[tuple[str, Claim]]:
    """Every claim about the cells of :func:`caa_interp.paper.reproduce`, each with what its cells are about."""
    return [(about, claim) for about, rows in groups(comparison).items() for claim in claims(rows)]


def printable(comparison: pd.DataFrame) -> pd.DataFrame:
    """The table of :func:`compare` as texts; the paper's columns are left out if it has no number at all."""
    shown = pd.DataFrame(
        {
            "behavior": comparison["behavior"],
            "layer": comparison["layer"].astype(str),
            "multiplier": [f"{m:+g}" if m else "0" for m in comparison["multiplier"]],
            "paper": _texts(comparison["paper"], ".3f"),
            "measured (95 % interval)": [
                interval_text(*row, form=".3f")
                for row in zip(comparison["measured"], comparison["low"], comparison["high"], strict=True)
            ],
            "difference": _texts(comparison["difference"], "+.3f"),
            f"tolerance ({', '.join(comparison['basis'].unique())})": _texts(comparison["tolerance"], ".3f"),
            "within?": comparison["within"].map({True: "yes", False: "NO"}).astype(object).fillna(""),
        }
    )
    if comparison["paper"].isna().all():
        return shown.iloc[:, [0, 1, 2, 4]]
    return shown if comparison["tolerance"].notna().any() else shown.iloc[:, :6]


def agreement(comparison: pd.DataFrame) -> pd.DataFrame:
    """How near many cells are to the paper's, as a row per behavior; empty if the paper has no number of them."""
    known = comparison.dropna(subset="paper")
    rows = [
        {
            "behavior": name,
            "cells": len(cells),
            "mean |difference|": f"{cells['difference'].abs().mean():.3f}",
            "largest": f"{cells['difference'].abs().max():.3f}",
            f"outside their tolerance ({cells['basis'].iloc[0]})": (
                f"{int((~judged.astype(bool)).sum())} of {len(judged)}" if len(judged) else "not judged"
            ),
        }
        for name, cells in known.groupby("behavior", sort=False)
        for judged in [cells["within"].dropna()]
    ]
    return pd.DataFrame(rows)


def _texts(values: pd.Series[Any], form: str) -> list[str]:
    return ["" if pd.isna(value) else format(value, form) for value in values]
