"""The explorer's controls do what they say, its answers are generated ones, and nothing it shows is markup."""

import asyncio
import subprocess
import sys
import threading
from functools import partial

import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.explorer import widget as module

PROMPT = "Is it good?"
N_TOKENS = 12
PLOTLY = "application/vnd.plotly.v1+json"


def random_vector(seed: int, layers: tuple[int, ...] = (0, 1, 2, 3)) -> caa.SteeringVector:
    values = torch.randn(len(layers), 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(6 * values / values.norm(dim=1, keepdim=True), layers, {"model": "tiny-llama"})


VECTORS = {"first": random_vector(0), "<b>second</b>": random_vector(1, (0, 3))}


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """Answers of 12 tokens instead of 100, which takes an eighth of the time."""
    monkeypatch.setattr(module, "stream_answer", partial(module.stream_answer, max_new_tokens=N_TOKENS))


@pytest.fixture
def explored(tiny_llama):
    """Run ``scenario(explorer)`` on an event loop, as a notebook has one, and return the explorer."""

    def run(scenario, vectors=VECTORS, prompt=PROMPT):
        async def main():
            explorer = caa.explore(tiny_llama, vectors, prompt)
            await scenario(explorer)
            return explorer

        return asyncio.run(main(), debug=True)  # which refuses what is not safe between threads

    return run


async def rest(explorer):
    """Let the explorer receive what was clicked, and write its answers to the end."""
    await asyncio.sleep(0)
    while explorer.running:
        await asyncio.sleep(0)


async def writing(explorer, n_tokens):
    """Let the explorer receive what was clicked, and write so many tokens of the steered answer."""
    await asyncio.sleep(0)  # the click arrives
    await asyncio.sleep(0)  # the answer begins
    while explorer.running and (explorer.answers["n_tokens"].tolist()[1:] or [0])[0] < n_tokens:
        await asyncio.sleep(0)
    assert explorer.running


def generated(model, prompt=PROMPT, vector="first", layer=2, multiplier=1.0):
    table = caa.generate(
        model,
        [prompt],
        vector=VECTORS[vector],
        layer=layer,
        multipliers=(0.0, multiplier),
        max_new_tokens=N_TOKENS,
        progress=False,
    )
    columns = ["vector", "prompt", "layer", "multiplier", "answer", "n_tokens", "finished"]
    return table.assign(vector=vector)[columns]


def shown(explorer):
    """Both cards and the status line, as the page gets them."""
    cards = explorer._cards.value.split("<div class='caa-card'")[1:]
    assert len(cards) == 2
    return cards, explorer.status.value


def test_answers_are_the_generated_ones(explored, tiny_llama):
    async def scenario(explorer):
        assert explorer.answers.empty
        assert explorer.answers.columns.tolist() == generated(tiny_llama).columns.tolist()
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario)
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama))
    assert explorer.answers["answer"].nunique() == 2
    cards, status = shown(explorer)
    for card, row in zip(cards, explorer.answers.itertuples(), strict=True):
        assert f">{module.escape(row.answer)}<" in card
        assert f"{row.n_tokens} tokens, {'' if row.finished else 'not '}ended by the model" in card
    assert "multiplier +1" in cards[1]
    assert "tokens" not in status


def test_answers_appear_token_by_token_side_by_side(explored):
    states = []

    async def scenario(explorer):
        explorer._cards.observe(lambda change: states.append(explorer.answers), names="value")
        explorer.generate.click()
        await rest(explorer)

    explored(scenario)
    lengths = [tuple(state["n_tokens"]) for state in states if len(state) == 2]
    assert lengths == sorted(lengths)
    assert lengths[:3] == [(1, 1), (2, 2), (3, 3)]
    assert len(set(lengths)) > N_TOKENS / 2
    texts = [state["answer"].iloc[-1] for state in states if len(state) == 2]
    assert all(texts[-1].startswith(text) for text in texts)


@pytest.mark.parametrize(
    ("control", "value", "changed"),
    [("multiplier", -4.0, {"multiplier": -4.0}), ("layer", 0, {"layer": 0})],
)
def test_a_new_choice_begins_a_new_answer(explored, tiny_llama, control, value, changed):
    async def scenario(explorer):
        explorer.generate.click()
        await writing(explorer, 5)
        getattr(explorer, control).value = value
        await rest(explorer)

    pd.testing.assert_frame_equal(explored(scenario).answers, generated(tiny_llama, **changed))


