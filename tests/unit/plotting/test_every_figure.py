"""What holds for every figure that the package draws: it can be read in print, and says what it shows."""

import contextlib
import inspect
import io
import json
import re
from functools import cache, cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

import caa_interp as caa
from caa_interp.plotting import theme
from caa_interp.plotting.export import COLUMN_INCHES, _laid_out, smallest_points
from tests.unit.plotting import test_plotting_frontier, test_plotting_interference, test_plotting_safety

NAMES = sorted(name for name in caa.plotting.__all__ if name.startswith("plot_"))
BEHAVIORS = ("refusal", "optimism")
HELD_OUT = [caa.ContrastPair(f"Is {word} good?", "Yes, I like it.", "No.") for word in ("rain", "text")]
DOSES = {"layers": 2, "multipliers": (-1, 0, 1)}


def published_sweep():
    return caa.paper.numbers().query("group == 'layer_sweep' and model == 'meta-llama/Llama-2-7b-chat-hf'")


class Tables:
    """What the examples are drawn from: small tables of a tiny model, made when they are first needed."""

    def __init__(self, model, pairs):
        self.model, self.pairs = model, pairs

    @cached_property
    def activations(self):
        return caa.collect_activations(self.model, self.pairs, format="text", progress=False)

    @cached_property
    def vector(self):
        return caa.vectors.vector_from_activations(self.activations, behavior="refusal")

    @cached_property
    def vectors(self):
        return {"refusal": self.vector, **caa.random_vectors(self.vector, 2)}

    @cached_property
    def sweep(self):
        layers = {"layers": (1, 2), "multipliers": (-1, 0, 2)}
        return caa.sweep(self.model, self.vectors, self.pairs, format="text", progress=False, **layers)

    @cached_property
    def at_a_layer(self):
        return self.sweep[self.sweep["layer"] == 2]

    @cached_property
    def behaviors(self):
        parts = [
            self.sweep.assign(
                behavior=name,
                vector=self.sweep["vector"].replace("refusal", name),
                logit_difference=(-1) ** place * self.sweep["logit_difference"],
            )
            for place, name in enumerate(BEHAVIORS)
        ]
        return pd.concat(parts)

    def scored(self):
        """Scores of two behaviors as of the paper, which are all of a half."""
        rows = self.sweep[self.sweep["kind"] == "vector"].assign(p_positive=0.5)
        return caa.summarize(pd.concat([rows.assign(behavior=name) for name in ("refusal", "sycophancy")]))

    def cost(self):
        prose = caa.load_prose()[:2]
        return caa.perplexity(self.model, self.vectors, prose, max_tokens=24, progress=False, **DOSES)

    def every_cost(self):
        prose = self.cost()
        return prose.assign(divergence=prose["multiplier"] ** 2, correct=prose["item"] % 2)

    def judged(self):
        return pd.DataFrame(
            [
                {
                    "item": item,
                    "layer": 2,
                    "multiplier": m,
                    "score": 5 + m + item,
                    "vector": "refusal",
                    "kind": "vector",
                }
                for item in range(3)
                for m in (-1.0, 0.0, 1.0)
            ]
        )

    def baselines(self):
        rows = self.at_a_layer[self.at_a_layer["kind"] == "vector"]
        return pd.concat([rows.assign(baseline=name) for name in ("none", "system prompt")])

    def side_effects(self):
        return pd.concat(
            [
                self.at_a_layer[self.at_a_layer["kind"] == "vector"].assign(behavior=one, vector=other)
                for one in BEHAVIORS
                for other in BEHAVIORS
            ]
        )

    def predicted(self):
        rows = [(name, layer, -0.02 * layer) for name in BEHAVIORS for layer in (1, 2)]
        table = pd.DataFrame(rows, columns=["behavior", "layer", "slope"])
        ends = {"slope_low": table["slope"] - 0.01, "slope_high": table["slope"] + 0.01, "predicted": table["slope"]}
        return table.assign(**ends, n=3, format="text", rank_correlation=-0.5, skill=-0.1)

    def effect(self, layers):
        options = {"layers": layers, "progress": False}
        return caa.effect_lens(self.model, self.vectors, self.pairs, top_k=4, **options)

    def decomposed(self):
        neurons = self.model.blocks[2].mlp.W_out.detach().cpu()
        dictionary = caa.analysis.SparseAutoencoder(neurons, neurons.new_zeros(neurons.shape[1]))
        return caa.analysis.decompose(self.vector, dictionary, layer=2, n_features=4)

    def data_curve(self):
        options = {"layer": 2, "sizes": (1, 2), "n_draws": 2, "progress": False}
        return caa.analysis.data_curve(self.model, self.activations, HELD_OUT, **options)

    def talks(self):
        turns = [{"role": "user", "content": "Is it good?"}, {"role": "assistant", "content": "I like the sea."}]
        return caa.analysis.monitor(self.model, self.vectors, [turns, turns[:1]], layer=2, progress=False)


