"""From a table of items to effects with intervals. Items are resampled as a whole, both letter orders together.

A table has one row per item and condition. What tells conditions apart stands in columns (``CONDITIONS``), and so does
what was measured (``MEASURES``): one summary serves the scores of pairs, costs, judged answers and baselines.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError, check_choice, check_table
from caa_interp.evaluation.ratings import RATINGS, counts_of, numbers_of, ratings_of
from caa_interp.statistics import (
    bootstrap_means,
    check_resampling,
    interval_text,
    paired_shares_interval,
    wilson_interval,
)

SCORES = ("p_positive", "logit_difference")
COSTS = ("nats_per_token", "divergence", "divergence_tail", "correct")
DISTANCES = ("divergence", "divergence_tail")  # from the unsteered model, so that no change is taken
SHARES = ("correct", "refused")
# The range of each, in which its interval lies.
MEASURES = {
    "p_positive": (0.0, 1.0),
    "logit_difference": (-np.inf, np.inf),
    "nats_per_token": (0.0, np.inf),
    "divergence": (0.0, np.inf),
    "divergence_tail": (0.0, np.inf),
    "correct": (0.0, 1.0),
    "refused": (0.0, 1.0),
    "n_words": (0.0, np.inf),
    "loop": (0.0, 1.0),
    "coherence": (0.0, 10.0),
    "score": (0.0, 10.0),
}
_REPEATS = ("order", "sample")  # of an item in one condition; it is averaged over samples, then over letter orders
# What a series of multipliers has in common, as far as a table has these columns.
SERIES = (
    *("behavior", "baseline", "judge", "scale", "vector", "kind", "source_layer", "layer"),
    *("operator", "positions", "condition", "turn", "format", "model"),
)
# Numbers that a condition may lack, as no steering has no layer.
_NUMBERS = ("scale", "layer")
# What rows without any vector have none of, or the same for all.
_STEERING = ("vector", "kind", "source_layer", "layer", "operator", "positions", "condition")
CONDITIONS = (*SERIES[: SERIES.index("layer") + 1], "multiplier", *SERIES[SERIES.index("layer") + 1 :])
UNSTEERED = "unsteered"  # the kind of rows without any vector
NO_BASELINE = "none"  # the baseline without prompt, examples or tuning
_SOURCE = "caa_interp.sweep or another table of items and conditions"


def summarize(
    table: pd.DataFrame,
    *,
    confidence: float = 0.95,
    simultaneous: bool = False,
    equal: str | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of everything that was measured, per condition.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep`, :func:`caa_interp.dose_response`, :func:`caa_interp.baselines`,
        :func:`caa_interp.perplexity`, :func:`caa_interp.divergence`, :func:`caa_interp.capability` or
        :func:`caa_interp.judge_answers`; or several of one kind, stacked, distinguished by a column such as
        ``behavior``, ``vector``, ``judge`` or ``format``.
    confidence, seed
        Confidence of the intervals, between 0 and 1; seed of the bootstrap.
    simultaneous
        Whether the intervals of a column hold for all rows at once with this confidence, as is needed to pick
        conditions out of many. Default: each row's holds by itself. Fewer rows give narrower intervals, so leave out
        conditions that you do not need.
    equal
        Column whose groups of items weigh equally in every mean, such as ``"topic"``: a mean over categories of the
        mean over their items, as the paper takes of MMLU and TruthfulQA. Default: all items weigh equally.

    Returns
    -------
    pandas.DataFrame
        One row per condition, in the order of the table:

        - the columns that tell conditions apart, as far as the table has them: ``behavior``, ``baseline``, ``judge``,
          ``scale``, ``vector``, ``kind``, ``source_layer``, ``layer``, ``multiplier``, ``operator``, ``positions``,
          ``condition``, ``turn``, ``format``, ``model``;
        - for each of ``p_positive``, ``logit_difference``, ``nats_per_token``, ``divergence``, ``divergence_tail``,
          ``correct``, ``refused``, ``coherence``, ``score``, and :func:`caa_interp.evaluation.text_quality`'s
          ``n_words`` and ``loop`` that the table has: its mean over the condition's own items that have a value, with
          ``_low``, ``_high`` and their number, ``_n``. The samples of an item are averaged;
        - where some condition is unsteered, the change from it (``p_positive_change`` and so on), paired over the
          ``_n`` items and letter orders that have a value in both. Unsteered is multiplier 0 of the same
          vector and layer in a condition of one intervention, else the rows whose ``kind`` is ``"unsteered"``; in a
          table of baselines, that of the baseline ``"none"``;
        - ``n``: the number of items that have a value; of judged answers, that have a score;
        - ``n_unparseable`` (of judged answers): the number of answers without a score, or without the coherence that
          was asked for, since no reply could be read; ``n_incoherent``: of those without a score since
          :func:`caa_interp.evaluation.coherence_gate`; ``n_empty``: of those that are nothing but white space;
        - ``position_bias`` (of scored pairs): the difference in mean ``p_positive`` between the orders AB and BA, NaN
          where an order is missing;
        - ``confidence`` and ``simultaneous``, as given.

    Notes
    -----
    Intervals are those of :func:`caa_interp.statistics.bootstrap_mean`, cut off at the ends of a measure's range; those
    of ``correct`` and ``refused``, which are shares, are :func:`caa_interp.statistics.wilson_interval`, and those of
    their changes :func:`caa_interp.statistics.paired_shares_interval`, which keep a width where steering changes no
    answer. One item gives no interval: its ends are NaN. Where all items of a row agree, that of the bootstrap has
    width 0. With ``equal``, all are bootstrap intervals in which an item's deviation from the mean counts as much as
    the item does in the mean. They include how far groups differ, as if other items might be of other groups.

    Conditions with the same items are resampled together, so that they stay paired. With k different sets of items,
    such as those of k behaviors, simultaneous intervals have confidence to the power of 1/k within each (Sidak 1967,
    Journal of the American Statistical Association 62); with k rows, Wilson's in each.
    """
    check_resampling(confidence, seed)
    table, number, result, values = items_of(table)
    measures = [name for name in MEASURES if name in values]
    group = None if equal is None else _group_of_items(table, equal)
    estimates: dict[str, np.ndarray] = {}
    of_share = confidence ** (1 / len(result)) if simultaneous else confidence
    before = {f"{share}_change": values.pop(f"{share}_before") for share in SHARES if f"{share}_before" in values}
    for name, given in values.items():
        of_items = given if group is None else weighing_equally(given, group)
        mean, low, high, n = bootstrap_means(of_items, confidence, simultaneous, seed)
        if group is None and name in SHARES:
            low, high = wilson_interval(mean, n, of_share)
        elif group is None and name in before:
            low, high = _share_changes(before[name], of_items, of_share)
            itself = (_unsteered(result) == np.arange(len(result))) & (n > 1)  # from which it changes by nothing
            low, high = np.where(itself, 0.0, low), np.where(itself, 0.0, high)
        low, high = np.clip([low, high], *range_of(name, result))
        estimates |= {name: mean, f"{name}_low": low, f"{name}_high": high, f"{name}_n": n}
    counts = [estimates[f"{measure}_n"] for measure in (["score"] if "score" in measures else measures)]
    result = result.assign(**estimates, n=np.max(counts, axis=0))
    if "score" in measures:
        for name, counted in counts_of(table).items():
            result[name] = counted.groupby(number).sum().to_numpy()
    if "order" in table and set(SCORES) <= set(measures):
        scored = table["logit_difference"].notna()
        by_order = table[scored].groupby([number[scored], "order"])["p_positive"].mean().unstack()
        by_order = by_order.reindex(index=range(len(result)), columns=["AB", "BA"])
        result["position_bias"] = (by_order["AB"] - by_order["BA"]).to_numpy()
    return result.assign(confidence=confidence, simultaneous=simultaneous)


