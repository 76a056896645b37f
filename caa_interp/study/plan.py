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
# Number of tokens of each unsteered answer that are compared.
DIVERGENCE_TOKENS = 32


@dataclass(frozen=True)
class Found:
    """Results of earlier stages: each behavior's vector and controls, by name, and its chosen layer."""

    vectors: Mapping[str, Mapping[str, SteeringVector]]
    layer: Mapping[str, int]


@dataclass(frozen=True)
class Piece:
    """A shard to be made, the table and behavior that its rows belong to, and the number of its first item there.

    ``kind`` and ``label`` are as in :class:`caa_interp.study.shards.Shard`; ``arguments`` makes the shard's arguments
    from the results of earlier stages.
    """

    table: str
    behavior: str
    first: int
    kind: str
    label: str
    arguments: Callable[[Found], Mapping[str, Any]]


class Plan:
    """The pieces of a study of one model with ``n_layers`` layers; ``behaviors`` are the study's, by name.

    Raises :class:`InputError` if the model lacks a layer, or a behavior has too few pairs.
    """

    def __init__(self, config: ExperimentConfig, behaviors: Mapping[str, Behavior], n_layers: int) -> None:
        self._config, self._behaviors = config, behaviors
        self.layers = check_layers(config.layers, range(n_layers), "the model")
        self._n_layers = n_layers
        self._asked: dict[str, Any] = {"format": config.format, "system_prompt": config.system_prompt}
        self._steered: dict[str, Any] = {"operator": config.operator, "positions": config.positions}
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
        pieces = []
        for name, parts in self.splits.items():
            pairs = [pair for part in parts for pair in part] + self._questions
            prompts = self._behaviors[name].open_ended[:n_prompts]
            asked = {"pairs": pairs, "prompts": prompts, "max_new_tokens": max(answered, compared, 1), **self._asked}
            pieces.append(_piece("tokens", name, "whether all fits the model", asked))
        return pieces

    def vectors(self) -> list[Piece]:
        """First stage."""
        config = self._config
        asked = {
            "layers": self.layers,
            "estimator": config.estimator,
            **{f"n_{kind}": n for kind, n in config.controls.model_dump().items()},
            "seed": config.seed,
            **self._asked,
        }
        return [
            _piece("vectors", name, f"vectors of {len(train)} pairs", {"behavior": name, "pairs": train, **asked})
            for name, (train, _, _) in self.splits.items()
        ]

    def scores(self) -> list[Piece]:
        """Second stage."""
        # A layer is chosen by its response between the ends; the multipliers between them say nothing about that.
        multipliers = self._config.multipliers
        ends = (min(multipliers), max(multipliers))
        pieces = []
        for name, (_, validation, test) in self.splits.items():

            def steered(found: Found, name: str = name) -> Mapping[str, Any]:
                return {"vector": {name: found.vectors[name][name]}, "layers": self.layers}

            pieces += self._scored("validation", name, validation, ends, steered)
            pieces += self._scored("sweep", name, test, multipliers, steered)
        return pieces

    def rest(self) -> list[Piece]:
        """Third stage."""
        return [
            piece
            for name, (_, _, test) in self.splits.items()
            for pieces in (
                self._controls(name, test),
                self._answers(name),
                self._readings(name, test),
                self._costs(name),
                self._side_effects(name, test),
            )
            for piece in pieces
        ]

    def _scored(
        self,
        table: str,
        behavior: str,
        pairs: Sequence[ContrastPair],
        multipliers: Sequence[float],
        steered: Callable[[Found], Mapping[str, Any]],
    ) -> list[Piece]:
        """Pieces that score pairs under vectors."""
        asked = {"multipliers": multipliers, **self._steered, **self._asked}
        return [
            _piece(
                "sweep",
                behavior,
                f"{table.replace('_', ' ')}, pairs {first + 1} to {first + len(part)}",
                {"pairs": part, **asked},
                steered,
                table=table,
                first=first,
            )
            for first, part in _portions(pairs)
        ]

    def _controls(self, behavior: str, test: Sequence[ContrastPair]) -> list[Piece]:
        def steered(found: Found) -> Mapping[str, Any]:
            controls = {name: one for name, one in found.vectors[behavior].items() if name != behavior}
            return {"vector": controls, "layers": [found.layer[behavior]]}

        controls = self._config.controls
        if not controls.random + controls.orthogonal + controls.shuffled:
            return []
        return self._scored("dose_response", behavior, test, self._config.multipliers, steered)

    def _answers(self, behavior: str) -> list[Piece]:
        config = self._config.answers
        asked = {"system_prompt": self._config.system_prompt, **config.model_dump(exclude={"prompts"}), **self._steered}
        return [
            _piece(
                "answers",
                behavior,
                f"answers {first + 1} to {first + len(part)}",
                {"prompts": part, **asked},
                lambda found: {"vector": found.vectors[behavior][behavior], "layer": found.layer[behavior]},
                first=first,
            )
            for first, part in _portions(self._behaviors[behavior].open_ended[: config.prompts])
        ]

    def _readings(self, behavior: str, test: Sequence[ContrastPair]) -> list[Piece]:
        def lens(found: Found) -> Mapping[str, Any]:
            return {"vector": found.vectors[behavior][behavior], "layers": [found.layer[behavior]]}

        def shown(found: Found) -> Mapping[str, Any]:
            # Where activations begin to part is about a third of the way in (Rimsky et al. 2024, section 6).
            return {"layers": sorted({self._n_layers // 6, self._n_layers // 3, found.layer[behavior]})}

        points = {"behavior": behavior, "pairs": test, **self._asked}
        pieces = [_piece("logit_lens", behavior, "logit lens", {}, lens)]
        return pieces + ([_piece("projection", behavior, "projection", points, shown)] if len(test) > 1 else [])

    def _costs(self, behavior: str) -> list[Piece]:
        def steered(found: Found) -> Mapping[str, Any]:
            return {"vector": {behavior: found.vectors[behavior][behavior]}, "layers": [found.layer[behavior]]}

        prompts = self._behaviors[behavior].open_ended[: self._config.costs.prompts]
        asked_alone = {"n_tokens": DIVERGENCE_TOKENS, "system_prompt": self._config.system_prompt}
        given: dict[str, dict[str, Any]] = {
            "perplexity": {"passages": self._prose},
            "divergence": {"prompts": prompts, **asked_alone},
            "capability": {"questions": self._questions, **self._asked},
        }
        asked = {"multipliers": self._config.multipliers, **self._steered}
        return [
            _piece(kind, behavior, kind, {**of_kind, **asked}, steered)
            for kind, of_kind in given.items()
            if next(iter(of_kind.values()))
        ]

    def _side_effects(self, behavior: str, test: Sequence[ContrastPair]) -> list[Piece]:
        """Every vector's effect on one behavior; a single behavior has no others."""

        def steered(found: Found) -> Mapping[str, Any]:
            return {"vectors": {name: of[name] for name, of in found.vectors.items()}, "layers": dict(found.layer)}

        doses, pairs = self._config.multipliers, test[: self._config.side_effects.pairs]
        if len(self._behaviors) < 2 or not pairs:
            return []
        asked = {"behaviors": {behavior: pairs}, "multipliers": sorted({min(doses), 0.0, max(doses)})}
        asked |= {**self._steered, **self._asked}
        return [_piece("side_effects", behavior, "under every vector", asked, steered)]


def _piece(
    kind: str,
    behavior: str,
    label: str,
    asked: Mapping[str, Any],
    steered: Callable[[Found], Mapping[str, Any]] = lambda _: {},
    table: str | None = None,
    first: int = 0,
) -> Piece:
    return Piece(
        table or kind, behavior, first, kind, f"{behavior}: {label}", lambda found: {**steered(found), **asked}
    )


def _portions(items: Sequence[Any]) -> list[tuple[int, Sequence[Any]]]:
    """Items in portions, each with the number of its first one."""
    return [(first, items[first : first + ITEMS_PER_SHARD]) for first in range(0, len(items), ITEMS_PER_SHARD)]


def _spread(items: Sequence[ContrastPair], n: int) -> list[ContrastPair]:
    """``n`` of the items, evenly spread, because items of one subject are adjacent."""
    n = min(n, len(items))
    return [items[number * len(items) // n] for number in range(n)]
