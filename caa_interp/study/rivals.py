"""Rivals of a behavior's vector in a study: prompts and other vectors of the same train pairs, at equal cost.

1. Make them: vectors at the layer that was chosen, in a stage of their own (:func:`vector_tasks`), and texts.
2. Score the test pairs under each, and measure its divergence, as those of the vector.
3. A vector is compared where both cost the same; a prompt, which has no multiplier, at its own cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from caa_interp import plotting
from caa_interp.evaluation.baselines import SIDES, few_shot_prompt
from caa_interp.evaluation.frontier import at_equal_cost, frontier
from caa_interp.evaluation.summary import NO_BASELINE
from caa_interp.plotting.theme import escape
from caa_interp.report.page import Section
from caa_interp.study.chosen import Chosen
from caa_interp.study.config import N_SHOTS, ExperimentConfig
from caa_interp.study.findings import estimates
from caa_interp.study.results import Results
from caa_interp.study.tasks import Task, portions, task_of

SAME, BEYOND = "intervals overlap", "costs more than the vector was measured at"


def vectors(config: ExperimentConfig) -> list[str]:
    """Methods of a study that make a vector."""
    return [one for one in config.rivals.methods if one in ("learned vector", "attention heads")]


def vector_tasks(study: Chosen) -> list[Task]:
    """Tasks that make them, each from the pairs of the behavior's own vector."""
    given = {"seed": study.config.seed, **study.config.asked}
    return [
        task_of(
            "rival_vectors",
            name,
            f"{method} of {len(train)} pairs",
            {"method": method, "pairs": train, "vector": study.own[name], "layer": study.layer[name], **given},
        )
        for name, (train, _, _) in study.splits.items()
        for method in vectors(study.config)
    ]


def scores(study: Chosen) -> Iterator[Task]:
    """Every behavior's test pairs under its rivals."""
    for name, given in _compared(study).items():
        for first, part in portions(study.tests[name]):
            label = f"rivals, pairs {first + 1} to {first + len(part)}"
            yield task_of("rivals", name, label, {"pairs": part, **given, **study.config.asked}, first)


def costs(study: Chosen) -> Iterator[Task]:
    """How far rivals move the unsteered model's answers."""
    for name, given in _compared(study).items():
        asked = {"prompts": study.prompts[name], **study.along, **given}
        yield task_of("rival_costs", name, "divergence of rivals", asked)


def _compared(study: Chosen) -> dict[str, dict[str, Any]]:
    """For each behavior its rivals: vectors with the study's multipliers, and texts by the names of baselines."""
    methods, found = study.config.rivals.methods, {}
    for name, behavior in study.behaviors.items() if methods else ():
        texts: dict[str, str] = {}
        for side in SIDES:
            if "system prompts" in methods and side in behavior.system_prompts:
                texts[f"{side} system prompt"] = behavior.system_prompts[side]
            if "few-shot prompts" in methods:
                drawn: Any = {"n": N_SHOTS, "format": study.config.format, "seed": study.config.seed}
                texts[f"{side} few-shot"] = few_shot_prompt(study.splits[name][0], side=side, **drawn)
        made = {"rivals": study.rivals[name], "multipliers": study.config.multipliers}
        found[name] = {**made, "system_prompts": texts}
    return found


def section(results: Results) -> list[Section]:
    """The vector and its rivals in the plane of effect and cost, and the effects of both where the costs are equal."""
    text = (
        "What else the same train pairs, or a prompt, can do. System prompts and examples stand alone, in the place of "
        "the study's own system prompt. A learned vector is trained on the preference for the positive answers, at the "
        "same layer; attention heads, those that tell the answers apart best, act after their own layers at once. Both "
        "are added from the last prompt token on. Two vectors are compared at the largest cost that both reach, a "
        "prompt with the vector at the prompt's own mean cost. One does more than the other where their "
        "intervals do not overlap."
    )
    caption = "Bars are bootstrap intervals over pairs and over questions; numbers are multipliers."
    sections = []
    for behavior, _ in results.each("rivals"):
        plane, found = _plane(results, behavior), compare(results, behavior)
        shown = found[["rival"]].assign(
            cost=[f"{cost:.2g}" for cost in found["cost"]],
            **{"effect (95 % interval)": estimates(found, "effect"), "the vector's there": estimates(found, "own")},
            n=found["n"],
            **{"compared with the vector": found["does"]},
        )
        figure = plotting.plot_frontier(plane, title=escape(f"Rivals: {behavior}"))
        told: dict[str, Any] = {"finding": _finding(behavior, found), "data": plane, "caption": caption, "level": 3}
        sections.append(Section(behavior, "", figure, shown, **told))
    return [Section("Rivals at equal cost", text), *sections] if sections else []


