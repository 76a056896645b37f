"""Several interventions at once in a study: what is asked of each combination, and its part of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from caa_interp import plotting
from caa_interp.evaluation.frontier import frontier
from caa_interp.evaluation.summary import summarize
from caa_interp.models.access import check_layers
from caa_interp.report.page import Section
from caa_interp.study.chosen import Chosen
from caa_interp.study.findings import estimates
from caa_interp.study.results import Results
from caa_interp.study.tasks import Task, portions, task_of


def scores(study: Chosen) -> Iterator[Task]:
    """Every behavior's test pairs under every combination."""
    combined = _interventions(study)
    for name, test in study.tests.items() if combined else ():
        for first, part in portions(test):
            given = {"pairs": part, "combinations": combined, **study.config.asked}
            label = f"combinations, pairs {first + 1} to {first + len(part)}"
            yield task_of("combinations", name, label, given, first)


def costs(study: Chosen) -> Iterator[Task]:
    """How far every combination moves the unsteered model's answers."""
    combined = _interventions(study)
    for name, prompts in study.prompts.items() if combined else ():
        given = {"prompts": prompts, **study.along, "combinations": combined}
        yield task_of("combination_costs", name, "divergence of combinations", given)


def _interventions(study: Chosen) -> dict[str, list[dict[str, Any]]]:
    """Fields of the interventions of each combination, one for each layer."""
    made = study.config.layers or range(study.n_layers)
    found: dict[str, list[dict[str, Any]]] = {}
    for one in study.config.combinations:
        for part in one.interventions:
            applied = {key: getattr(part, key) or own for key, own in study.config.applied.items()}
            given = {"vector": study.own[part.vector], "multiplier": part.multiplier, **applied}
            chosen = part.layers or [study.layer[part.vector]]
            for layer in check_layers(chosen, made, f"the vector {part.vector!r} of the combination {one.name!r}"):
                found.setdefault(one.name, []).append({**given, "layer": layer})
    return found


def section(results: Results) -> list[Section]:
    """The effect of every combination on each behavior, beside the behavior's own vector, and over what it costs."""
    if "combinations" not in results.tables:
        return []
    text = (
        "Several interventions at once, applied in turn, as the study's configuration lists them. Each behavior's own "
        "vector stands beside them."
    )
    scored = results.tables["combinations"]
    summary = summarize(scored, seed=results.seed)
    summary = summary[summary["kind"] != "unsteered"]
    shown = summary[["behavior"]].assign(
        combination=summary["vector"],
        **{"effect (95 % interval)": estimates(summary, "logit_difference_change")},
        n=summary["n"].astype(str),
    )
    options: dict[str, Any] = {"table": shown, "data": summary}
    if "combination_costs" in results.tables:
        singles = [results.tables[name] for name in ("dose_response", "divergence")]
        effects, priced = (
            pd.concat([one[one["kind"] == "vector"], results.tables[name]], ignore_index=True)
            for one, name in zip(singles, ("combinations", "combination_costs"), strict=True)
        )
        table = frontier(effects, priced, seed=results.seed)
        options |= {
            "figure": plotting.plot_frontier(table, title="Combinations: effect and cost"),
            "caption": "Bars are bootstrap intervals over pairs and over questions; numbers are multipliers.",
            "data": table,
        }
    return [Section("Combinations", text, **options)]
