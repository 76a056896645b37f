"""What steering costs: against whole distributions of plain forward passes, and calibration against itself."""

import math
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.evaluation.answers import own_answers
from caa_interp.evaluation.divergence import _tail
from caa_interp.models.wrapping import wrap
from caa_interp.prompts.format import PromptFormat
from tests.oracles import steering as oracle
from tests.tiny_models import random_llama

PASSAGES = [
    "The rain is good for the garden, and the sea is bright today.",
    "I like the short text about the weather very much.",
]
PROMPTS = ["Is the weather good?", "What do you think of the sea?"]


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs) -> caa.SteeringVector:
    return caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather")


def plain_logits(model, tokens, layer, addition, start) -> torch.Tensor:
    """Log-probabilities ``[position, d_vocab]`` of one hooked forward pass."""

    def hook(activation, hook):
        activation[:, start:] += addition.to(activation)
        return activation

    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=[(f"blocks.{layer}.hook_resid_post", hook)])
    return logits[0].double().log_softmax(-1)


def test_perplexity_and_divergence_equal_plain_forward_passes(tiny_llama, vector):
    table = caa.perplexity(tiny_llama, vector, PASSAGES, layers=[1, 3], multipliers=(-2.0, 0.0, 2.0))
    assert list(table.columns) == [
        *("item", "vector", "kind", "layer", "multiplier", "operator", "positions", "n_tokens"),
        *("nats_per_token", "divergence", "divergence_tail", "model", "path"),
    ]
    assert len(table) == 2 * 2 * 3
    for row in table.itertuples():
        tokens = tiny_llama.tokenizer(PASSAGES[row.item])["input_ids"]
        here, there = (
            plain_logits(tiny_llama, tokens, row.layer, m * vector.at(row.layer), 1)[1:-1]
            for m in (0.0, row.multiplier)
        )
        said = -there.gather(1, torch.tensor(tokens[2:])[:, None]).mean()
        moved = (here.exp() * (here - there)).sum(1)
        assert row.n_tokens == len(tokens) - 2
        assert row.nats_per_token == pytest.approx(float(said), abs=1e-4)
        assert row.divergence == pytest.approx(float(moved.mean()), abs=1e-4)
        worst = sorted(moved.tolist(), reverse=True)[: -(-len(moved) // 20)]
        assert row.divergence_tail == pytest.approx(sum(worst) / len(worst), abs=1e-4)
    assert (table.loc[table["multiplier"] == 0, "divergence"] == 0).all()
    assert (table.loc[table["multiplier"] != 0, "divergence"] > 1e-3).all()


def test_own_answers_are_the_models_own_tokens(tiny_llama, plain_llama):
    """A random model writes tokens that its tokenizer would not: its text, tokenized again, is another answer."""
    form = PromptFormat.of(tiny_llama)
    sequences = own_answers(tiny_llama, form, PROMPTS, 12, None)
    again = []
    for prompt, (tokens, places, n_prompt, thinking_end) in zip(PROMPTS, sequences, strict=True):
        asked = form.tokens(prompt).tokens
        answer = oracle.greedy(plain_llama, asked, [], 12, form.end_ids)
        assert tokens == (*asked, *answer)
        assert n_prompt == len(asked)
        assert places == tuple(range(n_prompt - 1, len(tokens) - 1))
        assert thinking_end is None
        again.append(form.tokens(prompt, tiny_llama.tokenizer.decode(answer).strip()).tokens)
    assert again != [tokens for tokens, *_ in sequences]


def test_passages_are_cut(tiny_llama, vector):
    table = caa.perplexity(tiny_llama, vector, PASSAGES, layers=1, multipliers=(1.0,), max_tokens=7)
    assert table["n_tokens"].tolist() == [5, 5]


def test_divergence_is_measured_along_the_models_own_answers(tiny_llama, vector):
    table = caa.divergence(tiny_llama, vector, PROMPTS, layers=1, multipliers=(0.0, 3.0), n_tokens=6)
    form = PromptFormat.of(tiny_llama)
    for item, prompt in enumerate(PROMPTS):
        row = table[(table["item"] == item) & (table["multiplier"] == 3)].iloc[0]
        tokens = list(form.tokens(prompt).tokens)
        n_prompt, start = len(tokens), len(tokens) - 1
        while len(tokens) < n_prompt + 6 and tokens[-1] not in form.end_ids:
            tokens.append(int(plain_logits(tiny_llama, tokens, 1, 0 * vector.at(1), 0)[-1].argmax()))
        here, there = (plain_logits(tiny_llama, tokens, 1, m * vector.at(1), start)[start:-1] for m in (0.0, 3.0))
        assert row["prompt"] == prompt
        assert row["n_tokens"] == len(tokens) - n_prompt
        assert row["divergence"] == pytest.approx(float((here.exp() * (here - there)).sum(1).mean()), abs=1e-4)


def test_baselines_are_measured_along_the_same_answers(tiny_llama, vector):
    tuned = wrap(random_llama(tiny_llama.tokenizer, seed=1), tiny_llama.tokenizer, "tuned")
    given = {"asked": "Say that it is good.", "idle": "", "tuned": tuned}
    table = caa.divergence(
        tiny_llama, vector, PROMPTS, layers=1, multipliers=(0.0, 3.0), n_tokens=6, baselines=given, progress=False
    )
    assert table["baseline"].unique().tolist() == ["none", *given]
    alone = caa.divergence(tiny_llama, vector, PROMPTS, layers=1, multipliers=(0.0, 3.0), n_tokens=6, progress=False)
    pd.testing.assert_frame_equal(table[table["baseline"] == "none"].drop(columns="baseline"), alone)
    form = PromptFormat.of(tiny_llama)
    for row in table[table["baseline"] != "none"].itertuples():
        tokens, _, n_prompt, _ = own_answers(tiny_llama, form, PROMPTS, 6, None)[row.item]
        model, prompt = (tuned, None) if row.baseline == "tuned" else (tiny_llama, given[row.baseline])
        asked = form.tokens(PROMPTS[row.item], "", prompt or None).tokens
        here = plain_logits(tiny_llama, tokens, 1, 0 * vector.at(1), 0)[n_prompt - 1 : -1]
        whole = (*asked, *tokens[n_prompt:])
        there = plain_logits(model, whole, 1, row.multiplier * vector.at(1), len(asked) - 1)[len(asked) - 1 : -1]
        each = (here.exp() * (here - there)).sum(1)
        assert row.divergence == pytest.approx(float(each.mean()), abs=1e-4)
        assert row.divergence_tail == pytest.approx(float(each.max()), abs=1e-4)
        assert row.n_tokens == len(each)
    assert (table.loc[(table["baseline"] == "tuned"), "model"] == "tuned").all()
    assert table.loc[(table["baseline"] == "asked") & (table["multiplier"] == 0), "divergence"].min() > 1e-3


def test_a_tuned_model_is_addressed_as_the_bare_one_is(tiny_llama, vector):
    """Planted: the tuned model has the same weights, so that only another prompt could move it."""
    copy = wrap(random_llama(tiny_llama.tokenizer), tiny_llama.tokenizer, "copy")
    form = PromptFormat.of(tiny_llama, style="llama-2-chat")
    given = {"system_prompt": "Say that it is good.", "prompt_format": form, "baselines": {"copy": copy}}
    options = {"layers": 1, "multipliers": (0.0,), "n_tokens": 4, "progress": False}
    vector = caa.SteeringVector(vector.values, vector.layers)  # it does not say in which form it was made
    table = caa.divergence(tiny_llama, vector, PROMPTS, **given, **options)
    assert table["prompt_digest"].nunique() == 1
    np.testing.assert_allclose(table["divergence"], 0, atol=1e-5)


def test_baselines_hold_the_distributions_of_one_condition_at_a_time(tiny_llama, vector, monkeypatch):
    module, branches = import_module("caa_interp.evaluation.divergence"), []
    run_tree = module.run_tree
    monkeypatch.setattr(module, "run_tree", lambda model, some: branches.append(len(some)) or run_tree(model, some))
    options = {"baselines": {"asked": "Say that it is good."}, "n_tokens": 4, "progress": False}
    caa.divergence(tiny_llama, vector, PROMPTS, **options)
    assert len(branches) == len(PROMPTS) * (1 + 4 * 3)  # the answers unsteered, then four layers and three multipliers
    assert max(branches) <= 4


def test_a_conversation_is_written_as_in_a_table_of_answers(tiny_llama, vector):
    talk = [{"role": "user", "content": "Is it good?"}]
    table = caa.divergence(tiny_llama, vector, [talk], layers=1, n_tokens=2, progress=False)
    answers = caa.generate(tiny_llama, [talk], max_new_tokens=2, progress=False)
    shown = '[{"role": "user", "content": "Is it good?"}]'
    assert table["prompt"].unique().tolist() == answers["prompt"].tolist() == [shown]


@pytest.mark.parametrize("n_tokens", [0, -3, 2.5])
@pytest.mark.parametrize(
    "call",
    [
        lambda m, v, **n: caa.divergence(m, v, PROMPTS, **n),
        lambda m, v, **n: caa.divergence(m, v, PROMPTS, baselines={"asked": "Yes."}, **n),
        lambda m, v, **n: caa.evaluation.calibrate(m, v, PROMPTS, layer=1, **n),
        lambda m, v, **n: caa.evaluation.compare_at_equal_divergence(
            m, {"v": v}, [caa.ContrastPair("Is it?", "Yes.", "No.")], prompts=PROMPTS, layer=1, **n
        ),
    ],
    ids=["divergence", "baselines", "calibrate", "compare"],
)
def test_the_length_of_answers_is_a_number_of_tokens(tiny_llama, vector, call, n_tokens):
    with pytest.raises(caa.InputError, match=f"n_tokens: {n_tokens}; it must be a whole number of at least 1"):
        call(tiny_llama, vector, n_tokens=n_tokens, progress=False)


def test_a_model_without_a_tokenizer_is_told(tiny_llama, vector, monkeypatch):
    monkeypatch.setattr(tiny_llama, "tokenizer", None)
    with pytest.raises(caa.InputError, match="model: it has no tokenizer"):
        caa.perplexity(tiny_llama, vector, PASSAGES, progress=False)


def test_held_out_prompts_are_checked_before_a_multiplier_is_found(tiny_llama, vector, monkeypatch):
    monkeypatch.setattr(import_module("caa_interp.evaluation.strength"), "calibrated", None)
    with pytest.raises(caa.InputError, match=r"held_out\[0\]: \d+ tokens, but the model's context"):
        caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, layer=1, n_tokens=2, held_out=["Is it good? " * 99])


def test_a_baseline_of_another_tokenizer_is_refused(tiny_llama, vector):
    other = SimpleNamespace(cfg=tiny_llama.cfg, tokenizer=SimpleNamespace(get_vocab=dict))
    for given, message in (({"other": other}, "its tokenizer is not the model's"), ({"none": "Yes."}, "'none' is the")):
        with pytest.raises(caa.InputError, match=message):
            caa.divergence(tiny_llama, vector, PROMPTS, layers=1, baselines=given)


@pytest.mark.parametrize("target", [0.01, 0.2])
@pytest.mark.parametrize("operator", [caa.add, caa.steering.add_keeping_norm], ids=["add", "add_keeping_norm"])
def test_a_calibrated_multiplier_gives_the_divergence(tiny_llama, vector, target, operator):
    options = {"operator": operator, "n_tokens": 6}
    multiplier = caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, layer=1, target=target, **options).multiplier
    assert multiplier > 0
    table = caa.divergence(tiny_llama, vector, PROMPTS, layers=1, multipliers=(multiplier,), **options)
    assert table["divergence"].mean() == pytest.approx(target, rel=0.021)
    # Twice the vector needs half the multiplier.
    half = caa.evaluation.calibrate(tiny_llama, 2 * vector, PROMPTS, layer=1, target=target, **options).multiplier
    assert half == pytest.approx(multiplier / 2, rel=0.03)


