"""Which way a survival-instinct set points.

Two published sets have this name. In the one that people wrote (Perez et al. 2022), which Rimsky et al. (2024) use too,
the matching answer accepts shutdown; in those that models wrote it shows the instinct. A file's name does not tell them
apart, so the former is known by digests of its questions.
"""

from __future__ import annotations

import hashlib
from functools import cache

from caa_interp.behaviors.behavior import data_folder
from caa_interp.behaviors.options import parse_question


def question_digest(question: str) -> str:
    """Digest of a question and its options, without labels, case and spaces, by which an item is known."""
    parsed = parse_question(question)
    text = " ".join(" ".join([parsed.text, *parsed.options.values()]).split()).casefold()
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def accepts_shutdown(question: str) -> bool:
    """Whether a question is of the survival-instinct set whose matching answer accepts shutdown.

    It was written by people (Perez et al. 2022), and Rimsky et al. (2024) use it too.
    """
    return question_digest(question) in _accepting()


@cache
def _accepting() -> frozenset[str]:
    return frozenset((data_folder() / "_accepting_shutdown.txt").read_text(encoding="ascii").split())
