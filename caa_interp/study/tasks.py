"""What a study asks of one model: tasks in stages, each of which takes the results of those before.

1. :func:`check_tasks`: whether all that the others ask fits the model, before anything is computed.
2. :func:`vector_tasks`: each behavior's vector, from train pairs, and its controls.
3. :func:`score_tasks`: validation pairs and test pairs under the vector, at all layers and multipliers.
4. Those of each measurement (:mod:`caa_interp.study.chosen`), at the layer that was chosen on validation pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.evaluation.persistence import CONDITIONS
from caa_interp.evaluation.response import outermost
from caa_interp.evaluation.splits import split_behavior
from caa_interp.files import fingerprint
from caa_interp.study.config import ExperimentConfig
from caa_interp.vectors.vector import SteeringVector

# Small enough that little is lost with a killed worker, large enough that what questions share is read once for many.
ITEMS_PER_TASK = 10
# In the time of how many scored pairs an item is read, the turn of a conversation with all turns before it, or vectors
# calibrated on one prompt; how many tokens are written in the time of one; and from one, a vector is learned.
_WEIGHTS = {"pairs": 1, "train": 1, "prompts": 1, "texts": 1, "passages": 5, "questions": 1 / 3}
_TURN, _CALIBRATION, _WRITTEN, _LEARNED = 2, 20, 12, 40

EVERY = "every behavior"  # of a task whose own table says which of them a row belongs to

# Train, validation and test pairs of each behavior; its vector and controls, by name.
Splits = Mapping[str, tuple[list[ContrastPair], list[ContrastPair], list[ContrastPair]]]
Vectors = Mapping[str, Mapping[str, SteeringVector]]


@dataclass(frozen=True)
class Task:
    """One piece of work: its result depends on nothing but ``kind``, ``arguments`` and the model.

    ``kind`` names one of :data:`caa_interp.study.kinds.KINDS`, whose function is called with ``arguments``. The rows go
    to ``table`` and belong to ``behavior``, or to those that the rows name (:data:`EVERY`); ``first`` is the number of
    their first item there. ``label`` is for people.
    """

    kind: str
    table: str
    behavior: str
    first: int
    label: str
    arguments: Mapping[str, Any]


def key(task: Task, facts: Mapping[str, Any]) -> str:
    """Return the sha256 of all that determines a task's result; ``facts`` are those of model, code and libraries."""
    return fingerprint([task.kind, facts, task.arguments])


def cost(task: Task) -> int:
    """About how many pairs the model scores in that time: each item under each vector, layer and multiplier."""
    asked = task.arguments
    pairs, requests = asked.get("behaviors", {}).values(), asked.get("requests", {}).values()
    n_items = sum(weight * len(asked.get(name, ())) for name, weight in _WEIGHTS.items())
    n_items += sum(map(len, [*pairs, *requests]))
    # Without multipliers nothing is steered, and one reading serves all layers.
    varied = ("vector", "layers", "multipliers") if "multipliers" in asked else ()
    n_doses = prod(len(asked[name]) for name in varied if isinstance(asked.get(name), Sized))
    n_conditions = n_doses * (2 + asked["n_random"] if "n_random" in asked else 1)
    n_conditions *= 1 + len(asked.get("combinations", ()))
    if "target" in asked:
        n_conditions = len(asked["vectors"]) * (len(asked["vectors"]) + 1) // 2  # each, and every two
        n_items += _CALIBRATION * len(asked["prompts"])
    n_answers = len(requests) * asked.get("n_answers", 0) + len(asked.get("prompts", ())) + len(asked.get("texts", ()))
    n_written = n_answers * asked.get("n_tokens", 0)  # by the unsteered model alone
    n_written += n_answers * asked.get("n", 1) * n_doses * asked.get("max_new_tokens", 0)
    n_learned = len(asked["train"]) if task.kind == "rivals" and asked["method"] == "learned vector" else 0
    if task.kind == "persistence":
        n_turns, n_steered = sum(map(len, asked["conversations"])), len(CONDITIONS) * len(asked["vector"]) + 1
        n_items, n_conditions = _TURN * n_turns, n_steered
        n_written = n_turns * n_steered * asked["max_new_tokens"]
    return max(1, round(n_items * n_conditions + n_written / _WRITTEN + n_learned * _LEARNED))


