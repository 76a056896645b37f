"""Figure of side effects: which vector moves which behavior."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.response import steerability
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import missing, signed_map

_SOURCE = "caa_interp.evaluation.side_effects"
_ROOMY = 6  # columns up to which a cell has room for large numbers


def plot_side_effects(table: pd.DataFrame, *, title: str = "Steer one behavior, measure another") -> go.Figure:
    """Map of the mean slope of every measured behavior under every vector.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.evaluation.side_effects`, or its :func:`caa_interp.steerability`; figure's title.

    Returns
    -------
    plotly.graph_objects.Figure
        One row per vector, one column per measured behavior; a slope whose interval does not exclude zero, or that has
        none, is in parentheses.
    """
    checks.check_table(table, ["behavior", "vector", "layer"], _SOURCE)
    effects = table if "slope_low" in table else steerability(table)
    checks.check_once(effects, ["vector", "behavior"], _SOURCE)
    rows, columns = (list(dict.fromkeys(effects[name])) for name in ("vector", "behavior"))
    columns = [name for name in rows if name in columns] + [name for name in columns if name not in rows]
    limit = float(effects["slope"].abs().max()) or 1.0
    digits = _digits(limit)
    texts = []
    for slope, clear in zip(effects["slope"], excludes_zero(effects, "slope"), strict=True):
        shown = words.with_minus(f"{slope:+z.{digits}f}")
        shown = shown if len(columns) <= _ROOMY else words.without_zero(shown)
        texts.append("" if pd.isna(slope) else theme.on_map(shown if clear else f"({shown})", slope / limit))
    hover = words.estimates(effects, "slope", words.slope_unit(effects))
    drawn = effects.assign(text=texts, known=hover)
    wide, text, known = (
        drawn.pivot(index="vector", columns="behavior", values=name).reindex(index=rows, columns=columns)
        for name in ("slope", "text", "known")
    )
    layers = effects.groupby("vector", sort=False)["layer"].first()
    at = f"layer {layers.iloc[0]:g}; " if layers.nunique() == 1 else ""
    named = wide.rename(index=lambda row: row if at else f"{row} (layer {layers[row]:g})")
    crosses, lacking = missing(named.rename(index=theme.escape, columns=theme.escape))
    fig = theme.figure(
        title,
        f"{at}n = {words.counts(effects['n'])} pairs per column; {words.interval(effects)}; "
        f"in parentheses: it does not exclude zero{lacking}",
        **theme.room(
            max(440, 190 + 46 * len(rows)), l=20, r=20, t=90, b=20
        ),  # the least that the title of the color bar needs
        width=min(800, max(560, 330 + 86 * len(columns))),  # what is printed at two columns
    )
    font = {"size": 13 if len(columns) <= _ROOMY else theme.SMALLEST}
    written: dict[str, Any] = {"text": text.fillna("").to_numpy(), "texttemplate": "%{text}", "textfont": font}
    written |= {"customdata": known.to_numpy(), "xgap": 2, "ygap": 2}
    written["hovertemplate"] = "steer %{y}, measure %{x}: %{customdata}<extra></extra>"
    fig.add_traces([signed_map(named, words.slope_title(effects), **written), crosses])
    ticks = ((list(map(theme.escape, names)), list(names)) for names in (named.columns, named.index))
    across, down = ({"tickvals": one, "ticktext": list(map(words.label, names))} for one, names in ticks)
    fig.update_xaxes(title_text="measured behavior", tickangle=-35, showgrid=False, **across)
    fig.update_yaxes(title_text="steered with", autorange="reversed", showgrid=False, **down)
    return fig


def _digits(largest: float) -> int:
    """Decimals that show two digits of the largest value."""
    return next((digits for digits in range(1, 5) if largest >= 10 ** (1 - digits)), 5)
