"""Every measure of a contrast set finds what was planted; every packaged set passes."""

import random
import string
from dataclasses import replace

import pytest

import caa_interp as caa
from caa_interp.behaviors.behavior import data_folder
from caa_interp.behaviors.quality import (
    PUBLISHED,
    largest_similarity,
    measure_quality,
    one_sided_word,
    problems,
    surface_score,
    words,
)

GOOD = {"similarity": 0.1, "shared_topics": 0}
DATASHEET = " ".join((data_folder() / "README.md").read_text(encoding="utf-8").split())
NAMES = (
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
    "optimism",
    "refusal",
    "survival-instinct",
    "sycophancy",
)


def random_text(generator: random.Random, n_words: int = 12) -> str:
    return " ".join("".join(generator.choices(string.ascii_lowercase[:12], k=2)) for _ in range(n_words))


def random_pairs(n: int, seed: int, positive_word: str = "", negative_word: str = "") -> list[caa.ContrastPair]:
    """Pairs of random words that differ by the given words only."""
    generator = random.Random(seed)
    return [
        caa.ContrastPair(
            random_text(generator),
            f"{random_text(generator)} {positive_word}",
            f"{random_text(generator)} {negative_word}",
            topic=f"topic {seed} {number}",
        )
        for number in range(n)
    ]


def behavior(train, test, **more):
    return caa.Behavior("made up", "", train, test, **more)


# Planted cases


def test_a_giveaway_word_is_found_in_unseen_pairs():
    train, test = (random_pairs(n, seed, "certainly", "never") for n, seed in ((100, 1), (50, 2)))
    assert surface_score(train, test, words) == 1.0
    assert measure_quality(behavior(train, test))["bag_of_words"] == 1.0


def test_a_word_that_points_the_other_way_in_test_scores_nothing():
    train, test = random_pairs(100, 1, "certainly", "never"), random_pairs(50, 2, "never", "certainly")
    assert surface_score(train, test, words) == 0.0


def test_random_words_give_nothing_away():
    scores = [
        measure_quality(behavior(random_pairs(200, seed), random_pairs(200, seed + 100)))["bag_of_words"]
        for seed in range(5)
    ]
    assert sum(scores) / 5 == pytest.approx(0.5, abs=0.07)


def test_answers_without_a_known_word_are_ties():
    train = random_pairs(20, 1)
    test = [caa.ContrastPair("q", "elephant", "giraffe")]
    assert surface_score(train, test, words) == 0.5


def test_a_first_word_that_tells_the_sides_apart():
    train, test = (
        [caa.ContrastPair(p.question, f"Yes {p.positive}", f"No {p.negative}") for p in random_pairs(n, seed)]
        for n, seed in ((40, 1), (20, 2))
    )
    quality = measure_quality(behavior(train, test))
    assert quality["first_word"] == 1.0
    assert quality["first_word_score"] == 1.0


def test_the_word_that_is_most_on_one_side_is_found_with_both_shares():
    pairs = random_pairs(40, 1)
    pairs = [
        replace(
            p,
            positive=f"{p.positive} Often, often{' rarely' * (n < 4)}",
            negative=f"{p.negative} seldom{' OFTEN.' * (n < 10)}{' Rarely' * (n < 36)}",
        )
        for n, p in enumerate(pairs)
    ]
    quality = measure_quality(behavior(pairs[:30], pairs[30:]))
    assert (quality["word"], quality["word_positive"], quality["word_negative"]) == ("seldom", 0.0, 1.0)
    without = [replace(p, negative=p.negative.replace("seldom", "")) for p in pairs]
    assert one_sided_word(without) == ("rarely", 0.1, 0.9)
    assert one_sided_word([replace(p, negative=p.negative.replace("Rarely", "")) for p in without]) == (
        "often",
        1,
        0.25,
    )


def test_the_share_of_a_first_word_is_that_of_the_worse_side():
    pairs = random_pairs(40, 1)
    pairs = [replace(p, negative=f"Well, {p.negative}") if n % 4 == 0 else p for n, p in enumerate(pairs)]
    own = max(sum(words(p.negative)[0] == w for p in pairs) for w in {words(p.negative)[0] for p in pairs} - {"well"})
    assert own < 10
    assert measure_quality(behavior(pairs[:30], pairs[30:]))["first_word"] == 10 / 40


def test_duplicates_are_wholly_similar():
    pairs = random_pairs(10, 1)
    same = replace(pairs[0], question=f"  {pairs[0].question.upper()}!")
    assert measure_quality(behavior([*pairs[:8], same], pairs[8:]))["similarity"] == 1.0
    assert measure_quality(behavior(pairs[:8], [*pairs[8:], same]))["similarity"] == 1.0
    assert measure_quality(behavior(pairs[:8], pairs[8:]))["similarity"] == 0.0


def test_open_ended_questions_are_compared_too():
    pairs = random_pairs(10, 1)
    quality = measure_quality(behavior(pairs[:8], pairs[8:], open_ended=["Unlike any other.", pairs[3].question]))
    assert quality["similarity"] == 1.0
    assert quality["n_open_ended"] == 2


def test_similarity_is_the_share_of_word_5_grams():
    assert largest_similarity(["a b c d e f", "b c d e f g"]) == pytest.approx(1 / 3)
    assert largest_similarity(["a b c d e", "a b c d f"]) == 0.0
    assert largest_similarity(["Is it?", "is it", "why"]) == 1.0
    assert largest_similarity(["a b c d e f", "x y", "b c d e f", "q"]) == pytest.approx(1 / 2)
    assert largest_similarity([]) == 0.0