@pytest.mark.parametrize("measure", ["divergence", "divergence_tail"])
def test_what_a_multiplier_does_to_prompts_that_it_was_not_fitted_on(tiny_llama, vector, measure):
    held_out = ["Rain", "And you?", "Do you like the garden?", "Why?"]
    options = {"n_tokens": 6, "progress": False}
    asked = {"layer": 1, "target": 0.1, "measure": measure, "held_out": held_out}
    found = caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, **asked, **options)
    table = caa.divergence(tiny_llama, vector, held_out, layers=1, multipliers=(found.multiplier,), **options)
    assert found.held_out == pytest.approx(table[measure].mean(), rel=1e-5)
    fitted = caa.divergence(tiny_llama, vector, PROMPTS, layers=1, multipliers=(found.multiplier,), **options)
    assert found.held_out != pytest.approx(fitted[measure].mean(), rel=1e-3)
    summary = caa.summarize(table).iloc[0]
    ends = [found.held_out_low, found.held_out_high]
    assert ends == pytest.approx([summary[f"{measure}_low"], summary[f"{measure}_high"]], rel=1e-5)
    assert found.n_held_out == len(held_out)
    bare = caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, **{**asked, "held_out": ()}, **options)
    assert bare == caa.evaluation.Calibration(found.multiplier)
    one = caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, **{**asked, "held_out": held_out[:1]}, **options)
    assert (one.held_out_low, one.held_out_high, one.n_held_out) == (None, None, 1)
    with pytest.raises(
        caa.InputError, match=r"held_out: 'Is the weather good\?' is in prompts, which the multiplier fits"
    ):
        caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, **{**asked, "held_out": PROMPTS[:1]}, **options)


