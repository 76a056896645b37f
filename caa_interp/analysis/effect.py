"""What a vector makes the model say: every token's change of log-probability per unit of the multiplier.

1. Read answers to prompts while the model is steered with two multipliers, by default -1 and 1: both answers of
   held-out contrast pairs, or what the unsteered model itself answers.
2. At each position take the log-probability of every token of the vocabulary as the next one. Its difference between
   the two multipliers, per unit of the multiplier, is the effect there: a central difference, in nats.
3. Average over the positions of an item: both answers of a pair, or one answer.
4. Subtract the mean over the vocabulary, so that 0 is the average token. Then the normalizing constant of the softmax
   does not matter.
5. Average over items. An interval is Student's t over items: a bootstrap would have to hold every item's value for
   every token, where a running mean and sum of squares suffice.
6. Rank the tokens.

It does not show what the model would write by itself: tokens are read along given answers, and each stands alone. It
does not show what the vector says where it is added, but what all later blocks make of it. And it is the slope between
two multipliers; further out the response bends. Unlike the logit lens it needs no direction to be readable: at the
middle layers, where vectors steer best, :func:`caa_interp.logit_lens` shows fragments and this shows words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any, get_args

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError, check_choice, check_count
from caa_interp.evaluation.answers import AnswerTokens, At, answers_along
from caa_interp.models.access import model_id
from caa_interp.models.readout import is_word, special_ids, token_texts
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format
from caa_interp.statistics import RunningMean
from caa_interp.steering.intervention import (
    Condition,
    Steered,
    check_acts,
    check_multipliers,
    condition_of,
    conditions,
    short_form,
)
from caa_interp.steering.operators import add, ends
from caa_interp.steering.positions import Positions
from caa_interp.steering.reading import Read, read_under
from caa_interp.tree.branches import Branch, TreeResult
from caa_interp.tree.edits import Operator

# Conditions whose running means take more than this are read in several rounds, each over all texts.
_BYTES, _BYTES_PER_TOKEN = 2**30, 200
_COLUMNS = (
    *("vector", "kind", "layer", "operator", "positions", "from_multiplier", "to_multiplier"),
    *("side", "rank", "token", "token_id", "effect", "effect_low", "effect_high"),
    *("probability", "probability_change", "probability_change_low", "probability_change_high"),
    *("n", "spread", "n_half", "n_excluding_zero", "at", "ranked_by", "format", "model", "prompt_digest", "path"),
)


def effect_lens(
    model: Any,
    vector: Steered,
    texts: Iterable[ContrastPair] | Sequence[Prompt],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
    top_k: int = 10,
    words_only: bool = False,
    at: At = "answer",
    weighted: bool = False,
    n_tokens: int = 32,
    format: Format | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Tokens that a vector makes the model expect more, and less, while it reads answers.

    Parameters
    ----------
    model, layers, format, operator, positions, system_prompt, prompt_format, progress
        As in :func:`caa_interp.sweep`.
    vector
        As in :func:`caa_interp.sweep`: a vector, several by name (a vector beside its random controls shares the
        work), or interventions. All multipliers of interventions are scaled by ``multipliers``.
    texts
        Contrast pairs, usually a behavior's ``test``, of which the model reads both answers. Or prompts or
        conversations as in :func:`caa_interp.generate`, whose answers are the unsteered model's own, greedy.
    multipliers
        Two different numbers; the effect is the difference between them, per unit. Default: -1 and 1, or 0 and 1 if
        an operator is complete at 1, as ``caa.ablate`` is.
    top_k
        Number of tokens per side, at least 1.
    words_only
        Rank whole words only: tokens that begin with a space and go on with three letters or more, and nothing else.
        Default: all tokens, apart from special ones that do not end an answer, such as the marks of a chat template:
        the model never writes these.
    at
        Where the next token is read: ``"answer"`` (default, all positions of the answers), ``"first"`` (for the first
        token of the answer, after the prompt) or ``"later"`` (for all others).
    weighted
        Rank by the change of the probability instead of the log-probability. The first shows common words, the second
        also those that stay rare.
    n_tokens
        Longest answer to a prompt, in tokens.

    Returns
    -------
    pandas.DataFrame
        One row per condition, side and rank. The condition: ``vector``, ``kind``, ``layer``, ``operator``,
        ``positions``, ``from_multiplier``, ``to_multiplier``. The token: ``side`` (``"raised"`` or ``"lowered"``),
        ``rank`` (from 1, the most extreme), ``token``, ``token_id``. Its numbers:

        - ``effect``: change of its mean log-probability per unit of multiplier, in nats, minus the vocabulary's mean;
        - ``probability``: its mean unsteered probability, 0 to 1;
        - ``probability_change``: change of its mean probability, per unit of multiplier;
        - ``effect_low``, ``effect_high``, ``probability_change_low``, ``probability_change_high``: 95 % intervals,
          Student's t over items; each token by itself, and not corrected for the choice of the most extreme tokens.
          Missing if there is one item;
        - ``n``: number of items (pairs or prompts).

        Numbers of the whole condition, the same in all of its rows: ``spread``, the standard deviation of the effect
        over the vocabulary, in nats; ``n_half``, the smallest number of tokens that hold half of the effect's sum of
        squares (few: it is about certain words); ``n_excluding_zero``, the number of tokens whose interval excludes
        zero after Bonferroni's correction for the size of the vocabulary. All three are of the whole vocabulary,
        whatever is ranked; compare them with those of random vectors of the same norm.

        How it was read: ``at``, ``ranked_by`` (``"effect"`` or ``"probability_change"``), ``format`` (``"text"``,
        ``"choices"`` or ``"own answers"``), ``model``, ``prompt_digest``, ``path``. Tokens are written as in
        :func:`caa_interp.logit_lens`.

    Raises
    ------
    InputError
        If an argument is not one of those above, or a condition changes nothing.
    VectorMismatchError
        If a vector was not made for this model.

    Notes
    -----
    Memory grows with the conditions, not with the texts: distributions are averaged while they are computed.

    Examples
    --------
    >>> table = caa.effect_lens(model, vector, behavior.test[:2], layers=15, words_only=True, top_k=3)
    >>> sorted(set(table["side"])), sorted(set(table["rank"]))
    (['lowered', 'raised'], [1, 2, 3])
    """
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, form, layers, [1.0] if short_form(vector) else None, operator, positions)
    check_acts(asked)
    if multipliers is None:
        multipliers = ends(one.operator for condition in asked for one in condition.interventions)
    doses = check_multipliers(multipliers)
    if len(doses) != 2:
        raise InputError(f"multipliers: {doses}; an effect is between two. Give two numbers, such as (-1, 1).")
    check_choice("at", at, get_args(At))
    check_count("n_tokens", n_tokens)
    ranked = _rankable(model, form, words_only)
    check_count("top_k", top_k, 1, len(ranked))
    items, form_of_texts = answers_along(model, form, texts, asked, format, system_prompt, at, n_tokens)
    d_vocab = int(model.cfg.d_vocab)
    at_once = max(1, _BYTES // (_BYTES_PER_TOKEN * d_vocab))
    frames = []
    for first in range(0, len(asked), at_once):
        some = asked[first : first + at_once]
        changes, probability, path = _read(model, items, some, doses, progress)
        parts = zip(some, changes.mean, changes.reach(), changes.reach(n_together=d_vocab), strict=True)
        for condition, mean, reach, joint_reach in parts:
            described = {name: value for name, value in condition.columns.items() if name != "multiplier"}
            described |= _vocabulary(mean[0], joint_reach[0])
            ranks = _ranks(form, mean, reach, probability, ranked, top_k, weighted)
            frames.append(ranks.assign(**described, path=path))
    table = pd.concat(frames, ignore_index=True).assign(
        from_multiplier=doses[0],
        to_multiplier=doses[1],
        n=len(items),
        n_excluding_zero=lambda made: made["n_excluding_zero"].astype("Int64"),
        at=at,
        ranked_by="probability_change" if weighted else "effect",
        format=form_of_texts,
        model=model_id(model),
        prompt_digest=form.digest(system_prompt),
    )
    return table[list(_COLUMNS)]


def _rankable(model: Any, form: PromptFormat, words_only: bool) -> np.ndarray:
    """Ids of the tokens that are ranked."""
    n_known = min(int(model.cfg.d_vocab), len(form.tokenizer))
    if words_only:
        return np.flatnonzero([is_word(text) for text in token_texts(form.tokenizer, range(n_known))])
    return np.setdiff1d(np.arange(n_known), sorted(special_ids(form.tokenizer) - form.end_ids))


def _read(
    model: Any,
    items: Sequence[Sequence[AnswerTokens]],
    asked: Sequence[Condition],
    doses: Sequence[float],
    progress: bool,
) -> tuple[RunningMean, np.ndarray, str]:
    """Changes over items, ``[n_conditions, 2, d_vocab]``: of log-probability and probability, per unit.

    With the mean unsteered probability ``[d_vocab]``, and the way that the forward passes took.
    """
    steps = {dose: sign / (doses[1] - doses[0]) for dose, sign in zip(doses, (-1, 1), strict=True)}
    at_zero = steps.pop(0.0, 0.0)
    scaled = [condition_of([one * dose for one in each.interventions]) for each in asked for dose in steps]
    reads = [
        [Read(Branch(one.tokens, averaged=one.places), one.n_prompt, one.thinking_end) for one in item]
        for item in items
    ]
    changes = RunningMean((len(asked), 2, int(model.cfg.d_vocab)))
    probability = np.zeros(int(model.cfg.d_vocab))
    paths = set()
    with closing(read_under(model, reads, [condition_of([]), *scaled], "texts")) as results:
        for item, result in zip(items, track(results, "Reading", progress, total=len(items)), strict=True):
            values, unsteered = _of_item(item, result, len(asked), list(steps.values()), at_zero)
            changes.add(values.numpy())
            probability += unsteered.numpy() / len(items)
            paths.add(result.path)
    return changes, probability, " + ".join(sorted(paths))


def _of_item(
    item: Sequence[AnswerTokens], result: TreeResult, n_conditions: int, steps: Sequence[float], at_zero: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Changes of one item, ``[n_conditions, 2, d_vocab]``, and its unsteered probability ``[d_vocab]``, float64."""
    d_vocab = result.distributions[0].shape[-1]
    values = torch.zeros(n_conditions, 2, d_vocab, dtype=torch.float64)
    probability = torch.zeros(d_vocab, dtype=torch.float64)
    found = iter(result.distributions)
    n_places = sum(len(sequence.places) for sequence in item)
    for sequence in item:
        share = len(sequence.places) / n_places
        unsteered = next(found)
        probability.add_(unsteered[1], alpha=share)
        if at_zero:
            values.add_(unsteered, alpha=share * at_zero)
        for value in values:
            for step in steps:
                value.add_(next(found), alpha=share * step)
    values[:, 0] -= values[:, 0].mean(-1, keepdim=True)
    return values, probability


def _vocabulary(effect: np.ndarray, joint_reach: np.ndarray) -> dict[str, Any]:
    """Numbers of one condition's effect on the whole vocabulary, ``[d_vocab]`` like the reach of its intervals."""
    squares = np.sort(effect**2)[::-1].cumsum()
    excluding = int((np.abs(effect) > joint_reach).sum())
    return {
        "spread": effect.std(),
        "n_half": int(np.searchsorted(squares, squares[-1] / 2)) + 1,
        "n_excluding_zero": pd.NA if np.isnan(joint_reach).any() else excluding,
    }


def _ranks(
    form: PromptFormat,
    mean: np.ndarray,
    reach: np.ndarray,
    probability: np.ndarray,
    ranked: np.ndarray,
    top_k: int,
    weighted: bool,
) -> pd.DataFrame:
    """Rows of both sides of one condition; ``mean`` and ``reach``, of its changes, are ``[2, d_vocab]``."""
    order = ranked[np.argsort(mean[int(weighted)][ranked], kind="stable")]
    frames = []
    for side, ids in (("raised", order[::-1][:top_k]), ("lowered", order[:top_k])):
        columns: dict[str, Any] = {"side": side, "rank": range(1, top_k + 1)}
        columns |= {"token": token_texts(form.tokenizer, ids), "token_id": ids, "probability": probability[ids]}
        for name, center, half in zip(("effect", "probability_change"), mean[:, ids], reach[:, ids], strict=True):
            columns |= {name: center, f"{name}_low": center - half, f"{name}_high": center + half}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames)
