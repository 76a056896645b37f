"""Dose-responses of several behaviors, each with its controls.

For every behavior:

1. set whole topics of train pairs apart for validation;
2. make the vector and its shuffled-label controls from the other train pairs;
3. choose the layer on the validation pairs: the one with the largest mean slope;
4. score the test pairs at that layer, at every multiplier, with the vector and with each control.

Each pair is used for one of these; train and test pairs of the packaged behaviors share no topic.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count
from caa_interp.evaluation.controls import random_vectors, shuffled_vectors
from caa_interp.evaluation.summary import choose_layer
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import check_layers, n_layers
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format, check_format
from caa_interp.steering.intervention import check_multipliers
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.activations import collect_activations
from caa_interp.vectors.estimators import Estimator, mean_difference
from caa_interp.vectors.extraction import vector_from_activations


def dose_response(
    model: Any,
    behaviors: Mapping[str, Behavior],
    *,
    format: Format = "choices",
    estimator: Estimator = mean_difference,
    n_train: int | None = None,
    n_validation: int = 20,
    n_test: int | None = None,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0),
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    n_random: int = 10,
    n_shuffled: int = 10,
    seed: int = 0,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Extract a vector for each behavior, choose its layer, and measure its effect on held-out pairs beside controls.

    Parameters
    ----------
    model, format, operator, positions, prompt_format
        As in :func:`caa_interp.sweep`; ``format`` is also the form of the train pairs.
    behaviors
        ``{name: Behavior}``, such as :func:`caa_interp.load_behaviors` gives.
    estimator
        Makes the vector, see :mod:`caa_interp.vectors.estimators`.
    n_train
        At most this many train pairs make the vector, drawn at random; default: all that validation leaves.
    n_validation
        Number of train pairs on which the layer is chosen, see :func:`validation_split`. The vector is made from the
        others.
    n_test
        At most this many test pairs are scored, drawn at random; default: all.
    layers
        0-based block indices among which the layer is chosen; default: all. With one, no pair is set apart for it.
    multipliers
        At least two. Effects are changes from 0, so it should be one of them. The layer is chosen by the response
        between the smallest and the largest.
    n_random, n_shuffled
        Numbers of controls (:func:`random_vectors`, :func:`shuffled_vectors`); 0 leaves a kind out.
    seed, progress
        Seed of the split, of the draws and of the controls; whether to show a progress bar over behaviors.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep` with ``behavior`` in front, for :func:`caa_interp.summarize`,
        :func:`caa_interp.steerability` and :func:`caa_interp.plot_dose_responses`. ``vector`` is the behavior's name
        or a control's (``"random 0"``, ``"shuffled 0"``); ``layer`` is the chosen one; ``n_train`` and
        ``n_validation`` are the numbers of pairs used, ``seed`` is the seed.

    Notes
    -----
    One behavior costs one forward pass of each train pair, ``2 * len(layers)`` steered conditions of each validation
    pair and ``(1 + n_random + n_shuffled) * (len(multipliers) - 1)`` of each test pair.
    """
    check_format(format)
    candidates = check_layers(layers, range(n_layers(model)), "the model")
    doses = check_multipliers(multipliers)
    if len(doses) < 2:
        raise InputError(f"multipliers: {doses}; a response needs at least two.")
    if not behaviors:
        raise InputError("behaviors: the mapping is empty; give at least one behavior.")
    counts = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    for name, number in {**counts, "n_random": n_random, "n_shuffled": n_shuffled}.items():
        if number is not None:
            check_count(name, number, least=1 if name in counts else 0)
    splits = {
        name: split_behavior(name, one, candidates, n_train, n_validation, n_test, seed)
        for name, one in behaviors.items()
    }
    for name, (train, _, _) in splits.items():
        if n_shuffled and len(set(train)) < 2:
            raise InputError(
                f"behaviors[{name!r}]: {len(train)} pair makes the vector; shuffling labels needs at least 2. Give "
                "more train pairs, or n_shuffled=0."
            )

    options: dict[str, Any] = {"format": format, "operator": operator, "positions": positions}
    options |= {"prompt_format": prompt_format, "progress": False}
    tables, chosen = {}, {}
    for name, (train, validation, test) in track(splits.items(), "Behaviors", progress):
        activations = collect_activations(
            model, train, format=format, layers=candidates, prompt_format=prompt_format, progress=False
        )
        vector = vector_from_activations(activations, estimator=estimator, behavior=name)
        chosen[name] = candidates[0]
        if validation:
            ends = (min(doses), max(doses))
            chosen[name] = choose_layer(sweep(model, vector, validation, multipliers=ends, **options))
        vectors = {name: vector}
        if n_random:
            vectors |= random_vectors(vector, n_random, seed=seed)
        if n_shuffled:
            vectors |= shuffled_vectors(activations, n_shuffled, seed=seed)
        table = sweep(model, vectors, test, layers=chosen[name], multipliers=doses, **options)
        tables[name] = table.assign(n_train=len(train), n_validation=len(validation), seed=seed)
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)


