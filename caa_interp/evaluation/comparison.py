"""Vectors, estimators and operators side by side, at equal cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.evaluation.strength import OutOfReachError, calibrate
from caa_interp.evaluation.summary import summarize
from caa_interp.evaluation.sweep import check_vectors, sweep
from caa_interp.progress import track
from caa_interp.prompts.format import Format
from caa_interp.steering.operators import Operator, add, name_of
from caa_interp.vectors.vector import SteeringVector

Candidate = SteeringVector | tuple[SteeringVector, Operator]


def compare_at_equal_divergence(
    model: Any,
    candidates: Mapping[str, Candidate],
    pairs: Iterable[ContrastPair],
    *,
    prompts: Sequence[str],
    layer: int,
    target: float = 0.1,
    format: Format = "choices",
    n_tokens: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure what each candidate does to contrast pairs when all move the model equally far from its own answers.

    A longer vector or a stronger operator always does more; what counts is what it does for its cost.

    Parameters
    ----------
    model
        The model.
    candidates
        By name a steering vector, which is added, or a vector and an operator (:mod:`caa_interp.steering.operators`).
    pairs
        Held-out pairs to score.
    prompts
        Prompts that have nothing to do with the behavior, on whose answers the divergence is measured.
    layer
        0-based block index.
    target
        Mean divergence, in nats per token, see :func:`caa_interp.evaluation.calibrate`.
    format
        As in :func:`caa_interp.sweep`.
    n_tokens
        Longest answer to a prompt, in tokens.
    confidence, seed
        As in :func:`caa_interp.summarize`.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row a candidate: ``candidate``, ``operator``, ``layer``, ``multiplier`` (that gives the target divergence),
        ``format``, ``target``, ``confidence``,
        ``effect``, ``effect_low``, ``effect_high`` (mean change of the logit difference from the unsteered model over
        the pairs, in nats, with its interval) and ``n``. Where no multiplier reaches the target, multiplier and
        effect are NaN.
    """
    if not candidates:
        raise InputError("candidates: the mapping is empty; give at least one vector.")
    checked = check_pairs(pairs)
    given = {name: one if isinstance(one, tuple) else (one, add) for name, one in candidates.items()}
    check_vectors(model, {name: vector for name, (vector, _) in given.items()}, layer)
    rows = []
    for name, (vector, operator) in track(given.items(), "Comparing", progress, total=len(given)):
        row = {"candidate": name, "operator": name_of(operator), "layer": layer, "multiplier": math.nan}
        row |= {"format": format, "target": target, "confidence": confidence}
        row |= dict.fromkeys(("effect", "effect_low", "effect_high"), math.nan)
        try:
            multiplier = calibrate(
                model, vector, prompts, layer=layer, target=target, operator=operator, n_tokens=n_tokens
            )
        except OutOfReachError:
            rows.append({**row, "n": len(checked)})
            continue
        table = sweep(
            model,
            {name: vector},
            checked,
            format=format,
            layers=layer,
            multipliers=(0.0, multiplier),
            operator=operator,
        )
        steered = summarize(table, confidence=confidence, seed=seed).query("multiplier != 0").iloc[0]
        changes = {f"effect{end}": float(steered[f"logit_difference_change{end}"]) for end in ("", "_low", "_high")}
        rows.append({**row, **changes, "multiplier": multiplier, "n": int(steered["n"])})
    return pd.DataFrame(rows)
