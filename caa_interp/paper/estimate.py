"""What a reproduction would take on this machine, before it is started.

1. The work of each part is counted in sequences that the model reads (:func:`caa_interp.study.tasks.cost`).
2. Of each kind of work in a part, a piece with two items is done twice; the second time gives the seconds a sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd

from caa_interp.evaluation.judge_requests import Judge
from caa_interp.paper import published as paper
from caa_interp.paper.parts import choose_parts
from caa_interp.paper.reproduction import check_table_layer, config_of, planned_setting, planned_tasks
from caa_interp.paper.setting import read_items
from caa_interp.study.config import ModelConfig
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.tasks import Task, cost
from caa_interp.study.worker import decode

_PROBED, _ITEMS = 2, ("pairs", "train", "prompts")  # how many items of a piece of work are timed, and what they are


def estimate_reproduction(
    data: str | Path,
    *,
    model_name: str = paper.LLAMA_2_7B_CHAT.name,
    base_name: str | None = None,
    behaviors: Sequence[str] = paper.BEHAVIORS,
    layers: Sequence[int] | None = None,
    parts: Sequence[str] | None = None,
    system_prompts: str | Path | None = None,
    judge: Judge | None = None,
    dtype: str | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Check what :func:`caa_interp.paper.reproduce` is to be given, and estimate what it would take.

    Parameters
    ----------
    data, model_name, base_name, behaviors, layers, parts, system_prompts, judge, dtype, say
        As in :func:`caa_interp.paper.reproduce`. The model is loaded; the base model is not, and is counted as the
        chat model. Nothing is asked of the judge.

    Returns
    -------
    pandas.DataFrame
        A row for ``"vectors"`` and for each part: ``part``, ``pieces`` (of work, each kept once it is finished),
        ``sequences`` (about how many the model reads in that time: each item under each vector, at each layer and
        multiplier, and one more for every twelve tokens that it writes), ``minutes`` (about, on this machine; by pieces
        with two items, so that what is done in larger batches is faster) and ``judge_requests`` (at most, since equal
        answers are judged once).

    Raises
    ------
    InputError
        As in :func:`caa_interp.paper.reproduce`.

    Notes
    -----
    What is finished in a folder or in the cache is not taken off, since its vectors are not known here.
    """
    items = read_items(data, behaviors, judge, system_prompts)
    names, _ = choose_parts(parts, items)
    check_table_layer(paper.published_model(model_name), layers)
    config = config_of(model_name, dtype)
    with closing(InProcess()) as executor:
        say(f"Loading {model_name}")
        setting = planned_setting(config, items, executor.describe(config.models[0]), layers, base_name)
        rows = []
        for name, tasks in planned_tasks(setting, names).items():
            say(f"Timing {name}")
            row = {"part": name, "pieces": len(tasks), "sequences": sum(map(cost, tasks))}
            row["minutes"] = round(_seconds(executor, config.models[0], tasks) / 60, 1)
            asked = [task.arguments for task in tasks if judge is not None and name == "open_ended"]
            row["judge_requests"] = sum(len(one["prompts"]) * len(one["multipliers"]) for one in asked)
            rows.append(row)
    return pd.DataFrame(rows)


def _seconds(executor: Executor, model: ModelConfig, tasks: Sequence[Task]) -> float:
    """Time of all tasks, by a small one of each kind."""
    total = 0.0
    for kind in dict.fromkeys(task.kind for task in tasks):
        own = [task for task in tasks if task.kind == kind]
        few = {name: own[0].arguments[name][:_PROBED] for name in _ITEMS if name in own[0].arguments}
        probe = replace(own[0], arguments={**own[0].arguments, **few})
        *_, (_, content) = executor.run(model, [probe, probe])
        total += decode(content)[1]["seconds"] / cost(probe) * sum(map(cost, own))
    return total
