"""Figure of the parts of the model through which a vector acts."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import control_range, dots, mark_zero, panels

_SOURCE = "caa_interp.analysis.effect_attribution"
_COLUMNS = (
    *("vector", "kind", "steered_layer", "layer", "component"),
    *("contribution", "restored", "effect", "n", "format"),
)
_APART = 0.13  # how far the two dots of a part are moved to its sides, in layers
_MEASURES = {"contribution": "contribution", "restored": "goes away when set back"}


def plot_effect_attribution(table: pd.DataFrame) -> go.Figure:
    """Contributions of the direct path, and of attention and MLP by layer; of heads as maps.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.effect_attribution`, of one vector and its controls.

    Returns
    -------
    plotly.graph_objects.Figure
        Circles are contributions, diamonds how much of the effect goes away when the part is set back, both with
        intervals; the gray band is the range of the controls' contributions. For heads, a map of layers by heads for
        each of the two; a dot marks a head or MLP beyond those of all controls.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_once(table, ["vector", "layer", "component"], _SOURCE)
    own, controls = checks.vector_and_controls(table)
    per_head = own["component"].str.startswith("head").any()
    first = own.iloc[0]
    effect = words.intervals(own.iloc[:1], "effect")[0]
    subtitle = f"effect {effect} {words.effect_unit(own)}<br>"
    subtitle += f"steered after layer {first['steered_layer']:g}; n = {first['n']} pairs, {words.interval(own)}"
    if per_head:
        subtitle += f"; dot: beyond all heads, or all MLPs, of {words.controls(controls)}" if len(controls) else ""
    else:
        subtitle += words.gray(controls)
    fig = theme.figure(
        f"Through which parts {first['vector']} acts",
        subtitle,
        **theme.room(max(380, 180 + 22 * own["layer"].nunique()) if per_head else 440, t=114, legend=96),
    )
    (_draw_maps if per_head else _draw_layers)(fig, own, controls)
    return fig


def _draw_layers(fig: go.Figure, own: pd.DataFrame, controls: pd.DataFrame) -> None:
    """One panel for each kind of part, which share their heights."""
    kinds = [kind for kind in ("direct", "attention", "MLP") if kind in set(own["component"])]
    shares = [0.1, 0.45, 0.45][: len(kinds)]
    places = panels(fig, kinds, most=3, column_widths=shares, shared_yaxes=True, horizontal_spacing=0.045)
    for kind, place in zip(kinds, places, strict=True):
        rows = own[own["component"] == kind]
        beside = controls[controls["component"] == kind]
        fig.add_trace(control_range(beside, "layer", "contribution", half=0.5), **place)
        for number, (measure, name) in enumerate(_MEASURES.items()):
            there = rows[rows[measure].notna()]
            if there.empty:
                continue
            look = {"color": theme.PALETTE[number], "symbol": theme.SYMBOLS[2 * number], "size": 8}
            known = zip(there["layer"], words.estimates(there, measure, words.effect_unit(own)), strict=True)
            hover = [f"{kind}, layer {layer:g}, {name}: {text}" for layer, text in known]
            x = there["layer"].astype(int) + (0 if kind == "direct" else _APART * (2 * number - 1))
            drawn = dots(x, there[measure], look, hover, name=name, showlegend=kind == kinds[-1])
            fig.add_trace(drawn.update(error_y=theme.error_bars(there, measure) | {"width": 2}), **place)
        fig.update_xaxes(title_text=theme.LAYER if kind != "direct" else None, showgrid=False, **place)
    direct = own.loc[own["component"] == "direct", "layer"]
    fig.update_xaxes(tickvals=direct, row=1, col=1)
    fig.update_yaxes(title_text=words.with_unit("change of score", words.effect_unit(own)), row=1, col=1)
    mark_zero(fig)


def _draw_maps(fig: go.Figure, own: pd.DataFrame, controls: pd.DataFrame) -> None:
    """Layers by heads, with the MLP as the last column; one panel for each measure that there is."""
    rows = own[own["component"].str.startswith("head") | (own["component"] == "MLP")].astype({"layer": int})
    measures = [measure for measure in _MEASURES if rows[measure].notna().any()]
    limit = float(rows[measures].abs().max().max()) or 1.0
    unit = words.effect_unit(own)
    scale = theme.color_axis(theme.DIVERGING, -limit, limit, unit.replace(" per", "<br>per"))
    fig.update_layout(coloraxis=scale)
    places = panels(fig, [_MEASURES[one] for one in measures], most=2, shared_yaxes=True, horizontal_spacing=0.05)
    controls = controls[controls["component"].isin(rows["component"])]
    for measure, place in zip(measures, places, strict=True):
        columns = list(dict.fromkeys(rows["component"].str.removeprefix("head ")))
        named = rows.assign(
            column=rows["component"].str.removeprefix("head "), text=words.estimates(rows, measure, unit)
        )
        wide, text = (named.pivot(index="layer", columns="column", values=one)[columns] for one in (measure, "text"))
        cells = {"z": wide.to_numpy(), "x": columns, "y": list(map(str, wide.index)), "customdata": text.to_numpy()}
        hover = "layer %{y}, %{x}: %{customdata}<extra></extra>"
        fig.add_heatmap(**cells, coloraxis="coloraxis", hovertemplate=hover, **place)
        reach = controls.groupby(controls["component"] == "MLP")[measure].agg(lambda some: some.abs().max())
        beyond = named[named[measure].abs() > (named["component"] == "MLP").map(reach)]
        small = {"color": theme.DARK, "size": 5}
        fig.add_trace(dots(beyond["column"], beyond["layer"].astype(str), small), **place)
    fig.update_xaxes(title_text="head", type="category", showgrid=False)
    fig.update_yaxes(title_text=theme.LAYER, col=1)
    fig.update_yaxes(type="category", showgrid=False)
