"""Mean scores, their intervals and their figure."""

import numpy as np
import pandas as pd
import pytest

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import summarize
from caa_interp.plotting.scores import plot_scores
from caa_interp.plotting.theme import BEHAVIOR_STYLES
from caa_interp.statistics import bootstrap_mean

NAN = float("nan")
# Rows are prompts; columns are the multipliers -2, 0, 2.
SCORES = [[1.0, 4.0, 6.0], [3.0, 5.0, 9.0], [NAN, 3.0, 10.0], [2.0, NAN, 8.0]]


def judged(scores=SCORES, multipliers=(-2.0, 0.0, 2.0), **columns) -> pd.DataFrame:
    rows = [
        (item, 13, multiplier, score)
        for item, line in enumerate(scores)
        for multiplier, score in zip(multipliers, line, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["item", "layer", "multiplier", "score"])
    return table.assign(judge="strong", **columns)


# Mean scores


def test_means_are_over_the_prompts_that_have_a_score():
    summary = summarize(judged()).set_index("multiplier")
    np.testing.assert_allclose(summary["score"], [2, 4, 33 / 4])
    assert summary["n"].tolist() == [3, 3, 4]
    assert summary["n_unparseable"].tolist() == [1, 1, 0]


def test_changes_are_over_the_prompts_that_have_both_scores():
    summary = summarize(judged()).set_index("multiplier")
    np.testing.assert_allclose(summary["score_change"], [-(3 + 2) / 2, 0, (2 + 4 + 7) / 3])
    assert summary["score_change_n"].tolist() == [2, 3, 3]
    assert (summary.loc[0.0, ["score_change_low", "score_change_high"]] == 0).all()


def test_intervals_are_the_bootstrap_over_prompts():
    scores = np.random.default_rng(1).uniform(0, 10, (12, 3)).round(1)
    summary = summarize(judged(scores), confidence=0.9, seed=7)
    for place in range(3):
        for name, values in (("score", scores[:, place]), ("score_change", scores[:, place] - scores[:, 1])):
            expected = bootstrap_mean(values, np.random.default_rng(7), 0.9)
            found = summary.loc[place, [name, f"{name}_low", f"{name}_high"]]
            np.testing.assert_allclose(found.astype(float), expected)
    assert (summary["confidence"] == 0.9).all()
    assert (summary["score_low"] < summary["score"]).all()
    assert summary[["score_low", "score_high"]].stack().between(0, 10).all()


def test_series_are_kept_apart_in_their_order():
    tables = [judged(behavior=name, vector=vector) for name in ("b", "a") for vector in ("v", "w")]
    tables[3]["score"] = 10.0
    summary = summarize(pd.concat(tables).sample(frac=1, random_state=0).sort_values("behavior", kind="stable"))
    assert list(summary.columns[:5]) == ["behavior", "judge", "vector", "layer", "multiplier"]
    assert summary.groupby(["behavior", "vector"]).ngroups == 4
    raised = summary[(summary["behavior"] == "a") & (summary["vector"] == "w")]
    assert (raised["score"] == 10).all()
    rest = summary.drop(raised.index)
    np.testing.assert_allclose(rest.groupby("multiplier")["score"].mean(), [2, 4, 33 / 4])
    for _, one in summary.groupby(["behavior", "vector"]):
        assert sorted(one["multiplier"]) == [-2, 0, 2]


def test_without_multiplier_0_there_is_no_change():
    summary = summarize(judged(multipliers=(-2.0, 1.0, 2.0)))
    assert "score_change" not in summary
    assert summary["score"].notna().all()


def test_unsteered_answers_have_no_layer_and_still_count():
    summary = summarize(judged([[4.0], [6.0]], multipliers=(0.0,)).assign(layer=None))
    assert summary["score"].tolist() == [5]
    assert summary["layer"].isna().all()


def test_a_condition_in_which_no_reply_was_read_has_no_mean():
    summary = summarize(judged([[NAN, 4.0, 5.0], [NAN, 6.0, 7.0]]))
    assert np.isnan(summary.loc[0, "score"])
    assert summary.loc[0, ["n", "score_change_n", "n_unparseable"]].tolist() == [0, 0, 2]
    assert summary.loc[1:, "score"].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            judged().drop(columns="score"),
            r"table: it has none of the columns .*'score'\]",
        ),
        (judged().iloc[:0], "table: it has no rows"),
        (
            pd.concat([judged(), judged()]),
            "table: some rows agree in .* add a column such as 'behavior'",
        ),
    ],
)
def test_bad_tables_are_told(table, message):
    with pytest.raises(InputError, match=message):
        summarize(table)


@pytest.mark.parametrize("confidence", [0, 1, -0.5, NAN])
def test_bad_confidence_is_told(confidence):
    with pytest.raises(InputError, match=r"confidence: .* it must lie between 0 and 1"):
        summarize(judged(), confidence=confidence)


# The figure


