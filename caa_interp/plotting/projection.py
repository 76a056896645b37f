"""Figures of projected activations, and of projected steering vectors."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import with_texts
from caa_interp.plotting import checks, theme
from caa_interp.plotting.grid import dots, key, panels, shape

Color = Literal["side", "behavior"]
Symbol = Literal["side", "behavior", "letter", "topic"]

_PLACED = ("layer", "x", "y", "x_share", "y_share", "method")
_COLUMNS = ("behavior", "item", "id", "topic", "order", "side", "split", "fit", *_PLACED)
_VECTOR_COLUMNS = ("vector", "norm", "normalize", *_PLACED)
_SIDE_COLORS = {"positive": theme.POSITIVE, "negative": theme.NEGATIVE}
# Every mark of a point has a hollow form, which the theme's thin cross has not.
_PAIR_OF_SYMBOLS = ("circle", "x")
_TOPIC_SYMBOLS = (*theme.SYMBOLS, "pentagon", "hourglass", "bowtie", "triangle-left")
_AXES = {"pca": "component", "umap": "UMAP", "tsne": "t-SNE"}
# Heights in pixels: a panel among several, one alone, between two rows, above and below all.
_PANEL, _ALONE, _BETWEEN, _ABOVE, _BELOW = 230, 440, 66, 104, 60
_IN_LEGEND_ROW = 4
_COLUMNS_MOST = 3
_MANY = 300  # more points than this in a panel are drawn smaller
_APART = (0.025, 0.04)  # least distance of labels in a map of vectors, as shares of its width and height


def plot_projection(
    table: pd.DataFrame,
    *,
    color: Color | None = None,
    symbol: Symbol = "side",
    title: str = "Activations of contrast pairs",
) -> go.Figure:
    """Scatter of projected activations, one panel per layer; a line joins both answers of a pair.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.project`.
    color
        What the color shows: ``"side"`` (positive or negative answer) or ``"behavior"``; default: behaviors where there
        are several, else sides.
    symbol
        What the mark shows: ``"side"`` (default), ``"behavior"``, ``"letter"`` (of the answer; for activations whose
        letter orders were kept apart) or ``"topic"`` (at most 12).
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        Held-out points are hollow. Principal components have equal units on both axes, and an arrow for each behavior
        from the mean negative answer to the mean positive one: the mean-difference vector of the fitted pairs.
    """
    checks.check_table(table, _COLUMNS, "caa_interp.project")
    checks.check_one(table, ["model", "method", "fit"])
    planes = table.groupby("layer")["x_share"].nunique()
    if (planes > 1).any():
        raise InputError(
            f"table: the points of layer {planes.idxmax():g} lie on {planes.max()} planes, since they were fitted one "
            "by one. Draw one behavior at a time, or give caa_interp.project the activations of all of them."
        )
    table = with_texts(table, ["behavior", "order"])
    if color is None:
        color = "behavior" if table["behavior"].nunique() > 1 else "side"
    checks.check_choice("color", color, get_args(Color))
    checks.check_choice("symbol", symbol, get_args(Symbol))
    hues, marks = _labels(table, color, "color"), _labels(table, symbol, "symbol")
    hue_of = _SIDE_COLORS if color == "side" else {name: look.color for name, look in theme.styles(hues).items()}
    mark_of = _marks(marks, symbol)
    hollow = (table["split"] == "held out").map({True: "-open", False: ""})
    edge = hollow.map({"-open": 1.5, "": 0.5})
    drawn = table.assign(hue=hues, mark=marks.astype(object).map(mark_of) + hollow, edge=edge, hover=_hover(table))

    layers = sorted(int(layer) for layer in table["layer"].unique())
    n_rows, n_columns = shape(len(layers), _COLUMNS_MOST)
    legend = _legend(hue_of, mark_of, color, symbol, held_out=bool(hollow.any()))
    shared, linear = table["fit"].iloc[0] == "shared", bool(table["x_share"].notna().all())
    inside = _ALONE if len(layers) == 1 else n_rows * _PANEL + (n_rows - 1) * _BETWEEN
    fig = theme.figure(title, _subtitle(table, layers), **_frame(inside, len(legend)))
    places = panels(
        fig,
        _panel_titles(table, layers, shared),
        most=_COLUMNS_MOST,
        horizontal_spacing=0.07,
        vertical_spacing=_BETWEEN / inside,
    )
    fig.update_annotations(font_size=14)
    for index, (layer, place) in enumerate(zip(layers, places, strict=True)):
        rows = drawn[drawn["layer"] == layer]
        size = 7 if len(rows) <= _MANY else 5
        fig.add_trace(_joined(rows), **place)
        for value, some in rows.groupby("hue", sort=False):
            marker = _marker(hue_of[str(value)], some["mark"], size, some["edge"])
            points = dots(some["x"], some["y"], marker, opacity=0.8, legendgroup=value, hoverinfo="all")
            points.update(hovertext=some["hover"], hovertemplate="%{hovertext}<extra></extra>")
            fig.add_trace(points, **place)
        if linear:
            _draw_vectors(fig, rows, hue_of if color == "behavior" else {}, **place)
            fig.update_yaxes(scaleanchor=f"x{index + 1}" if index else "x", **place)
        _name_axes(fig, table, shared or len(layers) == 1, **place)
        if index + n_columns < len(layers):
            fig.update_xaxes(title=None, **place)
        if place["col"] > 1:
            fig.update_yaxes(title=None, **place)
    if shared:
        fig.update_xaxes(matches="x").update_yaxes(matches="y")
    for name, hue, mark, group in legend:
        edge_width = 1.5 if mark.endswith("-open") else 0.5
        fig.add_trace(key(name, _marker(hue, mark, 9, edge_width), legendgroup=group))
    return fig.update_layout(legend_itemsizing="constant")


def plot_vector_map(table: pd.DataFrame, *, title: str = "Steering vectors through the layers") -> go.Figure:
    """Projected steering vectors: a line for each, from layer to layer; some layers are named.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.analysis.project_vectors`; title of the figure.
    """
    checks.check_table(table, _VECTOR_COLUMNS, "caa_interp.analysis.project_vectors")
    looks = theme.styles(table["vector"])
    kind = "divided by their norms" if table["normalize"].iloc[0] else "in units of the residual stream"
    subtitle = (
        f"{_method(table)} of vectors {kind}<br>"
        f"{len(looks)} vectors at {table['layer'].nunique()} layers, on one map; numbers are layers"
    )
    fig = theme.figure(title, subtitle, **_frame(_ALONE, len(looks)))
    ordered = table.sort_values(["vector", "layer"], kind="stable").reset_index(drop=True)
    labelled = _apart(ordered)
    for name in looks:
        rows, look = ordered[ordered["vector"] == name], looks[name]
        at = rows.index.isin(labelled)
        marker = {"color": look.color, "symbol": look.symbol, "size": [10 if one else 6 for one in at]}
        font = {"color": theme.DARK, "size": 12, "shadow": "0 0 3px white, 0 0 3px white, 0 0 3px white"}
        numbers = [f"{layer:g}" if one else "" for layer, one in zip(rows["layer"], at, strict=True)]
        drawn = dots(rows["x"], rows["y"], marker, rows[["layer", "norm"]], name=theme.escape(name), showlegend=True)
        drawn.update(mode="lines+markers+text", text=numbers, textposition="top center", textfont=font)
        drawn.update(line={"color": theme.faded(look.color, 0.5), "width": 1.5})
        told = f"layer %{{customdata[0]}}, norm %{{customdata[1]:.3g}}<extra>{theme.escape(name)}</extra>"
        fig.add_trace(drawn.update(hovertemplate=told))
    _name_axes(fig, table, with_shares=True)
    return fig


def _joined(rows: pd.DataFrame) -> go.Scatter:
    """A thin line between both answers of every pair, at each of its letter orders."""
    ends = rows.set_index(["behavior", "split", "item", "order", "side"])[["x", "y"]].unstack()
    x, y = (
        pd.DataFrame(ends[axis]).reindex(columns=["positive", "negative"]).assign(gap=None).to_numpy().ravel().tolist()
        for axis in ("x", "y")
    )
    return dots(x, y, {}, mode="lines", line={"color": theme.faded(theme.NEUTRAL, 0.35), "width": 0.75})


def _draw_vectors(fig: go.Figure, rows: pd.DataFrame, colors: dict[str, str], **place: int) -> None:
    """An arrow for each behavior, from the mean of its negative answers to that of its positive ones."""
    for behavior, own in rows[rows["split"] == "fit"].groupby("behavior", sort=False):
        color = colors.get(str(behavior), theme.DARK)
        ends = own.groupby("side")[["x", "y"]].mean().reindex(["negative", "positive"])
        if ends.notna().all(axis=None):
            arrow = {"symbol": "arrow", "angleref": "previous", "size": [0, 13], "opacity": 1, "color": color}
            drawn = dots(ends["x"], ends["y"], {**arrow, "line": {"color": theme.DARK, "width": 1}})
            drawn.update(mode="lines+markers", line={"color": color, "width": 2.5}, legendgroup=behavior)
            told = f"mean-difference vector of the fitted pairs<extra>{theme.escape(behavior)}</extra>"
            fig.add_trace(drawn.update(hovertemplate=told, hoverinfo="all"), **place)


def _frame(inside: float, n_entries: int) -> dict[str, Any]:
    """Layout of a figure that is ``inside`` pixels high between its axes, its legend below them."""
    below = _BELOW + theme.LEGEND_ROW * math.ceil(n_entries / _IN_LEGEND_ROW)
    return theme.room(inside + _ABOVE + below, l=70, r=24, t=_ABOVE, legend=below)


def _marker(color: str, symbol: Any, size: float, edge: Any) -> dict[str, Any]:
    """A mark with a white edge if it is filled; the edge of a hollow one has its color."""
    return {"color": color, "symbol": symbol, "size": size, "line": {"width": edge, "color": "white"}}


def _apart(table: pd.DataFrame) -> list[int]:
    """Indices of points whose labels do not overlap: ends of lines, then every fifth layer."""
    places = table[["x", "y"]].to_numpy()
    span = np.ptp(places, axis=0)
    places = places / (np.where(span > 0, span, 1.0) * _APART)
    layers = table.groupby("vector")["layer"]
    chosen: list[int] = []
    for index in [*layers.idxmax(), *layers.idxmin(), *table.index[table["layer"] % 5 == 0]]:
        if all(np.abs(places[index] - places[other]).max() >= 1 for other in chosen):
            chosen.append(index)
    return chosen


def _labels(table: pd.DataFrame, what: str, argument: str) -> pd.Series:
    """What the color or the mark of each row shows; raise :class:`InputError` if the table does not hold it."""
    if what == "letter":
        letters = table["order"].str[:1].where(table["side"] == "positive", table["order"].str[1:])
        if (letters == "").any():
            raise InputError(
                f"{argument}: some rows have no letter order. Collect choices with average_orders=False, or choose "
                f"another {argument}."
            )
        return letters
    values = table[what]
    if what == "behavior" and (values == "").any():
        raise InputError(f"{argument}: the table names no behaviors; give caa_interp.project a mapping of names.")
    if what == "topic":
        if values.isna().any():
            raise InputError(f"{argument}: some pairs have no topic. Leave them out, or choose another {argument}.")
        if values.nunique() > len(_TOPIC_SYMBOLS):
            raise InputError(
                f"{argument}: there are {values.nunique()} topics, but only {len(_TOPIC_SYMBOLS)} different "
                "marks. Select the rows of some topics first."
            )
    return values


def _marks(labels: pd.Series, what: str) -> dict[str, str]:
    """Symbol of each label, in the order of the legend."""
    if what == "behavior":
        return {name: look.symbol for name, look in theme.styles(labels).items()}
    names = list(_SIDE_COLORS) if what == "side" else sorted(labels.unique())
    symbols = _PAIR_OF_SYMBOLS if len(names) == 2 else _TOPIC_SYMBOLS
    return dict(zip(names, symbols, strict=False))


def _legend(
    hues: dict[str, str], marks: dict[str, str], color: str, symbol: str, held_out: bool
) -> list[tuple[str, str, str, str]]:
    """Name, color, symbol and group of each entry: what colors mean, then what marks mean, or both at once."""

    def name(value: str, what: str) -> str:
        return {"side": f"{value} answers", "letter": f"letter {value}"}.get(what, theme.escape(value))

    if color == symbol:
        entries = [(name(value, color), hue, marks[value], value) for value, hue in hues.items()]
    else:
        entries = [(name(value, color), hue, "square", value) for value, hue in hues.items()]
        entries += [(name(value, symbol), theme.NEUTRAL, mark, f"mark {value}") for value, mark in marks.items()]
    hollow = [("held out (hollow)", theme.NEUTRAL, "circle-open", "held out")]
    return entries + hollow if held_out else entries


def _hover(table: pd.DataFrame) -> list[str]:
    """Hover text of every point: its pair, and what is known about it."""
    columns = [table[name] for name in ("id", "item", "behavior", "topic", "side", "order", "split")]
    return [
        f"{theme.escape(id if isinstance(id, str) else f'pair {item}')}<br>"
        + ", ".join(theme.escape(value) for value in known if isinstance(value, str) and value)
        for id, item, *known in zip(*columns, strict=True)
    ]


def _subtitle(table: pd.DataFrame, layers: list[int]) -> str:
    pairs = table[["behavior", "item", "split"]].drop_duplicates()
    fitted, n_behaviors = (pairs["split"] == "fit").sum(), pairs["behavior"].nunique()
    fit = {
        "each": "fitted at each layer" if len(layers) > 1 else f"fitted at layer {layers[0]}",
        "shared": "one fit for all layers",
    }[table["fit"].iloc[0]]
    count = f"n = {fitted} pairs" + (f" of {n_behaviors} behaviors" if n_behaviors > 1 else "")
    if fitted < len(pairs):
        count += f" and {len(pairs) - fitted} held out"
    linear = table["x_share"].notna().all()
    unit = "units of the residual stream; arrow: mean difference" if linear else "axes have no unit"
    return f"{_method(table)}, {fit}; {unit}<br>{count}"


def _method(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    return {
        "umap": f"UMAP ({first.get('n_neighbors')} neighbors)",
        "tsne": f"t-SNE (perplexity {first.get('perplexity')})",
    }.get(first["method"], "principal components (shares of variance)")


def _panel_titles(table: pd.DataFrame, layers: list[int], shared: bool) -> list[str]:
    """Title of each panel: its layer, and the shares of variance where each panel has its own."""
    if len(layers) == 1:
        return [""]
    shares = 100 * table.groupby("layer")[["x_share", "y_share"]].first()
    if shared or shares.isna().any(axis=None):
        return [f"layer {layer}" for layer in layers]
    return [f"layer {layer} ({shares.x_share[layer]:.0f} %, {shares.y_share[layer]:.0f} %)" for layer in layers]


def _name_axes(fig: go.Figure, table: pd.DataFrame, with_shares: bool, **place: int) -> None:
    """Name both axes, with their shares of variance if wanted; without numbers if they have no unit."""
    name = _AXES[table["method"].iloc[0]]
    for number, update, column in ((1, fig.update_xaxes, "x_share"), (2, fig.update_yaxes, "y_share")):
        share = table[column].iloc[0]
        text = f"{name} {number}"
        if pd.isna(share):
            update(showticklabels=False, ticks="", **place)
        elif with_shares:
            text += f" ({100 * share:.0f} %)"
        update(title={"text": text, "font_size": 13}, **place)
