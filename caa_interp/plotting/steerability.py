"""Forest plot: one row per vector, its effect with an interval beside those of its controls."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import theme
from caa_interp.plotting.grid import marks, panels

_SOURCE = "caa_interp.steerability"
_CONTROLS = {"random": "random vectors", "orthogonal": "orthogonal vectors", "shuffled": "shuffled labels"}
_COLUMNS = ("vector", "kind", "slope", "slope_low", "slope_high", "share_against", "n")


def plot_steerability(table: pd.DataFrame, *, title: str = "What one unit of each vector does") -> go.Figure:
    """Mean slope of every vector with its interval, the largest on top, and its controls as gray ticks.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.steerability` on a sweep over vectors and controls, or several of these in one table
        with a column ``behavior``. Controls stand in the rows of their behavior. A column ``pairs`` divides
        the rows into panels, by the pairs that they were measured on.
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        Each row ends with the share of items that move in the opposite direction and a verdict: *steers* (the interval
        lies above zero, and the slope above that of every control), *within controls* (no farther from zero than
        some control), *no clear effect* (the interval includes zero), or *opposite*.
    """
    theme.check_table(table, _COLUMNS, _SOURCE)
    is_control = table["kind"].isin(_CONTROLS)
    if is_control.all():
        raise InputError("table: it holds controls alone; sweep over a steering vector beside them.")
    about = "behavior" if "behavior" in table else "vector"
    rows = table.assign(
        panel=table.get("pairs", ""),
        row=table[about],
        of=table.get("behavior", pd.Series("", table.index)),
    )
    theme.check_once(rows[~is_control], ("panel", "row", "vector"), _SOURCE)
    drawn = rows[~is_control].sort_values("slope")
    titles = list(dict.fromkeys(rows["panel"]))
    order = list(drawn.loc[drawn["panel"] == titles[0], "row"])
    order = [name for name in dict.fromkeys(drawn["row"]) if name not in order] + order
    place_of = {name: place for place, name in enumerate(order)}
    known = theme.confidence(table)
    fig = theme.figure(
        theme.escape(title),
        f"points: mean slope over held-out pairs with its {known} interval; gray ticks: "
        + ", ".join(f"{_CONTROLS[kind]}" for kind in dict.fromkeys(rows.loc[is_control, "kind"])),
        height=170 + 34 * len(order),
        width=560 + 440 * (len(titles) - 1),
        showlegend=False,
    )
    places = panels(
        fig,
        [theme.escape(one) for one in titles],
        shared_yaxes=True,
        horizontal_spacing=0.42 / len(titles) if len(titles) > 1 else 0,
    )
    for name, place in zip(titles, places, strict=True):
        one = drawn[drawn["panel"] == name]
        controls = rows[is_control & (rows["panel"] == name)]
        ticks = one[["of", "row"]].merge(controls.drop(columns="row"), on="of")
        fig.add_scatter(
            x=ticks["slope"],
            y=ticks["row"].map(place_of),
            customdata=ticks["vector"].map(theme.escape),
            mode="markers",
            marker={"symbol": "line-ns", "size": 15, "line": {"color": theme.faded(theme.NEUTRAL, 0.55), "width": 1.5}},
            hovertemplate="%{customdata}: %{x:.4f}<extra></extra>",
            **place,
        )
        fig.add_trace(
            marks(one, "slope", one["row"].map(place_of), "row", marker={"size": 10, "color": theme.POSITIVE}), **place
        )
        bounds = controls.groupby("of")["slope"].agg(lambda slopes: slopes.abs().max())
        for row in one.to_dict("records"):
            counted = f"{100 * row['share_against']:.0f} % opposite, n = {row['n']}"
            fig.add_annotation(
                x=1.02,
                y=place_of[row["row"]],
                xref="x domain",
                text=f"{_verdict(row, bounds.get(row['of'], 0.0))}<br><sup>{counted}</sup>",
                showarrow=False,
                xanchor="left",
                align="left",
                font={"size": 12},
                **place,
            )
        fig.add_vline(0, line={"color": theme.NEUTRAL, "width": 1}, **place)
        fig.update_xaxes(title_text="slope (nats per token and unit)", title_font_size=13, nticks=5, **place)
    fig.update_yaxes(
        tickvals=list(place_of.values()),
        ticktext=[theme.escape(name) for name in order],
        range=[-0.6, len(order) - 0.4],
    )
    return fig.update_layout(margin={"r": 150})


def _verdict(row: dict[str, Any], bound: float) -> str:
    """What a row's interval and the largest slope of its controls, in either direction, say."""
    if row["slope_high"] < 0:
        return "opposite"
    if row["slope_low"] <= 0:
        return "no clear effect"
    return "steers" if row["slope"] > bound else "within controls"
