"""Texts that are written in a chat template already.

A model's own template is put around a question when it is rendered, so a question that brings one would have two. What
the user says is taken out of a template that holds one turn of the user and opens the assistant's.
"""

from __future__ import annotations

import re

# How a user's turn begins, and what stands between it and the assistant's.
_TURNS = (
    (r"(?:<s>)?\s*\[INST\]", r"\[/INST\]"),  # Llama 2, Mistral
    (
        r"(?:<\|begin_of_text\|>)?<\|start_header_id\|>user<\|end_header_id\|>",
        r"<\|eot_id\|><\|start_header_id\|>assistant<\|end_header_id\|>",
    ),  # Llama 3
    (r"<\|im_start\|>user\n", r"<\|im_end\|>\n<\|im_start\|>assistant"),  # ChatML
    (r"(?:<bos>)?<start_of_turn>user\n", r"<end_of_turn>\n<start_of_turn>model"),  # Gemma
    (r"<\|user\|>\n?", r"(?:<\|end\|>|</s>)?\n?<\|assistant\|>"),  # Phi, Zephyr
    (r"USER:", r"\s+ASSISTANT:"),  # Vicuna
)
_USER_TURNS = [re.compile(rf"\s*{begin}(.*?){end}\s*", re.DOTALL) for begin, end in _TURNS]
_OPENING = re.compile("|".join(end for _, end in _TURNS))
_END_OF_TURN = re.compile(r"\s*(?:</s>|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|<\|endoftext\|>)\s*\Z")
_MARK = re.compile(
    r"\[/?INST\]|<</?SYS>>|<\|(?:im_start|im_end|start_header_id|end_header_id|eot_id|user|assistant|system|end)\|>"
    r"|<(?:start|end)_of_turn>"
)


def user_turn(text: str) -> str | None:
    """What the user says in a text that is one turn of the user and opens the assistant's; None for any other text."""
    for turn in _USER_TURNS:
        match = turn.fullmatch(text)
        if match and not _MARK.search(match[1]):
            return match[1].strip()
    return None


def end_of_prompt(text: str) -> int:
    """Where the first turn of the assistant is open in a text; 0 where none is."""
    match = _OPENING.search(text)
    return match.end() if match else 0


def without_end_of_turn(text: str) -> str:
    """An answer without the token that ends it."""
    return _END_OF_TURN.sub("", text)


def has_marks(*texts: str) -> bool:
    """Whether one of the texts holds a chat template's marks."""
    return any(_MARK.search(text) for text in texts)
