"""A reply's score is read from its JSON, or the reply has none."""

import math

import pytest

from caa_interp.evaluation.judge_requests import parse_score

READ = [
    ('{"score": 7}', 7),
    ('{"score": 0}', 0),
    ('{"score": 10}', 10),
    ('{"score":6.25}', 6.25),
    ('{"score": 1e1}', 10),
    (' {\n  "score": 7\n}\n', 7),
    ('{"reason": "It holds 3 jokes {and a brace}.", "score": 7}', 7),
    ('```json\n{"score": 7}\n```', 7),
    ('The {tone} is cheerful. {"score": 7} It lists 3 reasons.', 7),
    ('{"score": 7} It lists…', 7),
    ('<think>{"score": 3}? Or {"score": 5?</think>{"score": 7}', 7),
    ('{"tone": {"kind": "cheerful"}, "score": 7}', 7),
]
UNREADABLE = {
    "empty": "",
    "no object": "7",
    "a sentence": "I rate it 7 of 10.",
    "an array": "[7]",
    "an empty object": "{}",
    "missing key": '{"level": 7}',
    "another case": '{"Score": 7}',
    "an inner key": '{"tone": {"score": 7}}',
    "string": '{"score": "7"}',
    "bool": '{"score": true}',
    "null": '{"score": null}',
    "array": '{"score": [7]}',
    "object": '{"score": {"score": 7}}',
    "NaN": '{"score": NaN}',
    "Infinity": '{"score": Infinity}',
    "above": '{"score": 10.5}',
    "below": '{"score": -1}',
    "huge": '{"score": 1' + "0" * 5000 + "}",
    "a fraction": '{"score": 7/10}',
    "the form itself": '{"score": N}',
    "single quotes": "{'score': 7}",
    "two objects": '{"score": 7} {"score": 3}',
    "two equal objects": '{"score": 7}\n{"score": 7}',
    "a key twice": '{"score": 7, "score": 3}',
    "cut off": '{"score": 1…',
    "cut off before the brace": '{"score": 1',
    "cut off after an inner object": '{"draft": {"score": 3}, "sco…',
    "broken, then whole": '{"score": 7,} {"score": 7}',
    "unfinished thoughts": '<think>Perhaps {"score": 3}…',
    "deep": '{"a":' * 100_000,
}


@pytest.mark.parametrize(("reply", "score"), READ)
def test_the_one_score_of_a_reply_is_read(reply, score):
    assert parse_score(reply) == score


@pytest.mark.parametrize("reply", UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_not_one_number_from_0_to_10_is_no_score(reply):
    assert math.isnan(parse_score(reply))
