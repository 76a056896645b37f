"""Steer one behavior, measure another: what a vector moves besides what it was made for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.evaluation.sweep import check_vectors, sweep
from caa_interp.progress import track
from caa_interp.prompts.format import Format
from caa_interp.steering.operators import Operator, add
from caa_interp.vectors.vector import SteeringVector


def side_effects(
    model: Any,
    vectors: Mapping[str, SteeringVector],
    behaviors: Mapping[str, Behavior | Sequence[ContrastPair]],
    *,
    layers: int | Mapping[str, int],
    format: Format = "choices",
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    n_pairs: int | None = None,
    operator: Operator = add,
    system_prompt: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score the held-out pairs of every behavior under every vector, in one sweep a behavior.

    Parameters
    ----------
    model
        The model.
    vectors
        Steering vectors by name; :func:`caa_interp.match_norms` makes their multipliers comparable.
    behaviors
        Behaviors by name, whose ``test`` pairs are scored, or the pairs themselves.
    layers
        0-based block index at which all vectors are added, or one for each name of ``vectors``.
    format, multipliers, operator, system_prompt
        As in :func:`caa_interp.sweep`; at least two multipliers, for a slope.
    n_pairs
        Score this many pairs of each behavior, the first ones; default: all.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        The tables of :func:`caa_interp.sweep` and a first column ``behavior``, the measured one; ``vector`` is the
        one that steers. :func:`caa_interp.steerability` of it is the matrix of effects with intervals.
    """
    check_vectors(model, vectors, None)
    if not behaviors:
        raise InputError("behaviors: the mapping is empty; give at least one behavior.")
    if len(set(multipliers)) < 2:
        raise InputError(f"multipliers: {list(multipliers)}; an effect needs at least two. Give two or more.")
    if n_pairs is not None and n_pairs < 1:
        raise InputError(f"n_pairs: {n_pairs}; it must be at least 1.")
    chosen = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(vectors, layers)
    if missing := [name for name in vectors if name not in chosen]:
        raise InputError(f"layers: there is none for {missing[0]!r}. Give one for each of {list(vectors)}.")
    single = {
        name: replace(vector, values=vector.at(chosen[name])[None], layers=(int(chosen[name]),))
        for name, vector in vectors.items()
    }
    pairs = {
        name: check_pairs(one.test if isinstance(one, Behavior) else one, f"behaviors[{name!r}]")[:n_pairs]
        for name, one in behaviors.items()
    }
    tables = {}
    for name, scored in track(pairs.items(), "Measuring", progress, total=len(pairs)):
        tables[name] = sweep(
            model,
            single,
            scored,
            format=format,
            multipliers=multipliers,
            operator=operator,
            system_prompt=system_prompt,
        )
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)
