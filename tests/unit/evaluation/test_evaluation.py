"""Scores are those of the definition under steering; summaries are right on tables worked out by hand."""

import functools
import math
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.response import choose_condition, item_slopes
from caa_interp.statistics import bootstrap_mean
from tests.oracles import definition

MULTIPLIERS = (-1.0, 0.0, 1.5)
COLUMNS = [
    "item",
    "id",
    "topic",
    "order",
    *("vector", "kind", "layer", "multiplier", "operator", "positions"),
    "log_p_positive",
    "log_p_negative",
    "logit_difference",
    "p_positive",
    *("format", "model", "prompt_digest", "path"),
]


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs):
    """A vector of the small model, strong enough to be seen in its answers."""
    return 3.0 * caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")


def assert_definition(table, model, tokenizer, pairs, form, values, tolerance):
    orders = ["AB", "BA"] if form == "choices" else [""]
    seen = 0

    @functools.cache  # it scores both orders at once
    def expected(item, layer, multiplier):
        return definition.scores(model, tokenizer, pairs[item], form, layer, multiplier * values[layer])

    for row in table.itertuples():
        positive, negative = expected(row.item, row.layer, row.multiplier)[orders.index(row.order)]
        assert row.log_p_positive == pytest.approx(positive, abs=tolerance)
        assert row.log_p_negative == pytest.approx(negative, abs=tolerance)
        assert row.logit_difference == pytest.approx(positive - negative, abs=tolerance)
        share = math.exp(positive) / (math.exp(positive) + math.exp(negative))
        assert row.p_positive == pytest.approx(share, abs=tolerance)
        seen += 1
    assert seen == len(pairs) * len(orders) * 4 * len(MULTIPLIERS)


@pytest.mark.parametrize("form", ["choices", "text"])
def test_scores_are_those_of_the_definition(tiny_llama, plain_llama, tokenizer, pairs, vector, form):
    table = caa.sweep(tiny_llama, vector, pairs, format=form, multipliers=MULTIPLIERS)
    assert list(table.columns) == COLUMNS
    assert_definition(table, plain_llama, tokenizer, pairs, form, vector.values, 1e-3)
    spread = table.groupby(["item", "order"])["logit_difference"].agg(np.ptp)
    assert spread.min() > 0.02


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize("form", ["choices", "text"])
def test_in_float64_they_are_so_to_rounding(tiny_llama_64, plain_llama_64, tokenizer, pairs, vector, form):
    double = replace(vector, values=vector.values.double())
    table = caa.sweep(tiny_llama_64, double, pairs[:1], format=form, multipliers=MULTIPLIERS)
    assert_definition(table, plain_llama_64, tokenizer, pairs[:1], form, double.values, 1e-9)


def test_labels_of_a_sweep(tiny_llama, pairs, vector):
    table = caa.sweep(tiny_llama, vector, pairs, format="choices", layers=[3, 1], multipliers=(1, 0))
    assert table["item"].tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert table["id"].iloc[0] == "weather"
    assert table["id"].isna().sum() == 16
    assert table["topic"].isna().all()
    assert table["order"].tolist() == (["AB"] * 4 + ["BA"] * 4) * 3
    assert table["vector"].unique().tolist() == ["weather"]
    assert table["layer"].tolist() == [3, 3, 1, 1] * 6
    assert table["multiplier"].tolist() == [1.0, 0.0] * 12
    facts = {"kind": "vector", "operator": "add", "format": "choices", "model": "tiny-llama", "path": "tree"}
    assert {name: table[name].unique().tolist() for name in facts} == {name: [fact] for name, fact in facts.items()}
    assert table.attrs == {}
    assert caa.sweep(tiny_llama, vector, pairs[:1], format="text", layers=1)["order"].unique().tolist() == [""]


def test_topics_are_carried_into_the_table_so_that_they_can_weigh_equally(tiny_llama, pairs, vector):
    topics = ("sea", "rain", "rain")
    own = [replace(pair, topic=topic) for pair, topic in zip(pairs, topics, strict=True)]
    table = caa.sweep(tiny_llama, vector, own, format="choices", layers=1, progress=False)
    assert table.groupby("item")["topic"].unique().map(list).tolist() == [["sea"], ["rain"], ["rain"]]
    mean = caa.summarize(table, equal="topic").set_index("multiplier").loc[1.0, "logit_difference"]
    by_item = table[table["multiplier"] == 1].groupby("item")["logit_difference"].mean()
    assert mean == pytest.approx((by_item[0] + (by_item[1] + by_item[2]) / 2) / 2)


