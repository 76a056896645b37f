"""Figure of a vector's similarity to the tokens of a text: the text itself, colored; for many layers a map."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import key, signed_map

Measure = Literal["cosine", "projection"]
_MUTED, _MUTED_TEXT = "#E4E7EB", "#67717D"
_LINE = 66  # letters a line
_TICKS = 36  # tokens that have room on the axis of a map
_LONGEST = 60  # letters of a token that are shown
_PADDING = 0.7  # letters of free space in a token's box
_UNITS = {"cosine": "cosine with<br>the vector", "projection": "projection<br>(units of the<br>residual stream)"}


def plot_token_similarity(table: pd.DataFrame, *, layer: int | None = None, measure: Measure = "cosine") -> go.Figure:
    """Text whose tokens are colored by their similarity to a vector; for several layers a map of tokens and layers.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.token_similarity`.
    layer
        Layer to show as colored text; default: the only one, or a map if the table holds several.
    measure
        ``"cosine"`` or ``"projection"``.

    Returns
    -------
    plotly.graph_objects.Figure
        Colors are centered on zero and saturate at the 95th percentile of the absolute values of ordinary tokens: not
        special ones (gray in the text), nor the first, whose norm dwarfs all others.
    """
    columns = ("vector", "position", "token", "part", "layer", "special", "cosine", "projection")
    checks.check_table(table, columns, "caa_interp.token_similarity")
    checks.check_choice("measure", measure, _UNITS)
    checks.check_once(table, ["layer", "position"], "caa_interp.token_similarity")
    shown = table if layer is None else table[table["layer"] == checks.one_layer(table["layer"], layer)]
    shown = shown.sort_values(["layer", "position"])
    limit = _limit(shown, measure)
    where = f"layer {shown['layer'].iloc[0]:g}, " if shown["layer"].nunique() == 1 else ""
    subtitle = (
        f"{where}{shown['position'].nunique()} tokens; ␣ is a space<br>"
        f"colors end at ±{limit:.3g}, the 95th percentile without special tokens and the first"
    )
    title = f"{table['vector'].iloc[0]}: similarity of each token"
    draw = _map if shown["layer"].nunique() > 1 else _text
    return theme.entitled(draw(theme.figure(""), shown, measure, limit), title, subtitle)


def _limit(table: pd.DataFrame, measure: str) -> float:
    ordinary = table[~table["special"].astype(bool) & (table["position"] > 0)]
    values = (table if ordinary.empty else ordinary)[measure].abs().dropna()
    return float(np.quantile(values, 0.95) or values.max() or 1.0) if len(values) else 1.0


def _text(fig: go.Figure, rows: pd.DataFrame, measure: str, limit: float) -> go.Figure:
    """Boxes as wide as their tokens, which are bars that begin where the token begins."""
    shown = [token if len(token) <= _LONGEST else token[:_LONGEST] + "…" for token in rows["token"]]
    rows = rows.assign(shown=shown, **_places(shown, rows["part"]))
    muted = rows["special"].astype(bool)
    ordinary = rows[~muted]
    # By name: Plotly.js takes the numbers of bars for unknown colors, and logs a warning for every one.
    places = ((ordinary[measure] / limit).clip(-1, 1) + 1) / 2
    boxes = np.where(places.notna(), sample_colorscale(theme.DIVERGING, places.fillna(0.5)), "white")
    for part, box, color in (
        (ordinary, boxes, theme.letter_colors(ordinary[measure].to_numpy() / limit)),
        (rows[muted], _MUTED, _MUTED_TEXT),
    ):
        place = {"x": part["width"], "base": part["begin"], "y": part["line"], "width": 0.88, "orientation": "h"}
        font = {"family": theme.MONOSPACE, "size": 13, "color": color}
        inside = {"textposition": "inside", "insidetextanchor": "middle", "constraintext": "none", "textangle": 0}
        known = part[["position", "part"]].assign(
            cosine=words.numbers(part["cosine"]), projection=words.numbers(part["projection"], "+.3g")
        )
        fig.add_bar(
            **place,
            marker={"color": box, "line": {"color": "white", "width": 1}},
            text=part["shown"].map(theme.escape),
            textfont=font,
            **inside,
            hovertext=part["token"].map(theme.escape),
            customdata=known,
            hovertemplate="%{hovertext}<br>position %{customdata[0]}, %{customdata[1]}<br>cosine %{customdata[2]}<br>"
            "projection %{customdata[3]}<extra></extra>",
            showlegend=False,
        )
    scale = theme.color_axis(theme.DIVERGING, -limit, limit, _UNITS[measure])
    fig.add_trace(key(None, {"color": [0], **scale}, showlegend=False))
    n_lines = int(rows["line"].max()) + 1
    starts = rows.groupby("part")["line"].min() if rows["part"].nunique() > 1 else pd.Series(dtype=int)
    fig.update_layout(
        barmode="overlay",
        width=800,
        height=max(300, 140 + 28 * n_lines),
        margin={"l": 78, "r": 165, "b": 24, "t": 94},
    )
    fig.update_xaxes(visible=False, range=[0, _LINE])
    bare = {"showgrid": False, "showline": False, "ticks": "", "ticklabelstandoff": 5}
    return fig.update_yaxes(range=[n_lines - 0.4, -0.6], **theme.ticks(starts, starts.index), **bare)


def _map(fig: go.Figure, rows: pd.DataFrame, measure: str, limit: float) -> go.Figure:
    wide = rows.pivot(index="layer", columns="position", values=measure)
    tokens = rows.drop_duplicates("position").set_index("position")
    labels = [
        f"<span style='color:{_MUTED_TEXT}'>{theme.escape(token)}</span>" if special else theme.escape(token)
        for token, special in zip(tokens["token"], tokens["special"], strict=True)
    ]
    known = rows["token"].astype(object).map(theme.escape) + "<br>position " + rows["position"].astype(str)
    known += ", layer " + rows["layer"].map("{:g}".format) + ": " + words.numbers(rows[measure], "+.3g")
    hover = rows.assign(known=known).pivot(index="layer", columns="position", values="known")
    wide = wide.rename(index="{:g}".format)
    drawn = signed_map(wide, "", limit=limit, x=wide.columns, colorbar=theme.scale_bar(_UNITS[measure]))
    fig.add_trace(drawn.update(customdata=hover.to_numpy(), hovertemplate="%{customdata}<extra></extra>"))
    step = -(-len(labels) // _TICKS)
    named = {"tickvals": wide.columns[::step], "ticktext": labels[::step], "tickangle": -90}
    font = {"family": theme.MONOSPACE, "size": 11}
    fig.update_xaxes(title_text="token", tickfont=font, showgrid=False, **named)
    fig.update_yaxes(title_text=theme.LAYER, type="category", showgrid=False)
    fig.update_layout(
        width=min(800, max(620, 260 + 15 * len(labels))),
        margin_t=96,
        height=248 + 15 * len(wide) + 7 * int(tokens["token"].str.len().max()),
    )
    return fig


def _places(tokens: Iterable[str], parts: Iterable[str]) -> dict[str, list[float]]:
    """Line, begin and width of every token's box; a new line after a line break, and where the answer begins."""
    places: dict[str, list[float]] = {"line": [], "begin": [], "width": []}
    line, begin, before, broken = 0, 0.0, "", False
    for token, part in zip(tokens, parts, strict=True):
        width = _n_letters(token) + _PADDING
        if begin and (begin + width > _LINE or before != part or broken):
            line, begin = line + 1, 0.0
        for name, value in (("line", line), ("begin", begin), ("width", width)):
            places[name].append(value)
        begin += width
        before, broken = part, token.replace(r"\\", "").endswith(r"\n")
    return places


def _n_letters(token: str) -> int:
    """Columns that a token takes in a monospace font; Chinese letters take two."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in token)
