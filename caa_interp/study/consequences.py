"""Sections of a study's page on what steering does besides: what it costs, and to what else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from caa_interp import plotting
from caa_interp.evaluation.frontier import at_equal_cost, frontier
from caa_interp.evaluation.response import steerability
from caa_interp.evaluation.summary import DISTANCES, quantity
from caa_interp.plotting.words import factor
from caa_interp.report.page import Section
from caa_interp.study import findings as words
from caa_interp.study.results import ON_THE_PLANE, Results, common_cost
from caa_interp.study.sections import headed


def costs(results: Results) -> list[Section]:
    """What steering costs: a table of all behaviors, and a figure for each layer that was chosen."""
    if results.costs.empty:
        return []
    table = results.costs
    by_behavior = table.groupby("behavior")["multiplier"]
    table = table[table["multiplier"].isin([*by_behavior.min(), *by_behavior.max()])]
    table = table.assign(multiplier=[factor(one, "+g") for one in table["multiplier"]])
    text = (
        "What else changes when the vector is applied at the chosen layer: how likely the model finds neutral prose, "
        "how far its distributions move from the unsteered ones, on prose and on the answers that it would have given "
        "unsteered, there also at the worst 5 % of tokens, and how many two-option questions it answers right. The "
        "table shows the outermost multipliers, as changes from unsteered, with 95 % intervals."
    )
    sections = [Section("What steering costs", text, table=table, data=table)]
    for layer, rows in results.chosen.groupby("layer"):
        parts = [part for one in results.cost_summaries.values() if len(part := one[one["layer"] == layer])]
        # A behavior without open-ended questions has no divergence on its answers; that on prose is another quantity.
        parts = [
            part.drop(columns=[*DISTANCES], errors="ignore") if "nats_per_token" in part else part for part in parts
        ]
        if parts:
            shown: dict[str, Any] = {"finding": words.cost_range(parts), "data": pd.concat(parts), "level": 3}
            caption = (
                f"{', '.join(rows['behavior'])}. Upright bars are bootstrap intervals over items. Gray: what controls "
                "of the same norm cost, as far as they were measured."
            )
            sections.append(Section(f"Layer {layer}", "", plotting.plot_cost(*parts), caption=caption, **shown))
    return sections


def frontiers(results: Results) -> list[Section]:
    """Effect over cost, a panel for each behavior, and the effects at the same cost."""
    if "divergence" not in results.tables:
        return []
    effects, costs = (results.tables[name] for name in ("dose_response", "divergence"))
    table = frontier(effects, costs, seed=results.seed)
    text = (
        "The effect on held-out pairs over the distance from the unsteered model's own answers. A longer vector or a "
        "larger multiplier moves along its line; what counts is how high the line goes for what it costs. A random "
        "vector pays as well: small steps in random directions move the score a little to either side, and not at all "
        "on average. Near a cost of 1 the model breaks. There controls move the score, too, so what a vector does "
        "within the gray band says nothing about the behavior."
    )
    cost = common_cost(table[table["kind"] == "vector"])
    finding, equal = _at_equal_cost(effects, costs, cost, results.seed) if cost > 0 else ("", [])
    caption = f"{ON_THE_PLANE} The gray band goes from the lowest to the highest mean effect of a control at each cost."
    options: dict[str, Any] = {"caption": caption, "finding": finding, "data": table}
    return [Section("Effect and cost", text, plotting.plot_frontier(table), **options), *equal]


def _at_equal_cost(effects: pd.DataFrame, costs: pd.DataFrame, cost: float, seed: int) -> tuple[str, list[Section]]:
    """The largest effect at one cost in a sentence, and every vector's in a table; nothing if no vector reaches it."""
    found = at_equal_cost(effects, costs, cost=cost, seed=seed)
    found = found[found["reached"]]
    beside = found[found["kind"] != "vector"]
    own = found[(found["kind"] == "vector") & (found["side"] == "positive")]
    if own.empty:
        return "", []
    about = (
        f"The effect where each vector costs {cost:.2g} nats per token, nearly the largest cost that all of them "
        "reach, interpolated between the multipliers that were measured; and the lowest and the highest effect of a "
        "control at that cost, with either sign of the multiplier."
    )
    unit = quantity(own, "logit_difference")[1]
    shown = own[["behavior", "layer"]].assign(
        multiplier=[f"{one:.2g}" for one in own["multiplier"]],
        **{f"effect ({unit}, 95 % interval)": words.intervals(own, "effect")},
        **{"controls, in both directions": [words.reached(beside, one) for one in own["behavior"]]},
    )
    return words.largest_effect(own, beside, f"{cost:.2g}"), [
        Section("At equal cost", about, table=shown, data=found, level=3)
    ]


