"""Figures as files: their physical size, vector graphics, the numbers beside them, and what is refused."""

import asyncio
import contextlib
import json
import re
import struct
import sys
import zlib

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import caa_interp as caa
from caa_interp.plotting import export
from caa_interp.plotting.theme import DIVERGING, LEGEND_BELOW, SOFT, escape, figure, wrapped

INCHES = {1: 3.03, 2: 6.30}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """``(columns, suffix) -> bytes`` of the chart, drawn once each; skips where kaleido has no browser."""
    chromium = pytest.importorskip("choreographer.browsers.chromium").Chromium
    if not chromium.find_browser(skip_local=False):
        pytest.skip("no Chrome or Chromium browser is found")
    folder = tmp_path_factory.mktemp("figures")
    fig = chart()
    before = fig.to_json()
    asked = ((1, ".pdf"), (2, ".pdf"), (1, ".png"), (1, ".svg"), (2, ".svg"))
    found = {key: caa.save_figure(fig, folder / f"{key[0]}{key[1]}", columns=key[0]).read_bytes() for key in asked}
    assert fig.to_json() == before
    return found


@pytest.fixture
def table():
    return pd.DataFrame({"token": ["<b>", "a,b", "ü"], "cosine": [0.1, np.nan, -1 / 3]})


def chart():
    """A map with a missing cell and a line; a title that is too long for one column."""
    fig = figure("A title that is much longer than one column of a paper", "n = 3; its subtitle", height=400)
    fig.add_heatmap(z=[[1.0, -1.0], [np.nan, 0.5]], x=["l", "r"], y=["0", "1"], zmin=-1, zmax=1, colorscale=DIVERGING)
    fig.add_scatter(x=["l", "r"], y=["0", "1"], name=escape("costs $5 & <b>, not $6"), showlegend=True)
    return fig


def pages(pdf):
    return [[float(number) for number in box.split()] for box in re.findall(rb"/MediaBox ?\[([^\]]*)\]", pdf)]


def chunks(png):
    place = 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        kind, data = png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack(">I", png[place + 8 + length : place + 12 + length])
        assert checksum == zlib.crc32(kind + data)
        yield kind, data
        place += 12 + length


def contents(pdf):
    """Page description of a PDF of one page."""
    for stream in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.S):
        with contextlib.suppress(zlib.error):
            inflated = zlib.decompress(stream)
            if b" cm\n" in inflated:
                return inflated
    raise AssertionError("the PDF has no page description")


@pytest.mark.parametrize("columns", [1, 2])
def test_a_pdf_is_one_page_of_its_columns_width_in_vector_graphics(drawn, columns):
    pdf = drawn[columns, ".pdf"]
    ((left, bottom, right, top),) = pages(pdf)
    assert (left, bottom) == (0, 0)
    assert right == pytest.approx(72 * INCHES[columns], abs=0.5)
    height = export._laid_out(chart(), INCHES[columns]).layout.height
    assert top == pytest.approx(72 * height / export.PX_PER_INCH, abs=0.8)
    assert b"/Subtype /Image" not in pdf
    assert b"/FontFile" in pdf


@pytest.mark.parametrize("columns", [1, 2])
def test_a_pdf_is_filled_by_its_figure(drawn, columns):
    """Kaleido's own page leaves a margin around the figure, which is then smaller than it says."""
    content = contents(drawn[columns, ".pdf"])
    dot = float(content.split()[0])
    scale = dot * float(re.search(rb"\n(\S+) 0 0 \S+ 0 \S+ cm\n0 0 0 RG", content)[1])
    assert scale == pytest.approx(72 / export.PX_PER_INCH, rel=2e-3)


def test_a_png_has_300_dots_an_inch(drawn):
    found = dict(chunks(drawn[1, ".png"]))
    width, _ = struct.unpack(">II", found[b"IHDR"][:8])
    assert width == pytest.approx(300 * INCHES[1], abs=1)
    assert struct.unpack(">IIB", found[b"pHYs"]) == (11811, 11811, 1)
    assert list(found)[:2] == [b"IHDR", b"pHYs"]


@pytest.mark.parametrize("columns", [1, 2])
def test_an_svg_says_its_inches_and_holds_no_picture(drawn, columns):
    svg = drawn[columns, ".svg"].decode("utf-8")
    assert float(re.search(r'<svg[^>]* width="([0-9.]+)in"', svg)[1]) == pytest.approx(INCHES[columns])
    assert re.search(rf'viewBox="0 0 {round(126 * INCHES[columns])} ', svg)
    assert "<image" not in svg


