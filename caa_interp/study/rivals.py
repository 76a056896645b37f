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
from caa_interp.evaluation.summary import NO_BASELINE
from caa_interp.plotting.theme import escape
from caa_interp.report.page import Section
from caa_interp.study.chosen import Chosen
from caa_interp.study.findings import estimates
from caa_interp.study.results import Results
from caa_interp.study.tasks import Task, task_of


def measurements(study: Chosen) -> Iterator[Task]:
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
            made_of = [] if method in texts else train
            own = {"method": method, "text": texts.get(method), "train": made_of}
            yield task_of("rivals", name, method, {**own, **given})


def section(results: Results) -> list[Section]:
    """The vector of each behavior and its rivals over what they cost, and who does more at equal cost."""
    text = (
        "What else makes the model show a behavior. A system prompt, or examples in one, stands alone, in the place of "
        "the study's own. A learned vector is trained on the preference for the positive answers, at the same layer. "
        "Attention heads, those that tell the answers apart best, act at their own layers, all at once. Vectors are "
        "compared at nearly the largest cost that both reach, and a prompt, which has no multiplier, with the vector "
        "at the prompt's mean cost. Where intervals do not overlap, one does more than the other."
    )
    caption = "Bars are bootstrap intervals over pairs and over questions; numbers are multipliers."
    sections = []
    for behavior, _ in results.each("rivals"):
        plane, found = compared(results, behavior)
        effects = [estimates(found, "effect"), estimates(found, "own")]
        shown = found[["rival", "cost", "n"]].assign(cost=[f"{cost:.2g}" for cost in found["cost"]])
        shown["effect (95 % interval)"], shown["the vector's at this cost"] = effects
        shown["beside the vector"] = found["does"]
        told = zip(found["rival"], found["does"], *effects, strict=True)
        clauses = [f"{rival}{own and f' {effect} against {own}'}: {does}" for rival, does, effect, own in told]
        finding = f"At equal cost, beside the vector of {behavior}, in nats per token: {'; '.join(clauses)}"
        figure = plotting.plot_frontier(plane, title=escape(f"Rivals: {behavior}"))
        options: dict[str, Any] = {"caption": caption, "finding": finding, "data": plane, "level": 3}
        sections.append(Section(behavior, "", figure, shown, **options))
    return [Section("Rivals at equal cost", text), *sections] if sections else []


def compared(results: Results, behavior: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Plane of effect and cost, and for each rival its ``effect`` and the vector's ``own`` at the same cost."""
    rivals, tables = results.tables["rivals"], []
    is_cost = rivals["divergence"].notna()
    for name, part in (("dose_response", rivals[~is_cost]), ("divergence", rivals[is_cost])):
        joined = pd.concat([results.tables[name], part.dropna(axis=1, how="all")], ignore_index=True)
        tables.append(joined[joined["behavior"] == behavior].fillna({"baseline": NO_BASELINE}))
    plane = frontier(*tables, seed=results.seed)

    def at(cost: float, vector: str) -> pd.Series[Any]:
        own = [one[(one["vector"] == vector) & (one["baseline"] == NO_BASELINE)] for one in tables]
        found = at_equal_cost(*own, cost=cost, seed=results.seed)
        return found[found["side"] == "positive"].iloc[0]

    most = plane[plane["multiplier"] > 0].groupby("vector")["cost"].max()
    prompts = plane[plane["baseline"] != NO_BASELINE].set_index("baseline")
    rows = []
    for name in rivals["baseline"].where(rivals["baseline"] != NO_BASELINE, rivals["vector"]).unique():
        if name in prompts.index:
            one = prompts.loc[name]
        else:  # two digits of a number that is 5 % smaller are no larger than it
            one = at(float(f"{0.95 * most[[name, behavior]].min():.2g}"), name)
        beside = {"effect": one, "own": at(one["cost"], behavior)}
        numbers = {f"{key}{end}": row[f"effect{end}"] for key, row in beside.items() for end in ("", "_low", "_high")}
        rows.append({"rival": name, "cost": one["cost"], "n": one["n"], **numbers})
    found = pd.DataFrame(rows)
    cases = [found["own"].isna(), found["effect_low"] > found["own_high"], found["effect_high"] < found["own_low"]]
    does = ["costs more than the vector at any multiplier", "does more", "does less"]
    return plane, found.assign(does=np.select(cases, does, "cannot be told apart"))
