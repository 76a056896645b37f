"""The browser draws a text in colors without a word in its console."""

import pandas as pd

import caa_interp as caa
from caa_interp.report.page import Section, write_report
from tests.integration.test_page import COUNTED
from tests.opened_page import Opened


def test_the_console_stays_empty(browser, tmp_path):
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
    path = write_report(tmp_path / "page.html", "Text", [Section("Text", "", caa.plot_token_similarity(table))])
    opened = Opened(browser, path)
    assert opened.left_alone().evaluate(COUNTED, ".point") == [len(words)]
    assert opened.told == []
    opened.page.close()
