"""Figures of logit lenses: grids with a token in every cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.plotting import theme
from caa_interp.plotting.grid import panels

Side = Literal["both", "promoted", "suppressed"]
Measure = Literal["probability", "logit"]
_OUTLINE = theme.NEGATIVE
_LONGEST = 10  # letters of a token that a cell shows
_SUBTITLE_LINE = "</sup><br><sup style='color:#52606d'>"
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
        Cells are colored by the logit, centered on the vocabulary's mean. Tokens longer than ten letters end in an
        ellipsis and are whole in the hover text.
    """
    theme.check_table(table, ("vector", "layer", "side", "rank", "token", "logit", "n_pairs"), "caa_interp.logit_lens")
    theme.check_choice("side", side, get_args(Side))
    sides = ("promoted", "suppressed") if side == "both" else (side,)
    for name in sides:
        if name not in set(table["side"]):
            raise InputError(f"side: the table holds no {name!r} tokens; give the result of caa_interp.logit_lens.")
    rows = table[table["side"].isin(sides)]
    theme.check_once(rows, ["layer", "side", "rank"], "caa_interp.logit_lens")
    rows = rows.assign(shown=rows["token"].map(_short), hover=rows["token"].map(theme.escape))
    limit = float(rows["logit"].abs().max()) or 1.0
    layers, ranks = sorted(rows["layer"].unique()), sorted(rows["rank"].unique())
    fig = _panels([f"{name} tokens" for name in sides])
    for column, name in enumerate(sides, start=1):
        _add_cells(
            fig,
            column,
            rows[rows["side"] == name],
            ("rank", "logit"),
            dict(zip(ranks, map(str, ranks), strict=True)),
            layers,
            (-limit, limit),
            f"layer %{{y}}, {name}, rank %{{x}}<br>%{{customdata}}: %{{z:+.2f}}<extra></extra>",
        )
    n_pairs = table["n_pairs"].iloc[0]
    return _grid(
        fig,
        f"{_name(table)} as tokens",
        f"{'' if pd.isna(n_pairs) else f'vector of {n_pairs} pairs, '}through final norm and unembedding (length "
        "removed); ␣ is a space",
        n_layers=len(layers),
        n_columns=len(ranks),
        cell=_cell_width(rows["token"]),
        coloraxis={
            "colorscale": theme.DIVERGING,
            "cmin": -limit,
            "cmax": limit,
            "colorbar": theme.scale_bar(_UNITS["logit"]),
        },
    ).update_xaxes(title_text="rank")


def plot_steered_lens(table: pd.DataFrame, *, measure: Measure = "probability") -> go.Figure:
    """Grids of the most likely token of every state inside the model, one grid a multiplier.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.steered_lens`.
    measure
        What colors the cells: ``"probability"`` (0 to 1, default) or ``"logit"`` (from the vocabulary's mean).

    Returns
    -------
    plotly.graph_objects.Figure
        Where the table holds multiplier 0, tokens that differ from the unsteered model's are bold. The cell at
        whose state the vector is added is outlined. The hover text lists all ranks of the table.
    """
    key = ["multiplier", "layer", "component"]
    columns = (*key, "vector", "steered_layer", "rank", "token", "logit", "probability", "read_at")
    theme.check_table(table, columns, "caa_interp.steered_lens")
    theme.check_choice("measure", measure, _UNITS)
    theme.check_once(table, [*key, "rank"], "caa_interp.steered_lens")
    ordered = table.sort_values("rank")
    ordered = ordered.assign(
        line=ordered["token"].map(theme.escape) + ordered["probability"].map("  p = {:.3f}".format)
    )
    cells = ordered.groupby(key).agg(token=("token", "first"), value=(measure, "first"), hover=("line", "<br>".join))
    cells = cells.reset_index()
    unsteered = cells.loc[cells["multiplier"] == 0, ["layer", "component", "token"]]
    cells = cells.merge(unsteered.rename(columns={"token": "unsteered"}), how="left", on=["layer", "component"])
    changed = cells["unsteered"].notna() & (cells["token"] != cells["unsteered"])
    plain = cells["token"].map(_short)
    cells["shown"] = plain.where(~changed, "<b>" + plain + "</b>")
    multipliers, layers = sorted(cells["multiplier"].unique()), sorted(cells["layer"].unique())
    components = {name: label for name, label in _COMPONENTS.items() if name in set(cells["component"])}
    limits = (0.0, 1.0 if measure == "probability" else float(cells["value"].max()) or 1.0)
    fig = _panels([f"multiplier {m:g}" if m else "unsteered" for m in multipliers])
    for column, multiplier in enumerate(multipliers, start=1):
        _add_cells(
            fig,
            column,
            cells[cells["multiplier"] == multiplier],
            ("component", "value"),
            components,
            layers,
            limits,
            f"multiplier {multiplier:g}, layer %{{y}}, %{{x}}<br>%{{customdata}}<extra></extra>",
        )
        steered_layer = table.loc[table["multiplier"] == multiplier, "steered_layer"].iloc[0]
        if multiplier and steered_layer in layers and "block output" in components:
            _outline(fig, column, list(components).index("block output"), layers.index(steered_layer))
    read_at = f"at the token {theme.escape(table['read_at'].iloc[0])} "
    notes = ["␣ is a space"]
    notes += ["bold: not the unsteered token"] if changed.any() else []
    notes += ["outlined: where the vector is added"] if fig.layout.shapes else []
    notes += [] if "mid residual" in components else ["no mid residual: attention and MLP are parallel"]
    return _grid(
        fig,
        f"{_name(table[table['multiplier'] != 0] if any(multipliers) else table)}: inside the steered model",
        f"states {read_at}through final norm and unembedding" + _SUBTITLE_LINE + "; ".join(notes),
        n_layers=len(layers),
        n_columns=len(components),
        cell=max(_cell_width(cells["token"]), 70),
        coloraxis={
            "colorscale": theme.SEQUENTIAL,
            "cmin": 0,
            "cmax": limits[1],
            "colorbar": theme.scale_bar(_UNITS[measure]),
        },
    )


