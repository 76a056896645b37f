"""Figure of a sweep: every layer and multiplier at once."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import by_series, quantity, summarized
from caa_interp.plotting import theme
from caa_interp.plotting.grid import signed_map, thinned
from caa_interp.plotting.theme import Measure


def plot_sweep(table: pd.DataFrame, *, measure: Measure = "logit_difference", vector: str | None = None) -> go.Figure:
    """Map of the mean score over layers and multipliers, as the change from the unsteered model.

    Conditions of several interventions, with no single layer and multiplier, are left out.

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
        Heatmap centered on zero, the unsteered model; without multiplier 0 or unsteered rows, the score itself
        centered on indifference.
    """
    summary = pd.concat(by_series(summarized(table, measure)))
    names = list(summary["vector"].unique())
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    name = str(vector if vector is not None else names[0])
    rows = summary[summary["vector"] == name]
    unit = theme.with_unit(*quantity(rows, measure))
    wide = rows.pivot(index="layer", columns="multiplier", values=measure)
    relative = 0.0 in wide.columns
    middle = wide[0.0].iloc[0] if relative else (0.0 if measure == "logit_difference" else 0.5)
    shown = (wide - middle).rename(index=str, columns="{:g}".format)
    fig = theme.figure(
        f"{theme.escape(name)}: effect by layer and multiplier",
        f"mean over {theme.counts(rows['n'])} pairs" + (f"; unsteered: {middle:.2f}" if relative else ""),
        height=max(420, 90 + 17 * len(shown)),
    )
    hover = "layer %{y}, multiplier %{x}: %{z:+.3f}<extra></extra>"
    what = "change from unsteered" if relative else "from indifference"
    fig.add_trace(signed_map(shown, f"{what}<br>{unit}", hovertemplate=hover))
    fig.update_xaxes(title_text=theme.MULTIPLIER, type="category", showgrid=False)
    fig.update_yaxes(title_text=theme.LAYER, type="category", tickvals=thinned(list(shown.index)), showgrid=False)
    return fig
