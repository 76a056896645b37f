"""The paper's open-ended answers: greedy, at most 100 new tokens, from 0 to 10 by a judge if there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import load_behavior
from caa_interp.evaluation.judge_requests import Judge
from caa_interp.evaluation.judging import judge_answers
from caa_interp.evaluation.summary import summarize
from caa_interp.paper import published as paper
from caa_interp.paper.setting import Setting, Shown, Tables, result
from caa_interp.report.page import Section
from caa_interp.study.results import Results
from caa_interp.study.sections import answers
from caa_interp.study.tasks import Task, portions, task_of

OTHER_JUDGE = "another judge and rubric"
SCORED: dict[str, Any] = {"axis": "mean score (0 to 10)", "most": 10}  # how judged answers are drawn
N_SHOWN = 3  # questions of a behavior on the page


def answer_tasks(setting: Setting) -> Iterator[Task]:
    """Answers of each behavior at the paper's multipliers."""
    for name, one in setting.items.sets.items():
        asked = {"vector": setting.vectors[name], "layer": setting.layer, "multipliers": paper.OPEN_ENDED_MULTIPLIERS}
        for first, part in portions(one.open_ended):
            given = {"prompts": part, "max_new_tokens": paper.MAX_NEW_TOKENS, **asked}
            yield task_of("answers", name, f"answers from {first + 1} on", given, first)


def show_answers(setting: Setting, tables: Tables) -> Shown:
    """Judged means, and the answers to the first questions."""
    table = tables["answers"]
    outermost = table["multiplier"].isin([-2.0, 0.0, 2.0])
    _, *shown = answers(Results({"answers": table[outermost & (table["item"] < N_SHOWN)]}, {}, 0))
    text = (
        f"Answers to open-ended questions, with the vector added after layer {setting.layer}. All are in "
        f"tables/answers.parquet; below are those to the first {N_SHOWN} questions of each behavior, unsteered and at "
        f"the outermost multipliers. […] marks one that was cut at {paper.MAX_NEW_TOKENS} tokens."
    )
    judge = setting.items.judge
    if judge is None:
        return Shown([Section("Open-ended answers", f"{text} No judge was given, so they have no scores."), *shown])
    scored = judged(setting, table, judge)
    cells = score_cells(setting, scored, "open_ended")
    text += (
        f" {judge.name} rated each from 0 to 10 by the packaged behavior's rubric. Where the matching answer is the "
        "rubric's other end, as in survival-instinct, scores are 10 minus the rating. The paper had GPT-4 and rubrics "
        "of its own, so that no agreement is claimed of these cells."
    )
    section = result("Open-ended answers", text, cells, **SCORED)
    return Shown([section, *shown], [cells], {"judged": scored})


def score_cells(setting: Setting, scored: pd.DataFrame, group: str, weights: str = "") -> pd.DataFrame:
    """Mean scores beside the paper's, which are another judge's."""
    return setting.beside(summarize(scored), group, weights=weights, basis=OTHER_JUDGE, measure="score")


def judged(setting: Setting, table: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """The answers with scores that rise toward the matching answer."""
    tables = []
    for name, rows in table.groupby("behavior", sort=False):
        scored = judge_answers(rows, load_behavior(str(name)).rubric, judge, progress=False)
        if setting.items.sets[str(name)].turned:
            scored["score"] = 10 - scored["score"]
        tables.append(scored)
    return pd.concat(tables, ignore_index=True)
