"""Figure of what steering costs, over the multiplier."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import COSTS, summarize_cost
from caa_interp.plotting.theme import TEMPLATE, check_table, error_bars, escape, styles

_NAMES = {
    "nats_per_token": ("surprise at prose", "nats per token"),
    "divergence": ("divergence from unsteered", "KL, nats per token"),
    "correct": ("share of right answers", "0 to 1"),
}
_SOURCE = "caa_interp.perplexity, caa_interp.divergence or caa_interp.capability"
# Lines stand side by side, this share of the way to the next multiplier, so that intervals do not cover one another.
_APART = 0.06


def plot_cost(*tables: pd.DataFrame, layer: int | None = None, title: str = "What steering costs") -> go.Figure:
    """Mean cost over the multiplier at one layer, with intervals: one panel a measure, one line a vector.

    Where a table holds multiplier 0, what is shown is the change from it, paired over items.

    Parameters
    ----------
    tables
        Results of :func:`caa_interp.perplexity`, :func:`caa_interp.divergence` and :func:`caa_interp.capability`, or
        of :func:`caa_interp.evaluation.summarize_cost`; a measure that several of them hold is taken from the last.
    layer
        Layer to show; needed if the tables hold several.
    title
        Title of the figure.
    """
    if not tables:
        raise InputError(f"tables: none is given; give results of {_SOURCE}.")
    panels: dict[str, pd.DataFrame] = {}
    for table in tables:
        check_table(table, ["vector", "layer", "multiplier"], _SOURCE)
        summary = table if "n" in table else summarize_cost(table)
        panels |= {measure: summary for measure in COSTS if measure in summary}
    if not panels:
        raise InputError(f"tables: none holds one of {list(COSTS)}; give results of {_SOURCE}.")
    layers = sorted({layer for summary in panels.values() for layer in summary["layer"]})
    if layer is None and len(layers) > 1:
        raise InputError(f"layer: the tables hold layers {layers[0]} to {layers[-1]}; name the one to show.")
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise InputError(f"layer: {layer} is not in the tables; they hold {layers}.")
    shown = {measure: panels[measure][panels[measure]["layer"] == layer] for measure in COSTS if measure in panels}
    looks = styles([str(name) for rows in shown.values() for name in rows["vector"]])
    fig = make_subplots(cols=len(shown), horizontal_spacing=0.28 / len(shown))
    for column, (measure, rows) in enumerate(shown.items(), 1):
        multipliers = sorted(rows["multiplier"].unique())
        # A divergence is a change from the unsteered model by itself.
        changed = measure != "divergence" and f"{measure}_change" in rows
        shown_mean = f"{measure}_change" if changed else measure
        quantity, unit = _NAMES[measure]
        step = _APART * min((b - a for a, b in pairwise(multipliers)), default=1.0)
        for number, (name, group) in enumerate(rows.groupby("vector", sort=False)):
            look, group = looks[str(name)], group.sort_values("multiplier")
            fig.add_scatter(
                x=group["multiplier"] + step * (number - (len(looks) - 1) / 2),
                y=group[shown_mean],
                error_y=error_bars(group, shown_mean),
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash, "width": 2.2},
                marker={"symbol": look.symbol, "size": 8},
                name=escape(name),
                legendgroup=str(name),
                showlegend=column == 1 and len(looks) > 1,
                row=1,
                col=column,
            )
        fig.update_xaxes(
            title_text="multiplier<br>(times the raw vector)",
            tickvals=multipliers,
            ticktext=[f"{m:g}".replace("-", "\N{MINUS SIGN}") for m in multipliers],
            col=column,
        )
        fig.update_yaxes(
            title_text=f"{'change in ' if changed else ''}{quantity}<br>({unit})",
            rangemode="tozero" if measure == "divergence" else "normal",
            col=column,
        )
    counts = sorted({int(n) for rows in shown.values() for n in rows["n"]})
    n = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    confidence = 100 * next(iter(shown.values())).attrs.get("confidence", 0.95)
    fig.update_layout(
        template=TEMPLATE,
        title={
            "text": f"{escape(title)}<br><sup style='color:#52606d'>layer {layer}; mean over n = {n} items, "
            f"{confidence:.0f} % intervals</sup>"
        },
        height=430,
        width=130 + 330 * len(shown),
        margin={"l": 90, "t": 90, "b": 120 if len(looks) > 1 else 80},
        legend={"orientation": "h", "y": -0.32, "yanchor": "top", "x": 0},
    )
    return fig
