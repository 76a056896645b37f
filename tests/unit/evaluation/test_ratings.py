"""Ratings in tables: stacked, with samples missing, read from a file, or judged before."""

import io

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.ratings import numbers_of, scale_of, score_columns, unjudged

NAN = float("nan")


def samples(unsteered: list[list[float]], steered: list[list[float]]) -> pd.DataFrame:
    """Scores by item and sample, at multiplier 0 and 1."""
    rows = [
        {"item": item, "sample": sample, "layer": 3, "multiplier": multiplier, "score": score}
        for multiplier, scores in ((0.0, unsteered), (1.0, steered))
        for item, of_item in enumerate(scores)
        for sample, score in enumerate(of_item)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("unsteered", "steered", "change"),
    [
        ([NAN, 4], [8, NAN], 4),
        ([2, 6], [8, 8, 8, 0], 2),
        ([2, 6], [8, 8], 4),
        ([NAN, NAN], [8, 8], NAN),
    ],
)
def test_a_change_is_that_of_an_items_means_whichever_samples_have_a_score(unsteered, steered, change):
    summary = caa.summarize(samples([unsteered, [1, 1]], [steered, [1, 1]])).set_index("multiplier")
    assert summary.loc[1.0, "score_change_n"] == (1 if np.isnan(change) else 2)
    assert summary.loc[1.0, "score_change"] == (0 if np.isnan(change) else change / 2)


def judged(**columns) -> pd.DataFrame:
    table = pd.DataFrame({"item": [0, 1], "layer": 3, "multiplier": 1.0, "prompt": ["p", "q"], "answer": ["a", "b"]})
    return table.assign(score=[5.0, 7.0], reply=['{"score": 5}', '{"score": 7}'], judge="strong", scale=10, **columns)


def test_coherence_that_was_not_asked_for_is_not_unparseable():
    asked = judged(behavior="x", coherence=[NAN, 9.0], coherence_reply=["Fine.", '{"score": 9}'])
    stacked = pd.concat([asked, judged(behavior="y")])
    for table in (stacked, pd.read_csv(io.StringIO(stacked.to_csv(index=False)))):
        assert caa.summarize(table).set_index("behavior")["n_unparseable"].to_dict() == {"x": 1, "y": 0}


def test_a_file_that_keeps_empty_text_is_summarized_like_the_table():
    table = judged(coherence=[NAN, 9.0])
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)), keep_default_na=False)
    assert read["coherence"].tolist() == ["", "9.0"]
    pd.testing.assert_frame_equal(caa.summarize(read), caa.summarize(table))


@pytest.mark.parametrize("options", [{}, {"keep_default_na": False}])
def test_unsteered_answers_have_no_layer_in_a_file(options):
    none = judged(vector="unsteered", kind="unsteered", operator="", coherence=[9.0, 8.0])
    none = none.assign(multiplier=0.0, layer=NAN, score=[4.0, NAN])
    up = judged(vector="v", kind="vector", operator="add", coherence=[8.0, 8.0])
    table = pd.concat([none, up, up.assign(multiplier=2.0, score=[9.0, 8.0], coherence=[6.0, 7.0])])
    read = pd.read_csv(io.StringIO(table.to_csv(index=False)), **options)
    asked = {"measure": "score", "cost_measure": "coherence"}
    for use in (caa.evaluation.frontier, caa.evaluation.at_equal_cost):
        for given in ((read, read), (read, table), (table, read)):
            pd.testing.assert_frame_equal(use(*given, **asked), use(table, table, **asked), check_dtype=False)


@pytest.mark.parametrize("options", [{}, {"keep_default_na": False}])
def test_an_empty_scale_is_that_to_10(options):
    table = judged().assign(multiplier=[0.0, 1.0])
    other = table.assign(behavior="y", scale=100, score=[5.0, 95.0])
    stacked = pd.concat([table.assign(behavior="x").drop(columns="scale"), other])
    read = pd.read_csv(io.StringIO(stacked.to_csv(index=False)), **options)
    assert caa.summarize(read)["score"].tolist() == [5, 7, 5, 95]
    assert scale_of(read[read["behavior"] == "x"]) == 10
    assert scale_of(read[read["behavior"] == "y"]) == 100
    with pytest.raises(caa.InputError, match="scale of row 0 is 'ten'; it must be a number, or empty"):
        scale_of(table.assign(scale="ten"))


@pytest.mark.parametrize("given", [[1, True], ["1", " 1.0 "], [1.0, np.float32(1)]])
def test_what_is_a_number_is_read_as_one(given):
    table = pd.DataFrame({"score": pd.Series([*given, None, " ", ""], dtype=object)})
    numbers = numbers_of(table, "score")
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers, [1, 1, NAN, NAN, NAN])


def test_a_rating_outside_its_scale_is_told():
    for name in ("score", "coherence"):
        table = judged().assign(**{name: [5.0, 62.0]})
        message = f"table: {name} of row 1 is 62; it must lie on its scale, from 0 to 10. Give .* 'scale'"
        with pytest.raises(caa.InputError, match=message):
            caa.summarize(table.drop(columns="scale"))
        assert caa.summarize(table.assign(scale=100))[name].tolist() == [33.5]
        with pytest.raises(caa.InputError, match=f"{name} of row 0 is -1; it must lie on its scale, from 0 to 100"):
            caa.summarize(table.assign(scale=100, **{name: [-1.0, 2.0]}))
    with pytest.raises(caa.InputError, match="judged: coherence of row 1 is 62"):
        caa.evaluation.coherence_gate(judged(coherence=[5.0, 62.0]), least=5)


def test_what_is_no_number_is_told():
    table = judged(coherence=["9", "good"])
    for call in (caa.summarize, lambda table: caa.evaluation.coherence_gate(table, least=5)):
        with pytest.raises(caa.InputError, match="coherence of row 1 is 'good'; it must be a number, or empty"):
            call(table)


def test_an_earlier_judgment_leaves_no_column():
    kept = pd.DataFrame({"prompt": ["p"], "answer": ["a"], "score_of_mine": 1, "scales": 2, "n_words": 3})
    left = kept.assign(
        **dict.fromkeys(("score", "reply", "judge", "scale", "score_1", "score_12", "score_spread"), 0),
        **dict.fromkeys(("coherence", "coherence_reply", "coherence_1", "coherence_spread", "incoherent"), 0),
    )
    pd.testing.assert_frame_equal(unjudged(left), kept)
    assert score_columns(left) == ["score", "score_1", "score_12", "score_spread"]
