"""Inside a ``steer`` context every function of the package that runs a model steers as if it were given a list."""

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.steering import FirstAnswerTokens, stream_answer

PROMPT, ANSWER = "Is it good?", "I think so, yes"
PASSAGES = ["The rain, the garden and the sea"]
TALK = [[caa.ContrastPair(question, "Yes I think so", "No, not at all") for question in ("Is it?", "And now?")]]
QUIET = {"progress": False}
POSITIONS = ["from_last_prompt_token", "answer", "prompt", "all", FirstAnswerTokens(2), [1, 9]]


def vector(seed: int = 0, size: float = 4.0) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"model": "tiny-llama"})


def stream(model, steering, pairs):
    return [answer.text for answer in stream_answer(model, PROMPT, steering[0], max_new_tokens=4)]


# What takes conditions: whatever the outer context does, a list says too.
STEERS = {
    "sweep": lambda m, s, pairs: caa.sweep(m, s, pairs, format="text", **QUIET),
    "generate": lambda m, s, pairs: caa.generate(m, [PROMPT], steering=s, max_new_tokens=4, **QUIET)[["answer"]],
    "stream_answer": lambda m, s, pairs: pd.DataFrame({"text": stream(m, s, pairs)}),
    "perplexity": lambda m, s, pairs: caa.perplexity(m, s, PASSAGES, **QUIET),
    "capability": lambda m, s, pairs: caa.capability(m, s, pairs, format="choices", **QUIET),
    "steered_lens": lambda m, s, pairs: caa.steered_lens(m, PROMPT, s, answer=ANSWER),
    "steered_lens, no answer": lambda m, s, pairs: caa.steered_lens(m, PROMPT, s),
}
# What takes vectors, or steers by a course of its own.
MEASURES = {
    "divergence": lambda m, v, pairs: caa.divergence(m, v, [PROMPT], layers=2, n_tokens=2, **QUIET),
    "effect_lens": lambda m, v, pairs: caa.effect_lens(m, v, pairs, layers=2, format="text", **QUIET),
    "effect_attribution": lambda m, v, pairs: caa.analysis.effect_attribution(
        m, v, pairs, layer=2, format="text", patch=False, **QUIET
    ),
    "position_map": lambda m, v, pairs: caa.analysis.position_map(
        m, v, pairs, layer=2, n_tokens=1, format="text", **QUIET
    ),
    "persistence": lambda m, v, pairs: caa.evaluation.persistence(
        m, [caa.Intervention(v, 2)], TALK, max_new_tokens=2, **QUIET
    ),
    "token_similarity": lambda m, v, pairs: caa.token_similarity(m, PROMPT, v, answer=ANSWER, layers=2),
}
# What refuses a model that is being steered, whatever is known about where.
REFUSES = {
    "learned_vector": lambda m, v, pairs: caa.evaluation.learned_vector(m, v, pairs, layer=1, **QUIET),
    "head_vector": lambda m, v, pairs: caa.vectors.head_vector(m, 3 * pairs, **QUIET),
    "fine_tune": lambda m, v, pairs: caa.evaluation.fine_tune(m, pairs),
    "bake": lambda m, v, pairs: caa.interchange.bake(m, v, layer=1),
    "orthogonalize": lambda m, v, pairs: caa.interchange.orthogonalize(m, v, layer=1),
    "self_test": lambda m, v, pairs: caa.doctor.self_test(m, **QUIET),
}
# What reads sequences whose prompts it does not know refuses contexts that need to know them.
READS = {
    "collect_activations": lambda m, v, pairs: caa.collect_activations(m, pairs, format="text", **QUIET),
    "extract_vector": lambda m, v, pairs: caa.extract_vector(m, pairs, format="text", **QUIET),
    "monitor": lambda m, v, pairs: caa.analysis.monitor(m, v, PASSAGES, layer=1, **QUIET),
}


