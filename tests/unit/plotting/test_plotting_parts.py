"""Figures of the parts and positions through which a vector acts: what is drawn is what the table says."""

import io

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import caa_interp as caa
from caa_interp.plotting import plot_effect_attribution, plot_position_map, theme


def attribution(per="component", controls=2, restored=True, n=12, name="optimism") -> pd.DataFrame:
    names = ["attention"] if per == "component" else ["head 0", "head 1"]
    parts = [(5, "direct"), *((layer, part) for layer in (6, 7) for part in (*names, "MLP")), (pd.NA, "remainder")]
    frames = []
    for number in range(1 + controls):
        size = 1.0 if not number else 0.1 * number
        value = size * np.arange(1, len(parts) + 1)
        frame = pd.DataFrame(parts, columns=["layer", "component"]).astype({"layer": "Int64"})
        frame["vector"], frame["kind"] = (f"random {number}", "random") if number else (name, "vector")
        for measure, shown in (("contribution", value), ("restored", -value), ("effect", value.sum())):
            frame = frame.assign(**{measure: shown, f"{measure}_low": shown - 0.5, f"{measure}_high": shown + 0.25})
        ends = frame["component"].isin(["direct", "remainder"]) | (not restored)
        frame.loc[ends, ["restored", "restored_low", "restored_high"]] = np.nan
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).assign(steered_layer=5, multiplier=1.0, n=n, format="text")


def dots_of(fig):
    return [one for one in fig.data if isinstance(one, go.Scatter) and one.mode == "markers"]


def traces(fig, kind, panel="x"):
    return [one for one in fig.data if isinstance(one, kind) and one.xaxis == panel]


def test_circles_are_contributions_and_diamonds_what_goes_away():
    fig = plot_effect_attribution(attribution())
    assert [note.text for note in fig.layout.annotations] == ["direct", "attention", "MLP"]
    for panel, layers, values in (("x", [5], [1]), ("x2", [6, 7], [2, 4]), ("x3", [6, 7], [3, 5])):
        drawn = [one for one in dots_of(fig) if one.xaxis == panel]
        assert [one.marker.symbol for one in drawn] == ["circle", "diamond"][: 1 if panel == "x" else 2]
        for one, sign in zip(drawn, (1, -1), strict=False):
            assert np.round(one.x).tolist() == layers
            assert all(f", layer {layer}, " in text for layer, text in zip(layers, one.customdata, strict=True))
            np.testing.assert_allclose(one.y, sign * np.array(values))
            np.testing.assert_allclose(one.error_y.array, 0.25)
            np.testing.assert_allclose(one.error_y.arrayminus, 0.5)
    assert [one.name for one in fig.data if one.showlegend] == ["contribution", "goes away when set back"]
    text = fig.layout.title.text
    assert "Through which parts optimism acts" in text
    assert "effect +21.000 (+20.500 to +21.250) nats per token per unit" in text
    assert "steered after layer 5; n = 12 pairs, 95 % interval; gray: range of 2 random vectors" in text


def test_the_gray_band_is_the_range_of_the_controls():
    fig = plot_effect_attribution(attribution())
    for panel, ranges in (("x", [(4.5, 5.5, 0.1, 0.2)]), ("x2", [(5.5, 6.5, 0.2, 0.4), (6.5, 7.5, 0.4, 0.8)])):
        (band,) = [one for one in traces(fig, go.Scatter, panel) if one.fill == "toself"]
        points = set(zip(band.x, np.round(np.array(band.y, dtype=float), 9), strict=True))
        assert points == {(x, y) for left, right, low, high in ranges for x in (left, right) for y in (low, high)}
    assert "gray: range of 2 random vectors of the same norm" in fig.layout.title.text
    alone = plot_effect_attribution(attribution(controls=0))
    assert "gray" not in alone.layout.title.text
    assert "1 random vector of the same norm" in plot_effect_attribution(attribution(controls=1)).layout.title.text


def test_after_the_last_block_there_is_one_dot():
    table = attribution()
    fig = plot_effect_attribution(table[table["component"].isin(["direct", "remainder"])])
    assert [(list(one.y), one.showlegend) for one in dots_of(fig)] == [([1], True)]


