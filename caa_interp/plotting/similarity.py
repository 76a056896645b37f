"""Figures of cosine similarity: between layers, between vectors at a layer, and of two vectors by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots, mark_zero, signed_map

_COLUMNS = ("first", "first_layer", "second", "second_layer", "cosine", "chance")
# Up to this many rows a cell has room for its number.
_NUMBERED = 12
_ROOMY = 8  # and up to this many for large ones
_GRAY = "#52606d"


def plot_cosine_similarity(table: pd.DataFrame, *, layer: int | None = None) -> go.Figure:
    """Draw cosine similarity in the form that fits the table.

    ============================  ===============================================================================
    What the table compares       Figure
    ============================  ===============================================================================
    layers of one vector          map of layers by layers; of several vectors: a slider goes from one to the next
    two vectors, several layers   line of their cosine by layer, on the band of random directions
    vectors otherwise             map of vectors by vectors; a slider goes over the layers, from the middle one
    ============================  ===============================================================================

    Parameters
    ----------
    table
        Result of :func:`caa_interp.cosine_similarity`.
    layer
        Where the table compares vectors: the layer whose map is drawn alone, without a slider.

    Returns
    -------
    plotly.graph_objects.Figure
        Colors run from -1 to 1. Numbers within chance are gray, others bold; a missing cosine leaves its cell blank.
    """
    checks.check_table(table, _COLUMNS, "caa_interp.cosine_similarity")
    compares_vectors = bool((table["first"] != table["second"]).any())
    if compares_vectors and bool((table["first_layer"] != table["second_layer"]).any()):
        raise InputError("table: it compares vectors and layers at once; give the rows of one comparison.")
    if not compares_vectors:
        if layer is not None:
            raise InputError(f"layer: {layer}, but the table compares layers with one another. Leave it out.")
        groups = {str(name): rows for name, rows in table.groupby("first", sort=False)}
        titles = {name: f"{name}: cosine similarity between layers" for name in groups}
        return _maps(groups, titles, of_layers=True, start=0)
    by_layer = {int(number): table[table["first_layer"] == number] for number in sorted(set(table["first_layer"]))}
    if layer is None and len(by_layer) > 1 and len(_names(table)) == 2:
        return _line(table)
    if layer is not None:
        by_layer = {checks.one_layer(by_layer, layer): by_layer[layer]}
    groups = {str(number): rows for number, rows in by_layer.items()}
    titles = {number: f"Cosine similarity of steering vectors at layer {number}" for number in groups}
    return _maps(groups, titles, of_layers=False, start=len(groups) // 2)


def _names(table: pd.DataFrame) -> list[str]:
    """Names in their order in the table."""
    return list(dict.fromkeys([*table["first"], *table["second"]]))


def _line(table: pd.DataFrame) -> go.Figure:
    """Cosine of two vectors by layer."""
    one, other = _names(table)
    rows = table[(table["first"] == one) & (table["second"] == other)].sort_values("first_layer")
    chance = float(rows["chance"].iloc[0])
    fig = theme.figure(
        f"{one} and {other}: cosine similarity by layer",
        f"gray band: 95 % of pairs of random directions (±{chance:.3f})",
        height=440,
    )
    known = words.numbers(rows["cosine"], ".3f")
    fig.add_hrect(y0=-chance, y1=chance, fillcolor=theme.faded(theme.NEUTRAL, 0.3), line_width=0, layer="below")
    hover = [f"layer {layer:g}: {text}" for layer, text in zip(rows["first_layer"], known, strict=True)]
    look = {"mode": "lines+markers", "line": {"color": theme.PALETTE[0], "width": 2.5}}
    fig.add_trace(dots(rows["first_layer"], rows["cosine"], {"size": 7}, hover, **look))
    lowest = min(-chance, float(rows["cosine"].dropna().min()) if rows["cosine"].notna().any() else 0.0)
    fig.update_xaxes(title_text=theme.LAYER)
    mark_zero(fig)
    return fig.update_yaxes(title_text="cosine similarity", range=[lowest - 0.05, 1.05])


def _maps(groups: Mapping[str, pd.DataFrame], titles: Mapping[str, str], *, of_layers: bool, start: int) -> go.Figure:
    """One map per group, one of them visible; a slider chooses it where there are several."""
    wide = {label: _matrix(rows, of_layers) for label, rows in groups.items()}
    chance = {label: float(rows["chance"].iloc[0]) for label, rows in groups.items()}
    n_cells = max(map(len, wide.values()))
    numbered = n_cells <= _NUMBERED
    note = " (gray)" if numbered else ""
    within = {label: f"95 % of pairs of random directions lie within ±{chance[label]:.3f}{note}" for label in groups}
    fig = theme.figure("")
    bar = {**theme.scale_bar("cosine<br>similarity"), "tickvals": [-1, -0.5, 0, 0.5, 1]}
    shown: dict[str, Any] = {"limit": 1, "colorbar": bar}
    font = {"size": 13 if n_cells <= _ROOMY else theme.SMALLEST}
    shown |= {"texttemplate": "%{text}" if numbered else None, "textfont": font}
    shown["hovertemplate"] = "%{y} and %{x}: %{customdata}<extra></extra>"
    for number, (label, matrix) in enumerate(wide.items()):
        text = [[_number(value, chance[label], n_cells > _ROOMY) for value in row] for row in matrix.to_numpy()]
        known = [words.numbers(row, ".3f") for row in matrix.to_numpy()]
        fig.add_trace(signed_map(matrix, "", text=text, customdata=known, visible=number == start, **shown))
    axes: dict[str, object] = {"type": "category", "showgrid": False}
    if of_layers:
        left, below = 70, 62
        axes |= {"title_text": theme.LAYER, "nticks": 16}
    else:
        names = [str(name) for name in next(iter(wide.values())).index]
        length = 8 * min(24, max(map(len, names)))
        ticks = {"tickvals": list(map(theme.escape, names)), "ticktext": list(map(words.label, names))}
        left, below = 30 + length, 30 + round(0.72 * length)
        fig.update_xaxes(tickangle=-45, **ticks)
        fig.update_yaxes(autorange="reversed", **ticks)
    fig.update_xaxes(**axes).update_yaxes(**axes)
    under = 90 if len(groups) > 1 else 0  # for the slider
    side = min(max(340, n_cells * (58 if numbered else 15)), 800 - left - 125)
    margin = {"l": left, "r": 125, "t": 78, "b": below + under}
    fig.update_layout(width=left + side + 125, height=78 + side + below + under, margin=margin)
    headed = [theme.entitled(go.Figure(layout=fig.layout), titles[label], within[label]).layout for label in groups]
    if len(groups) > 1:
        slider = _slider(list(groups), headed, start, below)
        slider["currentvalue"] = {"prefix": "" if of_layers else "layer "}
        headed[start].sliders = [slider]
    return fig.update_layout(headed[start])


def _matrix(rows: pd.DataFrame, of_layers: bool) -> pd.DataFrame:
    """Square of the cosines, with layers in their order or names in that of the table."""
    if of_layers:
        square = rows.pivot(index="first_layer", columns="second_layer", values="cosine")
        return square.rename(index="{:g}".format, columns="{:g}".format)
    names = _names(rows)
    return rows.pivot(index="first", columns="second", values="cosine").reindex(index=names, columns=names)


def _number(value: float, chance: float, narrow: bool) -> str:
    """A cosine as the text of a cell."""
    if math.isnan(value):
        return ""
    shown = words.with_minus(f"{round(value, 2) + 0.0:.2f}")  # + 0.0 makes -0.0 a plain 0
    shown = words.without_zero(shown) if narrow else shown
    within = abs(value) <= chance
    return f"<span style='color:{_GRAY}'>{shown}</span>" if within else theme.on_map(f"<b>{shown}</b>", value)


def _slider(labels: Sequence[str], headed: Sequence[go.Layout], start: int, below: int) -> dict[str, object]:
    """Slider that shows one map, its title and room for that, ``below`` pixels under the maps."""
    steps = []
    for label, own in zip(labels, headed, strict=True):
        above = {"title.text": own.title.text, "margin.t": own.margin.t, "height": own.height}
        args = [{"visible": [label == other for other in labels]}, above]
        steps.append({"label": theme.escape(label), "method": "update", "args": args})
    return {"active": start, "steps": steps, "pad": {"t": below}}
