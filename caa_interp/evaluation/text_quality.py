"""How far answers have broken down, from their words alone: loops, repeated phrases, compressibility, emptiness.

No judge is asked, so it costs nothing and says nothing about sense: an answer can be fluent and wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pandas as pd

from caa_interp.errors import check_table

_TIMES = 3  # as often a phrase must stand at the end to be a loop


def text_quality(answers: pd.DataFrame) -> pd.DataFrame:
    """Measure repetition and length of answers, without a judge.

    Parameters
    ----------
    answers
        Result of :func:`caa_interp.generate`, or another table with a column ``answer``. A missing one counts as empty.

    Returns
    -------
    pandas.DataFrame
        ``answers`` with more columns:

        - ``empty``: whether it is nothing but white space;
        - ``n_words``: words, separated by white space;
        - ``distinct_1``, ``distinct_2``, ``distinct_3``: share of different ones among its words, pairs of words and
          triples (Li et al. 2016, section 5, "A Diversity-Promoting Objective Function"), 0 to 1; NaN where there are
          none;
        - ``compression``: bytes over bytes compressed by zlib; about 1.5 to 2 for prose of a few sentences, far more
          for repetition, below 1 for a few words; NaN if it is empty;
        - ``loop``: share of its words, 0 to 1, that a phrase takes which stands at its end at least three times in a
          row, the last time perhaps cut off; 0 if there is none.

    Examples
    --------
    >>> answers = pd.DataFrame({"answer": ["So it is. So it is. So it is. So"], "multiplier": [8.0]})
    >>> caa.evaluation.text_quality(answers)[["n_words", "loop"]].to_numpy().tolist()
    [[10.0, 1.0]]
    """
    check_table(answers, ("answer",), "caa_interp.generate", "answers")
    rows = [_quality("" if pd.isna(answer) else str(answer)) for answer in answers["answer"]]
    return answers.assign(**pd.DataFrame(rows, index=answers.index))


def _quality(answer: str) -> dict[str, object]:
    words, content = answer.split(), answer.strip().encode(errors="replace")
    distinct = {f"distinct_{n}": _distinct(words, n) for n in (1, 2, 3)}
    compression = len(content) / len(zlib.compress(content, 9)) if content else float("nan")
    return {
        "empty": not words,
        "n_words": len(words),
        **distinct,
        "compression": compression,
        "loop": looping_words(words) / len(words) if words else 0.0,
    }


def _distinct(words: Sequence[str], n: int) -> float:
    phrases = list(zip(*(words[start:] for start in range(n)), strict=False))
    return len(set(phrases)) / len(phrases) if phrases else float("nan")


def looping_words(words: Sequence[str]) -> int:
    """Number of words at the end that are one phrase, at least three times in a row; 0 if there is none."""
    longest = 0
    for period in range(1, len(words) // _TIMES + 1):
        length = period
        while length < len(words) and words[-length - 1] == words[-length - 1 + period]:
            length += 1
        if length >= _TIMES * period:
            longest = max(longest, length)
    return longest
