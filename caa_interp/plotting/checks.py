"""What figures ask of a table: whether it can be drawn, what it holds, and what tells its series apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError, check_choice as check_choice, check_table as check_table
from caa_interp.evaluation.summary import CONDITIONS, SERIES, UNSTEERED, shown_column

# What stands before a value in the name of a series.
_BEFORE = {"judge": "judge ", "source_layer": "vector of layer ", "layer": "layer ", "multiplier": "multiplier "}


def tables_by_name(
    table: pd.DataFrame | Mapping[str, pd.DataFrame], columns: Iterable[str], source: str
) -> dict[str, pd.DataFrame]:
    """Checked tables by name; a single one has an empty name."""
    tables = dict(table) if isinstance(table, Mapping) else {"": table}
    if not tables:
        raise InputError(f"table: the mapping is empty; give at least one result of {source}.")
    for one in tables.values():
        check_table(one, columns, source)
    return tables


def shown(table: pd.DataFrame, measure: str) -> str:
    """Column that is drawn: the change from unsteered where some vector has one; without vectors, some control."""
    own = table[table["kind"] == "vector"] if "kind" in table else table
    return shown_column((table if own.empty else own).dropna(axis="columns", how="all"), measure)


def check_chosen(chosen: Mapping[str, int], names: Sequence[str]) -> None:
    """Raise :class:`InputError` if there is no layer for one of the names."""
    if lacking := [name for name in names if name not in chosen]:
        raise InputError(f"chosen: there is no layer for {lacking[0]!r}. Give one for each of {names}.")


def vectors_and_controls(table: pd.DataFrame, name: str = "table") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the vectors of a table, and those of controls; raise :class:`InputError` if it holds controls alone."""
    is_own = table["kind"] == "vector"
    if not is_own.any():
        raise InputError(f"{name}: it holds controls alone; give the rows of a steering vector beside them.")
    return table[is_own], table[~is_own & (table["kind"] != UNSTEERED)]


def vector_and_controls(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the one vector of a table, and those of its controls; raise :class:`InputError` if it holds several."""
    own, controls = vectors_and_controls(table)
    check_one(own, ["vector"], "Select one, and its controls.")
    return own, controls


def check_one(table: pd.DataFrame, names: Iterable[str], advice: str = "") -> None:
    """Raise :class:`InputError` if a table has several values in one of the columns ``names``.

    ``advice`` is what to do then; default: draw the rows of one.
    """
    if differing := varying(table, names):
        name, values = differing[0], table[differing[0]].unique().tolist()
        advice = advice or f"Draw one at a time, such as table[table[{name!r}] == {values[0]!r}]."
        raise InputError(f"table: it holds several, with {name} {values}. {advice}")


def varying(table: pd.DataFrame, names: Iterable[str], within: Sequence[str] = ()) -> list[str]:
    """Those of the columns ``names`` that a table has and that vary, among rows that agree in ``within`` if given."""
    groups: Any = table.groupby(list(within), dropna=False) if within else table
    return [name for name in names if name in table and np.any(groups[name].nunique(dropna=False) > 1)]


def labels_of(table: pd.DataFrame, names: Iterable[str]) -> pd.Series[str]:
    """Name of every row: what it has in the columns ``names``, each said once and without what is missing."""
    parts = zip([""] * len(table), *([_said(name, value) for value in table[name]] for name in names), strict=True)
    return pd.Series([", ".join(dict.fromkeys(filter(None, row))) for row in parts], table.index, dtype=object)


def series_labels(rows: pd.DataFrame, *told: str) -> pd.Series[str]:
    """Name of the series of each row: its vector, and what else tells it apart, but for what is ``told`` elsewhere."""
    others = [name for name in SERIES if name not in ("vector", "kind", *told)]
    return labels_of(rows, ["vector", *varying(rows, others, ["vector"])])


def _said(name: str, value: Any) -> str:
    if pd.isna(value) or value == "":
        return ""
    return _BEFORE.get(name, "") + (f"{value:g}" if isinstance(value, Real) else str(value))


def check_once(table: pd.DataFrame, key: Sequence[str], source: str) -> None:
    """Raise :class:`InputError` if two rows of a table agree in ``key``, and say in which other column they differ."""
    repeated = table[table.duplicated(list(key), keep=False)]
    if repeated.empty:
        return
    _, first = next(iter(repeated.groupby(list(key), sort=False, dropna=False)))
    if differing := varying(first, CONDITIONS):
        raise InputError(
            f"table: rows that agree in {list(key)} differ in {differing[0]!r}, which is one of "
            f"{list(first[differing[0]].unique())}; give the rows of one."
        )
    raise InputError(f"table: it holds a row of {list(key)} twice; give the result of one call of {source}.")


def one_layer(layers: Iterable[int], layer: int | None) -> int:
    """The layer to show: the one that is named, else the only one there is."""
    available = sorted({int(one) for one in layers})
    if layer is None and len(available) > 1:
        raise InputError(f"layer: the table holds layers {available[0]} to {available[-1]}; name the one to show.")
    if layer is not None and layer not in available:
        raise InputError(f"layer: {layer} is not in the table; it holds {available}.")
    return available[0] if layer is None else layer
