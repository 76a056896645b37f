"""Generated answers are those of a naive loop, whatever shares their batch; streamed answers are generated ones."""

import math

import pytest
import torch

import caa_interp as caa
from caa_interp.steering.generation import stream_answer
from tests.oracles import definition

QUESTIONS = ["Is it good?", "What do you think of the weather today, the garden and the sea?", "Rain"]


def random_vector(size: float, seed: int = 0) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"model": "tiny-llama"})


VECTOR = random_vector(6.0)


@pytest.fixture(scope="module")
def answers(tiny_llama):
    """Greedy answers to all questions, steered and not."""
    return caa.generate(
        tiny_llama, QUESTIONS, vector=VECTOR, layer=1, multipliers=(-2, 0, 2), max_new_tokens=12
    ).set_index(["item", "multiplier"])


def test_the_table_of_answers(answers):
    assert answers.columns.tolist() == ["prompt", "layer", "answer", "n_tokens", "finished"]
    assert answers.index.tolist() == [(item, float(m)) for item in range(3) for m in (-2, 0, 2)]
    assert answers["prompt"].tolist() == [question for question in QUESTIONS for _ in range(3)]
    assert (answers["layer"] == 1).all()
    assert answers["n_tokens"].between(0, 12).all()
    assert (answers["finished"] | (answers["n_tokens"] == 12)).all()


@pytest.mark.parametrize("item", [0, 1, 2])
@pytest.mark.parametrize("multiplier", [-2.0, 0.0, 2.0])
def test_greedy_answers_are_those_of_a_naive_loop(tiny_llama, plain_llama, tokenizer, answers, item, multiplier):
    prompt = tokenizer(definition.put(tokenizer, QUESTIONS[item]))["input_ids"]
    ends = caa.PromptFormat.of(tiny_llama).end_ids
    assert ends == {tokenizer.eos_token_id}
    expected = definition.greedy(plain_llama, prompt, 1, multiplier * VECTOR.at(1), n_new=12, ends=ends)
    row = answers.loc[(item, multiplier)]
    assert row["n_tokens"] == len(expected)
    assert row["answer"] == tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert row["finished"] == (len(expected) < 12)


def test_steering_changes_the_answers(answers):
    assert answers.groupby("item")["answer"].nunique().min() >= 2


def test_a_batch_of_prompts_equals_single_prompts(tiny_llama, answers):
    for item, question in enumerate(QUESTIONS):
        alone = caa.generate(tiny_llama, [question], vector=VECTOR, layer=1, multipliers=(-2, 0, 2), max_new_tokens=12)
        assert alone["answer"].tolist() == answers.loc[item]["answer"].tolist()
        assert alone["n_tokens"].tolist() == answers.loc[item]["n_tokens"].tolist()


def test_portions_do_not_change_the_answers(tiny_llama, answers, monkeypatch):
    monkeypatch.setattr(caa.generation, "_ROWS_AT_ONCE", 3)
    again = caa.generate(tiny_llama, QUESTIONS, vector=VECTOR, layer=1, multipliers=(-2, 0, 2), max_new_tokens=12)
    assert again["answer"].tolist() == answers["answer"].tolist()


def test_multiplier_zero_answers_as_the_unsteered_model(tiny_llama, answers):
    unsteered = caa.generate(tiny_llama, QUESTIONS, max_new_tokens=12)
    assert unsteered["multiplier"].tolist() == [0.0] * 3
    assert unsteered["answer"].tolist() == answers.xs(0.0, level="multiplier")["answer"].tolist()


def test_a_row_that_ends_leaves_the_others_alone(tiny_llama, plain_llama, tokenizer, monkeypatch):
    """Any token may end an answer; rows end at different lengths then."""
    addition = 2.0 * VECTOR.at(1)
    prompts = [tokenizer(definition.put(tokenizer, question))["input_ids"] for question in QUESTIONS]
    full = [definition.greedy(plain_llama, prompt, 1, addition, n_new=12) for prompt in prompts]
    ends = {full[0][3], full[2][7]}
    expected = [definition.greedy(plain_llama, prompt, 1, addition, n_new=12, ends=ends) for prompt in prompts]
    lengths = [len(tokens) for tokens in expected]
    assert len(set(lengths)) > 1
    monkeypatch.setattr(caa.PromptFormat, "end_ids", ends)
    table = caa.generate(tiny_llama, QUESTIONS, vector=VECTOR, layer=1, multipliers=[2.0], max_new_tokens=12)
    assert table["n_tokens"].tolist() == lengths
    assert table["finished"].tolist() == [length < 12 for length in lengths]
    texts = [tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in expected]
    assert table["answer"].tolist() == texts


