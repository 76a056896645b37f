"""A whole study into one folder: kept shard by shard, so that it can be killed at any moment and continued.

1. The folder is locked, what a killed run left half-written is removed, and its config compared with the one given.
2. Each model is described; what a result depends on is part of each task's key. Whether the models have all the layers,
   and all that is to be asked fits them, is known before anything is computed.
3. Stages of tasks (:mod:`caa_interp.study.tasks`). Results that are kept from before are read, in the run's folder or
   in the cache; the other tasks are done, and each result is kept the moment it is there.
4. Results are put together to tables, in the order of the config and not in that of the work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.evaluation.response import choose_layer, steerability
from caa_interp.files import write_atomically
from caa_interp.models.loading import revision_of
from caa_interp.progress import counting
from caa_interp.study import folder as run_folder, tasks
from caa_interp.study.chosen import Study
from caa_interp.study.config import ExperimentConfig, ModelConfig
from caa_interp.study.engine import Engine, facts_of
from caa_interp.study.environment import environment, made_of
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.kinds import every_task, remaining_tasks
from caa_interp.study.measures import vectors_of
from caa_interp.study.page import write_page
from caa_interp.study.store import ShardStore
from caa_interp.study.worker import software
from caa_interp.vectors.vector import SteeringVector

N_EXAMPLES = 3  # pairs of each behavior that the page shows


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
    settings, code or libraries change. A study that is finished loads no model and writes nothing. A run that was
    killed and continued has the tables of an uninterrupted one, to the last bit, on the same kind of processor with the
    same number of threads; others may round matrix products differently.
    """
    config = config if isinstance(config, ExperimentConfig) else ExperimentConfig.load(config)
    folder = Path(folder)
    run_folder.check_same_study(config, folder)  # before anything is written there
    with run_folder.opened(folder, say) as (before, store):
        run_folder.check_same_study(config, folder)  # another run may have taken the folder by now
        if not _is_finished(config, folder, before, store):
            try:
                with closing(InProcess()) if executor is None else nullcontext(executor) as place:
                    _run(config, folder, before, store, place, progress, say)
            except KeyboardInterrupt:
                say(f"Stopped. {len(store)} finished pieces of work are kept in {folder}; run it again to go on.")
                raise
            write_page(folder)
            manifest = run_folder.read_manifest(folder, say)
            run_folder.write_manifest(folder, {**manifest, "made_of": made_of(config, manifest["models"])})
    say(f"The page: {(folder / run_folder.PAGE).resolve()}")
    return folder


def _is_finished(config: ExperimentConfig, folder: Path, before: Mapping[str, Any], store: ShardStore) -> bool:
    """Whether nothing is to be done or written: models, data, code, shards and files are those of a finished run."""
    models = {label: _known(label, model, before) for label, model in zip(config.labels, config.models, strict=True)}
    return (
        all(models.values())
        and run_folder.is_finished(folder, before, made_of(config, models))
        and all(store.get(one["key"]) is not None for one in before["shards"])
    )


