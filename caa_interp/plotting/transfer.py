"""Figure of what the vector of one layer does at other layers."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import steerability
from caa_interp.plotting.theme import DIVERGING, NEUTRAL, PALETTE, check_table, error_bars, escape, figure

_COLUMNS = (
    *("item", "order", "vector", "source_layer", "layer", "multiplier", "p_positive", "logit_difference"),
    *("format", "behavior"),
)


def plot_transfer(table: pd.DataFrame) -> go.Figure:
    """Map of the mean slope of the logit difference over source layers and the layers they are applied at.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.transfer`, with at least two multipliers.

    Returns
    -------
    plotly.graph_objects.Figure
        Heatmap centered on zero: the slope over the multiplier, in nats per unit, as
        :func:`caa_interp.steerability` gives it. Layers at which their own vector is applied are framed; a dot marks
        cells whose 95 % interval does not hold zero, each by itself: of 100 cells without any effect about 5 get one.
        With one source layer: a line over the layers, with intervals; with one layer: a line over the source layers.
    """
    check_table(table, _COLUMNS, "caa_interp.analysis.transfer")
    sources = table.groupby("vector", sort=False)["source_layer"].first()
    if sources.duplicated().any():
        raise InputError(
            f"table: {list(sources.index[sources.duplicated(keep=False)])} have the same source layer; give the "
            "result of one call of caa_interp.analysis.transfer."
        )
    rows = steerability(table)
    rows["source_layer"] = rows["vector"].map(sources)
    text = table["format"].iloc[0] == "text"
    unit = "nats per token" if text else "nats"
    measure = "log-probability difference" if text else "log-odds of the positive letter"
    name = escape(table["behavior"].iloc[0])
    axis_title = f"slope of the {measure}<br>({unit} per unit of multiplier)"
    if len(sources) == 1:
        return _line(rows, "layer", f"{name}: the vector of layer {sources.iloc[0]} at other layers", axis_title)
    if rows["layer"].nunique() == 1:
        return _line(
            rows, "source_layer", f"{name}: vectors of other layers at layer {rows['layer'].iloc[0]}", axis_title
        )
    return _map(rows, f"{name}: the vector of one layer at other layers", axis_title)


def _map(rows: pd.DataFrame, title: str, axis_title: str) -> go.Figure:
    """Source layers by the layers that they are applied at."""
    wide = rows.pivot(index="source_layer", columns="layer", values="slope")
    rows = rows.set_index(["source_layer", "layer"])
    certain = rows[(rows["slope_low"] > 0) | (rows["slope_high"] < 0)].index
    limit = float(wide.abs().max().max()) or 1.0
    cell = max(14, min(48, 460 // max(wide.shape)))
    fig = figure(
        title,
        f"mean over {rows['n'].iloc[0]} pairs; dot: 95 % interval without 0; frame: its own layer",
        width=70 + max(340, cell * wide.shape[1]) + 150,
        height=78 + max(240, cell * wide.shape[0]) + 62,
        margin={"r": 150},
    )
    labels = {"x": [str(layer) for layer in wide.columns], "y": [str(layer) for layer in wide.index]}
    fig.add_heatmap(
        z=wide.to_numpy(),
        **labels,
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        colorbar={"title": {"text": axis_title, "side": "right"}},
        text=[["•" if (source, layer) in certain else "" for layer in wide.columns] for source in wide.index],
        texttemplate="%{text}",
        textfont={"size": 13},
        hovertemplate="vector of layer %{y} at layer %{x}: %{z:+.3f}<extra></extra>",
    )
    for row, source in enumerate(wide.index):
        if source in wide.columns:
            column = list(wide.columns).index(source)
            corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
            fig.add_shape(type="rect", **corners, line={"color": "#1f2933", "width": 1.5})
    axes = {"type": "category", "showgrid": False}
    fig.update_xaxes(title_text="applied at layer (block index)", tickvals=_thinned(labels["x"]), **axes)
    fig.update_yaxes(title_text="vector of layer (block index)", tickvals=_thinned(labels["y"]), **axes)
    return fig


def _line(rows: pd.DataFrame, along: str, title: str, axis_title: str) -> go.Figure:
    """Slope over the layers of one kind, with intervals."""
    rows = rows.sort_values(along)
    n, own = int(rows["n"].iloc[0]), rows[rows["layer"] == rows["source_layer"]]
    subtitle = f"mean over {n} pairs, 95 % interval" + ("; square: its own layer" if len(own) else "")
    fig = figure(title, subtitle, height=460)
    fig.add_scatter(
        x=rows[along],
        y=rows["slope"],
        error_y=error_bars(rows, "slope"),
        mode="lines+markers",
        line={"color": PALETTE[0], "width": 2.5},
        marker={
            "size": [11 if layer in set(own[along]) else 7 for layer in rows[along]],
            "opacity": 1,
            "line": {"width": 0},
            "symbol": ["square" if layer in set(own[along]) else "circle" for layer in rows[along]],
        },
        hovertemplate="layer %{x}: %{y:+.3f}<extra></extra>",
    )
    which = "applied at layer" if along == "layer" else "vector of layer"
    fig.update_xaxes(title_text=f"{which} (block index)")
    fig.update_yaxes(title_text=axis_title, zeroline=True, zerolinecolor=NEUTRAL)
    return fig


def _thinned(labels: list[str]) -> list[str]:
    return labels[:: max(1, math.ceil(len(labels) / 16))]