def items_of(
    table: pd.DataFrame, name: str = "table"
) -> tuple[pd.DataFrame, pd.Series[int], pd.DataFrame, dict[str, np.ndarray]]:
    """Take a table of items apart; ``name`` is what errors call it.

    Returns the table as it is read, the number of each row's condition, the conditions, and by name the values
    ``[n_items, n_conditions]`` of each measure and, where a condition is unsteered, of its change, such as
    ``p_positive_change``; of a share also what it was before, ``correct_before``. Letter orders and samples are
    averaged, and what is missing is NaN.
    """
    measures, names = check_items(table, name=name)
    table = _after_a_file(table.reset_index(drop=True), name)
    number, conditions = conditions_of(table, names)
    items = [name for name in ("behavior", "item") if name in table]
    paired = [*items, *(["order"] if "order" in table else [])]  # by which a change is taken; samples are averaged
    unsteered = _unsteered(conditions)
    found: dict[str, np.ndarray] = {}
    for measure in measures:
        values = table[measure].groupby([*(table[name] for name in paired), number], dropna=False).mean()
        wide = values.unstack(level=-1).reindex(columns=range(len(conditions)))
        shown = {measure: wide}
        if (unsteered >= 0).any():
            before = wide.reindex(columns=unsteered).set_axis(wide.columns, axis=1)  # no column is called -1
            shown[f"{measure}_change"] = wide - before
            if measure in SHARES:
                shown[f"{measure}_before"] = before.where(wide.notna())
        found |= {name: rows.groupby(level=items, dropna=False).mean().to_numpy() for name, rows in shown.items()}
    return table, number, conditions, found