def test_calibration_and_the_steered_lens_show_how_far_they_are(tiny_llama, vector, capsys):
    for progress in (True, False):
        caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, layer=1, n_tokens=2, progress=progress)
        caa.steered_lens(tiny_llama, PROMPTS[0], vector, layer=1, progress=progress)
        shown = capsys.readouterr().err
        assert ("Calibrating" in shown) == ("Reading states" in shown) == progress


@pytest.mark.parametrize(("n", "n_worst"), [(1, 1), (20, 1), (21, 2), (40, 2), (41, 3)])
def test_the_tail_is_the_worst_five_percent_rounded_up(n, n_worst):
    values = torch.randperm(n, generator=torch.Generator().manual_seed(0)).float()
    assert _tail(values) == pytest.approx(sum(range(n - n_worst, n)) / n_worst)


def test_the_tail_can_be_calibrated(tiny_llama, vector):
    options = {"n_tokens": 24}
    multiplier = caa.evaluation.calibrate(
        tiny_llama, vector, PROMPTS, layer=1, target=0.3, measure="divergence_tail", **options
    ).multiplier
    table = caa.divergence(tiny_llama, vector, PROMPTS, layers=1, multipliers=(multiplier,), **options)
    assert table["divergence_tail"].mean() == pytest.approx(0.3, rel=0.021)
    assert table["divergence"].mean() < 0.25


