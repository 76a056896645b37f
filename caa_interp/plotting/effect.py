"""Figures of effect lenses: what a vector makes the model say more, and less."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import panels
from caa_interp.plotting.token_grid import ranked_grid, short

_SOURCE = "caa_interp.effect_lens"
_READ = ("effect", "probability", "ranked_by", "n", "at", "format")
_COLUMNS = ("vector", "kind", "layer", "side", "rank", "token", *_READ)
_UNITS = {
    "effect": ("change of log-probability", "nats per unit of multiplier"),
    "probability_change": ("change of probability", "per unit of multiplier"),
}
_LONGEST = 16  # letters of a token beside its bar
_SIDES = {"raised": ("expected more", theme.POSITIVE), "lowered": ("expected less", theme.NEGATIVE)}
_READ_AT = {"answer": "at all tokens of", "first": "at the first token of", "later": "after the first token of"}


def plot_effect_lens(table: pd.DataFrame) -> go.Figure:
    """Tokens that a vector makes the model expect more, and less: bars for one layer, a grid for several.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.effect_lens`, or several of these in one table with a column ``behavior``.
        Controls stand in the rows of their behavior. Several layers are drawn for one vector only.

    Returns
    -------
    plotly.graph_objects.Figure
        One layer: a row for each vector, the effect of each token with its interval. The gray band reaches to the
        largest effect of any control. Several layers: layers as rows and ranks as columns, colored by the effect;
        bold where it is larger than that of every control at that layer.
    """
    checks.check_table(table, _COLUMNS, _SOURCE)
    rows = table.assign(of=table.get("behavior", ""), value=table[table["ranked_by"].iloc[0]])
    checks.check_once(rows, ["of", "vector", "layer", "side", "rank"], _SOURCE)
    own, controls = checks.vectors_and_controls(rows)
    reach = controls.groupby(["of", "layer", "side"])["value"].agg(lambda some: some.abs().max())
    rows = own.merge(reach.rename("control"), how="left", on=["of", "layer", "side"])
    names = rows.groupby(["of", "vector"], sort=False).ngroups
    if rows["layer"].nunique() == 1 or names > 1:
        return _bars(rows, table)
    return _grid(rows, table)


def _bars(rows: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """Two columns of bars, a row of panels for each vector at its layer."""
    vectors = list(rows.groupby(["of", "vector"], sort=False))
    for (_, name), some in vectors:
        checks.check_one(
            some, ["layer"], f"These are of {name!r} beside other vectors; select one layer, or one vector."
        )
    n_ranks = int(rows["rank"].max())
    what = "the vectors make" if len(vectors) > 1 else f"{rows['vector'].iloc[0]} makes"
    inner = len(vectors) * (64 + 21 * n_ranks)
    fig = theme.figure(
        f"What {what} the model say",
        _subtitle(table, "gray: up to the largest effect", words.interval(table)),
        **theme.room(150 + inner, t=112, l=20, b=66),
        showlegend=False,
    )
    titles = [
        f"{theme.escape(f'{name}, ') if len(vectors) > 1 else ''}{told}, layer {some['layer'].iloc[0]:g}"
        for (_, name), some in vectors
        for told, _ in _SIDES.values()
    ]
    places = panels(fig, titles, most=2, horizontal_spacing=0.2, vertical_spacing=72 / inner)
    name, unit = _UNITS[measure := rows["ranked_by"].iloc[0]]
    for number, place in enumerate(places):
        some, side = vectors[number // 2][1], list(_SIDES)[number % 2]
        part = some[some["side"] == side]
        sign = 1 if side == "raised" else -1
        if part["control"].notna().any():
            band = {"fillcolor": theme.faded(theme.NEUTRAL, 0.25), "line_width": 0, "layer": "below"}
            ends = {"x0": 0, "x1": sign * part["control"].iloc[0], "y0": 0.4, "y1": n_ranks + 0.6}
            fig.add_shape(type="rect", **ends, **band, **place)
        likely = part["probability"].map("{:.2g}".format)
        known = (part["token"].map(theme.escape), words.estimates(part, measure, unit), likely)
        bars = {"x": part["value"], "y": part["rank"], "orientation": "h", "width": 0.62}
        fig.add_bar(
            **bars,
            marker_color=_SIDES[side][1],
            error_x=theme.error_bars(part, measure) | {"color": theme.DARK, "thickness": 1.2, "width": 3},
            customdata=list(zip(*known, strict=True)),
            hovertemplate="%{customdata[0]}: %{customdata[1]}<br>unsteered probability %{customdata[2]}<extra></extra>",
            **place,
        )
        longest = float(some[["value", f"{measure}_low", f"{measure}_high", "control"]].abs().max().max())
        is_last = number >= len(places) - 2
        title = words.with_unit(name, unit) if is_last else None
        fig.update_xaxes(title_text=title, title_font_size=13, range=[0, 1.04 * sign * longest], nticks=5, **place)
        named = theme.ticks(part["rank"], [words.cut(token, _LONGEST) for token in part["token"]])
        bare = {"range": [n_ranks + 0.6, 0.4], "ticks": "", "showgrid": False}
        fig.update_yaxes(tickfont={"family": theme.MONOSPACE, "size": 12}, **named, **bare, **place)
    return fig


def _grid(rows: pd.DataFrame, table: pd.DataFrame) -> go.Figure:
    """Two grids of tokens, layers by ranks."""
    token = rows["token"].astype(object).map(short)
    name, unit = _UNITS[measure := rows["ranked_by"].iloc[0]]
    known = rows["token"].astype(object).map(theme.escape) + ": " + words.estimates(rows, measure, unit)
    beyond = rows["value"].abs() > rows["control"]  # false without controls
    cells = rows.assign(shown=token.where(~beyond, "<b>" + token + "</b>"), hover=known)
    return ranked_grid(
        f"What {rows['vector'].iloc[0]} makes the model say, by layer",
        _subtitle(table, "bold: beyond the largest effect at that layer"),
        cells,
        {side: told for side, (told, _) in _SIDES.items()},
        f"{name},<br>{unit}",
    )


def _subtitle(table: pd.DataFrame, controls_are: str, bars_are: str = "") -> str:
    """How it was read, and below that, what the controls look like if there are any."""
    texts = "own answers to {} prompts" if table["format"].iloc[0] == "own answers" else "both answers of {} pairs"
    read = f"{_READ_AT[table['at'].iloc[0]]} {texts.format(words.counts(table['n']))}"
    read += f"; {bars_are}" if bars_are else ""
    if table["ranked_by"].iloc[0] == "effect":
        read += "; 0 is the average token"
    notes = [read, "␣ is a space"]
    controls = table[table["kind"] != "vector"]
    if len(controls):
        notes[1] += f"; {controls_are} of {words.controls(controls, [*({'behavior'} & set(table))])}"
    return "<br>".join(map(theme.escape, notes))
