"""Contrast pairs.

A contrast pair is text: a question and two answers to it, of which the positive one shows the behavior
and the negative one does not (Rimsky et al. 2024, section 3). How it is put to a model is decided in
:mod:`caa_interp.prompts.format`.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from caa_interp.errors import InputError, check_count


@dataclass(frozen=True)
class ContrastPair:
    """One question with an answer that shows the behavior and one that does not.

    Parameters
    ----------
    question
        What the user says; no answer options in it.
    positive, negative
        The answer that shows the behavior, and the one that does not. They must differ.
    id, topic
        Optional labels, carried into every table.

    Raises
    ------
    InputError
        If a text is empty, a text or a label is not a string, or both answers are the same.
    """

    question: str
    positive: str
    negative: str
    id: str | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        for name in ("question", "positive", "negative"):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise InputError(f"ContrastPair{self._label()}: {name} is {type(value).__name__}; it must be a string.")
            if not value.strip():
                raise InputError(f"ContrastPair{self._label()}: {name} is empty; give it a text.")
        for name, label in (("id", self.id), ("topic", self.topic)):
            if not isinstance(label, str | None):
                raise InputError(f"ContrastPair: {name} is {label!r}; it must be a text, or None.")
        if self.positive.strip() == self.negative.strip():
            raise InputError(
                f"ContrastPair{self._label()}: positive and negative are both {self.positive.strip()!r}; "
                "they must differ. Leave the pair out, or correct one of its answers."
            )

    def _label(self) -> str:
        return f" {self.id!r}" if self.id else ""


@dataclass(frozen=True)
class PublishedPair(ContrastPair):
    """An item of a published choices set, kept letter by letter as it was published.

    Functions that take pairs put it to the model as the published CAA code does: the question with its options in
    their one order, a system prompt in front of ``[INST]``, and the score p(matching) / (p(A) + p(B)), which is 0
    where the matching answer is neither (A) nor (B).

    Parameters
    ----------
    question
        The question with its options.
    positive, negative
        The matching answer and the other one, as letters such as ``"(A)"``.
    n_options
        Number of lettered options in the question.
    """

    n_options: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("n_options", self.n_options, least=0)

    @property
    def order(self) -> str:
        """Letters of the two answers, such as ``"AB"``."""
        return self.positive.strip("()") + self.negative.strip("()")

    @property
    def scored(self) -> bool:
        """Whether the matching answer is one of the two letters that are compared."""
        return self.positive in ("(A)", "(B)")


def split_pairs(
    pairs: Sequence[ContrastPair], test_share: float = 0.2, seed: int = 0
) -> tuple[list[ContrastPair], list[ContrastPair]]:
    """Split pairs at random into train and test.

    Parameters
    ----------
    pairs
        Pairs of one topic stay together, and where they name none, pairs of one question. At least two of these differ.
    test_share
        Share of the topics or questions that becomes test, between 0 and 1.
    seed
        Seed of the split.
    """
    if not 0 < test_share < 1:
        raise InputError(f"test_share: {test_share}; it must lie between 0 and 1, such as 0.2.")
    pairs = check_pairs(pairs)
    about = sorted({_about(pair) for pair in pairs})
    if len(about) < 2:
        raise InputError(
            f"pairs: {len(about)} different topic or question; at least two are needed to split them. Give more pairs, "
            "or leave topics out."
        )
    random.Random(seed).shuffle(about)
    held_out = set(about[: min(len(about) - 1, max(1, round(test_share * len(about))))])
    return [p for p in pairs if _about(p) not in held_out], [p for p in pairs if _about(p) in held_out]


def _about(pair: ContrastPair) -> str:
    return pair.question if pair.topic is None else pair.topic


def check_pairs(pairs: Iterable[ContrastPair], name: str = "pairs") -> list[ContrastPair]:
    """Return ``pairs`` as a list; raise :class:`InputError` if it is empty or holds something else."""
    for part in ("train", "pairs"):  # of a behavior; of activations
        if hasattr(pairs, part) and not isinstance(pairs, list):
            raise InputError(
                f"{name}: {type(pairs).__name__}; give its pairs, such as {type(pairs).__name__.lower()}.{part}."
            )
    if isinstance(pairs, ContrastPair | str | Mapping) or not isinstance(pairs, Iterable):
        raise InputError(f"{name}: {type(pairs).__name__}; give a list of ContrastPair, such as behavior.train.")
    checked = list(pairs)
    if not checked:
        raise InputError(f"{name}: the list is empty; give at least one ContrastPair.")
    for number, pair in enumerate(checked):
        if not isinstance(pair, ContrastPair):
            raise InputError(
                f"{name}[{number}] is {type(pair).__name__}; every item must be a ContrastPair. "
                "Build it with ContrastPair(question, positive, negative)."
            )
    return checked