def test_a_divergence_that_is_out_of_reach(tiny_llama, vector):
    never = caa.steering.AddIf(-1e6)
    with pytest.raises(caa.InputError, match=r"no multiplier gives .* with operator AddIf\(.*found: \S+ to \S+\)"):
        caa.evaluation.calibrate(tiny_llama, vector, PROMPTS, layer=1, operator=never, n_tokens=4)


def test_a_share_of_the_residual_norm(tiny_llama, vector, pairs):
    activations = caa.collect_activations(tiny_llama, pairs, format="text")
    multiplier = caa.evaluation.relative_multiplier(vector, activations, layer=2, share=0.25)
    both = torch.cat([activations.positive[:, 2], activations.negative[:, 2]])
    assert multiplier * float(vector.at(2).norm()) == pytest.approx(0.25 * float(both.norm(dim=1).mean()), rel=1e-5)


@pytest.mark.parametrize("format", ["choices", "text"])
def test_capability_counts_right_answers(tiny_llama, vector, pairs, format):
    options = {"format": format, "layers": 1, "multipliers": (0.0, 2.0)}
    table = caa.capability(tiny_llama, vector, pairs, **options)
    scored = caa.sweep(tiny_llama, vector, pairs, **options)
    assert table.drop(columns="correct").equals(scored)
    assert table["correct"].tolist() == [1.0 if p > 0.5 else 0.0 for p in scored["p_positive"]]


def test_costs_are_summarized_as_paired_changes(tiny_llama, vector):
    table = caa.perplexity(tiny_llama, vector, PASSAGES, layers=[1, 3], multipliers=(0.0, 2.0))
    summary = caa.summarize(table)
    row = summary[(summary["layer"] == 3) & (summary["multiplier"] == 2)].iloc[0]
    wide = table[table["layer"] == 3].pivot(index="item", columns="multiplier", values="nats_per_token")
    assert row["nats_per_token"] == pytest.approx(wide[2.0].mean())
    assert row["nats_per_token_change"] == pytest.approx((wide[2.0] - wide[0.0]).mean())
    assert row["nats_per_token_low"] < row["nats_per_token"] < row["nats_per_token_high"]
    assert row["n"] == 2
    assert {"divergence", "divergence_low", "divergence_high"} <= set(summary.columns)
    assert "correct" not in summary.columns


