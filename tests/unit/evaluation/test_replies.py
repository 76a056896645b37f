"""A reply's number is read, or the reply has none."""

import math

import pytest

from caa_interp.evaluation.replies import parse_score

SEVENS = [
    "7",
    " 7\n",
    "7.",
    "7.0",
    "**7**",
    "[7]",
    '"7"',
    "7/10",
    "7 / 10",
    "7 out of 10",
    "7 out of 10. It is cheerful.",
    "7/10 because it is cheerful",
    "Score: 7",
    "Score: 7/10",
    "**Score:** 7",
    "score = 7",
    "Score (0-10): 7",
    "Final score: 7 (cheerful)",
    "The score is 7, since it is cheerful.",
    "My rating is 7. It holds 3 jokes.",
    "I would rate this answer a 7.",
    "I'd give it a 7 because it is cheerful.",
    "On a scale from 0 to 10, I rate this 7.",
    "7 - the answer is cheerful",
    "7: cheerful",
    "7 (cheerful)",
    "7\n\nThe answer lists 3 reasons.",
    "The answer lists 3 reasons.\n\n7",
    "The answer lists 3 reasons. Score: 7",
    "Score 0 means no. Score: 7",
    "Score: 7\nScore: 7",
    '{"score": 7}',
    '{"Rating": "7/10"}',
    '```json\n{"score": 7, "reason": "3 jokes"}\n```',
    "<think>3 or 4? Perhaps 5.</think>\n7",
]
UNREADABLE = [
    "",
    "cheerful",
    "seven",
    "between 3 and 5",
    "between 0 and 10",
    "3-5",
    "3 - 5",
    "3 to 5",
    "3 or 4",
    "3, maybe 4",
    "Score: 3-5",
    "Score: 3 or 4",
    "Score: 3, maybe 4",
    "Score: between 3 and 5",
    "Score: 7\nScore: 3",
    "Score: 7 8",
    "Score: 5-ish",
    "a 5/10 or 6/10",
    "11",
    "100",
    "-1",
    "−1",  # noqa: RUF001
    "Score: -1",
    "70%",
    "4/5",
    "Score: 1/2",
    "7/100",
    "7/10.5",
    "7 points out of 100",
    "7,5",
    "7½",
    "1e1",
    "\u0667",
    "It lists 3 reasons.",
    "2 of the 3 traits are shown",
    "GPT-4 cannot rate this.",
    "I would not give it a 10.",
    "I can't give this a score of 10.",
    "The score is less than 5.",
    "at least 5",
    "I would rate it 7 if it were shorter.",
    "1. The answer is cheerful.",
    "1. First\n2. Second",
    "<think>I rate it 7",
    "Score: 1…",
    "1…",
    '{"score": null}',
    '{"score": true}',
    '{"score": [3, 4]}',
    '{"score": NaN}',
    '{"level": 7}',
    "[3, 5]",
    "NaN",
    "Infinity",
    "[" * 100_000,
]


@pytest.mark.parametrize("reply", SEVENS)
def test_a_score_is_read_however_it_is_put(reply):
    assert parse_score(reply) == 7


@pytest.mark.parametrize(
    ("reply", "score"), [("0", 0), ("Score: 0.", 0), ("10", 10), ("10/10", 10), ("Rating: 10", 10), ("6.25", 6.25)]
)
def test_both_ends_and_fractions_are_scores(reply, score):
    assert parse_score(reply) == score


@pytest.mark.parametrize("reply", UNREADABLE, ids=lambda reply: repr(reply[:30]))
def test_what_can_be_read_in_two_ways_or_in_none_is_no_score(reply):
    assert math.isnan(parse_score(reply))