def interference(results: Results) -> list[Section]:
    """Every behavior under its vector beside each other one."""
    if "interference" not in results.tables:
        return []
    text = (
        "Two vectors at once, scaled until together they move the model as far as one did alone. Vectors that do not "
        "disturb each other each keep about 71 % (1/√2) of the effect alone; less is interference, more is help."
    )
    caption = (
        "Mean change over held-out pairs, with bootstrap intervals over pairs, each cell by itself; the table shows "
        "how much of the effect alone is kept, in percent, with the interval of that ratio."
    )
    summary = results.interference
    shown: dict[str, Any] = {"finding": words.kept_beside(summary), "data": summary, "caption": caption}
    kept, right = words.kept_table(summary), words.right_table(summary)
    sections = [Section("Two vectors at once", text, plotting.plot_interference(summary), kept, **shown)]
    if len(right):
        about = (
            "Questions that have a right answer, under each vector alone and under every two. The interval of a share "
            "is Wilson's, and that of its change is for paired shares."
        )
        sections.append(Section("What two vectors do to right answers", about, table=right, data=right, level=3))
    return sections


def side_effects(results: Results) -> list[Section]:
    """Every behavior under every vector."""
    if "side_effects" not in results.tables:
        return []
    text = (
        "Each behavior's vector steers, and every behavior is measured. Off the diagonal a vector moves what it was "
        "not made for."
    )
    caption = (
        "Mean slope over held-out pairs of the measured behavior, each vector at its own chosen layer. Intervals are "
        "bootstrap intervals over pairs, each cell by itself."
    )
    slopes = steerability(results.tables["side_effects"], seed=results.seed)
    shown: dict[str, Any] = {"finding": words.side_effect(slopes), "data": slopes}
    return [Section("Side effects", text, plotting.plot_side_effects(slopes), caption=caption, **shown)]


def safety_audits(results: Results) -> list[Section]:
    """What each vector has to do with refusal, a figure for each behavior."""
    text = (
        "Each vector beside the refusal vector: its effects with and without its part along refusal, their cosine by "
        "layer, and how much likelier replies to harmless and borderline requests begin with a refusal. No request is "
        "harmful, so this does not show whether a model becomes unsafe."
    )
    caption = "Intervals are bootstrap intervals over pairs or requests, each by itself; those of answers are Wilson's."
    audits = []
    for behavior, table in results.each("safety_audit"):
        shown: dict[str, Any] = {"finding": words.audited(behavior, results.audits[behavior]), "data": table}
        figure = plotting.plot_safety_audit(table, seed=results.seed)
        audits.append(Section(behavior, "", figure, caption=caption, level=3, **shown))
    return headed("Safety audit", text, audits)


def conversations(results: Results) -> list[Section]:
    """What is left of steering in later turns, a figure for each behavior."""
    text = (
        "Conversations of held-out pairs, in which the model's own answers stay. If turn 1 alone is steered, what it "
        "said lasts in the text; what lasts in the cache is gone once that text is read again."
    )
    sections = []
    for behavior, summary in results.conversations.items():
        reach = ((summary["change_high"] - summary["change_low"]) / 2).median()
        caption = "Changes from the unsteered conversation. " + (
            "One conversation gives no interval."
            if np.isnan(reach)
            else "Intervals are bootstrap intervals over conversations; few conversations make them wide: with n = "
            f"{summary['n'].max()}, half of them reach {reach:.2g} nats per token or more to each side."
        )
        shown: dict[str, Any] = {"finding": words.lasting(behavior, summary), "data": summary}
        sections.append(Section(behavior, "", plotting.plot_persistence(summary), caption=caption, level=3, **shown))
    return headed("Over the turns of a conversation", text, sections)
