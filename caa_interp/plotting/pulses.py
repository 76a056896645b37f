"""Figure of where and for how long a vector acts."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import Place, control_range, dots, line, mark_zero, panels

_SOURCE = "caa_interp.analysis.position_map"
_COLUMNS = (
    *("vector", "kind", "steered_layer", "multiplier", "measure", "steered", "distance", "layer"),
    *("value", "n", "format"),
)
# What a panel shows, and its unit; that of the effect is the one of its scores.
_PANELS = {
    "effect": ("effect of the steered positions", ""),
    "divergence": ("KL from unsteered, pulse", "nats"),
    "projection": ("state along the vector, pulse", "share of what was added"),
}
# Words of the table and what an axis has room for, in turn.
_SHORT = (
    *(("from the last prompt token on", "all"), ("last prompt token alone", "0")),
    *(("from answer token ", ""), ("answer token ", ""), (" alone", ""), (" on", "+")),
)


def plot_position_map(table: pd.DataFrame) -> go.Figure:
    """Effects of steering single positions as dots, and what is left of a pulse as lines over the distance.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.position_map`, of one vector and its controls.

    Returns
    -------
    plotly.graph_objects.Figure
        Three panels with intervals: the effect of all positions, of the last prompt token, of each token of the answer,
        and of all later ones; the divergence; the projection at up to three layers, of which the controls are those
        of the last. The gray bands are the range of the controls.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_once(table, ["vector", "measure", "steered", "distance", "layer"], _SOURCE)
    own, controls = checks.vector_and_controls(table)
    first = own.iloc[0]
    subtitle = f"multiplier {first['multiplier']:g} after layer {first['steered_layer']:g}; "
    subtitle += f"n = {words.counts(own.loc[own['n'] > 0, 'n'])} pairs, {words.interval(own)}{words.gray(controls)}"
    fig = theme.figure(
        f"Where and for how long {first['vector']} acts",
        subtitle,
        **theme.room(440, t=124, legend=110),
    )
    titles = [words.with_unit(name, unit or words.effect_unit(own)) for name, unit in _PANELS.values()]
    places = panels(fig, titles, most=3, horizontal_spacing=0.08)
    for measure, place in zip(_PANELS, places, strict=True):
        rows, others = (some[some["measure"] == measure] for some in (own, controls))
        (_draw_places if measure == "effect" else _draw_lines)(fig, rows, others, place)
    mark_zero(fig)
    return fig


def _draw_places(fig: go.Figure, rows: pd.DataFrame, controls: pd.DataFrame, place: Place) -> None:
    rows = rows[rows["n"] > 0]
    at = pd.Series(range(len(rows)), index=rows["steered"])
    beside = controls.assign(at=controls["steered"].map(at))
    fig.add_trace(control_range(beside, "at", "value", half=0.5), **place)
    known = zip(rows["steered"], words.estimates(rows, "value", words.effect_unit(rows)), strict=True)
    hover = [f"{steered}: {value}" for steered, value in known]
    look = {"size": 9, "color": theme.PALETTE[0]}
    fig.add_trace(dots(at, rows["value"], look, hover, error_y=theme.error_bars(rows, "value")), **place)
    labels = rows["steered"]
    for text, short in _SHORT:
        labels = labels.str.replace(text, short)
    title = "steered token of the answer<br>(0: the last of the prompt)"
    named: dict[str, Any] = {"tickvals": at, "ticktext": labels, "tickangle": 0, "tickfont": {"size": theme.SMALLEST}}
    fig.update_xaxes(title_text=title, showgrid=False, **named, **place)


def _draw_lines(fig: go.Figure, rows: pd.DataFrame, controls: pd.DataFrame, place: Place) -> None:
    unit = _PANELS[rows["measure"].iloc[0]][1]
    last = controls[controls["layer"].isna() | (controls["layer"] == controls["layer"].max())]
    fig.add_trace(control_range(last, "distance", "value"), **place)
    rows = rows[rows["n"] > 0].astype({"distance": int})
    groups = [*rows.groupby("layer", dropna=False)]
    for (layer, some), color, symbol in zip(groups, theme.PALETTE, theme.SYMBOLS, strict=False):
        look, name = theme.Style(color, symbol), "" if pd.isna(layer) else f"after layer {layer:g}"
        drawn = line(some, "distance", "value", look, name, unit, showlegend=bool(name))
        fig.add_trace(drawn, **place)
    fig.update_xaxes(title_text="distance in tokens after the<br>last of the prompt", **place)