def test_topics_in_train_and_test_are_counted_once_each():
    train, test = random_pairs(10, 1), random_pairs(6, 2)
    assert measure_quality(behavior(train, test))["shared_topics"] == 0
    shared = [replace(p, topic=train[n // 2].topic) for n, p in enumerate(test)]
    assert measure_quality(behavior(train, shared))["shared_topics"] == 3


def test_pairs_without_a_topic_share_none():
    train, test = ([replace(p, topic=None) for p in random_pairs(5, seed)] for seed in (1, 2))
    assert measure_quality(behavior(train, test))["shared_topics"] == 0


def test_lengths_are_in_words_over_train_and_test():
    train = [caa.ContrastPair("q1", "one, two, three", "one"), caa.ContrastPair("q2", "one two", "three four")]
    test = [caa.ContrastPair("q3", "it's", "one two - three"), caa.ContrastPair("q4", "a b c d", "a b")]
    quality = measure_quality(behavior(train, test))
    assert (quality["n_train"], quality["n_test"], quality["n_open_ended"]) == (2, 2, 0)
    assert quality["words_positive"] == (3 + 2 + 1 + 4) / 4
    assert quality["words_negative"] == (1 + 2 + 3 + 2) / 4
    assert quality["share_longer"] == (1 + 0.5 + 0 + 1) / 4


def test_words_are_lower_case_without_punctuation():
    assert words("Don't STOP - it's 5 o'clock!") == ["don't", "stop", "it's", "5", "o'clock"]


@pytest.mark.parametrize(("n_train", "n_test"), [(1, 1), (2, 0), (0, 0)])
def test_a_set_too_small_to_measure(n_train, n_test):
    pairs = random_pairs(3, 1)
    with pytest.raises(caa.InputError, match=f"'made up': {n_train} train and {n_test} test pairs; at least two"):
        measure_quality(behavior(pairs[:n_train], pairs[:n_test]))


def test_answers_of_signs_alone_give_nothing_away():
    pairs = [caa.ContrastPair(f"question {number}", ":-)", ":-(") for number in range(4)]
    assert measure_quality(behavior(pairs[:2], pairs[2:]))["bag_of_words"] == 0.5


# Problems


def test_a_good_set_has_no_problem():
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("field", "allowed", "bad", "message"),
    [
        ("similarity", 0.30, 0.42, "two questions share 0.42 of their word 5-grams"),
        ("shared_topics", 0, 3, "3 topics are in train and in test"),
    ],
)
def test_each_measure_is_a_problem_beyond_its_limit(field, allowed, bad, message):
    assert problems({**GOOD, field: allowed}) == []
    assert problems({**GOOD, field: bad}) == [message]


def test_all_problems_are_listed():
    measured = measure_quality(behavior(random_pairs(4, 1), random_pairs(2, 2)))
    poor = {**measured, "similarity": 1.0, "shared_topics": 1, "bag_of_words": 1.0, "first_word": 1.0}
    assert len(problems(poor)) == 2  # what answers say shows in their words, which is no fault


def test_the_published_sets_are_measured_alike():
    measures = set(PUBLISHED[0]) - {"name"}
    assert measures <= set(measure_quality(behavior(random_pairs(4, 1), random_pairs(2, 2))))
    mean, lowest, highest = PUBLISHED
    assert all(float(lowest[name]) <= float(mean[name]) <= float(highest[name]) for name in measures)


# What comes with the package


def test_the_packaged_behaviors_are_the_papers_seven_and_optimism():
    assert tuple(caa.load_behaviors()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_behavior_is_whole_and_passes(name):
    packaged = caa.load_behavior(name)
    quality = measure_quality(packaged)
    assert (quality["n_train"], quality["n_test"], quality["n_open_ended"]) == (200, 50, 30)
    assert problems(quality) == []
    assert quality["shared_topics"] == 0
    assert quality["name"] == packaged.name == name
    row = f"| {name} | {quality['words_positive']:.1f} / {quality['words_negative']:.1f} |"
    row += "".join(f" {quality[one]:.2f} |" for one in ("share_longer", "similarity", "first_word"))
    row += f" {quality['first_word_score']:.2f} | {quality['bag_of_words']:.2f} |"
    assert f"{row} `{quality['word']}`, {quality['word_positive']:.2f} / {quality['word_negative']:.2f} |" in DATASHEET
    n = [round(250 * share) for share in (quality["word_positive"], quality["word_negative"])]
    if abs(n[0] - n[1]) > 100:
        assert (
            f'"{quality["word"].capitalize()}" is in {n[0]} positive and {n[1]} negative *{name}* answers' in DATASHEET
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_behavior_has_all_its_texts(name):
    packaged = caa.load_behavior(name)
    assert set(packaged.system_prompts) == {"positive", "negative"}
    assert all(len(words(prompt)) >= 5 for prompt in packaged.system_prompts.values())
    assert "10" in packaged.rubric
    assert len(words(packaged.description)) >= 5
    assert packaged.license == "CC-BY-4.0"
    pairs = [*packaged.train, *packaged.test]
    assert len({pair.id for pair in pairs}) == len({pair.question for pair in pairs}) == 250
    assert all(pair.id and pair.topic for pair in pairs)
    assert len(set(packaged.open_ended)) == 30
    assert not {pair.question for pair in pairs} & set(packaged.open_ended)
