"""A whole study into one folder: kept shard by shard, so that it can be killed at any moment and continued.

1. The folder is locked, its config compared with the one given, and what a killed run left half-written removed.
2. Each model is described; what a result depends on is part of each task's key. Whether the models have all the layers,
   and all that is to be asked fits them, is known before anything is computed.
3. Stages of tasks (:mod:`caa_interp.study.tasks`). Results that are kept from before are read, in the run's folder or
   in the cache; the other tasks are done, and each result is kept the moment it is there.
4. Results are put together to tables, in the order of the config and not in that of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, load_behavior
from caa_interp.errors import InputError, ModelError
from caa_interp.evaluation.summary import choose_layer, steerability
from caa_interp.files import fingerprint, write_atomically
from caa_interp.models.access import check_layers
from caa_interp.progress import counting
from caa_interp.study import folder as run_folder
from caa_interp.study.config import ExperimentConfig, ModelConfig, slug
from caa_interp.study.environment import environment
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.measures import vectors_of
from caa_interp.study.page import write_page
from caa_interp.study.store import ShardStore, cache_limit, clear_cache, remove_unfinished, shard_cache
from caa_interp.study.tasks import (
    Splits,
    Task,
    check_tasks,
    key,
    planned_tasks,
    remaining_tasks,
    score_tasks,
    split_pairs,
    vector_tasks,
)
from caa_interp.study.worker import decode, software
from caa_interp.vectors.vector import SteeringVector


def run_experiment(
    config: ExperimentConfig | str | Path,
    folder: str | Path,
    *,
    executor: Executor | None = None,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> Path:
    """Run a study, or continue it: from behaviors to vectors, tables and a page.

    Parameters
    ----------
    config
        The study, or its TOML file.
    folder
        Folder of the run: ``config.toml``, ``manifest.json``, ``shards/``,
        ``vectors/<model>/<behavior>.safetensors``, ``tables/<name>.parquet``, ``figures/`` and ``report.html``. If it
        holds a run of the same study, what is finished there is used.
    executor
        Where the work is done; default: in this process, and closed at the end. One that is given, such as
        :class:`caa_interp.study.Processes` or :class:`caa_interp.study.RayWorkers`, stays open.
    progress
        Show a progress bar.
    say
        Called with what a person should know: where the page is, what was damaged, how to go on after Ctrl-C.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    InputError
        If the config has faults (all are listed), or the folder holds another study or is being written by another run.
    ModelError
        If a model cannot be loaded, or workers run other code than this process.
    OSError
        If the disk is full or the folder cannot be written. Whatever was finished is kept.

    Notes
    -----
    A finished piece of work is never done again, in this run or another, unless its model, revision, pairs, vectors,
    settings, code or libraries change. A study that is finished loads no model. A run that was killed and continued has
    the tables of an undisturbed one to the last bit, on one kind of processor with one number of threads; with another,
    matrix products may round differently.
    """
    config = config if isinstance(config, ExperimentConfig) else ExperimentConfig.load(config)
    folder = Path(folder)
    behaviors = {one.name: one for one in map(load_behavior, config.behaviors)}
    limit = cache_limit()
    run_folder.check_same_study(config, folder)  # before anything is written there
    with run_folder.locked(folder):
        run_folder.check_same_study(config, folder)
        write_atomically(folder / "config.toml", config.to_toml().encode("utf-8"))
        remove_unfinished(folder)
        own = InProcess() if executor is None else None
        run = _Run(config, behaviors, folder, executor or own, progress, say)  # type: ignore[arg-type]
        try:
            run.do()
        except KeyboardInterrupt:
            say(f"Stopped. {run.n_done} finished pieces of work are kept in {folder}; run it again to go on.")
            raise
        finally:
            if own is not None:
                own.close()
            try:
                clear_cache(keep_bytes=limit)
            except OSError as error:
                say(f"The cache {shard_cache()} cannot be cut to its limit ({error}).")
        write_page(folder)
    say(f"The page: {(folder / 'report.html').resolve()}")
    return folder


class _Run:
    """One session of a study."""

    def __init__(
        self,
        config: ExperimentConfig,
        behaviors: Mapping[str, Behavior],
        folder: Path,
        executor: Executor,
        progress: bool,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._behaviors, self._folder = config, behaviors, folder
        self._executor, self._progress, self._say = executor, progress, say
        self._store = ShardStore(folder / "shards", shard_cache(), say)
        self._before = run_folder.read_manifest(folder, say)
        self._manifest: dict[str, Any] = {
            **environment(),
            "models": {},
            "data": {name: fingerprint([one.train, one.test, one.open_ended]) for name, one in behaviors.items()},
            "seed": config.seed,
            # One entry each time that the study was started or continued; one that was killed never finished.
            "sessions": [*self._before.get("sessions", []), {"started": run_folder.now(), "finished": None}],
            "shards": [],
        }
        run_folder.check_same_data(folder, self._before.get("data", {}), self._manifest["data"])
        self._models = dict(zip(config.labels, config.models, strict=True))
        self._asked: dict[str, tuple[list[int], Splits]] = {}  # layers and pairs of each model
        self._described: set[str] = set()
        self._tables: dict[str, list[pd.DataFrame]] = {}
        self._vectors: dict[tuple[str, str], SteeringVector] = {}
        self.n_done = 0

    def do(self) -> None:
        """Do all models, then write what was found."""
        # Until this session ends, earlier sessions made what the folder holds.
        kept = {name: value for name, value in self._before.items() if name != "sessions"}
        run_folder.write_manifest(self._folder, self._manifest | kept)
        for label, model in self._models.items():
            facts = self._manifest["models"][label] = self._facts(label, model)
            layers = check_layers(self._config.layers, range(facts["n_layers"]), "the model")
            self._asked[label] = layers, split_pairs(self._config, self._behaviors, layers)
            self._results(label, check_tasks(self._config, self._behaviors, self._asked[label][1]))
        if not self._before.get("shards"):
            run_folder.write_manifest(self._folder, {**self._manifest, "shards": []})
        for label in self._models:
            self._measure(label)
        self._publish()

    def _facts(self, label: str, model: ModelConfig) -> dict[str, Any]:
        """What a model's results depend on: as it was kept if that still holds and all is done, else as it is now."""
        kept = self._before.get("models", {}).get(label, {})
        shards = [one["key"] for one in self._before.get("shards", []) if one["model"] == label]
        if (
            shards
            and {name: kept.get(name) for name in software()} == software()
            and kept.get("revision") is not None
            and kept["revision"] == run_folder.revision_now(model)
            and all(self._store.get(one) is not None for one in shards)
        ):
            return dict(kept)
        facts = self._describe(label)
        if kept and kept.get("revision") != facts["revision"]:
            raise InputError(
                f"folder: {self._folder} holds a run with model {label!r} as it was before (files changed "
                "since). Name another folder."
            )
        if changed := [name for name in facts if kept and kept.get(name) != facts[name]]:
            self._say(f"{label}: {', '.join(changed)} changed since this run was begun, so its work is done anew.")
        return facts

    def _describe(self, label: str) -> dict[str, Any]:
        """Facts of a model that is loaded by the executor."""
        self._say(f"Loading {label}")
        facts = self._executor.describe(self._models[label])
        if facts["code"] != software()["code"]:
            raise ModelError(
                "executor: its workers run another version of caa_interp than this process, so their results "
                "would not be those of this study. Install the same version everywhere."
            )
        self._described.add(label)
        return facts

    def _measure(self, label: str) -> None:
        """Do all tasks of one model, and put their results together."""
        config, behaviors = self._config, self._behaviors
        n_layers = self._manifest["models"][label]["n_layers"]
        layers, splits = self._asked[label]
        vectors: dict[str, dict[str, SteeringVector]] = {}
        layer: dict[str, int] = {}
        rows: dict[tuple[str, str], list[pd.DataFrame]] = {}
        n_tasks = len(planned_tasks(config, behaviors, splits, layers, n_layers))
        with counting(n_tasks, label, self._progress, unit="piece") as bar:
            for task, table in self._results(label, vector_tasks(config, splits, layers), bar):
                vectors[task.behavior] = vectors_of(table)
                self._vectors[label, task.behavior] = vectors[task.behavior][task.behavior]
                own = table[table["vector"] == task.behavior]
                self._add("reliability", label, task.behavior, own.drop(columns=["vector", "values", "metadata"]))
            for task, table in self._results(label, score_tasks(config, splits, layers, vectors), bar):
                rows.setdefault((task.table, task.behavior), []).append(table)
            for behavior, (train, validation, test) in splits.items():
                scores = pd.concat(rows["validation", behavior]) if validation else None
                layer[behavior] = layers[0] if scores is None else choose_layer(scores)
                chosen = {"layer": [layer[behavior]], "n_train": [len(train)]}
                counts = {"n_validation": [len(validation)], "n_test": [len(test)]}
                self._add("layers", label, behavior, pd.DataFrame(chosen | counts))
                swept = pd.concat(rows["sweep", behavior])
                rows["dose_response", behavior] = [swept[swept["layer"] == layer[behavior]]]
            rest = remaining_tasks(config, behaviors, splits, n_layers, vectors, layer)
            for task, table in self._results(label, rest, bar):
                rows.setdefault((task.table, task.behavior), []).append(table)
        for (name, behavior), tables in rows.items():
            joined = pd.concat(tables, ignore_index=True)
            self._add(name, label, behavior, joined)
            if name == "dose_response":
                self._add("effects", label, behavior, steerability(joined, seed=config.seed))

    def _results(self, label: str, tasks: Sequence[Task], bar: Any = None) -> list[tuple[Task, pd.DataFrame]]:
        """Tasks of a model with their tables, in order; what is not kept from before is done."""
        model, facts = self._models[label], self._manifest["models"][label]
        keys = [key(task, facts) for task in tasks]
        kept = {one: content for one in dict.fromkeys(keys) if (content := self._store.get(one)) is not None}
        reused = set(kept)
        self.n_done += len(kept)
        if bar is not None:
            before = sum(one in kept for one in keys)
            bar.initial += before  # was not done now, so that it does not count for the rate
            bar.update(before)
        # Two tasks may be the same work, such as those of two behaviors with the same questions.
        missing = {one: task for one, task in zip(keys, tasks, strict=True) if one not in kept}
        if missing and label not in self._described and self._describe(label) != facts:
            raise InputError(
                f"folder: {self._folder} holds a finished run with model {label!r} on another device or of another "
                "precision, of which something is missing. Continue it there, or name another folder."
            )
        for task, content in self._executor.run(model, list(missing.values())):
            done = key(task, facts)
            self._store.put(done, content)
            kept[done] = content
            self.n_done += 1
            if bar is not None:
                bar.update(keys.count(done))
        tables = []
        for task, one in zip(tasks, keys, strict=True):
            table, took = decode(kept[one])
            path = "+".join(sorted(table["path"].unique())) if "path" in table else None
            record = {"key": one, "kind": task.kind, "label": task.label, "model": label, **took}
            self._manifest["shards"].append({**record, "path": path, "reused": one in reused})
            if "item" in table:
                table["item"] += task.first
            tables.append((task, table))
        return tables

    def _add(self, name: str, label: str, behavior: str, table: pd.DataFrame) -> None:
        """Put rows into a table of the run, with model and behavior in front."""
        rows = table.drop(columns=["model", "behavior"], errors="ignore")
        rows.insert(0, "behavior", behavior)
        rows.insert(0, "model", label)
        self._tables.setdefault(name, []).append(rows)

    def _publish(self) -> None:
        """Write vectors, tables and the manifest, which belong together at any moment."""
        folder, shards = self._folder, self._manifest["shards"]
        self._manifest |= {
            "seconds": sum(one["seconds"] for one in shards),
            "peak_memory_bytes": max(one["peak_memory_bytes"] for one in shards),
            "paths": {
                kind: sorted({one["path"] for one in shards if one["kind"] == kind and one["path"]})
                for kind in sorted({one["kind"] for one in shards if one["path"]})
            },
        }
        if self._before.get("models") != self._manifest["models"]:
            run_folder.remove_results(folder)  # none of other code or versions beside these
        run_folder.write_manifest(folder, self._manifest)
        for (label, behavior), vector in self._vectors.items():
            vector.save(folder / "vectors" / slug(label) / f"{slug(behavior)}.safetensors")
        for name, parts in self._tables.items():
            table = pd.concat(parts, ignore_index=True)
            write_atomically(folder / "tables" / f"{name}.parquet", table.to_parquet(index=False))
        for path in (folder / "tables").glob("*.parquet"):
            if path.stem not in self._tables:  # of other versions of this package, say
                path.unlink()
        self._manifest["sessions"][-1]["finished"] = run_folder.now()
        run_folder.write_manifest(folder, self._manifest)
