"""The explorer's controls do what they say, its answers are generated ones, and nothing it shows is markup."""

import asyncio
import re
import sys
import threading
from functools import partial
from html import unescape

import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.explorer import trials, widget
from caa_interp.explorer.markup import CURSOR, escape

PROMPT = "Is it good?"
N_TOKENS = 12
PAIRS = [caa.ContrastPair("Is it good?", "Yes, I like it.", "No.")]


def random_vector(seed: int, layers: tuple[int, ...] = (0, 1, 2, 3)) -> caa.SteeringVector:
    values = torch.randn(len(layers), 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(6 * values / values.norm(dim=1, keepdim=True), layers, {"model": "tiny-llama"})


VECTORS = {"first": random_vector(0), "<b>second</b>": random_vector(1, (0, 3))}


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    """Two answers of 12 tokens instead of three of 100, which takes a twelfth of the time."""
    monkeypatch.setattr(trials, "stream_answer", partial(trials.stream_answer, max_new_tokens=N_TOKENS))
    monkeypatch.setattr(widget, "STRIPS", {"-1, 0, 1": (0.0, 1.0), "-2 to 2": (-2.0, 0.0, 2.0)})


@pytest.fixture
def explored(tiny_llama):
    """Run ``scenario(explorer)`` on an event loop, as a notebook has one, and return the explorer."""

    def run(scenario, vectors=VECTORS, prompt=PROMPT, pairs=PAIRS):
        async def main():
            explorer = caa.explore(tiny_llama, vectors, prompt, pairs)
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
    """The table of the answers, from :func:`caa_interp.generate`."""
    up = caa.Intervention(VECTORS[vector], layer, multiplier)
    steered = f"{vector}, layer {layer}, multiplier {multiplier:+g}"
    conditions = {"unsteered": None, vector: up}
    table = caa.generate(model, [prompt], steering=conditions, max_new_tokens=N_TOKENS, progress=False)
    columns = ["prompt", "steering", "vector", "layer", "multiplier", "answer", "n_tokens", "finished"]
    return table.assign(steering=["Unsteered", steered], layer=table["layer"].astype("Int64"))[columns]


def shown(explorer):
    """The cards and the status line, as the page gets them."""
    return [card.children[0].value for card in explorer._strip.children], explorer.status.value


def texts(cards):
    """What of the cards is text."""
    return [unescape(re.sub("<[^>]*>", "", card)) for card in cards]


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
        assert row.answer in texts([card])[0]
        assert f"{row.n_tokens} tokens, {'' if row.finished else 'not '}ended by the model" in card
    assert "multiplier +1" in cards[1]
    assert "tokens" not in status


def test_answers_appear_token_by_token_side_by_side(explored):
    states = []

    async def scenario(explorer):
        explorer._say = lambda *said, **kind: states.append(explorer.answers)
        explorer.generate.click()
        await rest(explorer)

    explored(scenario)
    lengths = [tuple(state["n_tokens"]) for state in states if len(state) == 2]
    assert lengths == sorted(lengths)
    assert lengths[:4] == [(1, 1), (2, 1), (2, 2), (3, 2)]
    assert len(set(lengths)) > N_TOKENS
    written = [state["answer"].iloc[-1] for state in states if len(state) == 2]
    assert all(written[-1].startswith(text) for text in written)


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


@pytest.fixture
def asked(monkeypatch):
    """The list of (prompt, multipliers) of every answer that is begun."""
    begun, original = [], trials.stream_answer

    def stream(model, prompt, steering):
        begun.append((prompt, *(one.multiplier for one in steering)))
        return original(model, prompt, steering)

    monkeypatch.setattr(trials, "stream_answer", stream)
    return begun


def test_what_was_written_is_there_at_once(explored, tiny_llama, asked, monkeypatch):
    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)
        explorer.multiplier.value = 2.0
        await rest(explorer)
        assert asked == [(PROMPT,), (PROMPT, 1.0), (PROMPT, 2.0)]
        monkeypatch.setattr(tiny_llama, "forward", None)  # so that any use of the model fails
        explorer.multiplier.value = 1.0
        await rest(explorer)
        assert explorer.answers["multiplier"].tolist() == [0.0, 1.0]
        assert "multiplier +1" in shown(explorer)[0][1]
        assert explorer.effect is not None
        assert len(asked) == 3

    explored(scenario)


