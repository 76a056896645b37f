"""Figure of a safety audit: what a vector moves, how it lies to refusal, and what becomes of refusals."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.audit import ITSELF, audit_part, summarize_audit
from caa_interp.evaluation.summary import summarize
from caa_interp.plotting import theme, words
from caa_interp.plotting.grid import Place, control_range, dots, line, marks, name_multipliers, panels, side_by_side

_SHIFT = 0.16  # of a row, by which a vector and what remains of it stand apart
_REQUESTS = {
    "harmless requests": theme.Style(theme.PALETTE[2], "square"),
    "borderline requests": theme.Style(theme.PALETTE[1], "diamond"),
}


def plot_safety_audit(audit: pd.DataFrame, *, seed: int = 0) -> go.Figure:
    """Slopes of all behaviors, cosine with refusal by layer, and refusals over the multiplier, each beside controls.

    Parameters
    ----------
    audit, seed
        Result of :func:`caa_interp.evaluation.safety_audit`; seed of the bootstrap.

    Returns
    -------
    plotly.graph_objects.Figure
        Three panels, and a fourth if answers were written. Points are means with intervals; open ones are of the vector
        without its part along refusal, unless it is the refusal vector itself. Gray is the range of random vectors of
        the same norm, and for cosines that of vectors of shuffled labels; the dotted lines hold 95 % of random
        directions.
    """
    findings, effects = summarize_audit(audit, seed=seed), audit_part(audit, "behaviors")
    answered = "answers" in set(audit["part"])
    name, layer = str(effects["vector"].iloc[0]), int(effects["layer"].iloc[0])
    titles = ["effects and side effects", "cosine with refusal", "openings that refuse"]
    titles += ["answers that refuse"] * answered
    n = words.counts(findings["n"].dropna())
    itself = "this is the refusal vector; " if ITSELF in set(findings["verdict"]) else ""
    interval = words.interval(findings.dropna(subset=["n"]))
    cosines = audit_part(audit, "cosine")
    counted = {"gray": effects[effects["kind"] != "vector"], "cosines": cosines[cosines["kind"] != "vector"]}
    told = "; ".join(f"{what}: {words.controls(rows, ['behavior'])}" for what, rows in counted.items() if len(rows))
    fig = theme.figure(
        f"Safety audit of {name}",
        f"layer {layer}; {itself}n = {n} pairs or requests, {interval}<br>{told}",
        width=880,
        **theme.room(836, l=170, t=120, legend=118),
    )
    places = panels(fig, titles, most=2, horizontal_spacing=0.15, vertical_spacing=0.18)
    slopes = findings[findings["part"] == "behaviors"]
    _draw_effects(fig, slopes, name, words.slope_title(effects), words.slope_unit(effects), places[0])
    _draw_cosines(fig, cosines, layer, places[1])
    requests = summarize(audit_part(audit, "requests"), seed=seed)
    change = "refusing minus complying<br>(change, nats per token)"
    _draw_doses(fig, requests, name, "logit_difference_change", change, places[2])
    if answered:
        shares = summarize(audit_part(audit, "answers"), seed=seed)
        _draw_doses(fig, shares, name, "refused", "share of answers (0 to 1)", places[3])
        fig.update_yaxes(range=[-0.03, 1.03], **places[3])
    return fig


def _draw_effects(fig: go.Figure, rows: pd.DataFrame, name: str, title: str, unit: str, place: Place) -> None:
    """One row per behavior, the vector's own on top."""
    names = sorted(rows["measured"].unique(), key=lambda one: (one == name, one), reverse=True)
    names = names[:1] + names[:0:-1]
    at = {one: -height for height, one in enumerate(names)}
    ranges = rows[rows["vector"] == name].dropna(subset=["control_low"])
    for row in ranges.itertuples():
        middle, gray = at[row.measured], theme.faded(theme.NEUTRAL, 0.3)
        ends = {"x0": row.control_low, "x1": row.control_high, "y0": middle - 0.3, "y1": middle + 0.3}
        fig.add_shape(type="rect", **ends, fillcolor=gray, line={"color": gray, "width": 1}, layer="below", **place)
    fig.add_vline(0, line=theme.NOTHING, **place)
    for shown, symbol, side, label in (
        (name, "circle", _SHIFT, "the vector"),
        (f"{name} without refusal", "circle-open", -_SHIFT, "without its part along refusal"),
    ):
        own = rows[rows["vector"] == shown]
        if own.empty:  # of the refusal vector nothing is left
            continue
        look = {"size": 9, "color": theme.POSITIVE, "symbol": symbol}
        heights = own["measured"].map(at) + side
        named = {"marker": look, "name": label, "showlegend": True}
        fig.add_trace(marks(own, "estimate", heights, "measured", unit, **named), **place)
    fig.update_yaxes(range=[0.6 - len(at), 0.6], **theme.ticks(at.values(), at), **place)
    fig.update_xaxes(title_text=title, nticks=5, **place)


def _draw_cosines(fig: go.Figure, rows: pd.DataFrame, layer: int, place: Place) -> None:
    fig.add_trace(control_range(rows[rows["kind"] != "vector"], "layer", "cosine"), **place)
    own = rows[rows["kind"] == "vector"].sort_values("layer")
    marker = {"size": [10 if one == layer else 6 for one in own["layer"]], "opacity": 1}
    look = {"mode": "lines+markers", "line": {"color": theme.BEHAVIOR_STYLES["refusal"].color}}
    known = zip(own["layer"], words.numbers(own["cosine"]), strict=True)
    hover = [f"layer {at:g}: cosine {cosine}" for at, cosine in known]
    fig.add_trace(dots(own["layer"], own["cosine"], marker, hover, **look), **place)
    for chance in (rows["chance"].iloc[0], -rows["chance"].iloc[0]):
        fig.add_hline(chance, line=theme.CHANCE, **place)
    fig.update_xaxes(title_text=theme.LAYER, **place)
    fig.update_yaxes(title_text="cosine, \N{MINUS SIGN}1 to 1", **place)


def _draw_doses(fig: go.Figure, summary: pd.DataFrame, name: str, mean: str, title: str, place: Place) -> None:
    """A line for each kind of requests over the multiplier, and the range of random vectors."""
    fig.add_trace(control_range(summary[summary["kind"] != "vector"], "multiplier", mean), **place)
    own = summary[summary["vector"] == name]
    multipliers = list(own["multiplier"].unique())
    unit = "share of answers" if mean == "refused" else "nats per token"
    kinds = list(own["behavior"].unique())
    looks = theme.styles(["the vector", *_REQUESTS, *kinds]) | _REQUESTS  # kinds of one's own look unlike all of these
    for shift, kind in zip(side_by_side(multipliers, len(kinds)), kinds, strict=True):
        legend = {"legendgroup": kind, "showlegend": mean != "refused"}
        drawn = line(own[own["behavior"] == kind], "multiplier", mean, looks[kind], kind, unit, shift=shift, **legend)
        fig.add_trace(drawn, **place)
    name_multipliers(fig, multipliers, theme.MULTIPLIER_WRAPPED, **place)
    fig.update_yaxes(title_text=title, zeroline=True, zerolinecolor=theme.NEUTRAL, **place)
