"""A report opens in a browser: every figure is drawn, hostile texts stay texts, the console stays empty."""

import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from caa_interp.report.page import Section, write_report

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
)
ATTACK = "document.title='attacked';document.body.setAttribute('data-attacked','yes')"
HOVER = """<script>addEventListener("load", () => setTimeout(() => Plotly.Fx.hover(
document.querySelector(".plotly-graph-div"), [{curveNumber: 0, pointNumber: 1}]), 500))</script></body>"""
HOSTILE = f'<script>{ATTACK}</script></script>"\'{{{{ 7 }}}}<img src=x onerror="{ATTACK}">'

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


class Drawn(HTMLParser):
    """Title and body of a page as the browser has it, and the drawings within each figure."""

    def __init__(self, dom: str) -> None:
        super().__init__()
        self.title = ""
        self.body: dict[str, str | None] = {}
        self.drawings: list[int] = []
        self.points: list[int] = []
        self.hovers = 0
        self.depth = 0
        self.in_title = False
        self.feed(dom)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        classes = (attributes.get("class") or "").split()
        if tag == "body":
            self.body = attributes
        self.in_title = self.in_title or (tag == "title" and not self.title)
        if "plotly-graph-div" in classes:
            self.drawings.append(0)
            self.points.append(0)
            self.depth = 1
        elif self.depth and tag == "div":
            self.depth += 1
        if self.depth:
            self.drawings[-1] += "main-svg" in classes
            self.points[-1] += "point" in classes
            self.hovers += "hovertext" in classes

    def handle_endtag(self, tag):
        if tag == "title":
            self.in_title = False
        if self.depth and tag == "div":
            self.depth -= 1

    def handle_data(self, data):
        if self.in_title:
            self.title += data


def browse(page: Path, profile: Path) -> tuple[Drawn, list[str]]:
    """Open a page; return what is drawn and the lines of the browser's console.

    Figures are drawn when the browser is idle, which is late on a busy machine: it gets more time if one is missing.
    """
    for budget in (8_000, 32_000, 128_000):
        done = subprocess.run(
            [
                str(CHROMIUM),
                *FLAGS,
                f"--virtual-time-budget={budget}",
                f"--user-data-dir={profile}-{budget}",
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        drawn = Drawn(done.stdout)
        if all(drawn.drawings):
            break
    return drawn, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_the_browser_tells_of_attacks_and_errors(tmp_path):
    page = tmp_path / "attacked.html"
    page.write_text(f"<title>safe</title><body><script>{ATTACK};console.error('wrong');none()</script>")
    drawn, console = browse(page, tmp_path / "profile")
    assert drawn.title == "attacked"
    assert drawn.body["data-attacked"] == "yes"
    assert len(console) == 2
    assert drawn.drawings == []


def test_every_figure_is_drawn_and_hostile_texts_stay_texts(tmp_path):
    scatter = go.Figure(go.Scatter(x=[1, 2, 3], y=[1, 3, 2], mode="markers", name=HOSTILE, text=[HOSTILE] * 3))
    scatter.update_layout(title=HOSTILE, annotations=[{"text": HOSTILE, "x": 1, "y": 1}])
    scatter.update_xaxes(title_text=HOSTILE)
    heatmap = go.Figure(
        go.Heatmap(z=[[1, 2], [3, 4]], x=["a", HOSTILE], y=[HOSTILE, "b"], hovertext=[[HOSTILE] * 2] * 2)
    )
    sections = [
        Section(HOSTILE, HOSTILE, figure=scatter, table=pd.DataFrame({HOSTILE: [HOSTILE]}), code=HOSTILE),
        Section("heatmap", "", figure=heatmap),
        Section("scatter", "", figure=go.Figure(go.Scatter(x=[1, 2], y=[2, 1], mode="markers"))),
    ]
    page = write_report(tmp_path / "page.html", f"safe {HOSTILE}", sections, lead=HOSTILE)
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", HOVER), encoding="utf-8")
    drawn, console = browse(page, tmp_path / "profile")
    assert len(drawn.drawings) == 3
    assert min(drawn.drawings) >= 1
    assert drawn.points == [3, 0, 2]
    assert drawn.hovers == 1
    assert drawn.title == f"safe {HOSTILE}"
    assert "data-attacked" not in drawn.body
    assert console == []
