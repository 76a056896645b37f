"""Figure of how far steering vectors can be trusted, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting.theme import NEUTRAL, Style, check_table, escape, faded, figure, styles

_SOURCE = "caa_interp.reliability"
# Column, title of the panel, unit, and what pairs without anything in common would show.
_PANELS = (
    ("agreement", "agreement of pairs", "cosine with other pairs", 0.0),
    ("split_half", "split halves", "cosine of their vectors", 0.0),
    ("separation", "separation of sides", "d' (standard deviations)", 0.0),
    ("probe_accuracy", "vector as a probe", "share of answers right", 0.5),
    ("variance_share", "variance along the vector", "share of sum of squares", 0.0),
    ("relative_norm", "norm of the vector", "share of activation norm", None),
    ("length_correlation", "answer length", "correlation", 0.0),
    ("letter_share", "answer letter", "share of variance along vector", 0.0),
)
_N_COLUMNS = 4
_SMALL = 11


def plot_reliability(
    table: pd.DataFrame | Mapping[str, pd.DataFrame], *, title: str = "How far the vector can be trusted"
) -> go.Figure:
    """Lines over layers with their intervals, one panel a statistic.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.reliability`, or several by name: ``{behavior: table}``.
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        A panel for every statistic that some table holds; the letter's only where the orders were kept apart. The
        dotted line is what pairs without anything in common would show. Where several tables have a statistic,
        their lines differ in color and symbol.
    """
    tables = dict(table) if isinstance(table, Mapping) else {"": table}
    if not tables:
        raise InputError("table: the mapping is empty; give at least one result of caa_interp.reliability.")
    for one in tables.values():
        check_table(one, {"layer", "n", "confidence", *(name for name, *_ in _PANELS)}, _SOURCE)
    panels = [panel for panel in _PANELS if any(one[panel[0]].notna().any() for one in tables.values())]
    several = len(tables) > 1
    n_pairs = sorted({int(n) for one in tables.values() for n in one["n"]})
    confidence = f"{100 * next(iter(tables.values()))['confidence'].iloc[0]:.0f} %"
    full = len(panels) % _N_COLUMNS == 0
    fig = figure(
        escape(title),
        f"n = {_span(n_pairs)} pairs, each held against the others; bands: {confidence} intervals, of split halves "
        f"{confidence} of the splits; dotted: nothing in common",
        height=640 if several and full else 580,
        width=1000,
        showlegend=several,
        # In the free place of the grid, or below it.
        legend={"x": 0, "y": -0.16, "yanchor": "top", "orientation": "h", "font": {"size": 12}}
        if full
        else {"x": 0.79, "y": 0.4, "yanchor": "top", "font": {"size": 12}},
    )
    fig.set_subplots(
        rows=math.ceil(len(panels) / _N_COLUMNS),
        cols=_N_COLUMNS,
        subplot_titles=[panel[1] for panel in panels],
        horizontal_spacing=0.085,
        vertical_spacing=0.2,
    )
    looks = styles(tables)
    for index, (name, _, unit, nothing) in enumerate(panels):
        place = {"row": index // _N_COLUMNS + 1, "col": index % _N_COLUMNS + 1}
        ordered = {label: one.sort_values("layer") for label, one in tables.items()}
        for label, one in ordered.items():
            _add_bands(fig, one, name, faded(looks[label].color, 0.06 if several else 0.18), label, place)
        for label, one in ordered.items():
            _add_line(fig, one, name, label, looks[label], place)
        if nothing is not None:
            fig.add_hline(nothing, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, **place)
        fig.update_yaxes(title_text=unit, title_standoff=4, **place)
        if index + _N_COLUMNS >= len(panels):
            fig.update_xaxes(title_text="layer (block index)", title_standoff=4, **place)
    for update in (fig.update_xaxes, fig.update_yaxes):
        update(title_font_size=_SMALL, tickfont_size=_SMALL)
    fig.update_annotations(font_size=13)
    return fig


def _add_bands(fig: go.Figure, table: pd.DataFrame, name: str, color: str, label: str, place: dict[str, int]) -> None:
    """Interval of one statistic; a missing value parts the band, since a polygon cannot hold a gap."""
    low, high = f"{name}_low", f"{name}_high"
    if low not in table:
        return
    defined = table[[low, high]].notna().all(axis=1)
    for _, part in table[defined].groupby((~defined).cumsum()[defined]):
        fig.add_scatter(
            x=[*part["layer"], *part["layer"][::-1]],
            y=[*part[high], *part[low][::-1]],
            fill="toself",
            fillcolor=color,
            mode="lines",
            line={"width": 0},
            legendgroup=label,
            showlegend=False,
            hoverinfo="skip",
            **place,
        )


def _add_line(fig: go.Figure, table: pd.DataFrame, name: str, label: str, style: Style, place: dict[str, int]) -> None:
    fig.add_scatter(
        x=table["layer"],
        y=table[name],
        mode="lines+markers" if label or len(table) == 1 else "lines",
        line={"color": style.color, "width": 1.8},
        # Symbols at a few layers: gaps of dashes would look like missing values in small panels.
        marker={"color": style.color, "symbol": style.symbol, "size": 6, "maxdisplayed": 7},
        name=escape(label),
        legendgroup=label,
        showlegend=bool(label) and place == {"row": 1, "col": 1},
        hovertemplate="layer %{x}: %{y:.3f}<extra>" + escape(label) + "</extra>",
        **place,
    )


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
