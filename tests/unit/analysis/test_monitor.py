"""Projections of texts and turns: each is that of a plain pass over its own tokens; what was computed stays."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa
from caa_interp.prompts import turns
from tests.tiny_models import appending_eos, small_tokenizer

TEXTS = [
    "I like the rain.",
    "The garden and the sea.",
    "Is it good? Yes, it is very good, and I agree with you.",
    "No.",
    "The day is bright, and I like it very much. " * 3,
]
TALK = [
    {"role": "user", "content": "What do you think of the sea?"},
    {"role": "assistant", "content": "It is bright."},
    {"role": "user", "content": "Is it good?"},
    {"role": "assistant", "content": "Yes, I like it. I like it very much."},
]
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
MODULE = "caa_interp.analysis.monitor"


def vector_of(seed=0, **metadata):
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(5 * values, (0, 1, 2, 3), {"model": "tiny-llama", "behavior": "cheer", **metadata})


VECTORS = {"cheer": vector_of(), "other": vector_of(1)}


@pytest.fixture(scope="module", autouse=True)
def short_prose():
    """Neutral prose of a few short passages: the small model reads letters."""
    module, patch = sys.modules[caa.analysis.monitor.__module__], pytest.MonkeyPatch()
    patch.setattr(module, "load_prose", lambda: ["The rain is good.", "Is the sea bright?", "I think that it is text."])
    yield
    patch.undo()


@pytest.fixture(scope="module")
def chat_llama(tiny_folder, tmp_path_factory):
    """The small model with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = small_tokenizer()
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu", dtype="float32")


def read(model, texts, vectors=VECTORS, layer=2, **options):
    return caa.analysis.monitor(model, vectors, texts, layer=layer, progress=False, **options)


def projected(model, ids, positions, vector, layer=2):
    """Projection of the mean residual stream at some positions, from one plain pass."""
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=f"blocks.{layer}.hook_resid_post")
    stream = cache[f"blocks.{layer}.hook_resid_post"][0].double()
    direction = vector.at(layer).double()
    return float(stream[positions].mean(0) @ direction / direction.norm())


def expected_of(model, text, vector, layer=2):
    ids = model.tokenizer(text)["input_ids"]
    return projected(model, ids, list(range(1, len(ids))), vector, layer)


# Numbers


@pytest.mark.parametrize("layer", [0, 3])
def test_every_text_is_that_of_a_plain_pass(tiny_llama_64, layer):
    table = read(tiny_llama_64, TEXTS, layer=layer)
    assert table[["item", "vector"]].values.tolist() == [[n, name] for n in range(5) for name in VECTORS]
    prose = ["The rain is good.", "Is the sea bright?", "I think that it is text."]
    for row in table.itertuples():
        expected = expected_of(tiny_llama_64, TEXTS[row.item], VECTORS[row.vector], layer)
        assert row.projection == pytest.approx(expected, abs=1e-5)
        neutral = [expected_of(tiny_llama_64, passage, VECTORS[row.vector], layer) for passage in prose]
        assert (row.baseline_mean, row.baseline_sd) == pytest.approx(
            (np.mean(neutral), np.std(neutral, ddof=1)), abs=1e-5
        )
        assert row.z == pytest.approx((expected - np.mean(neutral)) / np.std(neutral, ddof=1), abs=1e-4)
    assert table["projection"].abs().min() > 1e-3
    assert set(table["role"]) == {""}
    assert table["n_tokens"].tolist()[::2] == [len(tiny_llama_64.tokenizer(text)["input_ids"]) - 1 for text in TEXTS]


@pytest.mark.parametrize("style", ["base", "llama-2-chat", "chat-template"])
def test_every_turn_is_read_at_its_own_tokens_in_the_conversation(tiny_llama, chat_llama, style):
    model = chat_llama if style == "chat-template" else tiny_llama
    form = caa.PromptFormat.of(model, style=style)
    talk = [{"role": "system", "content": "Be short."}, *TALK]
    table = read(model, [talk], {"cheer": VECTORS["cheer"]}, prompt_format=form)
    ids = list(form.tokens(talk[:-1], talk[-1]["content"]).tokens)
    assert table["role"].tolist() == ["system", "user", "assistant", "user", "assistant"]
    assert table["turn"].tolist() == [0, 1, 2, 3, 4]
    after = 0
    for row, message in zip(table.itertuples(), talk, strict=True):
        # The turn's tokens are the only ones from here on whose text is its content, with at most a space in front.
        begin, end = next(
            (first, last)
            for first in range(after, len(ids))
            for last in range(first + 1, len(ids) + 1)
            if model.tokenizer.decode(ids[first:last]).strip() == message["content"]
            and not model.tokenizer.decode(ids[first : first + 1]).isspace()
        )
        after = end
        assert row.n_tokens == end - begin
        assert row.projection == pytest.approx(
            projected(model, ids, list(range(begin, end)), VECTORS["cheer"]), abs=1e-4
        )
        assert row.text == message["content"]