def test_a_pair_without_an_id_is_named_by_its_place(tiny_llama, pairs):
    strong = caa.SteeringVector(torch.full((1, 64), 3e38), (1,))
    with pytest.raises(caa.errors.ModelError, match=r"pairs\[0\], "):
        caa.sweep(tiny_llama, strong, pairs[1:2], format="text", multipliers=(10,), progress=False)


def test_multiplier_zero_is_the_unsteered_model_exactly(tiny_llama, pairs, vector):
    for form in ("choices", "text"):
        zero = caa.sweep(tiny_llama, vector, pairs, format=form, multipliers=(-2, 0, 2)).query("multiplier == 0")
        assert zero.groupby(["item", "order"])["logit_difference"].nunique().eq(1).all()


def test_the_result_does_not_depend_on_what_else_is_swept(tiny_llama, pairs, vector):
    keys, form = ["item", "order", "vector", "layer", "multiplier"], {"format": "choices"}
    whole = caa.sweep(tiny_llama, {"a": vector, "b": -vector}, pairs, multipliers=(-1, 1), **form)
    alone = caa.sweep(tiny_llama, {"b": -vector}, pairs[:1], layers=2, multipliers=[1], **form)
    both = alone.merge(whole, on=keys, suffixes=("", "_whole"))
    assert len(both) == len(alone) == 2
    np.testing.assert_allclose(both["logit_difference"], both["logit_difference_whole"], atol=1e-4)


def test_a_negated_vector_is_a_negated_multiplier(tiny_llama, pairs, vector):
    table = caa.sweep(tiny_llama, {"v": vector, "-v": -vector}, pairs, format="choices", multipliers=(-1, 1))
    one = table.query("vector == 'v' and multiplier == 1")["logit_difference"].to_numpy()
    other = table.query("vector == '-v' and multiplier == -1")["logit_difference"].to_numpy()
    assert len(one) == 24
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_exchanged_answers_turn_the_score_round(tiny_llama, pairs, vector):
    turned = [caa.ContrastPair(pair.question, pair.negative, pair.positive) for pair in pairs]
    for form in ("choices", "text"):
        one = caa.sweep(tiny_llama, vector, pairs, format=form).sort_values(["item", "layer", "multiplier", "order"])
        other = caa.sweep(tiny_llama, vector, turned, format=form).sort_values(
            ["item", "layer", "multiplier", "order"], ascending=[True, True, True, False]
        )
        np.testing.assert_allclose(one["logit_difference"].to_numpy(), -other["logit_difference"].to_numpy(), atol=1e-4)


def made_up(rows):
    """Sweep table from (item, order, layer, multiplier, logit difference)."""
    table = pd.DataFrame(rows, columns=["item", "order", "layer", "multiplier", "logit_difference"])
    table.insert(2, "vector", "v")
    return table.assign(p_positive=1 / (1 + np.exp(-table["logit_difference"])))


def logit(p):
    return math.log(p / (1 - p))


def test_summarize_takes_the_mean_over_orders_then_items():
    table = made_up(
        [
            (0, "AB", 5, 0.0, logit(0.9)),
            (0, "BA", 5, 0.0, logit(0.5)),
            (1, "AB", 5, 0.0, logit(0.4)),
            (1, "BA", 5, 0.0, logit(0.2)),
            (0, "AB", 5, 1.0, 2.0),
            (0, "BA", 5, 1.0, 4.0),
            (1, "AB", 5, 1.0, -1.0),
            (1, "BA", 5, 1.0, 1.0),
        ]
    )
    summary = caa.summarize(table).set_index("multiplier")
    assert summary["n"].tolist() == [2, 2]
    assert summary.loc[0.0, "p_positive"] == pytest.approx((0.7 + 0.3) / 2)
    assert summary.loc[1.0, "logit_difference"] == pytest.approx(1.5)
    assert summary.loc[0.0, "position_bias"] == pytest.approx((0.9 + 0.4) / 2 - (0.5 + 0.2) / 2)
    for measure in ("p_positive", "logit_difference"):
        assert (summary[f"{measure}_low"] <= summary[measure]).all()
        assert (summary[f"{measure}_high"] >= summary[measure]).all()
    # Items have 3 and 0; Student's t of two items is 12.706.
    assert summary.loc[1.0, "logit_difference_low"] == pytest.approx(1.5 - 12.706 * 1.5, abs=1e-3)
    assert summary.loc[1.0, "logit_difference_high"] == pytest.approx(1.5 + 12.706 * 1.5, abs=1e-3)


