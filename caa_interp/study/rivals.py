"""Rivals of each behavior's vector in a study: other vectors of the same train pairs, and prompts.

1. Make each, score the test pairs under it, and measure its divergence, in one task, as a vector may be trained in it.
2. Two vectors are compared at a cost that both reach; a prompt, which has no multiplier, at its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from caa_interp import plotting
from caa_interp.evaluation.baselines import few_shot_prompt
from caa_interp.evaluation.frontier import at_equal_cost, frontier
from caa_interp.evaluation.summary import NO_BASELINE, quantity
from caa_interp.report.page import Section
from caa_interp.study.chosen import Study
from caa_interp.study.findings import intervals
from caa_interp.study.results import ON_THE_PLANE, Results, common_cost, scores_and_costs
from caa_interp.study.tasks import Task, task_of


def measurements(study: Study) -> Iterator[Task]:
    """Each rival of every behavior: what it does to test pairs, and what it costs."""
    config, methods = study.config, study.config.rivals.methods
    for name, (train, _, test) in study.splits.items() if methods else ():
        texts = {"system prompt": study.behaviors[name].system_prompts.get("positive")}
        if "examples" in methods:
            texts["examples"] = few_shot_prompt(train, format=config.format, seed=config.seed)
        given: dict[str, Any] = {"vector": {name: study.own[name]}, "layers": [study.layer[name]], "seed": config.seed}
        given |= {"multipliers": config.multipliers, "format": config.format, "pairs": test}
        given |= {"prompts": study.prompts[name], **study.along}
        for method in methods:
            own: dict[str, Any] = {"method": method, "text": texts.get(method), "train": train}
            if method in texts:
                own |= {"train": [], "multipliers": [0.0]}
            yield task_of("rivals", name, method, {**given, **own})


def section(results: Results) -> list[Section]:
    """The vector of each behavior and its rivals over what they cost, and who does more at equal cost."""
    text = (
        "What else makes the model show a behavior. A system prompt, or examples in one, stands alone, in the place of "
        "the study's own. A learned vector is trained on the preference for the positive answers, at the same layer. "
        "Attention heads, those that tell the answers apart best, act at their own layers, all at once. Vectors are "
        "compared at nearly the largest cost that both reach, and a prompt, which has no multiplier, with the vector "
        "at the prompt's mean cost. Where intervals do not overlap, one does more than the other. Learned vectors and "
        "heads are added from the last token of the prompt on, whatever the study does with its own vectors."
    )
    sections = []
    for behavior, _ in results.each("rivals"):
        plane, found = compared(results, behavior)
        effects = [intervals(found, "effect"), intervals(found, "own")]
        unit = quantity(plane, "logit_difference")[1]
        shown = found[["rival", "n"]].assign(**{"cost (nats per token)": [f"{cost:.2g}" for cost in found["cost"]]})
        shown[f"effect ({unit}, 95 % interval)"], shown["the vector's at this cost"] = effects
        shown["beside the vector"] = found["does"]
        told = zip(found["rival"], found["does"], *effects, strict=True)
        clauses = [f"{rival}{own and f' {effect} against {own}'}: {does}" for rival, does, effect, own in told]
        finding = f"At equal cost, beside the vector of {behavior}, in {unit}: {'; '.join(clauses)}"
        figure = plotting.plot_frontier(plane, title=f"Rivals: {behavior}")
        options: dict[str, Any] = {"caption": ON_THE_PLANE, "finding": finding, "data": plane, "level": 3}
        sections.append(Section(behavior, "", figure, shown, **options))
    return [Section("Rivals at equal cost", text), *sections] if sections else []


def compared(results: Results, behavior: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Plane of effect and cost, and for each rival its ``effect`` and the vector's ``own`` at the same cost."""
    rivals, tables = results.tables["rivals"], []
    for name, part in zip(("dose_response", "divergence"), scores_and_costs(rivals), strict=True):
        joined = pd.concat([results.tables[name], part], ignore_index=True)
        tables.append(joined[joined["behavior"] == behavior].fillna({"baseline": NO_BASELINE}))
    plane = frontier(*tables, seed=results.seed)

    def at(cost: float, vector: str) -> pd.Series[Any]:
        if not cost > 0:
            return pd.Series({"cost": cost, "n": 0, "effect": np.nan, "effect_low": np.nan, "effect_high": np.nan})
        own = [one[(one["vector"] == vector) & (one["baseline"] == NO_BASELINE)] for one in tables]
        found = at_equal_cost(*own, cost=cost, seed=results.seed)
        return found[found["side"] == "positive"].iloc[0]

    prompts = plane[plane["baseline"] != NO_BASELINE].set_index("baseline")
    rows = []
    for name in rivals["baseline"].where(rivals["baseline"] != NO_BASELINE, rivals["vector"]).unique():
        if name in prompts.index:
            one = prompts.loc[name]
        else:
            one = at(common_cost(plane[plane["vector"].isin([name, behavior])]), name)
        beside = {"effect": one, "own": at(one["cost"], behavior)}
        numbers = {f"{key}{end}": row[f"effect{end}"] for key, row in beside.items() for end in ("", "_low", "_high")}
        rows.append({"rival": name, "cost": one["cost"], "n": one["n"], **numbers})
    found = pd.DataFrame(rows)
    cases = {
        "cannot be compared where nothing is paid": ~(found["cost"] > 0),
        "costs more than the vector at any positive multiplier": found["own"].isna(),
        "cannot be compared without intervals": found[["effect_low", "own_low"]].isna().any(axis=1),
        "does more": found["effect_low"] > found["own_high"],
        "does less": found["effect_high"] < found["own_low"],
    }
    return plane, found.assign(does=np.select([*cases.values()], [*cases], "cannot be told apart"))
