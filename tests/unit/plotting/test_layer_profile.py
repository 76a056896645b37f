"""The layer profile draws every slope at its layer, with its interval, its controls and the marked layer."""

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.plotting import theme

LAYERS = (3, 1, 2)


def effects(*behaviors, column="behavior", controls=("random",)):
    """Slopes ``layer + place of the behavior``, 0.1 below and 0.2 above; controls -1 and 0.5 at every layer."""
    rows = [
        {"behavior": name, "vector": vector, "kind": kind, "layer": layer, "slope": slope(layer)}
        for place, name in enumerate(behaviors)
        for layer in LAYERS
        for vector, kind, slope in (
            (name, "vector", lambda layer, place=place: layer + place),
            *((f"{kind} 0", kind, lambda _: -1) for kind in controls),
            *((f"{kind} 1", kind, lambda _: 0.5) for kind in controls),
        )
    ]
    table = pd.DataFrame(rows)
    table = table.assign(slope_low=table["slope"] - 0.1, slope_high=table["slope"] + 0.2, n=6, format="text")
    return table if column == "behavior" else table.drop(columns="behavior").drop_duplicates(["vector", "layer"])


def lines(fig):
    return {one.name: one for one in fig.data if one.mode == "lines+markers"}


@pytest.mark.parametrize("column", ["behavior", "vector"])
def test_lines_intervals_and_controls(column):
    fig = caa.plotting.plot_layer_profile(effects("a", "<b>", column=column))
    drawn = lines(fig)
    assert list(drawn) == ["a", "&lt;b&gt;"]
    for place, one in enumerate(drawn.values()):
        assert (list(one.x), list(one.y)) == ([1, 2, 3], [1 + place, 2 + place, 3 + place])
    controls, *bands = [one for one in fig.data if one.fill == "toself"]
    assert list(controls.y) == [0.5] * 3 + [-1] * 3
    n = 4 if column == "behavior" else 2  # of two behaviors there are two by each name
    assert controls.name == f"{n} random vectors of the same norm"
    np.testing.assert_allclose(bands[0].y, [1.2, 2.2, 3.2, 2.9, 1.9, 0.9])
    assert "6 pairs; colored bands: 95 % interval, each layer by itself" in fig.layout.title.text
    assert "nats per token per multiplier" in fig.layout.annotations[1].text


@pytest.mark.parametrize(("chosen", "layer", "word"), [(None, 3, "steepest"), ({"a": 2}, 2, "chosen")])
def test_the_marked_layer(chosen, layer, word):
    fig = caa.plotting.plot_layer_profile(effects("a"), chosen=chosen)
    line = lines(fig)["a"]
    largest = max(line.marker.size)
    assert [x for x, size in zip(line.x, line.marker.size, strict=True) if size == largest] == [layer]
    assert fig.data[-1].name == f"{word} layer"
    assert f"large mark: {word} layer" in fig.layout.title.text


def test_more_than_four_behaviors_have_a_panel_each_beside_their_own_controls():
    table = effects(*"abcde", controls=("random", "shuffled"))
    table.loc[(table["behavior"] == "c") & (table["vector"] == "random 0"), "slope"] = -9
    fig = caa.plotting.plot_layer_profile(table)
    drawn = lines(fig)
    assert len({one.xaxis for one in drawn.values()}) == 5
    bands = [one for one in fig.data if (one.name or "").startswith("2 random")]
    assert [min(one.y) for one in bands] == [-1, -1, -9, -1, -1]
    named = [one.name for one in fig.data if one.name and one.showlegend is not False]
    assert named == ["2 random vectors of the same norm", "2 shuffled vectors of the same norm", "steepest layer"]


def test_validation_pairs_are_a_thin_line_of_the_same_color():
    validation = effects("a", "b").assign(slope=lambda rows: rows["slope"] - 1, n=9)
    fig = caa.plotting.plot_layer_profile(effects("a", "b"), validation=validation, chosen={"a": 2, "b": 2})
    thin = [one for one in fig.data if one.mode == "lines" and one.fill is None]
    assert [list(one.y) for one in thin] == [[0, 1, 2], [1, 2, 3]]
    assert [one.line.color for one in thin] == [one.line.color for one in lines(fig).values()]
    assert "thin line: 9 validation pairs" in fig.layout.title.text.replace(theme.SOFT, " ")
    assert thin[0].customdata[0].startswith("layer 1, validation pairs: +0.000")


