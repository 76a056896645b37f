"""Figures as files: in the widths of a paper's columns, with their numbers beside them."""

from __future__ import annotations

import asyncio
import re
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape as escape_html, unescape
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError, MissingDependencyError
from caa_interp.files import write_atomically
from caa_interp.plotting.theme import EDGE, wrapped

# Widths of the ACL style: a column is 7.7 cm, both with the gap between them 16 cm.
COLUMN_INCHES = {1: 3.03, 2: 6.30}
# Layout units per inch: the template's 14 px become 8 pt, and everything else keeps its proportion to the text.
PX_PER_INCH = 126
DOTS_PER_INCH = 300
SMALLEST_POINTS = 6.0
_NARROWEST = 70  # layout units of a panel that has room for its numbers
DRAWN = (".pdf", ".png", ".svg")
SUFFIXES = (*DRAWN, ".html", ".json")

# Added to the page in which kaleido draws. Kaleido's own leaves a margin of 0.1 in around a PDF and makes the figure
# smaller to fit. And Plotly draws the cells of a heatmap as a picture of one pixel each, which many viewers smooth:
# they become rectangles, with an outline against hairlines between them.
_DRAWING = "drawing.html"
_OTHERWISE = "Without it, save as .html or .json."

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ margin: 16px; font: 14px Helvetica, Arial, "DejaVu Sans", sans-serif; color: #1f2933; }}
.numbers {{ overflow: auto; max-height: 480px; margin-top: 16px; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 3px 10px; border-bottom: 1px solid #eef1f4; text-align: left; white-space: nowrap; }}
th {{ position: sticky; top: 0; background: white; }}
</style>
</head>
<body>
{figure}
{table}
</body>
</html>
"""


def save_figure(
    fig: go.Figure, path: str | Path, *, columns: Literal[1, 2] = 2, table: pd.DataFrame | None = None
) -> Path:
    """Write a figure to a file that a paper can include, and the numbers it shows beside it.

    Parameters
    ----------
    fig
        Result of a ``plot_*`` function, or any Plotly figure; it is not changed.
    path
        File to write, whole or not at all, by its ending: ``.pdf`` or ``.svg`` (vector graphics), ``.png`` (300 dots
        per inch), ``.html`` (a page that needs no other file and no network) or ``.json`` (Plotly's own form).
    columns
        Width of a PDF, SVG or PNG: 1 is a column of the ACL style (3.03 in, 7.7 cm), 2 its full width (6.30 in,
        16 cm). Include the file at its natural size.
    table
        The figure's data, written beside the figure as ``<file>.csv`` (``sweep.pdf.csv``, so that no other file is
        overwritten) and shown below it on a page.

    Returns
    -------
    pathlib.Path
        The figure's file.

    Raises
    ------
    InputError
        If an argument is not one of those above, or if text in print would be smaller than 6 points or panels too
        narrow for their numbers.
    MissingDependencyError
        If a PDF, SVG or PNG is asked for and kaleido or the browser that it needs is missing.

    Notes
    -----
    A figure for print is laid out again at 126 px per inch: text of 14 px on the screen is 8 pt, and margins, markers
    and lines keep their proportion to it. Titles too long for the width are wrapped; the height is the figure's own
    (``fig.layout.height / 126`` inches). A figure wider than the columns (382 or 794 px) is scaled down as a whole,
    as far as its text keeps 6 points. Figures with several panels side by side need two columns.

    Examples
    --------
    >>> caa.save_figure(caa.plot_sweep(table), "figures/sweep.pdf", columns=1, table=table)
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"path: {str(path)!r} ends in {suffix!r}; it must end in one of {', '.join(SUFFIXES)}.")
    if columns not in COLUMN_INCHES:
        raise InputError(f"columns: {columns!r}; it must be 1 or 2, the columns of a paper that the figure spans.")
    if not isinstance(fig, go.Figure):
        raise InputError(f"fig: {type(fig).__name__}, not a Plotly figure; give the result of a plot_* function.")
    if table is not None and not isinstance(table, pd.DataFrame):
        raise InputError(f"table: {type(table).__name__}, not a pandas DataFrame; give the figure's table, or None.")
    if suffix == ".json":
        content = fig.to_json().encode("utf-8")
    elif suffix == ".html":
        content = _page(fig, path.stem, table).encode("utf-8")
    else:
        content = _drawn(fig, suffix, COLUMN_INCHES[columns])
    if table is not None:
        write_atomically(path.with_name(f"{path.name}.csv"), table.to_csv(index=False).encode("utf-8"))
    write_atomically(path, content)
    return path


def _page(fig: go.Figure, name: str, table: pd.DataFrame | None) -> str:
    title = re.sub(r"<[^>]*>", " ", re.split("<br>", fig.layout.title.text or name)[0])
    shown = "" if table is None else table.to_html(index=False, border=0, na_rep="", float_format="{:.4g}".format)
    return _PAGE.format(
        title=escape_html(unescape(title)),
        figure=fig.to_html(full_html=False, include_plotlyjs=True, config={"responsive": True, "displaylogo": False}),
        table=f'<div class="numbers">{shown}</div>' if shown else "",
    )


def _drawn(fig: go.Figure, suffix: str, inches: float) -> bytes:
    try:
        import kaleido
        from choreographer.errors import BrowserFailedError, ChromeNotFoundError
    except ImportError as error:
        raise MissingDependencyError(
            f"{suffix} files need kaleido, which is not installed: pip install 'caa-interp[figures]'. {_OTHERWISE}"
        ) from error
    printed = _laid_out(fig, inches)
    width, height = printed.layout.width, printed.layout.height
    scale = inches / width * (DOTS_PER_INCH if suffix == ".png" else 96)  # a CSS pixel is 1/96 inch
    options = {"format": suffix[1:], "width": width, "height": height, "scale": scale}
    try:
        # Without MathJax, which would be fetched from the network, and would take what stands between dollar signs.
        # Our additions go after Plotly and before kaleido's own script.
        before, script, after = kaleido.PageGenerator(mathjax=False).generate_index().rpartition("<script")
        page = before + Path(__file__).with_name(_DRAWING).read_text(encoding="utf-8") + script + after
        kaleido_options = {"page_generator": SimpleNamespace(generate_index=lambda: page)}
        drawing = kaleido.calc_fig(printed.to_dict(), opts=options, kopts=kaleido_options)
        # In a thread, since a notebook has an event loop of its own; kaleido's server would not take our page.
        with ThreadPoolExecutor(1) as pool:
            content: bytes = pool.submit(asyncio.run, drawing).result()
    except ChromeNotFoundError as error:
        raise MissingDependencyError(
            f"{suffix} files are drawn with a Chrome or Chromium browser, and none was found. Install one, or run "
            f"`kaleido_get_chrome`, or set BROWSER_PATH to its program. {_OTHERWISE}"
        ) from error
    except BrowserFailedError as error:
        raise MissingDependencyError(
            f"{suffix} files are drawn with a Chrome or Chromium browser, and the one found does not start "
            f"({error}). `choreo_diagnose` says what is missing; BROWSER_PATH names another. {_OTHERWISE}"
        ) from error
    if suffix == ".png":
        return _with_resolution(content)
    return _with_inches(content, inches, inches * height / width) if suffix == ".svg" else content


def _laid_out(fig: go.Figure, inches: float) -> go.Figure:
    """Copy of a figure at the width of the columns, with its titles wrapped."""
    copy = go.Figure(fig)
    width = max(round(inches * PX_PER_INCH), copy.layout.width or 0)
    _check_legible(copy, width, inches)
    height = copy.layout.height or min(450, round(0.75 * width))
    template = copy.layout.template.layout
    size = copy.layout.title.font.size or template.title.font.size or 17
    text = copy.layout.title.text or ""
    broken = wrapped(text, (width - 2 * EDGE) / size)
    added = round(1.3 * size) * (broken.count("<br>") - text.count("<br>"))
    margin = copy.layout.margin.t if copy.layout.margin.t is not None else (template.margin.t or 100)
    copy.update_layout(width=width, height=height + added, margin_t=margin + added, autosize=False)
    legend = copy.layout.legend
    if legend.yref == "container" and copy.layout.margin.b is not None:
        names = [one.name for one in copy.data if one.name and one.showlegend is not False]
        letters = legend.font.size or template.font.size or 14
        # What the legend takes beyond the room that it was given, at the width for which figures are made.
        lines = [_legend_lines(names, at, letters) for at in (width, round(COLUMN_INCHES[2] * PX_PER_INCH))]
        below = round(1.5 * letters) * max(0, lines[0] - lines[1])
        copy.update_layout(height=copy.layout.height + below, margin_b=copy.layout.margin.b + below)
    if text:
        left = {"xref": "container", "x": 0, "xanchor": "left"}
        top = {"yref": "container", "y": 1 - EDGE / copy.layout.height, "yanchor": "top", "pad": {"l": EDGE, "t": size}}
        copy.update_layout(title={"text": broken, "font": {"size": size}, **left, **top})
    return copy


def _check_legible(fig: go.Figure, width: float, inches: float) -> None:
    """Raise :class:`InputError` if text would be too small in print, or panels too narrow for their numbers."""
    points = smallest_points(fig, inches, width)
    spans = [axis.domain[1] - axis.domain[0] for axis in fig.select_xaxes() if axis.domain] or [1.0]
    ticks = fig.layout.yaxis.ticktext
    labels = [] if ticks is None else [unescape(str(text)) for text in ticks]
    left = max(fig.layout.margin.l or 70, 20 + 8 * max(map(len, labels), default=0))
    narrowest = median(spans) * (width - left - (fig.layout.margin.r or 24))
    if points < SMALLEST_POINTS or narrowest < _NARROWEST:
        what = (
            f"text of {points:.1f} points"
            if points < SMALLEST_POINTS
            else f"panels {narrowest / PX_PER_INCH:.1f} in wide"
        )
        wider = (
            "give columns=2" if inches < COLUMN_INCHES[2] else "draw fewer panels, or give it a smaller layout.width"
        )
        raise InputError(
            f"fig: at {inches:.2f} in it would have {what}, which cannot be read in print (text needs at least "
            f"{SMALLEST_POINTS:g} points, a panel {_NARROWEST / PX_PER_INCH:.1f} in); {wider}, or save it as .html."
        )


def smallest_points(fig: go.Figure, inches: float, width: float | None = None) -> float:
    """Size of the smallest text of a figure, in points, when it is printed at this width."""
    layout = fig.layout.template.layout
    title = {"font": {"size": layout.title.font.size or 17}, **fig.layout.title.to_plotly_json()}
    shown = {**fig.to_dict(), "layout": {**fig.layout.to_plotly_json(), "title": title}}
    least = min(_sizes(shown, layout.font.size or 12))
    return float(least * 72 * inches / (width or fig.layout.width))


def _sizes(part: Any, size: float) -> Iterator[float]:
    """Font sizes in pixels: those that are named, and those that the markup of texts makes of them."""
    yield size
    if isinstance(part, dict):
        font: dict[str, Any] = next(
            (part[name] for name in ("font", "textfont") if isinstance(part.get(name), dict)), {}
        )
        here = font.get("size", size)
        here = here if isinstance(here, int | float) else size
        for name, value in part.items():
            if name.endswith("font") and isinstance(value, dict) and isinstance(value.get("size"), int | float):
                yield value["size"]
            if name not in ("template", "sliders"):  # a slider is not printed
                yield from _sizes(value, here)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _sizes(value, size)
    elif isinstance(part, str):
        yield from (float(one) for one in re.findall(r"font-size:\s*([\d.]+)px", part))
        if "<sup" in part or "<sub" in part:
            yield 0.7 * size


def _legend_lines(names: list[str], width: float, letters: float) -> int:
    """Lines that the entries of a level legend take, by a letter's usual width."""
    lines, used = 1, 0.0
    for name in names:
        length = 45 + 0.55 * letters * len(unescape(name))
        lines, used = (lines + 1, length) if used and used + length > width else (lines, used + length)
    return lines


def _with_resolution(png: bytes) -> bytes:
    """A PNG with its physical size: a ``pHYs`` chunk after the header, which always takes 33 bytes."""
    per_meter = round(DOTS_PER_INCH / 0.0254)
    chunk = b"pHYs" + struct.pack(">IIB", per_meter, per_meter, 1)
    return png[:33] + struct.pack(">I", 9) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]


def _with_inches(svg: bytes, width: float, height: float) -> bytes:
    """An SVG whose size is in inches: programs differ in what they take a pixel for."""
    head, closing, rest = svg.decode("utf-8").partition(">")
    head = re.sub(r'\bwidth="[^"]*"', f'width="{width:.4f}in"', head, count=1)
    head = re.sub(r'\bheight="[^"]*"', f'height="{height:.4f}in"', head, count=1)
    return (head + closing + rest).encode("utf-8")
