"""Figure of judged answers: the mean score over the multiplier."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.scores import SERIES, summarize_scores
from caa_interp.plotting.theme import check_table, error_bars, escape, figure, styles

# Series stand side by side, so that their intervals do not cover one another: this far apart, and all of them over at
# most this much, as shares of the way from one multiplier to the next.
_APART, _AT_MOST = 0.05, 0.3


def plot_scores(table: pd.DataFrame) -> go.Figure:
    """Mean score of judged answers over the multiplier, with intervals; one line a behavior, vector, judge and layer.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.judge_answers`, or of several one below the other, told apart by a column
        ``behavior`` or ``vector``; or result of :func:`caa_interp.evaluation.summarize_scores`.
    """
    check_table(
        table, ["layer", "multiplier", "score"], "caa_interp.judge_answers or caa_interp.evaluation.summarize_scores"
    )
    summary = table if "score_low" in table else summarize_scores(table)
    columns = [name for name in SERIES if name in summary]
    varying = [name for name in columns if summary[name].nunique(dropna=False) > 1]
    # A single line has no legend, and looks as its behavior does elsewhere.
    named = varying or columns[:1]
    labels = summary.apply(lambda row: ", ".join(_label(name, row[name]) for name in named), axis=1)
    looks = styles(labels)
    multipliers = sorted(summary["multiplier"].unique())
    step = min((b - a for a, b in pairwise(multipliers)), default=1.0)
    spread = step * min(_APART * (len(looks) - 1), _AT_MOST)
    fixed = ", ".join(_label(name, summary[name].iloc[0]) for name in columns if name not in varying)
    fig = figure("Judged answers", _subtitle(summary, fixed, len(looks)), height=480, margin={"t": 104})
    for number, (label, rows) in enumerate(summary.groupby(labels, sort=False)):
        rows = rows.sort_values("multiplier")
        place = number / (len(looks) - 1) - 0.5 if len(looks) > 1 else 0.0
        look = looks[str(label)]
        fig.add_scatter(
            x=rows["multiplier"] + spread * place,
            y=rows["score"],
            error_y=error_bars(rows, "score"),
            mode="lines+markers",
            line={"color": look.color, "dash": look.dash, "width": 2.5},
            marker={"size": 9, "symbol": look.symbol},
            name=escape(label),
            customdata=rows[["multiplier", "n"]],
            hovertemplate="multiplier %{customdata[0]}: %{y:.2f} (n = %{customdata[1]})",
        )
    fig.update_layout(showlegend=len(looks) > 1)
    fig.update_xaxes(
        title_text="multiplier (times the raw vector)", tickvals=multipliers, ticktext=[f"{m:g}" for m in multipliers]
    )
    fig.update_yaxes(title_text="judge's score (0 to 10)", range=[-0.3, 10.3], dtick=2)
    return fig


def _label(column: str, value: object) -> str:
    if column == "layer":
        return "unsteered" if pd.isna(value) else f"layer {value:g}"  # type: ignore[call-overload]
    return f"judge {value}" if column == "judge" else str(value)


def _subtitle(summary: pd.DataFrame, fixed: str, n_series: int) -> str:
    fewest, most = summary["n"].min(), summary["n"].max()
    n = f"{most}" if fewest == most else f"{fewest} to {most}"
    confidence = f"{100 * summary.attrs.get('confidence', 0.95):g} %"
    parts = [f"mean over n = {n} prompts, {confidence} bootstrap interval"]
    unread = int(summary["n_unparseable"].sum())
    if unread:
        parts.append(f"{unread} replies without a score left out")
    if n_series > 1:
        parts.append("lines set side by side")
    return f"{escape(fixed)}<br>{'; '.join(parts)}" if fixed else "; ".join(parts)
