"""The paper's results, measured again (Rimsky et al. 2024).

1. For each behavior the vector of every layer is the mean over all generate items of (matching - other), read at the
   answer letter, with items kept as published.
2. At every layer the vectors are rescaled to the mean norm over behaviors.
3. Each test item is scored at every layer under multipliers -1, 0 and 1, and at the table's layer also -0.5 and 0.5;
   reported is the mean over items of p(matching) / (p(A) + p(B)).
4. The table is read off at the paper's layer, and the other parts (:mod:`caa_interp.paper.parts`) are measured there.

What a cell may differ by depends on whether the items are the paper's own: see :func:`caa_interp.paper.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.evaluation.judge_requests import Judge
from caa_interp.files import fingerprint
from caa_interp.paper import published as paper
from caa_interp.paper.parts import PARTS, choose_parts
from caa_interp.paper.plan import (
    check_table_layer,
    config_of,
    fitting_parts,
    planned_setting,
    planned_tasks,
    planned_work,
)
from caa_interp.paper.setting import Items, Setting, Tables, read_items
from caa_interp.paper.table import COLUMNS, CONDITIONS, agreement, all_claims, groups, printable
from caa_interp.progress import counting
from caa_interp.report.page import write_report
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.engine import Engine, facts_of
from caa_interp.study.executors import Executor, InProcess
from caa_interp.study.folder import (
    PAGE,
    check_place,
    now,
    opened,
    remove,
    table_files,
    write,
    write_manifest,
    written,
)
from caa_interp.study.measures import vectors_of
from caa_interp.study.tasks import vector_tasks
from caa_interp.vectors.vector import SteeringVector, match_norms

if TYPE_CHECKING:
    import torch


def reproduce(
    folder: str | Path,
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
    executor: Executor | None = None,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Measure the paper's results, and put them beside the published numbers.

    Parameters
    ----------
    folder
        Where ``vectors/`` (raw, of all layers), ``tables/``, ``report.html`` and ``shards/`` are written. What is
        finished there or in the cache, from the same model, data, settings, code and libraries, is used again, so that
        a run that was killed goes on. Vectors, tables and page are those of the last call: what an earlier one wrote
        besides is removed, and its shards stay. ``manifest.json`` tells of which model and data they are.
    data
        As in :func:`caa_interp.paper.read_published_sets`; ``test/mmlu/mmlu.json`` and
        ``test/truthfulqa/truthful_qa.json`` beside them are the exams.
    model_name, dtype
        As in :func:`caa_interp.load_model`. Published numbers exist for Llama 2 7B and 13B Chat; for another model
        there is nothing to compare with, and tables are made at the same relative depth.
    base_name
        The base model of the same shape, whose vectors ``"transfer"`` adds in the chat model. Default: none. Its cells
        are judged only if it is the base model of the paper.
    behaviors
        Some of the paper's seven; default: all. With fewer, norms are matched to another mean, and steered cells are
        not judged.
    layers
        Layers to sweep, 0-based; default: all. For the paper's models the layer of their table must be among them.
    parts
        Some of ``"activations"`` (in two dimensions), ``"sweep"`` (layer sweeps and the multiple-choice table),
        ``"system_prompts"``, ``"finetuning"``, ``"open_ended"`` (answers), ``"exams"`` (MMLU and TruthfulQA),
        ``"similarity"`` (cosines of the vectors), ``"transfer"`` (vectors at other layers, and of the base model) and
        ``"tokens"`` (similarity of tokens, steered states). Default: what needs no training, which is all but
        ``"finetuning"``, as far as the data have what a part needs and the model takes system prompts. No part needs a
        key.
    system_prompts
        JSON file ``{behavior: {"positive": text, "negative": text}}``, of any of the behaviors. Default: the packaged
        behaviors' own, since the paper's texts are not in its data. Their cells are not judged.
    judge
        Rates the open-ended answers from 0 to 10, see :func:`caa_interp.judge_answers`. Default: they have no scores.
    judge_prices
        Price of a million tokens that the judge reads and writes, by which its cost is estimated. Default: it is not.
    executor
        Where pieces of work are done, as in :func:`caa_interp.study.run_experiment`; default: in this process.
    progress
        Show progress bars.
    say
        Called with what a person should know: how much there is to do, the tables, their notes, and where the page is.

    Returns
    -------
    pandas.DataFrame
        The columns of :func:`caa_interp.paper.compare`, and before them ``group``, ``system_prompt`` and ``weights`` as
        in :func:`caa_interp.paper.numbers`. In ``"open_ended"`` what was measured is a score, else p(matching).

    Raises
    ------
    InputError
        If the data are incomplete, a name or layer is unknown, a part lacks what it needs or cannot be put to the
        model, a model has another shape than the paper's of its name, or than its base model, the folder holds results
        of another model or other data or is not empty and holds no run, or another run is writing to it.
    ModelError
        If the executor's workers run another version of this package.

    Notes
    -----
    Rubrics are those of the packaged behaviors, and turned around where a set's matching answer is their negative one,
    as for the paper's survival-instinct; packaged system prompts are, too.
    """
    items = read_items(data, behaviors, judge, system_prompts)
    names, left = choose_parts(parts, items)
    check_table_layer(model_name, layers)
    folder = Path(folder)
    check_place(folder)
    config = config_of(model_name, dtype)
    with opened(folder, say) as (before, store):
        with closing(InProcess()) if executor is None else nullcontext(executor) as place:
            say(f"Loading {model_name}")
            engine = Engine(place, store, config.models[0], facts_of(place, config.models[0]))
            planned = planned_setting(config, items, engine.facts, layers, base_name)
            names, left = fitting_parts(parts, names, left, planned, place)
            # What failed before it made anything leaves the folder free.
            manifest = _begun(folder, before if len(store) or before.get("files") else {}, engine.facts, items)
            work = planned_work(planned, planned_tasks(planned, names), judge_prices)
            say(f"The work, what is finished included:\n{work.to_string(index=False)}")
            with counting(int(work["sequences"].sum()), "Reproducing", progress, unit="sequence") as bar:
                base = {}
                if base_name is not None and "transfer" in names:
                    say(f"Loading {base_name}")
                    base = match_norms(_base_vectors(config_of(base_name, dtype), items, engine, bar))
                raw = _vectors(config, items, engine, bar)
                setting = replace(planned, raw=raw, vectors=match_norms(raw), base=base)
                tables = {name: _measure(name, setting, engine, bar) for name in names}
        remove(folder, written(folder, before))  # other parts, layers or code may have made it
        saved = {f"vectors/{name}.safetensors": vector for name, vector in raw.items()}
        write(folder, manifest, {**saved, **table_files(tables.values())})
        # Only now, since a judge may fail.
        shown = {name: PARTS[name].show(setting, tables[name]) for name in names}
        cells = [one for part in shown.values() for one in part.cells]
        nothing = pd.DataFrame(columns=[*CONDITIONS, *COLUMNS])
        comparison = pd.concat(cells, ignore_index=True) if cells else nothing
        write(folder, manifest, table_files([*(part.tables for part in shown.values()), {"comparison": comparison}]))
        notes = _notes(comparison, setting, left)
        for about, rows in groups(comparison).items():
            if len(told := _told(rows)):
                say(f"\n{about}\n{told.to_string(index=False)}\n")
        for note in [*(f"{about}: {claim}" for about, claim in all_claims(comparison)), *notes]:
            say(note)
        title = f"Rimsky et al. 2024, measured again on {engine.facts['id']}"
        sections = [section for part in shown.values() for section in part.sections]
        manifest["files"][PAGE] = None
        write_manifest(folder, manifest)
        page = write_report(folder / PAGE, title, sections, lead="\n\n".join(notes), contents=2)
        manifest["sessions"][-1]["finished"] = now()
        write_manifest(folder, manifest)
        say(f"The page: {page.resolve()}")
        return comparison


