"""The page of a study: its sentences follow from its tables, and all that the run holds is on it."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.io
import pytest

import caa_interp as caa
from caa_interp.evaluation.interference import QUESTIONS
from caa_interp.evaluation.verdicts import VERDICTS
from caa_interp.statistics import number_text
from caa_interp.study import findings as words
from caa_interp.study.page import write_page
from caa_interp.study.results import nearest
from caa_interp.study.sections import N_DRAWN, N_LINES
from tests import study_folder
from tests.study_folder import write_study
from tests.unit.plotting import test_plotting_safety

SLOPES = {"optimism": 0.5, "refusal": -0.3, "findings": 0.0}
OPTIONAL = (
    "validation",
    "projection",
    "separation",
    "logit_lens",
    "effect_lens",
    "answers",
    "perplexity",
    "divergence",
    "capability",
)
HOSTILE = [
    "<script>alert(1)</script>",
    "</script></style>--><img src=x onerror='alert(2)'>",
    "{{ 7 * 191 }} {% raw %}",
    "a\u202eb\u2066c\x07d\x9be",
]


class Page(HTMLParser):
    """Texts of a page by element, its anchors and links, and each section's tables."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: dict[str, list[list[str]]] = {}
        self.open: list[str] = []
        self.anchor = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.elements.append((tag, given))
        self.texts.setdefault(tag, []).append("")
        if re.fullmatch("h[234]", tag):
            self.anchor = given["id"]
        if tag == "tr":
            self.rows.setdefault(self.anchor, []).append([])
        if tag in ("td", "th"):
            self.rows[self.anchor][-1].append("")
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.texts[self.open[-1]][-1] += data
            if self.open[-1] in ("td", "th"):
                self.rows[self.anchor][-1][-1] += data

    @property
    def anchors(self) -> list[str]:
        return [given["id"] for tag, given in self.elements if re.fullmatch("h[234]", tag)]

    @property
    def links(self) -> list[str]:
        return [given["href"] for tag, given in self.elements if tag == "a"]

    def text(self) -> str:
        return "\n".join(text for tag in ("p", "li", "td", "figcaption") for text in self.texts.get(tag, []))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Run folder with its page, which tests only read."""
    folder = write_study(tmp_path_factory.mktemp("run"), SLOPES)
    assert write_page(folder) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page(run / "report.html")


@pytest.fixture(scope="module")
def brief(tmp_path_factory) -> Path:
    """Run folder of one behavior, with its page."""
    return write_page(write_study(tmp_path_factory.mktemp("brief"), {"optimism": 0.5})).parent


def copied(run: Path, tmp_path: Path) -> Path:
    """A copy for tests that change it, so that its manifest lists no files."""
    folder = shutil.copytree(run, tmp_path / "run")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({name: manifest[name] for name in manifest if name != "files"}))
    return folder


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return copied(run, tmp_path)


@pytest.fixture
def brief_copy(brief, tmp_path) -> Path:
    return copied(brief, tmp_path)


# Sentences


def found(**changes) -> dict:
    """A row as caa_interp.evaluation.verdicts gives it."""
    usual = {
        "behavior": "optimism",
        "format": "text",
        "n": 12,
        "layer": 3,
        "slope": 0.5,
        "slope_low": 0.4,
        "slope_high": 0.6,
    }
    return {**usual, "control_low": -0.2, "control_high": 0.1, "n_controls": 2, "verdict": "steers", **changes}


def typed(text: str) -> str:
    """A text of the page with the signs that a keyboard has."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "Optimism responds at layer 3: +0.500 nats per token per unit, 95 % CI +0.400 to +0.600, n = 12; {}"),
        (
            {"slope": -0.5, "slope_low": -0.6, "slope_high": -0.4, "verdict": "opposite"},
            "Optimism moves in the opposite direction at layer 3: -0.500 nats per token per unit, 95 % CI -0.600 to "
            "-0.400, n = 12; {}",
        ),
        (
            {"control_high": 0.55, "verdict": "within controls"},
            "Optimism responds, but no more than controls do, at layer 3: +0.500 nats per token per unit, "
            "95 % CI +0.400 to +0.600, n = 12; controls at most 0.550",
        ),
        (
            {"slope_low": -0.1, "verdict": "no clear effect"},
            "Optimism shows no clear effect at layer 3: +0.500 nats per token per unit, 95 % CI -0.100 to +0.600, "
            "n = 12; {}",
        ),
        (
            {"slope_low": np.nan, "slope_high": np.nan, "n": 1, "verdict": "no interval"},
            "Optimism rests on one pair at layer 3: +0.500 nats per token per unit, no interval, n = 1; {}",
        ),
        (
            {"control_low": np.nan, "control_high": np.nan, "n_controls": 0, "verdict": "no controls"},
            "Optimism responds at layer 3: +0.500 nats per token per unit, 95 % CI +0.400 to +0.600, n = 12; "
            "no controls at this layer",
        ),
        (
            {"slope_low": 0.15},
            "Optimism responds at layer 3: +0.500 nats per token per unit, 95 % CI +0.150 to +0.600, n = 12; {}, "
            "within the interval",
        ),
        (
            {"behavior": "corrigible-neutral", "format": "choices"},
            "Corrigible-neutral responds at layer 3: +0.500 nats per unit, 95 % CI +0.400 to +0.600, n = 12; {}",
        ),
    ],
)
def test_each_vector_has_an_honest_sentence(changes, told):
    (sentence,) = words.findings(pd.DataFrame([found(**changes)]))
    assert typed(sentence) == told.format("controls at most 0.200")
    assert sentence.count("-") == sentence.count("corrigible-") + sentence.count("Corrigible-")  # names keep hyphens