def measured(table: pd.DataFrame) -> tuple[np.ndarray, list[list[str]]]:
    """Numbers that a table measures, and its texts."""
    numbers = table.select_dtypes("float").drop(columns="multiplier", errors="ignore")
    return numbers.to_numpy(), table[
        [name for name in ("answer", "text", "token") if name in table]
    ].to_numpy().tolist()


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
@pytest.mark.parametrize("name", STEERS)
def test_a_context_does_what_a_list_does(tiny_llama, pairs, name, positions):
    outer, inner = caa.Intervention(vector(), 1, 2.0, positions=positions), caa.Intervention(vector(1), 2)
    if name == "steered_lens, no answer" and positions in ("answer", FirstAnswerTokens(2)):
        pytest.skip("there is nothing to steer")
    listed, listed_texts = measured(STEERS[name](tiny_llama, [[outer, inner]], pairs[:1]))
    alone, alone_texts = measured(STEERS[name](tiny_llama, [inner], pairs[:1]))
    with caa.steer(tiny_llama, outer):
        nested, nested_texts = measured(STEERS[name](tiny_llama, [inner], pairs[:1]))
    np.testing.assert_allclose(nested, listed, rtol=1e-3, atol=1e-4)
    assert nested_texts == listed_texts
    assert nested_texts != alone_texts or not np.allclose(nested, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("positions", POSITIONS, ids=str)
def test_similarities_of_tokens_are_those_of_the_steered_model(tiny_llama, positions):
    outer = caa.Intervention(vector(), 1, 2.0, positions=positions)
    sequence = caa.PromptFormat.of(tiny_llama).tokens(PROMPT, ANSWER)
    with caa.steer(tiny_llama, outer):
        table = caa.token_similarity(tiny_llama, PROMPT, vector(1), answer=ANSWER, layers=2)
    with torch.no_grad(), caa.steer(tiny_llama, outer, prompt_length=sequence.start + 1):
        _, cache = tiny_llama.run_with_cache(torch.tensor([sequence.tokens]))
    unit = vector(1).at(2) / vector(1).at(2).norm()
    expected = (cache["blocks.2.hook_resid_post"][0] @ unit).tolist()
    assert table["projection"].tolist() == pytest.approx(expected, abs=1e-3)
    plain = caa.token_similarity(tiny_llama, PROMPT, vector(1), answer=ANSWER, layers=2)
    assert table["projection"].tolist() != pytest.approx(plain["projection"].tolist(), abs=1e-2)


@pytest.mark.parametrize("name", REFUSES)
def test_what_makes_models_and_vectors_refuses_one_that_is_steered(tiny_llama, pairs, name):
    said = r"model: it is being steered\. .* outside the steer context"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, vector(), 1, positions="all"):
        REFUSES[name](tiny_llama, vector(), pairs)


@pytest.mark.parametrize("name", READS)
def test_what_does_not_know_where_prompts_end_refuses_to_guess(tiny_llama, pairs, name):
    said = "model: it is being steered, and where its prompts end is not known here"
    with pytest.raises(caa.InputError, match=said), caa.steer(tiny_llama, vector(), 1):
        READS[name](tiny_llama, vector(), pairs)


@pytest.mark.parametrize("name", [*STEERS, *MEASURES])
def test_positions_of_a_context_that_no_sequence_has_say_so(tiny_llama, pairs, name):
    told = pytest.warns(
        UserWarning, match=r"positions: \(200,\): nothing is steered: the model reads at most \d+ tokens"
    )
    with told, caa.steer(tiny_llama, vector(), 1, positions=[200]):
        if name in STEERS:
            STEERS[name](tiny_llama, [caa.Intervention(vector(1), 2)], pairs[:1])
        else:
            MEASURES[name](tiny_llama, vector(1), pairs[:1])


@pytest.mark.parametrize("positions", ["answer", FirstAnswerTokens(2)], ids=str)
def test_an_answer_that_is_not_there_is_not_steered_and_said_so(tiny_llama, positions):
    one = caa.Intervention(vector(), 1, positions=positions)
    with pytest.warns(UserWarning, match="nothing is steered: the model reads at most"):
        caa.steered_lens(tiny_llama, PROMPT, one)


@pytest.mark.parametrize("idle", [0, 1])
def test_each_intervention_that_changed_nothing_is_named(tiny_llama, idle):
    several = [caa.Intervention(vector(), 1), caa.Intervention(vector(1), 2)]
    several[idle] = caa.Intervention(vector(idle), 1 + idle, positions=[200])
    said = rf"no position was changed by Intervention\(1 of vector, layer {1 + idle}, add, \(200,\)\)\."
    with pytest.warns(UserWarning, match=said), caa.steer(tiny_llama, several):
        tiny_llama(torch.tensor([[0, 40, 41]]))


def test_what_acted_once_is_not_idle(tiny_llama, recwarn):
    with caa.steer(tiny_llama, [caa.Intervention(vector(), 1, positions=[4]), caa.Intervention(vector(), 2, 0.0)]):
        tiny_llama(torch.tensor([[0, 40, 41, 42, 43]]))
        tiny_llama(torch.tensor([[0, 40, 41]]))
    assert not recwarn.list