def validation_split(
    pairs: Sequence[ContrastPair], n: int, *, seed: int = 0
) -> tuple[list[ContrastPair], list[ContrastPair]]:
    """Set pairs apart on which to choose a layer or a multiplier.

    Whole topics are set apart, as between train and test: the choice then works on a topic that the
    vector was not made from. Only if no topics add up to ``n`` is one of them divided.

    Parameters
    ----------
    pairs
        Pairs to split, usually a behavior's ``train``. Where a pair names no topic, its question is one.
    n, seed
        Number of pairs to set apart, at least 1 and fewer than all; seed of the order of topics.

    Returns
    -------
    rest, validation
        All pairs, each in one of the two and in the order given; ``validation`` has ``n``.
    """
    checked = check_pairs(pairs)
    if not 0 < n < len(checked):
        raise InputError(f"n: {n} of {len(checked)} pairs; set apart at least 1, and leave at least 1.")
    topics: dict[tuple[str, str], list[int]] = {}
    for number, pair in enumerate(checked):
        key = ("question", pair.question) if pair.topic is None else ("topic", pair.topic)
        topics.setdefault(key, []).append(number)
    order = list(topics.values())
    random.Random(seed).shuffle(order)
    # For every number of pairs that whole topics add up to: the first way to do it.
    ways: dict[int, list[list[int]]] = {0: []}
    for topic in order:
        for total, way in list(ways.items()):
            if total + len(topic) <= n:
                ways.setdefault(total + len(topic), [*way, topic])
    whole = ways[max(ways)]
    apart = {number for topic in whole for number in topic}
    if len(apart) < n:
        divided = next(topic for topic in order if topic not in whole)
        apart |= set(divided[: n - len(apart)])
    rest = [pair for number, pair in enumerate(checked) if number not in apart]
    return rest, [checked[number] for number in sorted(apart)]


def split_behavior(
    name: str,
    behavior: Behavior,
    candidates: Sequence[int],
    n_train: int | None,
    n_validation: int,
    n_test: int | None,
    seed: int,
) -> tuple[list[ContrastPair], list[ContrastPair], list[ContrastPair]]:
    """Train, validation and test pairs of one behavior, as :func:`dose_response` uses them."""
    if not isinstance(behavior, Behavior):
        raise InputError(f"behaviors[{name!r}] is {type(behavior).__name__}; it must be a Behavior.")
    train = check_pairs(behavior.train, f"behaviors[{name!r}].train")
    test = check_pairs(behavior.test, f"behaviors[{name!r}].test")
    validation: list[ContrastPair] = []
    if len(candidates) > 1:
        if n_validation >= len(train):
            raise InputError(
                f"n_validation: {n_validation}, but behaviors[{name!r}] has {len(train)} train pairs, of which some "
                "must be left for the vector. Set fewer apart."
            )
        train, validation = validation_split(train, n_validation, seed=seed)
    return some_of(train, n_train, seed), validation, some_of(test, n_test, seed)


def some_of(pairs: list[ContrastPair], n: int | None, seed: int) -> list[ContrastPair]:
    """At most ``n`` pairs, drawn at random, in their order."""
    if n is None or n >= len(pairs):
        return pairs
    return [pairs[number] for number in sorted(random.Random(seed).sample(range(len(pairs)), n))]
