"""The maps of interference show the numbers of their table, at their places."""

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.interference import QUESTIONS
from caa_interp.plotting.export import COLUMN_INCHES, _laid_out, smallest_points

ROWS = {
    "unsteered": ("", "", "unsteered"),
    "a": ("a", "a", "alone"),
    "b": ("b", "b", "alone"),
    "a + b": ("a", "b", "both"),
    "a + b, merged": ("a", "b", "merged"),
}
# Mean change of each behavior under each vector; None where it is not measured.
EFFECTS = {
    "a": {"a": 2.0, "a + b": 1.0, "a + b, merged": 1.5},
    "b": {"b": 4.0, "a + b": 0.0, "a + b, merged": 3.0},
    "other": {"a": -0.5, "b": -1.0, "a + b": -2.0, "a + b, merged": -2.5},
}


def table(n_items=6) -> pd.DataFrame:
    generator, rows = np.random.default_rng(0), []
    noise = generator.normal(0, 0.1, n_items)
    noise -= noise.mean()
    for behavior, effects in EFFECTS.items():
        for vector, effect in {"unsteered": 0.0, **effects}.items():
            first, second, combination = ROWS[vector]
            about = {"behavior": behavior, "vector": vector, "first": first, "second": second}
            about |= {"combination": combination, "kind": "unsteered" if not first else "vector", "layer": 3}
            for item in range(n_items):
                score = item + (effect + noise[item] if first else 0.0)
                rows.append({**about, "item": item, "multiplier": 1.0 if first else 0.0, "logit_difference": score})
    return pd.DataFrame(rows).assign(p_positive=0.5, format="text", model="m", operator="add", target=0.1)


def test_cells_hold_the_effect_on_the_row_beside_the_column():
    fig = caa.plotting.plot_interference(table())
    assert [one.text for one in fig.layout.annotations] == ["both added", "merged into one", "other, both added"]
    both, merged, other = fig.data
    np.testing.assert_allclose(both.z, [[2.0, 1.0], [0.0, 4.0]], atol=1e-12)
    np.testing.assert_allclose(merged.z, [[2.0, 1.5], [3.0, 4.0]])
    np.testing.assert_allclose(other.z, [[-0.5, -2.0], [-2.0, -1.0]])
    assert list(both.x) == list(both.y) == ["a", "b"]
    summary = caa.evaluation.summarize_interference(table()).set_index(["behavior", "vector"])
    low, high = (100 * summary.loc[("a", "a + b, merged"), f"kept_{end}"] for end in ("low", "high"))
    assert low < 75 < high
    cells = [list(row) for row in merged.text]
    assert cells[0] == ["+2.00", f"+1.50<br>75%<br>{low:.0f} to {high:.0f}"]
    assert cells[1][0].startswith("+3.00<br>75%<br>7")
    assert both.text[1][0].startswith("(")
    # One scale for all maps.
    for one in fig.data:
        assert (one.zmin, one.zmax) == pytest.approx((-4.0, 4.0))
    assert [one.showscale for one in fig.data] == [True, False, False]
    assert "0.1 nats per token" in fig.layout.title.text


def with_questions() -> pd.DataFrame:
    """Of six questions five are answered right, under both vectors two."""
    right = table().query("behavior == 'other'").assign(behavior=QUESTIONS)
    right["correct"] = (right["item"] < right["vector"].map({"a + b": 2}).fillna(5)).astype(float)
    return pd.concat([table(), right], ignore_index=True)


def test_questions_show_the_share_of_right_answers():
    fig = caa.plotting.plot_interference(with_questions())
    assert fig.layout.annotations[3].text == "share of right answers, both added"
    drawn = fig.data[3]
    np.testing.assert_allclose(drawn.z, [[0, -0.5], [-0.5, 0]], atol=1e-12)
    assert (drawn.zmin, drawn.zmax) == (-1, 1)
    cells = [list(row) for row in drawn.text]
    assert cells[0][0] == "0.83<br>(+0.00)"
    assert cells[0][1].startswith("0.33<br>")
    assert drawn.customdata[0][1].endswith("share of right answers, n = 6")
    assert fig.data[0].zmax == pytest.approx(4.0)  # what questions do is not on the scale of the effects


def test_what_is_kept_is_the_share_of_a_clear_effect_alone():
    kept = caa.evaluation.summarize_interference(table()).set_index(["behavior", "vector"])["kept"]
    expected = {"a": 1.0, "a + b": 0.5, "a + b, merged": 0.75}
    assert kept["a"].to_dict() == pytest.approx(expected)
    assert kept["b"].to_dict() == pytest.approx({"b": 1.0, "a + b": 0.0, "a + b, merged": 0.75}, abs=1e-12)
    assert kept["other"].isna().all()  # which has no vector
    unclear = table()
    own = (unclear["behavior"] == "a") & (unclear["vector"] == "a")
    unclear.loc[own, "logit_difference"] += 10 * np.array([1, -1, 1, -1, 1, -1])
    kept = caa.evaluation.summarize_interference(unclear).set_index(["behavior", "vector"])["kept"]
    assert kept["a"].isna().all()
    assert kept["b"].notna().all()


def test_what_was_not_reached_is_empty():
    rows = table()
    fig = caa.plotting.plot_interference(rows[(rows["vector"] != "a + b") & (rows["behavior"] != "other")])
    (merged,) = fig.data
    assert np.isfinite(np.asarray(merged.z, dtype=float)).all()
    rows = rows[(rows["behavior"] != "b") & (rows["combination"] != "merged")]
    both = caa.plotting.plot_interference(rows).data[0]
    assert [list(row) for row in both.text][1] == ["", ""]
    assert np.isnan(np.asarray(both.z, dtype=float)[1]).all()


@pytest.mark.parametrize("n_vectors", [2, 4, 5, 12])
def test_any_number_of_vectors_can_be_read_in_print(n_vectors):
    names = [f"behavior {number}" for number in range(n_vectors)]
    rows = [
        {"behavior": one, "first": one, "second": other, "vector": f"{one} + {other}, {how}", "item": item}
        | {"combination": "alone" if one == other else how, "logit_difference": float(item)}
        for one in names
        for other in names
        for how in ("both", "merged")
        for item in range(2)
    ]
    parts = [pd.DataFrame(rows), table().query("vector == 'unsteered'").assign(behavior="behavior 0")]
    every = pd.concat(parts).drop_duplicates(["behavior", "first", "second", "combination", "item"])
    every = every.assign(kind=every["vector"].map(lambda name: "unsteered" if name == "unsteered" else "vector"))
    every = every.assign(layer=3, multiplier=1.0, p_positive=0.5, format="text", model="m", operator="add", target=0.1)
    fig = caa.plotting.plot_interference(every)
    assert list(fig.data[0].x) == names
    assert smallest_points(_laid_out(fig, COLUMN_INCHES[2]), COLUMN_INCHES[2]) >= 6


def test_another_table_is_refused():
    twice = pd.concat([table().assign(operator=name) for name in ("add", "ablate")])
    with pytest.raises(caa.InputError, match=r"differ in 'operator', which is one of .'add', 'ablate'."):
        caa.plotting.plot_interference(twice)
    with pytest.raises(caa.InputError, match=r"columns .*combination.* missing"):
        caa.plotting.plot_interference(table().drop(columns="combination"))
