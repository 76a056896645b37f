"""Figures of the response to the dose, beside controls: one behavior, or many side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.evaluation.response import item_slopes, steerability
from caa_interp.evaluation.summary import by_series, quantity, summarized
from caa_interp.evaluation.verdicts import verdicts
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import control_bands, dots, line, mark_zero, most_controls, name_once, panels, shape
from caa_interp.plotting.theme import Measure


def plot_dose_response(
    table: pd.DataFrame,
    *,
    layer: int | None = None,
    measure: Measure = "logit_difference",
    pairs: Sequence[ContrastPair] | None = None,
) -> go.Figure:
    """Mean score over the multiplier at one layer, with intervals, beside controls and every single pair.

    Where the table holds multiplier 0 or unsteered rows, the change from these is shown, paired over items.
    Conditions of several interventions, with no single multiplier, are left out.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`. A summary has no single pairs, so that
        their lines, the slopes and the verdicts are missing.
    layer
        Layer to show; needed if the table holds several.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).
    pairs
        The pairs that were scored, in the order of the table's ``item``: hover over a pair's line to read it.

    Returns
    -------
    plotly.graph_objects.Figure
        One line per vector, or per operator and so on where a vector has several, and a thin one for every pair if
        there is one line; the controls of each kind (column ``kind``) are a gray band from the lowest mean to the
        highest. Below the title stands each line's slope with its interval
        (:func:`caa_interp.steerability`) and its verdict (:func:`caa_interp.evaluation.verdicts`).
    """
    summary = _responses(table, measure, "caa_interp.sweep")
    checks.check_one(summary, ["behavior"], "Give the rows of one, or use plot_dose_responses.")
    layer = checks.one_layer(summary["layer"], layer)
    rows = summary[summary["layer"] == layer]
    shown = checks.shown(rows, measure)
    items = _of_items(table)
    items = items[items["layer"] == layer]
    said = _said(items, quantity(rows, "logit_difference")[1])
    notes = [
        f"layer {layer}, mean over {words.counts(rows['n'])} pairs, {words.interval(rows)}",
        *(f"{theme.escape(name)}: slope {slope}; {verdict}" for (_, name), (slope, verdict) in said.items()),
    ]
    fig = theme.figure(
        "Response to the multiplier",
        "<br>".join(notes),
        showlegend=True,
        legend=theme.LEGEND_BELOW,
        height=430 + theme.SUBTITLE_ROW * len(said),
        margin={"t": 78 + theme.SUBTITLE_ROW * len(said)},
    )
    fig.add_traces([*_each_pair(items, measure, shown, pairs), *_traces(rows, measure, shown)])
    fig.update_xaxes(title={"text": theme.MULTIPLIER, "font": {"size": 14}})
    fig.update_yaxes(title={"text": _axis_title(rows, measure, shown), "font": {"size": 14}})
    return fig.update_layout(height=fig.layout.height + theme.LEGEND_ROW * len(fig.data))


def plot_dose_responses(
    table: pd.DataFrame,
    *,
    measure: Measure = "logit_difference",
    effects: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
    pairs: Mapping[str, Sequence[ContrastPair]] | None = None,
) -> go.Figure:
    """Response to the multiplier of every behavior, one panel each on common axes, as in :func:`plot_dose_response`.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.dose_response`, or :func:`caa_interp.summarize` of it.
    measure
        As in :func:`plot_dose_response`.
    effects
        Result of :func:`caa_interp.steerability` of the same table, for the slope and verdict above each panel;
        default: computed here, unless the table is a summary.
    scores
        Result of :func:`caa_interp.dose_response`, for a thin line for every pair; default: none are drawn.
    pairs
        The pairs of each behavior, in the order of the scores' ``item``: hover over a pair's line to read it.
    """
    if pairs is not None and not isinstance(pairs, Mapping):
        raise InputError(f"pairs: {type(pairs).__name__}; give each behavior's by its name, {{name: behavior.test}}.")
    summary = _responses(table, measure, "caa_interp.dose_response", "behavior")
    rows = {str(name): own for name, own in summary.groupby("behavior", sort=False)}
    for own in rows.values():
        checks.check_one(own, ["layer"], "Give the rows of one layer for each behavior.")
    shown = checks.shown(summary, measure)
    said = _said(_of_items(table) if effects is None else effects, "")
    if scores is not None:
        checks.check_table(scores, ("behavior", "kind", "layer", "item"), "caa_interp.dose_response", "scores")
    each = _of_items(summary if scores is None else scores)
    n_rows = shape(len(rows))[0]
    n_entries = len({*summary["kind"]} - {"vector"}) + ("vector" in set(each["kind"]))
    slopes = f"; slope in {quantity(summary, 'logit_difference')[1]} per multiplier" if said else ""
    fig = theme.figure(
        "Response to the multiplier",
        f"mean over {words.counts(summary['n'])} held-out pairs of each behavior, {words.interval(summary)}{slopes}",
        **theme.room(
            180 + 225 * n_rows + theme.LEGEND_ROW * n_entries,
            l=100,
            r=16,
            t=130,
            legend=75 + theme.LEGEND_ROW * n_entries,
        ),
    )
    titles = [_title(name, own, said) for name, own in rows.items()]
    axes: dict[str, Any] = {"x_title": theme.MULTIPLIER, "y_title": _axis_title(summary, measure, shown)}
    axes |= {"shared_xaxes": "all", "shared_yaxes": "all"}
    places = panels(fig, titles, horizontal_spacing=0.02, vertical_spacing=0.3 / n_rows, **axes)
    for place, (behavior, own) in zip(places, rows.items(), strict=True):
        scored = each[(each["behavior"] == behavior) & (each["layer"] == own["layer"].iloc[0])]
        for trace in _each_pair(scored, measure, shown, (pairs or {}).get(behavior)):
            fig.add_trace(trace, **place)
        for trace in _traces(own, measure, shown, summary):
            # A behavior's own vector is named by the panel's title.
            fig.add_trace(trace.update(showlegend=trace.name != theme.escape(behavior)), **place)
    name_once(fig)
    if shown != measure:
        mark_zero(fig)
    return fig


def response_traces(summary: pd.DataFrame) -> dict[int, list[go.Scatter]]:
    """What :func:`plot_dose_response` draws of a summary at each of its layers."""
    measure = "logit_difference"
    rows = _responses(summary, measure, "caa_interp.sweep")
    own = {int(layer): rows[rows["layer"] == layer] for layer in rows["layer"].unique()}
    return {layer: _traces(some, measure, checks.shown(rows, measure)) for layer, some in own.items()}


def _responses(table: pd.DataFrame, measure: str, source: str, *columns: str) -> pd.DataFrame:
    checks.check_table(table, ("kind", *columns), source)
    return _labelled(pd.concat(by_series(summarized(table, measure))))


def _of_items(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of items, as far as they make a slope; none of a summary."""
    series = by_series(table) if "item" in table else []
    return _labelled(pd.concat([rows for rows in series if rows["multiplier"].nunique() > 1] or [table.iloc[:0]]))


