"""Generated answers are those of a naive loop, whatever shares their batch; streamed answers are generated ones."""

import contextlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import LlamaForCausalLM

import caa_interp as caa
from caa_interp.steering.generation import stream_answer
from tests.oracles import definition, steering as oracle
from tests.tiny_models import random_llama, small_tokenizer

writing = import_module("caa_interp.steering.writing")
NO_VECTOR = {"vector": None, "layer": None, "multipliers": None}
QUESTIONS = ["Is it good?", "What do you think of the weather today, the garden and the sea?", "Rain"]


def random_vector(size: float, seed: int = 0) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"model": "tiny-llama"})


VECTOR, OTHER = random_vector(6.0), random_vector(6.0, seed=1)
UP = caa.Intervention(VECTOR, 1, 2.0)
CONDITIONS = [None, UP, [UP, caa.Intervention(OTHER, 2, 1.0, caa.ablate)]]


@pytest.fixture(scope="module")
def answers(tiny_llama):
    """Greedy answers to all questions, steered and not."""
    return caa.generate(
        tiny_llama, QUESTIONS, vector=VECTOR, layer=1, multipliers=(-2, 0, 2), max_new_tokens=12
    ).set_index(["item", "multiplier"])


def test_the_table_of_answers(answers):
    described = ["vector", "kind", "layer", "operator", "positions"]
    about = ["answer", "blank", "n_tokens", "finished", "model", "prompt_digest"]
    assert answers.columns.tolist() == ["prompt", "sample", *described, *about]
    assert answers.index.tolist() == [(item, float(m)) for item in range(3) for m in (-2, 0, 2)]
    assert answers["prompt"].tolist() == [question for question in QUESTIONS for _ in range(3)]
    assert answers[described].drop_duplicates().values.tolist() == [
        ["vector", "vector", 1, "add", "from_last_prompt_token"]
    ]
    assert set(answers["sample"]) == {0}
    assert set(answers["model"]) == {"tiny-llama"}
    assert not answers.attrs
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


@pytest.mark.parametrize("n_rows", [1, 2, 3, 7])
def test_portions_do_not_change_the_answers(tiny_llama, answers, monkeypatch, n_rows):
    """As many rows as the memory holds: some of one prompt, one prompt, or several."""
    monkeypatch.setattr(writing, "rows_that_fit", lambda *_: n_rows)
    batches, write = [], writing.Writing
    monkeypatch.setattr(writing, "Writing", lambda *given: batches.append(given[3]) or write(*given))
    again = caa.generate(tiny_llama, QUESTIONS, vector=VECTOR, layer=1, multipliers=(-2, 0, 2), max_new_tokens=12)
    assert again["answer"].tolist() == answers["answer"].tolist()
    expected = {1: [1] * 9, 2: [2, 1] * 3, 3: [3] * 3, 7: [6, 3]}
    assert [len(rows) for rows in batches] == expected[n_rows]


def test_multiplier_zero_answers_as_the_unsteered_model(tiny_llama, answers):
    unsteered = caa.generate(tiny_llama, QUESTIONS, max_new_tokens=12)
    assert unsteered["multiplier"].tolist() == [0.0] * 3
    assert set(unsteered["vector"]) == {"unsteered"}
    assert unsteered["layer"].isna().all()
    assert unsteered["answer"].tolist() == answers.xs(0.0, level="multiplier")["answer"].tolist()


def test_a_vector_steers_with_multiplier_1_unless_another_is_given(tiny_llama, answers):
    table = caa.generate(tiny_llama, QUESTIONS, vector=VECTOR, layer=1, max_new_tokens=12)
    assert table["multiplier"].tolist() == [1.0] * 3
    assert table["answer"].tolist() != answers.xs(0.0, level="multiplier")["answer"].tolist()


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


def first_token(plain_llama, tokenizer, temperature):
    """Probabilities of the first token of the answer to a question, ``[d_vocab]``."""
    prompt = tokenizer(definition.put(tokenizer, QUESTIONS[0]))["input_ids"]
    logits = definition.steered_outputs(plain_llama, prompt, 0, torch.zeros(64), 0)[-1]
    return (logits / temperature).softmax(-1)