def _after_a_file(table: pd.DataFrame, name: str = "table") -> pd.DataFrame:
    """Return a table with what a CSV file loses of its empty cells: they come back as NaN, or make numbers texts."""
    table = with_texts(table, ["operator", "positions"])
    numbers = [one for one in _NUMBERS if one in table and not pd.api.types.is_numeric_dtype(table[one])]
    numbers += [measure for measure in MEASURES if measure in table]
    read = {one: (ratings_of if one in RATINGS else numbers_of)(table, one, name) for one in numbers}
    return table.assign(**read)


def with_texts(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The table with its empty texts in some columns, as far as it has these: a CSV file keeps none."""
    texts = [column for column in columns if column in table and table[column].isna().any()]
    return table.astype(dict.fromkeys(texts, object)).fillna(dict.fromkeys(texts, ""))


def _group_of_items(table: pd.DataFrame, column: str) -> np.ndarray:
    """Number of each item's group ``[n_items]``, in the order of :func:`items_of`."""
    if column not in table:
        raise InputError(f"equal: {column!r} is not a column of the table; it has {list(table)}.")
    groups = table.groupby([name for name in ("behavior", "item") if name in table], dropna=False)[column]
    if several := groups.nunique(dropna=False).loc[lambda n: n > 1].index.tolist():
        raise InputError(f"equal: item {several[0]!r} has several values of {column!r}; it must have one.")
    return pd.factorize(groups.agg(lambda own: own.iloc[0]), use_na_sentinel=False)[0]


def weighing_equally(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Values ``[n_items, n_conditions]`` of which a column's mean is the mean of its groups' means.

    Deviations from that mean are weighted, and not the values: where sizes differ, weighted values have a spread even
    if the values are all alike.
    """
    there, member = ~np.isnan(values), np.eye(group.max() + 1)[group]
    sizes = member.T @ there  # [n_groups, n_conditions]
    n_there, n_groups = there.sum(axis=0), np.maximum((sizes > 0).sum(axis=0), 1)
    weights = n_there / n_groups / np.maximum(member @ sizes, 1)
    mean = np.nansum(weights * values, axis=0) / np.maximum(n_there, 1)
    return mean + weights * (values - mean)


def range_of(name: str, conditions: pd.DataFrame) -> tuple[Any, Any]:
    """Range of a measure or of its change, in each condition ``[n]`` if there are scales; else the same in all."""
    measure = name.removesuffix("_change")
    most: Any
    least, most = MEASURES[measure]
    if measure in RATINGS and "scale" in conditions:
        most = numbers_of(conditions, "scale").fillna(most).to_numpy()
    return (least - most, most - least) if name.endswith("_change") else (least, most)


def summarized(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Return the summary of a table of scored pairs, or ``table`` itself if it is one, with ``measure`` in it."""
    check_choice("measure", measure, SCORES)
    if not isinstance(table, pd.DataFrame) or f"{measure}_low" not in table.columns:
        check_items(table, SCORES)
        return summarize(table)
    check_table(table, {"vector", "layer", "multiplier", "n", measure, f"{measure}_high"}, "caa_interp.summarize")
    return table


def shown_column(table: pd.DataFrame | Mapping[str, Any], measure: str) -> str:
    """Column that is shown: the change from unsteered where there is one; a divergence is one by itself."""
    change = f"{measure}_change"
    return change if change in table and measure not in DISTANCES else measure


def interval_texts(rows: pd.DataFrame, name: str, form: str = "+.3f") -> list[str]:
    """Each row's mean ``name`` with its interval as text, from the columns ``<name>_low`` and ``<name>_high``."""
    ends = (rows[f"{name}{end}"] for end in ("", "_low", "_high"))
    return [interval_text(mean, low, high, form) for mean, low, high in zip(*ends, strict=True)]


def quantity(table: pd.DataFrame, measure: str) -> tuple[str, str]:
    """Name and unit of a measure of scored pairs, as the column ``format`` tells; a probability has no unit.

    Raises :class:`InputError` if the measure is another one, or if the table holds both choices and texts, whose logit
    differences have different units, or does not tell which.
    """
    check_choice("measure", measure, SCORES)
    if measure == "p_positive":
        return "p(positive answer)", ""
    forms = list(table["format"].unique()) if "format" in table else []
    units = {
        "text": ("log-probability difference", "nats per token"),
        "choices": ("log-odds of the positive letter", "nats"),
    }
    if len(forms) != 1 or forms[0] not in units:
        raise InputError(
            f"table: its column 'format' holds {forms}, so its logit differences mix units. Give rows of one "
            "form, 'choices' or 'text'."
        )
    return units[forms[0]]


def conditions_of(table: pd.DataFrame, names: Sequence[str]) -> tuple[pd.Series[int], pd.DataFrame]:
    """Number of each row's condition, and the conditions in the order of the table."""
    number = table.groupby(list(names), sort=False, dropna=False).ngroup()
    first = number[~number.duplicated()].sort_values().index
    return number, table.loc[first, list(names)].reset_index(drop=True)


def _share_changes(before: np.ndarray, change: np.ndarray, confidence: float) -> np.ndarray:
    """Low and high end of the change of a share in each condition, ``[2, n]``, from values ``[n_items, n]``."""
    found = []
    for own, moved in zip(before.T, change.T, strict=True):
        there = ~np.isnan(moved)
        found.append(paired_shares_interval(own[there] + moved[there], own[there], confidence))
    return np.transpose(found)


def _unsteered(conditions: pd.DataFrame) -> np.ndarray:
    """For each condition the place of the unsteered one that it is compared with, or -1."""
    records: list[dict[Any, Any]] = conditions.to_dict("records")
    rows = [{name: None if pd.isna(value) else value for name, value in row.items()} for row in records]
    free = {*_STEERING}
    if "baseline" in conditions:
        free.add("model")  # a tuned model is compared with the one it was made from
    shared = [name for name in SERIES if name in conditions and name not in free]
    own = [*shared, *(name for name in ("vector", "source_layer", "layer") if name in conditions)]

    def key(row: dict[str, Any], names: list[str]) -> tuple[Hashable, ...]:
        return tuple(NO_BASELINE if name == "baseline" else row[name] for name in names)

    places: dict[tuple[Hashable, ...], list[int]] = {}
    for place, (row, several) in enumerate(zip(rows, are_several(conditions), strict=True)):
        if row.get("baseline", NO_BASELINE) == NO_BASELINE:
            if row.get("kind") == UNSTEERED:
                places.setdefault((UNSTEERED, *key(row, shared)), []).append(place)
            elif row["multiplier"] == 0 and not several:
                places.setdefault(("own", *key(row, own)), []).append(place)
    found = []
    for row in rows:
        candidates = places.get(("own", *key(row, own))) or places.get((UNSTEERED, *key(row, shared))) or [-1]
        # Unsteered is the same for every operator and all positions. Prefer the row's own.
        same = ("model", "operator", "positions")
        alike = [[rows[place].get(name) == row.get(name) for name in same] for place in candidates]
        found.append(candidates[alike.index(max(alike))])
    return np.array(found)


def are_several(table: pd.DataFrame) -> pd.Series[bool]:
    """Which rows are of several interventions, with no one multiplier: their operator has `` + `` in between."""
    operators = table["operator"] if "operator" in table else pd.Series("", table.index)
    return operators.astype(str).str.contains(" + ", regex=False)


def by_series(table: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows of each series of multipliers, of items or of a summary.

    A series without multiplier 0 of its own gets the unsteered rows as such. Conditions of several interventions
    (``add + Cap(...)``) are left out; :class:`InputError` if no other is there.
    """
    table = _after_a_file(table)
    none = table["kind"] == UNSTEERED if "kind" in table else pd.Series(False, index=table.index)
    several = are_several(table)
    if len(table) and (none | several).all():
        raise InputError(
            "table: no condition in it is a single intervention, which alone has one multiplier as its dose. "
            "Give conditions of one intervention each."
        )
    series = [name for name in SERIES if name in table]
    shared = [name for name in series if name not in _STEERING]
    parts = []
    for _, rows in table[~none & ~several].groupby(series, sort=False, dropna=False):
        if none.any() and not (rows["multiplier"] == 0).any():
            own = rows[shared].iloc[0]
            alike = none & ((table[shared] == own) | (table[shared].isna() & own.isna())).all(axis=1)
            rows = pd.concat([rows, table[alike].assign(multiplier=0.0, **rows[series].iloc[0])])
        parts.append(rows)
    return parts


def check_items(table: pd.DataFrame, needed: Sequence[str] = (), name: str = "table") -> tuple[list[str], list[str]]:
    """Return the measures and the condition columns of a table of items, or raise if it is no such table."""
    check_table(table, {"item", "layer", "multiplier", *needed, *(("vector",) if needed else ())}, _SOURCE, name)
    measures = [measure for measure in MEASURES if measure in table]
    if not measures:
        raise InputError(f"{name}: it has none of the columns {list(MEASURES)}; give the result of {_SOURCE}.")
    conditions = [column for column in CONDITIONS if column in table]
    keys = ["item", *(column for column in _REPEATS if column in table), *conditions]
    if table.duplicated(keys).any():
        raise InputError(
            f"{name}: some rows agree in {keys}, as when the tables of two sweeps are joined. Summarize each by "
            "itself, or add a column such as 'behavior' or 'vector'."
        )
    return measures, conditions
