"""Sections of a study's page on what steering does: made from the tables of one model.

Each function takes the model's results and the level of the sections' headings, 2 or 3; behaviors are one below.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from caa_interp.evaluation.summary import COSTS, steerability, summarize
from caa_interp.plotting.cost import plot_cost
from caa_interp.plotting.dose_response import plot_dose_responses
from caa_interp.plotting.layer_choice import plot_layer_choice
from caa_interp.plotting.side_effects import plot_side_effects
from caa_interp.plotting.sweep import plot_sweep
from caa_interp.report.page import Section
from caa_interp.study.findings import estimate
from caa_interp.study.page_results import Results, row_where

_COST_NAMES = {
    "nats_per_token": "surprise at prose (nats per token)",
    "divergence": "divergence from unsteered (KL, nats per token)",
    "correct": "share of right answers",
}


def response(results: Results, level: int) -> list[Section]:
    """Response to the multiplier beside controls, all behaviors in one figure."""
    return [
        Section(
            "Response to the multiplier",
            "Each behavior's vector is added at its chosen layer, from the last token of the prompt on. A response "
            "that is the vector's own leaves the gray bands and has opposite signs on the two sides of 0.",
            plot_dose_responses(results.tables["dose_response"]),
            caption="Change from the unsteered model, paired over pairs. Upright bars are bootstrap intervals over "
            "pairs, each for its own multiplier; a gray band goes from the lowest mean of a kind of control to the "
            "highest.",
            level=level,
        )
    ]


def sweeps(results: Results, level: int) -> list[Section]:
    """A map of layers and multipliers for each behavior."""
    text = (
        "The vector of every layer is added after that layer, with every multiplier, and scored on the held-out "
        "pairs. The layer was not chosen on these maps."
    )
    caption = (
        "Mean change from the unsteered model, whose own mean is given as unsteered; blue is towards the behavior. A "
        "map shows no intervals: those of the chosen layer, {layer}, are in the figure before."
    )
    return [Section("Layers and multipliers", text, level=level)] + [
        Section(
            behavior,
            "",
            plot_sweep(summarize(results.of("sweep", behavior)), vector=behavior),
            caption=caption.format(layer=layer),
            level=level + 1,
            half=True,
        )
        for behavior, layer in results.chosen.items()
    ]


def layer_choice(results: Results, level: int) -> list[Section]:
    """Slopes by layer on validation pairs, and whether they hold on held-out pairs."""
    swept = results.tables["sweep"]
    # Slopes over other doses are other slopes.
    same = swept["multiplier"].isin(results.tables["validation"]["multiplier"].unique())
    validation, held_out = steerability(results.tables["validation"]), steerability(swept[same])
    rows = []
    for behavior, layer in results.chosen.items():
        own = [table[table["behavior"] == behavior] for table in (validation, held_out)]
        at = [row_where(one, "layer", layer) for one in own]
        rows.append(
            {
                "behavior": behavior,
                "chosen layer": layer,
                **{
                    f"slope on {pairs} pairs (95 % interval)": estimate(row, "slope")
                    for pairs, row in zip(("validation", "held-out"), at, strict=True)
                },
                "steepest layer of held-out pairs": int(own[1]["layer"].iloc[own[1]["slope"].argmax()]),
            }
        )
    return [
        Section(
            "How the layer was chosen",
            "For each behavior, the layer with the steepest mean response between the outermost multipliers on "
            "validation pairs: train pairs that made no vector. Where it is the steepest by chance, its slope is "
            "smaller on the held-out pairs, here over the same multipliers.",
            plot_layer_choice(validation, held_out, results.chosen),
            pd.DataFrame(rows),
            caption="Intervals are bootstrap intervals over pairs.",
            level=level,
        )
    ]


def answers(results: Results, level: int) -> list[Section]:
    """Steered and unsteered answers side by side, a table for each behavior."""
    sections = []
    for behavior, layer in results.chosen.items():
        table = results.of("answers", behavior)
        if table.empty:
            continue
        # An answer that was cut is told from one that the model ended itself.
        cut = table["finished"].map({True: "", False: " […]"})
        table = table.assign(answer=table["answer"].str.strip() + cut)
        steered = sorted(table["multiplier"].unique())
        wide = table.pivot(index=["item", "sample", "prompt"], columns="multiplier", values="answer").reset_index(
            "prompt"
        )
        shown = [f"multiplier {_factor(multiplier)}" if multiplier else "unsteered" for multiplier in steered]
        wide.columns = pd.Index(["prompt", *shown])
        sections.append(Section(behavior, f"At layer {layer}.", table=wide, level=level + 1))
    text = (
        "Answers to the behavior's open-ended questions, the first ones. Nothing was selected. […] marks an "
        "answer that was cut at the study's greatest length."
    )
    return [Section("Steered answers", text, level=level), *sections]


def costs(results: Results, level: int) -> list[Section]:
    """What steering costs: a table of all behaviors, and a figure for each layer that was chosen."""
    names = [name for name in ("perplexity", "divergence", "capability") if name in results.tables]
    summaries = {
        (name, behavior): summarize(found)
        for name in names
        for behavior in results.chosen
        if len(found := results.of(name, behavior))
    }
    if not summaries:
        return []
    rows, sections = [], []
    for behavior, layer in results.chosen.items():
        own = [summary for (_, name), summary in summaries.items() if name == behavior]
        if not own:
            continue
        multipliers = own[0].loc[own[0]["multiplier"] != 0, "multiplier"]
        for multiplier in sorted({multipliers.min(), multipliers.max()}):
            row = {"behavior": behavior, "layer": layer, "multiplier": _factor(multiplier)}
            for summary in own:
                at = row_where(summary, "multiplier", multiplier)
                row |= {_COST_NAMES[name]: _cost(at, name) for name in COSTS if name in at}
            rows.append(row)
    at_layer: dict[int, list[str]] = {}
    for behavior, layer in results.chosen.items():
        at_layer.setdefault(layer, []).append(behavior)
    for layer, behaviors in sorted(at_layer.items()):
        drawn = [
            pd.concat(summaries[name, behavior] for behavior in behaviors if (name, behavior) in summaries)
            for name in names
            if any((name, behavior) in summaries for behavior in behaviors)
        ]
        if drawn:
            sections.append(
                Section(
                    f"Layer {layer}",
                    "",
                    plot_cost(*drawn),
                    caption=f"{', '.join(behaviors)}. Upright bars are bootstrap intervals over items: passages, "
                    "prompts and questions.",
                    level=level + 1,
                )
            )
    text = (
        "What else changes when the vector is added at the chosen layer: how surprising the model finds neutral "
        "prose, how far its words move from those that it would have answered unsteered, and how many two-option "
        "questions it answers right. The table shows the outermost multipliers, as changes from unsteered, with "
        "95 % intervals."
    )
    return [Section("What steering costs", text, table=pd.DataFrame(rows).fillna(""), level=level), *sections]


def side_effects(results: Results, level: int) -> list[Section]:
    """Every behavior under every vector."""
    fig = plot_side_effects(results.tables["side_effects"])
    return [
        Section(
            "Side effects",
            "Each behavior's vector steers, and every behavior is measured. Off the diagonal a vector moves what it "
            "was not made for.",
            fig,
            caption="Mean slope over held-out pairs of the measured behavior, each vector at its own chosen layer. "
            "Intervals are bootstrap intervals over pairs, each cell by itself.",
            level=level,
        )
    ]


def _factor(multiplier: float) -> str:
    return f"{multiplier:+g}".replace("-", "\N{MINUS SIGN}")


def _cost(row: Mapping[str, float], name: str) -> str:
    # A divergence is a change from the unsteered model by itself.
    return estimate(row, name if name == "divergence" or f"{name}_change" not in row else f"{name}_change")
