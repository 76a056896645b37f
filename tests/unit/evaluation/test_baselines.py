"""Baselines are sweeps under prompts and in tuned models; their summary is paired; the figure shows its numbers."""

import importlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import caa_interp as caa
from caa_interp.evaluation.baselines import baselines, few_shot_prompt
from caa_interp.models.wrapping import wrap
from caa_interp.plotting.baselines import plot_baselines
from caa_interp.prompts.format import PromptFormat
from caa_interp.statistics import bootstrap_mean
from tests.tiny_models import random_llama

NAMES = ["none", "positive system prompt", "negative system prompt", "positive few-shot", "negative few-shot"]
PROMPTS = {"positive": "Say that it is good.", "negative": "Say that it is not."}
OPTIONS = {"layer": 2, "format": "text", "n_shots": 1}


@pytest.fixture(scope="module")
def behavior(pairs):
    train = [
        caa.ContrastPair("Is it good?", "Yes.", "No."),
        caa.ContrastPair("Is the sea good?", "I like it.", "I do not."),
    ]
    return caa.Behavior("weather", "", train=train, test=pairs, system_prompts=PROMPTS)


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs):
    return 2.0 * caa.extract_vector(tiny_llama, pairs, format="text", layers=[1, 2], behavior="weather")


@pytest.fixture(scope="module")
def tuned(tiny_llama):
    """A model of the same shape with other weights."""
    return wrap(random_llama(tiny_llama.tokenizer, seed=1), tiny_llama.tokenizer, "tuned")


@pytest.fixture(scope="module")
def table(tiny_llama, vector, behavior, tuned):
    return baselines(tiny_llama, vector, behavior, tuned={"tuning": tuned}, **OPTIONS)


# Examples


def test_examples_are_questions_with_one_sides_answers(behavior):
    text = few_shot_prompt(behavior.train, side="negative", n=2, format="text")
    lines = text.split("\n\n")
    assert lines[0] == "Answer as in these examples."
    expected = ["Input: Is it good?\nResponse: No.", "Input: Is the sea good?\nResponse: I do not."]
    assert sorted(lines[1:]) == sorted(expected)


@pytest.mark.parametrize("side", ["positive", "negative"])
def test_examples_with_letters_are_put_as_the_pairs_are(tiny_llama, tokenizer, pairs, side):
    rendered = PromptFormat.of(tiny_llama).render(pairs[0], "choices")
    shown = {tokenizer.decode(getattr(one, side)).removeprefix("<s>") for one in rendered}
    found = {
        few_shot_prompt(pairs[:1], side=side, n=1, seed=seed).removeprefix("Answer as in these examples.\n\n")
        for seed in range(20)
    }
    assert found == shown


