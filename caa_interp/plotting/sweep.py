"""Figures of sweeps: every layer and multiplier at once, and the response to the dose at one layer."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import summarize
from caa_interp.plotting.theme import DIVERGING, NEUTRAL, check_table, escape, faded, figure, styles

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
    summary = _summary(table, measure)
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


def plot_dose_response(
    table: pd.DataFrame, *, layer: int | None = None, measure: Measure = "logit_difference", control: str = "random"
) -> go.Figure:
    """Mean score over the multiplier at one layer, with intervals, beside controls.

    Where the table holds multiplier 0, what is shown is the change from it, paired over items.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`.
    layer
        Layer to show; needed if the table holds several.
    measure
        As in :func:`plot_sweep`.
    control
        Vectors whose name starts with this are drawn as one gray band, from the lowest to the highest.
    """
    summary = _summary(table, measure)
    layers = sorted(summary["layer"].unique().tolist())
    if layer is None and len(layers) > 1:
        raise InputError(f"layer: the table holds layers {layers[0]} to {layers[-1]}; name the one to show.")
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise InputError(f"layer: {layer} is not in the table; it holds {layers}.")
    rows = summary[summary["layer"] == layer].sort_values("multiplier")
    shown_measure = f"{measure}_change" if f"{measure}_change" in rows else measure
    is_control = rows["vector"].str.startswith(control)
    subtitle = f"layer {layer}, mean over {int(rows['n'].iloc[0])} pairs, {_confidence(summary)} interval"
    n_lines = rows["vector"].nunique() - max(0, rows.loc[is_control, "vector"].nunique() - 1)
    # The legend stands below, where it covers nothing; on a narrow figure it takes a line for each entry.
    fig = figure("Response to the multiplier", subtitle, height=430 + 21 * n_lines)
    if is_control.any():
        band = rows[is_control].groupby("multiplier")[shown_measure].agg(["min", "max"])
        n_controls = rows[is_control]["vector"].nunique()
        fig.add_scatter(
            x=[*band.index, *band.index[::-1]],
            y=[*band["max"], *band["min"][::-1]],
            fill="toself",
            fillcolor=faded(NEUTRAL, 0.3),
            mode="lines",
            line={"width": 0},
            name=f"{n_controls} {escape(control)} vectors of the same norm",
            hoverinfo="skip",
        )
    shown = rows[~is_control]
    drawn = styles(shown["vector"].astype(str))
    for name, group in shown.groupby("vector", sort=False):
        style = drawn[str(name)]
        fig.add_scatter(
            x=group["multiplier"],
            y=group[shown_measure],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": group[f"{shown_measure}_high"] - group[shown_measure],
                "arrayminus": group[shown_measure] - group[f"{shown_measure}_low"],
                "thickness": 1.5,
            },
            mode="lines+markers",
            line={"color": style.color, "dash": style.dash, "width": 2.5},
            marker={"size": 9, "symbol": style.symbol},
            name=escape(name),
        )
    fig.update_xaxes(title_text="multiplier (times the raw vector)")
    change = "change in " if shown_measure != measure else ""
    fig.update_yaxes(title_text=change + _unit(summary, measure))
    fig.update_layout(
        showlegend=True,
        legend={"orientation": "h", "x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom"},
    )
    return fig


def _summary(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    if measure not in ("logit_difference", "p_positive"):
        raise InputError(f"measure: {measure!r} is not one of 'logit_difference', 'p_positive'.")
    if f"{measure}_low" not in table.columns:
        return summarize(table)
    check_table(table, ("vector", "layer", "multiplier", "n", measure, f"{measure}_high"), "caa_interp.summarize")
    return table


def _chosen(summary: pd.DataFrame, vector: str | None) -> str:
    names = list(summary["vector"].unique())
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    return str(vector if vector is not None else names[0])


def _unit(summary: pd.DataFrame, measure: str) -> str:
    text = summary.attrs.get("format") == "text"
    if measure == "p_positive":
        return "p(positive answer)"
    return "log-probability difference<br>(nats per token)" if text else "log-odds of the positive letter<br>(nats)"


def _confidence(summary: pd.DataFrame) -> str:
    return f"{100 * summary.attrs.get('confidence', 0.95):.0f} %"
