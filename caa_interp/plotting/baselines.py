"""Figure of prompting and fine-tuning beside steering: what each changes, alone and with a vector on top."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import UNSTEERED, by_series, quantity, summarized
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import marks
from caa_interp.plotting.theme import Measure

_SOURCE = "caa_interp.baselines or caa_interp.summarize"
_APART, _GAP = 17, 16  # pixels from one multiplier to the next, and what is added between baselines


def plot_baselines(table: pd.DataFrame, *, measure: Measure = "logit_difference") -> go.Figure:
    """Change of the score under every baseline, alone and with the steering vector on top, with intervals.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.baselines` or :func:`caa_interp.summarize`, with one vector.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).

    Returns
    -------
    plotly.graph_objects.Figure
        One line of marks per baseline, one mark per multiplier: the mean change from unsteered, paired over items.
        Unsteered rows are multiplier 0 of their baseline. Conditions of several interventions are left out.
    """
    columns = ("baseline", "vector", "layer", "multiplier")
    checks.check_table(table, columns, _SOURCE)
    summary, shown = summarized(table, measure), f"{measure}_change"
    if "kind" not in summary or (summary["kind"] != UNSTEERED).any():  # else baselines alone
        summary = pd.concat(by_series(summary))
    if shown not in summary:
        raise InputError("table: it has no baseline 'none' with multiplier 0; give the result of caa_interp.baselines.")
    checks.check_one(summary, ["vector"])
    checks.check_once(summary, ("baseline", "multiplier"), _SOURCE)
    baselines = list(summary["baseline"].unique())
    multipliers = sorted(summary["multiplier"].unique())
    layer = summary["layer"].iloc[0]
    where = "" if pd.isna(layer) else f" at layer {layer:g}"
    step = _APART * len(multipliers) + _GAP
    fig = theme.figure(
        f"{summary['vector'].iloc[0]}: baselines, alone and steered",
        f"change from the bare model, paired by item<br>mean over {words.counts(summary['n'])} held-out pairs, "
        f"{words.interval(summary)}",
        **theme.room(104 + step * len(baselines) + 104, t=104, b=104),
        legend={
            **theme.LEGEND_BELOW,
            "xref": "paper",
            "title": {"text": f"multiplier{where} ", "font": {"size": 14}},
        },
    )
    fig.add_vline(x=0, line=theme.NOTHING)
    for number, multiplier in enumerate(multipliers):
        rows = summary[summary["multiplier"] == multiplier]
        below = (number - (len(multipliers) - 1) / 2) * _APART / step
        symbol = theme.SYMBOLS[number % len(theme.SYMBOLS)]
        marker = {"size": 9, "symbol": symbol, "color": theme.sign_color(multiplier)}
        drawn = {"error_x": {"width": 3}, "marker": marker, "name": words.factor(multiplier, "+g")}
        heights = [baselines.index(name) + below for name in rows["baseline"]]
        fig.add_trace(marks(rows, shown, heights, "baseline", words.unit(summary, measure), **drawn))
    fig.update_xaxes(title_text=f"change in {words.with_unit(*quantity(summary, measure))}".replace("<br>", " "))
    n = len(baselines)
    fig.update_yaxes(range=[n - 0.5, -0.5], showgrid=False, **theme.ticks(range(n), baselines))
    for boundary in range(n - 1):
        fig.add_hline(y=boundary + 0.5, line={"color": "#eef1f4", "width": 1}, layer="below")
    return fig
