"""Strength in comparable units, and comparisons at equal strength.

Strength is a divergence from the unsteered model, or a share of the residual stream's norm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, VectorMismatchError, check_choice, is_number
from caa_interp.evaluation.answers import AnswerTokens, own_answers
from caa_interp.evaluation.divergence import measured
from caa_interp.evaluation.summary import summarize
from caa_interp.evaluation.sweep import scoring_format, sweep
from caa_interp.progress import steps, track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, render_pairs
from caa_interp.statistics import bootstrap_means, check_resampling
from caa_interp.steering.intervention import Intervention, Steering, as_interventions, condition_of, conditions
from caa_interp.steering.operators import add, grows, name_of
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.activations import Activations, check_activations
from caa_interp.vectors.vector import SteeringVector, one_vector

Distance = Literal["divergence", "divergence_tail"]

_MOST_STEPS = 24
_CLOSE = 0.02  # share of the target that a calibrated divergence may be off


class OutOfReachError(InputError):
    """No multiplier moves the model exactly as far as asked."""


@dataclass(frozen=True)
class Calibration:
    """A multiplier that was found, and what it does to prompts that it was not found on.

    Attributes
    ----------
    multiplier
        Positive; on the prompts that it was fitted on, its divergence is within 2 % of the target.
    held_out, held_out_low, held_out_high
        Mean divergence on other prompts, in nats per token, with its 95 % bootstrap-t interval; None without any, the
        interval also with a single one.
    n_held_out
        Number of these prompts.
    """

    multiplier: float
    held_out: float | None = None
    held_out_low: float | None = None
    held_out_high: float | None = None
    n_held_out: int = 0


def calibrate(
    model: Any,
    vector: SteeringVector | Steering,
    prompts: Sequence[Prompt],
    *,
    layer: int | None = None,
    target: float = 0.1,
    measure: Distance = "divergence",
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    n_tokens: int = 32,
    held_out: Sequence[Prompt] = (),
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> Calibration:
    """Find the multiplier at which steering moves the model a given distance from its own answers.

    Parameters
    ----------
    model, prompts, operator, positions, n_tokens, system_prompt, prompt_format
        As in :func:`divergence`. The multiplier fits these prompts. On others the divergence is off the target by as
        much as prompts differ, often far more than 2 % with a few of them; ``held_out`` says how much.
    vector
        The steering vector; for the other direction, calibrate ``-vector``. Or an :class:`Intervention`, or several in
        a list: the multipliers of those that add are multiplied by the result. ``ablate``, ``ProjectTo`` and ``Cap``
        are complete at multiplier 1 and stay as they are.
    layer
        0-based block index at which a vector is applied.
    target
        Mean divergence over the prompts' answers, in nats per token; above 0.
    measure
        ``"divergence"`` (default), or ``"divergence_tail"``: that of the worst 5 % of each answer's tokens.
    held_out
        Prompts on which the same divergence is measured at the multiplier that was found, none of them in
        ``prompts``. Default: none.
    progress
        Show what is being done.

    Returns
    -------
    Calibration
        The ``multiplier``, and the divergence on the held-out prompts with its interval.

    Raises
    ------
    InputError
        If no intervention adds, or a prompt is in both lists.
    OutOfReachError
        If no multiplier gives the target, as where a cap alone moves the model further.

    Examples
    --------
    >>> fit, other = ["How was your day?"], ["What is rain?", "Who are you?"]
    >>> found = caa.evaluation.calibrate(model, vector, fit, layer=15, n_tokens=4, held_out=other)
    >>> found.multiplier > 0, found.held_out_low < found.held_out < found.held_out_high
    (True, True)
    """
    check_target(target)
    check_choice("measure", measure, get_args(Distance))
    interventions = as_interventions(vector, layer, 1.0, operator, positions)
    _check_grows("vector", interventions)
    form = form_of(model, prompt_format)
    (asked,) = conditions(model, [interventions], form)
    if twice := [one for one in held_out if one in list(prompts)]:
        raise InputError(f"held_out: {twice[0]!r:.60} is in prompts, which the multiplier fits. Leave it out of one.")
    with steps("Calibrating", progress) as say:
        say("the model's own answers")
        sequences = own_answers(model, form, prompts, n_tokens, system_prompt)
        others: list[AnswerTokens] = []
        if len(held_out):
            others = own_answers(model, form, held_out, n_tokens, system_prompt, "held_out")
        multiplier = calibrated(model, asked.interventions, sequences, target, measure, say)
        if not others:
            return Calibration(multiplier)
        say("held-out prompts")
        table = measured(model, [condition_of(scaled(asked.interventions, multiplier))], others, False)
    numbers = [float(one[0]) for one in bootstrap_means(table[[measure]].to_numpy())[:3]]
    mean, low, high = (None if math.isnan(one) else max(0.0, one) for one in numbers)
    return Calibration(multiplier, mean, low, high, len(others))


def check_target(target: float) -> None:
    """Raise :class:`InputError` unless a divergence can be ``target``."""
    if not is_number(target) or target <= 0:
        raise InputError(f"target: {target!r}; it must be a positive number of nats per token, such as 0.1.")


def calibrated(
    model: Any,
    interventions: Sequence[Intervention],
    sequences: Sequence[AnswerTokens],
    target: float,
    measure: Distance = "divergence",
    say: Callable[[str], None] = lambda step: None,
) -> float:
    """Factor of what :func:`scaled` scales at which the divergence along the model's own answers is the target."""
    # The divergence of a small step grows with its square: so the first guess, and interpolation in logarithms.
    low, high, multiplier, every = 0.0, math.inf, 1.0, []
    for _ in range(_MOST_STEPS):
        say(f"multiplier {multiplier:.3g}")
        asked = condition_of(scaled(interventions, multiplier))
        found = float(measured(model, [asked], sequences, False)[measure].mean())
        every.append(found)
        if abs(found - target) <= _CLOSE * target:
            return multiplier
        low, high = (multiplier, high) if found < target else (low, multiplier)
        guess = multiplier * math.sqrt(target / found) if found > 0 else multiplier * 4
        guess = min(max(guess, multiplier / 8), multiplier * 8)
        # Between bounds that are known, a guess outside them is replaced by their (geometric) middle.
        if not low < guess < high:
            guess = math.sqrt(low * high) if low > 0 else high / 2
        multiplier = guess
    raise OutOfReachError(
        f"target: no multiplier gives a divergence of {target} nats per token with operator "
        f"{', '.join(name_of(one.operator) for one in interventions)} at layer "
        f"{', '.join(str(one.layer) for one in interventions)} (found: {min(every):.3g} to {max(every):.3g}). Give a "
        "target in this range, or another layer or operator."
    )


