"""A map of layers and multipliers for each behavior, and what the study holds of every cell of it."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from caa_interp.evaluation.response import steerability
from caa_interp.evaluation.summary import shown_column, summarize
from caa_interp.evaluation.verdicts import verdicts
from caa_interp.plotting import theme, words
from caa_interp.plotting.dose_response import plot_dose_response, response_traces
from caa_interp.plotting.grid import dots
from caa_interp.plotting.sweep import plot_sweep
from caa_interp.report.page import Row, Section, Views
from caa_interp.study.findings import findings, intervals, largest, largest_change
from caa_interp.study.results import Results, nearest, shown_answers


def maps(results: Results) -> list[Section]:
    """A map for each behavior; what is beside it follows the cell that is chosen."""
    text = (
        "The vector of every layer is applied after that layer, with every multiplier, and scored on the held-out "
        "pairs: mean changes from the unsteered model on one scale for all maps, blue toward the behavior. The layer "
        "was not chosen on these maps. Click a cell, or use the menus beside it, to see the response at that layer and "
        "everything else that the study measured there; the page's address then leads to it."
    )
    slopes = {name: steerability(table, seed=results.seed) for name, table in results.each("sweep")}
    sections = [Section("Layers and multipliers", text)]
    for behavior, table in results.each("sweep"):
        summary = summarize(table, seed=results.seed)
        finding = largest_change(summary, f" (of {len(summary)} cells)")
        caption = "A dot says that a cell's interval excludes 0. A square marks the chosen cell."
        figure, views = plot_sweep(summary, vector=behavior), _views(results, behavior, summary, slopes[behavior])
        layer, multiplier = views.start
        (cells,) = figure.select_traces({"type": "heatmap"})
        x = [label for label in cells.x if float(label) == float(multiplier)]
        y = [label for label in cells.y if float(label) == float(layer)]
        figure.add_trace(dots(x, y, {"symbol": "square-open", "size": 20, "color": theme.DARK, "line": {"width": 2.5}}))
        shown: dict[str, Any] = {"finding": finding, "data": summary, "views": views, "level": 3, "half": True}
        sections.append(Section(behavior, "", figure, caption=caption, **shown))
    return sections


def one_scale(sections: list[Section]) -> None:
    """Give all maps of a page the scale of the one that reaches farthest."""
    cells = [
        trace for one in sections if one.views and one.figure for trace in one.figure.select_traces({"type": "heatmap"})
    ]
    limit = max((abs(trace.zmax) for trace in cells), default=0)
    for trace in cells:
        trace.update(zmin=-limit, zmax=limit)


def _views(results: Results, behavior: str, summary: pd.DataFrame, slopes: pd.DataFrame) -> Views:
    """The response at every layer, and what is known of each multiplier there."""
    (chosen,) = results.chosen.loc[results.chosen["behavior"] == behavior, "layer"]
    effects = results.tables["effects"].query("behavior == @behavior")
    responses = results.responses.query("behavior == @behavior")
    found = verdicts(pd.concat([slopes[~slopes["layer"].isin(effects["layer"])], effects]))
    said = dict(zip(found["layer"], findings(found), strict=True))
    shown = shown_column(summary, "logit_difference")
    # One axis for all layers, so that they can be compared.
    ends = pd.concat([summary, responses])[[shown, f"{shown}_low", f"{shown}_high"]].stack()
    margin = 0.05 * (ends.max() - ends.min()) or 0.1
    # Controls were measured at the chosen layer alone.
    responses = pd.concat([summary[~summary["layer"].isin(responses["layer"])], responses])
    traces = response_traces(responses)
    known = {multiplier: _at_chosen(results, behavior, multiplier) for multiplier in summary["multiplier"].unique()}
    elsewhere = f"The study holds these at layer {chosen} only, the chosen one."
    heading = "Score, change from unsteered" if shown != "logit_difference" else "Score"
    rows = {}
    for layer in sorted(traces):
        own = summary[summary["layer"] == layer]
        texts = {
            _key(multiplier): [
                (heading, f"{score}, n = {n}"),
                *((name, text if layer == chosen else elsewhere) for name, text in known[multiplier]),
            ]
            for multiplier, score, n in zip(own["multiplier"], intervals(own, shown), own["n"], strict=True)
        }
        rows[_key(layer)] = Row(go.Figure(traces[layer]), said[layer], texts)
    figure = plot_dose_response(responses, layer=int(chosen))
    figure.update_yaxes(range=[ends.min() - margin, ends.max() + margin])
    start = _key(chosen), _key(largest(summary["multiplier"]))
    return Views(("layer", "multiplier"), start, rows, figure)


def _key(number: float) -> str:
    """A layer or multiplier as a tick of its map, with all digits."""
    return str(float(number)).removesuffix(".0")


def _at_chosen(results: Results, behavior: str, multiplier: float) -> list[tuple[str, str]]:
    """Headings with texts of what was measured at the chosen layer, as far as there is something."""
    known = {
        "Steered answers, at the nearest multiplier": _answers(dict(results.each("answers")).get(behavior), multiplier),
        "Costs, at the nearest multiplier, as changes from unsteered": "\n".join(results.price(behavior, multiplier)),
        "Tokens that the vector points to (logit lens)": _tokens(dict(results.each("logit_lens")).get(behavior)),
        "Tokens that it raises and lowers (effect lens)": _tokens(dict(results.each("effect_lens")).get(behavior)),
    }
    return [(name, text) for name, text in known.items() if text]


def _answers(table: pd.DataFrame | None, multiplier: float) -> str:
    """Answers at the nearest multiplier, below those of the unsteered model."""
    if table is None:
        return ""
    at = nearest(table["multiplier"], multiplier)
    table = table.assign(answer=shown_answers(table))
    parts = []
    for _, rows in table.groupby(["item", "sample"]):
        answers = dict(zip(rows["multiplier"], rows["answer"], strict=True))
        named = {words.dose(one): answers[one] for one in (0.0, at) if one in answers}
        parts.append("\n".join([rows["prompt"].iloc[0], *(f"{name}: {answer}" for name, answer in named.items())]))
    return "\n\n".join(parts)


def _tokens(table: pd.DataFrame | None) -> str:
    """The most extreme tokens of each side."""
    if table is None:
        return ""
    own = table[table["kind"] == "vector"] if "kind" in table else table
    sides = own.sort_values("rank").groupby("side", sort=False)["token"].agg(" · ".join)
    return "\n".join(f"{side}: {tokens}" for side, tokens in sides.items())
