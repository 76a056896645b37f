"""What a study consists of, for one model: pieces of work in stages, each of which needs those before it.

0. Of every behavior: whether all that is to be asked fits the model, before anything is computed.
1. Of every behavior: the vectors, from train pairs.
2. Validation pairs and test pairs scored under the vector, at all layers and multipliers.
3. The layer is chosen on validation pairs. There: controls, answers, costs, side effects and readings of the vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.behaviors.questions import load_prose, load_questions
from caa_interp.evaluation.dose_response import split_behavior
from caa_interp.models.access import check_layers
from caa_interp.study.config import ExperimentConfig
from caa_interp.vectors.vector import SteeringVector

# Small enough that little is lost with a killed worker, large enough that what questions share is read once for many.
ITEMS_PER_SHARD = 10
# Of each unsteered answer, this many are compared.
DIVERGENCE_TOKENS = 32


@dataclass(frozen=True)
class Found:
    """What earlier stages found.

    Attributes
    ----------
    vectors
        Of each behavior: its vector and the controls, by name.
    layer
        The chosen layer of each behavior.
    """

    vectors: Mapping[str, Mapping[str, SteeringVector]]
    layer: Mapping[str, int]


@dataclass(frozen=True)
class Piece:
    """One shard to be, and where its rows belong.

    Attributes
    ----------
    table, behavior
        Table of the run, and behavior that its rows are about.
    first
        Number of its first item among the items of the behavior.
    kind, label
        As in :class:`caa_interp.study.shards.Shard`.
    arguments
        Makes the shard's arguments from what was found before.
    """

    table: str
    behavior: str
    first: int
    kind: str
    label: str
    arguments: Callable[[Found], Mapping[str, Any]]


class Plan:
    """The pieces of a study of one model.

    Parameters
    ----------
    config
        The study.
    behaviors
        Its behaviors by name.
    n_layers
        Number of layers of the model.

    Raises
    ------
    InputError
        If the model has not all the layers, or a behavior too few pairs.
    """

    def __init__(self, config: ExperimentConfig, behaviors: Mapping[str, Behavior], n_layers: int) -> None:
        self._config, self._behaviors = config, behaviors
        self.layers = check_layers(config.layers, range(n_layers), "the model")
        self._n_layers = n_layers
        self._prose = load_prose()[: config.costs.passages]
        self._questions = _spread(load_questions("capability"), config.costs.questions)
        self.splits = {
            name: split_behavior(
                name, one, self.layers, config.n_train, config.n_validation, config.n_test, config.seed
            )
            for name, one in behaviors.items()
        }

    def tokens(self) -> list[Piece]:
        """Stage before all others."""
        config = self._config
        n_prompts = max(config.answers.prompts, config.costs.prompts)
        answered = config.answers.max_new_tokens if config.answers.prompts else 0
        compared = DIVERGENCE_TOKENS if config.costs.prompts else 0
        return [
            Piece(
                "tokens",
                name,
                0,
                "tokens",
                f"{name}: whether all fits the model",
                lambda _, name=name, parts=parts: {  # type: ignore[misc]
                    "pairs": [pair for part in parts for pair in part] + self._questions,
                    "prompts": self._behaviors[name].open_ended[:n_prompts],
                    "max_new_tokens": max(answered, compared, 1),
                    **self._asked,
                },
            )
            for name, parts in self.splits.items()
        ]

    def vectors(self) -> list[Piece]:
        """First stage."""
        config = self._config
        return [
            Piece(
                "vectors",
                name,
                0,
                "vectors",
                f"{name}: vectors of {len(train)} pairs",
                lambda _, name=name, train=train: {  # type: ignore[misc]
                    "behavior": name,
                    "pairs": train,
                    "layers": self.layers,
                    "estimator": config.estimator,
                    "n_random": config.controls.random,
                    "n_orthogonal": config.controls.orthogonal,
                    "n_shuffled": config.controls.shuffled,
                    "seed": config.seed,
                    **self._asked,
                },
            )
            for name, (train, _, _) in self.splits.items()
        ]

    def scores(self) -> list[Piece]:
        """Second stage."""
        config, pieces = self._config, []
        ends = (min(config.multipliers), max(config.multipliers))
        for name, (_, validation, test) in self.splits.items():
            # A layer is chosen by its response between the ends; the doses between them say nothing about that.
            for table, pairs, doses in (("validation", validation, ends), ("sweep", test, config.multipliers)):
                pieces += self._scored(
                    table,
                    name,
                    pairs,
                    doses,
                    lambda found, name=name: {  # type: ignore[misc]
                        "vector": {name: found.vectors[name][name]},
                        "layers": self.layers,
                    },
                )
        return pieces

    def rest(self) -> list[Piece]:
        """Third stage."""
        pieces = []
        for name, (_, _, test) in self.splits.items():
            controls = self._config.controls
            if controls.random + controls.orthogonal + controls.shuffled:
                doses = self._config.multipliers
                pieces += self._scored(
                    "dose_response",
                    name,
                    test,
                    doses,
                    lambda found, name=name: {  # type: ignore[misc]
                        "vector": {key: one for key, one in found.vectors[name].items() if key != name},
                        "layers": [found.layer[name]],
                    },
                )
            pieces += self._answers(name)
            pieces += self._readings(name, test)
            pieces += self._costs(name)
            pieces += self._side_effects(name, test)
        return pieces

    @property
    def _asked(self) -> dict[str, Any]:
        return {"format": self._config.format, "system_prompt": self._config.system_prompt}

    @property
    def _steered(self) -> dict[str, Any]:
        return {"operator": self._config.operator, "positions": self._config.positions}

    def _scored(
        self,
        table: str,
        behavior: str,
        pairs: Sequence[ContrastPair],
        multipliers: Sequence[float],
        steered: Callable[[Found], Mapping[str, Any]],
    ) -> list[Piece]:
        """Pieces that score pairs under vectors."""
        return [
            Piece(
                table,
                behavior,
                first,
                "sweep",
                f"{behavior}: {table.replace('_', ' ')}, pairs {first + 1} to {first + len(part)}",
                lambda found, part=part: {  # type: ignore[misc]
                    **steered(found),
                    "pairs": part,
                    "multipliers": multipliers,
                    **self._steered,
                    **self._asked,
                },
            )
            for first, part in _portions(pairs)
        ]

    def _answers(self, behavior: str) -> list[Piece]:
        config = self._config.answers
        prompts = self._behaviors[behavior].open_ended[: config.prompts]
        return [
            Piece(
                "answers",
                behavior,
                first,
                "answers",
                f"{behavior}: answers {first + 1} to {first + len(part)}",
                lambda found, part=part: {  # type: ignore[misc]
                    "prompts": part,
                    "vector": found.vectors[behavior][behavior],
                    "layer": found.layer[behavior],
                    "multipliers": config.multipliers,
                    "max_new_tokens": config.max_new_tokens,
                    **config.model_dump(include={"n", "temperature", "top_p", "seed"}),
                    "system_prompt": self._config.system_prompt,
                    **self._steered,
                },
            )
            for first, part in _portions(prompts)
        ]

    def _readings(self, behavior: str, test: Sequence[ContrastPair]) -> list[Piece]:
        def lens(found: Found) -> dict[str, Any]:
            return {"vector": found.vectors[behavior][behavior], "layers": [found.layer[behavior]]}

        def points(found: Found) -> dict[str, Any]:
            # Where activations begin to part is about a third of the way in (Rimsky et al. 2024, section 6).
            shown = {self._n_layers // 6, self._n_layers // 3, found.layer[behavior]}
            return {"behavior": behavior, "pairs": test, "layers": sorted(shown), **self._asked}

        pieces = [Piece("logit_lens", behavior, 0, "logit_lens", f"{behavior}: logit lens", lens)]
        if len(test) > 1:
            pieces.append(Piece("projection", behavior, 0, "projection", f"{behavior}: projection", points))
        return pieces

    def _costs(self, behavior: str) -> list[Piece]:
        costs = self._config.costs
        prompts = self._behaviors[behavior].open_ended[: costs.prompts]
        given: dict[str, dict[str, Any]] = {
            "perplexity": {"passages": self._prose},
            "divergence": {
                "prompts": prompts,
                "n_tokens": DIVERGENCE_TOKENS,
                "system_prompt": self._config.system_prompt,
            },
            "capability": {"questions": self._questions, **self._asked},
        }
        return [
            Piece(
                kind,
                behavior,
                0,
                kind,
                f"{behavior}: {kind}",
                lambda found, asked=asked: {  # type: ignore[misc]
                    "vector": {behavior: found.vectors[behavior][behavior]},
                    "layers": [found.layer[behavior]],
                    "multipliers": self._config.multipliers,
                    **self._steered,
                    **asked,
                },
            )
            for kind, asked in given.items()
            if next(iter(asked.values()))
        ]

    def _side_effects(self, behavior: str, test: Sequence[ContrastPair]) -> list[Piece]:
        """Every vector's effect on one behavior; with one behavior there is nothing aside."""
        pairs = test[: self._config.side_effects.pairs]
        if len(self._behaviors) < 2 or not pairs:
            return []
        ends = sorted({min(self._config.multipliers), 0.0, max(self._config.multipliers)})
        return [
            Piece(
                "side_effects",
                behavior,
                0,
                "side_effects",
                f"{behavior}: under every vector",
                lambda found: {
                    "vectors": {name: of[name] for name, of in found.vectors.items()},
                    "layers": dict(found.layer),
                    "behaviors": {behavior: pairs},
                    "multipliers": ends,
                    **self._steered,
                    **self._asked,
                },
            )
        ]


def _portions(items: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
    """Items in portions, each with the number of its first one."""
    return [(first, items[first : first + ITEMS_PER_SHARD]) for first in range(0, len(items), ITEMS_PER_SHARD)]


def _spread(items: Sequence[ContrastPair], n: int) -> list[ContrastPair]:
    """``n`` of the items, evenly spread: those of one subject stand together."""
    n = min(n, len(items))
    return [items[number * len(items) // n] for number in range(n)]
