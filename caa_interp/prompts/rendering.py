"""From a contrast pair to tokens (Rimsky et al. 2024, section 3).

1. In the choices form a pair is a two-option question whose answers are ``(A)`` and ``(B)``; the activation is read at
   the answer letter. In the text form the answer itself follows the question.
2. Every pair is put in both letter orders (the paper has one), so that no direction of a letter leaks into a vector.
3. A :class:`PublishedPair` is put as the paper's code puts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair
from caa_interp.errors import InputError, check_choice

if TYPE_CHECKING:
    from caa_interp.prompts.format import PromptFormat

Style = Literal["llama-2-chat", "base", "chat-template"]
Format = Literal["choices", "text"]
FORMATS: tuple[Format, ...] = ("choices", "text")


class Scored(NamedTuple):
    """One sequence that is read to score a rendering, without what nothing follows.

    ``targets`` are pairs (position, token id after it). The score is the sum over all sequences of their
    log-probabilities times ``weights``, ``[n_targets]``: positive answer minus negative, each the mean per token.
    """

    tokens: tuple[int, ...]
    targets: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]


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
        Number of leading tokens that both share; in the choices form, the position of the answer letter.
    order
        ``"AB"`` if the positive answer is option (A), ``"BA"`` if it is option (B), ``""`` for text.
    start
        First steered position: the last token of the prompt.
    asked, letters
        In the choices form, the tokens up to the answer letter, and the two letters compared: the positive one first.
    """

    positive: tuple[int, ...]
    negative: tuple[int, ...]
    n_prompt: int
    n_shared: int
    order: str
    start: int
    asked: tuple[int, ...] = ()
    letters: tuple[int, ...] = ()

    def read(self, format: Format) -> list[tuple[tuple[int, ...], range]]:
        """Tokens of each side, the positive one first, as far as a vector is read from them, and at which positions."""
        if format == "text":
            return [(tokens, range(self.n_prompt, len(tokens))) for tokens in (self.positive, self.negative)]
        end = self.n_shared + 1
        return [(tokens[:end], range(self.n_shared, end)) for tokens in (self.positive, self.negative)]

    def scored(self, format: Format) -> list[Scored]:
        """Sequences to score: one with both letters for choices, else one for each answer, the positive one first."""
        if format == "choices":
            return [Scored(self.asked, tuple((len(self.asked) - 1, letter) for letter in self.letters), (1.0, -1.0))]
        found = []
        for tokens, sign in ((self.positive, 1.0), (self.negative, -1.0)):
            targets = tuple((at - 1, tokens[at]) for at in range(self.n_prompt, len(tokens)))
            found.append(Scored(tokens[:-1], targets, (sign / len(targets),) * len(targets)))
        return found


def render_pair(
    form: PromptFormat, pair: ContrastPair, format: Format, system_prompt: str | None, what: str
) -> list[Rendering]:
    """Render a contrast pair, see :meth:`PromptFormat.render`."""
    check_format(format)
    if isinstance(pair, PublishedPair):
        if format == "text":
            raise InputError(f"{what}: it is kept as published, with letters; read it without compat for text.")
        return [_published(form, pair, system_prompt, what)]
    if format == "text":
        return [_rendering(form, pair.question, pair.positive, pair.negative, "", system_prompt, what)]
    renderings = []
    for order, first, second in (("AB", pair.positive, pair.negative), ("BA", pair.negative, pair.positive)):
        question = with_choices(pair.question, first, second)
        answers = ("(A)", "(B)") if order == "AB" else ("(B)", "(A)")
        renderings.append(_rendering(form, question, *answers, order, system_prompt, what))
    return renderings


def render_pairs(
    form: PromptFormat,
    pairs: Sequence[ContrastPair],
    format: Format,
    system_prompt: str | None = None,
    what: str = "pairs",
) -> list[list[Rendering]]:
    """Render each of some pairs; an error calls them ``what[0]`` and so on."""
    return [render_pair(form, pair, format, system_prompt, f"{what}[{number}]") for number, pair in enumerate(pairs)]


def _rendering(
    form: PromptFormat, question: str, positive: str, negative: str, order: str, system: str | None, what: str
) -> Rendering:
    sides = [form.tokens(question, answer, system, what) for answer in (positive, negative)]
    start = min(side.start for side in sides)
    first, second = (side.tokens for side in sides)
    n_shared = common_prefix(first, second)
    asked, letters = (first[:n_shared], (first[n_shared], second[n_shared])) if order else ((), ())
    return Rendering(first, second, start + 1, n_shared, order, start, asked, letters)


def _published(form: PromptFormat, pair: PublishedPair, system: str | None, what: str) -> Rendering:
    """As in the paper's code: the system prompt before ``[INST]``, base models steered at every position."""

    def tokens(answer: str) -> tuple[int, ...]:
        if form.style == "llama-2-chat" and system:
            return form.ids([f"<<SYS>>\n{system}\n<</SYS>>\n\n{form.text(pair.question, answer)}"], what)
        return form.tokens(pair.question, answer, system, what).tokens

    prompt, positive, negative = tokens(""), tokens(pair.positive), tokens(pair.negative)
    n_prompt = min(common_prefix(prompt, positive), common_prefix(prompt, negative))
    # The two letters that are compared are A and B, whichever the item's own are.
    a, b = tokens("(A)"), tokens("(B)")
    letter = common_prefix(a, b)
    order, letters = ("BA", (b[letter], a[letter])) if pair.positive == "(B)" else ("AB", (a[letter], b[letter]))
    start = 0 if form.style == "base" else n_prompt - 1
    n_shared = common_prefix(positive, negative)
    return Rendering(positive, negative, n_prompt, n_shared, order, start, a[:letter], letters)


def with_choices(question: str, first: str, second: str) -> str:
    """Return a question with two lettered options, in the paper's form."""
    return f"{question}\n\nChoices:\n (A) {first}\n (B) {second}"


def check_format(format: str) -> None:
    """Raise :class:`InputError` unless ``format`` is one of :data:`FORMATS`."""
    check_choice("format", format, FORMATS)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the longest common prefix of two token sequences."""
    length = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        length += 1
    return length
