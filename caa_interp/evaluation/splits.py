"""Which pairs make a vector, which choose its layer, and which measure its effect: each pair does one of these."""

from __future__ import annotations

import random
from collections.abc import Sequence

from caa_interp.behaviors.behavior import Behavior, check_behavior
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count, is_count


def validation_split(
    pairs: Sequence[ContrastPair], n: int, *, seed: int = 0
) -> tuple[list[ContrastPair], list[ContrastPair]]:
    """Set pairs apart on which to choose a layer or a multiplier.

    Whole topics are set apart, as between train and test: the choice then works on a topic that the
    vector was not made from. Only if no topics add up to ``n`` is one of them divided.

    Parameters
    ----------
    pairs
        Pairs to split, usually a behavior's ``train``. Where a pair names no topic, its question is one.
    n, seed
        Number of pairs to set apart, at least 1 and fewer than all; seed of the order of topics.

    Returns
    -------
    rest, validation
        All pairs, each in one of the two and in the order given; ``validation`` has ``n``.
    """
    checked = check_pairs(pairs)
    if not is_count(n) or n >= len(checked):
        raise InputError(
            f"n: {n!r} of {len(checked)} pairs; set apart at least 1, and leave at least 1, as a whole number."
        )
    check_count("seed", seed, least=0)
    topics: dict[tuple[str, str], list[int]] = {}
    for number, pair in enumerate(checked):
        key = ("question", pair.question) if pair.topic is None else ("topic", pair.topic)
        topics.setdefault(key, []).append(number)
    order = list(topics.values())
    random.Random(seed).shuffle(order)
    # For every number of pairs that whole topics add up to: the first way to do it.
    ways: dict[int, list[list[int]]] = {0: []}
    for topic in order:
        for total, way in list(ways.items()):
            if total + len(topic) <= n:
                ways.setdefault(total + len(topic), [*way, topic])
    whole = ways[max(ways)]
    apart = {number for topic in whole for number in topic}
    if len(apart) < n:
        divided = next(topic for topic in order if topic not in whole)
        apart |= set(divided[: n - len(apart)])
    rest = [pair for number, pair in enumerate(checked) if number not in apart]
    return rest, [checked[number] for number in sorted(apart)]


def split_behavior(
    name: str,
    behavior: Behavior,
    candidates: Sequence[int],
    n_train: int | None,
    n_validation: int,
    n_test: int | None,
    seed: int,
) -> tuple[list[ContrastPair], list[ContrastPair], list[ContrastPair]]:
    """Train, validation and test pairs of one behavior; with one layer in ``candidates``, none is for validation."""
    check_behavior(behavior, f"behaviors[{name!r}]")
    train = check_pairs(behavior.train, f"behaviors[{name!r}].train")
    test = check_pairs(behavior.test, f"behaviors[{name!r}].test")
    validation: list[ContrastPair] = []
    if len(candidates) > 1:
        if n_validation >= len(train):
            raise InputError(
                f"n_validation: {n_validation}, but behaviors[{name!r}] has {len(train)} train pairs, of which some "
                "must be left for the vector. Set fewer apart."
            )
        train, validation = validation_split(train, n_validation, seed=seed)
    return some_of(train, n_train, seed), validation, some_of(test, n_test, seed)


def some_of(pairs: list[ContrastPair], n: int | None, seed: int) -> list[ContrastPair]:
    """At most ``n`` pairs, drawn at random, in their order."""
    if n is None or n >= len(pairs):
        return pairs
    return [pairs[number] for number in sorted(random.Random(seed).sample(range(len(pairs)), n))]
