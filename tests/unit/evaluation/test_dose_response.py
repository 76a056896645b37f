"""The dose-response of behaviors is the steps that it says, on pairs with one use each; figures show its numbers."""

import re
from collections import Counter
from html import unescape
from importlib import import_module

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.controls import shuffled_vectors
from caa_interp.evaluation.dose_response import dose_response
from caa_interp.evaluation.splits import validation_split
from caa_interp.plotting.dose_response import plot_dose_response, plot_dose_responses
from caa_interp.plotting.theme import BEHAVIOR_STYLES

module = import_module("caa_interp.evaluation.dose_response")
MULTIPLIERS = (-1.0, 0.0, 2.0)


def pairs_of(name, sizes):
    """Pairs of topics of these sizes; a size of None is a pair without a topic."""
    topics = [(f"topic {number}", size) for number, size in enumerate(sizes)]
    return [
        caa.ContrastPair(f"{name} {topic} {i}?", "I like it.", "I do not.", id=f"{name}-{topic}-{i}", topic=topic)
        for topic, size in topics
        for i in range(size)
    ]


def behavior(name):
    return caa.Behavior(name, "", train=pairs_of(f"The {name} sea", [3, 2, 3]), test=pairs_of(f"The {name} rain", [3]))


@pytest.fixture(scope="module")
def behaviors():
    return {"optimism": behavior("good"), "mine": behavior("bright")}


OPTIONS = {"format": "text", "n_validation": 3, "multipliers": MULTIPLIERS, "n_random": 2, "n_shuffled": 2}


@pytest.fixture(scope="module")
def table(tiny_llama, behaviors):
    return dose_response(tiny_llama, behaviors, **OPTIONS)


# The split


def test_whole_topics_are_set_apart_where_they_add_up():
    pairs = pairs_of("q", [5, 7, 4, 8, 6, 5])
    for n in (4, 9, 12, 13, 20, 31):
        for seed in range(5):
            rest, validation = validation_split(pairs, n, seed=seed)
            assert len(validation) == n
            assert sorted([*rest, *validation], key=pairs.index) == pairs
            assert not {p.topic for p in rest} & {p.topic for p in validation}
            assert [rest, validation] == [sorted(side, key=pairs.index) for side in (rest, validation)]


def test_one_topic_at_most_is_divided():
    pairs = pairs_of("q", [8] * 5)
    for n in (3, 11, 20, 39):
        rest, validation = validation_split(pairs, n)
        assert (len(rest), len(validation)) == (40 - n, n)
        assert len({p.topic for p in rest} & {p.topic for p in validation}) == 1


def test_every_topic_can_be_the_one():
    pairs = pairs_of("q", [4] * 6)
    chosen = Counter(validation_split(pairs, 4, seed=seed)[1][0].topic for seed in range(60))
    assert len(chosen) == 6
    assert validation_split(pairs, 4, seed=7) == validation_split(pairs, 4, seed=7)


def test_pairs_without_a_topic_stay_with_their_question():
    pairs = [caa.ContrastPair(f"Question {i // 2}?", f"Yes {i}.", "No.") for i in range(20)]
    rest, validation = validation_split(pairs, 6)
    assert len(validation) == 6
    assert not {p.question for p in rest} & {p.question for p in validation}


def test_packaged_behaviors_can_be_split_without_a_shared_topic():
    for name, one in caa.load_behaviors().items():
        rest, validation = validation_split(one.train, 20)
        assert (len(rest), len(validation)) == (180, 20), name
        assert not {p.topic for p in rest} & {p.topic for p in validation}, name


@pytest.mark.parametrize("n", [0, 8, 9, -1, 2.5, True])
def test_a_split_that_leaves_nothing(n):
    with pytest.raises(caa.InputError, match=f"n: {n} of 8 pairs; set apart at least 1, and leave at least 1"):
        validation_split(pairs_of("q", [8]), n)


# The table


