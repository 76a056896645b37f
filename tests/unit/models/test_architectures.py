"""Small random models of many architectures against plain one-sequence passes, with the path that was taken."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

import caa_interp as caa
from caa_interp.errors import InputError, ModelError
from caa_interp.prompts.format import PromptFormat
from tests.oracles import definition
from tests.tiny_models import LONG_ROPE, PLAIN, REFUSED, TREE, WINDOW, save_tiny

# The rest is run by `make test-slow`.
QUICK = (
    "llama",
    "qwen 3 moe",
    "gemma 2",
    "gemma 3",
    "mistral with a window",
    "gpt-oss",
    "llama 4",
    "gpt-2",
    "gemma 3 with images",
)
QUICK_PLAIN = ("gpt-neo", "mamba 2", "qwen 3 next")
PAIRS = [
    caa.ContrastPair("So?", "Yes.", "No, I do not.", id="short"),
    caa.ContrastPair(
        "What do you think of the weather today, of the garden, and of the text about rain? Is it good?",
        "I like it very much, the day is bright and the sea is good.",
        "I do not like it.",
        id="long",
    ),
]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK + QUICK_PLAIN else pytest.mark.slow) for name in (*TREE, *PLAIN)
    ],
)
def loaded(request, tmp_path_factory):
    """(model, the same as a plain Hugging Face model, the path that it must take)."""
    folder = save_tiny(tmp_path_factory.mktemp("architectures") / "model", request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return caa.load_model(folder, device="cpu"), plain, "tree" if request.param in TREE else "plain"


@pytest.fixture(scope="module")
def vector():
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(3))
    return caa.SteeringVector(values, (0, 1, 2, 3), {"behavior": "any"})


def test_prompts_are_shorter_and_longer_than_the_window(loaded):
    lengths = [len(PromptFormat.of(loaded[0]).tokens(pair.question).tokens) for pair in PAIRS]
    assert lengths[0] < WINDOW < 2 * WINDOW < lengths[1]


@pytest.mark.parametrize("format", ["choices", "text"])
def test_vectors(loaded, format):
    model, plain, _ = loaded
    expected = definition.steering_vectors(plain, model.tokenizer, PAIRS, format)
    found = caa.extract_vector(model, PAIRS, format=format).values
    # Where the two letters hardly differ, rounding of the activations is all there is.
    assert bool(((found - expected).norm(dim=1) < 1e-4 * expected.norm(dim=1) + 1e-6).all())


@pytest.mark.parametrize("format", ["choices", "text"])
def test_steered_scores_and_the_path(loaded, vector, format):
    model, plain, path = loaded
    table = caa.sweep(model, vector, PAIRS, format=format, layers=[0, 2, 3], multipliers=(-1.0, 0.0, 1.0))
    assert set(table["path"]) == {path}
    moved = table.groupby(["layer", "multiplier"])["log_p_positive"].mean()
    assert moved[0, -1.0] != pytest.approx(moved[0, 1.0], abs=1e-3)
    for (item, layer, multiplier), rows in table.groupby(["item", "layer", "multiplier"]):
        addition = multiplier * vector.at(layer)
        expected = definition.scores(plain, model.tokenizer, PAIRS[item], format, layer, addition)
        assert rows[["log_p_positive", "log_p_negative"]].to_numpy().tolist() == [
            pytest.approx(order, abs=1e-4) for order in expected
        ]


def test_greedy_answers(loaded, vector):
    model, plain, _ = loaded
    questions = [pair.question for pair in PAIRS]
    table = caa.generate(model, questions, vector=vector, layer=1, multipliers=(0.0, 2.0), max_new_tokens=8)
    form = PromptFormat.of(model)
    for (question, multiplier), rows in table.groupby(["prompt", "multiplier"]):
        prompt = form.tokens(question).tokens
        tokens = definition.greedy(plain, prompt, 1, multiplier * vector.at(1), 8, form.end_ids)
        assert rows["answer"].item() == model.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_a_context_steers_token_by_token(loaded):
    """A cache that forgets what lies outside a sliding window does not say how many tokens came before."""
    model, plain, _ = loaded
    if type(plain).__name__ == "BambaForCausalLM":
        pytest.skip("with its cache, Hugging Face's Bamba writes something else than without, steered or not")
    vector = caa.SteeringVector(8 * torch.randn(4, 64, generator=torch.Generator().manual_seed(2)), (0, 1, 2, 3))
    *_, expected = caa.steering.stream_answer(
        model, "Is the weather good?", caa.Intervention(vector, 1), max_new_tokens=8
    )
    prompt = torch.tensor([PromptFormat.of(model).tokens("Is the weather good?").tokens])
    options = {"max_new_tokens": 8, "do_sample": False, "stop_at_eos": False, "verbose": False}
    length = None
    if type(plain).__name__ in ("RwkvForCausalLM", "RecurrentGemmaForCausalLM"):
        # TransformerLens gives these the whole text for every token, and where its prompt ended has to be said.
        with pytest.raises(InputError, match="prompt_length"), caa.steer(model, vector, 1):
            model.generate(prompt, **options)
        length = prompt.shape[1]
    with caa.steer(model, vector, 1, prompt_length=length):
        found = model.generate(prompt, **options)
    assert found[0, prompt.shape[1] :].tolist()[: len(expected.tokens)] == list(expected.tokens)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize(
    "ask",
    [
        lambda model, vector: caa.extract_vector(model, PAIRS, format="text"),
        lambda model, vector: caa.sweep(model, vector, PAIRS),
        lambda model, vector: caa.generate(model, ["So?"], vector=vector, layer=1),
        lambda model, vector: caa.steer(model, vector, 1).__enter__(),
    ],
)
def test_a_model_without_a_stream_is_refused_by_name(name, ask, vector, tmp_path):
    model = caa.load_model(save_tiny(tmp_path / "model", name), device="cpu")
    with pytest.raises(ModelError, match="does not show the residual stream"):
        ask(model, vector)


def test_a_batch_changes_nothing_where_length_turns_every_position(vector, tmp_path):
    """Scores and answers of short and long prompts, together, with an answer that grows past the boundary."""
    (name,) = LONG_ROPE
    folder = save_tiny(tmp_path / "model", name)
    model = caa.load_model(folder, device="cpu")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    pairs = [*PAIRS, replace(PAIRS[1], question="What do you think of the weather today?", id="middle")]
    table = caa.sweep(model, vector, pairs, format="text", layers=[1], multipliers=(0.0, 1.0))
    for (item, multiplier), rows in table.groupby(["item", "multiplier"]):
        expected = definition.scores(plain, model.tokenizer, pairs[item], "text", 1, multiplier * vector.at(1))
        assert rows[["log_p_positive", "log_p_negative"]].to_numpy().tolist() == [pytest.approx(expected[0], abs=1e-4)]
    form, questions = PromptFormat.of(model), [pair.question for pair in pairs]
    prompts = [form.tokens(question).tokens for question in questions]
    assert sorted(len(prompt) > 2 * WINDOW for prompt in prompts) == [False, False, True]
    answers = caa.generate(model, questions, vector=vector, layer=1, multipliers=(0.0, 2.0), max_new_tokens=16)
    for (question, multiplier), rows in answers.groupby(["prompt", "multiplier"]):
        prompt = prompts[questions.index(question)]
        tokens = definition.greedy(plain, prompt, 1, multiplier * vector.at(1), 16, form.end_ids)
        assert rows["answer"].item() == model.tokenizer.decode(tokens, skip_special_tokens=True).strip()