def test_samples_follow_the_temperature(tiny_llama, plain_llama, tokenizer):
    """The frequency of the first token over many samples is its probability."""
    share = first_token(plain_llama, tokenizer, 0.25)
    top = int(share.argmax())
    expected, n = float(share[top]), 400
    assert 0.05 < expected < 0.95
    said = caa.generate(tiny_llama, QUESTIONS[:1], temperature=0.25, n=n, max_new_tokens=1)["answer"]
    hits = (said == tokenizer.decode([top]).strip()).sum()
    assert abs(hits / n - expected) < 4 * math.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.7, 0.95, 1.0])
def test_top_p_draws_among_the_likeliest_tokens_that_together_have_it(
    tiny_llama, plain_llama, tokenizer, monkeypatch, top_p
):
    seen = []

    def draw(probabilities, number, generator):
        seen.append(probabilities)
        return probabilities.argmax()[None]

    monkeypatch.setattr(torch, "multinomial", draw)
    caa.generate(tiny_llama, QUESTIONS[:1], temperature=0.5, top_p=top_p, max_new_tokens=1)
    share = first_token(plain_llama, tokenizer, 0.5)
    nucleus, total = [], 0.0
    for token in share.argsort(descending=True).tolist():
        if total >= top_p:
            break
        nucleus.append(token)
        total += float(share[token])
    expected = torch.zeros_like(share)
    expected[nucleus] = share[nucleus] / share[nucleus].sum()
    assert (len(nucleus) == 1) == (top_p < 0.1)
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-6)


def samples(model, prompts, steering=CONDITIONS, n=3, **options):
    """Sampled answers by prompt, what was done, and number."""
    options = {"temperature": 1.0, "max_new_tokens": 8, "progress": False, **options}
    table = caa.generate(model, prompts, steering=steering, n=n, **options)
    keys = table[["prompt", "vector", "multiplier", "sample"]].itertuples(index=False, name=None)
    return dict(zip(keys, table["answer"], strict=True))


@pytest.fixture(scope="module")
def many(tiny_llama):
    return samples(tiny_llama, QUESTIONS)


@pytest.mark.parametrize(
    "other",
    [
        {"n": 1},
        {"n": 5},
        {"prompts": QUESTIONS[1:2]},
        {"prompts": QUESTIONS[::-1]},
        {"prompts": ["I agree", *QUESTIONS]},
        {"steering": CONDITIONS[:1]},
        {"steering": CONDITIONS[:0:-1]},
    ],
    ids=str,
)
def test_a_sample_hangs_on_nothing_but_seed_prompt_and_number(tiny_llama, many, other):
    found = samples(tiny_llama, **{"prompts": QUESTIONS, **other})
    shared = found.keys() & many.keys()
    assert len(shared) >= 6
    assert {key: found[key] for key in shared} == {key: many[key] for key in shared}


def test_samples_differ_from_one_another(tiny_llama, many):
    for question in QUESTIONS:
        for vector in ("unsteered", "vector"):
            assert len({many[question, vector, 0.0 if vector == "unsteered" else 2.0, k] for k in range(3)}) == 3
        assert many[question, "unsteered", 0.0, 0] != many[question, "vector", 2.0, 0]
    assert samples(tiny_llama, QUESTIONS, seed=np.int64(0)) == many
    assert samples(tiny_llama, QUESTIONS, seed=1) != many


def test_the_table_of_samples(tiny_llama):
    table = caa.generate(
        tiny_llama, QUESTIONS, steering=CONDITIONS, n=2, temperature=1.0, max_new_tokens=3, progress=False
    )
    assert len(table) == 3 * 3 * 2
    assert table["item"].tolist() == [item for item in range(3) for _ in range(6)]
    assert table["sample"].tolist() == [0, 1] * 9
    assert table["vector"][:6:2].tolist() == ["unsteered", "vector", "vector + vector (ablate)"]
    assert table["operator"][:6:2].tolist() == ["", "add", "add + ablate"]


CONVERSATION = [
    {"role": "user", "content": "Is it good?"},
    {"role": "assistant", "content": "I think so."},
    {"role": "user", "content": "Why “so”?"},
]