def test_the_cells_of_a_map_are_rectangles_in_their_colors_and_missing_ones_are_not_drawn(drawn):
    cells = re.findall(r'<rect (?=[^>]*stroke-width="0.3")[^>]*>', drawn[2, ".svg"].decode("utf-8"))
    found = [tuple(re.search(rf'\b{name}="([^"]*)"', cell)[1] for name in ("x", "y", "fill")) for cell in cells]
    upwards = sorted((-float(y), float(x), fill) for x, y, fill in found)
    assert [fill for _, _, fill in upwards] == ["rgb(0,62,107)", "rgb(198,90,17)", "rgb(106,169,214)"]
    assert upwards[0][1] < upwards[1][1] == upwards[2][1]


def test_text_is_shown_as_it_is(drawn):
    assert "costs $5 &amp; &lt;b&gt;, not $6" in drawn[2, ".svg"].decode("utf-8")


def test_a_figure_is_drawn_while_an_event_loop_runs(drawn, tmp_path):
    """As in a notebook."""

    async def cell():
        return caa.save_figure(chart(), tmp_path / "figure.svg", columns=2)

    assert asyncio.run(cell()).stat().st_size == pytest.approx(len(drawn[2, ".svg"]), rel=0.01)


# Layout


@pytest.mark.parametrize("columns", [1, 2])
def test_letters_are_8_points_in_print(columns):
    fig = export._laid_out(chart(), INCHES[columns])
    points_per_px = 72 * INCHES[columns] / fig.layout.width
    assert fig.layout.template.layout.font.size * points_per_px == pytest.approx(8, rel=2e-3)


def test_long_titles_are_wrapped_and_the_figure_grows_by_their_lines():
    fig = export._laid_out(chart(), INCHES[1])
    lines = re.sub("<(?!br)[^>]*>", "", fig.layout.title.text.replace(SOFT, "<br>")).split("<br>")
    assert lines == [
        "A title that is much longer than one",
        "column of a paper",
        "n = 3; its subtitle",
    ]
    assert (fig.layout.height, fig.layout.margin.t) == (400 + 22, 78 + 22)
    fig = export._laid_out(chart(), INCHES[2])
    assert fig.layout.title.text == chart().layout.title.text
    assert (fig.layout.height, fig.layout.margin.t) == (400, 78)


def test_wrapping_counts_letters_not_markup_and_keeps_every_word():
    assert wrapped("a <b>b</b> c", 10) == "a <b>b</b> c"
    assert wrapped("aaaa bbbb cccc", 0.52 * 9) == f"aaaa bbbb{SOFT}cccc"
    assert wrapped("&lt;&lt;&lt;&lt; bbbb cccc", 0.52 * 9) == f"&lt;&lt;&lt;&lt; bbbb{SOFT}cccc"
    assert wrapped("aaaa<br>bbbb", 0.52 * 4) == "aaaa<br>bbbb"
    assert wrapped("<sup style='color:red'>aaaa bbbb</sup>", 0.52 * 7) == "<sup style='color:red'>aaaa bbbb</sup>"
    assert wrapped("extraordinarily", 1) == "extraordinarily"
    assert wrapped("a; bb cc dd ee", 0.52 * 9) == f"a;{SOFT}bb cc dd{SOFT}ee"
    assert wrapped("a&lt; bb cc dd", 0.52 * 9) == f"a&lt; bb cc{SOFT}dd"
    assert wrapped(f"aaaa bbbb{SOFT}cccc", 10) == "aaaa bbbb cccc"


def test_a_figure_that_is_wider_than_the_column_is_made_smaller_as_a_whole_as_far_as_it_can_be_read():
    fig = chart().update_layout(width=860)  # its subtitle, of 11.9 px, becomes 6.3 points
    assert export._laid_out(fig, INCHES[2]).layout.width == 860
    assert export.smallest_points(export._laid_out(fig, INCHES[2]), INCHES[2]) == pytest.approx(6.28, abs=0.01)
    assert export._laid_out(chart().update_layout(width=100), INCHES[1]).layout.width == 382
    with pytest.raises(
        caa.InputError, match=r"fig: at 3.03 in it would have text of 3.0 points, .*; give columns=2, or"
    ):
        export._laid_out(fig, INCHES[1])
    with pytest.raises(
        caa.InputError, match=r"fig: at 6.30 in it would have text of 3.6 points, .*; draw fewer panels"
    ):
        export._laid_out(fig.update_layout(width=1500), INCHES[2])


def test_panels_that_are_too_narrow_need_two_columns():
    fig = figure("Four panels")
    fig.set_subplots(rows=1, cols=4)
    fig.add_scatter(x=[1], y=[1], row=1, col=4)
    with pytest.raises(
        caa.InputError, match=r"it would have panels 0.\d in wide, which cannot be read.*give columns=2"
    ):
        export._laid_out(fig, INCHES[1])
    assert export._laid_out(fig, INCHES[2]).layout.width == 794


