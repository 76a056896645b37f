"""Figure of held-out answers along a vector: how far it sets their two sides apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots, panels, shape

_SOURCE = "caa_interp.analysis.separation"
_STATISTICS = ("d_prime", "d_prime_low", "d_prime_high", "auc", "auc_low", "auc_high", "n")
_COLUMNS = ("vector", "layer", "pair", "side", "projection", *_STATISTICS)
# Color and hatching; in gray the two sides still differ.
_SIDES = {"positive": (theme.POSITIVE, ""), "negative": (theme.NEGATIVE, "/")}
_COLUMNS_MOST, _BINS = 3, 24


def plot_separation(table: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Histograms of both sides' answers along a vector, one panel per layer, with d' and AUC.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.separation` of one vector.
    title
        Title of the figure; default: the vector's behavior.

    Returns
    -------
    plotly.graph_objects.Figure
        Both sides have the same bins; 0 is halfway between their means. Below the bars stands a tick for every answer:
        hover over it to read the pair.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_once(table, ("layer", "pair", "side"), _SOURCE)
    layers = sorted(table["layer"].unique())
    n_rows = shape(len(layers), _COLUMNS_MOST)[0]
    fig = theme.figure(
        title or f"Answers along the vector of {table['vector'].iloc[0]}",
        f"n = {words.counts(table['n'])} held-out pairs; d' and AUC with {words.interval(table)}",
        **theme.room(200 + (270 if n_rows == 1 else 250 * n_rows), t=118, legend=112),
        barmode="overlay",
        bargap=0,
    )
    firsts = table.drop_duplicates("layer").set_index("layer").loc[layers]
    notes = (
        [f"{label} {one}" for one in words.intervals(firsts, name, ".2f")]
        for name, label in (("d_prime", "d'"), ("auc", "AUC"))
    )
    known = zip(layers, *notes, strict=True)
    titles = ["<br>".join([f"layer {layer:g}", *map(theme.small, said)]) for layer, *said in known]
    axes: dict[str, Any] = {"x_title": "projection on the vector<br>(units of the residual stream)"}
    axes |= {"horizontal_spacing": 0.08, "vertical_spacing": 0.36 / n_rows}
    places = panels(fig, titles, most=_COLUMNS_MOST, y_title="answers", **axes)
    for layer, place in zip(layers, places, strict=True):
        rows = table[table["layer"] == layer]
        edges = np.histogram_bin_edges(rows["projection"].dropna(), bins=min(_BINS, max(6, len(rows) // 6)))
        counted = {side: np.histogram(rows.loc[rows["side"] == side, "projection"], edges)[0] for side in _SIDES}
        step = max(int(counts.max()) for counts in counted.values()) / 16
        for number, (side, (color, pattern)) in enumerate(_SIDES.items()):
            own = rows[rows["side"] == side]
            hatched = {"shape": pattern, "fgcolor": color, "solidity": 0.2}
            look = {"color": theme.faded(color, 0.35), "line": {"color": color, "width": 1}, "pattern": hatched}
            entry = {"name": f"{side} answers", "legendgroup": side, "showlegend": place is places[0]}
            hover = f"%{{y}} {side} answers around %{{x}}<extra></extra>"
            bins = {"x": (edges[1:] + edges[:-1]) / 2, "y": counted[side], "width": np.diff(edges)}
            fig.add_bar(**bins, marker=look, hovertemplate=hover, **entry, **place)
            tick = {"symbol": "line-ns", "size": 6, "line": {"color": color, "width": 1}}
            heights = [-(number + 1) * step] * len(own)
            fig.add_trace(dots(own["projection"], heights, tick, _hover(own), legendgroup=side), **place)
        fig.add_vline(0, line=theme.CHANCE, **place)
    return fig.update_yaxes(nticks=5)


def _hover(rows: pd.DataFrame) -> list[str]:
    """A pair's number, place and texts."""
    places = words.numbers(rows["projection"], "+.3g")
    return [
        f"pair {row.pair}, {row.side} answer: {place}<br>" + "<br>".join(words.pair_text(row))
        for row, place in zip(rows.itertuples(), places, strict=True)
    ]
