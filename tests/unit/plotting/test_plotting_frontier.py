"""The figure of effect over cost shows the numbers of its table, at their places."""

import math

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa


def rows(vector="optimism", kind="vector", gain=1.0, price=0.1, multipliers=(-1.0, 0.0, 2.0), **more) -> pd.DataFrame:
    table = pd.DataFrame({"multiplier": multipliers}).assign(vector=vector, kind=kind, layer=3, operator="add")
    table["effect"], table["cost"] = gain * table["multiplier"], price * table["multiplier"] ** 2
    for name, reach in (("effect", 0.2), ("cost", 0.05)):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - reach, table[name] + reach
    table = table.assign(n=12, n_cost=6, dominated=False, measure="logit_difference", cost_measure="divergence")
    return table.assign(cost_unit="nats per token", confidence=0.9, format="text", **more)


def test_points_stand_at_the_root_of_their_cost():
    own = rows().sample(frac=1, random_state=0)
    fig = caa.plotting.plot_frontier(pd.concat([own, rows("random 0", "random", gain=0.0)], ignore_index=True))
    _, control, line, legend = fig.data
    np.testing.assert_allclose(line.x, np.sqrt([0.1, 0.0, 0.4]))
    np.testing.assert_allclose(line.y, [-1.0, 0.0, 2.0])
    np.testing.assert_allclose(line.y + line.error_y.array, [-0.8, 0.2, 2.2])
    np.testing.assert_allclose((line.x + line.error_x.array) ** 2, [0.15, 0.05, 0.45])
    np.testing.assert_allclose((line.x - line.error_x.arrayminus) ** 2, [0.05, 0.0, 0.35])
    assert [*line.text] == ["\N{MINUS SIGN}1", "", "2"]
    assert legend.name == "optimism"
    # A random vector has no effect at any cost.
    assert [*control.y] == [0.0, 0.0, 0.0]
    assert max(control.x) > 0
    assert control.error_y.array is None
    assert control.marker.color == "#6B7280"
    assert "12 scored items, cost over n = 6 texts, 90 % interval" in fig.layout.title.text
    for at, text in zip(fig.layout.xaxis.tickvals, fig.layout.xaxis.ticktext, strict=True):
        assert at == pytest.approx(math.sqrt(float(text)))


def test_the_band_is_what_controls_reach_at_a_cost():
    """Planted: one control moves the score by the root of its cost, another not at all, but for less cost."""
    far = rows("random 0", "random", gain=1.0, price=1.0, multipliers=(-2.0, 0.0, 2.0))
    near = rows("random 1", "random", gain=0.0, price=1.0, multipliers=(-1.0, 0.0, 1.0))
    fig = caa.plotting.plot_frontier(pd.concat([far, near, rows()], ignore_index=True))
    band = fig.data[0]
    assert band.fill == "toself"
    half = len(band.x) // 2
    root = np.asarray(band.x[:half], float)
    np.testing.assert_allclose(root[[0, -1]], [0, 2])  # 0 to the most that any of them costs
    np.testing.assert_allclose(band.y[:half], root, atol=1e-12)  # with a positive multiplier
    np.testing.assert_allclose(band.y[half:][::-1], -root, atol=1e-12)  # with a negative one
    assert "2 random vectors of the same norm, and their range" in fig.layout.title.text
    # A control that does nothing is no band but a line.
    fig = caa.plotting.plot_frontier(pd.concat([near, rows()], ignore_index=True))
    assert set(fig.data[0].y) == {0.0}


def test_what_is_dominated_is_hollow():
    table = rows().assign(dominated=[True, False, False])
    fig = caa.plotting.plot_frontier(table)
    assert [one.endswith("-open") for one in fig.data[0].marker.symbol] == [True, False, False]
    assert "hollow" in fig.layout.title.text
    assert "hollow" not in caa.plotting.plot_frontier(rows()).layout.title.text


def test_single_points_have_names_and_paths_what_tells_them_apart():
    prompt = rows(multipliers=(0.0,), baseline="positive system prompt").assign(effect=1.5)
    table = pd.concat(
        [rows(baseline="none"), rows(baseline="none", price=0.2).assign(layer=5), prompt], ignore_index=True
    )
    fig = caa.plotting.plot_frontier(table)
    first, second, point, *legend = fig.data
    assert [one.name for one in (first, second)] == ["optimism, layer 3", "optimism, layer 5"]
    assert point.mode == "markers+text"
    assert [*point.text] == ["positive system prompt"]
    assert [one.name for one in legend] == [first.name, second.name]


