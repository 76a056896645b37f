"""Figure of where texts and turns lie along vectors."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import with_texts
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots, line, panels, side_by_side, thinned
from caa_interp.statistics import bootstrap_means

_SOURCE = "caa_interp.analysis.monitor"
_COLUMNS = ("item", "turn", "role", "vector", "layer", "z", "n_tokens", "text", "model")
_ROLES = {"user": "-open", "assistant": ""}  # ending of the mark
_BINS, _HEIGHT = 40, 0.62  # of a distribution, as a share of the way from one row to the next
_ROW, _TURNS = 96, 330  # pixels
_LONGEST, _ACROSS = 42, 70  # letters of an example beside the figure, and of a line of hover text


def plot_monitor(table: pd.DataFrame, *, n_examples: int = 5, title: str = "Texts along the vectors") -> go.Figure:
    """Distribution of the z-scores of every vector with the outermost texts, and their mean by turn in conversations.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.monitor`, or several of one kind in one table, such as those of two models.
    n_examples
        Number of most and of least aligned texts that are marked; hover over one to read it. The outermost two stand
        below their distribution.
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        One row per vector, and per layer and model if there are several; controls are gray. The band is one standard
        deviation of neutral prose to either side of its mean. Turns are counted from 1.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    table = with_texts(table, ["role"])
    label = checks.labels_of(table, ["vector", *checks.varying(table, ("layer", "model"))])
    rows = table.assign(label=label, turn=table["turn"] + 1)  # people count turns from 1
    checks.check_once(rows, ["label", "layer", "item", "turn"], _SOURCE)
    rows = rows.dropna(subset=["z"])
    if rows.empty:
        raise InputError(
            f"table: no row has a z, since no token was read; give a result of {_SOURCE} that holds texts."
        )
    gray = set(label[table["kind"] != "vector"]) if "kind" in table else set()
    looks = {
        name: look._replace(color=theme.NEUTRAL) if name in gray else look
        for name, look in theme.styles(label).items()
        if name in set(rows["label"])
    }
    talks = bool((table["role"] != "").any())
    heights = [_ROW * len(looks) + 30, *([_TURNS] if talks else [])]
    fig = theme.figure(
        title,
        f"layer {', '.join(map('{:g}'.format, sorted(set(table['layer']))))}; n = "
        f"{words.counts(rows.groupby('label').size())} {'turns' if talks else 'texts'}; marks: the {n_examples} most "
        "and least aligned; band: neutral prose, one standard deviation",
        **theme.room(sum(heights) + 170 + (90 if talks else 0), l=120, legend=100 if talks else 62),
        showlegend=talks,
    )
    spacing: dict[str, Any] = {"row_heights": heights, "vertical_spacing": 0.13} if talks else {}
    places = panels(fig, [""] * len(heights), most=1, **spacing)
    for number, (name, look) in enumerate(looks.items()):
        _distribution(fig, rows[rows["label"] == name], look, len(looks) - 1 - number, n_examples, **places[0])
    fig.add_vrect(-1, 1, line_width=0, fillcolor=theme.NEUTRAL, opacity=0.12, layer="below", **places[0])
    fig.update_xaxes(title_text="z (standard deviations of neutral prose)", title_standoff=4, **places[0])
    named = theme.ticks(reversed(range(len(looks))), looks)
    fig.update_yaxes(range=[-0.42, len(looks) - 0.25], showgrid=False, **named, **places[0])
    if talks:
        _turns(fig, rows, looks, **places[1])
    return fig


def _distribution(
    fig: go.Figure, rows: pd.DataFrame, look: theme.Style, base: float, n_examples: int, **place: int
) -> None:
    """Outline of a histogram on a line, with marks of the outermost texts on it and the ends written below."""
    ordered = rows.sort_values("z", kind="stable")
    outer = ordered.iloc[[at for at in range(len(rows)) if at < n_examples or at >= len(rows) - n_examples]]
    if len(outer) < len(rows):
        counted, edges = np.histogram(rows["z"], bins=min(_BINS, max(8, len(rows) // 8)))
        heights = [base, *np.repeat(base + _HEIGHT * counted / counted.max(), 2), base]
        filled = {"fill": "toself", "fillcolor": theme.faded(look.color, 0.2)}
        outline = {"mode": "lines", "line": {"color": look.color, "width": 1.5}, **filled}
        fig.add_trace(dots(np.repeat(edges, 2), heights, {}).update(outline), **place)
    marker = {"color": look.color, "symbol": look.symbol, "size": 8, "line": {"color": "white", "width": 0.5}}
    fig.add_trace(dots(outer["z"], [base] * len(outer), marker, list(map(_hover, outer.itertuples()))), **place)
    for side, row, at in (("left", ordered.iloc[0], 0), ("right", ordered.iloc[-1], 1)):
        text = theme.escape(words.cut(" ".join(str(row["text"]).split()), _LONGEST))
        told = f"{words.factor(row['z'], '+.1f')}: {text}"
        below = {"x": at, "xref": "x domain", "xanchor": side, "y": base, "yanchor": "top", "yshift": -7}
        fig.add_annotation(text=told, showarrow=False, font={"size": 11}, **below, **place)


def _hover(row: Any) -> str:
    """What a mark says: its number, and the beginning of its text in lines."""
    lines = wrap(" ".join(str(row.text).split()), _ACROSS)
    turn = f", turn {row.turn} ({row.role})" if row.role else ""
    return f"item {row.item}{turn}: z {words.factor(row.z, '.2f')}, {row.n_tokens} tokens<br>" + "<br>".join(
        map(theme.escape, lines)
    )


def _turns(fig: go.Figure, rows: pd.DataFrame, looks: dict[str, theme.Style], **place: int) -> None:
    """Mean over conversations at every turn, one line per vector and role."""
    spoken = rows[rows["role"].isin(_ROLES)]
    series = [(str(label), str(role), own) for (label, role), own in spoken.groupby(["label", "role"], sort=False)]
    turns = sorted(spoken["turn"].unique())
    shifts = side_by_side(turns, len(series))
    for shift, (label, role, own) in zip(shifts, series, strict=True):
        wide = own.pivot(index="item", columns="turn", values="z")
        found = dict(zip(("z", "z_low", "z_high", "n"), bootstrap_means(wide.to_numpy()), strict=True))
        means = pd.DataFrame({"turn": wide.columns, **found})
        look = looks[label]._replace(symbol=looks[label].symbol + _ROLES[role])
        fig.add_trace(line(means, "turn", "z", look, f"{label}, {role}", "standard deviations", shift=shift), **place)
    fig.add_hline(0, line=theme.CHANCE, **place)
    fig.update_xaxes(title_text="turn of the conversation", title_standoff=4, tickvals=thinned(turns), **place)
    fig.update_yaxes(title_text="z, mean over conversations<br>(95 % interval)", title_font_size=13, **place)
