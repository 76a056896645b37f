"""Forest plot: one row per vector, its effect with an interval beside those of its controls."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.summary import SERIES
from caa_interp.evaluation.verdicts import verdicts
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots, marks, panels

_SOURCE = "caa_interp.steerability"
_COLUMNS = ("vector", "kind", "layer", "slope", "slope_low", "slope_high", "share_against", "n")


def plot_steerability(table: pd.DataFrame, *, title: str = "What one unit of each vector does") -> go.Figure:
    """Mean slope of every vector with its interval, the largest on top, and its controls as gray ticks.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.steerability` on a sweep over vectors and controls, or several of these in one table
        with a column ``behavior``. Controls stand in the rows of their behavior and layer. A behavior with several
        vectors has a row for each. A column ``pairs`` divides the rows into panels, by the pairs that they were
        measured on.
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        Each row ends with its verdict (:func:`caa_interp.evaluation.verdicts`), the share of items that move in the
        opposite direction, and their number.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    about = "behavior" if "behavior" in table else "vector"
    rows = table.assign(panel=table.get("pairs", ""))
    # What tells vectors of one row apart, and what a vector has in common with its controls.
    own, _ = checks.vectors_and_controls(rows)
    several = checks.varying(own, SERIES, ["panel", about])
    shared = ["panel", *(name for name in SERIES if name in table and name not in ("vector", "kind"))]
    rows = rows.assign(row=checks.labels_of(rows, [about, *several]))
    own, controls = checks.vectors_and_controls(rows)
    checks.check_once(own, ("panel", "row"), _SOURCE)
    drawn = own.sort_values("slope")
    titles = list(dict.fromkeys(rows["panel"]))
    order = list(drawn.loc[drawn["panel"] == titles[0], "row"])
    order = [name for name in dict.fromkeys(drawn["row"]) if name not in order] + order
    place_of = {name: place for place, name in enumerate(order)}
    ticks_of = f"<br>gray ticks of each row: {theme.escape(words.controls(controls, shared))}" if len(controls) else ""
    model = f"{theme.escape(', '.join(map(str, drawn['model'].unique())))}; " if "model" in drawn else ""
    layers = f"layer{'s' if drawn['layer'].nunique() > 1 else ''} {words.counts(drawn['layer'])}"
    unit = words.slope_unit(table)
    fig = theme.figure(
        title,
        f"{model}{layers}; points: mean slope over held-out pairs, {words.interval(drawn)}{ticks_of}",
        **theme.room(190 + 37 * len(order), t=96),
        width=800 if len(titles) > 1 else None,
        showlegend=False,
    )
    apart = 0.62 / len(titles)
    places = panels(fig, list(map(theme.escape, titles)), shared_yaxes=True, horizontal_spacing=apart)
    for panel, place in zip(titles, places, strict=True):
        own = verdicts(rows[rows["panel"] == panel])
        beside = own[[*shared, "row"]].merge(controls.drop(columns="row"), on=shared)
        tick = {"symbol": "line-ns", "size": 15, "line": {"color": theme.faded(theme.NEUTRAL, 0.55), "width": 1.5}}
        known = zip(beside["vector"].map(theme.escape), words.estimates(beside, "slope", unit), strict=True)
        hover = [f"{vector}: {slope}" for vector, slope in known]
        fig.add_trace(dots(beside["slope"], beside["row"].map(place_of), tick, hover), **place)
        heights = own["row"].map(place_of)
        point = {"size": 10, "color": theme.POSITIVE}
        fig.add_trace(marks(own, "slope", heights, "row", unit, marker=point), **place)
        for height, verdict, share, n in zip(heights, own["verdict"], own["share_against"], own["n"], strict=True):
            counted = f"{100 * share:.0f} % opposite, n = {n}" if n else "n = 0"
            told = f"{verdict}<br>{theme.small(counted)}"
            beside_row = {"x": 1.02, "xref": "x domain", "xanchor": "left", "align": "left", "y": height}
            fig.add_annotation(text=told, showarrow=False, font={"size": 12}, **beside_row, **place)
        fig.add_vline(0, line=theme.NOTHING, **place)
        fig.update_xaxes(title_text=words.slope_title(table), title_font_size=13, nticks=5, **place)
    labels = {"tickvals": list(place_of.values()), "ticktext": list(map(words.label, order))}
    fig.update_yaxes(range=[-0.6, len(order) - 0.4], **labels)
    return fig.update_layout(margin_r=168)
