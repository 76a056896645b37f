"""The figure of how layers were chosen draws both slopes of every layer, and marks the chosen one."""

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.plotting.layer_choice import plot_layer_choice


def slopes(*behaviors: str, n: int = 8, shift: float = 0.0) -> pd.DataFrame:
    rows = [
        {"behavior": name, "vector": name, "layer": layer, "slope": layer + shift, "n": n}
        for name in behaviors
        for layer in (5, 3, 4)
    ]
    table = pd.DataFrame(rows)
    ends = {"slope_low": table["slope"] - 0.1, "slope_high": table["slope"] + 0.2}
    return table.assign(**ends, format="text", confidence=0.9)


def test_lines_bands_and_marks():
    fig = plot_layer_choice(slopes("a", "<b>"), slopes("a", "<b>", n=50, shift=-1), {"a": 5, "<b>": 3})
    lines = [trace for trace in fig.data if trace.mode == "lines+markers" and trace.x[0] is not None]
    assert [list(trace.x) for trace in lines] == [[3, 4, 5]] * 4
    assert [list(trace.y) for trace in lines] == [[3, 4, 5], [2, 3, 4]] * 2
    bands = [trace for trace in fig.data if trace.fill == "toself"]
    assert list(bands[0].y) == pytest.approx([3.2, 4.2, 5.2, 4.9, 3.9, 2.9])
    assert [shape.x0 for shape in fig.layout.shapes] == [5, 3]
    assert "n = 8 validation pairs and 50 held-out pairs" in fig.layout.title.text
    assert "90 % interval, each" in fig.layout.title.text
    assert [note.text for note in fig.layout.annotations][:2] == ["a", "&lt;b&gt;"]
    assert "nats per token per multiplier" in fig.layout.annotations[-1].text
    assert [trace.name for trace in fig.data if trace.showlegend is not False] == [
        "validation pairs",
        "held-out pairs",
    ]


def test_bad_input():
    with pytest.raises(caa.InputError, match=r"chosen: there is no layer for 'b'. Give one for each of \['a', 'b'\]"):
        plot_layer_choice(slopes("a", "b"), slopes("a", "b"), {"a": 5})
    with pytest.raises(caa.InputError, match=r"columns \['slope'\] are missing; give the result of caa_interp.steerab"):
        plot_layer_choice(slopes("a"), slopes("a").drop(columns="slope"), {"a": 5})
