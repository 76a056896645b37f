"""Figure of two vectors at once: what each does alone, and beside each other one at the same divergence."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.interference import QUESTIONS, summarize_interference
from caa_interp.evaluation.summary import quantity
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import panels, shape, signed_map

_SOURCE = "caa_interp.evaluation.interference"
_NARROW = 4  # vectors, of which two maps have room side by side
# Changes, texts of the cells, and what hovering over them tells.
_Map = tuple[pd.DataFrame, list[list[str]], list[list[str]]]
_TITLES = {"both": "both added", "orthogonalized": "orthogonalized", "merged": "merged into one"}
_ORDERS = (("first", "second"), ("second", "first"))


def plot_interference(table: pd.DataFrame, *, title: str = "Two vectors at the same divergence") -> go.Figure:
    """Maps of the effect on each behavior, alone on the diagonal and beside each other vector: one per combination.

    Behaviors without a vector have a map of their own, of both vectors added, and so have questions.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.evaluation.interference` or of
        :func:`caa_interp.evaluation.summarize_interference`, and the figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One row per measured behavior, one column per other vector: the mean change from unsteered, in parentheses if
        its interval does not exclude zero, and below it the share of the effect alone with its interval, if that one
        does. Maps of behaviors without a vector, and of questions, have one row and one column per vector; of
        questions they hold the share that is answered right, and its change.
    """
    key = ["behavior", "first", "second", "combination"]
    checks.check_table(table, [*key, "target"], _SOURCE)
    summary = table if "kept_low" in table else summarize_interference(table)
    checks.check_once(summary, key, _SOURCE)
    of, unit = quantity(summary, "logit_difference")
    names = list(dict.fromkeys([*summary["first"], *summary["second"]]))
    used = [one for one in _TITLES if one in set(summary["combination"])]
    maps = [(_TITLES[one], _map(summary, names, one)) for one in used]
    others = [name for name in summary["behavior"].unique() if name not in (*names, QUESTIONS)]
    maps += [(theme.escape(f"{name}, both added"), _map(summary, names, "both", name)) for name in others]
    limits = [max((float(wide.abs().max().max()) for _, (wide, *_) in maps), default=0.0) or 1.0] * len(maps)
    if (summary["behavior"] == QUESTIONS).any():
        maps.append(("share of right answers, both added", _map(summary, names, "both", QUESTIONS)))
        limits.append(1.0)  # all are right, or none
    most = 2 if len(names) <= _NARROW else 1
    n_rows, n_columns = shape(len(maps), most)
    side, gap = 110 + 62 * len(names), 150  # pixels; the gap holds slanted names and the next map's title
    fig = theme.figure(
        title,
        f"change from unsteered where every condition moves the model {table['target'].iloc[0]:g} nats per token<br>"
        f"n = {words.counts(summary['n'])} pairs per cell; {words.interval(summary)}; "
        "in parentheses: it does not exclude zero<br>row: what is measured; column: the vector beside its own; "
        "diagonal: alone; percent: of the effect alone, with its interval",
        **theme.room(150 + gap + side * n_rows + gap * (n_rows - 1), t=150, b=gap, l=20, r=20),
        width=min(860, max(760, 320 + (side + 30) * n_columns)),  # wider, it could not be read in print
    )
    spacing = gap / (side * n_rows + gap * (n_rows - 1))
    named = [name for name, _ in maps]
    places = panels(fig, named, most=most, horizontal_spacing=0.06, vertical_spacing=spacing, shared_yaxes=True)
    for number, (place, (_, (wide, text, known)), limit) in enumerate(zip(places, maps, limits, strict=True)):
        drawn: dict[str, Any] = {"text": text, "texttemplate": "%{text}", "xgap": 2, "ygap": 2, "limit": limit}
        drawn |= {"customdata": known, "hovertemplate": "%{y}, with %{x}: %{customdata}<extra></extra>"}
        drawn["showscale"] = not number
        fig.add_trace(signed_map(wide, words.with_unit(f"change in {of}", unit), **drawn), **place)
        fig.update_xaxes(tickangle=-35, showgrid=False, **place)
        fig.update_yaxes(autorange="reversed", showgrid=False, **place)
    return fig


def _map(summary: pd.DataFrame, names: list[str], combination: str, measured: str | None = None) -> _Map:
    """Changes of each of ``names``, or of the one ``measured``, beside each other; texts and hover."""
    rows = summary[summary["combination"].isin(["alone", combination])]
    change, unit = "logit_difference_change", words.unit(summary, "logit_difference")
    if measured == QUESTIONS:
        change, unit = "correct_change", "share of right answers"
    text = rows[change].map("{:+.2f}".format)
    text = text.where(excludes_zero(rows, change), "(" + text + ")")
    if measured == QUESTIONS:
        text = rows["correct"].map("{:.2f}".format) + "<br>" + text
    kept = zip(rows["kept"], rows["kept_low"], rows["kept_high"], strict=True)
    share = pd.Series([f"<br>{one:.0%}<br>{100 * low:.0f} to {100 * high:.0f}" for one, low, high in kept], rows.index)
    text += share.where(rows["kept"].notna() & (rows["combination"] != "alone"), "")
    rows = rows.assign(text=text.map(words.with_minus), known=words.estimates(rows, change, unit))
    # Two vectors have a cell on each side of the diagonal: the same one where another behavior is measured.
    sides = [rows.assign(row=rows[one], column=rows[other]) for one, other in _ORDERS]
    both = pd.concat(sides).drop_duplicates(["behavior", "row", "column"])
    both = both[both["behavior"] == (measured or both["row"])]
    wide, texts, known = (
        both.pivot(index="row", columns="column", values=one).reindex(index=names, columns=names)
        for one in (change, "text", "known")
    )
    return wide, texts.fillna("").to_numpy().tolist(), known.fillna("").to_numpy().tolist()
