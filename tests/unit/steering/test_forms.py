"""Every function that puts prompts into a form takes one, and says if a vector was made under another."""

import pytest
import torch

import caa_interp as caa
from caa_interp.steering import stream_answer

PROMPT, QUIET = "Is it good?", {"progress": False}
TALK = [[caa.ContrastPair(question, "Yes I think so", "No, not at all") for question in ("Is it?", "And now?")]]


def vector(**metadata) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(4 * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), metadata)


def up(v: caa.SteeringVector) -> caa.Intervention:
    return caa.Intervention(v, 1)


def behavior(pairs) -> caa.Behavior:
    return caa.Behavior("fine", "", train=pairs, test=pairs)


CALLS = {
    "generate": lambda m, v, p, **o: caa.generate(m, [PROMPT], steering=[up(v)], max_new_tokens=2, **QUIET, **o),
    "stream_answer": lambda m, v, p, **o: list(stream_answer(m, PROMPT, up(v), max_new_tokens=2, **o)),
    "sweep": lambda m, v, p, **o: caa.sweep(m, up(v), p, format="text", **QUIET, **o),
    "divergence": lambda m, v, p, **o: caa.divergence(m, up(v), [PROMPT], n_tokens=2, **QUIET, **o),
    "capability": lambda m, v, p, **o: caa.capability(m, up(v), p, **QUIET, **o),
    "side_effects": lambda m, v, p, **o: caa.evaluation.side_effects(
        m, {"v": v}, {"b": p}, layers=1, format="text", **QUIET, **o
    ),
    "baselines": lambda m, v, p, **o: caa.baselines(
        m, v, behavior(p), layer=1, n_shots=1, n_pairs=1, format="text", **QUIET, **o
    ),
    "calibrate": lambda m, v, p, **o: caa.evaluation.calibrate(m, up(v), [PROMPT], n_tokens=2, target=0.01, **o),
    "compare_at_equal_divergence": lambda m, v, p, **o: caa.evaluation.compare_at_equal_divergence(
        m, {"v": up(v)}, p, prompts=[PROMPT], n_tokens=2, target=0.01, format="text", **QUIET, **o
    ),
    "interference": lambda m, v, p, **o: caa.evaluation.interference(
        m, {"v": v, "w": -v}, {"v": p}, prompts=[PROMPT], layers=1, n_tokens=2, format="text", **QUIET, **o
    ),
    "persistence": lambda m, v, p, **o: caa.evaluation.persistence(m, [up(v)], TALK, max_new_tokens=2, **QUIET, **o),
    "learned_vector": lambda m, v, p, **o: caa.evaluation.learned_vector(
        m, v, p, layer=1, epochs=1, format="text", **QUIET, **o
    ),
    "effect_lens": lambda m, v, p, **o: caa.effect_lens(m, v, p, layers=1, format="text", **QUIET, **o),
    "effect_attribution": lambda m, v, p, **o: caa.analysis.effect_attribution(
        m, v, p, layer=1, format="text", patch=False, **QUIET, **o
    ),
    "position_map": lambda m, v, p, **o: caa.analysis.position_map(
        m, v, p, layer=1, n_tokens=1, format="text", **QUIET, **o
    ),
    "transfer": lambda m, v, p, **o: caa.analysis.transfer(
        m, v, p, source_layers=1, layers=2, format="text", **QUIET, **o
    ),
    "steered_lens": lambda m, v, p, **o: caa.steered_lens(m, PROMPT, v, layer=1, top_k=1, **o),
    "token_similarity": lambda m, v, p, **o: caa.token_similarity(m, PROMPT, v, answer="Yes", layers=1, **o),
    "monitor": lambda m, v, p, **o: caa.analysis.monitor(m, v, [PROMPT], layer=1, **QUIET, **o),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_vector_made_under_another_form_is_told(tiny_llama, pairs, name):
    form = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
    own = vector(prompt_digest=form.digest(), prompt_style="llama-2-chat")
    CALLS[name](tiny_llama, own, pairs[:2], prompt_format=form)  # warnings are errors here
    with pytest.warns(UserWarning, match="it was made from prompts in the style 'llama-2-chat'"):
        CALLS[name](tiny_llama, own, pairs[:2])


def test_a_plain_text_is_in_no_form(tiny_llama):
    table = caa.token_similarity(tiny_llama, PROMPT, vector(prompt_digest="another"), layers=1)
    assert table["prompt_digest"].isna().all()


def test_what_makes_vectors_and_models_puts_pairs_into_the_form(tiny_llama, pairs):
    form = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
    start, options = vector(), {"format": "text", "progress": False}
    for make in (
        lambda **more: caa.evaluation.learned_vector(
            tiny_llama, start, pairs[:2], layer=1, epochs=1, **options, **more
        ),
        lambda **more: caa.vectors.head_vector(tiny_llama, 3 * pairs[:2], n_heads=1, **options, **more),
    ):
        other, usual = make(prompt_format=form), make()
        assert other.metadata["prompt_digest"] == form.digest() != usual.metadata["prompt_digest"]
        assert not torch.equal(other.values, usual.values)


@pytest.mark.parametrize("answer", [None, "", "Yes"])
def test_tokens_of_a_conversation(tiny_llama, answer):
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": PROMPT},
    ]
    form = caa.PromptFormat.of(tiny_llama)
    table = caa.token_similarity(tiny_llama, talk, vector(), answer=answer, layers=1)
    assert table["token_id"].tolist() == list(form.tokens(talk, answer or "").tokens)
    assert set(table["prompt_digest"]) == {form.digest()}
    lens = caa.steered_lens(tiny_llama, talk, vector(), layer=1, layers=[2], top_k=1, answer=answer or "")
    assert set(lens["prompt_digest"]) == {form.digest()}
