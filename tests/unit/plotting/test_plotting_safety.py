"""Figures of safety audits and of conversations show the numbers of their tables, beside those of controls."""

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation import summarize_audit, summarize_persistence
from caa_interp.plotting import plot_persistence, plot_safety_audit


def audit(answers: bool = False) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    slopes = {"mine": 0.5, "mine without refusal": 0.4, "random 0": 0.1, "random 1": -0.1}
    measured = {"requests": ("harmless requests", "borderline requests"), "behaviors": ("a", "mine")}
    rows = [
        {
            **{"part": part, "measured": name, "vector": vector, "layer": 3, "multiplier": m, "item": item},
            **{"kind": "random" if "random" in vector else "vector", "format": "text"},
            **{"logit_difference": slope * m + generator.normal() * (1 + 0.1 * m), "p_positive": 0.5, "order": ""},
        }
        for part, names in measured.items()
        for name in names
        for vector, slope in slopes.items()
        for m in (-1.0, 0.0, 1.0)
        for item in range(4)
    ]
    rows += [
        {"part": "cosine", "measured": "refusal vector", "vector": name, "kind": kind, "layer": layer, "chance": 0.2}
        | {"cosine": cosine * layer / 10}
        for name, kind, cosine in (("refusal", "vector", 0.9), ("shuffled 0", "shuffled", -0.3))
        for layer in (3, 1)
    ]
    rows += [
        {"part": "answers", "measured": kind, "vector": "mine", "kind": "vector", "layer": 3, "multiplier": m}
        | {"item": item, "refused": float(m > 0), "answer": "I can't."}
        for kind in measured["requests"] * answers
        for m in (-1.0, 0.0, 1.0)
        for item in range(4)
    ]
    return pd.DataFrame(rows)


def test_an_audit_shows_its_findings():
    table = audit()
    fig = plot_safety_audit(table)
    assert fig.layout.title.text.startswith("Safety audit of mine")
    assert fig.layout.yaxis.ticktext == ("mine", "a")  # the vector's own on top
    found = summarize_audit(table).query("part == 'behaviors'")
    for trace, vector in zip(
        [one for one in fig.data if one.error_x.array is not None], ("mine", "mine without refusal"), strict=True
    ):
        own = found[found["vector"] == vector]
        np.testing.assert_allclose(trace.x, own["estimate"])
        np.testing.assert_allclose(trace.x + trace.error_x.array, own["estimate_high"])
        assert [round(-y) for y in trace.y] == [1, 0]
    gray = {
        round(-(shape.y0 + shape.y1) / 2): (shape.x0, shape.x1) for shape in fig.layout.shapes if shape.type == "rect"
    }
    for row in found[found["vector"] == "mine"].itertuples():
        assert gray[0 if row.measured == "mine" else 1] == pytest.approx((row.control_low, row.control_high))
    (cosines,) = [one for one in fig.data if one.xaxis == "x2" and one.fill is None]
    assert (list(cosines.x), list(cosines.y)) == ([1, 3], pytest.approx([0.09, 0.27]))


def test_of_the_refusal_vector_itself_nothing_is_drawn_without_it():
    table = audit().query("vector != 'mine without refusal'")
    table.loc[table["vector"] == "refusal", "cosine"] = 1.0
    fig = plot_safety_audit(table)
    assert "this is the refusal vector" in fig.layout.title.text
    assert "without its part along refusal" not in {one.name for one in fig.data}
    assert "this is the refusal vector" not in plot_safety_audit(audit()).layout.title.text


def test_refusals_are_drawn_over_the_multiplier():
    table = audit(answers=True)
    fig = plot_safety_audit(table)
    requests = caa.summarize(
        table[table["part"] == "requests"].drop(columns="part").rename(columns={"measured": "behavior"})
    )
    lines = [one for one in fig.data if one.xaxis == "x3" and one.fill is None]
    assert [one.name for one in lines] == ["harmless requests", "borderline requests"]
    for line in lines:
        own = requests[(requests["behavior"] == line.name) & (requests["vector"] == "mine")]
        np.testing.assert_allclose(line.y, own["logit_difference_change"])
    shares = [one for one in fig.data if one.xaxis == "x4" and one.fill is None]
    assert [list(one.y) for one in shares] == [[0, 0, 1]] * 2


def test_every_kind_of_requests_has_its_line():
    borderline = audit(answers=True).query("measured == 'borderline requests'")
    kinds = ["medical requests", "borderline requests", "legal requests"]
    rest = audit().query("part in ['behaviors', 'cosine']")
    fig = plot_safety_audit(pd.concat([rest, *(borderline.assign(measured=kind) for kind in kinds)]))
    for axis in ("x3", "x4"):
        lines = [one for one in fig.data if one.xaxis == axis and one.fill is None]
        assert [one.name for one in lines] == kinds
        assert all(len(one.y) == 3 for one in lines)
        assert len({one.line.color for one in lines}) == len({one.marker.symbol for one in lines}) == 3
    known = [one for one in plot_safety_audit(audit()).data if one.name == "borderline requests"]
    assert [(one.line.color, one.marker.symbol) for one in known] == [(lines[1].line.color, lines[1].marker.symbol)]


def talks() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    conditions = ("every turn", "turn 1", "turn 1, as text", "from turn 2", "unsteered")
    vectors = {"mine": "vector", "random 0": "random", "random 1": "random"}
    rows = [
        {
            "item": item,
            "turn": turn,
            "condition": condition,
            "vector": vector,
            "kind": kind,
            "layer": 3,
            "multiplier": 2.0,
            "logit_difference": generator.normal(),
        }
        for item in range(4)
        for turn in (1, 2)
        for condition in conditions
        for vector, kind in ({"unsteered": "unsteered"} if condition == "unsteered" else vectors).items()
    ]
    return pd.DataFrame(rows)


def test_an_effect_is_drawn_over_the_turns():
    table = talks()
    summary = summarize_persistence(table)
    for fig in (plot_persistence(table), plot_persistence(summary)):
        titles = [one.text for one in fig.layout.annotations[:5]]
        lines = [one for one in fig.data if one.fill is None]
        assert titles == ["every turn", "turn 1", "turn 1, as text", "turn 1, in the cache", "from turn 2"]
        for title, line in zip(titles, lines, strict=True):
            own = summary[(summary["condition"] == title) & (summary["vector"] == "mine")]
            assert (list(line.x), list(line.y)) == ([1, 2], pytest.approx(own["change"].tolist()))
            np.testing.assert_allclose(line.y - line.error_y.arrayminus, own["change_low"])
        bands = [one for one in fig.data if one.fill == "toself"]
        controls = summary[(summary["condition"] == "turn 1") & (summary["kind"] == "random")]
        assert max(bands[1].y) == pytest.approx(controls["change"].max())
        assert "2 random vectors" in fig.layout.title.text


def test_other_tables_are_refused():
    with pytest.raises(caa.InputError, match=r"audit: columns .*part.* are missing"):
        plot_safety_audit(talks())
    with pytest.raises(caa.InputError, match=r"columns .*turn.* are missing"):
        plot_persistence(audit())
    several = talks().replace({"kind": {"random": "vector"}})
    with pytest.raises(caa.InputError, match=r"it holds several, with vector .*Select one, and its controls"):
        plot_persistence(several)
    doses = pd.concat([talks(), talks()[lambda t: t["kind"] != "unsteered"].assign(multiplier=1.0)])
    for table in (doses, summarize_persistence(doses)):
        with pytest.raises(caa.InputError, match=r"differ in 'multiplier', which is one of"):
            plot_persistence(table)
