"""Figures of logit lenses: grids with a token in every cell."""

from __future__ import annotations

from typing import Literal, get_args

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import shape
from caa_interp.plotting.token_grid import cell_width, ranked_grid, short, token_grids

Side = Literal["both", "promoted", "suppressed"]
Measure = Literal["probability", "logit"]
_CONDITION = ("vector", "steered_layer", "operator", "positions")
_OUTLINE = theme.NEGATIVE
_COMPONENTS = {
    "attention output": "attention<br>output",
    "mid residual": "mid<br>residual",
    "MLP output": "MLP<br>output",
    "block output": "block<br>output",
}
_UNITS = {"probability": "probability of<br>the token shown", "logit": "logit, from the<br>vocabulary's mean"}


def plot_logit_lens(table: pd.DataFrame, *, side: Side = "both") -> go.Figure:
    """Grid of the tokens that a vector promotes and suppresses: layers as rows, ranks as columns.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.logit_lens`.
    side
        ``"both"`` (default), ``"promoted"`` or ``"suppressed"``.

    Returns
    -------
    plotly.graph_objects.Figure
        Cells are colored by the logit, centered on the vocabulary's mean. Tokens longer than ten letters are cut, and
        whole in the hover text.
    """
    checks.check_table(table, ("vector", "layer", "side", "rank", "token", "logit", "n_pairs"), "caa_interp.logit_lens")
    checks.check_choice("side", side, get_args(Side))
    sides = ("promoted", "suppressed") if side == "both" else (side,)
    for name in sides:
        if name not in set(table["side"]):
            raise InputError(f"side: the table holds no {name!r} tokens; give the result of caa_interp.logit_lens.")
    rows = table[table["side"].isin(sides)]
    checks.check_once(rows, ["layer", "side", "rank"], "caa_interp.logit_lens")
    cells = rows.rename(columns={"logit": "value"})
    known = rows["token"].astype(object).map(theme.escape) + ": " + words.numbers(rows["logit"], "+.2f")
    cells = cells.assign(shown=rows["token"].map(short), hover=known)
    n_pairs = table["n_pairs"].iloc[0]
    return ranked_grid(
        f"{table['vector'].iloc[0]} as tokens",
        f"{'' if pd.isna(n_pairs) else f'vector of {n_pairs} pairs, '}through final norm and unembedding (length "
        "removed); ␣ is a space",
        cells,
        {name: f"{name} tokens" for name in sides},
        _UNITS["logit"],
    )


def plot_steered_lens(table: pd.DataFrame, *, measure: Measure = "probability") -> go.Figure:
    """Grids of the most likely token at every state in the model, one grid per multiplier.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.steered_lens`, with one condition per multiplier.
    measure
        What colors the cells: ``"probability"`` (0 to 1, default) or ``"logit"`` (from the vocabulary's mean).

    Returns
    -------
    plotly.graph_objects.Figure
        Where the table holds multiplier 0, tokens that differ from the unsteered model's are bold. The cell of the
        state to which the vector is added is outlined. The hover text lists all ranks of the table.
    """
    key = ["multiplier", "layer", "component"]
    columns = (*key, *_CONDITION, "rank", "token", "logit", "probability", "read_at")
    checks.check_table(table, columns, "caa_interp.steered_lens")
    checks.check_choice("measure", measure, _UNITS)
    for _, rows in table.groupby("multiplier"):  # each has a grid of its own
        checks.check_one(rows, _CONDITION)
    checks.check_once(table, [*key, "rank"], "caa_interp.steered_lens")
    ordered = table.sort_values("rank")
    ordered["line"] = ordered["token"].astype(object).map(theme.escape) + ordered["probability"].map(
        "  p = {:.3f}".format
    )
    cells = ordered.groupby(key).agg(token=("token", "first"), value=(measure, "first"), hover=("line", "<br>".join))
    cells = cells.reset_index()
    unsteered = cells.loc[cells["multiplier"] == 0, ["layer", "component", "token"]]
    cells = cells.merge(unsteered.rename(columns={"token": "unsteered"}), how="left", on=["layer", "component"])
    changed = cells["unsteered"].notna() & (cells["token"] != cells["unsteered"])
    plain = cells["token"].astype(object).map(short)
    cells["shown"] = plain.where(~changed, "<b>" + plain + "</b>")
    multipliers, layers = sorted(cells["multiplier"].unique()), sorted(cells["layer"].unique())
    components = {name: label for name, label in _COMPONENTS.items() if name in set(cells["component"])}
    highest = 1.0 if measure == "probability" else float(cells["value"].max()) or 1.0
    fig = token_grids(
        "",
        "",
        {words.dose(m): cells[cells["multiplier"] == m] for m in multipliers},
        ("component", components),
        theme.color_axis(theme.SEQUENTIAL, 0, highest, _UNITS[measure]),
        cell=max(cell_width(cells["token"]), 70),
    )
    n_columns = shape(len(multipliers), len({one.domain for one in fig.select_xaxes()}))[1]
    for number, multiplier in enumerate(multipliers):
        place = {"row": number // n_columns + 1, "col": number % n_columns + 1}
        steered_layer = table.loc[table["multiplier"] == multiplier, "steered_layer"].iloc[0]
        if multiplier and steered_layer in layers and "block output" in components:
            x, y = list(components).index("block output"), layers.index(steered_layer)
            edges = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.45, "y1": y + 0.45}
            fig.add_shape(type="rect", line={"color": _OUTLINE, "width": 2.5}, **place, **edges)
    read_at = f'at the token "{theme.escape(table["read_at"].iloc[0])}" '
    notes = ["␣ is a space"]
    notes += ["bold: differs from unsteered"] if changed.any() else []
    notes += ["outlined: where the vector is added"] if fig.layout.shapes else []
    notes += [] if "mid residual" in components else ["no mid residual: attention and MLP are parallel"]
    steered = table[table["multiplier"] != 0] if any(multipliers) else table
    title = f"{steered['vector'].iloc[0]}: inside the steered model"
    subtitle = f"states {read_at}through final norm and unembedding<br>{'; '.join(notes)}"
    return theme.entitled(fig, title, subtitle)
