"""One layer's vector at other layers: scores are those of the definition, and figures show the slopes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.plotting.theme import DIVERGING
from tests.oracles import definition


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs):
    """A vector of the small model, strong enough to be seen in its answers."""
    return 3.0 * caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")


# Scores


@pytest.mark.parametrize("form", ["choices", "text"])
def test_scores_are_those_of_the_definition(tiny_llama, plain_llama, tokenizer, pairs, vector, form):
    options = {"source_layers": [3, 1], "layers": [0, 2], "multipliers": (-1.0, 1.5)}
    table = caa.analysis.transfer(tiny_llama, vector, pairs[:2], format=form, **options)
    orders = ["AB", "BA"] if form == "choices" else [""]
    assert len(table) == 2 * len(orders) * 2 * 2 * 2
    for row in table.itertuples():
        addition = row.multiplier * vector.at(row.source_layer)
        scores = definition.scores(plain_llama, tokenizer, pairs[row.item], form, row.layer, addition)
        positive, negative = scores[orders.index(row.order)]
        assert row.logit_difference == pytest.approx(positive - negative, abs=1e-3)
    spread = table.groupby(["layer", "multiplier", "item", "order"])["logit_difference"].agg(np.ptp)
    assert spread.min() > 0.005


def test_a_vector_at_its_own_layer_is_the_sweep(tiny_llama, pairs, vector):
    table = caa.analysis.transfer(tiny_llama, vector, pairs, format="text")
    own = table[table["source_layer"] == table["layer"]].sort_values(["item", "layer", "multiplier"])
    swept = caa.sweep(tiny_llama, vector, pairs, format="text").sort_values(["item", "layer", "multiplier"])
    assert len(own) == len(swept) == 3 * 4 * 3
    np.testing.assert_allclose(own["logit_difference"], swept["logit_difference"], atol=1e-4)


def test_labels(tiny_llama, pairs, vector):
    table = caa.analysis.transfer(
        tiny_llama, vector, pairs[:1], source_layers=[2, 0], layers=[3, 1], multipliers=(0, 1), format="choices"
    )
    swept = caa.sweep(tiny_llama, vector, pairs[:1], layers=1)
    assert list(table.columns) == [*swept.columns[:6], "source_layer", *swept.columns[6:]]
    half = table[table["order"] == "AB"]
    assert half["vector"].unique().tolist() == ["weather"]
    assert half["source_layer"].tolist() == [2] * 4 + [0] * 4
    assert half["layer"].tolist() == [3, 3, 1, 1] * 2
    assert half["multiplier"].tolist() == [0.0, 1.0] * 4


def test_by_default_every_layer_of_the_vector_goes_to_every_layer_of_the_model(tiny_llama, pairs, vector):
    one = caa.SteeringVector(vector.at(2)[None], (2,), vector.metadata)
    table = caa.analysis.transfer(tiny_llama, one, pairs[:1], multipliers=[1])
    assert table["source_layer"].unique().tolist() == [2]
    assert table["layer"].unique().tolist() == [0, 1, 2, 3]
    both = caa.SteeringVector(vector.values[:2], (0, 1), vector.metadata)
    table = caa.analysis.transfer(tiny_llama, both, pairs[:1], layers=3, multipliers=[1])
    assert table["source_layer"].unique().tolist() == [0, 1]


def test_options_reach_the_sweep(tiny_llama, pairs, vector):
    options = {"format": "text", "system_prompt": "Be short.", "layers": 1, "multipliers": [2.0]}
    table = caa.analysis.transfer(tiny_llama, vector, pairs, source_layers=1, **options)
    with_prompt = caa.sweep(tiny_llama, vector, pairs, **options)["logit_difference"]
    without = caa.sweep(tiny_llama, vector, pairs, **{**options, "system_prompt": None})["logit_difference"]
    np.testing.assert_allclose(table["logit_difference"], with_prompt, atol=1e-4)
    assert (with_prompt - without).abs().max() > 0.01


def test_a_vector_of_another_model_must_be_declared(tiny_llama, pairs, vector):
    foreign = replace(vector, metadata=dict(vector.metadata, model="base", model_revision=None))
    with pytest.raises(caa.errors.VectorMismatchError, match=r"made from 'base'.*vector\.transferred_to\(model\)"):
        caa.analysis.transfer(tiny_llama, foreign, pairs)
    options = {"source_layers": 1, "layers": [0, 3], "multipliers": [1]}
    table = caa.analysis.transfer(tiny_llama, foreign.transferred_to(tiny_llama), pairs, **options)
    own = caa.analysis.transfer(tiny_llama, vector, pairs, **options)
    np.testing.assert_array_equal(table["logit_difference"], own["logit_difference"])


def test_a_vector_of_a_deeper_model_as_the_docstring_says(tiny_llama, pairs, vector):
    deeper = caa.SteeringVector(
        torch.cat([vector.values, torch.ones(2, 64)]), (0, 1, 2, 3, 4, 5), dict(vector.metadata, model="deeper")
    )
    with pytest.raises(caa.errors.VectorMismatchError, match="has layer 5"):
        deeper.transferred_to(tiny_llama)
    moved = caa.SteeringVector(deeper.values[:4], deeper.layers[:4], deeper.metadata).transferred_to(tiny_llama)
    table = caa.analysis.transfer(tiny_llama, moved, pairs[:1], layers=[0, 3], multipliers=[1])
    own = caa.analysis.transfer(tiny_llama, vector, pairs[:1], layers=[0, 3], multipliers=[1])
    np.testing.assert_array_equal(table["logit_difference"], own["logit_difference"])


# What is refused


def test_what_cannot_be_transferred(tiny_llama, pairs, vector):
    with pytest.raises(caa.InputError, match="vector: dict; it must be one SteeringVector"):
        caa.analysis.transfer(tiny_llama, {"a": vector}, pairs)
    part = caa.SteeringVector(vector.values[:2], (0, 1), vector.metadata)
    with pytest.raises(caa.InputError, match="layer 2: the vector has layers 0 to 1"):
        caa.analysis.transfer(tiny_llama, part, pairs, source_layers=2)
    with pytest.raises(caa.InputError, match="layer 4: the model has layers 0 to 3"):
        caa.analysis.transfer(tiny_llama, vector, pairs, layers=[0, 4])
    narrow = caa.SteeringVector(vector.values[:, :8], vector.layers, vector.metadata)
    with pytest.raises(caa.errors.VectorMismatchError, match="its width is 8"):
        caa.analysis.transfer(tiny_llama, narrow, pairs)


# Figures


def transfer_table(sources=(2, 10), layers=(2, 3, 10), n=6, spread=0.1, form="choices"):
    """Transfer whose slope is ``source - layer``, give or take ``spread`` from item to item."""
    rows = [
        (item, "", "refusal", source, layer, m, item + (source - layer + spread * (-1) ** item) * m)
        for item in range(n)
        for source in sources
        for layer in layers
        for m in (-1.0, 0.0, 2.0)
    ]
    columns = ["item", "order", "vector", "source_layer", "layer", "multiplier", "logit_difference"]
    table = pd.DataFrame(rows, columns=columns)
    table["p_positive"] = 1 / (1 + np.exp(-table["logit_difference"]))
    return table.assign(format=form)


def test_the_map_shows_slopes_by_source_layer_and_layer():
    heatmap, *_ = caa.plotting.plot_transfer(transfer_table().sample(frac=1, random_state=0)).data
    assert list(heatmap.x) == ["2", "3", "10"]
    assert list(heatmap.y) == ["2", "10"]
    np.testing.assert_allclose(heatmap.z, [[0, -1, -8], [8, 7, 0]], atol=1e-12)
    assert (heatmap.zmin, heatmap.zmax) == pytest.approx((-8, 8))
    assert [list(stop) for stop in heatmap.colorscale] == DIVERGING


def test_the_map_marks_slopes_that_are_not_0_and_frames_a_layer_s_own():
    fig = caa.plotting.plot_transfer(transfer_table())
    dots = fig.data[1]
    assert set(zip(dots.y, dots.x, strict=True)) == {("2", "3"), ("2", "10"), ("10", "2"), ("10", "3")}
    frames = [(shape.x0, shape.x1, shape.y0, shape.y1) for shape in fig.layout.shapes]
    assert frames == [(-0.5, 0.5, -0.5, 0.5), (1.5, 2.5, 0.5, 1.5)]


def test_a_summary_is_drawn_as_it_is():
    summary = caa.steerability(transfer_table(), confidence=0.5, seed=3)
    fig = caa.plotting.plot_transfer(summary)
    assert fig.data[0].text == caa.plotting.plot_transfer(transfer_table()).data[0].text
    assert "50 % interval" in fig.layout.title.text
    assert fig.data[0].z.tolist() == caa.plotting.plot_transfer(transfer_table()).data[0].z.tolist()


def test_the_map_names_units_and_n():
    fig = caa.plotting.plot_transfer(transfer_table(n=5))
    assert fig.layout.title.text.startswith("refusal: the vector of one layer at other layers<br>")
    assert "mean over 5 pairs" in fig.layout.title.text
    assert fig.layout.xaxis.title.text == "applied at layer (block index)"
    assert fig.layout.yaxis.title.text == "vector of layer (block index)"
    unit = "slope of the log-odds of the positive letter<br>(nats per multiplier)"
    assert fig.data[0].colorbar.title.text == unit
    unit = "slope of the log-probability difference<br>(nats per token per multiplier)"
    assert caa.plotting.plot_transfer(transfer_table(form="text")).data[0].colorbar.title.text == unit


def test_a_cell_that_is_missing_stays_empty():
    table = transfer_table()
    heatmap, dots, crosses = caa.plotting.plot_transfer(
        table[(table["source_layer"] != 2) | (table["layer"] != 10)]
    ).data
    assert np.isnan(heatmap.z).tolist() == [[False, False, True], [False, False, False]]
    assert ("2", "10") not in set(zip(dots.y, dots.x, strict=True))
    assert list(zip(crosses.y, crosses.x, strict=True)) == [("2", "10")]


@pytest.mark.parametrize(
    ("options", "x", "y", "title", "axis"),
    [
        ({"sources": (3,)}, [2, 3, 10], [1, 0, -7], "the vector of layer 3 at other layers", "applied at layer"),
        ({"layers": (3,)}, [2, 10], [-1, 7], "vectors of other layers at layer 3", "vector of layer"),
    ],
)
def test_one_layer_is_a_line_with_intervals(options, x, y, title, axis):
    table = transfer_table(spread=1.0, **options)
    fig = caa.plotting.plot_transfer(table)
    (line,) = fig.data
    assert list(line.x) == x
    np.testing.assert_allclose(line.y, y, atol=1e-12)
    slopes = caa.steerability(table)
    np.testing.assert_allclose(line.y + line.error_y.array, slopes["slope_high"], atol=1e-12)
    np.testing.assert_allclose(line.y - line.error_y.arrayminus, slopes["slope_low"], atol=1e-12)
    assert (np.array(line.error_y.array) > 0.3).all()
    assert fig.layout.title.text.startswith(f"refusal: {title}<br>")
    assert "mean over 6 pairs, 95 % interval" in fig.layout.title.text
    assert fig.layout.xaxis.title.text == f"{axis} (block index)"
    own = [
        "square" if source == 3 and layer == 3 else "circle"
        for source, layer in zip(slopes["source_layer"], slopes["layer"], strict=True)
    ]
    assert list(line.marker.symbol) == own
    assert ("its own layer" in fig.layout.title.text) == ("square" in own)


def test_a_figure_of_a_real_transfer(tiny_llama, pairs, vector):
    table = caa.analysis.transfer(tiny_llama, vector, pairs, format="text", multipliers=(-1, 1))
    heatmap, *_ = caa.plotting.plot_transfer(table).data
    mean = table.groupby(["source_layer", "layer", "multiplier"])["logit_difference"].mean().unstack()
    np.testing.assert_allclose(heatmap.z, ((mean[1.0] - mean[-1.0]) / 2).unstack(), atol=1e-12)


def test_the_name_is_shown_as_it_is_and_the_table_left_as_it_was():
    table = transfer_table().assign(vector="<b>&")
    before = table.copy(deep=True)
    assert caa.plotting.plot_transfer(table).layout.title.text.startswith("&lt;b&gt;&amp;: ")
    pd.testing.assert_frame_equal(table, before)


def test_tables_that_cannot_be_shown():
    table = transfer_table()
    with pytest.raises(
        caa.InputError, match=r"\['source_layer'\] are missing; give the result of caa_interp\.analysis\.transfer"
    ):
        caa.plotting.plot_transfer(table.drop(columns="source_layer"))
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plotting.plot_transfer(table.iloc[:0])
    with pytest.raises(caa.InputError, match=r"has one multiplier, .*; a slope needs at least two"):
        caa.plotting.plot_transfer(table[table["multiplier"] == 2.0])
    other = table.assign(vector="optimism")
    with pytest.raises(caa.InputError, match=r"it holds several, with vector \['refusal', 'optimism'\]\. Draw one"):
        caa.plotting.plot_transfer(pd.concat([table, other]))
