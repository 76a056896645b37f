"""The browser draws a text in colors without a word in its console."""

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.report.page import Section, write_report
from tests.integration.test_page import CHROMIUM, browse

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")


def test_the_console_stays_empty(tmp_path):
    words = ["<s>", "The", "rain", "may", "end", "and", "you", "will", "be", "glad"]
    table = pd.DataFrame(
        {
            "vector": "optimism",
            "position": range(len(words)),
            "token": words,
            "part": "prompt",
            "layer": 3,
            "special": [word == "<s>" for word in words],
            "cosine": [0.04 * number - 0.2 for number in range(len(words))],
            "projection": 1.0,
        }
    )
    page = write_report(tmp_path / "page.html", "Text", [Section("Text", "", caa.plot_token_similarity(table))])
    drawn, console = browse(page, tmp_path / "profile")
    assert drawn.points == [len(words)]
    assert console == []