def _run(
    config: ExperimentConfig,
    folder: Path,
    before: dict[str, Any],
    store: ShardStore,
    executor: Executor,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    """Do all models, then write what was found."""
    manifest: dict[str, Any] = {
        **environment(),
        "models": {},
        "data": config.data,
        "seed": config.seed,
        # One entry each time that the study was started or continued; one that was killed never finished.
        "sessions": [*before.pop("sessions", []), {"started": run_folder.now(), "finished": None}],
        "shards": [],
        "files": {},
    }
    studied: dict[str, tuple[Engine, Study, int]] = {}
    for label, model in zip(config.labels, config.models, strict=True):
        engine = _engine(label, model, before, store, executor, say)
        manifest["models"][label] = engine.facts
        study = Study.planned(config, engine.facts["n_layers"])
        planned = every_task(study)
        engine.do(tasks.check_tasks(config, planned))
        studied[label] = engine, study, sum(map(tasks.cost, planned))
    # Only now: what fails before any work leaves the folder free for the corrected study. Until this session ends,
    # earlier ones made what is there.
    write_atomically(folder / "config.toml", config.to_toml().encode("utf-8"))
    run_folder.write_manifest(folder, manifest | before if before.get("shards") else manifest)
    tables: dict[str, list[pd.DataFrame]] = defaultdict(list)
    vectors: dict[tuple[str, str], SteeringVector] = {}
    for label, (engine, study, n) in studied.items():
        with counting(n, label, progress, unit="sequence") as bar:
            found, made = _measure(study, engine, bar)
        for (name, behavior), table in found.items():
            rows = table.drop(columns=["model", "behavior"], errors="ignore")
            rows.insert(0, "behavior", table["behavior"] if behavior == tasks.EVERY else behavior)
            rows.insert(0, "model", label)
            tables[name].append(rows)
        vectors |= {(label, behavior): vector for behavior, vector in made.items()}
        manifest["shards"] += [{**one, "model": label} for one in engine.made]
    joined = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    run_folder.publish(folder, before, manifest, joined, vectors)


def _engine(
    label: str,
    model: ModelConfig,
    before: Mapping[str, Any],
    store: ShardStore,
    executor: Executor,
    say: Callable[[str], None],
) -> Engine:
    """The engine of a model: with the facts that a finished run kept if they still hold, else with those of now."""
    if known := _known(label, model, before):
        return Engine(executor, store, model, known, described=False)
    kept = before.get("models", {}).get(label, {})
    say(f"Loading {label}")
    facts = facts_of(executor, model)
    if kept and kept.get("revision") != facts["revision"]:
        raise InputError(
            f"folder: {store.folder.parent} holds a run with model {label!r} as it was before (files changed since). "
            "Name another folder."
        )
    if changed := [name for name in facts if kept and kept.get(name) != facts[name]]:
        say(f"{label}: {', '.join(changed)} changed since this run was begun, so its work is done again.")
    return Engine(executor, store, model, facts)


def _known(label: str, model: ModelConfig, before: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a model that a finished run kept, if they still hold; else none."""
    kept: dict[str, Any] = before.get("models", {}).get(label, {})
    revision = revision_of(model.name, model.revision)
    holds = before.get("shards") and revision and {**kept, **software(), "revision": revision} == kept
    return kept if holds else {}


def _measure(
    study: Study, engine: Engine, bar: Any
) -> tuple[dict[tuple[str, str], pd.DataFrame], dict[str, SteeringVector]]:
    """Tables of one model, by name and behavior, and the vector of each behavior."""
    config, splits, layers = study.config, study.splits, study.layers
    rows: dict[tuple[str, str], list[pd.DataFrame]] = defaultdict(list)
    vectors: dict[str, dict[str, SteeringVector]] = {}
    layer: dict[str, int] = {}
    for task, table in engine.do(tasks.vector_tasks(config, splits, layers), bar):
        vectors[task.behavior] = vectors_of(table)
        own = table[table["vector"] == task.behavior]
        rows["reliability", task.behavior].append(own.drop(columns=["vector", "values", "metadata"]))
    for task, table in engine.do(tasks.score_tasks(config, splits, layers, vectors), bar):
        rows[task.table, task.behavior].append(table)
    for behavior, (train, validation, test) in splits.items():
        layer[behavior] = choose_layer(pd.concat(rows["validation", behavior])) if validation else layers[0]
        counts = {"n_train": len(train), "n_validation": len(validation), "n_test": len(test)}
        rows["layers", behavior].append(pd.DataFrame([{"layer": layer[behavior], **counts}]))
        rows["examples", behavior].append(pd.DataFrame(test[:N_EXAMPLES])[["question", "positive", "negative"]])
        swept = pd.concat(rows["sweep", behavior])
        rows["dose_response", behavior].append(swept[swept["layer"] == layer[behavior]])
    for task, table in engine.do(remaining_tasks(replace(study, vectors=vectors, layer=layer)), bar):
        rows[task.table, task.behavior].append(table)
    tables = {place: pd.concat(parts, ignore_index=True) for place, parts in rows.items()}
    for behavior in splits:
        tables["effects", behavior] = steerability(tables["dose_response", behavior], seed=config.seed)
    return tables, {behavior: vectors[behavior][behavior] for behavior in splits}
