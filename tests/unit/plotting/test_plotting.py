"""Figures show the numbers of their tables, their units, n and intervals; nothing more."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.paper.table import compare
from caa_interp.plotting import plot_layer_sweep, plot_reproduction, theme
from caa_interp.plotting.theme import BEHAVIOR_STYLES, NEGATIVE, PALETTE, POSITIVE, faded, styles

LAYERS = (1, 2, 10)
MULTIPLIERS = (-1.0, 0.0, 2.0)


def sweep_table(names=("sycophancy",), layers=LAYERS, multipliers=MULTIPLIERS, n=3, slope=lambda name, layer: layer):
    """Sweep whose logit difference is ``item + slope * multiplier`` in the order AB and 1 less in BA."""
    rows = [
        (item, order, name, layer, multiplier, item - (order == "BA") + slope(name, layer) * multiplier)
        for item in range(n)
        for order in ("AB", "BA")
        for name in names
        for layer in layers
        for multiplier in multipliers
    ]
    table = pd.DataFrame(rows, columns=["item", "order", "vector", "layer", "multiplier", "logit_difference"])
    table["p_positive"] = 1 / (1 + np.exp(-table["logit_difference"]))
    kinds = table["vector"].str.extract(r"^(random|shuffled) \d$")[0].fillna("vector")
    return table.assign(kind=kinds, format="choices")


def titles(fig):
    return fig.layout.title.text, fig.layout.xaxis.title.text, fig.layout.yaxis.title.text


def trace(fig, name):
    (found,) = [one for one in fig.data if one.name == name]
    return found


# The map of layers and multipliers


def test_sweep_shows_the_change_from_the_unsteered_model():
    heatmap = caa.plot_sweep(sweep_table()).data[0]
    assert heatmap.type == "heatmap"
    assert list(heatmap.y) == [str(layer) for layer in LAYERS]
    assert list(heatmap.x) == list(MULTIPLIERS), "to scale"
    np.testing.assert_allclose(heatmap.z, [[-layer, 0, 2 * layer] for layer in LAYERS], atol=1e-12)


def test_sweep_puts_every_cell_at_its_layer_and_multiplier_whatever_the_order_of_rows():
    table = sweep_table()
    one, other = (caa.plot_sweep(t).data[0] for t in (table, table.sample(frac=1, random_state=1)))
    np.testing.assert_allclose(one.z, other.z, atol=1e-12)
    assert (list(one.x), list(one.y)) == (list(other.x), list(other.y))


def test_sweep_of_probabilities_shows_these():
    table = sweep_table()
    heatmap = caa.plot_sweep(table, measure="p_positive").data[0]
    mean = table.groupby(["layer", "multiplier"])["p_positive"].mean().unstack()
    np.testing.assert_allclose(heatmap.z, mean.sub(mean[0.0], axis=0), atol=1e-12)


@pytest.mark.parametrize(("measure", "indifference"), [("logit_difference", 0.0), ("p_positive", 0.5)])
def test_without_multiplier_0_the_score_is_shown_from_indifference(measure, indifference):
    table = sweep_table(multipliers=(-1.0, 2.0))
    fig = caa.plot_sweep(table, measure=measure)
    mean = table.groupby(["layer", "multiplier"])[measure].mean().unstack()
    np.testing.assert_allclose(fig.data[0].z, mean - indifference, atol=1e-12)
    assert "from indifference" in fig.data[0].colorbar.title.text
    assert "unsteered" not in fig.layout.title.text


@pytest.mark.parametrize("measure", ["logit_difference", "p_positive"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_colors_are_centered_on_zero(measure, sign):
    heatmap = caa.plot_sweep(sweep_table(slope=lambda name, layer: sign * layer), measure=measure).data[0]
    assert heatmap.zmin == -heatmap.zmax
    assert heatmap.zmax == pytest.approx(np.abs(heatmap.z).max())
    scale = dict(heatmap.colorscale)
    assert sorted(scale) == pytest.approx([1 - place for place in sorted(scale, reverse=True)])
    assert scale[0.5] == "#F7F7F5"


def test_several_maps_can_share_a_scale_and_none_is_narrower_than_its_controls():
    slopes = {"refusal": 1.0, "random 0": -30.0}
    table = sweep_table(slopes, slope=lambda name, _: slopes[name])
    assert caa.plot_sweep(table).data[0].zmax == pytest.approx(60)
    assert caa.plot_sweep(table, limit=7).data[0].zmin == -7
    for limit in (0, -1, float("nan")):
        with pytest.raises(caa.InputError, match=r"limit: .*; it must be larger than 0"):
            caa.plot_sweep(table, limit=limit)


def test_dots_are_on_cells_whose_interval_excludes_zero():
    table = sweep_table(n=8)
    table["logit_difference"] += (2 * table["item"] - 7) * table["multiplier"] * (table["layer"] < 10)
    summary = caa.summarize(table)
    low, high = summary["logit_difference_change_low"], summary["logit_difference_change_high"]
    certain = summary[(low > 0) | (high < 0)]
    fig = caa.plot_sweep(table)
    dots = fig.data[1]
    assert 0 < len(certain) < len(summary)
    assert sorted(zip(dots.x, dots.y, strict=True)) == sorted(
        zip(certain["multiplier"], certain["layer"].astype(str), strict=True)
    )
    assert "dots: 95 % interval excludes 0" in fig.layout.title.text


def test_a_vector_without_any_value_is_no_empty_map():
    table = sweep_table(("refusal", "mine"))
    table.loc[table["vector"] == "mine", ["logit_difference", "p_positive"]] = np.nan
    with pytest.raises(
        caa.InputError, match="table: 'mine' has no value of 'logit_difference'; give a vector that was"
    ):
        caa.plot_sweep(table, vector="mine")


def test_no_effect_at_all_still_has_a_range():
    heatmap = caa.plot_sweep(sweep_table(slope=lambda name, layer: 0)).data[0]
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    assert not np.any(heatmap.z)


def test_sweep_names_units_n_and_the_baseline():
    fig = caa.plot_sweep(sweep_table(n=7))
    title, x, y = titles(fig)
    assert title.startswith("sycophancy: effect by layer and multiplier<br>")
    assert "mean over 7 pairs; unsteered: 2.50" in title
    assert x == "multiplier (of the raw vector)"
    assert y == "layer (block index)"
    assert fig.data[0].colorbar.title.text == "change from unsteered<br>log-odds of the positive letter<br>(nats)"
    text = sweep_table().assign(format="text")
    assert caa.plot_sweep(text).data[0].colorbar.title.text.endswith("log-probability difference<br>(nats per token)")
    shown = caa.plot_sweep(text, measure="p_positive").data[0].colorbar.title.text
    assert shown.endswith("p(positive answer)")


def test_sweep_shows_the_vector_that_is_named():
    table = sweep_table(("refusal", "optimism"), slope=lambda name, layer: layer if name == "refusal" else -layer)
    first, named = caa.plot_sweep(table), caa.plot_sweep(table, vector="optimism")
    np.testing.assert_allclose(first.data[0].z, -np.array(named.data[0].z), atol=1e-12)
    assert first.layout.title.text.startswith("refusal:")
    assert named.layout.title.text.startswith("optimism:")


def test_a_missing_cell_of_a_sweep_is_crossed_out_and_counted():
    table = sweep_table()
    table = table[(table["layer"] != 2) | (table["multiplier"] != 2.0)]
    fig = caa.plot_sweep(table)
    heatmap, _, crosses = fig.data
    assert (list(crosses.x), list(crosses.y)) == ([2.0], ["2"])
    assert "crosses: 1 not measured" in fig.layout.title.text
    assert "crosses" not in caa.plot_sweep(sweep_table()).layout.title.text
    missing = np.isnan(heatmap.z)
    assert missing.sum() == 1
    assert missing[1, 2]
    assert heatmap.zmax == pytest.approx(20)


def test_a_missing_value_of_a_summary_stays_empty():
    summary = caa.summarize(sweep_table())
    summary.loc[(summary["layer"] == 10) & (summary["multiplier"] == 2), "logit_difference_change"] = np.nan
    heatmap = caa.plot_sweep(summary).data[0]
    np.testing.assert_allclose(heatmap.z, [[-1, 0, 2], [-2, 0, 4], [-10, 0, np.nan]], atol=1e-12)
    assert (heatmap.zmin, heatmap.zmax) == pytest.approx((-10, 10))


# The response to the dose


def test_dose_response_shows_the_change_at_its_layer_with_its_interval():
    table = sweep_table(n=5)
    table["logit_difference"] += table["item"] * table["multiplier"]
    summary = caa.summarize(table)
    rows = summary[summary["layer"] == 2]
    line = trace(caa.plot_dose_response(table, layer=2), "sycophancy")
    assert list(line.x) == list(MULTIPLIERS)
    np.testing.assert_allclose(line.y, [-4, 0, 8], atol=1e-12)
    np.testing.assert_allclose(line.y + line.error_y.array, rows["logit_difference_change_high"])
    np.testing.assert_allclose(line.y - line.error_y.arrayminus, rows["logit_difference_change_low"])
    assert line.error_y.array[2] > 0.5
    assert line.error_y.arrayminus[2] > 0.5
    assert (line.error_y.array[1], line.error_y.arrayminus[1]) == (0, 0)
    assert line.error_y.symmetric is False


def test_dose_response_takes_a_sweep_or_its_summary():
    table = sweep_table()
    of_items, *one = caa.plot_dose_response(table, layer=2).data
    assert of_items.name == "each of 3 pairs"
    assert one == list(caa.plot_dose_response(caa.summarize(table), layer=2).data)
    assert caa.plot_sweep(table) == caa.plot_sweep(caa.summarize(table))


def test_without_multiplier_0_the_score_itself_is_shown():
    fig = caa.plot_dose_response(sweep_table(layers=(2,), multipliers=(-1.0, 2.0)))
    np.testing.assert_allclose(trace(fig, "sycophancy").y, [0.5 - 2, 0.5 + 4], atol=1e-12)
    assert titles(fig)[2] == "log-odds of the positive letter<br>(nats)"


def test_one_layer_needs_no_name():
    one, named = (caa.plot_dose_response(sweep_table(layers=(10,)), layer=layer) for layer in (None, 10))
    assert one == named


def test_dose_response_names_units_n_layer_and_confidence():
    title, x, y = titles(caa.plot_dose_response(sweep_table(n=4), layer=10))
    assert "layer 10, mean over 4 pairs, 95 % interval" in title
    assert x == "multiplier (of the raw vector)"
    assert y == "change in log-odds of the positive letter<br>(nats)"
    summary = caa.summarize(sweep_table(), confidence=0.8)
    title, _, y = titles(caa.plot_dose_response(summary, layer=1, measure="p_positive"))
    assert "80 % interval" in title
    assert y == "change in p(positive answer)"


def test_controls_are_one_band_from_the_lowest_to_the_highest():
    slopes = {"refusal": 5, "random 0": 0.5, "random 1": -0.5, "random 2": 0.1}
    table = sweep_table(slopes, layers=(3,), slope=lambda name, _: slopes[name])
    fig = caa.plot_dose_response(table)
    assert [one.name for one in fig.data] == ["each of 3 pairs", "3 random vectors of the same norm", "refusal"]
    band = fig.data[1]
    assert band.fill == "toself"
    assert list(band.x) == [-1, 0, 2, 2, 0, -1]
    np.testing.assert_allclose(band.y, [0.5, 0, 1.0, -1.0, 0, -0.5], atol=1e-12)
    np.testing.assert_allclose(trace(fig, "refusal").y, [-5, 0, 10], atol=1e-12)


def test_a_control_is_what_its_kind_says_whatever_its_name():
    table = sweep_table(("refusal", "shuffled 0", "random", "mine"), layers=(3,))
    table.loc[table["vector"] == "mine", "kind"] = "my own"
    names = [one.name for one in caa.plot_dose_response(caa.summarize(table)).data]
    bands = ["1 shuffled vector of the same norm", "1 my own vector of the same norm"]
    assert names == [*bands, "refusal", "random"]


def test_a_missing_value_is_a_gap_in_the_line():
    summary = caa.summarize(sweep_table(layers=(2,)))
    summary.loc[summary["multiplier"] == 2, "logit_difference_change"] = np.nan
    (line,) = caa.plot_dose_response(summary).data
    np.testing.assert_allclose(line.y, [-2, 0, np.nan], atol=1e-12)
    assert not line.connectgaps


def test_one_item_has_no_interval_of_width_0():
    line = trace(caa.plot_dose_response(sweep_table(layers=(2,), n=1)), "sycophancy")
    assert np.isnan(line.error_y.array).all()
    assert np.isnan(line.error_y.arrayminus).all()


def one_item():
    """A table that serves every figure of the response."""
    table = sweep_table(n=1, multipliers=(-1.0, 0.0, 1.0), slope=lambda name, layer: 1.0).assign(
        behavior="sycophancy", source_layer=1
    )
    costs = {"divergence": 0.1, "correct": 1.0, "score": 3.0}
    return table[table["order"] == "AB"].assign(**costs)


@pytest.mark.parametrize(
    "draw",
    [
        lambda table: caa.plot_dose_response(table, layer=2),
        lambda table: caa.plot_dose_responses(table[table["layer"] == 2]),
        lambda table: caa.plot_baselines(table[table["layer"] == 2].assign(baseline="none")),
        lambda table: caa.plot_cost(table.drop(columns="score"), layer=2),
        lambda table: caa.plot_scores(table[table["layer"] == 2].assign(judge="strong")),
        lambda table: caa.plot_steerability(caa.steerability(table[table["layer"] == 2])),
        lambda table: caa.plotting.plot_side_effects(table[table["layer"] == 2]),
        lambda table: caa.plotting.plot_transfer(table),
        lambda table: caa.plotting.plot_layer_profile(caa.steerability(table)),
        lambda table: plot_layer_sweep(caa.summarize(table), None, behavior="sycophancy"),
        lambda table: plot_reproduction(compare(caa.summarize(table[table["layer"] == 2]), None, "other items")),
    ],
)
@pytest.mark.parametrize("n", [1, 2])
def test_figures_of_one_item_say_that_it_gives_no_interval(draw, n):
    table = pd.concat([one_item().assign(item=item) for item in range(n)])
    fig = draw(table)
    assert ("one item gives no interval" in fig.layout.title.text) == (n == 1)
    assert ("95 % interval" in fig.layout.title.text) == (n > 1)
    lines = [one for one in fig.data if one.type == "scatter"]
    bars = [bar.array for one in lines for bar in (one.error_x, one.error_y) if bar.array is not None]
    assert all(np.isnan(bar).all() == (n == 1) for bar in bars)
    bands = [one for one in lines if one.fill == "toself"]
    assert all((len(one.x) == 0) == (n == 1) for one in bands)
    maps = [one for one in fig.data if one.type == "heatmap"]
    assert bars or bands or all(("(" in one.text[0][0]) == (n == 1) for one in maps)


def test_vectors_are_lines_that_differ_in_symbol_beside_color():
    fig = caa.plot_dose_response(sweep_table(("refusal", "optimism", "mine"), layers=(2,)))
    for field in ("line.color", "marker.symbol"):
        assert len({one[field] for one in fig.data}) == 3
    refusal = trace(fig, "refusal")
    assert (refusal.line.color, refusal.marker.symbol) == BEHAVIOR_STYLES["refusal"]


def test_every_pair_is_a_thin_line_with_its_texts_and_slope():
    table = sweep_table(layers=(2,))
    table["logit_difference"] += table["item"] * table["multiplier"]
    pairs = [caa.ContrastPair(f"<q{item}>", f"yes {item}", f"no {item}") for item in range(3)]
    lines = caa.plot_dose_response(table, pairs=pairs).data[0]
    drawn = list(zip(lines.x, lines.y, lines.customdata, strict=True))
    assert [x for x, *_ in drawn] == [-1, 0, 2, None] * 3
    np.testing.assert_allclose([y for _, y, _ in drawn if y is not None], [-2, 0, 4, -3, 0, 6, -4, 0, 8], atol=1e-12)
    assert drawn[4][2] == "pair 1: slope +3.000 nats per multiplier<br>&lt;q1&gt;<br>+ yes 1<br>\N{MINUS SIGN} no 1"
    with pytest.raises(caa.InputError, match=r"pairs: 2 pairs, but the table has an item 2. Give all that were scored"):
        caa.plot_dose_response(table, pairs=pairs[:2])


def test_pairs_without_a_common_vector_are_not_drawn():
    fig = caa.plot_dose_response(sweep_table(("refusal", "mine"), layers=(2,)))
    assert [one.name for one in fig.data] == ["refusal", "mine"]


def two_operators(**more):
    """A sweep in which half of the effect is left under the second operator."""
    table = sweep_table(**{"layers": (2,), "multipliers": (-1.0, 0.0, 1.0), **more}).assign(operator="add")
    base = table["item"] - (table["order"] == "BA")
    half = table.assign(operator="ablate", logit_difference=base + (table["logit_difference"] - base) / 2)
    return pd.concat([table, half])


def test_what_tells_lines_of_one_vector_apart_stands_in_their_names():
    for table in (two_operators(), caa.summarize(two_operators())):
        fig = caa.plot_dose_response(table)
        assert [one.name for one in fig.data] == ["sycophancy, add", "sycophancy, ablate"]
        for name, slope in (("sycophancy, add", 2), ("sycophancy, ablate", 1)):
            np.testing.assert_allclose(trace(fig, name).y, [-slope, 0, slope], atol=1e-12)
    said = caa.plot_dose_response(two_operators()).layout.title.text
    assert "sycophancy, add: slope +2.000" in said
    assert "sycophancy, ablate: slope +1.000" in said
    drawn = caa.plot_dose_responses(two_operators().assign(behavior="sycophancy")).data
    assert [one.name for one in drawn] == ["sycophancy, add", "sycophancy, ablate"]


@pytest.mark.parametrize(
    "draw",
    [
        caa.plot_sweep,
        lambda table: caa.plot_baselines(table.assign(baseline="none")),
        lambda table: caa.plotting.plot_side_effects(table.assign(behavior="sycophancy")),
        lambda table: caa.plotting.plot_transfer(table.assign(source_layer=1)),
        lambda table: plot_layer_sweep(caa.summarize(table.assign(behavior="b")), None, behavior="b"),
    ],
    ids=["sweep", "baselines", "side effects", "transfer", "layer sweep"],
)
def test_conditions_that_have_no_place_beside_one_another_are_refused(draw):
    with pytest.raises(caa.InputError, match=r"differ in 'operator', which is one of .'add', 'ablate'.; give the"):
        draw(two_operators())


def test_a_sweep_that_names_no_kinds_is_drawn():
    table = sweep_table()
    bare = caa.plot_sweep(table.drop(columns="kind"))
    assert bare == caa.plot_sweep(table)


def test_slopes_intervals_and_verdicts_stand_in_the_title():
    slopes = {"refusal": -5, "random 0": 0.5}
    table = sweep_table(slopes, layers=(3,), slope=lambda name, _: slopes[name])
    title = caa.plot_dose_response(table).layout.title.text
    minus = "\N{MINUS SIGN}5.000"
    assert f"refusal: slope {minus} ({minus} to {minus}) nats per multiplier; opposite" in title
    assert "slope" not in caa.plot_dose_response(caa.summarize(table)).layout.title.text


@pytest.mark.parametrize("given", ["items", "effects", "neither"])
def test_slopes_and_verdicts_stand_above_their_panels(given):
    slopes = {"refusal": 5, "optimism": -0.1, "random 0": 0.5}
    parts = [
        sweep_table((name, "random 0"), layers=(3,), slope=lambda one, _: slopes[one]).assign(behavior=name)
        for name in ("refusal", "optimism")
    ]
    table = pd.concat(parts)
    effects = caa.steerability(table) if given == "effects" else None
    fig = caa.plot_dose_responses(table if given == "items" else caa.summarize(table), effects=effects)
    texts = [re.sub("<(?!br)[^>]*>", "", note.text) for note in fig.layout.annotations[:2]]
    if given == "neither":
        assert texts == ["refusal<br>layer 3", "optimism<br>layer 3"]
    else:
        assert texts[0] == "refusal<br>layer 3: steers<br>+5.000 (+5.000 to +5.000)"
        assert texts[1].startswith("optimism<br>layer 3: within controls<br>\N{MINUS SIGN}0.100")


def test_names_are_shown_as_they_are():
    table = sweep_table(("<b>bold", "&"), layers=(2,))
    table["kind"] = table["vector"].map({"<b>bold": "vector", "&": "random &"})
    assert caa.plot_sweep(table).layout.title.text.startswith("&lt;b&gt;bold: effect")
    names = [one.name for one in caa.plot_dose_response(caa.summarize(table)).data]
    assert names == ["1 random &amp; vector of the same norm", "&lt;b&gt;bold"]


def test_the_legend_of_a_dose_response_has_room_below():
    few, many = (caa.plot_dose_response(caa.summarize(sweep_table(map(str, range(n)), layers=(2,)))) for n in (1, 8))
    assert few.layout.legend.yref == "container"
    assert many.layout.height - few.layout.height == 7 * 21


@pytest.mark.parametrize("n", [1, 8, 12])
def test_every_line_of_a_subtitle_has_room_above_the_plot(n):
    fig = caa.plot_dose_response(sweep_table([f"v{number}" for number in range(n)], layers=(2,)))
    n_lines = fig.layout.title.text.count("<br>")  # below the title
    assert n_lines >= n + 1
    assert fig.layout.margin.t >= theme.TEMPLATE.layout.margin.t + theme.SUBTITLE_ROW * (n_lines - 1)


def without_a_baseline():
    """A vector that was not swept over multiplier 0, beside a control that was."""
    own = sweep_table(("refusal",), layers=(2,), multipliers=(1.0, 2.0))
    control = sweep_table(("random 0",), layers=(2,), multipliers=(-1.0, 0.0, 1.0), slope=lambda name, _: 0.5)
    return pd.concat([own, control])


def test_without_multiplier_0_of_the_vector_itself_its_score_is_shown_whatever_its_controls_have():
    table = without_a_baseline()
    map_of_it = caa.plot_sweep(table)
    (heatmap, dots, _) = map_of_it.data
    np.testing.assert_allclose(heatmap.z, [[0.5 + 2, 0.5 + 4]])
    assert heatmap.customdata[0][0].startswith("+2.500")
    assert "from indifference" in heatmap.colorbar.title.text
    assert not len(dots.x)
    fig = caa.plot_dose_response(table)
    np.testing.assert_allclose(trace(fig, "refusal").y, [2.5, 4.5])
    band = trace(fig, "1 random vector of the same norm")
    np.testing.assert_allclose(band.y, [0, 0.5, 1, 1, 0.5, 0])
    assert fig.layout.yaxis.title.text == "log-odds of the positive letter<br>(nats)"
    several = caa.plot_dose_responses(table.assign(behavior="refusal"), scores=table.assign(behavior="refusal"))
    np.testing.assert_allclose(trace(several, "refusal").y, [2.5, 4.5])
    assert "each of 3 pairs" in {one.name for one in several.data}


def test_pairs_of_a_series_without_multiplier_0_have_no_change_to_draw():
    base, other = (sweep_table(layers=(2,), multipliers=some) for some in ((0.0,), (1.0, 2.0)))
    fig = caa.plot_dose_response(pd.concat([base.assign(operator="add"), other.assign(operator="ablate")]))
    np.testing.assert_allclose(trace(fig, "sycophancy, ablate").y, [2, 4])
    assert not [one for one in fig.data if (one.name or "").startswith("each of")]


def test_the_color_of_a_cell_is_the_change_that_hovering_tells():
    """The mean change of the pairs that were scored at both multipliers, not the difference of two means."""
    rows = [(item, m, base + m / 2) for item, base in enumerate((-10.0, 10.0)) for m in (0.0, 2.0)]
    table = pd.DataFrame(rows, columns=["item", "multiplier", "logit_difference"])
    table = table.assign(p_positive=0.5, vector="refusal", kind="vector", layer=2, order="", format="text")
    table.loc[3, ["logit_difference", "p_positive"]] = np.nan
    heatmap = caa.plot_sweep(table).data[0]
    np.testing.assert_allclose(heatmap.z, [[0, 1]])
    assert heatmap.customdata[0][1].startswith("+1.000")
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)


# Colors


def test_a_behavior_has_the_same_color_in_every_figure():
    alone = caa.plot_dose_response(sweep_table(("refusal",), layers=(1,)))
    among = caa.plot_dose_response(sweep_table(("mine", "sycophancy", "optimism", "refusal"), layers=(1,)))
    assert trace(alone, "refusal").line.color == trace(among, "refusal").line.color == BEHAVIOR_STYLES["refusal"].color
    assert len({one.line.color for one in among.data}) == 4


def test_eight_other_names_have_eight_colors():
    names = [f"vector {number}" for number in range(8)]
    assert sorted(look.color for look in styles(names).values()) == sorted(PALETTE)


def test_a_faded_color():
    assert faded("#0072B2", 0.25) == "rgba(0,114,178,0.25)"


# Projections


def projection_table(layers=(1, 10), n=3, behaviors=("",), splits=("fit",), **about):
    """Projected points that are all different."""
    rows = [
        (
            name,
            item,
            f"pair {item}",
            f"topic {item}",
            "AB",
            side,
            split,
            layer,
            layer + item + 0.1 * len(name + split),
        )
        for layer in layers
        for split in splits
        for name in behaviors
        for side in ("positive", "negative")
        for item in range(n)
    ]
    table = pd.DataFrame(rows, columns=["behavior", "item", "id", "topic", "order", "side", "split", "layer", "x"])
    table["y"] = 100 * table["layer"] + table["item"] + 0.5 * (table["side"] == "negative")
    table = table.assign(x_share=table["layer"] / 20, y_share=table["layer"] / 50)
    return table.assign(**{"method": "pca", "fit": "each", **about})


def shown_points(fig):
    """Every point that is drawn: axis, coordinates, color, symbol."""
    return {
        (one.xaxis, x, y, one.marker.color, symbol)
        for one in fig.data
        if one.mode == "markers" and one.x[0] is not None
        for x, y, symbol in zip(one.x, one.y, one.marker.symbol, strict=True)
    }


def legend(fig):
    """Every entry of the legend: name, color, symbol."""
    return [(one.name, one.marker.color, one.marker.symbol) for one in fig.data if one.showlegend is not False]


def hovered(fig):
    """What is said of the points, in the order in which they are drawn."""
    return [text for one in fig.data if one.hovertext is not None for text in one.hovertext]


def test_projection_shows_every_point_in_the_panel_of_its_layer():
    table = projection_table()
    fig = caa.plot_projection(table.sample(frac=1, random_state=0))
    looks = {"positive": (POSITIVE, "circle"), "negative": (NEGATIVE, "x")}
    expected = {("x" if row.layer == 1 else "x2", row.x, row.y, *looks[row.side]) for row in table.itertuples()}
    assert shown_points(fig) == expected
    assert legend(fig) == [("positive answers", POSITIVE, "circle"), ("negative answers", NEGATIVE, "x")]


def test_behaviors_have_their_colors_and_sides_their_marks():
    table = projection_table(behaviors=("refusal", "mine"))
    fig = caa.plot_projection(table, color="behavior")
    looks, marks = styles(["refusal", "mine"]), {"positive": "circle", "negative": "x"}
    expected = {
        ("x" if row.layer == 1 else "x2", row.x, row.y, looks[row.behavior].color, marks[row.side])
        for row in table.itertuples()
    }
    assert shown_points(fig) == expected
    assert [(name, symbol) for name, _, symbol in legend(fig)] == [
        ("refusal", "square"),
        ("mine", "square"),
        ("positive answers", "circle"),
        ("negative answers", "x"),
    ]
    assert "n = 6 pairs of 2 behaviors" in fig.layout.title.text
    groups = {one.legendgroup for one in fig.data if one.showlegend is False and one.mode == "markers"}
    assert groups == {"refusal", "mine"}, "a click on a behavior hides its points"


def test_several_behaviors_are_told_apart_by_color_without_being_asked():
    table = projection_table(behaviors=("refusal", "mine"))
    assert caa.plot_projection(table) == caa.plot_projection(table, color="behavior")


def test_names_may_be_categories():
    table = projection_table(behaviors=("refusal", "mine"))
    texts = dict.fromkeys(("behavior", "side", "split", "order"), "category")
    assert caa.plot_projection(table.astype(texts)) == caa.plot_projection(table)


def test_a_line_joins_both_answers_of_a_pair_and_an_arrow_their_means():
    table = projection_table((4,), splits=("fit", "held out"))
    joined, arrow = [one for one in caa.plot_projection(table).data if "lines" in one.mode]
    ends = list(zip(joined.x, joined.y, strict=True))
    assert len(ends) == 6 * 3
    for place in range(0, len(ends), 3):
        positive, negative = (table[(table["x"] == x) & (table["y"] == y)].iloc[0] for x, y in ends[place : place + 2])
        assert (positive["item"], positive["split"]) == (negative["item"], negative["split"])
        assert (positive["side"], negative["side"]) == ("positive", "negative")
        assert ends[place + 2] == (None, None)
    means = table[table["split"] == "fit"].groupby("side")[["x", "y"]].mean().loc[["negative", "positive"]]
    np.testing.assert_allclose(np.array([arrow.x, arrow.y]).T, means)
    assert caa.plot_projection(table).layout.yaxis.scaleanchor == "x"


def test_a_map_of_neighbors_has_no_arrow_and_no_common_unit():
    table = projection_table((3,), method="umap", n_neighbors=15).assign(x_share=np.nan, y_share=np.nan)
    fig = caa.plot_projection(table)
    assert len([one for one in fig.data if "lines" in one.mode]) == 1
    assert fig.layout.yaxis.scaleanchor is None


def test_letters_are_those_of_the_side_in_its_order():
    table = projection_table((4,)).assign(order=["AB", "BA", "CA", "AB", "BA", "CA"])
    fig = caa.plot_projection(table, symbol="letter")
    letters = ["A", "B", "C", "B", "A", "A"]
    marks = {name.removeprefix("letter "): symbol for name, _, symbol in legend(fig)[2:]}
    assert list(marks) == ["A", "B", "C"]
    assert len(set(marks.values())) == 3
    found = {(x, y): symbol for _, x, y, _, symbol in shown_points(fig)}
    assert [found[x, y] for x, y in zip(table["x"], table["y"], strict=True)] == [marks[letter] for letter in letters]
    two = caa.plot_projection(table.iloc[[0, 1, 3, 4]], symbol="letter")
    assert [symbol for _, _, symbol in legend(two)[2:]] == ["circle", "x"]


@pytest.mark.parametrize(("symbol", "n"), [("topic", 12), ("behavior", 1)])
def test_topics_and_behaviors_can_be_marks(symbol, n):
    fig = caa.plot_projection(projection_table((4,), n=n, behaviors=("refusal", "mine")), color="side", symbol=symbol)
    marks = [mark for _, _, mark in legend(fig)[2:]]
    assert len(marks) == len(set(marks)) == (12 if symbol == "topic" else 2)
    assert {point[-1] for point in shown_points(fig)} == set(marks)


@pytest.mark.parametrize("symbol", ["side", "topic", "letter", "behavior"])
def test_held_out_points_are_hollow(symbol):
    table = projection_table((4,), behaviors=("refusal",), splits=("fit", "held out"))
    fig = caa.plot_projection(table, symbol=symbol)
    hollow = {(x, y): mark.endswith("-open") for _, x, y, _, mark in shown_points(fig)}
    assert [hollow[x, y] for x, y in zip(table["x"], table["y"], strict=True)] == [False] * 6 + [True] * 6
    assert legend(fig)[-1][0] == "held out (hollow)"
    assert "n = 3 pairs and 3 held out" in fig.layout.title.text


def test_projection_names_layers_shares_n_and_units():
    fig = caa.plot_projection(projection_table(), title="Clusters")
    assert fig.layout.title.text.startswith("Clusters<br>")
    said = fig.layout.title.text.replace(theme.SOFT, " ")
    assert "fitted at each layer; units of the residual stream; arrow: mean difference<br>n = 3 pairs" in said
    assert [one.text for one in fig.layout.annotations] == ["layer 1 (5 %, 2 %)", "layer 10 (50 %, 20 %)"]
    assert fig.layout.xaxis.title.text == fig.layout.xaxis2.title.text == "component 1"
    assert (fig.layout.yaxis.title.text, fig.layout.yaxis2.title.text) == ("component 2", None)
    assert fig.layout.xaxis2.matches is None
    alone = caa.plot_projection(projection_table((10,)))
    assert titles(alone)[1:] == ("component 1 (50 %)", "component 2 (20 %)")
    assert not alone.layout.annotations


def test_the_lowest_panel_of_each_column_names_its_component():
    fig = caa.plot_projection(projection_table(range(5)))
    named = [fig.layout[f"xaxis{number or ''}"].title.text for number in (None, 2, 3, 4, 5)]
    assert named == [None, None, "component 1", "component 1", "component 1"]


def test_one_map_for_all_layers_has_the_same_axes_everywhere():
    fig = caa.plot_projection(projection_table(fit="shared"))
    assert "one fit for all layers" in fig.layout.title.text
    assert (fig.layout.xaxis2.matches, fig.layout.yaxis2.matches) == ("x", "y")
    assert [one.text for one in fig.layout.annotations] == ["layer 1", "layer 10"]
    assert fig.layout.xaxis.title.text == "component 1 (5 %)"


@pytest.mark.parametrize(
    ("about", "method", "axis"),
    [
        ({"method": "umap", "n_neighbors": 15}, "UMAP (15 neighbors)", "UMAP 2"),
        ({"method": "tsne", "perplexity": 30}, "t-SNE (perplexity 30)", "t-SNE 2"),
    ],
)
def test_a_map_of_neighbors_has_no_numbers_on_its_axes(about, method, axis):
    fig = caa.plot_projection(projection_table((3,), **about).assign(x_share=np.nan, y_share=np.nan))
    assert f"{method}, fitted at layer 3; axes have no unit" in fig.layout.title.text
    assert fig.layout.yaxis.title.text == axis
    assert fig.layout.xaxis.showticklabels is fig.layout.yaxis.showticklabels is False


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 9, 30, 80])
def test_projection_has_room_for_any_number_of_layers(n_layers):
    fig = caa.plot_projection(projection_table(range(n_layers)))
    assert len({point[0] for point in shown_points(fig)}) == n_layers
    domains = [fig.layout[f"yaxis{number or ''}"].domain for number in (None, *range(2, n_layers + 1))]
    inside = fig.layout.height - fig.layout.margin.t - fig.layout.margin.b
    assert all((high - low) * inside >= 229 for low, high in domains)


def test_projection_of_real_activations(tiny_llama, pairs):
    acts = caa.collect_activations(tiny_llama, pairs, format="text")
    table = caa.project(acts, layers=[0, 3])
    fig = caa.plot_projection(table)
    assert {point[1:3] for point in shown_points(fig)} == set(zip(table["x"], table["y"], strict=True))


def test_a_point_is_named_by_its_id_or_its_item():
    table = projection_table((4,), behaviors=("<b>",))
    hover = hovered(caa.plot_projection(table))
    assert hover[0] == "pair 0<br>&lt;b&gt;, topic 0, positive, AB, fit"
    bare = table.assign(id=None, topic=None, order="", behavior="")
    hover = hovered(caa.plot_projection(bare))
    assert hover == [f"pair {item}<br>{side}, fit" for side in ("positive", "negative") for item in range(3)]


def test_markup_in_names_is_shown_as_it_is():
    table = projection_table((4,), behaviors=("<b>bold</b>",))
    assert legend(caa.plot_projection(table, color="behavior"))[0][0] == "&lt;b&gt;bold&lt;/b&gt;"
    lines = caa.plotting.plot_vector_map(vector_table(("<b>", "b"))).data
    assert [one.name for one in lines] == ["&lt;b&gt;", "b"]


# Maps of vectors


def vector_table(names=("refusal", "mine"), layers=range(12), **about):
    """Lines of vectors, well apart."""
    rows = [
        (name, layer, 1.5 + layer, float(layer), float(place)) for place, name in enumerate(names) for layer in layers
    ]
    table = pd.DataFrame(rows, columns=["vector", "layer", "norm", "x", "y"]).assign(x_share=0.42, y_share=0.2)
    return table.assign(**{"method": "pca", "normalize": True, **about})


def test_a_vector_is_a_line_through_its_layers():
    table = vector_table()
    fig = caa.plotting.plot_vector_map(table.sample(frac=1, random_state=0))
    assert {one.name for one in fig.data} == {"refusal", "mine"}
    for name in ("refusal", "mine"):
        line = trace(fig, name)
        rows = table[table["vector"] == name]
        assert (list(line.x), list(line.y)) == (rows["x"].tolist(), rows["y"].tolist())
        assert "lines" in line.mode
        assert line.marker.color == styles(["refusal", "mine"])[name].color
        assert [row[1] for row in line.customdata] == rows["norm"].tolist()
    assert len({one.marker.symbol for one in fig.data}) == 2


def test_ends_of_lines_and_every_fifth_layer_are_named():
    assert [list(one.text) for one in caa.plotting.plot_vector_map(vector_table()).data] == [
        [str(layer) if layer in (0, 5, 10, 11) else "" for layer in range(12)]
    ] * 2


def test_labels_that_would_lie_on_another_are_left_out():
    table = vector_table(("one", "two", "three")).assign(y=lambda t: t["y"].replace(1.0, 0.01))
    one, two, three = caa.plotting.plot_vector_map(table).data
    assert [bool(any(line.text)) for line in (one, two, three)] == [True, False, True]


def test_a_map_of_vectors_names_its_method_numbers_and_units():
    fig = caa.plotting.plot_vector_map(vector_table(), title="Map")
    title, x, y = titles(fig)
    assert title.startswith("Map<br>")
    assert "principal components (shares of variance) of vectors divided by their norms<br>2 vectors at 12 lay" in title
    assert (x, y) == ("component 1 (42 %)", "component 2 (20 %)")
    assert (
        "in units of the residual stream"
        in caa.plotting.plot_vector_map(vector_table(normalize=False)).layout.title.text
    )
    umap = vector_table(method="umap", n_neighbors=15).assign(x_share=np.nan, y_share=np.nan)
    assert titles(caa.plotting.plot_vector_map(umap))[1] == "UMAP 1"


def test_a_map_of_one_layer_and_of_real_vectors():
    assert [len(one.x) for one in caa.plotting.plot_vector_map(vector_table(("a", "b", "c"), layers=[4])).data] == [
        1,
        1,
        1,
    ]
    values = np.random.default_rng(0).normal(size=(2, 3, 8))
    named = {name: caa.SteeringVector(torch.tensor(value), (2, 5, 9)) for name, value in zip("ab", values, strict=True)}
    table = caa.analysis.project_vectors(named)
    lines = caa.plotting.plot_vector_map(table).data
    assert [x for one in lines for x in one.x] == table["x"].tolist()


# What is refused


@pytest.mark.parametrize("plot", [caa.plot_sweep, caa.plot_dose_response])
def test_a_table_that_is_no_sweep_is_refused(plot):
    with pytest.raises(caa.InputError, match=r"table: columns \['layer', 'vector'\] are missing.*caa_interp\.sweep"):
        plot(sweep_table().drop(columns=["layer", "vector"]))
    with pytest.raises(caa.InputError, match="table: it has no rows"):
        plot(sweep_table().iloc[:0])


@pytest.mark.parametrize("plot", [caa.plot_sweep, caa.plot_dose_response])
def test_a_measure_that_is_not_known(plot):
    with pytest.raises(caa.InputError, match="measure: 'logits' is not one of 'p_positive', 'logit_difference'"):
        plot(sweep_table(), measure="logits")


def test_a_vector_that_is_not_in_the_table():
    with pytest.raises(caa.InputError, match=r"vector: 'optimism' is not in the table; it holds \['refusal', 'v'\]"):
        caa.plot_sweep(sweep_table(("refusal", "v")), vector="optimism")


def test_a_layer_must_be_named_where_there_are_several():
    with pytest.raises(caa.InputError, match="layer: the table holds layers 1 to 10; name the one to show"):
        caa.plot_dose_response(sweep_table())


def test_a_layer_that_is_not_in_the_table():
    with pytest.raises(caa.InputError, match="layer: 3 is not in the table; it holds "):
        caa.plot_dose_response(sweep_table(), layer=3)


def test_layers_are_named_as_numbers():
    with pytest.raises(caa.InputError, match=r"it holds \[1, 2, 10\]"):
        caa.plot_dose_response(sweep_table(), layer=3)


@pytest.mark.parametrize("plot", [caa.plot_sweep, caa.plot_dose_response])
def test_a_summary_without_a_column_is_refused(plot):
    with pytest.raises(caa.InputError, match=r"\['vector'\] are missing"):
        plot(caa.summarize(sweep_table(layers=(1,))).drop(columns="vector"))


def test_a_table_that_is_no_projection_is_refused():
    with pytest.raises(
        caa.InputError, match=r"columns \['side', 'x'\] are missing; give the result of caa_interp.project"
    ):
        caa.plot_projection(projection_table().drop(columns=["x", "side"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {"behavior": "mine", "x_share": t["x_share"] / 2},
            r"points of layer 1 lie on 2 planes.*Draw one beh",
        ),
        (lambda _: {"model": "b"}, r"it holds several, with model \['a', 'b'\]"),
        (lambda _: {"method": "umap"}, r"it holds several, with method \['pca', 'umap'\]"),
        (lambda _: {"fit": "shared"}, r"it holds several, with fit \['each', 'shared'\]"),
    ],
)
def test_points_of_several_maps_are_refused(change, message):
    table = projection_table(model="a")
    with pytest.raises(caa.InputError, match=message):
        caa.plot_projection(pd.concat([table, table.assign(**change(table))]))


def test_a_projection_without_rows_is_refused():
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plot_projection(projection_table().iloc[:0])


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (projection_table(), {"color": "letter"}, "color: 'letter' is not one of 'side', 'behavior'"),
        (projection_table(), {"symbol": "id"}, "symbol: 'id' is not one of 'side', 'behavior', 'letter', 'topic'"),
        (
            projection_table(),
            {"color": "behavior"},
            "color: the table names no behaviors; give caa_interp.project a map",
        ),
        (
            projection_table().assign(order=""),
            {"symbol": "letter"},
            "symbol: some rows have no letter order. Collect choices with average_orders=False, or choose another",
        ),
        (projection_table(n=13), {"symbol": "topic"}, "symbol: there are 13 topics, but only 12 different"),
        (
            projection_table().assign(topic=None),
            {"symbol": "topic"},
            "symbol: some pairs have no topic. Leave them out",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_a_projection_cannot_show_is_said(table, options, said):
    with pytest.raises(caa.InputError, match=said):
        caa.plot_projection(table, **options)


def test_a_table_that_is_no_map_of_vectors_is_refused():
    with pytest.raises(caa.InputError, match=r"columns \['norm'\] are missing.*caa_interp.analysis.project_vectors"):
        caa.plotting.plot_vector_map(vector_table().drop(columns="norm"))
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plotting.plot_vector_map(vector_table().iloc[:0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: caa.plot_sweep(sweep_table()),
        lambda: caa.plot_projection(projection_table()),
        lambda: caa.plotting.plot_vector_map(vector_table()),
    ],
)
def test_a_figure_is_the_same_each_time(make):
    assert make().to_json() == make().to_json()


def test_tables_are_left_as_they_were():
    for plot, table in (
        (caa.plot_sweep, sweep_table(layers=(2,))),
        (caa.plot_dose_response, sweep_table(layers=(2,))),
        (caa.plot_projection, projection_table()),
        (caa.plotting.plot_vector_map, vector_table()),
    ):
        before = table.copy(deep=True)
        plot(table)
        pd.testing.assert_frame_equal(table, before)
