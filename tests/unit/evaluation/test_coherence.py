"""Only coherent answers keep a score, and nobody can mistake them for all."""

import warnings

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.coherence import coherence_gate

NAN = float("nan")


def judged(**columns) -> pd.DataFrame:
    """Three prompts at three multipliers: the largest one breaks most answers, and what is left scores higher."""
    table = pd.DataFrame(
        {
            "item": [0, 1, 2] * 3,
            "layer": 13,
            "multiplier": [0.0] * 3 + [2.0] * 3 + [8.0] * 3,
            "answer": ["One.", "Two.", "Three."] * 2 + ["so so so so", " \n", "Three."],
            "score": [4.0, 5, 6, 6, 7, 8, 2, 0, 10],
            "coherence": [9.0, 9, 9, 5, 4, 9, 0, 0, NAN],
        }
    )
    return table.assign(**columns)


def test_incoherent_answers_keep_no_score_and_every_condition_stays_in_sight():
    with pytest.warns(UserWarning, match="below 5") as told:
        gated = coherence_gate(judged(), least=5)
    assert str(told[0].message) == (
        "judged: 4 of 9 answers keep no score: 3 with a coherence below 5 (of 10), 1 without one. An effect on the "
        "rest is not one on all. Left by condition: multiplier 8.0: 0 of 3; multiplier 2.0: 2 of 3."
    )
    assert gated["incoherent"].tolist() == [False] * 4 + [True, False, True, True, False]
    np.testing.assert_array_equal(gated["score"], [4, 5, 6, 6, NAN, 8, NAN, NAN, NAN])
    summary = caa.summarize(gated).set_index("multiplier")
    counts = ["n", "n_incoherent", "n_unparseable", "n_empty"]
    assert summary[counts].to_numpy().tolist() == [[3, 0, 0, 0], [2, 1, 0, 0], [0, 2, 1, 1]]
    assert summary["score"].tolist()[:2] == [5, 7]
    assert np.isnan(summary.loc[8.0, "score"])
    # The change is that of the prompts that are left, at both multipliers.
    assert summary.loc[2.0, ["score_change", "score_change_n"]].tolist() == [2, 2]
    assert "3 incoherent answers left out" in caa.plot_scores(gated).layout.title.text


def test_a_gate_that_all_answers_pass_is_silent():
    table = judged(coherence=7.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gated = coherence_gate(table, least=7)
    pd.testing.assert_frame_equal(gated.drop(columns="incoherent"), table)
    assert not gated["incoherent"].any()


def test_answers_without_a_coherence_do_not_lose_their_scores_in_silence():
    stacked = pd.concat([judged(coherence=7.0), judged().drop(columns="coherence").assign(multiplier=16.0)])
    with pytest.warns(
        UserWarning, match=r"0 with a coherence below 5 \(of 10\), 9 without one.*multiplier 16.0: 0 of 9"
    ):
        gated = coherence_gate(stacked, least=5)
    assert gated["score"].notna().sum() == 9


def test_the_scores_of_single_wordings_pass_the_same_gate():
    wordings = {"score_1": 1.0, "score_2": 3.0, "score_spread": 2.0}
    with pytest.warns(UserWarning, match="below 5"):
        gated = coherence_gate(judged(**wordings), least=5)
    for name in wordings:
        assert gated[name].isna().tolist() == gated["score"].isna().tolist()


def test_a_gated_table_is_not_gated_again():
    with pytest.warns(UserWarning, match="below 8"):
        gated = coherence_gate(judged(), least=8)
    with pytest.raises(caa.InputError, match=r"judged: it went through a gate already.*Gate the table from before"):
        coherence_gate(gated, least=5)


def test_coherence_is_read_from_text():
    with pytest.warns(UserWarning, match="below 5"):
        gated = coherence_gate(judged(), least=5)
    text = judged()["coherence"].astype(object).fillna("").astype(str)
    with pytest.warns(UserWarning, match="below 5"):
        read = coherence_gate(judged(coherence=text), least=5)
    pd.testing.assert_frame_equal(read.drop(columns="coherence"), gated.drop(columns="coherence"))


def test_the_message_names_the_conditions_that_have_the_fewest_left():
    table = pd.concat([judged(layer=layer) for layer in range(4)])
    with pytest.warns(UserWarning, match=r"Left by condition: layer 0, multiplier 8.0: 0 of 3; .*; and 3 more cond"):
        coherence_gate(table, least=5)


def test_counts_survive_a_file(tmp_path):
    with pytest.warns(UserWarning, match="below 5"):
        gated = coherence_gate(judged(), least=5)
    gated.to_csv(tmp_path / "gated.csv", index=False)
    pd.testing.assert_frame_equal(caa.summarize(pd.read_csv(tmp_path / "gated.csv")), caa.summarize(gated))


def test_length_and_repetition_stand_beside_the_scores():
    summary = caa.summarize(caa.evaluation.text_quality(judged())).set_index("multiplier")
    assert summary["n_words"].tolist() == [1, 1, 5 / 3]
    assert summary["loop"].tolist() == [0, 0, 1 / 3]
    assert summary["n"].tolist() == [3, 3, 3]


def test_samples_of_a_prompt_count_as_one():
    twice = pd.concat([judged(sample=0), judged(sample=1, score=judged()["score"] / 2)])
    summary, once = caa.summarize(twice), caa.summarize(judged(score=judged()["score"] * 0.75))
    of_answers = ["n_unparseable", "n_empty"]
    pd.testing.assert_frame_equal(summary.drop(columns=of_answers), once.drop(columns=of_answers))
    assert summary[of_answers].to_numpy().tolist() == [[0, 0], [0, 0], [2, 2]]


@pytest.mark.parametrize("least", [-1, 10.5, NAN, "5", None])
def test_a_threshold_off_the_scale_is_told(least):
    with pytest.raises(caa.InputError, match=r"least: .*; it must be a number from 0 to 10, the scale of the table"):
        coherence_gate(judged(), least)


def test_answers_without_coherence_are_told():
    with pytest.raises(caa.InputError, match=r"columns \['coherence'\] are missing.*with coherence=True"):
        coherence_gate(judged().drop(columns="coherence"), 5)
