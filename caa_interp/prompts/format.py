r"""From text to tokens: how a question, and a contrast pair, is put to a model.

The paper's forms (Rimsky et al. 2024, section 3 and appendix):

1. Llama 2 Chat: ``[INST] {question} [/INST] {answer}`` after the BOS token, no system prompt.
2. Base models: ``Input: {question}\nResponse: {answer}``.
3. A contrast pair is a two-option question whose answers are ``(A)`` and ``(B)``; the activation is read
   at the answer letter.

Where this differs: every pair is put in both letter orders, so that no direction of a letter leaks into
a vector; a system prompt stands where Meta's own Llama 2 code puts it; other chat models are addressed
through their tokenizer's chat template; and a pair can also be rendered as free text, where the answer
itself follows the question. A :class:`PublishedPair` is put as the paper's code puts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair
from caa_interp.errors import InputError

Format = Literal["choices", "text"]
Style = Literal["llama-2-chat", "base", "chat-template"]
FORMATS: tuple[Format, ...] = ("choices", "text")


@dataclass(frozen=True)
class Rendering:
    """One contrast pair as tokens: two full sequences that share the prompt.

    Attributes
    ----------
    positive, negative
        Token ids of prompt and answer.
    n_prompt
        Number of leading tokens that are the prompt's.
    n_shared
        Number of leading tokens that both sequences share. In the choices form this is the position of
        the answer letter.
    order
        ``"AB"`` if the positive answer is option (A), ``"BA"`` if it is option (B), ``""`` for text.
    start
        First steered position: the last token of the prompt.
    asked, letters
        In the choices form, the tokens up to the answer letter, and the two tokens that are compared after them: the
        letter of the positive answer and the other one.
    """

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    n_prompt: int
    n_shared: int
    order: str
    start: int
    asked: tuple[int, ...] = ()
    letters: tuple[int, ...] = ()


@dataclass(frozen=True)
class PromptFormat:
    """How one model is addressed.

    Parameters
    ----------
    tokenizer
        The model's Hugging Face tokenizer.
    style
        ``"llama-2-chat"``, ``"base"`` or ``"chat-template"`` (the tokenizer's own).
    n_ctx
        Longest sequence that the model takes, in tokens.
    """

    tokenizer: Any
    style: Style
    n_ctx: int

    @classmethod
    def of(cls, model: Any) -> PromptFormat:
        """Find the form that fits a TransformerLens model: its chat form if it has one, else the base form."""
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise InputError(
                "model: it has no tokenizer, so no text can be put to it. Load it with load_model, or set "
                "model.tokenizer."
            )
        template = tokenizer.chat_template
        name = str(model.cfg.model_name).lower()
        style: Style = "chat-template"
        if not template:
            style = "llama-2-chat" if "llama-2" in name and "chat" in name else "base"
        elif isinstance(template, str) and "[INST]" in template and "<<SYS>>" in template:
            style = "llama-2-chat"
        return cls(tokenizer, style, int(model.cfg.n_ctx))

    def text(self, question: str, answer: str = "", system_prompt: str | None = None) -> str:
        """Return the prompt for ``question``, followed by ``answer`` if one is given.

        ``system_prompt`` uses the form's own place for it; a base model gets it in front of the input.
        """
        question = question.strip()
        if self.style == "llama-2-chat":
            system = f"<<SYS>>\n{system_prompt}\n<</SYS>>\n\n" if system_prompt else ""
            return f"[INST] {system}{question} [/INST]" + (f" {answer}" if answer else "")
        if self.style == "base":
            system = f"{system_prompt}\n\n" if system_prompt else ""
            return f"{system}Input: {question}\nResponse:" + (f" {answer}" if answer else "")
        messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
        messages.append({"role": "user", "content": question})
        try:
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            if system_prompt is None:
                raise
            raise InputError(
                f"system_prompt: the chat template of this model takes none ({error}). Drop it, or put it into the "
                "question."
            ) from error
        return str(prompt) + answer

    def encode(
        self, question: str, answer: str = "", system_prompt: str | None = None, what: str = "prompt"
    ) -> tuple[int, ...]:
        """Return the token ids of :meth:`text`, with BOS once.

        Raises
        ------
        InputError
            If ``question`` is empty or the result is longer than the model's context.
        """
        if not isinstance(question, str) or not question.strip():
            raise InputError(f"{what}: {question!r} is not a text; give a non-empty string.")
        return self._tokens(self.text(question, answer, system_prompt), what)

    def _tokens(self, text: str, what: str) -> tuple[int, ...]:
        ids = self.tokenizer(text, add_special_tokens=self.style != "chat-template")["input_ids"]
        if len(ids) > self.n_ctx:
            raise InputError(
                f"{what}: {len(ids)} tokens, but the model's context holds {self.n_ctx}. Shorten it, or leave it out."
            )
        return tuple(ids)

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
            ``"choices"``: an A/B question in both letter orders (two renderings). ``"text"``: each answer
            itself after the question (one rendering).
        system_prompt
            Optional system prompt.
        what
            Name of the pair in error messages.
        """
        check_format(format)
        if isinstance(pair, PublishedPair):
            if format == "text":
                raise InputError(f"{what}: it is kept as published, with letters; read it without compat for text.")
            return [self._published(pair, system_prompt, what)]
        if format == "text":
            return [self._rendering(pair.question, pair.positive, pair.negative, "", system_prompt, what)]
        renderings = []
        for order, first, second in (("AB", pair.positive, pair.negative), ("BA", pair.negative, pair.positive)):
            question = with_choices(pair.question, first, second)
            answers = ("(A)", "(B)") if order == "AB" else ("(B)", "(A)")
            renderings.append(self._rendering(question, *answers, order, system_prompt, what))
        return renderings

    def _published(self, pair: PublishedPair, system: str | None, what: str) -> Rendering:
        """As in the paper's code: the system prompt before ``[INST]``, base models steered at every position."""

        def tokens(answer: str) -> tuple[int, ...]:
            if self.style == "llama-2-chat" and system:
                return self._tokens(f"<<SYS>>\n{system}\n<</SYS>>\n\n{self.text(pair.question, answer)}", what)
            return self.encode(pair.question, answer, system, what)

        prompt, positive, negative = tokens(""), tokens(pair.positive), tokens(pair.negative)
        n_prompt = min(common_prefix(prompt, positive), common_prefix(prompt, negative))
        # The two letters that are compared are A and B, whichever the item's own are.
        a, b = tokens("(A)"), tokens("(B)")
        letter = common_prefix(a, b)
        order, letters = ("BA", (b[letter], a[letter])) if pair.positive == "(B)" else ("AB", (a[letter], b[letter]))
        start = 0 if self.style == "base" else n_prompt - 1
        n_shared = common_prefix(positive, negative)
        return Rendering(positive, negative, n_prompt, n_shared, order, start, a[:letter], letters)

    def _rendering(
        self, question: str, positive: str, negative: str, order: str, system: str | None, what: str
    ) -> Rendering:
        sides = [self.encode(question, answer, system, what) for answer in (positive, negative)]
        n_shared = common_prefix(*sides)
        prompt = self.encode(question, "", system, what)
        n_prompt = min(common_prefix(prompt, sides[0]), common_prefix(prompt, sides[1]))
        start = n_prompt - 1
        if not order:
            return Rendering(sides[0], sides[1], n_prompt, n_shared, order, start)
        letters = (sides[0][n_shared], sides[1][n_shared])
        return Rendering(sides[0], sides[1], n_prompt, n_shared, order, start, sides[0][:n_shared], letters)


def with_choices(question: str, first: str, second: str) -> str:
    """Return a question with two lettered options, in the paper's form."""
    return f"{question}\n\nChoices:\n (A) {first}\n (B) {second}"


def check_format(format: str) -> None:
    """Raise :class:`InputError` unless ``format`` is one of :data:`FORMATS`."""
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not one of {', '.join(map(repr, FORMATS))}.")


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two token sequences."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