def test_an_answer_that_was_interrupted_is_written_anew(explored, tiny_llama, asked):
    async def scenario(explorer):
        explorer.prompt.value = "Rain"
        assert not asked
        explorer.generate.click()
        await writing(explorer, 3)
        assert asked == [("Rain",), ("Rain", 1.0)]
        explorer.multiplier.value = -2.0
        await rest(explorer)
        assert asked[2:] == [("Rain",), ("Rain", -2.0)]

    explorer = explored(scenario)
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama, prompt="Rain", multiplier=-2.0))


def test_a_strip_scales_all_that_is_added(explored, tiny_llama):
    async def scenario(explorer):
        explorer.multiplier.value = 0.5
        explorer.second.vector.value = "<b>second</b>"
        explorer.second.layer.value, explorer.second.multiplier.value = 0, -1.0
        explorer.strip.value = (-2.0, 0.0, 2.0)
        await rest(explorer)

    explorer = explored(scenario)
    first, second = VECTORS.values()
    both = [caa.Intervention(first, 2, 0.5), caa.Intervention(second, 0, -1.0)]
    conditions = {"down": [-2 * one for one in both], "unsteered": None, "up": [2 * one for one in both]}
    right = caa.generate(tiny_llama, [PROMPT], steering=conditions, max_new_tokens=N_TOKENS, progress=False)
    assert explorer.answers["answer"].tolist() == right["answer"].tolist()
    assert right["answer"].nunique() == 3
    assert explorer.answers["steering"].tolist() == [
        "first, layer 2, multiplier -1 + <b>second</b>, layer 0, multiplier +2",
        "Unsteered",
        "first, layer 2, multiplier +1 + <b>second</b>, layer 0, multiplier -2",
    ]
    assert explorer.lens["vector"].unique().tolist() == ["first", "<b>second</b>"]
    assert explorer.effect.groupby("vector")["layer"].unique().to_dict() == {"first": [2], "<b>second</b>": [0]}


def test_multiplier_zero_is_one_answer(explored):
    async def scenario(explorer):
        explorer.multiplier.value = 0.0
        await rest(explorer)

    assert explored(scenario).answers["steering"].tolist() == ["Unsteered"]


def test_a_pinned_answer_stays_and_what_was_tried_comes_back(explored, tiny_llama):
    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)
        explorer._strip.children[1].children[1].value = True
        explorer.prompt.value = "Rain"
        explorer.layer.value = 0
        await rest(explorer)
        pinned = generated(tiny_llama)[1:]
        both = [generated(tiny_llama, prompt="Rain", layer=0), pinned]
        pd.testing.assert_frame_equal(explorer.answers, pd.concat(both, ignore_index=True))
        assert f"“{PROMPT}”" in shown(explorer)[0][2]
        assert not any("“" in card for card in shown(explorer)[0][:2])
        explorer._strip.children[2].children[1].value = False
        await asyncio.sleep(0)
        assert len(shown(explorer)[0]) == 2
        explorer.prompt.value = "not asked"
        explorer.earlier.value = explorer.earlier.options[0][1]
        await rest(explorer)
        await rest(explorer)

    explorer = explored(scenario)
    assert (explorer.prompt.value, explorer.layer.value) == (PROMPT, 2)
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama))
    every = [generated(tiny_llama), generated(tiny_llama, prompt="Rain", layer=0)]
    pd.testing.assert_frame_equal(explorer.history, pd.concat(every, ignore_index=True))
    assert len(explorer.earlier.options) == 2