def test_every_verdict_has_a_sentence_of_its_own():
    rows = pd.DataFrame([found(verdict=verdict) for verdict in VERDICTS])
    said = [sentence.partition(" at layer")[0] for sentence in words.findings(rows)]
    assert len({*said} - {"Optimism responds"}) == 3


def test_all_behaviors_in_one_sentence():
    rows = [found(), found(behavior="calm", slope=0.7), found(behavior="harm", verdict="within controls")]
    said = words.overall(pd.DataFrame(rows))
    assert said == "2 of 3 behaviors respond to their vectors beyond every control: calm and optimism"
    assert words.overall(pd.DataFrame(rows[1:])) == (
        "1 of 2 behaviors responds to its vector beyond every control: calm"
    )
    none = "None of 2 behaviors responds to its vector beyond every control"
    assert words.overall(pd.DataFrame([rows[2], rows[2]])) == none
    assert words.overall(pd.DataFrame(rows[:1])) == words.findings(pd.DataFrame(rows[:1]))[0]


def test_behaviors_without_controls_or_intervals_in_one_sentence():
    alone = {"control_low": np.nan, "control_high": np.nan, "n_controls": 0, "verdict": "no controls"}
    below = {"slope": -0.5, "slope_low": -0.6, "slope_high": -0.4}
    rows = [
        found(**alone),
        found(**alone, behavior="calm", slope=0.7),
        found(**alone, **below, behavior="harm"),
        found(**{**alone, "slope_low": -0.1, "verdict": "no clear effect"}, behavior="wit"),
    ]
    assert words.overall(pd.DataFrame(rows)) == (
        "2 of 4 behaviors have slopes above 0 whose intervals exclude 0, without controls: calm and optimism"
    )
    assert words.overall(pd.DataFrame(rows[1:])) == (
        "1 of 3 behaviors has a slope above 0 whose interval excludes 0, without controls: calm"
    )
    none = "None of 2 behaviors has a slope above 0 whose interval excludes 0, without controls"
    assert words.overall(pd.DataFrame(rows[2:])) == none
    one = found(slope_low=np.nan, slope_high=np.nan, n=1, verdict="no interval")
    said = "Each of 2 behaviors rests on one pair, which gives no interval"
    assert words.overall(pd.DataFrame([one, one])) == said
    assert words.overall(pd.DataFrame([one, one]).assign(n_controls=0)) == said


def test_two_vectors_at_once_in_one_sentence():
    rows = [("a", "a", "b", "both", 0.5), ("b", "a", "b", "both", -0.1), ("a", "a", "b", "merged", -5.0)]
    effects = pd.DataFrame(rows, columns=["behavior", "first", "second", "combination", "kept"])
    effects = effects.assign(kept_low=effects["kept"] - 0.2, kept_high=effects["kept"] + 0.2)
    said = typed(words.kept_beside(effects))
    assert said == (
        "Two vectors at once, at the divergence of one, keep -10 to 50 % of the effect that each has alone; b keeps "
        "the least, beside a: -10 (-30 to 10) %"
    )
    rows = [("a", "alone", 0.0), ("b", "alone", -0.05), ("a + b", "both", -0.25)]
    right = pd.DataFrame(rows, columns=["vector", "combination", "correct_change"]).assign(behavior=QUESTIONS, n=24)
    right = right.assign(correct_change_low=right["correct_change"] - 0.1, correct_change_high=0.0)
    assert typed(words.kept_beside(pd.concat([effects.assign(n=12), right]))) == (
        f"{said}. The share of right answers changes by -0.25 (-0.35 to +0.00), n = 24, under the two with the lowest, "
        "and by -0.05 to +0.00 under one alone"
    )
    assert words.right_table(effects).empty
    assert words.kept_table(effects.assign(kept=np.nan)).empty
    kept = words.kept_table(effects)
    assert list(kept) == ["behavior", "beside", "both", "merged"]
    assert list(map(typed, kept.iloc[0])) == ["a", "b", "50 (30 to 70) %", "-500 (-520 to -480) %"]
    assert list(map(typed, kept.iloc[1])) == ["b", "a", "-10 (-30 to 10) %", ""]
    assert "none has a clear effect alone at this div" in words.kept_beside(effects.assign(kept=np.nan))
    assert "no two of them reach this divergence" in words.kept_beside(effects.assign(combination="alone"))


def test_what_is_not_in_a_study_has_no_sentence():
    assert words.kept_beside(pd.DataFrame()) == words.audits({}) == words.conversations({}) == ""


def audit(*verdicts: str) -> pd.DataFrame:
    rows = pd.DataFrame({"measured": ["harmless requests", "borderline requests"], "verdict": verdicts})
    about = {"part": "requests", "vector": "optimism", "estimate": 0.5, "estimate_low": 0.25, "estimate_high": 0.75}
    beside = rows.assign(**{**about, "vector": "optimism without refusal"}, verdict="steers", n=8.0)
    cosine = pd.DataFrame([{"part": "cosine", "vector": "optimism", "verdict": "aligned"}])
    return pd.concat([cosine, rows.assign(**about, n=8.0), beside])


@pytest.mark.parametrize("verdict", VERDICTS)
def test_an_audit_in_one_sentence(verdict):
    said = words.audited("optimism", audit(verdict, "steers")).replace("\N{NO-BREAK SPACE}", " ")
    estimate = "(+0.500 nats per token per unit, 95 % CI +0.250 to +0.750, n = 8)"
    known = words._REFUSES[verdict]
    assert said == (
        f"Optimism: openings that refuse are {known} for harmless requests {estimate} and more likely for borderline "
        f"requests {estimate}"
    )


def test_the_audit_of_the_refusal_vector_says_what_it_is():
    own = audit("steers", "steers").replace({"aligned": "the refusal vector"})
    assert words.audited("optimism", own).startswith("Optimism is the refusal vector: openings that refuse are")


