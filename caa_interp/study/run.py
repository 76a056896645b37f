"""A whole study into one folder: kept shard by shard, so that it can be killed at any moment and continued.

1. The folder is locked, its config compared with the one given, and what a killed run left half-written removed.
2. Each model is loaded by the executor and described; what a result depends on is part of each shard's key. Whether
   the models have all the layers, and all that is to be asked fits them, is known before anything is computed.
3. Stages of shards (:mod:`caa_interp.study.plan`). Those that are kept from before are read, in the run's
   folder or in the cache; the others are done, each kept the moment it is finished.
4. Shards are put together to tables, in the order of the config and not in that of the work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, load_behavior
from caa_interp.errors import InputError, ModelError
from caa_interp.evaluation.summary import choose_layer, steerability
from caa_interp.files import fingerprint, write_atomically
from caa_interp.progress import counting
from caa_interp.study.config import ExperimentConfig, ModelConfig, slug
from caa_interp.study.environment import environment
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.page import write_page
from caa_interp.study.plan import Found, Piece, Plan
from caa_interp.study.run_folder import check_same_data, check_same_study, locked, manifest_in, now
from caa_interp.study.shards import code_digest, shard
from caa_interp.study.store import ShardStore, cache_limit, clear_cache, remove_unfinished, shard_cache
from caa_interp.study.work import decode, vectors_of
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
        :class:`caa_interp.study.RayWorkers`, stays open.
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
    A finished shard is never done again, in this run or another, unless its model, revision, pairs, vectors, settings,
    code or libraries change. A run that was killed and continued has the tables of an undisturbed one to the last bit,
    on one kind of processor with one number of threads; with another, matrix products may round differently.
    """
    config = config if isinstance(config, ExperimentConfig) else ExperimentConfig.load(config)
    folder = Path(folder)
    behaviors = {one.name: one for one in map(load_behavior, config.behaviors)}
    limit = cache_limit()
    check_same_study(config, folder)  # before anything is written there
    with locked(folder):
        check_same_study(config, folder)
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
    """One study under way."""

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
        self._before = manifest_in(folder, say)
        self._manifest: dict[str, Any] = {
            **environment(),
            "models": {},
            "data": {name: fingerprint([one.train, one.test, one.open_ended]) for name, one in behaviors.items()},
            "seed": config.seed,
            # One entry each time that the study was started or continued; one that was killed never finished.
            "sessions": [*self._before.get("sessions", []), {"started": now(), "finished": None}],
            "shards": [],
        }
        check_same_data(folder, self._before.get("data", {}), self._manifest["data"])
        self._tables: dict[str, list[pd.DataFrame]] = {}
        self.n_done = 0

    def do(self) -> None:
        """Do all models, then write their tables."""
        # Until this session ends, earlier sessions made what the folder holds.
        self._write_manifest({**self._manifest, **self._before, "sessions": self._manifest["sessions"]})
        plans = [(model, *self._planned(model)) for model in self._config.models]
        for model, facts, plan in plans:
            self._do_model(model, facts, plan)
        kept = {f"{name}.parquet" for name in self._tables}
        for name, parts in self._tables.items():
            write_atomically(
                self._folder / "tables" / f"{name}.parquet", pd.concat(parts, ignore_index=True).to_parquet(index=False)
            )
        for path in (self._folder / "tables").glob("*.parquet"):
            if path.name not in kept:  # of other versions of this package, say
                path.unlink()
        shards = self._manifest["shards"]
        self._manifest["sessions"][-1]["finished"] = now()
        self._manifest |= {
            "seconds": sum(one["seconds"] for one in shards),
            "peak_memory_bytes": max(one["peak_memory_bytes"] for one in shards),
            "paths": {
                kind: sorted({one["path"] for one in shards if one["kind"] == kind and one["path"]})
                for kind in sorted({one["kind"] for one in shards if one["path"]})
            },
        }
        self._write_manifest(self._manifest)

    def _planned(self, model: ModelConfig) -> tuple[dict[str, Any], Plan]:
        """Load a model, and make sure that the whole study can be done with it."""
        self._say(f"Loading {model.name}")
        facts = self._executor.describe(model)
        if facts["code"] != code_digest():
            raise ModelError(
                "executor: its workers run another version of caa_interp than this process, so their results "
                "would not be those of this study. Install the same version everywhere."
            )
        self._manifest["models"][model.name] = facts
        before = self._before.get("models", {}).get(model.name, facts)
        if before.get("revision") != facts["revision"]:
            raise InputError(
                f"folder: {self._folder} holds a run with model {model.name!r} as it was before (files changed "
                "since). Name another folder."
            )
        plan = Plan(self._config, self._behaviors, facts["n_layers"])
        self._finished(plan.tokens(), Found({}, {}), model, facts)
        return facts, plan

    def _do_model(self, model: ModelConfig, facts: Mapping[str, Any], plan: Plan) -> None:
        vectors: dict[str, dict[str, SteeringVector]] = {}
        layer: dict[str, int] = {}
        found = Found(vectors, layer)
        of_vectors, of_scores, of_rest = plan.vectors(), plan.scores(), plan.rest()
        with counting(len(of_vectors + of_scores + of_rest), model.name, self._progress, unit="piece") as bar:
            for piece, table in self._finished(of_vectors, found, model, facts, bar):
                vectors[piece.behavior] = vectors_of(table)
                path = self._folder / "vectors" / slug(facts["id"]) / f"{slug(piece.behavior)}.safetensors"
                vectors[piece.behavior][piece.behavior].save(path)
                own = table[table["vector"] == piece.behavior]
                self._add("reliability", facts, piece.behavior, own.drop(columns=["vector", "values", "metadata"]))
            rows: dict[tuple[str, str], list[pd.DataFrame]] = {}
            for piece, table in self._finished(of_scores, found, model, facts, bar):
                rows.setdefault((piece.table, piece.behavior), []).append(table)
            for behavior, (train, validation, test) in plan.splits.items():
                scores = pd.concat(rows["validation", behavior]) if validation else None
                layer[behavior] = plan.layers[0] if scores is None else choose_layer(scores)
                chosen = {"layer": [layer[behavior]], "n_train": [len(train)]}
                counts = {"n_validation": [len(validation)], "n_test": [len(test)]}
                self._add("layers", facts, behavior, pd.DataFrame(chosen | counts))
                swept = pd.concat(rows["sweep", behavior])
                rows["dose_response", behavior] = [swept[swept["layer"] == layer[behavior]]]
            for piece, table in self._finished(of_rest, found, model, facts, bar):
                rows.setdefault((piece.table, piece.behavior), []).append(table)
        for (name, behavior), tables in rows.items():
            joined = pd.concat(tables, ignore_index=True)
            self._add(name, facts, behavior, joined)
            if name == "dose_response":
                self._add("effects", facts, behavior, steerability(joined, seed=self._config.seed))

    def _finished(
        self, pieces: Sequence[Piece], found: Found, model: ModelConfig, facts: Mapping[str, Any], bar: Any = None
    ) -> list[tuple[Piece, pd.DataFrame]]:
        """Pieces with their tables, in order; what is not kept from before is done."""
        shards = [shard(piece.kind, piece.label, model, facts, piece.arguments(found)) for piece in pieces]
        kept = {one.key: content for one in shards if (content := self._store.get(one.key)) is not None}
        reused = set(kept)
        if bar is not None:
            before = len([one for one in shards if one.key in kept])
            bar.initial += before  # was not done now, so that it does not count for the rate
            bar.update(before)
        self.n_done += len(kept)
        # Two pieces may be the same work, such as two behaviors with the same questions.
        missing = {one.key: one for one in shards if one.key not in kept}
        for done, content in self._executor.run(list(missing.values())):
            self._store.put(done.key, content)
            kept[done.key] = content
            self.n_done += 1
            if bar is not None:
                bar.update(len([one for one in shards if one.key == done.key]))
        tables = []
        for piece, one in zip(pieces, shards, strict=True):
            table, took = decode(kept[one.key])
            record = {"key": one.key, "kind": one.kind, "label": one.label, "model": model.name, **took}
            path = "+".join(sorted(table["path"].unique())) if "path" in table else None
            self._manifest["shards"].append({**record, "path": path, "reused": one.key in reused})
            if "item" in table:
                table["item"] += piece.first
            tables.append((piece, table))
        return tables

    def _add(self, name: str, facts: Mapping[str, Any], behavior: str, table: pd.DataFrame) -> None:
        """Put rows into a table of the run, with model and behavior in front."""
        rows = table.drop(columns=[column for column in ("model", "behavior") if column in table])
        rows.insert(0, "behavior", behavior)
        rows.insert(0, "model", facts["id"])
        self._tables.setdefault(name, []).append(rows)

    def _write_manifest(self, manifest: Mapping[str, Any]) -> None:
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self._folder / "manifest.json", text.encode("utf-8"))