def test_items_that_agree_leave_no_interval():
    table = made_up([(item, "", 0, multiplier, 2 * multiplier) for item in range(5) for multiplier in (-1.0, 1.0)])
    summary = caa.summarize(table)
    np.testing.assert_allclose(summary["logit_difference"], [-2, 2])
    np.testing.assert_allclose(summary["logit_difference_low"], [-2, 2])
    np.testing.assert_allclose(summary["logit_difference_high"], [-2, 2])


def test_one_item_has_no_interval():
    summary = caa.summarize(made_up([(0, "", 0, 1.0, 2.0)]))
    assert summary["logit_difference"].tolist() == [2.0]
    assert summary["logit_difference_low"].isna().all()
    assert summary["logit_difference_high"].isna().all()


@pytest.mark.parametrize("order", ["", "AB"])
def test_there_is_no_position_bias_where_an_order_is_missing(order):
    table = made_up([(item, order, 0, 1.0, float(item)) for item in range(3)])
    assert caa.summarize(table)["position_bias"].isna().all()


def test_changes_and_slopes_are_over_the_orders_that_were_scored_in_both():
    """Item 0 always says A; without its BA row at 1, a change of its mean would be the bias of the letter."""
    rows = [(0, order, 0, m, side + m) for order, side in (("AB", 9.0), ("BA", -9.0)) for m in (0.0, 1.0)]
    table = made_up(rows)
    gone = (table["order"] == "BA") & (table["multiplier"] == 1)
    for partial in (table[~gone], table.assign(logit_difference=table["logit_difference"].mask(gone))):
        summary = caa.summarize(partial)
        assert summary["logit_difference"].tolist() == [0.0, 10.0]
        assert summary["logit_difference_change"].tolist() == [0.0, 1.0]
        assert caa.steerability(partial)["slope"].tolist() == [1.0]
        assert item_slopes(partial)["rank_correlation"].tolist() == [1.0]


def test_position_bias_of_a_model_that_always_says_a():
    table = made_up(
        [(item, order, 0, 0.0, logit(0.8 if order == "AB" else 0.2)) for item in range(4) for order in ("AB", "BA")]
    )
    summary = caa.summarize(table)
    assert summary["position_bias"].tolist() == pytest.approx([0.6])
    assert summary["p_positive"].tolist() == pytest.approx([0.5])


def test_every_condition_keeps_its_own_values():
    rows = [
        (name, item, layer, multiplier, offset + layer + 0.1 * multiplier)
        for name, offset in (("b", 10.0), ("a", 20.0))
        for layer in (10, 1)
        for multiplier in (1.0, -1.0)
        for item in (1, 0)
    ]
    table = pd.DataFrame(rows, columns=["vector", "item", "layer", "multiplier", "logit_difference"])
    table = table.assign(order="", p_positive=table["logit_difference"] / 100)
    summary = caa.summarize(table)
    assert len(summary) == 8
    offsets = summary["vector"].map({"b": 10.0, "a": 20.0})
    np.testing.assert_allclose(summary["logit_difference"], offsets + summary["layer"] + 0.1 * summary["multiplier"])
    np.testing.assert_allclose(summary["p_positive"], summary["logit_difference"] / 100)


def test_the_same_seed_gives_the_same_interval():
    generator = np.random.default_rng(0)
    table = made_up([(item, "", 0, 1.0, value) for item, value in enumerate(generator.exponential(size=20))])
    pd.testing.assert_frame_equal(caa.summarize(table), caa.summarize(table))
    ends = [caa.summarize(table, seed=seed)["logit_difference_low"].item() for seed in (0, 1)]
    assert ends[0] != ends[1]  # skewed: more than Student's t, which has no seed
    narrow, wide = (caa.summarize(table, confidence=c).iloc[0] for c in (0.5, 0.99))
    assert narrow["p_positive_low"] > wide["p_positive_low"]
    assert narrow["p_positive_high"] < wide["p_positive_high"]


