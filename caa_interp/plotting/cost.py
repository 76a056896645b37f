"""Figure of what steering costs, over the multiplier."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import COSTS, DISTANCES, by_series, summarize
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import (
    control_bands,
    line,
    name_multipliers,
    name_once,
    panels,
    shape,
    side_by_side,
)

_NAMES = {
    "nats_per_token": ("loss on neutral prose", "nats per token"),
    "divergence": ("divergence from unsteered", "KL, nats per token"),
    "divergence_tail": ("divergence at the worst 5 % of tokens", "KL, nats per token"),
    "correct": ("share of right answers", "1: all"),
}
_MOST = 3  # panels side by side
_UNITS = {"correct": "share of right answers"}
_SOURCE = "caa_interp.perplexity, caa_interp.divergence or caa_interp.capability"


def plot_cost(*tables: pd.DataFrame, layer: int | None = None, title: str = "What steering costs") -> go.Figure:
    """Mean cost over the multiplier at one layer, with intervals: a panel per measure, beside controls as gray bands.

    Where a table holds multiplier 0 or unsteered rows, the change from these is shown, paired over items.
    Conditions of several interventions, with no single multiplier, are left out.

    Parameters
    ----------
    tables
        Results of :func:`caa_interp.perplexity`, :func:`caa_interp.divergence` and :func:`caa_interp.capability`, or
        of :func:`caa_interp.summarize`; if several hold a measure, the last one counts.
    layer, title
        Layer to show, needed if the tables hold several; title of the figure.
    """
    if not tables:
        raise InputError(f"tables: none was given; give results of {_SOURCE}.")
    summaries: dict[str, pd.DataFrame] = {}
    for table in tables:
        checks.check_table(table, ["vector", "layer", "multiplier"], _SOURCE)
        summary = pd.concat(by_series(table if "n" in table else summarize(table)), ignore_index=True)
        summary = summary.assign(kind=summary.get("kind", "vector"))
        own = summary[summary["kind"] == "vector"]
        summary = summary.assign(label=checks.series_labels(own, "layer"))  # none for controls
        summaries |= {measure: summary for measure in COSTS if measure in summary}
    if not summaries:
        raise InputError(f"tables: none holds one of {list(COSTS)}; give results of {_SOURCE}.")
    layer = checks.one_layer([one for summary in summaries.values() for one in summary["layer"]], layer)
    at_layer = {name: summary[summary["layer"] == layer] for name, summary in summaries.items()}
    shown = {name: at_layer[name] for name in COSTS if len(at_layer.get(name, ()))}
    labels = pd.concat([rows["label"] for rows in shown.values()])
    looks, several = theme.styles(labels.dropna()), labels.nunique(dropna=False) > 1
    n_rows, n_columns = shape(len(shown), _MOST)
    fig = theme.figure(
        title,
        f"layer {layer}; mean over items, {words.interval(next(iter(shown.values())))}",
        **theme.room(96 + 360 * n_rows, l=60, t=140, legend=130 if several else 80),
        width=min(800, 130 + 330 * n_columns),
    )
    columns = {name: checks.shown(rows, name) for name, rows in shown.items()}
    names = [
        f"{'' if mean == name else 'change in '}{words.with_unit(*_NAMES[name])}<br>"
        + theme.small(f"n = {words.counts(shown[name]['n'])}")
        for name, mean in columns.items()
    ]
    places = panels(fig, names, most=_MOST, horizontal_spacing=0.22 / n_columns, vertical_spacing=0.6 / n_rows)
    for place, (measure, mean), rows in zip(places, columns.items(), shown.values(), strict=True):
        multipliers, unit = list(rows["multiplier"].unique()), _UNITS.get(measure, "nats per token")
        for one in control_bands(rows[rows["label"].isna()], "multiplier", mean, unit):
            fig.add_trace(one, **place)
        series = {str(name): own for name, own in rows.groupby("label", sort=False)}
        for shift, (name, own) in zip(side_by_side(multipliers, len(series)), series.items(), strict=True):
            drawn = line(own, "multiplier", mean, looks[name], name, unit, shift=shift, showlegend=several)
            fig.add_trace(drawn, **place)
        name_multipliers(fig, multipliers, theme.MULTIPLIER_WRAPPED, **place)
        fig.update_yaxes(rangemode="tozero" if measure in DISTANCES else "normal", **place)
    name_once(fig)
    return fig