def sentence(results: Results) -> str:
    """Which rivals do more than the vector at equal cost."""
    found = [compare(results, behavior) for behavior, _ in results.each("rivals")]
    if not found:
        return ""
    every = pd.concat(found)
    more = every[every["does"] == "more"]
    which = "; ".join(f"{row.rival} ({row.behavior})" for row in more.itertuples())
    less, n = (every["does"] == "less").sum(), len(every) - (every["does"] == BEYOND).sum()
    return f"At equal cost {len(more)} of {n} rivals do more than the vector{': ' * bool(which)}{which}; {less} do less"


def _finding(behavior: str, found: pd.DataFrame) -> str:
    """Who does more at equal cost, with intervals."""
    both = zip(found["rival"], estimates(found, "effect"), estimates(found, "own"), found["does"], strict=True)
    texts: dict[str, list[str]] = {}
    for rival, effect, own, does in both:
        texts.setdefault(does, []).append(rival if does in (SAME, BEYOND) else f"{rival}, {effect} against {own}")
    told = "; ".join(f"{does}: {', '.join(texts[does])}" for does in ("more", "less", SAME, BEYOND) if does in texts)
    return f"Beside the vector of {behavior} at equal cost, in nats per token, {told}"


def compare(results: Results, behavior: str) -> pd.DataFrame:
    """Effect of each rival, and of the vector at the same cost: ``effect`` and ``own`` with their intervals.

    ``does`` says whether the rival does ``"more"`` or ``"less"`` in its own direction, or why neither can be said.
    """
    plane = _plane(results, behavior)
    is_bare = plane["baseline"] == NO_BASELINE
    rows = [
        _beside(results, behavior, prompt["baseline"], prompt["baseline"].split()[0], prompt)
        for prompt in plane[~is_bare].to_dict("records")
    ]
    steered = plane[is_bare & (plane["kind"] == "vector")]
    for name in steered.loc[steered["vector"] != behavior, "vector"].unique():
        for side, sign in zip(SIDES, (1, -1), strict=True):
            reached = steered[steered["multiplier"] * sign > 0].groupby("vector")["cost"].max()
            if len(reached):
                cost = float(f"{0.95 * reached[[name, behavior]].min():.2g}")  # rounded, still below both
                (rival,) = _at(results, behavior, name, side, cost)
                rows.append(_beside(results, behavior, f"{name}, {side} multipliers", side, rival))
    return pd.DataFrame(rows)


def _beside(results: Results, behavior: str, name: str, side: str, rival: Mapping[Any, Any]) -> dict[str, Any]:
    """One rival's effect and cost beside the vector's effect at that cost."""
    row: dict[str, Any] = {"behavior": behavior, "rival": name, "does": BEYOND, "own": math.nan, "own_low": math.nan}
    row |= {"own_high": math.nan, **{key: rival[key] for key in ("cost", "effect", "effect_low", "effect_high", "n")}}
    for own in _at(results, behavior, behavior, side, rival["cost"]):
        row |= {f"own{end}": own[f"effect{end}"] for end in ("", "_low", "_high")}
        above, below = row["effect_low"] > row["own_high"], row["effect_high"] < row["own_low"]
        more, less = (above, below) if side == "positive" else (below, above)
        row["does"] = "more" if more else "less" if less else SAME
    return row


def _at(results: Results, behavior: str, vector: str, side: str, cost: float) -> list[dict[Any, Any]]:
    """A vector's effect at one cost; empty if it does not reach it."""
    tables = [one[(one["vector"] == vector) & (one["baseline"] == NO_BASELINE)] for one in _measured(results, behavior)]
    found = at_equal_cost(*tables, cost=cost, seed=results.seed)
    return found[found["reached"] & (found["side"] == side)].to_dict("records")


def _plane(results: Results, behavior: str) -> pd.DataFrame:
    return frontier(*_measured(results, behavior), seed=results.seed)


def _measured(results: Results, behavior: str) -> list[pd.DataFrame]:
    """Effects and costs of a behavior's vector, controls and rivals."""
    tables = [
        pd.concat([results.tables[name] for name in names], ignore_index=True)
        for names in (("dose_response", "rivals"), ("divergence", "rival_costs"))
    ]
    return [one[one["behavior"] == behavior].fillna({"baseline": NO_BASELINE}) for one in tables]