def test_a_conversation_is_answered_after_its_last_turn(tiny_llama, plain_llama):
    form = caa.PromptFormat.of(tiny_llama)
    prompts = [CONVERSATION, "Why “so”?", CONVERSATION[:1], "Is it good?"]
    table = caa.generate(tiny_llama, prompts, steering=[None, UP], max_new_tokens=8, progress=False)
    assert json.loads(table["prompt"][0]) == CONVERSATION
    assert "“so”" in table["prompt"][0]
    assert table["prompt"][2] == prompts[1]
    ids = form.tokens(CONVERSATION).tokens
    text = tiny_llama.tokenizer.decode(ids)
    assert text.index("Is it good?") < text.index("I think so.") < text.index("Why “so”?")
    edits = [(1, VECTOR.at(1), 2.0, ("add",), "from_last_prompt_token")]
    for row, what in enumerate(([], edits)):
        expected = oracle.greedy(plain_llama, ids, what, 8, form.end_ids)
        assert table["answer"][row] == tiny_llama.tokenizer.decode(expected, skip_special_tokens=True).strip()
    assert table["answer"][0] != table["answer"][2]
    assert table["answer"][4:6].tolist() == table["answer"][6:].tolist()


TEMPLATE = "{{ bos_token }}{% for turn in messages %}[{{ turn['role'] }}]{{ turn['content'] }}{% endfor %}[reply]"


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A random Llama whose vocabulary has both marks of thinking, and the same by Hugging Face."""
    folder = tmp_path_factory.mktemp("thinker") / "tiny-llama"
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = TEMPLATE
    random_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = caa.load_model(folder, device="cpu", dtype="float32")
    return model, LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def begin_with(monkeypatch, tokens):
    """Let every answer begin with some tokens, and go on as the model does."""
    choose = writing.Writing._choose

    def begun(self, logits):
        done = [len(self.tokens[row]) - self.n_prompt[row] for row in self.alive]
        own = choose(self, logits)
        return [tokens[n] if n < len(tokens) else token for n, token in zip(done, own, strict=True)]

    monkeypatch.setattr(writing.Writing, "_choose", begun)


THINKING = {
    # what the template puts after the prompt, how the answer begins, and where steering begins, from its first token
    "the model thinks": ("", "<think> I</think>", 2),
    "the prompt opens the thinking": ("<think>\n", " I</think>", 1),
    "the prompt closes the thinking": ("<think>\n\n</think>\n\n", "", -1),
    "the model does not think": ("", " I", 0),
    "white space before the thinking": ("", "\n<think> I</think>", 3),
    "the mark stands there twice": ("", "<think> I</think> I</think>", 2),
    "the thinking does not end": ("", "<think> I I I I I I", None),
}


@pytest.mark.parametrize("case", THINKING)
def test_steering_after_the_thinking(thinker, monkeypatch, case):
    model, plain = thinker
    closing, begun, start = THINKING[case]
    monkeypatch.setattr(model.tokenizer, "chat_template", TEMPLATE + closing)
    tokenizer, form = model.tokenizer, caa.PromptFormat.of(model)
    forced = tokenizer(begun, add_special_tokens=False)["input_ids"] if begun else []
    begin_with(monkeypatch, forced)
    one = caa.Intervention(VECTOR, 1, 2.0, positions="after_thinking")
    n_new = 7 if start is None else len(forced) + 6
    table = caa.generate(model, ["Is it?", QUESTIONS[1]], steering=[None, one], max_new_tokens=n_new, progress=False)
    for number, question in enumerate(("Is it?", QUESTIONS[1])):
        prompt = form.tokens(question).tokens
        ids, answers = [*prompt, *forced], []
        for edits in ([], [(1, VECTOR.at(1), 2.0, ("add",), tuple(range(len(prompt) + (start or 0), 256)))]):
            edits = [] if start is None else edits
            said = [*forced, *oracle.greedy(plain, ids, edits, n_new - len(forced), form.end_ids)]
            marks = [n for n, token in enumerate(said) if token == form.thinking_end]
            split = marks[0] + 1 if marks else 0
            if not marks and case in ("the thinking does not end", "the prompt opens the thinking"):
                split = len(said)
            answers.append([tokenizer.decode(part).strip() for part in (said[:split], said[split:])])
        found = table[table["item"] == number][["thinking", "answer"]].values.tolist()
        assert found == answers
        assert (answers[0] == answers[1]) == (start is None)


def test_an_answer_is_scored_with_the_edits_with_which_it_was_written(thinker):
    """Where the thinking ends does not hang on how much of the answer is known, once it has ended."""
    from caa_interp.steering.positions import end_of_thinking

    model, _ = thinker
    form = caa.PromptFormat.of(model)
    prompt = form.tokens("Is it?").tokens
    answer = model.tokenizer("<think> I</think> I</think> I", add_special_tokens=False)["input_ids"]
    tokens, mark = [*prompt, *answer], len(prompt) + 2
    growing = [
        end_of_thinking(form, tokens[:n], len(prompt), growing=True) for n in range(len(prompt), len(tokens) + 1)
    ]
    assert growing == [math.inf] * 3 + [mark] * (len(answer) - 2)
    assert end_of_thinking(form, tokens, len(prompt)) == mark


@pytest.mark.parametrize("begun", ["<think> I</think>", " I", "<think> I I I I I I"])
def test_what_steering_after_the_thinking_costs(thinker, monkeypatch, begun):
    """The same as explicit positions do, from where the thinking of the model's own answer ends."""
    model, _ = thinker
    forced = model.tokenizer(begun, add_special_tokens=False)["input_ids"]
    begin_with(monkeypatch, forced)
    n_prompt = len(caa.PromptFormat.of(model).tokens("Is it?").tokens)
    start = {"<think> I</think>": n_prompt + 2, " I": n_prompt}.get(begun)
    options = {"prompts": ["Is it?"], "n_tokens": 7, "progress": False}

    def moved(positions):
        return caa.divergence(model, caa.Intervention(VECTOR, 1, 2.0, positions=positions), **options)["divergence"][0]

    if start is None:
        with pytest.warns(UserWarning, match="positions: after_thinking: nothing is steered"):
            assert moved("after_thinking") == 0
        return
    assert moved("after_thinking") == moved(range(start, 256)) > 0
    late = caa.Intervention(VECTOR, 1, positions="after_thinking")
    factor = caa.evaluation.calibrate(model, late, ["Is it?"], target=0.1, n_tokens=7).multiplier
    late = caa.Intervention(VECTOR, 1, factor, positions=range(start, 256))
    assert caa.divergence(model, late, **options)["divergence"][0] == pytest.approx(0.1, rel=0.02)