def test_what_was_tried_comes_back_where_nothing_but_the_prompt_differs(explored, tiny_llama):
    async def scenario(explorer):
        for prompt in (PROMPT, "Rain"):
            explorer.prompt.value = prompt
            explorer.generate.click()
            await rest(explorer)
        explorer.earlier.value = explorer.earlier.options[0][1]
        await rest(explorer)
        await rest(explorer)

    explorer = explored(scenario)
    assert explorer.prompt.value == PROMPT
    pd.testing.assert_frame_equal(explorer.answers, generated(tiny_llama))


def test_a_prompt_that_is_being_typed_stays_when_an_answer_ends(explored):
    async def scenario(explorer):
        explorer.generate.click()
        await writing(explorer, 3)
        explorer.prompt.value = "Rain tom"
        await rest(explorer)
        await asyncio.sleep(0)
        assert explorer.prompt.value == "Rain tom"

    explored(scenario)


def test_stop_stops_at_once_and_keeps_what_is_written(explored, tiny_llama):
    async def scenario(explorer):
        assert explorer.stop.disabled
        explorer.generate.click()
        await writing(explorer, 4)
        assert not explorer.stop.disabled
        assert CURSOR in shown(explorer)[0][1]
        explorer.stop.click()
        await rest(explorer)
        assert explorer.answers["n_tokens"].max() <= 6
        assert "Stopped." in shown(explorer)[1]
        assert CURSOR not in "".join(shown(explorer)[0])
        assert explorer.stop.disabled
        assert explorer.tokens.empty
        explorer.stop.click()
        explorer.generate.click()
        await rest(explorer)

    pd.testing.assert_frame_equal(explored(scenario).answers, generated(tiny_llama))


def test_words_are_those_of_the_chosen_vector_and_layer(explored, tiny_llama):
    async def scenario(explorer):
        assert explorer.effect is None
        explorer.layer.value = 1
        await writing(explorer, 3)
        assert explorer.effect is None
        assert "logit lens" in explorer._words.value
        await rest(explorer)

    explorer = explored(scenario)
    lens = caa.logit_lens(tiny_llama, VECTORS["first"], layers=1, top_k=trials.N_WORDS)
    pd.testing.assert_frame_equal(explorer.lens, lens.assign(vector="first"))
    vector = {"first": VECTORS["first"]}
    effect = caa.effect_lens(tiny_llama, vector, PAIRS, layers=1, top_k=trials.N_WORDS, words_only=True, progress=False)
    pd.testing.assert_frame_equal(explorer.effect, effect)
    for token in [*lens["token"], *effect["token"]]:
        assert escape(token) in explorer._words.value


def test_without_pairs_the_effect_is_that_on_the_models_own_answer(explored):
    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario, pairs=None)
    assert explorer.effect["format"].unique().tolist() == ["own answers"]
    assert "own answer" in explorer._words.value


def test_tokens_are_colored_by_what_is_chosen(explored):
    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)
        by_effect = shown(explorer)[0]
        explorer.color.value = "similarity"
        await asyncio.sleep(0)
        by_similarity = shown(explorer)[0]
        assert by_effect[0] == by_similarity[0]
        assert by_effect[1] != by_similarity[1]
        assert texts(by_effect) == texts(by_similarity)
        assert "cosine" in explorer._legend.value

    explored(scenario)


