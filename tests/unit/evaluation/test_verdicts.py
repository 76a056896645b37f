"""A vector steers only if its interval excludes 0 and its slope is beyond that of every control of its own."""

import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation import verdicts
from caa_interp.evaluation.verdicts import VERDICTS

NAN = float("nan")


def row(vector="optimism", slope=0.5, low=0.4, high=0.6, kind="vector", **more):
    return {"vector": vector, "kind": kind, "layer": 3, "slope": slope, "slope_low": low, "slope_high": high, **more}


def controls(*slopes, kind="random", **more):
    return [row(f"{kind} {n}", slope, slope - 1, slope + 1, kind, **more) for n, slope in enumerate(slopes)]


@pytest.mark.parametrize(
    ("given", "beside", "verdict"),
    [
        ({}, (-0.2, 0.1), "steers"),
        ({"low": 0.05}, (-0.2, 0.1), "steers"),
        ({}, (), "no controls"),
        ({"low": -0.01}, (-0.2, 0.1), "no clear effect"),
        ({"low": 0.0}, (-0.2, 0.1), "no clear effect"),
        ({"low": -0.01}, (0.9,), "no clear effect"),
        ({"low": -0.01}, (), "no clear effect"),
        ({}, (0.0, 0.5), "within controls"),
        ({}, (0.0, -0.5), "within controls"),
        ({"slope": -0.5, "low": -0.6, "high": -0.4}, (-0.2, 0.1), "opposite"),
        ({"slope": -0.5, "low": -0.6, "high": -0.4}, (0.0, 0.6), "within controls"),
        ({"slope": -0.5, "low": -0.6, "high": 0.1}, (-0.2, 0.1), "no clear effect"),
        ({"low": NAN, "high": NAN}, (-0.2, 0.1), "no interval"),
        ({"slope": NAN, "low": NAN, "high": NAN}, (), "no interval"),
    ],
)
def test_the_verdict_follows_from_interval_and_controls(given, beside, verdict):
    (found,) = verdicts(pd.DataFrame([row(**given), *controls(*beside)])).to_dict("records")
    assert found["verdict"] == verdict
    assert found["n_controls"] == len(beside)
    assert verdict in VERDICTS


@pytest.mark.parametrize("kind", ["random", "orthogonal", "shuffled", "other"])
def test_every_kind_is_a_control(kind):
    (found,) = verdicts(pd.DataFrame([row(), *controls(0.7, kind=kind)])).to_dict("records")
    assert found["verdict"] == "within controls"


@pytest.mark.parametrize("column", ["behavior", "layer", "operator", "positions", "format", "model"])
def test_a_vector_is_compared_with_its_own_controls(column):
    one, other = (1, 2) if column == "layer" else ("x", "y")
    rows = [
        {**row(**more), column: value}
        for value, slope in ((one, 0.9), (other, -0.1))
        for more in ({}, {"vector": "random 0", "slope": slope, "kind": "random"})
    ]
    found = verdicts(pd.DataFrame(rows)).set_index(column)
    assert found["verdict"].to_dict() == {one: "within controls", other: "steers"}
    assert found["control_low"].to_dict() == found["control_high"].to_dict() == {one: 0.9, other: -0.1}


def test_a_table_keeps_its_verdicts_in_a_file(tmp_path):
    """A CSV file turns empty texts into missing values, which are equal here too."""
    table = pd.DataFrame([row(operator=""), *controls(-0.7, 0.1, operator="")])
    table.to_csv(tmp_path / "a.csv", index=False)
    (found,) = verdicts(pd.read_csv(tmp_path / "a.csv")).to_dict("records")
    assert (found["control_low"], found["control_high"], found["verdict"]) == (-0.7, 0.1, "within controls")


def test_rows_of_vectors_stay_as_they_were():
    table = pd.DataFrame([row("b"), *controls(0.1), row("a", 0.7, n=5)])
    pd.testing.assert_frame_equal(
        verdicts(table)[list(table)], table[table["kind"] == "vector"].reset_index(drop=True), check_dtype=False
    )


def test_a_table_without_slopes():
    with pytest.raises(caa.InputError, match=r"columns \['slope_low'\] are missing; give the result of caa_interp\.st"):
        verdicts(pd.DataFrame([row()]).drop(columns="slope_low"))