@pytest.mark.parametrize(
    ("audits", "told"),
    [
        ([("no clear effect", "within controls")], "no vector makes openings that refuse more or less likely beyond"),
        ([("no interval", "no interval")], "one request of a kind gives no interval"),
        (
            [("steers", "steers")],
            "openings that refuse become more likely for harmless requests and borderline requests under optimism, "
            "beyond every control",
        ),
        (
            [("opposite", "no interval"), ("steers", "no clear effect")],
            "openings that refuse become less likely for harmless requests under optimism and more likely for harmless "
            "requests under calm, beyond every control",
        ),
    ],
)
def test_all_audits_in_one_sentence(audits, told):
    summaries = {
        name: audit(*verdicts).replace({"vector": {"optimism": name}})
        for name, verdicts in zip(("optimism", "calm"), audits, strict=False)
    }
    assert words.audits(summaries).startswith(f"Safety audit: {told}")


def talks(last: float) -> pd.DataFrame:
    rows = [("turn 1", 1, 0.5), ("turn 1", 2, 0.4), ("turn 1", 3, last), ("every turn", 3, 9.0)]
    table = pd.DataFrame(rows, columns=["condition", "turn", "change"])
    table = table.assign(change_low=table["change"] - 0.1, change_high=table["change"] + 0.1, n=4, kind="vector")
    return pd.concat([table, table.assign(kind="random", change=7.0)])


def test_conversations_in_one_sentence():
    said = words.lasting("optimism", talks(0.05)).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "Optimism, applied in turn 1 alone: the change in turn 1 (+0.500 nats per token, 95 % CI +0.400 to +0.600, "
        "n = 4) and in turn 3 (+0.050 nats per token, 95 % CI \N{MINUS SIGN}0.050 to +0.150, n = 4)"
    )
    at = "a clear effect in turn 3 (n = 4 conversations)"
    assert words.conversations({"a": talks(0.05)}) == f"Applied in turn 1 alone, no vector still has {at}"
    assert words.conversations({"a": talks(0.05), "b": talks(-0.2)}) == f"Applied in turn 1 alone, b still has {at}"
    both = words.conversations({"a": talks(0.2), "b": talks(-0.2)})
    assert both == f"Applied in turn 1 alone, a and b still have {at}"
    one = talks(0.2).assign(change_low=np.nan, change_high=np.nan, n=1)
    assert words.conversations({"a": one, "b": one}) == (
        "Applied in turn 1 alone, what is left in turn 3 has no interval, which one conversation does not give"
    )
    assert words.conversations({"a": one, "b": talks(-0.2)}).startswith("Applied in turn 1 alone, b still has")


@pytest.mark.parametrize(
    ("wanted", "found"), [(2.0, 4.0), (-0.5, -4.0), (0.0, 0.0), (5.0, 4.0)], ids=["weaker", "negative", "zero", "more"]
)
def test_the_nearest_multiplier_has_the_same_sign(wanted, found):
    assert nearest([-4.0, 0.0, 4.0], wanted) == found
    assert nearest([-4.0, 0.0], 3.0) == 0.0


@pytest.mark.parametrize(
    ("statistic", "good", "bad", "told"),
    [
        ("pairs", 30, 29, "pairs < 30"),
        ("agreement", 0.2, 0.19, "agreement < 0.2"),
        ("separation", 1.0, 0.99, "separation < 1"),
        ("letter_share", 0.1, 0.11, "letter share > 0.1"),
        ("length_correlation", 0.5, 0.51, "abs(length correlation) > 0.5"),
        ("length_correlation", -0.5, -0.51, "abs(length correlation) > 0.5"),
    ],
)
def test_each_warning_has_its_threshold(statistic, good, bad, told):
    usual = {"pairs": 40, "agreement": 0.5, "separation": 2.0, "letter_share": float("nan"), "length_correlation": 0.0}
    rows = pd.DataFrame([{"behavior": name, "layer": 3, **usual} for name in ("optimism", "refusal")])
    rows[statistic] = [good, bad]
    assert words.warnings(rows) == [f"refusal (layer 3): {told}."]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "+0.123 (+0.023 to +0.223)"),
        (-1.0, "-1.000 (-1.100 to -0.900)"),
        (-0.00042, "-0.0004 (-0.100 to +0.100)"),
        (float("nan"), ""),
    ],
)
def test_numbers(value, shown):
    rows = pd.DataFrame({"slope": [value], "slope_low": [value - 0.1], "slope_high": [value + 0.1]})
    assert list(map(typed, words.intervals(rows, "slope"))) == [shown]


# The page


def test_lead_says_what_was_studied_and_found(page, run):
    subtitle, *lead = map(typed, page.texts["p"][:3])
    assert subtitle == "tiny · 24 November 2026 · 3 behaviors, 2 layers, 5 multipliers"
    assert lead[0] == (
        "Studied: optimism, refusal and findings, on tiny. For each behavior a steering vector was made from 40 "
        "contrast pairs, its layer was chosen on 8 others, and its effect was measured on 12 held-out pairs, beside "
        "4 control vectors of the same norm. The effect is the slope of the log-probability difference over the "
        "multiplier, in nats per token for each unit of the multiplier, given with its 95 % interval."
    )
    effects = pd.read_parquet(run / "tables" / "effects.parquet")
    own = effects[effects["vector"] == "optimism"].iloc[0]
    controls = effects.loc[effects["kind"] != "vector", "slope"]
    assert lead[1] == "1 of 3 behaviors responds to its vector beyond every control: optimism."
    lines = list(map(typed, page.texts["li"][:3]))
    largest = max(abs(controls[effects["behavior"] == "optimism"]))
    assert lines[0].startswith(
        f"Optimism responds at layer 3: {own.slope:+.3f} nats per token per unit, 95 % CI {own.slope_low:+.3f} to "
        f"{own.slope_high:+.3f}, n = 12; controls at most {largest:.3f}. Price at multiplier +2: loss on neutral "
        "prose +0."
    )
    assert lines[1].startswith("Findings shows no clear effect at layer 3")
    assert lines[2].startswith("Refusal moves in the opposite direction at layer 3: -0.3")
    # One line per behavior, and in it the first and the last cost as the table has them; the others are there alone.
    costs = {(row[0], row[2]): row[3:] for row in page.rows["what-steering-costs"][1:]}
    first, *others, last = map(typed, costs["optimism", "+2"])
    assert others
    assert lines[0].endswith(f"loss on neutral prose {first} nats per token; share of right answers {last}.")


