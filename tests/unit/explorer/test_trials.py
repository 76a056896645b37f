"""What is read along an answer is what plain steered passes say there."""

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.explorer.trials import Added, Choice, Record, Session, Trial
from caa_interp.models.access import hook_name
from caa_interp.models.readout import token_texts
from caa_interp.steering.generation import Answer

PROMPT = "Is it good?"


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(2, 4, 64, generator=generator)
    return {
        name: caa.SteeringVector(one, (0, 1, 2, 3), {"model": "tiny-llama"})
        for name, one in zip("ab", values, strict=True)
    }


def record(tokens=(40, 260, 71, 300)):
    """A complete answer that is not yet read."""
    return Record(Answer("four tokens", tokens, False), [3, 5, 8, 11], written=True)


def test_an_answer_is_read_as_by_plain_steered_passes(tiny_llama, vectors):
    added = (Added("a", 1, 2.0), Added("b", 2, -1.5))
    trial, session = Trial(PROMPT, added), Session(tiny_llama, vectors)
    form = caa.PromptFormat.of(tiny_llama)
    prompt = form.tokens(PROMPT).tokens
    answer = (40, 260, 71, 300)
    session.records[trial] = record(answer)
    session.read(trial)
    table = session.records[trial].tokens

    ids = torch.tensor([[*prompt, *answer]])
    steering = [caa.Intervention(vectors[one.vector], one.layer, one.multiplier) for one in added]
    with torch.no_grad():
        unsteered, cache = tiny_llama.run_with_cache(ids, names_filter=hook_name(1))
        with caa.steer(tiny_llama, steering, prompt_length=len(prompt)):
            steered = tiny_llama(ids)
    for name, logits in (("", steered), ("_unsteered", unsteered)):
        log_probs = logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        np.testing.assert_allclose(table[f"log_prob{name}"], log_probs[range(4), list(answer)], atol=1e-4)
        for said, row in zip(table[f"likeliest{name}"], log_probs, strict=True):
            values, best = row.exp().topk(5)
            lines = [line.split(" ", 1) for line in said.split("\n")]
            assert [text for _, text in lines] == token_texts(form.tokenizer, best)
            np.testing.assert_allclose([float(value) for value, _ in lines], values, atol=1e-3)
    np.testing.assert_allclose(table["change"], table["log_prob"] - table["log_prob_unsteered"])
    assert table["change"].abs().min() > 0.01
    residual = cache[hook_name(1)][0, len(prompt) :]
    cosine = torch.cosine_similarity(residual, vectors["a"].at(1)[None])
    np.testing.assert_allclose(table["cosine"], cosine, atol=1e-4)
    assert table["token"].tolist() == token_texts(form.tokenizer, answer)
    assert table["position"].tolist() == [len(prompt) + n for n in range(4)]


def test_operator_and_positions_hold_for_answers_readings_and_effects(tiny_llama, vectors):
    applied = {"operator": caa.ablate, "positions": "all"}
    session, trial = Session(tiny_llama, vectors, None, **applied), Trial(PROMPT, (Added("a", 1, 1.0),))
    for _ in session.write([trial]):
        pass
    session.read(trial)
    steering = caa.Intervention(vectors["a"], 1, **applied)
    written = caa.generate(tiny_llama, [PROMPT], steering=[[steering]], max_new_tokens=100)
    assert session.records[trial].answer.text == written["answer"].iloc[0]
    form, tokens = caa.PromptFormat.of(tiny_llama), session.records[trial].tokens
    ids = torch.tensor([[*form.tokens(PROMPT).tokens, *tokens["token_id"]]])
    with torch.no_grad(), caa.steer(tiny_llama, [steering]):
        log_probs = tiny_llama(ids)[0, tokens["position"].to_numpy() - 1].log_softmax(-1)
    np.testing.assert_allclose(tokens["log_prob"], log_probs[range(len(tokens)), tokens["token_id"]], atol=1e-4)
    effect = session.effect(Choice(PROMPT, trial.added, (0.0, 1.0)))
    expected = caa.effect_lens(
        tiny_llama, vectors["a"], [PROMPT], layers=1, top_k=8, words_only=True, progress=False, **applied
    )
    shared = [name for name in expected if name != "vector"]
    pd.testing.assert_frame_equal(effect[shared], expected[shared])


def test_an_unsteered_answer_is_changed_by_nothing(tiny_llama, vectors):
    session, trial = Session(tiny_llama, vectors), Trial(PROMPT)
    session.records[trial] = record()
    session.read(trial)
    table = session.records[trial].tokens
    assert (table["change"] == 0).all()
    assert table["likeliest"].tolist() == table["likeliest_unsteered"].tolist()
    assert table["cosine"].isna().all()


def test_open_contexts_count_on_both_sides(tiny_llama, vectors):
    trial = Trial(PROMPT, (Added("a", 1, 2.0),))
    found = []
    for outer in (None, caa.Intervention(vectors["b"], 0, 3.0)):
        session = Session(tiny_llama, vectors)
        session.records[trial] = record()
        with caa.steer(tiny_llama, outer):
            session.read(trial)
        found.append(session.records[trial].tokens)
    assert (found[0]["log_prob_unsteered"] - found[1]["log_prob_unsteered"]).abs().min() > 0.01


def test_a_strip_holds_each_answer_once():
    choice = Choice(PROMPT, (Added("a", 1, 2.0), Added("b", 2, 0.0)), (-1.0, 0.0, 1.0))
    assert choice.trials == [Trial(PROMPT, (Added("a", 1, -2.0),)), Trial(PROMPT), Trial(PROMPT, (Added("a", 1, 2.0),))]
    assert [str(trial) for trial in choice.trials][1:] == ["Unsteered", "a, layer 1, multiplier +2"]


def test_texts_are_cut_where_tokens_end(tiny_llama, vectors):
    session, trial = Session(tiny_llama, vectors), Trial(PROMPT, (Added("a", 1, 4.0),))
    for _ in session.write([trial]):
        pass
    found = session.records[trial]
    assert found.written
    assert len(found.ends) == len(found.answer.tokens) > 20
    assert found.ends == sorted(found.ends)
    assert found.ends[-1] == len(found.answer.text)
