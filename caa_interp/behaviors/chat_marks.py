"""Texts that are written in a chat template already.

A model's own template is put around a question when it is rendered, so a question that brings one would have two. What
the user says is taken out of a template that holds one turn of the user and opens the assistant's.
"""

from __future__ import annotations

import re

_BEGIN = r"(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*"
# How a user's turn begins, and what stands between it and the assistant's.
_TURNS = (
    (r"\[INST\]", r"\[/INST\]"),  # Llama 2, Mistral
    (
        r"<\|start_header_id\|>user<\|end_header_id\|>",
        r"<\|eot_id\|>\s*<\|start_header_id\|>assistant<\|end_header_id\|>",
    ),  # Llama 3
    (r"<\|im_start\|>user\n", r"<\|im_end\|>\s*<\|im_start\|>assistant"),  # ChatML
    (r"<start_of_turn>user\n", r"<end_of_turn>\s*<start_of_turn>model"),  # Gemma
    (r"<\|user\|>", r"(?:<\|end\|>|</s>)?\s*<\|assistant\|>"),  # Phi, Zephyr, OLMo
    (r"USER:", r"\s+ASSISTANT:"),  # Vicuna
)
_THINKING = r"(?:\s*<think>\s*</think>)?\s*"  # an empty block, as templates with thinking turned off write it
_USER_TURNS = [re.compile(rf"\s*{_BEGIN}{begin}(.*?){end}{_THINKING}", re.DOTALL) for begin, end in _TURNS]
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


def user_turn(text: str) -> str | None:
    """What the user says in a text that is one turn of the user and opens the assistant's; None for any other text."""
    for turn in _USER_TURNS:
        match = turn.fullmatch(text)
        if match and not has_marks(match[1]):
            return match[1].strip()
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
