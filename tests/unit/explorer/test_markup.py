"""Cards mark the words that differ, color tokens, and show any text as text."""

import re
from html import unescape

import numpy as np
import pandas as pd
import pytest

from caa_interp.explorer.markup import MEASURES, card, page
from caa_interp.explorer.trials import Added, Record, Trial
from caa_interp.steering.generation import Answer

STEERED = Trial("How?", (Added("v", 3, 2.0),))


def record(pieces, changes):
    """A complete answer of such tokens."""
    ends = np.cumsum([len(piece) for piece in pieces]).tolist()
    columns = {"token": pieces, "change": changes, "cosine": np.nan}
    columns |= {"likeliest": "0.5 <i>\n0.2 b", "likeliest_unsteered": "0.4 'c'\n0.3 d"}
    return Record(Answer("".join(pieces), tuple(range(len(pieces))), True), ends, True, pd.DataFrame(columns))


def spans(made):
    """Class, background, letters, hover text and text of every token of a card."""
    found = re.findall(
        r"<span class='([^']*)' style='background: ([^;]*); color: ([^']*)' data-read='([^']*)'>([^<]*)</span>", made
    )
    return [tuple(map(unescape, one)) for one in found]


@pytest.mark.parametrize(
    ("pieces", "reference", "new"),
    [
        (["It", " is", " won", "derful", "."], "It is bad.", [0, 0, 1, 1, 1]),
        (["It", " is", " bad."], "It is bad.", [0, 0, 0]),
        (["So", " it", " is", "\n\n", "bad."], "it is bad.", [1, 0, 0, 0, 0]),
        (["It", " is", " is"], "It is", [0, 0, 1]),
        (["It", " is"], "", [1, 1]),
        (["It", " is"], None, [0, 0]),
    ],
)
def test_words_that_only_this_answer_has_are_underlined(pieces, reference, new):
    made = card(STEERED, record(pieces, 0.0), MEASURES["effect"], "How?", reference, busy=False)
    assert ["caa-new" in kind for kind, *_ in spans(made)] == [bool(one) for one in new]
    assert "".join(text for *_, text in spans(made)) == "".join(pieces)


def test_colors_are_signed_and_end_at_the_limit():
    changes = [3.0, 30.0, 0.0, -3.0, 1.0, -1.0]
    made = card(STEERED, record(list("abcdef"), changes), MEASURES["effect"], "How?", None, busy=False)
    colors = [tuple(map(int, re.findall(r"\d+", background))) for _, background, *_ in spans(made)]
    assert colors[0] == colors[1] == (0, 62, 107)
    assert colors[2] == (247, 247, 245)
    assert colors[3] == (198, 90, 17)
    assert colors[4][2] > colors[4][0]
    assert colors[5][2] < colors[5][0]
    assert [letters for _, _, letters, *_ in spans(made)][:3] == ["#FFFFFF", "#FFFFFF", "#000000"]


def test_hovering_shows_both_sides_as_text():
    made = card(STEERED, record(["<b>"], [1.25]), MEASURES["effect"], "How?", None, busy=False)
    (_, _, _, hover, text) = spans(made)[0]
    assert text == "<b>"
    assert hover.split("\n") == ["<b>  +1.25 nats", "unsteered  steered", "0.4 'c'    0.5 <i>", "0.3 d      0.2 b"]
    assert "<b>" not in made
    assert "<i>" not in made
    lowered = card(STEERED, record(["b"], [-1.25]), MEASURES["effect"], "How?", None, busy=False)
    assert spans(lowered)[0][3].startswith("b  \N{MINUS SIGN}1.25 nats")


def test_a_page_shows_any_text_as_text():
    hostile = "</style><script>alert(1)</script>"
    history = pd.DataFrame({"prompt": [hostile], "steering": [hostile], "answer": [hostile]})
    cards = [card(Trial(hostile, (Added(hostile, 3, 2.0),)), None, MEASURES["effect"], "How?", None, busy=True)]
    made = page(hostile, cards, "", MEASURES["effect"], history)
    assert "<script" not in made
    assert made.count("</style>") == 1
    assert unescape(made).count(hostile) == 7
