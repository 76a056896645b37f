"""From the table of a sweep to effects with intervals. Items are resampled as a whole, both orders together.

A table of :func:`caa_interp.dose_response` holds several behaviors, whose items are different ones: they are
summarized one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError
from caa_interp.statistics import (
    bootstrap_mean,
    check_confidence,
    rank_correlations,
    simultaneous_mean,
    slopes,
    wilson_interval,
)

CONDITION = ["vector", "layer", "multiplier"]
MEASURES = ("p_positive", "logit_difference")
COSTS = ("nats_per_token", "divergence", "correct")


def summarize(
    table: pd.DataFrame, *, confidence: float = 0.95, simultaneous: bool = False, seed: int = 0
) -> pd.DataFrame:
    """Mean scores per condition.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.dose_response`.
    confidence
        Confidence of the intervals, between 0 and 1.
    simultaneous
        Whether the intervals of a column hold for all rows at once with this confidence (max-t bootstrap, see
        :func:`caa_interp.statistics.simultaneous_mean`), as is needed to pick conditions out of many. Default: each
        row's holds by itself. The fewer rows, the narrower: leave out conditions that nobody asks about.
    seed
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per vector, layer and multiplier (and behavior, if the table has that column): ``p_positive`` and
        ``logit_difference`` (means over items), and where the table holds multiplier 0 their change from it
        (``p_positive_change``, ``logit_difference_change``, paired over items), each with ``_low`` and ``_high``; the
        number of items ``n``; and ``position_bias``: the mean difference in ``p_positive`` between the orders AB and
        BA (0 where there is one order). ``attrs`` holds ``confidence`` and ``simultaneous`` besides those of the
        table.

    Notes
    -----
    Behaviors have different items, which are independent. Simultaneous intervals hold for all k of them at once,
    since each has confidence to the power of 1/k.
    """
    _check(table, confidence)
    n_behaviors = table["behavior"].nunique() if "behavior" in table else 1
    within = confidence ** (1 / n_behaviors) if simultaneous else confidence
    result = _each_behavior(table, lambda rows: _summary(rows, within, simultaneous, seed))
    result.attrs = {**table.attrs, "confidence": confidence, "simultaneous": simultaneous}
    return result


def summarize_cost(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Mean costs per condition.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.perplexity`, :func:`caa_interp.divergence` or :func:`caa_interp.capability`.
    confidence, seed
        As in :func:`summarize`.

    Returns
    -------
    pandas.DataFrame
        One row per vector, layer and multiplier: the means over items of those of ``nats_per_token``, ``divergence``
        and ``correct`` that the table has, and where it holds multiplier 0 their change from it (``..._change``,
        paired over items), each with ``_low`` and ``_high``, and the number of items ``n``.
    """
    measures = [measure for measure in COSTS if measure in table.columns]
    if not measures:
        raise InputError(
            f"table: it has none of the columns {list(COSTS)}; give the result of caa_interp.perplexity, "
            "caa_interp.divergence or caa_interp.capability."
        )
    check_confidence(confidence)
    result = _means(table, measures, bootstrap_mean, confidence, seed)
    result.attrs = {**table.attrs, "confidence": confidence}
    return result


def summarized(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the summary of a sweep, or ``table`` itself if it is one already; check that it holds ``measure``."""
    if measure not in MEASURES:
        raise InputError(f"measure: {measure!r} is not one of 'logit_difference', 'p_positive'.")
    if not isinstance(table, pd.DataFrame) or f"{measure}_low" not in table.columns:
        return summarize(table)
    missing = {*CONDITION, "n", measure, f"{measure}_high"} - set(table.columns)
    if missing:
        raise InputError(f"table: columns {sorted(missing)} are missing; give the result of caa_interp.summarize.")
    return table


def quantity(summary: pd.DataFrame, measure: str) -> tuple[str, str]:
    """Name and unit of a measure of a sweep or its summary; a probability has no unit."""
    if measure == "p_positive":
        return "p(positive answer)", ""
    if summary.attrs.get("format") == "text":
        return "log-probability difference", "nats per token"
    return "log-odds of the positive letter", "nats"