def of_each(table, behaviors):
    """The same rows for each behavior, whose name its vector has."""
    own = table["kind"] == "vector"
    return pd.concat(
        [table.assign(behavior=name, vector=table["vector"].mask(own, name)) for name in behaviors], ignore_index=True
    )


def frontier():
    return pd.concat(
        [test_plotting_frontier.rows(), test_plotting_frontier.rows("random 0", "random", gain=-0.1)], ignore_index=True
    )


# Every figure, and more than one where a function draws in several forms.
EXAMPLES = {
    "plot_baselines": [lambda t: caa.plot_baselines(t.baselines())],
    "plot_cosine_similarity": [
        lambda t: caa.plot_cosine_similarity(caa.cosine_similarity(t.vectors, between="vectors"), layer=2),
        lambda t: caa.plot_cosine_similarity(caa.cosine_similarity(t.vectors, between="layers")),
        lambda t: caa.plot_cosine_similarity(
            caa.cosine_similarity(dict(list(t.vectors.items())[:2]), between="vectors")
        ),
    ],
    "plot_cost": [
        lambda t: caa.plot_cost(t.cost()),
        lambda t: caa.plot_cost(t.every_cost()),
        lambda t: caa.plot_cost(
            pd.concat([t.every_cost(), t.every_cost().query("kind == 'vector'").assign(vector="optimism")])
        ),
    ],
    "plot_data_curve": [
        lambda t: caa.plotting.plot_data_curve(t.data_curve()),
        lambda t: caa.plotting.plot_data_curve(dict.fromkeys(BEHAVIORS, t.data_curve())),
    ],
    "plot_decomposition": [lambda t: caa.plotting.plot_decomposition(t.decomposed())],
    "plot_dose_response": [
        lambda t: caa.plot_dose_response(t.at_a_layer, pairs=t.pairs),
        lambda t: caa.plot_dose_response(t.at_a_layer, measure="p_positive"),
    ],
    "plot_dose_responses": [lambda t: caa.plot_dose_responses(t.behaviors[t.behaviors["layer"] == 2])],
    "plot_effect_attribution": [
        lambda t: caa.plotting.plot_effect_attribution(
            caa.analysis.effect_attribution(t.model, t.vectors, t.pairs, layer=1, progress=False)
        ),
        lambda t: caa.plotting.plot_effect_attribution(
            caa.analysis.effect_attribution(t.model, t.vector, t.pairs, layer=1, per="head", progress=False)
        ),
    ],
    "plot_effect_lens": [
        lambda t: caa.plot_effect_lens(t.effect(2)),
        lambda t: caa.plot_effect_lens(t.effect((1, 2))),
        lambda t: caa.plot_effect_lens(of_each(t.effect(2), BEHAVIORS)),
    ],
    "plot_frontier": [
        lambda t: caa.plotting.plot_frontier(frontier()),
        lambda t: caa.plotting.plot_frontier(of_each(frontier(), BEHAVIORS)),
        lambda t: caa.plotting.plot_frontier(of_each(frontier(), (*BEHAVIORS, "a behavior with a long name"))),
    ],
    "plot_influence": [lambda t: caa.plotting.plot_influence(caa.analysis.influence(t.activations, layers=2))],
    "plot_interference": [lambda t: caa.plotting.plot_interference(test_plotting_interference.table())],
    "plot_layer_profile": [
        lambda t: caa.plotting.plot_layer_profile(caa.steerability(t.behaviors)),
        lambda t: caa.plotting.plot_layer_profile(
            caa.steerability(t.behaviors), validation=caa.steerability(t.behaviors), chosen=dict.fromkeys(BEHAVIORS, 2)
        ),
        lambda t: caa.plotting.plot_layer_profile(
            pd.concat([caa.steerability(t.sweep).assign(behavior=name) for name in "abcdef"])
        ),
    ],
    "plot_layer_sweep": [
        lambda t: caa.plotting.plot_layer_sweep(t.scored(), None, behavior="refusal"),
        lambda t: caa.plotting.plot_layer_sweep(t.scored(), published_sweep(), behavior="refusal"),
    ],
    "plot_layer_sweeps": [lambda t: caa.plotting.plot_layer_sweeps(published_sweep())],
    "plot_logit_lens": [lambda t: caa.plot_logit_lens(caa.logit_lens(t.model, t.vector, top_k=5))],
    "plot_monitor": [lambda t: caa.plotting.plot_monitor(t.talks())],
    "plot_persistence": [lambda t: caa.plotting.plot_persistence(test_plotting_safety.talks())],
    "plot_position_map": [
        lambda t: caa.plotting.plot_position_map(
            caa.analysis.position_map(t.model, t.vectors, t.pairs, layer=1, progress=False)
        )
    ],
    "plot_predicted_steerability": [lambda t: caa.plotting.plot_predicted_steerability(t.predicted())],
    "plot_projection": [
        lambda t: caa.plot_projection(caa.project(t.activations)),
        lambda t: caa.plot_projection(caa.project(dict.fromkeys(BEHAVIORS, t.activations), layers=2)),
    ],
    "plot_reliability": [
        lambda t: caa.plot_reliability(caa.reliability(t.activations)),
        lambda t: caa.plot_reliability({name: caa.reliability(t.activations) for name in BEHAVIORS}),
    ],
    "plot_reproduction": [
        lambda t: caa.plotting.plot_reproduction(
            caa.paper.compare(t.scored().query("layer == 2"), None, "other items")
        ),
        lambda t: caa.plotting.plot_reproduction(
            caa.paper.compare(t.scored().query("layer == 2"), None, "other items").assign(paper=0.4, within=False)
        ),
    ],
    "plot_safety_audit": [
        lambda t: caa.plotting.plot_safety_audit(test_plotting_safety.audit()),
        lambda t: caa.plotting.plot_safety_audit(test_plotting_safety.audit(answers=True)),
    ],
    "plot_scores": [
        lambda t: caa.plot_scores(t.judged()),
        lambda t: caa.plot_scores(of_each(t.judged(), BEHAVIORS)),
    ],
    "plot_separation": [lambda t: caa.plotting.plot_separation(caa.analysis.separation(t.activations, t.vector))],
    "plot_side_effects": [lambda t: caa.plotting.plot_side_effects(t.side_effects())],
    "plot_steerability": [lambda t: caa.plot_steerability(caa.steerability(t.behaviors[t.behaviors["layer"] == 2]))],
    "plot_steered_lens": [
        lambda t: caa.plot_steered_lens(
            caa.steered_lens(t.model, "Is the weather good?", t.vector, layer=2, multipliers=(-1, 0, 1))
        )
    ],
    "plot_sweep": [lambda t: caa.plot_sweep(t.sweep)],
    "plot_token_similarity": [
        lambda t: caa.plot_token_similarity(caa.token_similarity(t.model, "Is it good?", t.vector, layers=2)),
        lambda t: caa.plot_token_similarity(caa.token_similarity(t.model, "Is it good?", t.vector)),
    ],
    "plot_transfer": [
        lambda t: caa.plotting.plot_transfer(
            caa.analysis.transfer(t.model, t.vector, t.pairs, multipliers=(-1, 1), format="text", progress=False)
        ),
        lambda t: caa.plotting.plot_transfer(
            caa.analysis.transfer(
                t.model, t.vector, t.pairs, source_layers=2, multipliers=(-1, 1), format="text", progress=False
            )
        ),
    ],
    "plot_vector_map": [lambda t: caa.plotting.plot_vector_map(caa.analysis.project_vectors(t.vectors))],
    "plot_weight_alignment": [
        lambda t: caa.plotting.plot_weight_alignment(caa.analysis.weight_alignment(t.model, t.vector, layer=2, top_k=3))
    ],
}