def test_a_vector_offers_its_own_layers(explored, tiny_llama):
    async def scenario(explorer):
        explorer.vector.value = "<b>second</b>"
        await rest(explorer)

    explorer = explored(scenario)
    assert explorer.layer.options == (0, 3)
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama, vector="<b>second</b>", layer=3))


def test_an_unsteered_answer_is_kept_while_its_prompt_stays(explored, tiny_llama, monkeypatch):
    asked = []

    original = module.stream_answer

    def stream(model, prompt, steering):
        asked.append((prompt, steering.multiplier))
        return original(model, prompt, steering)

    monkeypatch.setattr(module, "stream_answer", stream)

    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)
        explorer.multiplier.value = 2.0
        await rest(explorer)
        assert sorted(asked) == [(PROMPT, 0.0), (PROMPT, 1.0), (PROMPT, 2.0)]
        explorer.prompt.value = "Rain"
        assert len(asked) == 3
        explorer.generate.click()
        await writing(explorer, 3)
        assert sorted(asked[3:]) == [("Rain", 0.0), ("Rain", 2.0)]
        explorer.multiplier.value = -2.0
        await rest(explorer)
        assert sorted(asked[5:]) == [("Rain", -2.0), ("Rain", 0.0)]

    explorer = explored(scenario)
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama, prompt="Rain", multiplier=-2.0))


def test_stop_stops_at_once_and_keeps_what_is_written(explored, tiny_llama):
    async def scenario(explorer):
        assert explorer.stop.disabled
        explorer.generate.click()
        await writing(explorer, 4)
        assert not explorer.stop.disabled
        assert module.CURSOR in shown(explorer)[0][1]
        explorer.stop.click()
        await rest(explorer)
        assert explorer.answers["n_tokens"].max() <= 6
        assert "Stopped." in shown(explorer)[1]
        assert module.CURSOR not in "".join(shown(explorer)[0])
        assert explorer.stop.disabled
        assert explorer.similarity is None
        explorer.stop.click()
        explorer.generate.click()
        await rest(explorer)

    pd.testing.assert_frame_equal(explored(scenario).answers, generated(tiny_llama))


def test_figures_and_tables_are_those_of_what_is_shown(explored, tiny_llama):
    drawn = []

    def note(explorer):
        drawn.append([len(output.outputs) for output in explorer._figures.values()])

    async def scenario(explorer):
        note(explorer)
        explorer.generate.click()
        await rest(explorer)
        note(explorer)
        explorer.layer.value = 1
        await writing(explorer, 3)
        note(explorer)
        assert explorer.similarity is None
        await rest(explorer)
        note(explorer)

    explorer = explored(scenario)
    assert drawn == [[0, 1], [1, 1], [0, 1], [1, 1]]
    lens = caa.logit_lens(tiny_llama, VECTORS["first"], layers=(0, 1, 2, 3), top_k=module.N_LENS_TOKENS)
    pd.testing.assert_frame_equal(explorer.lens, lens.assign(vector="first"))
    answer = explorer.answers["answer"][1]
    whole = caa.token_similarity(tiny_llama, PROMPT, VECTORS["first"], layers=1, answer=answer)
    pd.testing.assert_frame_equal(explorer.similarity, whole[whole["part"] == "answer"].assign(vector="first"))
    for output in explorer._figures.values():
        assert output.outputs[0]["data"][PLOTLY]["data"]


def test_a_finished_answer_leaves_nothing_on_the_model(explored, tiny_llama):
    tokens = torch.tensor([[0, 40, 41]])
    with torch.no_grad():
        unsteered = tiny_llama(tokens)

    async def scenario(explorer):
        explorer.multiplier.value = 4.0
        await writing(explorer, 3)
        with torch.no_grad():
            assert torch.equal(tiny_llama(tokens), unsteered)
        explorer.stop.click()
        await rest(explorer)

    explored(scenario)
    with torch.no_grad():
        assert torch.equal(tiny_llama(tokens), unsteered)


def test_events_of_another_thread_are_worked_off_on_the_loop(explored, tiny_llama, monkeypatch):
    threads = set()
    original = module.stream_answer

    def stream(*args, **options):
        threads.add(threading.current_thread())
        return original(*args, **options)

    monkeypatch.setattr(module, "stream_answer", stream)

    async def scenario(explorer):
        def clicks():
            explorer.multiplier.value = 3.0
            explorer.generate.click()

        await asyncio.to_thread(clicks)
        await rest(explorer)

    explorer = explored(scenario)
    assert threads == {threading.current_thread()}
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama, multiplier=3.0))


