"""Effects beside costs: joined by condition, dominated by brute force, read off at a cost that is known."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.frontier import crossing
from caa_interp.models.wrapping import wrap
from caa_interp.statistics import bootstrap_mean
from tests.tiny_models import random_llama

DOSES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
# How much each vector moves per unit, and costs per squared unit; the last one is a control.
VECTORS = {"strong": (0.5, 0.04), "dear": (0.5, 0.09), "weak": (-0.1, 0.01), "random 0": (0.0, 0.03)}


def tables(doses=DOSES, vectors=VECTORS, n_items=12, n_prompts=8, noise=0.2) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects that are linear in the multiplier and costs that are quadratic, with items that differ."""
    generator = np.random.default_rng(0)
    effects, costs = [], []
    for (vector, (gain, price)), dose in itertools.product(vectors.items(), doses):
        kind = "random" if vector.startswith("random") else "vector"
        about = {"vector": vector, "kind": kind, "layer": 3, "multiplier": dose, "operator": "add", "positions": "all"}
        of_items = gain * dose + (noise * dose * generator.normal(size=n_items) if noise else 0.0) * np.ones(n_items)
        of_prompts = (
            price * dose**2 * (1 + (noise * generator.normal(size=n_prompts) if noise else np.zeros(n_prompts)))
        )
        start = np.linspace(-1, 1, n_items)
        effects += [
            {"item": n, **about, "logit_difference": base + one, "p_positive": 0.5, "format": "text", "model": "m"}
            for n, (base, one) in enumerate(zip(start, of_items, strict=True))
        ]
        costs += [{"item": n, **about, "divergence": one, "model": "m"} for n, one in enumerate(of_prompts)]
    return pd.DataFrame(effects), pd.DataFrame(costs)


def test_a_row_holds_the_paired_change_and_the_mean_cost():
    effects, costs = tables()
    table = caa.evaluation.frontier(effects, costs)
    assert len(table) == len(VECTORS) * len(DOSES)
    row = table[(table["vector"] == "strong") & (table["multiplier"] == 2)].iloc[0]
    own = effects[effects["vector"] == "strong"].pivot(index="item", columns="multiplier", values="logit_difference")
    mean, low, high = bootstrap_mean((own[2.0] - own[0.0]).to_numpy(), np.random.default_rng(0))
    np.testing.assert_allclose(row[["effect", "effect_low", "effect_high"]].astype(float), [mean, low, high])
    paid = costs[(costs["vector"] == "strong") & (costs["multiplier"] == 2)]["divergence"].to_numpy()
    mean, low, high = bootstrap_mean(paid, np.random.default_rng(0))
    np.testing.assert_allclose(row[["cost", "cost_low", "cost_high"]].astype(float), [mean, low, high])
    assert row[["n", "n_cost", "cost_measure", "cost_unit"]].tolist() == [12, 8, "divergence", "nats per token"]


def dominated_by_hand(table: pd.DataFrame) -> list[bool]:
    """The definition, in loops."""
    found = []
    for one in table.itertuples():
        side = 1 if one.effect >= 0 else -1
        found.append(
            any(
                other.kind == "vector"
                and side * other.effect >= side * one.effect
                and other.cost <= one.cost
                and (side * other.effect > side * one.effect or other.cost < one.cost)
                for other in table.itertuples()
            )
        )
    return found


@pytest.mark.parametrize("noise", [0.0, 0.2, 2.0])
def test_what_is_dominated_is_so_by_brute_force(noise):
    table = caa.evaluation.frontier(*tables(noise=noise))
    assert table["dominated"].tolist() == dominated_by_hand(table)
    if not noise:
        steered = table[table["multiplier"] != 0]
        # The dear vector is the strong one at a higher price, and the weak one is worth what nothing else costs.
        best = steered[~steered["dominated"]].groupby("vector")["multiplier"].apply(sorted).to_dict()
        assert best == {"strong": [-4, -2, -1, 1, 2, 4], "weak": [-1, 1]}
    assert not table.loc[table["multiplier"] == 0, "dominated"].any()


def test_a_lucky_control_dominates_nothing():
    effects, costs = tables(vectors={"ours": (0.5, 0.04), "random 0": (5.0, 0.01)}, noise=0)
    assert not caa.evaluation.frontier(effects, costs)["dominated"].any()


