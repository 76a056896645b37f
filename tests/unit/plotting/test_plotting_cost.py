"""Figures of costs and side effects show the numbers of their tables, at their places."""

import re

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa


def costs(measure: str, vectors=("optimism", "random 0"), layers=(3,)) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = [
        {"item": item, "vector": vector, "layer": layer, "multiplier": m, measure: item + m * m + generator.random()}
        for item in range(6)
        for vector in vectors
        for layer in layers
        for m in (-2.0, 0.0, 2.0)
    ]
    return pd.DataFrame(rows)


def test_each_measure_has_a_panel_with_paired_changes():
    prose, moved = costs("nats_per_token"), costs("divergence")
    right = costs("correct").assign(correct=lambda table: table["correct"] > 5)
    fig = caa.plot_cost(prose, moved, right)
    assert len(fig.data) == 3 * 2
    titles = [one.text for one in fig.layout.annotations]
    assert titles[0].startswith("change in loss")
    assert titles[1].startswith("divergence")
    assert titles[2].startswith("change in share of right answers<br>(1: all)")
    assert all("n = 6<" in title for title in titles[:3])
    summary = caa.summarize(prose)
    ours = summary[summary["vector"] == "optimism"].sort_values("multiplier")
    line = fig.data[0]
    np.testing.assert_allclose(line.y, ours["nats_per_token_change"])
    np.testing.assert_allclose(line.y + line.error_y.array, ours["nats_per_token_change_high"])
    np.testing.assert_allclose(line.y - line.error_y.arrayminus, ours["nats_per_token_change_low"])
    # A divergence is a distance from the unsteered model by itself.
    moved = caa.summarize(moved)
    np.testing.assert_allclose(fig.data[2].y, moved[moved["vector"] == "optimism"]["divergence"])
    assert {trace.marker.symbol for trace in fig.data[:2]} == {fig.data[0].marker.symbol, fig.data[1].marker.symbol}
    assert fig.data[0].marker.symbol != fig.data[1].marker.symbol


def test_the_worst_tokens_have_a_panel_of_their_own():
    moved = costs("divergence").assign(divergence_tail=lambda table: 3 * table["divergence"])
    fig = caa.plot_cost(costs("nats_per_token"), moved, costs("correct").assign(correct=1.0))
    titles = [one.text for one in fig.layout.annotations]
    assert titles[2].startswith("divergence at the worst 5 % of tokens")
    mean, tail = (fig.data[number].y for number in (2, 4))
    np.testing.assert_allclose(tail, 3 * np.asarray(mean))
    assert fig.data[4].yaxis == "y3"
    assert fig.layout.yaxis3.rangemode == "tozero"


def test_controls_are_a_gray_band_from_the_lowest_to_the_highest():
    table = costs("divergence", ("optimism", "random 0", "random 1"))
    table["kind"] = np.where(table["vector"] == "optimism", "vector", "random")
    band, line = caa.plot_cost(table).data
    means = table[table["kind"] == "random"].groupby(["multiplier", "vector"])["divergence"].mean().unstack()
    assert band.name == "2 random vectors of the same norm"
    np.testing.assert_allclose(band.y, [*means.max(axis=1), *means.min(axis=1)[::-1]])
    assert line.name == "optimism"


def test_lines_of_one_vector_are_named_by_what_tells_them_apart():
    table = costs("divergence", ("optimism",)).assign(operator="add")
    other = table.assign(operator="ablate", divergence=table["divergence"] + 1)
    first, second = caa.plot_cost(pd.concat([table, other])).data
    assert (first.name, second.name) == ("optimism, add", "optimism, ablate")
    np.testing.assert_allclose(np.array(second.y) - first.y, 1)


def test_controls_of_two_behaviors_are_counted_apart():
    table = costs("divergence", ("optimism", "random 0", "random 1"))
    table["kind"] = np.where(table["vector"] == "optimism", "vector", "random")
    both = [table.assign(behavior=name, vector=table["vector"].replace("optimism", name)) for name in ("a", "b")]
    band, *lines = caa.plot_cost(pd.concat(both)).data
    assert band.name == "4 random vectors of the same norm"
    assert "of n = %{customdata[2]} random controls" in band.hovertemplate
    assert {at for _, _, at in band.customdata} == {4}
    assert [one.name for one in lines] == ["a", "b"]


def test_a_measure_without_the_layer_has_no_panel():
    fig = caa.plot_cost(costs("nats_per_token"), costs("divergence", layers=(5,)), layer=3)
    assert [one.text.split("<br>")[0] for one in fig.layout.annotations] == ["change in loss on neutral prose"]


