"""A report is one file that needs no other, shows every text as text, and is written whole or not at all."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

import caa_interp as caa
from caa_interp.plotting import theme
from caa_interp.report.page import Section, anchors, write_report

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(2)</script>",
    "\"><img src=x onerror='alert(3)'>",
    "{{ 7 * 191 }} {% raw %}",
    "&lt;script&gt;",
    "<!-- <script>",
]


class Page(HTMLParser):
    """Elements of a page with their attributes, and the text of each kind of element."""

    VOID = ("meta", "link", "br", "img")

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def figure(text: str = "effect") -> go.Figure:
    fig = go.Figure(go.Scatter(x=[1, 2], y=[3, 4], name=text, text=[text, text], hovertemplate=f"%{{text}} {text}"))
    fig.update_layout(title=text, annotations=[{"text": text, "x": 1, "y": 3}])
    return fig.update_xaxes(title_text=text)


def page_of(text: str, path: Path, n_figures: int = 2) -> str:
    """Page with ``text`` in every place that takes one."""
    table = pd.DataFrame({text: [text, "plain"], "number": [1.5, 2.0]})
    sections = [
        Section(text, text, figure=figure(text) if number < n_figures else None, table=table, code=text)
        for number in range(max(1, n_figures))
    ]
    return write_report(path / "page.html", text, sections, lead=text).read_text(encoding="utf-8")


# Hostile texts


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_make_no_elements(tmp_path, text):
    harmless, hostile = (Page(page_of(given, tmp_path)) for given in ("harmless", text))
    assert [name for name, _ in hostile.elements] == [name for name, _ in harmless.elements]
    for (_, one), (_, other) in zip(hostile.elements, harmless.elements, strict=True):
        assert one.keys() == other.keys()
    assert hostile.count("img") == 0
    assert not any(name.startswith("on") for _, attributes in hostile.elements for name in attributes)
    assert hostile.open == []


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_are_shown_as_they_are(tmp_path, text):
    page = Page(page_of(text, tmp_path))
    for tag in ("title", "h1", "h2", "code"):
        assert set(page.texts[tag]) == {text}
    assert page.texts["p"] == [text] * 3
    assert page.texts["th"] == [text, "number"] * 2
    assert page.texts["td"] == [text, "1.5", "plain", "2"] * 2


@pytest.mark.parametrize("text", [text for text in HOSTILE if "<" in text])
def test_hostile_texts_stand_nowhere_unescaped(tmp_path, text):
    html = page_of(text, tmp_path).replace(get_plotlyjs(), "")
    assert text not in html
    assert "\\u003c" in html
    assert "&lt;" in html


@pytest.mark.parametrize("text", HOSTILE)
def test_a_figure_still_holds_the_text_that_was_escaped(tmp_path, text):
    own = page_of(text, tmp_path, n_figures=1).replace(get_plotlyjs(), "")
    name = re.search(r'"name":("(?:[^"\\]|\\.)*")', own)
    assert json.loads(name[1]) == text


# One file


@pytest.mark.parametrize("n_figures", [0, 1, 3])
def test_plotlys_code_stands_once(tmp_path, n_figures):
    html = page_of("effect", tmp_path, n_figures)
    assert html.count(get_plotlyjs()) == 1
    assert html.count('<script type="application/json">') == n_figures
    assert html.count('class="plotly-graph-div"') == n_figures


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    page = Page(page_of("effect", tmp_path))
    references = [
        value
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert references == ["data:,"]
    own = page_of("effect", tmp_path).replace(get_plotlyjs(), "")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", own)
    assert "@import" not in own
    assert "url(" not in own


def test_the_page_names_its_encoding_and_keeps_its_letters(tmp_path):
    html = page_of("größer ≠ 大", tmp_path)
    assert html.index('<meta charset="utf-8">') < 200
    assert Page(html).texts["h1"] == ["größer ≠ 大"]


# Tables


def test_cells_show_numbers_short_and_all_else_as_text(tmp_path):
    table = pd.DataFrame(
        {"x": [0.123456, float("nan")], "n": [1234567, 0], "s": ["a\nb", None], "b": [True, False], "l": [[1], {}]}
    )
    path = write_report(tmp_path / "t.html", "t", [Section("h", "t", table=table)])
    page = Page(path.read_text(encoding="utf-8"))
    first, second = page.texts["td"][:5], page.texts["td"][5:]
    assert first == ["0.123", "1234567", "a\nb", "True", "[1]"]
    assert second[:2] == ["nan", "0"]
    assert second[3:] == ["False", "{}"]


def test_numbers_are_set_as_numbers(tmp_path):
    table = pd.DataFrame({"n": [3], "text": ["3"], "x": [0.5]})
    page = Page(write_report(tmp_path / "t.html", "t", [Section("h", "t", table=table)]).read_text(encoding="utf-8"))
    classes = [attributes.get("class") for name, attributes in page.elements if name == "td"]
    assert classes == ["number", None, "number"]


def test_sections_come_in_their_order_with_what_they_have(tmp_path):
    sections = [Section("one", "1", code="x = 1"), Section("two", "2", figure=figure()), Section("three", "3")]
    page = Page(write_report(tmp_path / "p.html", "t", sections).read_text(encoding="utf-8"))
    assert page.texts["h2"] == ["one", "two", "three"]
    assert page.texts["code"] == ["x = 1"]
    assert page.count("table") == 0
    assert sum(attributes.get("class") == "plotly-graph-div" for _, attributes in page.elements) == 1


# Parts of a section


def test_blank_lines_part_paragraphs_and_points_are_listed(tmp_path):
    section = Section("h", "one\nline\n\ntwo", points=["first", "<b>second"])
    page = Page(write_report(tmp_path / "p.html", "t", [section], lead="a\n \nb").read_text(encoding="utf-8"))
    assert page.texts["p"] == ["a", "b", "one\nline", "two"]
    assert page.texts["li"] == ["first", "<b>second"]


def test_code_is_folded_only_where_asked(tmp_path):
    sections = [Section("h", "", code="x"), Section("h", "", code="y", folded=True)]
    page = Page(write_report(tmp_path / "p.html", "t", sections).read_text(encoding="utf-8"))
    assert page.texts["code"] == ["x", "y"]
    assert page.count("details") == 1


def test_a_figures_title_becomes_its_caption(tmp_path):
    fig = figure()
    title = "A &lt;b&gt; title<br><sup style='color:red'>n = 3</sup><br><sup>95 % intervals</sup>"
    fig.update_layout(title=title, height=500, margin_t=100)
    given = fig.to_dict()
    html = write_report(tmp_path / "p.html", "t", [Section("h", "", fig, caption="Bars are wide.")]).read_text("utf-8")
    page = Page(html)
    assert page.texts["strong"] == ["Figure 1. A <b> title"]
    assert page.texts["figcaption"] == [" (n = 3; 95 % intervals). Bars are wide."]
    assert fig.to_dict() == given
    layout = json.loads(page.texts["script"][1])["layout"]
    assert "title" not in layout
    # What is drawn between the margins keeps its height.
    assert layout["height"] - layout["margin"]["t"] == 400


def test_numbers_of_a_table_have_minus_signs_and_other_texts_their_hyphens(tmp_path):
    shown = {"-1": "\N{MINUS SIGN}1", "0.5 (-0.1 to +1e-05)": "0.5 (\N{MINUS SIGN}0.1 to +1e\N{MINUS SIGN}05)"}
    shown |= {text: text for text in ("2026-11-28", "x is -1", "corrigible-neutral-HHH", "")}
    table = pd.DataFrame({"one": [*shown, -0.25]})
    page = Page(write_report(tmp_path / "p.html", "t", [Section("h", "", table=table)]).read_text("utf-8"))
    assert page.texts["td"] == [*shown.values(), "\N{MINUS SIGN}0.25"]


def test_a_caption_has_no_trace_of_the_lines_into_which_a_title_was_broken(tmp_path):
    part = "what is drawn here; and what that means"
    fig = theme.figure("A title " * 20, "; ".join([part] * 4), height=500, margin={"t": 100})
    assert fig.layout.title.text.count(theme.SOFT) > 2
    page = Page(write_report(tmp_path / "p.html", "t", [Section("h", "", fig)]).read_text("utf-8"))
    assert page.texts["strong"] == [f"Figure 1. {'A title ' * 20}".strip()]
    assert page.texts["figcaption"] == [f" ({'; '.join([part] * 4)})"]
    layout = json.loads(page.texts["script"][1])["layout"]
    assert (layout["height"] - layout["margin"]["t"], layout["margin"]["t"]) == (400, 100 - 56)


def test_a_title_that_a_slider_changes_stays_in_the_figure(tmp_path):
    fig = figure("first")
    fig.update_layout(sliders=[{"steps": [{"method": "update", "args": [{}, {"title.text": "second"}]}]}])
    page = Page(write_report(tmp_path / "p.html", "t", [Section("h", "", fig)]).read_text("utf-8"))
    assert json.loads(page.texts["script"][1])["layout"]["title"]["text"] == "first"
    assert page.texts["strong"] == ["Figure 1. "]
    assert page.texts["figcaption"] == [""]


@pytest.mark.parametrize(("width", "columns", "style"), [(700, 4, "width: 700px"), (None, 4, "min-width: 890px")])
def test_a_figure_is_at_least_as_wide_as_its_panels_need(tmp_path, width, columns, style):
    fig = go.Figure().set_subplots(cols=columns).update_layout(width=width)
    page = Page(write_report(tmp_path / "p.html", "t", [Section("h", "", fig)]).read_text("utf-8"))
    (given,) = [given["style"] for _, given in page.elements if given.get("class") == "plotly-graph-div"]
    assert given.split("; ")[1] == style


def test_contents_link_to_sections_down_to_a_level(tmp_path):
    sections = [Section("Ä b", ""), Section("part", "", level=3), Section("a b", ""), Section("?", "", level=4)]
    pages = [
        Page(write_report(tmp_path / "p.html", "t", sections, contents=level).read_text("utf-8")) for level in (0, 2, 3)
    ]
    links = [[given["href"] for name, given in page.elements if name == "a"] for page in pages]
    assert links == [[], ["#b", "#a-b"], ["#b", "#b-part", "#a-b"]]
    ids = [given["id"] for name, given in pages[0].elements if name in ("h2", "h3", "h4")]
    assert ids == ["b", "b-part", "a-b", "a-b-section"]


def test_anchors_differ_and_fit_file_names():
    names = ["same", "Same!", "same-2", "same", "../../etc", "x" * 500, "\ud800"]
    found = anchors([Section(name, "") for name in names])
    assert found == ["same", "same-2", "same-2-2", "same-3", "etc", "x" * 60, "section"]
    nested = anchors([Section("a-b", ""), Section("a", ""), Section("b", "", level=3)])
    assert nested == ["a-b", "a", "a-b-2"]


def test_a_level_that_there_is_not(tmp_path):
    with pytest.raises(caa.InputError, match="sections: 'h' has level 1; it must be 2, 3 or 4"):
        write_report(tmp_path / "p.html", "t", [Section("h", "", level=1)])


def test_what_is_no_text_is_shown_by_its_number(tmp_path):
    text = "a\ud800b\x00c\u202ed"
    table = pd.DataFrame({"x": [text]}, dtype=object)
    path = write_report(tmp_path / "p.html", text, [Section(text, text, figure(text), table)])
    page = Page(path.read_text(encoding="utf-8"))
    for tag in ("title", "h1", "h2", "p", "td", "strong"):
        assert page.texts[tag][-1].removeprefix("Figure 1. ") == "a\\ud800b␀c\\u202ed"
    assert json.loads(page.texts["script"][1])["data"][0]["name"] == text


# Files


def test_the_file_is_returned_and_folders_are_made(tmp_path):
    path = write_report(str(tmp_path / "a" / "b" / "page.html"), "t", [Section("h", "t")])
    assert path == tmp_path / "a" / "b" / "page.html"
    assert path.is_file()


class Unprintable:
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "failing",
    [
        Section("h", "t", table=pd.DataFrame({"x": [Unprintable()]})),
        Section("h", Unprintable()),
        Section("h", "t", figure="no figure"),
    ],
    ids=["table", "text", "figure"],
)
def test_a_section_that_fails_leaves_the_old_file(tmp_path, failing):
    path = write_report(tmp_path / "page.html", "old", [Section("h", "t")])
    old = path.read_bytes()
    with pytest.raises((RuntimeError, AttributeError)):
        write_report(path, "new", [Section("h", "t"), failing])
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_disk_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_report(tmp_path / "page.html", "old", [Section("h", "t")])
    old = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("caa_interp.files.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(path, "new", [Section("h", "t")])
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


def test_a_new_page_replaces_the_old_one(tmp_path):
    for title in ("old", "new"):
        path = write_report(tmp_path / "page.html", title, [Section("h", "t")])
    assert Page(path.read_text(encoding="utf-8")).texts["title"] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("name", ["page", "page.htm", "page.html.txt", ".html", ""])
def test_a_path_that_is_no_page(tmp_path, name):
    with pytest.raises(caa.InputError, match=r"path: .* must end in '\.html'"):
        write_report(tmp_path / name, "t", [Section("h", "t")])
    assert list(tmp_path.iterdir()) == []


def test_a_report_without_sections(tmp_path):
    with pytest.raises(caa.InputError, match="sections: the list is empty; give at least one"):
        write_report(tmp_path / "page.html", "t", [])
    assert list(tmp_path.iterdir()) == []
