"""What a reproduction is to do, before there are vectors: its settings, its tasks, and how much work they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from caa_interp.behaviors.behavior import load_behavior
from caa_interp.errors import InputError, listed
from caa_interp.evaluation.baselines import SIDES
from caa_interp.evaluation.judging import estimate_cost
from caa_interp.models.access import check_layers
from caa_interp.paper import published as paper
from caa_interp.paper.parts import PARTS
from caa_interp.paper.setting import Items, Setting, placeholders
from caa_interp.study.config import Controls, ExperimentConfig, ModelConfig
from caa_interp.study.executors import Executor
from caa_interp.study.tasks import Task, cost, vector_tasks

if TYPE_CHECKING:
    import torch


def config_of(model_name: str | Path, dtype: torch.dtype | str | None) -> ExperimentConfig:
    """The study's settings of a model."""
    number_type: Any = None if dtype is None else str(dtype).removeprefix("torch.")
    model = ModelConfig(name=str(model_name), dtype=number_type)
    return ExperimentConfig(models=(model,), multipliers=paper.MULTIPLIERS, controls=Controls(random=0, shuffled=0))


def planned_setting(
    config: ExperimentConfig,
    items: Items,
    facts: Mapping[str, Any],
    layers: int | Sequence[int] | None,
    base_name: str | Path | None,
) -> Setting:
    """The setting before there are vectors."""
    published = paper.published_model(config.models[0].name)
    swept, layer = _layers(facts, published, layers)
    vectors = placeholders(list(items.sets), facts["n_layers"], facts["d_model"])
    base = vectors if base_name is not None else {}
    return Setting(config, items, facts["n_layers"], swept, layer, published, vectors, vectors, base, base_name)


def fitting_parts(
    parts: Sequence[str] | None, names: list[str], left: dict[str, str], setting: Setting, executor: Executor
) -> tuple[list[str], dict[str, str]]:
    """What :func:`~caa_interp.paper.parts.choose_parts` chose, without system prompts that the model cannot be given.

    By default they are left out with the reason; if ``parts`` names them, it is an :class:`InputError`.
    """
    if "system_prompts" not in names:
        return names, left
    try:
        for _ in executor.run(setting.config.models[0], list(_prompt_checks(setting))):
            pass
    except InputError as error:
        others = [name for name in names if name != "system_prompts"]
        if parts is not None:
            rest = f"only the other parts, {', '.join(others)}" if others else "other parts"
            raise InputError(f"parts: 'system_prompts' do not go with this model. {error} Name {rest}.") from error
        reasons = {**left, "system_prompts": f"they do not go with this model: {str(error).removesuffix('.')}"}
        return others, {name: reasons[name] for name in PARTS if name in reasons}
    return names, left


def _prompt_checks(setting: Setting) -> Iterator[Task]:
    """Tasks that fail if a system prompt cannot be put to the model, with the items that are asked under it."""
    for name, one in setting.items.sets.items():
        for side in SIDES:
            asked: dict[str, Any] = {"pairs": one.test, "prompts": {}, "conversations": [], "max_new_tokens": 1}
            asked |= {**setting.config.asked, "system_prompt": setting.items.system_prompts[name][side]}
            yield Task("tokens", "tokens", name, 0, f"{name}: whether the {side} system prompt fits the model", asked)


def planned_tasks(setting: Setting, names: Sequence[str]) -> dict[str, list[Task]]:
    """Tasks of the vectors and of each part."""
    vectors = vector_tasks(setting.config, setting.items.splits, range(setting.n_layers))
    base = len(vectors) if setting.base and "transfer" in names else 0
    return {"vectors": [*vectors, *vectors[:base]]} | {name: list(PARTS[name].tasks(setting)) for name in names}


def planned_work(
    setting: Setting, planned: Mapping[str, Sequence[Task]], prices: tuple[float, float] | None
) -> pd.DataFrame:
    """Pieces, sequences and judge's requests of each part of :func:`planned_tasks`; with prices also what it costs."""
    rows = []
    for name, tasks in planned.items():
        calls, money = _judging(setting, tasks, prices or (0.0, 0.0))
        row = {"part": name, "pieces": len(tasks), "sequences": sum(map(cost, tasks)), "judge_requests": calls}
        rows.append({**row, "judge_cost": round(money, 2)} if prices else row)
    return pd.DataFrame(rows)


def _judging(setting: Setting, tasks: Sequence[Task], prices: tuple[float, float]) -> tuple[int, float]:
    """Number and price of the judge's replies, if all answers are different and as long as they can be."""
    calls, money = 0, 0.0
    for task in tasks:
        if setting.items.judge is None or not task.arguments.get("prompts"):
            continue
        longest = "word" * task.arguments["max_new_tokens"]  # of about one token each
        texts = [
            (prompt, f"{m} {longest}") for prompt in task.arguments["prompts"] for m in task.arguments["multipliers"]
        ]
        answers = pd.DataFrame(texts, columns=["prompt", "answer"])
        rubric = load_behavior(task.behavior).rubric
        asked = estimate_cost(answers, rubric, setting.items.judge, price_in=prices[0], price_out=prices[1])
        calls, money = calls + asked.n_calls, money + asked.cost
    return calls, money


def check_table_layer(model_name: str | Path, layers: int | Sequence[int] | None) -> None:
    """Raise :class:`InputError` unless the layer of the paper's table is among those to sweep."""
    published = paper.published_model(model_name)
    if published and layers is not None and published.layer not in listed(layers):
        raise InputError(
            f"layers: {listed(layers)}; the paper's table of {published.name} is at layer {published.layer}. Add it."
        )


def _layers(
    facts: Mapping[str, Any], published: paper.PublishedModel | None, layers: int | Sequence[int] | None
) -> tuple[list[int], int]:
    """Layers to sweep, and that of the table."""
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
