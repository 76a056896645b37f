"""Tables keep what they are when they are joined or written; the mean of a row is that of its own items."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.evaluation.summary import MEASURES, SHARES, quantity
from caa_interp.statistics import bootstrap_mean, paired_shares_interval, wilson_interval


def scored(items, multiplier=1.0, **columns):
    """Rows of one condition: ``{item: logit difference}``."""
    rows = pd.DataFrame({"item": list(items), "logit_difference": list(items.values())})
    rows["p_positive"] = rows["logit_difference"] / 100
    usual = {"order": "", "vector": "v", "kind": "vector", "layer": 3, "multiplier": multiplier, "format": "text"}
    return rows.assign(**{**usual, **columns})


# What a table is


@pytest.fixture(scope="module")
def both(tiny_llama, pairs):
    """Choices and texts in one table."""
    vector = caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")
    vectors = {"weather": vector, **caa.random_vectors(vector, 1)}
    return pd.concat([caa.sweep(tiny_llama, vectors, pairs, format=form, layers=2) for form in ("choices", "text")])


def through_csv(table):
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), keep_default_na=False)


def through_parquet(table):
    return pd.read_parquet(io.BytesIO(table.to_parquet(index=False)))


def merged(table):
    return table.merge(pd.DataFrame({"item": [0, 1, 2], "topic": ["rain", "sea", "sun"]}), on="item")


@pytest.mark.parametrize("passed", [lambda table: table, through_csv, through_parquet, merged])
def test_form_and_units_outlive_joining_and_files(both, passed):
    table = passed(both)
    units = {form: quantity(rows, "logit_difference") for form, rows in table.groupby("format")}
    assert units == {
        "text": ("log-probability difference", "nats per token"),
        "choices": ("log-odds of the positive letter", "nats"),
    }
    assert set(table["kind"]) == {"vector", "random"}
    with pytest.raises(caa.InputError, match=r"'format' holds \['choices', 'text'\].* Give rows of one form"):
        quantity(table, "logit_difference")
    with pytest.raises(caa.InputError, match="Give rows of one form"):
        caa.plot_dose_response(table)


@pytest.mark.parametrize("summary", [caa.summarize, caa.steerability])
def test_forms_are_summarized_one_by_one(both, summary):
    result = summary(both)
    for form in ("choices", "text"):
        alone = summary(both[both["format"] == form])
        rows = result[result["format"] == form].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows, alone)
    with pytest.raises(caa.InputError, match=r"it holds formats \['choices', 'text'\]; give the rows of one"):
        caa.choose_layer(both, "weather")


def test_another_measure_has_no_unit_here(both):
    with pytest.raises(caa.InputError, match="measure: 'correct' is not one of 'p_positive', 'logit_difference'"):
        quantity(both[both["format"] == "text"], "correct")


def test_a_table_that_does_not_tell_its_form_has_no_unit():
    with pytest.raises(caa.InputError, match="its column 'format' holds"):
        quantity(scored({0: 1.0}).drop(columns="format"), "logit_difference")


@pytest.mark.parametrize("kept", ["category", "float64"])
def test_unsteered_rows_may_be_without_operator_in_a_column_of_any_type(kept):
    rows = [scored({0: 1.0, 1: 2.0}, 0.0, kind="unsteered", operator=np.nan), scored({0: 2.0, 1: 5.0}, operator="add")]
    table = rows[0].astype({"operator": "float64"}) if kept == "float64" else pd.concat(rows).astype({"operator": kept})
    summary = caa.summarize(table)
    assert summary["operator"].tolist() == ["", "add"][: len(summary)]
    assert summary["logit_difference_change"].tolist() == [0.0, 2.0][: len(summary)]


# Means, intervals and n are those of the row


def test_conditions_with_other_items_have_means_and_numbers_of_their_own():
    ten = scored({item: float(item) for item in range(10)}, 1.0)
    three = scored({item: float(item) for item in range(3)}, 2.0)
    summary = caa.summarize(pd.concat([ten, three]))
    assert summary["logit_difference"].tolist() == [4.5, 1.0]
    assert summary["n"].tolist() == summary["logit_difference_n"].tolist() == [10, 3]


def test_a_missing_value_is_left_out_of_its_own_row_alone():
    unsteered, steered = scored({0: 1.0, 1: 2.0, 2: 6.0}, 0.0), scored({0: 2.0, 1: np.nan, 2: 9.0}, 1.0)
    summary = caa.summarize(pd.concat([unsteered, steered]))
    assert summary["logit_difference"].tolist() == [3.0, 5.5]
    assert summary["n"].tolist() == [3, 2]
    assert summary["logit_difference_change"].tolist() == [0.0, 2.0]
    assert summary["logit_difference_change_n"].tolist() == [3, 2]


def test_rows_of_no_vector_are_the_unsteered_ones_of_every_vector_without_its_own():
    none = scored({0: 1.0, 1: 3.0}, 0.0, vector="unsteered", kind="unsteered", layer=np.nan)
    steered = scored({0: 2.0, 1: 6.0}, 1.0)
    other = scored({0: 5.0, 1: 7.0}, 1.0, vector="w", layer=5)
    own = scored({0: 4.0, 1: 4.0}, 0.0, vector="w", layer=5)
    summary = caa.summarize(pd.concat([none, steered, other, own])).set_index(["vector", "multiplier"])
    assert summary["logit_difference_change"].to_dict() == {
        ("unsteered", 0.0): 0.0,
        ("v", 1.0): 2.0,
        ("w", 1.0): 2.0,
        ("w", 0.0): 0.0,
    }
    slopes = caa.steerability(pd.concat([none, steered])).set_index("vector")["slope"]
    assert slopes.to_dict() == {"v": 2.0}
    assert caa.choose_layer(pd.concat([none, steered, other.assign(vector="v")])) == 5


def test_baselines_of_several_vectors_are_compared_with_the_bare_model():
    parts = [
        scored({0: level + m, 1: level - m}, m, baseline=name, vector=vector, model=model)
        for name, level, model in (("none", 1.0, "m"), ("prompt", 2.0, "m"), ("tuned", 4.0, "m+lora"))
        for vector in ("v", "w")
        for m in (0.0, 1.0)
    ]
    summary = caa.summarize(pd.concat(parts))
    assert summary.groupby("baseline")["logit_difference_change"].unique().map(list).to_dict() == {
        "none": [0.0],
        "prompt": [1.0],
        "tuned": [3.0],
    }


KEYS = ["vector", "multiplier", "item", "order"]
# Values of (vector, multiplier, item, order), of which any may be NaN or have no row.
gaps = st.dictionaries(
    st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 4), st.sampled_from("AB")),
    st.one_of(st.floats(0, 1, width=16), st.just(np.nan)),
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(gaps, st.sampled_from(sorted(MEASURES)))
def test_a_summary_is_that_of_its_definition(values, measure):
    """Condition by condition, item by item, in plain Python."""
    rows = [(*key, value) for key, value in values.items()]
    table = pd.DataFrame(rows, columns=[*KEYS, measure]).assign(layer=0)

    def items(vector, multiplier, compared=None):
        """Means over the orders that have a value (in both), of the value or of its change."""
        found = []
        for item in range(5):
            both = [values.get((vector, multiplier, item, order), np.nan) for order in "AB"]
            if compared is not None:
                both = [
                    value - values.get((vector, compared, item, order), np.nan)
                    for value, order in zip(both, "AB", strict=True)
                ]
            there = [value for value in both if value == value]
            found += [sum(there) / len(there)] if there else []
        return found

    def items_before(vector, multiplier):
        """Unsteered means over the orders that have a value in both."""
        pairs = [
            [(values.get((vector, m, item, one), np.nan)) for m in (0.0, multiplier)]
            for item in range(5)
            for one in "AB"
        ]
        kept = [[pair[0] for pair in pairs[2 * item :][:2] if not np.isnan(pair).any()] for item in range(5)]
        return [sum(one) / len(one) for one in kept if one]

    def expected(numbers, least, most, is_share=False):
        mean, *ends = bootstrap_mean(np.array(numbers), np.random.default_rng(0))
        ends = wilson_interval(mean, len(numbers)) if is_share else np.clip(ends, least, most)
        return [mean, *ends, len(numbers)]

    least, most = MEASURES[measure]
    summary = caa.summarize(table)
    assert len(summary) == len({key[:2] for key in values})
    for row in summary.to_dict("records"):
        own = items(row["vector"], row["multiplier"])
        found = [row[f"{measure}{end}"] for end in ("", "_low", "_high", "_n")]
        np.testing.assert_allclose(found, expected(own, least, most, measure in SHARES), atol=1e-12)
        assert row["n"] == len(own)
        if f"{measure}_change" in row:
            changes = items(row["vector"], row["multiplier"], compared=0.0)
            found = [row[f"{measure}_change{end}"] for end in ("", "_low", "_high", "_n")]
            if measure in SHARES and row["multiplier"]:
                before = items_before(row["vector"], row["multiplier"])
                ends = paired_shares_interval(np.add(before, changes), np.array(before))
                np.testing.assert_allclose(found, [np.mean(changes) if changes else np.nan, *ends, len(changes)])
                continue
            np.testing.assert_allclose(found, expected(changes, least - most, most - least), atol=1e-12)
    has_unsteered = any(multiplier == 0 for _, multiplier, _, _ in values)
    assert (f"{measure}_change" in summary) == has_unsteered


places = st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 4), st.integers(0, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.sets(places, max_size=20))
def test_slopes_are_those_of_the_items_that_have_all_multipliers(seed, missing):
    scores = np.random.default_rng(seed).normal(size=(2, 3, 5, 2))  # vector, multiplier, item, order
    for place in missing:
        scores[place] = np.nan
    table = pd.DataFrame(np.argwhere(np.ones(scores.shape)), columns=KEYS)
    table = table.assign(logit_difference=scores.ravel(), p_positive=0.5, layer=0)
    # What is missing is NaN in one order, and has no row in the other.
    table = table[table["logit_difference"].notna() | (table["order"] == 0)].replace({"vector": {0: "a", 1: "b"}})
    whole = ~np.isnan(scores).any(axis=1)
    for row, own, there in zip(caa.steerability(table).to_dict("records"), scores, whole, strict=True):
        items = [own[:, item, there[item]].mean(axis=1) for item in range(5) if there[item].any()]
        slopes = np.array([np.polyfit([0, 1, 2], item, 1)[0] for item in items])
        found = [row["slope"], row["slope_low"], row["slope_high"], row["n"]]
        np.testing.assert_allclose(found, [*bootstrap_mean(slopes, np.random.default_rng(0)), len(slopes)])
        share = np.mean(slopes < 0) if len(slopes) else np.nan
        found = [row[f"share_against{end}"] for end in ("", "_low", "_high")]
        np.testing.assert_allclose(found, [share, *wilson_interval(share, len(slopes))])


@pytest.mark.parametrize(("measure", "ends"), [("p_positive", (0, 1)), ("divergence", (0, np.inf)), ("score", (0, 10))])
def test_an_interval_stays_in_the_range_of_its_measure(measure, ends):
    values = np.array([0.0, 0.0, 0.001, 1.0])
    for scores in (values, ends[1] - values if np.isfinite(ends[1]) else values):
        table = scored(dict(enumerate(scores))).drop(columns=["logit_difference", "p_positive"])
        row = caa.summarize(table.assign(**{measure: scores})).iloc[0]
        assert ends[0] <= row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"] <= ends[1]


def test_right_answers_alone_do_not_make_a_share_certain():
    table = scored(dict.fromkeys(range(5), 1.0)).assign(correct=1.0)
    single, joint = (
        caa.summarize(pd.concat([table, table.assign(multiplier=2.0)]), simultaneous=simultaneous)
        for simultaneous in (False, True)
    )
    assert single["correct_low"].tolist() == pytest.approx([wilson_interval(1.0, 5)[0]] * 2)
    assert (joint["correct_low"] < single["correct_low"]).all()
    assert (single["correct_high"] == 1).all()


def test_answers_that_did_not_change_do_not_make_a_change_certain():
    """Planted: of 24 questions 20 are answered right, whatever the multiplier."""
    right = {item: float(item < 20) for item in range(24)}
    table = pd.concat([scored(right, m).assign(correct=list(right.values())) for m in (0.0, 1.0)])
    for name in ("correct", "refused"):
        summary = caa.summarize(table.rename(columns={"correct": name}))
        own, steered = (summary[summary["multiplier"] == m].iloc[0] for m in (0.0, 1.0))
        assert steered[f"{name}_change"] == 0
        assert steered[f"{name}_change_low"] == pytest.approx(-0.119, abs=1e-3)
        assert steered[f"{name}_change_high"] == pytest.approx(0.119, abs=1e-3)
        assert own[f"{name}_change_low"] == own[f"{name}_change_high"] == 0  # from itself


def test_one_item_gives_no_interval():
    table = pd.concat([scored({0: 1.0}, m).assign(correct=m, divergence=m, score=m) for m in (0.0, 1.0)])
    for summary in (caa.summarize(table), caa.summarize(table, simultaneous=True), caa.steerability(table)):
        assert (summary["n"] == 1).all()
        ends = summary.filter(regex="_(low|high)$")
        assert len(ends.columns) >= 6
        assert ends.isna().all(axis=None)
        assert summary[[name.removesuffix("_low") for name in ends if name.endswith("_low")]].notna().all(axis=None)


def test_groups_weigh_equally_however_many_items_they_have():
    table = pd.concat([scored({0: 90.0, 1: 10.0, 2: 30.0}), scored({0: 50.0, 1: np.nan, 2: 70.0}, multiplier=0.0)])
    table["topic"] = table["item"].map({0: "law", 1: "art", 2: "art"})
    found = caa.summarize(table, equal="topic")
    assert found["logit_difference"].tolist() == pytest.approx([(90 + 20) / 2, (50 + 70) / 2])
    assert found["p_positive_change"].tolist() == pytest.approx([(0.40 - 0.40) / 2, 0.0])
    assert (found["p_positive_low"] <= found["p_positive"]).all()
    assert (found["p_positive_high"] >= found["p_positive"]).all()
    # Groups of one size change nothing.
    alone = table.assign(topic=table["item"])
    pd.testing.assert_frame_equal(caa.summarize(alone, equal="topic"), caa.summarize(alone))


def test_intervals_of_groups_of_other_sizes_are_of_what_values_deviate():
    topics = ["a"] * 40 + list("bbccdd")
    alike, other = (scored(dict.fromkeys(range(46), 60.0)), scored({n: 60 + 30 * np.sin(n) for n in range(46)}))
    one, mirrored = (
        caa.summarize(table.assign(topic=table["item"].map(dict(enumerate(topics)))), equal="topic").iloc[0]
        for table in (other, other.assign(p_positive=1 - other["p_positive"]))
    )
    same = caa.summarize(alike.assign(topic=alike["item"].map(dict(enumerate(topics)))), equal="topic").iloc[0]
    assert same["p_positive_low"] == pytest.approx(same["p_positive_high"], abs=1e-12)
    assert one["p_positive_high"] - one["p_positive_low"] > 0.01
    ends = mirrored[["p_positive_high", "p_positive", "p_positive_low"]]
    assert one[["p_positive_low", "p_positive", "p_positive_high"]].tolist() == pytest.approx((1 - ends).tolist())


def test_groups_that_are_none():
    table = pd.concat([scored({0: 1.0, 1: 2.0}), scored({0: 1.0, 1: 2.0}, multiplier=0.0)])
    with pytest.raises(caa.InputError, match="equal: 'topic' is not a column of the table; it has"):
        caa.summarize(table, equal="topic")
    with pytest.raises(caa.InputError, match="equal: item 0 has several values of 'multiplier'; it must have one"):
        caa.summarize(table, equal="multiplier")