def test_steerability_by_hand():
    slope_of = {0: 3.0, 1: 1.0, 2: -1.0, 3: 0.0}
    table = made_up(
        [
            (item, order, 7, multiplier, slope * multiplier + (0.5 if order == "AB" else -0.5) + item)
            for item, slope in slope_of.items()
            for order in ("AB", "BA")
            for multiplier in (2.0, -1.0, 0.0)
        ]
    )
    result = caa.steerability(table)
    assert len(result) == 1
    row = result.iloc[0]
    assert (row["vector"], row["layer"], row["n"]) == ("v", 7, 4)
    assert row["slope"] == pytest.approx(0.75)
    assert row["share_against"] == pytest.approx(0.25)
    assert row["slope_low"] < 0.75 < row["slope_high"]
    # The orders' mean of item 3 does not move: no order, so 0.
    assert row["rank_correlation"] == pytest.approx((1 + 1 - 1 + 0) / 4)
    assert row["rank_correlation_low"] < 0.25 < row["rank_correlation_high"]
    assert 0 < row["share_against_low"] < 0.25 < row["share_against_high"] < 1
    per_item = item_slopes(table).set_index("item")
    assert per_item["slope"].to_dict() == pytest.approx(slope_of)
    assert per_item["rank_correlation"].to_dict() == pytest.approx({0: 1.0, 1: 1.0, 2: -1.0, 3: 0.0})
    assert list(result.columns) == [
        "vector",
        "layer",
        "slope",
        "slope_low",
        "slope_high",
        "rank_correlation",
        "rank_correlation_low",
        "rank_correlation_high",
        "share_against",
        "share_against_low",
        "share_against_high",
        "n",
        "confidence",
    ]


def test_the_rank_correlation_of_a_response_that_bends():
    scores = {0: [0.0, 1.0, 9.0, 4.0], 1: [2.0, 2.0, 3.0, 3.0]}
    table = made_up(
        [
            (item, "", 0, multiplier, score)
            for item, own in scores.items()
            for multiplier, score in zip((-2.0, -1.0, 1.0, 2.0), own, strict=True)
        ]
    )
    # Spearman by hand: 1 - 6 * 2 / (4 * 15) without ties; ranks 1.5, 1.5, 3.5, 3.5 against 1 to 4 with them.
    found = item_slopes(table).set_index("item")["rank_correlation"]
    assert found.to_dict() == pytest.approx({0: 0.8, 1: 4 / math.sqrt(4 * 5)})


def test_an_item_without_all_multipliers_has_no_slope_and_spoils_no_other():
    table = made_up([(item, "", 0, m, item * m) for item in (1, 2) for m in (-1.0, 0.0, 1.0)])
    found = item_slopes(table[(table["item"] != 2) | (table["multiplier"] != 1.0)])
    np.testing.assert_equal(found[["item", "slope", "rank_correlation"]].to_numpy(), [[1, 1, 1], [2, np.nan, np.nan]])


def test_a_layer_without_a_complete_item_has_a_row_all_the_same():
    table = made_up([(item, "", layer, m, m + item) for item in (0, 1) for layer in (3, 1) for m in (0.0, 1.0)])
    table.loc[(table["layer"] == 3) & (table["item"] == table["multiplier"]), "logit_difference"] = np.nan
    result = caa.steerability(table)
    assert result["layer"].tolist() == [3, 1]
    assert result["n"].tolist() == [0, 2]
    assert result.loc[1, ["slope", "rank_correlation", "share_against"]].tolist() == [1.0, 1.0, 0.0]
    measures = [name for name in result if name.startswith(("slope", "rank", "share"))]
    assert result.loc[0, measures].isna().all()
    assert caa.choose_layer(table) == 1


