"""Repetition is found where it was made, and not in prose."""

import zlib

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation import text_quality
from caa_interp.evaluation.text_quality import looping_words

PROSE = caa.load_prose()


@pytest.mark.parametrize("period", range(1, 21))
@pytest.mark.parametrize("cut", [0, 1])
def test_loops_are_found_at_their_length(period, cut):
    phrase = [f"w{n}" for n in range(period)]
    words = [*["this", "stands", "before"], *phrase * 4]
    words = words[: len(words) - cut] if period > 1 else words
    assert looping_words(words) == len(words) - 3
    assert looping_words([*["this", "stands", "before"], *phrase * 2, "end"]) == 0


def test_prose_has_no_loop_and_little_repetition():
    found = text_quality(pd.DataFrame({"answer": PROSE}))
    assert (found["loop"] == 0).all()
    assert (found["distinct_3"] > 0.9).all()
    assert not found["empty"].any()


def test_numbers_are_those_of_the_definitions():
    answers = pd.DataFrame({"answer": ["a b a b", "  \n", "so"], "multiplier": [1.0, 2.0, 3.0]}, index=[5, 6, 7])
    found = text_quality(answers)
    pd.testing.assert_frame_equal(found[["answer", "multiplier"]], answers)
    assert found["n_words"].tolist() == [4, 0, 1]
    assert found["empty"].tolist() == [False, True, False]
    np.testing.assert_allclose(found["distinct_1"], [0.5, np.nan, 1.0])
    np.testing.assert_allclose(found["distinct_2"], [2 / 3, np.nan, np.nan])
    np.testing.assert_allclose(found["compression"], [7 / len(zlib.compress(b"a b a b", 9)), np.nan, 2 / 10])


def test_a_missing_answer_has_no_words_and_half_a_character_is_one():
    found = text_quality(pd.DataFrame({"answer": [None, float("nan"), "", "\ud83d"]}, dtype=object))
    assert found["empty"].tolist() == [True, True, True, False]
    assert found["n_words"].tolist() == [0, 0, 0, 1]


def test_what_is_no_table_of_answers_is_told():
    with pytest.raises(caa.InputError, match="answer"):
        text_quality(pd.DataFrame({"text": ["so"]}))
