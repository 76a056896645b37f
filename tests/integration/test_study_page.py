"""The page of a study in a real browser: drawn without a complaint, on a wide window, a phone and paper."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from caa_interp.study.page import write_page
from tests.opened_page import Opened
from tests.study_folder import write_study

ATTACK = "document.title='attacked';document.body.setAttribute('data-attacked','yes')"
BEHAVIORS = {
    "optimism": 0.5,
    "findings": 0.0,
    f'</script><img src=x onerror="{ATTACK}">{{{{ 7 }}}}': 0.2,
    f"<script>{ATTACK}</script>\u202e\u05d0\u05d1 $x$ <b>": -0.2,
}
PHONE, DESK = {"width": 390, "height": 740}, {"width": 1200, "height": 900}
PAPER = 688  # pixels between the margins of A4
N_FIGURES = 29  # of the study below


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    folder = write_study(tmp_path_factory.mktemp("study"), BEHAVIORS, answer=f"{list(BEHAVIORS)[2]} {'long ' * 40}")
    return write_page(folder)


@pytest.fixture(params=[DESK, PHONE], ids=["desk", "phone"])
def opened(request, browser, study) -> Iterator[Opened]:
    opened = Opened(browser, study, request.param)
    yield opened
    opened.page.close()


@pytest.fixture(scope="module", params=[DESK, PHONE], ids=["desk", "phone"])
def shown(request, browser, study) -> Iterator[Opened]:
    """A page that was left alone until it had drawn all figures, for tests that leave it as it is."""
    shown = Opened(browser, study, request.param)
    shown.left_alone()
    yield shown
    shown.page.close()


UNDER_TOOLBARS = """() => [...document.querySelectorAll(".plotly-graph-div")].flatMap((figure) => {
  const bar = figure.querySelector(".modebar").getBoundingClientRect();
  const covered = (box) => box.width && box.right > bar.left + 1 && box.left < bar.right - 1
    && box.bottom > bar.top + 1 && box.top < bar.bottom - 1;
  return [...figure.querySelectorAll("svg text")].filter((text) => covered(text.getBoundingClientRect()));
}).map((text) => text.textContent)"""


def test_no_toolbar_stands_over_a_text(shown):
    page = shown.page
    assert page.evaluate("document.querySelectorAll('.plotly-graph-div .modebar').length") > 20
    assert set(page.evaluate(UNDER_TOOLBARS)) <= {*list(BEHAVIORS)[2:]}  # names that are longer than a panel is wide


def test_every_figure_is_drawn_and_nothing_is_complained_of(shown):
    page = shown.page
    n_figures = page.evaluate("document.querySelectorAll('figure').length")
    assert n_figures == page.evaluate("document.querySelectorAll('.js-plotly-plot').length") == N_FIGURES
    page.hover(".plotly-graph-div .nsewdrag")
    assert [one for one in shown.told if not one.startswith("data:")] == []
    assert page.title() == "made up"
    assert page.get_attribute("body", "data-attacked") is None
    for name in list(BEHAVIORS)[:3]:
        assert page.locator("h3", has_text=name).first.is_visible()


def test_the_page_does_not_scroll_sideways(shown):
    page = shown.page
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide == window
    # Nothing is cut either: what is wider than the window lies in a box that scrolls.
    cut = """() => [...document.querySelectorAll('main *')].filter((one) =>
        one.getBoundingClientRect().right > innerWidth + 1 && !one.closest('.table, .figure, pre')).length"""
    assert page.evaluate(cut) == 0


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


def test_figures_are_named_for_those_who_do_not_see_them(shown):
    names = shown.page.evaluate("[...document.querySelectorAll('[role=img]')].map((one) => one.ariaLabel)")
    assert len(names) == N_FIGURES
    assert all(names)
    assert shown.page.get_attribute("html", "lang") == "en"


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
    assert len(widths) == N_FIGURES
    # What follows a choice is for the screen: on paper it takes no place.
    assert widths.count(0) == 4
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


def state_of(page: Any, section: str) -> dict[str, Any]:
    """What a map and all that stands beside it show."""
    return page.evaluate(
        """(id) => {
          const section = document.getElementById(id).closest("section");
          const [map, figure] = section.querySelectorAll(".plotly-graph-div");
          const mark = map.data[map.data.length - 1];
          return {
            chosen: [...section.querySelectorAll("select")].map((one) => one.value),
            mark: [String(mark.y[0]), String(mark.x[0])],
            ticks: [...map.querySelectorAll(".xtick, .ytick")].map((one) => one.textContent),
            drawn: section.querySelector(".views .scatterlayer").innerHTML,
            finding: section.querySelector(".views figcaption").textContent,
            texts: section.querySelector("dl").innerText,
          };
        }""",
        section,
    )


def click_cell(page: Any, section: str, column: float, row: float) -> None:
    """Click a map at a share of its width and of its height, from the lower left."""
    box = page.locator(f"section:has(#{section}) > figure .nsewdrag").first
    box.scroll_into_view_if_needed()
    size = box.bounding_box()
    box.click(position={"x": column * size["width"], "y": (1 - row) * size["height"]})


OPTIMISM, OTHER = "layers-and-multipliers-optimism", "layers-and-multipliers-findings"


def test_a_cell_leads_to_what_is_known_of_it_and_the_address_leads_there_again(opened, browser, study):
    page = opened.drawn()
    first = state_of(page, OPTIMISM)
    assert first["chosen"] == first["mark"] == ["3", "2"]
    assert "Question 0?" in first["texts"]
    click_cell(page, OPTIMISM, 0.3, 0.2)  # layer 1, multiplier -1
    page.wait_for_function("location.hash !== ''")
    page.wait_for_timeout(200)
    then = state_of(page, OPTIMISM)
    assert then["chosen"] == then["mark"] == ["1", "-1"]
    assert then["drawn"] != first["drawn"]
    assert then["ticks"] == first["ticks"]
    assert then["finding"].startswith("Optimism moves in the opposite direction at layer 1: ")
    assert "no controls at this layer" in then["finding"]
    assert "The study holds these at layer 3 only" in then["texts"]
    assert "Question 0?" not in then["texts"]

    # The menus do the same, for another behavior beside the first.
    page.locator(f"section:has(#{OTHER}) select").nth(1).select_option("0")
    page.wait_for_timeout(200)
    other = state_of(page, OTHER)
    assert other["chosen"] == other["mark"] == ["3", "0"]
    assert page.evaluate("location.hash") == f"#{OPTIMISM}=1_-1&{OTHER}=3_0"

    anew = Opened(browser, study, page.viewport_size, page.evaluate("location.hash"))
    anew.drawn().wait_for_timeout(200)
    assert [state_of(anew.page, name)["chosen"] for name in (OPTIMISM, OTHER)] == [["1", "-1"], ["3", "0"]]
    assert {**state_of(anew.page, OPTIMISM), "drawn": ""} == {**then, "drawn": ""}
    top = anew.page.evaluate(f"document.getElementById('{OTHER}').getBoundingClientRect().top")
    assert -50 < top < page.viewport_size["height"]
    anew.page.close()

    for expected in ({**then, "drawn": ""}, {**first, "drawn": ""}):
        page.go_back()
        page.wait_for_timeout(200)
        assert {**state_of(page, OPTIMISM), "drawn": ""} == expected
    assert [one for one in opened.told + anew.told if not one.startswith("data:")] == []


@pytest.mark.parametrize("address", ["#findings", f"#{OPTIMISM}=9_9", f"#{OPTIMISM}=constructor_x", "#%zz=1_2", "#=&&"])
def test_an_address_of_no_cell_opens_the_page_as_it_is(browser, study, address):
    opened = Opened(browser, study, DESK, address)
    if address == "#findings":
        opened.drawn()
    section = opened.page.locator(f"section:has(#{OPTIMISM})")
    section.scroll_into_view_if_needed()  # its figures are drawn then, the others when the page is idle
    for number in range(2):
        section.locator(".plotly-graph-div").nth(number).locator(".main-svg").first.wait_for()
    assert state_of(opened.page, OPTIMISM)["chosen"] == ["3", "2"]
    assert opened.told == []
    opened.page.close()


def test_a_table_is_saved_by_its_link(shown, study):
    with shown.page.expect_download() as saved:
        shown.page.locator("a[download='findings.csv']").click()
    expected = pd.read_parquet(study.parent / "tables" / "effects.parquet")
    pd.testing.assert_frame_equal(pd.read_csv(saved.value.path()), expected, check_dtype=False)
    assert [one for one in shown.told if not one.startswith("data:")] == []


def test_answers_are_cards_on_a_phone(shown):
    row = shown.page.locator("section:has(#steered-answers-optimism) tbody tr").nth(1)
    labels = row.locator("td").evaluate_all("(cells) => cells.map((one) => getComputedStyle(one, '::before').content)")
    is_phone = shown.page.viewport_size == PHONE
    assert row.evaluate("(one) => getComputedStyle(one).display") == ("block" if is_phone else "table-row")
    named = ['"prompt"', '"multiplier \N{MINUS SIGN}4"', '"unsteered"', '"multiplier +4"']
    assert labels == (named if is_phone else ["none"] * 4)
    assert row.locator("td").nth(1).inner_text().endswith("[…]")


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
