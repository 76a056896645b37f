"""Sequences that are read under conditions: what they share, and what an interrupted loop leaves behind."""

import threading
from importlib import import_module

import pytest
import torch

import caa_interp as caa
from caa_interp.models.access import lock_of
from caa_interp.steering.intervention import conditions
from caa_interp.steering.reading import Read, read_under
from caa_interp.tree.branches import Branch

PROMPTS = ["Is the weather good?", "What do you think of the sea?"]
OPTIONS = {"layers": 1, "progress": False}
LOOPS = {
    "caa_interp.evaluation.sweep": lambda model, vector, pairs: caa.sweep(model, vector, pairs, **OPTIONS),
    "caa_interp.evaluation.divergence": lambda model, vector, _: caa.divergence(model, vector, PROMPTS, **OPTIONS),
    "caa_interp.analysis.effect": lambda model, vector, pairs: caa.effect_lens(model, vector, pairs, **OPTIONS),
}


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs) -> caa.SteeringVector:
    return caa.extract_vector(tiny_llama, pairs, format="text", layers=[1], progress=False)


def taken_by_another_thread(model, taken: list[bool]) -> None:
    if lock_of(model).acquire(timeout=5):
        taken.append(True)
        lock_of(model).release()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("module", LOOPS)
def test_a_loop_that_ends_early_gives_the_model_back(tiny_llama, vector, pairs, monkeypatch, module, error):
    def one(results, *_, **__):
        yield next(iter(results))
        raise error

    monkeypatch.setattr(import_module(module), "track", one)
    tokens = torch.tensor([[1, 20, 30, 40]])
    with caa.steer(tiny_llama, vector, 1, 5.0), torch.no_grad():
        steered = tiny_llama(tokens)
        with pytest.raises(error) as held:  # and with it what was going on
            LOOPS[module](tiny_llama, vector, pairs)
        assert torch.equal(tiny_llama(tokens), steered)
        other = threading.Thread(target=taken_by_another_thread, args=(tiny_llama, taken := []))
        other.start()
        other.join()
    assert taken == [True], held


def test_every_sequence_is_read_under_every_condition(tiny_llama, vector):
    asked = conditions(tiny_llama, vector, None, multipliers=(0, 2))
    sequences = [(1, 20, 30, 40, 50), (1, 20, 30, 60)]
    items = [[Read(Branch(tokens, targets=((2, tokens[3]),)), 3) for tokens in sequences], [Read(Branch((1, 7)), 2)]]
    pair, alone = read_under(tiny_llama, items, asked, "texts")
    assert [len(one) for one in pair.log_probs] == [1, 1, 1, 1]
    assert [len(one) for one in alone.log_probs] == [0, 0]
    with torch.no_grad():
        for (tokens, dose), found in zip(((t, d) for t in sequences for d in (0, 2)), pair.log_probs, strict=True):
            with caa.steer(tiny_llama, vector, 1, dose, prompt_length=3):
                expected = tiny_llama(torch.tensor([tokens[:3]]))[0, -1].log_softmax(-1)[tokens[3]]
            assert float(found) == pytest.approx(float(expected), abs=1e-5)