def test_a_saved_page_is_what_is_shown_and_loads_nothing(explored, tmp_path):
    async def scenario(explorer):
        explorer.vector.value = "<b>second</b>"
        await rest(explorer)

    explorer = explored(scenario, prompt="Is </title><script>it</script> good?")
    path = explorer.save(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")
    assert all(card in page for card in shown(explorer)[0])
    assert explorer._words.value in page
    assert not re.search(r"<(script|link|img|iframe)|url\(|@import|<b>|http", page)
    assert page.count("</title>") == 1
    with pytest.raises(caa.InputError, match=r"path: 'page.txt' must end in '.html'"):
        explorer.save("page.txt")


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
    original = trials.stream_answer

    def stream(*args, **options):
        threads.add(threading.current_thread())
        return original(*args, **options)

    monkeypatch.setattr(trials, "stream_answer", stream)

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
        yield trials.Answer("so far", (1, 2), False)
        raise RuntimeError("out of <memory>")

    monkeypatch.setattr(trials, "stream_answer", stream)

    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario)
    cards, status = shown(explorer)
    assert "RuntimeError: out of &lt;memory&gt;" in status
    assert explorer.answers["answer"].tolist() == ["so far", "so far"]
    assert CURSOR not in "".join(cards)


def test_an_answer_without_a_token_is_not_read(explored, monkeypatch):
    monkeypatch.setattr(caa.PromptFormat, "end_ids", set(range(384)))

    async def scenario(explorer):
        explorer.generate.click()
        await rest(explorer)

    explorer = explored(scenario)
    assert explorer.answers["n_tokens"].tolist() == [0, 0]
    assert explorer.tokens.empty
    assert "caa-failure" not in explorer.status.value


def test_what_models_and_users_wrote_is_text(explored, monkeypatch):
    hostile = "<img src=x onerror='alert(1)'>&amp;"
    monkeypatch.setattr(trials, "stream_answer", lambda *a, **k: iter([trials.Answer(hostile, (1,), True)]))

    async def scenario(explorer):
        explorer.vector.value = "<b>second</b>"
        await rest(explorer)

    cards, _ = shown(explored(scenario))
    assert len(cards) == 2
    assert not any("<img" in card or "<b>" in card for card in cards)
    assert all("&lt;img src=x onerror=&#x27;alert(1)&#x27;&gt;&amp;amp;" in card for card in cards)
    assert "&lt;b&gt;second&lt;/b&gt;" in cards[1]


def test_one_vector_has_the_name_of_its_behavior(explored):
    async def scenario(explorer):
        assert [name for name, _ in explorer.vector.options] == ["refusal"]

    explored(scenario, caa.SteeringVector(VECTORS["first"].values, (0, 1, 2, 3), {"behavior": "refusal"}))


@pytest.mark.parametrize(
    ("vectors", "prompt", "pairs", "error", "said"),
    [
        ({}, PROMPT, None, caa.InputError, "vectors: the mapping is empty; give at least one vector"),
        ({"a": 3}, PROMPT, None, caa.InputError, r"vectors\['a'\]: int; it must be one SteeringVector"),
        (3, PROMPT, None, caa.InputError, "vectors: int; it must be one SteeringVector"),
        (
            caa.SteeringVector(torch.ones(1, 8), (1,)),
            PROMPT,
            None,
            caa.errors.VectorMismatchError,
            "vector: its width is 8",
        ),
        (VECTORS, 3, None, caa.InputError, "prompt: 3 is not a text; give a string"),
        (VECTORS, PROMPT, [], caa.InputError, "pairs: the list is empty; give at least one ContrastPair"),
    ],
)
def test_what_explore_refuses(explored, vectors, prompt, pairs, error, said):
    async def nothing(explorer):
        pass

    with pytest.raises(error, match=said):
        explored(nothing, vectors, prompt, pairs)


def test_outside_a_notebook(tiny_llama):
    with pytest.raises(caa.InputError, match=r"explore: there is no running event loop\. Call it in a cell of a Jup"):
        caa.explore(tiny_llama, VECTORS)


def test_without_ipywidgets(explored, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)

    async def nothing(explorer):
        pass

    install = r"explore: it needs the package ipywidgets; pip install 'caa-interp\[notebooks\]'"
    with pytest.raises(caa.errors.MissingDependencyError, match=install):
        explored(nothing)