def test_without_multiplier_zero_the_values_themselves_are_shown():
    table = costs("nats_per_token").query("multiplier != 0")
    fig = caa.plot_cost(table)
    assert fig.layout.annotations[0].text.startswith("loss")
    mean = table[(table["vector"] == "optimism") & (table["multiplier"] == 2)]["nats_per_token"].mean()
    assert fig.data[0].y[-1] == pytest.approx(mean)


def test_a_layer_is_chosen():
    table = costs("divergence", layers=(3, 5))
    with pytest.raises(caa.InputError, match="layer: the table holds layers 3 to 5; name the one to show"):
        caa.plot_cost(table)
    with pytest.raises(caa.InputError, match=r"layer: 4 is not in the table; it holds \[3, 5\]"):
        caa.plot_cost(table, layer=4)
    assert "layer 5" in caa.plot_cost(table, layer=5).layout.title.text


def test_tables_without_costs_are_refused():
    with pytest.raises(caa.InputError, match="tables: none was given"):
        caa.plot_cost()
    with pytest.raises(caa.InputError, match="table: it has none of the columns"):
        caa.plot_cost(costs("something"))
    with pytest.raises(caa.InputError, match=r"columns .*multiplier.* missing"):
        caa.plot_cost(pd.DataFrame({"vector": ["v"], "layer": [1]}))


def effects() -> pd.DataFrame:
    """Slopes of vectors "a" and "b" on behaviors "b" and "a"; one is missing."""
    rows = [("b", "a", 0.2, 0.1, 0.3), ("a", "a", 0.5, 0.4, 0.6), ("a", "b", -0.05, -0.2, 0.1)]
    table = pd.DataFrame(rows, columns=["behavior", "vector", "slope", "slope_low", "slope_high"])
    return table.assign(layer=4, n=12, format="text", confidence=0.9)


def test_the_matrix_of_side_effects():
    fig = caa.plotting.plot_side_effects(effects())
    heatmap, crosses = fig.data
    assert list(heatmap.y) == list(heatmap.x) == ["a", "b"]
    np.testing.assert_allclose(heatmap.z, [[0.5, 0.2], [-0.05, np.nan]])
    # An interval that includes zero is in parentheses, and what was not measured is crossed out.
    shown = [[re.sub("<[^>]*>", "", text) for text in row] for row in heatmap.text]
    assert shown == [["+0.50", "+0.20"], ["(\N{MINUS SIGN}0.05)", ""]]
    assert (list(crosses.x), list(crosses.y)) == (["b"], ["b"])
    assert "crosses: 1 not measured" in fig.layout.title.text
    assert (
        heatmap.customdata[1][0]
        == "\N{MINUS SIGN}0.050 (\N{MINUS SIGN}0.200 to +0.100) nats per token per multiplier, n = 12"
    )
    assert -heatmap.zmin == heatmap.zmax == 0.5
    assert "n = 12 pairs" in fig.layout.title.text
    assert "90 % interval" in fig.layout.title.text
    assert "nats per token" in heatmap.colorbar.title.text


def test_layers_of_their_own_are_told():
    table = effects().assign(layer=[4, 4, 7])
    assert list(caa.plotting.plot_side_effects(table).data[0].y) == ["a (layer 4)", "b (layer 7)"]


def test_a_table_of_something_else_is_refused():
    with pytest.raises(caa.InputError, match=r"columns .*behavior.* missing"):
        caa.plotting.plot_side_effects(effects().drop(columns="behavior"))


def test_in_narrow_cells_a_number_loses_the_zero_before_its_point_and_no_other():
    names = "abcdefg"
    rows = [(one, other, 10.3 if one == other else -0.2) for one in names for other in names]
    table = pd.DataFrame(rows, columns=["behavior", "vector", "slope"]).assign(layer=4, n=12, format="text")
    table = table.assign(slope_low=table["slope"] - 1, slope_high=table["slope"] + 1)
    text = caa.plotting.plot_side_effects(table).data[0].text
    shown = {re.sub("<[^>]*>", "", one) for row in text for one in row}
    assert shown == {"+10.3", "(\N{MINUS SIGN}.2)"}


def test_without_multiplier_0_of_the_vector_itself_its_cost_is_shown():
    own, control = costs("nats_per_token", ("optimism",)), costs("nats_per_token", ("random 0",))
    table = pd.concat([own[own["multiplier"] > 0].assign(kind="vector"), control.assign(kind="random")])
    fig = caa.plot_cost(table)
    assert fig.layout.annotations[0].text.startswith("loss")
    assert fig.data[-1].y[0] == pytest.approx(own.query("multiplier == 2")["nats_per_token"].mean())
