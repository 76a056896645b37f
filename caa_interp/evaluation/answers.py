"""Answers that a model reads while it is steered: both of a contrast pair, or its own, unsteered ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.evaluation.divergence import own_answers
from caa_interp.evaluation.sweep import scoring_format
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format
from caa_interp.steering.intervention import Condition
from caa_interp.steering.positions import end_of_thinking

At = Literal["answer", "first", "later"]
_CHOSEN = {"answer": slice(None), "first": slice(1), "later": slice(1, None)}


@dataclass(frozen=True)
class AnswerTokens:
    """A prompt with an answer, as far as it is read.

    Attributes
    ----------
    tokens
        Token ids of the prompt and the answer, up to the last of ``places``.
    places
        Positions after which the next token is asked for: one token of the answer each.
    n_prompt, thinking_end
        What resolves the steered positions, see :meth:`caa_interp.Intervention.edit`.
    """

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    n_prompt: int
    thinking_end: float | None


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
    """Sequences of each item, those of a pair or one answer, and what the column ``format`` says of them."""
    is_list = isinstance(texts, Iterable) and not isinstance(texts, str | Mapping)
    given = list(texts) if is_list else []
    if not given:
        what = "an empty list" if is_list else type(texts).__name__
        raise InputError(f"texts: {what}; give a list of contrast pairs, such as behavior.test, or of prompts.")
    whole: list[list[tuple[tuple[int, ...], int, int, float | None]]] = []
    if any(isinstance(one, ContrastPair) for one in given):
        chosen: str = (form_of_pairs := scoring_format(format, asked))
        for number, pair in enumerate(check_pairs(given, "texts")):
            whole.append([])
            for one in form.render(pair, form_of_pairs, system_prompt, what=f"texts[{number}]"):
                for tokens in (one.positive, one.negative):
                    thinking_end = end_of_thinking(form, tokens, one.n_prompt)
                    whole[-1].append((tokens, one.n_prompt, one.start + 1, thinking_end))
    else:
        if format is not None:
            raise InputError(f"format: {format!r}; prompts have none, only contrast pairs have. Leave it out.")
        chosen = "own answers"
        answers = own_answers(model, form, given, n_tokens, system_prompt)
        whole = [[(tokens, n_prompt, n_prompt, thinking_end)] for tokens, n_prompt, thinking_end in answers]
    items = []
    for number, sequences in enumerate(whole):
        found = []
        for tokens, n_prompt, n_steered_after, thinking_end in sequences:
            if places := tuple(range(n_prompt - 1, len(tokens) - 1))[_CHOSEN[at]]:
                found.append(AnswerTokens(tokens[: places[-1] + 1], places, n_steered_after, thinking_end))
        if not found:
            raise InputError(f"at: 'later', but the answers of texts[{number}] have one token. Leave them out.")
        items.append(list(dict.fromkeys(found)))  # the first token of both answers has one place
    return items, chosen
