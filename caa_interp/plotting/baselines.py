"""Figure of prompting and fine-tuning beside steering: what each changes, alone and with a vector on top."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.baselines import CONDITION, summarize_baselines
from caa_interp.evaluation.summary import quantity
from caa_interp.plotting.theme import NEGATIVE, NEUTRAL, POSITIVE, SYMBOLS, check_table, error_bars, escape, figure

Measure = Literal["logit_difference", "p_positive"]
_APART, _GAP = 17, 16  # pixels from one multiplier to the next, and between baselines besides


def plot_baselines(table: pd.DataFrame, *, measure: Measure = "logit_difference") -> go.Figure:
    """Change of the score under every baseline, alone and with the steering vector on top, with intervals.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.baselines` or :func:`caa_interp.evaluation.summarize_baselines`, with one vector.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).

    Returns
    -------
    plotly.graph_objects.Figure
        One line of marks a baseline, one mark a multiplier: the mean change from the model as it is, paired over
        items.
    """
    if measure not in ("logit_difference", "p_positive"):
        raise InputError(f"measure: {measure!r} is not one of 'logit_difference', 'p_positive'.")
    check_table(table, CONDITION, "caa_interp.baselines or caa_interp.evaluation.summarize_baselines")
    shown = f"{measure}_change"
    summary = table if f"{shown}_low" in table else summarize_baselines(table)
    vectors = list(summary["vector"].unique())
    if len(vectors) > 1:
        raise InputError(f"table: it holds vectors {vectors}; give the rows of one.")
    baselines = list(summary["baseline"].unique())
    multipliers = sorted(summary["multiplier"].unique())
    step = _APART * len(multipliers) + _GAP
    confidence = f"{100 * summary.attrs.get('confidence', 0.95):g} %"
    n, layer = summary["n"].iloc[0], summary["layer"].iloc[0]
    fig = figure(
        f"{escape(vectors[0])}: baselines, alone and steered",
        f"change from the model without any, paired by item<br>mean over {n} held-out pairs, {confidence} interval",
        height=104 + step * len(baselines) + 104,
        margin={"t": 104, "b": 104},
        legend={
            "title": {"text": f"vector of layer {layer}, times ", "font": {"size": 14}},
            "orientation": "h",
            "x": 0,
            "y": 0,
            "yref": "container",
            "yanchor": "bottom",
        },
    )
    fig.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    for number, multiplier in enumerate(multipliers):
        rows = summary[summary["multiplier"] == multiplier]
        below = (number - (len(multipliers) - 1) / 2) * _APART / step
        fig.add_scatter(
            x=rows[shown],
            y=[baselines.index(name) + below for name in rows["baseline"]],
            error_x={**error_bars(rows, shown), "width": 3},
            mode="markers",
            marker={"size": 9, "symbol": SYMBOLS[number % len(SYMBOLS)], "color": _color(multiplier)},
            name=f"{multiplier:+g}".replace("-", "\N{MINUS SIGN}") if multiplier else "0",
            customdata=rows["baseline"],
            hovertemplate="%{customdata}: %{x:+.3f}<extra></extra>",
        )
    name, unit = quantity(summary, measure)
    fig.update_xaxes(title_text=f"change in {name}" + (f" ({unit})" if unit else ""))
    fig.update_yaxes(
        tickvals=list(range(len(baselines))),
        ticktext=[escape(name) for name in baselines],
        range=[len(baselines) - 0.5, -0.5],
        showgrid=False,
    )
    for boundary in range(len(baselines) - 1):
        fig.add_hline(y=boundary + 0.5, line={"color": "#eef1f4", "width": 1}, layer="below")
    return fig


def _color(multiplier: float) -> str:
    if multiplier == 0:
        return NEUTRAL
    return POSITIVE if multiplier > 0 else NEGATIVE
