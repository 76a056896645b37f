"""Figure of what the vector of one layer does at other layers."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.response import steerability
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import cell_marks, line, missing, signed_map, thinned

_SOURCE = "caa_interp.analysis.transfer"


def plot_transfer(table: pd.DataFrame) -> go.Figure:
    """Map of the mean slope of the logit difference over source layers and the layers they are applied at.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.transfer`, with at least two multipliers, or its
        :func:`caa_interp.steerability`.

    Returns
    -------
    plotly.graph_objects.Figure
        Heatmap centered on zero: the slope over the multiplier, in nats per unit, as
        :func:`caa_interp.steerability` gives it. Layers at which their own vector is applied are framed; a dot marks
        cells whose 95 % interval excludes zero, each by itself: of 100 cells without any effect, about 5 get one.
        With one source layer: a line over the layers, with intervals; with one layer: a line over the source layers.
    """
    checks.check_table(table, ("vector", "source_layer", "layer"), _SOURCE)
    rows = table if "slope_low" in table else steerability(table)
    checks.check_one(rows, ["vector"])
    checks.check_once(rows, ("source_layer", "layer"), _SOURCE)
    name, sources = rows["vector"].iloc[0], rows["source_layer"].unique()
    if len(sources) == 1:
        return _line(rows, "layer", f"{name}: the vector of layer {sources[0]:g} at other layers")
    if rows["layer"].nunique() == 1:
        title = f"{name}: vectors of other layers at layer {rows['layer'].iloc[0]:g}"
        return _line(rows, "source_layer", title)
    return _map(rows, f"{name}: the vector of one layer at other layers")


def _map(rows: pd.DataFrame, title: str) -> go.Figure:
    """Source layers by the layers that they are applied at."""
    wide = rows.pivot(index="source_layer", columns="layer", values="slope")
    rows = rows.assign(
        certain=excludes_zero(rows, "slope"),
        known=words.estimates(rows, "slope", words.slope_unit(rows)),
    )
    certain, known = (rows.pivot(index="source_layer", columns="layer", values=one) for one in ("certain", "known"))
    layer = "{:g}".format
    shown = wide.rename(index=layer, columns=layer)
    crosses, lacking = missing(shown)
    cell = max(14, min(48, 460 // max(wide.shape)))
    fig = theme.figure(
        title,
        f"mean over {words.counts(rows['n'])} pairs, {words.interval(rows)}; dot: it excludes 0; frame: its own "
        f"layer{lacking}",
        width=70 + max(340, cell * wide.shape[1]) + 150,
        **theme.room(78 + max(240, cell * wide.shape[0]) + 62, r=150),
    )
    hover = "vector of layer %{y} at layer %{x}: %{customdata}<extra></extra>"
    fig.add_trace(signed_map(shown, words.slope_title(rows), customdata=known.to_numpy(), hovertemplate=hover))
    fig.add_traces([cell_marks(certain.eq(True).rename(index=layer, columns=layer)), crosses])
    for row, source in enumerate(wide.index):
        if source in wide.columns:
            column = list(wide.columns).index(source)
            corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
            fig.add_shape(type="rect", **corners, line={"color": "#1f2933", "width": 1.5})
    axes = {"type": "category", "showgrid": False}
    fig.update_xaxes(title_text=f"applied at {theme.LAYER}", tickvals=thinned(list(shown.columns)), **axes)
    fig.update_yaxes(title_text=f"vector of {theme.LAYER}", tickvals=thinned(list(shown.index)), **axes)
    return fig


def _line(rows: pd.DataFrame, along: str, title: str) -> go.Figure:
    """Slope over the layers of one kind, with intervals."""
    rows = rows.sort_values(along)
    own = rows["layer"] == rows["source_layer"]
    subtitle = f"mean over {words.counts(rows['n'])} pairs, {words.interval(rows)}"
    fig = theme.figure(title, subtitle + ("; square: its own layer" if own.any() else ""), height=460)
    marker = {
        "size": [11 if one else 7 for one in own],
        "opacity": 1,
        "line": {"width": 0},
        "symbol": ["square" if one else "circle" for one in own],
    }
    look = theme.Style(theme.PALETTE[0], "circle")
    fig.add_trace(line(rows, along, "slope", look, "", words.slope_unit(rows), marker=marker))
    fig.update_xaxes(title_text=f"{'applied at' if along == 'layer' else 'vector of'} {theme.LAYER}")
    fig.update_yaxes(title_text=words.slope_title(rows), zeroline=True, zerolinecolor=theme.NEUTRAL)
    return fig
