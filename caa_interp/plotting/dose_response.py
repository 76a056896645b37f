"""Figures of the response to the dose, beside controls: one behavior, or many side by side."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import by_series, quantity, shown_column, summarized
from caa_interp.plotting import theme
from caa_interp.plotting.grid import band, line, mark_zero, panels, shape
from caa_interp.plotting.theme import Measure

# Kinds of controls, see caa_interp.evaluation.controls.
CONTROLS = ("random", "orthogonal", "shuffled", "other")
# Distinct without color: plain, dotted, hatched, crossed; by their edges where a band is too narrow for that.
_FILLS, _EDGES = ("", ".", "/", "x"), ("solid", "dot", "dash", "dashdot")
_ENTRY = 21


def plot_dose_response(
    table: pd.DataFrame,
    *,
    layer: int | None = None,
    measure: Measure = "logit_difference",
    control: str | Sequence[str] = CONTROLS,
) -> go.Figure:
    """Mean score over the multiplier at one layer, with intervals, beside controls.

    Where the table holds multiplier 0 or unsteered rows, the change from these is shown, paired over items.
    Conditions of several interventions, with no single multiplier, are left out.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`.
    layer
        Layer to show; needed if the table holds several.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).
    control
        Kinds of control (column ``kind``), each drawn as one gray band from the lowest mean to the highest.
    """
    summary = _responses(table, measure, "caa_interp.sweep")
    if "behavior" in summary and summary["behavior"].nunique() > 1:
        names = list(summary["behavior"].unique())
        raise InputError(f"table: it holds behaviors {names}; give the rows of one, or use plot_dose_responses.")
    layer = theme.one_layer(summary["layer"], layer)
    rows = summary[summary["layer"] == layer]
    subtitle = f"layer {layer}, mean over {theme.counts(rows['n'])} pairs, {theme.interval(rows)}"
    fig = theme.figure("Response to the multiplier", subtitle, showlegend=True, legend=theme.LEGEND_BELOW)
    fig.add_traces(_traces(rows, measure, control))
    fig.update_xaxes(title={"text": theme.MULTIPLIER, "font": {"size": 14}})
    fig.update_yaxes(title={"text": _axis_title(rows, measure), "font": {"size": 14}})
    return fig.update_layout(height=430 + _ENTRY * len(fig.data))


def plot_dose_responses(
    table: pd.DataFrame, *, measure: Measure = "logit_difference", control: str | Sequence[str] = CONTROLS
) -> go.Figure:
    """Response to the multiplier of every behavior, one panel each on common axes, as in :func:`plot_dose_response`.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.dose_response`, or :func:`caa_interp.summarize` of it.
    measure, control
        As in :func:`plot_dose_response`.
    """
    summary = _responses(table, measure, "caa_interp.dose_response", "behavior")
    rows = {str(name): own for name, own in summary.groupby("behavior", sort=False)}
    several = [name for name, own in rows.items() if own["layer"].nunique() > 1]
    if several:
        raise InputError(f"table: it holds several layers of {several}; give the rows of one layer for each behavior.")
    kinds = [control] if isinstance(control, str) else control
    n_rows, n_bands = shape(len(rows))[0], summary.loc[summary["kind"].isin(kinds), "kind"].nunique()
    fig = theme.figure(
        "Response to the multiplier",
        f"mean over {theme.counts(summary['n'])} held-out pairs of each behavior, {theme.interval(summary)}",
        height=180 + 215 * n_rows + _ENTRY * n_bands,
        margin={"l": 100, "r": 16, "t": 110, "b": 75 + _ENTRY * n_bands},
        legend=theme.LEGEND_BELOW,
    )
    places = panels(
        fig,
        [f"{theme.escape(name)}<br><sup>layer {own['layer'].iloc[0]:g}</sup>" for name, own in rows.items()],
        x_title=theme.MULTIPLIER,
        y_title=_axis_title(summary, measure),
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.02,
        vertical_spacing=0.26 / n_rows,
    )
    named: set[str] = set()
    for place, (behavior, own) in zip(places, rows.items(), strict=True):
        for trace in _traces(own, measure, kinds, summary):
            # A behavior's own vector is named by the panel's title.
            trace.update(legendgroup=trace.name, showlegend=trace.name not in {theme.escape(behavior), *named})
            named |= {trace.name} if trace.showlegend else set()
            fig.add_trace(trace, **place)
    if shown_column(summary, measure) != measure:
        mark_zero(fig)
    return fig


def _responses(table: pd.DataFrame, measure: str, source: str, *columns: str) -> pd.DataFrame:
    theme.check_table(table, ("kind", *columns), source)
    return pd.concat(by_series(summarized(table, measure)))


def _traces(
    rows: pd.DataFrame, measure: str, control: str | Sequence[str], among: pd.DataFrame | None = None
) -> list[go.Scatter]:
    """A band for the controls of each kind, and a line for each other vector, in their looks ``among`` all."""
    kinds = [control] if isinstance(control, str) else list(control)
    among = rows if among is None else among
    shown = shown_column(rows, measure)
    is_control, is_any = rows["kind"].isin(kinds), among["kind"].isin(kinds)
    per_behavior = among[is_any].groupby([*({"behavior"} & set(among)), "kind"])["vector"].nunique()
    most = per_behavior.groupby("kind").max()
    looks = theme.styles([*among.get("behavior", ()), *among.loc[~is_any, "vector"]])
    bands = [
        _band(own, shown, place, f"{most[kind]} {theme.escape(kind)} vector{'' if most[kind] == 1 else 's'}")
        for place, kind in enumerate(kinds)
        if len(own := rows[rows["kind"] == kind])
    ]
    vectors = rows[~is_control].groupby("vector", sort=False)
    return bands + [line(own, "multiplier", shown, looks[str(name)], str(name)) for name, own in vectors]


def _band(rows: pd.DataFrame, shown: str, place: int, name: str) -> go.Scatter:
    """One gray band from the lowest to the highest mean of the controls of one kind."""
    ends = rows.groupby("multiplier")[shown].agg(["min", "max"])
    fill, edge = _FILLS[place % len(_FILLS)], _EDGES[place % len(_EDGES)]
    # A hatched band is clear between its marks, so that bands that overlap can both be seen.
    pattern = {"shape": fill, "fgcolor": theme.NEUTRAL, "bgcolor": "rgba(0,0,0,0)", "size": 5, "solidity": 0.25}
    return band(
        ends.index,
        ends["min"],
        ends["max"],
        theme.faded(theme.NEUTRAL, 0.3),
        fillpattern=pattern if fill else None,
        line={"width": 1, "color": theme.faded(theme.NEUTRAL, 0.8), "dash": edge},
        name=f"{name} of the same norm",
        showlegend=True,
    )


def _axis_title(summary: pd.DataFrame, measure: str) -> str:
    change = "change in " if shown_column(summary, measure) != measure else ""
    return change + theme.with_unit(*quantity(summary, measure))
