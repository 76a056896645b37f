"""Figure of a steering vector as a sum of features."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import dots

_SOURCE = "caa_interp.analysis.decompose"
_FEATURES = ("rank", "feature", "coefficient", "cosine", "error", "random_error")
_COLUMNS = ("vector", "layer", "norm", "n_features", *_FEATURES)


def plot_decomposition(table: pd.DataFrame, *, title: str | None = None) -> go.Figure:
    """Bars of the features' coefficients, beside the error of the sum.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.analysis.decompose`. A column ``label`` of yours is shown beside feature numbers.
    title
        Title of the figure; default: the vector and the layer.

    Returns
    -------
    plotly.graph_objects.Figure
        Left: signed coefficients in the order of choice, with each feature's cosine with the vector. Right: what is
        left of the vector, and of random directions, after each feature.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    checks.check_one(table, ["vector", "layer"])
    checks.check_once(table, ["rank"], _SOURCE)
    rows = table.sort_values("rank")
    known = table.iloc[0]
    names = rows["feature"].astype(str).tolist()
    if "label" in rows:
        labels = rows["label"].map(lambda label: "" if pd.isna(label) else f"  {label}")
        names = [theme.escape(name + label) for name, label in zip(names, labels, strict=True)]
    if title is None:
        title = f"{known['vector']} in features, layer {known['layer']:g}"
    fig = theme.figure(
        title,
        f"{len(rows)} of {known['n_features']} features, orthogonal matching pursuit; "
        f"{100 * rows['error'].iloc[-1]:.0f} % of the norm is left; norm of the vector: {known['norm']:.3g}",
        **theme.room(190 + 28 * max(len(rows), 8), l=20, t=104),
    )
    fig.set_subplots(rows=1, cols=2, column_widths=[0.58, 0.42], horizontal_spacing=0.13)
    one, other = {"row": 1, "col": 1}, {"row": 1, "col": 2}
    signs = rows["coefficient"] < 0
    # In gray the two sides still differ.
    hatched = {"shape": ["/" if negative else "" for negative in signs], "solidity": 0.25}
    look = {"color": [theme.NEGATIVE if negative else theme.POSITIVE for negative in signs], "pattern": hatched}
    cosines = [f"cos {cosine}" for cosine in words.numbers(rows["cosine"], "+.2f")]
    written = {"text": cosines, "textposition": "outside", "textfont_size": 11, "cliponaxis": False}
    said = {
        "customdata": list(zip(names, words.numbers(rows["coefficient"]), strict=True)),
        "hovertemplate": "feature %{customdata[0]}: %{customdata[1]} units of the residual stream<extra></extra>",
    }
    bars = {"x": rows["coefficient"], "y": rows["rank"], "orientation": "h", "showlegend": False}
    fig.add_bar(**bars, marker=look, **written, **said, **one)
    for column, name, color, dash, symbol in (
        ("error", "this vector", theme.POSITIVE, "solid", "circle"),
        ("random_error", "random directions (mean)", theme.NEUTRAL, "dash", "circle-open"),
    ):
        hover = [f"{rank} features: {left:.3f} is left" for rank, left in zip(rows["rank"], rows[column], strict=True)]
        look = {"mode": "lines+markers", "line": {"color": color, "dash": dash, "width": 2}}
        drawn = dots(rows["rank"], rows[column], {"symbol": symbol, "size": 7}, hover, name=name, **look)
        fig.add_trace(drawn.update(showlegend=True), **other)
    reach = 1.7 * float(rows["coefficient"].abs().max())
    fig.update_xaxes(title_text="coefficient (units of the residual stream)", range=[-reach, reach], **one)
    fig.update_xaxes(zeroline=True, zerolinecolor="#9aa5b1", **one)
    down = {"tickvals": list(rows["rank"]), "ticktext": names, "range": [len(rows) + 0.6, 0.4]}
    fig.update_yaxes(title_text="feature", showgrid=False, **down, **one)
    fig.update_xaxes(title_text="number of features", rangemode="tozero", dtick=math.ceil(len(rows) / 8), **other)
    fig.update_yaxes(title_text="left over (share of the norm)", range=[0, 1.03], **other)
    small = {"title_font_size": 13, "tickfont_size": 12}
    fig.update_xaxes(**small).update_yaxes(**small)
    fig.update_layout(
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom", "font": {"size": 12}}
    )
    return fig
