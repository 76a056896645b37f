"""Figure of judged answers: the mean score over the multiplier."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.ratings import scale_of
from caa_interp.evaluation.summary import by_series, summarize
from caa_interp.plotting import theme
from caa_interp.plotting.grid import line, name_multipliers, side_by_side

# Columns that set lines apart, as far as a table has them.
_SERIES = ("behavior", "vector", "judge", "layer")


def plot_scores(table: pd.DataFrame) -> go.Figure:
    """Mean score of judged answers over the multiplier, with intervals; one line per behavior, vector, judge and layer.

    Unsteered answers are multiplier 0 of every line. Conditions of several interventions are left out.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.judge_answers`, or of several stacked, distinguished by a column
        ``behavior`` or ``vector``; or result of :func:`caa_interp.summarize`.
    """
    theme.check_table(table, ["layer", "multiplier", "score"], "caa_interp.judge_answers or caa_interp.summarize")
    summary = pd.concat(by_series(table if "score_low" in table else summarize(table)))
    columns = [name for name in _SERIES if name in summary]
    varying = [name for name in columns if summary[name].nunique(dropna=False) > 1]
    # A single line has no legend, and looks as its behavior does elsewhere.
    named = varying or columns[:1]
    labels = summary.apply(lambda row: _label(row[named]), axis=1)
    looks, multipliers = theme.styles(labels), list(summary["multiplier"].unique())
    fixed = _label(summary[[name for name in columns if name not in varying]].iloc[0])
    fig = theme.figure("Judged answers", _subtitle(summary, fixed, len(looks)), height=480, margin={"t": 104})
    shifts = dict(zip(looks, side_by_side(multipliers, len(looks)), strict=True))
    most = scale_of(summary)
    for label, rows in summary.groupby(labels, sort=False):
        name = str(label)
        look = looks[name]._replace(dash="solid")
        fig.add_trace(line(rows, "multiplier", "score", look, name, f"points of {most}", shift=shifts[name]))
    fig.update_layout(showlegend=len(looks) > 1)
    name_multipliers(fig, multipliers)
    fig.update_yaxes(title_text=f"judge's score (0 to {most})", range=[-0.03 * most, 1.03 * most], dtick=most / 5)
    return fig


def _label(row: pd.Series) -> str:
    """What a line is called; a vector has the name of its behavior."""
    before = {"layer": "layer ", "judge": "judge "}
    parts = (before.get(str(name), "") + (f"{one:g}" if name == "layer" else str(one)) for name, one in row.items())
    return ", ".join(dict.fromkeys(parts))


def _subtitle(summary: pd.DataFrame, fixed: str, n_series: int) -> str:
    parts = [f"mean over n = {theme.counts(summary['n'])} prompts, {theme.interval(summary)}"]
    left_out = {"n_unparseable": "replies without a score", "n_incoherent": "incoherent answers"}
    for name, what in left_out.items():
        if name in summary and (n := int(summary[name].sum())):
            parts.append(f"{n} {what} left out")
    if n_series > 1:
        parts.append("lines set side by side")
    return f"{theme.escape(fixed)}<br>{'; '.join(parts)}" if fixed else "; ".join(parts)
