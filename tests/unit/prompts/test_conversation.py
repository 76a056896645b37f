"""Conversations are put in each style to the letter and to the token; what is not one is told by its turn."""

import pytest

import caa_interp as caa
from caa_interp.prompts.format import PromptFormat
from tests.tiny_models import small_tokenizer
from tests.unit.prompts.test_prompts import CHAT, form

THREE = [
    {"role": "user", "content": " Hello.\n"},
    {"role": "assistant", "content": "Good day. "},
    {"role": "user", "content": "Is it good?"},
    {"role": "assistant", "content": "It is."},
    {"role": "user", "content": "Why?"},
]
SYSTEM = {"role": "system", "content": "Be good."}
STYLES = ["llama-2-chat", "base", "chat-template"]


def put(style, **keywords):
    return form(style, template=CHAT if style == "chat-template" else None, **keywords)


@pytest.mark.parametrize(
    ("style", "system", "expected"),
    [
        (
            "llama-2-chat",
            None,
            "[INST] Hello. [/INST] Good day. </s><s>[INST] Is it good? [/INST] It is. </s><s>[INST] Why? [/INST] (A)",
        ),
        (
            "llama-2-chat",
            "Be good.",
            "[INST] <<SYS>>\nBe good.\n<</SYS>>\n\nHello. [/INST] Good day. </s>"
            "<s>[INST] Is it good? [/INST] It is. </s><s>[INST] Why? [/INST] (A)",
        ),
        (
            "base",
            None,
            "Input: Hello.\nResponse: Good day.\n\nInput: Is it good?\nResponse: It is.\n\nInput: Why?\nResponse: (A)",
        ),
        (
            "base",
            "Be good.",
            "Be good.\n\nInput: Hello.\nResponse: Good day.\n\nInput: Is it good?\nResponse: It is.\n\n"
            "Input: Why?\nResponse: (A)",
        ),
        (
            "chat-template",
            "Be good.",
            "<s><|system|>Be good.\n<|user|>Hello.\n<|assistant|>Good day.\n<|user|>Is it good?\n<|assistant|>It is.\n"
            "<|user|>Why?\n<|assistant|>(A)",
        ),
    ],
)
def test_three_turns_to_the_letter(style, system, expected):
    assert put(style).text(THREE, "(A)", system) == expected


def test_llama_2_begins_a_sequence_with_every_turn_of_the_user_as_metas_code_does():
    prompt = put("llama-2-chat")
    tokenizer = prompt.tokenizer
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    expected = []
    for text in ("[INST] Hello. [/INST] Good day. ", "[INST] Is it good? [/INST] It is. "):
        expected += [bos, *tokenizer(text, add_special_tokens=False)["input_ids"], eos]
    expected += [bos, *tokenizer("[INST] Why? [/INST]", add_special_tokens=False)["input_ids"]]
    found = prompt.tokens(THREE)
    assert found.tokens == tuple(expected)
    assert found.start == len(expected) - 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("system", [None, "Be good."])
def test_tokens_are_those_of_the_text_and_steering_starts_at_the_prompts_last(style, system):
    prompt = put(style)
    asked, whole = prompt.tokens(THREE, "", system), prompt.tokens(THREE, "(A)", system)
    assert prompt.tokenizer.decode(whole.tokens).removeprefix("<s>") == prompt.text(THREE, "(A)", system).removeprefix(
        "<s>"
    )
    assert whole.tokens[: whole.start + 1] == asked.tokens
    assert whole.start == asked.start == len(asked.tokens) - 1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("turns", [THREE[:1], THREE])
def test_a_system_message_is_a_system_prompt_and_one_turn_is_a_text(style, turns):
    prompt = put(style)
    assert prompt.tokens([SYSTEM, *turns], "(A)") == prompt.tokens(turns, "(A)", "Be good.")
    assert prompt.tokens(tuple(turns[:1])) == prompt.tokens(turns[0]["content"])


def user(content="Hello."):
    return {"role": "user", "content": content}


def assistant(content="Good day."):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("conversation", "said"),
    [
        ([], r"prompts\[1\]: \[\] is not a text; give a non-empty string, or a conversation"),
        (user(), r"prompts\[1\]: .* is not a text; give a non-empty string, or a conversation"),
        (["Hello."], r"prompts\[1\]\[0\]: the turn 'Hello.' must have the keys 'role' and 'content'"),
        ([{"role": "user"}], r"prompts\[1\]\[0\]: the turn .* must have the keys 'role' and 'content'"),
        ([{**user(), "name": "x"}], r"prompts\[1\]\[0\]: .* 'role' and 'content', and no other"),
        ([{"role": "bot", "content": "Hi."}], r"prompts\[1\]\[0\]: .* 'bot', which is not one of system, user"),
        ([{"role": ["user"], "content": "Hi."}], r"prompts\[1\]\[0\]: .* \['user'\], which is not one of"),
        ([user(" ")], r"prompts\[1\]\[0\]: the content of this turn is ' '; give a non-empty string"),
        ([user(), assistant(""), user()], r"prompts\[1\]\[1\]: the content of this turn is ''"),
        ([user(7)], r"prompts\[1\]\[0\]: the content of this turn is 7"),
        ([user([{"type": "text", "text": "Hi."}])], r"prompts\[1\]\[0\]: the content of this turn is \["),
        ([user(), user()], r"prompts\[1\]\[1\]: the role of this turn is 'user', but it must be 'assistant'"),
        ([assistant(), user()], r"prompts\[1\]\[0\]: the role of this turn is 'assistant', but it must be 'user'"),
        ([SYSTEM, assistant()], r"prompts\[1\]\[1\]: .* 'assistant', but it must be 'user'"),
        ([user(), SYSTEM], r"prompts\[1\]\[1\]: .* 'system', but it must be 'assistant'"),
        ([user(), assistant()], r"prompts\[1\]\[1\]: the role of the last turn is 'assistant', but a prompt ends with"),
        ([SYSTEM], r"prompts\[1\]\[0\]: the role of the last turn is 'system'"),
    ],
)
@pytest.mark.parametrize("style", STYLES)
def test_what_is_no_conversation(style, conversation, said):
    with pytest.raises(caa.InputError, match=said):
        put(style).tokens(conversation, what="prompts[1]")


def test_two_system_prompts_and_one_that_is_no_text():
    with pytest.raises(caa.InputError, match=r"prompt\[0\]: this turn is a system prompt, and system_prompt is one"):
        put("base").text([SYSTEM, user()], system_prompt="Be kind.")
    with pytest.raises(caa.InputError, match="system_prompt: 3 is not a text"):
        put("base").text("Why?", system_prompt=3)


def test_a_conversation_that_is_too_long():
    n = len(put("llama-2-chat").tokens(THREE).tokens)
    assert put("llama-2-chat", n_ctx=n).tokens(THREE).start == n - 1
    with pytest.raises(caa.InputError, match=f"prompt: {n} tokens, but the model's context holds {n - 1}"):
        put("llama-2-chat", n_ctx=n - 1).tokens(THREE)


def test_a_template_that_refuses_a_conversation():
    tokenizer = small_tokenizer()
    tokenizer.chat_template = "{% if messages|length > 1 %}{{ raise_exception('One turn only') }}{% endif %}ok"
    with pytest.raises(caa.InputError, match=r"prompt: the chat template of this model refuses it \(One turn only\)"):
        PromptFormat(tokenizer, "chat-template", 256).text(THREE)