def _begun(folder: Path, before: Mapping[str, Any], facts: Mapping[str, Any], items: Items) -> dict[str, Any]:
    """The folder's manifest with a session that begins; :class:`InputError` if it was of another model or data."""
    model = {name: facts[name] for name in ("id", "revision", "dtype")}
    data = {name: fingerprint([one.generate, one.test]) for name, one in items.sets.items()}
    there = {**before.get("data", {}), **before.get("model", dict.fromkeys(model))} if before else {}
    changed = [
        f"{name} {_short(there[name])}, now {_short(one)}"
        for name, one in {**data, **model}.items()
        if there.get(name, one) != one
    ]
    if changed:
        raise InputError(
            f"folder: {folder} holds results of another model or of other data ({'; '.join(changed)}). Name another "
            "folder; what the two have in common is taken from the cache."
        )
    session = {"started": now(), "finished": None, "code": facts["code"], "versions": facts["versions"]}
    sessions = [*before.get("sessions", []), session]
    manifest = {"model": model, "data": {**before.get("data", {}), **data}, "sessions": sessions}
    write_manifest(folder, {**before, **manifest})  # what is there until this session ends
    return {**manifest, "files": {}}


def _short(value: str | None) -> str:
    """A value as an error shows it: of a digest the first letters, all of a name."""
    text = str(value)
    return text[:12] if len(text) == 64 else text


