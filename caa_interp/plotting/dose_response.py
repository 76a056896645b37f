"""Figures of the response to the dose, beside controls: one behavior, or many side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caa_interp.behaviors.behavior import CONTROLS
from caa_interp.errors import InputError
from caa_interp.evaluation.summary import quantity, summarized
from caa_interp.plotting.theme import NEUTRAL, Style, check_table, error_bars, escape, faded, figure, styles

Measure = Literal["logit_difference", "p_positive"]
# Told apart without color: plain, dotted, hatched, crossed; and by their edges where a band is too narrow for that.
_FILLS, _EDGES = ("", ".", "/", "x"), ("solid", "dot", "dash", "dashdot")
# The legend stands below, where it covers nothing; on a narrow figure it takes a line for each entry.
_BELOW = {"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom"}
_ENTRY = 21
_X_TITLE = "multiplier (times the raw vector)"


def plot_dose_response(
    table: pd.DataFrame,
    *,
    layer: int | None = None,
    measure: Measure = "logit_difference",
    control: str | Sequence[str] = CONTROLS,
) -> go.Figure:
    """Mean score over the multiplier at one layer, with intervals, beside controls.

    Where the table holds multiplier 0, what is shown is the change from it, paired over items.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`.
    layer
        Layer to show; needed if the table holds several.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).
    control
        One kind of control or several: vectors whose name starts with it are drawn as one gray band, from the lowest
        mean to the highest.
    """
    summary = summarized(table, measure)
    if "behavior" in summary and summary["behavior"].nunique() > 1:
        names = list(summary["behavior"].unique())
        raise InputError(f"table: it holds behaviors {names}; give the rows of one, or use plot_dose_responses.")
    layers = sorted(summary["layer"].unique().tolist())
    if layer is None and len(layers) > 1:
        raise InputError(f"layer: the table holds layers {layers[0]} to {layers[-1]}; name the one to show.")
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise InputError(f"layer: {layer} is not in the table; it holds {layers}.")
    rows = summary[summary["layer"] == layer]
    shown = _shown(summary, measure)
    subtitle = f"layer {layer}, mean over {int(rows['n'].iloc[0])} pairs, {_interval(summary)}"
    fig = figure("Response to the multiplier", subtitle, showlegend=True, legend=_BELOW)
    kinds = _kinds(rows, control)
    for kind, own in kinds.items():
        fig.add_trace(_band(own, shown, kind, _names(control), own["vector"].nunique()))
    others = _others(rows, kinds)
    drawn = styles(others["vector"].unique())
    for name, group in others.groupby("vector", sort=False):
        fig.add_trace(_line(group, shown, drawn[str(name)], str(name)))
    fig.update_xaxes(title={"text": _X_TITLE, "font": {"size": 14}})
    fig.update_yaxes(title={"text": _axis_title(summary, measure), "font": {"size": 14}})
    fig.update_layout(height=430 + _ENTRY * len(fig.data))
    return fig


def plot_dose_responses(
    table: pd.DataFrame, *, measure: Measure = "logit_difference", control: str | Sequence[str] = CONTROLS
) -> go.Figure:
    """Response to the multiplier of every behavior, one panel each on common axes, beside controls.

    Where the table holds multiplier 0, what is shown is the change from it, paired over items.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.dose_response`, or :func:`caa_interp.summarize` of it.
    measure, control
        As in :func:`plot_dose_response`.
    """
    check_table(table, ("behavior",), "caa_interp.dose_response")
    summary = summarized(table, measure)
    behaviors = list(summary["behavior"].unique())
    layers = summary.groupby("behavior", sort=False)["layer"].unique()
    several = [name for name in behaviors if len(layers[name]) > 1]
    if several:
        raise InputError(f"table: it holds several layers of {several}; give the rows of one layer for each behavior.")
    shown, kinds = _shown(summary, measure), _kinds(summary, control)
    n_columns = math.ceil(len(behaviors) / math.ceil(len(behaviors) / 4))
    n_rows = math.ceil(len(behaviors) / n_columns)
    drawn = styles([*behaviors, *_others(summary, kinds)["vector"].unique()])
    fig = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=0.26 / n_rows,
        subplot_titles=[f"{escape(name)}<br><sup>layer {layers[name][0]}</sup>" for name in behaviors],
        x_title=_X_TITLE,
        y_title=_axis_title(summary, measure),
    )
    named: set[str] = set()
    for number, behavior in enumerate(behaviors):
        rows = summary[summary["behavior"] == behavior]
        traces = []
        for kind, own in _kinds(rows, control).items():
            n_controls = kinds[kind].groupby("behavior")["vector"].nunique().max()
            traces.append(_band(own, shown, kind, _names(control), n_controls))
        for name, group in _others(rows, kinds).groupby("vector", sort=False):
            # A behavior's own vector is named by the panel's title.
            traces.append(_line(group, shown, drawn[str(name)], str(name), showlegend=name != behavior))
        for trace in traces:
            if trace.showlegend:
                trace.showlegend = trace.name not in named
                named.add(trace.name)
            trace.legendgroup = trace.name
            fig.add_trace(trace, row=number // n_columns + 1, col=number % n_columns + 1)
    counts = sorted(summary["n"].unique())
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    common = figure(
        "Response to the multiplier",
        f"mean over {n} held-out pairs of each behavior, {_interval(summary)}",
        height=180 + 215 * n_rows + _ENTRY * len(kinds),
        margin={"l": 100, "r": 16, "t": 110, "b": 75 + _ENTRY * len(kinds)},
        legend=_BELOW,
    )
    fig.update_layout(common.layout)
    fig.update_annotations(font_size=13)
    fig.update_annotations(selector={"text": _axis_title(summary, measure)}, font_size=14, xshift=-52)
    fig.update_annotations(selector={"text": _X_TITLE}, font_size=14)
    fig.update_yaxes(zeroline=shown != measure, zerolinecolor=NEUTRAL, zerolinewidth=1)
    return fig


def _kinds(rows: pd.DataFrame, control: str | Sequence[str]) -> dict[str, pd.DataFrame]:
    """Rows of each kind of control that there is."""
    found = {kind: rows[rows["vector"].str.startswith(f"{kind} ")] for kind in _names(control)}
    return {kind: own for kind, own in found.items() if len(own)}


def _names(control: str | Sequence[str]) -> tuple[str, ...]:
    return (control,) if isinstance(control, str) else tuple(control)


def _others(rows: pd.DataFrame, kinds: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Rows of the vectors that are no controls."""
    return rows[~rows["vector"].str.startswith(tuple(f"{kind} " for kind in kinds))] if kinds else rows


