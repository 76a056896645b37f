"""Activations and vectors are those of the paper's definition; activations are kept in files."""

import hashlib
import json
import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.models.access import model_revision
from caa_interp.vectors.estimators import mean_difference
from caa_interp.vectors.files import checksum
from tests.oracles import definition

FORMATS = ("choices", "text")


@pytest.mark.parametrize("form", FORMATS)
def test_the_vector_is_the_one_of_the_definition(tiny_llama, plain_llama, tokenizer, pairs, form):
    vector = caa.extract_vector(tiny_llama, pairs, format=form)
    expected = definition.steering_vectors(plain_llama, tokenizer, pairs, form)
    assert vector.layers == (0, 1, 2, 3)
    assert float(expected.norm(dim=1).min()) > 0.1
    torch.testing.assert_close(vector.values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("stay_double")
@pytest.mark.parametrize("form", FORMATS)
def test_in_float64_it_is_so_to_rounding(tiny_llama_64, plain_llama_64, tokenizer, pairs, form):
    vector = caa.extract_vector(tiny_llama_64, pairs, format=form)
    expected = definition.steering_vectors(plain_llama_64, tokenizer, pairs, form)
    assert vector.values.dtype == torch.float64
    torch.testing.assert_close(vector.values, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMATS)
def test_both_sides_of_every_pair_are_those_of_the_definition(tiny_llama, plain_llama, tokenizer, pairs, form):
    found = caa.collect_activations(tiny_llama, pairs, format=form)
    assert found.positive.shape == found.negative.shape == (3, 4, 64)
    assert found.pairs == tuple(pairs)
    assert found.format == form
    for index, pair in enumerate(pairs):
        positive, negative = definition.answer_activations(plain_llama, tokenizer, pair, form)
        torch.testing.assert_close(found.positive[index], positive, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.negative[index], negative, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMATS)
def test_mean_difference_of_the_activations_is_the_vector(tiny_llama, pairs, form):
    found = caa.collect_activations(tiny_llama, pairs, format=form)
    vector = caa.extract_vector(tiny_llama, pairs, format=form)
    torch.testing.assert_close(caa.vectors.mean_difference(found.positive, found.negative), vector.values)


@pytest.mark.parametrize("form", FORMATS)
def test_the_order_of_the_pairs_does_not_matter(tiny_llama, pairs, form):
    forward = caa.extract_vector(tiny_llama, pairs, format=form).values
    backward = caa.extract_vector(tiny_llama, pairs[::-1], format=form).values
    torch.testing.assert_close(forward, backward, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", FORMATS)
def test_exchanged_answers_turn_the_vector_round(tiny_llama, pairs, form):
    turned = [caa.ContrastPair(pair.question, pair.negative, pair.positive) for pair in pairs]
    vector = caa.extract_vector(tiny_llama, pairs, format=form).values
    opposite = caa.extract_vector(tiny_llama, turned, format=form).values
    torch.testing.assert_close(opposite, -vector, rtol=1e-5, atol=1e-6)


def test_no_direction_of_a_letter_is_left(tiny_llama):
    """Answers that hardly differ leave hardly anything, since each is (A) once and (B) once."""
    pair = caa.ContrastPair("Is the weather good?", "Yes, I agree with you.", "Yes, I agree with you!")
    alike = caa.extract_vector(tiny_llama, [pair]).values
    tokens = [tiny_llama.tokenizer(f"Input: {pair.question}\nResponse: ({letter}")["input_ids"] for letter in "AB"]
    outputs = [tiny_llama.run_with_cache(torch.tensor([ids]))[1] for ids in tokens]
    for layer in range(4):
        a, b = (cache[f"blocks.{layer}.hook_resid_post"][0, -1] for cache in outputs)
        assert float(alike[layer].norm()) < 0.5 * float((a - b).norm())


def test_layers_select_rows(tiny_llama, pairs):
    everything = caa.extract_vector(tiny_llama, pairs)
    some = caa.extract_vector(tiny_llama, pairs, layers=[3, 1])
    one = caa.extract_vector(tiny_llama, pairs, layers=2)
    assert some.layers == (3, 1)
    torch.testing.assert_close(some.values, everything.values[[3, 1]])
    torch.testing.assert_close(one.values, everything.values[2:3])


def test_another_estimator_gets_the_activations(tiny_llama, pairs):
    found = caa.collect_activations(tiny_llama, pairs)

    def median_difference(positive, negative):
        return (positive - negative).median(0).values

    vector = caa.extract_vector(tiny_llama, pairs, estimator=median_difference)
    torch.testing.assert_close(vector.values, (found.positive - found.negative).median(0).values)
    assert vector.metadata["estimator"] == "median_difference"


def test_a_system_prompt_stands_in_front_of_every_pair(tiny_llama, plain_llama, tokenizer, pairs, monkeypatch):
    put = definition.put
    monkeypatch.setattr(definition, "put", lambda *given: f"I like the sea.\n\n{put(*given)}")
    expected = definition.steering_vectors(plain_llama, tokenizer, pairs, "text")
    vector = caa.extract_vector(tiny_llama, pairs, format="text", system_prompt="I like the sea.")
    torch.testing.assert_close(vector.values, expected, rtol=1e-4, atol=1e-4)
    assert vector.metadata["system_prompt"] == "I like the sea."


def test_metadata_says_what_is_needed_to_apply_the_vector(tiny_llama, pairs):
    metadata = caa.extract_vector(tiny_llama, pairs, format="text", behavior="weather").metadata
    assert metadata["model"] == "tiny-llama"
    assert metadata["hook"] == "blocks.{layer}.hook_resid_post"
    assert metadata["format"] == "text"
    assert metadata["position"] == "mean over the answer's tokens"
    assert metadata["estimator"] == mean_difference.__name__
    assert metadata["n_pairs"] == 3
    assert metadata["behavior"] == "weather"
    assert metadata["dtype"] == "float32"
    assert metadata["model_revision"] == model_revision(tiny_llama)
    assert metadata["weight_processing"] == "none"
    assert metadata["prompt_style"] == "base"
    assert metadata["system_prompt"] is None
    assert set(metadata["versions"]) == {"caa-interp", "transformer-lens", "transformers", "torch"}


def test_generators_of_pairs_are_accepted(tiny_llama, pairs):
    listed = caa.extract_vector(tiny_llama, pairs).values
    torch.testing.assert_close(caa.extract_vector(tiny_llama, iter(pairs)).values, listed)


def test_activations_do_not_need_gradients(tiny_llama, pairs):
    found = caa.collect_activations(tiny_llama, pairs[:1])
    assert not found.positive.requires_grad
    assert found.positive.device.type == "cpu"


# Letter orders


@pytest.fixture(scope="module")
def apart(tiny_llama, pairs):
    """Activations with the letter orders kept apart."""
    return caa.collect_activations(tiny_llama, pairs, average_orders=False)


def test_each_order_of_a_pair_is_a_row_of_its_own(apart, plain_llama, tokenizer, pairs):
    assert apart.orders == ("AB", "BA") * 3
    assert apart.pairs == tuple(pair for pair in pairs for _ in range(2))
    assert apart.items == (0, 0, 1, 1, 2, 2)
    rows = [(pair, order) for pair in pairs for order in range(2)]
    for index, (pair, order) in enumerate(rows):
        question, *answers = definition.questions_and_answers(pair, "choices")[order]
        sides = [definition.tokenize(tokenizer, definition.put(tokenizer, question, answer)) for answer in answers]
        letter = definition.first_difference(*sides)
        for tokens, found in zip(sides, (apart.positive, apart.negative), strict=True):
            expected = definition.block_outputs(plain_llama, tokens)[:, letter]
            torch.testing.assert_close(found[index], expected, rtol=1e-4, atol=1e-4)


def test_a_row_of_order_ab_is_read_at_the_letter_a_on_its_positive_side(apart):
    """The letters differ much more than the answers of a random model do."""
    a = torch.cat([apart.positive[::2], apart.negative[1::2]])
    b = torch.cat([apart.negative[::2], apart.positive[1::2]])
    between = (a.mean(0) - b.mean(0)).norm(dim=1)
    sides = (apart.positive.mean(0) - apart.negative.mean(0)).norm(dim=1)
    assert bool((between > 3 * sides).all())


def test_the_mean_over_rows_is_the_same_with_orders_apart(apart, tiny_llama, pairs):
    averaged = caa.collect_activations(tiny_llama, pairs)
    assert averaged.orders == ("",) * 3
    assert averaged.items == (0, 1, 2)
    for found, kept in ((averaged.positive, apart.positive), (averaged.negative, apart.negative)):
        torch.testing.assert_close(kept.unflatten(0, (-1, 2)).mean(1), found, rtol=1e-5, atol=1e-5)


def test_text_has_no_orders_to_keep_apart(tiny_llama, pairs):
    one, other = (
        caa.collect_activations(tiny_llama, pairs, format="text", average_orders=average) for average in (True, False)
    )
    assert one.orders == other.orders == ("",) * 3
    assert torch.equal(one.positive, other.positive)


@pytest.mark.parametrize("average_orders", [True, False])
def test_a_published_pair_has_its_one_order(tiny_llama, average_orders):
    question = "Which is bright?\n\nChoices:\n (A) The rain\n (B) The garden\n (C) The sea"
    letters = [("(A)", "(B)"), ("(B)", "(A)"), ("(C)", "(A)")]
    published = [PublishedPair(question, *sides, n_options=3) for sides in letters]
    found = caa.collect_activations(tiny_llama, published, average_orders=average_orders)
    assert found.orders == ("AB", "BA", "CA")
    assert found.items == (0, 1, 2)


def test_a_pair_that_is_given_twice_is_two_items(tiny_llama, pairs):
    for average_orders, items in ((True, (0, 1)), (False, (0, 0, 1, 1))):
        found = caa.collect_activations(tiny_llama, [pairs[0]] * 2, average_orders=average_orders)
        assert found.items == items


# Files


def small(n=2, layers=(1, 4), width=3, seed=0, dtype=torch.float32, **changes):
    sides = torch.randn(2, n, len(layers), width, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    pairs = tuple(caa.ContrastPair(f"Why {number}?", "Yes.", "No.", topic="rain") for number in range(n))
    given = {"positive": sides[0], "negative": sides[1], "layers": layers, "pairs": pairs, "format": "choices"}
    return caa.Activations(**{**given, "metadata": {"model": "m"}, **changes})


def assert_same(one, other):
    for name in ("positive", "negative"):
        assert torch.equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    for name in ("layers", "pairs", "format", "orders", "metadata", "items"):
        assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded_they_are_the_same_to_the_bit(tmp_path, dtype):
    published = PublishedPair("Which?\n (A) a\n (B) b\n (C) c", "(C)", "(A)", id="é<b>", n_options=3)
    contrast = caa.ContrastPair("Why?", "Yes\n", "\u2028No", id="1", topic=None)
    kept = small(3, dtype=dtype, pairs=(contrast, contrast, published), orders=("AB", "BA", "CA"))
    loaded = caa.Activations.load(kept.save(tmp_path / "new folder" / "a.safetensors"))
    assert_same(loaded, kept)
    assert type(loaded.pairs[2]) is PublishedPair


def test_collected_ones_are_kept_with_their_model(tiny_llama, pairs, tmp_path):
    found = caa.collect_activations(tiny_llama, pairs, format="text", layers=[3, 0])
    assert found.model == "tiny-llama"
    extracted = caa.extract_vector(tiny_llama, pairs, format="text", layers=[3, 0])
    assert set(found.metadata) == set(extracted.metadata) - {"behavior", "format", "position", "estimator", "n_pairs"}
    loaded = caa.Activations.load(str(found.save(str(tmp_path / "a.safetensors"))))
    assert_same(loaded, found)
    for estimator in (mean_difference, caa.vectors.principal_difference):
        options = {"estimator": estimator, "behavior": "b"}
        kept = caa.vectors.vector_from_activations(loaded, **options)
        assert kept.metadata == caa.extract_vector(tiny_llama, pairs, format="text", layers=[3, 0], **options).metadata


def test_activations_whose_model_is_not_known_can_be_kept(tmp_path):
    assert caa.Activations.load(small(metadata={}).save(tmp_path / "a.safetensors")).model is None


def test_a_slice_that_is_not_contiguous_can_be_kept(tmp_path):
    kept = small(positive=torch.randn(3, 2, 2).transpose(0, 2), negative=torch.randn(2, 2, 6)[..., ::2])
    assert_same(caa.Activations.load(kept.save(tmp_path / "a.safetensors")), kept)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = small(seed=0).save(tmp_path / "a.safetensors")
    content = path.read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space left"):
        small(seed=1).save(path)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_path_with_another_ending(tmp_path):
    with pytest.raises(caa.InputError, match=r"path: '.*a.pt' must end in '.safetensors'"):
        small().save(tmp_path / "a.pt")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(
        caa.InputError, match=r"activations file .*a.safetensors: there is no such file. Check the path"
    ):
        caa.Activations.load(tmp_path / "a.safetensors")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = small().save(tmp_path / "a.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (0, 1, 8, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(
            caa.InputError, match=r"activations file .*cut.safetensors: it is not activations of this pack"
        ):
            caa.Activations.load(path)


class Exploding:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("content", [b"\xff" * 100, b"{}" * 50, pickle.dumps(Exploding()), b"\x00" * 1000])
def test_bytes_that_are_no_activations(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(
        caa.InputError, match=r"it is not activations of this package .*Give a file written by Activations"
    ):
        caa.Activations.load(path)


def test_the_file_is_as_documented(tmp_path):
    kept = small(dtype=torch.float64)
    with safe_open(kept.save(tmp_path / "a.safetensors"), framework="np") as file:
        sides, metadata = [file.get_tensor(name) for name in ("positive", "negative")], file.metadata()
        assert sorted(file.keys()) == ["negative", "positive"]
    assert json.loads(metadata["caa_interp"]) == {
        "format": "caa_interp/activations/1",
        "form": "choices",
        "metadata": {"model": "m"},
        "layers": [1, 4],
        "orders": ["", ""],
        "pairs": [
            {"question": f"Why {n}?", "positive": "Yes.", "negative": "No.", "id": None, "topic": "rain"}
            for n in range(2)
        ],
    }
    content = metadata["caa_interp"].encode() + b"".join(side.tobytes() for side in sides)
    assert metadata == {"caa_interp": metadata["caa_interp"], "sha256": hashlib.sha256(content).hexdigest()}


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    kept = small()
    path = kept.save(tmp_path / "a.safetensors")
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    said = r"activations file .*a\.safetensors: it was changed after it was saved\. Get it again, or save it again\."
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        # The lowest bit of a number leaves it finite: nothing but the checksum can tell.
        with pytest.raises(caa.InputError, match=said if place >= begin else r"activations file .*a\.safetensors: "):
            caa.Activations.load(path)
    path.write_bytes(content)
    assert_same(caa.Activations.load(path), kept)


def test_a_vector_is_no_activations(tmp_path):
    path = caa.SteeringVector(torch.ones(2, 3), (0, 1)).save(tmp_path / "v.safetensors")
    with pytest.raises(
        caa.InputError,
        match=r"its format is 'caa_interp/vector/1', and this version of caa_interp reads 'caa_interp/act",
    ):
        caa.Activations.load(path)
    with pytest.raises(caa.InputError, match="its format is 'caa_interp/activations/1'"):
        caa.SteeringVector.load(small().save(tmp_path / "a.safetensors"))


PAIRS = [{"question": "Why?", "positive": "Yes.", "negative": "No.", "id": None, "topic": None}] * 2


def header(**changes):
    content = {"format": "caa_interp/activations/1", "form": "text", "metadata": {"model": "m"}, "layers": [0, 1]}
    return json.dumps({**content, "orders": ["", ""], "pairs": PAIRS, **changes})


def write(path, tensors=None, metadata=None):
    tensors = tensors or {"positive": torch.ones(2, 2, 3), "negative": torch.zeros(2, 2, 3)}
    kept = {"caa_interp": header()} if metadata is None else dict(metadata)
    if "caa_interp" in kept:
        kept["sha256"] = checksum(kept["caa_interp"], *tensors.values())
    path.write_bytes(save(tensors, metadata=kept))
    return path


def test_the_header_of_the_hostile_ones_is_right_but_for_one_thing(tmp_path):
    assert caa.Activations.load(write(tmp_path / "a.safetensors")).format == "text"


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"other": "x"},
        {"caa_interp": ""},
        {"caa_interp": "[1]"},
        {"caa_interp": "3"},
        {"caa_interp": "[" * 100_000},
        {"caa_interp": "{}"},
        *(
            {"caa_interp": header(**changes)}
            for changes in (
                {"format": "caa_interp/activations/99"},
                {"format": None},
                {"form": "letters"},
                {"form": None},
                {"form": ["text"]},
                {"metadata": None},
                {"metadata": ["m"]},
                {"layers": None},
                {"layers": 3},
                {"layers": [0]},
                {"layers": ["0", "1"]},
                {"layers": [0, 0.5]},
                {"layers": [0, -1]},
                {"layers": [1, 1]},
                {"layers": [True, 2]},
                {"layers": [[0], [1]]},
                {"layers": {"0": 1, "1": 2}},
                {"orders": None},
                {"orders": "  "},
                {"orders": {}},
                {"orders": ["AB"]},
                {"orders": ["AB", 3]},
                {"orders": ["AB", "AA"]},
                {"orders": ["AB", "ABC"]},
                {"orders": ["AB", ["A", "B"]]},
                {"pairs": None},
                {"pairs": []},
                {"pairs": PAIRS[:1]},
                {"pairs": [*PAIRS, *PAIRS]},
                {"pairs": ["Why?", "Why?"]},
                {"pairs": [PAIRS[0], None]},
                {"pairs": [PAIRS[0], {}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "positive": "No."}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "positive": 3}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "id": 3}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "topic": ["rain"]}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "n_options": "2"}]},
                {"pairs": [PAIRS[0], {**PAIRS[0], "more": 1}]},
            )
        ),
    ],
    ids=lambda metadata: str(metadata)[:200],
)
def test_a_hostile_header_is_refused(tmp_path, metadata):
    with pytest.raises(caa.InputError, match=r"activations file .*a.safetensors: "):
        caa.Activations.load(write(tmp_path / "a.safetensors", metadata=metadata))


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.ones(2, 2, 3)},
        {"positive": torch.ones(2, 2, 3)},
        {"positive": torch.ones(2, 2, 3), "negative": torch.ones(2, 2, 4)},
        {"positive": torch.ones(2, 2, 3), "negative": torch.ones(3, 2, 3)},
        {"positive": torch.ones(2, 6), "negative": torch.ones(2, 6)},
        {"positive": torch.ones(2, 2, 0), "negative": torch.ones(2, 2, 0)},
        {"positive": torch.ones(2, 2, 3), "negative": torch.full((2, 2, 3), float("nan"))},
        {"positive": torch.ones(2, 2, 3), "negative": torch.full((2, 2, 3), float("inf"))},
        {"positive": torch.ones(2, 2, 3), "negative": torch.ones(2, 2, 3, dtype=torch.int64)},
        {"positive": torch.ones(2, 2, 3), "negative": torch.ones(2, 2, 3, dtype=torch.bool)},
    ],
)
def test_hostile_tensors_are_refused(tmp_path, tensors):
    with pytest.raises(caa.InputError, match=r"activations file .*a.safetensors: "):
        caa.Activations.load(write(tmp_path / "a.safetensors", tensors))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": (1, 1)}, r"layers: \(1, 1\); they must be different 0-based block indices"),
        ({"positive": torch.ones(2, 3, 3)}, r"positive: shape \(2, 3, 3\) with 2 pairs and 2 layers; it must be \["),
        (
            {"negative": torch.ones(2, 2)},
            r"negative: a tensor of .*shape \(2, 2\); it must .*have 3 axes, none of them",
        ),
        (
            {"positive": torch.ones(2, 2, 3, dtype=torch.int32)},
            "positive: a tensor of type torch.int32 .*hold floating",
        ),
        ({"negative": torch.full((2, 2, 3), float("nan"))}, "negative: there are NaN or infinite entries"),
        ({"negative": torch.ones(2, 2, 5)}, "negative: its width is 5, but that of positive is 3"),
        ({"orders": ("AB",)}, r"orders: \('AB',\); there must be one for each of the 2 rows, either empty or two"),
        ({"pairs": ("Why?",)}, r"pairs\[0\] is str; every item must be a ContrastPair"),
        ({"format": "letters"}, "format: 'letters' is not one of 'choices', 'text'"),
        ({"metadata": 3}, "metadata: int; it must be a mapping"),
    ],
)
def test_what_activations_cannot_be_is_said(changes, said):
    with pytest.raises(caa.InputError, match=said):
        small(**changes)


def test_a_short_description():
    assert repr(small()) == "Activations(2 rows, choices, layers 1 to 4, d_model 3, model m)"
    assert "2 rows, letter orders apart," in repr(small(orders=("AB", "BA")))
