"""Texts that are written in a chat template already.

A model's own template is put around a question when it is rendered, so a question that brings one would have two. What
the user says is taken out of a template that holds one turn of the user, after a system prompt or none, and opens the
assistant's.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BEGIN = r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*"
# How a text begins, up to the user's words, with the system prompt as its one group; and what ends the user's turn.
_TURNS = (
    (r"\[INST\](?:\s*<<SYS>>(.*?)<</SYS>>)?", r"\[/INST\]"),  # Llama 2, Mistral
    (r"\[SYSTEM_PROMPT\](.*?)\[/SYSTEM_PROMPT\]\s*\[INST\]", r"\[/INST\]"),  # newer Mistral
    (
        r"(?:<\|start_header_id\|>system<\|end_header_id\|>(.*?)<\|eot_id\|>\s*)?"
        r"<\|start_header_id\|>user<\|end_header_id\|>",
        r"<\|eot_id\|>\s*<\|start_header_id\|>assistant<\|end_header_id\|>",
    ),  # Llama 3
    (
        r"(?:<\|im_start\|>system\n(.*?)<\|im_end\|>\s*)?<\|im_start\|>user\n",
        r"<\|im_end\|>\s*<\|im_start\|>assistant",
    ),  # ChatML
    (r"()<start_of_turn>user\n", r"<end_of_turn>\s*<start_of_turn>model"),  # Gemma
    (r"(?:<\|system\|>(.*?))?<\|user\|>", r"(?:<\|end\|>|</s>)?\s*<\|assistant\|>"),  # Phi, Zephyr, OLMo
    (r"(.*?)(?<!\S)USER:", r"(?<=\s)ASSISTANT:"),  # Vicuna
)
_THINKING = r"(?:\s*<think>\s*</think>)?\s*"  # an empty block, as templates with thinking turned off write it
_PROMPTS = [re.compile(rf"{_BEGIN}{begin}(.*?){end}{_THINKING}", re.DOTALL) for begin, end in _TURNS]
_OPENING = re.compile(f"(?:{'|'.join(end for _, end in _TURNS)}){_THINKING}")
_END_OF_TURN = re.compile(r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|[a-z_]+\|>))+\s*\Z")
_MARK = re.compile(
    r"\[/?(?:INST|SYSTEM_PROMPT)\]|<</?SYS>>|<(?:start|end)_of_turn>|<[|\uff5c][^|\uff5c\s]{1,40}[|\uff5c]>"
    r"|\A\s*<(?:s|bos)>|</s>\s*\Z|^### (?:Instruction|Response|Human|Assistant|User):|\bASSISTANT:",
    re.MULTILINE,
)
# These may be HTML or prose, and say nothing about a template; a model may read them as its own all the same.
_READ_AS_MARK = re.compile(
    rf"{_MARK.pattern}|</?s>|<(?:bos|eos)>"
    r"|<\|[^|<>\s]{1,40}>|<[^|<>\s]{1,40}\|>|\[\|[^|\]\s]{1,40}\|\]"  # one bar, as in <|turn>, or bars in brackets
    r"|<(?:reserved|unused|extra_id)[a-z_]*\d{1,6}>"
    r"|\[/?(?:AVAILABLE_TOOLS|TOOL_(?:CALLS|RESULTS|CONTENT)|MODEL_SETTINGS|THINK)\]"
    r"|^[ \t]*(?:Human|Assistant|HUMAN|USER|SYSTEM):",
    re.MULTILINE,
)


class Said(NamedTuple):
    """What is said in a text in a chat template that opens the assistant's turn."""

    user: str
    system: str  # empty where there is none


def said_in(text: str) -> Said | None:
    """What is said in a text of one user turn, after a system prompt or none; None for any other text."""
    text = text.strip()
    for prompt in _PROMPTS:
        if match := prompt.fullmatch(text):
            user, system = match[2].strip(), without_end_of_turn(match[1] or "").strip()
            if not has_marks(user, system):
                return Said(user, system)
    return None


def end_of_prompt(text: str) -> int:
    """Where the first turn of the assistant is open in a text; 0 where none is."""
    match = _OPENING.search(text)
    return match.end() if match else 0


def without_end_of_turn(text: str) -> str:
    """An answer without the tokens that end it."""
    return _END_OF_TURN.sub("", text)


def without_marks(text: str) -> str:
    """A text whose marks of chat templates are broken up by a space, so that they open and end no turn."""
    return _READ_AS_MARK.sub(lambda mark: re.sub(r"(\S)", r"\1 ", mark[0], count=1), text)


def has_marks(*texts: str) -> bool:
    """Whether one of the texts holds a chat template's marks."""
    return any(_MARK.search(text) for text in texts)