def sampled(model, prompts, **options):
    options = {"temperature": 1.0, "seed": 0, "max_new_tokens": 12, **options}
    return caa.generate(model, prompts, **options)["answer"].tolist()


def test_samples_are_the_same_for_the_same_seed(tiny_llama):
    first = sampled(tiny_llama, QUESTIONS)
    assert sampled(tiny_llama, QUESTIONS) == first
    assert sampled(tiny_llama, QUESTIONS, seed=1) != first


def test_samples_do_not_depend_on_the_other_prompts(tiny_llama):
    whole = sampled(tiny_llama, QUESTIONS)
    assert sampled(tiny_llama, QUESTIONS[:1]) == whole[:1]
    assert sampled(tiny_llama, [QUESTIONS[2], *QUESTIONS[1:]])[1:] == whole[1:]


def test_samples_do_not_depend_on_the_other_multipliers(tiny_llama):
    alone = caa.generate(tiny_llama, QUESTIONS, temperature=1.0, max_new_tokens=12)
    options = {"vector": VECTOR, "layer": 1, "temperature": 1.0, "max_new_tokens": 12}
    beside = caa.generate(tiny_llama, QUESTIONS, multipliers=(-2, 0), **options).query("multiplier == 0")
    assert beside["answer"].tolist() == alone["answer"].tolist()


def test_sampling_leaves_the_global_generator_alone(tiny_llama):
    state = torch.random.get_rng_state()
    sampled(tiny_llama, QUESTIONS[:1])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_samples_follow_the_temperature(tiny_llama, plain_llama, tokenizer):
    """The frequency of the first token over many seeds is its probability."""
    prompt = tokenizer(definition.put(tokenizer, QUESTIONS[0]))["input_ids"]
    logits = definition.steered_outputs(plain_llama, prompt, 0, torch.zeros(64), 0)[-1]
    share = (logits / 0.25).softmax(-1)
    top = int(share.argmax())
    expected, n = float(share[top]), 200
    assert 0.05 < expected < 0.95
    hits = 0
    for seed in range(n):
        said = caa.generate(tiny_llama, QUESTIONS[:1], temperature=0.25, seed=seed, max_new_tokens=1)["answer"][0]
        hits += said == tokenizer.decode([top]).strip()
    assert abs(hits / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": []}, r"prompts: \[\]; give a non-empty list of texts"),
        ({"prompts": "one text"}, "prompts: 'one text'; give a non-empty list"),
        ({"prompts": ["good", " "]}, r"prompts\[1\]: ' ' is not a text; give a non-empty string"),
        ({"prompts": ["good", 3]}, r"prompts\[1\]: 3 is not a text; give a non-empty string"),
        ({"multipliers": ()}, "multipliers: the list is empty; give at least one"),
        ({"multipliers": (1, 1.0)}, r"multipliers: \[1.0, 1.0\] names one twice; name each once"),
        ({"multipliers": (0, float("nan"))}, "multiplier: nan is not a finite number; give one such as"),
        ({"vector": None}, "vector and layer: both are needed for a multiplier other than 0. Give them"),
        ({"layer": None}, "vector and layer: both are needed for a multiplier other than 0. Give them"),
        ({"layer": 4}, r"layer 4: the vector has layers 0 to 3 .*Choose one of these"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0; it must be at least 1"),
        (
            {"max_new_tokens": 250},
            r"prompts\[0\]: \d+ tokens and 250 new ones do not fit .*context of 256.*lower max",
        ),
        ({"temperature": -1.0}, r"temperature: -1.0; it must be 0 \(greedy\) or a positive number"),
        ({"temperature": float("nan")}, "temperature: nan; it must be 0"),
    ],
)
def test_what_generate_refuses(tiny_llama, options, said):
    options = {"prompts": ["good"], "vector": VECTOR, "layer": 1, "multipliers": (1,), **options}
    with pytest.raises(caa.InputError, match=said):
        caa.generate(tiny_llama, **options)


STREAM = {"vector": VECTOR, "layer": 1, "multiplier": 2.0, "max_new_tokens": 12}