def _base_vectors(config: ExperimentConfig, items: Items, chat: Engine, bar: Any) -> dict[str, SteeringVector]:
    """The raw vectors of the base model, which must have the chat model's shape."""
    (model,) = config.models
    facts = facts_of(chat.executor, model)
    if differing := [name for name in ("n_layers", "d_model") if facts[name] != chat.facts[name]]:
        told = ", ".join(f"{name} {facts[name]} and {chat.facts[name]}" for name in differing)
        raise InputError(
            f"base: {facts['id']!r} and {chat.facts['id']!r} differ in {told}. Give the chat model's base."
        )
    return _vectors(config, items, Engine(chat.executor, chat.store, model, facts), bar)


def _vectors(config: ExperimentConfig, items: Items, engine: Engine, bar: Any) -> dict[str, SteeringVector]:
    """The raw vector of each behavior at all layers."""
    tasks = vector_tasks(config, items.splits, range(engine.facts["n_layers"]))
    return {task.behavior: vectors_of(table)[task.behavior] for task, table in engine.do(tasks, bar)}


def _measure(name: str, setting: Setting, engine: Engine, bar: Any) -> Tables:
    """Do the tasks of a part; returns its tables."""
    found: dict[str, list[pd.DataFrame]] = {}
    for task, table in engine.do(list(PARTS[name].tasks(setting)), bar):
        found.setdefault(task.table, []).append(table.assign(behavior=task.behavior))
    return {table: pd.concat(some, ignore_index=True) for table, some in found.items()}


def _told(rows: pd.DataFrame) -> pd.DataFrame:
    """Every cell of one layer, or how near the cells of several are."""
    return printable(rows) if rows["layer"].nunique() == 1 else agreement(rows)


def _notes(comparison: pd.DataFrame, setting: Setting, left: Mapping[str, str]) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    sets = setting.items.sets
    if setting.published is None:
        notes.append("There are no published numbers for this model, so nothing is compared.")
    else:
        held = [claim.holds for _, claim in all_claims(comparison)]
        count = f"{sum(held)} of {len(held)}"
        notes.append(f"Of what is claimed about agreement, {count} holds; each claim stands beside its result.")
        if set(sets) != set(paper.BEHAVIORS):
            notes.append(
                f"Norms are matched over {len(sets)} of the paper's {len(paper.BEHAVIORS)} behaviors, so a unit of "
                "multiplier is not the paper's: steered cells are not judged."
            )
    if any(one.split_here for one in sets.values()):
        notes.append("The data came unsplit: the split into generate and test items is not the paper's.")
    sizes = {name: (len(one.generate), len(one.test)) for name, one in sets.items()}
    others = [
        "{} {}/{} (paper: {}/{})".format(name, *own, *paper.SIZES[name])
        for name, own in sizes.items()
        if own != paper.SIZES[name]
    ]
    if others:
        notes.append(f"Numbers of generate/test items that are not the paper's: {', '.join(others)}.")
    absent = ", ".join(f"{name} ({reason})" for name, reason in left.items())
    return [*notes, f"Not measured: {absent}."] if absent else notes