def _panels(titles: list[str]) -> go.Figure:
    fig = theme.figure("")
    panels(fig, titles, most=len(titles), shared_yaxes=True, horizontal_spacing=0.02)
    return fig


def _add_cells(
    fig: go.Figure,
    column: int,
    rows: pd.DataFrame,
    names: tuple[str, str],
    x: Mapping[Any, str],
    layers: list[int],
    limits: tuple[float, float],
    hovertemplate: str,
) -> None:
    """One panel: colors, and the tokens over them; ``names`` are those of the column on the x axis and of the value.

    The text is a trace of its own because a heatmap's own is too faint on colors of middle lightness: it is white
    where white has more contrast, which is later on orange than on blue.
    """
    across, value = names
    z, shown, hover = (
        rows.pivot(index="layer", columns=across, values=name).reindex(index=layers, columns=list(x))
        for name in (value, "shown", "hover")
    )
    fig.add_heatmap(
        z=z.to_numpy(),
        x=list(x.values()),
        y=[str(layer) for layer in layers],
        customdata=hover.fillna(""),
        coloraxis="coloraxis",
        hovertemplate=hovertemplate,
        xgap=1,
        ygap=1,
        row=1,
        col=column,
    )
    share = z.to_numpy().ravel() / max(map(abs, limits))
    fig.add_scatter(
        x=list(x.values()) * len(layers),
        y=[str(layer) for layer in layers for _ in x],
        text=shown.fillna("").to_numpy().ravel(),
        mode="text",
        textfont={"family": theme.MONOSPACE, "size": 11, "color": theme.letter_colors(share)},
        hoverinfo="skip",
        showlegend=False,
        row=1,
        col=column,
    )


def _outline(fig: go.Figure, column: int, x: int, y: int) -> None:
    edges = {"x0": x - 0.48, "x1": x + 0.48, "y0": y - 0.45, "y1": y + 0.45}
    fig.add_shape(type="rect", line={"color": _OUTLINE, "width": 2.5}, row=1, col=column, **edges)


def _grid(
    fig: go.Figure,
    title: str,
    subtitle: str,
    *,
    n_layers: int,
    n_columns: int,
    cell: int,
    coloraxis: dict[str, object],
) -> go.Figure:
    """Titles, axes and size of panels of ``n_layers`` times ``n_columns`` cells that are ``cell`` pixels wide."""
    fig.update_layout(
        theme.figure(title, subtitle).layout,
        coloraxis=coloraxis,
        width=max(760, len(fig.layout.annotations) * n_columns * cell + 200),
        height=max(360, 170 + 23 * n_layers),
        margin={"t": 104, "b": 66},
    )
    fig.update_annotations(font_size=14)
    fig.update_xaxes(type="category", range=[-0.5, n_columns - 0.5], ticks="", showline=False, showgrid=False)
    fig.update_yaxes(
        type="category",
        range=[-0.5, n_layers - 0.5],
        ticks="",
        showline=False,
        showgrid=False,
        ticklabelstandoff=5,
    )
    fig.update_yaxes(title_text=theme.LAYER, col=1)
    return fig


def _name(table: pd.DataFrame) -> str:
    return theme.escape(table["vector"].iloc[0])


def _cell_width(tokens: pd.Series[str]) -> int:
    """Pixels that the longest shown token takes."""
    return 8 + 7 * max(5, min(_LONGEST, int(tokens.str.len().max())))


def _short(token: str) -> str:
    return theme.escape(theme.cut(token, _LONGEST))