def test_without_patching_there_are_no_diamonds():
    fig = plot_effect_attribution(attribution(restored=False))
    assert {one.marker.symbol for one in dots_of(fig)} == {"circle"}


def test_heads_are_maps_with_the_mlp_as_the_last_column():
    fig = plot_effect_attribution(attribution("head"))
    first, second = [one for one in fig.data if isinstance(one, go.Heatmap)]
    assert list(first.x) == ["0", "1", "MLP"]
    assert list(first.y) == ["6", "7"]
    np.testing.assert_allclose(first.z, [[2, 3, 4], [5, 6, 7]])
    np.testing.assert_allclose(second.z, [[-2, -3, -4], [-5, -6, -7]])
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == 7
    # The largest of the controls are 0.2 * 6 for heads and 0.2 * 7 for MLPs.
    dots = dots_of(fig)[0]
    assert list(zip(dots.x, dots.y, strict=True)) == [(x, y) for y in ("6", "7") for x in ("0", "1", "MLP")]
    table = attribution("head")
    table.loc[table["kind"] == "random", "contribution"] *= 3  # 3.6 and 4.2
    few = plot_effect_attribution(table)
    dots = dots_of(few)[0]
    assert list(zip(dots.x, dots.y, strict=True)) == [("0", "7"), ("1", "7"), ("MLP", "7")]
    said = fig.layout.title.text.replace(theme.SOFT, " ")
    assert "dot: beyond all heads, or all MLPs, of 2 random vectors of the same norm" in said
    alone = plot_effect_attribution(attribution("head", controls=0, restored=False))
    assert len([one for one in alone.data if isinstance(one, go.Heatmap)]) == 1
    assert len(dots_of(alone)[0].x) == 0


@pytest.mark.parametrize("per", ["component", "head"])
def test_contributions_to_choices_are_in_nats(per):
    shown = plot_effect_attribution(attribution(per).assign(format="choices")).to_json()
    assert "nats per unit" in shown.replace("\\u003cbr\\u003e", " ").replace("<br>", " ")
    assert "per token" not in shown.replace("\\u003cbr\\u003e", " ").replace("<br>", " ")


def positions(controls=2, layers=(6, 8), n=12, name="optimism") -> pd.DataFrame:
    places = [
        "from the last prompt token on",
        "last prompt token alone",
        "answer token 1 alone",
        "from answer token 2 on",
    ]
    rows = [("effect", place, pd.NA, pd.NA) for place in places]
    measures = [("divergence", pd.NA), *(("projection", layer) for layer in layers)]
    rows += [(measure, places[1], distance, layer) for measure, layer in measures for distance in (0, 1)]
    frames = []
    for number in range(1 + controls):
        value = (1.0 if not number else 0.1 * number) * np.arange(1, len(rows) + 1)
        frame = pd.DataFrame(rows, columns=["measure", "steered", "distance", "layer"])
        frame = frame.astype({"distance": "Int64", "layer": "Int64"}).assign(value=value)
        frame["vector"], frame["kind"] = (f"random {number}", "random") if number else (name, "vector")
        frames.append(frame.assign(value_low=value - 0.5, value_high=value + 0.25))
    return pd.concat(frames, ignore_index=True).assign(steered_layer=5, multiplier=1.0, n=n, format="text")


def test_positions_are_dots_and_a_pulse_is_lines():
    fig = plot_position_map(positions())
    (dots,) = [one for one in traces(fig, go.Scatter) if one.mode == "markers"]
    np.testing.assert_allclose(dots.y, [1, 2, 3, 4])
    np.testing.assert_allclose(dots.error_y.arrayminus, 0.5)
    assert list(fig.layout.xaxis.ticktext) == ["all", "0", "1", "2+"]
    for panel, expected in (("x2", [[5, 6]]), ("x3", [[7, 8], [9, 10]])):
        lines = [one for one in traces(fig, go.Scatter, panel) if one.fill != "toself"]
        assert [list(one.x) for one in lines] == [[0, 1]] * len(expected)
        np.testing.assert_allclose([one.y for one in lines], expected)
        np.testing.assert_allclose(lines[0].error_y.arrayminus, 0.5)
    assert [one.name for one in fig.data if one.showlegend] == ["after layer 6", "after layer 8"]
    assert "n = 12 pairs, 95 % interval; gray: range of 2 random vectors of the same norm" in fig.layout.title.text


