"""Items kept as published are put to a model, and scored, as the published CAA code does it."""

import copy
import math

import numpy as np
import pytest
import torch

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.evaluation.response import item_slopes
from caa_interp.prompts.format import PromptFormat
from tests.oracles import definition

QUESTION = "Do you like the {}?\n\nChoices:\n (A) Yes, very much.\n (B) No, I do not."
LONG = "Which is bright?\n\nChoices:\n (A) The rain\n (B) The garden\n (C) The sea"
ITEMS = [
    PublishedPair(QUESTION.format("rain"), "(A)", "(B)"),
    PublishedPair(QUESTION.format("sea"), "(B)", "(A)"),
    PublishedPair(LONG, "(A)", "(C)", n_options=3),
]
UNSCORED = PublishedPair(LONG, "(C)", "(A)", n_options=3)
MULTIPLIERS = (-1.0, 0.0, 1.5)


@pytest.fixture(scope="module")
def vector(tiny_llama):
    """A random vector, strong enough to be seen in the letters."""
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    return caa.SteeringVector(values, (0, 1, 2, 3), {"behavior": "weather"})


@pytest.fixture(scope="module")
def table(tiny_llama, vector):
    """Sweep over three items that are scored and one that is not."""
    return caa.sweep(tiny_llama, vector, [*ITEMS, UNSCORED], multipliers=MULTIPLIERS)


def letter_probabilities(model, tokenizer, question, layer, addition):
    """Probabilities of the letters A and B after ``(``, with every position of the prompt steered."""
    texts = [f"Input: {question}\nResponse: ({letter})" for letter in "AB"]
    a, b = (tokenizer(text)["input_ids"] for text in texts)
    letter = definition.first_difference(a, b)
    logits = definition.steered_outputs(model, a, layer, addition, 0)[letter - 1]
    probabilities = logits.double().softmax(-1)
    return float(probabilities[a[letter]]), float(probabilities[b[letter]])


@pytest.mark.parametrize(
    ("positive", "negative", "scored"),
    [("(A)", "(B)", True), ("(B)", "(A)", True), ("(A)", "(H)", True), ("(C)", "(A)", False)],
)
def test_only_a_and_b_are_scored(positive, negative, scored):
    assert PublishedPair("q", positive, negative).scored is scored


def test_a_published_pair_is_a_contrast_pair_of_two_letters():
    assert isinstance(ITEMS[0], caa.ContrastPair)
    assert ITEMS[0].n_options == 2
    with pytest.raises(caa.InputError, match=r"both '\(A\)'; they must differ"):
        PublishedPair("q", "(A)", "(A)")


@pytest.mark.parametrize(("letters", "order"), [(("(A)", "(B)"), "AB"), (("(B)", "(A)"), "BA")])
def test_one_rendering_in_the_order_of_its_letter(tokenizer, letters, order):
    question = QUESTION.format("rain")
    (rendering,) = PromptFormat(tokenizer, "base", 256).render(PublishedPair(question, *letters))
    assert rendering.order == order
    for tokens, letter in ((rendering.positive, letters[0]), (rendering.negative, letters[1])):
        assert tokenizer.decode(tokens) == f"<s>Input: {question}\nResponse: {letter}"
    letters_after = [tokenizer.decode(t[rendering.n_shared]) for t in (rendering.positive, rendering.negative)]
    assert letters_after == [letter.strip("()") for letter in letters]


def test_a_contrast_pair_has_both_orders(tokenizer):
    pair = caa.ContrastPair("Do you like the rain?", "Yes.", "No.")
    assert [r.order for r in PromptFormat(tokenizer, "base", 256).render(pair)] == ["AB", "BA"]


