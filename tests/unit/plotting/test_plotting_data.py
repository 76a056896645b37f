"""Figures of pairs and texts: every mark is its row, and what cannot be drawn is refused."""

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.plotting import theme


def named(fig, mode):
    return [trace for trace in fig.data if trace.mode == mode]


# plot_data_curve


def curve(enough=10, shift=0.0):
    table = pd.DataFrame({"n_pairs": [5, 10, 20], "n_draws": [4, 4, 1], "slope": [0.2, 0.5, 0.6]})
    table["slope"] += shift
    for name in ("slope", "cosine", "split_half"):
        table[name] = table.get(name, pd.Series([0.3, 0.7, 1.0]))
        table[f"{name}_low"] = (table[name] - 0.1).where(table["n_draws"] > 1)
        table[f"{name}_high"] = (table[name] + 0.2).where(table["n_draws"] > 1)
    enough = pd.array([enough] * 3, dtype="Int64")
    return table.assign(chance=[0.5, 0.7, 1.0], enough=enough, layer=3, n=9, confidence=0.8, format="text")


def test_a_data_curve_shows_means_spread_chance_and_the_number_that_is_enough():
    fig = caa.plotting.plot_data_curve({"a": curve(), "<b>": curve(None, shift=0.1)})
    lines = named(fig, "lines+markers")
    assert [trace.name for trace in lines] == ["a", "&lt;b&gt;"] * 3
    assert list(lines[1].y) == pytest.approx([0.3, 0.6, 0.7])
    assert [list(trace.marker.size) for trace in lines[:2]] == [[7, 13, 7], [7, 7, 7]]
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    # The set of all pairs is one draw, whose band ends in the line.
    assert list(bands[0].y) == pytest.approx([0.4, 0.7, 0.6, 0.6, 0.4, 0.1])
    dotted = [trace for trace in fig.data if trace.mode == "lines" and trace.line.dash == "dot"]
    assert [list(trace.y) for trace in dotted] == [[0.5, 0.7, 1.0]] * 2
    title = fig.layout.title.text
    for part in ("mean of 4 draws", "80 % of the draws", "n = 9 pairs", "a: 10 pairs; &lt;b&gt;: none; no interval"):
        assert part in title
    assert fig.layout.yaxis.title.text.endswith("(nats per token per multiplier)")


def test_a_data_curve_of_one_draw_says_nothing_of_a_spread():
    one = curve().assign(
        n_draws=1, **{f"{name}_{end}": np.nan for name in ("slope", "cosine") for end in ("low", "high")}
    )
    title = caa.plotting.plot_data_curve(one).layout.title.text.replace(theme.SOFT, " ")
    assert "vectors of equal norm; effect on n = 9 pairs" in title


# plot_influence


def pulls(n=20, layers=(3,)):
    generator = np.random.default_rng(0)
    rows = [
        {
            "layer": layer,
            "rank": rank,
            "question": f"Why {rank} <b>?",
            "positive": f"Yes {rank}." + " word" * 30,
            "negative": "No.",
            "projection": -0.5 + rank / 10,
            "cosine": np.cos(np.radians(generator.uniform(1, 2))),
            "norm_change": 0.01,
            "n": n,
        }
        for layer in layers
        for rank in range(1, n + 1)
    ]
    return pd.DataFrame(rows)


def test_a_figure_of_influence_has_a_dot_for_every_pair_and_names_the_outermost():
    table = pulls()
    table.loc[11, "cosine"] = np.cos(np.radians(9))
    fig = caa.plotting.plot_influence(table, n_labels=3)
    (dots,) = named(fig, "markers+text")
    assert list(dots.x) == pytest.approx(table["projection"])
    assert dots.y[11] == pytest.approx(9)
    assert [at + 1 for at, text in enumerate(dots.text) if text] == [1, 2, 12]
    assert [text for text in dots.text if text] == ["1", "2", "12"]
    assert [symbol == "x" for symbol in dots.marker.symbol] == list(table["projection"] < 0)
    notes = [note.text for note in fig.layout.annotations]
    assert [note.split()[0] for note in notes] == ["<b>1.</b>", "<b>2.</b>", "<b>12.</b>"]
    assert "Why 1 &lt;b&gt;?" in notes[0]
    assert "Yes 1. word" in notes[0]
    assert "n = 20 pairs" in fig.layout.title.text
    assert "all others; 4 against it" in fig.layout.title.text
    assert "No." in dots.customdata[0]


def test_a_figure_of_influence_shows_one_layer():
    with pytest.raises(caa.InputError, match="layer: the table holds layers 3 to 4; name the one to show"):
        caa.plotting.plot_influence(pulls(layers=(3, 4)))
    (dots,) = named(caa.plotting.plot_influence(pulls(layers=(3, 4)), layer=4), "markers+text")
    assert len(dots.x) == 20


# plot_monitor


