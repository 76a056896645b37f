"""What a vector makes the model say: against plain hooked passes, derivatives, and vectors whose effect is known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

import caa_interp as caa
import caa_interp.analysis.effect as module
import caa_interp.tree.run as tree_run
from caa_interp.analysis import effect_lens
from caa_interp.models.readout import is_word, special_ids, token_texts
from tests.oracles import effect as oracle
from tests.oracles.definition import put, tokenize
from tests.tiny_models import save_tiny

PROMPTS = ["Is the weather good?", "What do you think of the sea?"]
NUMBERS = ["effect", "effect_low", "effect_high", "probability", "probability_change", "spread"]


def random_vector(size: float = 3.0, seed: int = 0, layers=(0, 1, 2, 3), **metadata) -> caa.SteeringVector:
    values = torch.randn(len(layers), 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    metadata = {"behavior": "cheer", "format": "text", **metadata}
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), layers, metadata)


VECTOR = random_vector()
ZERO_AT_2 = replace(VECTOR, values=VECTOR.values * torch.tensor([[1.0], [1], [0], [1]]))


@pytest.fixture(scope="module", params=["llama", "gemma 2"])
def both(request, tmp_path_factory, tiny_folder):
    """A model in float64, and Hugging Face's own of the same folder; Gemma 2 caps its logits."""
    folder = tiny_folder if request.param == "llama" else save_tiny(tmp_path_factory.mktemp("effect"), request.param)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    assert request.param == "llama" or plain.config.final_logit_softcapping
    return caa.load_model(folder, device="cpu", dtype="float64"), plain


@pytest.fixture(params=["tree", "plain"])
def path(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)
    return request.param


def lens(model, vector, texts, **options) -> pd.DataFrame:
    """All tokens that can be ranked, the most raised first."""
    d_vocab = len(model.tokenizer)
    ends = {model.tokenizer.eos_token_id}
    options = {"top_k": d_vocab - len(special_ids(model.tokenizer) - ends), "progress": False, **options}
    table = effect_lens(model, vector, texts, **options)
    return table[table["side"] == "raised"].reset_index(drop=True)


def sequences_of(tokenizer, pairs):
    return [
        [
            (
                tokenize(tokenizer, put(tokenizer, pair.question, answer)),
                len(tokenize(tokenizer, put(tokenizer, pair.question))),
            )
            for answer in (pair.positive, pair.negative)
        ]
        for pair in pairs
    ]


def assert_is(table, expected, tolerance=1e-6):
    """Against what :func:`oracle.effects` found, with Student's t over items."""
    ids = table["token_id"].to_numpy()
    n = len(expected[0])
    for name, values in zip(("effect", "probability_change"), expected[:2], strict=True):
        mean, error = values.numpy().mean(0)[ids], stats.sem(values.numpy(), axis=0)[ids]
        np.testing.assert_allclose(table[name], mean, atol=tolerance, rtol=0)
        low, high = stats.t.interval(0.95, n - 1, loc=mean, scale=error)
        np.testing.assert_allclose(table[f"{name}_low"], low, atol=tolerance, rtol=0)
        np.testing.assert_allclose(table[f"{name}_high"], high, atol=tolerance, rtol=0)
    np.testing.assert_allclose(table["probability"], expected[2].numpy().mean(0)[ids], atol=tolerance, rtol=0)
    effect = expected[0].mean(0).numpy()
    beyond = stats.t.sf(np.abs(effect) / stats.sem(expected[0].numpy(), axis=0), n - 1) * 2 < 0.05 / len(effect)
    assert set(table["n_excluding_zero"]) == {beyond.sum()}
    np.testing.assert_allclose(table["spread"], effect.std(), atol=tolerance)
    squares = sorted(effect**2, reverse=True)
    n_half = int(table["n_half"].iloc[0])
    assert sum(squares[: n_half - 1]) < sum(squares) / 2 <= sum(squares[:n_half])


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize(
    ("at", "multipliers"),
    [("answer", (-1.0, 1.0)), ("first", (-1.0, 1.0)), ("later", (0.0, 1.0)), ("answer", (2.0, -0.5))],
)
def test_is_a_difference_of_plain_hooked_passes(both, pairs, path, at, multipliers):
    model, plain = both
    items = sequences_of(model.tokenizer, pairs)
    for layer in (0, 2, 3):
        table = lens(model, VECTOR, pairs, layers=layer, multipliers=multipliers, at=at)
        edits = [(layer, VECTOR.at(layer), 1.0, ("add",), "from_last_prompt_token")]
        assert_is(table, oracle.effects(plain, items, edits, multipliers, at))
        assert set(table["path"]) == {path}
        assert table["effect"].abs().max() > 0.1