def test_vectors_swept_over_different_multipliers_have_their_own_slopes():
    table = made_up([(item, "", 0, m, 2 * m) for item in (0, 1) for m in (-1.0, 1.0)])
    other = made_up([(item, "", 0, m, 3 * m) for item in (0, 1) for m in (0.0, 4.0)]).assign(vector="w")
    result = caa.steerability(pd.concat([table, other]))
    assert dict(zip(result["vector"], result["slope"], strict=True)) == pytest.approx({"v": 2.0, "w": 3.0})


def test_no_item_with_a_score_has_no_slope():
    table = made_up([(0, "", 0, 1.0, float("nan")), (0, "", 0, 2.0, 1.0)])
    for call in (item_slopes, caa.steerability, caa.choose_layer):
        with pytest.raises(
            caa.InputError, match=r"table: no item has a score at all multipliers; give pairs whose mat"
        ):
            call(table)


@pytest.mark.parametrize("call", [caa.steerability, caa.choose_layer, choose_condition])
def test_a_table_of_no_vector_has_no_slope_and_no_layer(tiny_llama, pairs, call):
    with pytest.raises(caa.InputError, match="table: no condition in it is a single intervention"):
        call(caa.sweep(tiny_llama, [None], pairs))


@pytest.mark.parametrize("column", ["behavior", "source_layer", "operator", "positions", "format", "model"])
def test_a_layer_is_chosen_from_one_series_alone(column):
    table = made_up([(0, "", layer, m, layer * m) for layer in (1, 2) for m in (0.0, 1.0)])
    none = table[:1].assign(kind="unsteered", vector="unsteered", layer=np.nan, **{column: ""})
    both = pd.concat([none, table.assign(**{column: "x"}), table.assign(**{column: "y"})])
    for choose in (caa.choose_layer, choose_condition):
        with pytest.raises(
            caa.InputError, match=rf"table: it holds {column.removesuffix('s')}s \['x', 'y'\]; give the"
        ):
            choose(both)


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        *(("confidence", value, "must lie between 0 and 1") for value in ("x", None, 95, float("nan"))),
        *(("seed", value, "must be a whole number of at least 0") for value in ("x", None, -1, 1.5)),
    ],
)
@pytest.mark.parametrize("call", [caa.summarize, caa.steerability])
def test_arguments_of_the_bootstrap_that_are_none(call, argument, value, said):
    table = made_up([(0, "", 0, m, m) for m in (0.0, 1.0)])
    with pytest.raises(caa.InputError, match=f"{argument}: {value!r}; it {said}"):
        call(table, **{argument: value})


def test_the_layer_with_the_largest_slope_is_chosen():
    table = made_up(
        [
            (item, "", layer, multiplier, slope * multiplier)
            for item in range(3)
            for layer, slope in ((2, -9.0), (10, 4.0), (1, 3.0))
            for multiplier in (-1.0, 1.0)
        ]
    )
    assert caa.choose_layer(table) == 10


def test_a_layer_is_chosen_by_the_named_vector():
    table = made_up([(0, "", layer, m, layer * m) for layer in (1, 2) for m in (-1.0, 1.0)])
    both = pd.concat([table, table.assign(vector="w", logit_difference=-table["logit_difference"])])
    assert (caa.choose_layer(both, "v"), caa.choose_layer(both, "w")) == (2, 1)
    for choose in (caa.choose_layer, choose_condition):
        with pytest.raises(caa.InputError, match=r"vector: the table holds \['v', 'w'\]; name one of them"):
            choose(both)
        with pytest.raises(caa.InputError, match=r"vector: 'u' is not in the table; it holds \['v', 'w'\]"):
            choose(both, "u")


def test_the_condition_with_the_largest_change_is_chosen():
    """Not that of the highest score, nor that of the largest change away from the positive answer."""
    changes = {(3, -1.0): -9.0, (3, 2.0): 1.0, (8, -1.0): 0.5, (8, 2.0): 2.0}
    rows = [(item, "", layer, 0.0, 10.0 * item + layer) for item in range(3) for layer in (3, 8)]
    rows += [(i, "", layer, m, 10.0 * i + layer + change) for i in range(3) for (layer, m), change in changes.items()]
    assert choose_condition(made_up(rows)) == (8, 2.0)
    turned = made_up(rows)
    turned["logit_difference"] *= -1
    assert choose_condition(turned) == (3, -1.0)


