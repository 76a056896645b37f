"""Figures, tables and text as one self-contained HTML page."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import unescape
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.io import to_json
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from caa_interp.errors import InputError, check_ending
from caa_interp.files import write_atomically
from caa_interp.plotting.theme import SOFT, SUBTITLE_ROW

# Characters that are invisible, or that reverse the text after them: shown instead of obeyed.
_UNSEEN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\t\n"} | {
    code: f"\\u{code:04x}"
    for code in (0x7F, *range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)
}
_MARKUP = re.compile(r"</?(?:b|i|em|strong|s|u|sup|sub|span|a|br)\b[^>]*>", re.IGNORECASE)
# Pixels: least width of a figure and of a panel, width beside panels, height of a title, least height above panels.
_LEAST, _PANEL, _BESIDE_PANELS, _TITLE, _ABOVE = 400, 200, 90, 56, 34
# A cell of numbers alone, and the hyphens in it that are minus signs: not those of a date.
_NUMBERS, _MINUS = re.compile(r"(?:[-+\d.,;()%\s]|to|e)*"), re.compile(r"(?<![^\s(e])-(?=\d)")
_LONG = 60  # letters from which on a cell is running text


@dataclass(frozen=True)
class Row:
    """What is shown for one row of a map: traces, what they say, and for each column texts with their headings."""

    traces: go.Figure
    finding: str
    texts: Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Views:
    """What stands beside a map: that of one cell, which is chosen by a click, in two menus or by the page's address.

    The map is a heatmap whose ticks, as numbers, are the names of ``rows`` and of their columns. The map's last trace
    marks the chosen cell, at first ``start``. ``menus`` names rows and columns, as ``("layer", "multiplier")``. The
    traces of each row are shown in the layout of ``figure``, which holds those of the first one.
    """

    menus: tuple[str, str]
    start: tuple[str, str]
    rows: Mapping[str, Row]
    figure: go.Figure


@dataclass(frozen=True)
class Section:
    """One section of a report; all of its text is plain and escaped.

    A blank line in ``text`` starts a new paragraph, and ``points`` are a list below it. Figures are numbered; a
    figure's caption is its ``finding`` (a sentence without its period), the figure's own title and ``caption``. Every
    cell of a table is shown as text. ``data`` is what the figure or the table is made of, and can be saved as CSV.
    ``level`` is 2 for a section, 3 and 4 for parts of the one before. ``folded`` code or a folded table is hidden until
    asked for; two ``half`` sections in a row share a wide window.
    """

    heading: str
    text: str
    figure: go.Figure | None = None
    table: pd.DataFrame | None = None
    code: str = ""
    points: Sequence[str] = ()
    caption: str = ""
    level: int = 2
    folded: bool = False
    half: bool = False
    finding: str = ""
    data: pd.DataFrame | None = None
    views: Views | None = None


def write_report(
    path: str | Path,
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    lead: str = "",
    points: Sequence[str] = (),
    contents: int = 0,
) -> Path:
    """Write a page that needs no other file and no network.

    Parameters
    ----------
    path
        File to write; must end in ``.html``. It appears whole or not at all.
    title
        Title of the page.
    sections
        At least one section, in order.
    subtitle
        One line below the title.
    lead, points
        Text below the title; a blank line starts a new paragraph. A list below it.
    contents
        Level down to which sections are listed in a table of contents; default 0: no table of contents.

    Returns
    -------
    pathlib.Path
        The file.
    """
    path = Path(path)
    check_ending(path, ".html")
    if not sections:
        raise InputError("sections: the list is empty; give at least one.")
    for section in sections:
        if section.level not in (2, 3, 4):
            raise InputError(f"sections: {section.heading!r} has level {section.level}; it must be 2, 3 or 4.")
    environment = Environment(
        loader=PackageLoader("caa_interp.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    shown = [_shown(section, anchor) for section, anchor in zip(sections, anchors(sections), strict=True)]
    for number, figure in enumerate((one["figure"] for one in shown if one["figure"]), start=1):
        figure["number"] = number
    page = environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        lead=_paragraphs(lead),
        points=points,
        plotly_js=Markup(get_plotlyjs()),  # Plotly's own code, once for all figures
        sections=shown,
        contents=[one for one in shown if one["level"] <= contents],
    )
    # A lone surrogate, half of a character, is no text; it is shown by its number.
    write_atomically(path, page.encode("utf-8", errors="backslashreplace"))
    return path


def anchors(sections: Sequence[Section]) -> list[str]:
    """Unique name of each section for addresses and files: all headings down to it, as in ``"answers-refusal"``."""
    names: list[str] = []
    above: dict[int, str] = {}
    for section in sections:
        above = {level: name for level, name in above.items() if level < section.level}
        above[section.level] = re.sub(r"[^a-z0-9]+", "-", section.heading.lower()).strip("-")[:60] or "section"
        base = name = "-".join(above.values())
        number = 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names.append(name)
    return names


def _visible(value: Any) -> Any:
    """Text for the page, with invisible characters made visible; our own markup as it is."""
    return value if isinstance(value, Markup) else str(value).translate(_UNSEEN)


def _shown(section: Section, anchor: str) -> dict[str, Any]:
    table = section.table if section.table is not None else pd.DataFrame()
    return vars(section) | {
        "anchor": anchor,
        "paragraphs": _paragraphs(section.text),
        "figure": _figure(section.figure, section.finding) if section.figure is not None else None,
        "views": _views(section.views) if section.views is not None else None,
        "csv": _csv(section.data) if section.data is not None else None,
        "columns": [str(name) for name in table.columns],
        "rows": (rows := [[_cell(value) for value in row] for row in table.itertuples(index=False)]),
        "cards": any(cell["class"] == "long" for row in rows for cell in row),
    }


def _paragraphs(text: str) -> list[str]:
    return [paragraph for paragraph in re.split(r"\n\s*\n", str(text)) if paragraph]


def _csv(table: pd.DataFrame) -> Markup:
    """Address that holds a table as CSV."""
    content = table.to_csv(index=False).encode("utf-8", errors="backslashreplace")
    return Markup(f"data:text/csv;charset=utf-8;base64,{b64encode(content).decode()}")


def _views(views: Views) -> dict[str, Any]:
    """The figure that is shown first, the menus, and all that can be chosen as JSON."""
    row, column = views.start
    rows = {
        name: {"data": one.traces.to_dict()["data"], "finding": _visible(one.finding), "cells": _visible_texts(one)}
        for name, one in views.rows.items()
    }
    # What would be said of the first figure alone does not stay: the finding says it, and changes.
    figure = _figure(views.figure, views.rows[row].finding) | {"title": "", "subtitle": ""}
    return {
        "figure": figure,
        "menus": list(zip(views.menus, (views.rows, views.rows[row].texts), views.start, strict=True)),
        "json": Markup(to_json_plotly({"start": [row, column], "rows": rows}, engine="json")),
    }


def _visible_texts(row: Row) -> dict[str, Any]:
    return {column: [list(map(_visible, pair)) for pair in texts] for column, texts in row.texts.items()}


def _figure(figure: go.Figure, finding: str) -> dict[str, Any]:
    """A figure's data, title and least size; its title moves to the caption, unless a slider changes it."""
    spec = figure.to_dict()
    layout = spec["layout"]
    moved = {} if layout.get("sliders") else layout.pop("title", {})
    text = moved.get("text") or ""
    title, _, subtitle = text.replace(SOFT, " ").partition("<br>")
    height, fixed = layout.get("height") or 450, layout.get("width")
    if title:
        usual = layout.get("template", {}).get("layout", {}).get("margin", {})
        above = layout.get("margin", {}).get("t") or usual.get("t") or 100
        kept = max(_ABOVE, above - _TITLE - SUBTITLE_ROW * text.count(SOFT))
        height += kept - above
        layout["height"], layout["margin"] = height, {**layout.get("margin", {}), "t": kept}
    panels = {tuple(axis.get("domain", ())) for name, axis in layout.items() if name.startswith("xaxis")}
    return {
        # Plotly's JSON escapes what could end the script element around it.
        "json": Markup(to_json(spec, validate=False, engine="json")),
        "number": 0,
        "finding": finding,
        "title": _plain(title),
        "subtitle": _plain(subtitle),
        "least": int(fixed or max(_LEAST, _BESIDE_PANELS + _PANEL * len(panels))),
        "fixed": fixed is not None,
        "height": int(height),
    }


def _plain(text: str) -> str:
    """A text without Plotly's markup, on one line."""
    parts = (re.sub(r"\s+", " ", _MARKUP.sub(" ", part)).strip() for part in text.split("<br>"))
    return unescape("; ".join(part for part in parts if part))


def _cell(value: Any) -> dict[str, Any]:
    number = isinstance(value, Real) and not isinstance(value, bool)
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    text = _MINUS.sub("\N{MINUS SIGN}", text) if _NUMBERS.fullmatch(text) else text
    return {"class": "number" if number else "long" if len(text) > _LONG else "", "text": text}
