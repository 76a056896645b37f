"""Answers that a model reads while it is steered: both of a contrast pair, or its own, unsteered ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count
from caa_interp.evaluation.sweep import scoring_format
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format, render_pairs
from caa_interp.steering.context import ambient
from caa_interp.steering.generation import encode_prompts
from caa_interp.steering.intervention import Condition
from caa_interp.steering.positions import end_of_thinking
from caa_interp.steering.writing import write_all

At = Literal["answer", "first", "later"]
_CHOSEN = {"answer": slice(None), "first": slice(1), "later": slice(1, None)}


class AnswerTokens(NamedTuple):
    """A prompt with an answer.

    Attributes
    ----------
    tokens
        Token ids of the prompt and the answer.
    places
        Positions after which the next token is asked for: one token of the answer each.
    n_prompt, thinking_end
        What resolves the steered positions, see :meth:`caa_interp.Intervention.edit`.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    n_prompt: int
    thinking_end: float | None


def own_answers(
    model: Any,
    form: PromptFormat,
    prompts: Sequence[Prompt],
    n_tokens: int,
    system_prompt: str | None,
    what: str = "prompts",
) -> list[AnswerTokens]:
    """The unsteered model's greedy answers; an empty one is its end token."""
    check_count("n_tokens", n_tokens)
    asked = encode_prompts(form, prompts, n_tokens, system_prompt, what)
    with ambient(model):
        answers = write_all(model, form, asked, [()], max_new_tokens=n_tokens)
    found = []
    for number, ids in enumerate(asked):
        tokens = (*ids, *(answers[number, 0, 0] or [min(form.end_ids, default=0)]))
        places = tuple(range(len(ids) - 1, len(tokens) - 1))
        found.append(AnswerTokens(tokens, places, len(ids), end_of_thinking(form, tokens, len(ids), growing=True)))
    return found


def answers_along(
    model: Any,
    form: PromptFormat,
    texts: Any,
    asked: Sequence[Condition],
    format: Format | None,
    system_prompt: str | None,
    at: At,
    n_tokens: int,
) -> tuple[list[list[AnswerTokens]], str]:
    """Sequences of each item, up to the last place that is read, and what the column ``format`` says of them.

    A pair has those of both answers, a prompt that of the model's own.
    """
    is_list = isinstance(texts, Iterable) and not isinstance(texts, str | Mapping)
    given = list(texts) if is_list else []
    if not given:
        what = "an empty list" if is_list else type(texts).__name__
        raise InputError(f"texts: {what}; give a list of contrast pairs, such as behavior.test, or of prompts.")
    whole: list[list[AnswerTokens]] = []
    if any(isinstance(one, ContrastPair) for one in given):
        chosen: str = (form_of_pairs := scoring_format(format, asked))
        for renderings in render_pairs(form, check_pairs(given, "texts"), form_of_pairs, system_prompt, "texts"):
            whole.append([])
            for one in renderings:
                for tokens in (one.positive, one.negative):
                    places = tuple(range(one.n_prompt - 1, len(tokens) - 1))
                    thinking_end = end_of_thinking(form, tokens, one.n_prompt)
                    whole[-1].append(AnswerTokens(tokens, places, one.start + 1, thinking_end))
    else:
        if format is not None:
            raise InputError(f"format: {format!r}; prompts have none, only contrast pairs have. Leave it out.")
        chosen = "own answers"
        whole = [[one] for one in own_answers(model, form, given, n_tokens, system_prompt, "texts")]
    items = []
    for number, sequences in enumerate(whole):
        read = [(one, one.places[_CHOSEN[at]]) for one in sequences]
        found = [one._replace(tokens=one.tokens[: places[-1] + 1], places=places) for one, places in read if places]
        if not found:
            raise InputError(f"at: 'later', but the answers of texts[{number}] have one token. Leave them out.")
        items.append(list(dict.fromkeys(found)))  # the first token of both answers has one place
    return items, chosen