def test_unsteered_is_no_condition_to_choose():
    table = made_up([(0, "", 4, m, -abs(m)) for m in (0.0, 1.0, 2.0)])
    assert choose_condition(table) == (4, 1.0)
    for multipliers in ([0.0], [1.0, 2.0]):
        with pytest.raises(
            caa.InputError, match=r"its multipliers are \[.*\]; a change needs 0 and at least one other"
        ):
            choose_condition(table[table["multiplier"].isin(multipliers)])


def test_a_condition_without_finite_scores_is_named():
    table = made_up([(0, "", 4, m, float("nan") if m == 8 else m) for m in (0.0, 1.0, 8.0)])
    with pytest.raises(
        caa.InputError, match=r"at layer 4 no item has a score both at multiplier 8 and at 0\. .* scores are finite"
    ):
        choose_condition(table)


def test_unsteered_rows_belong_to_series_that_lack_the_same_columns():
    steered = made_up([(item, "", 3, m, 2 + 3 * m) for item in (0, 1) for m in (1.0, 2.0)]).assign(format="text")
    none = made_up([(item, "", 3, 0.0, 0.0) for item in (0, 1)]).assign(vector="", kind="unsteered", format="text")
    for missing in ("behavior", "model", "judge"):
        table = pd.concat([none, steered.assign(kind="vector")]).assign(**{missing: np.nan})
        expected = np.polyfit([0, 1, 2], [0, 5, 8], 1)[0]
        assert caa.steerability(table)["slope"].tolist() == pytest.approx([expected])
        assert choose_condition(table) == (3, 2.0)


def test_a_slope_needs_two_multipliers():
    with pytest.raises(caa.InputError, match="table: 'v' has one multiplier, 1; a slope needs at least two"):
        caa.steerability(made_up([(0, "", 0, 1.0, 2.0)]))


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 95, float("nan")])
def test_a_confidence_outside_its_range(confidence):
    with pytest.raises(caa.InputError, match=f"confidence: {confidence}; it must lie between 0 and 1"):
        caa.summarize(made_up([(0, "", 0, 1.0, 2.0)]), confidence=confidence)


def test_a_table_that_is_no_sweep():
    with pytest.raises(caa.InputError, match=r"columns \['item', 'layer'\] are missing"):
        caa.summarize(made_up([(0, "", 0, 1.0, 2.0)]).drop(columns=["layer", "item"]))
    with pytest.raises(caa.InputError, match=r"none of the columns \['p_positive', 'logit_difference', 'nats_per"):
        caa.summarize(made_up([(0, "", 0, 1.0, 2.0)]).drop(columns=["p_positive", "logit_difference"]))
    with pytest.raises(caa.InputError, match=r"columns \['logit_difference'\] are missing"):
        caa.steerability(made_up([(0, "", 0, 1.0, 2.0)]).drop(columns="logit_difference"))
    with pytest.raises(caa.InputError, match="it has no rows"):
        caa.summarize(made_up([]))


# Several conditions, several behaviors


def noise(n_items, n_vectors, multipliers=(0.0, 1.0), seed=0):
    """Sweep without an effect: the change from unsteered of every item is noise; a table of many vectors."""
    generator = np.random.default_rng(seed)
    keys = pd.MultiIndex.from_product(
        [range(n_items), [f"v{number}" for number in range(n_vectors)], multipliers],
        names=["item", "vector", "multiplier"],
    )
    table = keys.to_frame(index=False).assign(order="", layer=0)
    table["logit_difference"] = generator.normal(size=len(table)) + 0.1 * table["item"]
    return table.assign(p_positive=1 / (1 + np.exp(-table["logit_difference"])))


