"""The page of a study: its sentences follow from its tables, and all that the run holds is on it."""

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
from caa_interp.evaluation.verdicts import VERDICTS
from caa_interp.statistics import number_text
from caa_interp.study import findings as words
from caa_interp.study.page import write_page
from caa_interp.study.sections import N_DRAWN
from tests.study_folder import write_study

SLOPES = {"optimism": 0.5, "refusal": -0.3, "findings": 0.0}
OPTIONAL = (
    "validation",
    "projection",
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


@pytest.fixture
def copy(run, tmp_path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


# Sentences


def found(**changes) -> dict:
    """A row as caa_interp.evaluation.verdicts gives it."""
    usual = {"behavior": "optimism", "layer": 3, "slope": 0.5, "slope_low": 0.4, "slope_high": 0.6}
    return {**usual, "control_low": -0.2, "control_high": 0.1, "n_controls": 2, "verdict": "steers", **changes}


def typed(text: str) -> str:
    """A text of the page with the signs that a keyboard has."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_sentences_of_several_behaviors():
    rows = [
        found(),
        found(behavior="refusal", slope_low=-0.1, control_low=-0.7, verdict="no clear effect"),
        found(behavior="corrigible-neutral", slope=0.9, slope_low=0.15, slope_high=1.25),
        found(behavior="harm", slope=-0.5, slope_low=-0.6, slope_high=-0.4, verdict="opposite"),
        found(behavior="weak", control_low=-0.3, control_high=0.5, verdict="within controls"),
    ]
    assert typed(words.conclusions(pd.DataFrame(rows))) == (
        "Steers (2 of 5): corrigible-neutral +0.900 (+0.150 to +1.250); optimism +0.500 (+0.400 to +0.600). "
        "Opposite (1 of 5): harm -0.500 (-0.600 to -0.400). Within controls (1 of 5): weak +0.500 (+0.400 to +0.600). "
        "No clear effect (1 of 5): refusal +0.500 (-0.100 to +0.600). The slopes of the controls lie between -0.700 "
        "and +0.500. The interval of corrigible-neutral reaches into the range of its controls."
    )
    assert "corrigible-neutral" in words.conclusions(pd.DataFrame(rows))  # a name keeps its hyphen


@pytest.mark.parametrize("verdict", VERDICTS)
def test_every_verdict_has_its_sentence(verdict):
    told = words.conclusions(pd.DataFrame([found(verdict=verdict)]))
    assert told.startswith(f"{verdict.capitalize()} (1 of 1): optimism +0.500")


def test_without_controls_none_are_told_of():
    none = {"control_low": float("nan"), "control_high": float("nan"), "n_controls": 0, "verdict": "no controls"}
    told = typed(words.conclusions(pd.DataFrame([found(**none)])))
    assert told == "No controls (1 of 1): optimism +0.500 (+0.400 to +0.600)."


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
    assert list(map(typed, words.estimates(rows, "slope"))) == [shown]


# The page


def test_lead_says_what_was_studied_and_found(page, run):
    lead = [typed(text) for text in page.texts["p"][:2]]
    assert lead[0] == (
        "Studied: optimism, refusal and findings, on tiny. For each behavior a steering vector was made from 40 "
        "contrast pairs, its layer was chosen on 8 others, and its effect was measured on 12 held-out pairs, beside "
        "4 control vectors of the same norm. The effect is the slope of the log-probability difference over the "
        "multiplier, in nats per token for each unit of the multiplier, given with its 95 % interval."
    )
    effects = pd.read_parquet(run / "tables" / "effects.parquet")
    own = effects[effects["vector"] == "optimism"].iloc[0]
    controls = effects.loc[effects["kind"] != "vector", "slope"]
    assert lead[1].startswith(
        f"Steers (1 of 3): optimism {own.slope:+.3f} ({own.slope_low:+.3f} to {own.slope_high:+.3f}). "
        "Opposite (1 of 3): refusal -0.3"
    )
    assert re.search(r"No clear effect \(1 of 3\): findings [^.]*\.\d+", lead[1])
    assert lead[1].endswith(f"The slopes of the controls lie between {controls.min():+.3f} and {controls.max():+.3f}.")


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
    assert first == fig.layout.title.text.split("<br>")[0]
    assert dict(page.rows["findings-what-a-verdict-means"][1:]) == VERDICTS


def test_sections_in_order_with_links_to_them(page, run):
    assert page.texts["h2"] == [
        "Findings",
        "Response to the multiplier",
        "Layers and multipliers",
        "How the layer was chosen",
        "Reliability of the vectors",
        "Cosine similarity of the vectors",
        "Activations",
        "Vectors as tokens (logit lens)",
        "What each vector makes the model say (effect lens)",
        "Steered answers",
        "What steering costs",
        "Effect and cost",
        "Side effects",
        "Configuration",
        "How it was made",
    ]
    assert page.texts["a"] == page.texts["h2"]
    assert set(page.links) <= {f"#{anchor}" for anchor in page.anchors}
    assert len(set(page.anchors)) == len(page.anchors)
    assert page.texts["title"] == page.texts["h1"] == ["made up"]


def test_every_figure_has_a_caption_and_a_file(page, run):
    drawn = page.texts["script"][1:-1]  # between Plotly's own code and ours
    names = {path.stem for path in (run / "figures").iterdir()}
    assert len(drawn) == len(page.texts["figcaption"]) == len(names) == 18
    assert names <= set(page.anchors)
    assert {f"layers-and-multipliers-{name}" for name in SLOPES} <= names
    for path in (run / "figures").iterdir():
        assert plotly.io.read_json(path).layout.title.text
    for caption in page.texts["figcaption"]:
        assert re.search(r"interval", caption) or "slider" in caption
    labels = [given["aria-label"] for _, given in page.elements if given.get("role") == "img"]
    assert len(labels) == 18
    assert all(labels)


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
    own = own[(own["behavior"] == "optimism") & (own["multiplier"] == 2)]
    assert rows[1][4].startswith(number_text(own["divergence"].mean()))
    assert header[3:] == [
        "surprise at prose (nats per token)",
        "divergence from unsteered (KL, nats per token)",
        "share of right answers",
    ]


def test_effects_are_compared_at_the_largest_cost_that_all_reach(page, run):
    header, *rows = page.rows["effect-and-cost-at-equal-cost"]
    assert list(map(typed, header)) == ["behavior", "layer", "multiplier", "effect (95 % interval)"]
    assert [row[0] for row in rows] == list(SLOPES)
    costs = pd.read_parquet(run / "tables" / "divergence.parquet")
    largest = costs[costs["multiplier"] == 2].groupby("behavior")["divergence"].mean().min()
    (told,) = (text for text in page.texts["p"] if text.startswith("The effect where each vector costs"))
    cost = float(told.split()[6])
    assert 0.9 * largest < cost <= largest
    effects = caa.evaluation.at_equal_cost(pd.read_parquet(run / "tables" / "dose_response.parquet"), costs, cost=cost)
    effects = effects[effects["side"] == "positive"].set_index("behavior")["effect"]
    for row in rows:
        assert typed(row[3]).startswith(number_text(effects[row[0]]))


def test_interference_has_a_part_where_it_was_measured(copy):
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
    pd.concat([rows, beside]).to_parquet(copy / "tables" / "interference.parquet")
    page = Page(write_page(copy))
    assert "Two vectors at once" in page.texts["h2"]
    assert not any("interference of vectors" in text for text in page.texts["p"])


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
    assert json.loads(manifest) == json.loads((run / "manifest.json").read_text())


def test_parts_that_were_not_asked_for_are_named_and_left_out(tmp_path):
    leave_out = (*OPTIONAL, "side_effects")
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, layers=(3,), n_controls=0, leave_out=leave_out)
    page = Page(write_page(folder))
    assert page.texts["h2"] == [
        "Findings",
        "Response to the multiplier",
        "Layers and multipliers",
        "Reliability of the vectors",
        "Configuration",
        "How it was made",
    ]
    assert page.texts["p"][2] == (
        "Not part of this study: controls, a choice of the layer, activations, the logit lens, the effect lens, "
        "steered answers, surprise at prose, divergence from the unsteered model, questions with a right answer, "
        "side effects, interference of vectors."
    )
    assert page.rows["findings"][1][-1] == "no controls"


def test_several_models_have_a_part_each(tmp_path):
    folder = write_study(
        tmp_path / "run", {"optimism": 0.5, "tiny": 0.0}, models=("tiny", "large"), leave_out=OPTIONAL[5:]
    )
    page = Page(write_page(folder))
    assert page.texts["h2"] == ["tiny", "large", "Configuration", "How it was made"]
    assert page.texts["h3"].count("Steered answers") == 2
    for model in ("tiny", "large"):
        assert [row[0] for row in page.rows[f"{model}-findings"][1:]] == ["optimism", "tiny"]
        assert (folder / "figures" / f"{model}-findings.json").is_file()
    assert len(set(page.anchors)) == len(page.anchors)
    assert {"tiny-steered-answers-tiny", "large-steered-answers-tiny"} <= set(page.anchors)
    assert [text.split(" (")[0] for text in page.texts["p"][1:3]] == ["tiny: Steers", "large: Steers"]
    assert "#large-side-effects" in page.links
    assert (folder / "figures" / "large-side-effects.json").is_file()


def test_many_pairs_are_drawn_in_part_and_the_page_says_so(tmp_path):
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, n_pairs=N_DRAWN + 1, layers=(1,))
    page = Page(write_page(folder))
    assert f"fitted to {N_DRAWN + 1} pairs, of which the first {N_DRAWN} are drawn" in page.text()
    fig = plotly.io.read_json(folder / "figures" / "activations-optimism.json")
    assert {len(trace.hovertext) for trace in fig.data if trace.hovertext is not None} == {N_DRAWN}


def test_letters_are_named_where_choices_were_scored(tmp_path):
    letter = {"optimism": {"letter_share": 0.4, "letter_cosine": 0.5}}
    folder = write_study(tmp_path / "run", {"optimism": 0.5}, format="choices", reliability=letter)
    page = Page(write_page(folder))
    assert "the slope of the log-odds of the positive letter over the multiplier, in nats for each" in page.text()
    assert "optimism (layer 3): letter share > 0.1." in page.texts["li"]
    assert "letter share > 0.1" in dict(page.rows["reliability-of-the-vectors-what-a-warning-is-given-for"])
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
    manifest, seeds = json.loads((copy / "manifest.json").read_text()), []
    (copy / "manifest.json").write_text(json.dumps(manifest | {"seed": 7}))
    own = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: (seeds.append(seed), own(seed))[1])
    write_page(copy)
    assert set(seeds) == {7}


def test_the_page_is_the_same_when_written_again(copy):
    before = (copy / "report.html").read_bytes()
    write_page(copy)
    assert (copy / "report.html").read_bytes() == before
