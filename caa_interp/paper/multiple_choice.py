"""The paper's multiple-choice results: its table and sweeps, system prompts, fine-tuning, exams, and moved vectors.

Each is scored as in :mod:`caa_interp.paper.reproduction`, with

1. the vector of each layer after that layer;
2. a system prompt for the behavior, or against it;
3. weights that were trained on the answers of one side;
4. other questions: MMLU and TruthfulQA, whose matching answer is the right one (mean over categories);
5. the vector of the table's layer after other layers, and the vectors of the base model in the chat model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from caa_interp.analysis.similarity import cosine_similarity
from caa_interp.evaluation.summary import summarize
from caa_interp.paper import published as paper
from caa_interp.paper.open_ended import SCORED, judged, score_cells
from caa_interp.paper.setting import Setting, Shown, Tables, result
from caa_interp.paper.table import OTHER, SAME, agreement, claims
from caa_interp.plotting.reproduction import plot_layer_sweep
from caa_interp.plotting.similarity import plot_cosine_similarity
from caa_interp.report.page import Section
from caa_interp.study.tasks import Task, score_tasks
from caa_interp.vectors.vector import SteeringVector

# The paper's names of the sides.
SIDES = {"positive": "pos", "negative": "neg"}
EXAM_NAMES = {"mmlu": "MMLU", "truthful_qa": "TruthfulQA"}
# Why cells are not judged.
OTHER_PROMPTS = "other system prompts"
TRAINED_AGAIN = "weights trained anew"
OTHER_BASE = "another base model"
_SCORE = "Mean p(matching) / (p(A) + p(B)) over test items"


def sweep_tasks(setting: Setting) -> Iterator[Task]:
    """Each behavior's vectors at their own layers; at the table's, also under the multipliers between."""
    own = {name: {name: vector} for name, vector in setting.vectors.items()}
    yield from score_tasks(setting.config, setting.items.splits, setting.swept, own)
    between = [multiplier for multiplier in paper.TABLE_MULTIPLIERS if multiplier not in paper.MULTIPLIERS]
    for name, one in setting.items.sets.items():
        yield from setting.scored("between", name, one.test, multipliers=between)


def show_sweep(setting: Setting, tables: Tables) -> Shown:
    """A sweep of each behavior, and the table at one layer."""
    summary = summarize(tables["sweep"])
    own = pd.concat([summary[summary["layer"] == setting.layer], summarize(tables["between"])])
    own = pd.concat([rows.sort_values("multiplier") for _, rows in own.groupby("behavior", sort=False)])
    at_layer = setting.beside(own, "ab")
    everywhere = setting.beside(summary, "layer_sweep")
    text = f"{_SCORE}, with the vector of this layer added after it, as in the paper's code."
    told = "The vector of each layer is added after that layer."
    known = setting.published.results("layer_sweep", "ab") if setting.published else None
    sections = _sweeps(setting, "Layer sweep", told, summary, everywhere, known)
    return Shown([*sections, result("Multiple-choice table", text, at_layer)], [everywhere, at_layer])


def system_prompt_tasks(setting: Setting) -> Iterator[Task]:
    """The table's layer with either system prompt."""
    for name, one in setting.items.sets.items():
        for side in SIDES:
            prompt = setting.items.system_prompts[name][side]
            asked: dict[str, Any] = {"multipliers": paper.TABLE_MULTIPLIERS, "system_prompt": prompt}
            yield from setting.scored(f"prompt_{side}", name, one.test, **asked)


def show_system_prompts(setting: Setting, tables: Tables) -> Shown:
    """A table with either system prompt."""
    text = (
        "What a system prompt for the behavior, or against it, does alone, and what the vector adds to it. The "
        "multiple-choice table is the same without one. The texts below need not be the paper's, which its data do not "
        "hold, so that no agreement is claimed of these cells."
    )
    prompts = pd.DataFrame(setting.items.system_prompts).T.rename_axis("behavior").reset_index()
    sections, cells = [Section("System prompts", text, table=prompts)], []
    for side, short in SIDES.items():
        own = setting.beside(summarize(tables[f"prompt_{side}"]), "ab", system_prompt=short, basis=OTHER_PROMPTS)
        sections.append(result(f"{side.capitalize()} system prompt", "", own, level=3))
        cells.append(own)
    return Shown(sections, cells)


def finetuning_tasks(setting: Setting) -> Iterator[Task]:
    """For each behavior and side one task, since a model is trained in it."""
    for name, one in setting.items.sets.items():
        for side in SIDES:
            label = f"{name}: trained on the {side} answers"
            asked = {"pairs": one.test, "train": one.generate, "side": side, **setting.steered(name)}
            asked |= {"prompts": one.open_ended, "max_new_tokens": paper.MAX_NEW_TOKENS}
            asked["format"] = setting.config.format
            yield Task("tuned", f"tuned_{side}", name, 0, label, asked)


def show_finetuning(setting: Setting, tables: Tables) -> Shown:
    """For each side a table, and one of its judged answers if there is a judge."""
    text = (
        "All weights are trained for one epoch on the answer letter of either side, by SGD with a rate of 1e-4; the "
        "table's vector, made in the untrained model, is added on top. These are not the paper's trained weights, so "
        "that no agreement is claimed of these cells. Answers to open-ended questions are in tables/tuned_*.parquet."
    )
    sections, cells, kept = [Section("Fine-tuning", text)], [], {}
    for side in SIDES:
        table = tables[f"tuned_{side}"]
        free = table["answer"].notna()
        own = setting.beside(summarize(table[~free]), "finetuning_ab", weights=side, basis=TRAINED_AGAIN)
        sections.append(result(f"Trained on the {side} answers", "", own, level=3))
        cells.append(own)
        if free.any() and setting.items.judge is not None:
            answers = table[free].dropna(axis=1, how="all").infer_objects()
            kept[f"judged_tuned_{side}"] = judged(setting, answers, setting.items.judge)
            own = score_cells(setting, kept[f"judged_tuned_{side}"], "finetuning_open_ended", side)
            sections.append(result(f"Trained on the {side} answers: judged", "", own, level=3, **SCORED))
            cells.append(own)
    return Shown(sections, cells, kept)