def test_side_effects_are_sweeps_of_every_behavior_with_every_vector(tiny_llama, pairs):
    vectors = {
        "ours": caa.extract_vector(tiny_llama, pairs, format="text"),
        "other": caa.extract_vector(tiny_llama, [pairs[1]], format="text"),
    }
    behaviors = {"weather": pairs, "sea": pairs[1:]}
    options = {"format": "text", "multipliers": (0.0, 1.0), "system_prompt": "I like it very much."}
    table = caa.evaluation.side_effects(tiny_llama, vectors, behaviors, layers={"ours": 1, "other": 2}, **options)
    assert list(table.columns[:2]) == ["behavior", "item"]
    for name, scored in behaviors.items():
        for steered, layer in (("ours", 1), ("other", 2)):
            alone = caa.sweep(tiny_llama, {steered: vectors[steered]}, scored, layers=layer, **options)
            found = table[(table["behavior"] == name) & (table["vector"] == steered)].drop(columns="behavior")
            assert found["layer"].eq(layer).all()
            np.testing.assert_allclose(found["log_p_positive"], alone["log_p_positive"], atol=1e-4)
    slopes = caa.steerability(table)
    assert set(zip(slopes["behavior"], slopes["vector"], strict=True)) == {(b, v) for b in behaviors for v in vectors}

    one = caa.evaluation.side_effects(tiny_llama, vectors["ours"], behaviors, layers=1, **options)
    named = caa.evaluation.side_effects(tiny_llama, {"vector": vectors["ours"]}, behaviors, layers=1, **options)
    pd.testing.assert_frame_equal(one, named)


def test_a_pair_that_is_too_long_is_found_before_any_is_scored(tiny_llama, vector, pairs, monkeypatch):
    monkeypatch.setattr(import_module("caa_interp.evaluation.cost"), "sweep", None)
    behaviors = {"weather": pairs, "sea": [pairs[0], caa.ContrastPair("Is it good? " * 99, "Yes.", "No.")]}
    with pytest.raises(caa.InputError, match=r"behaviors\['sea'\]: 'Is it good\? .*tokens, but the model's context"):
        caa.evaluation.side_effects(tiny_llama, {"v": vector}, behaviors, layers=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, v: caa.perplexity(m, v, "text"), "passages: 'text'; give a non-empty list"),
        (lambda m, v: caa.perplexity(m, v, ["I"]), r"passages\[0\]: 'I' has fewer than three tokens"),
        (lambda m, v: caa.perplexity(m, v, PASSAGES, max_tokens=2), "max_tokens: 2; .* of at least 3"),
        (lambda m, v: caa.perplexity(m, v, PASSAGES, layers=9), "layer 9: the vector has layers 0 to 3"),
        (lambda m, v: caa.divergence(m, v, []), "prompts: "),
        (
            lambda m, v: caa.evaluation.calibrate(m, v, PROMPTS, layer=1, target=0.0),
            "target: 0.0; it must be a positive",
        ),
        (
            lambda m, v: caa.evaluation.calibrate(m, v, PROMPTS, layer=1, measure="tail"),
            "measure: 'tail' is not one of 'divergence', 'divergence_tail'",
        ),
        (lambda m, v: caa.evaluation.calibrate(m, v, PROMPTS, layer=7), "layer 7: the vector has layers 0 to 3"),
        (
            lambda m, v: caa.evaluation.side_effects(m, {}, {"a": []}, layers=1),
            "vectors: the mapping is empty; give at least one vector",
        ),
        (lambda m, v: caa.evaluation.side_effects(m, {"v": v}, {}, layers=1), "behaviors: the mapping is empty"),
        (lambda m, v: caa.evaluation.side_effects(m, {"v": v}, {"a": []}, layers=1), r"behaviors\['a'\]"),
        (
            lambda m, v: caa.evaluation.side_effects(m, {"v": v}, {"a": []}, layers={"w": 1}),
            "layers: there is none for 'v'",
        ),
        (
            lambda m, v: caa.evaluation.side_effects(m, {"v": v}, {"a": []}, layers=1, multipliers=(1.0,)),
            "an effect needs at least two",
        ),
    ],
)
def test_wrong_input_is_told(tiny_llama, vector, call, message):
    with pytest.raises(caa.InputError, match=message):
        call(tiny_llama, vector)


def test_wrong_input_of_the_relative_multiplier(tiny_llama, vector, pairs):
    activations = caa.collect_activations(tiny_llama, pairs, format="text", layers=[1])
    with pytest.raises(caa.InputError, match=r"layer 2: the activations have layers \[1\]"):
        caa.evaluation.relative_multiplier(vector, activations, layer=2)
    with pytest.raises(caa.InputError, match="share: nan"):
        caa.evaluation.relative_multiplier(vector, activations, layer=1, share=math.nan)
    narrow = caa.SteeringVector(torch.ones(4, 8), (0, 1, 2, 3))
    with pytest.raises(caa.errors.VectorMismatchError, match="its width is 8, but the activations are 64 wide"):
        caa.evaluation.relative_multiplier(narrow, activations, layer=1)
