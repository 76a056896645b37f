"""What figures are made of: panels in a grid, marks, lines and bands with intervals, maps centered on zero."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import theme, words

Place = dict[str, int]
# Kinds of controls, see caa_interp.evaluation.controls, in the order of their fills; others come after these.
_CONTROLS = ("random", "orthogonal", "shuffled", "other")
# Distinct without color: plain, dotted, hatched, crossed; by their edges where a band is too narrow for that.
_FILLS, _EDGES = ("", ".", "/", "x"), ("solid", "dot", "dash", "dashdot")
_MOST_TICKS = 16
# Lines stand side by side, so that intervals do not cover one another: this far apart, and all of them over at most
# this much, as shares of the way from one multiplier to the next.
_APART, _AT_MOST = 0.05, 0.3


def shape(n: int, most: int = 4) -> tuple[int, int]:
    """Rows and columns of ``n`` panels, with at most so many columns and no emptier row than needed."""
    n_rows = math.ceil(n / most)
    return n_rows, math.ceil(n / n_rows)


def panels(
    fig: go.Figure, titles: Sequence[str], *, most: int = 4, x_title: str = "", y_title: str = "", **options: Any
) -> list[Place]:
    """Divide a figure into panels of equal size, at most ``most`` side by side, and return their places row by row.

    ``titles`` are in Plotly's markup, empty for none; ``x_title`` and ``y_title`` name the axes that all panels
    share; ``options`` are those of :func:`plotly.subplots.make_subplots`.
    """
    n_rows, n_columns = shape(len(titles), most)
    common = {name: text for name, text in (("x_title", x_title), ("y_title", y_title)) if text}
    # Without axes where there is no panel.
    cells: list[dict[str, Any] | None] = [{} if number < len(titles) else None for number in range(n_rows * n_columns)]
    specs = [cells[start : start + n_columns] for start in range(0, len(cells), n_columns)]
    fig.set_subplots(
        rows=n_rows,
        cols=n_columns,
        specs=specs,
        subplot_titles=list(titles) if any(titles) else None,
        **common,
        **options,
    )
    fig.update_annotations(font_size=13)
    for text in common.values():
        fig.update_annotations(selector={"text": text}, font_size=14)
    fig.update_annotations(selector={"text": y_title}, xshift=-52)
    return [{"row": number // n_columns + 1, "col": number % n_columns + 1} for number in range(len(titles))]


def line(
    rows: pd.DataFrame,
    along: str,
    mean: str,
    look: theme.Style,
    name: str,
    unit: str,
    *,
    shift: float = 0,
    **options: Any,
) -> go.Scatter:
    """Means over a column with their intervals as upright bars; ``shift`` moves them to the side of others.

    ``unit`` is that of the means, for the hover text.
    """
    rows = rows.sort_values(along)
    return go.Scatter(
        {
            "x": rows[along] + shift if shift else rows[along],
            "y": rows[mean],
            "error_y": theme.error_bars(rows, mean),
            "mode": "lines+markers",
            "line": {"color": look.color, "width": 2.5},
            "marker": {"size": 9, "symbol": look.symbol},
            "name": theme.escape(name),
            "customdata": rows[[along]].assign(shown=words.estimates(rows, mean, unit)),
            "hovertemplate": f"{along} %{{customdata[0]}}: %{{customdata[1]}}",
            **options,
        }
    )


def band(x: Iterable[float], low: Iterable[float], high: Iterable[float], color: str, **options: Any) -> go.Scatter:
    """Area between two lines, one polygon for each stretch in which both are defined."""
    rows = pd.DataFrame({"x": list(x), "low": list(low), "high": list(high)})
    there = rows.notna().all(axis=1)
    outline: list[tuple[float | None, float | None]] = []
    for _, part in rows[there].groupby((~there).cumsum()[there]):
        back = part[::-1]
        outline += [(None, None)] if outline else []
        outline += [*zip(part["x"], part["high"], strict=True), *zip(back["x"], back["low"], strict=True)]
    return go.Scatter(
        {
            "x": [at for at, _ in outline],
            "y": [height for _, height in outline],
            "fill": "toself",
            "fillcolor": color,
            "mode": "lines",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
            **options,
        }
    )


def control_range(rows: pd.DataFrame, along: str, value: str, half: float = 0.0, **options: Any) -> go.Scatter:
    """Gray band from the lowest value of controls to the highest at each place ``along``, a single control a line.

    It is level for ``half`` of the way to the next place, on both sides; 0: it goes straight from place to place.
    """
    reach = rows.groupby(along)[value].agg(["min", "max"])
    sides = (-half, half) if half else (0.0,)
    low, high = (reach[end].repeat(len(sides)) for end in ("min", "max"))
    color = theme.faded(theme.NEUTRAL, 0.3)
    x = [place + side for place in reach.index for side in sides]
    return band(x, low, high, color, **{"line": {"width": 2, "color": color}, **options})


def control_bands(
    rows: pd.DataFrame, along: str, mean: str, unit: str, most: Mapping[str, int] | None = None, half: float = 0.0
) -> list[go.Scatter]:
    """A band as in :func:`control_range` for the controls of each kind, which differ in their fills.

    ``unit`` is that of the means, for the hover text. The legend says how many there are, or, where panels share it,
    the ``most`` in any of them (:func:`most_controls`).
    """
    bands, most = [], most or most_controls(rows)
    for number, kind in enumerate(dict.fromkeys([*_CONTROLS, *most])):
        own = rows[rows["kind"] == kind]
        if own[mean].isna().all():
            continue
        fill, edge, n = _FILLS[number % len(_FILLS)], _EDGES[number % len(_EDGES)], most[kind]
        # A hatched band is clear between its marks, so that bands that overlap can both be seen.
        pattern = {"shape": fill, "fgcolor": theme.NEUTRAL, "bgcolor": "rgba(0,0,0,0)", "size": 5, "solidity": 0.25}
        drawn = control_range(
            own,
            along,
            mean,
            half,
            fillpattern=pattern if fill else None,
            line={"width": 1, "color": theme.faded(theme.NEUTRAL, 0.8), "dash": edge},
            name=f"{n} {theme.escape(kind)} vector{'' if n == 1 else 's'} of the same norm",
            showlegend=True,
            hoverinfo=None,
            hoveron="points",
            hovertemplate=f"{along} %{{customdata[0]}}: %{{customdata[1]}} {unit}, lowest or highest mean of "
            f"n = %{{customdata[2]}} {theme.escape(kind)} controls<extra></extra>",
        )
        counted = words.n_controls(own[own[mean].notna()], [along]).droplevel("kind")
        there = zip(counted.index, counted, strict=True)
        places = {at + side: (words.factor(at), n_there) for at, n_there in there for side in (-half, half)}
        known = zip(map(places.get, drawn.x), words.numbers(drawn.y), strict=True)
        bands.append(drawn.update(customdata=[(at[0], height, at[1]) if at else ("", "", "") for at, height in known]))
    return bands


def most_controls(rows: pd.DataFrame, each: Sequence[str] = ()) -> dict[str, int]:
    """Number of controls of each kind, beside the value of the columns ``each`` that has most."""
    most = words.n_controls(rows, each).groupby(level="kind", sort=False).max()
    return {str(kind): int(n) for kind, n in most.items()}


def marks(rows: pd.DataFrame, mean: str, y: Iterable[float], names: str, unit: str, **options: Any) -> go.Scatter:
    """Means with their intervals as level bars at the heights ``y``; column ``names`` and ``unit`` are for hovering."""
    bars = {**theme.error_bars(rows, mean), **options.pop("error_x", {})}
    return go.Scatter(
        {
            "x": rows[mean],
            "y": y,
            "error_x": bars,
            "mode": "markers",
            "customdata": list(zip(rows[names].map(theme.escape), words.estimates(rows, mean, unit), strict=True)),
            "hovertemplate": "%{customdata[0]}: %{customdata[1]}<extra></extra>",
            **options,
        }
    )


def dots(
    x: Iterable[Any], y: Iterable[Any], marker: dict[str, Any], hover: Iterable[Any] | None = None, **options: Any
) -> go.Scatter:
    """Points as marks, or as a line by ``options``, each with its hover text if there are any; not in the legend."""
    said = {"customdata": hover, "hovertemplate": "%{customdata}<extra></extra>"}
    return go.Scatter(
        {
            "x": x,
            "y": y,
            "mode": "markers",
            "marker": marker,
            "showlegend": False,
            **({"hoverinfo": "skip"} if hover is None else said),
            **options,
        }
    )


def key(name: str | None, marker: dict[str, Any], **options: Any) -> go.Scatter:
    """Trace without points, for an entry of the legend or a color bar."""
    return go.Scatter({"x": [None], "y": [None], "mode": "markers", "marker": marker, "name": name, **options})


def name_once(fig: go.Figure) -> None:
    """Leave one entry in the legend of each name that several panels have, which all of these answer to."""
    named: set[str] = set()
    for trace in fig.data:
        if trace.name and trace.showlegend is not False:
            trace.update(legendgroup=trace.name, showlegend=trace.name not in named)
            named.add(trace.name)


def signed_map(wide: pd.DataFrame, title: str, *, limit: float | None = None, **options: Any) -> go.Heatmap:
    """Map of a table whose colors are centered on zero, with the color bar's title; it reaches to its largest value."""
    limit = limit or float(wide.abs().max().max()) or 1.0
    return go.Heatmap(
        {
            "z": wide.to_numpy(),
            "x": [theme.escape(name) for name in wide.columns],
            "y": [theme.escape(name) for name in wide.index],
            "zmin": -limit,
            "zmax": limit,
            "colorscale": theme.DIVERGING,
            "colorbar": {"title": {"text": title, "side": "right"}},
            "hoverongaps": False,
            **options,
        }
    )


