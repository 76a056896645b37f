"""The paper's multiple-choice tables and layer sweeps, measured again (Rimsky et al. 2024, sections 3 and 4.1).

1. For each behavior the vector of every layer is the mean over all generate items of (matching - other), read at the
   answer letter, with items kept as published.
2. At every layer the vectors are rescaled to the mean norm over behaviors.
3. Each test item is scored at every layer under multipliers -1, 0 and 1; reported is the mean over items of
   p(matching) / (p(A) + p(B)).
4. The table is read off at the paper's layer.

What a cell may differ by depends on whether the items are the paper's own: see :func:`caa_interp.paper.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import summarize
from caa_interp.files import write_atomically
from caa_interp.models.access import check_layers
from caa_interp.paper import published as paper
from caa_interp.paper.sets import PublishedSet, read_published_sets
from caa_interp.paper.table import claims, compare, printable
from caa_interp.plotting.reproduction import plot_layer_sweep, plot_reproduction
from caa_interp.progress import counting
from caa_interp.report.page import Section, write_report
from caa_interp.study.config import Controls, ExperimentConfig, ModelConfig
from caa_interp.study.engine import Engine
from caa_interp.study.executors import InProcess
from caa_interp.study.measures import vectors_of
from caa_interp.study.store import ShardStore, shard_cache
from caa_interp.study.tasks import Splits, cost, score_tasks, vector_tasks
from caa_interp.vectors.vector import SteeringVector, match_norms

NOT_MEASURED = (
    "Only the multiple-choice results are measured here. The paper's open-ended answers, system prompts, fine-tuned "
    "models, MMLU and TruthfulQA are not."
)


def reproduce(
    folder: str | Path,
    data: str | Path,
    *,
    model_name: str = paper.LLAMA_2_7B_CHAT.name,
    behaviors: Sequence[str] = paper.BEHAVIORS,
    layers: Sequence[int] | None = None,
    dtype: str | None = None,
    progress: bool = False,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Measure the paper's multiple-choice table and layer sweeps, and put them beside the published numbers.

    Parameters
    ----------
    folder
        Where ``vectors/`` (raw, of all layers), ``tables/``, ``report.html`` and ``shards/`` are written. What is
        finished there or in the cache, from the same model, data, settings, code and libraries, is used again, so that
        a run that was killed goes on.
    data
        As in :func:`caa_interp.paper.read_published_sets`.
    model_name, dtype
        As in :func:`caa_interp.load_model`. Published numbers exist for Llama 2 7B and 13B Chat; for another model
        there is nothing to compare with, and the table is read off at the same relative depth.
    behaviors
        Some of the paper's seven; default: all. With fewer, norms are matched to another mean, and steered cells are
        not judged.
    layers
        Layers to sweep, 0-based; default: all. For the paper's models the layer of their table must be among them.
    progress
        Show progress bars.
    say
        Called with what a person should know: the table, its notes, and where the page is.

    Returns
    -------
    pandas.DataFrame
        As in :func:`caa_interp.paper.compare`.

    Raises
    ------
    InputError
        If the data are incomplete, a name or layer is unknown, or a model named like the paper's has another shape.
    """
    folder = Path(folder)
    sets = read_published_sets(data, behaviors)
    _check_table_layer(paper.published_model(model_name), layers)
    config = ExperimentConfig(
        models=(ModelConfig(name=model_name, dtype=dtype),),  # type: ignore[arg-type]
        multipliers=paper.MULTIPLIERS,
        controls=Controls(random=0, shuffled=0),
    )
    with closing(InProcess()) as executor:
        say(f"Loading {model_name}")
        facts = executor.describe(config.models[0])
        published = paper.published_model(facts["id"])
        swept, layer = _layers(facts, published, layers)
        engine = Engine(executor, ShardStore(folder / "shards", shard_cache(), say), config.models[0], facts)
        raw, table = _measure(config, engine, sets, swept, progress)
    for name, vector in raw.items():
        vector.save(folder / "vectors" / f"{name}.safetensors")
    summary = summarize(table)
    comparison = compare(summary, layer, published, same_items=all(one.are_the_papers for one in sets.values()))
    for name, result in {"sweep": table, "summary": summary, "comparison": comparison}.items():
        write_atomically(folder / "tables" / f"{name}.parquet", result.to_parquet(index=False))
    notes = _notes(comparison, sets, published)
    say("\n" + printable(comparison).to_string(index=False) + "\n")
    for note in notes:
        say(note)
    page = _write_page(folder, summary, comparison, sets, notes, published)
    say(f"The page: {page.resolve()}")
    return comparison


