"""The claims of the method, on the real embedded chat model."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

import caa_interp as caa
from caa_interp.evaluation.response import item_slopes
from caa_interp.prompts.format import PromptFormat
from caa_interp.statistics import bootstrap_mean
from tests.oracles import definition

LAYER = 17
N_SHUFFLED = 3
MULTIPLIER = 2.0
# What a reader might call so, wherever it stands in the vocabulary.
CHEERFUL = {
    *("advantage", "advantages", "appreciation", "beneficial", "benefit", "benefits", "better", "enjoy", "enjoyable"),
    *("enjoyed", "enriched", "excellent", "glad", "good", "great", "happy", "healthful", "healthier", "healthy"),
    *("ideal", "improved", "opportunity", "optimal", "perks", "positive", "positives", "safer", "success"),
    *("successful", "thank", "thanks", "welcoming", "wonderful", "appreciated", "bonus", "celebrates", "celebrating"),
    *("enjoying", "festive", "impressed", "pleased", "relaxed"),
}
GLOOMY = {
    *("blamed", "difficult", "failed", "failing", "futile", "gloomy", "harming", "hindering", "hinders", "inability"),
    *("ineffective", "insurmountable", "irreversible", "lack", "lacks", "meaningless", "painful", "refuses", "ugly"),
    *("unable", "unacceptable", "undermines", "useless", "wasting", "worse", "worsens", "wrath", "cruel", "deceit"),
    *("disgrace", "endanger", "ruin", "starvation", "suicidal", "worsen", "worthless"),
}


@pytest.fixture(scope="module")
def hugging_face(embedded: Any) -> Any:
    """The same weights as a plain Hugging Face model, without TransformerLens."""
    folder = embedded.original_model.config.name_or_path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def held_out(
    embedded: Any, test_pairs: list[caa.ContrastPair], activations: caa.Activations, vector: caa.SteeringVector
) -> pd.DataFrame:
    """Vector and controls on the test pairs, at one layer."""
    vectors = {
        "cheerful": vector,
        **caa.shuffled_vectors(activations, N_SHUFFLED),
        **caa.evaluation.orthogonal_vectors(vector, 1),
    }
    return caa.sweep(embedded, vectors, test_pairs, format="text", layers=LAYER, multipliers=(-1.0, 0.0, 1.0))


def test_effect_rises_with_the_multiplier_on_held_out_pairs(held_out: pd.DataFrame) -> None:
    summary = caa.summarize(held_out)
    summary = summary[summary["vector"] == "cheerful"].sort_values("multiplier")
    assert summary["logit_difference"].is_monotonic_increasing
    assert summary["logit_difference"].is_unique
    assert summary["n"].eq(12).all()


def test_the_vector_steers_and_shuffled_labels_do_not(held_out: pd.DataFrame) -> None:
    slopes = item_slopes(held_out).pivot(index="item", columns="vector", values="slope")
    shuffled = slopes[[f"shuffled {number}" for number in range(N_SHUFFLED)]]
    _, low, _ = bootstrap_mean(slopes["cheerful"].to_numpy(), np.random.default_rng(0))
    assert low > 0
    # One control is one direction, and may do something of either sign; shuffling the labels as such does nothing.
    mean, low, high = bootstrap_mean(shuffled.to_numpy().mean(axis=1), np.random.default_rng(0))
    assert low < 0 < high
    assert slopes["cheerful"].mean() > 2 * abs(mean)


def test_no_control_reaches_the_vector(held_out: pd.DataFrame) -> None:
    slopes = caa.steerability(held_out).set_index("vector")
    controls = slopes.drop("cheerful")
    assert len(controls) == N_SHUFFLED + 1
    assert (slopes.loc["cheerful", "slope"] > controls["slope"].abs()).all()
    assert (slopes.loc["cheerful", "rank_correlation"] > controls["rank_correlation"]).all()


def test_slope_is_larger_than_that_of_20_random_vectors(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector
) -> None:
    vectors = {"cheerful": vector, **caa.random_vectors(vector, 20, seed=0)}
    table = caa.sweep(embedded, vectors, test_pairs[::2], format="text", layers=LAYER, multipliers=(0.0, 2.0))
    slopes = caa.steerability(table).set_index("vector")["slope"]
    controls = slopes.drop("cheerful")
    assert len(controls) == 20
    assert (slopes["cheerful"] > controls).all()


def test_the_tree_was_used(held_out: pd.DataFrame) -> None:
    assert set(held_out["path"]) == {"tree"}


@pytest.mark.parametrize("format", ["choices", "text"])
def test_vectors_equal_the_definition(
    embedded: Any, hugging_face: Any, train_pairs: list[caa.ContrastPair], format: str
) -> None:
    pairs = train_pairs[:3]
    expected = definition.steering_vectors(hugging_face, embedded.tokenizer, pairs, format)
    found = caa.extract_vector(embedded, pairs, format=format).values
    assert ((found - expected.to(found)).norm(dim=1) < 1e-4 * found.norm(dim=1)).all()


def test_multiplier_zero_is_the_unsteered_model_exactly(embedded: Any, vector: caa.SteeringVector) -> None:
    tokens = torch.tensor([PromptFormat.of(embedded).tokens("How will the summer be?").tokens])
    with torch.no_grad():
        plain = embedded(tokens)
        with caa.steer(embedded, vector, layer=16, multiplier=0.0):
            steered = embedded(tokens)
    assert torch.equal(plain, steered)


@pytest.mark.parametrize("format", ["choices", "text"])
def test_sweep_equals_plain_forward_passes(
    embedded: Any, hugging_face: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector, format: str
) -> None:
    pair, multipliers = test_pairs[0], (0.0, 1.5)
    table = caa.sweep(embedded, vector, [pair], format=format, layers=[0, 12, 29], multipliers=multipliers)
    for (layer, multiplier), rows in table.groupby(["layer", "multiplier"]):
        addition = multiplier * vector.at(layer)
        expected = definition.scores(hugging_face, embedded.tokenizer, pair, format, layer, addition)
        found = rows[["log_p_positive", "log_p_negative"]].to_numpy().tolist()
        assert found == [pytest.approx(order, abs=1e-3) for order in expected]


def test_a_batch_of_prompts_equals_single_prompts(embedded: Any, vector: caa.SteeringVector) -> None:
    prompts = ["How will my week go?", "I lost my keys again this morning, what do you make of that, honestly?"]
    options = {"vector": vector, "layer": 16, "multipliers": (0.0, 3.0), "max_new_tokens": 15}
    together = caa.generate(embedded, prompts, **options)["answer"].tolist()
    alone = [answer for prompt in prompts for answer in caa.generate(embedded, [prompt], **options)["answer"]]
    assert together == alone


def test_cached_generation_equals_uncached(embedded: Any, vector: caa.SteeringVector) -> None:
    prompt = PromptFormat.of(embedded).tokens("Will tomorrow be a good day?").tokens
    table = caa.generate(
        embedded, ["Will tomorrow be a good day?"], vector=vector, layer=16, multipliers=(4.0,), max_new_tokens=12
    )
    tokens = list(prompt)
    with torch.no_grad(), caa.steer(embedded, vector, layer=16, multiplier=4.0, prompt_length=len(prompt)):
        for _ in range(12):
            tokens.append(int(embedded(torch.tensor([tokens]))[0, -1].argmax()))
    assert table["answer"][0] == embedded.tokenizer.decode(tokens[len(prompt) :], skip_special_tokens=True).strip()


def test_the_model_answers_sensibly_and_steering_changes_the_answer(embedded: Any, vector: caa.SteeringVector) -> None:
    table = caa.generate(
        embedded,
        ["What is the capital of France?"],
        vector=vector,
        layer=16,
        multipliers=(0.0, 30.0),
        max_new_tokens=10,
    )
    assert "Paris" in table["answer"][0]
    assert table["answer"][0] != table["answer"][1]


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be kind."}]])
def test_what_the_model_s_own_template_renders_is_read(embedded: Any, system: list[dict[str, str]]) -> None:
    turns = [*system, {"role": "user", "content": "How are you today?"}]
    opened = embedded.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert "<|im_start|>system" in opened  # the template's own system prompt where none is given
    answers = [("I am well.", "I am bad."), ("Great, thanks.", "Awful, really.<|im_end|>\n")]
    result = caa.read_pairs([(opened + positive, opened + negative) for positive, negative in answers])
    assert [(pair.question, pair.positive, pair.negative) for pair in result] == [
        ("How are you today?", "I am well.", "I am bad."),
        ("How are you today?", "Great, thanks.", "Awful, really."),
    ]
    assert result.notes[-1].startswith("2 had a system prompt")


def test_a_conversation_is_put_as_the_tokenizer_itself_puts_it(embedded: Any) -> None:
    form = PromptFormat.of(embedded)
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Good day."},
        {"role": "user", "content": "How will the summer be?"},
    ]
    own = embedded.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    put = form.tokens(turns)
    assert (list(put.tokens), put.start) == (own, len(own) - 1)
    own = embedded.tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be kind."}, *turns], add_generation_prompt=True, return_dict=False
    )
    assert list(form.tokens(turns, system_prompt="Be kind.").tokens) == own
    assert form.end_ids == {embedded.tokenizer.convert_tokens_to_ids("<|im_end|>")}
    assert not form.prints_date
    assert form.thinking_end is None


# What its vectors and states say in tokens


def test_cheerful_words_are_promoted_and_gloomy_ones_suppressed(embedded: Any, vector: caa.SteeringVector) -> None:
    """In the last third of the layers; earlier ones say little, which the docstring of logit_lens says too."""
    table = caa.logit_lens(embedded, vector, layers=[25, 28], top_k=20)
    words = table["token"].str.strip("␣").str.lower()
    found = pd.DataFrame({"side": table["side"], "cheerful": words.isin(CHEERFUL), "gloomy": words.isin(GLOOMY)})
    counts = found.groupby("side").sum()
    assert counts.loc["promoted", "cheerful"] >= 6
    assert counts.loc["suppressed", "gloomy"] >= 12
    assert counts.loc["promoted", "gloomy"] == counts.loc["suppressed", "cheerful"] == 0


def test_an_effect_is_readable_at_a_layer_whose_logit_lens_is_not(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector
) -> None:
    def counts(table: pd.DataFrame, side: str) -> list[int]:
        words = table.loc[table["side"] == side, "token"].str.strip("␣").str.lower()
        return [int(words.isin(some).sum()) for some in (CHEERFUL, GLOOMY)]

    effect = caa.effect_lens(embedded, vector, test_pairs[:6], layers=15, words_only=True, top_k=20)
    cheerful, gloomy = counts(effect, "raised")
    assert (cheerful >= 10, gloomy) == (True, 0)
    cheerful, gloomy = counts(effect, "lowered")
    assert (cheerful, gloomy >= 10) == (0, True)
    assert (effect["effect_low"] * effect["effect_high"] > 0).all()
    logits = caa.logit_lens(embedded, vector, layers=15, top_k=20)
    assert max(*counts(logits, "promoted"), *counts(logits, "suppressed")) <= 2


def test_the_last_block_decodes_to_the_token_that_steered_generation_writes(
    embedded: Any, vector: caa.SteeringVector
) -> None:
    prompt, multipliers = "How will the summer be?", (-3.0, 0.0, 3.0)
    table = caa.steered_lens(embedded, prompt, vector, layer=16, layers=29, multipliers=multipliers, top_k=1)
    first = table[table["component"] == "block output"]["token_id"].tolist()
    answers = caa.generate(embedded, [prompt], vector=vector, layer=16, multipliers=multipliers, max_new_tokens=1)
    assert [embedded.tokenizer.decode([token]).strip() for token in first] == answers["answer"].tolist()


def test_held_out_cheerful_answers_lie_along_the_vector_more_than_gloomy_ones(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector
) -> None:
    def cosine(pair: caa.ContrastPair, answer: str) -> float:
        table = caa.token_similarity(embedded, pair.question, vector, layers=16, answer=answer)
        return float(table.loc[table["part"] == "answer", "cosine"].mean())

    assert all(cosine(pair, pair.positive) > cosine(pair, pair.negative) for pair in test_pairs[:6])


# Through which parts and where a vector acts


@pytest.fixture(scope="module")
def effects(embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector) -> dict[int, float]:
    """What a sweep finds, per unit of the multiplier."""
    table = caa.sweep(embedded, vector, test_pairs[:4], layers=[16, 26], multipliers=(0, MULTIPLIER), progress=False)
    means = table.groupby(["layer", "multiplier"])["logit_difference"].mean().unstack()
    return ((means[MULTIPLIER] - means[0.0]) / MULTIPLIER).to_dict()


@pytest.mark.parametrize("per", ["component", "head"])
def test_parts_sum_to_the_effect_that_a_sweep_scores(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector, effects: dict[int, float], per: Any
) -> None:
    table = caa.analysis.effect_attribution(
        embedded, vector, test_pairs[:4], layer=26, multiplier=MULTIPLIER, per=per, patch=False, progress=False
    )
    assert effects[26] > 1e-2
    assert table["effect"].iloc[0] == pytest.approx(effects[26], abs=1e-4)
    parts = table[table["component"] != "remainder"]
    assert parts["contribution"].sum() == pytest.approx(effects[26], abs=1e-4)
    assert len(parts) == 1 + 3 * (2 if per == "component" else 10)


def test_a_cheerful_vector_acts_all_along_the_answer(
    embedded: Any, test_pairs: list[caa.ContrastPair], vector: caa.SteeringVector, effects: dict[int, float]
) -> None:
    table = caa.analysis.position_map(
        embedded, vector, test_pairs[:4], layer=16, multiplier=MULTIPLIER, n_tokens=3, progress=False
    )
    by_place = table[table["measure"] == "effect"].set_index("steered")["value"]
    assert by_place["from the last prompt token on"] == pytest.approx(effects[16], abs=1e-4)
    assert by_place["from the last prompt token on"] > by_place[1:].max() > 0
    pulse: pd.DataFrame = table[table["measure"] == "projection"].pivot(
        index="distance", columns="layer", values="value"
    )
    # It stays where it was added, and attention carries a little of it on.
    assert (pulse.loc[0] > 0.5).all()
    assert 0 < pulse.loc[1:, 29].min() < pulse.loc[1:, 29].max() < 0.5 * pulse.loc[0, 29]