def scaled(interventions: Sequence[Intervention], factor: float) -> list[Intervention]:
    """Multiply the multipliers of what adds; what sets or bounds the projection is complete and stays."""
    return [factor * one if grows(one.operator) else one for one in interventions]


def at_target(
    model: Any, interventions: Sequence[Intervention], sequences: Sequence[AnswerTokens], target: float
) -> list[Intervention] | None:
    """Interventions scaled together until they reach a divergence, by :func:`calibrated`; None if nothing does."""
    try:
        return scaled(interventions, calibrated(model, interventions, sequences, target))
    except OutOfReachError:
        return None


def _check_grows(name: str, interventions: Sequence[Intervention]) -> None:
    if not any(grows(one.operator) for one in interventions):
        raise InputError(
            f"{name}: nothing in it adds, and ablate, ProjectTo and Cap are complete at multiplier 1, so nothing can "
            "be scaled. Give a vector or an Intervention that adds."
        )


def relative_multiplier(vector: SteeringVector, activations: Activations, *, layer: int, share: float = 0.1) -> float:
    """Multiplier at which what is added has a given share of the residual stream's norm.

    Parameters
    ----------
    vector, layer
        The steering vector, and a 0-based block index.
    activations
        Activations of the same model, whose mean norm over both sides stands for the residual stream.
    share
        Norm of the addition over that of the residual stream; any finite number.
    """
    if not is_number(share):
        raise InputError(f"share: {share!r}; it must be a finite number, such as 0.1.")
    one_vector(vector)
    check_activations(activations)
    if layer not in activations.layers:
        raise InputError(f"layer {layer!r}: the activations have layers {list(activations.layers)}. Choose one.")
    if activations.positive.shape[-1] != vector.d_model:
        raise VectorMismatchError(
            f"vector: its width is {vector.d_model}, but the activations are {activations.positive.shape[-1]} wide. "
            "Collect them from the vector's model."
        )
    at, norm = activations.layers.index(layer), float(vector.at(layer).double().norm())
    if norm == 0:
        raise InputError(
            f"vector: it is zero at layer {layer}, so no multiplier gives it a norm. Choose another layer."
        )
    both = [side[:, at].double().norm(dim=-1) for side in (activations.positive, activations.negative)]
    return share * float(sum(norms.mean() for norms in both) / 2) / norm