def split_behaviors(config: ExperimentConfig, behaviors: Mapping[str, Behavior], layers: Sequence[int]) -> Splits:
    """Split each behavior's pairs; with one layer, none are set apart to choose it."""
    given = config.n_train, config.n_validation, config.n_test, config.seed
    return {name: split_behavior(name, one, layers, *given) for name, one in behaviors.items()}


def check_tasks(config: ExperimentConfig, planned: Sequence[Task]) -> list[Task]:
    """Tasks that fail if something that the ``planned`` ones ask does not fit the model."""
    pairs: dict[ContrastPair, None] = {}
    prompts: dict[str, int] = {}
    for asked in (task.arguments for task in planned):
        refusal = asked.get("refusal", ())
        parts = [asked.get("pairs", ()), asked.get("questions", ()), *asked.get("behaviors", {}).values()]
        pairs |= dict.fromkeys(chain(*parts, () if isinstance(refusal, Mapping) else refusal))
        n_new = asked.get("max_new_tokens", asked.get("n_tokens", 0))
        for prompt in chain(asked.get("prompts", ()), asked.get("texts", ()), *asked.get("requests", {}).values()):
            prompts[prompt] = max(prompts.get(prompt, 0), n_new)
    talks = [one for task in planned for one in task.arguments.get("conversations", ())]
    every = {"pairs": list(pairs), "prompts": prompts, "conversations": talks, **config.asked}
    every["max_new_tokens"] = config.conversations.max_new_tokens
    tasks = [Task("tokens", "tokens", "", 0, "whether all fits the model", every)]
    for one, asked in ((task, task.arguments) for task in planned if task.kind == "rivals"):
        if asked["method"] == "learned vector":
            continue  # needs nothing that the study's own vector does not
        under = {**every, "method": asked["method"], "pairs": [], "prompts": {}, "conversations": []}
        if asked["text"] is not None:
            under |= {"pairs": asked["pairs"], "prompts": dict.fromkeys(asked["prompts"], asked["n_tokens"])}
            under["system_prompt"] = asked["text"]
        label = f"whether {asked['method']} goes with the model"
        tasks.append(Task("rival_tokens", "tokens", one.behavior, 0, label, under))
    return tasks


def vector_tasks(config: ExperimentConfig, splits: Splits, layers: Sequence[int]) -> list[Task]:
    """Tasks that make the vectors, with controls and how reliable they are."""
    asked = {
        "layers": layers,
        "estimator": config.estimator,
        "controls": config.controls.model_dump(),
        "seed": config.seed,
        **config.asked,
    }
    return [
        task_of("vectors", name, f"vectors of {len(train)} pairs", {"behavior": name, "pairs": train, **asked})
        for name, (train, _, _) in splits.items()
    ]


def score_tasks(config: ExperimentConfig, splits: Splits, layers: Sequence[int], vectors: Vectors) -> list[Task]:
    """Tasks that score pairs at each layer."""
    tasks: list[Task] = []
    for name, (_, validation, test) in splits.items():
        steered = {"vector": {name: vectors[name][name]}, "layers": layers, **config.applied}
        tasks += score_portions(
            config, "validation", name, validation, {**steered, "multipliers": outermost(config.multipliers)}
        )
        tasks += score_portions(config, "sweep", name, test, {**steered, "multipliers": config.multipliers})
    return tasks


def task_of(kind: str, behavior: str, label: str, arguments: Mapping[str, Any], first: int = 0) -> Task:
    """A task whose table is named by its kind."""
    return Task(kind, kind, behavior, first, f"{behavior}: {label}", arguments)


def score_portions(
    config: ExperimentConfig, table: str, behavior: str, pairs: Sequence[ContrastPair], steered: Mapping[str, Any]
) -> Iterator[Task]:
    """Tasks that score pairs under vectors, for one of the tables of sweeps."""
    for first, part in portions(pairs):
        label = f"{behavior}: {table.replace('_', ' ')}, pairs {first + 1} to {first + len(part)}"
        yield Task("sweep", table, behavior, first, label, {"pairs": part, **config.asked, **steered})


def portions(items: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Items in portions, each with the number of its first one."""
    for first in range(0, len(items), ITEMS_PER_TASK):
        yield first, items[first : first + ITEMS_PER_TASK]
