"""Figure of how the layer of each behavior was chosen, and whether the choice holds on other pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import theme
from caa_interp.plotting.grid import band, key, line, mark_zero, panels, shape

_SOURCE = "caa_interp.steerability, with a column 'behavior'"


def plot_layer_choice(validation: pd.DataFrame, held_out: pd.DataFrame, chosen: Mapping[str, int]) -> go.Figure:
    """Slope of the response over layers, one panel per behavior, on validation pairs and on held-out ones.

    Both tables are results of :func:`caa_interp.steerability` of one or more behaviors (column ``behavior``). Bands
    are intervals; an upright line marks each behavior's ``chosen`` layer.
    """
    for table in (validation, held_out):
        theme.check_table(table, ("behavior", "layer", "slope", "slope_low", "slope_high", "n"), _SOURCE)
    behaviors = list(dict.fromkeys(validation["behavior"]))
    theme.check_chosen(chosen, behaviors)
    n_rows, n_columns = shape(len(behaviors))
    fig = theme.figure(
        "Slope of the response by layer",
        f"n = {theme.counts(validation['n'])} validation pairs and {theme.counts(held_out['n'])} held-out pairs "
        f"of each behavior; bands: {theme.interval(validation)}, each layer by itself; "
        "dashed upright line: chosen layer",
        **theme.room(210 + 190 * n_rows, l=95, r=16, t=100, legend=100),
    )
    axes: dict[str, Any] = {"x_title": theme.LAYER, "y_title": theme.slope_title(validation), "shared_xaxes": "all"}
    axes |= {"horizontal_spacing": 0.22 / n_columns, "vertical_spacing": 0.26 / n_rows}
    places = panels(fig, list(map(theme.escape, behaviors)), **axes)
    looks = theme.styles(behaviors)
    tables = (("validation pairs", validation, "solid", "circle"), ("held-out pairs", held_out, "dot", "diamond-open"))
    for behavior, place in zip(behaviors, places, strict=True):
        for label, table, dash, symbol in tables:
            color = looks[behavior].color if table is validation else theme.NEUTRAL
            rows = table[table["behavior"] == behavior].sort_values("layer")
            # Each panel has its behavior's color; the dash says which pairs a line is of.
            group: dict[str, Any] = {"legendgroup": label, "hoverlabel": {"namelength": -1}, "showlegend": False}
            ends = (rows["slope_low"], rows["slope_high"])
            fig.add_trace(band(rows["layer"], *ends, theme.faded(color, 0.15), **group), **place)
            small: dict[str, Any] = {"marker": {"symbol": symbol, "size": 6, "maxdisplayed": 12}, "error_y": None}
            drawn = line(
                rows,
                "layer",
                "slope",
                theme.Style(color, symbol, dash),
                label,
                theme.slope_unit(rows),
                **small,
                **group,
            )
            fig.add_trace(drawn.update(line_width=2), **place)
        fig.add_vline(chosen[behavior], line={"color": "black", "width": 1, "dash": "dash"}, **place)
    for label, _, dash, symbol in tables:
        look = {"mode": "lines+markers", "line": {"color": theme.NEUTRAL, "dash": dash, "width": 2}}
        fig.add_trace(key(label, {"symbol": symbol}, **look))
    mark_zero(fig)
    return fig
