"""Figure of how many pairs a steering vector needs."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import band, dots, panels

_SOURCE = "caa_interp.analysis.data_curve"
_MEASURES = ("slope", "cosine", "split_half")
_COLUMNS = ("layer", "n_pairs", "n_draws", *_MEASURES, "slope_low", "slope_high", "chance", "enough", "n", "confidence")


def plot_data_curve(
    table: pd.DataFrame | Mapping[str, pd.DataFrame], *, title: str = "How many pairs the vector needs"
) -> go.Figure:
    """Effect, direction and reliability of vectors over the number of pairs, with the spread over draws.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.analysis.data_curve`, or several by name (``{behavior: table}``); title of the
        figure.

    Returns
    -------
    plotly.graph_objects.Figure
        One panel per measure. A large mark is the number of pairs from which on the mean effect, over the draws, is
        within 10 % of that of all; it has no interval. The dotted line is the value
        for unrelated pairs.
    """
    tables = checks.tables_by_name(table, _COLUMNS, _SOURCE)
    for one in tables.values():
        checks.check_once(one, ["n_pairs"], _SOURCE)
    every = pd.concat(tables.values())
    draws, spread = every.loc[every["n_draws"] > 1, "n_draws"], ""
    if len(draws):
        spread = f"; mean of {words.counts(draws)} draws; bands: {100 * every['confidence'].iloc[0]:g} % of the draws"
    titles = {"slope": "effect on held-out pairs", "cosine": "direction", "split_half": "split halves"}
    units = {
        "slope": words.slope_title(every),
        "cosine": "cosine with the vector of all pairs",
        "split_half": "cosine of the halves' vectors",
    }
    fig = theme.figure(
        title,
        f"vectors of equal norm{spread}; effect on n = {words.counts(every['n'])} pairs<br>"
        f"{_enough(tables)}; dotted: unrelated pairs",
        **theme.room(470 if len(tables) > 1 else 430, t=124, b=70, legend=110 if len(tables) > 1 else 0),
    )
    looks = theme.styles(tables)
    ordered = {label: one.sort_values("n_pairs") for label, one in tables.items()}
    for measure, place in zip(_MEASURES, panels(fig, list(titles.values()), horizontal_spacing=0.12), strict=True):
        for label, rows in ordered.items():
            look = looks[label]
            ends = (rows[f"{measure}_low"].fillna(rows[measure]), rows[f"{measure}_high"].fillna(rows[measure]))
            shade = theme.faded(look.color, 0.1 if len(tables) > 1 else 0.18)
            fig.add_trace(band(rows["n_pairs"], *ends, shade, legendgroup=label), **place)
            if measure == "cosine":
                dotted = {"mode": "lines", "line": theme.CHANCE}
                fig.add_trace(dots(rows["n_pairs"], rows["chance"], {}, **dotted), **place)
        for label, rows in ordered.items():
            look, extra = looks[label], theme.escape(label)
            is_enough = rows["n_pairs"].eq(rows["enough"]).fillna(False)
            marker = {"color": look.color, "symbol": look.symbol, "size": [13 if one else 7 for one in is_enough]}
            drawn = dots(rows["n_pairs"], rows[measure], marker, _told(rows, measure), name=extra)
            drawn.update(mode="lines+markers", line={"color": look.color, "width": 2}, legendgroup=label)
            drawn.update(hovertemplate=f"%{{x}} pairs: %{{customdata}}<extra>{extra}</extra>")
            fig.add_trace(drawn.update(showlegend=len(tables) > 1 and measure == "slope"), **place)
        if measure != "cosine":
            fig.add_hline(0, line=theme.CHANCE, **place)
        fig.update_yaxes(title_text=units[measure], title_font_size=13, title_standoff=4, rangemode="tozero", **place)
    at = sorted(set(every["n_pairs"]))
    return fig.update_xaxes(type="log", title_text="number of pairs", **theme.ticks(at, at))


def _told(rows: pd.DataFrame, measure: str) -> list[str]:
    """What a mark says: the mean over draws with their spread, and how many draws and scored pairs there are."""
    if measure != "slope":
        return words.estimates(rows, measure, "cosine (range of draws)", n="n_draws")
    texts = words.estimates(rows, measure, f"{words.slope_unit(rows)} (range of draws)")
    return [f"{text} scored pairs, {draws} draws" for text, draws in zip(texts, rows["n_draws"], strict=True)]


def _enough(tables: Mapping[str, pd.DataFrame]) -> str:
    """From which number of pairs on the mean effect is about that of all, which is no claim about other pairs."""
    found = {label: one["enough"].iloc[0] for label, one in tables.items()}
    said = [
        f"{theme.escape(label)}{': ' if label else ''}{'none' if pd.isna(number) else f'{number:g} pairs'}"
        for label, number in found.items()
    ]
    return f"large mark: mean effect within 10 % of that of all pairs from here on ({'; '.join(said)}; no interval)"