def test_a_tokenizer_that_does_not_place_its_tokens_is_told(tiny_llama, monkeypatch):
    """As one that is written in Python, which gives no offsets."""
    real = turns.encoded

    def without_offsets(*given, **options):
        return {name: one for name, one in real(*given, **options).items() if name != "offset_mapping"}

    monkeypatch.setattr(turns, "encoded", without_offsets)
    with pytest.raises(caa.InputError, match=r"texts\[0\]: the tokenizer .* cannot be told apart\. Read them as plain"):
        read(tiny_llama, [TALK])


def test_a_tokenizer_that_appends_eos_changes_nothing(tiny_llama, monkeypatch):
    tables = []
    for tokenizer in (tiny_llama.tokenizer, appending_eos(tiny_llama.tokenizer)):
        monkeypatch.setattr(tiny_llama, "tokenizer", tokenizer)
        form = caa.PromptFormat.of(tiny_llama, style="llama-2-chat")
        tables.append(read(tiny_llama, [TALK, TALK[:3], TEXTS[0]], prompt_format=form))
    pd.testing.assert_frame_equal(*tables)


def test_a_turn_that_repeats_words_of_the_template_is_read_at_its_own_place(chat_llama):
    talk = [{"role": "user", "content": "user"}, {"role": "assistant", "content": "assistant"}]
    table = read(chat_llama, [talk], {"cheer": VECTORS["cheer"]})
    form = caa.PromptFormat.of(chat_llama)
    n_prompt, whole = len(form.tokens("user").tokens), form.tokens("user", "assistant").tokens
    answer = list(range(n_prompt, len(whole)))
    assert table["n_tokens"].iloc[1] == len(answer)
    assert table["projection"].iloc[1] == pytest.approx(
        projected(chat_llama, whole, answer, VECTORS["cheer"]), abs=1e-4
    )


def test_a_template_that_drops_a_turn_is_refused(chat_llama, monkeypatch):
    dropping = CHAT.replace("message['content']", "(message['content'] if loop.last else 'gone')")
    monkeypatch.setattr(chat_llama.tokenizer, "chat_template", dropping)
    read(chat_llama, [TALK[:1]])
    with pytest.raises(caa.InputError, match=r"texts\[1\]: the chat template of this model does not show every turn"):
        read(chat_llama, [TEXTS[0], TALK])


def test_batched_is_single(tiny_llama):
    mixed = [TEXTS[0], TALK, *TEXTS[1:], TALK[:3]]
    together = read(tiny_llama, mixed)
    alone = pd.concat([read(tiny_llama, [one]).assign(item=n) for n, one in enumerate(mixed)], ignore_index=True)
    pd.testing.assert_frame_equal(together, alone, rtol=1e-4, atol=1e-4)


def test_what_lies_beyond_the_context_is_not_read(tiny_llama):
    long = "The day is bright. " * 100
    ids = tiny_llama.tokenizer(long)["input_ids"]
    assert len(ids) > 256
    talk = [{"role": "user", "content": "Is it good?"}, {"role": "assistant", "content": long}, TALK[2]]
    table = read(tiny_llama, [long, TEXTS[0], talk], {"cheer": VECTORS["cheer"]})
    assert table["cut"].tolist() == [True, False, False, True, True]
    assert table["n_tokens"].iloc[0] == 255
    assert table["projection"].iloc[0] == pytest.approx(
        projected(tiny_llama, ids[:256], list(range(1, 256)), VECTORS["cheer"]), abs=1e-4
    )
    assert table["n_tokens"].iloc[4] == 0
    assert table[["projection", "z"]].iloc[4].isna().all()
    assert (table["text"].str.len() <= 300).all()


def test_a_planted_direction_stands_out(tiny_llama):
    """The direction is that in which one text differs from prose."""
    texts = ["rain " * 20, *TEXTS[:4]]
    stream = {}
    with caa_reading(tiny_llama, stream):
        tiny_llama(torch.tensor([tiny_llama.tokenizer(texts[0])["input_ids"]]))
    values = stream[2][0, 1:].mean(0)[None]
    table = read(tiny_llama, texts, caa.SteeringVector(values, (2,), {"model": "tiny-llama"}))
    assert table["z"].idxmax() == 0
    assert set(table["vector"]) == {"vector"}


