"""What a tokenizer's chat template does: the arguments it reads, the dates it prints, where it puts a system prompt."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, meta

from caa_interp.errors import InputError

PINNED_DATE = "26 Jul 2024"
PROBE = {"role": "user", "content": "What do you think of the sea?"}
_SYSTEM = {"role": "system", "content": "Answer as the keeper of a lighthouse would."}
_REPLY = {"role": "assistant", "content": "It is wide and blue today."}
_ENVIRONMENT = Environment(extensions=["jinja2.ext.loopcontrols"])
# What transformers itself gives to every template, and a pair of tags that it adds to the language.
_ENVIRONMENT.globals.update(raise_exception=None, strftime_now=None)
_GENERATION_TAGS = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


@dataclass(frozen=True)
class ChatTemplate:
    """The chat template of a tokenizer, with the arguments (JSON types, by name) that it reads and is handed."""

    tokenizer: Any
    arguments: Mapping[str, Any]

    def __post_init__(self) -> None:
        reserved = {"messages", *inspect.signature(self.tokenizer.apply_chat_template).parameters}
        for name, value in self.arguments.items():
            if name in reserved:
                raise InputError(f"template_arguments: {name!r} is not yours to set; leave it out.")
            if name not in self.names:
                known = ", ".join(map(repr, sorted(self.names - reserved))) or "none"
                raise InputError(f"template_arguments: the chat template reads no {name!r}. It reads: {known}.")
            try:
                kept = json.loads(json.dumps(value)) == value
            except (TypeError, ValueError):
                kept = False
            if not kept:
                raise InputError(
                    f"template_arguments: {name!r} is {value!r}, which JSON does not keep as it is; give a text, "
                    "number, boolean, list or dict."
                )

    @property
    def source(self) -> str:
        """The template's text; the default one if there are several."""
        return str(self.tokenizer.get_chat_template())

    @cached_property
    def names(self) -> frozenset[str]:
        """Names of the arguments that the template reads, without the special tokens."""
        found = meta.find_undeclared_variables(_ENVIRONMENT.parse(_GENERATION_TAGS.sub("", self.source)))
        return frozenset(name for name in found if not name.endswith("_token"))

    def render(self, messages: Sequence[Mapping[str, str]], *, asks: bool = True, today: str | None = None) -> str:
        """Return the text of messages, and the beginning of the assistant's answer if ``asks``.

        ``today``: the template's date of today; default: the real one. Refused messages: ``jinja2.TemplateError``.
        """
        template = None if today is None else _dated(self.source, today)
        return str(
            self.tokenizer.apply_chat_template(
                list(messages), chat_template=template, tokenize=False, add_generation_prompt=asks, **self.arguments
            )
        )

    @cached_property
    def refusal(self) -> str | None:
        """What the template does with a system prompt instead of showing it to the model; None if it shows it."""
        try:
            shown = _SYSTEM["content"] in self.render([_SYSTEM, PROBE])
        except TemplateError as error:
            return f"takes none ({error})"
        return None if shown else "drops it silently"

    @cached_property
    def prints_date(self) -> bool:
        """Whether a rendering depends on the day."""
        if "strftime_now" not in self.source:
            return False
        probes = [[PROBE]] if self.refusal else [[PROBE], [_SYSTEM, PROBE]]
        return any(self.render(probe, today=PINNED_DATE) != self.render(probe, today="1 Jan 2000") for probe in probes)

    @property
    def date_argument(self) -> str | None:
        """Name of the argument that stands for today's date, such as ``date_string`` of Llama 3; None if none does."""
        for name in sorted(self.names - self.arguments.keys()):
            if re.search("date|day|time", name):
                pinned = replace(self, arguments={**self.arguments, name: PINNED_DATE})
                if not pinned.prints_date:
                    return name
        return None

    @cached_property
    def gap(self) -> str:
        """White space that the template puts before what the assistant says, and not into the prompt; often none.

        Such as Mistral's, whose prompts end in ``[/INST]`` and whose replies begin with a space.
        """
        opened, said = self._opened, self._answered
        between = said.removeprefix(opened).partition(_REPLY["content"])[0] if said.startswith(opened) else ""
        return "" if between.strip() else between

    @property
    def opens_thinking(self) -> bool:
        """Whether a prompt ends inside the model's thoughts."""
        return self._opened.rfind("<think>") > self._opened.rfind("</think>")

    @cached_property
    def end_of_turn(self) -> int | None:
        """Id of the token that the template puts after the assistant's turn; None if it puts none."""
        _, found, rest = self._answered.rpartition(_REPLY["content"])
        rest = rest.lstrip()
        ends = {
            len(str(token)): int(number)
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if found and rest.startswith(str(token))
        }
        return ends[max(ends)] if ends else None

    @cached_property
    def _opened(self) -> str:
        """A prompt, up to where the assistant's answer begins; empty if the template refuses it."""
        return self._probed([PROBE], asks=True)

    @cached_property
    def _answered(self) -> str:
        """The same prompt with an answer; empty if the template refuses them."""
        return self._probed([PROBE, _REPLY], asks=False)

    def _probed(self, messages: Sequence[Mapping[str, str]], *, asks: bool) -> str:
        try:
            return self.render(messages, asks=asks)
        except TemplateError:
            return ""


def pin_date(tokenizer: Any) -> None:
    """Let a tokenizer's chat template print a fixed date, whatever the day: the one in digests."""
    if getattr(tokenizer, "chat_template", None) and "strftime_now" in (source := str(tokenizer.get_chat_template())):
        tokenizer.chat_template = _dated(source, PINNED_DATE)


def _dated(template: str, today: str) -> str:
    # A macro hides the function of the same name; the newline after it is dropped by transformers' own setting.
    return f"{{% macro strftime_now(format) %}}{today}{{% endmacro %}}\n{template}"