def test_a_context_does_not_know_where_the_thinking_ends(thinker, tiny_llama):
    late = caa.Intervention(VECTOR, 1, positions="after_thinking")
    said = "positions: 'after_thinking', but steer does not know .* Give the intervention to caa.generate"
    with pytest.raises(caa.InputError, match=said), caa.steer(thinker[0], [UP, late]):
        pass
    tokens = torch.tensor([[0, 40, 41]])
    with torch.no_grad(), caa.steer(tiny_llama, late):  # which has no such token, so it does not think
        found = tiny_llama(tokens)
    with torch.no_grad(), caa.steer(tiny_llama, VECTOR, 1):
        assert torch.equal(found, tiny_llama(tokens))


def test_models_that_do_not_think_have_no_such_column(answers, thinker):
    assert "thinking" not in answers
    assert "thinking" in caa.generate(thinker[0], ["Is it?"], max_new_tokens=1, progress=False)


@pytest.mark.parametrize(
    ("text", "ends", "blank"),
    [("\n \n", False, True), ("</s></s>", False, True), ("", True, False), ("\nI", False, False)],
)
def test_an_answer_that_shows_no_text_is_marked(tiny_llama, tokenizer, monkeypatch, text, ends, blank):
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    begin_with(monkeypatch, tokens)
    monkeypatch.setattr(caa.PromptFormat, "end_ids", set(range(384)) if ends else set())
    row = caa.generate(tiny_llama, ["Is it good?"], max_new_tokens=max(1, len(tokens)), progress=False).iloc[0]
    assert (row["blank"], row["n_tokens"]) == (blank, len(tokens))
    assert row["answer"] == text.replace("</s>", "").strip()
    assert row["finished"] == ends


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompts": []}, r"prompts: \[\]; give a non-empty list of texts"),
        ({"prompts": "one text"}, "prompts: 'one text'; give a non-empty list"),
        ({"prompts": ["good", " "]}, r"prompts\[1\]: ' ' is not a text; give a non-empty string"),
        ({"prompts": ["good", 3]}, r"prompts\[1\]: 3 is not a text; give a non-empty string"),
        ({"multipliers": ()}, "multipliers: the list is empty; give at least one"),
        ({"multipliers": (1, 1.0)}, r"multipliers: \[1.0, 1.0\] lists one twice; list each once"),
        ({"multipliers": (0, float("nan"))}, "multiplier: nan is not a finite number; give one such as"),
        ({"prompts": CONVERSATION}, r"prompts: a single conversation; give a list of conversations, \[\[\.\.\.\]\]"),
        ({"prompts": [CONVERSATION[:2]]}, r"prompts\[0\]\[1\]: the role of the last turn is 'assistant'"),
        ({"vector": None, "multipliers": None}, r"layers: only a vector needs it; .*Leave it out, or give a vector"),
        ({"vector": None, "layer": None}, "multipliers: only a vector needs it"),
        ({"vector": None, "layer": None, "steering": UP}, "multipliers: only a vector needs it"),
        ({**NO_VECTOR, "steering": UP, "operator": caa.ablate}, "operator: only a vector needs it"),
        ({**NO_VECTOR, "steering": UP, "positions": [1, 2]}, "positions: only a vector needs it"),
        (
            {**NO_VECTOR, "steering": {1: UP, "1": 2 * UP * 0.5}},
            r"vector: 2 conditions look alike in a table, vector 1",
        ),
        ({"layer": None}, r"layer: SteeringVector\(.*\) needs one. Give one of its layers"),
        ({"steering": UP}, "steering and vector: both are given. Give conditions in steering, or the short form"),
        ({"vector": {"a": VECTOR}}, "vector: dict; it must be one SteeringVector"),
        ({**NO_VECTOR, "steering": VECTOR.values}, "vector: Tensor; give a SteeringVector"),
        ({**NO_VECTOR, "steering": VECTOR}, r"layer: SteeringVector\(.*\) needs one. Give one of its layers"),
        ({**NO_VECTOR, "steering": {"a": VECTOR}}, r"layer: SteeringVector\(.*\) needs one. Give one of its layers"),
        ({"layer": [1, 2]}, r"layer: \[1, 2\]; give one layer as an int, such as 3. For several, give a list of"),
        ({**NO_VECTOR, "steering": []}, "vector: it is empty; give at least one vector or condition"),
        ({"layer": 4}, r"layer 4: the vector has layers 0 to 3 .*Choose one of these"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0; it must be a whole number of at least 1"),
        (
            {"max_new_tokens": 250},
            r"prompts\[0\]: \d+ tokens and 250 new ones do not fit .*context of 256.*lower max",
        ),
        ({"temperature": -1.0}, r"temperature: -1.0; it must be 0 \(greedy\) or at least"),
        ({"temperature": float("nan")}, "temperature: nan; it must be 0"),
        ({"temperature": 1e-40}, "temperature: 1e-40; it must be 0 .* or at least 1e-06"),
        ({"temperature": "1"}, "temperature: '1'; it must be 0"),
        ({"temperature": None}, "temperature: None; it must be 0"),
        ({"temperature": 1, "top_p": "1"}, "top_p: '1'; it must be above 0 and at most 1"),
        ({"temperature": 1, "seed": None}, "seed: None; it must be a whole number of at least 0"),
        ({"seed": "x"}, "seed: 'x'; it must be a whole number"),
        ({"prompts": None}, "prompts: None; give a non-empty list of texts"),
        ({"prompts": (text for text in ["good"])}, "prompts: <generator .*; give a non-empty list of texts"),
        ({"prompts": {"a": "good"}}, r"prompts: \{'a': 'good'\}; give a non-empty list"),
        ({"prompts": pd.Series(["good"], index=[5])}, "(?s)prompts: 5 .*; give a non-empty list of texts"),
        ({"prompts": ["good", "\ud800"]}, r"prompts\[1\]: it holds half a character"),
        ({"prompt_format": "base"}, "prompt_format: 'base'; give one such as PromptFormat.of"),
        ({"n": 2}, "temperature: it is 0, so every sample would be the same. Give one above 0, such as 0.7"),
        ({"top_p": 0.9}, "temperature: it is 0, so every sample would be the same"),
        ({"n": 0}, "n: 0; it must be a whole number of at least 1"),
        ({"n": 1.5, "temperature": 1.0}, "n: 1.5; it must be a whole number"),
        ({"top_p": 0.0, "temperature": 1.0}, "top_p: 0.0; it must be above 0 and at most 1"),
        ({"top_p": 1.5, "temperature": 1.0}, "top_p: 1.5; it must be above 0 and at most 1"),
    ],
)
def test_what_generate_refuses(tiny_llama, options, said):
    options = {"prompts": ["good"], "vector": VECTOR, "layer": 1, "multipliers": (1,), **options}
    with pytest.raises(caa.InputError, match=said):
        caa.generate(tiny_llama, **options)


