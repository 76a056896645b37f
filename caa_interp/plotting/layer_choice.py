"""Figure of how the layer of each behavior was chosen, and whether the choice holds on other pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import quantity
from caa_interp.plotting.theme import NEUTRAL, check_table, counts, escape, faded, figure, styles

_SOURCE = "caa_interp.steerability, with a column 'behavior'"


def plot_layer_choice(validation: pd.DataFrame, held_out: pd.DataFrame, chosen: Mapping[str, int]) -> go.Figure:
    """Slope of the response over layers, one panel a behavior, on validation pairs and on held-out ones.

    Parameters
    ----------
    validation
        Result of :func:`caa_interp.steerability` of the pairs on which the layer was chosen, of one or more behaviors
        (column ``behavior``).
    held_out
        The same of the pairs on which effects are reported.
    chosen
        The layer of each behavior.

    Returns
    -------
    plotly.graph_objects.Figure
        Lines with bands for the intervals; an upright line marks the chosen layer.
    """
    for table in (validation, held_out):
        check_table(table, ("behavior", "layer", "slope", "slope_low", "slope_high", "n"), _SOURCE)
    behaviors = list(dict.fromkeys(validation["behavior"]))
    if missing := [name for name in behaviors if name not in chosen]:
        raise InputError(f"chosen: there is no layer for {missing[0]!r}. Give one for each of {behaviors}.")
    n_columns = math.ceil(len(behaviors) / math.ceil(len(behaviors) / 4))
    n_rows = math.ceil(len(behaviors) / n_columns)
    name, unit = quantity(validation, "logit_difference")
    y_title = f"slope of the {name}<br>({unit} per multiplier)"
    fig = make_subplots(
        rows=n_rows,
        cols=n_columns,
        shared_xaxes="all",
        horizontal_spacing=0.22 / n_columns if n_columns > 1 else 0,
        vertical_spacing=0.26 / n_rows if n_rows > 1 else 0,
        subplot_titles=[escape(behavior) for behavior in behaviors],
        x_title="layer (block index)",
        y_title=y_title,
    )
    looks = styles(behaviors)
    for number, behavior in enumerate(behaviors):
        place = {"row": number // n_columns + 1, "col": number % n_columns + 1}
        for label, table, color, dash, symbol in (
            ("validation pairs", validation, looks[behavior].color, "solid", "circle"),
            ("held-out pairs", held_out, NEUTRAL, "dot", "diamond-open"),
        ):
            rows = table[table["behavior"] == behavior].sort_values("layer")
            group = {"legendgroup": label, "hoverlabel": {"namelength": -1}}
            fig.add_scatter(
                x=[*rows["layer"], *rows["layer"][::-1]],
                y=[*rows["slope_high"], *rows["slope_low"][::-1]],
                fill="toself",
                fillcolor=faded(color, 0.15),
                mode="lines",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                **group,
                **place,
            )
            fig.add_scatter(
                x=rows["layer"],
                y=rows["slope"],
                mode="lines+markers",
                line={"color": color, "dash": dash, "width": 2},
                marker={"symbol": symbol, "size": 6, "maxdisplayed": 12},
                name=label,
                # Each panel has its behavior's color; what the lines are is told by their dash.
                showlegend=False,
                hovertemplate="layer %{x}: %{y:+.3f}<extra>" + label + "</extra>",
                **group,
                **place,
            )
        fig.add_vline(chosen[behavior], line={"color": "black", "width": 1, "dash": "dash"}, **place)
    for label, dash, symbol in (("validation pairs", "solid", "circle"), ("held-out pairs", "dot", "diamond-open")):
        line = {"color": NEUTRAL, "dash": dash, "width": 2}
        fig.add_scatter(x=[None], y=[None], mode="lines+markers", line=line, marker_symbol=symbol, name=label)
    confidence = 100 * validation.attrs.get("confidence", 0.95)
    common = figure(
        "Slope of the response by layer",
        f"n = {counts(validation['n'])} validation pairs and {counts(held_out['n'])} held-out pairs of each behavior; "
        f"bands: {confidence:.0f} % intervals, each layer by itself; dashed upright line: chosen layer",
        height=210 + 190 * n_rows,
        margin={"l": 95, "r": 16, "t": 100, "b": 100},
        legend={
            "orientation": "h",
            "x": 0,
            "xref": "container",
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
    )
    fig.update_layout(common.layout)
    fig.update_annotations(font_size=13)
    fig.update_annotations(selector={"text": y_title}, font_size=14, xshift=-52)
    fig.update_annotations(selector={"text": "layer (block index)"}, font_size=14)
    fig.update_yaxes(zeroline=True, zerolinecolor=NEUTRAL, zerolinewidth=1)
    return fig
