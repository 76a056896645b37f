"""Steering adds what it says, where it says, and leaves nothing behind."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import caa_interp as caa
from caa_interp.steering.context import padding_in_front
from tests.oracles import definition

PROMPT = (0, 40, 41, 42, 43, 44, 45)
QUESTIONS = ["Is it good?", "What do you think of the weather today, the garden and the sea?", "Rain"]


def random_vector(size: float, seed: int = 0) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"model": "tiny-llama"})


VECTOR = random_vector(6.0)


def logits_of(model, *rows, **options):
    with torch.no_grad():
        return model(torch.tensor(rows), **options)


def hooks_in(model) -> int:
    points = sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in model.hook_dict.values())
    return points + len(model.embed._forward_pre_hooks)


def test_the_residual_stream_changes_by_the_vector_at_the_steered_positions_only(tiny_llama):
    name = "blocks.1.hook_resid_post"
    with torch.no_grad():
        before = tiny_llama.run_with_cache(torch.tensor([PROMPT]))[1][name][0]
        with caa.steer(tiny_llama, VECTOR, layer=1, multiplier=-1.5, prompt_length=5):
            after = tiny_llama.run_with_cache(torch.tensor([PROMPT]))[1][name][0]
    difference = after - before
    assert float(difference[:4].abs().max()) == 0
    torch.testing.assert_close(difference[4:], (-1.5 * VECTOR.at(1)).expand(3, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("where", "steered_from"),
    [
        ({}, 6),
        ({"positions": "all"}, 0),
        ({"prompt_length": 1}, 0),
        ({"prompt_length": 4}, 3),
        ({"prompt_length": 7}, 6),
        ({"prompt_length": 4, "positions": "answer"}, 4),
    ],
)
def test_the_logits_are_those_of_a_plain_hook(tiny_llama, plain_llama, layer, where, steered_from):
    expected = definition.steered_outputs(plain_llama, PROMPT, layer, 1.5 * VECTOR.at(layer), steered_from)
    with caa.steer(tiny_llama, VECTOR, layer=layer, multiplier=1.5, **where):
        found = logits_of(tiny_llama, PROMPT)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    unsteered = logits_of(tiny_llama, PROMPT)[0]
    assert float((found - unsteered).abs().max()) > 0.1


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_one_length_per_row(tiny_llama, plain_llama, kind):
    rows, lengths = [PROMPT, PROMPT[::-1], PROMPT], [3, 7, 1]
    with caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=kind(lengths)):
        found = logits_of(tiny_llama, *rows)
    for row, n_prompt, logits in zip(rows, lengths, found, strict=True):
        expected = definition.steered_outputs(plain_llama, row, 1, VECTOR.at(1), n_prompt - 1)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_one_length_for_all_rows(tiny_llama, plain_llama):
    with caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=5):
        found = logits_of(tiny_llama, PROMPT, PROMPT[::-1])
    for row, logits in zip((PROMPT, PROMPT[::-1]), found, strict=True):
        expected = definition.steered_outputs(plain_llama, row, 1, VECTOR.at(1), 4)
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_multiplier_zero_is_the_unsteered_model_exactly(tiny_llama):
    unsteered = logits_of(tiny_llama, PROMPT)
    with caa.steer(tiny_llama, VECTOR, layer=2, multiplier=0):
        assert torch.equal(logits_of(tiny_llama, PROMPT), unsteered)


def test_a_vector_and_its_opposite_cancel(tiny_llama):
    unsteered = logits_of(tiny_llama, PROMPT)
    with caa.steer(tiny_llama, [caa.Intervention(one, 1) for one in (VECTOR, -VECTOR)], prompt_length=3):
        both = logits_of(tiny_llama, PROMPT)
    torch.testing.assert_close(both, unsteered, rtol=1e-4, atol=1e-4)


def test_nested_contexts_add_up(tiny_llama):
    with caa.steer(tiny_llama, VECTOR, layer=1, multiplier=0.5), caa.steer(tiny_llama, VECTOR, layer=1):
        nested = logits_of(tiny_llama, PROMPT)
    with caa.steer(tiny_llama, VECTOR, layer=1, multiplier=1.5):
        at_once = logits_of(tiny_llama, PROMPT)
    torch.testing.assert_close(nested, at_once, rtol=1e-4, atol=1e-4)


def test_the_inner_context_ends_before_the_outer_one(tiny_llama):
    with caa.steer(tiny_llama, VECTOR, layer=1):
        alone = logits_of(tiny_llama, PROMPT)
        with caa.steer(tiny_llama, VECTOR, layer=2):
            assert not torch.allclose(logits_of(tiny_llama, PROMPT), alone)
        assert torch.equal(logits_of(tiny_llama, PROMPT), alone)


def test_nothing_is_left_behind(tiny_llama):
    unsteered, before = logits_of(tiny_llama, PROMPT), hooks_in(tiny_llama)
    with caa.steer(tiny_llama, VECTOR, layer=1):
        assert hooks_in(tiny_llama) > before
        assert not torch.equal(logits_of(tiny_llama, PROMPT), unsteered)
    assert hooks_in(tiny_llama) == before
    assert torch.equal(logits_of(tiny_llama, PROMPT), unsteered)


def test_nothing_is_left_behind_after_an_exception(tiny_llama):
    unsteered, before = logits_of(tiny_llama, PROMPT), hooks_in(tiny_llama)
    with pytest.raises(IndexError), caa.steer(tiny_llama, VECTOR, layer=1):
        logits_of(tiny_llama, (100_000,))
    assert hooks_in(tiny_llama) == before
    assert torch.equal(logits_of(tiny_llama, PROMPT), unsteered)


def test_nothing_is_left_behind_after_a_refusal(tiny_llama):
    before = hooks_in(tiny_llama)
    with pytest.raises(caa.InputError), caa.steer(tiny_llama, VECTOR, layer=9):
        pass
    with pytest.raises(caa.InputError), caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=[1, 2, 3]):
        logits_of(tiny_llama, PROMPT, PROMPT)
    assert hooks_in(tiny_llama) == before


def test_the_vector_is_left_as_it_was(tiny_llama):
    values = VECTOR.values.clone()
    with caa.steer(tiny_llama, VECTOR, layer=1, multiplier=2):
        logits_of(tiny_llama, PROMPT)
    assert torch.equal(VECTOR.values, values)


@pytest.mark.parametrize("multiplier", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("layer", [0, 2])
def test_cached_generation_of_the_model_is_steered_token_by_token(tiny_llama, plain_llama, layer, multiplier):
    addition = multiplier * VECTOR.at(layer)
    expected = definition.greedy(plain_llama, PROMPT, layer, addition, n_new=10)
    with caa.steer(tiny_llama, VECTOR, layer=layer, multiplier=multiplier):
        found = tiny_llama.generate(
            torch.tensor([PROMPT]),
            max_new_tokens=10,
            do_sample=False,
            stop_at_eos=False,
            use_past_kv_cache=True,
            verbose=False,
        )
    assert found[0].tolist() == [*PROMPT, *expected]


def test_a_call_without_a_cache_follows_one_with_a_cache(tiny_llama, plain_llama):
    expected = definition.steered_outputs(plain_llama, PROMPT, 1, VECTOR.at(1), 6)
    with caa.steer(tiny_llama, VECTOR, layer=1):
        tiny_llama.generate(
            torch.tensor([PROMPT]), max_new_tokens=3, do_sample=False, use_past_kv_cache=True, verbose=False
        )
        found = logits_of(tiny_llama, PROMPT)[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_that_is_padded_on_the_left_is_steered_at_its_last_position(tiny_llama):
    padding, short = tiny_llama.tokenizer.pad_token_id, PROMPT[:4]
    rows = [PROMPT, (padding,) * 3 + short]
    mask = torch.tensor([[1] * 7, [0] * 3 + [1] * 4])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with caa.steer(tiny_llama, VECTOR, layer=1):
        batch = logits_of(tiny_llama, *rows, attention_mask=mask, position_ids=positions)
        alone = [logits_of(tiny_llama, row)[0] for row in (PROMPT, short)]
    for found, expected in zip(batch, alone, strict=True):
        torch.testing.assert_close(found[-1], expected[-1], rtol=1e-4, atol=1e-4)


RULES = ["from_last_prompt_token", "answer", "prompt", "all", caa.steering.FirstAnswerTokens(1), [0], [2, 5], [4, 8]]


def test_what_follows_a_cache_from_before_the_context_is_the_prompt(tiny_llama):
    """Such as a system prompt that was read once for many questions: the question's last token is the prompt's."""
    cache, n_before = DynamicCache(), 3
    logits_of(tiny_llama, PROMPT[:n_before], past_key_values=cache)
    with caa.steer(tiny_llama, VECTOR, layer=1):
        found = [logits_of(tiny_llama, given, past_key_values=cache) for given in (PROMPT[n_before:], (60,))]
    with caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=len(PROMPT)):
        expected = logits_of(tiny_llama, (*PROMPT, 60))[:, n_before:]
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_padding", [(3, 0), (0, 3), (1, 2)])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_batch_that_is_padded_on_the_left_is_steered_as_each_prompt_alone(tiny_llama, rule, n_padding):
    """Prompt and two tokens of an answer, read through a cache; the context has read a batch of that shape before."""
    padding, width = tiny_llama.tokenizer.pad_token_id, len(PROMPT)

    def read(cache, tokens, n_before, padded):
        mask = torch.tensor([[0] * n + [1] * (n_before + len(row) - n) for n, row in zip(padded, tokens, strict=True)])
        at = (mask.cumsum(1) - 1).clamp(min=0)[:, n_before:]
        return logits_of(tiny_llama, *tokens, past_key_values=cache, attention_mask=mask, position_ids=at)

    def answered(prompts, padded):
        cache, answer = DynamicCache(), ((60,), (61,))
        rows = [(padding,) * n + prompt for n, prompt in zip(padded, prompts, strict=True)]
        found = [read(cache, rows, 0, padded)]
        for number, token in enumerate(answer):
            found.append(read(cache, [token] * len(prompts), width_of(rows) + number, padded))
        return [torch.cat(some)[n:] for n, *some in zip(padded, *found, strict=True)]

    def width_of(rows):
        return len(rows[0])

    prompts = [PROMPT[: width - n] for n in n_padding]
    with caa.steer(tiny_llama, VECTOR, layer=1, positions=rule):
        answered([PROMPT, PROMPT], (0, 0))
        together = answered(prompts, n_padding)
        alone = [answered([prompt], (0,))[0] for prompt in prompts]
    unsteered = [answered([prompt], (0,))[0] for prompt in prompts]
    for found, expected, before in zip(together, alone, unsteered, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found, before, atol=1e-2)


@pytest.mark.parametrize("n_padding", [3, 0])
def test_rows_that_nobody_knows_after_a_padded_batch(tiny_llama, n_padding):
    rows = [PROMPT, (tiny_llama.tokenizer.pad_token_id,) * n_padding + PROMPT[n_padding:]]
    mask = torch.tensor([[1] * 7, [0] * n_padding + [1] * (7 - n_padding)])
    cache = DynamicCache()
    with caa.steer(tiny_llama, VECTOR, layer=1, positions=[2, 7]):
        logits_of(tiny_llama, *rows, past_key_values=cache, attention_mask=mask)
        cache.batch_repeat_interleave(2)
        whole = torch.cat([mask.repeat_interleave(2, 0), torch.ones(4, 1, dtype=torch.long)], dim=1)
        if not n_padding:
            logits_of(tiny_llama, *[(60,)] * 4, past_key_values=cache, attention_mask=whole)
            return
        with pytest.raises(caa.InputError, match=r"positions: \(2, 7\), but the batch was padded in front and goes on"):
            logits_of(tiny_llama, *[(60,)] * 4, past_key_values=cache, attention_mask=whole)


@pytest.mark.parametrize(
    ("bos", "expected"),
    [(1, (0, 2, 1)), (9, (1, 3, 2))],  # where BOS pads, the longest row's first token is its own
)
def test_padding_in_front_where_bos_pads(bos, expected):
    tokens = torch.tensor([[1, 5, 1, 6], [1, 1, 1, 7], [1, 1, 8, 1]])
    found = padding_in_front(tokens, SimpleNamespace(pad_token_id=1, bos_token_id=bos))
    assert found == expected
    assert padding_in_front(tokens, None) == (0, 0, 0)


def test_a_batch_that_is_padded_on_the_right_is_refused(tiny_llama):
    padding = tiny_llama.tokenizer.pad_token_id
    rows = [PROMPT, (*PROMPT[:4], padding, padding, padding)]
    said = r"prompt_length: .*padded on the right.* Pad on the left, or give prompt_length"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, VECTOR, layer=1):
        logits_of(tiny_llama, *rows)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_padding_on_the_right_is_refused_though_all_rows_have_it(tiny_llama, n_rows):
    padded = (*PROMPT, *[tiny_llama.tokenizer.pad_token_id] * 2)
    mask = torch.tensor([[1] * len(PROMPT) + [0] * 2] * n_rows)
    with pytest.raises(caa.InputError, match="padded on the right"), caa.steer(tiny_llama, VECTOR, layer=1):
        logits_of(tiny_llama, *[padded] * n_rows, attention_mask=mask)
    with caa.steer(tiny_llama, VECTOR, layer=1, positions="all"):  # wherever the prompts end
        logits_of(tiny_llama, *[padded] * n_rows, attention_mask=mask)


def decoded(model, cache, tokens, n_before):
    """Logits of one more pass over a sequence that has a cache of its own."""
    at = torch.arange(n_before, n_before + len(tokens))[None]
    mask = torch.ones(1, n_before + len(tokens), dtype=torch.long)
    return logits_of(model, tokens, past_key_values=cache, attention_mask=mask, position_ids=at)


@pytest.mark.parametrize("first", [PROMPT[:3], (*PROMPT, 50, 51)])
@pytest.mark.parametrize("where", [{}, {"positions": "all"}])
def test_two_answers_that_take_turns(tiny_llama, first, where):
    """Which of the two prompts a token comes after is not known where their lengths say nothing."""
    with caa.steer(tiny_llama, VECTOR, layer=1, **where):
        alone, both = DynamicCache(), [DynamicCache(), DynamicCache()]
        decoded(tiny_llama, alone, first, 0)
        expected = decoded(tiny_llama, alone, (60,), len(first))
        decoded(tiny_llama, both[0], first, 0)
        decoded(tiny_llama, both[1], PROMPT, 0)
        if where:
            assert torch.equal(decoded(tiny_llama, both[0], (60,), len(first)), expected)
            return
        with pytest.raises(caa.InputError, match=r"prompt_length: .* Finish one answer before the next prompt"):
            decoded(tiny_llama, both[0], (60,), len(first))


def test_several_answers_to_one_prompt_that_is_read_once(tiny_llama):
    with caa.steer(tiny_llama, VECTOR, layer=1, positions=caa.steering.FirstAnswerTokens(2)):
        cache, answers = DynamicCache(), [(60, 61), (62, 63)]
        decoded(tiny_llama, cache, PROMPT, 0)
        found = [decoded(tiny_llama, copy.deepcopy(cache), answer, len(PROMPT)) for answer in answers]
    for answer, logits in zip(answers, found, strict=True):
        with caa.steer(tiny_llama, VECTOR, layer=1, positions="answer", prompt_length=len(PROMPT)):
            expected = logits_of(tiny_llama, (*PROMPT, *answer))[:, len(PROMPT) :]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_a_batch_of_texts_that_the_model_pads_on_the_right_is_refused(tiny_llama):
    with pytest.raises(caa.InputError, match="padded on the right"), caa.steer(tiny_llama, VECTOR, layer=1):
        tiny_llama(QUESTIONS, padding_side="right")


def test_a_batch_that_is_padded_on_the_right_is_steered_where_the_lengths_say(tiny_llama, plain_llama):
    padding, short = tiny_llama.tokenizer.pad_token_id, PROMPT[:4]
    with caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=[7, 4]):
        found = logits_of(tiny_llama, PROMPT, (*short, padding, padding, padding))
    for row, logits in zip((PROMPT, short), found, strict=True):
        expected = definition.steered_outputs(plain_llama, row, 1, VECTOR.at(1), len(row) - 1)
        torch.testing.assert_close(logits[: len(row)], expected, rtol=1e-4, atol=1e-4)


def test_extraction_inside_a_steered_context_is_steered_too(tiny_llama, plain_llama, tokenizer, pairs):
    asked = pairs[:1]
    n_prompt = len(tokenizer(definition.put(tokenizer, asked[0].question))["input_ids"])
    with caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=n_prompt):
        found = caa.extract_vector(tiny_llama, asked, format="text").values

    def add(_, args):
        hidden = args[0].clone()
        hidden[:, n_prompt - 1 :] += VECTOR.at(1)
        return (hidden, *args[1:])

    # Hugging Face takes a block's output before hooks on that block change it: change the next block's input, and
    # compare after the blocks that follow.
    handle = plain_llama.model.layers[2].register_forward_pre_hook(add)
    try:
        expected = definition.steering_vectors(plain_llama, tokenizer, asked, "text")
    finally:
        handle.remove()
    torch.testing.assert_close(found[2:], expected[2:], rtol=1e-3, atol=1e-3)


def test_extraction_where_nobody_knows_where_the_prompts_end_is_refused(tiny_llama, pairs):
    said = "model: it is being steered, and where its prompts end is not known here"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, VECTOR, layer=1):
        caa.extract_vector(tiny_llama, pairs[:1], format="text")


@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), "1", None, True])
def test_a_multiplier_that_is_no_finite_number(tiny_llama, multiplier):
    said = f"multiplier: {multiplier!r} is not a finite number; give one such as"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, VECTOR, layer=1, multiplier=multiplier):
        pass


@pytest.mark.parametrize("length", [0, -1, 1.5, True, [], [3, 0], "3", np.array([])])
def test_a_length_that_is_none(tiny_llama, length):
    with (
        pytest.raises(caa.InputError, match=r"prompt_length: .*give a number of tokens of at least 1, or one per row"),
        caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=length),
    ):
        pass


def test_lengths_for_another_number_of_rows(tiny_llama):
    with (
        pytest.raises(caa.InputError, match="prompt_length: 3 numbers for a batch of 2 rows; give one per row, or one"),
        caa.steer(tiny_llama, VECTOR, layer=1, prompt_length=[1, 2, 3]),
    ):
        logits_of(tiny_llama, PROMPT, PROMPT)


@pytest.mark.parametrize("kind", [np.int64, np.int32, torch.tensor, np.array])
def test_numbers_of_arrays_and_tensors_are_numbers(tiny_llama, kind):
    """Layers and multipliers often come out of a table or an array."""
    with caa.steer(tiny_llama, VECTOR, layer=1, multiplier=2):
        expected = logits_of(tiny_llama, PROMPT)
    with caa.steer(tiny_llama, VECTOR, layer=kind(1), multiplier=kind(2)):
        assert torch.equal(logits_of(tiny_llama, PROMPT), expected)
    assert torch.equal(VECTOR.at(kind(1)), VECTOR.at(1))
