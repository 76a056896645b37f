"""What has a dose: one intervention; the unsteered rows are its multiplier 0, and several together have none."""

import io

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.response import choose_condition, item_slopes
from caa_interp.steering.intervention import as_interventions

PROMPTS = ["Is the weather good?", "What do you think of the sea?"]


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs) -> caa.SteeringVector:
    return 3.0 * caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")


@pytest.fixture(scope="module")
def given(vector):
    up = caa.Intervention(vector, 1, 2.0)
    cap = caa.Intervention(vector, 1, operator=caa.Cap(high=0.1))
    band = [caa.Intervention(vector, layer, 0.5) for layer in (1, 2, 3)]
    return {"none": None, "up": up, "capped": [up, cap], "cap first": [cap, up], "band": band}


@pytest.fixture(scope="module")
def table(tiny_llama, given, pairs) -> pd.DataFrame:
    return caa.sweep(tiny_llama, given, pairs, format="text", progress=False)


@pytest.fixture
def change(table) -> float:
    means = table.groupby("vector")["logit_difference"].mean()
    return means["up"] - means["none"]


def from_csv(table: pd.DataFrame, **options) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), **options)


KEPT = {
    "as it is": lambda table: table,
    "csv": from_csv,
    "csv with empty text": lambda table: from_csv(table, keep_default_na=False),
}


@pytest.mark.parametrize("kept", KEPT)
def test_only_one_intervention_has_a_slope_and_a_place_on_the_axis(table, change, kept):
    table = KEPT[kept](table)
    slopes = caa.steerability(table)
    assert slopes["vector"].tolist() == ["up"]
    assert slopes["slope"].tolist() == pytest.approx([change / 2])
    assert set(item_slopes(table)["vector"]) == {"up"}
    assert caa.choose_layer(table) == 1
    assert choose_condition(table) == (1, 2.0)
    heatmap, *_ = caa.plot_sweep(table).data
    np.testing.assert_allclose(heatmap.z, [[0.0, change]], atol=1e-9)
    assert caa.plot_sweep(table).layout.title.text.startswith("up:")
    line = caa.plot_dose_response(table).data[-1]
    assert (line.name, list(line.x)) == ("up", [0.0, 2.0])
    assert list(line.y) == pytest.approx([0.0, change])
    line = caa.plot_dose_responses(table.assign(behavior="weather")).data[-1]
    assert (line.name, list(line.x)) == ("up", [0.0, 2.0])


def test_costs_and_scores_begin_at_the_unsteered_model(tiny_llama, given, table):
    costs = caa.perplexity(tiny_llama, given, ["I like the garden and the sea."], progress=False)
    lines = [*caa.plot_cost(costs).data]
    judged = table[["item", "vector", "kind", "layer", "multiplier", "operator"]].assign(score=5.0, judge="made up")
    lines += caa.plot_scores(judged).data
    assert [(list(np.round(line.x)), line.showlegend) for line in lines] == [([0, 2], False)] * 3 + [([0, 2], None)]


def test_a_grid_of_two_vectors_is_compared_with_no_steering(tiny_llama, vector, pairs):
    """The first multiplier of a list does not say that nothing else in it steers."""
    up, other = caa.Intervention(vector, 1), caa.Intervention(vector, 2)
    grid = {f"{a},{b}": [a * up, b * other] for a in (0, 1) for b in (1, 2)}
    table = caa.sweep(tiny_llama, {"none": None, **grid}, pairs, format="text", progress=False)
    summary = caa.summarize(table).set_index("vector")
    means = table.groupby("vector")["logit_difference"].mean()
    np.testing.assert_allclose(summary["logit_difference_change"], (means - means["none"])[summary.index], atol=1e-9)
    assert (summary["logit_difference_change_low"] < summary["logit_difference_change_high"])[list(grid)].all()
    assert summary.loc["0,1", "logit_difference_change"] != 0
    first = table[table["vector"].isin(["none", "0,1"])]
    frontier = caa.evaluation.frontier(first, first.assign(divergence=0.1)).set_index("vector")
    assert frontier.loc["0,1", "effect"] == pytest.approx(means["0,1"] - means["none"])
    # Without unsteered rows there is nothing to compare with.
    alone = caa.summarize(table[table["vector"] != "none"])
    assert "logit_difference_change" not in alone


