"""How items respond to the multiplier: their slopes, and the layer or condition that is chosen by them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import SCORES, SERIES, by_series, check_items, conditions_of, summarize
from caa_interp.statistics import bootstrap_means, check_resampling, rank_correlations, slopes, wilson_interval


def steerability(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """How items respond to the multiplier, per vector and layer (steerability, Tan et al. 2024).

    Parameters
    ----------
    table, confidence, seed
        As in :func:`summarize`; the table is one of scored pairs, with at least two multipliers of each vector.
        Unsteered rows are multiplier 0 of every vector that has none of its own. Conditions of several interventions
        are left out, since no one multiplier is their dose.

    Returns
    -------
    pandas.DataFrame
        One row per vector and layer (and behavior, format and so on, as far as the table has these columns), NaN where
        no item was scored at all multipliers:

        - ``slope``: mean over items of the least-squares slope of the logit difference over the multiplier, in nats
          per unit of multiplier, with ``slope_low`` and ``slope_high``;
        - ``rank_correlation``: mean over items of the Spearman correlation between the two, from -1 to 1, with
          ``_low`` and ``_high``; only the order of the scores counts, not how far apart they
          are, and an item whose score does not move has 0;
        - ``share_against``: share of items whose slope is negative (anti-steerable in the paper), with Wilson's
          interval, ``_low`` and ``_high``;
        - ``n``: number of items; ``confidence``, as given.
    """
    check_items(table, SCORES)
    check_resampling(confidence, seed)
    per_item = item_slopes(table)
    number, result = conditions_of(per_item, [name for name in SERIES if name in per_item])
    items = [per_item[name] for name in ("behavior", "item") if name in per_item]
    for measure in ("slope", "rank_correlation"):
        wide = per_item[measure].groupby([*items, number], dropna=False).first().unstack(level=-1).to_numpy()
        mean, low, high, n = bootstrap_means(wide, confidence, False, seed)
        if measure == "rank_correlation":
            low, high = np.clip([low, high], -1, 1)
        result = result.assign(**{measure: mean, f"{measure}_low": low, f"{measure}_high": high})
    shares = (per_item["slope"] < 0).astype(float).where(per_item["slope"].notna()).groupby(number).mean().to_numpy()
    low, high = wilson_interval(shares, n, confidence)
    result = result.assign(share_against=shares, share_against_low=low, share_against_high=high)
    return result.assign(n=n, confidence=confidence)


def item_slopes(table: pd.DataFrame) -> pd.DataFrame:
    """``slope`` (nats per unit of multiplier) and ``rank_correlation`` of every item, as in :func:`steerability`.

    One row per series (vector, layer, and behavior and so on) and item; over those of its letter orders that were
    scored at all multipliers of the series, and NaN where none was.
    """
    labels = [name for name in SERIES if name in table]
    parts, alike = by_series(table), defaultdict(list)  # series by their multipliers
    for number, rows in enumerate(parts):
        x = tuple(np.unique(rows["multiplier"]))
        if len(x) < 2:
            raise InputError(
                f"table: {rows['vector'].iloc[0]!r} has one multiplier, {rows['multiplier'].iloc[0]:g}; a slope needs "
                "at least two of each vector, or unsteered rows beside it. Sweep over more."
            )
        alike[x].append(number)
    every = pd.concat(dict(enumerate(parts)), names=["series"]).reset_index("series")
    keys = ["series", "item", *(["order"] if "order" in table else []), "multiplier"]
    scores = every.groupby(keys, dropna=False)["logit_difference"].mean().unstack()
    found = []
    for x, numbers in alike.items():
        wide = scores[scores.index.isin(numbers, level="series")][list(x)].dropna()
        wide = wide.groupby(level=["series", "item"]).mean()
        y = wide.to_numpy()
        measured = {"slope": slopes(np.array(x), y), "rank_correlation": rank_correlations(np.array(x), y)}
        found.append(pd.DataFrame(measured, index=wide.index))
    items = every.drop_duplicates(["series", "item"])[["series", "item"]]
    result = items.join(pd.concat(found), on=["series", "item"])
    result = result.join(every.drop_duplicates("series").set_index("series")[labels], on="series")
    result = result.drop(columns="series").reset_index(drop=True)
    if result["slope"].isna().all():
        raise InputError(
            "table: no item has a score at all multipliers; give pairs whose matching answer is (A) or (B), and "
            "multipliers at which the model's scores are finite."
        )
    return result


def choose_layer(table: pd.DataFrame, vector: str | None = None) -> int:
    """Layer with the largest mean slope. Use it on train or validation pairs, and report effects on test pairs.

    Parameters
    ----------
    table, vector
        Result of :func:`caa_interp.sweep`, read as in :func:`steerability`, and the name of the vector, needed where
        the table holds several.
    """
    mean = item_slopes(_of_one_vector(table, vector)).groupby("layer", sort=False)["slope"].mean()
    return int(mean.index[int(mean.argmax())])


def outermost(multipliers: Sequence[float]) -> tuple[float, float]:
    """The multipliers of validation pairs: a layer is chosen by the response between the smallest and the largest."""
    return min(multipliers), max(multipliers)


def choose_condition(table: pd.DataFrame, vector: str | None = None) -> tuple[int, float]:
    """Layer and multiplier that move the logit difference most toward the positive answer.

    Use it on validation pairs (:func:`caa_interp.evaluation.validation_split`), and report effects on test pairs.

    Parameters
    ----------
    table, vector
        As in :func:`choose_layer`; with multiplier 0, or unsteered rows, and at least one other multiplier.

    Returns
    -------
    layer, multiplier
        Those of the largest mean change from unsteered, without multiplier 0; the first if tied.
    """
    rows = _of_one_vector(table, vector)
    summary = summarize(rows)
    steered = summary[summary["multiplier"] != 0]
    change = "logit_difference_change"
    if steered.empty or change not in steered:
        raise InputError(
            f"table: its multipliers are {sorted(set(rows['multiplier']))}; a change needs 0 and at least one other, "
            "at every layer. Sweep over these."
        )
    if (unknown := steered[steered[change].isna()]).size:
        layer, multiplier = unknown.iloc[0][["layer", "multiplier"]]
        raise InputError(
            f"table: at layer {layer:g} no item has a score both at multiplier {multiplier:g} and at 0. Sweep over 0 "
            "at every layer, and over multipliers at which the scores are finite."
        )
    best = steered.iloc[int(steered[change].argmax())]
    return int(best["layer"]), float(best["multiplier"])


def _of_one_vector(table: pd.DataFrame, vector: str | None) -> pd.DataFrame:
    """Rows of one vector, with those of no vector as its multiplier 0."""
    check_items(table, SCORES)
    table = pd.concat(by_series(table))
    for name in SERIES:
        values = list(table[name].unique()) if name in table else []
        if len(values) > 1 and name not in ("vector", "kind", "layer"):
            raise InputError(f"table: it holds {name.removesuffix('s')}s {values}; give the rows of one.")
    names = list(table["vector"].unique())
    if vector is None and len(names) > 1:
        raise InputError(f"vector: the table holds {names}; name one of them.")
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    return table[table["vector"] == (vector or names[0])]