def test_a_legend_that_needs_more_lines_in_one_column_gets_room():
    fig = figure("Many", legend=LEGEND_BELOW, height=400, margin={"b": 80})
    for number in range(6):
        fig.add_scatter(x=[0, 1], y=[0, number], name=f"a long name {number}")
    one, two = (export._laid_out(fig, INCHES[columns]).layout for columns in (1, 2))
    assert one.margin.b - 80 == one.height - 400 >= 21
    assert (two.margin.b, two.height) == (80, 400)


def test_a_plain_plotly_figure_can_be_laid_out():
    fig = export._laid_out(go.Figure(go.Scatter(y=[1, 2]), layout={"template": None}), INCHES[1])
    assert (fig.layout.width, fig.layout.height, fig.layout.title.text) == (382, 286, None)


# Pages, JSON and numbers


def test_a_page_needs_nothing_else_and_shows_the_numbers(tmp_path, table):
    path = caa.save_figure(chart(), tmp_path / "figure.html", table=table)
    page = path.read_text("utf-8")
    assert not re.search(r"""<(script|link|img)[^>]+(src|href)=""", page)
    assert "Plotly.newPlot" in page
    body = page[page.index('<div class="numbers">') :]
    assert re.findall(r"<td>(.*?)</td>", body) == ["&lt;b&gt;", "0.1", "a,b", "", "ü", "-0.3333"]
    assert "<title>A title that is much longer than one column of a paper</title>" in page
    assert 'class="numbers"' not in caa.save_figure(chart(), tmp_path / "other.html").read_text("utf-8")


def test_a_title_cannot_end_its_element(tmp_path):
    page = caa.save_figure(figure("</title><script>x"), tmp_path / "figure.html").read_text("utf-8")
    assert "<title>&lt;/title&gt;&lt;script&gt;x</title>" in page


def test_json_is_plotlys_own_and_can_be_read_back(tmp_path):
    path = caa.save_figure(chart(), tmp_path / "figure.json")
    assert (
        go.Figure(json.loads(path.read_text("utf-8"))).to_dict() == go.Figure(json.loads(chart().to_json())).to_dict()
    )


def test_numbers_are_written_beside_the_figure_without_loss(tmp_path, table):
    path = caa.save_figure(chart(), tmp_path / "new" / "figure.v1.json", table=table)
    assert path == tmp_path / "new" / "figure.v1.json"
    assert sorted(file.name for file in path.parent.iterdir()) == ["figure.v1.json", "figure.v1.json.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(f"{path}.csv"), table, check_exact=True)


def test_numbers_of_the_same_name_are_not_overwritten(tmp_path, table):
    (tmp_path / "results.csv").write_text("mine")
    caa.save_figure(chart(), tmp_path / "results.json", table=table)
    assert (tmp_path / "results.csv").read_text() == "mine"


def test_without_a_table_there_is_one_file(tmp_path):
    caa.save_figure(chart(), tmp_path / "figure.json")
    assert [file.name for file in tmp_path.iterdir()] == ["figure.json"]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"path": "figure.gif"},
            r"path: 'figure.gif' ends in '.gif'; it must end in one of .pdf, .png, .svg, .html, .json",
        ),
        ({"path": "figure"}, r"path: 'figure' ends in ''; it must end in one of"),
        ({"columns": 3}, r"columns: 3; it must be 1 or 2, the columns of a paper"),
        ({"fig": {"data": []}}, r"fig: dict, not a Plotly figure; give the result of a plot_\* function"),
        ({"table": {"a": [1]}}, r"table: dict, not a pandas DataFrame; give the figure's table, or None"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(caa.InputError, match=message):
        caa.save_figure(**{"fig": chart(), "path": "figure.json", "columns": 1, "table": None, **changes})


def test_without_kaleido_the_install_line_is_named(tmp_path, monkeypatch, table):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    with pytest.raises(
        caa.errors.MissingDependencyError, match=r"pip install 'caa-interp\[figures\]'.*\.html or \.json"
    ):
        caa.save_figure(chart(), tmp_path / "figure.pdf", table=table)
    assert not list(tmp_path.iterdir())
    assert caa.save_figure(chart(), tmp_path / "figure.json").is_file()


@pytest.mark.parametrize(
    ("error", "message"),
    [("ChromeNotFoundError", r"none was found\. Install one"), ("BrowserFailedError", r"does not start \(why\)")],
)
def test_without_a_browser_what_to_do_is_named(tmp_path, monkeypatch, error, message):
    kaleido, errors = pytest.importorskip("kaleido"), pytest.importorskip("choreographer.errors")

    async def fails(*args, **kwargs):
        raise getattr(errors, error)("why")

    monkeypatch.setattr(kaleido, "calc_fig", fails)
    with pytest.raises(caa.errors.MissingDependencyError, match=message + r".*BROWSER_PATH"):
        caa.save_figure(chart(), tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
