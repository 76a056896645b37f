"""Effects are predicted from what was not used to measure them: the other behaviors, and activations."""

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.model_selection import GridSearchCV, LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

import caa_interp as caa
from caa_interp.analysis.prediction import FEATURES, predict_steerability
from caa_interp.plotting import plot_predicted_steerability

BEHAVIORS = [f"behavior {number}" for number in range(8)]
LAYERS = range(4, 24, 2)


def tables(slope_of, seed=0):
    """Reliability and effects of eight behaviors whose slope is some function of the reliability's row."""
    generator = np.random.default_rng(seed)
    reliabilities, effects = {}, {}
    for name in BEHAVIORS:
        known = pd.DataFrame(generator.uniform(0.1, 1, (len(LAYERS), len(FEATURES))), columns=list(FEATURES))
        slope = slope_of(known, generator)
        reliabilities[name] = known.assign(layer=LAYERS)
        effects[name] = pd.DataFrame(
            {
                "layer": LAYERS,
                "slope": slope,
                "slope_low": slope - 0.01,
                "slope_high": slope + 0.01,
                "n": 20,
                "format": "text",
            }
        )
    return reliabilities, effects


def by_agreement(known, generator):
    return 0.02 + 0.1 * known["agreement"] + generator.normal(0, 0.002, len(known))


def by_nothing(known, generator):
    return generator.normal(0.05, 0.02, len(known))


def test_an_effect_that_follows_agreement_is_predicted():
    table = predict_steerability(*tables(by_agreement))
    assert len(table) == len(BEHAVIORS) * len(LAYERS)
    assert table["skill"].iloc[0] > 0.98
    assert table.groupby("behavior")["rank_correlation"].first().min() > 0.9
    np.testing.assert_allclose(table["predicted"], table["slope"], atol=0.01)


def test_an_effect_that_follows_nothing_is_not():
    skills = [predict_steerability(*tables(by_nothing, seed))["skill"].iloc[0] for seed in range(10)]
    assert np.mean(skills) < 0.15
    # Beside the mean of seven, which is a noisy guess itself, a shrunken one gains a little; it explains nothing.
    table = predict_steerability(*tables(by_nothing))
    assert abs(table.groupby("behavior")["rank_correlation"].first().mean()) < 0.3


def test_the_penalty_is_chosen_by_leaving_out_behaviors():
    """What tells behaviors apart fits their layers well, and says nothing of another behavior."""

    def by_behavior(known, generator):
        known["norm"] = generator.uniform() + 1e-3 * known["norm"]
        return generator.normal() + generator.normal(0, 0.01, len(known))

    reliabilities, effects = tables(by_behavior)
    rows = pd.concat([one.assign(behavior=name) for name, one in reliabilities.items()], ignore_index=True)
    slopes = pd.concat(effects.values())["slope"].to_numpy()
    depth = rows["layer"] / rows["layer"].max()
    known = rows[list(FEATURES)].assign(depth=depth, depth_squared=depth**2).to_numpy()
    rest = (rows["behavior"] != BEHAVIORS[0]).to_numpy()
    scaled = StandardScaler().fit(known[rest]).transform(known)
    search = GridSearchCV(
        Ridge(), {"alpha": np.logspace(-2, 4, 13)}, scoring="neg_mean_squared_error", cv=LeaveOneGroupOut()
    )
    search.fit(scaled[rest], slopes[rest], groups=rows["behavior"][rest])
    assert search.best_params_["alpha"] > RidgeCV(np.logspace(-2, 4, 13)).fit(scaled[rest], slopes[rest]).alpha_
    found = predict_steerability(reliabilities, effects)["predicted"].to_numpy()
    np.testing.assert_allclose(found[~rest], search.predict(scaled[~rest]))


def test_no_prediction_has_seen_its_own_behavior():
    reliabilities, effects = tables(by_agreement)
    before = predict_steerability(reliabilities, effects)
    effects[BEHAVIORS[2]] = effects[BEHAVIORS[2]].assign(slope=lambda own: -5 * own["slope"])
    after = predict_steerability(reliabilities, effects)
    own = before["behavior"] == BEHAVIORS[2]
    for name in ("predicted", "baseline"):
        np.testing.assert_allclose(before.loc[own, name], after.loc[own, name], rtol=1e-12)
        assert not np.allclose(before.loc[~own, name], after.loc[~own, name])


