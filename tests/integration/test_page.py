"""A report opens in a browser: every figure is drawn, hostile texts stay texts, the console stays empty."""

import pandas as pd
import plotly.graph_objects as go

from caa_interp.report.page import Section, write_report
from tests.opened_page import Opened

ATTACK = "document.title='attacked';document.body.setAttribute('data-attacked','yes')"
HOSTILE = f'<script>{ATTACK}</script></script>"\'{{{{ 7 }}}}<img src=x onerror="{ATTACK}">'
COUNTED = (
    "(inside) => [...document.querySelectorAll('.plotly-graph-div')].map((one) => one.querySelectorAll(inside).length)"
)


def test_the_browser_tells_of_attacks_and_errors(browser, tmp_path):
    path = tmp_path / "attacked.html"
    path.write_text(f"<title>safe</title><body><script>{ATTACK};console.error('wrong');none()</script>")
    opened = Opened(browser, path)
    assert opened.page.title() == "attacked"
    assert opened.page.get_attribute("body", "data-attacked") == "yes"
    assert len(opened.told) == 2
    opened.page.close()


def test_every_figure_is_drawn_and_hostile_texts_stay_texts(browser, tmp_path):
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
    opened = Opened(browser, write_report(tmp_path / "page.html", f"safe {HOSTILE}", sections, lead=HOSTILE))
    page = opened.left_alone()
    page.evaluate("Plotly.Fx.hover(document.querySelector('.plotly-graph-div'), [{curveNumber: 0, pointNumber: 1}])")
    assert page.locator(".hovertext").count() == 1
    drawings = page.evaluate(COUNTED, ".main-svg")
    assert len(drawings) == 3
    assert min(drawings) >= 1
    assert page.evaluate(COUNTED, ".point") == [3, 0, 2]
    assert page.title() == f"safe {HOSTILE}"
    assert page.get_attribute("body", "data-attacked") is None
    assert [one for one in opened.told if not one.startswith("data:")] == []
    page.close()
