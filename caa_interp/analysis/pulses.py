"""Where and for how long a vector acts: which steered positions make its effect, and how long one of them is felt.

1. CAA steers from the last prompt token on. Steer that token alone, each of the first tokens of the answer alone, or
   all that come after these, and measure the same effect: the change of what :func:`caa_interp.sweep` scores, per unit
   of the multiplier.
2. A pulse is the vector at the last prompt token alone. Along the answer, a distance of ``d`` tokens after it, compare
   the next token's distribution, and the residual stream at three depths, with those of the unsteered model.
3. Everything that is asked of one pair is one token tree.

Below the vector's layer nothing changes at any position, and up to it nothing changes after the pulse: what is found
at a distance has been carried there by attention of later blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import check_count
from caa_interp.evaluation.sweep import scored_renderings, scoring_format, sequences_of
from caa_interp.models.access import model_id, n_layers
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, Scored
from caa_interp.statistics import bootstrap_means
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Condition, Intervention, check_acts, conditions, one_layer, warn_of_idle
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Edit
from caa_interp.tree.run import run_trees
from caa_interp.vectors.vector import SteeringVector, named_vectors

# Order of the letters, answer, number of the vector (0: none), "score" or "state", and which place or distance.
_Key = tuple[int, int, int, str, int]
_Answers = Mapping[_Key, tuple[torch.Tensor, torch.Tensor, np.ndarray]]
_PULSE = 1  # index among the places
_COLUMNS = (
    *("vector", "kind", "steered_layer", "multiplier", "measure", "steered", "distance", "layer"),
    *("value", "value_low", "value_high", "n", "format", "model", "prompt_digest", "path"),
)


def position_map(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    pairs: Iterable[ContrastPair],
    *,
    layer: int | None = None,
    multiplier: float = 1.0,
    n_tokens: int = 8,
    format: Format | None = None,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Effect of steering single positions, and what is left of one of them some tokens later.

    Parameters
    ----------
    model, vector, pairs, layer, multiplier, format, system_prompt, prompt_format, progress
        As in :func:`caa_interp.analysis.effect_attribution`.
    n_tokens
        Number of tokens of the answer that are steered alone, and the largest distance; at least 1. Default: 8.

    Returns
    -------
    pandas.DataFrame
        One row per vector, measure and place: ``vector``, ``kind``, ``steered_layer``, ``multiplier``, and

        - ``measure``: what ``value`` is. ``"effect"``: the change of ``logit_difference``, in nats per token (for
          choices nats) per unit of the multiplier. Under a pulse at the last prompt token, ``"divergence"``:
          KL(unsteered || steered) of the next token, in nats, and ``"projection"``: the change of the residual stream
          along the vector, as a share of what was added (1: all of it is there; 0: none; negative: the opposite);
        - ``steered``: which positions are, in words;
        - ``distance`` after the pulse, in tokens; ``layer`` after which the state is read: the next one, the last one
          and the one between. Both are missing for an effect, ``layer`` for a divergence;
        - ``value``, ``value_low``, ``value_high``: mean over pairs with a 95 % bootstrap-t interval;
        - ``n``: number of pairs in the row, those with answers long enough. An effect needs both, a distance one;
        - ``format``, ``model``, ``prompt_digest``, ``path``.

    Raises
    ------
    InputError
        If an argument is not one of those above, or a vector is zero at the layer.
    VectorMismatchError
        If a vector was not made for this model.

    Notes
    -----
    The effects of single positions do not sum to that of all, since the model is not linear: the difference between
    their sum and the whole is what the positions do together.

    Examples
    --------
    >>> table = caa.analysis.position_map(model, vector, behavior.test[:2], layer=15, n_tokens=1)
    >>> list(table.loc[table["measure"] == "effect", "steered"])[1:3]
    ['last prompt token alone', 'answer token 1 alone']
    """
    vectors = named_vectors(vector, "vector")
    layer = one_layer(next(iter(vectors.values())), layer)
    form = form_of(model, prompt_format)
    asked = conditions(model, vectors, form, layer, [multiplier])
    check_acts(asked)
    check_count("n_tokens", n_tokens)
    last = n_layers(model) - 1
    first = min(layer + 1, last)
    layers = sorted({first, (first + last) // 2, last})
    format = scoring_format(format, asked)
    rendered = scored_renderings(form, pairs, format, system_prompt)
    found, paths = [], set()
    with ambient(model) as outer:
        warn_of_idle([outer], sequences_of(rendered, format))
        trees = [_branches(some, format, asked, n_tokens, outer) for some in rendered]
        named = (
            [
                replace(branch, label=f"pairs[{item}], {asked[number - 1] if number else 'unsteered'}")
                for (_, _, number, _, _), branch in tree.items()
            ]
            for item, tree in enumerate(trees)
        )
        results = run_trees(model, named, layers)
        tracked = track(results, "Mapping", progress, total=len(trees))
        for some, tree, result in zip(rendered, trees, tracked, strict=True):
            answers = zip(result.log_probs, result.distributions, result.residual.double().numpy(), strict=True)
            found.append(_values(dict(zip(tree, answers, strict=True)), some, format, asked, n_tokens, len(layers)))
            paths.add(result.path)
    numbers = [some.reshape(len(asked), -1) for some in bootstrap_means(np.array(found).reshape(len(found), -1))]
    frames = []
    for condition, *values in zip(asked, *numbers, strict=True):
        columns = dict(zip(("value", "value_low", "value_high", "n"), values, strict=True))
        frames.append(_rows(n_tokens, layers).assign(vector=condition.vector, kind=condition.kind, **columns))
    table = pd.concat(frames, ignore_index=True)
    table.loc[table["measure"] == "divergence", "value_low"] = table["value_low"].clip(lower=0)
    return table.assign(
        steered_layer=layer,
        multiplier=float(multiplier),
        format=format,
        model=model_id(model),
        prompt_digest=form.digest(system_prompt),
        path=" + ".join(sorted(paths)),
    )[list(_COLUMNS)]


def _rows(n_tokens: int, layers: Sequence[int]) -> pd.DataFrame:
    """Rows of the table that every vector has, without their values."""
    places = ["from the last prompt token on", "last prompt token alone"]
    places += [f"answer token {n} alone" for n in range(1, n_tokens + 1)] + [f"from answer token {n_tokens + 1} on"]
    rows: list[tuple[Any, ...]] = [("effect", place, pd.NA, pd.NA) for place in places]
    for measure, layer in (("divergence", pd.NA), *(("projection", one) for one in layers)):
        rows += [(measure, places[_PULSE], distance, layer) for distance in range(n_tokens + 1)]
    table = pd.DataFrame(rows, columns=["measure", "steered", "distance", "layer"])
    return table.astype({"distance": "Int64", "layer": "Int64"})


def _added(condition: Condition) -> torch.Tensor:
    """What is added at a position, ``[d_model]``."""
    (one,) = condition.interventions
    return one.multiplier * one.vector.at(one.layer).double()


def _edits(rendering: Rendering, condition: Condition, n_tokens: int, n_longest: int) -> list[Edit]:
    """Edit of every place."""
    (one,) = condition.interventions
    first = rendering.n_prompt - 1
    later = first + n_tokens + 1
    places = [*((first + n,) for n in range(n_tokens + 1)), tuple(range(later, max(n_longest, later + 1)))]
    return [one.edit(rendering.start + 1), *(replace(one, positions=some).edit(first + 1) for some in places)]


def _branches(
    renderings: Sequence[Rendering],
    format: Format,
    asked: Sequence[Condition],
    n_tokens: int,
    outer: Sequence[Intervention],
) -> dict[_Key, Branch]:
    """Branches of one pair, unsteered and under each vector: scores of every place, and states by distance."""
    branches: dict[_Key, Branch] = {}
    for order, rendering in enumerate(renderings):
        sequences = rendering.scored(format)
        n_longest = max(len(one.tokens) for one in sequences)
        before = tuple(one.edit(rendering.start + 1) for one in outer)
        every = [[before]]
        every += [[(*before, edit) for edit in _edits(rendering, one, n_tokens, n_longest)] for one in asked]
        for number, edits in enumerate(every):
            for side, one in enumerate(sequences):
                reach = range(len(one.tokens))[rendering.n_prompt - 1 :][: n_tokens + 1]
                for place, some in enumerate(edits):
                    branches[order, side, number, "score", place] = Branch(one.tokens, some, one.targets)
                pulse = edits[_PULSE if number else 0]
                for distance, at in enumerate(reach):
                    # The mean over one place is the distribution there.
                    branches[order, side, number, "state", distance] = Branch(
                        one.tokens, pulse, reads=(at,), averaged=(at,)
                    )
    return branches


def _values(
    answers: _Answers,
    renderings: Sequence[Rendering],
    format: Format,
    asked: Sequence[Condition],
    n_tokens: int,
    n_layers: int,
) -> np.ndarray:
    """Values of one pair, ``[n_vectors, n_rows]`` in the order of :func:`_rows`; NaN where there is none."""
    n_places, n_distances = n_tokens + 3, n_tokens + 1
    orders = np.full((len(renderings), len(asked), n_places + n_distances * (1 + n_layers)), np.nan)
    for order, rendering in enumerate(renderings):
        sequences = rendering.scored(format)
        n_steered = min(len(one.tokens) for one in sequences) - rendering.n_prompt + 1
        baseline = _score(answers, sequences, order, 0, 0)
        for number, condition in enumerate(asked, start=1):
            added = _added(condition).cpu().numpy()
            scores = [_score(answers, sequences, order, number, place) for place in range(n_places)]
            effects = [(score - baseline) / condition.multiplier for score in scores]
            # The place of index n is n - 1 positions after the last prompt token.
            effects[n_steered + 1 :] = [np.nan] * len(effects[n_steered + 1 :])
            by_distance = np.full((len(sequences), 1 + n_layers, n_distances), np.nan)
            for side, rows in enumerate(by_distance):
                reach = min(n_distances, len(sequences[side].tokens) - rendering.n_prompt + 1)
                for distance in range(reach):
                    steered, unsteered = (answers[order, side, n, "state", distance] for n in (number, 0))
                    rows[0, distance] = float((unsteered[1][1] * (unsteered[1][0] - steered[1][0])).double().sum())
                    rows[1:, distance] = (steered[2] - unsteered[2]) @ added / (added @ added)
            orders[order, number - 1] = [*effects, *_mean(by_distance).ravel()]
    return _mean(orders)


def _score(answers: _Answers, sequences: Sequence[Scored], order: int, number: int, place: int) -> float:
    """What a sweep scores, with the letters in one order and one vector at one place."""
    return sum(
        float(answers[order, side, number, "score", place][0].double().numpy() @ np.array(one.weights))
        for side, one in enumerate(sequences)
    )


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what there is; NaN where there is nothing."""
    n_there = (~np.isnan(values)).sum(axis=0)
    return np.where(n_there > 0, np.nansum(values, axis=0) / np.maximum(n_there, 1), np.nan)
