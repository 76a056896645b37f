"""One look: names are told apart by color and by symbol, and text is shown as it is."""

import itertools
import xml.etree.ElementTree as ET

import pandas as pd
import plotly.graph_objects as go
import pytest

import caa_interp as caa
from caa_interp.plotting import checks, theme, words


def lightness(color):
    """CIE L* (0 to 100), what a print in gray shows of a color."""
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_gray_prints_tell_names_apart_by_symbol():
    styles = list(theme.BEHAVIOR_STYLES.values())
    for field in ("color", "symbol"):
        assert len({getattr(style, field) for style in styles}) == len(styles) == 8


def test_symbols_are_plotlys_and_colors_stand_out_from_white():
    for style in theme.BEHAVIOR_STYLES.values():
        go.Scatter(marker={"symbol": style.symbol, "color": style.color})
        assert lightness(style.color) < 75


def test_every_behavior_has_a_style_of_its_own():
    assert set(theme.BEHAVIOR_STYLES) == set(caa.load_behaviors())


@pytest.mark.parametrize("names", [["refusal"], ["x", "refusal", "y"], ["optimism", "refusal", "sycophancy"]])
def test_a_behavior_looks_the_same_in_any_company(names):
    assert theme.styles(names)["refusal"] == theme.BEHAVIOR_STYLES["refusal"]
    assert list(theme.styles(names)) == names


def test_other_names_take_styles_that_are_free():
    found = theme.styles(["mine", "sycophancy", "yours"])
    assert len(set(found.values())) == 3
    for one, other in itertools.combinations(found.values(), 2):
        assert all(a != b for a, b in zip(one, other, strict=True))


def test_64_names_differ_in_color_or_symbol():
    found = theme.styles(str(number) for number in range(64))
    assert len({(style.color, style.symbol) for style in found.values()}) == 64


def test_names_beside_all_behaviors_differ_from_these_and_from_one_another():
    others = [f"vector {number}" for number in range(56)]
    found = theme.styles([*theme.BEHAVIOR_STYLES, *others])
    assert len(set(found.values())) == 64
    assert {name: found[name] for name in theme.BEHAVIOR_STYLES} == theme.BEHAVIOR_STYLES


def test_a_name_that_comes_twice_takes_one_style():
    assert theme.styles(["a", "b", "a"]) == theme.styles(["a", "b"])


def test_a_scale_for_magnitudes_keeps_its_order_in_gray():
    light = [lightness(color) for _, color in theme.SEQUENTIAL]
    assert light == sorted(light, reverse=True)
    assert min(a - b for a, b in itertools.pairwise(light)) > 8


def test_a_scale_for_signs_is_lightest_in_the_middle_and_its_ends_differ_in_gray():
    light = [lightness(color) for _, color in theme.DIVERGING]
    assert max(light) == light[2] > 95
    assert light[0] < light[1] < light[2] > light[3] > light[4]
    assert abs(light[0] - light[4]) > 20


@pytest.mark.parametrize("text", ["<b>", "a & b", "&lt;", "x < y > z", "<br><sub>", "plain"])
def test_escaped_text_is_read_back_as_it_was(text):
    escaped = theme.escape(text)
    assert ET.fromstring(f"<text>{escaped}</text>").text == text
    assert "<" not in escaped


def test_escaped_dollars_make_no_formula():
    assert theme.escape("$5 or $6") == "&#36;5 or &#36;6"
    assert theme.escape(7) == "7"


def test_long_names_are_cut_in_the_middle_where_they_differ_least():
    assert words.label("corrigible-neutral-HHH") == "corrigible-neutral-HHH"
    cut = [words.label(f"a-very-long-behavior-name-that-goes-on-{number}") for number in range(12)]
    assert len(set(cut)) == 12
    assert max(map(len, cut)) <= 24
    assert words.label("<b>") == "&lt;b&gt;"


def test_check_table_names_what_is_missing_and_where_it_comes_from():
    table = pd.DataFrame({"a": [1], "b": [2]})
    checks.check_table(table, ("b", "a"), "caa_interp.sweep")
    with pytest.raises(
        caa.InputError, match=r"table: columns \['c', 'd'\] are missing; give the result of caa_interp\.x"
    ):
        checks.check_table(table, ("d", "a", "c"), "caa_interp.x")
    with pytest.raises(caa.InputError, match=r"table: it has no rows; give the result of caa_interp\.x"):
        checks.check_table(table.iloc[:0], ("a",), "caa_interp.x")
    with pytest.raises(caa.InputError, match=r"table: dict, not a pandas DataFrame; give the result of caa_interp\.x"):
        checks.check_table({"a": 1}, ("a",), "caa_interp.x")


