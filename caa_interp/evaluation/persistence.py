"""What is left of steering in later turns of a conversation: in the words that were said, and in the cache.

A conversation is a list of contrast pairs, one a turn.

1. In each turn the user asks the pair's question, and the pair is scored as a continuation of the conversation.
2. The model's own greedy answer is appended, as the tokens that it wrote, and the next turn follows.
3. Positions that were steered stay so in later turns, as in a kept key-value cache; or the tokens are read again,
   unsteered, as when a conversation is sent again as text.
4. Conditions differ in the turns that are steered and in whether these stay so. What both ways of reading share is in
   the text; what they differ by is in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, check_count, check_table
from caa_interp.evaluation.summary import UNSTEERED, items_of
from caa_interp.models.access import model_id
from caa_interp.progress import track
from caa_interp.prompts.conversation import messages_of
from caa_interp.prompts.format import PromptFormat, form_of, shown_text, token_ids
from caa_interp.prompts.rendering import common_prefix
from caa_interp.statistics import bootstrap_means, check_resampling
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Condition, Intervention, Steering, condition_of, conditions, warn_of_idle
from caa_interp.steering.positions import check_turn, end_of_thinking
from caa_interp.steering.writing import write_all
from caa_interp.tree.branches import Branch
from caa_interp.tree.run import run_trees

# Which turns (from 0) are steered, from the first to before the last, and whether their positions stay so.
CONDITIONS = {
    "every turn": (0, math.inf, True),
    "turn 1": (0, 1, True),
    "turn 1, as text": (0, 1, False),
    "from turn 2": (1, math.inf, True),
}
CACHE = "turn 1, in the cache"
# Tokens of a turn: of the question, and of the question with the positive and with the negative answer.
_Turn = list[tuple[int, ...]]
_MARK = "\ue000"  # stands for the model's own answers, in a character that no text has


class _Talk:
    """One conversation under one condition, as far as it went: its tokens, and what is steered among them."""

    def __init__(self, condition: Condition, name: str) -> None:
        self.condition, self.name = condition, name
        self.begin, self.end, self.keeps = CONDITIONS.get(name, (0, 0, False))
        self.ids: tuple[int, ...] = ()
        self.kept: list[list[int]] = [[] for _ in condition.interventions]

    def interventions(self, turn: int) -> tuple[Intervention, ...]:
        """What is done to the tokens so far, and to the answer of this turn."""
        live = self.condition.interventions
        before = [replace(one, positions=at) for one, at in zip(live, self.kept, strict=True) if at]
        return (*before, *(live if self.begin <= turn < self.end else ()))

    def answered(self, form: PromptFormat, turn: int, asked: tuple[int, ...], answer: Sequence[int]) -> None:
        """Append a question and the answer to it."""
        n_prompt = len(self.ids) + len(asked)
        self.ids = (*self.ids, *asked, *answer)
        if self.keeps and self.begin <= turn < self.end:
            places = np.arange(n_prompt - 1, len(self.ids))
            end = end_of_thinking(form, self.ids, n_prompt, growing=True)  # as it was known while this was written
            for one, at in zip(self.condition.interventions, self.kept, strict=True):
                at += places[one.edit(n_prompt, end).covers(places)].tolist()


def persistence(
    model: Any,
    steering: Steering | Any,
    conversations: Sequence[Sequence[ContrastPair]],
    *,
    max_new_tokens: int = 40,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure an effect in every turn of conversations that are steered in all turns, in the first, or after it.

    Parameters
    ----------
    model, system_prompt, prompt_format, progress
        As in :func:`caa_interp.sweep`.
    steering
        An :class:`Intervention`, or conditions in a list or by name, as in :func:`caa_interp.sweep`. Positions are
        ``"from_last_prompt_token"``, ``"answer"``, ``"after_thinking"`` or ``FirstAnswerTokens(k)``, of each turn.
    conversations
        Lists of contrast pairs, equally many in each and at least two: one a turn. Give every pair a place in every
        turn, as below, so that turns differ in nothing else.
    max_new_tokens
        Longest answer of the model, in tokens.

    Returns
    -------
    pandas.DataFrame
        One row per conversation, turn and condition:

        - ``item`` (0-based), ``turn`` (from 1), ``condition``: ``"every turn"``; ``"turn 1"``, whose steered positions
          stay so, as in a kept cache; ``"turn 1, as text"``, whose tokens are read unsteered in later turns; ``"from
          turn 2"``; ``"unsteered"``; ``id`` and ``topic`` of the pair;
        - ``vector``, ``kind``, ``layer``, ``multiplier``, ``operator``, ``positions``: the steering;
        - ``log_p_positive``, ``log_p_negative``, ``logit_difference``: as in :func:`caa_interp.sweep` in text form,
          nats per token;
        - ``answer``: the model's own answer in that turn, missing in the last one; ``n_tokens`` before the turn's
          answer; ``format``, ``model``, ``prompt_digest`` and ``path``.

    Raises
    ------
    InputError
        If an argument is not one of those above, a conversation may outgrow the model's context, or the chat template
        does not show the model's own answers.

    Notes
    -----
    The positive and the negative answer are scored and then taken back: only the model's own answer stays. In a kept
    cache the tokens between two answers are unsteered, but have read steered ones.

    Examples
    --------
    >>> pairs = behavior.test[:4]
    >>> talks = [[*pairs[n:], *pairs[:n]][:2] for n in range(len(pairs))]
    >>> up = caa.Intervention(vector, layer=15, multiplier=2)
    >>> table = caa.evaluation.persistence(model, up, talks, max_new_tokens=8)
    >>> sorted(set(table["turn"]))
    [1, 2]
    """
    form = form_of(model, prompt_format)
    check_count("max_new_tokens", max_new_tokens)
    checked, tokens = check_conversations(form, conversations, max_new_tokens, system_prompt)
    asked = [condition for condition in conditions(model, steering, form) if condition.interventions]
    if not asked:
        raise InputError("steering: nothing in it steers; give at least one Intervention.")
    for one in (one for condition in asked for one in condition.interventions):
        check_turn(one.positions, "steering: positions")
    n_turns = len(checked[0])
    every = [(condition, name) for condition in asked for name in CONDITIONS]
    every.append((condition_of([]), UNSTEERED))
    talks = [[_Talk(condition, name) for condition, name in every] for _ in checked]
    rows, longest = [], 0
    with ambient(model) as outer:
        for turn in track(range(n_turns), "Turns", progress):
            prompts, sides = [own[turn][0] for own in tokens], [own[turn][1:] for own in tokens]
            of_turn = [{talk: (talk.ids, (*outer, *talk.interventions(turn))) for talk in some} for some in talks]
            trees = (
                list(_branches(form, dict.fromkeys(own.values()), prompt, both))
                for own, prompt, both in zip(of_turn, prompts, sides, strict=True)
            )
            written: dict[Any, list[int]] = {}
            if turn + 1 < n_turns:
                known = [
                    ((*ids, *prompt), interventions)
                    for own, prompt in zip(of_turn, prompts, strict=True)
                    for ids, interventions in own.values()
                ]
                distinct = list(dict.fromkeys(known))
                whole, own_steering = zip(*distinct, strict=True)
                found = write_all(model, form, whole, [()], max_new_tokens, own=own_steering)
                written = {one: found[number, 0, 0] for number, one in enumerate(distinct)}
            for number, result in enumerate(run_trees(model, trees)):
                own, prompt, pair = of_turn[number], prompts[number], checked[number][turn]
                scores = [float(one.double().mean()) for one in result.log_probs]
                place = {key: 2 * n for n, key in enumerate(dict.fromkeys(own.values()))}
                for talk, (ids, interventions) in own.items():
                    longest = max(longest, len(ids) + max(map(len, sides[number])))
                    positive, negative = scores[place[ids, interventions] :][:2]
                    answer = written.get(((*ids, *prompt), interventions))
                    row: dict[str, Any] = {"item": number, "turn": turn + 1, "condition": talk.name}
                    row |= {"id": pair.id, "topic": pair.topic, **talk.condition.columns}
                    row |= {"log_p_positive": positive, "log_p_negative": negative, "path": result.path}
                    row |= {"logit_difference": positive - negative, "n_tokens": len(ids) + len(prompt)}
                    rows.append({**row, "answer": None if answer is None else shown_text(form, answer)})
                    talk.answered(form, turn, prompt, answer or ())
        warn_of_idle([outer], [(longest, 1, None)])
    return pd.DataFrame(rows).assign(format="text", model=model_id(model), prompt_digest=form.digest(system_prompt))