def caa_reading(model, stream):
    from caa_interp.models.access import reading

    return reading(model, [2], stream.__setitem__)


# Sources


def test_files_tables_rows_and_streams_are_the_same_texts(tiny_llama, tmp_path):
    rows = [{"text": text, "messages": None, "said": TALK[:1]} for text in TEXTS]
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n\n", encoding="utf-8-sig")
    pd.DataFrame(rows).to_parquet(tmp_path / "texts.parquet")
    expected = read(tiny_llama, TEXTS)
    sources = [
        rows,
        iter(rows),
        pd.DataFrame(rows),
        pd.Series(TEXTS),
        tmp_path / "texts.jsonl",
        tmp_path / "texts.parquet",
    ]
    for source in sources:
        pd.testing.assert_frame_equal(read(tiny_llama, source), expected)
    said = read(tiny_llama, [TALK[:1]] * 5)
    for source in (rows, pd.read_parquet(tmp_path / "texts.parquet"), str(tmp_path / "texts.parquet")):
        pd.testing.assert_frame_equal(read(tiny_llama, source, column="said"), said)


class Polars:
    """A table whose ``to_dict`` takes no orientation, as that of polars."""

    columns = ("text",)

    def __iter__(self):
        return iter([TEXTS])

    def to_dict(self):
        return {"text": TEXTS}

    def to_dicts(self):
        return [{"text": text} for text in TEXTS]


def test_a_polars_table_and_a_file_at_home_are_read(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, TEXTS)), encoding="utf-8")
    expected = read(tiny_llama, TEXTS)
    for source in (Polars(), "~/texts.jsonl"):
        pd.testing.assert_frame_equal(read(tiny_llama, source), expected)


def test_a_source_is_not_read_ahead(tiny_llama, monkeypatch):
    monkeypatch.setattr(sys.modules[MODULE], "_PER_PART", 2)
    asked, computed = [], []

    def rows():
        for number, text in enumerate(TEXTS):
            asked.append((number, len(computed)))
            yield text

    reader = sys.modules[MODULE]._Reader
    whole = reader.read
    monkeypatch.setattr(reader, "read", lambda self, block, first: computed.append(first) or whole(self, block, first))
    read(tiny_llama, rows())
    assert asked == [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2)]
    assert computed == [0, 2, 4]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a single text", "texts: 'a single text' is neither a list of texts nor the path"),
        ("missing.jsonl", "texts: there is no file missing.jsonl. Check the path"),
        ({"train": TEXTS}, r"texts: dict; give a list of texts, .*such as source\['train'\]"),
        ([TEXTS[0], ""], r"texts\[1\]: '' is neither a text nor a conversation, or is empty. Leave such rows out"),
        ([{"prompt": "Hello"}], r"texts\[0\]: it has the columns 'prompt', .*Name the one to read with column="),
        (
            [[{"from": "human", "value": "Hello"}]],
            r"texts\[0\]\[0\]: .* a turn must have the keys 'role' and 'content'",
        ),
        ([[{"role": "user", "content": " "}]], r"texts\[0\]\[0\]: the content of this turn is ' '"),
        (["half \ud83d"], r"texts\[0\]: it holds half a character"),
        ([[{"role": "user", "content": "half \ud83d"}]], r"texts\[0\]: it holds half a character"),
        ([TALK[1:2]], r"texts\[0\]: \[\] is not a text; give a non-empty string, or a conversation"),
        ([], "texts: there are none; give at least one"),
    ],
)
def test_what_is_no_text_is_refused(tiny_llama, source, said):
    with pytest.raises(caa.InputError, match=said):
        read(tiny_llama, source)


def test_a_vector_that_does_not_fit_is_refused_before_anything_is_read(tiny_llama):
    def rows():
        raise AssertionError
        yield

    zero = caa.SteeringVector(torch.zeros(4, 64), (0, 1, 2, 3), {"model": "tiny-llama"})
    with pytest.raises(caa.InputError, match=r"vectors\['v'\]: it is zero at layer 2.*Leave it out, or choose"):
        read(tiny_llama, rows(), {"v": zero})
    with pytest.raises(caa.InputError, match="layer 9: the vector 'cheer' has layers 0 to 3"):
        read(tiny_llama, rows(), layer=9)
    with pytest.raises(caa.errors.VectorMismatchError, match="it was made from 'gpt2'"):
        read(tiny_llama, rows(), vector_of(model="gpt2"))


