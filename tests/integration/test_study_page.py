"""The page of a study in a real browser: drawn without a complaint, on a wide window, a phone and paper."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caa_interp.study.page import write_page
from tests.study_folder import write_study

sync_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
ATTACK = "document.title='attacked';document.body.setAttribute('data-attacked','yes')"
BEHAVIORS = {
    "optimism": 0.5,
    "findings": 0.0,
    f'</script><img src=x onerror="{ATTACK}">{{{{ 7 }}}}': 0.2,
    f"<script>{ATTACK}</script>\u202e\u05d0\u05d1 $x$ <b>": -0.2,
}
DRAWN = "() => [...document.querySelectorAll('.plotly-graph-div')].every((one) => one.querySelector('.main-svg'))"
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1200, "height": 900}
PAPER = 688  # pixels between the margins of A4

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), BEHAVIORS, answer=f"{list(BEHAVIORS)[2]} {'long ' * 40}")
    return write_page(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


class Opened:
    """A page, and what it complained of or asked the network for."""

    def __init__(self, browser: Any, path: Path, window: dict[str, int]) -> None:
        self.page = browser.new_page(viewport=window)
        self.told: list[str] = []
        self.page.on("console", lambda message: self.told.append(message.text))
        self.page.on("pageerror", lambda error: self.told.append(str(error)))
        self.page.on("request", lambda request: self.told.append(request.url) if "file:" not in request.url else None)
        self.page.goto(path.as_uri())

    def drawn(self) -> Any:
        self.page.wait_for_function(DRAWN, timeout=60_000)
        return self.page


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def opened(request, browser, study) -> Iterator[Opened]:
    opened = Opened(browser, study, request.param)
    yield opened
    opened.page.close()


def test_every_figure_is_drawn_and_nothing_is_complained_of(opened):
    page = opened.drawn()
    n_figures = page.evaluate("document.querySelectorAll('figure').length")
    assert n_figures == page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == 20
    page.hover(".plotly-graph-div .nsewdrag")
    assert [one for one in opened.told if not one.startswith("data:")] == []
    assert page.title() == "made up"
    assert page.get_attribute("body", "data-attacked") is None
    for name in list(BEHAVIORS)[:3]:
        assert page.locator("h3", has_text=name).first.is_visible()


def test_the_page_does_not_scroll_sideways(opened):
    page = opened.drawn()
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide == window
    # Nothing is cut either: what is wider than the window lies in a box that scrolls.
    cut = """() => [...document.querySelectorAll('main *')].filter((one) =>
        one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.table, .figure, pre')).length"""
    assert page.evaluate(cut) == 0
    if window == PHONE["width"]:
        scrolls = "() => [...document.querySelectorAll('.table')].some((one) => one.scrollWidth > one.clientWidth)"
        assert page.evaluate(scrolls)


def test_contents_lead_to_sections_by_keyboard(opened):
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#findings"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href")).count() == 1
    page.keyboard.press("Shift+Tab")
    page.locator("nav a", has_text="Side effects").press("Enter")
    page.wait_for_function("document.querySelector('#side-effects').getBoundingClientRect().top < innerHeight")


def test_figures_are_named_for_those_who_do_not_see_them(opened):
    names = opened.page.evaluate("[...document.querySelectorAll('[role=img]')].map((one) => one.ariaLabel)")
    assert len(names) == 20
    assert all(names)
    assert opened.page.get_attribute("html", "lang") == "en"


def test_paper_has_every_figure_whole_even_if_printed_at_once(browser, study, tmp_path):
    opened = Opened(browser, study, DESK)
    page = opened.page
    # Printing asks for what was not drawn yet, and makes figures smaller that are wider than the paper.
    page.emulate_media(media="print")
    widths = page.evaluate("""() => {
      dispatchEvent(new Event("beforeprint"));
      return [...document.querySelectorAll(".plotly-graph-div")].map((one) =>
        one.querySelector(".main-svg")?.getBoundingClientRect().width);
    }""")
    assert len(widths) == 20
    assert None not in widths
    assert max(widths) <= PAPER
    assert page.evaluate("""() => {
      dispatchEvent(new Event("afterprint"));
      return [...document.querySelectorAll(".plotly-graph-div")].every((one) => one.style.zoom === "");
    }""")
    page.pdf(path=tmp_path / "page.pdf", format="A4")
    content = (tmp_path / "page.pdf").read_bytes()
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", content)) <= 30
    assert opened.told == []
    page.close()


@pytest.mark.slow
def test_a_large_study_stays_light(browser, tmp_path):
    slopes = {f"behavior {number}": 0.1 * number for number in range(8)}
    folder = write_study(tmp_path / "run", slopes, layers=range(10), n_pairs=50, n_controls=4)
    path = write_page(folder)
    assert path.stat().st_size < 8e6  # of which Plotly is 4.8
    opened = Opened(browser, path, DESK)
    opened.drawn()
    assert opened.told == []
    opened.page.close()
