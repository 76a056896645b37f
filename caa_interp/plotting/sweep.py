"""Figure of a sweep: every layer and multiplier at once."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import quantity, summarized
from caa_interp.plotting.theme import DIVERGING, escape, figure

Measure = Literal["logit_difference", "p_positive"]


def plot_sweep(table: pd.DataFrame, *, measure: Measure = "logit_difference", vector: str | None = None) -> go.Figure:
    """Map of the mean score over layers and multipliers, as the change from the unsteered model.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).
    vector
        Name of the vector to show; default: the first.

    Returns
    -------
    plotly.graph_objects.Figure
        Heatmap centered on zero, which is the unsteered model if the table holds multiplier 0; if not, the
        score itself centered on indifference.
    """
    summary = summarized(table, measure)
    name = _chosen(summary, vector)
    wide = summary[summary["vector"] == name].pivot(index="layer", columns="multiplier", values=measure)
    relative = 0.0 in wide.columns
    middle = wide[0.0].iloc[0] if relative else (0.0 if measure == "logit_difference" else 0.5)
    shown = wide - middle
    limit = float(shown.abs().max().max()) or 1.0
    n = int(summary["n"].iloc[0])
    unit = _unit(summary, measure)
    what = "change from unsteered" if relative else "from indifference"
    fig = figure(
        f"{escape(name)}: effect by layer and multiplier",
        f"mean over {n} pairs; unsteered: {middle:.2f}" if relative else f"mean over {n} pairs",
        height=max(420, 90 + 17 * len(shown)),
    )
    labels = [str(layer) for layer in shown.index]
    fig.add_heatmap(
        z=shown.to_numpy(),
        x=[f"{m:g}" for m in shown.columns],
        y=labels,
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        colorbar={"title": {"text": f"{what}<br>{unit}", "side": "right"}},
        hovertemplate="layer %{y}, multiplier %{x}: %{z:+.3f}<extra></extra>",
    )
    fig.update_xaxes(title_text="multiplier (times the raw vector)", type="category", showgrid=False)
    ticks = labels[:: max(1, math.ceil(len(labels) / 16))]
    fig.update_yaxes(title_text="layer (block index)", type="category", tickvals=ticks, showgrid=False)
    return fig


def _chosen(summary: pd.DataFrame, vector: str | None) -> str:
    names = list(summary["vector"].unique())
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    return str(vector if vector is not None else names[0])


def _unit(summary: pd.DataFrame, measure: str) -> str:
    name, unit = quantity(summary, measure)
    return f"{name}<br>({unit})" if unit else name
