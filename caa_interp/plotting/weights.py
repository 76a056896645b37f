"""Figure of the heads and neurons whose weights align with a vector."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import band, dots

_SOURCE = "caa_interp.analysis.weight_alignment"
_OF_ONE = ("vector", "vector_layer", "model")
_COLUMNS = (*_OF_ONE, "layer", "where", "component", "index", "query_heads", "role", "alignment", "chance")
_GRID = 12  # columns of the grid, which 1 to 4 panels divide
_GAP = 100
_PLACE_OF_VECTOR = {"dash": "dot", "width": 2, "color": "black"}


def plot_weight_alignment(table: pd.DataFrame, *, title: str = "Weights along the vector") -> go.Figure:
    """Heads as one map per role, and neurons as dots by block, with the level of chance.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.analysis.weight_alignment`, of one vector; title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        The dotted line is the vector's place: what writes before it may have made it, what reads after it may be
        changed by it.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_one(table, _OF_ONE)
    checks.check_once(table, ["component", "role", "layer", "index"], _SOURCE)
    parts = [part for part in (table[table["component"] == name] for name in ("head", "neuron")) if not part.empty]
    roles = [list(part["role"].unique()) for part in parts]
    spans = [_GRID // len(names) for names in roles]
    n_layers = table["layer"].max() - table["layer"].min() + 1
    heights = [max(200, 11 * n_layers) if part["component"].iloc[0] == "head" else 240 for part in parts]
    inner = sum(heights) + _GAP * (len(parts) - 1)
    fig = make_subplots(
        figure=theme.figure(title, _subtitle(table), height=inner + 230, margin={"t": 96}),
        rows=len(parts),
        cols=_GRID,
        specs=[[{"colspan": n}, *[None] * (n - 1)] * (_GRID // n) for n in spans],
        row_heights=heights,
        horizontal_spacing=0.045,
        vertical_spacing=_GAP / inner,
        # Short, so that four stand side by side: the axes say what heads and what neurons are.
        subplot_titles=[theme.escape(role) for names in roles for role in names],
    )
    limits = [table["layer"].min() - 0.5, table["layer"].max() + 0.5]
    for row, (part, names) in enumerate(zip(parts, roles, strict=True), start=1):
        is_head = part["component"].iloc[0] == "head"
        extremes = (part["alignment"].abs().min(), part["alignment"].abs().max())
        for number, role in enumerate(names):
            place = {"row": row, "col": number * spans[row - 1] + 1}
            (_draw_heads if is_head else _draw_neurons)(fig, part[part["role"] == role], extremes, limits, place)
    fig.update_annotations(font_size=14)
    fig.update_layout(legend={"orientation": "h", "x": 0, "y": -70 / inner, "yanchor": "top"})
    return fig


def _draw_heads(
    fig: go.Figure, rows: pd.DataFrame, extremes: tuple[float, float], limits: list[float], place: dict[str, int]
) -> None:
    # After a CSV file, heads that share nothing are numbers.
    of_head = [one if isinstance(one, str) else f"{one:g}" for one in rows["query_heads"]]
    rows = rows.assign(layer=rows["layer"].astype(int), query_heads=of_head)
    wide = rows.pivot(index="layer", columns="index", values="alignment")
    wide = wide.reindex(range(wide.index.min(), wide.index.max() + 1))  # a layer that is missing is a blank row
    names = rows.drop_duplicates("index").set_index("index")["query_heads"]
    first = place["col"] == 1
    cells = {"z": wide.to_numpy(), "x": list(names.reindex(wide.columns)), "y": list(wide.index)}
    scale = {"zmin": extremes[0], "zmax": extremes[1], "colorscale": theme.SEQUENTIAL, "showscale": first}
    bar = {"title": {"text": "alignment |W v| / |W|", "side": "right"}, "len": 0.5, "y": 1, "yanchor": "top"}
    said = {"hoverongaps": False, "hovertemplate": "block %{y}, head %{x}: %{z:.3f}<extra></extra>"}
    fig.add_heatmap(colorbar=bar, **cells, **scale, **said, **place)
    above = rows[rows["alignment"] > rows["chance"]]
    mark = {"color": "white", "size": 5, "line": {"color": "black", "width": 1}}
    entry: dict[str, Any] = {"name": "head above chance (95 %)", "legendgroup": "head", "showlegend": first}
    fig.add_trace(dots(above["query_heads"], above["layer"], mark, **entry), **place)
    fig.add_hline(y=rows["vector_layer"].iloc[0] + 0.5, line=_PLACE_OF_VECTOR, **place)
    shared = rows["query_heads"].str.contains("-").any()
    fig.update_xaxes(type="category", showgrid=False, title_text="query heads" if shared else "head", **place)
    title = "block of the head" if first else None
    fig.update_yaxes(range=limits, showgrid=False, showticklabels=first, title_text=title, **place)


def _draw_neurons(
    fig: go.Figure, rows: pd.DataFrame, extremes: tuple[float, float], limits: list[float], place: dict[str, int]
) -> None:
    first = place["col"] == 1
    chance = rows.groupby("layer")["chance"].first()
    around = {"name": "random directions (95 %)", "legendgroup": "chance", "showlegend": first}
    fig.add_trace(band(chance.index, -chance, chance, theme.faded(theme.NEUTRAL, 0.3), **around), **place)
    acts = rows["where"] == ("before" if rows["role"].iloc[0] == "writes" else "after")
    for part, symbol, name in (
        (rows[acts], "circle", "writes before the vector, reads after it"),
        (rows[~acts], "circle-open", "cannot act on the vector"),
    ):
        known = list(zip(part["index"], words.numbers(part["alignment"]), strict=True))
        mark = {"color": theme.PALETTE[0], "size": 5, "symbol": symbol}
        drawn = dots(part["layer"], part["alignment"], mark, known, name=name, legendgroup=symbol, showlegend=first)
        drawn.update(hovertemplate="block %{x}, neuron %{customdata[0]}: %{customdata[1]}<extra></extra>")
        fig.add_trace(drawn, **place)
    fig.add_vline(x=rows["vector_layer"].iloc[0] + 0.5, line=_PLACE_OF_VECTOR, **place)
    fig.update_xaxes(range=limits, title_text="block", **place)
    title, reach = "cosine of the neuron" if first else None, 1.08 * extremes[1]
    fig.update_yaxes(range=[-reach, reach], showticklabels=first, title_text=title, **place)


def _subtitle(table: pd.DataFrame) -> str:
    neurons = table[table["component"] == "neuron"]
    vector = f"vector of layer {table['vector_layer'].iloc[0]:g} (dotted line)"
    if neurons.empty:
        return vector
    kept = neurons.groupby(["layer", "role"]).size().max()
    return f"{vector}; neurons: the {kept} of each block with the largest |cosine|"