def test_the_findings_are_a_figure_and_a_table_with_the_same_verdicts(page, run):
    effects = pd.read_parquet(run / "tables" / "effects.parquet")
    header, *rows = page.rows["findings"]
    assert header == [
        *("behavior", "layer", "slope (95 % interval)", "controls", "opposite (% of pairs)", "n", "verdict")
    ]
    assert {row[0]: row[-1] for row in rows} == {
        "optimism": "steers",
        "refusal": "opposite",
        "findings": "no clear effect",
    }
    refusal = typed(rows[1][3])
    slopes = effects.loc[(effects["behavior"] == "refusal") & (effects["vector"] != "refusal"), "slope"]
    assert refusal == f"{number_text(slopes.min())} to {number_text(slopes.max())} (4)"
    assert typed(rows[1][4]) == "100 (76 to 100)"
    assert typed(rows[0][4]) == "0 (0 to 24)"
    fig = plotly.io.read_json(run / "figures" / "findings.json")
    names = dict(zip(fig.layout.yaxis.tickvals, fig.layout.yaxis.ticktext, strict=True))
    drawn = {names[note.y]: note.text.split("<br>")[0] for note in fig.layout.annotations}
    assert drawn == {row[0]: row[-1] for row in rows}
    first = next(given["aria-label"] for _, given in page.elements if given.get("role") == "img")
    assert first == "1 of 3 behaviors responds to its vector beyond every control: optimism"
    assert dict(page.rows["findings-what-a-verdict-means"][1:]) == VERDICTS


def test_sections_in_order_with_links_to_them(page, run):
    assert page.texts["h2"] == [
        "Findings",
        "Example pairs",
        "Response to the multiplier",
        "Layers and multipliers",
        "How the layer was chosen",
        "Reliability of the vectors",
        "Cosine similarity of the vectors",
        "Activations",
        "Answers along the vectors",
        "Vectors as tokens (logit lens)",
        "What each vector makes the model say (effect lens)",
        "Steered answers",
        "What steering costs",
        "Effect and cost",
        "Side effects",
        "Configuration",
        "How it was made",
    ]
    assert page.texts["a"][: len(page.texts["h2"])] == page.texts["h2"]
    assert {link for link in page.links if not link.startswith("data:")} <= {f"#{anchor}" for anchor in page.anchors}
    assert len(set(page.anchors)) == len(page.anchors)
    assert page.texts["title"] == page.texts["h1"] == ["made up"]


def test_every_figure_has_a_caption_and_a_file(page, run):
    drawn = page.texts["script"][1:-1]  # between Plotly's own code and ours
    names = {path.stem for path in (run / "figures").iterdir()}
    # Each map has a second figure beside it, and what that shows for other cells.
    assert len(names) == 21
    assert len(page.texts["figcaption"]) == 21 + len(SLOPES)
    assert len(drawn) == 21 + 2 * len(SLOPES)
    assert names <= set(page.anchors)
    assert {f"layers-and-multipliers-{name}" for name in SLOPES} <= names
    for path in (run / "figures").iterdir():
        assert plotly.io.read_json(path).layout.title.text
    titles = [text for text in page.texts["strong"] if text.startswith("Figure")]
    assert [text.partition(". ")[0] for text in titles] == [f"Figure {number}" for number in range(1, 22)]
    captions = [text for text in page.texts["figcaption"] if text]
    assert len(captions) == 21
    for title, caption in zip(titles, captions, strict=True):
        assert re.search(r"interval", caption) or "slider" in caption
        assert re.search(r"\d", title.partition(". ")[2]), "a title says what was found"
    labels = [given["aria-label"] for _, given in page.elements if given.get("role") == "img"]
    assert len(labels) == 21 + len(SLOPES)
    assert all(labels)


def test_a_table_is_saved_as_it_is(page, run):
    given = {one["download"]: one["href"] for _, one in page.elements if "download" in one}
    assert {f"{path.stem}.csv" for path in (run / "figures").iterdir()} <= set(given)

    def saved(name: str) -> pd.DataFrame:
        content = given[f"{name}.csv"].partition("base64,")[2]
        return pd.read_csv(io.BytesIO(base64.b64decode(content)))

    for name, table in {"findings": "effects", "reliability-of-the-vectors": "reliability"}.items():
        pd.testing.assert_frame_equal(
            saved(name), pd.read_parquet(run / "tables" / f"{table}.parquet"), check_dtype=False
        )
    swept = pd.read_parquet(run / "tables" / "sweep.parquet")
    expected = caa.summarize(swept[swept["behavior"] == "refusal"])
    map_of = saved("layers-and-multipliers-refusal")
    assert map_of["logit_difference_change"].tolist() == expected["logit_difference_change"].tolist()
    answers = saved("steered-answers-optimism")
    assert answers["answer"].tolist() == [f"An answer. ({m:+g})" for _ in range(2) for m in (-4, 0, 4)]