@pytest.mark.usefixtures("stay_double")
def test_interventions_are_scaled_together(tiny_llama_64, plain_llama_64, pairs, path):
    both = [
        caa.Intervention(VECTOR, layer=1, multiplier=1.5, positions="answer"),
        caa.Intervention(random_vector(seed=1), layer=2, operator=caa.ablate),
    ]
    edits = [
        (1, VECTOR.at(1), 1.5, ("add",), "answer"),
        (2, random_vector(seed=1).at(2), 1.0, ("ablate",), "from_last_prompt_token"),
    ]
    table = lens(tiny_llama_64, {"both": both}, pairs, multipliers=(0, 1))
    items = sequences_of(tiny_llama_64.tokenizer, pairs)
    assert_is(table, oracle.effects(plain_llama_64, items, edits, (0.0, 1.0)))
    assert set(table["vector"]) == {"both"}


@pytest.mark.usefixtures("stay_double")
def test_prompts_are_read_along_the_unsteered_models_own_answers(tiny_llama_64, plain_llama_64, path):
    tokenizer = tiny_llama_64.tokenizer
    items = []
    for prompt in PROMPTS:
        asked = tokenize(tokenizer, put(tokenizer, prompt))
        answer = oracle.steered_greedy(plain_llama_64, asked, 6, {tokenizer.eos_token_id})
        items.append([(asked + answer, len(asked))])
    table = lens(tiny_llama_64, VECTOR, PROMPTS, layers=1, n_tokens=6)
    edits = [(1, VECTOR.at(1), 1.0, ("add",), "from_last_prompt_token")]
    assert_is(table, oracle.effects(plain_llama_64, items, edits, (-1.0, 1.0)))
    assert set(table["format"]) == {"own answers"}


@pytest.mark.usefixtures("stay_double")
def test_what_is_complete_at_one_is_read_from_zero_to_one(both, pairs):
    model, _ = both
    added, capped = caa.Intervention(VECTOR, 1), caa.Intervention(VECTOR, 2, operator=caa.Cap(high=0))
    for steering, least in (([[added]], -1.0), ([[capped]], 0.0), ([[added, capped]], 0.0)):
        table = lens(model, steering, pairs[:1])
        assert set(table["from_multiplier"]) == {least}
        pd.testing.assert_frame_equal(table, lens(model, steering, pairs[:1], multipliers=(least, 1)))


@pytest.mark.usefixtures("stay_double")
# PyTorch's own forward-mode rules are compiled with torch.jit.script, which it deprecates.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
def test_approaches_the_derivative_as_the_multipliers_shrink(both, pairs):
    model, plain = both
    items = sequences_of(model.tokenizer, pairs[:1])

    def mean_log_probs(multiplier):
        def add(_, __, output):
            moved = VECTOR.at(1) * multiplier * (torch.arange(output.shape[1]) >= n_prompt - 1)[:, None]
            return output + moved

        rows = []
        for tokens, n_prompt in items[0]:
            handle = plain.model.layers[1].register_forward_hook(add)
            try:
                logits = plain(torch.tensor([tokens]), use_cache=False).logits[0]
            finally:
                handle.remove()
            rows.append(logits.log_softmax(-1)[oracle.places(tokens, n_prompt, "answer")])
        mean = torch.cat(rows).mean(0)
        return mean - mean.mean()

    exact = torch.func.jvp(mean_log_probs, (torch.tensor(0.0).double(),), (torch.tensor(1.0).double(),))[1].detach()
    errors = []
    for step in (0.1, 0.01, 0.001):
        table = lens(model, VECTOR, pairs[:1], layers=1, multipliers=(-step, step))
        errors.append(np.abs(table["effect"] - exact.numpy()[table["token_id"]]).max())
    # The error of a central difference falls with the square of its step.
    assert all(small == pytest.approx(large / 100, rel=0.1) for large, small in pairwise(errors))
    assert errors[-1] < 1e-6 < exact.abs().max()


