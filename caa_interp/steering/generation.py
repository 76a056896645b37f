"""Answers to prompts, unsteered or steered, written token by token (Rimsky et al. 2024, section 3).

1. Prompts are put in the model's form, and conditions are spelled out: unsteered, one intervention, or several.
2. All answers are written side by side (:mod:`caa_interp.steering.writing`), each under its own interventions.
3. Tokens become texts: the thinking apart from the answer, where a model thinks first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.errors import InputError, check_count, is_number
from caa_interp.models.access import model_id
from caa_interp.models.unwrapped import bare
from caa_interp.prompts.conversation import Prompt, shown_prompt
from caa_interp.prompts.format import PromptFormat, form_of, shown_text, split_thinking
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Steering, conditions, one_layer, short_form, warn_of_idle
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.steering.writing import Row, Writing, write_all
from caa_interp.tree.edits import Operator
from caa_interp.vectors.vector import SteeringVector, one_vector

_COLDEST = 1e-6  # lowest temperature: logits divided by less would overflow float32
_BROKEN = "\N{REPLACEMENT CHARACTER}"


def generate(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    steering: Sequence[Steering] | Any = None,
    vector: SteeringVector | None = None,
    layer: int | None = None,
    multipliers: float | Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    n: int = 1,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Generate answers to prompts, unsteered or under one or several conditions.

    Parameters
    ----------
    model
        The model.
    prompts
        Texts that the user says, or conversations: lists of ``{"role": ..., "content": ...}`` that end with the user.
    steering
        Conditions, in a list or by name: None (the unsteered model), an :class:`Intervention`, or a list of them that
        are applied in turn.
    vector, layer, multipliers, operator, positions
        The short form: a steering vector at one layer, with each of the multipliers (default: 1), see
        :class:`Intervention`.
    n
        Number of samples per prompt and condition; more than 1 needs a temperature.
    max_new_tokens
        Longest answer in tokens; default 100, as in the paper.
    temperature
        0 (default) is greedy; else tokens are sampled at this temperature.
    top_p
        Sample among the likeliest tokens that together have this probability, above 0 and at most 1 (default).
    seed
        Seed. Draws depend only on it, the prompt and the sample's number, so all conditions draw the same.
    system_prompt
        Optional system prompt.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, condition and sample: ``item``, ``prompt`` (a conversation as JSON), ``sample``,
        ``vector``, ``kind``, ``layer``, ``multiplier``, ``operator``, ``positions``, ``answer``, ``thinking`` (for
        models that think first), ``blank`` (whether the model wrote tokens that show no text), ``n_tokens``,
        ``finished`` (whether the model ended the answer itself), ``model`` and ``prompt_digest``.

    Examples
    --------
    >>> up = caa.Intervention(vector, layer=15, multiplier=2)
    >>> answers = caa.generate(model, ["How was your day?"], steering=[None, up], max_new_tokens=8)
    >>> list(answers["multiplier"])
    [0.0, 2.0]
    """
    check_sampling(n, max_new_tokens, temperature, top_p, seed)
    form = form_of(model, prompt_format)
    ids = encode_prompts(form, prompts, max_new_tokens, system_prompt)
    if vector is not None:
        if steering is not None:
            raise InputError("steering and vector: both are given. Give conditions in steering, or the short form.")
        steering = one_vector(vector)
    if vectors := short_form(steering):
        layer = one_layer(vectors[0], layer)
        multipliers = (1.0,) if multipliers is None else multipliers
    asked = conditions(model, steering, form, layer, multipliers, operator, positions)
    with ambient(model) as outer:
        every = [(*outer, *condition.interventions) for condition in asked]
        warn_of_idle(every, {(len(one) + max_new_tokens - 1, len(one), None) for one in ids})
        answers = write_all(model, form, ids, every, max_new_tokens, n, temperature, top_p, seed, progress)
    rows = []
    for (number, place, sample), tokens in answers.items():
        thinking, answer = split_thinking(form, tokens)
        columns = {"item": number, "prompt": shown_prompt(prompts[number]), "sample": sample, **asked[place].columns}
        columns |= {"answer": answer} | ({} if form.thinking_end is None else {"thinking": thinking})
        columns |= {"blank": bool(tokens) and not (answer or thinking), "n_tokens": len(tokens)}
        rows.append({**columns, "finished": len(tokens) < max_new_tokens})
    return pd.DataFrame(rows).assign(model=model_id(model), prompt_digest=form.digest(system_prompt))


