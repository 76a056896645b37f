"""Tables keep what they are when they are joined or written; the mean of a row is that of its own items."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.evaluation.summary import MEASURES, quantity
from caa_interp.statistics import bootstrap_mean


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


def test_a_table_that_does_not_tell_its_form_has_no_unit():
    with pytest.raises(caa.InputError, match="its column 'format' holds"):
        quantity(scored({0: 1.0}).drop(columns="format"), "logit_difference")


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


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.sampled_from([0.0, 1.0, 2.0]), st.integers(0, 4), st.sampled_from("AB")),
        st.one_of(st.floats(-5, 5, width=16), st.just(np.nan)),
        min_size=1,
    ),
    st.sampled_from(MEASURES),
)
def test_a_summary_is_that_of_its_definition(values, measure):
    """Condition by condition, item by item, in plain Python."""
    rows = [(*key, value) for key, value in values.items()]
    table = pd.DataFrame(rows, columns=["vector", "multiplier", "item", "order", measure]).assign(layer=0)

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

    def expected(numbers):
        return [*bootstrap_mean(np.array(numbers), np.random.default_rng(0)), len(numbers)]

    summary = caa.summarize(table)
    assert len(summary) == len({key[:2] for key in values})
    for row in summary.to_dict("records"):
        own = items(row["vector"], row["multiplier"])
        found = [row[f"{measure}{end}"] for end in ("", "_low", "_high", "_n")]
        np.testing.assert_allclose(found, expected(own), atol=1e-12)
        assert row["n"] == len(own)
        if f"{measure}_change" in row:
            changes = items(row["vector"], row["multiplier"], compared=0.0)
            found = [row[f"{measure}_change{end}"] for end in ("", "_low", "_high", "_n")]
            np.testing.assert_allclose(found, expected(changes), atol=1e-12)
    has_unsteered = any(multiplier == 0 for _, multiplier, _, _ in values)
    assert (f"{measure}_change" in summary) == has_unsteered