def steerability(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """How items respond to the multiplier, per vector and layer (steerability, Tan et al. 2024).

    Parameters
    ----------
    table, confidence, seed
        As in :func:`summarize`; the table must hold at least two multipliers.

    Returns
    -------
    pandas.DataFrame
        One row per vector and layer (and behavior, if the table has that column):

        - ``slope``: mean over items of the least-squares slope of the logit difference over the multiplier, in nats
          per unit of multiplier, with ``slope_low`` and ``slope_high``;
        - ``rank_correlation``: mean over items of the Spearman correlation between the two, from -1 to 1, with
          ``_low`` and ``_high``; it asks for the order alone, not for the size, and is 0 for an item whose score
          does not move;
        - ``share_against``: share of items whose slope is negative (anti-steerable in the paper), with Wilson's
          interval, ``_low`` and ``_high``;
        - ``n``: number of items.
    """
    _check(table, confidence)

    result = _each_behavior(table, lambda rows: _responses(rows, confidence, seed))
    result.attrs = {**table.attrs, "confidence": confidence}
    return result


def _responses(table: pd.DataFrame, confidence: float, seed: int) -> pd.DataFrame:
    """Steerability of the items of one behavior."""
    measures = ["slope", "rank_correlation"]
    groups = dict(iter(item_slopes(table).groupby(["vector", "layer"], sort=False)))
    # Conditions with the same items are resampled together: all of them, unless a condition misses some.
    together: dict[tuple[int, ...], list[Any]] = {}
    for condition, group in groups.items():
        together.setdefault(tuple(group["item"]), []).append(condition)
    found = {}
    for items, conditions in together.items():
        values = np.stack([groups[condition][measures].to_numpy() for condition in conditions], axis=1)
        estimates = np.stack(bootstrap_mean(values, np.random.default_rng(seed), confidence), axis=-1)
        for condition, rows, of_condition in zip(conditions, values.swapaxes(0, 1), estimates, strict=True):
            row = dict(zip(("vector", "layer"), condition, strict=True))
            for measure, estimate in zip(measures, of_condition, strict=True):
                row |= zip((measure, f"{measure}_low", f"{measure}_high"), map(float, estimate), strict=True)
            share = float((rows[:, 0] < 0).mean())
            interval = wilson_interval(share, len(items), confidence)
            row |= zip(("share_against", "share_against_low", "share_against_high"), (share, *interval), strict=True)
            found[condition] = {**row, "n": len(items)}
    return pd.DataFrame([found[condition] for condition in groups])


def item_slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Response of every item to the multiplier.

    Returns
    -------
    pandas.DataFrame
        One row per vector, layer and item that was scored at all their multipliers: ``slope`` of the logit
        difference, in nats per unit of multiplier, and ``rank_correlation``, as in :func:`steerability`.
    """
    found = []
    scored = table.dropna(subset="logit_difference")
    for (vector, layer), rows in scored.groupby(["vector", "layer"], sort=False):
        wide = rows.pivot_table(index="item", columns="multiplier", values="logit_difference", sort=False).dropna()
        if wide.shape[1] < 2:
            raise InputError("table: it holds one multiplier; a slope needs at least two. Sweep over more.")
        x, y = wide.columns.to_numpy(), wide.to_numpy()
        items = pd.DataFrame({"vector": vector, "layer": layer, "item": wide.index})
        found.append(items.assign(slope=slopes(x, y), rank_correlation=rank_correlations(x, y)))
    if not found:
        raise InputError("table: no item has a score; give pairs whose matching answer is (A) or (B).")
    return pd.concat(found, ignore_index=True)


def choose_layer(table: pd.DataFrame, vector: str | None = None) -> int:
    """Layer with the largest mean slope. Use it on train or validation pairs, and report effects on test pairs.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep`.
    vector
        Name of the vector, needed where the table holds several.
    """
    mean = item_slopes(_of_one_vector(table, vector)).groupby("layer", sort=False)["slope"].mean()
    return int(mean.index[int(mean.argmax())])


def choose_condition(table: pd.DataFrame, vector: str | None = None) -> tuple[int, float]:
    """Layer and multiplier that move the logit difference most towards the positive answer.

    Use it on validation pairs (:func:`caa_interp.evaluation.validation_split`), and report effects on test pairs.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep`, with multiplier 0 and at least one other.
    vector
        Name of the vector, needed where the table holds several.

    Returns
    -------
    layer, multiplier
        Those of the largest mean change from unsteered, multiplier 0 left out. The first of equal ones.
    """
    rows = _of_one_vector(table, vector)
    conditions = list(rows[["layer", "multiplier"]].drop_duplicates().itertuples(index=False, name=None))
    steered = [condition for condition in conditions if condition[1] != 0]
    if not steered or any((layer, 0.0) not in conditions for layer, _ in steered):
        raise InputError(
            f"table: its multipliers are {sorted(set(rows['multiplier']))}; a change needs 0 and at least one other, "
            "at every layer. Sweep over these."
        )
    wide = rows.pivot_table(index="item", columns=["layer", "multiplier"], values="logit_difference")
    changes = {(layer, m): float((wide[layer, m] - wide[layer, 0.0]).mean()) for layer, m in steered}
    layer, multiplier = max(changes, key=lambda condition: changes[condition])
    return int(layer), float(multiplier)


def _summary(table: pd.DataFrame, confidence: float, simultaneous: bool, seed: int) -> pd.DataFrame:
    """Summary of the items of one behavior."""
    result = _means(table, MEASURES, simultaneous_mean if simultaneous else bootstrap_mean, confidence, seed)
    conditions = pd.MultiIndex.from_frame(result[CONDITION])
    scored = table.dropna(subset="logit_difference")
    by_order = scored.pivot_table(index=CONDITION, columns="order", values="p_positive", sort=False)
    both = {"AB", "BA"} <= set(by_order)
    result["position_bias"] = (by_order["AB"] - by_order["BA"]).reindex(conditions).to_numpy() if both else 0.0
    return result


def _means(
    table: pd.DataFrame,
    measures: Iterable[str],
    mean_with_interval: Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]],
    confidence: float,
    seed: int,
) -> pd.DataFrame:
    """Mean over items of each measure in every condition, and of its change from multiplier 0, with intervals."""
    result = table[CONDITION].drop_duplicates(ignore_index=True).assign(n=table["item"].nunique())
    conditions = pd.MultiIndex.from_frame(result[CONDITION])
    for measure in measures:
        items = table.pivot_table(index="item", columns=CONDITION, values=measure, sort=False, dropna=False)
        items = items.reindex(columns=conditions).dropna()
        shown = {measure: items.to_numpy()}
        if (result["multiplier"] == 0).any():
            unsteered = pd.MultiIndex.from_frame(result[CONDITION].assign(multiplier=0.0))
            shown[f"{measure}_change"] = items.to_numpy() - items.reindex(columns=unsteered).to_numpy()
        for name, values in shown.items():
            mean, low, high = mean_with_interval(values, np.random.default_rng(seed), confidence)
            result = result.assign(**{name: mean, f"{name}_low": low, f"{name}_high": high})
    return result


def _each_behavior(table: pd.DataFrame, summary: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """Summarize behavior by behavior where the table holds several, and name them in a first column."""
    if "behavior" not in table:
        return summary(table)
    parts = {name: summary(rows) for name, rows in table.groupby("behavior", sort=False)}
    return pd.concat(parts, names=["behavior"]).reset_index("behavior").reset_index(drop=True)


def _of_one_vector(table: pd.DataFrame, vector: str | None) -> pd.DataFrame:
    _check(table)
    if "behavior" in table and table["behavior"].nunique() > 1:
        raise InputError(f"table: it holds behaviors {list(table['behavior'].unique())}; give the rows of one.")
    names = list(table["vector"].unique())
    if vector is None and len(names) > 1:
        raise InputError(f"vector: the table holds {names}; name one of them.")
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    return table[table["vector"] == (vector or names[0])]


def _check(table: pd.DataFrame, confidence: float = 0.95) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"table: {type(table).__name__}, not a pandas DataFrame; give the result of caa_interp.sweep.")
    missing = {"item", "order", *CONDITION, *MEASURES} - set(table.columns)
    if missing:
        raise InputError(f"table: columns {sorted(missing)} are missing; give the result of caa_interp.sweep.")
    if table.empty:
        raise InputError("table: it has no rows; give the result of caa_interp.sweep.")
    keys = [*({"behavior"} & set(table.columns)), "item", "order", *CONDITION]
    if table.duplicated(keys).any():
        raise InputError(
            f"table: some rows agree in {keys}, as where the tables of two sweeps were joined. Summarize each by "
            "itself, or give vectors different names."
        )
    check_confidence(confidence)
