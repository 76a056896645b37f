"""Several interventions at once in a study: what is asked of each combination, and its part of the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from caa_interp import plotting
from caa_interp.evaluation.frontier import frontier
from caa_interp.evaluation.summary import quantity, summarize
from caa_interp.models.access import check_layers
from caa_interp.report.page import Section
from caa_interp.study.chosen import Study
from caa_interp.study.findings import intervals
from caa_interp.study.results import ON_THE_PLANE, Results, scores_and_costs
from caa_interp.study.tasks import Task, task_of


def measurements(study: Study) -> Iterator[Task]:
    """What every combination does to the test pairs of each behavior, and how far it moves the unsteered answers."""
    combined = _interventions(study)
    for name, test in study.tests.items() if combined else ():
        given = {"pairs": test, "prompts": study.prompts.get(name, []), "format": study.config.format, **study.along}
        yield task_of("combinations", name, "combinations", {**given, "combinations": combined})


def _interventions(study: Study) -> dict[str, list[dict[str, Any]]]:
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
    """The effect of every combination on each behavior and, over what it costs, beside the behavior's own vector."""
    if "combinations" not in results.tables:
        return []
    text = "Several interventions at once, applied in turn, as the study's configuration lists them."
    scored, priced = scores_and_costs(results.tables["combinations"])
    summary = summarize(scored, seed=results.seed)
    summary = summary[summary["kind"] != "unsteered"]
    unit = quantity(summary, "logit_difference")[1]
    shown = summary[["behavior"]].assign(
        combination=summary["vector"],
        **{f"effect ({unit}, 95 % interval)": intervals(summary, "logit_difference_change")},
        n=summary["n"].astype(str),
    )
    options: dict[str, Any] = {"table": shown, "data": summary}
    if len(priced):
        text += " Each behavior's own vector stands beside them in the figure."
        singles = [results.tables[name] for name in ("dose_response", "divergence")]
        effects, costs = (
            pd.concat([one[one["kind"] == "vector"], own], ignore_index=True)
            for one, own in zip(singles, (scored, priced), strict=True)
        )
        table = frontier(effects, costs, seed=results.seed)
        options |= {
            "figure": plotting.plot_frontier(table, title="Combinations: effect and cost"),
            "caption": ON_THE_PLANE,
            "data": table,
        }
    return [Section("Combinations", text, **options)]
