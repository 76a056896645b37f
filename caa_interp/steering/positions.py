"""Which positions are steered: rules that are resolved on a prompt, never on the tensor that a hook happens to see.

==========================  ==================================================================================
``from_last_prompt_token``  from the last token of the prompt on, generated tokens included (Rimsky et al. 2024)
``answer``                  every token after the prompt
``FirstAnswerTokens(k)``    the first k tokens after the prompt
``prompt``                  every token of the prompt, and no other
``all``                     every token
``after_thinking``          from the end of the model's thinking on; where it has none, from the last prompt token on
``[3, 4, 7]``               these positions, 0-based; padding in front is not counted
==========================  ==================================================================================
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from caa_interp.errors import InputError, check_count, is_count, listed
from caa_interp.prompts.format import PromptFormat
from caa_interp.tree.edits import Spans

Rule = Literal["from_last_prompt_token", "answer", "prompt", "all", "after_thinking"]
RULES: tuple[Rule, ...] = get_args(Rule)
# A chat template that opens or closes the thinking itself does so in the last few tokens of the prompt.
_TEMPLATE_TOKENS = 5


@dataclass(frozen=True)
class FirstAnswerTokens:
    """The first tokens of the answer.

    Parameters
    ----------
    k
        How many, at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        check_count("k", self.k)
        object.__setattr__(self, "k", int(self.k))  # as it stands in names


Positions = Rule | FirstAnswerTokens | Sequence[int]


def check_turn(positions: Positions, what: str) -> None:
    """Raise :class:`InputError` unless a rule names positions of one turn of a conversation, whatever came before."""
    turn = ("from_last_prompt_token", "answer", "after_thinking")
    if positions not in turn and not isinstance(positions, FirstAnswerTokens):
        raise InputError(
            f"{what}: {positions!r:.60} are not those of one turn. Give one of {list(turn)}, or FirstAnswerTokens(k)."
        )


def resolve(positions: Positions, n_prompt: int, thinking_end: float | None = None) -> Spans:
    """Positions that a rule names, as half-open ranges, in a sequence whose first ``n_prompt`` tokens are the prompt's.

    ``thinking_end`` is where the model's thinking ends; infinite while it still thinks, None if it does not.
    """
    last = n_prompt - 1
    if isinstance(positions, FirstAnswerTokens):
        return ((n_prompt, n_prompt + positions.k),)
    if not isinstance(positions, str):
        return tuple((int(at), int(at) + 1) for at in sorted(positions))
    start, stop = {
        "from_last_prompt_token": (last, math.inf),
        "answer": (n_prompt, math.inf),
        "prompt": (0, n_prompt),
        "all": (0, math.inf),
        "after_thinking": (last if thinking_end is None else max(last, thinking_end), math.inf),
    }[positions]
    return () if math.isinf(start) else ((int(start), stop),)


def end_of_thinking(form: PromptFormat, tokens: Sequence[int], n_prompt: int, *, growing: bool = False) -> float | None:
    """Find where the model's thinking ends in a prompt (``n_prompt`` tokens) with an answer.

    Returns the position of the first ``</think>`` token, or None. If there is none and the answer is ``growing``: that
    of its first token if it begins without thinking, infinity while the model thinks or may begin to.
    """
    mark = form.thinking_end
    if mark is None:
        return None
    begin = max(0, n_prompt - _TEMPLATE_TOKENS)
    end = next((at for at in range(begin, len(tokens)) if tokens[at] == mark), None)
    if end is not None or not growing:
        return end
    written = (str(form.tokenizer.decode([token])) for token in tokens[n_prompt:])
    opened = "<think>" in str(form.tokenizer.decode(tokens[begin:n_prompt]))
    first = next((text for text in written if text.strip()), None)
    return math.inf if opened or first is None or first.strip() == "<think>" else n_prompt


def check_positions(positions: Any) -> Positions:
    """Return a rule as it is and explicit positions as a tuple, or raise :class:`InputError`."""
    if isinstance(positions, FirstAnswerTokens):
        return positions
    if isinstance(positions, str):
        if positions in RULES:
            return positions
    elif not is_count(positions, 0):  # a number alone may mean that position, or all from there on
        at = listed(positions)
        if at and all(is_count(n, 0) for n in at):
            return tuple(sorted({int(n) for n in at}))
    raise InputError(
        f"positions: {positions!r:.100}; give one of {', '.join(map(repr, RULES))}, FirstAnswerTokens(k), or a list of "
        "positions of at least 0."
    )


def positions_named(text: str) -> Positions:
    """Return positions from a text: a rule's name, ``"FirstAnswerTokens(3)"``, or numbers such as ``"3, 4, 7"``.

    Raises
    ------
    InputError
        If the text is none of these.
    """
    first = re.fullmatch(r"\s*FirstAnswerTokens\((?:k=)?(\d{1,18})\)\s*", text)
    if first:
        return FirstAnswerTokens(int(first[1]))
    numbers = re.fullmatch(r"\s*[\[(]?\s*(\d{1,18}(?:\s*,\s*\d{1,18})*)\s*,?\s*[\])]?\s*", text)
    return check_positions([int(n) for n in numbers[1].split(",")] if numbers else text)


def name_of_positions(positions: Positions) -> str:
    """Name of a rule, for tables."""
    return positions if isinstance(positions, str) else repr(positions)
