"""Where each turn of a whole conversation stands among its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from caa_interp.errors import InputError
from caa_interp.prompts.conversation import Message, messages_of
from caa_interp.prompts.format import PromptFormat, encoded

# Stand for the turns, in characters that no text has.
_MARK = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True)
class Turn:
    """Role and content of one turn, and the positions of the tokens that hold its content."""

    role: str
    content: str
    positions: tuple[int, ...]


def read_turns(form: PromptFormat, conversation: Sequence[Message], what: str) -> tuple[tuple[int, ...], list[Turn]]:
    """Token ids of a conversation, and its turns, without the marks that the chat form puts around them.

    The conversation is one as in :func:`messages_of`, but may end with a turn of the assistant. It may be longer than
    the model's context. ``what`` names it in error messages.
    """
    last = conversation[-1] if conversation else {}
    answer = last.get("content") if last.get("role") == "assistant" else None
    answered = isinstance(answer, str) and bool(answer.strip())
    messages = messages_of(conversation[:-1] if answered else conversation, None, what)
    messages += [{"role": "assistant", "content": str(answer)}] if answered else []
    messages = [{**message, "content": message["content"].strip()} for message in messages]
    marks = [{**message, "content": f"\ue000{number}\ue001"} for number, message in enumerate(messages)]
    pieces, marked = (
        form.pieces(some[:-1] if answered else some, some[-1]["content"] if answered else "", what)
        for some in (messages, marks)
    )
    filled = [_filled(pattern, messages) for pattern in marked]
    if [text for text, _ in filled] != pieces or sum(len(places) for _, places in filled) < len(messages):
        raise InputError(
            f"{what}: the chat template of this model does not show every turn as it is given, such as thoughts of "
            "earlier turns. Leave out what it drops, or read the turns as plain texts."
        )
    ids: list[int] = []
    positions: dict[int, tuple[int, ...]] = {}
    for piece, places in filled:
        ids += [form.tokenizer.eos_token_id] if ids else []
        found = encoded(form.tokenizer, piece, what, special=form.template is None, return_offsets_mapping=True)
        if "offset_mapping" not in found:
            raise InputError(
                f"{what}: the tokenizer of this model does not tell where its tokens stand in a text, so turns cannot "
                "be told apart. Read them as plain texts."
            )
        for number, (begin, end) in places.items():
            positions[number] = tuple(
                len(ids) + at
                for at, (first, after) in enumerate(found["offset_mapping"])
                if max(first, begin) < min(after, end)
            )
        ids += found["input_ids"]
    turns = [Turn(**message, positions=positions[number]) for number, message in enumerate(messages)]
    return tuple(ids), turns


def _filled(pattern: str, messages: Sequence[Message]) -> tuple[str, dict[int, tuple[int, int]]]:
    """Text with the contents of messages at their marks, and where each of them begins and ends in it."""
    text, places = "", {}
    for part, literal in enumerate(_MARK.split(pattern)):
        if part % 2:
            content = messages[int(literal)]["content"]
            places[int(literal)] = (len(text), len(text) + len(content))
            text += content
        else:
            text += literal
    return text, places
