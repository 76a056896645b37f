"""What a study asks of one model: tasks in stages, each of which takes the results of those before.

1. :func:`check_tasks`: whether all that the others ask fits the model, before anything is computed.
2. :func:`vector_tasks`: each behavior's vector, from train pairs, and its controls.
3. :func:`score_tasks`: validation pairs and test pairs under the vector, at all layers and multipliers.
4. :func:`remaining_tasks`, at the layer that was chosen on validation pairs: controls, answers, costs, side effects and
   readings of the vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import prod
from typing import Any

from caa_interp.behaviors.behavior import Behavior, load_behavior, load_behaviors
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.behaviors.questions import load_prose, load_questions, load_requests
from caa_interp.evaluation.persistence import CONDITIONS
from caa_interp.evaluation.response import outermost
from caa_interp.evaluation.splits import split_behavior
from caa_interp.files import fingerprint
from caa_interp.steering.operators import grows, operator_named
from caa_interp.study.config import ExperimentConfig
from caa_interp.vectors.vector import SteeringVector

# Small enough that little is lost with a killed worker, large enough that what questions share is read once for many.
ITEMS_PER_TASK = 10
# Number of tokens of each unsteered answer that are compared.
DIVERGENCE_TOKENS = 32
# Random vectors of an audit, and the longest answer to one of its requests.
AUDIT_RANDOM, AUDIT_TOKENS = 5, 40
# In the time of how many scored pairs an item is read, the turn of a conversation with all turns before it, or vectors
# calibrated on one prompt; and how many tokens are written in the time of one.
_WEIGHTS = {"pairs": 1, "train": 1, "prompts": 1, "texts": 1, "passages": 5, "questions": 1 / 3}
_TURN, _CALIBRATION, _WRITTEN = 2, 20, 12

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
    if "target" in asked:
        n_conditions = len(asked["vectors"]) * (len(asked["vectors"]) + 1) // 2  # each, and every two
        n_items += _CALIBRATION * len(asked["prompts"])
    n_answers = len(requests) * asked.get("n_answers", 0) + len(asked.get("prompts", ())) + len(asked.get("texts", ()))
    n_written = n_answers * asked.get("n_tokens", 0)  # by the unsteered model alone
    n_written += n_answers * asked.get("n", 1) * n_doses * asked.get("max_new_tokens", 0)
    if task.kind == "persistence":
        n_turns, n_steered = sum(map(len, asked["conversations"])), len(CONDITIONS) * len(asked["vector"]) + 1
        n_items, n_conditions = _TURN * n_turns, n_steered
        n_written = n_turns * n_steered * asked["max_new_tokens"]
    return max(1, round(n_items * n_conditions + n_written / _WRITTEN))


def split_pairs(config: ExperimentConfig, behaviors: Mapping[str, Behavior], layers: Sequence[int]) -> Splits:
    """Split each behavior's pairs; with one layer, none are set apart to choose it."""
    given = config.n_train, config.n_validation, config.n_test, config.seed
    return {name: split_behavior(name, one, layers, *given) for name, one in behaviors.items()}


def check_tasks(config: ExperimentConfig, planned: Sequence[Task]) -> list[Task]:
    """The task that fails if something that the ``planned`` ones ask does not fit the model."""
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
    every = {"pairs": list(pairs), "prompts": prompts, "conversations": talks, **_asked(config)}
    every["max_new_tokens"] = config.conversations.max_new_tokens
    return [Task("tokens", "tokens", "", 0, "whether all fits the model", every)]


def vector_tasks(config: ExperimentConfig, splits: Splits, layers: Sequence[int]) -> list[Task]:
    """Tasks that make the vectors, with controls and how reliable they are."""
    asked = {
        "layers": layers,
        "estimator": config.estimator,
        "controls": config.controls.model_dump(),
        "seed": config.seed,
        **_asked(config),
    }
    return [
        _task("vectors", name, f"vectors of {len(train)} pairs", {"behavior": name, "pairs": train, **asked})
        for name, (train, _, _) in splits.items()
    ]