@pytest.mark.usefixtures("stay_double")
def test_depends_neither_on_order_nor_on_what_is_read_beside(tiny_llama_64, pairs, monkeypatch):
    vectors = {"cheer": VECTOR, **caa.random_vectors(VECTOR, 2)}
    options = {"layers": (0, 2), "top_k": 20, "progress": False}
    every = effect_lens(tiny_llama_64, vectors, pairs, **options)
    alone = effect_lens(tiny_llama_64, VECTOR, pairs, **options)
    turned = effect_lens(tiny_llama_64, vectors, pairs[::-1], **options)
    monkeypatch.setattr(module, "_BYTES", 1)  # every condition in a round of its own
    rounds = effect_lens(tiny_llama_64, vectors, iter(pairs), **options)
    pd.testing.assert_frame_equal(every[every["vector"] == "cheer"].reset_index(drop=True), alone, rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(turned, every, rtol=0, atol=1e-9)
    pd.testing.assert_frame_equal(rounds, every, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("stay_double")
def test_the_opposite_vector_has_the_opposite_effect(tiny_llama_64, pairs):
    options = {"layers": 1, "top_k": 9, "progress": False}
    one, other = (effect_lens(tiny_llama_64, vector, pairs, **options) for vector in (VECTOR, -VECTOR))
    for side, opposite in (("raised", "lowered"), ("lowered", "raised")):
        mine, theirs = one[one["side"] == side], other[other["side"] == opposite]
        assert mine["token_id"].tolist() == theirs["token_id"].tolist()
        np.testing.assert_allclose(mine["effect"], -theirs["effect"], atol=1e-9)
        np.testing.assert_allclose(mine["effect_low"], -theirs["effect_high"], atol=1e-9)


@pytest.mark.parametrize("token", [40, 97, 300])
def test_an_unembedding_direction_at_the_last_layer_raises_its_token(tiny_llama, pairs, token):
    direction = tiny_llama.W_U[:, token].detach().cpu()
    vector = caa.SteeringVector(direction[None], (3,), {"format": "text", "behavior": "token"})
    for weighted in (False, True):
        table = effect_lens(tiny_llama, vector, pairs, top_k=1, weighted=weighted, progress=False)
        assert table.loc[table["side"] == "raised", "token_id"].tolist() == [token]
        assert set(table["ranked_by"]) == {"probability_change" if weighted else "effect"}


def test_ranks_are_the_extremes_of_what_is_asked(tiny_llama, pairs):
    whole = lens(tiny_llama, VECTOR, pairs, layers=1)
    for measure, weighted in (("effect", False), ("probability_change", True)):
        table = effect_lens(tiny_llama, VECTOR, pairs, layers=1, top_k=5, weighted=weighted, progress=False)
        ordered = whole.sort_values(measure)["token_id"].tolist()
        found = table.groupby("side")["token_id"].agg(list)
        assert found.to_dict() == {"raised": ordered[::-1][:5], "lowered": ordered[:5]}
        assert table["rank"].tolist() == [1, 2, 3, 4, 5] * 2
        assert table["token"].tolist() == token_texts(tiny_llama.tokenizer, table["token_id"])
    assert whole["effect"].is_monotonic_decreasing


def test_special_tokens_are_left_out_unless_they_end_an_answer(tiny_llama, pairs):
    tokenizer = tiny_llama.tokenizer
    found = set(lens(tiny_llama, VECTOR, pairs, layers=1)["token_id"])
    assert set(range(len(tokenizer))) - found == {tokenizer.bos_token_id, tokenizer.pad_token_id}


def test_only_words_are_ranked_if_asked(tiny_llama, pairs):
    tokenizer = tiny_llama.tokenizer
    texts = token_texts(tokenizer, range(len(tokenizer)))
    words = {text for text in texts if is_word(text)}
    assert {"␣weather", "␣good"} <= words
    table = lens(tiny_llama, VECTOR, pairs, layers=1, words_only=True, top_k=len(words))
    assert set(table["token"]) == words
    every = lens(tiny_llama, VECTOR, pairs, layers=1).set_index("token")
    np.testing.assert_allclose(table["effect"], every.loc[table["token"], "effect"], atol=1e-6)
    with pytest.raises(
        caa.InputError, match=f"top_k: {len(words) + 1}; it must be a whole number from 1 to {len(words)}"
    ):
        lens(tiny_llama, VECTOR, pairs, words_only=True, top_k=len(words) + 1)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *[("␣good", True), ("␣über", True), ("␣the", True), ("good", False), ("␣of", False), ("␣2024", False)],
        *[("␣don't", False), ("␣", False), ("␣␣the", False), (r"␣caf\xc3", False), ("␣good␣", False), ("", False)],
    ],
)
def test_what_a_word_is(text, word):
    assert is_word(text) == word


def test_one_item_gives_no_interval(tiny_llama, pairs):
    table = effect_lens(tiny_llama, VECTOR, pairs[:1], layers=1, top_k=2, progress=False)
    assert table["n"].tolist() == [1] * 4
    assert table[["effect_low", "effect_high", "n_excluding_zero"]].isna().all(axis=None)
    assert table[["effect", "spread", "n_half"]].notna().all(axis=None)