def _band(rows: pd.DataFrame, shown: str, kind: str, kinds: tuple[str, ...], n_controls: int) -> go.Scatter:
    """One gray band from the lowest to the highest mean of the controls of one kind."""
    band = rows.groupby("multiplier")[shown].agg(["min", "max"])
    place = kinds.index(kind) % len(_FILLS)
    # A hatched band is clear between its marks, so that bands that overlap can both be seen.
    pattern = {"shape": _FILLS[place], "fgcolor": NEUTRAL, "bgcolor": "rgba(0,0,0,0)", "size": 5, "solidity": 0.25}
    return go.Scatter(
        x=[*band.index, *band.index[::-1]],
        y=[*band["max"], *band["min"][::-1]],
        fill="toself",
        fillcolor=faded(NEUTRAL, 0.3),
        fillpattern=pattern if _FILLS[place] else None,
        mode="lines",
        line={"width": 1, "color": faded(NEUTRAL, 0.8), "dash": _EDGES[place]},
        name=f"{n_controls} {escape(kind)} vector{'' if n_controls == 1 else 's'} of the same norm",
        showlegend=True,
        hoverinfo="skip",
    )


def _line(rows: pd.DataFrame, shown: str, style: Style, name: str, showlegend: bool = True) -> go.Scatter:
    """Means of one vector with their intervals."""
    rows = rows.sort_values("multiplier")
    return go.Scatter(
        x=rows["multiplier"],
        y=rows[shown],
        error_y=error_bars(rows, shown),
        mode="lines+markers",
        line={"color": style.color, "dash": style.dash, "width": 2.5},
        marker={"size": 9, "symbol": style.symbol},
        name=escape(name),
        showlegend=showlegend,
    )


def _shown(summary: pd.DataFrame, measure: str) -> str:
    """Column that is drawn: the change from unsteered where there is one."""
    return f"{measure}_change" if f"{measure}_change" in summary else measure


def _axis_title(summary: pd.DataFrame, measure: str) -> str:
    name, unit = quantity(summary, measure)
    change = "change in " if _shown(summary, measure) != measure else ""
    return f"{change}{name}<br>({unit})" if unit else change + name


def _interval(summary: pd.DataFrame) -> str:
    kind = "simultaneous " if summary.attrs.get("simultaneous") else ""
    return f"{100 * summary.attrs.get('confidence', 0.95):.0f} % {kind}interval"
