"""Grids with a token in every cell, as figures of lenses have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import theme, words
from caa_interp.plotting.grid import dots, panels, shape

LONGEST = 10  # letters of a token that a cell shows
_WIDEST, _BETWEEN = 820, 64  # pixels: of a figure at two columns, where more panels flow on; between two rows


def token_grids(
    title: str,
    subtitle: str,
    panels_of: Mapping[str, pd.DataFrame],
    across: tuple[str, Mapping[Any, str]],
    coloraxis: dict[str, Any],
    cell: int,
) -> go.Figure:
    """Panels of layers by columns, with a token in every cell, ``cell`` pixels wide.

    ``panels_of`` has each panel's rows by its title (columns layer, value, shown and hover, and the one named in
    ``across``, with the labels of its values). Tokens are a trace of their own, since a heatmap's own text is too faint
    on colors of middle lightness.
    """
    name, labels = across
    most = max(1, min(len(panels_of), (_WIDEST - 200) // (len(labels) * cell)))
    n_rows = shape(len(panels_of), most)[0]
    layers = sorted(set().union(*(rows["layer"] for rows in panels_of.values())))
    named = [f"{layer:g}" for layer in layers]
    fig = theme.figure(
        title,
        subtitle,
        coloraxis=coloraxis,
        width=max(760, most * len(labels) * cell + 200),
        **theme.room(max(360, 170 + n_rows * 23 * len(layers) + (n_rows - 1) * _BETWEEN), t=104, b=66),
    )
    between = _BETWEEN / (n_rows * 23 * len(layers) + (n_rows - 1) * _BETWEEN) if n_rows > 1 else 0
    places = panels(
        fig, list(panels_of), most=most, shared_yaxes=True, horizontal_spacing=0.02, vertical_spacing=between
    )
    for place, (heading, rows) in zip(places, panels_of.items(), strict=True):
        z, shown, customdata = (
            rows.pivot(index="layer", columns=name, values=column).reindex(index=layers, columns=list(labels))
            for column in ("value", "shown", "hover")
        )
        across_and_down = {"x": list(labels.values()), "y": named, "xgap": 1, "ygap": 1}
        hover = f"{heading}, layer %{{y}}, {name} %{{x}}<br>%{{customdata}}<extra></extra>"
        said = {"customdata": customdata.fillna(""), "hovertemplate": hover}
        fig.add_heatmap(z=z.to_numpy(), coloraxis="coloraxis", **across_and_down, **said, **place)
        color = theme.letter_colors(z.to_numpy().ravel() / coloraxis["cmax"])
        letters = {"mode": "text", "textfont": {"family": theme.MONOSPACE, "size": 11, "color": color}}
        x, y = list(labels.values()) * len(layers), [layer for layer in named for _ in labels]
        fig.add_trace(dots(x, y, {}, text=shown.fillna("").to_numpy().ravel(), **letters), **place)
    fig.update_annotations(font_size=14)
    bare = {"type": "category", "ticks": "", "showline": False, "showgrid": False}
    fig.update_xaxes(range=[-0.5, len(labels) - 0.5], **bare)
    fig.update_yaxes(range=[-0.5, len(layers) - 0.5], ticklabelstandoff=5, **bare)
    return fig.update_yaxes(title_text=theme.LAYER, col=1)


def ranked_grid(title: str, subtitle: str, cells: pd.DataFrame, sides: Mapping[str, str], unit: str) -> go.Figure:
    """Layers by ranks, a panel for each of the ``sides``, which is named by its words.

    ``cells`` has the columns of :func:`token_grids`, and side, rank and token; ``unit`` is that of the values.
    """
    limit = float(cells["value"].abs().max()) or 1.0
    fig = token_grids(
        title,
        subtitle,
        {told: cells[cells["side"] == side] for side, told in sides.items()},
        ("rank", {rank: str(rank) for rank in sorted(cells["rank"].unique())}),
        theme.color_axis(theme.DIVERGING, -limit, limit, unit),
        cell=cell_width(cells["token"]),
    )
    return fig.update_xaxes(title_text="rank")


def cell_width(tokens: pd.Series[str]) -> int:
    """Pixels that the longest shown token takes."""
    return 8 + 7 * max(5, min(LONGEST, int(tokens.str.len().max())))


def short(token: str) -> str:
    """A token as a cell shows it: cut, and escaped for Plotly."""
    return theme.escape(words.cut(token, LONGEST))
