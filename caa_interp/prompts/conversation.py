"""A prompt is a text, or a conversation whose last turn is the user's; both become the same list of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from caa_interp.errors import InputError

Message = Mapping[str, str]
Prompt = str | Sequence[Message]
_ROLES = ("system", "user", "assistant")


def messages_of(prompt: Prompt, system_prompt: str | None, what: str) -> list[dict[str, str]]:
    """Return a prompt as messages: the system prompt if there is one, then user and assistant in turn.

    A text is one turn of the user; messages must end with one, and the first may be a system prompt. White space around
    a turn is dropped, and an empty ``system_prompt`` counts as none. ``what`` names the prompt in error messages.
    """
    if system_prompt is not None and not isinstance(system_prompt, str):
        raise InputError(f"system_prompt: {system_prompt!r} is not a text; give a string, or None.")
    given = [{"role": "system", "content": system_prompt}] if system_prompt else []
    if not isinstance(prompt, Sequence) or not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise InputError(
            f"{what}: {prompt!r} is not a text; give a non-empty string, or a conversation: a list of messages such as "
            '{"role": "user", "content": "Hello."}.'
        )
    if isinstance(prompt, str):
        return [*given, {"role": "user", "content": prompt.strip()}]
    messages = [_turn(message, f"{what}[{number}]") for number, message in enumerate(prompt)]
    own_system = messages[0]["role"] == "system"
    if own_system and given:
        raise InputError(f"{what}[0]: this turn is a system prompt, and system_prompt is one as well; give only one.")
    for number, message in enumerate(messages[own_system:], int(own_system)):
        expected = "user" if (number - own_system) % 2 == 0 else "assistant"
        if message["role"] != expected:
            raise InputError(
                f"{what}[{number}]: the role of this turn is {message['role']!r}, but it must be {expected!r}: user "
                "and assistant take turns, the user begins, and only the first message may be a system prompt."
            )
    if messages[-1]["role"] != "user":
        raise InputError(
            f"{what}[{len(messages) - 1}]: the role of the last turn is {messages[-1]['role']!r}, but a prompt ends "
            "with a turn of the user. Leave this turn out, or add what the user says next."
        )
    return [*given, *messages]


def shown_prompt(prompt: Prompt) -> str:
    """A prompt as tables hold it: a text as it is, a conversation as JSON."""
    return prompt if isinstance(prompt, str) else json.dumps([dict(turn) for turn in prompt], ensure_ascii=False)


def _turn(message: Any, where: str) -> dict[str, str]:
    """Role and content of one message."""
    if not isinstance(message, Mapping) or set(message) != {"role", "content"}:
        raise InputError(f"{where}: the turn {message!r} must have the keys 'role' and 'content', and no other.")
    role, content = message["role"], message["content"]
    if role not in _ROLES:
        raise InputError(f"{where}: the role of this turn is {role!r}, which is not one of {', '.join(_ROLES)}.")
    if not isinstance(content, str) or not content.strip():
        raise InputError(f"{where}: the content of this turn is {content!r}; give a non-empty string.")
    return {"role": role, "content": content if role == "system" else content.strip()}