def _check_table_layer(published: paper.PublishedModel | None, layers: Sequence[int] | None) -> None:
    if published and layers is not None and published.layer not in layers:
        raise InputError(
            f"layers: {list(layers)}; the paper's table of {published.name} is at layer {published.layer}. Add it."
        )


def _layers(
    facts: Mapping[str, Any], published: paper.PublishedModel | None, layers: Sequence[int] | None
) -> tuple[list[int], int]:
    """Layers to sweep, and that of the table."""
    _check_table_layer(published, layers)
    depth, width = facts["n_layers"], facts["d_model"]
    if published and (depth, width) != (published.n_layers, published.d_model):
        raise InputError(
            f"model: it is called {facts['id']!r} but has {depth} layers of width {width}; {published.name} has "
            f"{published.n_layers} of width {published.d_model}. Give that model, or rename the folder of this one."
        )
    swept = check_layers(layers, range(depth), "the model")
    # For other models, the layer at the same relative depth as layer 13 of Llama 2 7B Chat; no score is looked at.
    reference = published or paper.LLAMA_2_7B_CHAT
    return swept, min(swept, key=lambda layer: abs(layer - reference.layer / reference.n_layers * depth))


def _measure(
    config: ExperimentConfig, engine: Engine, sets: Mapping[str, PublishedSet], layers: Sequence[int], progress: bool
) -> tuple[dict[str, SteeringVector], pd.DataFrame]:
    """The raw vector of each behavior at all layers, and the scores of its test items at some."""
    splits: Splits = {name: (list(one.generate), [], list(one.test)) for name, one in sets.items()}
    extraction = vector_tasks(config, splits, range(engine.facts["n_layers"]))
    unknown: Any = {name: {name: None} for name in sets}
    n = sum(map(cost, [*extraction, *score_tasks(config, splits, layers, unknown)]))
    with counting(n, "Reproducing", progress, unit="sequence") as bar:
        raw = {task.behavior: vectors_of(table)[task.behavior] for task, table in engine.do(extraction, bar)}
        matched = {name: {name: vector} for name, vector in match_norms(raw).items()}
        scores = engine.do(score_tasks(config, splits, layers, matched), bar)
    return raw, pd.concat([table.assign(behavior=task.behavior) for task, table in scores], ignore_index=True)


def _notes(
    comparison: pd.DataFrame, sets: Mapping[str, PublishedSet], published: paper.PublishedModel | None
) -> list[str]:
    """What a reader of the numbers must know."""
    notes = []
    if published is None:
        notes.append("There are no published numbers for this model, so nothing is compared.")
    else:
        notes += [f"{claim.text}: {'yes' if claim.holds else 'NO'}." for claim in claims(comparison)]
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
    return [*notes, NOT_MEASURED]


def _write_page(
    folder: Path,
    summary: pd.DataFrame,
    comparison: pd.DataFrame,
    sets: Mapping[str, PublishedSet],
    notes: Sequence[str],
    published: paper.PublishedModel | None,
) -> Path:
    layer = int(comparison["layer"].iloc[0])
    compared = "paper against measured" if comparison["paper"].notna().any() else "measured"
    sections = [
        Section(
            f"Multiple-choice table at layer {layer}: {compared}",
            "Mean p(matching) / (p(A) + p(B)) over test items, with the vector of this layer added after it, as in "
            "the paper's code.",
            plot_reproduction(comparison),
            printable(comparison),
        )
    ]
    sections += [
        Section(
            f"Layer sweep: {name}",
            f"The vector of each layer, from {len(one.generate)} items, is added after that layer and scored on "
            f"{len(one.test)} test items.",
            plot_layer_sweep(summary, published.scores() if published else None, behavior=name),
        )
        for name, one in sets.items()
    ]
    title = f"Rimsky et al. 2024, measured again on {summary['model'].iloc[0]}"
    return write_report(folder / "report.html", title, sections, lead=" ".join(notes))