def test_the_figure_shows_the_means_and_intervals_of_the_summary():
    summary = summarize(judged(), confidence=0.9)
    for fig in (plot_scores(summary), plot_scores(summary.sample(frac=1, random_state=0))):
        (line,) = fig.data
        np.testing.assert_allclose(line.x, [-2, 0, 2])
        np.testing.assert_allclose(line.y, summary["score"])
        np.testing.assert_allclose(line.y + line.error_y.array, summary["score_high"])
        np.testing.assert_allclose(line.y - line.error_y.arrayminus, summary["score_low"])
        assert "90 % interval" in fig.layout.title.text


def test_the_figure_says_what_it_shows():
    fig = plot_scores(judged())
    low, high = fig.layout.yaxis.range
    assert -1 < low < 0
    assert 10 < high < 11
    assert fig.layout.xaxis.title.text == "multiplier (of the raw vector)"
    assert fig.layout.yaxis.title.text == "judge's score (0 to 10)"
    assert not fig.layout.showlegend
    assert plot_scores(judged(behavior="refusal")).data[0].line.color == BEHAVIOR_STYLES["refusal"].color
    subtitle = fig.layout.title.text
    for part in ("judge strong", "layer 13", "n = 3 to 4 prompts", "95 %", "2 replies without a score left out"):
        assert part in subtitle


def test_series_differ_in_color_and_symbol_and_do_not_cover_one_another():
    names = ("optimism", "sycophancy", "refusal")
    fig = plot_scores(pd.concat([judged(behavior=name) for name in names]))
    assert tuple(line.name for line in fig.data) == names
    assert fig.layout.showlegend
    for line in fig.data:
        look = BEHAVIOR_STYLES[line.name]
        assert (line.line.color, line.marker.symbol) == look
        np.testing.assert_allclose(line.x, [-2, 0, 2], atol=0.31)
        assert line.customdata[:, 0].tolist() == [-2, 0, 2]
    assert len({x for line in fig.data for x in line.x}) == 9
    assert np.mean([line.x[1] for line in fig.data]) == pytest.approx(0)


def test_series_are_named_by_what_tells_them_apart():
    tables = [judged(behavior="optimism").assign(judge=judge, layer=layer) for judge in "ab" for layer in (9, 13)]
    fig = plot_scores(pd.concat(tables))
    assert [line.name for line in fig.data] == [
        "judge a, layer 9",
        "judge a, layer 13",
        "judge b, layer 9",
        "judge b, layer 13",
    ]
    assert "optimism" in fig.layout.title.text
    assert "layer" not in fig.layout.title.text


def test_operators_and_positions_are_lines_of_their_own():
    tables = [
        judged(vector="v").assign(operator=one, score=lambda t, n=n: t["score"] - n) for n, one in enumerate("ab")
    ]
    first, second = plot_scores(pd.concat(tables)).data
    assert (first.name, second.name) == ("a", "b")
    np.testing.assert_allclose(np.array(first.y) - second.y, 1)


def test_a_missing_mean_is_a_gap():
    fig = plot_scores(judged([[NAN, 4.0, 5.0], [NAN, 6.0, 7.0]]))
    assert np.isnan(fig.data[0].y[0])


def test_names_are_shown_as_they_are():
    fig = plot_scores(judged(vector="<b>v</b>").assign(judge="$x$ & y"))
    assert fig.data[0].name == "&lt;b&gt;v&lt;/b&gt;"
    assert "judge &#36;x&#36; &amp; y" in fig.layout.title.text


def test_an_answer_without_a_score_is_counted_once():
    steered = pd.concat([judged(vector=name, kind="vector").query("multiplier != 0") for name in ("v", "w")])
    unsteered = judged(vector="", kind="unsteered").query("multiplier == 0").assign(layer=NAN)  # one has no score
    table = pd.concat([unsteered, steered])
    assert table["score"].isna().sum() == 3
    for one in (table, summarize(table)):
        assert "; 3 replies without a score left out" in plot_scores(one).layout.title.text


def test_a_score_without_its_coherence_is_not_left_out():
    table = judged([[1.0, 4.0, 6.0], [3.0, 5.0, 9.0]]).assign(coherence=[5.0, NAN, 5.0, 5.0, 5.0, 5.0])
    fig = plot_scores(table)
    assert list(fig.data[0].y) == [2.0, 4.5, 7.5]
    assert "; 1 answers without a score or coherence" in fig.layout.title.text
    assert "left out" not in fig.layout.title.text


def test_another_table_is_told():
    with pytest.raises(
        InputError, match=r"table: columns \['score'\] are missing; give the result of caa_interp.judge"
    ):
        plot_scores(judged().drop(columns="score"))


def test_a_vector_that_is_named_as_its_behavior_is_named_once():
    title = plot_scores(judged(behavior="optimism", vector="optimism")).layout.title.text
    assert "optimism, judge strong, layer 13<br>" in title
    assert title.count("optimism") == 1