@dataclass(frozen=True)
class Answer:
    """An answer, or its beginning while it is being written.

    Attributes
    ----------
    text
        What is written so far, thinking included. A character of several tokens appears with the last of them.
    tokens
        Ids of the tokens so far.
    finished
        Whether the model ended the answer itself.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool


def stream_answer(
    model: Any,
    prompt: Prompt,
    steering: Steering = None,
    *,
    max_new_tokens: int = 100,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
) -> Iterator[Answer]:
    """Write the greedy answer to one prompt, and yield it after every token.

    Parameters
    ----------
    model, prompt, max_new_tokens, system_prompt, prompt_format
        As in :func:`generate`; checked at once, not when the first token is asked for.
    steering
        One condition: None, an :class:`Intervention`, or several in a list.

    Returns
    -------
    Iterator of Answer
        The answer so far after every token, then the whole answer, of the same tokens as :func:`generate`'s.

    Notes
    -----
    Hooks are on the model only while a token is computed, so several streams may take turns. Contexts of :func:`steer`
    count if open when this is called, not when the answer is read.
    """
    form = form_of(model, prompt_format)
    (asked,) = conditions(model, [steering], form)
    check_count("max_new_tokens", max_new_tokens)
    ids = encode_prompt(form, prompt, max_new_tokens, system_prompt, "prompt")
    with ambient(model) as outer:
        row = Row(0, (*outer, *asked.interventions), label=f"prompt, {asked}")
    warn_of_idle([row.interventions], [(len(ids) + max_new_tokens - 1, len(ids), None)])

    def written() -> Iterator[Answer]:
        tokens: tuple[int, ...] = ()
        with ambient(model), bare(model):
            writing = Writing(model, form, [ids], [row], longest=len(ids) + max_new_tokens)
        while len(tokens) < max_new_tokens:
            with ambient(model), bare(model):
                step = writing.step()
            if not step:
                break
            tokens += tuple(step.values())
            yield Answer(shown_text(form, tokens).rstrip(_BROKEN), tokens, finished=False)
        yield Answer(shown_text(form, tokens), tokens, finished=len(tokens) < max_new_tokens)

    return written()


def encode_prompts(
    form: PromptFormat,
    prompts: Sequence[Prompt],
    max_new_tokens: int,
    system_prompt: str | None,
    what: str = "prompts",
) -> list[tuple[int, ...]]:
    """Token ids of several prompts, which errors call ``what``; see :func:`encode_prompt`."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence | np.ndarray) or not len(prompts):
        raise InputError(f"{what}: {prompts!r:.100}; give a non-empty list of texts or conversations.")
    if isinstance(prompts[0], dict):
        raise InputError(f"{what}: a single conversation; give a list of conversations, [[...]].")
    return [encode_prompt(form, one, max_new_tokens, system_prompt, f"{what}[{n}]") for n, one in enumerate(prompts)]


def encode_prompt(
    form: PromptFormat, prompt: Prompt, max_new_tokens: int, system_prompt: str | None, what: str
) -> tuple[int, ...]:
    """Token ids of a prompt after which an answer has room."""
    ids = form.tokens(prompt, "", system_prompt, what).tokens
    if len(ids) + max_new_tokens > form.n_ctx:
        raise InputError(
            f"{what}: {len(ids)} tokens and {max_new_tokens} new ones do not fit the model's context of "
            f"{form.n_ctx}. Shorten it, or lower max_new_tokens."
        )
    return ids


def check_sampling(n: int, max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    """Raise :class:`InputError` unless these are numbers by which answers can be sampled."""
    for name, value, least in (("n", n, 1), ("max_new_tokens", max_new_tokens, 1), ("seed", seed, 0)):
        check_count(name, value, least)
    if not is_number(temperature) or 0 != temperature < _COLDEST:
        raise InputError(f"temperature: {temperature!r}; it must be 0 (greedy) or at least {_COLDEST}.")
    if not is_number(top_p) or not 0 < top_p <= 1:
        raise InputError(f"top_p: {top_p!r}; it must be above 0 and at most 1.")
    if temperature == 0 and (n > 1 or top_p < 1):
        raise InputError("temperature: it is 0, so every sample would be the same. Give one above 0, such as 0.7.")