def texts(n=40, vectors=("cheer", "other"), turns=(("", 0),), model="m"):
    generator = np.random.default_rng(1)
    rows = [
        {
            "item": item,
            "turn": turn,
            "role": role,
            "vector": name,
            "layer": 2,
            "z": generator.normal(),
            "n_tokens": 7,
            "text": f"Text {item} <b>",
            "model": model,
        }
        for item in range(n)
        for role, turn in turns
        for name in vectors
    ]
    return pd.DataFrame(rows)


def test_a_monitor_shows_distributions_and_the_outermost_texts():
    table = texts()
    table.loc[[0, 2], "z"] = [np.nan, 9.0]
    fig = caa.plotting.plot_monitor(table, n_examples=2)
    outlines, marks = named(fig, "lines"), named(fig, "markers")
    assert len(outlines) == len(marks) == 2
    own = table[table["vector"] == "cheer"].dropna().sort_values("z")
    assert list(marks[0].x) == pytest.approx([*own["z"].iloc[:2], *own["z"].iloc[-2:]])
    assert marks[0].customdata[-1] == "item 1: z 9.00, 7 tokens<br>Text 1 &lt;b&gt;"
    # All of 39 texts are in the outline: its largest height stands for the fullest bin.
    counted, edges = np.histogram(own["z"], bins=8)
    assert list(outlines[0].x) == pytest.approx(np.repeat(edges, 2))
    assert np.array(outlines[0].y[1:-1:2]) - 1 == pytest.approx(0.62 * counted / counted.max())
    notes = [note.text for note in fig.layout.annotations]
    assert notes[1] == "+9.0: Text 1 &lt;b&gt;"
    assert "layer 2; n = 39 to 40 texts" in fig.layout.title.text
    assert list(fig.layout.yaxis.ticktext) == ["cheer", "other"]


def test_few_texts_are_all_marked_and_have_no_outline():
    fig = caa.plotting.plot_monitor(texts(n=6, vectors=("cheer",)))
    assert not named(fig, "lines")
    assert [len(trace.x) for trace in named(fig, "markers")] == [6]


def test_conversations_have_a_line_for_each_role():
    turns = (("user", 0), ("assistant", 1), ("user", 2), ("assistant", 3))
    table = texts(n=12, vectors=("cheer",), turns=turns)
    fig = caa.plotting.plot_monitor(table)
    lines = named(fig, "lines+markers")
    assert [trace.name for trace in lines] == ["cheer, user", "cheer, assistant"]
    means = table.groupby("turn")["z"].mean()
    assert list(lines[0].y) == pytest.approx([means[0], means[2]])
    assert np.array(lines[1].x) == pytest.approx([2, 4], abs=0.2)
    assert lines[0].marker.symbol.endswith("-open")
    assert not lines[1].marker.symbol.endswith("-open")
    assert (np.array(lines[0].error_y.array) > 0).all()
    assert list(fig.layout.xaxis2.tickvals) == [1, 2, 3, 4]
    assert "n = 48 turns" in fig.layout.title.text


def test_controls_are_gray():
    table = texts(n=12, vectors=("cheer", "random 0"))
    table["kind"] = table["vector"].map({"cheer": "vector", "random 0": "random"})
    fig = caa.plotting.plot_monitor(table)
    own, control = named(fig, "markers")
    assert own.marker.color != control.marker.color == "#6B7280"


def test_two_models_stand_beside_each_other():
    both = pd.concat([texts(vectors=("cheer",)), texts(vectors=("cheer",), model="base")])
    fig = caa.plotting.plot_monitor(both)
    assert list(fig.layout.yaxis.ticktext) == ["cheer, m", "cheer, base"]
    with pytest.raises(caa.InputError, match=r"it holds a row of \['label', 'layer', 'item', 'turn'\] twice"):
        caa.plotting.plot_monitor(pd.concat([texts(), texts()]))


def test_layers_are_distributions_of_their_own():
    both = pd.concat([texts(vectors=("cheer",)), texts(vectors=("cheer",)).assign(layer=0)])
    fig = caa.plotting.plot_monitor(both)
    assert list(fig.layout.yaxis.ticktext) == ["cheer, layer 2", "cheer, layer 0"]
    assert "layer 0, 2; n = 40 texts" in fig.layout.title.text


def test_names_may_be_categories():
    table = texts().assign(model=["m", "base"] * 40)
    names = [*caa.plotting.plot_monitor(table).layout.yaxis.ticktext]
    as_categories = table.astype({"vector": "category", "model": "category"})
    assert [*caa.plotting.plot_monitor(as_categories).layout.yaxis.ticktext] == names


def test_texts_of_which_nothing_was_read_cannot_be_drawn():
    with pytest.raises(caa.InputError, match="table: no row has a z, since no token was read"):
        caa.plotting.plot_monitor(texts().assign(z=np.nan))


@pytest.mark.parametrize("name", ["data_curve", "influence", "monitor"])
def test_other_tables_are_refused(name):
    with pytest.raises(caa.InputError, match=f"are missing; give the result of caa_interp.analysis.{name}"):
        getattr(caa.plotting, f"plot_{name}")(pd.DataFrame({"layer": [1]}))
