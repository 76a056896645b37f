"""Figure of effect over cost: a line per path, from no steering outwards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.ratings import scale_of
from caa_interp.evaluation.summary import NO_BASELINE, SERIES, UNSTEERED, are_several, by_series, quantity
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import band, dots, key, mark_zero, panels, shape

_COSTS = {
    "divergence": "divergence from unsteered",
    "divergence_tail": "divergence at the worst 5 % of tokens",
    "nats_per_token": "increase in loss on neutral prose",
    "correct": "loss of right answers",
    "coherence": "loss of coherence",
}
_STEPS = 100  # places at which the controls' band is drawn
_WIDEST = 820  # pixels; wider, it could not be read in print
_NEEDED = ("vector", "kind", "multiplier", "effect", "effect_low", "cost", "cost_low", "dominated", "measure")


def plot_frontier(table: pd.DataFrame, *, title: str = "Effect and cost of steering") -> go.Figure:
    """Effect over cost, with intervals of both: one line per path, one panel per behavior.

    The cost has a square-root axis: there a small step goes straight, since its divergence grows with its square.
    Controls are gray, without intervals; the band goes from the lowest effect that one of them has at a cost, in
    either direction, to the highest. A path without multiplier 0 begins at the unsteered row of its baseline; without
    a baseline, at no effect and no cost. What is dominated is hollow, and single points have their names.

    Parameters
    ----------
    table, title
        Result of :func:`caa_interp.evaluation.frontier`, and the figure's title.
    """
    checks.check_table(table, _NEEDED, "caa_interp.evaluation.frontier")
    if "behavior" not in table:
        table = table.assign(behavior="")
    table = _begun(table.reset_index(drop=True))
    steered = table["kind"] == "vector"
    paths = _paths(table[steered | (table["kind"] == UNSTEERED)])
    looks = theme.styles(paths["label"])
    behaviors = list(table["behavior"].unique())
    n_rows, _ = shape(len(behaviors), 2)
    controls = table[~steered & (table["kind"] != UNSTEERED)]
    hollow = "; hollow: another does as much for less" if table["dominated"].any() else ""
    drawn_beside = f"<br>gray: {words.controls(controls, ['behavior'])}, and their range" if len(controls) else ""
    fig = theme.figure(
        title,
        f"mean over n = {words.counts(table['n'])} scored items, cost over n = {words.counts(table['n_cost'])} texts, "
        f"{words.interval(table)}{drawn_beside}{hollow}",
        **theme.room(220 + 330 * n_rows, t=110, legend=110),
        width=None if len(behaviors) == 1 else _WIDEST,
    )
    titles = [theme.escape(name) if len(behaviors) > 1 else "" for name in behaviors]
    places = panels(fig, titles, most=2, vertical_spacing=0.34 / n_rows, horizontal_spacing=0.17)
    for place, behavior in zip(places, behaviors, strict=True):
        rows = table[table["behavior"] == behavior]
        beside = controls[controls["behavior"] == behavior]
        if len(beside):
            fig.add_trace(_reach(beside), **place)
        for _, own in _series(beside):
            fig.add_trace(_path(own, theme.Style(theme.NEUTRAL, "circle"), "", intervals=False), **place)
        for name, own in paths[paths["behavior"] == behavior].groupby("label", sort=False):
            fig.add_trace(_path(own, looks[str(name)], str(name)), **place)
        _name_axes(fig, rows, place)
    for name, look in looks.items():
        if paths.loc[paths["label"] == name, "behavior"].duplicated().any():  # a single point has its name beside it
            fig.add_trace(key(theme.escape(name), {"color": look.color, "symbol": look.symbol, "size": 9}))
    return fig


def _begun(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with the beginning of each path: where multiplier 0 was not measured, the unsteered row, or no effect."""
    several = are_several(table)
    if (several | (table["kind"] == UNSTEERED)).all():
        return table
    origin = dict.fromkeys([f"{name}{end}" for name in ("effect", "cost") for end in ("", "_low", "_high")], 0.0)
    parts = by_series(table)
    for rows in [*parts]:
        baseline = rows["baseline"].iloc[0] if "baseline" in rows else NO_BASELINE
        if rows["multiplier"].all() and (pd.isna(baseline) or baseline == NO_BASELINE):
            parts.append(rows[:1].assign(multiplier=0.0, dominated=False, **origin))
    # What is in no path stands alone: several interventions, and a prompt on which nothing was steered.
    alone = table.drop(pd.concat(parts).index)
    return pd.concat([*parts, alone]).sort_index(kind="stable", ignore_index=True)


