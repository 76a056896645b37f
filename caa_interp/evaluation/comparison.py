"""Vectors, estimators and operators side by side, at equal cost."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.evaluation.cost import own_answers
from caa_interp.evaluation.strength import OutOfReachError, calibrated, check_target
from caa_interp.evaluation.summary import summarize
from caa_interp.evaluation.sweep import sweep
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format
from caa_interp.steering.intervention import Intervention, Steering, as_interventions, conditions
from caa_interp.vectors.vector import SteeringVector

Candidate = SteeringVector | Steering


def compare_at_equal_divergence(
    model: Any,
    candidates: Mapping[str, Candidate],
    pairs: Iterable[ContrastPair],
    *,
    prompts: Sequence[str],
    layer: int | None = None,
    target: float = 0.1,
    format: Format | None = None,
    n_tokens: int = 32,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each candidate does to contrast pairs when all move the model equally far from its own answers.

    A longer vector or a stronger operator always does more; what counts is what it does for its cost.

    Parameters
    ----------
    model
        The model.
    candidates
        By name a steering vector, which is added at ``layer``; or an :class:`Intervention`, or several in a list, whose
        multipliers are all scaled.
    pairs
        Held-out pairs to score.
    prompts
        Prompts that have nothing to do with the behavior, on whose answers the divergence is measured.
    layer
        0-based block index at which vectors are added.
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
        One row per candidate: ``candidate``, ``operator``, ``layer``, ``multiplier`` (at which it has the target
        divergence), ``effect``, ``effect_low``, ``effect_high`` (mean change of the logit difference from the
        unsteered model over the pairs, in nats, with its interval) and ``n``. Where no multiplier reaches the target,
        multiplier and effect are NaN.
    """
    if not candidates:
        raise InputError("candidates: the mapping is empty; give at least one vector.")
    check_target(target)
    checked = check_pairs(pairs)
    given = {name: _at_layer(name, one, layer) for name, one in candidates.items()}
    asked = conditions(model, given)
    if "unsteered" in given:
        raise InputError("candidates: 'unsteered' is what they are compared with. Give that candidate another name.")
    sequences = own_answers(model, PromptFormat.of(model), prompts, n_tokens, None)
    scaled: dict[str, list[Intervention]] = {}
    for condition in track(asked, "Comparing", progress):
        with contextlib.suppress(OutOfReachError):
            scale = calibrated(model, condition.interventions, sequences, target)
            scaled[condition.vector] = [scale * one for one in condition.interventions]
    table = sweep(model, {"unsteered": None, **scaled}, checked, format=format, progress=False)
    summary = summarize(table, confidence=confidence, seed=seed).set_index("vector")
    rows = []
    for condition in asked:
        name = condition.vector
        row: dict[str, Any] = {"candidate": name, "operator": condition.operator, "layer": condition.layer}
        row |= dict.fromkeys(("multiplier", "effect", "effect_low", "effect_high"), math.nan)
        if name in scaled:
            row |= {
                f"effect{end}": float(summary[f"logit_difference_change{end}"][name]) for end in ("", "_low", "_high")
            }
            row["multiplier"] = scaled[name][0].multiplier
        rows.append({**row, "n": int(summary["n"][name]) if name in scaled else 0})
    return pd.DataFrame(rows).assign(format=table["format"].iloc[0], target=target, confidence=confidence)


def _at_layer(name: str, candidate: Candidate, layer: int | None) -> Steering:
    if not isinstance(candidate, SteeringVector):
        if not as_interventions(candidate):
            raise InputError(f"candidates[{name!r}]: it steers nothing. Give a vector or an Intervention.")
        return candidate
    if layer is None:
        raise InputError(f"layer: candidates[{name!r}] is a vector and needs one. Give layer=, one of the vector's.")
    return Intervention(candidate, layer)
