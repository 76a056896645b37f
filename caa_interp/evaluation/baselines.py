"""Prompting and fine-tuning, each alone and with a steering vector on top (Rimsky et al. 2024).

1. Ask for the behavior, or for its opposite, in a system prompt; or show it in a few examples.
2. Score the test pairs under each of these, unsteered: what prompting does alone.
3. Score them with the steering vector on top: what it adds to prompting.
4. The same with a model that was fine-tuned on the answers (:mod:`caa_interp.evaluation.finetuning`).

All are scored on the same test pairs, so that every difference is paired. Examples come from train pairs alone; the
paper has none.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, check_behavior
from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, check_choice, check_count, is_count
from caa_interp.evaluation.splits import some_of
from caa_interp.evaluation.summary import NO_BASELINE
from caa_interp.evaluation.sweep import scoring_format, sweep
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, check_format, render_pairs, with_choices
from caa_interp.steering.intervention import Condition, Steered, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator

Side = Literal["positive", "negative"]
SIDES: tuple[Side, ...] = ("positive", "negative")


def few_shot_prompt(
    pairs: Iterable[ContrastPair],
    *,
    side: Side = "positive",
    n: int = 4,
    format: Format = "choices",
    seed: int = 0,
) -> str:
    """Write examples of one side's answers, to be given as a ``system_prompt``.

    Parameters
    ----------
    pairs
        Where examples are drawn from, usually a behavior's ``train``.
    side
        ``"positive"``: answers that show the behavior; ``"negative"``: the others.
    n, seed
        Number of examples, at least 1; seed of the draw and of the letters.
    format
        ``"choices"`` (default): questions with two options, answered by a letter, (A) and (B) in equal number, so
        that no letter is asked for. ``"text"``: questions with the answers themselves.

    Returns
    -------
    str
        A line that says what the examples are, and the examples as a base model is addressed (``Input: ...``,
        ``Response: ...``).
    """
    check_format(format)
    checked = check_pairs(pairs)
    check_choice("side", side, SIDES)
    if not is_count(n) or n > len(checked):
        raise InputError(
            f"n: {n!r} of {len(checked)} pairs; show at least 1, and no more than there are, as a whole number."
        )
    check_count("seed", seed, least=0)
    generator = random.Random(seed)
    shown = generator.sample(checked, n)
    # As many of one order as of the other, or one more of either.
    orders = [("AB", "BA")[number % 2] for number in generator.sample(range(n + n % 2), n)]
    shots = [_shot(pair, side, format, order) for pair, order in zip(shown, orders, strict=True)]
    return "\n\n".join(["Answer as in these examples.", *shots])


def baselines(
    model: Any,
    vector: Steered,
    behavior: Behavior,
    *,
    layer: int | None = None,
    multipliers: Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    format: Format | None = None,
    tuned: Mapping[str, Any] | None = None,
    n_pairs: int | None = None,
    n_shots: int = 4,
    seed: int = 0,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score test pairs under system prompts, under examples and in tuned models, alone and with a vector on top.

    Parameters
    ----------
    model, vector
        As in :func:`caa_interp.sweep`.
    behavior
        Its ``test`` pairs are scored, its ``train`` pairs are the examples; its ``system_prompts`` are used if it has
        them.
    layer
        0-based block index at which a vector is applied.
    multipliers, operator, positions
        Of a vector, as in :func:`caa_interp.sweep`; the multipliers include 0, which is each baseline alone.
        If you give interventions, one of the conditions must be None.
    format
        As in :func:`caa_interp.sweep`, of the examples too.
    tuned
        Tuned models of the same width by the name of their baseline, such as ``{"positive fine-tuning":
        caa.evaluation.fine_tune(model, behavior.train)}``. They get the same vector, ``transferred_to`` them, and no
        system prompt.
    n_pairs, seed
        At most this many test pairs are scored, drawn at random (default: all); seed of all draws.
    n_shots
        Number of examples, see :func:`few_shot_prompt`; 0 leaves these baselines out.
    prompt_format
        How all models are addressed; default: ``PromptFormat.of`` each.
    progress
        Show a progress bar over baselines.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep` with ``baseline`` in front: ``"none"``, ``"positive system prompt"``,
        ``"negative system prompt"``, ``"positive few-shot"``, ``"negative few-shot"`` and the names of the tuned
        models; and with ``behavior``, ``system_prompt`` (the text used, empty for none) and ``seed``. Changes in
        :func:`caa_interp.summarize` and :func:`caa_interp.plot_baselines` are from ``"none"`` with multiplier 0.

    Raises
    ------
    InputError
        If an argument is not one of those above, or a prompt does not fit the model.
    VectorMismatchError
        If the vector was not made for this model, or does not fit a tuned one.
    """
    check_behavior(behavior)
    test = check_pairs(behavior.test, "behavior.test")
    if n_pairs is not None:
        check_count("n_pairs", n_pairs)
    check_count("n_shots", n_shots, least=0)
    # Every sweep compares the vector's form with its own.
    asked = conditions(model, vector, None, layer, multipliers, operator, positions)
    if not any(condition.multiplier == 0 and len(condition.interventions) < 2 for condition in asked):
        given = [condition.multiplier for condition in asked]
        raise InputError(f"multipliers: {given}; 0, each baseline alone, must be one of them.")
    format = scoring_format(format, asked)
    prompts: dict[str, str | None] = {NO_BASELINE: None}
    prompts |= {
        f"{side} system prompt": behavior.system_prompts[side] for side in SIDES if side in behavior.system_prompts
    }
    if n_shots:
        train = check_pairs(behavior.train, "behavior.train")
        if n_shots > len(train):
            raise InputError(f"n_shots: {n_shots}, but the behavior has {len(train)} train pairs. Show fewer.")
        prompts |= {
            f"{side} few-shot": few_shot_prompt(train, side=side, n=n_shots, format=format, seed=seed) for side in SIDES
        }
    every: dict[str, tuple[Any, list[Condition], str | None]] = {
        name: (model, asked, prompt) for name, prompt in prompts.items()
    }
    for name, other in (tuned or {}).items():
        if name in every:
            raise InputError(f"tuned: {name!r} is the name of another baseline; choose a different one.")
        every[name] = (other, [condition.transferred_to(other) for condition in asked], None)
    test = some_of(test, n_pairs, seed)
    for name, (own_model, _, prompt) in every.items():  # so that none is too long when others are done already
        render_pairs(form_of(own_model, prompt_format), test, format, prompt, what=f"{name}: pairs")
    tables = {}
    for name, (own_model, own, prompt) in track(every.items(), "Baselines", progress):
        options: Any = {"system_prompt": prompt, "prompt_format": prompt_format, "progress": False}
        table = sweep(own_model, own, test, format=format, **options)
        tables[name] = table.assign(behavior=behavior.name, system_prompt=prompt or "", seed=seed)
    return pd.concat(tables, names=["baseline"]).reset_index("baseline").reset_index(drop=True)


def _shot(pair: ContrastPair, side: Side, format: Format, order: str) -> str:
    """One example in the form of a base model."""
    question, answer = pair.question, pair.positive if side == "positive" else pair.negative
    if format == "choices" and not isinstance(pair, PublishedPair):
        first, second = (pair.positive, pair.negative) if order == "AB" else (pair.negative, pair.positive)
        question = with_choices(question, first, second)
        answer = "(A)" if answer == first else "(B)"
    return f"Input: {question.strip()}\nResponse: {answer}"
