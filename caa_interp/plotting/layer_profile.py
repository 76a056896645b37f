"""Figure of the effect by layer: the shape of the paper's figure 3, with intervals and controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import (
    Place,
    band,
    control_bands,
    dots,
    key,
    line,
    mark_zero,
    most_controls,
    name_once,
    panels,
    shape,
)

_SOURCE = "caa_interp.steerability"
_COLUMNS = ("vector", "kind", "layer", "slope", "slope_low", "slope_high", "n")
_TOGETHER = 4  # more behaviors than this get a panel each
_HALF = 0.3  # of a layer, to both sides of controls that stand alone


def plot_layer_profile(
    table: pd.DataFrame,
    *,
    chosen: Mapping[str, int] | None = None,
    validation: pd.DataFrame | None = None,
    title: str = "Effect by layer",
) -> go.Figure:
    """Slope of the response by layer, with intervals, beside controls (Rimsky et al. 2024, figure 3).

    Parameters
    ----------
    table
        Result of :func:`caa_interp.steerability` of a sweep over layers, or several of these in one table with a
        column ``behavior``. Controls belong to their behavior; without that column, to every vector.
    chosen
        The layer to mark for each behavior (or vector); default: the one with the largest slope in this table, which
        is too large by chance if it is reported from the same pairs.
    validation
        The same on the pairs that layers were chosen on, for a thin line beside the held-out one of each behavior (or
        vector) in it; controls in it are left out.
    title
        Title of the figure.

    Returns
    -------
    plotly.graph_objects.Figure
        Up to four behaviors in one panel, more in a panel each. The gray bands go from the lowest slope of the controls
        of a kind to the highest; those of behaviors in one panel are pooled. Controls that each behavior has at one
        layer alone are bars there.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    own, controls = checks.vectors_and_controls(table)
    about = "behavior" if "behavior" in table else "vector"
    checks.check_once(own, (about, "layer"), _SOURCE)
    names = list(dict.fromkeys(own[about]))
    if validation is not None:
        checks.check_table(validation, (*_COLUMNS, about), _SOURCE, "validation")
        validation, _ = checks.vectors_and_controls(validation, "validation")
        if not validation[about].isin(names).any():
            raise InputError(
                f"validation: it is of {list(validation[about].unique())}, the table of {names}; give that of one of "
                "these."
            )
        validation = validation[validation[about].isin(names)]
    if chosen is None:
        peaks = own.dropna(subset=["slope"]).sort_values("slope").drop_duplicates(about, keep="last")
        which, marked = "steepest", dict(zip(peaks[about], peaks["layer"], strict=True))
    else:
        checks.check_chosen(chosen, names)
        which, marked = "chosen", dict(chosen)
    groups = [names] if len(names) <= _TOGETHER else [[name] for name in names]
    n_rows = shape(len(groups))[0]
    n_entries = (1 if len(groups) > 1 else len(names)) + controls["kind"].nunique() + 1
    below = 80 + theme.LEGEND_ROW * ((n_entries + 2) // 3)
    thin = "" if validation is None else f"; thin line: {words.counts(validation['n'])} validation pairs"
    fig = theme.figure(
        title,
        f"mean slope over {words.counts(own['n'])} pairs; colored bands: {words.interval(own)}, each layer by itself; "
        f"large mark: {which} layer{thin}",
        **theme.room(
            90 + below + (330 if len(groups) == 1 else 195 * n_rows),
            l=95,
            r=16,
            t=78 if len(groups) == 1 else 100,
            legend=below,
        ),
        showlegend=True,
    )
    titles = [words.label(group[0]) if len(groups) > 1 else "" for group in groups]
    axes: dict[str, Any] = {"x_title": theme.LAYER, "y_title": words.slope_title(table), "shared_xaxes": "all"}
    axes |= {"horizontal_spacing": 0.02, "vertical_spacing": 0.2 / n_rows}
    places = panels(fig, titles, shared_yaxes="all", **axes)
    looks = theme.styles(names)
    # Controls at one layer of each behavior say nothing of the layers between those of several behaviors.
    is_bar = about == "behavior" and (controls.groupby(about)["layer"].nunique() < 2).all()
    beside = [controls[controls[about].isin(group)] if about == "behavior" else controls for group in groups]
    parts = [[some for _, some in one.groupby("layer")] if is_bar else [one] for one in beside]
    apart = {"behavior": about == "behavior" and len(groups) > 1, "layer": is_bar}
    most = most_controls(controls, [name for name, is_apart in apart.items() if is_apart])
    drawn: dict[str, Any] = {"most": most, "half": _HALF if is_bar else 0.0}
    for group, together, place in zip(groups, parts, places, strict=True):
        for some in together:
            for one in control_bands(some, "layer", "slope", words.slope_unit(table), **drawn):
                fig.add_trace(one, **place)
        if validation is not None:
            for name in group:
                if len(some := validation[validation[about] == name]):
                    fig.add_trace(_thin(some, looks[name]), **place)
        for name in group:
            _draw(fig, own[own[about] == name], name, looks[name], marked.get(name), len(groups) == 1, place)
    mark = {"symbol": "circle", "size": 13, "color": theme.NEUTRAL, "line": {"color": theme.DARK, "width": 1.5}}
    fig.add_trace(key(f"{which} layer", mark))
    name_once(fig)
    mark_zero(fig)
    return fig


def _thin(rows: pd.DataFrame, look: theme.Style) -> go.Scatter:
    """Slopes of one behavior on validation pairs, without intervals."""
    rows = rows.sort_values("layer")
    known = zip(rows["layer"], words.estimates(rows, "slope", words.slope_unit(rows)), strict=True)
    hover = [f"layer {layer:g}, validation pairs: {text}" for layer, text in known]
    return dots(rows["layer"], rows["slope"], {}, hover, mode="lines", line={"color": look.color, "width": 1})


def _draw(
    fig: go.Figure, rows: pd.DataFrame, name: str, look: theme.Style, marked: int | None, in_legend: bool, place: Place
) -> None:
    """Line, interval and mark of one behavior."""
    rows = rows.sort_values("layer")
    group = theme.escape(name)
    shade = band(rows["layer"], rows["slope_low"], rows["slope_high"], theme.faded(look.color, 0.18), legendgroup=group)
    fig.add_trace(shade, **place)
    at = rows["layer"] == marked
    marker = {
        "symbol": look.symbol,
        "size": [13 if one else 5 for one in at],
        "opacity": 1,
        "line": {"color": theme.DARK, "width": [1.5 if one else 0 for one in at]},
    }
    shown: dict[str, Any] = {"marker": marker, "error_y": None, "legendgroup": group, "showlegend": in_legend}
    drawn = line(rows, "layer", "slope", look, name, words.slope_unit(rows), **shown)
    fig.add_trace(drawn, **place)