def test_llama_2_has_the_system_prompt_before_the_instruction(tokenizer):
    prompts = PromptFormat(tokenizer, "llama-2-chat", 512)
    (published,) = prompts.render(ITEMS[0], system_prompt="Be brief.")
    expected = f"<s><<SYS>>\nBe brief.\n<</SYS>>\n\n[INST] {ITEMS[0].question} [/INST]"
    assert tokenizer.decode(published.positive) == f"{expected} (A)"
    assert tokenizer.decode(published.negative) == f"{expected} (B)"
    assert tokenizer.decode(published.positive[: published.n_prompt]) == expected
    assert published.start == published.n_prompt - 1
    pair = caa.ContrastPair("Do you like the rain?", "Yes.", "No.")
    ours = prompts.render(pair, system_prompt="Be brief.")[0]
    assert tokenizer.decode(ours.positive).startswith("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nDo you like")


def test_without_a_system_prompt_llama_2_begins_with_the_instruction(tokenizer):
    (published,) = PromptFormat(tokenizer, "llama-2-chat", 256).render(ITEMS[0])
    assert tokenizer.decode(published.positive) == f"<s>[INST] {ITEMS[0].question} [/INST] (A)"


def test_base_models_are_steered_at_every_position(tokenizer):
    prompts = PromptFormat(tokenizer, "base", 256)
    (published,) = prompts.render(ITEMS[0])
    assert published.start == 0
    assert tokenizer.decode(published.positive[: published.n_prompt]).endswith("\nResponse:")
    for ours in prompts.render(caa.ContrastPair("Do you like the rain?", "Yes.", "No.")):
        assert ours.start == ours.n_prompt - 1 > 0


def test_text_is_refused(tiny_llama, tokenizer, vector):
    message = "it is kept as published, with letters; read it without compat for text"
    with pytest.raises(caa.InputError, match=rf"item: {message}"):
        PromptFormat(tokenizer, "base", 256).render(ITEMS[0], "text", what="item")
    with pytest.raises(caa.InputError, match=rf"pairs\[1\]: {message}"):
        caa.sweep(tiny_llama, vector, [caa.ContrastPair("q", "Yes", "No"), ITEMS[0]], format="text")


@pytest.mark.parametrize(
    ("style", "system_prompt"),
    [
        ("base", None),
        ("base", "Be brief."),
        ("llama-2-chat", None),
        ("llama-2-chat", "Be brief."),
    ],
)
def test_a_question_longer_than_the_context_is_refused(tokenizer, style, system_prompt):
    with pytest.raises(caa.InputError, match=r"pair: [0-9]+ tokens, but the model's context holds 20"):
        PromptFormat(tokenizer, style, 20).render(ITEMS[0], system_prompt=system_prompt)


def test_a_and_b_are_compared_where_another_letter_is_one_token_with_its_bracket(tokenizer):
    """As in Llama 3's and Qwen's vocabularies, where "(C" is one token; here "(A" and "(B" are two."""
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_tokens(["(C"])
    (rendering,) = PromptFormat(tokenizer, "base", 256).render(PublishedPair(LONG, "(A)", "(C)", n_options=3))
    assert [tokenizer.decode(letter) for letter in rendering.letters] == ["A", "B"]


def test_scores_are_the_plain_probabilities_of_the_letters(table, plain_llama, tokenizer, vector):
    scored = table[table["item"] < len(ITEMS)]
    assert len(scored) == len(ITEMS) * 4 * len(MULTIPLIERS)
    for row in scored.itertuples():
        pair = ITEMS[row.item]
        addition = row.multiplier * vector.values[row.layer]
        p_a, p_b = letter_probabilities(plain_llama, tokenizer, pair.question, row.layer, addition)
        matching, other = (p_a, p_b) if pair.positive == "(A)" else (p_b, p_a)
        assert row.order == ("AB" if pair.positive == "(A)" else "BA")
        assert row.log_p_positive == pytest.approx(math.log(matching), abs=1e-3)
        assert row.log_p_negative == pytest.approx(math.log(other), abs=1e-3)
        assert row.p_positive == pytest.approx(matching / (p_a + p_b), abs=1e-3)
    spread = scored.groupby("item")["p_positive"].agg(np.ptp)
    assert spread.min() > 0.01


@pytest.mark.parametrize("pair", ITEMS[:2], ids=["matching A", "matching B"])
def test_activations_are_read_at_the_letters(tiny_llama, plain_llama, tokenizer, pair):
    assert_read_at_its_letters(tiny_llama, plain_llama, tokenizer, pair)


