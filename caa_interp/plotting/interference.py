"""Figure of two vectors at once: what each does alone, and beside each other one at the same divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.interference import QUESTIONS, summarize_interference
from caa_interp.evaluation.summary import quantity
from caa_interp.plotting import theme
from caa_interp.plotting.grid import panels, shape, signed_map

_NARROW = 4  # vectors, of which two maps have room side by side
# Changes, texts of the cells, and what hovering over them tells.
_Map = tuple[pd.DataFrame, list[list[str]], list[list[str]]]
_TITLES = {"both": "both added", "orthogonalized": "orthogonalized", "merged": "merged into one"}


def plot_interference(table: pd.DataFrame, *, title: str = "Two vectors at the same divergence") -> go.Figure:
    """Maps of the effect on each behavior, alone on the diagonal and beside each other vector: one per combination.

    Behaviors without a vector have a map of their own, of both vectors added, and so have questions.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.evaluation.interference` or of
        :func:`caa_interp.evaluation.summarize_interference`, and the figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One row per measured behavior, one column per other vector: the mean change from unsteered, in parentheses if
        its interval does not exclude zero, and below it the share of the effect alone with its interval, if that one
        does. Maps of behaviors without a vector, and of questions, have one row and one column per vector; of
        questions they hold the share that is answered right, and its change.
    """
    theme.check_table(table, ["behavior", "first", "second", "combination", "target"], "evaluation.interference")
    summary = table if "kept_low" in table else summarize_interference(table)
    names = list(dict.fromkeys([*summary["first"], *summary["second"]]))
    maps = [(_TITLES[one], _cells(summary, names, one)) for one in _TITLES if one in set(summary["combination"])]
    others = [name for name in summary["behavior"].unique() if name not in (*names, QUESTIONS)]
    maps += [(theme.escape(f"{name}, both added"), _cells(summary, names, "both", name)) for name in others]
    limits = [max((float(wide.abs().max().max()) for _, (wide, *_) in maps), default=0.0) or 1.0] * len(maps)
    if (summary["behavior"] == QUESTIONS).any():
        maps.append(("share of right answers, both added", _right(summary, names)))
        limits.append(1.0)  # all are right, or none
    most = 2 if len(names) <= _NARROW else 1
    n_rows, n_columns = shape(len(maps), most)
    side, gap = 110 + 62 * len(names), 150  # pixels; the gap holds slanted names and the next map's title
    fig = theme.figure(
        theme.escape(title),
        f"change from unsteered where every condition moves the model {table['target'].iloc[0]:g} nats per token<br>"
        f"n = {theme.counts(summary['n'])} pairs per cell; {theme.interval(summary)}; "
        "in parentheses: it does not exclude zero<br>row: what is measured; column: the vector beside its own; "
        "diagonal: alone; percent: of the effect alone, with its interval",
        **theme.room(150 + gap + side * n_rows + gap * (n_rows - 1), t=150, b=gap, l=20, r=20),
        width=min(860, max(760, 320 + (side + 30) * n_columns)),  # wider, it could not be read in print
    )
    spacing = gap / (side * n_rows + gap * (n_rows - 1))
    named = [name for name, _ in maps]
    places = panels(fig, named, most=most, horizontal_spacing=0.06, vertical_spacing=spacing, shared_yaxes=True)
    of, unit = quantity(summary, "logit_difference")
    for number, (place, (_, (wide, text, known)), limit) in enumerate(zip(places, maps, limits, strict=True)):
        drawn: dict[str, Any] = {"text": text, "texttemplate": "%{text}", "xgap": 2, "ygap": 2, "limit": limit}
        drawn |= {"customdata": known, "hovertemplate": "%{y}, with %{x}: %{customdata}<extra></extra>"}
        drawn["showscale"] = not number
        fig.add_trace(signed_map(wide, theme.with_unit(f"change in {of}", unit), **drawn), **place)
        fig.update_xaxes(tickangle=-35, showgrid=False, **place)
        fig.update_yaxes(autorange="reversed", showgrid=False, **place)
    return fig


def _cells(summary: pd.DataFrame, names: list[str], combination: str, measured: str | None = None) -> _Map:
    """Effects on each of ``names`` beside each other, or on one behavior under every two; texts of cells and hover."""

    def text(row: Mapping[Any, Any], alone: bool) -> str:
        shown = _change(row, "logit_difference")
        if alone or row["kept"] != row["kept"]:
            return shown
        ends = f"{100 * row['kept_low']:.0f} to {100 * row['kept_high']:.0f}"
        return f"{shown}<br>{row['kept']:.0%}<br>{theme.with_minus(ends)}"

    return _grid(
        summary[summary["combination"].isin(["alone", combination])], names, "logit_difference", text, measured
    )


def _right(summary: pd.DataFrame, names: list[str]) -> _Map:
    """The share of right answers under every two vectors; texts, with its change, and hover."""

    def text(row: Mapping[Any, Any], _: bool) -> str:
        return f"{row['correct']:.2f}<br>{_change(row, 'correct')}"

    return _grid(summary[summary["combination"].isin(["alone", "both"])], names, "correct", text, QUESTIONS)


def _change(row: Mapping[Any, Any], measure: str) -> str:
    """A change from unsteered, in parentheses if its interval includes zero."""
    change = f"{row[f'{measure}_change']:+.2f}"
    clear = row[f"{measure}_change_low"] > 0 or row[f"{measure}_change_high"] < 0
    return theme.with_minus(change if clear else f"({change})")


def _grid(
    found: pd.DataFrame,
    names: list[str],
    measure: str,
    text: Callable[[Mapping[Any, Any], bool], str],
    measured: str | None,
) -> _Map:
    """Changes of a measure, of each of ``names`` or of the one ``measured``, beside each other; texts and hover."""
    known = theme.estimates(found, f"{measure}_change", theme.unit(found, measure))
    found = found.assign(known=known)
    rows = {(one["behavior"], frozenset((one["first"], one["second"]))): one for one in found.to_dict("records")}
    wide = pd.DataFrame(float("nan"), index=names, columns=names)
    texts, hover = (pd.DataFrame("", index=names, columns=names) for _ in range(2))
    for name in names:
        for other in names:
            if row := rows.get((measured or name, frozenset((name, other)))):
                wide.loc[name, other] = row[f"{measure}_change"]
                texts.loc[name, other], hover.loc[name, other] = text(row, name == other), row["known"]
    return wide, texts.to_numpy().tolist(), hover.to_numpy().tolist()