def test_the_choice_of_the_layer_is_drawn_beside_controls(page, run):
    drawn = plotly.io.read_json(run / "figures" / "how-the-layer-was-chosen.json")
    assert {"random", "shuffled"} <= {word for trace in drawn.data for word in str(trace.name).split()}
    assert any("Gray bars: controls on held-out pairs" in text for text in page.texts["figcaption"])
    header, *rows = page.rows["how-the-layer-was-chosen"]
    assert [row[0] for row in rows] == list(SLOPES)
    assert len(header) == 4


def test_maps_share_a_scale(run):
    maps = [plotly.io.read_json(run / "figures" / f"layers-and-multipliers-{name}.json").data[0] for name in SLOPES]
    swept = caa.summarize(pd.read_parquet(run / "tables" / "sweep.parquet"))
    largest = swept["logit_difference_change"].abs().max()
    assert {(one.zmin, one.zmax) for one in maps} == {(-largest, largest)}


def test_what_stands_beside_a_cell(page, run):
    views = [json.loads(text) for text in page.texts["script"] if text.startswith('{"start"')]
    assert len(views) == len(SLOPES)
    optimism = views[0]
    assert optimism["start"] == ["3", "2"]
    assert set(optimism["rows"]) == {"1", "3"}
    assert optimism["rows"]["3"]["finding"].startswith("Optimism responds at layer 3: +0.5")
    assert optimism["rows"]["1"]["finding"].endswith("no controls at this layer")
    here, elsewhere = (dict(optimism["rows"][layer]["cells"]["1"]) for layer in ("3", "1"))
    summary = caa.summarize(pd.read_parquet(run / "tables" / "sweep.parquet").query("behavior == 'optimism'"))
    (row,) = summary.query("layer == 1 and multiplier == 1").to_dict("records")
    assert typed(elsewhere.pop("Score, change from unsteered")).startswith(number_text(row["logit_difference_change"]))
    assert set(elsewhere.values()) == {"The study holds these at layer 3 only, the chosen one."}
    assert set(elsewhere) < set(here)
    told = here["Steered answers, at the nearest multiplier"]
    assert told.startswith("Question 0?\nunsteered: An answer. (+0)\nmultiplier +4: An answer. (+4)\n\nQuestion 1?")
    assert told.endswith("(+4) […]")
    costs = here["Costs, at the nearest multiplier, as changes from unsteered"].split("\n")
    assert costs[0] == "multiplier +1"
    assert len(costs) == 6
    unsteered = dict(optimism["rows"]["3"]["cells"]["0"])
    assert "unsteered: An answer. (+0)" in unsteered["Steered answers, at the nearest multiplier"]
    assert not any(name.startswith("Costs") for name in unsteered)


def test_a_cell_has_all_digits_of_its_multiplier(tmp_path, monkeypatch):
    monkeypatch.setattr(study_folder, "MULTIPLIERS", (-1.2345678, 0.0, 1.2345678))
    page = Page(write_page(write_study(tmp_path, {"optimism": 0.5})))
    (views,) = [json.loads(text) for text in page.texts["script"] if text.startswith('{"start"')]
    assert views["start"] == ["3", "1.2345678"]
    assert [*views["rows"]["1"]["cells"]] == ["-1.2345678", "0", "1.2345678"]
    fig = plotly.io.read_json(tmp_path / "figures" / "layers-and-multipliers-optimism.json")
    assert (list(fig.data[-1].x), list(fig.data[-1].y)) == ([1.2345678], ["3"])
    assert list(fig.data[0].x) == [-1.2345678, 0, 1.2345678]


def test_without_a_positive_multiplier_the_page_tells_of_the_most_negative(tmp_path, monkeypatch):
    monkeypatch.setattr(study_folder, "MULTIPLIERS", (-2.0, -1.0, 0.0))
    page = Page(write_page(write_study(tmp_path, {"optimism": 0.5})))
    assert any("Price at multiplier -2: loss on neutral prose +0." in typed(text) for text in page.texts["li"])
    assert any("At multiplier -2, the change in loss on prose is " in typed(text) for text in page.texts["strong"])
    (views,) = [json.loads(text) for text in page.texts["script"] if text.startswith('{"start"')]
    assert views["start"] == ["3", "-2"]


def test_the_page_says_how_and_where_vectors_are_applied(page, copy):
    usual = "Each behavior's vector is added at its chosen layer, from the last token of the prompt on."
    assert usual in page.text()
    for path in (copy / "tables").iterdir():
        if "operator" in (table := pd.read_parquet(path)):
            table.assign(operator="Cap(high=3.0)", positions="answer").to_parquet(path)
    told = Page(write_page(copy)).text()
    assert (
        "Each behavior's vector is applied with the operator 'Cap(high=3.0)' at its chosen layer, at the positions "
        "'answer'."
    ) in told
    assert not re.search(r"\b[Aa]dded\b", told)


def test_examples_are_folded(page):
    assert page.rows["example-pairs-optimism"][:2] == [["question", "positive", "negative"], ["0?", "Yes, 0.", "No."]]
    assert page.texts["summary"] == ["Show"] * (len(SLOPES) + 1)  # and the manifest


def test_answers_stand_side_by_side_unsteered_in_the_middle(page):
    header, first, second = page.rows["steered-answers-refusal"]
    assert list(map(typed, header)) == ["prompt", "multiplier -4", "unsteered", "multiplier +4"]
    assert first == ["Question 0?", "An answer. (-4)", "An answer. (+0)", "An answer. (+4)"]
    assert second[1] == "An answer. (-4) […]"


