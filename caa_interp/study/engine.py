"""Tasks of one model and their tables: what was kept before is read, the rest is done and kept at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from caa_interp.errors import InputError, ModelError
from caa_interp.study.config import ModelConfig
from caa_interp.study.executors import Executor
from caa_interp.study.store import ShardStore
from caa_interp.study.tasks import Task, cost, key
from caa_interp.study.worker import decode, software


def facts_of(executor: Executor, model: ModelConfig) -> dict[str, Any]:
    """What the results of a model depend on; :class:`ModelError` if the executor's workers run other code."""
    facts = executor.describe(model)
    if facts["code"] != software()["code"]:
        raise ModelError(
            "executor: its workers run another version of caa_interp than this process, so their results would not be "
            "those that are asked for. Install the same version everywhere."
        )
    return facts


@dataclass
class Engine:
    """Does tasks with one model, each once; results are kept in ``store``.

    ``facts`` is what the results depend on, as :func:`facts_of` tells it. Those of an earlier session, which
    this executor has not ``described``, are compared with the model before a task is done. ``made`` grows by a record
    of each task: its key, kind and label, what it took, and whether it was there already.
    """

    executor: Executor
    store: ShardStore
    model: ModelConfig
    facts: Mapping[str, Any]
    described: bool = True
    made: list[dict[str, Any]] = field(default_factory=list)

    def do(self, tasks: Sequence[Task], bar: Any = None) -> list[tuple[Task, pd.DataFrame]]:
        """Tables of tasks, in their order; ``bar`` counts their :func:`~caa_interp.study.tasks.cost`.

        Raises :class:`InputError` if something is missing, and the model is not as an earlier session described it.
        """
        keys = [key(task, self.facts) for task in tasks]
        kept = {one: content for one in dict.fromkeys(keys) if (content := self.store.get(one)) is not None}
        reused = set(kept)
        # Two tasks may be the same work, such as those of two behaviors with the same questions.
        missing = {one: task for one, task in zip(keys, tasks, strict=True) if one not in kept}
        if missing and not self.described:
            if self.executor.describe(self.model) != self.facts:
                raise InputError(
                    f"folder: its run had model {self.model.name!r} on another device or of another precision, and "
                    "something of it is missing. Continue it there, or name another folder."
                )
            self.described = True
        costs: Counter[str] = Counter()
        for one, task in zip(keys, tasks, strict=True):
            costs[one] += cost(task)
        if bar is not None:
            before = sum(costs[one] for one in reused)
            bar.initial += before  # was not done now, so that it does not count for the rate
            bar.update(before)
            bar.refresh()  # in a log, too, where a line would wait for the first piece that is made now
        for task, content in self.executor.run(self.model, list(missing.values())):
            done = key(task, self.facts)
            self.store.put(done, content)
            kept[done] = content
            if bar is not None:
                bar.update(costs[done])
        return [(task, self._table(task, one, kept[one], one in reused)) for one, task in zip(keys, tasks, strict=True)]

    def _table(self, task: Task, key: str, content: bytes, reused: bool) -> pd.DataFrame:
        """The table of a result, which is put on record."""
        table, took = decode(content)
        path = "+".join(sorted(table["path"].dropna().unique())) if "path" in table else None
        self.made.append({"key": key, "kind": task.kind, "label": task.label, **took, "path": path, "reused": reused})
        if "item" in table:
            table["item"] += task.first
        return table