def _labelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the name of their series; its behavior and layer stand in the title."""
    return rows.assign(label=checks.series_labels(rows, "behavior", "layer"))


def _said(rows: pd.DataFrame, unit: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Slope and verdict of every series, in words, by its behavior (empty if there is none) and name."""
    if rows.empty:
        return {}
    found = _labelled(verdicts(rows if "slope_low" in rows else steerability(rows)))
    slopes = (f"{one} {unit} per multiplier" if unit else one for one in words.intervals(found, "slope"))
    keys = zip(found.get("behavior", [""] * len(found)), found["label"], strict=True)
    return dict(zip(keys, zip(slopes, found["verdict"], strict=True), strict=True))


def _title(behavior: str, rows: pd.DataFrame, said: Mapping[tuple[str, str], tuple[str, str]]) -> str:
    """Title of a panel: the behavior and its layer; where it has one vector, its verdict and slope."""
    found = [told for (name, _), told in said.items() if name == behavior]
    notes = [f"layer {rows['layer'].iloc[0]:g}"]
    if len(found) == 1:
        slope, verdict = found[0]
        notes = [f"{notes[0]}: {verdict}", slope]
    return "<br>".join([words.label(behavior), *map(theme.small, notes)])


def _each_pair(rows: pd.DataFrame, measure: str, shown: str, pairs: Sequence[ContrastPair] | None) -> list[go.Scatter]:
    """A thin line for every pair of a vector: its score at every multiplier, over its letter orders.

    None where there are several vectors, or nothing that the score's change can be taken from.
    """
    rows = rows[rows["kind"] == "vector"]
    if rows["label"].nunique() != 1 or (shown != measure and not (rows["multiplier"] == 0).any()):
        return []
    orders = ["order"] if "order" in rows else []
    wide = rows.set_index(["item", *orders, "multiplier"])[measure].unstack()
    wide = (wide if shown == measure else wide.sub(wide[0.0], axis=0)).groupby(level="item").mean()
    if pairs is not None and len(check_pairs(pairs)) <= wide.index.max():
        raise InputError(
            f"pairs: {len(pairs)} pairs, but the table has an item {wide.index.max()}. Give all that were scored."
        )
    slope_of = item_slopes(rows).set_index("item")["slope"]
    unit = quantity(rows, "logit_difference")[1]
    points: list[tuple[Any, Any, str]] = []
    for (item, values), slope in zip(wide.iterrows(), words.numbers(slope_of.reindex(wide.index)), strict=True):
        text = f"pair {item}: slope {slope or 'unknown'} {unit} per multiplier"
        if pairs is not None:
            text = "<br>".join([text, *words.pair_text(pairs[int(str(item))])])
        points += [*((x, y, text) for x, y in values.items()), (None, None, "")]
    x, y, texts = zip(*points, strict=True)
    look = {"mode": "lines", "line": {"color": theme.faded(theme.NEUTRAL, 0.45), "width": 0.75}}
    return [dots(x, y, {}, texts, **look, name=f"each of {len(wide)} pairs", showlegend=True)]


def _traces(rows: pd.DataFrame, measure: str, shown: str, among: pd.DataFrame | None = None) -> list[go.Scatter]:
    """A band for the controls of each kind, and a line for each other series, in their looks ``among`` all."""
    among = rows if among is None else among
    own, controls = (rows[(rows["kind"] == "vector") == is_own] for is_own in (True, False))
    most = most_controls(among[among["kind"] != "vector"], [*({"behavior"} & set(among))])
    looks = theme.styles([*among.get("behavior", ()), *among.loc[among["kind"] == "vector", "label"]])
    unit = words.unit(rows, measure)
    bands = control_bands(controls, "multiplier", shown, unit, most)
    series = own.groupby("label", sort=False)
    return bands + [line(own, "multiplier", shown, looks[str(name)], str(name), unit) for name, own in series]


def _axis_title(summary: pd.DataFrame, measure: str, shown: str) -> str:
    change = "change in " if shown != measure else ""
    return change + words.with_unit(*quantity(summary, measure))