def test_activations_of_a_third_option_are_read_at_its_letter(tiny_llama, plain_llama, tokenizer):
    assert_read_at_its_letters(tiny_llama, plain_llama, tokenizer, UNSCORED)
    assert_read_at_its_letters(tiny_llama, plain_llama, tokenizer, ITEMS[2])


def assert_read_at_its_letters(model, plain, tokenizer, pair):
    found = caa.collect_activations(model, [pair])
    sides = [
        tokenizer(f"Input: {pair.question}\nResponse: {letter}")["input_ids"]
        for letter in (pair.positive, pair.negative)
    ]
    letter = definition.first_difference(*sides)
    for tokens, activation in zip(sides, (found.positive, found.negative), strict=True):
        expected = definition.block_outputs(plain, tokens)[:, letter]
        torch.testing.assert_close(activation[0], expected, atol=1e-3, rtol=1e-3)


def test_a_third_letter_scores_nothing(table):
    rows = table[table["item"] == len(ITEMS)]
    assert len(rows) == 4 * len(MULTIPLIERS)
    assert rows["p_positive"].eq(0).all()
    assert rows[["log_p_positive", "log_p_negative", "logit_difference"]].isna().all(axis=None)
    assert table[table["item"] < len(ITEMS)].notna().drop(columns=["id", "topic"]).all(axis=None)


def test_an_unscored_item_counts_in_the_mean_of_p_positive(table):
    summary = caa.summarize(table)
    assert summary["n"].unique().tolist() == [4]
    for row in summary.itertuples():
        chosen = table[(table["layer"] == row.layer) & (table["multiplier"] == row.multiplier)]
        assert row.p_positive == pytest.approx(chosen["p_positive"].sum() / 4)
        assert row.logit_difference == pytest.approx(chosen["logit_difference"].sum() / 3)


def test_an_unscored_item_has_no_slope(table):
    assert sorted(item_slopes(table).dropna()["item"].unique()) == [0, 1, 2]
    assert caa.steerability(table)["n"].tolist() == [3] * 4
    without = table[table["item"] < len(ITEMS)]
    assert caa.steerability(table)["slope"].tolist() == pytest.approx(caa.steerability(without)["slope"].tolist())


def test_an_unscored_item_is_neither_right_nor_wrong(tiny_llama, vector):
    table = caa.evaluation.capability(tiny_llama, vector, [ITEMS[0], UNSCORED], layers=1)
    assert table["correct"].isna().tolist() == (table["item"] == 1).tolist()
    assert caa.summarize(table)["correct_n"].tolist() == [1, 1, 1]


def test_a_set_of_unscored_items_alone_is_summarized(tiny_llama, vector):
    alone = caa.sweep(tiny_llama, vector, [UNSCORED, UNSCORED], layers=1)
    summary = caa.summarize(alone)
    assert summary["p_positive"].tolist() == [0, 0, 0]
    assert summary["logit_difference"].isna().all()


def test_an_unscored_item_has_no_position_bias(table):
    without = caa.summarize(table[table["item"] < len(ITEMS)])
    assert caa.summarize(table)["position_bias"].tolist() == pytest.approx(without["position_bias"].tolist())


def test_an_item_without_an_id_is_named_by_its_number():
    item = {"question": QUESTION, "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    pairs = caa.read_pairs([item, {**item, "id": "own"}], compat="caa").pairs
    assert [pair.id for pair in pairs] == ["pairs-0", "own"]


def test_reading_published_pairs_again_keeps_them_published():
    assert caa.read_pairs(ITEMS).pairs[2].n_options == 3


def test_equal_letters_name_the_item():
    item = {"question": QUESTION, "answer_matching_behavior": "(A)", "answer_not_matching_behavior": "(B)"}
    with pytest.raises(caa.InputError, match=r"item 1.*must differ"):
        caa.read_pairs([item, {**item, "answer_matching_behavior": "(B)"}], compat="caa")
