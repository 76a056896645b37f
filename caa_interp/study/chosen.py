"""The study of one model, and what each measurement of it asks: a function for each, as the registry lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, Self

from caa_interp.behaviors.behavior import Behavior, load_behavior, load_behaviors
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.behaviors.questions import load_prose, load_questions, load_requests
from caa_interp.models.access import check_layers
from caa_interp.steering.operators import ends, operator_named
from caa_interp.study.config import ExperimentConfig, studied_behavior
from caa_interp.study.tasks import EVERY, Splits, Task, Vectors, portions, score_portions, split_behaviors, task_of

# Number of tokens of each unsteered answer that are compared.
DIVERGENCE_TOKENS = 32
# Random vectors of an audit, and the longest answer to one of its requests.
AUDIT_RANDOM, AUDIT_TOKENS = 5, 40


@dataclass(frozen=True)
class Study:
    """The study of a model with ``n_layers``, of which it sweeps ``layers``.

    ``vectors`` and ``layer`` are those of each behavior; of one that is only :meth:`planned`, what stands for them.
    """

    config: ExperimentConfig
    behaviors: Mapping[str, Behavior]
    n_layers: int
    layers: Sequence[int]
    splits: Splits
    vectors: Vectors
    layer: Mapping[str, int]

    @classmethod
    def planned(cls, config: ExperimentConfig, n_layers: int) -> Self:
        """A study before anything is made: vectors have names alone, and the first layer stands for a chosen one.

        Raises :class:`InputError` if the model lacks a layer.
        """
        behaviors = {one.name: one for one in map(studied_behavior, config.behaviors)}
        layers = check_layers(config.layers, range(n_layers), "the model")
        splits = split_behaviors(config, behaviors, layers)
        controls = [f"{kind} {number}" for kind, n in config.controls.model_dump().items() for number in range(n)]
        vectors: Any = {name: dict.fromkeys([name, *controls]) for name in splits}
        return cls(config, behaviors, n_layers, layers, splits, vectors, dict.fromkeys(splits, layers[0]))

    @property
    def tests(self) -> dict[str, list[ContrastPair]]:
        """Test pairs of each behavior."""
        return {name: test for name, (_, _, test) in self.splits.items()}

    @property
    def own(self) -> dict[str, Any]:
        """The vector of each behavior."""
        return {name: self.vectors[name][name] for name in self.splits}

    @property
    def prompts(self) -> dict[str, Sequence[str]]:
        """Open-ended questions of each behavior along whose unsteered answers the model is compared, if any."""
        asked = {name: one.open_ended[: self.config.costs.prompts] for name, one in self.behaviors.items()}
        return {name: prompts for name, prompts in asked.items() if prompts}

    @property
    def along(self) -> dict[str, Any]:
        """How these are answered."""
        return {"n_tokens": DIVERGENCE_TOKENS, "system_prompt": self.config.system_prompt}

    def dosed(self, name: str) -> dict[str, Any]:
        """A behavior's vector at its layer and all multipliers."""
        at = {"vector": {name: self.own[name]}, "layers": [self.layer[name]]}
        return {**at, "multipliers": self.config.multipliers, **self.config.applied}


def controls(study: Study) -> Iterator[Task]:
    """The dose-response of control vectors."""
    for name, test in study.tests.items():
        if others := {other: one for other, one in study.vectors[name].items() if other != name}:
            yield from score_portions(study.config, "dose_response", name, test, study.dosed(name) | {"vector": others})


def answers(study: Study) -> Iterator[Task]:
    """Free answers."""
    given = study.config.answers
    alone = {"system_prompt": study.config.system_prompt}  # what is answered freely has no format
    sampled = {**given.model_dump(exclude={"prompts"}), **alone, **study.config.applied}
    for name, behavior in study.behaviors.items():
        for first, part in portions(behavior.open_ended[: given.prompts]):
            steered = {"prompts": part, "vector": study.own[name], "layer": study.layer[name]}
            label = f"answers {first + 1} to {first + len(part)}"
            yield task_of("answers", name, label, {**steered, **sampled}, first)


def logit_lens(study: Study) -> Iterator[Task]:
    """The tokens that vectors write."""
    for name, vector in study.own.items():
        yield task_of("logit_lens", name, "logit lens", {"vector": vector, "layers": [study.layer[name]]})