@pytest.mark.parametrize("n", [2, 3, 6, 7])
def test_no_letter_is_shown_more_often(n):
    pairs = [caa.ContrastPair(f"Is it {number}?", "Yes.", "No.") for number in range(8)]
    counts = []
    for seed in range(30):
        text = few_shot_prompt(pairs, n=n, seed=seed)
        assert len({line for line in text.split("\n") if line.startswith("Input")}) == n
        counts.append((text.count("Response: (A)"), text.count("Response: (B)")))
    assert set(counts) == ({(n // 2, n // 2)} if n % 2 == 0 else {(n // 2, n // 2 + 1), (n // 2 + 1, n // 2)})


def test_a_seed_chooses_the_examples():
    pairs = [caa.ContrastPair(f"Is it {number}?", "Yes.", "No.") for number in range(8)]
    assert few_shot_prompt(pairs, n=3, seed=1) == few_shot_prompt(pairs, n=3, seed=1)
    assert len({few_shot_prompt(pairs, n=3, seed=seed, format="text") for seed in range(5)}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": "good"}, "side: 'good' is not one of 'positive', 'negative'."),
        ({"n": 0}, "n: 0 of 3 pairs; show at least 1, and no more than there are"),
        ({"n": 4}, "n: 4 of 3 pairs"),
        ({"n": 2.0}, "n: 2.0 of 3 pairs; show at least 1, and no more than there are, as a whole number."),
        ({"seed": 0.5}, "seed: 0.5; it must be a whole number of at least 0"),
        ({"format": "letters"}, "format: 'letters'"),
    ],
)
def test_examples_that_cannot_be_shown(pairs, options, message):
    with pytest.raises(caa.InputError) as caught:
        few_shot_prompt(pairs, **{"n": 1, **options})
    assert message in str(caught.value)


# The table


def test_every_baseline_is_a_sweep(tiny_llama, vector, behavior, tuned, table):
    assert list(table["baseline"].unique()) == [*NAMES, "tuning"]
    prompts = [None, PROMPTS["positive"], PROMPTS["negative"]]
    prompts += [few_shot_prompt(behavior.train, side=side, n=1, format="text") for side in ("positive", "negative")]
    models = [tiny_llama] * 5 + [tuned]
    for name, model, prompt in zip([*NAMES, "tuning"], models, [*prompts, None], strict=True):
        one = vector if model is tiny_llama else vector.transferred_to(tuned)
        expected = caa.sweep(model, one, behavior.test, format="text", layers=2, system_prompt=prompt)
        rows = table[table["baseline"] == name].drop(columns=["baseline", "behavior", "seed"]).reset_index(drop=True)
        assert rows.pop("system_prompt").map(lambda used, prompt=prompt: used == (prompt or "")).all()
        pd.testing.assert_frame_equal(rows, expected)
    unsteered = table[table["multiplier"] == 0].pivot(index="item", columns="baseline", values="logit_difference")
    assert len(unsteered.round(4).T.drop_duplicates()) == 6  # every one does something


def test_labels(table, tiny_llama, behavior):
    assert table.columns[0] == "baseline"
    assert table["model"].unique().tolist() == [str(tiny_llama.cfg.model_name), "tuned"]
    assert (table["behavior"] == "weather").all()
    prompts = table.groupby("baseline", sort=False)["system_prompt"].first()
    assert prompts[prompts != ""].index.tolist() == NAMES[1:]
    assert (table["seed"] == 0).all()
    assert prompts["negative system prompt"] == PROMPTS["negative"]
    shown = prompts["positive few-shot"]
    assert any(pair.positive in shown for pair in behavior.train)
    assert not any(pair.question in shown for pair in behavior.test)


def test_what_a_behavior_does_not_have_is_left_out(tiny_llama, vector, behavior):
    bare = replace(behavior, system_prompts={"negative": "Say no."}, train=[])
    table = baselines(tiny_llama, vector, bare, **{**OPTIONS, "n_shots": 0}, n_pairs=2, multipliers=[0.0])
    assert list(table["baseline"].unique()) == ["none", "negative system prompt"]
    assert table.groupby("baseline")["item"].nunique().tolist() == [2, 2]


def test_several_vectors_share_the_work(tiny_llama, vector, behavior, table):
    both = baselines(tiny_llama, {"weather": vector, "against": -vector}, behavior, **OPTIONS)
    own = both[both["vector"] == "weather"].reset_index(drop=True)
    alone = table[table["baseline"] != "tuning"]
    np.testing.assert_allclose(own["logit_difference"], alone["logit_difference"], atol=1e-4)
    assert set(both["vector"]) == {"weather", "against"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": (-1, 1)}, "multipliers: [-1.0, 1.0]; 0, each baseline alone, must be one of them."),
        ({"n_pairs": 0}, "n_pairs: 0; it must be a whole number of at least 1."),
        ({"n_shots": -1}, "n_shots: -1; it must be a whole number of at least 0"),
        ({"n_shots": 3}, "n_shots: 3, but the behavior has 2 train pairs. Show fewer."),
        ({"layer": 3}, "layer 3: the vector has layers 1 to 2"),
        ({"format": "letters"}, "format: 'letters'"),
        ({"tuned": {"none": None}}, "tuned: 'none' is the name of another baseline; choose a different one."),
    ],
)
def test_arguments_are_checked_before_any_work(tiny_llama, vector, behavior, monkeypatch, options, message):
    monkeypatch.setattr(importlib.import_module("caa_interp.evaluation.baselines"), "sweep", None)
    with pytest.raises(caa.InputError) as caught:
        baselines(tiny_llama, vector, behavior, **{**OPTIONS, **options})
    assert message in str(caught.value)


def test_a_prompt_that_is_too_long_is_found_before_any_work(tiny_llama, vector, behavior, monkeypatch):
    monkeypatch.setattr(importlib.import_module("caa_interp.evaluation.baselines"), "sweep", None)
    long = replace(behavior, train=[caa.ContrastPair("Is it good? " * 300, "Yes.", "No.")])
    with pytest.raises(
        caa.InputError, match=r"positive few-shot: pairs\[0\]: \d+ tokens, but the model's context holds 256"
    ):
        baselines(tiny_llama, vector, long, **OPTIONS)


def test_a_baseline_alone_is_steered_by_nothing(tiny_llama, vector, behavior):
    both = [caa.Intervention(vector, 1, 0.0), caa.Intervention(vector, 2)]
    with pytest.raises(caa.InputError, match=r"multipliers: \[0\.0\]; 0, each baseline alone, must be one of them"):
        baselines(tiny_llama, [both], behavior, n_shots=0)


def test_no_behavior(tiny_llama, vector, pairs):
    with pytest.raises(caa.InputError, match="behavior: list; give a Behavior"):
        baselines(tiny_llama, vector, pairs, layer=2)


# The summary


def made_up(scores, order=""):
    """Table with the given logit differences: baseline -> multiplier -> items."""
    rows = [
        {
            "baseline": baseline,
            "item": item,
            "order": order,
            "vector": "weather",
            "layer": 2,
            "multiplier": multiplier,
        }
        | {"logit_difference": score, "p_positive": score / 10}
        for baseline, by_multiplier in scores.items()
        for multiplier, values in by_multiplier.items()
        for item, score in enumerate(values)
    ]
    return pd.DataFrame(rows)


SCORES = {
    "none": {0.0: [1.0, 2.0, 6.0], 1.0: [2.0, 3.5, 7.0]},
    "prompt <b>": {0.0: [2.0, 3.0, 7.5], 1.0: [4.0, 5.0, 8.0]},
}


def test_changes_are_from_the_model_as_it_is_paired_over_items():
    summary = caa.summarize(made_up(SCORES)).set_index(["baseline", "multiplier"])
    assert (summary["n"] == 3).all()
    for (baseline, multiplier), row in summary.iterrows():
        scores = np.array(SCORES[baseline][multiplier])
        change = scores - np.array(SCORES["none"][0.0])
        for measure, factor, least, most in (("logit_difference", 1.0, -np.inf, np.inf), ("p_positive", 0.1, 0, 1)):
            for name, values, ends in (
                (measure, scores, (least, most)),
                (f"{measure}_change", change, (least - most, most - least)),
            ):
                mean, *interval = bootstrap_mean(factor * values, np.random.default_rng(0))
                expected = [mean, *np.clip(interval, *ends)]
                assert row[[name, f"{name}_low", f"{name}_high"]].tolist() == pytest.approx(expected)
    assert summary.loc[("prompt <b>", 1.0), "logit_difference_change"] == pytest.approx(8 / 3)
    assert summary.loc[("none", 0.0), "logit_difference_change_high"] == 0


def test_both_orders_of_an_item_are_one_item():
    scores = {"none": {0.0: [1.0, 5.0]}}
    other = {"none": {0.0: [3.0, 5.5]}}
    summary = caa.summarize(pd.concat([made_up(scores, "AB"), made_up(other, "BA")]))
    mean, low, high = bootstrap_mean(np.array([2.0, 5.25]), np.random.default_rng(0))
    columns = ["logit_difference", "logit_difference_low", "logit_difference_high"]
    assert summary[columns].iloc[0].tolist() == pytest.approx([mean, low, high])
    assert summary["n"].tolist() == [2]


def test_the_summary_of_a_real_table(table):
    summary = caa.summarize(table, confidence=0.9)
    assert len(summary) == 6 * 3
    assert (summary["confidence"] == 0.9).all()
    plain = caa.summarize(table[table["baseline"] == "none"].drop(columns="baseline"), confidence=0.9)
    own = summary[summary["baseline"] == "none"].reset_index(drop=True)
    shared = [name for name in summary.columns if name in plain.columns]
    pd.testing.assert_frame_equal(own[shared], plain[shared], check_dtype=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="baseline"), "columns ['baseline'] are missing"),
        (lambda table: table[table["multiplier"] == 1], "it has no baseline 'none' with multiplier 0"),
        (lambda table: table.to_numpy(), "table: ndarray, not a pandas DataFrame"),
    ],
)
def test_tables_that_are_not_of_baselines(change, message):
    with pytest.raises(caa.InputError) as caught:
        plot_baselines(change(made_up(SCORES)))
    assert message in str(caught.value)
    assert "caa_interp.baselines" in str(caught.value)