def test_costs_are_changes_at_the_outermost_multipliers(page, run):
    header, *rows = page.rows["what-steering-costs"]
    assert [list(map(typed, row[:3])) for row in rows[:2]] == [["optimism", "3", "-2"], ["optimism", "3", "+2"]]
    table = pd.read_parquet(run / "tables" / "perplexity.parquet")
    items = table[(table["behavior"] == "optimism")].pivot(index="item", columns="multiplier", values="nats_per_token")
    assert rows[1][3].startswith(number_text((items[2.0] - items[0.0]).mean()))
    # Divergence is that along the model's own answers, not that on prose.
    own = pd.read_parquet(run / "tables" / "divergence.parquet")
    own = own[(own["vector"] == "optimism") & (own["multiplier"] == 2)]
    assert rows[1][5].startswith(number_text(own["divergence"].mean()))
    assert rows[1][6].startswith(number_text(own["divergence_tail"].mean()))
    assert header[3:] == [
        "loss on neutral prose (nats per token)",
        "divergence on neutral prose (KL, nats per token)",
        "divergence on own answers (KL, nats per token)",
        "divergence at the worst 5 % of tokens of own answers (KL, nats per token)",
        "share of right answers",
    ]


def test_effects_are_compared_at_the_largest_cost_that_all_reach(page, run):
    header, *rows = page.rows["effect-and-cost-at-equal-cost"]
    assert list(map(typed, header)) == [
        *("behavior", "layer", "multiplier", "effect (nats per token, 95 % interval)", "controls, in both directions")
    ]
    assert [row[0] for row in rows] == list(SLOPES)
    costs = pd.read_parquet(run / "tables" / "divergence.parquet")
    largest = costs[costs["multiplier"] == 2].groupby("behavior")["divergence"].mean().min()
    (told,) = (text for text in page.texts["p"] if text.startswith("The effect where each vector costs"))
    cost = float(told.split()[6])
    assert 0.9 * largest < cost <= largest
    effects = caa.evaluation.at_equal_cost(pd.read_parquet(run / "tables" / "dose_response.parquet"), costs, cost=cost)
    controls = effects[effects["kind"] != "vector"].groupby("behavior")["effect"].agg(["min", "max"])
    effects = effects[(effects["kind"] == "vector") & (effects["side"] == "positive")].set_index("behavior")["effect"]
    for row in rows:
        assert typed(row[3]).startswith(number_text(effects[row[0]]))
        assert typed(row[4]) == " to ".join(map(number_text, controls.loc[row[0]]))
    finding = plotly.io.read_json(run / "figures" / "effect-and-cost.json").data[0]
    assert finding.fill == "toself"  # the controls' band, under the lines


def test_vectors_that_reach_no_common_cost_are_not_compared(copy):
    """One prompt costs far more than all others, and was not read at every multiplier."""
    path = copy / "tables" / "divergence.parquet"
    table = pd.read_parquet(path)
    costly = (table["kind"] == "vector") & (table["item"] == 0)
    table.loc[costly & (table["multiplier"] == 1), "divergence"] = np.nan
    table.loc[costly & (table["multiplier"] == 2), "divergence"] = 50.0
    table.to_parquet(path)
    page = Page(write_page(copy))
    assert "effect-and-cost" in page.anchors
    assert "effect-and-cost-at-equal-cost" not in page.anchors


def with_every_part(copy: Path) -> Path:
    """A run with two vectors at once, an audit and conversations as well."""
    swept = pd.read_parquet(copy / "tables" / "sweep.parquet")
    rows = swept[swept["layer"] == swept["layer"].max()].query("multiplier in [0, 1]")
    alone = rows["multiplier"] == 1
    rows = rows.assign(
        vector=rows["vector"].where(alone, "unsteered"),
        kind=rows["kind"].where(alone, "unsteered"),
        first=rows["vector"].where(alone, ""),
        second=rows["vector"].where(alone, ""),
        combination=alone.map({True: "alone", False: "unsteered"}),
        target=0.1,
    )
    beside = rows[alone].assign(vector="both", first="optimism", second="refusal", combination="both")
    right = pd.concat([rows, beside]).drop_duplicates(["item", "vector"]).assign(behavior=QUESTIONS, correct=1.0)
    layers = pd.read_parquet(copy / "tables" / "layers.parquet")
    about = {"model": layers["model"].iloc[0], "behavior": layers["behavior"].iloc[0]}
    audited = test_plotting_safety.audit().replace("mine", about["behavior"])
    without = {"mine without refusal": f"{about['behavior']} without refusal"}
    made = {
        "interference": pd.concat([rows, beside, right]),
        "safety_audit": audited.replace(without).assign(**about),
        "persistence": test_plotting_safety.talks().assign(**about),
    }
    for name, table in made.items():
        table.to_parquet(copy / "tables" / f"{name}.parquet")
    return copy


def test_what_else_was_measured_is_told_first_and_shown_below(copy):
    page = Page(write_page(with_every_part(copy)))
    for first, heading in (
        ("Two vectors at once", "Two vectors at once"),
        ("Safety audit:", "Safety audit"),
        ("Applied in turn 1 alone,", "Over the turns of a conversation"),
    ):
        assert len([text for text in page.texts["li"] if text.startswith(first)]) == 1
        assert heading in page.texts["h2"]
    assert not any("interference of vectors" in text for text in page.texts["p"])
    assert any("with n = 4, half of them reach" in text for text in page.texts["figcaption"])
    header, *rows = page.rows["two-vectors-at-once-what-two-vectors-do-to-right-answers"]
    assert header == ["vector", "share of right answers (95 % interval)", "change", "n"]
    assert rows[-1][0] == "both"
    assert typed(rows[-1][1]).startswith("1.00 (0.76 to 1.00)")