def _paths(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the name of their path: its baseline or its vector, and what else tells it from other paths."""
    left_out = ("behavior", "kind", *(("model",) if "baseline" in rows else ()))
    shared = [name for name in SERIES if name in rows and name not in left_out]
    others = [name for name in shared if name not in ("vector", "baseline")]
    label = checks.labels_of(rows, ["vector", *checks.varying(rows[rows["multiplier"] != 0], others, ["vector"])])
    if "baseline" not in rows:
        return rows.assign(label=label)
    baseline = rows["baseline"].fillna(NO_BASELINE)
    is_prompt = ~rows.groupby(shared, dropna=False)["multiplier"].transform("any") & (baseline != NO_BASELINE)
    label = label.where(baseline == NO_BASELINE, baseline + ", with " + label).mask(is_prompt, baseline)
    rows = rows.assign(label=label)
    # A prompt is the same point for every vector that its rows name.
    return rows[~(is_prompt & rows.duplicated(["behavior", "label"]))]


def _path(rows: pd.DataFrame, look: theme.Style, name: str, intervals: bool = True) -> go.Scatter:
    """One path, from its smallest multiplier to its largest, on the square root of the cost."""
    rows = rows.sort_values("multiplier")
    roots = {end: np.sqrt(rows[f"cost{end}"].clip(lower=0)) for end in ("", "_low", "_high")}
    bars = {"color": theme.faded(look.color, 0.5), "width": 0, "thickness": 1.5}
    alone = len(rows) == 1
    labels = [theme.escape(name)] if alone else [words.factor(one) if one else "" for one in rows["multiplier"]]
    across = {"type": "data", "array": roots["_high"] - roots[""], "arrayminus": roots[""] - roots["_low"]}
    shown = {"error_x": {**across, **bars}, "error_y": {**theme.error_bars(rows, "effect"), **bars}}
    measure, unit_of_cost = rows["measure"].iloc[0], rows["cost_unit"].iloc[0]
    unit = "points" if measure == "score" else words.unit(rows, measure)
    texts = [words.estimates(rows, "effect", unit), words.estimates(rows, "cost", unit_of_cost, n="n_cost")]
    points = zip(rows["vector"], rows["multiplier"], strict=True)
    what = [f"{name or vector}, multiplier {words.factor(dose)}" for vector, dose in points]
    if alone and not rows["multiplier"].any():  # a prompt
        what = [name]
    known = zip(map(theme.escape, what), *texts, strict=True)
    hover = [f"{one}<br>effect {effect}<br>cost {cost}" for one, effect, cost in known]
    symbols = [look.symbol + ("-open" if one else "") for one in rows["dominated"]]
    marker = {"size": 9 if intervals else 5, "symbol": symbols, "color": look.color}
    written = {"text": labels, "textposition": "top right", "textfont": {"size": 11, "color": theme.DARK}}
    drawn = dots(roots[""], rows["effect"], marker, hover, name=theme.escape(name), cliponaxis=False, **written)
    drawn.update(mode=("markers" if alone else "lines+markers") + ("+text" if intervals else ""))
    if not intervals:
        return drawn.update(line={"color": theme.faded(look.color, 0.5), "width": 1})
    return drawn.update(line={"color": look.color, "width": 2}, **shown)


def _series(controls: pd.DataFrame) -> Iterable[tuple[Any, pd.DataFrame]]:
    """Rows of each control."""
    return controls.groupby([name for name in SERIES if name in controls], sort=False, dropna=False)


def _reach(controls: pd.DataFrame) -> go.Scatter:
    """Band of what controls reach at each cost, on both sides of 0, straight between their multipliers."""
    controls = controls.assign(root=np.sqrt(controls["cost"].clip(lower=0)))
    at, found = np.linspace(0, controls["root"].max(), _STEPS), []
    for _, own in _series(controls):
        for side in (own[own["multiplier"] > 0], own[own["multiplier"] < 0]):
            points = side.sort_values("root")
            x, y = (np.append(0.0, points[name]) for name in ("root", "effect"))
            found.append(np.interp(at, x, y, right=np.nan))
    return band(at, np.nanmin(found, axis=0), np.nanmax(found, axis=0), theme.faded(theme.NEUTRAL, 0.2))


def _name_axes(fig: go.Figure, rows: pd.DataFrame, place: dict[str, int]) -> None:
    """Titles and ticks; the cost's ticks are at 1 and 3 times powers of ten."""
    measure, cost = rows["measure"].iloc[0], rows["cost_measure"].iloc[0]
    name, unit = ("judged score", f"0 to {scale_of(rows)}") if measure == "score" else quantity(rows, measure)
    largest = max(float(np.nanmax(rows[["cost", "cost_high"]].to_numpy())), 1e-6)
    top = math.floor(math.log10(largest))
    ticks = [0.0, *(one * 10.0**power for power in range(top - 2, top + 1) for one in (1, 3))]
    shown = [tick for tick in ticks if tick <= largest and (tick == 0 or tick >= largest / 30)]
    unit_of_cost = f"{rows['cost_unit'].iloc[0]}, square-root axis"
    fig.update_xaxes(
        title_text=words.with_unit(_COSTS[cost], f"KL, {unit_of_cost}" if cost.startswith("div") else unit_of_cost),
        tickvals=np.sqrt(shown),
        ticktext=[f"{tick:g}" for tick in shown],
        range=[-0.03 * math.sqrt(largest), 1.06 * math.sqrt(largest)],
        **place,
    )
    fig.update_yaxes(title_text=f"change in {words.with_unit(name, unit)}", **place)
    mark_zero(fig)
