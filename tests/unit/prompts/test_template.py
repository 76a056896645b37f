"""What chat templates do: arguments, dates, system prompts, the end of a turn, thinking."""

import hashlib
import json
import warnings
from types import SimpleNamespace

import pytest

import caa_interp as caa
from caa_interp.prompts import check_prompt, split_thinking
from caa_interp.prompts.format import PromptFormat
from tests.tiny_models import small_tokenizer

TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CHATML = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKING = (
    TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENED = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
DATE = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}\nToday: {{ date_string }}\n" + CHATML
)
DATE_IN_A_MACRO = "{%- macro head() %}{{ strftime_now('%Y-%m-%d') }}{%- endmacro %}{{ head() }}" + CHATML
DATE_BESIDE_A_SYSTEM_PROMPT = (
    "{% if messages[0].role == 'system' %}{{ strftime_now('%Y') }}{% endif %}{{ raise_exception and '' }}" + CHATML
)
NO_DATE = "{% if false %}{{ strftime_now('%Y') }}{% endif %}" + CHATML
DROPS = "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}{% endfor %}"
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %} [INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{% for m in messages %}{{ 'User' if m.role == 'user' else 'Assistant' }}: {{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + CHATML


def model_with(template, name="some-model", ends=None, special=("<|im_start|>", "<|im_end|>"), words=()):
    tokenizer = small_tokenizer()
    tokenizer.add_tokens(list(special), special_tokens=True)
    tokenizer.add_tokens(list(words))
    tokenizer.chat_template = template
    config = SimpleNamespace(eos_token_id=ends)
    return SimpleNamespace(
        tokenizer=tokenizer, cfg=SimpleNamespace(model_name=name, n_ctx=256, n_layers=1), generation_config=config
    )


def at(monkeypatch, day):
    """Let transformers, and nobody else, take ``day`` for today."""
    now = SimpleNamespace(strftime=lambda form: f"day {day}")
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", SimpleNamespace(now=lambda: now))


def quiet_form(template, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PromptFormat.of(model_with(template), **keywords)


@pytest.mark.parametrize(
    ("template", "does"),
    [(DROPS, "drops it silently"), (REFUSES, r"takes none \(No system role\)")],
)
def test_a_template_that_shows_no_system_prompt_to_the_model(template, does):
    form = PromptFormat.of(model_with(template))
    assert "Why?" in form.text("Why?")
    said = f"system_prompt: the chat template of this model {does}. Leave it out, or put it into the question"
    with pytest.raises(caa.InputError, match=said):
        form.text("Why?", system_prompt="Be good.")
    with pytest.raises(caa.InputError, match=said):
        # The system prompt's words are in the question, too.
        form.tokens([{"role": "system", "content": "Be good."}, {"role": "user", "content": "Be good. Why?"}])
    with pytest.raises(caa.InputError, match=said):
        form.render(caa.ContrastPair("Why?", "Yes.", "No."), system_prompt="Be good.")


def test_arguments_reach_the_template():
    model = model_with(THINKING)
    by_default = PromptFormat.of(model).text("Why?")
    assert by_default == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert PromptFormat.of(model, enable_thinking=True).text("Why?") == by_default
    without = PromptFormat.of(model, enable_thinking=False)
    assert without.text("Why?", "Yes.") == by_default + "<think>\n\n</think>\n\nYes."
    assert without.template_arguments == {"enable_thinking": False}
    (rendering,) = without.render(caa.ContrastPair("Why?", "Yes.", "No."), "text")
    assert rendering.positive == without.tokens("Why?", "Yes.").tokens


@pytest.mark.parametrize(
    ("template", "arguments", "said"),
    [
        (THINKING, {"thinking": True}, "reads no 'thinking'. It reads: 'enable_thinking'"),
        (CHATML, {"enable_thinking": True}, "reads no 'enable_thinking'. It reads: none"),
        ("{% generation %}x{% endgeneration %}", {"a": 1}, "reads no 'a'. It reads: none"),
        ("{{ bos_token }}{% for m in messages %}{% break %}{% endfor %}", {"bos_token": "x"}, "reads no 'bos_token'"),
        (CHATML, {"messages": []}, "'messages' is not yours to set"),
        (CHATML, {"add_generation_prompt": False}, "'add_generation_prompt' is not yours to set"),
        ("{{ tools }}", {"tools": []}, "'tools' is not yours to set"),
        (CHATML, {"tokenize": True}, "'tokenize' is not yours to set"),
        (THINKING, {"enable_thinking": object()}, "'enable_thinking' is <object .*give a text, number"),
        (THINKING, {"enable_thinking": (1, 2)}, r"'enable_thinking' is \(1, 2\), which JSON .*give a text, number"),
        (None, {"enable_thinking": True}, "no chat template reads them in the style 'base'. Leave them out"),
    ],
)
def test_arguments_that_a_template_does_not_read(template, arguments, said):
    with pytest.raises(caa.InputError, match=f"template_arguments: .*{said}"):
        PromptFormat.of(model_with(template), **arguments)


@pytest.mark.parametrize(
    ("template", "prompt", "gap"),
    [
        (MISTRAL, "<s> [INST] Why? [/INST]", " "),
        (DEEPSEEK, "User: Why?\n\nAssistant:", " "),
        (CHATML, "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n", ""),
        (OPENED, "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n<think>\n", ""),
    ],
)
def test_an_answer_stands_where_the_template_puts_the_assistants_turns(template, prompt, gap):
    form = PromptFormat.of(model_with(template))
    assert form.text("Why?") == prompt
    assert form.text("Why?", "So.") == f"{prompt}{gap}So."
    told = [{"role": role, "content": text} for role, text in (("user", "Why?"), ("assistant", "So."), ("user", "Oh?"))]
    if template is not OPENED:  # whose earlier turns have no thoughts
        assert form.text(told).startswith(form.text("Why?", "So."))
    answered = form.tokens("Why?", "So.")
    assert answered.start == form.tokens("Why?").start == len(form.tokens("Why?").tokens) - 1


def test_answers_of_pairs_that_stand_in_thoughts_are_told_once():
    pair = caa.ContrastPair("Why?", "Yes.", "No.")
    form = PromptFormat.of(model_with(OPENED))
    with pytest.warns(UserWarning, match="pair: .* inside the model's thoughts, .*style='base' has no thoughts"):
        form.render(pair, "text")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        form.render(pair, "text")
        PromptFormat.of(model_with(THINKING), enable_thinking=False).render(pair, "text")
        PromptFormat.of(model_with(OPENED), style="base").render(pair, "text")


def test_a_template_that_refuses_a_question_alone_says_nothing_of_its_gap_and_thoughts():
    needs = "{% if messages[0].role != 'system' %}{{ raise_exception('A system message first') }}{% endif %}" + CHATML
    form = PromptFormat.of(model_with(needs))
    pair = caa.ContrastPair("Why?", "Yes.", "No.")
    (rendering,) = form.render(pair, "text", "Be kind.")
    assert rendering.positive == form.tokens("Why?", "Yes.", "Be kind.").tokens
    with pytest.raises(caa.InputError, match="A system message first"):
        form.render(pair, "text")


def test_a_style_that_is_asked_for():
    model = model_with(CHATML)
    assert PromptFormat.of(model).style == "chat-template"
    form = PromptFormat.of(model, style="base")
    assert form.text("Why?") == "Input: Why?\nResponse:"
    assert form.tokens("Why?").tokens[0] == model.tokenizer.bos_token_id
    assert PromptFormat.of(model, style="llama-2-chat").text("Why?") == "[INST] Why? [/INST]"
    with pytest.raises(caa.InputError, match="style: 'chat' is not one of 'llama-2-chat', 'base', 'chat-template'"):
        PromptFormat.of(model, style="chat")
    with pytest.raises(caa.InputError, match="style: 'chat-template', but the tokenizer has no chat template"):
        PromptFormat.of(model_with(None), style="chat-template")


@pytest.mark.parametrize("template", [DATE, DATE_IN_A_MACRO, DATE_BESIDE_A_SYSTEM_PROMPT])
def test_a_template_that_prints_the_date_is_told_once_for_a_tokenizer(template, monkeypatch):
    model = model_with(template)
    advice = r'pass prompt_format=PromptFormat.of\(model, date_string="1 Jan' if template == DATE else "no argument"
    with pytest.warns(UserWarning, match=f"prints today's date, so that prompts and results change .*{advice}"):
        form = PromptFormat.of(model)
    assert form.prints_date
    assert PromptFormat.of(model).prints_date
    system, texts, digests = "Be good.", set(), set()
    for day in (1, 2):
        at(monkeypatch, day)
        texts.add(form.text("Why?", system_prompt=system))
        digests.add((quiet_form(template).digest(), quiet_form(template).digest(system)))
    assert len(texts) == 2
    assert len(digests) == 1


def test_a_pinned_date(monkeypatch):
    form = PromptFormat.of(model_with(DATE), date_string="1 Jan 2025")
    assert not form.prints_date
    assert form.text("Why?").startswith("Today: 1 Jan 2025\n<|im_start|>user")
    assert form.digest() != quiet_form(DATE).digest()
    assert form.digest() != PromptFormat.of(model_with(DATE), date_string="2 Jan 2025").digest()


@pytest.mark.parametrize("template", [None, CHATML, NO_DATE])
def test_a_template_without_a_date(template):
    assert not PromptFormat.of(model_with(template)).prints_date


@pytest.mark.parametrize("template", [CHATML, "\n  {% if true %}\n" + CHATML + "{% endif %}", "\n\nx" + CHATML, None])
def test_the_digest_is_of_a_prompt_as_it_is_put(template):
    form = PromptFormat.of(model_with(template))
    put = list(form.tokens("What do you think of the sea?", system_prompt="Be good.").tokens)
    assert form.digest("Be good.") == hashlib.sha256(json.dumps(put).encode()).hexdigest()


def test_digests_tell_forms_apart():
    model = model_with(THINKING)
    forms = [
        PromptFormat.of(model),
        PromptFormat.of(model, enable_thinking=False),
        PromptFormat.of(model, style="base"),
        PromptFormat.of(model, style="llama-2-chat"),
        PromptFormat.of(model_with(CHATML.replace("user", "human"))),
    ]
    digests = {form.digest(system) for form in forms[:4] for system in (None, "Be good.")}
    assert len(digests) == 8
    assert forms[0].digest() == PromptFormat.of(model, enable_thinking=True).digest() == forms[4].digest()
    assert all(len(digest) == 64 for digest in digests)


@pytest.mark.parametrize(
    ("template", "ends", "expected"),
    [
        (CHATML, None, {"</s>", "<|im_end|>"}),
        (CHATML, "<pad>", {"</s>", "<pad>", "<|im_end|>"}),
        (CHATML, ["<pad>", "</s>"], {"</s>", "<pad>", "<|im_end|>"}),
        (None, None, {"</s>"}),
        (None, "<pad>", {"</s>", "<pad>"}),
        (CHATML.replace("<|im_end|>", " \n<|im_end|>"), None, {"</s>", "<|im_end|>"}),
        (CHATML.replace("<|im_end|>", "{{ eos_token }}"), None, {"</s>"}),
        (CHATML.replace("<|im_end|>", "<|end|>"), None, {"</s>"}),
        (CHATML.replace("<|im_end|>", ""), None, {"</s>"}),
        ("{{ messages[0].content }}", None, {"</s>"}),
        ("{% if messages|length > 1 %}{{ raise_exception('no') }}{% endif %}", None, {"</s>"}),
        (CHATML.replace("<|im_end|>", "<|im_end|>x"), None, {"</s>", "<|im_end|>x"}),
    ],
)
def test_what_ends_an_answer(template, ends, expected):
    model = model_with(
        template, special=["<|im_start|>", "<|im_end|>", *(["<|im_end|>x"] if ">x" in str(template) else [])]
    )
    number = model.tokenizer.convert_tokens_to_ids
    model.generation_config.eos_token_id = ends if ends is None else number(ends)
    found = PromptFormat.of(model).end_ids
    assert found == {number(token) for token in expected}


def test_another_style_ends_without_the_templates_token():
    model = model_with(CHATML)
    assert PromptFormat.of(model, style="base").end_ids == {model.tokenizer.eos_token_id}


@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize(
    ("template", "answer", "thinking", "said"),
    [
        (THINKING, "It is good.<|im_end|>", "", "It is good."),
        (THINKING, "<think>\nIs it?\n</think>\n\nIt is.<|im_end|>", "<think>\nIs it?\n</think>", "It is."),
        (THINKING, "<think>\nIs it", "<think>\nIs it", ""),
        (OPENED, "Is it?\n</think>\nIt is.</s>", "Is it?\n</think>", "It is."),
        (OPENED, "Is it?", "Is it?", ""),
        (OPENED, "Is it?</think>", "Is it?</think>", ""),
        (OPENED, "</think>No</think>yes", "</think>", "No</think>yes"),
        (THINKING, "", "", ""),
    ],
)
def test_thinking_is_split_from_the_answer(template, answer, thinking, said, single):
    model = model_with(template, words=["<think>", "</think>"] if single else [])
    form = PromptFormat.of(model)
    assert form.thinking_end == (model.tokenizer.convert_tokens_to_ids("</think>") if single else None)
    tokens = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    assert split_thinking(form, tokens) == (thinking, said)


def test_a_prompt_that_closes_thinking_has_not_begun_it():
    form = PromptFormat.of(model_with(THINKING), enable_thinking=False)
    assert split_thinking(form, form.tokenizer("It is.", add_special_tokens=False)["input_ids"]) == ("", "It is.")


def metadata_of(form, system_prompt=None):
    return {
        "behavior": "optimism",
        "prompt_style": form.style,
        "template_arguments": dict(form.template_arguments),
        "system_prompt": system_prompt,
        "prompt_digest": form.digest(system_prompt),
    }


@pytest.mark.parametrize("system_prompt", [None, "Be good."])
def test_a_vector_in_the_form_it_was_made_in_says_nothing(system_prompt):
    form = PromptFormat.of(model_with(THINKING))
    check_prompt(metadata_of(form, system_prompt), PromptFormat.of(model_with(THINKING), enable_thinking=True))
    check_prompt({"prompt_style": "base"}, form)


def test_a_vector_in_another_form_than_it_was_made_in_says_so():
    form, model = PromptFormat.of(model_with(THINKING), enable_thinking=False), model_with(THINKING)
    now = PromptFormat.of(model)
    said = (
        f"vector 'optimism': .*'chat-template' .*'enable_thinking': False.*{form.digest()}.*"
        f"'chat-template' with {{}} .*{now.digest()}"
    )
    with pytest.warns(UserWarning, match=said):
        check_prompt(metadata_of(form), now)
    with pytest.warns(UserWarning, match="in the style 'base' with"):
        check_prompt(metadata_of(form), PromptFormat.of(model, style="base"))
    with pytest.warns(UserWarning, match="none: it takes no system prompt"):
        check_prompt(metadata_of(form, "Be good."), PromptFormat.of(model_with(DROPS)))


def test_a_vectors_metadata_tell_how_the_model_was_addressed(tiny_llama, pairs, monkeypatch):
    monkeypatch.setattr(tiny_llama.tokenizer, "chat_template", THINKING)
    forms = {
        "default": None,
        "plain": PromptFormat.of(tiny_llama, enable_thinking=False),
        "base": PromptFormat.of(tiny_llama, style="base"),
    }
    vectors = {
        name: caa.extract_vector(tiny_llama, pairs, format="text", system_prompt="Be good.", prompt_format=form)
        for name, form in forms.items()
    }
    for name, vector in vectors.items():
        form = forms[name] or PromptFormat.of(tiny_llama)
        assert vector.metadata["prompt_style"] == form.style
        assert vector.metadata["template_arguments"] == form.template_arguments
        assert vector.metadata["prompt_digest"] == form.digest("Be good.")
        check_prompt(vector.metadata, form)
        found = caa.collect_activations(
            tiny_llama, pairs, format="text", system_prompt="Be good.", prompt_format=forms[name]
        )
        expected = (found.positive.double() - found.negative.double()).mean(0).float()
        assert expected.allclose(vector.values, atol=1e-5)
    assert not vectors["default"].values.allclose(vectors["plain"].values, atol=1e-3)
    assert not vectors["default"].values.allclose(vectors["base"].values, atol=1e-3)