@pytest.mark.parametrize("names", ["ab", "abcde"])
def test_a_behavior_without_validation_pairs_has_no_thin_line(names):
    fig = caa.plotting.plot_layer_profile(effects(*names), validation=effects("b", "other").assign(n=9))
    (thin,) = [one for one in fig.data if one.mode == "lines" and one.fill is None]
    assert thin.line.color == lines(fig)["b"].line.color
    assert "thin line: 9 validation pairs" in fig.layout.title.text.replace(theme.SOFT, " ")


def test_layers_are_whole_numbers_where_a_missing_one_made_them_floats():
    table = effects("a").astype({"layer": float})
    fig = caa.plotting.plot_layer_profile(table, validation=table)
    (thin,) = [one for one in fig.data if one.mode == "lines" and one.fill is None]
    assert [text.split(",")[0] for text in thin.customdata] == ["layer 1", "layer 2", "layer 3"]


def test_controls_at_the_chosen_layers_alone_are_bars_there():
    table = effects("a", "b")
    is_control = table["kind"] != "vector"
    table = table[~is_control | (table["layer"] == table["behavior"].map({"a": 1, "b": 3}))]
    fig = caa.plotting.plot_layer_profile(table, chosen={"a": 1, "b": 3})
    bars = [one for one in fig.data if (one.name or "").startswith("2 random")]
    assert [sorted(set(one.x)) for one in bars] == [[0.7, 1.3], [2.7, 3.3]]
    assert [sorted(set(one.y)) for one in bars] == [[-1, 0.5]] * 2
    assert [{layer for layer, *_ in one.customdata} for one in bars] == [{"1"}, {"3"}]


def test_hovering_over_controls_tells_how_many_there_are_at_the_layer():
    table = effects("a")
    fig = caa.plotting.plot_layer_profile(table[(table["vector"] != "random 1") | (table["layer"] == 3)])
    (band,) = [one for one in fig.data if (one.name or "").startswith("2 random")]
    told = {(layer, n) for layer, _, n in band.customdata}
    assert told == {("1", 1), ("2", 1), ("3", 2)}


def test_a_missing_slope_is_a_gap():
    table = effects("a")
    table.loc[(table["layer"] == 2) & (table["vector"] == "a"), ["slope", "slope_low", "slope_high"]] = np.nan
    line = lines(caa.plotting.plot_layer_profile(table))["a"]
    np.testing.assert_array_equal(line.y, [1, np.nan, 3])
    assert not line.connectgaps


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            effects("a")[lambda t: t["kind"] == "random"],
            {},
            "table: it holds controls alone; give the rows of a steering",
        ),
        (effects("a").drop(columns="slope"), {}, r"columns \['slope'\] are missing; give the result of caa_interp.st"),
        (pd.concat([effects("a")] * 2), {}, "twice"),
        (effects("a", "b"), {"chosen": {"a": 1}}, r"chosen: there is no layer for 'b'. Give one for each of \['a', 'b"),
        (
            effects("a"),
            {"validation": effects("a")[lambda t: t["kind"] == "random"]},
            "validation: it holds controls alone; give the rows of a steering vector",
        ),
        (
            effects("a"),
            {"validation": effects("a").drop(columns="behavior")},
            r"validation: columns \['behavior'\] are missing; give the result of caa_interp.steerability",
        ),
        (
            effects("a"),
            {"validation": effects("b")},
            r"validation: it is of \['b'\], the table of \['a'\]; give that of one of these.",
        ),
    ],
    ids=["controls", "column", "twice", "chosen", "validation", "validation column", "validation names"],
)
def test_what_is_refused(table, options, message):
    with pytest.raises(caa.InputError, match=message):
        caa.plotting.plot_layer_profile(table, **options)