def exam_tasks(setting: Setting) -> Iterator[Task]:
    """Each exam under all vectors, which share what is read."""
    for name, exam in setting.items.exams.items():
        yield from setting.scored(name, "", exam.questions, vector=dict(setting.vectors))


def show_exams(setting: Setting, tables: Tables) -> Shown:
    """For each exam a table, and one of its categories."""
    sections, cells = [], []
    for name, exam in setting.items.exams.items():
        table = tables[name].assign(behavior=tables[name]["vector"], category=tables[name]["topic"].fillna(""))
        basis = SAME if setting.items.are_the_papers and exam.are_the_papers else OTHER
        summary = summarize(table, equal="category")
        unsteered = SAME if exam.are_the_papers else None
        own = setting.beside(summary, name, basis=basis, unsteered=unsteered, n_theirs=paper.EXAM_SIZES[name])
        title, score = EXAM_NAMES[name], "p(right) / (p(A) + p(B))"
        text = (
            f"Mean over {table['category'].nunique()} categories of the mean {score} over their questions, "
            f"{len(exam.questions)} in all, with the vector of each behavior added after layer {setting.layer}. "
            "Intervals are bootstrap intervals over questions."
        )
        told = "Unsteered mean, and how it changes under each vector at multipliers \N{MINUS SIGN}1 and +1."
        sections += [
            result(title, text, own, axis=f"mean {score}"),
            Section("By category", told, table=_by_category(table), level=3),
        ]
        cells.append(own)
    return Shown(sections, cells)


def _by_category(table: pd.DataFrame) -> pd.DataFrame:
    """Questions and unsteered mean of each category, and what each vector changes."""
    means = table.pivot_table("p_positive", ["category", "vector"], "multiplier")
    told = means[[-1.0, 1.0]].sub(means[0.0], axis=0).map("{:+z.3f}".format)
    changes = (told[-1.0] + ", " + told[1.0]).unstack()[table["vector"].unique()]
    unsteered = table[table["multiplier"] == 0].groupby("category", sort=False)
    shown = unsteered.agg(questions=("item", "nunique"), unsteered=("p_positive", "mean"))
    return shown.assign(unsteered=shown["unsteered"].map("{:.2f}".format)).join(changes).reset_index()


def transfer_tasks(setting: Setting) -> Iterator[Task]:
    """The vector of the table's layer at all swept layers, and the base model's at their own."""
    for name, one in setting.items.sets.items():
        vector, swept = setting.vectors[name], tuple(setting.swept)
        about = {**vector.metadata, "source_layer": setting.layer}
        moved = SteeringVector(vector.at(setting.layer).repeat(len(swept), 1), swept, about)
        yield from setting.scored("moved", name, one.test, vector={name: moved}, layers=setting.swept)
        if setting.base:
            given = {"vector": {name: setting.base[name]}, "layers": setting.swept}
            yield from setting.scored("base_vectors", name, one.test, kind="transferred", **given)


def show_transfer(setting: Setting, tables: Tables) -> Shown:
    """Sweeps of moved vectors; of the base model's also how alike they are to the chat model's."""
    told = {
        "moved": (
            f"The vector of layer {setting.layer} at other layers",
            f"The vector of layer {setting.layer} is added after each layer in turn, without rescaling.",
            "layer_13_vector",
        ),
        "base_vectors": (
            "Vectors of the base model",
            "Vectors made in the base model, with norms matched among themselves, are added after their own layers of "
            "the chat model. No agreement is claimed unless the base model is the paper's.",
            "base_model_vector",
        ),
    }
    published = setting.published
    the_papers = bool(published and setting.base_name and paper.same_name(published.base, setting.base_name))
    sections, cells = [], []
    for name in tables:
        heading, text, group = told[name]
        summary = summarize(tables[name])
        own = setting.beside(summary, group, basis=None if the_papers or name == "moved" else OTHER_BASE)
        known = setting.published.results(group) if setting.published else None
        sections += _sweeps(setting, heading, text, summary, own, known)
        cells.append(own)
    for name, base in setting.base.items():
        both = cosine_similarity({"base": base, "chat": setting.vectors[name]}, between="vectors")
        sections.append(Section(f"Base and chat: {name}", "", plot_cosine_similarity(both), level=3, half=True))
    return Shown(sections, cells)


def _sweeps(
    setting: Setting,
    heading: str,
    text: str,
    summary: pd.DataFrame,
    cells: pd.DataFrame,
    known: pd.DataFrame | None,
) -> list[Section]:
    """What is added, how near all cells are to the paper's, and a figure of each behavior."""
    title = heading[0].lower() + heading[1:]
    near, claimed = agreement(cells), list(map(str, claims(cells)))
    figures = [
        Section(name, "", plot_layer_sweep(summary, known, behavior=name, title=title), level=3, half=True)
        for name in setting.items.sets
    ]
    sizes = "; ".join(f"{name}: {len(one.test)}" for name, one in setting.items.sets.items())
    table = near if len(near) else None
    return [Section(heading, f"{text} {_SCORE} ({sizes}).", table=table, points=claimed), *figures]