def test_lenses_of_single_items_have_the_whole_as_their_mean(tiny_llama_64, pairs):
    columns = ["effect", "probability", "probability_change"]
    whole, *single = (
        lens(tiny_llama_64, VECTOR, some, layers=1).sort_values("token_id")[columns].to_numpy()
        for some in (pairs, *([pair] for pair in pairs))
    )
    np.testing.assert_allclose(np.mean(single, axis=0), whole, atol=1e-9)


def test_choices_are_read_in_both_letter_orders(tiny_llama, pairs):
    table = effect_lens(tiny_llama, VECTOR, pairs, layers=1, top_k=2, format="choices", progress=False)
    assert set(table["format"]) == {"choices"}
    assert set(table["n"]) == {3}


@pytest.mark.usefixtures("stay_double")
def test_what_an_open_context_does_is_the_baseline(tiny_llama_64, plain_llama_64, pairs):
    other, rule = random_vector(8.0, seed=3), "from_last_prompt_token"
    below = [(2, other.at(2), 1.0, ("add",), rule)]
    (item,), rows = sequences_of(tiny_llama_64.tokenizer, pairs[:1]), {}
    for sign in (-1, 0, 1):
        edits = [*below, (3, sign * VECTOR.at(3), 1.0, ("add",), rule)]
        rows[sign] = oracle.distributions(plain_llama_64, item, edits, "answer", 1)
    with caa.steer(tiny_llama_64, other, layer=2, multiplier=1.0):
        one = lens(tiny_llama_64, VECTOR, pairs[:1], layers=3)
    change = (rows[1] - rows[-1]).mean(0) / 2
    ids = one["token_id"].to_numpy()
    np.testing.assert_allclose(one["effect"], (change - change.mean()).numpy()[ids], atol=1e-6)
    np.testing.assert_allclose(one["probability"], rows[0].exp().mean(0).numpy()[ids], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": (1,)}, r"multipliers: \[1.0\]; an effect is between two. Give two numbers, such as \(-1, 1\)"),
        ({"multipliers": (1, 1)}, "multipliers: .* lists one twice"),
        ({"multipliers": (0, float("nan"))}, "nan is not a finite number"),
        ({"at": "end"}, "at: 'end' is not one of 'answer', 'first', 'later'"),
        ({"top_k": 0}, "top_k: 0; it must be a whole number from 1 to "),
        ({"n_tokens": 0}, "n_tokens: 0; it must be a whole number of at least 1"),
        ({"layers": 7}, "layer 7: the vector has layers 0 to 3"),
        ({"texts": []}, "texts: an empty list; give a list of contrast pairs, such as behavior.test, or of prompts"),
        ({"texts": "Why?"}, "texts: str; give a list of contrast pairs, such as behavior.test, or of prompts"),
        ({"texts": None}, "texts: NoneType; give a list"),
        ({"texts": PROMPTS, "format": "text"}, "format: 'text'; prompts have none"),
        ({"format": "letters"}, "format: 'letters' is not one of"),
        ({"vector": {"unsteered": None}, "layers": None}, "vector: 'unsteered' changes nothing, .* Leave it out"),
        ({"vector": ZERO_AT_2, "layers": None}, r"vector: 'cheer' changes nothing, .*\(1 of cheer, layer 2,"),
        ({"vector": {}}, "vector: it is empty"),
    ],
)
def test_what_cannot_be_read_is_refused_before_any_work(tiny_llama, pairs, monkeypatch, options, message):
    monkeypatch.setattr(module, "read_under", lambda *_: pytest.fail("work was done"))
    given = {"vector": VECTOR, "texts": pairs, "layers": 1, **options}
    with pytest.raises(caa.InputError, match=message):
        effect_lens(tiny_llama, given.pop("vector"), given.pop("texts"), progress=False, **given)


def test_pairs_and_prompts_are_not_mixed(tiny_llama, pairs):
    with pytest.raises(caa.InputError, match=r"texts\[1\] is str; every item must be a ContrastPair"):
        effect_lens(tiny_llama, VECTOR, [pairs[0], "Why?"], layers=1, progress=False)


def test_answers_of_one_token_have_no_later_ones(tiny_llama):
    pair = caa.ContrastPair("Is it good?", "good", "weather")
    with pytest.raises(caa.InputError, match=r"at: 'later', but the answers of texts\[0\] have one token"):
        effect_lens(tiny_llama, VECTOR, [pair], layers=1, at="later", progress=False)