def test_without_an_effect_the_change_s_interval_holds_zero_at_its_rate():
    rows = caa.summarize(noise(n_items=20, n_vectors=400)).query("multiplier == 1")
    for measure in ("logit_difference_change", "p_positive_change"):
        held = (rows[f"{measure}_low"] <= 0) & (rows[f"{measure}_high"] >= 0)
        assert len(held) == 400
        assert abs(held.mean() - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_simultaneous_intervals_of_a_summary_are_those_of_its_columns():
    table = noise(n_items=12, n_vectors=3)
    single, joint = caa.summarize(table, confidence=0.9), caa.summarize(table, confidence=0.9, simultaneous=True)
    for summary, simultaneous in ((joint, True), (single, False)):
        assert set(zip(summary["confidence"], summary["simultaneous"], strict=True)) == {(0.9, simultaneous)}
    wide = table.pivot(index="item", columns=["vector", "multiplier"], values="logit_difference")
    change = wide.loc[:, wide.columns] - wide.loc[:, [(vector, 0.0) for vector, _ in wide.columns]].to_numpy()
    _, low, high = bootstrap_mean(change.to_numpy(), np.random.default_rng(0), 0.9, simultaneous=True)
    np.testing.assert_allclose(joint["logit_difference_change_low"], low)
    np.testing.assert_allclose(joint["logit_difference_change_high"], high)
    np.testing.assert_allclose(joint["logit_difference_change"], single["logit_difference_change"])
    steered = joint["multiplier"] == 1
    assert (joint[steered]["logit_difference_change_high"] > single[steered]["logit_difference_change_high"]).all()


def test_behaviors_are_summarized_one_by_one():
    optimism, refusal = noise(8, 2, seed=1), noise(5, 2, seed=2)
    both = pd.concat([refusal.assign(behavior="refusal"), optimism.assign(behavior="optimism")])
    for summary in (caa.summarize, caa.steerability):
        result = summary(both)
        assert result.columns[0] == "behavior"
        assert result["behavior"].unique().tolist() == ["refusal", "optimism"]
        for name, alone in (("refusal", summary(refusal)), ("optimism", summary(optimism))):
            rows = result[result["behavior"] == name].drop(columns="behavior").reset_index(drop=True)
            pd.testing.assert_frame_equal(rows, alone)
    for choose in (caa.choose_layer, choose_condition):
        with pytest.raises(caa.InputError, match=r"table: it holds behaviors \['refusal', 'optimism'\]; give the rows"):
            choose(both, "v0")


def test_simultaneous_intervals_of_two_behaviors_hold_for_both():
    optimism, refusal = noise(8, 2, seed=1), noise(8, 2, seed=2)
    both = pd.concat([refusal.assign(behavior="refusal"), optimism.assign(behavior="optimism")])
    joint = caa.summarize(both, simultaneous=True)
    alone = caa.summarize(optimism, simultaneous=True, confidence=math.sqrt(0.95))
    rows = joint[joint["behavior"] == "optimism"].drop(columns="behavior").reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.assign(confidence=alone["confidence"]), alone)
    assert (joint["confidence"] == 0.95).all()


def test_rows_that_cannot_be_told_apart_are_no_sweep():
    table = made_up([(0, "", 0, 0.0, 1.0), (0, "", 0, 1.0, 2.0)])
    with pytest.raises(caa.InputError, match=r"table: some rows agree in \['item', .*Summarize each by itself"):
        caa.summarize(pd.concat([table, table]))
    with pytest.raises(
        caa.InputError, match=r"table: dict, not a pandas DataFrame; give the result of caa_interp\.sweep"
    ):
        caa.summarize({})


def test_a_layer_without_multiplier_0_has_no_change():
    table = made_up([(item, "", 1, m, item + m) for item in range(3) for m in (0.0, 1.0)])
    other = made_up([(item, "", 2, 1.0, item + 5.0) for item in range(3)])
    for simultaneous in (False, True):
        summary = caa.summarize(pd.concat([table, other]), simultaneous=simultaneous)
        assert summary["logit_difference"].tolist() == [1.0, 2.0, 6.0]
        np.testing.assert_allclose(summary["logit_difference_change"], [0, 1, np.nan])
        np.testing.assert_allclose(summary["logit_difference_change_high"], [0, 1, np.nan])


def test_a_form_that_no_vector_holds_is_told(tiny_llama, pairs):
    """Vectors made by hand or imported do not say in which form they were made."""
    by_hand = caa.SteeringVector(torch.ones(1, 64), (1,))
    with pytest.warns(UserWarning, match="format: no vector says in which form it was made.*'choices'.*Give format="):
        table = caa.sweep(tiny_llama, by_hand, pairs[:1], progress=False)
    assert set(table["format"]) == {"choices"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        caa.sweep(tiny_llama, by_hand, pairs[:1], format="choices", progress=False)
