"""Vectors and steered states as tokens: against plain Hugging Face models, in several architectures, as figures."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GPTNeoXConfig, PreTrainedTokenizerFast

import caa_interp as caa
from caa_interp.analysis import effect_attribution
from caa_interp.models.readout import (
    COMPONENTS,
    component_states,
    read_logits,
    special_ids,
    token_texts,
    visible,
)
from caa_interp.prompts.format import PromptFormat
from tests.tiny_models import save_tiny, small_tokenizer

PROMPT = "What do you think of the weather?"
ANSWER = "I like it"
LAYER = 1


def random_vector(size: float = 6.0, seed: int = 0, **metadata) -> caa.SteeringVector:
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    metadata = {"model": "tiny-llama", "behavior": "cheer", "n_pairs": 7, **metadata}
    return caa.SteeringVector(size * values / values.norm(dim=1, keepdim=True), (0, 1, 2, 3), metadata)


VECTOR = random_vector()


# The strings of tokens


@settings(deadline=None)
@given(st.binary(max_size=12))
def test_what_is_written_can_be_read_back_so_different_bytes_look_different(content):
    def read(match):
        code = match[0]
        if code == "\\\\":
            return b"\\"
        if code[1] in "tnr":
            return {"t": b"\t", "n": b"\n", "r": b"\r"}[code[1]]
        return bytes([int(code[2:], 16)]) if code[1] == "x" else chr(int(code[2:], 16)).encode()

    written = visible(content)
    parts = re.split(r"(\\\\|\\[tnr]|\\x[0-9a-f]{2}|\\u[0-9a-f]{4}|\\U[0-9a-f]{8})", written)
    found = [part.replace("␣", " ").encode() if number % 2 == 0 else read([part]) for number, part in enumerate(parts)]
    assert b"".join(found) == content
    assert written.isprintable()
    assert " " not in written


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (b" happy", "␣happy"),
        (b"happy", "happy"),
        (b"\n\t", r"\n\t"),
        ("café 好".encode(), "café␣好"),
        (b"\xe2\x80", r"\xe2\x80"),
        ("\u200b\xa0".encode(), r"\u200b\u00a0"),
        ("\U000e0001".encode(), r"\U000e0001"),
        ("␣".encode(), r"\u2423"),
        (b"\\n", r"\\n"),
        (b"<b>", "<b>"),
    ],
)
def test_how_tokens_are_written(content, shown):
    assert visible(content) == shown


def test_tokens_of_a_byte_level_tokenizer():
    tokenizer = small_tokenizer()
    ids = tokenizer(" I like\n\u2019")["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert texts[0] == "<s>"
    assert "".join(texts[1:]) == r"␣I␣like\n\xe2\x80\x99"
    assert len(set(token_texts(tokenizer, range(len(tokenizer))))) == len(tokenizer)


def test_tokens_of_a_sentencepiece_tokenizer():
    vocab = {"<unk>": 0, "<s>": 1, "<0x0A>": 2, "▁happy": 3, "happy": 4, "Ġ": 5, "▁▁": 6, "<0xE2>": 7, "▁": 8, "a": 9}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens([AddedToken("<s>", special=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>")
    expected = ["<unk>", "<s>", r"\n", "␣happy", "happy", "Ġ", "␣␣", r"\xe2", "␣", "a", "<unused 700>"]
    assert token_texts(tokenizer, [*range(10), 700]) == expected
    assert special_ids(tokenizer) == {0, 1}


# The readout, in several architectures


def _config(name):
    if name == "gpt-2":
        return GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=256)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    if name == "pythia":
        return GPTNeoXConfig(**shape)
    return Gemma2Config(**shape, head_dim=16, num_key_value_heads=2, final_logit_softcapping=2.0)


@pytest.fixture(scope="module", params=["llama", "gpt-2", "pythia", "gemma 2, with capped logits"])
def model(request, tiny_llama, tmp_path_factory):
    if request.param == "llama":
        return tiny_llama
    config, tokenizer = _config(request.param), small_tokenizer()
    folder = tmp_path_factory.mktemp("lens") / "tiny-llama"  # the name that the vectors say
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    original = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in original.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                weight.copy_(drawn / weight.shape[1] ** 0.5)
            elif name.endswith("bias"):
                weight.copy_(0.3 * drawn)
            elif "norm" in name or "ln" in name:
                weight.add_(0.2 * drawn)
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu", dtype="float32")


def logits_at_the_end(model, tokens, start, multiplier):
    with torch.no_grad(), caa.steer(model, VECTOR, LAYER, multiplier, prompt_length=start + 1):
        return model(torch.tensor([tokens]))[0, -1]


def encoded(model, answer=""):
    form = PromptFormat.of(model)
    prompt, whole = form.tokens(PROMPT).tokens, form.tokens(PROMPT, answer).tokens
    assert whole[: len(prompt)] == prompt
    return whole, len(prompt) - 1


@pytest.mark.parametrize("multiplier", [0.0, 1.5])
def test_the_last_blocks_output_gives_the_models_own_logits(model, multiplier):
    tokens, start = encoded(model, ANSWER)
    expected = logits_at_the_end(model, tokens, start, multiplier)
    with caa.steer(model, VECTOR, LAYER, multiplier, prompt_length=start + 1):
        state = component_states(model, tokens, [3])[3, "block output"]
    torch.testing.assert_close(read_logits(model, state[None])[0], expected, rtol=1e-4, atol=1e-4)


def test_transformer_lens_reads_the_same(model):
    logit_readout = pytest.importorskip("transformer_lens.tools.analysis.logit_lens").logit_readout
    states = 5 * torch.randn(9, 64, generator=torch.Generator().manual_seed(3))
    found, expected = read_logits(model, states), logit_readout(model, states).values
    assert found.shape == (9, int(model.cfg.d_vocab))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_in_half_precision_states_and_logits_are_not_rounded(tiny_folder):
    half, exact = (caa.load_model(tiny_folder, device="cpu", dtype=dtype) for dtype in ("bfloat16", "float32"))
    with torch.no_grad():  # the same weights
        for there, here in zip(exact.original_model.parameters(), half.original_model.parameters(), strict=True):
            there.copy_(here)
    states = 5 * torch.randn(9, 64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(read_logits(half, states), read_logits(exact, states), rtol=1e-5, atol=1e-5)


def test_a_state_that_is_not_a_number_is_an_error(tiny_folder):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16", progress=False)
    with pytest.raises(caa.errors.ModelError, match=r"^Intervention\(-1 of cheer, layer 1.*not a number"):
        caa.steered_lens(model, PROMPT, random_vector(4e6), layer=1)


def test_the_states_are_those_that_they_are_called(model):
    tokens, start = encoded(model)
    unsteered = component_states(model, tokens, range(4))
    with caa.steer(model, VECTOR, LAYER, 1.5, prompt_length=start + 1):
        steered = component_states(model, tokens, range(4))
    parallel = (0, "mid residual") not in unsteered
    assert parallel == bool(getattr(model.original_model.config, "use_parallel_residual", False))
    for layer in range(4):
        names = [name for at, name in unsteered if at == layer]
        assert names == [name for name in COMPONENTS if not (parallel and name == "mid residual")]
        for states, addition in ((unsteered, 0), (steered, 1.5 * VECTOR.at(LAYER) if layer == LAYER else 0)):
            before = states[layer - 1, "block output"] if layer else None
            attention, mlp = states[layer, "attention output"], states[layer, "MLP output"]
            if not parallel:
                before = before if before is None else before + attention
                middle = states[layer, "mid residual"]
                if before is not None:
                    torch.testing.assert_close(middle, before, rtol=1e-4, atol=1e-4)
                before = middle
            elif before is not None:
                before = before + attention
            if before is not None:
                expected = before + mlp + addition
                torch.testing.assert_close(states[layer, "block output"], expected, rtol=1e-4, atol=1e-4)


def test_what_comes_before_the_steered_output_is_untouched(model):
    table = caa.steered_lens(model, PROMPT, VECTOR, layer=LAYER, multipliers=(0, 2))
    plain, steered = (table[table["multiplier"] == m].set_index(["layer", "component", "rank"]) for m in (0, 2))
    unchanged = [key for key in plain.index if key[0] < LAYER or (key[0] == LAYER and key[1] != "block output")]
    pd.testing.assert_frame_equal(
        plain.loc[unchanged].drop(columns="multiplier"), steered.loc[unchanged].drop(columns="multiplier")
    )
    later = plain.index.get_level_values("layer") >= LAYER
    assert (plain["logit"] != steered["logit"])[later].mean() > 0.6
    n_components = 3 if "mid residual" not in set(table["component"]) else 4
    assert len(table) == 2 * 4 * n_components * 5


# The lens of a vector


def plain_norm(plain_llama, state):
    """RMSNorm, written out, without epsilon."""
    return plain_llama.model.norm.weight * state / state.square().mean(-1, keepdim=True).sqrt()


def test_logit_lens_equals_norm_and_unembedding_written_out(tiny_llama, plain_llama, tokenizer):
    table = caa.logit_lens(tiny_llama, VECTOR, layers=[3, 1], top_k=4)
    names = ["layer", "side", "rank", "token", "token_id", "logit"]
    assert list(table.columns) == ["vector", *names, "n_pairs", "model"]
    rows = []
    for layer in (3, 1):
        with torch.no_grad():
            logits = plain_llama.lm_head.weight @ plain_norm(plain_llama, VECTOR.at(layer))
        order = np.argsort(logits.numpy())
        for side, ids in (("promoted", order[::-1][:4]), ("suppressed", order[:4])):
            for rank, token_id in enumerate(ids, start=1):
                rows.append((layer, side, rank, token_id, float(logits[token_id] - logits.mean())))
    expected = pd.DataFrame(rows, columns=[name for name in names if name != "token"])
    pd.testing.assert_frame_equal(table[list(expected)], expected, rtol=1e-4)
    assert table["token"].tolist() == token_texts(tokenizer, table["token_id"])
    assert table[["vector", "n_pairs", "model"]].drop_duplicates().values.tolist() == [["cheer", 7, "tiny-llama"]]
    assert not table.attrs


def test_tables_of_vectors_that_say_less_can_be_put_beside_others_and_kept(tiny_llama, tmp_path):
    bare = caa.SteeringVector(VECTOR.values, VECTOR.layers, {"model": "tiny-llama"})
    tables = [caa.logit_lens(tiny_llama, vector, top_k=1) for vector in (VECTOR, bare)]
    joined = pd.concat(tables, ignore_index=True)
    joined.to_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), joined)
    assert joined.drop_duplicates("vector")["n_pairs"].tolist() == [7, pd.NA]
    assert "of 7 pairs" not in caa.plot_logit_lens(tables[1]).layout.title.text


def test_a_token_that_is_planted_is_found(tiny_llama, plain_llama, tokenizer):
    wanted = tokenizer.convert_tokens_to_ids("Ġweather")
    direction = (plain_llama.lm_head.weight[wanted] / plain_llama.model.norm.weight).detach()
    vector = caa.SteeringVector(torch.stack([direction, -direction]), (0, 2), {"model": "tiny-llama"})
    table = caa.logit_lens(tiny_llama, vector, top_k=1).set_index(["layer", "side"])["token"]
    assert table[0, "promoted"] == "␣weather"
    assert table[2, "suppressed"] == "␣weather"


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_length_does_not_matter(model, factor):
    expected, found = caa.logit_lens(model, VECTOR), caa.logit_lens(model, factor * VECTOR)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3)


def test_a_negative_vector_swaps_the_sides_under_rmsnorm(tiny_llama):
    one, other = caa.logit_lens(tiny_llama, VECTOR), caa.logit_lens(tiny_llama, -VECTOR)
    swapped = other.assign(
        side=other["side"].map({"promoted": "suppressed", "suppressed": "promoted"}), logit=-other["logit"]
    )
    swapped = swapped.sort_values(["layer", "side", "rank"], ignore_index=True)
    pd.testing.assert_frame_equal(swapped, one, rtol=1e-4)


def test_one_layer_may_be_given_as_a_number(tiny_llama):
    every = caa.logit_lens(tiny_llama, VECTOR)
    one = caa.logit_lens(tiny_llama, VECTOR, layers=2)
    expected = every[every["layer"] == 2].reset_index(drop=True)
    pd.testing.assert_frame_equal(one, expected, rtol=1e-4)


@pytest.mark.parametrize("top_k", [0, -1, 385, 2.0, True, None])
def test_top_k_that_is_none(tiny_llama, top_k):
    message = re.escape(f"top_k: {top_k!r}; it must be a whole number from 1 to {tiny_llama.cfg.d_vocab}.")
    with pytest.raises(caa.InputError, match=message):
        caa.logit_lens(tiny_llama, VECTOR, top_k=top_k)
    with pytest.raises(caa.InputError, match=message):
        caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=1, top_k=top_k)


def test_top_k_may_be_the_vocabulary(tiny_llama):
    size = int(tiny_llama.cfg.d_vocab)
    table = caa.logit_lens(tiny_llama, VECTOR, layers=1, top_k=size)
    promoted = table[table["side"] == "promoted"]
    assert sorted(promoted["token_id"]) == list(range(size))
    assert promoted["logit"].sum() == pytest.approx(0, abs=1e-3)


def test_a_vector_that_is_zero_somewhere(tiny_llama):
    values = VECTOR.values.clone()
    values[2] = 0
    vector = caa.SteeringVector(values, VECTOR.layers, VECTOR.metadata)
    with pytest.raises(caa.InputError, match=r"vector: it is zero at layer 2, so it has no direction there\. Leave"):
        caa.logit_lens(tiny_llama, vector)
    assert len(caa.logit_lens(tiny_llama, vector, layers=[1])) == 20


def test_a_layer_that_the_vector_has_not(tiny_llama):
    with pytest.raises(caa.InputError, match="layer 4: the vector has layers 0 to 3"):
        caa.logit_lens(tiny_llama, VECTOR, layers=[4])
    with pytest.raises(caa.InputError, match="layer 4: the vector has layers 0 to 3"):
        caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=4)
    with pytest.raises(caa.InputError, match="layer 7: the model has layers 0 to 3"):
        caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=1, layers=[7])


def test_a_vector_of_another_model(tiny_llama):
    other = random_vector(model="another")
    for call in (
        lambda: caa.logit_lens(tiny_llama, other),
        lambda: caa.steered_lens(tiny_llama, PROMPT, other, layer=1),
    ):
        with pytest.raises(caa.errors.VectorMismatchError, match="it was made from 'another'"):
            call()


def test_a_model_that_cannot_be_read(tmp_path):
    model = caa.load_model(save_tiny(tmp_path / "model", "opt 350m"), device="cpu", progress=False)
    vector = random_vector(model="model")
    pair = caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")
    for call in (
        lambda: caa.logit_lens(model, vector),
        lambda: caa.steered_lens(model, PROMPT, vector, layer=1),
        lambda: effect_attribution(model, vector, [pair], layer=1, format="text", progress=False),
    ):
        with pytest.raises(caa.errors.ModelError, match=r"'model': it has no final norm .* Use a model whose logits"):
            call()


# The lens of steered states


def plain_states(plain_llama, tokens, layer, addition, start):
    """States at the last position of a steered plain model, from hooks on its modules."""
    states = {}

    def keep(key):
        return lambda _, inputs, output: states.update({key: (output[0] if type(output) is tuple else output)[0, -1]})

    def add(_, inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, start:] += addition
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [plain_llama.model.layers[layer].register_forward_hook(add)]
    for number, block in enumerate(plain_llama.model.layers):
        handles += [
            block.self_attn.register_forward_hook(keep((number, "attention output"))),
            block.mlp.register_forward_hook(keep((number, "MLP output"))),
            block.register_forward_hook(keep((number, "block output"))),
            block.post_attention_layernorm.register_forward_pre_hook(
                lambda _, inputs, number=number: states.update({(number, "mid residual"): inputs[0][0, -1]})
            ),
        ]
    with torch.no_grad():
        plain_llama(torch.tensor([tokens]), use_cache=False)
    for handle in handles:
        handle.remove()
    return states


@pytest.mark.parametrize("answer", ["", ANSWER])
def test_steered_lens_equals_hooks_on_a_plain_model(tiny_llama, plain_llama, answer):
    tokens, start = encoded(tiny_llama, answer)
    table = caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=2, multipliers=(-1, 0, 1.5), answer=answer, top_k=3)
    columns = ["multiplier", "layer", "component", "rank", "token", "token_id", "logit", "probability"]
    condition = ["vector", "kind", "steered_layer", "multiplier", "operator", "positions"]
    assert list(table.columns) == [*condition, *columns[1:], "read_at", "model", "prompt_digest"]
    rows = []
    for multiplier in (-1.0, 0.0, 1.5):
        states = plain_states(plain_llama, tokens, 2, multiplier * VECTOR.at(2), start)
        for layer in range(4):
            for component in COMPONENTS:
                with torch.no_grad():
                    logits = plain_llama.lm_head(plain_llama.model.norm(states[layer, component]))
                for rank, token_id in enumerate(logits.argsort(descending=True)[:3].tolist(), start=1):
                    logit = float(logits[token_id] - logits.mean())
                    probability = float(logits.softmax(-1)[token_id])
                    rows.append((multiplier, layer, component, rank, token_id, logit, probability))
    expected = pd.DataFrame(rows, columns=[name for name in columns if name != "token"])
    pd.testing.assert_frame_equal(table[list(expected)], expected, rtol=1e-3, atol=1e-4)
    assert table["token"].tolist() == token_texts(tiny_llama.tokenizer, table["token_id"])
    (read_at,) = token_texts(tiny_llama.tokenizer, tokens[-1:])
    about = table[["vector", "steered_layer", "read_at", "model"]].drop_duplicates()
    assert about.values.tolist() == [["cheer", 2, read_at, "tiny-llama"]]
    assert not table.attrs


def test_the_answer_and_the_system_prompt_are_read(tiny_llama):
    plain = caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=2, layers=[3])
    assert set(plain["layer"]) == {3}
    for options in ({"answer": ANSWER}, {"system_prompt": "Be short."}):
        other = caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=2, layers=[3], **options)
        assert not np.allclose(plain["logit"], other["logit"], atol=1e-2)


def test_nothing_is_left_behind(tiny_llama):
    def n_hooks():
        return sum(len(point.fwd_hooks) for point in tiny_llama.hook_dict.values())

    before = n_hooks()
    caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=2)
    assert n_hooks() == before


def test_steered_lens_refuses_what_it_cannot_read(tiny_llama):
    with pytest.raises(caa.InputError, match="prompt: ' ' is not a text; give a non-empty string"):
        caa.steered_lens(tiny_llama, " ", VECTOR, layer=1)
    with pytest.raises(caa.InputError, match="answer: None is not a text; give a string, or leave it out"):
        caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=1, answer=None)
    with pytest.raises(caa.InputError, match="multiplier: nan is not a finite number"):
        caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=1, multipliers=[float("nan")])
    for several in (VECTOR, {"a": VECTOR, "b": -VECTOR}):
        with pytest.raises(caa.InputError, match=r"layer: .* needs one\. Give one of its layers"):
            caa.steered_lens(tiny_llama, PROMPT, several)


def test_a_model_without_a_tokenizer():
    cfg = SimpleNamespace(d_model=64, n_layers=4, model_name="tiny-llama", d_vocab=99)
    model = type("Model", (), {"cfg": cfg, "tokenizer": None})()
    with pytest.raises(caa.InputError, match="model: it has no tokenizer"):
        caa.logit_lens(model, VECTOR)


# Figures


@pytest.fixture(scope="module")
def lens(tiny_llama):
    return caa.logit_lens(tiny_llama, VECTOR, layers=[1, 3, 0], top_k=4)


@pytest.fixture(scope="module")
def steered(tiny_llama):
    return caa.steered_lens(tiny_llama, PROMPT, VECTOR, layer=1, layers=[0, 1, 3], multipliers=(1, 0, -2), top_k=2)


def split(fig):
    """Heatmaps, and for each the texts over its cells."""
    assert [one.type for one in fig.data] == ["heatmap", "scatter"] * (len(fig.data) // 2)
    texts = [dict(zip(zip(one.x, one.y, strict=True), one.text, strict=True)) for one in fig.data[1::2]]
    for heatmap, text, over in zip(fig.data[::2], texts, fig.data[1::2], strict=True):
        assert heatmap.xaxis == over.xaxis
        assert list(text) == [(x, y) for y in heatmap.y for x in heatmap.x]
    return fig.data[::2], texts


def shown_token(text):
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&#36;", "$"), ("&amp;", "&")):
        text = text.replace(entity, letter)
    return text


def test_the_lens_figure_has_every_token_in_its_cell(lens):
    fig = caa.plot_logit_lens(lens.sample(frac=1, random_state=0))
    assert [one.text for one in fig.layout.annotations] == ["promoted tokens", "suppressed tokens"]
    for side, heatmap, text in zip(("promoted", "suppressed"), *split(fig), strict=True):
        assert list(heatmap.y) == ["0", "1", "3"]
        assert list(heatmap.x) == ["1", "2", "3", "4"]
        for row, layer in enumerate((0, 1, 3)):
            for column, rank in enumerate((1, 2, 3, 4)):
                at = (lens["layer"] == layer) & (lens["rank"] == rank) & (lens["side"] == side)
                (cell,) = lens[at].itertuples()
                assert heatmap.z[row][column] == cell.logit
                assert shown_token(heatmap.customdata[row][column]).startswith(f"{cell.token}: ")
                assert shown_token(text[str(rank), str(layer)]) == cell.token
    axis = fig.layout.coloraxis
    assert axis.cmin == -axis.cmax == pytest.approx(-lens["logit"].abs().max())
    assert "vector of 7 pairs" in fig.layout.title.text
    assert fig.layout.title.text.startswith("cheer as tokens")


@pytest.mark.parametrize("side", ["promoted", "suppressed"])
def test_one_side_of_the_lens(lens, side):
    fig = caa.plot_logit_lens(lens, side=side)
    ((heatmap,), _) = split(fig)
    rows = lens[lens["side"] == side]
    np.testing.assert_array_equal(heatmap.z, rows.pivot(index="layer", columns="rank", values="logit"))


def test_a_token_that_looks_like_markup_is_shown_as_it_is(lens, steered):
    for fig in (
        caa.plot_logit_lens(lens.assign(token="<b>&$x$")),
        caa.plot_steered_lens(steered.assign(token="<b>&$x$")),
    ):
        heatmaps, texts = split(fig)
        assert set(texts[0].values()) == {"&lt;b&gt;&amp;&#36;x&#36;"}
        assert all(hover.startswith("&lt;b&gt;&amp;&#36;x&#36;") for hover in np.ravel(heatmaps[0].customdata))


def test_a_long_token_is_cut_in_its_cell_and_whole_in_the_hover_text(lens):
    heatmaps, texts = split(caa.plot_logit_lens(lens.assign(token="internationalization")))
    assert set(texts[0].values()) == {"internati…"}
    assert all(text.startswith("internationalization: ") for text in np.ravel(heatmaps[0].customdata))


def test_a_missing_cell_stays_empty(lens, steered):
    rows = lens.drop(index=lens.index[(lens["layer"] == 1) & (lens["rank"] == 4)])
    heatmaps, texts = split(caa.plot_logit_lens(rows))
    assert np.isnan(heatmaps[0].z[1][3])
    assert np.isnan(heatmaps[0].z).sum() == 1
    assert texts[0]["4", "1"] == ""
    missing = (steered["layer"] == 1) & (steered["component"] == "MLP output") & (steered["multiplier"] == 1)
    heatmaps, texts = split(caa.plot_steered_lens(steered[~missing]))
    assert np.isnan(heatmaps[2].z[1][2])
    assert texts[2]["MLP<br>output", "1"] == ""


def test_tokens_can_be_read_on_their_color(lens, steered):
    for fig in (
        caa.plot_logit_lens(lens),
        caa.plot_steered_lens(steered),
        caa.plot_steered_lens(steered, measure="logit"),
    ):
        axis = fig.layout.coloraxis
        stops = [stop for stop, _ in axis.colorscale]
        channels = np.array([rgb(color) for _, color in axis.colorscale]).T
        for heatmap, over in zip(fig.data[::2], fig.data[1::2], strict=True):
            share = (np.ravel(heatmap.z) - axis.cmin) / (axis.cmax - axis.cmin)
            ground = luminance([np.interp(share, stops, channel) for channel in channels])
            letters = luminance(np.array([rgb({"white": "#FFFFFF"}.get(ink, ink)) for ink in over.textfont.color]).T)
            contrast = (np.maximum(ground, letters) + 0.05) / (np.minimum(ground, letters) + 0.05)
            assert contrast.min() > 4


def rgb(color):
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def luminance(channels):
    """Relative luminance as WCAG defines it, 0 to 1."""
    values = np.array(channels) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return np.tensordot((0.2126, 0.7152, 0.0722), linear, axes=1)


def test_the_steered_figure_has_every_token_in_its_cell(steered):
    fig = caa.plot_steered_lens(steered.sample(frac=1, random_state=0))
    assert [one.text for one in fig.layout.annotations] == ["multiplier \N{MINUS SIGN}2", "unsteered", "multiplier +1"]
    components = ["attention output", "mid residual", "MLP output", "block output"]
    n_bold = 0
    for multiplier, heatmap, texts in zip((-2, 0, 1), *split(fig), strict=True):
        assert list(heatmap.y) == ["0", "1", "3"]
        assert [name.replace("<br>", " ") for name in heatmap.x] == components
        for row, layer in enumerate((0, 1, 3)):
            for column, component in enumerate(components):
                at = (steered["layer"] == layer) & (steered["component"] == component) & (steered["rank"] == 1)
                cell = steered[at & (steered["multiplier"] == multiplier)].iloc[0]
                plain = steered[at & (steered["multiplier"] == 0)].iloc[0]
                text = texts[heatmap.x[column], str(layer)]
                assert heatmap.z[row][column] == cell["probability"]
                assert text.startswith("<b>") == (cell["token"] != plain["token"])
                assert shown_token(text.removeprefix("<b>").removesuffix("</b>")) == cell["token"]
                assert f"p = {cell['probability']:.3f}" in heatmap.customdata[row][column].split("<br>")[0]
                n_bold += text.startswith("<b>")
    assert n_bold > 3
    assert [(one.y0, one.y1, one.x0, one.xref) for one in fig.layout.shapes] == [
        (0.55, 1.45, 2.52, "x"),
        (0.55, 1.45, 2.52, "x3"),
    ]
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 1)


def test_the_steered_figure_by_logit(steered):
    fig = caa.plot_steered_lens(steered, measure="logit")
    best = steered[steered["rank"] == 1]
    assert np.max([heatmap.z for heatmap in split(fig)[0]]) == best["logit"].max() == fig.layout.coloraxis.cmax
    assert "logit" in fig.layout.coloraxis.colorbar.title.text


def test_a_model_without_mid_residual_says_so(steered):
    fig = caa.plot_steered_lens(steered[steered["component"] != "mid residual"])
    assert "no mid residual: attention and MLP are parallel" in fig.layout.title.text
    assert len(fig.data[0].x) == 3


def test_interventions_beside_the_unsteered_model_are_named_and_outlined_where_they_act(tiny_llama):
    conditions = [None, caa.Intervention(VECTOR, 1, 0.5), caa.Intervention(VECTOR, 3, 2.0)]
    fig = caa.plot_steered_lens(caa.steered_lens(tiny_llama, PROMPT, conditions, top_k=1))
    assert fig.layout.title.text.startswith("cheer: inside the steered model")
    assert [(one.y0, one.xref) for one in fig.layout.shapes] == [(0.55, "x2"), (2.55, "x3")]


DOSE = {"layer": 1, "multiplier": 2.0}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ([caa.Intervention(VECTOR, **DOSE, positions="all")], "positions"),
        ([caa.Intervention(VECTOR, 3, 2.0)], "steered_layer"),
        ([caa.Intervention(VECTOR, **DOSE, operator=caa.steering.add_keeping_norm)], "vector"),
        ([[caa.Intervention(VECTOR, **DOSE), caa.Intervention(VECTOR, 3)]], "vector"),
    ],
)
def test_rows_of_every_condition_can_be_told_apart_and_a_figure_asks_for_one(tiny_llama, others, told):
    table = caa.steered_lens(tiny_llama, PROMPT, [None, caa.Intervention(VECTOR, **DOSE), *others], layers=[3], top_k=2)
    columns = ["vector", "kind", "steered_layer", "multiplier", "operator", "positions"]
    assert not table.duplicated([*columns, "layer", "component", "rank"]).any()
    said = rf"table: it holds several, with {told} .*Draw one at a time, such as (table\[.*\])\.$"
    with pytest.raises(caa.InputError, match=said) as refused:
        caa.plot_steered_lens(table)
    fig = caa.plot_steered_lens(eval(re.search(said, str(refused.value))[1], {"table": table}))
    assert "multiplier +2" in fig.to_json()


def test_without_multiplier_0_nothing_is_bold(steered):
    fig = caa.plot_steered_lens(steered[steered["multiplier"] != 0])
    assert not any("<b>" in text for texts in split(fig)[1] for text in texts.values())
    assert "bold" not in fig.layout.title.text


def test_figures_refuse_what_they_cannot_show(lens, steered):
    with pytest.raises(caa.InputError, match=r"columns \['rank'\] are missing; give the result of caa_interp.logit_l"):
        caa.plot_logit_lens(lens.drop(columns="rank"))
    with pytest.raises(caa.InputError, match=r"columns \['probability'\] are missing.*caa_interp.steered_lens"):
        caa.plot_steered_lens(steered.drop(columns="probability"))
    with pytest.raises(caa.InputError, match="side: 'left' is not one of 'both', 'promoted', 'suppressed'"):
        caa.plot_logit_lens(lens, side="left")
    with pytest.raises(caa.InputError, match="measure: 'cosine' is not one of 'probability', 'logit'"):
        caa.plot_steered_lens(steered, measure="cosine")
    with pytest.raises(caa.InputError, match=r"twice; give the result of one call of caa_interp\.logit_lens"):
        caa.plot_logit_lens(pd.concat([lens, lens]))
    with pytest.raises(caa.InputError, match=r"twice; give the result of one call of caa_interp\.steered_lens"):
        caa.plot_steered_lens(pd.concat([steered, steered]))


def test_a_side_that_the_table_has_not(lens):
    with pytest.raises(caa.InputError, match="side: the table holds no 'suppressed' tokens"):
        caa.plot_logit_lens(lens[lens["side"] == "promoted"], side="suppressed")


def test_texts_may_be_categories(lens, steered):
    for plot, table in ((caa.plot_logit_lens, lens), (caa.plot_steered_lens, steered)):
        assert plot(table.astype({"token": "category"})) == plot(table)


def test_tables_are_left_as_they_were(lens, steered):
    for plot, table in ((caa.plot_logit_lens, lens), (caa.plot_steered_lens, steered)):
        before = table.copy(deep=True)
        assert plot(table).to_json() == plot(table).to_json()
        pd.testing.assert_frame_equal(table, before)
