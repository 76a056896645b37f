"""Dose-responses of several behaviors, each with its controls.

For every behavior:

1. set whole topics of train pairs apart for validation;
2. make the vector and its shuffled-label controls from the other train pairs;
3. choose the layer on the validation pairs: the one with the largest mean slope;
4. score the test pairs at that layer, at every multiplier, with the vector and with each control.

Pairs, vectors and layers are those of a study (:mod:`caa_interp.study`), which also scores test pairs at all layers.
Each pair is used for one step; train and test pairs of the packaged behaviors share no topic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, check_behaviors
from caa_interp.errors import InputError, check_count
from caa_interp.evaluation.controls import check_control_names, vector_with_controls
from caa_interp.evaluation.response import choose_layer, outermost
from caa_interp.evaluation.splits import split_behavior
from caa_interp.evaluation.sweep import check_renderings, sweep
from caa_interp.models.access import check_layers, n_layers
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format
from caa_interp.steering.intervention import check_multipliers
from caa_interp.steering.operators import add, check_operator
from caa_interp.steering.positions import Positions, check_positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.activations import collect_activations
from caa_interp.vectors.estimators import Estimator, check_estimator, mean_difference


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
        Number of train pairs on which the layer is chosen, see :func:`caa_interp.evaluation.validation_split`. The
        vector is made from the others.
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
    form = form_of(model, prompt_format)
    candidates = check_layers(layers, range(n_layers(model)), "the model")
    doses = check_multipliers(multipliers)
    check_estimator(estimator)
    check_operator(operator)
    check_positions(positions)
    if len(doses) < 2:
        raise InputError(f"multipliers: {doses}; a response needs at least two.")
    check_behaviors(behaviors)
    counts = {"n_train": n_train, "n_validation": n_validation, "n_test": n_test}
    for name, number in {**counts, "n_random": n_random, "n_shuffled": n_shuffled}.items():
        if number is not None:
            check_count(name, number, least=1 if name in counts else 0)
    check_control_names(behaviors, random=n_random, shuffled=n_shuffled)
    check_count("seed", seed, least=0)
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
    every = {name: [*train, *validation, *test] for name, (train, validation, test) in splits.items()}
    check_renderings(form, every, format)

    asked: dict[str, Any] = {"format": format, "prompt_format": prompt_format, "progress": False}
    scoring = {**asked, "operator": operator, "positions": positions}
    made: dict[str, Any] = {"estimator": estimator, "n_random": n_random, "n_shuffled": n_shuffled, "seed": seed}
    tables = {}
    for name, (train, validation, test) in track(splits.items(), "Behaviors", progress):
        activations = collect_activations(model, train, layers=candidates, **asked)
        vectors, layer = vector_with_controls(activations, name, **made), candidates[0]
        if validation:
            layer = choose_layer(sweep(model, vectors[name], validation, multipliers=outermost(doses), **scoring))
        table = sweep(model, vectors, test, layers=layer, multipliers=doses, **scoring)
        tables[name] = table.assign(n_train=len(train), n_validation=len(validation), seed=seed)
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)
