"""Figure of an effect over the turns of a conversation."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.persistence import summarize_persistence
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import control_range, line, mark_zero, panels

_SOURCE = "caa_interp.evaluation.persistence"


def plot_persistence(table: pd.DataFrame) -> go.Figure:
    """Mean change from the unsteered conversation in every turn, a panel for each condition on common axes.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.evaluation.persistence`, of one vector and its controls, or
        :func:`caa_interp.evaluation.summarize_persistence` of it.

    Returns
    -------
    plotly.graph_objects.Figure
        Lines with intervals over conversations; the gray band is the range of the controls.
    """
    checks.check_table(table, {"turn", "condition", "vector", "kind"}, _SOURCE)
    checks.check_once(table, ["turn", "condition", "vector", *({"item"} & set(table))], _SOURCE)
    summary = table if "change" in table else summarize_persistence(table)
    own, controls = checks.vector_and_controls(summary)
    names, name = list(own["condition"].unique()), str(own["vector"].iloc[0])
    fig = theme.figure(
        f"{name} over the turns of a conversation",
        f"multiplier {own['multiplier'].iloc[0]:g} after layer {own['layer'].iloc[0]:g}; "
        f"n = {words.counts(own['n'])} conversations, {words.interval(own)}"
        f"{words.gray(controls)}; panels: what is steered",
        width=880,
        **theme.room(400, l=90, t=104, b=70),
        showlegend=False,
    )
    axes: dict[str, Any] = {"x_title": "turn", "y_title": "change from unsteered<br>(nats per token)"}
    places = panels(fig, names, most=len(names), shared_yaxes="all", horizontal_spacing=0.025, **axes)
    look = theme.styles([name])[name]
    for condition, place in zip(names, places, strict=True):
        fig.add_trace(control_range(controls[controls["condition"] == condition], "turn", "change"), **place)
        fig.add_trace(line(own[own["condition"] == condition], "turn", "change", look, name, "nats per token"), **place)
        fig.update_xaxes(tickvals=own["turn"].unique(), **place)
    mark_zero(fig)
    return fig