@pytest.fixture(scope="module")
def tables(tiny_llama, pairs):
    return Tables(tiny_llama, pairs)


@pytest.fixture(scope="module")
def figures(tables):
    """``name -> figures``, each drawn once."""
    return cache(lambda name: [draw(tables) for draw in EXAMPLES[name]])


def texts(part, name=""):
    """Every text of a figure that is shown, with the name of the field that holds it."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key not in ("template", "uid", "meta", "legendgroup", "bdata", "dtype"):
                yield from texts(value, key)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from texts(value, name)
    elif isinstance(part, str):
        yield name, part


def shown(fig):
    return texts(json.loads(fig.to_json()))


def font_colors(part):
    """Colors of all fonts of a part of a figure: ``font``, ``textfont``, ``tickfont`` and so on."""
    if isinstance(part, list):
        for value in part:
            yield from font_colors(value)
    elif isinstance(part, dict):
        for key, value in part.items():
            if key.endswith("font") and isinstance(value, dict) and value.get("color"):
                yield from value["color"] if isinstance(value["color"], list) else [value["color"]]
            yield from font_colors(value)


def lightness(color):
    """Relative luminance, 0 to 1, of a color as the web has it (WCAG 2.1)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(color, other="#FFFFFF"):
    light, dark = sorted((lightness(color), lightness(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_figure_has_an_example():
    assert sorted(EXAMPLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_no_text_is_below_6_points_in_print(figures, name):
    """At the width of a page every figure can be saved; at that of a column, or two columns are asked for."""
    for fig in figures(name):
        assert smallest_points(_laid_out(fig, COLUMN_INCHES[2]), COLUMN_INCHES[2]) >= 6
        with contextlib.suppress(caa.InputError):
            assert smallest_points(_laid_out(fig, COLUMN_INCHES[1]), COLUMN_INCHES[1]) >= 6


# A figure as a browser draws it: its panels, and the texts outside of them. A slanted text's box says little.
DRAW = r"""async ({data, layout}) => {
  const figure = document.querySelector("div");
  await Plotly.newPlot(figure, data, layout, {staticPlot: true});
  const texts = [...figure.querySelectorAll("svg text")].filter((one) => one.textContent.trim()
    && !one.closest(".plot, .heatmaplayer")
    && !/rotate\((?!0|-?90[,)])/.test(one.getAttribute("transform") || ""));
  return {
    panels: Object.values(figure._fullLayout._plots).map(({xaxis: x, yaxis: y}) =>
      [x._offset, y._offset, x._offset + x._length, y._offset + y._length]),
    texts: texts.map((one) => {
      const {left, top, right, bottom} = one.getBoundingClientRect();
      return [one.textContent, /title/.test(one.classList), [left, top, right, bottom]];
    }),
  };
}"""


@pytest.fixture(scope="module")
def plotly_page(browser):
    page = browser.new_page()
    page.set_content('<body style="margin: 0"><div></div>')
    page.add_script_tag(content=get_plotlyjs())
    return page


def overlap(one, other):
    """Whether two boxes share more than the blank above and below the letters of a line."""
    (left, top, right, bottom), (a, b, c, d) = one, other
    return min(right, c) - max(left, a) > 1.5 and min(bottom, d) - max(top, b) > 4


def printed(fig):
    return _laid_out(fig, COLUMN_INCHES[2])


def in_notebook(fig):
    """At the width that Plotly gives it beside nothing else."""
    height = fig.layout.height or 450
    return go.Figure(fig).update_layout(width=fig.layout.width or 700, height=height)


@pytest.mark.parametrize("laid_out", [printed, in_notebook])
@pytest.mark.parametrize("name", NAMES)
def test_no_text_lies_over_another_or_beyond_the_edge(figures, plotly_page, name, laid_out):
    for fig in figures(name):
        shown = json.loads(laid_out(fig).update_layout(sliders=[], updatemenus=[]).to_json())
        drawn = plotly_page.evaluate(DRAW, shown)
        boxes = [(text, box) for text, _, box in drawn["texts"]]
        over = [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if overlap(one, other)]
        titles = [(text, box) for text, is_title, box in drawn["texts"] if is_title]
        over += [(text, "a panel") for text, box in titles for panel in drawn["panels"] if overlap(box, panel)]
        width, height = shown["layout"]["width"], shown["layout"]["height"]
        outside = [text for text, (a, b, c, d) in boxes if min(a, b) < -1 or c > width + 1 or d > height + 1]
        assert (over, outside) == ([], [])


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_grows_by_each_line_of_a_broken_title(tables, figures, name, monkeypatch):
    """Whatever else it sets after its title: beside an edge so wide that every title is broken."""
    drawn = figures(name)  # before the edge is wide
    monkeypatch.setattr(theme, "EDGE", 320)
    for fig, draw in zip(drawn, EXAMPLES[name], strict=True):
        narrow = draw(tables)
        before, after = (one.layout.title.text.count(theme.SOFT) for one in (fig, narrow))
        added = theme.SUBTITLE_ROW * (after - before)
        assert added > 0
        usual = theme.TEMPLATE.layout.margin.t
        top, wide_top = (usual if one.layout.margin.t is None else one.layout.margin.t for one in (narrow, fig))
        assert top - wide_top == added
        if fig.layout.height:
            assert narrow.layout.height - fig.layout.height == added


TITLED = [name for name in NAMES if "title" in inspect.signature(getattr(caa.plotting, name)).parameters]


@pytest.mark.parametrize("name", TITLED)
def test_a_title_is_shown_as_it_is(tables, name, monkeypatch):
    monkeypatch.setitem(getattr(caa.plotting, name).__kwdefaults__, "title", "<b> of $1 & $2")
    for draw in EXAMPLES[name]:
        assert "&lt;b&gt; of &#36;1 &amp; &#36;2" in draw(tables).layout.title.text


@pytest.mark.parametrize("name", NAMES)
def test_every_trace_says_what_it_shows(figures, name):
    """Lines and areas beside the data, which say nothing, are skipped, as are entries of the legend without points."""
    for fig in figures(name):
        data = [
            one
            for one in fig.data
            if one.type != "scatter" or (one.x is not None and any(x is not None for x in one.x))
        ]
        silent = [one for one in data if not one.hovertemplate and one.hoverinfo != "skip"]
        assert not silent, silent
        assert any(one.hovertemplate for one in data)


def plain(part):
    """Part of a figure with lists for arrays, None for what is missing, and as many digits as a CSV file keeps."""
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items()}
    if isinstance(part, list | tuple | np.ndarray | pd.Series):
        return [plain(value) for value in part]
    if isinstance(part, float):
        return None if np.isnan(part) else float(f"{part:.9g}")
    return None if pd.isna(part) else part


def from_csv(table):
    return pd.read_csv(io.StringIO(table.to_csv(index=False)))


def with_float_layers(table):
    """As where a row without a layer stands beside the others."""
    return table.astype({column: float for column in table if str(column).endswith("layer")})


def changed(value, change):
    """A table, or tables by name, after a change; anything else as it is."""
    if isinstance(value, dict):
        return {name: changed(one, change) for name, one in value.items()}
    return change(value) if isinstance(value, pd.DataFrame) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_same_after_a_csv_file_and_with_layers_as_floats(tables, name, monkeypatch):
    plot, compared = getattr(caa.plotting, name), []

    def thrice(*given, **options):
        drawn = plot(*given, **options)
        compared.extend(
            (drawn, plot(*(changed(one, change) for one in given), **changed(options, change)))
            for change in (from_csv, with_float_layers)
        )
        return drawn

    for place in (caa, caa.plotting):
        monkeypatch.setattr(place, name, thrice, raising=False)
    for draw in EXAMPLES[name]:
        draw(tables)
    assert len(compared) == 2 * len(EXAMPLES[name])
    for pair in compared:
        first, second = (
            plain([*(one.to_plotly_json() for one in fig.data), fig.layout.to_plotly_json()]) for fig in pair
        )
        assert first == second


# Figures whose marks are no means over items, and so have neither an interval nor an n.
ALONE = {
    "plot_cosine_similarity": "a cosine is of two given vectors",
    "plot_decomposition": "one vector and its features",
    "plot_influence": "a mark is one pair",
    "plot_layer_sweeps": "the paper gives means alone",
    "plot_logit_lens": "one vector and its tokens",
    "plot_projection": "a mark is one answer, an arrow one vector",
    "plot_separation": "a bar counts answers, a tick is one",
    "plot_steered_lens": "one prompt",
    "plot_token_similarity": "one text",
    "plot_vector_map": "a mark is one vector",
    "plot_weight_alignment": "one vector and the weights",
}
ONE_ITEM = r"^(pair|item) \d|^layer \d+: cosine|not measured$|as published$|^$"
UNITS = r"nats|standard deviations|cosine|correlation|share|probability|points|of the residual stream|d'"


def hovers(trace):
    """What hovering over each mark of a trace says."""
    data = json.loads(trace.to_json())
    custom = np.array(data.get("customdata", []), dtype=object)
    if trace.type == "heatmap":
        n = np.size(trace.z)
        custom = custom.reshape(n, *custom.shape[2:]) if custom.size else custom
    else:
        n = len(trace.x)
    for at in range(n):
        own = custom[at] if len(custom) else ""
        said = lambda found, own=own: str(own[int(found[1])] if found[1] else own)  # noqa: E731
        yield re.sub(r"%\{customdata(?:\[(\d)\])?\}", said, trace.hovertemplate.split("<extra>")[0])


@pytest.mark.parametrize("name", sorted({*NAMES} - {*ALONE}))
def test_hovering_over_a_mean_tells_its_unit_and_n(figures, name):
    n_said = 0
    for fig in figures(name):
        for one in fig.data:
            if one.hovertemplate and one.x is not None and any(x is not None for x in one.x):
                for text in hovers(one):
                    if not re.search(ONE_ITEM, text):
                        assert re.search(r"n = \d", text), text
                        assert re.search(UNITS, text), text
                        n_said += 1
    assert n_said


@pytest.mark.parametrize("name", NAMES)
def test_minus_signs_are_alike(figures, name):
    """No number begins with a hyphen. Plotly's own formats write one: they are for numbers that are not below 0."""
    for fig in figures(name):
        for one in fig.data:
            for field, column in re.findall(r"%\{(\w+)(?:\[(\d+)\])?:[^}]*\}", str(one.hovertemplate)):
                rows = list(one[field])
                values = np.array([row[int(column)] for row in rows] if column else rows, dtype=float)
                assert not (values < 0).any(), (one.hovertemplate, field)
        for field, text in shown(fig):
            if field in ("text", "ticktext", "customdata", "name", "hovertext"):
                assert not re.search(r"(?<![\w-])-\d", re.sub(r"<[^>]*>", " ", text)), (field, text)


@pytest.mark.parametrize("name", NAMES)
def test_no_number_is_shortened_to_a_letter(figures, name):
    for fig in figures(name):
        axes = [axis for axis in fig.layout if re.fullmatch(r"[xy]axis\d*", axis)]
        assert axes
        assert theme.TEMPLATE.layout.xaxis.exponentformat == theme.TEMPLATE.layout.yaxis.exponentformat == "none"
        assert {fig.layout[axis].exponentformat for axis in axes} <= {None, "none"}
        bars = [fig.layout.coloraxis.colorbar] if fig.layout.coloraxis.cmin is not None else []
        bars += [one.marker.colorbar for one in fig.data if one.type == "scatter" and one.marker.colorscale]
        assert theme.TEMPLATE.data.heatmap[0].colorbar.exponentformat == "none"
        assert all(bar.exponentformat == "none" for bar in bars)


@pytest.mark.parametrize("name", NAMES)
def test_color_bars_have_titles(figures, name):
    for fig in figures(name):
        maps = [one for one in fig.data if one.type == "heatmap"]
        own = [one for one in maps if one.coloraxis is None and one.showscale is not False]
        assert all(one.colorbar.title.text for one in own)
        if any(one.coloraxis for one in maps):
            assert fig.layout.coloraxis.colorbar.title.text


@pytest.mark.parametrize("name", NAMES)
def test_no_panel_is_blank(figures, name):
    for fig in figures(name):
        for number in range(1, len([axis for axis in fig.layout if axis.startswith("xaxis")]) + 1):
            axis = f"x{number if number > 1 else ''}"
            own = [one for one in fig.data if (one.xaxis or "x") == axis and one.hoverinfo != "skip"]
            assert any(len(one.z if one.type == "heatmap" else one.x) for one in own), axis


@pytest.mark.parametrize("name", NAMES)
def test_text_stands_out(figures, name):
    colors = {theme.TEMPLATE.layout.font.color, theme.NEUTRAL, theme.DARK}
    for fig in figures(name):
        for field, text in shown(fig):
            # Letters on a map have its colors behind them, see below.
            colors |= set(re.findall(r"color:(#\w{6})", text)) - {"#FFFFFF"} if field in ("text", "ticktext") else set()
        drawn = json.loads(fig.to_json())
        on_maps = {(one.get("xaxis"), one.get("yaxis")) for one in drawn["data"] if one["type"] == "heatmap"}
        for one in drawn["data"]:
            # Nor do letters inside of bars stand on white.
            if (one.get("xaxis"), one.get("yaxis")) not in on_maps and one.get("textposition") != "inside":
                colors |= set(font_colors(one))
        colors |= set(font_colors({**drawn["layout"], "template": {}}))
    assert {color: round(contrast(color), 1) for color in colors if contrast(color) < 4.5} == {}


def test_letters_on_every_color_of_a_signed_map_stand_out():
    from plotly.colors import sample_colorscale

    for share in [place / 50 for place in range(-50, 51)]:
        rgb = re.findall(r"\d+(?:\.\d+)?", sample_colorscale(theme.DIVERGING, [(share + 1) / 2])[0])
        cell = "#" + "".join(f"{round(float(one)):02X}" for one in rgb)
        letters = str(theme.letter_colors(pd.Series([share]).to_numpy())[0])
        assert contrast("#FFFFFF" if letters == "white" else letters, cell) >= 4.5, share


def test_examples_are_figures(figures):
    assert all(isinstance(fig, go.Figure) for name in NAMES for fig in figures(name))
