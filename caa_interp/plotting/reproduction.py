"""Figures of the paper's multiple-choice results, published and measured: the table, and a sweep over layers."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import band, dots, key, line, marks, name_once, panels

COMPARED = ("behavior", "layer", "multiplier", "n", "paper", "measured", "low", "high", "within")
_SWEPT = ("behavior", "layer", "multiplier", "n", "p_positive", "p_positive_low", "p_positive_high")
_PUBLISHED = ("model", "behavior", "layer", "multiplier", "value")
# Symbols of multipliers above and below zero, by their size; each has a hollow form.
_UP_AND_DOWN = (
    ("triangle-up", "triangle-down"),
    ("triangle-right", "triangle-left"),
    ("triangle-ne", "triangle-sw"),
    ("star-triangle-up", "star-triangle-down"),
)
_PAPER = {"symbol": "diamond-open", "size": 12, "color": "#1f2933", "line": {"width": 2}}
_RING = {"symbol": "circle-open", "size": 20, "color": "#1f2933", "line": {"width": 1.5}}
_SCORE = "mean p(matching) / (p(A) + p(B))"


def plot_reproduction(
    comparison: pd.DataFrame, *, title: str = "Multiple-choice table", axis: str = _SCORE, most: float = 1.0
) -> go.Figure:
    """Published and measured scores of every behavior and multiplier at one layer.

    Parameters
    ----------
    comparison
        Rows of :func:`caa_interp.paper.reproduce` of one group, system prompt and weights.
    title
        Title of the figure, to which the layer is added.
    axis, most
        Name of the score, and its upper end; the lower one is 0.

    Returns
    -------
    plotly.graph_objects.Figure
        One band per behavior with a line per multiplier: the measured mean with its 95 % interval, the paper's value
        where there is one, and a ring around means outside their tolerance.
    """
    checks.check_table(comparison, COMPARED, "caa_interp.paper.reproduce", "comparison")
    behaviors = list(comparison["behavior"].unique())
    multipliers = sorted(comparison["multiplier"].unique())
    # From top to bottom in the table's order; within a behavior from the smallest multiplier to the largest.
    places = -comparison["behavior"].map(behaviors.index).astype(float)
    middle = (len(multipliers) - 1) / 2
    places += comparison["multiplier"].map(lambda m: 0.72 / len(multipliers) * (middle - multipliers.index(m)))
    published = comparison["paper"].notna()
    fig = theme.figure(
        f"{title} at layer {comparison['layer'].iloc[0]:g}",
        f"mean over {words.counts(comparison['n'])} test items, {words.interval(comparison)}"
        + ("" if published.any() else "; no published numbers for this model"),
        **theme.room(190 + (5 + 23 * len(multipliers)) * len(behaviors), legend=110),
        showlegend=True,
    )
    for number in range(1, len(behaviors)):
        fig.add_hline(y=0.5 - number, line={"color": "#d9dee3", "width": 1})
    looks = _looks(multipliers)
    named = comparison.rename(columns={"low": "measured_low", "high": "measured_high"})
    unit = "probability" if most == 1 else f"points of {most:g}"
    for multiplier, look in looks.items():
        rows = named[named["multiplier"] == multiplier]
        marker = {"color": look.color, "symbol": look.symbol, "size": 11}
        drawn = {"error_x": {"thickness": 2}, "marker": marker, "name": words.dose(multiplier)}
        fig.add_trace(marks(rows, "measured", places[rows.index], "behavior", unit, **drawn))
    outside = comparison["within"].eq(False).fillna(False).astype(bool)
    told = [f"paper: {value:.3f}, as published" for value in comparison.loc[published, "paper"]]
    if told:
        x, drawn = comparison.loc[published, "paper"], {"name": "paper", "showlegend": True}
        fig.add_trace(dots(x, places[published], _PAPER, told, **drawn))
    if outside.any():
        rows, drawn = named[outside], {"name": "outside its tolerance", "showlegend": True}
        fig.add_trace(dots(rows["measured"], places[outside], _RING, words.estimates(rows, "measured", unit), **drawn))
    fig.update_xaxes(title_text=axis, range=[-0.02 * most, 1.02 * most])
    n = len(behaviors)
    return fig.update_yaxes(range=[0.5 - n, 0.5], showgrid=False, **theme.ticks(range(0, -n, -1), behaviors))


def plot_layer_sweeps(table: pd.DataFrame) -> go.Figure:
    """The paper's figure 3: scores of all behaviors over the layers, one panel per multiplier.

    Parameters
    ----------
    table
        Rows of :func:`caa_interp.paper.numbers` of one model and one group of layers, such as ``"layer_sweep"``.

    Returns
    -------
    plotly.graph_objects.Figure
        One line per behavior, in the same colors in all panels. The paper's means have no intervals.
    """
    checks.check_table(table, _PUBLISHED, "caa_interp.paper.numbers")
    checks.check_once(table, ("behavior", "layer", "multiplier"), "one group and model of caa_interp.paper.numbers")
    behaviors, multipliers = list(table["behavior"].unique()), sorted(table["multiplier"].unique())
    fig = theme.figure(
        f"{table['model'].iloc[0].rsplit('/', 1)[-1]}: the paper's layer sweep",
        "mean over test items, as published (without intervals)",
        **theme.room(520, legend=140),
        showlegend=True,
    )
    places = panels(fig, [words.dose(m) for m in multipliers], x_title=theme.LAYER, y_title=_SCORE, shared_yaxes=True)
    for name, look in zip(behaviors, theme.styles(behaviors).values(), strict=True):
        for multiplier, place in zip(multipliers, places, strict=True):
            rows = table[(table["behavior"] == name) & (table["multiplier"] == multiplier)].sort_values("layer")
            known = zip(rows["layer"], rows["value"], strict=True)
            hover = [f"{theme.escape(name)}, layer {layer:g}: {value:.3f}" for layer, value in known]
            drawn = dots(rows["layer"], rows["value"], {"symbol": look.symbol, "size": 6}, hover, showlegend=True)
            drawn.update(mode="lines+markers", line={"color": look.color, "width": 2}, name=theme.escape(name))
            fig.add_trace(drawn, **place)
    name_once(fig)
    return fig.update_yaxes(range=[-0.02, 1.02])


def plot_layer_sweep(
    summary: pd.DataFrame, published: pd.DataFrame | None, *, behavior: str, title: str = "layer sweep"
) -> go.Figure:
    """Measured scores of one behavior over the layers, with the published ones.

    Parameters
    ----------
    summary
        Result of :func:`caa_interp.summarize` with a column ``behavior``, such as that of ``tables/sweep.parquet`` of
        :func:`caa_interp.paper.reproduce`.
    published
        Rows of :func:`caa_interp.paper.numbers` of the same model and group, or None if there are none.
    behavior
        The behavior to draw.
    title
        What follows its name in the title.

    Returns
    -------
    plotly.graph_objects.Figure
        One line per multiplier with a band for its 95 % interval, and open marks for the published scores.
    """
    checks.check_table(summary, _SWEPT, "caa_interp.summarize", "summary")
    rows = summary[summary["behavior"] == behavior].sort_values("layer")
    if rows.empty:
        raise InputError(f"behavior: {behavior!r} is not in the table; it holds {list(summary['behavior'].unique())}.")
    checks.check_once(rows, ("layer", "multiplier"), "caa_interp.summarize")
    fig = theme.figure(
        f"{behavior}: {title}",
        f"mean over {words.counts(rows['n'])} test items, {words.interval(rows)}",
        **theme.room(430, legend=105),
        showlegend=True,
    )
    looks = _looks(rows["multiplier"])
    groups = [(look, words.dose(m), rows[rows["multiplier"] == m]) for m, look in looks.items()]
    for look, _, own in groups:
        ends = (own["p_positive_low"], own["p_positive_high"])
        fig.add_trace(band(own["layer"], *ends, theme.faded(look.color, 0.12)))
    for look, name, own in groups:
        marker = {"symbol": look.symbol, "size": 7}
        fig.add_trace(line(own, "layer", "p_positive", look, name, "probability", marker=marker, error_y=None))
    if published is not None:
        checks.check_table(published, _PUBLISHED, "caa_interp.paper.numbers", "published")
        known = published[(published["behavior"] == behavior) & published["layer"].isin(rows["layer"])]
        known = known[known["multiplier"].isin(rows["multiplier"])]
        known = known.drop_duplicates(["layer", "multiplier"]).sort_values("layer")
        for multiplier in sorted(known["multiplier"].unique()):
            own, look = known[known["multiplier"] == multiplier], looks[multiplier]
            marker = {**_PAPER, "color": look.color, "symbol": f"{look.symbol}-open", "size": 8}
            hover = [f"paper, {words.dose(multiplier)}: {value:.3f}, as published" for value in own["value"]]
            fig.add_trace(dots(own["layer"], own["value"], marker, hover))
        if len(known):
            fig.add_trace(key("open: paper", {**_PAPER, "symbol": "circle-open"}))
    layers = sorted(rows["layer"].unique())
    fig.update_xaxes(title_text=theme.LAYER, tickvals=layers if len(layers) < 12 else None)
    fig.update_yaxes(title_text=_SCORE, range=[-0.02, 1.02])
    return fig


def _looks(multipliers: Iterable[float]) -> dict[float, theme.Style]:
    """Look of each multiplier in turn: the color says its sign, the symbol also its size among the others."""
    ordered = sorted(set(multipliers))
    symbols = {0.0: "circle"}
    for size, (up, down) in zip(sorted({abs(one) for one in ordered if one}), cycle(_UP_AND_DOWN), strict=False):
        symbols |= {size: up, -size: down}
    return {one: theme.Style(theme.sign_color(one), symbols[one]) for one in ordered}
