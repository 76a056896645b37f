"""Figure of what each pair does to a steering vector."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots

_SOURCE = "caa_interp.analysis.influence"
_TEXTS = ("question", "positive", "negative")
_COLUMNS = ("layer", "rank", *_TEXTS, "projection", "cosine", "norm_change", "n")
_LONGEST = 38  # letters of each text of a pair below the figure


def plot_influence(
    table: pd.DataFrame,
    *,
    layer: int | None = None,
    n_labels: int = 5,
    title: str = "What each pair does to the vector",
) -> go.Figure:
    """One dot per pair: how far it points along the vector of the others, and how far it turns that vector.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.influence`.
    layer
        0-based block index to show, needed if the table holds several.
    n_labels
        Number of pairs that have their rank beside them and their texts below: half of them the lowest along the
        vector, the others those farthest from the median dot, in units of each axis's spread.
    title
        Title of the figure.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    layer = checks.one_layer(table["layer"], layer)
    rows = table[table["layer"] == layer].reset_index(drop=True)
    checks.check_once(rows, ["rank"], _SOURCE)
    rows = rows.assign(angle=np.degrees(np.arccos(rows["cosine"])))
    places = rows[["projection", "angle"]]
    spread = (places.quantile(0.75) - places.quantile(0.25)).replace(0, np.nan)
    distance = ((places - places.median()) / spread).pow(2).sum(axis=1)
    lowest = list(rows["rank"].nsmallest(math.ceil(n_labels / 2)).index)
    outer = sorted([*lowest, *distance.drop(lowest).nlargest(n_labels - len(lowest)).index])
    against = rows["projection"] < 0
    fig = theme.figure(
        title,
        f"layer {layer}; n = {len(rows)} pairs, each compared with the vector of all others; {int(against.sum())} "
        "against it",
        **theme.room(470 + 19 * len(outer), b=84 + 19 * len(outer)),
        showlegend=False,
    )
    known = zip(rows.itertuples(), words.numbers(rows["projection"], ".2f"), strict=True)
    hover = [
        f"{row.rank}. {'<br>'.join(words.pair_text(row))}<br>projection {projection}, turned by "
        f"{row.angle:.2f}\N{DEGREE SIGN}, norm without it {words.with_minus(f'{row.norm_change:+.1%}')}"
        for row, projection in known
    ]
    colors, symbols = np.where(against, theme.NEGATIVE, theme.POSITIVE), np.where(against, "x", "circle")
    edge = {"width": 0.5, "color": "white"}
    marker = {"color": colors, "symbol": symbols, "size": 8, "opacity": 0.75, "line": edge}
    ranks = [str(rank) if place in outer else "" for place, rank in rows["rank"].items()]
    named = {"mode": "markers+text", "text": ranks, "textposition": "top center", "textfont": {"size": 12}}
    fig.add_trace(dots(rows["projection"], rows["angle"], marker, hover, **named))
    fig.add_vline(0, line=theme.NOTHING)
    fig.add_vline(1, line=theme.CHANCE)
    for number, place in enumerate(outer):
        row = rows.loc[place]
        texts = [theme.escape(words.cut(" ".join(row[name].split()), _LONGEST)) for name in _TEXTS]
        told = "<b>{}.</b> {}  <b>+</b> {}  <b>\N{MINUS SIGN}</b> {}".format(row["rank"], *texts)
        across = {"x": 0, "xref": "paper", "xanchor": "left", "xshift": -62}
        down = {"y": 0, "yref": "paper", "yanchor": "top", "yshift": -66 - 19 * number}
        fig.add_annotation(text=told, showarrow=False, font={"size": 11}, **across, **down)
    title = "projection on the vector of the others (1: as long as it; 0: nothing; below: against it)"
    fig.update_xaxes(title_text=title, title_font_size=13)
    return fig.update_yaxes(title_text="turn of the vector by the pair (degrees)")