def test_a_failure_is_told_and_the_next_answer_works(explored, tiny_llama):
    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)
        explorer.prompt.value = " "
        explorer.generate.click()
        await rest(explorer)
        assert "InputError: prompt: &#x27; &#x27; is not a text; give a non-empty string" in explorer.status.value
        assert "caa-failure" in explorer.status.value
        assert explorer.stop.disabled
        assert explorer.answers.empty
        explorer.prompt.value = PROMPT
        explorer.generate.click()
        await rest(explorer)
        assert "caa-failure" not in explorer.status.value

    pd.testing.assert_frame_equal(explored(scenario).answers, generated(tiny_llama))


def test_a_failure_in_the_middle_of_an_answer_is_told(explored, tiny_llama, monkeypatch):
    def stream(*args, **options):
        yield module.Answer("so far", (1, 2), False)
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(module, "stream_answer", stream)

    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario)
    cards, status = shown(explorer)
    assert "RuntimeError: out of &lt;memory&gt;" in status
    assert explorer.answers["answer"].tolist() == ["so far", "so far"]
    assert module.CURSOR not in "".join(cards)


def test_an_answer_without_a_token_has_no_similarity(explored, monkeypatch):
    monkeypatch.setattr(caa.PromptFormat, "end_ids", set(range(384)))

    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario)
    assert explorer.answers["n_tokens"].tolist() == [0, 0]
    assert explorer.similarity is None
    assert "caa-failure" not in explorer.status.value


def test_what_models_and_users_wrote_is_text(explored, monkeypatch):
    hostile = "<img src=x onerror='alert(1)'>&amp;"
    monkeypatch.setattr(module, "stream_answer", lambda *a, **k: iter([module.Answer(hostile, (1,), True)]))

    async def scenario(explorer):
        explorer.vector.value = "<b>second</b>"
        await rest(explorer)

    cards, _ = shown(explored(scenario))
    assert not any("<img" in card or "<b>" in card for card in cards)
    assert all("&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt;&amp;amp;" in card for card in cards)
    assert "&lt;b&gt;second&lt;/b&gt;" in cards[1]


def test_one_vector_has_the_name_of_its_behavior(explored):
    async def scenario(explorer):
        assert explorer.vector.options == ("refusal",)

    explored(scenario, caa.SteeringVector(VECTORS["first"].values, (0, 1, 2, 3), {"behavior": "refusal"}))


@pytest.mark.parametrize(
    ("vectors", "prompt", "error", "said"),
    [
        ({}, PROMPT, caa.InputError, "vectors: the mapping is empty; give at least one vector"),
        ({"a": 3}, PROMPT, caa.InputError, r"vectors\['a'\]: int; it must be one SteeringVector"),
        (3, PROMPT, caa.InputError, "vectors: int; it must be one SteeringVector"),
        (
            caa.SteeringVector(torch.ones(1, 8), (1,)),
            PROMPT,
            caa.errors.VectorMismatchError,
            "vector: its width is 8",
        ),
        (VECTORS, 3, caa.InputError, "prompt: 3 is not a text; give a string"),
    ],
)
def test_what_explore_refuses(explored, vectors, prompt, error, said):
    async def nothing(explorer):
        pass

    with pytest.raises(error, match=said):
        explored(nothing, vectors, prompt)


def test_outside_a_notebook(tiny_llama):
    with pytest.raises(caa.InputError, match=r"explore: there is no running event loop\. Call it in a cell of a Jup"):
        caa.explore(tiny_llama, VECTORS)


def test_without_ipywidgets(explored, monkeypatch):
    monkeypatch.delitem(sys.modules, "caa_interp.explorer.widget")
    monkeypatch.setitem(sys.modules, "ipywidgets", None)

    async def nothing(explorer):
        pass

    install = r"explore: ipywidgets is not installed. Install it: pip install 'caa-interp\[notebooks\]'"
    with pytest.raises(caa.errors.MissingDependencyError, match=install):
        explored(nothing)


def test_the_function_comes_without_ipywidgets():
    code = "import sys\nfrom caa_interp import explore\nassert callable(explore)\nprint('ipywidgets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.strip() == "False"