# The figure


@pytest.mark.parametrize("measure", ["logit_difference", "p_positive"])
def test_the_figure_shows_the_summary(measure):
    summary = caa.summarize(made_up(SCORES).assign(format="text"), confidence=0.9)
    fig = plot_baselines(summary, measure=measure)
    assert [trace.name for trace in fig.data] == ["0", "+1"]
    assert list(fig.layout.yaxis.ticktext) == ["none", "prompt &lt;b&gt;"]
    for trace, multiplier in zip(fig.data, (0.0, 1.0), strict=True):
        rows = summary[summary["multiplier"] == multiplier]
        shown = f"{measure}_change"
        np.testing.assert_allclose(trace.x, rows[shown])
        np.testing.assert_allclose(trace.x + trace.error_x.array, rows[f"{shown}_high"])
        np.testing.assert_allclose(trace.x - trace.error_x.arrayminus, rows[f"{shown}_low"])
        assert [round(place) for place in trace.y] == [0, 1]  # the line of its baseline
    assert fig.data[0].y[0] < fig.data[1].y[0]
    assert fig.layout.yaxis.range[0] > fig.layout.yaxis.range[1]  # the first baseline is on top
    assert "mean over 3 held-out pairs, 90 % interval" in fig.layout.title.text
    unit = " (nats per token)" if measure == "logit_difference" else ""
    assert fig.layout.xaxis.title.text.endswith(unit or "p(positive answer)")