def test_behaviors_do_not_compete():
    effects, costs = tables(noise=0)
    two = pd.concat([effects.assign(behavior=name) for name in ("a", "b")])
    alone, both = caa.evaluation.frontier(effects, costs), caa.evaluation.frontier(two, costs)
    assert both["dominated"].tolist() == alone["dominated"].tolist() * 2


@pytest.mark.parametrize("cost", [0.001, 0.05, 0.16, 0.5])
def test_the_effect_at_a_planted_cost_is_known(cost):
    table = caa.evaluation.at_equal_cost(*tables(noise=0), cost=cost).set_index(["vector", "side"])
    for (vector, side), row in table.iterrows():
        gain, price = VECTORS[vector]
        sign = 1 if side == "positive" else -1
        assert row["reached"] == (price * 16 >= cost)
        if row["reached"]:
            assert row["multiplier"] == pytest.approx(sign * math.sqrt(cost / price))
            assert row["effect"] == pytest.approx(sign * gain * math.sqrt(cost / price), abs=1e-12)
        else:
            assert row[["multiplier", "effect", "effect_low", "effect_high"]].isna().all()
    assert len(table) == 2 * len(VECTORS)


def test_no_steering_is_the_origin_even_where_it_was_not_measured():
    effects, costs = tables(noise=0)
    small = caa.evaluation.at_equal_cost(effects, costs[costs["multiplier"].abs() > 1], cost=0.01)
    whole = caa.evaluation.at_equal_cost(effects, costs, cost=0.01)
    np.testing.assert_allclose(small["effect"], whole["effect"], atol=1e-12)


def test_the_first_crossing_counts():
    """A cost that falls again is crossed once on the way up."""
    effects, costs = np.array([[0.0, 1.0, 5.0, 9.0]] * 3), np.array([[0.0, 0.16, 0.04, 0.36]] * 3)
    found = crossing(effects, costs, np.arange(4.0), 0.09, np.random.default_rng(0))
    np.testing.assert_allclose(found, [0.75] * 4)


def test_one_item_or_one_prompt_gives_no_interval():
    many, one = np.outer([1.0, 2.0, 4.0], np.arange(3)), np.arange(3.0)[None]
    for effects, costs in ((one, many**2), (many, one**2)):
        _, effect, low, high = crossing(effects, costs, np.arange(3.0), 0.5, np.random.default_rng(0))
        assert math.isfinite(effect)
        assert math.isnan(low)
        assert math.isnan(high)


def test_the_interval_holds_items_and_prompts():
    """With one kind of spread alone, it is that kind's; both together are wider."""
    many = {"n_items": 60, "n_prompts": 60}
    effects, costs = tables(**many)
    options = {"cost": 0.1}
    both = caa.evaluation.at_equal_cost(effects, costs, **options).iloc[0]
    flat = {name: tables(noise=0, **many)[number] for number, name in enumerate(("effects", "costs"))}
    items = caa.evaluation.at_equal_cost(effects, flat["costs"], **options).iloc[0]
    prompts = caa.evaluation.at_equal_cost(flat["effects"], costs, **options).iloc[0]
    widths = [row["effect_high"] - row["effect_low"] for row in (both, items, prompts)]
    assert widths[0] > widths[1] > 0
    assert widths[0] > widths[2] > 0
    assert widths[0] == pytest.approx(math.hypot(*widths[1:]), rel=0.2)


def test_baselines_begin_where_they_are():
    effects, costs = tables(vectors={"v": (0.5, 0.04)}, noise=0)
    asked = effects.assign(logit_difference=effects["logit_difference"] + 1.0)
    effects = pd.concat([effects.assign(baseline="none"), asked.assign(baseline="asked")])
    costs = pd.concat(
        [costs.assign(baseline="none"), costs.assign(baseline="asked", divergence=costs["divergence"] + 0.3)]
    )
    plane = caa.evaluation.frontier(effects, costs).set_index(["baseline", "multiplier"])
    assert plane.loc[("asked", 0.0), "effect"] == pytest.approx(1.0)
    assert plane.loc[("asked", 0.0), "cost"] == pytest.approx(0.3)
    table = caa.evaluation.at_equal_cost(effects, costs, cost=0.1).set_index(["baseline", "side"])
    assert table["reached"].groupby("baseline").all().to_dict() == {"none": True, "asked": False}
    assert not table["reached"]["asked"].any()
    # A table of costs without baselines is that of the bare model.
    bare = costs[costs["baseline"] == "none"].drop(columns="baseline")
    assert set(caa.evaluation.frontier(effects, bare)["baseline"]) == {"none"}