def compare_at_equal_divergence(
    model: Any,
    candidates: Mapping[str, SteeringVector | Steering],
    pairs: Iterable[ContrastPair],
    *,
    prompts: Sequence[Prompt],
    layer: int | None = None,
    target: float = 0.1,
    format: Format | None = None,
    n_tokens: int = 32,
    prompt_format: PromptFormat | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each candidate does to contrast pairs when all move the model equally far from its own answers.

    A longer vector or a stronger operator always does more; what counts is what it does for its cost.

    Parameters
    ----------
    model, format, prompt_format, progress
        As in :func:`caa_interp.sweep`.
    candidates
        By name a steering vector, which is added at ``layer``; or an :class:`Intervention`, or several in a list,
        scaled as in :func:`caa_interp.evaluation.calibrate`.
    pairs
        Held-out pairs to score.
    prompts, n_tokens
        Prompts that have nothing to do with the behavior, on whose answers, of at most ``n_tokens`` tokens, the
        divergence is measured.
    layer
        0-based block index at which vectors are added.
    target
        Mean divergence, in nats per token, see :func:`caa_interp.evaluation.calibrate`.
    confidence, seed
        As in :func:`caa_interp.summarize`.

    Returns
    -------
    pandas.DataFrame
        One row per candidate: ``candidate``, ``operator``, ``layer``, ``multiplier`` (at which it has the target
        divergence; of several interventions, that of the first that adds), ``effect``, ``effect_low``, ``effect_high``
        (mean change of the logit difference from the unsteered model over the pairs, in nats, with its interval) and
        ``n``. Where no multiplier reaches the target, multiplier and effect are NaN.
    """
    if not candidates:
        raise InputError("candidates: the mapping is empty; give at least one vector.")
    check_target(target)
    check_resampling(confidence, seed)
    checked = check_pairs(pairs)
    own_layer: dict[type, int | None] = {SteeringVector: layer}
    given = {name: as_interventions(one, own_layer.get(type(one))) for name, one in candidates.items()}
    for name, one in given.items():
        _check_grows(f"candidates[{name!r}]", one)
    form = form_of(model, prompt_format)
    asked = conditions(model, given, form)
    if "unsteered" in given:
        raise InputError("candidates: 'unsteered' is what they are compared with. Give that candidate another name.")
    format = scoring_format(format, asked)
    render_pairs(form, checked, format)  # so that none is too long when all are calibrated
    sequences = own_answers(model, form, prompts, n_tokens, None)
    equal: dict[str, list[Intervention]] = {}
    multipliers: dict[str, float] = {}
    for condition in track(asked, "Comparing", progress):
        if own := at_target(model, condition.interventions, sequences, target):
            equal[condition.vector] = own
            multipliers[condition.vector] = next(one.multiplier for one in own if grows(one.operator))
    together = {"unsteered": None, **equal}
    table = sweep(model, together, checked, format=format, prompt_format=form, progress=False)
    summary = summarize(table, confidence=confidence, seed=seed).set_index("vector")
    found = summary.reindex([condition.vector for condition in asked]).reset_index()
    described = [{"candidate": one.vector, "operator": one.operator, "layer": one.layer} for one in asked]
    return pd.DataFrame(described).assign(
        multiplier=[multipliers.get(condition.vector, math.nan) for condition in asked],
        **{f"effect{end}": found[f"logit_difference_change{end}"] for end in ("", "_low", "_high")},
        n=found["logit_difference_change_n"].fillna(0).astype(int),
        format=format,
        target=target,
        confidence=confidence,
    )