@pytest.mark.parametrize("multiplier", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("item", [0, 1, 2])
def test_a_streamed_answer_is_the_generated_one_token_by_token(tiny_llama, answers, item, multiplier):
    streamed = list(stream_answer(tiny_llama, QUESTIONS[item], **STREAM | {"multiplier": multiplier}))
    row, last = answers.loc[(item, multiplier)], streamed[-1]
    assert (last.text, len(last.tokens), last.finished) == (row["answer"], row["n_tokens"], row["finished"])
    assert [len(answer.tokens) for answer in streamed[:-1]] == list(range(1, row["n_tokens"] + 1))
    assert all(answer.tokens == last.tokens[: len(answer.tokens)] for answer in streamed)
    assert not any(answer.finished for answer in streamed[:-1])


def test_a_streamed_answer_that_the_model_ends_says_so(tiny_llama, monkeypatch):
    whole = list(stream_answer(tiny_llama, QUESTIONS[0], **STREAM))[-1]
    assert not whole.finished
    end = whole.tokens[5]
    monkeypatch.setattr(caa.PromptFormat, "end_ids", {end})
    ended = list(stream_answer(tiny_llama, QUESTIONS[0], **STREAM))[-1]
    assert ended.finished
    assert ended.tokens == whole.tokens[: whole.tokens.index(end)]


def test_an_answer_without_a_token_is_one_empty_answer(tiny_llama, monkeypatch):
    monkeypatch.setattr(caa.PromptFormat, "end_ids", set(range(384)))
    (only,) = stream_answer(tiny_llama, QUESTIONS[0], **STREAM)
    assert (only.text, only.tokens, only.finished) == ("", (), True)


def forced(monkeypatch, tokenizer, text):
    """Let every answer be ``text``, byte by byte where the tokenizer has no longer token; return its tokens."""
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    coming = iter(tokens)
    monkeypatch.setattr(caa.generation, "_choose", lambda *_: torch.tensor([next(coming)]))
    return tokens


def test_a_character_of_several_tokens_appears_whole(tiny_llama, tokenizer, monkeypatch):
    tokens = forced(monkeypatch, tokenizer, "aé🙂")
    assert len(tokens) == 1 + 2 + 4
    streamed = stream_answer(tiny_llama, QUESTIONS[0], **STREAM | {"max_new_tokens": len(tokens)})
    assert [answer.text for answer in streamed] == ["a", "a", "aé", "aé", "aé", "aé", "aé🙂", "aé🙂"]


def test_an_answer_cut_within_a_character_is_the_generated_one(tiny_llama, tokenizer, monkeypatch):
    tokens = forced(monkeypatch, tokenizer, "a🙂")[:-1]
    *before, last = stream_answer(tiny_llama, QUESTIONS[0], **STREAM | {"max_new_tokens": len(tokens)})
    assert {answer.text for answer in before} == {"a"}
    forced(monkeypatch, tokenizer, "a🙂")
    generated = caa.generate(tiny_llama, QUESTIONS[:1], max_new_tokens=len(tokens))["answer"][0]
    assert last.text == generated == "a\N{REPLACEMENT CHARACTER}"


def test_streams_that_take_turns_do_not_disturb_each_other(tiny_llama, answers):
    """Nor are other calls between two tokens steered, nor is anything left by a stream that is dropped."""
    tokens = torch.tensor([[0, 40, 41, 42]])
    with torch.no_grad():
        unsteered = tiny_llama(tokens)
    streams = [stream_answer(tiny_llama, QUESTIONS[0], **STREAM | {"multiplier": m}) for m in (-2.0, 0.0, 2.0)]
    dropped = stream_answer(tiny_llama, QUESTIONS[1], **STREAM)
    last = {}
    for step in range(13):
        last |= {number: answer for number, stream in enumerate(streams) if (answer := next(stream, None))}
        if step < 3:
            next(dropped)
        with torch.no_grad():
            assert torch.equal(tiny_llama(tokens), unsteered)
    assert [answer.text for answer in last.values()] == answers.loc[0]["answer"].tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": " "}, "prompt: ' ' is not a text; give a non-empty string"),
        ({"multiplier": float("nan")}, "multiplier: nan is not a finite number"),
        ({"layer": 4}, "layer 4: the vector has layers 0 to 3"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0; it must be at least 1"),
        ({"max_new_tokens": 250}, r"prompt: \d+ tokens and 250 new ones do not fit .*context of 256.*lower max"),
        ({"vector": caa.SteeringVector(torch.ones(1, 8), (1,))}, "vector: its width is 8"),
    ],
)
def test_what_a_stream_refuses_before_its_first_token(tiny_llama, options, said):
    with pytest.raises(caa.InputError, match=said):
        stream_answer(tiny_llama, **{"prompt": "good", **STREAM, **options})


def test_answers_that_cannot_be_computed_are_an_error_and_not_an_empty_text(tiny_llama_64):
    # Without `stay_double` Hugging Face's float64 mask overflows where a row is padded.
    with pytest.raises(caa.errors.ModelError, match="give one prompt at a time, or load it in float32"):
        caa.generate(tiny_llama_64, ["Is it good?", "What do you think of the weather today?"], max_new_tokens=3)
    assert len(caa.generate(tiny_llama_64, ["Is it good?"], max_new_tokens=3)) == 1