def test_a_table_is_summarized_for_the_figure(table):
    first, second = plot_baselines(table), plot_baselines(caa.summarize(table))
    assert first == second
    assert len({trace.marker.symbol for trace in first.data}) == 3  # told apart without color
    assert len({trace.marker.color for trace in first.data}) == 3


def test_unsteered_rows_are_multiplier_0_of_each_baseline(tiny_llama, vector, behavior):
    short = {"n_shots": 0, "n_pairs": 2, "format": "text"}
    table = baselines(tiny_llama, vector, behavior, layer=2, multipliers=(0.0, 1.0), **short)
    asked = baselines(tiny_llama, [None, caa.Intervention(vector, 2)], behavior, **short)
    expected, fig = plot_baselines(table), plot_baselines(asked)
    for one, other in zip(expected.data, fig.data, strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(other.x, one.x, atol=1e-5)
        np.testing.assert_allclose(other.y, one.y)
    assert fig.layout.legend.title.text == expected.layout.legend.title.text == "multiplier at layer 2 "
    alone = plot_baselines(asked[asked["kind"] == "unsteered"])
    assert [one.name for one in alone.data] == ["0"]
    assert alone.layout.legend.title.text == "multiplier "


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (made_up(SCORES), {"measure": "score"}, "measure: 'score' is not one of 'p_positive', 'logit_difference'."),
        (pd.concat([made_up(SCORES), made_up(SCORES).assign(vector="other")]), {}, "with vector ['weather', 'other']"),
        (made_up(SCORES).drop(columns="vector"), {}, "columns ['vector'] are missing"),
    ],
)
def test_tables_that_cannot_be_drawn(table, options, message):
    with pytest.raises(caa.InputError) as caught:
        plot_baselines(table, **options)
    assert message in str(caught.value)
