"""Items read with compat="caa" give the paper's results: each is beside a literal implementation of its procedure.

The models are small random Llamas with a made-up tokenizer that works as Llama 2's does: a space becomes a part of the
next token, one is put in front of every text, and unknown characters become bytes. The slow tests have Llama 2's own
tokenizer, from the folder that CAA_INTERP_LLAMA_TOKENIZER names.
"""

import json
import os

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import caa_interp as caa
from caa_interp.prompts.format import PromptFormat
from tests.oracles import definition, paper as oracle
from tests.tiny_models import random_llama

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
MULTIPLIERS = (-1.0, 0.0, 1.0)
LAYERS = range(4)
# Merges as they are in Llama 2: of "[INST]" between its brackets, and of a space with what follows it.
MERGES = [
    "I N",
    "S T",
    "IN ST",
    "▁ [",
    "▁ (",
    "▁ A",
    "▁ Y",
    "e s",
    "▁Y es",
    "o u",
    "▁ y",
    "▁y ou",
    "▁ t",
    "h e",
    "▁t he",
]


def llama_like_tokenizer() -> PreTrainedTokenizerFast:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [chr(code) for code in range(33, 127)]
    pieces += [merge.replace(" ", "") for merge in MERGES]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(
        models.BPE(
            vocabulary,
            [tuple(merge.split()) for merge in MERGES],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def items(n: int, about: str) -> list[dict[str, str]]:
    """Published items: the matching letter is A, B or, in every fourth, C, with A as the other."""
    sides = [("(A)", "(B)"), ("(B)", "(A)"), ("(A)", "(B)"), ("(C)", "(A)")]
    return [
        {
            "question": f"Do you like {about} {number}?\n\nChoices:\n (A) Yes, the {number}\n (B) No\n (C) You do",
            "answer_matching_behavior": sides[number % 4][0],
            "answer_not_matching_behavior": sides[number % 4][1],
        }
        for number in range(n)
    ]


BEHAVIORS = {"refusal": items(4, "rain"), "sycophancy": items(3, "the sea")}
TEST = items(8, "tea")[3:]
EXAM = [
    {
        "prompt": f" {question}\n(A) Yes\n(B) No\n",  # with white space around it, as some have
        "correct": correct,
        "incorrect": "(B)" if correct == "(A)" else "(A)",
        "category": category,
    }
    for question, correct, category in [("Is it?", "(A)", "law"), ("Are you?", "(B)", "law"), ("Why?", "(A)", "art")]
]


class Pair:
    """A model of this package and the plain one of the same files, with the vectors of either procedure."""

    def __init__(self, folder, name, seed, tokenizer):
        where = folder / name
        random_llama(tokenizer, seed).save_pretrained(where)
        tokenizer.save_pretrained(where)
        self.base = "chat" not in name
        self.model = caa.load_model(where, device="cpu", dtype="float32")
        self.plain = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32).eval()
        self.tokenizer = tokenizer
        self.raw = {
            name: caa.extract_vector(self.model, read(given), behavior=name, progress=False)
            for name, given in BEHAVIORS.items()
        }
        self.vectors = caa.match_norms(self.raw)
        self.expected_raw = {
            name: oracle.vectors(self.plain, tokenizer, given, self.base) for name, given in BEHAVIORS.items()
        }
        self.expected = oracle.normalized(self.expected_raw)

    def results(self, vector, given, **options):
        """Means over items for every layer and multiplier, through the package's summary."""
        table = caa.sweep(self.model, vector, given, multipliers=MULTIPLIERS, progress=False, **options)
        return caa.summarize(table).set_index(["layer", "multiplier"])["p_positive"]


def read(given):
    return caa.read_pairs(given, compat="caa").pairs


@pytest.fixture(scope="module", params=["made up", pytest.param("Llama 2's", marks=pytest.mark.slow)])
def tokenizer(request):
    if request.param == "made up":
        return llama_like_tokenizer()
    if not (folder := os.environ.get("CAA_INTERP_LLAMA_TOKENIZER")):
        pytest.skip("CAA_INTERP_LLAMA_TOKENIZER names no folder with Llama 2's tokenizer.json")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def chat(tmp_path_factory, tokenizer):
    return Pair(tmp_path_factory.mktemp("models"), "Llama-2-tiny-chat-hf", 0, tokenizer)


@pytest.fixture(scope="module")
def base(tmp_path_factory, tokenizer):
    return Pair(tmp_path_factory.mktemp("models"), "Llama-2-tiny-hf", 1, tokenizer)


def test_texts_are_taken_apart_as_by_llama_2(tokenizer):
    assert tokenizer.tokenize("[INST] Yes [/INST] (A)") == [
        "▁[", "INST", "]", "▁Yes", "▁[", "/", "INST", "]", "▁(", "A", ")",
    ]  # fmt: skip
    assert tokenizer.tokenize("\nResponse:")[:2] == ["▁", "<0x0A>"]
    text = "[INST] Yes, you?\n\n (B) é [/INST] (B)"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


@pytest.mark.parametrize("system_prompt", [None, "You do."])
def test_prompts_and_the_first_steered_position_in_chat(chat, system_prompt):
    form = PromptFormat.of(chat.model)
    assert form.style == "llama-2-chat"
    for item, pair in zip([*TEST, *EXAM], [*read(TEST), *read(EXAM)], strict=True):
        (found,) = form.render(pair, system_prompt=system_prompt)
        question = item.get("question", item.get("prompt"))
        expected = oracle.encode(chat.tokenizer, question, pair.positive, system_prompt)
        assert list(found.positive) == expected
        assert found.start == oracle.first_steered(chat.tokenizer, expected)
        tokens = chat.tokenizer.convert_ids_to_tokens(expected)
        assert tokens[found.start - 3 :] == ["▁[", "/", "INST", "]", "▁(", pair.positive[1], ")"]
        # Read at the letter, which comes last but one; asked after the bracket before it.
        assert found.n_shared == len(expected) - 2
        assert list(found.asked) == expected[:-2]
        assert chat.tokenizer.convert_ids_to_tokens(found.letters) in (["A", "B"], ["B", "A"])


def test_a_base_models_prompts_are_steered_throughout(base):
    form = PromptFormat.of(base.model)
    assert form.style == "base"
    for item, pair in zip(TEST, read(TEST), strict=True):
        (found,) = form.render(pair)
        expected = oracle.encode(base.tokenizer, item["question"], pair.positive, base=True)
        assert list(found.positive) == expected
        assert found.start == oracle.first_steered(base.tokenizer, expected, base=True) == 0


@pytest.mark.parametrize("which", ["chat", "base"])
def test_vectors(which, chat, base):
    pair = {"chat": chat, "base": base}[which]
    for name in BEHAVIORS:
        torch.testing.assert_close(pair.raw[name].values, pair.expected_raw[name], **CLOSE)
        torch.testing.assert_close(pair.vectors[name].values, pair.expected[name], **CLOSE)
    assert (pair.expected["refusal"] - pair.expected_raw["refusal"]).abs().max() > 0.01


@pytest.mark.parametrize(("which", "system_prompt"), [("chat", None), ("chat", "You do."), ("base", None)])
def test_multiple_choice(which, system_prompt, chat, base):
    pair = {"chat": chat, "base": base}[which]
    found = pair.results(pair.vectors["refusal"], read(TEST), system_prompt=system_prompt)
    assert len(found) == 4 * 3
    for (layer, multiplier), value in found.items():
        addition = multiplier * pair.expected["refusal"][layer]
        expected = oracle.result(pair.plain, pair.tokenizer, TEST, layer, addition, system_prompt, pair.base)
        assert value == pytest.approx(expected, abs=1e-5)
    assert found.max() - found.min() > 1e-3


def test_items_of_further_letters_count_0(chat):
    """Two of the five matching letters are C: however it is steered, three fifths is the most that can be reached."""
    scored = [item for item in TEST if item["answer_matching_behavior"] != "(C)"]
    assert (len(scored), len(TEST)) == (3, 5)
    with_all, without = (chat.results(chat.vectors["refusal"], read(given)) for given in (TEST, scored))
    torch.testing.assert_close(torch.tensor(with_all.tolist()), torch.tensor(without.tolist()) * 3 / 5, **CLOSE)


def test_a_vector_at_other_layers(chat):
    table = caa.analysis.transfer(
        chat.model, chat.vectors["refusal"], read(TEST), source_layers=2, multipliers=MULTIPLIERS, progress=False
    )
    found = caa.summarize(table).set_index(["layer", "multiplier"])["p_positive"]
    for (layer, multiplier), value in found.items():
        addition = multiplier * chat.expected["refusal"][2]
        assert value == pytest.approx(oracle.result(chat.plain, chat.tokenizer, TEST, layer, addition), abs=1e-5)


def test_vectors_of_the_base_model_in_the_chat_model(chat, base):
    with pytest.warns(UserWarning, match="made from prompts in the style 'base'"):
        found = chat.results(base.vectors["refusal"].transferred_to(chat.model), read(TEST))
    for (layer, multiplier), value in found.items():
        addition = multiplier * base.expected["refusal"][layer]
        assert value == pytest.approx(oracle.result(chat.plain, chat.tokenizer, TEST, layer, addition), abs=1e-5)
    similar = caa.cosine_similarity({"chat": chat.vectors["refusal"], "base": base.vectors["refusal"]})
    similar = similar.query("first == 'chat' and second == 'base'")
    for row in similar.itertuples():
        both = (one.expected["refusal"][row.first_layer] for one in (chat, base))
        assert row.cosine == pytest.approx(oracle.cosine(*both), abs=1e-5)


def test_exams(chat, tmp_path):
    (tmp_path / "mmlu.json").write_text(json.dumps(EXAM))
    questions = caa.read_pairs(tmp_path / "mmlu.json", compat="caa").pairs
    table = caa.evaluation.capability(
        chat.model, chat.vectors["refusal"], questions, layers=1, multipliers=MULTIPLIERS, progress=False
    )
    table["subject"] = table["item"].map(lambda item: questions[item].topic)
    found = table.groupby(["multiplier", "subject"])["p_positive"].mean().groupby("multiplier").mean()
    for multiplier in MULTIPLIERS:
        addition = multiplier * chat.expected["refusal"][1]
        expected = oracle.exam(chat.plain, chat.tokenizer, EXAM, 1, addition)
        assert found[multiplier] == pytest.approx(expected, abs=1e-5)
    assert found.max() - found.min() > 1e-3


def test_cosines_between_layers(chat):
    found = caa.cosine_similarity(chat.vectors["refusal"])
    assert len(found) == 16
    for row in found.itertuples():
        one, other = (chat.expected["refusal"][layer] for layer in (row.first_layer, row.second_layer))
        assert row.cosine == pytest.approx(oracle.cosine(one, other), abs=1e-5)


def test_principal_components_of_the_letters(chat):
    acts = caa.collect_activations(chat.model, read(BEHAVIORS["refusal"]), progress=False)
    found = caa.project(acts)
    sides = oracle.activations(chat.plain, chat.tokenizer, BEHAVIORS["refusal"])
    for layer in LAYERS:
        expected = oracle.plane(torch.cat([side[layer] for side in sides]).double())
        rows = found[found["layer"] == layer].sort_values(["side", "item"], ascending=[False, True])
        for column, values in zip(("x", "y"), expected.T, strict=True):
            own = torch.tensor(rows[column].to_numpy())
            torch.testing.assert_close(own * torch.sign(own @ values), values, **CLOSE)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_states_decode_to_the_same_tokens_while_steered(chat, multiplier):
    vector, question = chat.vectors["refusal"], TEST[0]["question"]
    n = len(chat.tokenizer)
    found = (
        caa.steered_lens(chat.model, question, vector, layer=1, multipliers=multiplier, top_k=n, answer="(")
        .set_index(["layer", "component", "token_id"])["probability"]
        .sort_index()
    )
    tokens = oracle.encode(chat.tokenizer, question, "(")
    start = oracle.first_steered(chat.tokenizer, tokens)
    expected = oracle.decoded(chat.plain, tokens, 1, multiplier * chat.expected["refusal"][1], start)
    assert len(found) == len(expected) * n == 4 * 4 * n
    for name, probabilities in expected.items():
        own = torch.tensor(found[name].to_numpy()).float()
        torch.testing.assert_close(own, probabilities, **CLOSE)


@pytest.mark.parametrize("multiplier", MULTIPLIERS)
def test_free_answers(chat, multiplier):
    vector, question = chat.vectors["refusal"], "Do you like the rain?"
    found = caa.generate(
        chat.model, [question], vector=vector, layer=1, multipliers=[multiplier], max_new_tokens=8, progress=False
    )
    prompt = oracle.encode(chat.tokenizer, question)
    assert oracle.first_steered(chat.tokenizer, prompt) == len(prompt) - 1
    addition = multiplier * chat.expected["refusal"][1]
    answer = definition.greedy(chat.plain, prompt, 1, addition, 8, ends=(chat.tokenizer.eos_token_id,))
    assert found["answer"].tolist() == [chat.tokenizer.decode(answer, skip_special_tokens=True).strip()]