def test_figure_has_title_and_subtitle_in_the_common_look():
    fig = theme.figure("Title", "n = 3", height=321)
    assert fig.layout.title.text.startswith("Title<br><sup")
    assert "n = 3" in fig.layout.title.text
    assert fig.layout.height == 321
    assert fig.layout.template.layout.colorway == theme.PALETTE
    assert theme.figure("Only").layout.title.text == "Only"
    assert theme.figure("<b>, $", "<i>n</i> = 3").layout.title.text.startswith("&lt;b&gt;, &#36;<br><sup")
    assert "<i>n</i>" in theme.figure("Title", "<i>n</i> = 3").layout.title.text


def test_a_long_subtitle_is_broken_and_the_figure_grows_by_its_lines():
    whole, long = "n = 3", "a clause that says what is drawn; " * 5
    short, broken = (theme.figure("Title", text, **theme.room(400, t=90)) for text in (whole, long))
    assert (short.layout.height, short.layout.margin.t) == (400, 90)
    n_more = broken.layout.title.text.count(theme.SOFT)
    assert n_more >= 1
    assert (broken.layout.height, broken.layout.margin.t) == (400 + 22 * n_more, 90 + 22 * n_more)
    assert all(line.count(";") * 34 <= 110 for line in broken.layout.title.text.split("<br>"))
    assert broken.layout.title.text.replace(theme.SOFT, " ") == short.layout.title.text.replace(whole, long)


def test_rows_are_named_by_what_they_are_and_what_tells_them_apart():
    table = pd.DataFrame({"vector": ["v", "v", "w"], "operator": ["add", "ablate", "add"], "layer": [0, 0, 3.0]})
    assert checks.series_labels(table).tolist() == ["v, add", "v, ablate", "w, add"]
    assert checks.series_labels(table, "operator").tolist() == ["v", "v", "w"]
    assert checks.series_labels(table.assign(operator="add")).tolist() == ["v", "v", "w"]
    layers = table.assign(operator=["add", None, "add"], layer=[0, 3, 3], behavior=table["vector"])
    assert checks.labels_of(layers, ["behavior", "vector", "layer", "operator"]).tolist() == [
        "v, layer 0, add",
        "v, layer 3",
        "w, layer 3, add",
    ]
    assert checks.labels_of(table, []).tolist() == [""] * 3


def test_rows_that_stand_twice_say_in_what_they_differ():
    table = pd.DataFrame({"layer": [1, 1], "multiplier": [2.0, 2.0], "operator": ["add", "ablate"]})
    with pytest.raises(caa.InputError, match=r"'multiplier'\] differ in 'operator', which is one of \['add', 'abl"):
        checks.check_once(table, ["layer", "multiplier"], "caa_interp.sweep")
    with pytest.raises(caa.InputError, match=r"twice; give the result of one call of caa_interp\.sweep"):
        checks.check_once(table.assign(operator="add"), ["layer", "multiplier"], "caa_interp.sweep")


@pytest.mark.parametrize("dtype", ["float64", "Float64", "object", "category"])
def test_numbers_may_be_of_any_type_that_a_table_holds(dtype):
    values = pd.Series([0.5, None]).astype(dtype)
    if dtype == "object":
        values = values.where(values.notna(), pd.NA)
    table = pd.DataFrame({"slope": values, "slope_low": values, "slope_high": values, "n": 3})
    assert words.numbers(values) == ["+0.500", ""]
    assert words.estimates(table, "slope", "nats") == ["+0.500 (+0.500 to +0.500) nats, n = 3", "not measured"]


def test_controls_are_counted_by_kind_in_all_or_beside_each():
    table = pd.DataFrame({"behavior": [*"aab"], "vector": ["random 0", "random 1", "random 0"], "kind": "random"})
    assert words.controls(table) == "3 random vectors of the same norm"  # those of another behavior are others
    assert words.controls(table, ["behavior"]) == "1 to 2 random vectors of the same norm"
    assert words.controls(table[2:], ["behavior"]) == "1 random vector of the same norm"
    assert words.n_controls(table).to_dict() == {"random": 3}
    assert words.n_controls(table.drop(columns="behavior")).to_dict() == {"random": 2}
    assert words.n_controls(table, ["behavior"]).to_dict() == {("a", "random"): 2, ("b", "random"): 1}
    assert words.gray(table) == "; gray: range of 3 random vectors of the same norm"
    assert words.gray(table[:1]) == "; gray: 1 random vector of the same norm"
    assert words.gray(table[:0]) == ""