def summarize_persistence(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Mean change from the unsteered conversation in every turn, with intervals over conversations.

    Parameters
    ----------
    table, confidence, seed
        Result of :func:`persistence`, or several stacked, told apart by a column such as ``behavior``; as in
        :func:`caa_interp.summarize`.

    Returns
    -------
    pandas.DataFrame
        One row per steering, condition and turn: the columns that tell them apart, as in
        :func:`caa_interp.summarize`; ``change`` of the log-probability difference, nats per token, with
        ``change_low`` and ``change_high``; ``n`` conversations; ``confidence``. One more condition, ``"turn 1, in the
        cache"``, is the difference between ``"turn 1"`` and ``"turn 1, as text"``.
    """
    columns = {"item", "turn", "condition", "vector", "kind", "layer", "multiplier", "logit_difference"}
    check_table(table, columns, "caa_interp.evaluation.persistence")
    check_resampling(confidence, seed)
    _, _, every, values = items_of(table)
    if "logit_difference_change" not in values:
        raise InputError("table: no conversation in it is unsteered. Give it with these rows.")
    changes, steered = values["logit_difference_change"], every[every["kind"] != UNSTEERED]
    kept, read = (
        steered[steered["condition"] == name].drop(columns="condition").reset_index()
        for name in ("turn 1", "turn 1, as text")
    )
    cache = kept.merge(read, on=[name for name in kept if name != "index"])
    of_cache = changes[:, cache.pop("index_x")] - changes[:, cache.pop("index_y")]
    result = pd.concat([steered, cache.assign(condition=CACHE)], ignore_index=True).astype({"layer": int})
    mean, low, high, n = bootstrap_means(np.hstack([changes[:, steered.index], of_cache]), confidence, seed=seed)
    result = result.assign(change=mean, change_low=low, change_high=high, n=n, confidence=confidence)
    listed = list(CONDITIONS)
    listed.insert(listed.index("turn 1, as text") + 1, CACHE)
    steering = [name for name in every if name not in ("condition", "turn")]
    number = result.groupby(steering, sort=False, dropna=False).ngroup()
    order = np.lexsort([result["turn"], result["condition"].map(listed.index), number])
    return result.iloc[order].reset_index(drop=True)


def check_conversations(
    form: PromptFormat, conversations: Any, max_new_tokens: int, system_prompt: str | None
) -> tuple[list[list[ContrastPair]], list[list[_Turn]]]:
    """Return conversations of equally many turns that fit the model's context however long the model's answers are.

    And the tokens of every turn of each, from where the model's answer before it ends.
    Raises :class:`InputError`, which names a conversation, if they are not.
    """
    if not isinstance(conversations, Sequence) or isinstance(conversations, str) or not len(conversations):
        raise InputError(f"conversations: {conversations!r:.60}; give a non-empty list of lists of contrast pairs.")
    checked = [check_pairs(one, f"conversations[{number}]") for number, one in enumerate(conversations)]
    lengths = [len(pairs) for pairs in checked]
    if min(lengths) < 2 or len(set(lengths)) > 1:
        raise InputError(f"conversations: of {sorted(set(lengths))} pairs; each needs equally many, and at least two.")
    tokens = []
    for number, pairs in enumerate(checked):
        what = f"conversations[{number}]"
        if any(isinstance(pair, PublishedPair) for pair in pairs):
            raise InputError(f"{what}: a pair is kept as published, with letters; read it without compat for text.")
        turns = [
            [_after(form, pairs[: n + 1], text, system_prompt, what) for text in ("", pair.positive, pair.negative)]
            for n, pair in enumerate(pairs)
        ]
        tokens.append(turns)
        longest = sum(max(map(len, turn)) for turn in turns) + (len(pairs) - 1) * max_new_tokens
        if longest > form.n_ctx:
            raise InputError(
                f"{what}: up to {longest} tokens, but the model's context holds {form.n_ctx}. Give fewer turns, or "
                "lower max_new_tokens."
            )
    return checked, tokens


def _branches(
    form: PromptFormat, keys: Any, prompt: tuple[int, ...], sides: Sequence[tuple[int, ...]]
) -> Iterator[Branch]:
    """Two branches for each of ``keys``, the tokens so far with their interventions: the positive answer, the other."""
    n_asked = min(common_prefix(prompt, side) for side in sides)
    for ids, interventions in keys:
        n_prompt = len(ids) + n_asked
        both = [(*ids, *side) for side in sides]
        ends = [end_of_thinking(form, tokens, n_prompt) for tokens in both]
        edits = {end: tuple(one.edit(n_prompt, end) for one in interventions) for end in ends}
        for tokens, end in zip(both, ends, strict=True):
            targets = tuple((at - 1, tokens[at]) for at in range(n_prompt, len(tokens)))
            yield Branch(tokens[:-1], edits[end], targets)


def _after(
    form: PromptFormat, pairs: Sequence[ContrastPair], answer: str, system_prompt: str | None, what: str
) -> tuple[int, ...]:
    """Token ids of the last pair's question and an answer, from where the model's answer before it ends."""
    if len(pairs) == 1:
        return form.tokens(pairs[0].question, answer, system_prompt, what).tokens
    said = [
        {"role": role, "content": text}
        for one in pairs
        for role, text in (("user", one.question), ("assistant", _MARK))
    ]
    pieces = form.pieces(messages_of(said[:-1], system_prompt, what), answer, what)
    places = [number for number, piece in enumerate(pieces) if _MARK in piece]
    if sum(piece.count(_MARK) for piece in pieces) < len(pairs) - 1:
        raise InputError(
            f"{what}: the chat template of this model does not show its own earlier answers. Give a prompt_format that "
            "does."
        )
    ids = token_ids(form.tokenizer, pieces[places[-1]].rpartition(_MARK)[2], what, special=False)
    for piece in pieces[places[-1] + 1 :]:
        ids += [form.tokenizer.eos_token_id, *form.piece_ids(piece, what)]
    return tuple(ids)
