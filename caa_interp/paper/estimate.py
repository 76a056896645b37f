"""What a reproduction would take on this machine, before it is started.

1. The work of each part is counted in sequences that the model reads (:func:`caa_interp.study.tasks.cost`).
2. Of each kind of work in a part, a piece with one item (two, where one is too few) gives the seconds a sequence.
   Before it a lighter one is done, at one layer and multiplier: the first time takes longer, and is when trees are
   compared with plain passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from caa_interp.evaluation.judge_requests import Judge
from caa_interp.paper import published as paper
from caa_interp.paper.parts import choose_parts
from caa_interp.paper.plan import (
    check_table_layer,
    config_of,
    fitting_parts,
    planned_setting,
    planned_tasks,
    planned_work,
)
from caa_interp.paper.setting import read_items
from caa_interp.study.config import ModelConfig
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.tasks import Task, cost
from caa_interp.study.worker import decode

if TYPE_CHECKING:
    import torch


def estimate_reproduction(
    data: str | Path,
    *,
    model_name: str | Path = paper.LLAMA_2_7B_CHAT.name,
    base_name: str | Path | None = None,
    behaviors: Sequence[str] = paper.BEHAVIORS,
    layers: int | Sequence[int] | None = None,
    parts: Sequence[str] | None = None,
    system_prompts: str | Path | None = None,
    judge: Judge | None = None,
    judge_prices: tuple[float, float] | None = None,
    dtype: torch.dtype | str | None = None,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Check what :func:`caa_interp.paper.reproduce` is to be given, and estimate what it would take.

    Parameters
    ----------
    data, model_name, base_name, behaviors, layers, parts, system_prompts, judge, judge_prices, dtype, say
        As in :func:`caa_interp.paper.reproduce`. The model is loaded; the base model is not, and is counted as the
        chat model. Nothing is asked of the judge.

    Returns
    -------
    pandas.DataFrame
        A row for ``"vectors"`` and for each part: ``part``, ``pieces`` (of work, each kept once it is finished),
        ``sequences`` (about how many the model reads in that time: each item under each vector, at each layer and
        multiplier, and one more for every twelve tokens that it writes), ``minutes`` (about, on this machine; by pieces
        with an item or two, so that what is done in larger batches is faster), ``judge_requests`` (at most, since equal
        answers are judged once) and, with prices, ``judge_cost`` in their currency (of answers as long as they can be,
        see :func:`caa_interp.evaluation.estimate_cost`).

    Raises
    ------
    InputError
        As in :func:`caa_interp.paper.reproduce`.

    Notes
    -----
    What is finished in a folder or in the cache is not taken off, since its vectors are not known here.
    """
    items = read_items(data, behaviors, judge, system_prompts)
    names, left = choose_parts(parts, items)
    check_table_layer(model_name, layers)
    config = config_of(model_name, dtype)
    with closing(InProcess()) as executor:
        say(f"Loading {model_name}")
        setting = planned_setting(config, items, executor.describe(config.models[0]), layers, base_name)
        names, _ = fitting_parts(parts, names, left, setting, executor)
        planned, minutes = planned_tasks(setting, names), []
        for name, tasks in planned.items():
            say(f"Timing {name}")
            minutes.append(round(_seconds(executor, config.models[0], tasks) / 60, 1))
    work = planned_work(setting, planned, judge_prices)
    work.insert(list(work).index("judge_requests"), "minutes", minutes)
    return work


def _seconds(executor: Executor, model: ModelConfig, tasks: Sequence[Task]) -> float:
    """Time of all tasks, by a small one of each kind."""
    total = 0.0
    for kind in dict.fromkeys(task.kind for task in tasks):
        own = [task for task in tasks if task.kind == kind]
        fewest = 2 if kind == "projection" else 1  # one pair has no two components
        probe = _part(own[0], ("pairs", "train", "prompts"), fewest)
        *_, (_, content) = executor.run(model, [_part(probe, ("layers", "multipliers"), 1), probe])
        total += decode(content)[1]["seconds"] / cost(probe) * sum(map(cost, own))
    return total


def _part(task: Task, names: Sequence[str], n: int) -> Task:
    """A task with at most ``n`` of each of some arguments."""
    few = {name: task.arguments[name][:n] for name in names if name in task.arguments}
    return replace(task, arguments={**task.arguments, **few})