def test_the_baseline_is_the_mean_of_the_others_at_the_layer():
    reliabilities, effects = tables(by_agreement)
    effects[BEHAVIORS[0]] = effects[BEHAVIORS[0]].iloc[1:]  # lacks the first layer
    table = predict_steerability(reliabilities, effects)
    for row in table.itertuples():
        others = [
            effects[name].set_index("layer")["slope"].get(row.layer) for name in BEHAVIORS if name != row.behavior
        ]
        assert row.baseline == pytest.approx(np.mean([slope for slope in others if slope is not None]))
    assert len(table) == len(BEHAVIORS) * len(LAYERS) - 1


def test_tables_of_real_measurements_fit(tiny_llama, pairs):
    activations = caa.collect_activations(tiny_llama, pairs, format="text", progress=False)
    vector = caa.vectors.vector_from_activations(activations, behavior="weather")
    effects = caa.steerability(caa.sweep(tiny_llama, vector, pairs, multipliers=(-1.0, 1.0), progress=False))
    names = ("a", "b", "c")
    table = predict_steerability(dict.fromkeys(names, caa.reliability(activations)), dict.fromkeys(names, effects))
    assert table["layer"].tolist() == [0, 1, 2, 3] * 3
    np.testing.assert_allclose(table["baseline"], table["slope"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r, e: ([], e), "give tables by behavior"),
        (lambda r, e: (r, {**e, "another": e[BEHAVIORS[0]]}), "'another' is in one of the two only"),
        (lambda r, e: ({"a": r[BEHAVIORS[0]]}, {"a": e[BEHAVIORS[0]]}), "1 behaviors; to predict one"),
        (lambda r, e: ({**r, BEHAVIORS[1]: e[BEHAVIORS[1]]}, e), r"'behavior 1': columns \['agreement'"),
        (
            lambda r, e: (r, {**e, BEHAVIORS[1]: pd.concat([e[BEHAVIORS[1]]] * 2)}),
            "'behavior 1': a layer is there twice",
        ),
        (
            lambda r, e: ({n: t.assign(layer=t["layer"] + 1) for n, t in r.items()}, e),
            "0 behaviors are left, .*: behavior 0, ",
        ),
        (
            lambda r, e: ({n: t.assign(agreement=np.nan) if n > "behavior 1" else t for n, t in r.items()}, e),
            "2 behaviors are left, and .* at least 3: behavior 2, .*, behavior 7 have no layer with all numbers",
        ),
        (lambda r, e: ({}, {}), "0 behaviors; to predict one"),
        (
            lambda r, e: (r, {**e, BEHAVIORS[1]: e[BEHAVIORS[1]].assign(format="choices")}),
            r"effects: their slopes mix units, of the forms \['choices', 'text'\]\. Give those of one form",
        ),
    ],
)
def test_wrong_input_is_told(change, said):
    with pytest.raises(caa.InputError, match=said):
        predict_steerability(*change(*tables(by_agreement)))


def test_the_figure_has_every_point_and_says_what_the_predictions_are_worth():
    table = predict_steerability(*tables(by_agreement))
    fig = plot_predicted_steerability(table)
    assert sum(len(trace.x) for trace in fig.data) == len(table)
    assert f"the same layer: {table['skill'].iloc[0]:.2f}" in fig.layout.title.text
    assert fig.layout.xaxis.title.text == "predicted slope (nats per token per multiplier)"
    assert "nats per token per multiplier, n = 20" in fig.data[0].customdata[0]
    letters = plot_predicted_steerability(table.assign(format="choices"))
    assert letters.layout.yaxis.title.text == "measured slope (nats per multiplier)"
    assert (
        "same layer: unknown (1 is perfect" in plot_predicted_steerability(table.assign(skill=np.nan)).layout.title.text
    )
    assert all("(+0.9" in trace.name or "(+1.00" in trace.name for trace in fig.data)
    with pytest.raises(caa.InputError, match="predict_steerability"):
        plot_predicted_steerability(table.drop(columns="skill"))