def cell_marks(chosen: pd.DataFrame) -> go.Scatter:
    """Dots on the cells of a map that are true in ``chosen``, which has the map's axes; they show on any color."""
    rows, columns = np.nonzero(chosen.to_numpy(bool))
    dot = {"color": "white", "size": 5, "line": {"color": theme.DARK, "width": 1}}
    return dots(list(chosen.columns[columns]), list(chosen.index[rows]), dot)


def missing(wide: pd.DataFrame) -> tuple[go.Scatter, str]:
    """Crosses on the cells of a map that have no value, and what its subtitle says of them."""
    blank = wide.isna()
    n = int(blank.to_numpy().sum())
    crosses = cell_marks(blank).update(hoverinfo="all", hovertemplate="not measured<extra></extra>")
    crosses.marker = {"symbol": "x-thin", "size": 7, "line": {"color": theme.NEUTRAL, "width": 1.2}}
    return crosses, f"; crosses: {n} not measured" if n else ""


def side_by_side(multipliers: Sequence[float], n: int) -> list[float]:
    """How far each of ``n`` lines over the same multipliers is moved."""
    step = min((b - a for a, b in pairwise(sorted(multipliers))), default=1.0)
    apart = step * min(_APART, _AT_MOST / max(1, n - 1))
    return [apart * (number - (n - 1) / 2) for number in range(n)]


def name_multipliers(fig: go.Figure, multipliers: Iterable[float], title: str = theme.MULTIPLIER, **place: int) -> None:
    """Ticks at the multipliers of an axis, and its title."""
    at = sorted(multipliers)
    fig.update_xaxes(title_text=title, tickvals=at, ticktext=[words.factor(one) for one in at], **place)


def thinned(labels: Sequence[str]) -> Sequence[str]:
    """So many of the labels as have room on an axis."""
    return labels[:: max(1, math.ceil(len(labels) / _MOST_TICKS))]


def mark_zero(fig: go.Figure) -> None:
    """Draw the line of no effect."""
    fig.update_yaxes(zeroline=True, zerolinecolor=theme.NEUTRAL, zerolinewidth=1)