@pytest.mark.parametrize(
    ("plot", "table"),
    [
        (plot_position_map, positions()),
        (plot_effect_attribution, attribution()),
        (plot_effect_attribution, attribution("head")),
    ],
    ids=["positions", "parts", "heads"],
)
def test_a_table_is_drawn_alike_after_a_csv_file(plot, table):
    first, second = plot(table), plot(pd.read_csv(io.StringIO(table.to_csv(index=False))))
    for one, other in zip(first.data, second.data, strict=True):
        assert (one.name, one.showlegend) == (other.name, other.showlegend)
        assert np.array_equal(one.customdata, other.customdata)
        if one.type == "heatmap":
            assert list(one.y) == list(other.y)


def test_effects_of_positions_on_choices_are_in_nats():
    fig = plot_position_map(positions().assign(format="choices"))
    assert fig.layout.annotations[0].text == "effect of the steered positions<br>(nats per unit)"
    (dots,) = [one for one in traces(fig, go.Scatter) if one.mode == "markers"]
    assert all("nats per unit, n = 12" in text for text in dots.customdata)


def test_bands_of_positions_are_the_ranges_of_the_controls():
    fig = plot_position_map(positions())
    expected = {
        "x": {(at + side, size * (at + 1)) for at in range(4) for side in (-0.5, 0.5) for size in (0.1, 0.2)},
        "x2": {(d, size * (5 + d)) for d in (0, 1) for size in (0.1, 0.2)},
        "x3": {(d, size * (9 + d)) for d in (0, 1) for size in (0.1, 0.2)},
    }
    for panel, points in expected.items():
        (band,) = [one for one in traces(fig, go.Scatter, panel) if one.fill == "toself"]
        found = zip(band.x, np.array(band.y, dtype=float), strict=True)
        assert {(float(x), round(float(y), 9)) for x, y in found} == {(x, round(y, 9)) for x, y in points}


def test_places_that_no_answer_has_are_left_out():
    table = positions()
    absent = table["steered"] == "from answer token 2 on"
    table.loc[absent, ["value", "value_low", "value_high"]], table.loc[absent, "n"] = np.nan, 0
    fig = plot_position_map(table)
    assert list(fig.layout.xaxis.ticktext) == ["all", "0", "1"]
    assert len(dots_of(fig)[0].y) == 3


@pytest.mark.parametrize(
    ("plot", "made", "column", "source"),
    [
        (plot_effect_attribution, attribution, "contribution", "caa_interp.analysis.effect_attribution"),
        (plot_position_map, positions, "steered", "caa_interp.analysis.position_map"),
    ],
)
def test_what_cannot_be_drawn_is_refused(plot, made, column, source):
    with pytest.raises(caa.InputError, match=rf"columns \['{column}'\] are missing.*{source}"):
        plot(made().drop(columns=column))
    with pytest.raises(caa.InputError, match="twice; give the result of one call"):
        plot(pd.concat([made(), made()]))
    with pytest.raises(caa.InputError, match=r"vector \['optimism', 'refusal'\]\. Select one, and its controls"):
        plot(pd.concat([made(), made(controls=0, name="refusal")]))
    table = made(name="<b>&$x$")
    assert "&lt;b&gt;&amp;&#36;x&#36;" in plot(table).layout.title.text
    with pytest.raises(caa.InputError, match="it holds controls alone; give the rows of a steering vector"):
        plot(table[table["kind"] != "vector"])


def test_a_single_control_is_a_line():
    for fig in (plot_effect_attribution(attribution(controls=1)), plot_position_map(positions(controls=1))):
        bands = [one for one in fig.data if one.fill == "toself" and len(one.x)]
        assert bands
        assert all(one.line.width > 0 and one.line.color == one.fillcolor for one in bands)