@pytest.mark.parametrize("number", [int, np.float32, np.float64])
def test_a_temperature_is_any_number(tiny_llama, number):
    options = {"max_new_tokens": 4, "progress": False}
    one = caa.generate(tiny_llama, QUESTIONS[:1], temperature=number(1), top_p=number(1), **options)
    assert one.equals(caa.generate(tiny_llama, QUESTIONS[:1], temperature=1.0, **options))


def test_threads_take_turns(tiny_llama):
    """Hooks belong to the model: two threads at once would steer each other's answers."""
    steering = [caa.Intervention(VECTOR, 1, 2.0), caa.Intervention(VECTOR, 2, -2.0), None]

    def answer(one):
        return samples(tiny_llama, QUESTIONS, [one], n=1, max_new_tokens=20)

    unfinished = stream_answer(tiny_llama, QUESTIONS[0], **STREAM)
    next(unfinished)
    expected = [answer(one) for one in steering]
    with caa.steer(tiny_llama, 0 * UP), ThreadPoolExecutor(len(steering)) as threads:
        assert list(threads.map(answer, steering, timeout=200)) == expected


def test_positions_that_no_answer_reaches_say_so(tiny_llama):
    beyond = caa.Intervention(VECTOR, 1, positions=[200])
    with pytest.warns(UserWarning, match=r"positions: \(200,\): nothing is steered: the model reads at most \d+"):
        caa.generate(tiny_llama, QUESTIONS[:1], steering=[beyond], max_new_tokens=2, progress=False)
    with pytest.warns(UserWarning, match=r"positions: \(200,\): nothing is steered"):
        stream_answer(tiny_llama, QUESTIONS[0], beyond, max_new_tokens=2)