def as_interventions(table: pd.DataFrame) -> pd.DataFrame:
    """The same conditions as ``[None, up, 2 * up]`` has them: the unsteered rows name no vector and no layer."""
    none = table["multiplier"] == 0
    told = {"vector": "unsteered", "kind": "unsteered", "layer": np.nan, "operator": "", "positions": ""}
    return pd.concat([table[none].assign(**told).drop_duplicates(), table[~none]], ignore_index=True)


@pytest.mark.parametrize("cost", [0.01, 0.1, 0.3])
def test_interventions_begin_where_the_short_form_does(cost):
    effects, costs = tables()
    prompted = effects.assign(logit_difference=effects["logit_difference"] + 1.0)
    tuned = prompted.assign(model="tuned", baseline="tuned")
    effects = pd.concat([effects.assign(baseline="none"), prompted.assign(baseline="asked"), tuned])
    dearer = costs.assign(divergence=costs["divergence"] + 0.03, baseline="asked")
    costs = pd.concat([costs.assign(baseline="none"), dearer, dearer.assign(model="tuned", baseline="tuned")])
    short = caa.evaluation.at_equal_cost(effects, costs, cost=cost)
    found = caa.evaluation.at_equal_cost(*map(as_interventions, (effects, costs)), cost=cost)
    pd.testing.assert_frame_equal(found, short, check_dtype=False)
    assert short.groupby("baseline")["reached"].any().to_dict() == {
        "none": True,
        "asked": cost > 0.03,
        "tuned": cost > 0.03,
    }


def test_several_interventions_alone_have_no_path():
    several = [
        one.assign(operator=one["operator"].mask(one["multiplier"] != 0, "add + add")) for one in tables(noise=0)
    ]
    with pytest.raises(caa.InputError, match="effects: no single intervention has a multiplier other than 0"):
        caa.evaluation.at_equal_cost(*several)
    with pytest.raises(caa.InputError, match="effects: no single intervention has a multiplier other than 0"):
        caa.evaluation.at_equal_cost(*map(as_interventions, several))


def test_losing_right_answers_is_a_cost():
    effects, costs = tables(noise=0)
    costs = costs.assign(correct=1.0 - costs["divergence"]).drop(columns="divergence")
    table = caa.evaluation.frontier(effects, costs, cost_measure="correct").set_index(["vector", "multiplier"])
    assert table.loc[("strong", 2.0), "cost"] == pytest.approx(0.16)
    assert table["cost_unit"].unique() == ["share"]


def test_real_tables_join(tiny_llama, pairs):
    vector = caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")
    vectors = {"weather": vector, **caa.random_vectors(vector, 1)}
    doses = {"layers": 1, "multipliers": (-2.0, 0.0, 2.0), "progress": False}
    effects = caa.sweep(tiny_llama, vectors, pairs, format="text", **doses)
    costs = caa.divergence(tiny_llama, vectors, ["Is it good?", "What of the sea?"], n_tokens=4, **doses)
    table = caa.evaluation.frontier(effects, costs)
    change = caa.summarize(effects)["logit_difference_change"]
    np.testing.assert_allclose(table["effect"], change)
    np.testing.assert_allclose(table["cost"], caa.summarize(costs)["divergence"])