def test_one_conversation_is_said_to_give_no_interval(copy):
    path = with_every_part(copy) / "tables" / "persistence.parquet"
    table = pd.read_parquet(path)
    table[table["item"] == 0].to_parquet(path)
    page = Page(write_page(copy))
    assert not re.search(r"\bnan\b", page.text())
    (caption,) = (text for text in page.texts["figcaption"] if "Changes from the unsteered conversation" in text)
    assert caption.endswith("Changes from the unsteered conversation. One conversation gives no interval.")


def test_without_open_ended_questions_prose_keeps_its_own_column(brief_copy):
    (brief_copy / "tables" / "divergence.parquet").unlink()
    page = Page(write_page(brief_copy))
    header, first, *_ = page.rows["what-steering-costs"]
    assert "divergence on own answers (KL, nats per token)" not in header
    assert all(first)
    fig = plotly.io.read_json(brief_copy / "figures" / "what-steering-costs-layer-3.json")
    titles = [one.text for one in fig.layout.annotations]
    assert not any("divergence" in title for title in titles)
    assert "yaxis3" not in fig.layout


def test_a_layer_without_measured_costs_has_no_figure_of_them(copy):
    tables = copy / "tables"
    for name in ("perplexity", "capability"):
        (tables / f"{name}.parquet").unlink()
    own = pd.read_parquet(tables / "divergence.parquet")
    own[own["behavior"] != "refusal"].to_parquet(tables / "divergence.parquet")
    layers = pd.read_parquet(tables / "layers.parquet")
    layers.assign(layer=layers["layer"].where(layers["behavior"] != "refusal", 1)).to_parquet(tables / "layers.parquet")
    page = Page(write_page(copy))
    assert {row[0] for row in page.rows["what-steering-costs"][1:]} == {"optimism", "findings"}
    assert [one for one in page.texts["h3"] if one.startswith("Layer ")] == ["Layer 3"]


def test_reliability_shows_norms_of_the_saved_vectors(page, run):
    header, first, *_ = page.rows["reliability-of-the-vectors"]
    vector = caa.SteeringVector.load(run / "vectors" / "tiny" / "optimism.safetensors")
    shown = dict(zip(header, first, strict=True))
    assert shown["norm of the vector"] == f"{float(vector.at(3).norm()):.3g}"
    assert typed(shown["agreement"]) == "0.40 (0.30 to 0.50)"
    assert "letter share" not in shown


def test_how_it_was_made(page, run):
    made = dict(page.rows["how-it-was-made"][1:])
    assert made["caa_interp"] == "0.1.0, commit 0123456789abcdef, with uncommitted changes"
    assert made["seed"] == "0"
    assert made["peak memory"] == "1.00 GiB"
    assert made["data of optimism (sha256)"] == "f" * 64
    config, manifest = page.texts["code"]
    assert config == (run / "config.toml").read_text()
    record = json.loads((run / "manifest.json").read_text())
    assert {"report.html", "figures/findings.json", "tables/sweep.parquet"} <= set(record.pop("files"))
    assert json.loads(manifest) == record


def test_parts_that_were_not_asked_for_are_named_and_left_out(tmp_path):
    leave_out = (*OPTIONAL, "side_effects")
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, layers=(3,), n_controls=0, leave_out=leave_out)
    page = Page(write_page(folder))
    assert page.texts["h2"] == [
        "Findings",
        "Example pairs",
        "Response to the multiplier",
        "Layers and multipliers",
        "Reliability of the vectors",
        "Configuration",
        "How it was made",
    ]
    assert page.texts["p"][2] == (
        "Not part of this study: controls, a choice of the layer, activations, held-out answers along the "
        "vector, the logit lens, the effect lens, steered answers, neutral prose, divergence from the unsteered "
        "model, questions with a right answer, side effects, interference of vectors."
    )
    assert page.rows["findings"][1][-1] == "no controls"


def test_several_models_have_a_part_each(tmp_path):
    folder = write_study(
        tmp_path / "run", {"optimism": 0.5, "tiny": 0.0}, models=("tiny", "large"), leave_out=OPTIONAL[6:]
    )
    page = Page(write_page(folder))
    assert page.texts["h2"] == ["tiny", "large", "Configuration", "How it was made"]
    assert page.texts["h3"].count("Steered answers") == 2
    for model in ("tiny", "large"):
        assert [row[0] for row in page.rows[f"{model}-findings"][1:]] == ["optimism", "tiny"]
        assert (folder / "figures" / f"{model}-findings.json").is_file()
    assert len(set(page.anchors)) == len(page.anchors)
    assert {"tiny-steered-answers-tiny", "large-steered-answers-tiny"} <= set(page.anchors)
    told = "1 of 2 behaviors responds to its vector beyond every control: optimism."
    assert page.texts["p"][2:4] == [f"tiny: {told}", f"large: {told}"]
    assert [text.partition(" at")[0] for text in page.texts["li"][:4]] == [
        *("tiny: Optimism responds", "tiny: Tiny shows no clear effect"),
        *("large: Optimism responds", "large: Tiny shows no clear effect"),
    ]
    assert "#large-side-effects" in page.links
    assert (folder / "figures" / "large-side-effects.json").is_file()


def test_many_pairs_are_drawn_in_part_and_the_page_says_so(tmp_path):
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, n_pairs=N_DRAWN + 1, layers=(1,))
    page = Page(write_page(folder))
    assert f"fitted to {N_DRAWN + 1} pairs, of which the first {N_DRAWN} are drawn" in page.text()
    fig = plotly.io.read_json(folder / "figures" / "activations-optimism.json")
    assert {len(trace.hovertext) for trace in fig.data if trace.hovertext is not None} == {N_DRAWN}
    fig = plotly.io.read_json(folder / "figures" / "response-to-the-multiplier.json")
    assert fig.data[0].name == f"each of {N_LINES} pairs"
    assert f"A thin line is one pair, of the first {N_LINES} at most" in page.text()