STREAM = {"steering": UP, "max_new_tokens": 12}


def times(multiplier):
    return {"steering": caa.Intervention(VECTOR, 1, multiplier)}


@pytest.mark.parametrize("multiplier", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("item", [0, 1, 2])
def test_a_streamed_answer_is_the_generated_one_token_by_token(tiny_llama, answers, item, multiplier):
    streamed = list(stream_answer(tiny_llama, QUESTIONS[item], **STREAM | times(multiplier)))
    row, last = answers.loc[(item, multiplier)], streamed[-1]
    assert (last.text, len(last.tokens), last.finished) == (row["answer"], row["n_tokens"], row["finished"])
    assert [len(answer.tokens) for answer in streamed[:-1]] == list(range(1, row["n_tokens"] + 1))
    assert all(answer.tokens == last.tokens[: len(answer.tokens)] for answer in streamed)
    assert not any(answer.finished for answer in streamed[:-1])


def test_a_stream_is_steered_by_the_contexts_in_which_it_was_made(tiny_llama):
    with caa.steer(tiny_llama, UP):
        made_inside = stream_answer(tiny_llama, QUESTIONS[0], max_new_tokens=12)
    made_outside = stream_answer(tiny_llama, QUESTIONS[0], **STREAM)
    with caa.steer(tiny_llama, caa.Intervention(OTHER, 2, -3.0)):
        next(stream_answer(tiny_llama, QUESTIONS[0], max_new_tokens=1))
        assert list(made_inside) == list(made_outside)


def test_a_streamed_answer_holds_the_thinking(thinker, monkeypatch):
    model, _ = thinker
    begin_with(monkeypatch, model.tokenizer("<think> I</think> I", add_special_tokens=False)["input_ids"])
    row = caa.generate(model, ["Is it?"], max_new_tokens=6, progress=False).iloc[0]
    *_, last = stream_answer(model, "Is it?", max_new_tokens=6)
    assert row["thinking"]
    assert row["answer"]
    assert "".join(last.text.split()) == "".join((row["thinking"] + row["answer"]).split())


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
    monkeypatch.setattr(writing.Writing, "_choose", lambda *_: [next(coming)])
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
    streams = [stream_answer(tiny_llama, QUESTIONS[0], **STREAM | times(m)) for m in (-2.0, 0.0, 2.0)]
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
        ({"steering": VECTOR}, r"vector: SteeringVector\(.*\) stands in a list or .*caa.Intervention\(vector, layer"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0; it must be a whole number of at least 1"),
        ({"max_new_tokens": 250}, r"prompt: \d+ tokens and 250 new ones do not fit .*context of 256.*lower max"),
        ({"steering": [UP, caa.Intervention(caa.SteeringVector(torch.ones(1, 8), (1,)), 1)]}, "vector: its width is 8"),
    ],
)
def test_what_a_stream_refuses_before_its_first_token(tiny_llama, options, said):
    with pytest.raises(caa.InputError, match=said):
        stream_answer(tiny_llama, **{"prompt": "good", **STREAM, **options})


