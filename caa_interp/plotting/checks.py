"""What figures ask of a table: whether it can be drawn, what it holds, and what tells its series apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError, check_choice as check_choice, check_table as check_table
from caa_interp.evaluation.summary import CONDITIONS, SERIES

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


def check_steered(table: pd.DataFrame, verb: str = "sweep over", name: str = "table") -> None:
    """Raise :class:`InputError` if a table holds controls alone."""
    if (table["kind"] != "vector").all():
        raise InputError(f"{name}: it holds controls alone; {verb} a steering vector beside them.")


def check_chosen(chosen: Mapping[str, int], names: Sequence[str]) -> None:
    """Raise :class:`InputError` if there is no layer for one of the names."""
    if lacking := [name for name in names if name not in chosen]:
        raise InputError(f"chosen: there is no layer for {lacking[0]!r}. Give one for each of {names}.")


def vector_and_controls(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the one vector of a table, and those of its controls; raise :class:`InputError` if it holds several."""
    own, others = table[table["kind"] == "vector"], table[table["kind"] != "vector"]
    if own["vector"].nunique() != 1:
        raise InputError(f"table: it holds the vectors {list(own['vector'].unique())}; select one, and its controls.")
    return own, others


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
