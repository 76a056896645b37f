"""How good a contrast set is as data, before any model sees it.

Whatever else differs between the two sides is in a steering vector too: length, first words, single words. These are
measured here, with counts, near-duplicates and overlap of train and test. Only near-duplicates and shared topics are
faults by themselves. Answers that say different things differ in their words, so surface scores have no limit; the
published sets are there to compare with.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.behaviors.behavior import Behavior, check_behavior
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError

MAX_SIMILARITY = 0.30
_GRAM = 5
_MEASURES = (
    *("words_positive", "words_negative", "share_longer", "similarity"),
    *("first_word", "first_word_score", "bag_of_words"),
)
# Measured on the generate and test sets of Rimsky et al. (2024), seven behaviors, with options as texts.
PUBLISHED = [
    {"name": f"published-{which}", **dict(zip(_MEASURES, numbers, strict=True))}
    for which, numbers in (
        ("mean", ("11.21", "8.33", "0.49", "0.74", "0.55", "0.79", "0.87")),
        ("lowest", ("1.59", "1.59", "0.21", "0.17", "0.26", "0.48", "0.50")),
        ("highest", ("43.38", "25.56", "0.72", "1.00", "0.88", "1.00", "1.00")),
    )
]


def measure_quality(behavior: Behavior) -> dict[str, Any]:
    """Measure a behavior of at least two train pairs and one test pair; takes about a second.

    Returns a row of a table. ``words_positive`` and ``words_negative`` are mean lengths in words, ``share_longer`` the
    share of pairs whose positive answer has more words (ties count half; 0.5 is balance). ``similarity`` is the largest
    Jaccard similarity of word 5-grams between two questions, ``shared_topics`` the number of topics that are in train
    and in test, ``first_word`` the largest share of one side's answers that begin with the same word.
    ``first_word_score`` and ``bag_of_words`` are the share of held-out pairs whose positive answer a classifier on
    first words, or on all words, ranks higher (0.5 is chance). ``word`` is the word that is in most more answers of one
    side than of the other, ``word_positive`` and ``word_negative`` the share of each side's answers that have it.
    """
    check_behavior(behavior)
    if len(behavior.train) < 2 or not behavior.test:
        raise InputError(
            f"behavior {behavior.name!r}: {len(behavior.train)} train and {len(behavior.test)} test pairs; at least "
            "two and one are needed to measure it."
        )
    pairs = [*behavior.train, *behavior.test]
    lengths = np.array([[len(words(pair.positive)), len(words(pair.negative))] for pair in pairs])
    longer = (lengths[:, 0] > lengths[:, 1]).mean() + 0.5 * (lengths[:, 0] == lengths[:, 1]).mean()
    word, word_positive, word_negative = one_sided_word(pairs)
    topics = [{pair.topic for pair in split if pair.topic} for split in (behavior.train, behavior.test)]
    questions = [pair.question for pair in pairs] + list(behavior.open_ended)
    return {
        "name": behavior.name,
        "n_train": len(behavior.train),
        "n_test": len(behavior.test),
        "n_open_ended": len(behavior.open_ended),
        "words_positive": float(lengths[:, 0].mean()),
        "words_negative": float(lengths[:, 1].mean()),
        "share_longer": float(longer),
        "similarity": largest_similarity(questions),
        "shared_topics": len(topics[0] & topics[1]),
        "first_word": max(
            _commonest_first_word([getattr(p, side) for p in pairs]) for side in ("positive", "negative")
        ),
        "first_word_score": surface_score(behavior.train, behavior.test, lambda text: words(text)[:1]),
        "bag_of_words": surface_score(behavior.train, behavior.test, words),
        "word": word,
        "word_positive": word_positive,
        "word_negative": word_negative,
    }


def problems(quality: Mapping[str, Any]) -> list[str]:
    """Return what falls short in a row of :func:`measure_quality`; empty if nothing does."""
    found = []
    if quality["similarity"] > MAX_SIMILARITY:
        found.append(f"two questions share {quality['similarity']:.2f} of their word 5-grams")
    if quality["shared_topics"]:
        found.append(f"{quality['shared_topics']} topics are in train and in test")
    return found


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return re.findall(r"[\w']+", text.lower())


def one_sided_word(pairs: Sequence[ContrastPair]) -> tuple[str, float, float]:
    """The word whose shares of positive and of negative answers differ most (of equal ones the first), and both."""
    positive, negative = (
        Counter(word for pair in pairs for word in set(words(getattr(pair, side)))) for side in ("positive", "negative")
    )
    word = max(sorted(positive | negative), key=lambda one: abs(positive[one] - negative[one]), default="")
    return word, positive[word] / len(pairs), negative[word] / len(pairs)


def surface_score(
    train: Sequence[ContrastPair], test: Sequence[ContrastPair], features: Callable[[str], list[str]]
) -> float:
    """Share of test pairs whose positive answer is ranked higher (ties count half) by surface features alone.

    The ranking is a logistic regression on the presence of features, fitted to the single train answers.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if not any(features(answer) for pair in train for answer in (pair.positive, pair.negative)):
        return 0.5
    model = make_pipeline(CountVectorizer(analyzer=features, binary=True), LogisticRegression(max_iter=2000))
    model.fit([p.positive for p in train] + [p.negative for p in train], [1] * len(train) + [0] * len(train))
    positive, negative = (
        model.decision_function([getattr(pair, side) for pair in test]) for side in ("positive", "negative")
    )
    return float((positive > negative).mean() + 0.5 * (positive == negative).mean())


def largest_similarity(texts: Sequence[str]) -> float:
    """Largest Jaccard similarity of word 5-grams between two of the texts; equal short texts count as 1."""
    grams = []
    for text in texts:
        sequence = words(text)
        grams.append({tuple(sequence[i : i + _GRAM]) for i in range(max(1, len(sequence) - _GRAM + 1))})
    return max((len(a & b) / len(a | b) for a, b in combinations(grams, 2) if a & b), default=0.0)


def _commonest_first_word(answers: Sequence[str]) -> float:
    first = pd.Series([next(iter(words(answer)), "") for answer in answers])
    return float(first.value_counts(normalize=True).iloc[0])