def test_the_table_is_that_of_the_steps_one_by_one(tiny_llama, behaviors, table):
    for name, one in behaviors.items():
        rest, validation = validation_split(one.train, 3)
        vector = caa.extract_vector(tiny_llama, rest, format="text")
        by_layer = caa.sweep(tiny_llama, vector, validation, format="text", multipliers=(-1.0, 2.0))
        layer = caa.choose_layer(by_layer)
        activations = caa.collect_activations(tiny_llama, rest, format="text")
        vectors = {name: vector, **caa.random_vectors(vector, 2), **shuffled_vectors(activations, 2)}
        expected = caa.sweep(tiny_llama, vectors, one.test, format="text", layers=layer, multipliers=MULTIPLIERS)
        found = table[table["behavior"] == name].reset_index(drop=True)
        added = ["n_train", "n_validation", "seed"]
        assert list(found.columns) == ["behavior", *expected.columns, *added]
        pd.testing.assert_frame_equal(found[expected.columns], expected, atol=1e-4, check_exact=False)
        assert set(found["layer"]) == {layer}
        assert found[[*added, "format", "model", "path"]].drop_duplicates().values.tolist() == [
            [5, 3, 0, "text", "tiny-llama", "tree"]
        ]
    assert not table.attrs


def test_everything_that_a_sweep_takes_is_handed_on(tiny_llama, behaviors):
    form = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
    given = {"operator": caa.Cap(high=0.1), "positions": "all", "prompt_format": form}
    options = dict(OPTIONS, n_random=0, n_shuffled=0, layers=2)
    found = dose_response(
        tiny_llama, {"mine": behaviors["mine"]}, estimator=caa.vectors.principal_difference, **given, **options
    )
    acts = caa.collect_activations(tiny_llama, behaviors["mine"].train, format="text", layers=[2], prompt_format=form)
    values = caa.vectors.principal_difference(acts.positive, acts.negative)
    vector = caa.SteeringVector(values, (2,), {"model": "tiny-llama"})
    swept = caa.sweep(
        tiny_llama, {"mine": vector}, behaviors["mine"].test, format="text", multipliers=MULTIPLIERS, **given
    )
    pd.testing.assert_frame_equal(found[swept.columns], swept, atol=1e-4, check_exact=False)


def test_no_pair_has_two_uses(tiny_llama, behaviors, monkeypatch):
    seen = []

    def noting(function, position):
        def call(*given, **options):
            seen.append({pair.id for pair in given[position]})
            return function(*given, **options)

        return call

    monkeypatch.setattr(module, "collect_activations", noting(module.collect_activations, 1))
    monkeypatch.setattr(module, "sweep", noting(module.sweep, 2))
    dose_response(tiny_llama, {"mine": behaviors["mine"]}, n_validation=2, n_random=0, n_shuffled=0)
    train, validation, test = seen
    assert (len(train), len(validation), len(test)) == (6, 2, 3)
    assert not train & validation
    assert not test & (train | validation)
    assert train | validation == {pair.id for pair in behaviors["mine"].train}


def test_numbers_of_pairs_are_at_most_those_asked_for(tiny_llama, behaviors):
    options = dict(OPTIONS, n_random=0, n_shuffled=0, format="choices")
    small = dose_response(tiny_llama, {"mine": behaviors["mine"]}, n_train=2, n_test=2, **options)
    assert set(small["n_train"]) == {2}
    assert small["id"].nunique() == 2
    assert sorted(small["order"].unique()) == ["AB", "BA"]
    assert small["vector"].unique().tolist() == ["mine"]
    large = dose_response(tiny_llama, {"mine": behaviors["mine"]}, n_train=99, n_test=99, **options)
    assert set(large["n_train"]) == {5}
    assert large["id"].nunique() == 3


def test_one_layer_leaves_nothing_to_choose(tiny_llama, behaviors):
    options = dict(OPTIONS, n_validation=99)
    found = dose_response(tiny_llama, {"mine": behaviors["mine"]}, layers=2, **options)
    assert found["layer"].unique().tolist() == [2]
    assert found[["n_train", "n_validation"]].drop_duplicates().values.tolist() == [[8, 0]]


