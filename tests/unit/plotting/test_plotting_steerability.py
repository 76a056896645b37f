"""The forest plot shows every vector beside the controls of its own row, and says in words what the numbers say."""

import pandas as pd
import pytest

import caa_interp as caa


def row(vector, slope, half=0.01, kind="vector", against=0.1, **more):
    return {
        "vector": vector,
        "kind": kind,
        "slope": slope,
        "slope_low": slope - half,
        "slope_high": slope + half,
        "share_against": against,
        "n": 50,
        "layer": 3,
        "format": "text",
        **more,
    }


TABLE = pd.DataFrame(
    [
        row("weak", 0.02, behavior="weak"),
        row("random 0", -0.03, kind="random", behavior="weak"),
        row("strong", 0.05, behavior="strong"),
        row("random 0", 0.002, kind="random", behavior="strong"),
        row("shuffled 0", 0.003, kind="shuffled", behavior="strong"),
        row("none", 0.005, behavior="none"),
        row("back", -0.04, behavior="back"),
        row("random 0", 0.001, kind="random", behavior="back"),
    ]
)


def points(fig, panel=0):
    """Slope by the name of its row."""
    names = dict(zip(fig.layout.yaxis.tickvals, fig.layout.yaxis.ticktext, strict=True))
    trace = fig.data[2 * panel + 1]
    return {names[y]: x for x, y in zip(trace.x, trace.y, strict=True)}


def verdicts(fig):
    names = dict(zip(fig.layout.yaxis.tickvals, fig.layout.yaxis.ticktext, strict=True))
    return {
        names[note.y]: note.text.split("<br>")[0] for note in fig.layout.annotations if "opposite, n = " in note.text
    }


def test_rows_are_sorted_and_hold_their_slopes_and_intervals():
    fig = caa.plot_steerability(TABLE)
    assert list(fig.layout.yaxis.ticktext) == ["back", "none", "weak", "strong"]  # from the bottom up
    assert points(fig) == {"back": -0.04, "none": 0.005, "weak": 0.02, "strong": 0.05}
    assert list(fig.data[1].error_x.array) == pytest.approx([0.01] * 4)


def test_one_item_decides_nothing():
    (verdict,) = verdicts(caa.plot_steerability(pd.DataFrame([row("alone", 0.05, half=float("nan"), n=1)]))).values()
    assert verdict == "no interval"


def test_a_vector_of_which_no_pair_was_scored_everywhere_has_no_share():
    lost = {**row("lost", float("nan"), against=float("nan"), behavior="lost"), "n": 0}
    fig = caa.plot_steerability(pd.concat([TABLE, pd.DataFrame([lost])], ignore_index=True))
    (note,) = [one.text for one in fig.layout.annotations if "n = 0" in one.text]
    assert note.startswith("no interval<br>")
    assert "nan" not in note


def test_controls_stand_in_the_rows_of_their_behavior():
    fig = caa.plot_steerability(TABLE)
    ticks = fig.data[0]
    assert sorted(zip(ticks.y, ticks.x, strict=True)) == [(0, 0.001), (2, -0.03), (3, 0.002), (3, 0.003)]
    assert "gray ticks of each row: 1 random and 1 shuffled vectors of the same norm" in fig.layout.title.text


def test_each_row_ends_with_its_verdict():
    assert verdicts(caa.plot_steerability(TABLE)) == {
        "strong": "steers",
        "weak": "within controls",
        "none": "no clear effect",
        "back": "opposite",
    }


def test_without_behaviors_all_vectors_share_the_controls():
    table = TABLE.drop(columns="behavior").drop_duplicates("vector")
    fig = caa.plot_steerability(table)
    assert len(fig.data[0].x) == 4 * 2
    assert verdicts(fig)["strong"] == "steers"


def test_controls_of_each_row_are_counted_where_no_behaviors_are_named():
    controls = [row(f"random {number}", 0.001 * number, kind="random") for number in range(3)]
    fig = caa.plot_steerability(pd.DataFrame([row("one", 0.05), row("two", 0.02), *controls]))
    assert "gray ticks of each row: 3 random vectors of the same norm" in fig.layout.title.text


def test_controls_stand_beside_the_vectors_of_their_layer():
    rows = [row("one", 0.05, layer=3), row("two", 0.02, layer=5)]
    rows += [row("random 0", 0.001 * layer, kind="random", layer=layer) for layer in (3, 5)]
    ticks = caa.plot_steerability(pd.DataFrame(rows)).data[0]
    assert sorted(zip(ticks.y, ticks.x, strict=True)) == [(0, 0.005), (1, 0.003)]


def test_several_vectors_of_a_behavior_have_a_row_each():
    mine = row("mine", 0.09, behavior="strong")
    fig = caa.plot_steerability(pd.concat([TABLE, pd.DataFrame([mine])], ignore_index=True))
    assert points(fig) == {"back": -0.04, "none": 0.005, "weak": 0.02, "strong": 0.05, "strong, mine": 0.09}
    assert verdicts(fig)["strong, mine"] == "steers"
    operators = pd.concat([TABLE.assign(operator="add"), TABLE.assign(operator="ablate", slope=0.0)])
    assert {"strong, add", "strong, ablate"} <= set(caa.plot_steerability(operators).layout.yaxis.ticktext)


def test_pairs_are_panels_with_the_rows_of_the_first():
    other = TABLE[TABLE["behavior"] != "weak"].assign(slope=lambda rows: -rows["slope"])
    fig = caa.plot_steerability(pd.concat([TABLE.assign(pairs="mine"), other.assign(pairs="<theirs>")]))
    assert list(fig.layout.yaxis.ticktext) == ["back", "none", "weak", "strong"]
    assert points(fig, panel=1) == {"back": 0.04, "none": -0.005, "strong": -0.05}
    assert {"mine", "&lt;theirs&gt;"} <= {note.text for note in fig.layout.annotations}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE[TABLE["kind"] != "vector"], "controls alone"),
        (TABLE.drop(columns="share_against"), "share_against"),
        (pd.concat([TABLE, TABLE]), "twice"),
    ],
)
def test_tables_that_cannot_be_drawn(table, message):
    with pytest.raises(caa.InputError, match=message):
        caa.plot_steerability(table)


@pytest.mark.parametrize("columns", [1, 2])
def test_it_can_be_saved_at_the_width_of_a_column(columns, tmp_path):
    assert caa.save_figure(caa.plot_steerability(TABLE), tmp_path / "a.html", columns=columns).exists()
