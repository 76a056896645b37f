"""Figure of how far steering vectors can be trusted, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import band, dots, panels, shape

# Column, title of the panel, unit, and its value for unrelated pairs.
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
_N_COLUMNS = 3
_SMALL = {"title_font_size": 11, "tickfont_size": 11}


def plot_reliability(
    table: pd.DataFrame | Mapping[str, pd.DataFrame], *, title: str = "How far the vector can be trusted"
) -> go.Figure:
    """Lines over layers with their intervals, one panel per statistic.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.reliability`, one row per layer, or several by name (``{behavior: table}``); title
        of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        One panel per statistic that some table holds; the letter's only where the orders were kept apart. The dotted
        line is the value for unrelated pairs. Tables differ in color and symbol.
    """
    columns = ("layer", "n", "confidence", *(name for name, *_ in _PANELS))
    tables = checks.tables_by_name(table, columns, "caa_interp.reliability")
    for one in tables.values():
        checks.check_once(one, ["layer"], "caa_interp.reliability")
    panels_of = [panel for panel in _PANELS if any(one[panel[0]].notna().any() for one in tables.values())]
    several = len(tables) > 1
    n_rows = shape(len(panels_of), _N_COLUMNS)[0]
    fig = theme.figure(
        title,
        f"n = {words.counts(n for one in tables.values() for n in one['n'])} pairs, each compared with the "
        f"others; bands: {words.interval(pd.concat(tables.values()))}, or as many of the splits in halves; "
        "dotted: unrelated pairs",
        **theme.room(150 + 215 * n_rows + 30 * several, t=120, legend=62 + 30 * several),
        showlegend=several,
    )
    titles = [panel[1] for panel in panels_of]
    places = panels(fig, titles, most=_N_COLUMNS, horizontal_spacing=0.1, vertical_spacing=0.28 / n_rows)
    looks = theme.styles(tables)
    ordered = {label: one.sort_values("layer") for label, one in tables.items()}
    for index, ((name, _, unit, nothing), place) in enumerate(zip(panels_of, places, strict=True)):
        for label, one in ordered.items():
            if f"{name}_low" in one:
                color = theme.faded(looks[label].color, 0.06 if several else 0.18)
                ends = (one[f"{name}_low"], one[f"{name}_high"])
                fig.add_trace(band(one["layer"], *ends, color, legendgroup=label), **place)
        for label, one in ordered.items():
            style, extra = looks[label], theme.escape(label)
            # Symbols at a few layers: gaps of dashes would look like missing values in small panels.
            marker = {"color": style.color, "symbol": style.symbol, "size": 6, "maxdisplayed": 7}
            if f"{name}_low" in one:
                told = words.estimates(one, name, unit)
            else:
                told = [f"{text} {unit}, n = {n:g}" for text, n in zip(words.numbers(one[name]), one["n"], strict=True)]
            drawn = dots(one["layer"], one[name], marker, told, name=extra, legendgroup=label)
            drawn.update(mode="lines+markers" if label or len(one) == 1 else "lines", line_width=1.8)
            drawn.update(line_color=style.color, showlegend=bool(label) and index == 0)
            fig.add_trace(drawn.update(hovertemplate=f"layer %{{x}}: %{{customdata}}<extra>{extra}</extra>"), **place)
        if nothing is not None:
            fig.add_hline(nothing, line=theme.CHANCE, **place)
        fig.update_yaxes(title_text=unit, title_standoff=4, **place)
        if index + _N_COLUMNS >= len(panels_of):
            fig.update_xaxes(title_text=theme.LAYER, title_standoff=4, **place)
    return fig.update_xaxes(**_SMALL).update_yaxes(**_SMALL)
