"""One look for all figures: template, colors and symbols, titles, and text as Plotly must be given it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape as escape_html, unescape
from itertools import cycle
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

Measure = Literal["logit_difference", "p_positive"]

# Okabe and Ito (2008), the last one darkened from their yellow: distinct with every kind of color vision.
# Some are equally light, so wherever color carries a meaning a symbol carries it too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F6A00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star")


class Style(NamedTuple):
    """How one name is drawn. Its color and its symbol each set it apart from the others."""

    color: str
    symbol: str


# Eight looks that differ in color and in symbol; every further turn of them has the same colors with other symbols.
_STYLES = [Style(PALETTE[at], SYMBOLS[(at + turn) % len(SYMBOLS)]) for turn in range(8) for at in range(len(PALETTE))]
# The same behavior looks the same in every figure.
_BEHAVIORS = ("sycophancy", "refusal", "corrigible-neutral-HHH", "hallucination", "optimism", "coordinate-other-ais")
BEHAVIOR_STYLES = dict(zip((*_BEHAVIORS, "survival-instinct", "myopic-reward"), _STYLES, strict=False))
POSITIVE, NEGATIVE, NEUTRAL = "#0072B2", "#D55E00", "#6B7280"
# Lines of no effect, and of a value that is expected by chance.
NOTHING = {"color": NEUTRAL, "width": 1}
CHANCE = {**NOTHING, "dash": "dot"}
# Blue for positive, orange for negative, light in the middle; used only with a range centered on zero. Blue is the
# darker one, so that a print in gray tells the ends apart.
DIVERGING = [[0.0, "#C65A11"], [0.25, "#F2B183"], [0.5, "#F7F7F5"], [0.75, "#6AA9D6"], [1.0, "#003E6B"]]
# For magnitudes: from light to dark without a turn, so that a print in gray keeps the order.
SEQUENTIAL = [[0.0, "#F7F7F5"], [0.25, "#C6DDEE"], [0.5, "#6FB1DB"], [0.75, "#1F7DB8"], [1.0, "#053659"]]

# The smallest letters, in pixels: 6.3 points in print, see caa_interp.plotting.export.
SMALLEST = 11
# Pixels: a notebook's figure without a width of its own, beside a title, a line of a subtitle and of a legend.
SCREEN, EDGE, SUBTITLE_ROW, LEGEND_ROW = 700, 8, 22, 21
SOFT = "\N{ZERO WIDTH SPACE}<br>"  # a line break at which text goes on, where another width needs none
MONOSPACE = "'DejaVu Sans Mono', Menlo, Consolas, monospace"
DARK = "#101418"
MULTIPLIER, LAYER = "multiplier (of the raw vector)", "layer (block index)"
MULTIPLIER_WRAPPED = MULTIPLIER.replace(" (", "<br>(")  # for narrow panels
# The legend stands below, where it covers nothing; on a narrow figure it takes a line for each entry.
LEGEND_BELOW = {
    "orientation": "h",
    **{"x": 0, "xref": "container", "y": 0, "yref": "container", "yanchor": "bottom"},
    "tracegroupgap": 0,
}

_AXIS = {
    "showline": True,
    "linecolor": "#9aa5b1",
    "ticks": "outside",
    "gridcolor": "#eef1f4",
    "zeroline": False,
    "title": {"standoff": 10, "font": {"size": 14}},
    "automargin": True,  # so that no label is cut
    "exponentformat": "none",  # 0.0002, not 200 millionths by a letter
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, 'DejaVu Sans', sans-serif", "size": 14, "color": "#1f2933"},
        "title": {
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "y": 1.0,
            "yref": "container",
            "yanchor": "top",
            "pad": {"l": EDGE, "t": 26},  # down to the base line of the first of several lines
            "font": {"size": 17},
        },
        "colorway": PALETTE,
        "coloraxis": {"colorbar": {"exponentformat": "none"}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"bgcolor": "rgba(255,255,255,0.7)"},
        "margin": {"l": 70, "r": 24, "t": 78, "b": 62},
        "hoverlabel": {"font": {"size": 13}},
        "modebar": {"orientation": "v"},  # beside the figure, not over its title
    },
    data={"heatmap": [{"colorbar": {"title": {"font": {"size": 14}}, "outlinewidth": 0, "exponentformat": "none"}}]},
)


def figure(title: str, subtitle: str = "", **layout: object) -> go.Figure:
    """Empty figure in the common look, with a title as in :func:`entitled`."""
    return entitled(go.Figure(layout=go.Layout(template=TEMPLATE, **layout)), title, subtitle)


def entitled(fig: go.Figure, title: str, subtitle: str = "") -> go.Figure:
    """Put a title above a figure that has its width and margins, and return it.

    The title is plain text; the subtitle may hold Plotly's markup (:func:`escape` what is not ours). They are broken
    where a notebook ends, and the figure grows by these lines.
    """
    text = escape(title) + (f"<br><sup style='color:#52606d'>{subtitle}</sup>" if subtitle else "")
    across = (fig.layout.width or SCREEN) - 2 * EDGE
    fig.layout.title.text = wrapped(text, across / TEMPLATE.layout.title.font.size)
    if added := SUBTITLE_ROW * fig.layout.title.text.count(SOFT):
        top = fig.layout.margin.t
        fig.layout.margin.t = (TEMPLATE.layout.margin.t if top is None else top) + added
        fig.layout.height = fig.layout.height and fig.layout.height + added
    return fig


def room(height: float, *, legend: float = 0, **margin: float) -> dict[str, Any]:
    """Layout of a figure so many pixels high, with the margins ``l``, ``r``, ``t`` and ``b`` that are given.

    ``legend`` is the margin below for a legend that stands there; 0: there is none.
    """
    if not legend:
        return {"height": height, "margin": margin}
    return {"height": height, "margin": {**margin, "b": legend}, "legend": LEGEND_BELOW}


def styles(names: Iterable[str]) -> dict[str, Style]:
    """A style for every name: a behavior's own, else the next free one; up to 64 names differ in color or symbol."""
    names = list(dict.fromkeys(names))
    own = {name: BEHAVIOR_STYLES[name] for name in names if name in BEHAVIOR_STYLES}
    free = cycle(look for look in _STYLES if look not in own.values())
    return {name: own.get(name) or next(free) for name in names}


