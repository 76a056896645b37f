"""Agreement of raters that were made to agree, to differ, and to follow length."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

import caa_interp as caa
from caa_interp.evaluation.judge_agreement import judge_agreement

NAN = float("nan")


def answers(n_prompts=20, n_answers=3, seed=0) -> pd.DataFrame:
    """Answers whose length says nothing about how good they are, and that quality, 0 to 10."""
    generator = np.random.default_rng(seed)
    rows = [
        {"prompt": f"Prompt {prompt}", "answer": " ".join(["word"] * generator.integers(1, 60)) + f" {answer}"}
        for prompt, answer in itertools.product(range(n_prompts), range(n_answers))
    ]
    return pd.DataFrame(rows).assign(quality=generator.integers(1, 10, len(rows)).astype(float))


def rated(table: pd.DataFrame, score, judge: str) -> pd.DataFrame:
    return table[["prompt", "answer"]].assign(score=score, judge=judge, scale=10)


def agreement(one: pd.DataFrame, other: pd.DataFrame | None = None, **options) -> dict:
    (row,) = judge_agreement(one, other, **options).to_dict("records")
    return row


def alpha_by_hand(first, second) -> float:
    """Krippendorff's alpha, interval scale, from its definition: observed over expected disagreement, pair by pair."""
    observed = np.mean([(a - b) ** 2 for a, b in zip(first, second, strict=True)])
    pooled = [*first, *second]
    return 1 - observed / np.mean([(a - b) ** 2 for a, b in itertools.permutations(pooled, 2)])


def test_the_numbers_are_those_of_their_definitions():
    table, generator = answers(), np.random.default_rng(1)
    one = table["quality"]
    other = (one + generator.integers(-3, 4, len(table))).clip(0, 10)
    row = agreement(rated(table, one, "a"), rated(table, other, "b").sample(frac=1, random_state=0))
    assert (row["first"], row["second"], row["n"], row["n_prompts"], row["n_unmatched"]) == ("a", "b", 60, 20, 0)
    assert row["spearman"] == pytest.approx(stats.spearmanr(one, other).statistic)
    assert row["alpha"] == pytest.approx(alpha_by_hand(one, other))
    assert row["alpha"] == pytest.approx(cohen_kappa_score(one, other, weights="quadratic"), abs=0.01)
    assert row["difference"] == pytest.approx((other - one).mean())
    for name in ("spearman", "alpha", "difference", "length_first", "length_second"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]


def test_a_judge_that_likes_length_is_found_out():
    table = answers()
    words = table["answer"].str.split().str.len()
    person = rated(table, table["quality"], "person")
    fair, fond = rated(table, table["quality"] + 0.5, "fair"), rated(table, words / 6, "fond of length")
    row = agreement(person, fond)
    assert row["length_second"] == 1
    assert row["length_first_low"] < 0 < row["length_first_high"]
    assert row["spearman_low"] < 0 < row["spearman_high"]
    assert row["alpha"] < 0.3
    row = agreement(person, fair)
    assert (row["spearman"], row["difference"], row["difference_low"], row["difference_high"]) == (1, 0.5, 0.5, 0.5)
    assert row["alpha_low"] > 0.95
    # Two judges that share the bias agree: only the column of the length tells.
    both = agreement(fond, rated(table, words / 7, "fond as well"))
    assert (both["spearman"], both["length_first"], both["length_second"]) == (1, 1, 1)


def test_intervals_count_prompts_and_not_answers():
    table = answers(n_prompts=8, n_answers=1)
    noise = np.random.default_rng(2).normal(size=8)
    one, other = rated(table, table["quality"], "a"), rated(table, table["quality"] + noise, "b")
    often = [
        pd.concat([part.assign(answer=part["answer"] + f" {copy}") for copy in range(30)]) for part in (one, other)
    ]
    few, many = agreement(one, other), agreement(*often)
    assert many["n"] == 30 * few["n"]
    assert many["n_prompts"] == 8
    for name in ("spearman", "difference"):
        widths = [row[f"{name}_high"] - row[f"{name}_low"] for row in (few, many)]
        assert widths[0] == pytest.approx(widths[1])


def test_the_interval_of_the_difference_is_about_that_of_its_mean():
    table = answers(n_prompts=60, n_answers=1)
    noise = np.random.default_rng(3).normal(size=60)
    row = agreement(rated(table, 5.0, "a"), rated(table, 5 + noise, "b"), confidence=0.9)
    low, high = stats.t.interval(0.9, 59, noise.mean(), stats.sem(noise))
    np.testing.assert_allclose([row["difference_low"], row["difference_high"]], [low, high], atol=0.03)
    assert (row["spearman"], row["spearman_low"], row["spearman_high"]) == (0, 0, 0)  # one of them has no order