def test_held_out_answers_are_placed_along_the_vector(page, run):
    table = pd.read_parquet(run / "tables" / "separation.parquet")
    own = table[table["behavior"] == "refusal"]
    first = own.iloc[0]
    told = (
        f"Refusal: along the vector of layer 3, d' is {first.d_prime:.2f} ({first.d_prime_low:.2f} to "
        f"{first.d_prime_high:.2f}) and the AUC {first.auc:.2f} ({first.auc_low:.2f} to {first.auc_high:.2f}), n = 12"
    )
    assert told in [typed(given["aria-label"]) for _, given in page.elements if given.get("role") == "img"]
    drawn = plotly.io.read_json(run / "figures" / "answers-along-the-vectors-refusal.json")
    assert drawn.data == plotly.io.from_json(caa.plotting.plot_separation(own).to_json(engine="json")).data


def test_the_response_has_a_line_for_each_pair_with_its_text(run, brief_copy):
    def texts(folder: Path, n_behaviors: int) -> list[str]:
        traces = plotly.io.read_json(folder / "figures" / "response-to-the-multiplier.json").data
        lines = [one for one in traces if one.name == "each of 12 pairs"]
        assert len(lines) == n_behaviors
        return [text for text in lines[-1].customdata if text]

    last = texts(run, len(SLOPES))[-1]
    assert re.fullmatch(r"pair 11: slope .* per multiplier<br>11\?<br>\+ Yes, 11\.<br>.*No\.", last)
    (brief_copy / "tables" / "separation.parquet").unlink()
    write_page(brief_copy)
    assert re.fullmatch(r"pair 11: slope .* per multiplier", texts(brief_copy, 1)[-1])


def test_a_page_without_answers_along_the_vector_says_so(brief_copy):
    (brief_copy / "tables" / "separation.parquet").unlink()
    page = Page(write_page(brief_copy))
    assert "held-out answers along the vector," in next(text for text in page.texts["p"] if "Not part of" in text)
    assert "activations-optimism" in page.anchors
    assert not any(anchor.startswith("answers-along") for anchor in page.anchors)


def test_letters_are_named_where_choices_were_scored(tmp_path):
    letter = {"optimism": {"letter_share": 0.4, "letter_cosine": 0.5}}
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, format="choices", reliability=letter)
    page = Page(write_page(folder))
    assert "the slope of the log-odds of the positive letter over the multiplier, in nats for each" in page.text()
    assert "optimism (layer 3): letter share > 0.1." in page.texts["li"]
    assert "letter share > 0.1" in dict(page.rows["reliability-of-the-vectors-reasons-for-a-warning"])
    fig = plotly.io.read_json(folder / "figures" / "findings.json")
    assert "log-odds of the positive letter<br>(nats per multiplier)" in fig.layout.xaxis.title.text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Page:
    folder = write_study(
        tmp_path_factory.mktemp("hostile"),
        dict.fromkeys(HOSTILE, 0.5),
        models=("</title><b>model",),
        name="<i>{{ name }}",
        answer=HOSTILE[1],
        token=HOSTILE[0],
    )
    return Page(write_page(folder))


def test_hostile_names_and_answers_make_no_elements(hostile, page):
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in page.elements}
    assert not any(name.startswith("on") for _, given in hostile.elements for name in given)
    assert hostile.texts["h1"] == ["<i>{{ name }}"]
    assert hostile.rows["findings"][1][0] == HOSTILE[0]
    assert hostile.open == []


def test_characters_that_hide_or_turn_text_around_are_shown(hostile):
    shown = "a\\u202eb\\u2066c␇d\\u009be"
    assert hostile.rows["findings"][4][0] == shown
    assert shown in hostile.texts["h3"]
    own = "".join(text for tag, texts in hostile.texts.items() if tag != "script" for text in texts)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", own)


# What cannot be read


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(caa.InputError, match=r"has no config\.toml. Give the folder of a run"):
        write_page(tmp_path)


@pytest.mark.parametrize("name", ["config.toml", "manifest.json"])
def test_a_damaged_text(copy, name):
    (copy / name).write_text("{ not")
    with pytest.raises(caa.InputError, match=rf"{re.escape(name)} cannot be read .* Run the study again"):
        write_page(copy)


def test_a_run_that_is_not_finished(copy):
    (copy / "tables" / "effects.parquet").unlink()
    before = (copy / "report.html").read_bytes()
    with pytest.raises(caa.InputError, match=r"no tables/effects\.parquet\. .* not finished, run the study again"):
        write_page(copy)
    assert (copy / "report.html").read_bytes() == before


def test_a_damaged_table(copy):
    (copy / "tables" / "answers.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(caa.InputError, match=r"answers\.parquet cannot be read .* what is finished is kept"):
        write_page(copy)


def test_a_manifest_of_another_version(copy):
    (copy / "manifest.json").write_text('{"seed": 0}')
    with pytest.raises(caa.InputError, match=r"manifest\.json is of another version.*'shards'.* Run the study again"):
        write_page(copy)


def test_every_interval_has_the_seed_of_the_study(copy, monkeypatch):
    manifest, seeds = json.loads((with_every_part(copy) / "manifest.json").read_text()), []
    (copy / "manifest.json").write_text(json.dumps(manifest | {"seed": 7}))
    own = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seeds.append(seed), own(seed))[1])
    write_page(copy)
    assert set(seeds) == {7}


def test_the_page_is_the_same_when_written_again(brief_copy):
    before = (brief_copy / "report.html").read_bytes()
    write_page(brief_copy)
    assert (brief_copy / "report.html").read_bytes() == before