def test_prompts_and_tuned_models_have_a_place_in_the_plane(tiny_llama, pairs):
    prompts = {"positive": "Say that it is good."}
    behavior = caa.Behavior("weather", "", train=pairs, test=pairs, system_prompts=prompts)
    vector = caa.extract_vector(tiny_llama, pairs, format="text", layers=[1], behavior="weather")
    tuned = {"tuning": wrap(random_llama(tiny_llama.tokenizer, seed=1), tiny_llama.tokenizer, "tuned")}
    doses = {"multipliers": (0.0, 2.0), "progress": False}
    effects = caa.baselines(tiny_llama, vector, behavior, n_shots=0, tuned=tuned, format="text", **doses)
    asked = dict(effects[["baseline", "system_prompt"]].drop_duplicates().to_numpy()) | tuned
    del asked["none"]
    costs = caa.divergence(tiny_llama, vector, ["Is it good?"], n_tokens=4, baselines=asked, **doses)
    table = caa.evaluation.frontier(effects, costs)
    assert table["baseline"].unique().tolist() == ["none", "positive system prompt", "tuning"]
    assert len(table) == 3 * 2
    assert (table["cost"] > 0).tolist() == [False, True, True, True, True, True]
    names = {line.name for line in caa.plotting.plot_frontier(table).data}
    assert names >= {"weather", "positive system prompt, with weather", "tuning, with weather"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"effects": lambda t: t[t["multiplier"] != 0]},
            "effects: it has no column 'logit_difference', or no unsteered",
        ),
        (
            {"costs": lambda t: t.rename(columns={"divergence": "divergence_tail"})},
            "costs: it has no column 'divergence'",
        ),
        ({"effects": lambda t: t.drop(columns="item")}, r"effects: columns \['item'\] are missing"),
        ({"costs": lambda t: t[["item", "layer", "multiplier"]]}, "costs: it has none of the columns"),
        ({"costs": lambda t: pd.concat([t, t])}, "costs: some rows agree in"),
        ({"costs": lambda t: t.assign(divergence="far")}, "costs: divergence of row 0 is 'far'"),
        ({"costs": lambda t: t.assign(layer=4)}, "costs: no steered condition is in both tables; they are joined by"),
        (
            {"costs": lambda t: pd.concat([t.assign(source_layer=n) for n in (1, 2)])},
            "costs: several conditions agree",
        ),
        ({"cost": 0}, "cost: 0; it must be a number above 0"),
        ({"measure": "kl"}, "measure: 'kl' is not one of"),
        ({"cost_measure": "kl"}, "cost_measure: 'kl' is not one of"),
    ],
)
def test_wrong_input_is_told(change, message):
    given = dict(zip(("effects", "costs"), tables(noise=0), strict=True))
    given |= {name: one(given[name]) if callable(one) else one for name, one in change.items()}
    with pytest.raises(caa.InputError, match=message):
        caa.evaluation.at_equal_cost(**given)


def test_a_score_can_stand_beside_the_coherence_that_it_costs():
    doses = (0.0, 2.0, 4.0)
    rows = [
        {"item": item, "layer": 3, "vector": "v", "kind": "vector", "multiplier": dose, "score": 40 + 10 * dose + item}
        | {"coherence": 90 - 5 * dose, "scale": 100, "judge": "strong"}
        for item, dose in itertools.product(range(4), doses)
    ]
    judged = pd.DataFrame(rows)
    table = caa.evaluation.frontier(judged, judged, measure="score", cost_measure="coherence")
    np.testing.assert_allclose(table[["effect", "cost"]], [[0, 0], [20, 10], [40, 20]])
    assert (table["cost_unit"] == "points of the judge's scale").all()
    figure = caa.plotting.plot_frontier(table)
    assert figure.layout.yaxis.title.text == "change in judged score<br>(0 to 100)"
    assert figure.layout.xaxis.title.text.startswith("loss of coherence")
    at = caa.evaluation.at_equal_cost(judged, judged, cost=15, measure="score", cost_measure="coherence")
    assert at.loc[0, "effect"] > 20


def test_the_interval_of_a_cost_reaches_as_far_as_the_scale_of_the_costs():
    effects, costs = tables(vectors={"strong": VECTORS["strong"]})
    lost = 5 * costs["multiplier"].abs() + costs["item"]
    judged = costs.drop(columns="divergence").assign(coherence=90 - lost.where(costs["multiplier"] != 0, 0), scale=100)
    table = caa.evaluation.frontier(effects, judged, cost_measure="coherence").set_index("multiplier")
    assert "scale" not in table
    loss = (lost[costs["multiplier"] == 4]).to_numpy()
    mean, low, high = bootstrap_mean(loss, np.random.default_rng(0))
    np.testing.assert_allclose(table.loc[4.0, ["cost", "cost_low", "cost_high"]].astype(float), [mean, low, high])
    assert high > 10