def test_labels_of_several_people_are_averaged_and_what_only_one_has_rated_is_counted():
    table = answers()
    judged = rated(table, table["quality"], "strong")
    judged.loc[0, "score"] = NAN
    labels = judged[["prompt", "answer"]].iloc[:40].assign(score=table["quality"])
    people = pd.concat([labels.assign(score=labels["score"] + 1), labels.assign(score=labels["score"] - 1)])
    row = agreement(judged, people)
    assert (row["first"], row["second"], row["n"], row["n_unmatched"]) == ("strong", "second", 39, 21)
    assert (row["spearman"], row["difference"], row["alpha"]) == (1, 0, 1)


def test_labels_are_read_from_a_file_that_is_not_filled_in_wholly(tmp_path):
    table = answers().assign(answer=lambda rows: rows["answer"].where(rows.index > 0, ""))
    judged = rated(table, table["quality"], "strong")
    labels = table[["prompt", "answer"]].assign(score=table["quality"].where(table.index < 40))
    labels.to_csv(tmp_path / "labels.csv", index=False)
    for options in ({}, {"keep_default_na": False}):
        row = agreement(judged, pd.read_csv(tmp_path / "labels.csv", **options))
        assert (row["n"], row["n_unmatched"], row["difference"], row["alpha"]) == (40, 20, 0, 1)


def test_answers_without_a_behavior_are_not_lost():
    table = rated(answers(), answers()["quality"], "a").assign(behavior=None)
    assert agreement(table, table.assign(judge="b"))["n"] == len(table)


@pytest.mark.parametrize("kept", ["category", "float64"])
def test_missing_behaviors_may_be_of_any_type(kept):
    table = rated(answers(), answers()["quality"], "a")
    names = ["x"] * 10 + [np.nan] * (len(table) - 10) if kept == "category" else np.nan
    table = table.assign(behavior=names).astype({"behavior": kept})
    assert agreement(table, table.assign(judge="b"))["n"] == len(table)


def test_equal_ratings_have_no_alpha_however_they_are_rounded():
    table = answers(n_prompts=7, n_answers=1)
    same = rated(table, 0.1 + 0.2, "a")
    people = pd.concat([rated(table, score, "b") for score in (0.3, 0.2, 0.4)])  # their mean is 0.3, but for rounding
    assert people["score"].iloc[[0, 7, 14]].mean() != 0.1 + 0.2
    for other in (same, people):
        row = agreement(same, other)
        assert np.isnan([row["alpha"], row["alpha_low"]]).all()
        assert row["difference"] == 0


def test_the_same_answer_is_known_by_its_behavior():
    table = answers(n_prompts=6)
    both = pd.concat(
        [
            rated(table, table["quality"], "a").assign(behavior="x"),
            rated(table, 10 - table["quality"], "a").assign(behavior="y"),
        ]
    )
    row = agreement(both, both.assign(judge="b"))
    assert (row["n"], row["spearman"]) == (36, 1)


def test_what_has_no_number_has_none():
    table = answers(n_prompts=1)
    row = agreement(rated(table, 5.0, "a"), rated(table, 5.0, "b"))
    assert np.isnan([row["alpha"], row["alpha_low"], row["difference_low"], row["spearman_high"]]).all()
    assert (row["difference"], row["spearman"]) == (0, 0)


def test_bad_tables_are_told():
    table = rated(answers(), 5.0, "a")
    for given, said in (
        (
            (table, table.assign(answer="Another.")),
            "second: no answer in it has a score in first, too; .* prompt, answer",
        ),
        ((table, table.drop(columns="score")), r"second: columns \['score'\] are missing"),
        ((table, table.assign(scale=100)), r"second: the scales of the two tables are \[10, 100\]"),
        ((table.assign(scale=100), table.drop(columns="scale")), r"scales of the two tables are \[10, 100\].*without"),
        ((table, table.assign(score="high")), "second: score of row 0 is 'high'; it must be a number, or empty"),
        ((table,), "second: there is none, and first has one wording"),
        ((["a"], table), "first: list, not a pandas DataFrame"),
    ):
        with pytest.raises(caa.InputError, match=said):
            judge_agreement(*given)
    with pytest.raises(caa.InputError, match="confidence"):
        judge_agreement(table, table, confidence=95)