def test_paths_stay_apart_in_a_table_whose_index_repeats():
    table = pd.concat([rows(), rows("refusal", gain=3.0), rows("random 0", "random", gain=0.0)])
    first, second = [one for one in caa.plotting.plot_frontier(table).data if one.mode == "lines+markers+text"]
    assert (first.name, [*first.y]) == ("optimism", [-1.0, 0.0, 2.0])
    assert (second.name, [*second.y]) == ("refusal", [-3.0, 0.0, 6.0])


def test_the_first_layer_is_named_like_any_other():
    table = pd.concat([rows().assign(layer=0), rows(price=0.2).assign(layer=5)], ignore_index=True)
    first, second, *_ = caa.plotting.plot_frontier(table).data
    assert [one.name for one in (first, second)] == ["optimism, layer 0", "optimism, layer 5"]


def test_behaviors_have_panels_of_their_own():
    table = pd.concat([rows(behavior="optimism"), rows("refusal", gain=2.0, behavior="refusal")], ignore_index=True)
    fig = caa.plotting.plot_frontier(table)
    assert [(one.name, one.xaxis) for one in fig.data[:2]] == [("optimism", "x"), ("refusal", "x2")]
    assert [one.text for one in fig.layout.annotations] == ["optimism", "refusal"]


def test_a_prompt_stands_once_in_the_panel_of_each_behavior_whatever_vectors_its_rows_name():
    prompts = [
        rows(vector, multipliers=(0.0,), baseline="few-shot", behavior=behavior).assign(effect=effect)
        for behavior, vector, effect in (
            ("optimism", "optimism", 1.5),
            ("optimism", "refusal", 1.5),
            ("refusal", "refusal", 0.5),
        )
    ]
    own = [rows(name, baseline="none", behavior=name) for name in ("optimism", "refusal")]
    fig = caa.plotting.plot_frontier(pd.concat([*own, *prompts], ignore_index=True))
    points = [(one.xaxis, [*one.y], one.mode) for one in fig.data if one.name == "few-shot"]
    assert points == [("x", [1.5], "markers+text"), ("x2", [0.5], "markers+text")]


def nothing(**more):
    """The unsteered row of a table of conditions, with no effect and no cost."""
    return rows("", "unsteered", multipliers=(0.0,), **more).assign(layer=np.nan, operator="", effect=0.0, cost=0.0)


@pytest.mark.parametrize("measured", [True, False])
def test_a_path_without_multiplier_0_begins_at_no_steering(measured):
    steered = [
        rows(name, kind, multipliers=(-1.0, 2.0)) for name, kind in (("a", "vector"), ("b", "vector"), ("r", "random"))
    ]
    before = caa.plotting.plot_frontier(pd.concat([rows("a"), rows("b"), rows("r", "random")]))
    fig = caa.plotting.plot_frontier(pd.concat([*([nothing()] * measured), *steered]))
    first, second = (
        [(one.name, one.text, one.x, one.y) for one in each.data if one.x[0] is not None] for each in (fig, before)
    )
    assert len(first) == len(second) == 4  # two vectors, a control and its band
    for (name, text, *places), (expected_name, expected_text, *expected) in zip(first, second, strict=True):
        assert (name, text) == (expected_name, expected_text)
        np.testing.assert_allclose(np.array(places, float), np.array(expected, float))


def test_a_path_on_a_prompt_begins_at_the_prompt_alone():
    prompt = nothing(baseline="prompt").assign(effect=1.5, cost=0.3)
    other = nothing(baseline="few-shot").assign(effect=0.5, cost=0.2)  # on which nothing was steered
    steered = [rows(multipliers=(-1.0, 2.0), baseline=name) for name in ("none", "prompt")]
    fig = caa.plotting.plot_frontier(pd.concat([nothing(baseline="none"), prompt, other, *steered]))
    drawn = {one.name: (list(one.y), list(one.text)) for one in fig.data if one.x[0] is not None}
    minus = "\N{MINUS SIGN}1"
    assert drawn == {
        "optimism": ([-1.0, 0.0, 2.0], [minus, "", "2"]),
        "prompt, with optimism": ([-1.0, 1.5, 2.0], [minus, "", "2"]),
        "few-shot": ([0.5], ["few-shot"]),
    }


def test_several_interventions_stay_points_of_their_own():
    both = rows("both", multipliers=(1.0,), gain=3.0).assign(operator="add + Cap(1)")
    fig = caa.plotting.plot_frontier(pd.concat([nothing(), rows(multipliers=(2.0,)), both]))
    assert {one.name: list(one.y) for one in fig.data if one.x[0] is not None} == {
        "optimism": [0.0, 2.0],
        "both": [3.0],
    }


def test_another_table_is_refused():
    with pytest.raises(
        caa.InputError, match=r"columns .*dominated.* missing; give the result of caa_interp.evaluation"
    ):
        caa.plotting.plot_frontier(rows().drop(columns="dominated"))