# Parts on disk


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of two texts; returns the first items of the parts that are computed."""
    monkeypatch.setattr(sys.modules[MODULE], "_PER_PART", 2)
    computed, reader = [], sys.modules[MODULE]._Reader
    whole = reader.read
    monkeypatch.setattr(reader, "read", lambda self, block, first: computed.append(first) or whole(self, block, first))
    return computed


def test_a_run_that_stopped_goes_on_where_it_was(tiny_llama, tmp_path, small_parts):
    undisturbed = read(tiny_llama, TEXTS)
    small_parts.clear()

    def stops():
        yield from TEXTS[:3]
        raise KeyboardInterrupt

    folder = tmp_path / "result.parquet"
    with pytest.raises(KeyboardInterrupt):
        read(tiny_llama, stops(), output=folder)
    assert [path.name for path in folder.iterdir()] == ["part-000000.parquet"]
    table = read(tiny_llama, TEXTS, output=folder)
    assert small_parts == [0, 2, 4]
    again = read(tiny_llama, TEXTS, output=str(folder))
    assert small_parts == [0, 2, 4]
    for one in (table, again, pd.read_parquet(folder)):
        pd.testing.assert_frame_equal(one, undisturbed, check_exact=True)
    assert not table.attrs
    assert not again.attrs


def test_texts_that_are_added_at_the_end_are_read_too(tiny_llama, tmp_path, small_parts):
    read(tiny_llama, TEXTS[:3], output=tmp_path / "r")
    small_parts.clear()
    grown = read(tiny_llama, TEXTS, output=tmp_path / "r")
    assert small_parts == [2, 4]
    pd.testing.assert_frame_equal(grown, read(tiny_llama, TEXTS))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"layer": 1}, "was computed with layer 2, and this is 1"),
        (
            {"vectors": {"cheer": vector_of(5), "other": VECTORS["other"]}},
            r"was computed with vector 'cheer' '\w+', and",
        ),
        ({"vectors": {"cheer": VECTORS["cheer"]}}, r"was computed with vector 'other' '\w+', and this is None"),
        ({"prompt_format": "llama-2-chat"}, "was computed with prompt_digest"),
        ({"texts": TEXTS[::-1]}, "holds other texts than those at its place now"),
    ],
)
def test_what_something_else_computed_is_refused_by_name(tiny_llama, tmp_path, small_parts, options, said):
    read(tiny_llama, TEXTS, output=tmp_path / "r")
    small_parts.clear()
    if "prompt_format" in options:
        options = {"prompt_format": caa.PromptFormat.of(tiny_llama, style=options["prompt_format"])}
    with pytest.raises(caa.InputError, match=said) as caught:
        read(tiny_llama, **{"texts": TEXTS, **options}, output=tmp_path / "r")
    assert "Name another folder, or remove this one" in str(caught.value)
    assert not small_parts


def test_what_is_read_while_it_is_steered_is_not_kept_as_the_models_own(tiny_llama, tmp_path):
    own = read(tiny_llama, TEXTS[:1])
    with caa.steer(tiny_llama, VECTORS["cheer"], 1, 2.0, positions="all"):
        assert (read(tiny_llama, TEXTS[:1])["projection"] != own["projection"]).all()
        with pytest.raises(caa.InputError, match=r"is being steered\. Write into output outside the steer context"):
            read(tiny_llama, TEXTS, output=tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_another_model_or_library_is_refused_by_name(tiny_llama, tiny_llama_64, tmp_path, monkeypatch):
    read(tiny_llama, TEXTS[:1], output=tmp_path / "r")
    with pytest.raises(caa.InputError, match="was computed with dtype 'float32', and this is 'float64'"):
        read(tiny_llama_64, TEXTS[:1], output=tmp_path / "r")
    activations = sys.modules["caa_interp.vectors.activations"]
    monkeypatch.setattr(activations, "version", lambda name: "9.9")
    with pytest.raises(caa.InputError, match=r"was computed with caa-interp '.*', and this is '9.9'"):
        read(tiny_llama, TEXTS[:1], output=tmp_path / "r")


def test_a_file_that_is_no_part_is_refused(tiny_llama, tmp_path):
    folder = tmp_path / "r"
    read(tiny_llama, TEXTS[:1], output=folder)
    part = folder / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(caa.InputError, match=r"part-000000.parquet is not a part written here"):
        read(tiny_llama, TEXTS[:1], output=folder)
    with pytest.raises(caa.InputError, match="is a file; parts are written into a folder"):
        read(tiny_llama, TEXTS[:1], output=part)
