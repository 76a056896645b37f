"""Cosines are those of the definition, chance is what random directions show, figures show the table's numbers."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.plotting.theme import DIVERGING

COLUMNS = ["first", "first_layer", "second", "second_layer", "cosine", "chance", "first_model", "second_model"]


def vector(seed=0, layers=(1, 4, 7), width=16, **metadata):
    values = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(values, tuple(layers), {"model": "m", **metadata})


def cosine(one, other):
    """Cosine by its definition, one product at a time."""
    product = math.fsum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))
    norms = [math.sqrt(math.fsum(a * a for a in each.tolist())) for each in (one, other)]
    return product / norms[0] / norms[1]


def assert_definition(table, vectors):
    for row in table.itertuples():
        expected = cosine(vectors[row.first].at(row.first_layer), vectors[row.second].at(row.second_layer))
        assert row.cosine == pytest.approx(expected, abs=1e-12)


# Cosines


def test_cosines_worked_out_by_hand():
    values = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, -2.0]])
    table = caa.cosine_similarity(caa.SteeringVector(values, (7, 8, 9), {"behavior": "refusal"}))
    assert list(table.columns) == COLUMNS
    assert table["first"].tolist() == table["second"].tolist() == ["refusal"] * 9
    assert table["first_layer"].tolist() == [7, 7, 7, 8, 8, 8, 9, 9, 9]
    assert table["second_layer"].tolist() == [7, 8, 9] * 3
    np.testing.assert_allclose(table["cosine"], [1, 0.6, 0, 0.6, 1, -0.8, 0, -0.8, 1], atol=1e-15)
    assert not table.attrs


def test_several_vectors_are_compared_at_every_layer():
    vectors = {name: vector(seed) for seed, name in enumerate(("b", "a", "c"))}
    table = caa.cosine_similarity(vectors)
    assert len(table) == 3 * 9
    assert table["first"].tolist() == ["b", "b", "b", "a", "a", "a", "c", "c", "c"] * 3
    assert table["second"].tolist() == ["b", "a", "c"] * 9
    assert table["first_layer"].tolist() == table["second_layer"].tolist() == [1] * 9 + [4] * 9 + [7] * 9
    assert_definition(table, vectors)
    assert table["cosine"].abs().min() < 0.2


def test_layers_of_several_vectors_are_compared_within_each():
    vectors = {"wide": vector(0, width=32), "narrow": vector(1, layers=(0, 2))}
    table = caa.cosine_similarity(vectors, between="layers")
    assert (table["first"] == table["second"]).all()
    assert table.groupby("first", sort=False).size().to_dict() == {"wide": 9, "narrow": 4}
    assert table.groupby("first")["chance"].first()["wide"] < table.groupby("first")["chance"].first()["narrow"]
    assert_definition(table, vectors)


def test_chosen_layers_in_the_order_given():
    table = caa.cosine_similarity(vector(), layers=[7, 1])
    assert table["first_layer"].tolist() == [7, 7, 1, 1]
    assert caa.cosine_similarity({"a": vector(0), "b": vector(1)}, layers=4)["first_layer"].tolist() == [4] * 4


def test_a_vector_without_a_name_is_called_vector():
    assert caa.cosine_similarity(vector())["first"].unique().tolist() == ["vector"]


def test_models_that_vectors_were_made_from_are_named():
    table = caa.cosine_similarity({"base": vector(model="base-m"), "chat": vector(1, model=None)}, layers=4)
    models = table[["first", "first_model", "second_model"]].fillna("").to_numpy().tolist()
    assert models == [
        ["base", "base-m", "base-m"],
        ["base", "base-m", ""],
        ["chat", "", "base-m"],
        ["chat", "", ""],
    ]


def test_length_does_not_matter_and_the_sign_does():
    one, other = vector(0), vector(1)
    table = caa.cosine_similarity({"a": one, "b": 2.0**-100 * other, "-b": -(2.0**100) * other})
    wide = table.pivot(index=["first", "first_layer"], columns="second", values="cosine")
    np.testing.assert_allclose(wide["b"], -wide["-b"], atol=1e-12)
    assert_definition(table[table["second"] == "a"], {"a": one, "b": other, "-b": -other})


def test_squares_that_would_vanish_or_overflow():
    values = torch.tensor([[3e-200, 4e-200], [3e200, 4e200], [-4e-200, 3e-200]], dtype=torch.float64)
    table = caa.cosine_similarity(caa.SteeringVector(values, (0, 1, 2)))
    np.testing.assert_allclose(table["cosine"], [1, 1, 0, 1, 1, 0, 0, 0, 1], atol=1e-15)


def test_float32_is_not_rounded_further():
    """A cosine so near 1 that float32 cannot tell it from 1."""
    values = torch.tensor([[1.0, 0.0], [1.0, 1e-5]])
    found = caa.cosine_similarity(caa.SteeringVector(values, (0, 1)))["cosine"][1]
    assert 1 - found == pytest.approx(5e-11, rel=1e-3)


def test_cosines_never_leave_their_range():
    table = caa.cosine_similarity({str(seed): vector(seed % 3, width=7) * (seed - 4.3) for seed in range(9)})
    assert table["cosine"].between(-1, 1).all()


def test_a_zero_vector_has_no_cosine():
    values = vector().values.clone()
    values[1] = 0
    table = caa.cosine_similarity(caa.SteeringVector(values, (1, 4, 7)))
    of_zero = (table["first_layer"] == 4) | (table["second_layer"] == 4)
    assert table["cosine"].isna().tolist() == of_zero.tolist()


# Chance


@pytest.mark.parametrize("width", [2, 16, 300])
def test_chance_is_what_random_directions_show(width):
    generator = np.random.default_rng(width)
    one, other = generator.standard_normal((2, 40_000 if width < 300 else 10_000, width))
    found = np.einsum("nd,nd->n", one, other) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    chance = caa.cosine_similarity(vector(width=width))["chance"]
    assert chance.nunique() == 1
    assert np.mean(np.abs(found) <= chance[0]) == pytest.approx(0.95, abs=0.006)


def test_chance_where_it_can_be_worked_out():
    """The angle is uniform in two dimensions, the cosine in three; in one dimension it is always 1 or -1."""
    chance = {width: caa.cosine_similarity(vector(width=width))["chance"][0] for width in (1, 2, 3)}
    assert chance == pytest.approx({1: 1.0, 2: math.cos(math.pi / 40), 3: 0.95}, abs=1e-12)


def test_chance_of_a_real_width():
    """Nearly 1.96 / sqrt(d) in many dimensions."""
    assert caa.cosine_similarity(vector(width=4096))["chance"][0] == pytest.approx(1.959964 / 64, rel=1e-3)


# Layers


def test_layers_that_all_vectors_have_are_taken():
    vectors = {"base": vector(0, layers=(0, 4, 1, 7)), "chat": vector(1, layers=(1, 3, 4))}
    table = caa.cosine_similarity(vectors)
    assert table["first_layer"].unique().tolist() == [4, 1]
    assert_definition(table, vectors)


def test_a_layer_that_is_asked_for_must_be_there():
    vectors = {"base": vector(0), "chat": vector(1, layers=(1, 4))}
    with pytest.raises(caa.InputError, match=r"layer 7: the vector 'chat' has layers 1 to 4 .*namely \[1, 4\]"):
        caa.cosine_similarity(vectors, layers=[1, 7])
    with pytest.raises(caa.InputError, match="layer 2: the vector 'vector' has layers 1 to 7"):
        caa.cosine_similarity(vector(), layers=2)
    assert set(caa.cosine_similarity(vectors, layers=[1])["first_layer"]) == {1}


# What is refused


def test_vectors_of_different_width():
    with pytest.raises(
        caa.errors.VectorMismatchError,
        match=r"widths differ .*'a': 16, 'b': 8.*so they cannot be compared.*Give vectors of one width",
    ):
        caa.cosine_similarity({"a": vector(), "b": vector(width=8)})


def test_vectors_without_a_common_layer():
    with pytest.raises(caa.errors.VectorMismatchError, match=r"none that all have .*'a': \[1\]; the vector 'b': \[2\]"):
        caa.cosine_similarity({"a": vector(layers=(1,)), "b": vector(layers=(2,))})


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({}, {}, "vectors: the mapping is empty; give at least one vector"),
        ([vector()], {}, "vectors: list; several vectors have names: give a mapping"),
        ({"a": torch.ones(2, 3)}, {}, r"vectors\['a'\]: Tensor; it must be one SteeringVector"),
        (vector(), {"between": "models"}, "between: 'models' is not one of 'layers', 'vectors'"),
        ({"a": vector()}, {"between": "vectors"}, "between: 'vectors' with 'a' alone; give at least two vectors"),
        (vector(), {"layers": []}, "layers: the list is empty"),
    ],
)
def test_what_cannot_be_compared(given, options, message):
    with pytest.raises(caa.InputError, match=message):
        caa.cosine_similarity(given, **options)


# Figures


def shuffled(table):
    return table.sample(frac=1, random_state=0)


def sign_of_text(text):
    return "bold" if "<b>" in text else "gray" if text else ""


def test_one_vector_is_a_map_of_its_layers_in_their_order():
    table = caa.cosine_similarity(vector(layers=(10, 2, 7), behavior="refusal"))
    (heatmap,) = caa.plot_cosine_similarity(shuffled(table)).data
    assert list(heatmap.x) == list(heatmap.y) == ["2", "7", "10"]
    expected = table.pivot(index="first_layer", columns="second_layer", values="cosine")
    np.testing.assert_array_equal(heatmap.z, expected)
    fig = caa.plot_cosine_similarity(table)
    assert fig.layout.title.text.startswith("refusal: cosine similarity between layers<br>")
    assert fig.layout.xaxis.title.text == fig.layout.yaxis.title.text == "layer (block index)"
    assert fig.layout.xaxis.type == "category"
    assert not fig.layout.sliders


def test_maps_have_a_scale_from_minus_1_to_1_and_say_what_chance_is():
    table = caa.cosine_similarity(vector(width=576))
    fig = caa.plot_cosine_similarity(table)
    (heatmap,) = fig.data
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    assert [list(stop) for stop in heatmap.colorscale] == DIVERGING
    assert heatmap.colorbar.title.text == "cosine<br>similarity<br>\u00a0"
    assert "95 % of pairs of random directions lie within ±0.082" in fig.layout.title.text


def test_several_vectors_are_maps_with_a_slider_from_the_middle_layer():
    vectors = {name: vector(seed, layers=(2, 5, 9, 10)) for seed, name in enumerate(("b", "a", "c"))}
    table = caa.cosine_similarity(vectors)
    fig = caa.plot_cosine_similarity(table)
    assert [heatmap.visible for heatmap in fig.data] == [False, False, True, False]
    for heatmap, layer in zip(fig.data, (2, 5, 9, 10), strict=True):
        assert list(heatmap.x) == list(heatmap.y) == ["b", "a", "c"]
        for row, one in enumerate("bac"):
            for column, other in enumerate("bac"):
                expected = cosine(vectors[one].at(layer), vectors[other].at(layer))
                assert heatmap.z[row][column] == pytest.approx(expected, abs=1e-12)
    assert fig.layout.yaxis.autorange == "reversed"
    (slider,) = fig.layout.sliders
    assert (slider.active, slider.currentvalue.prefix) == (2, "layer ")
    assert [step.label for step in slider.steps] == ["2", "5", "9", "10"]
    for number, step in enumerate(slider.steps):
        shown, title = step.args
        assert shown["visible"] == [number == other for other in range(4)]
        assert f"at layer {step.label}<br>" in title["title.text"]
    assert fig.layout.title.text == slider.steps[2].args[1]["title.text"]


def test_a_named_layer_is_shown_alone():
    table = caa.cosine_similarity({name: vector(seed) for seed, name in enumerate("abc")})
    fig = caa.plot_cosine_similarity(table, layer=4)
    (heatmap,) = fig.data
    assert heatmap.visible
    assert not fig.layout.sliders
    assert "at layer 4<br>" in fig.layout.title.text
    at_4 = table[table["first_layer"] == 4].pivot(index="first", columns="second", values="cosine")
    np.testing.assert_array_equal(heatmap.z, at_4)


def test_cells_show_their_number_gray_within_chance_and_bold_beyond():
    table = caa.cosine_similarity({name: vector(seed, layers=(3,)) for seed, name in enumerate("abc")})
    table.loc[[1, 3], "cosine"] = -0.004
    table.loc[[2, 6], "cosine"] = -0.876
    table.loc[[5, 7], "cosine"] = np.nan
    (heatmap,) = caa.plot_cosine_similarity(table.assign(chance=0.2)).data
    assert heatmap.texttemplate == "%{text}"
    assert [[sign_of_text(text) for text in row] for row in heatmap.text] == [
        ["bold", "gray", "bold"],
        ["gray", "bold", ""],
        ["bold", "", "bold"],
    ]
    assert ">0.00<" in heatmap.text[0][1]
    assert ">\N{MINUS SIGN}0.88<" in heatmap.text[0][2]
    assert np.isnan(heatmap.z).tolist() == [[False] * 3, [False, False, True], [False, True, False]]


def test_many_layers_are_shown_without_numbers():
    fig = caa.plot_cosine_similarity(caa.cosine_similarity(vector(layers=range(30))))
    assert fig.data[0].texttemplate is None
    assert "gray" not in fig.layout.title.text.split("<br>")[1].replace("#52606d", "")


def test_layers_of_several_vectors_have_a_slider_over_the_vectors():
    vectors = {"b": vector(0), "a": vector(1, layers=(0, 4), width=8)}
    fig = caa.plot_cosine_similarity(caa.cosine_similarity(vectors, between="layers"))
    assert [step.label for step in fig.layout.sliders[0].steps] == ["b", "a"]
    assert [heatmap.visible for heatmap in fig.data] == [True, False]
    assert [list(heatmap.x) for heatmap in fig.data] == [["1", "4", "7"], ["0", "4"]]
    assert fig.layout.sliders[0].steps[1].args[1]["title.text"].startswith("a: cosine similarity between layers")
    assert "±0.6" in fig.layout.sliders[0].steps[1].args[1]["title.text"]


def test_two_vectors_are_a_line_by_layer_on_the_band_of_chance():
    vectors = {"chat": vector(0, layers=(2, 10, 7)), "base": vector(1, layers=(2, 10, 7))}
    table = caa.cosine_similarity(vectors)
    fig = caa.plot_cosine_similarity(table)
    (line,) = fig.data
    assert list(line.x) == [2, 7, 10]
    expected = [cosine(vectors["chat"].at(layer), vectors["base"].at(layer)) for layer in (2, 7, 10)]
    np.testing.assert_allclose(line.y, expected, atol=1e-12)
    (band,) = fig.layout.shapes
    assert (-band.y0, band.y1) == (table["chance"][0], table["chance"][0])
    assert fig.layout.yaxis.zeroline
    assert fig.layout.title.text.startswith("chat and base: cosine similarity by layer<br>")
    assert f"±{table['chance'][0]:.3f}" in fig.layout.title.text
    assert (fig.layout.xaxis.title.text, fig.layout.yaxis.title.text) == ("layer (block index)", "cosine similarity")


@pytest.mark.parametrize(("shift", "lowest"), [(0.0, -0.5), (-0.9, -0.9)])
def test_the_line_and_its_band_fit_into_the_axis(shift, lowest):
    table = caa.cosine_similarity({"a": vector(0), "b": vector(1)}).assign(chance=0.5, cosine=shift)
    low, high = caa.plot_cosine_similarity(table).layout.yaxis.range
    assert low == pytest.approx(lowest - 0.05)
    assert high > 1


def test_a_missing_cosine_is_a_gap_in_the_line():
    table = caa.cosine_similarity({"a": vector(0), "b": vector(1)})
    table.loc[table["first_layer"] == 4, "cosine"] = np.nan
    (line,) = caa.plot_cosine_similarity(table).data
    assert np.isnan(line.y).tolist() == [False, True, False]
    assert not line.connectgaps
    assert np.isfinite(caa.plot_cosine_similarity(table.assign(cosine=np.nan)).layout.yaxis.range).all()


def test_two_vectors_at_one_layer_are_a_map():
    table = caa.cosine_similarity({"a": vector(0), "b": vector(1)})
    for fig in (
        caa.plot_cosine_similarity(table, layer=4),
        caa.plot_cosine_similarity(table[table["first_layer"] == 4]),
    ):
        assert fig.data[0].type == "heatmap"
        assert list(fig.data[0].x) == ["a", "b"]


def test_names_are_shown_as_they_are():
    names = {"<b>bold</b>": vector(0), "A & B": vector(1), "$x$": vector(2)}
    table = caa.cosine_similarity(names, layers=[1])
    labels = ["&lt;b&gt;bold&lt;/b&gt;", "A &amp; B", "&#36;x&#36;"]
    assert list(caa.plot_cosine_similarity(table).data[0].x) == labels
    line = caa.plot_cosine_similarity(caa.cosine_similarity({name: names[name] for name in list(names)[:2]}))
    assert line.layout.title.text.startswith("&lt;b&gt;bold&lt;/b&gt; and A &amp; B: ")


def test_tables_are_left_as_they_were_and_figures_are_the_same_each_time():
    for table in (
        caa.cosine_similarity(vector()),
        caa.cosine_similarity({"a": vector(0), "b": vector(1)}),
        caa.cosine_similarity({name: vector(seed) for seed, name in enumerate("abc")}),
    ):
        before = table.copy(deep=True)
        one, other = (caa.plot_cosine_similarity(table).to_json() for _ in range(2))
        assert one == other
        pd.testing.assert_frame_equal(table, before)


def test_tables_and_layers_that_cannot_be_shown():
    vectors = caa.cosine_similarity({name: vector(seed) for seed, name in enumerate("abc")})
    with pytest.raises(
        caa.InputError, match=r"columns \['chance'\] are missing; give the result of caa_interp\.cosine"
    ):
        caa.plot_cosine_similarity(vectors.drop(columns="chance"))
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plot_cosine_similarity(vectors.iloc[:0])
    with pytest.raises(caa.InputError, match=r"layer: 5 is not in the table; it holds \[1, 4, 7\]"):
        caa.plot_cosine_similarity(vectors, layer=5)
    layers = caa.cosine_similarity(vector())
    with pytest.raises(caa.InputError, match=r"layer: 4, but the table compares layers with one another. Leave it out"):
        caa.plot_cosine_similarity(layers, layer=4)
    with pytest.raises(caa.InputError, match="compares vectors and layers at once; give the rows of one comparison"):
        caa.plot_cosine_similarity(pd.concat([vectors, layers]))