def test_answers_that_cannot_be_computed_are_an_error_and_not_an_empty_text(tiny_llama_64):
    # Without `stay_double` Hugging Face's float64 mask overflows where a row is padded and attention is not fused.
    prompts = ["Is it good?", "What do you think of the weather today?"]
    with (
        tiny_llama_64.hooks(fwd_hooks=[("blocks.0.mlp.hook_out", lambda values, hook: None)]),
        pytest.raises(caa.errors.ModelError, match="give one prompt at a time, or load it in float32"),
    ):
        caa.generate(tiny_llama_64, prompts, max_new_tokens=3)
    alone = [caa.generate(tiny_llama_64, [prompt], max_new_tokens=3)["answer"].item() for prompt in prompts]
    assert caa.generate(tiny_llama_64, prompts, max_new_tokens=3)["answer"].tolist() == alone


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "n": 2}], ids=["greedy", "sampled"])
def test_an_answer_that_overflows_is_named(tiny_folder, sampling):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16", progress=False)
    far = caa.Intervention(VECTOR, 1, 1e6)
    options = {"max_new_tokens": 3, "progress": False, **sampling}
    with pytest.raises(
        caa.errors.ModelError, match=r"^prompts\[0\], Intervention\(1e\+06 of .*, layer 1, .*not a number"
    ):
        caa.generate(model, QUESTIONS[:2], steering=[None, far], **options)


def test_a_stream_that_overflows_is_named(tiny_folder):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16", progress=False)
    with pytest.raises(caa.errors.ModelError, match=r"^prompt, Intervention\(1e\+06 of .*, layer 1, .*not a number"):
        list(stream_answer(model, QUESTIONS[0], caa.Intervention(VECTOR, 1, 1e6), max_new_tokens=3))


def test_answers_are_the_same_with_a_bridges_wrappers_and_without(tiny_llama):
    """A hook of the user's keeps them in place, and is called."""
    options = {"vector": VECTOR, "layer": 1, "multipliers": (-2.0, 0.0, 2.0), "max_new_tokens": 12, "progress": False}
    expected, called = caa.generate(tiny_llama, QUESTIONS, **options), []
    with tiny_llama.hooks(fwd_hooks=[("blocks.0.mlp.hook_out", lambda values, hook: called.append(hook.name))]):
        found = caa.generate(tiny_llama, QUESTIONS, **options)
    assert called
    pd.testing.assert_frame_equal(found, expected)


def test_an_interrupt_between_tokens_leaves_no_hooks(tiny_llama, monkeypatch):
    class Bar:
        def update(self):
            raise KeyboardInterrupt

    tokens = torch.tensor([[0, 5, 9, 12]])
    expected = tiny_llama(tokens)
    monkeypatch.setattr(writing, "counting", lambda *_, **__: contextlib.nullcontext(Bar()))
    with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last error
        caa.generate(tiny_llama, QUESTIONS, vector=VECTOR, layer=1, max_new_tokens=5)
    assert torch.equal(tiny_llama(tokens), expected)
    assert kept.traceback
