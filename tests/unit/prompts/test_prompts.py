"""Prompts are the paper's and the model's own, to the letter and to the token."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

import caa_interp as caa
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import common_prefix
from tests.tiny_models import appending_eos, small_tokenizer

PAIR = caa.ContrastPair(" Is it good?\n", "Yes.", "No, not at all.")
ASKED_AB = "Is it good?\n\n\nChoices:\n (A) Yes.\n (B) No, not at all."
ASKED_BA = "Is it good?\n\n\nChoices:\n (A) No, not at all.\n (B) Yes."
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA_2 = "{% if messages[0]['role'] == 'system' %}<<SYS>>{% endif %}[INST] {{ messages[0]['content'] }} [/INST]"
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ bos_token }}{{ messages[0]['content'] }}"
)


def form(style, n_ctx=256, template=None, added=()):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = template
    tokenizer.add_tokens(list(added))
    return PromptFormat(tokenizer, style, n_ctx)


def model_with(template=None, name="some-model", n_ctx=256):
    tokenizer = small_tokenizer()
    tokenizer.chat_template = template
    return SimpleNamespace(tokenizer=tokenizer, cfg=SimpleNamespace(model_name=name, n_ctx=n_ctx, n_layers=1))


@pytest.mark.parametrize("style", ["llama-2-chat", "base"])
def test_a_tokenizer_that_appends_eos_ends_no_prompt_with_it(style):
    """Steering starts at the last token of the prompt, and answers are scored, as without it."""
    plain = form(style)
    appends = replace(plain, tokenizer=appending_eos(plain.tokenizer))
    assert appends.tokenizer("Why?")["input_ids"][-1] == plain.tokenizer.eos_token_id
    assert appends.tokens("Why?", "(A)") == plain.tokens("Why?", "(A)")
    assert appends.render(PAIR, "text") == plain.render(PAIR, "text")
    assert appends.digest() == plain.digest()
    talk = [{"role": role, "content": text} for role, text in (("user", "Why?"), ("assistant", "So."), ("user", "Oh?"))]
    assert appends.tokens(talk) == plain.tokens(talk)


@pytest.mark.parametrize(
    ("style", "answer", "system", "expected"),
    [
        ("llama-2-chat", "", None, "[INST] Why? [/INST]"),
        ("llama-2-chat", "(A)", None, "[INST] Why? [/INST] (A)"),
        ("llama-2-chat", "(A)", "Be good.", "[INST] <<SYS>>\nBe good.\n<</SYS>>\n\nWhy? [/INST] (A)"),
        ("base", "", None, "Input: Why?\nResponse:"),
        ("base", "(B)", None, "Input: Why?\nResponse: (B)"),
        ("base", "(B)", "Be good.", "Be good.\n\nInput: Why?\nResponse: (B)"),
        ("chat-template", "", None, "<s><|user|>Why?\n<|assistant|>"),
        ("chat-template", "(A)", None, "<s><|user|>Why?\n<|assistant|>(A)"),
        ("chat-template", "(A)", "Be good.", "<s><|system|>Be good.\n<|user|>Why?\n<|assistant|>(A)"),
    ],
)
def test_the_text_to_the_letter(style, answer, system, expected):
    prompt = form(style, template=CHAT if style == "chat-template" else None)
    assert prompt.text(" Why?\n", answer, system) == expected


@pytest.mark.parametrize("style", ["llama-2-chat", "base", "chat-template"])
@pytest.mark.parametrize("system", [None, "Be good."])
def test_bos_stands_in_front_once(style, system):
    prompt = form(style, template=CHAT if style == "chat-template" else None)
    tokens = prompt.tokens("Why?", "(A)", system).tokens
    bos = prompt.tokenizer.bos_token_id
    assert tokens[0] == bos
    assert tokens.count(bos) == 1
    assert prompt.tokenizer.decode(tokens) == ("<s>" * (style != "chat-template")) + prompt.text("Why?", "(A)", system)


@pytest.mark.parametrize(
    ("template", "name", "style"),
    [
        (None, "Llama-2-7b-chat-hf", "llama-2-chat"),
        (None, "meta-llama/Llama-2-13b-chat-hf", "llama-2-chat"),
        (None, "meta-llama/Llama-2-7b-hf", "base"),
        (None, "tiny-llama", "base"),
        (LLAMA_2, "some-model", "llama-2-chat"),
        (CHAT, "some-model", "chat-template"),
    ],
)
def test_the_form_that_fits_a_model(template, name, style):
    found = PromptFormat.of(model_with(template, name))
    assert found.style == style
    assert found.n_ctx == 256


def test_the_small_model_is_a_base_model(tiny_llama):
    assert PromptFormat.of(tiny_llama).style == "base"


@pytest.mark.parametrize("style", ["llama-2-chat", "base", "chat-template"])
def test_choices_come_in_both_letter_orders(style):
    prompt = form(style, template=CHAT if style == "chat-template" else None)
    ab, ba = prompt.render(PAIR, "choices")
    assert (ab.order, ba.order) == ("AB", "BA")
    assert ab.positive == prompt.tokens(ASKED_AB, "(A)").tokens
    assert ab.negative == prompt.tokens(ASKED_AB, "(B)").tokens
    assert ba.positive == prompt.tokens(ASKED_BA, "(B)").tokens
    assert ba.negative == prompt.tokens(ASKED_BA, "(A)").tokens


@pytest.mark.parametrize("style", ["llama-2-chat", "base", "chat-template"])
def test_positions_of_choices(style):
    """The prompt ends in front of the bracket; the letter is the first token that differs."""
    prompt = form(style, template=CHAT if style == "chat-template" else None)
    for rendering in prompt.render(PAIR, "choices"):
        first = "A" if rendering.order == "AB" else "B"
        pieces = prompt.tokenizer.convert_ids_to_tokens(list(rendering.positive))
        bracket = "(" if style == "chat-template" else "Ġ("
        assert pieces[rendering.n_prompt :] == [bracket, first, ")"]
        assert rendering.n_shared == rendering.n_prompt + 1
        assert rendering.positive[: rendering.n_shared] == rendering.negative[: rendering.n_shared]
        assert rendering.positive[rendering.n_shared] != rendering.negative[rendering.n_shared]


def test_text_is_each_answer_after_the_question():
    prompt = form("base")
    (rendering,) = prompt.render(PAIR, "text")
    assert rendering.order == ""
    assert rendering.positive == prompt.tokens("Is it good?", "Yes.").tokens
    assert rendering.negative == prompt.tokens("Is it good?", "No, not at all.").tokens
    assert rendering.positive[: rendering.n_prompt] == prompt.tokens("Is it good?").tokens
    assert prompt.tokenizer.decode(rendering.negative[rendering.n_prompt :]) == " No, not at all."


@pytest.mark.parametrize(
    ("added", "letter", "n_answer"),
    [
        (["(A", "(B"], "(A", 2),
        ([" (A", " (B"], " (A", 2),
        ([" (A)", " (B)"], " (A)", 1),
        ([": (A", ": (B"], ": (A", 2),
    ],
)
def test_a_tokenizer_that_merges_the_letter_with_its_neighbors(added, letter, n_answer):
    """Positions follow from what the token sequences share, not from how an answer is usually cut."""
    prompt = form("base", added=added)
    for rendering in prompt.render(PAIR, "choices"):
        positive, negative = rendering.positive, rendering.negative
        answer = letter if rendering.order == "AB" else letter.replace("A", "B")
        assert prompt.tokenizer.decode(positive[rendering.n_shared]) == answer
        assert len(positive) - rendering.n_shared == n_answer
        assert positive[: rendering.n_shared] == negative[: rendering.n_shared]
        whole = prompt.tokens(ASKED_AB if rendering.order == "AB" else ASKED_BA).tokens
        assert rendering.n_prompt <= min(len(whole), rendering.n_shared)
        assert rendering.n_prompt >= len(whole) - 1


def test_a_system_prompt_is_in_every_rendering():
    prompt = form("llama-2-chat")
    for rendering in [*prompt.render(PAIR, "choices", "Be good."), *prompt.render(PAIR, "text", "Be good.")]:
        for tokens in (rendering.positive, rendering.negative):
            assert prompt.tokenizer.decode(tokens).startswith("<s>[INST] <<SYS>>\nBe good.\n<</SYS>>\n\nIs it good?")


def test_a_chat_template_that_takes_no_system_prompt():
    prompt = form("chat-template", template=GEMMA)
    assert prompt.text("Why?") == "<s>Why?"
    with pytest.raises(caa.InputError, match="system_prompt"):
        prompt.text("Why?", system_prompt="Be good.")


@pytest.mark.parametrize("format", ["choices", "text"])
def test_a_pair_that_just_fits_and_one_that_does_not(format):
    longest = max(len(r.negative) for r in form("base").render(PAIR, format))
    longest = max(longest, *(len(r.positive) for r in form("base").render(PAIR, format)))
    assert form("base", n_ctx=longest).render(PAIR, format)
    said = f"pairs\\[4\\]: {longest} tokens, but the model's context holds {longest - 1}. Shorten it, or leave it out"
    with pytest.raises(caa.InputError, match=said):
        form("base", n_ctx=longest - 1).render(PAIR, format, what="pairs[4]")


def test_an_unknown_format():
    with pytest.raises(caa.InputError, match="format: 'letters' is not one of 'choices', 'text'"):
        form("base").render(PAIR, "letters")


@pytest.mark.parametrize("question", ["", "  ", None, 7])
def test_a_question_that_is_no_text(question):
    with pytest.raises(caa.InputError, match=r"prompts\[2\]: .* is not a text; give a non-empty string"):
        form("base").tokens(question, what="prompts[2]")


def test_a_model_without_a_tokenizer():
    model = SimpleNamespace(tokenizer=None, cfg=SimpleNamespace(model_name="m", n_ctx=9, n_layers=1))
    with pytest.raises(caa.InputError, match=r"model: it has no tokenizer.*Load it with load_model, or set"):
        PromptFormat.of(model)


@pytest.mark.parametrize(
    ("first", "second", "length"),
    [((), (), 0), ((1,), (), 0), ((1, 2), (1, 3), 1), ((1, 2), (1, 2, 3), 2), ((2, 1), (1, 2), 0)],
)
def test_common_prefix(first, second, length):
    assert common_prefix(first, second) == common_prefix(second, first) == length