def score_tasks(config: ExperimentConfig, splits: Splits, layers: Sequence[int], vectors: Vectors) -> list[Task]:
    """Tasks that score pairs at each layer."""
    tasks: list[Task] = []
    for name, (_, validation, test) in splits.items():
        steered = {"vector": {name: vectors[name][name]}, "layers": layers, **_applied(config)}
        tasks += _scores(
            config, "validation", name, validation, {**steered, "multipliers": outermost(config.multipliers)}
        )
        tasks += _scores(config, "sweep", name, test, {**steered, "multipliers": config.multipliers})
    return tasks


def remaining_tasks(
    config: ExperimentConfig,
    behaviors: Mapping[str, Behavior],
    splits: Splits,
    n_layers: int,
    vectors: Vectors,
    layer: Mapping[str, int],
) -> list[Task]:
    """Tasks at the chosen ``layer`` of each behavior; ``n_layers`` is the number of the model's."""
    multipliers = config.multipliers
    applied, asked = _applied(config), _asked(config)
    alone = {"system_prompt": config.system_prompt}  # what is answered freely has no format
    prose, questions = load_prose()[: config.costs.passages], _questions(config)
    tasks: list[Task] = []
    for name, (_, _, test) in splits.items():
        controls = {other: one for other, one in vectors[name].items() if other != name}
        steered = {"vector": {name: vectors[name][name]}, "layers": [layer[name]]}
        dosed: dict[str, Any] = {**steered, "multipliers": multipliers, **applied}
        open_ended = behaviors[name].open_ended
        if controls:
            tasks += _scores(config, "dose_response", name, test, {**dosed, "vector": controls})
        sampled = {**config.answers.model_dump(exclude={"prompts"}), **alone, **applied}
        for first, part in portions(open_ended[: config.answers.prompts]):
            given = {"prompts": part, "vector": vectors[name][name], "layer": layer[name], **sampled}
            tasks.append(_task("answers", name, f"answers {first + 1} to {first + len(part)}", given, first))
        read = {"vector": vectors[name][name], "layers": [layer[name]]}
        tasks.append(_task("logit_lens", name, "logit lens", read))
        if len(test) > 1:
            # Where activations begin to part is about a third of the way in (Rimsky et al. 2024, section 6).
            shown = sorted({n_layers // 6, n_layers // 3, layer[name]})
            points = {"behavior": name, "pairs": test, "layers": shown, **asked}
            tasks.append(_task("projection", name, "projection", points))
        if prose:
            tasks.append(_task("perplexity", name, "perplexity", {"passages": prose, **dosed}))
        if prompts := open_ended[: config.costs.prompts]:
            # The controls share the work, and say what any vector would do for its cost.
            several = {"vector": vectors[name], "layers": [layer[name]]}
            compared = {"prompts": prompts, "n_tokens": DIVERGENCE_TOKENS, **alone, **dosed, **several}
            tasks.append(_task("divergence", name, "divergence", compared))
            # What is complete at multiplier 1 has no opposite.
            ends = (-1.0, 1.0) if grows(operator_named(config.operator)) else (0.0, 1.0)
            said = {"texts": prompts, "n_tokens": DIVERGENCE_TOKENS, "multipliers": ends, **alone, **applied}
            tasks.append(_task("effect_lens", name, "effect lens", {**said, **several}))
        if questions:
            tasks.append(_task("capability", name, "capability", {"questions": questions, **asked, **dosed}))
        audited, talks = config.safety_audit, config.conversations
        if audited.requests:
            own = {"vector": vectors[name][name], "layer": layer[name], "multipliers": multipliers}
            # All texts, because a worker that read some by itself would find others where they were changed.
            texts: dict[str, Any] = {"requests": _requests(config), "behaviors": _tests(config, {name: test})}
            texts |= {"refusal": vectors.get("refusal") or load_behavior("refusal").train, "seed": config.seed}
            sizes = {"n_random": AUDIT_RANDOM, "n_answers": audited.answers, "max_new_tokens": AUDIT_TOKENS}
            tasks.append(_task("safety_audit", name, "safety audit", {**own, **texts, **sizes, **applied, **asked}))
        if talks.conversations:
            told = [[test[(n + m) % len(test)] for m in range(talks.turns)] for n in range(talks.conversations)]
            given = {"conversations": told, "vector": vectors[name], "layer": layer[name], **alone, **applied}
            given |= talks.model_dump(include={"multiplier", "max_new_tokens"})
            tasks.append(_task("persistence", name, "effect over turns", given))
        pairs = test[: config.side_effects.pairs]
        if pairs and len(splits) > 1:  # a single behavior has no others
            own = {"vectors": {other: vectors[other][other] for other in splits}, "layers": dict(layer)}
            doses = sorted({min(multipliers), 0.0, max(multipliers)})
            under = {**own, "behaviors": {name: pairs}, "multipliers": doses, **applied, **asked}
            tasks.append(_task("side_effects", name, "under every vector", under))
    both = config.interference
    in_turn = chain.from_iterable(zip_longest(*(behaviors[name].open_ended for name in splits)))
    prompts = [one for one in in_turn if one is not None][: both.prompts]
    if both.pairs and len(splits) > 1 and prompts:
        # One task, since finding the multipliers of every two vectors takes most of the time.
        scored = {name: test[: both.pairs] for name, (_, _, test) in splits.items()}
        own = {"vectors": {name: vectors[name][name] for name in splits}, "layers": dict(layer)}
        at = {"target": both.target, "prompts": prompts, "n_tokens": DIVERGENCE_TOKENS, "questions": questions}
        beside = {**own, **at, "behaviors": scored, "positions": config.positions, **asked}
        tasks.append(_task("interference", EVERY, "every two vectors", beside))
    return tasks


def planned_tasks(
    config: ExperimentConfig, behaviors: Mapping[str, Behavior], splits: Splits, layers: Sequence[int], n_layers: int
) -> list[Task]:
    """All tasks but those of :func:`check_tasks`, as far as they are known beforehand: without vectors."""
    controls = [f"{kind} {number}" for kind, n in config.controls.model_dump().items() for number in range(n)]
    vectors: Any = {name: dict.fromkeys([name, *controls]) for name in splits}
    return [
        *vector_tasks(config, splits, layers),
        *score_tasks(config, splits, layers, vectors),
        *remaining_tasks(config, behaviors, splits, n_layers, vectors, dict.fromkeys(splits, layers[0])),
    ]


def _task(kind: str, behavior: str, label: str, arguments: Mapping[str, Any], first: int = 0) -> Task:
    """A task whose table is named by its kind."""
    return Task(kind, kind, behavior, first, f"{behavior}: {label}", arguments)


def _scores(
    config: ExperimentConfig, table: str, behavior: str, pairs: Sequence[ContrastPair], steered: Mapping[str, Any]
) -> Iterator[Task]:
    """Tasks that score pairs under vectors, for one of the tables of sweeps."""
    for first, part in portions(pairs):
        label = f"{behavior}: {table.replace('_', ' ')}, pairs {first + 1} to {first + len(part)}"
        yield Task("sweep", table, behavior, first, label, {"pairs": part, **steered, **_asked(config)})


def _asked(config: ExperimentConfig) -> dict[str, Any]:
    return {"format": config.format, "system_prompt": config.system_prompt}


def _applied(config: ExperimentConfig) -> dict[str, Any]:
    return {"operator": config.operator, "positions": config.positions}


def _questions(config: ExperimentConfig) -> list[ContrastPair]:
    """The packaged questions of a study, evenly spread, because those of one subject are adjacent."""
    questions = load_questions("capability")
    n = min(config.costs.questions, len(questions))
    return [questions[number * len(questions) // n] for number in range(n)]


def _requests(config: ExperimentConfig) -> dict[str, list[str]]:
    """The requests of a safety audit."""
    return {kind: some[: config.safety_audit.requests] for kind, some in load_requests().items()}


def _tests(config: ExperimentConfig, own: Mapping[str, Sequence[ContrastPair]]) -> dict[str, Sequence[ContrastPair]]:
    """Test pairs of the packaged behaviors and of a study's ``own`` for a safety audit."""
    tests = {name: one.test for name, one in load_behaviors().items()} | dict(own)
    return {name: pairs[: config.safety_audit.pairs] for name, pairs in tests.items()}


def portions(items: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    """Items in portions, each with the number of its first one."""
    for first in range(0, len(items), ITEMS_PER_TASK):
        yield first, items[first : first + ITEMS_PER_TASK]
