"""Figure of judged answers: the mean score over the multiplier."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.ratings import scale_of
from caa_interp.evaluation.summary import SERIES, by_series, summarize
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import line, name_multipliers, side_by_side

# What a line is named by, as far as a table has these columns: first what it shows, then how.
_FIRST = ("behavior", "vector", "judge", "layer")
_SERIES = (*_FIRST, *(name for name in SERIES if name not in (*_FIRST, "kind", "scale")))


def plot_scores(table: pd.DataFrame) -> go.Figure:
    """Mean score of judged answers over the multiplier, with intervals; one line per vector, judge, layer and so on.

    Unsteered answers are multiplier 0 of every line. Conditions of several interventions are left out.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.judge_answers`, or of several stacked, distinguished by a column
        ``behavior`` or ``vector``; or result of :func:`caa_interp.summarize`.
    """
    checks.check_table(table, ["layer", "multiplier", "score"], "caa_interp.judge_answers or caa_interp.summarize")
    table = (table if "score_low" in table else summarize(table)).reset_index(drop=True)
    summary = pd.concat(by_series(table))
    columns, varying = [name for name in _FIRST if name in summary], checks.varying(summary, _SERIES)
    # A single line has no legend, and looks as its behavior does elsewhere.
    labels = checks.labels_of(summary, varying or columns[:1])
    looks, multipliers = theme.styles(labels), list(summary["multiplier"].unique())
    fixed = checks.labels_of(summary[:1], [name for name in columns if name not in varying])
    fig = theme.figure("Judged answers", _subtitle(summary, "".join(fixed), len(looks)), height=480, margin={"t": 104})
    shifts = dict(zip(looks, side_by_side(multipliers, len(looks)), strict=True))
    most = scale_of(summary)
    unit = f"points of {most}"
    for label, rows in summary.groupby(labels, sort=False):
        name = str(label)
        fig.add_trace(line(rows, "multiplier", "score", looks[name], name, unit, shift=shifts[name]))
    fig.update_layout(showlegend=len(looks) > 1)
    name_multipliers(fig, multipliers)
    fig.update_yaxes(title_text=f"judge's score (0 to {most})", range=[-0.03 * most, 1.03 * most], dtick=most / 5)
    return fig


def _subtitle(summary: pd.DataFrame, fixed: str, n_series: int) -> str:
    parts = [f"mean over n = {words.counts(summary['n'])} prompts, {words.interval(summary)}"]
    unread = "replies without a score left out"
    if "coherence" in summary:  # an answer without coherence may have a score
        unread = "answers without a score or coherence"
    once = summary[~summary.index.duplicated()]  # unsteered rows are in several lines
    for name, what in {"n_unparseable": unread, "n_incoherent": "incoherent answers left out"}.items():
        if name in once and (n := int(once[name].sum())):
            parts.append(f"{n} {what}")
    if n_series > 1:
        parts.append("lines set side by side")
    return f"{theme.escape(fixed)}<br>{'; '.join(parts)}" if fixed else "; ".join(parts)