def faded(color: str, opacity: float) -> str:
    """A ``#rrggbb`` color with an opacity between 0 and 1."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def sign_color(multiplier: float) -> str:
    """Color of a condition by the sign of its multiplier."""
    return NEUTRAL if not multiplier else POSITIVE if multiplier > 0 else NEGATIVE


def ticks(places: Iterable[Any], names: Iterable[object]) -> dict[str, object]:
    """Ticks of an axis with a name at each place."""
    return {"tickvals": list(places), "ticktext": list(map(escape, names))}


def error_bars(rows: pd.DataFrame, name: str) -> dict[str, object]:
    """Plotly's error bars from the columns ``<name>_low`` and ``<name>_high`` around ``<name>``."""
    return {
        "type": "data",
        "symmetric": False,
        "array": rows[f"{name}_high"] - rows[name],
        "arrayminus": rows[name] - rows[f"{name}_low"],
        "thickness": 1.5,
    }


def small(text: str) -> str:
    """Markup of text in the smallest letters that can be read in print."""
    return f"<span style='font-size:{SMALLEST}px'>{text}</span>"


def letter_colors(shares: np.ndarray) -> np.ndarray:
    """Color of letters on a diverging color, -1 to 1: black where black has more contrast. It is at least 4.5."""
    return np.where(shares > 0.72, "#FFFFFF", "#000000")


def on_map(text: str, share: float) -> str:
    """Markup of the text in a cell of a signed map, whose value is a ``share`` of the scale's end, -1 to 1."""
    return f"<span style='color:{letter_colors(np.array(share))}'>{text}</span>" if text else ""


def color_axis(colors: list[list[object]], low: float, high: float, title: str) -> dict[str, object]:
    """Color axis from ``low`` to ``high`` with a slim bar."""
    return {"colorscale": colors, "cmin": low, "cmax": high, "colorbar": scale_bar(title)}


def scale_bar(title: str) -> dict[str, object]:
    """Slim color bar with its title above."""
    return {
        "title": {"text": f"{title}<br>\u00a0", "side": "top", "font": {"size": 13}},
        "thickness": 14,
        "exponentformat": "none",
    }


def escape(text: object) -> str:
    """Text as Plotly must be given it to show it as it is: no markup (``<b>``), no formula between dollar signs."""
    return escape_html(str(text), quote=False).replace("$", "&#36;")


def wrapped(markup: str, ems: float) -> str:
    """Plotly markup broken anew, so that no line is longer than a number of ems, by a letter's usual width.

    A line is broken after its last semicolon, if it has one.
    """
    letter, small = 0.52, 0.7  # ems; superscripts are 70 % of the size
    lines, used, scale, ended = "", 0.0, 1.0, False  # whether the last word ends a clause
    clause: tuple[int, float] | None = None  # where the last one of this line begins: in the text, and in ems
    for piece in re.findall(r"<[^>]*>|\s+|[^\s<]+|<", markup.replace(SOFT, " ")):
        if piece.startswith("<") and piece.endswith(">"):
            if piece.startswith("<br"):
                used, clause = 0.0, None
            elif "sup" in piece or "sub" in piece:
                scale = 1.0 if piece.startswith("</") else small
            lines += piece
            continue
        shown = unescape(piece)
        length = letter * scale * len(shown)
        if piece.isspace():
            lines, used = lines + piece, used + length
            clause = (len(lines), used) if ended else clause
            continue
        if used and used + length > ems:
            at, before = clause or (len(lines), used)
            lines, used, clause = f"{lines[:at].rstrip()}{SOFT}{lines[at:]}", used - before, None
        lines, used, ended = lines + piece, used + length, shown.endswith(";")
    return lines
