"""The engine does each task once, in any order, and gives tables in the order of the tasks."""

from types import SimpleNamespace

import pandas as pd
import pytest

from caa_interp.errors import InputError, ModelError
from caa_interp.progress import counting
from caa_interp.study.config import ModelConfig
from caa_interp.study.engine import Engine, facts_of
from caa_interp.study.store import ShardStore
from caa_interp.study.tasks import Task, key
from caa_interp.study.worker import encode, software

FACTS = {"revision": "1", "device": "cpu"}


class Backwards:
    """Executor without a model: the last task is finished first."""

    def __init__(self, facts=FACTS):
        self.facts, self.done, self.described = facts, [], 0

    def describe(self, model):
        self.described += 1
        return self.facts

    def run(self, model, tasks):
        for task in reversed(tasks):
            self.done.append(task.label)
            table = pd.DataFrame({"item": [0, 1], "path": ["tree", "plain"], "asked": task.arguments["multipliers"]})
            yield task, encode(table, {"seconds": 1.0})


def task(label, *multipliers, first=0, pairs=("p", "q")):
    asked = {"pairs": pairs, "vector": {"v": None}, "layers": [1, 2], "multipliers": multipliers}
    return Task("sweep", "sweep", "b", first, label, asked)


@pytest.fixture
def store(tmp_path):
    return ShardStore(tmp_path / "shards", tmp_path / "cache", lambda line: None)


@pytest.fixture
def tasks():
    return [task("a", 0.0, 1.0), task("b", 0.0, 2.0, first=10), task("a again", 0.0, 1.0), task("c", 0.0, 3.0)]


def test_each_task_is_done_once_and_tables_come_in_order(store, tasks):
    executor = Backwards()
    engine = Engine(executor, store, ModelConfig(), FACTS)
    found = engine.do(tasks)
    assert [one for one, _ in found] == tasks
    assert [table["asked"].tolist()[1] for _, table in found] == [1, 2, 1, 3]
    assert [table["item"].tolist() for _, table in found] == [[0, 1], [10, 11], [0, 1], [0, 1]]
    assert executor.done == ["c", "b", "a again"]
    assert [one["label"] for one in engine.made] == ["a", "b", "a again", "c"]
    assert [one["reused"] for one in engine.made] == [False] * 4
    assert engine.made[1] == {
        "key": key(tasks[1], FACTS),
        "kind": "sweep",
        "label": "b",
        "seconds": 1.0,
        "path": "plain+tree",
        "reused": False,
    }
    again = Engine(executor, store, ModelConfig(), FACTS)
    for (_, first), (_, second) in zip(found, again.do(tasks), strict=True):
        pd.testing.assert_frame_equal(first, second)
    assert len(executor.done) == 3
    assert [one["reused"] for one in again.made] == [True] * 4


def test_rows_that_no_pass_made_have_no_path(store, tasks):
    """Such as the cosines of a safety audit."""
    engine = Engine(Backwards(), store, ModelConfig(), FACTS)
    rows = pd.DataFrame({"item": [0.0, None], "path": ["tree", None]})
    store.put(key(tasks[0], FACTS), encode(rows, {"seconds": 1.0}))
    engine.do(tasks[:1])
    assert engine.made[0]["path"] == "tree"


def test_each_is_kept_as_soon_as_it_is_done(store, tasks):
    class Interrupted(Backwards):
        def run(self, model, tasks):
            yield from list(super().run(model, tasks))[:2]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Engine(Interrupted(), store, ModelConfig(), FACTS).do(tasks)
    assert len(store) == 2
    executor = Backwards()
    Engine(executor, store, ModelConfig(), FACTS).do(tasks)
    assert executor.done == ["a again"]


def test_the_bar_counts_costs_and_what_was_there_not_for_the_rate(store, tasks):
    bar = SimpleNamespace(initial=0, updates=[], refresh=lambda: None)
    bar.update = bar.updates.append
    Engine(Backwards(), store, ModelConfig(), FACTS).do(tasks[:1])
    more = [*tasks, task("wide", 0.0, 1.0, pairs=("p",) * 5)]
    Engine(Backwards(), store, ModelConfig(), FACTS).do(more, bar)
    assert bar.initial == bar.updates[0] == 2 * 8  # both tasks of one key: 2 pairs, 2 layers, 2 multipliers
    assert bar.updates[1:] == [20, 8, 8]


def test_what_was_there_is_said_before_anything_is_made(store, tasks, capsys):
    said = []

    class Listening(Backwards):
        def run(self, model, tasks):
            said.extend(capsys.readouterr().err.splitlines())
            yield from super().run(model, tasks)

    Engine(Backwards(), store, ModelConfig(), FACTS).do(tasks[:1])
    said.clear()
    with counting(32, "Work", True) as bar:
        Engine(Listening(), store, ModelConfig(), FACTS).do(tasks, bar)
    assert len(said) == 2
    assert " 0/32 " in said[0]
    assert " 16/32 " in said[1]


def test_workers_must_run_the_code_of_this_process():
    same, other = ({**FACTS, "code": code} for code in (software()["code"], "another"))
    assert facts_of(Backwards(same), ModelConfig()) == same
    with pytest.raises(ModelError, match="executor: its workers run another version of caa_interp"):
        facts_of(Backwards(other), ModelConfig())


def test_facts_from_before_are_compared_with_the_model_before_anything_is_done(store, tasks):
    executor = Backwards()
    Engine(executor, store, ModelConfig(), FACTS).do(tasks[:1])
    engine = Engine(executor, store, ModelConfig(), FACTS, described=False)
    engine.do(tasks[:1])
    assert executor.described == 0  # all is there
    engine.do(tasks)
    engine.do([task("d", 0.0, 4.0)])
    assert executor.described == 1
    elsewhere = Backwards({**FACTS, "device": "another"})
    with pytest.raises(InputError, match=r"another device or of another precision.*Continue it there"):
        Engine(elsewhere, store, ModelConfig(), FACTS, described=False).do([task("e", 0.0, 5.0)])
    assert elsewhere.done == []