def projection(study: Study) -> Iterator[Task]:
    """Activations of test pairs, where several differ."""
    for name, test in study.tests.items():
        # Where activations begin to part is about a third of the way in (Rimsky et al. 2024, section 6).
        shown = sorted({study.n_layers // 6, study.n_layers // 3, study.layer[name]})
        if len(set(test)) > 1:
            given = {"behavior": name, "pairs": test, "layers": shown, **study.config.asked}
            yield task_of("projection", name, "projection", given)


def separation(study: Study) -> Iterator[Task]:
    """Test pairs along the vector at its layer, where several differ."""
    for name, test in study.tests.items():
        if len(set(test)) > 1:
            given = {"pairs": test, "vector": study.own[name], "layer": study.layer[name], **study.config.asked}
            yield task_of("separation", name, "separation", given)


def perplexity(study: Study) -> Iterator[Task]:
    """Neutral prose."""
    if passages := load_prose()[: study.config.costs.passages]:
        for name in study.splits:
            yield task_of("perplexity", name, "perplexity", {"passages": passages, **study.dosed(name)})


def divergence(study: Study) -> Iterator[Task]:
    """How far vectors and controls move the unsteered model's answers."""
    for name, prompts in study.prompts.items():
        # The controls share the work, and say what any vector would do for its cost.
        given = {**study.dosed(name), "vector": study.vectors[name]}
        yield task_of("divergence", name, "divergence", {"prompts": prompts, **study.along, **given})


def effect_lens(study: Study) -> Iterator[Task]:
    """What vectors and controls make the model say."""
    doses = ends([operator_named(study.config.operator)])
    for name, prompts in study.prompts.items():
        # The controls share the work, and say what any vector would do.
        given = {**study.dosed(name), "vector": study.vectors[name], "multipliers": doses}
        yield task_of("effect_lens", name, "effect lens", {**given, "texts": prompts, **study.along})


def capability(study: Study) -> Iterator[Task]:
    """Questions with a right answer."""
    if questions := spread_questions(study.config):
        for name in study.splits:
            given = {"questions": questions, **study.config.asked, **study.dosed(name)}
            yield task_of("capability", name, "capability", given)


def spread_questions(config: ExperimentConfig) -> list[ContrastPair]:
    """The packaged questions of a study, evenly spread, because those of one subject are adjacent."""
    questions = load_questions("capability")
    n = min(config.costs.questions, len(questions))
    return [questions[number * len(questions) // n] for number in range(n)]


def side_effects(study: Study) -> Iterator[Task]:
    """Every behavior under every vector, where there are several."""
    n, doses = study.config.side_effects.pairs, study.config.multipliers
    outer = sorted({min(doses), 0.0, max(doses)})
    if n and len(study.splits) > 1:
        for name, test in study.tests.items():
            given = {"vectors": study.own, "layers": dict(study.layer), "behaviors": {name: test[:n]}}
            under = {**given, "multipliers": outer, **study.config.applied, **study.config.asked}
            yield task_of("side_effects", name, "under every vector", under)


def interference(study: Study) -> Iterator[Task]:
    """Every two vectors at once."""
    both = study.config.interference
    in_turn = chain.from_iterable(zip_longest(*(one.open_ended for one in study.behaviors.values())))
    prompts = [one for one in in_turn if one is not None][: both.prompts]
    if both.pairs and len(study.splits) > 1 and prompts:
        # One task, since finding the multipliers of every two vectors takes most of the time.
        given = {"vectors": study.own, "layers": dict(study.layer), "positions": study.config.positions}
        scored = {name: test[: both.pairs] for name, test in study.tests.items()}
        at = {"target": both.target, "prompts": prompts, "n_tokens": DIVERGENCE_TOKENS}
        at |= {"questions": spread_questions(study.config), "behaviors": scored}
        yield task_of("interference", EVERY, "every two vectors", {**given, **at, **study.config.asked})


def safety_audit(study: Study) -> Iterator[Task]:
    """What vectors have to do with refusal."""
    audited = study.config.safety_audit
    if not audited.requests:
        return
    # All texts, because a worker that read some by itself would find others where they were changed.
    packaged = {name: one.test for name, one in load_behaviors().items()}
    given: dict[str, Any] = {
        "multipliers": study.config.multipliers,
        "requests": {kind: some[: audited.requests] for kind, some in load_requests().items()},
        "refusal": study.vectors.get("refusal") or load_behavior("refusal").train,
        **{"n_random": AUDIT_RANDOM, "n_answers": audited.answers, "max_new_tokens": AUDIT_TOKENS},
        **{"seed": study.config.seed, **study.config.applied, **study.config.asked},
    }
    for name, test in study.tests.items():
        tests = {other: pairs[: audited.pairs] for other, pairs in {**packaged, name: test}.items()}
        own = {"vector": study.own[name], "layer": study.layer[name], "behaviors": tests}
        yield task_of("safety_audit", name, "safety audit", {**own, **given})


def persistence(study: Study) -> Iterator[Task]:
    """Conversations, in which each pair takes each turn if there are as many conversations as turns."""
    talks = study.config.conversations
    steered = {"multiplier": talks.multiplier, "max_new_tokens": talks.max_new_tokens, **study.config.applied}
    steered["system_prompt"] = study.config.system_prompt
    for name, test in study.tests.items() if talks.conversations else ():
        n_talks = min(talks.conversations, len(test))  # others would be copies
        told_of = test[: max(n_talks, talks.turns)]  # no more, so that turns differ in nothing but their place
        told = [[told_of[(n + m) % len(told_of)] for m in range(talks.turns)] for n in range(n_talks)]
        given = {"conversations": told, "vector": study.vectors[name], "layer": study.layer[name]}
        yield task_of("persistence", name, "effect over turns", {**given, **steered})
