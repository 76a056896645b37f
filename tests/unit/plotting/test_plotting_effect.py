"""Figures of effect lenses show what their tables hold."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import caa_interp as caa
from caa_interp.plotting import plot_effect_lens


def made(vectors=("optimism",), layers=(3,), controls=("random 0", "random 1"), n_ranks=3, n=5, **columns):
    """Effects from 1 downwards, a tenth less at each rank; half of that for controls."""
    rows = [
        {
            "vector": name,
            "kind": name.split()[0] if name in controls else "vector",
            "layer": layer,
            "side": side,
            "rank": rank,
            "token": f"␣{name[:3]}{layer}{side[0]}{rank}",
            "effect": sign * (1.1 - 0.1 * rank) * (0.5 - 0.01 * (name == "random 1") if name in controls else 1),
            "probability": 0.01,
        }
        for name in (*vectors, *controls)
        for layer in layers
        for side, sign in (("raised", 1), ("lowered", -1))
        for rank in range(1, n_ranks + 1)
    ]
    table = pd.DataFrame(rows)
    table["probability_change"] = table["effect"] / 100
    for name in ("effect", "probability_change"):
        reach = 0.05 * table[name].abs() if n > 1 else np.nan
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - reach, table[name] + reach
    return table.assign(**{"ranked_by": "effect", "n": n, "at": "answer", "format": "text", **columns})


@pytest.mark.parametrize("layers", [(3,), (2, 3)])
def test_texts_may_be_categories(layers):
    table = made(layers=layers)
    texts = dict.fromkeys(table.select_dtypes(exclude="number"), "category")
    assert plot_effect_lens(table.astype(texts)) == plot_effect_lens(table)


def bars(fig: go.Figure) -> list[go.Bar]:
    return [trace for trace in fig.data if isinstance(trace, go.Bar)]


def test_one_layer_is_two_columns_of_bars_with_intervals():
    raised, lowered = bars(fig := plot_effect_lens(made().sample(frac=1, random_state=0)))
    for trace, sign in ((raised, 1), (lowered, -1)):
        shown = dict(zip(trace.y, trace.x, strict=True))
        assert shown == pytest.approx({1: sign * 1.0, 2: sign * 0.9, 3: sign * 0.8})
        reach = dict(zip(trace.y, trace.error_x.array, strict=True))
        assert reach == pytest.approx({1: 0.05, 2: 0.045, 3: 0.04})
    labels = dict(zip(fig.layout.yaxis2.tickvals, fig.layout.yaxis2.ticktext, strict=True))
    assert labels == {1: "␣opt3l1", 2: "␣opt3l2", 3: "␣opt3l3"}
    assert raised.marker.color != lowered.marker.color
    # Both grow to the right, and all of an interval is seen.
    assert fig.layout.xaxis.range[1] == -fig.layout.xaxis2.range[1] >= 1.05
    assert "12 pairs" in plot_effect_lens(made(n=12)).layout.title.text
    assert "95 % interval" in fig.layout.title.text


def test_the_gray_band_reaches_to_the_largest_effect_of_any_control():
    fig = plot_effect_lens(made())
    assert [(shape.x0, shape.x1) for shape in fig.layout.shapes] == [(0, 0.5), (0, -0.5)]
    assert "gray: up to the largest effect of 2 random vectors of the same norm" in fig.layout.title.text
    alone = plot_effect_lens(made(controls=()))
    assert not alone.layout.shapes
    assert "gray" not in alone.layout.title.text


def test_each_vector_stands_beside_its_own_controls():
    one, other = made(("optimism",)), made(("sycophancy",))
    numbers = ["effect", "effect_low", "effect_high"]
    other[numbers] *= 2
    table = pd.concat([one.assign(behavior="optimism"), other.assign(behavior="sycophancy")])
    fig = plot_effect_lens(table)
    assert [shape.x1 for shape in fig.layout.shapes] == [0.5, -0.5, 1.0, -1.0]
    assert [max(np.abs(trace.x)) for trace in bars(fig)] == pytest.approx([1, 1, 2, 2])
    titles = [note.text for note in fig.layout.annotations]
    assert [title for title in titles if title.startswith("sycophancy")] == [
        "sycophancy, expected more, layer 3",
        "sycophancy, expected less, layer 3",
    ]


def test_probabilities_are_shown_if_they_were_ranked():
    fig = plot_effect_lens(made(ranked_by="probability_change"))
    assert max(bars(fig)[0].x) == pytest.approx(0.01)
    assert fig.layout.shapes[0].x1 == pytest.approx(0.005)
    assert "change of probability" in fig.layout.xaxis.title.text


def test_one_item_has_bars_and_no_interval():
    fig = plot_effect_lens(made(n=1))
    assert max(bars(fig)[0].x) == pytest.approx(1)
    assert np.isnan(np.asarray(bars(fig)[0].error_x.array, dtype=float)).all()
    assert "one item gives no interval" in fig.layout.title.text


def test_several_layers_are_a_grid_of_tokens():
    table = made(layers=(1, 3))
    table.loc[(table["layer"] == 1) & (table["kind"] == "vector"), "effect"] *= 0.45
    fig = plot_effect_lens(table)
    maps = [trace for trace in fig.data if isinstance(trace, go.Heatmap)]
    texts = [trace for trace in fig.data if isinstance(trace, go.Scatter)]
    assert [list(one.y) for one in maps] == [["1", "3"]] * 2
    np.testing.assert_allclose(maps[0].z, [[0.45, 0.405, 0.36], [1, 0.9, 0.8]])
    # Controls reach 0.5 at both layers.
    plain, bold = ["␣opt1r1", "␣opt1r2", "␣opt1r3"], ["<b>␣opt3r1</b>", "<b>␣opt3r2</b>", "<b>␣opt3r3</b>"]
    assert list(texts[0].text) == plain + bold
    assert fig.layout.coloraxis.cmax == -fig.layout.coloraxis.cmin == 1
    assert "bold: beyond the largest effect at that layer of 2 random vectors" in fig.layout.title.text
    assert "<b>" not in "".join(plot_effect_lens(made(layers=(1, 3), controls=())).data[1].text)


def test_tokens_are_shown_as_they_are():
    for table in (made(token="<b>&$x$"), made(layers=(1, 2), token="<b>&$x$")):
        shown = plot_effect_lens(table).to_json()
        assert "\\u003cb\\u003e\\u0026$x$" not in shown
        assert "<b>&$x$" not in shown


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(caa.InputError, match=r"columns \['side'\] are missing.*caa_interp.effect_lens"):
        plot_effect_lens(made().drop(columns="side"))
    with pytest.raises(caa.InputError, match="it holds controls alone; give the rows of a steering vector beside"):
        plot_effect_lens(made(vectors=()))
    with pytest.raises(caa.InputError, match=r"twice; give the result of one call"):
        plot_effect_lens(pd.concat([made(), made()]))
    with pytest.raises(caa.InputError, match=r"several, with layer \[1, 2\]\. These are of 'optimism' beside other"):
        plot_effect_lens(made(vectors=("optimism", "refusal"), layers=(1, 2)))
