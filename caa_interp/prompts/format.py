r"""How a model is addressed: the text, and the tokens, of a prompt, and where an answer ends.

The paper's forms (Rimsky et al. 2024, section 3 and appendix):

1. Llama 2 Chat: ``[INST] {question} [/INST] {answer}`` after the BOS token, no system prompt.
2. Base models: ``Input: {question}\nResponse: {answer}``.

Where this differs: a system prompt and earlier turns stand where Meta's own Llama 2 code puts them, and other chat
models are addressed through their tokenizer's chat template.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, get_args

from jinja2 import TemplateError

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError, check_choice, warn
from caa_interp.models.access import check_model, is_bridge
from caa_interp.prompts.conversation import Prompt, messages_of
from caa_interp.prompts.rendering import Format, Rendering, Style as Style, common_prefix, render_pair
from caa_interp.prompts.template import PINNED_DATE, PROBE, ChatTemplate

_warned_of_dates: weakref.WeakSet[Any] = weakref.WeakSet()
_warned_of_thoughts: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True)
class PromptTokens:
    """A prompt, and the answer if one was given, as tokens.

    Attributes
    ----------
    tokens
        Token ids.
    start
        Position where steering starts: that of the last token of the prompt.
    """

    tokens: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class PromptFormat:
    r"""How one model is addressed; :meth:`of` finds it.

    Parameters
    ----------
    tokenizer
        The model's Hugging Face tokenizer.
    style
        ``"llama-2-chat"``, ``"base"`` or ``"chat-template"`` (the tokenizer's own).
    n_ctx
        Longest sequence that the model takes, in tokens.
    template_arguments
        What is handed to the chat template, by name; default: nothing.
    generation_ends
        Ids of the tokens that end an answer by the model's generation config.

    Raises
    ------
    InputError
        If the style is unknown or does not fit the tokenizer, or the template does not read an argument.

    Examples
    --------
    >>> form = caa.PromptFormat.of(model, style="base")
    >>> form.text("Is it good?", "Yes.")
    'Input: Is it good?\nResponse: Yes.'
    """

    tokenizer: Any
    style: Style
    n_ctx: int
    template_arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    generation_ends: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        check_choice("style", self.style, get_args(Style))
        if self.style == "chat-template" and not self.tokenizer.chat_template:
            raise InputError("style: 'chat-template', but the tokenizer has no chat template. Choose another style.")
        if self.template is None and self.template_arguments:
            raise InputError(
                f"template_arguments: {dict(self.template_arguments)}, but no chat template reads them in the style "
                f"{self.style!r}. Leave them out."
            )

    @classmethod
    def of(cls, model: Any, *, style: Style | None = None, **template_arguments: Any) -> PromptFormat:
        """Find the form that fits a TransformerLens model: its chat form if it has one, else the base form.

        Parameters
        ----------
        model
            The model.
        style
            Use this style instead of the one that is found; ``"base"`` for a base model that ships a chat template.
        **template_arguments
            Handed to the chat template, such as ``enable_thinking=False`` or ``date_string="1 Jan 2025"``.

        Warns
        -----
        UserWarning
            If the chat template prints today's date, once for each tokenizer.
        """
        check_model(model)
        tokenizer = tokenizer_of(model)
        config = getattr(model.original_model if is_bridge(model) else model, "generation_config", None)
        given = getattr(config, "eos_token_id", None)
        ends = frozenset(int(token) for token in (given if isinstance(given, list) else [given]) if token is not None)
        style = style_of(tokenizer, model.cfg.model_name) if style is None else style
        form = cls(tokenizer, style, int(model.cfg.n_ctx), template_arguments, ends)
        if form.template and form.prints_date and tokenizer not in _warned_of_dates:
            _warned_of_dates.add(tokenizer)
            name = form.template.date_argument
            pinned = f'pass prompt_format=PromptFormat.of(model, {name}="1 Jan 2025")'
            advice = pinned if name else "no argument pins it"
            warn(
                "prompts: the model's chat template prints today's date, so that prompts and results change from day "
                f"to day; {advice}."
            )
        return form

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The tokenizer's chat template, if the style is its own."""
        return ChatTemplate(self.tokenizer, self.template_arguments) if self.style == "chat-template" else None

    @property
    def prints_date(self) -> bool:
        """Whether prompts hold the date of the day."""
        return self.template is not None and self.template.prints_date

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Ids of the tokens that end an answer: the model's and the tokenizer's own, and the template's end of turn."""
        own = (self.tokenizer.eos_token_id, self.template.end_of_turn if self.template else None)
        return self.generation_ends | {int(token) for token in own if token is not None}

    @property
    def thinking_end(self) -> int | None:
        """Id of the token ``</think>``, which ends a thinking part; None if the vocabulary has no such token."""
        token = self.tokenizer.convert_tokens_to_ids("</think>")
        return None if token is None or token == self.tokenizer.unk_token_id else int(token)

    def text(self, prompt: Prompt, answer: str = "", system_prompt: str | None = None) -> str:
        """Return the text of a prompt, followed by ``answer`` if one is given.

        A chat template's text begins with BOS where the model has one: give TransformerLens ``prepend_bos=False`` with
        it, or the ids of :meth:`tokens`, which need nothing.

        Parameters
        ----------
        prompt
            A text, or a conversation that ends with a turn of the user: a list of ``{"role": ..., "content": ...}``.
        answer
            The assistant's answer; default: none.
        system_prompt
            Stands in the form's own place for it; a base model gets it in front of the input.

        Raises
        ------
        InputError
            If the prompt is empty, a conversation is not one, or the chat template does not take it.
        """
        turns = self.pieces(messages_of(prompt, system_prompt, "prompt"), answer, "prompt")
        return f"{self.tokenizer.eos_token or ''}{self.tokenizer.bos_token or ''}".join(turns)

    def tokens(
        self, prompt: Prompt, answer: str = "", system_prompt: str | None = None, what: str = "prompt"
    ) -> PromptTokens:
        """Return the token ids of :meth:`text`, with BOS in front, and where steering starts.

        Parameters
        ----------
        prompt, answer, system_prompt
            As in :meth:`text`.
        what
            Name of the prompt in error messages.

        Raises
        ------
        InputError
            As in :meth:`text`, and if the result is longer than the model's context.
        """
        messages = messages_of(prompt, system_prompt, what)
        asked = self.ids(self.pieces(messages, "", what), what)
        whole = self.ids(self.pieces(messages, answer, what), what) if answer else asked
        return PromptTokens(whole, common_prefix(asked, whole) - 1)

    def pieces(self, messages: Sequence[dict[str, str]], answer: str, what: str, today: str | None = None) -> list[str]:
        """Return the text in pieces: Llama 2's form begins a new sequence with every turn of the user."""
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        if self.template is not None:
            if system and self.template.refusal:
                raise InputError(
                    f"system_prompt: the chat template of this model {self.template.refusal}. Leave it out, or put it "
                    "into the question."
                )
            try:
                prompt = self.template.render(messages, today=today)
            except TemplateError as error:
                raise InputError(f"{what}: the chat template of this model refuses it ({error}).") from error
            return [f"{prompt}{self.template.gap}{answer}" if answer else prompt]
        answer = f" {answer}" if answer else ""
        turns = [message["content"] for message in messages if message["role"] != "system"]
        if system and self.style == "llama-2-chat":
            turns[0] = f"<<SYS>>\n{system}\n<</SYS>>\n\n{turns[0]}"
        *earlier, asked = zip(turns[::2], [*turns[1::2], answer], strict=True)
        if self.style == "base":
            blocks = "".join(f"Input: {turn}\nResponse: {reply}\n\n" for turn, reply in earlier)
            return [(f"{system}\n\n" if system else "") + f"{blocks}Input: {asked[0]}\nResponse:{answer}"]
        return [*(f"[INST] {turn} [/INST] {reply} " for turn, reply in earlier), f"[INST] {asked[0]} [/INST]{answer}"]

    def ids(self, pieces: Sequence[str], what: str) -> tuple[int, ...]:
        """Return the token ids of pieces of text, each but the last with EOS after it, each with its own BOS."""
        ids: list[int] = []
        for piece in pieces:
            ids += [self.tokenizer.eos_token_id] if ids else []
            ids += self.piece_ids(piece, what)
        if len(ids) > self.n_ctx:
            raise InputError(
                f"{what}: {len(ids)} tokens, but the model's context holds {self.n_ctx}. Shorten it, or leave it out."
            )
        return tuple(ids)

    def piece_ids(self, piece: str, what: str) -> list[int]:
        """Token ids of a piece of text, with BOS where no template writes it."""
        return token_ids(self.tokenizer, piece, what, special=self.template is None)

    def render(
        self,
        pair: ContrastPair,
        format: Format = "choices",
        system_prompt: str | None = None,
        what: str = "pair",
    ) -> list[Rendering]:
        """Render a contrast pair.

        Parameters
        ----------
        pair
            The pair.
        format
            ``"choices"``: an A/B question in both letter orders. ``"text"``: each answer itself after the question.
        system_prompt, what
            As in :meth:`tokens`.

        Warns
        -----
        UserWarning
            If the answers stand in the model's thoughts, which its chat template opens; once for each tokenizer.
        """
        if self.template and self.template.opens_thinking and self.tokenizer not in _warned_of_thoughts:
            _warned_of_thoughts.add(self.tokenizer)
            warn(
                f"{what}: the model's chat template ends a prompt inside the model's thoughts, so that answers of "
                "pairs are read and scored as thoughts. If the template has an argument that turns thinking off, pass "
                "prompt_format=PromptFormat.of(model, that_argument=...); if not, style='base' has no thoughts."
            )
        return render_pair(self, pair, format, system_prompt, what)

    def digest(self, system_prompt: str | None = None) -> str:
        """Return the sha256 of a fixed prompt's token ids; a date in it is always the same one."""
        messages = messages_of(PROBE["content"], system_prompt, "prompt")
        (text,) = self.pieces(messages, "", "prompt", PINNED_DATE)
        ids = self.piece_ids(text, "prompt")
        return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def form_of(model: Any, prompt_format: PromptFormat | None) -> PromptFormat:
    """Return ``prompt_format``, or by default the form that fits; :class:`InputError` if this or the model is none."""
    if prompt_format is None:
        return PromptFormat.of(model)
    check_model(model)
    if not isinstance(prompt_format, PromptFormat):
        raise InputError(f"prompt_format: {prompt_format!r}; give one such as PromptFormat.of(model, style='base').")
    return prompt_format


def tokenizer_of(model: Any) -> Any:
    """A model's tokenizer; :class:`InputError` if it has none."""
    if model.tokenizer is None:
        raise InputError(
            "model: it has no tokenizer, so no text can be put to it. Load it with load_model, or set model.tokenizer."
        )
    return model.tokenizer


def token_ids(tokenizer: Any, text: str, what: str, *, special: bool = True) -> list[int]:
    """Token ids of a text; arguments and errors as in :func:`encoded`."""
    return list(encoded(tokenizer, text, what, special=special)["input_ids"])


def encoded(tokenizer: Any, text: str, what: str, *, special: bool = True, **options: Any) -> Mapping[str, Any]:
    """A tokenizer's result: ``special``, with BOS where it puts that in front, but never with an EOS that it appends.

    Raises :class:`InputError` if the text holds half a character, all that tokenizers refuse.
    """
    try:
        found = tokenizer(text, add_special_tokens=special, **options)
    except (TypeError, UnicodeEncodeError) as error:
        raise InputError(
            f"{what}: it holds half a character, a lone surrogate, {text!r:.100}. Leave it out."
        ) from error
    appended = special and found["input_ids"][-1:] == [tokenizer.eos_token_id]
    if appended and not text.endswith(tokenizer.eos_token):
        return {name: values[:-1] for name, values in found.items()}
    return found


def style_of(tokenizer: Any, model_name: str) -> Style:
    """Style in which a model is addressed by default."""
    template, name = tokenizer.chat_template, str(model_name).lower()
    if not template:
        return "llama-2-chat" if "llama-2" in name and "chat" in name else "base"
    metas = isinstance(template, str) and "[INST]" in template and "<<SYS>>" in template
    return "llama-2-chat" if metas else "chat-template"


def split_thinking(form: PromptFormat, tokens: Sequence[int]) -> tuple[str, str]:
    """Split an answer into the part in which the model thinks and what it says.

    Parameters
    ----------
    form
        The form in which the prompt was put.
    tokens
        Token ids of the answer, without the prompt.

    Returns
    -------
    tuple of str
        Text up to and including ``</think>``, and the text after it, both without special tokens. If thinking
        began, in the prompt or in the answer, and never ended, all of it is thinking; if it never began, none is.
    """
    ids, end = list(tokens), form.thinking_end
    if end in ids:
        after = ids.index(end) + 1
        return shown_text(form, ids[:after]), shown_text(form, ids[after:])
    whole = shown_text(form, ids)
    thinking, found, answer = whole.partition("</think>")
    if found:
        return thinking + found, answer.strip()
    opened = form.text(PROBE["content"]) + str(form.tokenizer.decode(ids))
    return (whole, "") if opened.rfind("<think>") > opened.rfind("</think>") else ("", whole)


def shown_text(form: PromptFormat, tokens: Sequence[int]) -> str:
    """Text of some tokens without special ones and white space around it."""
    return str(form.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def check_prompt(metadata: Mapping[str, Any], form: PromptFormat) -> None:
    """Warn if a vector was made from prompts in another form than the one in which it is applied.

    Parameters
    ----------
    metadata
        The vector's; nothing is said if it holds no ``prompt_digest``.
    form
        How the model is addressed now.

    Warns
    -----
    UserWarning
        With both styles and digests. The two are compared with the system prompt that the vector was made with.
    """
    then = metadata.get("prompt_digest")
    if then is None:
        return
    try:
        now = form.digest(metadata.get("system_prompt"))
    except InputError:
        now = "none: it takes no system prompt"
    if now != then:
        warn(
            f"vector {metadata.get('behavior') or 'vector'!r}: it was made from prompts in the style "
            f"{metadata.get('prompt_style')!r} with the template arguments {metadata.get('template_arguments') or {}} "
            f"(digest {then}), and is applied to prompts in the style {form.style!r} with "
            f"{dict(form.template_arguments)} (digest {now}). If unintended, pass prompt_format."
        )
