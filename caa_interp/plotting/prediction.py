"""Figure of effects that were predicted before they were measured."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots

_SOURCE = "caa_interp.analysis.predict_steerability"
_MEASURED = ("behavior", "layer", "slope", "slope_low", "slope_high", "n", "format")
_COLUMNS = (*_MEASURED, "predicted", "rank_correlation", "skill")


def plot_predicted_steerability(table: pd.DataFrame) -> go.Figure:
    """Measured over predicted slopes: a point per behavior and layer, and a line where both are equal.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.predict_steerability`.

    Returns
    -------
    plotly.graph_objects.Figure
        The legend has each behavior's rank correlation over layers; the subtitle has the skill of all predictions.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_once(table, ("behavior", "layer"), _SOURCE)
    looks = theme.styles(dict.fromkeys(table["behavior"]))
    n_others = table["behavior"].nunique() - 1
    unit, (skill,) = words.slope_unit(table), words.numbers(table["skill"].iloc[:1], ".2f")
    fig = theme.figure(
        "Can the effect be told from the activations?",
        f"each behavior predicted from the other {n_others}; a point per layer, n = {words.counts(table['n'])} "
        f"held-out pairs<br>skill beyond the others' mean at the same layer: "
        f"{skill or 'unknown'} (1 is perfect, 0 is none); dashed: equal",
        width=760,
        height=560,
    )
    for name, style in looks.items():
        rows = table[table["behavior"] == name]
        correlation = rows["rank_correlation"].iloc[0]
        label = "" if pd.isna(correlation) else words.with_minus(f" ({correlation:+.2f})")
        measured = words.estimates(rows, "slope", unit)
        hover = [
            f"layer {layer:g}: predicted {before}, measured {found}"
            for layer, before, found in zip(rows["layer"], words.numbers(rows["predicted"]), measured, strict=True)
        ]
        marker = {"color": style.color, "symbol": style.symbol, "size": 8}
        drawn = dots(rows["predicted"], rows["slope"], marker, hover, name=theme.escape(name) + label)
        drawn.update(error_y=theme.error_bars(rows, "slope") | {"thickness": 1, "width": 0}, showlegend=True)
        fig.add_trace(drawn.update(hovertemplate=f"%{{customdata}}<extra>{theme.escape(name)}</extra>"))
    ends = [float(f(f(table["predicted"]), f(table["slope"]))) for f in (min, max)]
    line = {**theme.NOTHING, "dash": "dash"}
    fig.add_shape(type="line", x0=ends[0], x1=ends[1], y0=ends[0], y1=ends[1], line=line, layer="below")
    fig.update_xaxes(title_text=f"predicted slope ({unit})")
    fig.update_yaxes(title_text=f"measured slope ({unit})")
    return fig.update_layout(legend_title={"text": "rank correlation over layers", "font_size": 13})