def test_the_seed_decides(tiny_llama, behaviors):
    given = {"mine": behaviors["mine"]}
    options = dict(OPTIONS, layers=2)
    one, same, other = (dose_response(tiny_llama, given, seed=seed, **options) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert not np.allclose(one["logit_difference"], other["logit_difference"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "letters"}, "format: 'letters'"),
        ({"layers": [1, 9]}, "layer 9: the model has layers 0 to 3"),
        ({"multipliers": [1.0]}, r"multipliers: \[1.0\]; a response needs at least two"),
        ({"n_test": 0}, "n_test: 0; it must be a whole number of at least 1"),
        ({"n_train": -1}, "n_train: -1; it must be a whole number of at least 1"),
        ({"n_validation": 0}, "n_validation: 0; it must be a whole number of at least 1"),
        ({"seed": -1}, "seed: -1; it must be a whole number of at least 0"),
        ({"n_random": -1}, "n_random: -1; it must be a whole number of at least 0"),
        ({"n_shuffled": -2}, "n_shuffled: -2; it must be a whole number of at least 0"),
        ({"n_validation": 8}, r"n_validation: 8, but behaviors\['mine'\] has 8 train pairs.*Set fewer apart"),
        ({"prompt_format": "base"}, "prompt_format: 'base'; give one such as"),
        ({"estimator": "logistic_probe"}, "estimator: 'logistic_probe'"),
        ({"operator": "add"}, "operator: 'add'; give one such as caa.add"),
        ({"positions": [-1]}, r"positions: \[-1\]; give one of"),
        ({"n_train": 1}, r"behaviors\['mine'\]: 1 pair makes the vector; shuffling labels needs.*or n_shuffled=0"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(tiny_llama, behaviors, monkeypatch, options, message):
    monkeypatch.delattr(module, "collect_activations")
    with pytest.raises(caa.InputError, match=message):
        dose_response(tiny_llama, {"mine": behaviors["mine"]}, **{**OPTIONS, **options})


def test_a_pair_that_is_too_long_is_found_before_any_work(tiny_llama, behaviors, monkeypatch):
    monkeypatch.delattr(module, "collect_activations")
    long = [caa.ContrastPair("Is it good? " * 99, "Yes.", "No.")]
    last = caa.Behavior("last", "", behaviors["mine"].train, long)
    with pytest.raises(caa.InputError, match=r"behaviors\['last'\]: 'Is it good\? .*tokens, but the model's context"):
        dose_response(tiny_llama, {**behaviors, "last": last}, **OPTIONS)


@pytest.mark.parametrize("name", ["random 0", "shuffled 1"])
def test_a_behavior_named_like_a_control_is_found_before_any_work(tiny_llama, behaviors, monkeypatch, name):
    monkeypatch.delattr(module, "collect_activations")
    with pytest.raises(caa.InputError, match=f"behaviors: '{name}' is also the name of one of its controls"):
        dose_response(tiny_llama, {name: behaviors["mine"]}, **{**OPTIONS, "n_random": 1, "n_shuffled": 2})


def test_behaviors_that_are_none(tiny_llama, behaviors):
    with pytest.raises(caa.InputError, match="behaviors: the mapping is empty; give at least one behavior"):
        dose_response(tiny_llama, {})
    with pytest.raises(caa.InputError, match=r"behaviors\['mine'\]: list; give a Behavior"):
        dose_response(tiny_llama, {"mine": behaviors["mine"].train})
    with pytest.raises(caa.InputError, match=r"behaviors\['mine'\].test: the list is empty"):
        dose_response(tiny_llama, {"mine": caa.Behavior("mine", "", behaviors["mine"].train, ())})


# The figures


def slopes_table(slopes, behavior=None, layer=3, n=4):
    """Sweep whose logit difference is ``slope * multiplier`` plus the item's own level and a little of its own."""
    rows = [
        (item, name, layer, multiplier, item + slope * multiplier + 0.01 * item * multiplier**2)
        for item in range(n)
        for name, slope in slopes.items()
        for multiplier in MULTIPLIERS
    ]
    table = pd.DataFrame(rows, columns=["item", "vector", "layer", "multiplier", "logit_difference"])
    table = table.assign(order="", p_positive=1 / (1 + np.exp(-table["logit_difference"])))
    if behavior:
        table.insert(0, "behavior", behavior)
    first = table["vector"].str.split().str[0]
    return table.assign(kind=first.where(first.isin(["random", "shuffled", "orthogonal"]), "vector"), format="text")


CONTROLLED = {"random 0": 1, "random 1": -2, "shuffled 0": 0.5, "shuffled 1": 0.25, "orthogonal 0": 3}


def several(names=("optimism", "mine <b>"), layers=(3, 5), n=(4, 4)):
    parts = [
        slopes_table({name: 4 + number, **CONTROLLED}, name, layer, size)
        for number, (name, layer, size) in enumerate(zip(names, layers, n, strict=True))
    ]
    return pd.concat(parts, ignore_index=True)


def test_each_kind_of_control_has_its_own_band():
    table = slopes_table({"refusal": 5, **CONTROLLED})
    fig = plot_dose_response(table)
    _, *drawn = fig.data  # the lines of the pairs are behind
    assert [one.name for one in drawn] == [
        "2 random vectors of the same norm",
        "1 orthogonal vector of the same norm",
        "2 shuffled vectors of the same norm",
        "refusal",
    ]
    bend = 0.015  # mean over items of the quadratic part
    for band, (low, high) in zip(drawn, ((-2, 1), (3, 3), (0.25, 0.5)), strict=False):
        assert list(band.x) == [-1, 0, 2, 2, 0, -1]
        expected = [-low + bend, 0, 2 * high + 4 * bend, 2 * low + 4 * bend, 0, -high + bend]
        np.testing.assert_allclose(band.y, expected, atol=1e-12)
    # Told apart without color: by the filling and by the edge.
    assert len({one.fillpattern.shape for one in drawn[:3]}) == 3
    assert len({one.line.dash for one in drawn[:3]}) == 3


def test_a_kind_looks_the_same_whether_or_not_the_others_are_there():
    alone = plot_dose_response(slopes_table({"v": 1, "shuffled 0": 0.5}))
    among = plot_dose_response(slopes_table({"v": 1, **CONTROLLED}))
    first, second = (next(one for one in fig.data if "shuffled" in one.name) for fig in (alone, among))
    assert first.fillpattern == second.fillpattern
    assert first.line == second.line


def test_one_panel_for_each_behavior_with_its_line_and_bands():
    table = several()
    fig = plot_dose_responses(table)
    summary = caa.summarize(table)
    slopes = caa.steerability(table).query("kind == 'vector'").set_index("behavior")["slope"]
    for note, (name, layer) in zip(fig.layout.annotations, (("optimism", 3), ("mine <b>", 5)), strict=False):
        title, verdict, slope = re.sub(r"<(?!br)[^>]*>", "", note.text).split("<br>")
        assert unescape(title) == name
        assert verdict.startswith(f"layer {layer}: ")
        assert slope.startswith(f"{slopes[name]:+.3f}".replace("-", "\N{MINUS SIGN}"))
    for axis, behavior in (("x", "optimism"), ("x2", "mine <b>")):
        traces = [one for one in fig.data if one.xaxis == axis]
        assert len(traces) == 4
        rows = summary[(summary["behavior"] == behavior) & (summary["vector"] == behavior)]
        line = traces[-1]
        np.testing.assert_allclose(line.y, rows["logit_difference_change"])
        np.testing.assert_allclose(line.y + line.error_y.array, rows["logit_difference_change_high"])
        np.testing.assert_allclose(line.y - line.error_y.arrayminus, rows["logit_difference_change_low"])
    own = next(one for one in fig.data if one.name == "optimism")
    style = BEHAVIOR_STYLES["optimism"]
    assert (own.line.color, own.marker.symbol) == style


def test_a_summary_has_a_thin_line_for_every_pair_of_its_scores():
    table = several()
    pairs = [caa.ContrastPair(f"Question {number}?", "Yes.", "No.") for number in range(4)]
    fig = plot_dose_responses(caa.summarize(table), scores=table, pairs={"mine <b>": pairs})
    for axis, behavior in (("x", "optimism"), ("x2", "mine <b>")):
        first, *others = (one for one in fig.data if one.xaxis == axis)
        assert first.name == "each of 4 pairs"
        assert len(others) == 4
        wide = table[table["vector"] == behavior].groupby(["item", "multiplier"])["logit_difference"].mean().unstack()
        drawn = np.array(first.y, dtype=float).reshape(4, -1)  # the last point of each is the gap after it
        np.testing.assert_allclose(drawn[:, :-1], wide.sub(wide[0.0], axis=0), atol=1e-12)
        for number, text in enumerate(first.customdata[:: drawn.shape[1]]):
            assert text.startswith(f"pair {number}: slope ")
            assert (f"Question {number}?" in text) == (behavior == "mine <b>")
    assert sum(one.showlegend is not False and one.name == "each of 4 pairs" for one in fig.data) == 1
    assert not any(one.name.startswith("each of") for one in plot_dose_responses(table).data)
    with pytest.raises(caa.InputError, match=r"pairs: 3 pairs, but the table has an item 3"):
        plot_dose_responses(table, scores=table, pairs={"optimism": pairs[:3]})
    with pytest.raises(caa.InputError, match="item"):
        plot_dose_responses(table, scores=caa.summarize(table))


def test_panels_share_their_axes():
    fig = plot_dose_responses(several())
    assert fig.layout.yaxis2.matches == "y"
    assert fig.layout.xaxis2.matches == "x"


def test_the_legend_names_each_kind_once_and_no_behavior():
    fig = plot_dose_responses(several())
    shown = [one.name for one in fig.data if one.showlegend is not False]
    assert shown == [
        "2 random vectors of the same norm",
        "1 orthogonal vector of the same norm",
        "2 shuffled vectors of the same norm",
    ]


def test_another_behavior_s_vector_is_a_line_with_its_name():
    slopes = {"optimism": 4, "refusal": 1}
    parts = [slopes_table(slopes, "optimism"), slopes_table(slopes, "refusal"), slopes_table(slopes, "mine")]
    fig = plot_dose_responses(pd.concat(parts, ignore_index=True))
    assert [(one.xaxis, one.name) for one in fig.data if one.showlegend] == [("x", "refusal"), ("x2", "optimism")]
    assert len(fig.data) == 6


def test_figures_name_units_n_intervals_and_kind():
    text = plot_dose_responses(several(n=(4, 6))).layout
    assert "mean over 4 to 6 held-out pairs of each behavior, 95 % interval" in text.title.text
    shown = [one.text for one in text.annotations]
    assert "multiplier (of the raw vector)" in shown
    assert "change in log-probability difference<br>(nats per token)" in shown
    joint = caa.summarize(several(), simultaneous=True, confidence=0.9)
    assert "90 % simultaneous interval" in plot_dose_responses(joint).layout.title.text
    one = joint[joint["behavior"] == "optimism"]
    assert "layer 3, mean over 4 pairs, 90 % simultaneous interval" in plot_dose_response(one).layout.title.text
    probability = plot_dose_responses(several(), measure="p_positive").layout
    assert "change in p(positive answer)" in [one.text for one in probability.annotations]


@pytest.mark.parametrize("n", [1, 2, 5, 8, 9])
def test_any_number_of_behaviors_has_room(n):
    names = [f"b{number}" for number in range(n)]
    fig = plot_dose_responses(several(names, [3] * n, [3] * n))
    assert len({(one.xaxis, one.yaxis) for one in fig.data}) == n


def test_tables_that_are_no_dose_response():
    with pytest.raises(caa.InputError, match=r"columns \['behavior'\] are missing; give the result of caa_interp.dose"):
        plot_dose_responses(slopes_table({"v": 1}))
    both = pd.concat([several(), several(layers=(4, 6))], ignore_index=True)
    with pytest.raises(
        caa.InputError, match=r"it holds several, with layer \[.*\]\. Give the rows of one layer for each behavior"
    ):
        plot_dose_responses(both)
    with pytest.raises(caa.InputError, match=r"with behavior \['optimism', 'mine <b>'\].*use plot_dose_responses"):
        plot_dose_response(several(layers=(3, 3)))
    with pytest.raises(caa.InputError, match="measure: 'logits' is not one of"):
        plot_dose_responses(several(), measure="logits")


def test_the_figure_of_a_real_table_is_the_same_each_time_and_leaves_it_alone(table):
    before = table.copy(deep=True)
    assert plot_dose_responses(table).to_json() == plot_dose_responses(table).to_json()
    pd.testing.assert_frame_equal(table, before)