@pytest.mark.parametrize("names", [["none", "capped", "band"], ["band"], ["none"]])
@pytest.mark.parametrize("use", [caa.steerability, caa.choose_layer, caa.plot_sweep, caa.plot_dose_response])
def test_a_table_without_a_dose_is_told(table, names, use):
    with pytest.raises(caa.InputError, match="table: no condition in it is a single intervention"):
        use(table[table["vector"].isin(names)])


def test_a_condition_says_that_it_is_several(tiny_llama, given):
    columns = caa.generate(tiny_llama, PROMPTS[:1], steering=[*given.values()], max_new_tokens=1, progress=False)
    assert columns["vector"].tolist()[1:4:2] == ["weather", "weather (Cap(low=-inf, high=0.1)) + weather"]
    assert columns["vector"].tolist()[-1] == "weather (layers 1, 2, 3)"
    assert columns["operator"].tolist()[-2:] == ["Cap(low=-inf, high=0.1) + add", "add + add + add"]


@pytest.mark.parametrize("kept", KEPT)
def test_a_summary_is_the_same_after_a_csv_file(table, kept):
    pd.testing.assert_frame_equal(caa.summarize(KEPT[kept](table)), caa.summarize(table), check_dtype=False)


@pytest.mark.parametrize("kept", KEPT)
def test_pairs_without_a_score_are_left_out_after_a_csv_file(table, change, kept):
    unscored = table.assign(logit_difference=table["logit_difference"].mask(table["item"] == 0))
    slopes = caa.steerability(KEPT[kept](unscored))
    pd.testing.assert_frame_equal(slopes, caa.steerability(unscored), check_dtype=False)
    assert slopes["n"].tolist() == [table["item"].nunique() - 1]


def test_a_cap_stays_whole_whatever_the_target(tiny_llama, vector):
    cap = caa.Intervention(vector, 2, operator=caa.Cap(high=0.1))
    several = [caa.Intervention(vector, 2, 2.0), cap]
    options = {"target": 0.05, "n_tokens": 4}
    alone = caa.divergence(tiny_llama, [[cap]], PROMPTS, n_tokens=4, progress=False)["divergence"].mean()
    assert alone < 0.05
    scale = caa.evaluation.calibrate(tiny_llama, several[::-1], PROMPTS, **options).multiplier
    moved = caa.divergence(tiny_llama, [[cap, scale * several[0]]], PROMPTS, n_tokens=4, progress=False)
    assert moved["divergence"].mean() == pytest.approx(0.05, rel=0.021)
    table = caa.evaluation.compare_at_equal_divergence(
        tiny_llama, {"cap first": several[::-1]}, [caa.ContrastPair("Is it good?", "Yes.", "No.")],
        prompts=PROMPTS, format="text", progress=False, **options,
    )  # fmt: skip
    assert table["multiplier"].tolist() == pytest.approx([2 * scale])
    assert torch.isfinite(torch.tensor(table["effect"])).all()


@pytest.mark.parametrize(
    "operator",
    [caa.ablate, caa.Cap(low=-1e6), caa.steering.ProjectTo(1.0)],
    ids=["ablate", "Cap", "ProjectTo"],
)
def test_what_is_complete_at_1_cannot_be_scaled(tiny_llama, vector, pairs, operator):
    several = as_interventions(vector, 1, operator=operator)
    with pytest.raises(caa.InputError, match=r"vector: nothing in it adds, .* so nothing can be scaled"):
        caa.evaluation.calibrate(tiny_llama, several, PROMPTS)
    with pytest.raises(caa.InputError, match=r"candidates\['it'\]: nothing in it adds"):
        caa.evaluation.compare_at_equal_divergence(tiny_llama, {"it": several}, pairs, prompts=PROMPTS)
