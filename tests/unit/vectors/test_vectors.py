"""Steering vectors: estimation, arithmetic, storage, and the models that they fit."""

import hashlib
import json
import os
import pickle
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors import safe_open
from safetensors.torch import save

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.models.access import check_layers
from caa_interp.vectors import Activations
from caa_interp.vectors.files import checksum
from caa_interp.vectors.vector import named_vectors, one_vector

FORMAT = "caa_interp/vector/1"
OTHER = caa.ContrastPair("Who is it?", "A friend.", "Nobody.")


def vector(seed=0, layers=(1, 4, 7), width=16, **metadata):
    values = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(seed))
    return caa.SteeringVector(values, tuple(layers), {"model": "m", **metadata})


def model(name="m", width=16, n_layers=8):
    cfg = SimpleNamespace(model_name=name, d_model=width, n_layers=n_layers)
    return type("Model", (), {"cfg": cfg})()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_planted_direction_is_recovered(dtype):
    """Per-pair offsets are shared by both sides; noise is as large as the direction in every coordinate."""
    generator = torch.Generator().manual_seed(0)
    n_pairs, n_layers, width = 600, 3, 128
    planted = torch.randn(n_layers, width, generator=generator, dtype=dtype)
    offsets = 30 * torch.randn(n_pairs, n_layers, width, generator=generator, dtype=dtype)
    noise = torch.randn(2, n_pairs, n_layers, width, generator=generator, dtype=dtype)
    found = caa.vectors.mean_difference(offsets + planted + noise[0], offsets + noise[1])
    assert found.dtype == dtype
    cosine = torch.nn.functional.cosine_similarity(found, planted, dim=1)
    assert float(cosine.min()) > 0.99
    torch.testing.assert_close(found.norm(dim=1), planted.norm(dim=1), rtol=0.05, atol=0)


def test_the_mean_is_not_rounded_away_by_large_activations():
    positive = torch.full((1000, 1, 4), 4096.0)
    negative = positive.clone()
    positive[0] += 1.0
    torch.testing.assert_close(caa.vectors.mean_difference(positive, negative), torch.full((1, 4), 1e-3))


def test_arithmetic():
    one, other = vector(0), vector(1)
    torch.testing.assert_close((2 * one).values, 2 * one.values)
    torch.testing.assert_close((one * 0.5).values, 0.5 * one.values)
    torch.testing.assert_close((-one).values, -one.values)
    torch.testing.assert_close((one + other).values, one.values + other.values)
    torch.testing.assert_close((one - other).values, one.values - other.values)
    assert (one + other).layers == one.layers


@pytest.mark.parametrize("number", [2, 0.5, np.float32(0.5), np.int64(3), True])
def test_multiplied_and_divided_by_any_number(number):
    one = vector(0)
    for product in (one * number, number * one, one / (1 / float(number))):
        assert isinstance(product, caa.SteeringVector)
        torch.testing.assert_close(product.values, one.values * float(number))
    with pytest.raises(caa.InputError, match="must be finite"):
        one / 0


@pytest.mark.parametrize("other", [None, "2", [1.0], torch.ones(3, 16)])
@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_arithmetic_with_what_is_neither_a_number_nor_a_vector(operation, other):
    assert getattr(vector(0), operation)(other) is NotImplemented


def test_equal_vectors_are_equal_in_layers_values_and_metadata():
    one, same = vector(0, note=["x"]), vector(0, note=["x"])
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, vector(1)}) == 2
    assert hash(vector(behavior=1)) == hash(vector(behavior=1.0))
    assert vector(behavior=1) == vector(behavior=1.0)
    double = caa.SteeringVector(one.values.double(), one.layers, one.metadata)
    for other in (vector(1, note=["x"]), vector(0), vector(0, layers=(1, 4, 8), note=["x"]), double, 1.0, None):
        assert one != other


def test_values_are_held_detached_contiguous_and_on_the_cpu(tmp_path):
    learned = torch.nn.Parameter(torch.randn(16, 3))
    one = caa.SteeringVector(learned.T, (0, 1, 2))
    assert not one.values.requires_grad
    assert one.values.is_contiguous()
    assert torch.equal(caa.SteeringVector.load(one.save(tmp_path / "v.safetensors")).values, learned.detach().T)


@pytest.mark.parametrize("layers", [range(3), [0, 1, 2], np.arange(3), [np.int64(0), 1, np.int32(2)]])
def test_layers_become_a_tuple_of_ints(layers, tmp_path):
    one = caa.SteeringVector(torch.ones(3, 4), layers)
    assert one.layers == (0, 1, 2)
    assert {type(layer) for layer in one.layers} == {int}
    assert caa.SteeringVector.load(one.save(tmp_path / "v.safetensors")) == one


@pytest.mark.parametrize("layers", ["012", None, (0, 1, 1), (0, 1, -1), (0, 1, 2.0), (0, True, 2), (0, 1, "2")])
def test_layers_that_a_vector_cannot_have(layers):
    with pytest.raises(caa.InputError, match="they must be different 0-based block indices"):
        caa.SteeringVector(torch.ones(3, 4), layers)


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, [1, 4, 15]), (np.int64(15), [15]), (range(1, 2), [1]), (np.array([15, 1]), [15, 1]), ((4,), [4])],
)
def test_layers_are_named_in_any_way_that_holds_whole_numbers(given, expected):
    found = check_layers(given, (1, 4, 15), "the vector")
    assert found == expected
    assert {type(layer) for layer in found} == {int}
    assert found == check_layers(np.array(15), (15,), "it") or expected != [15]


@pytest.mark.parametrize("layers", ["15", "1,4", b"15"])
def test_layers_as_text_are_refused_wherever_they_are_given(tiny_llama, pairs, layers):
    said = f"layer {layers!r}: .* has layers 0 to 3 .*as an int, such as 3\\."
    activations = caa.collect_activations(tiny_llama, pairs)
    own = caa.vectors.vector_from_activations(activations)
    calls = [
        lambda: own.at(layers),
        lambda: caa.extract_vector(tiny_llama, pairs, layers=layers),
        lambda: caa.collect_activations(tiny_llama, pairs, layers=layers),
        lambda: caa.sweep(tiny_llama, own, pairs, layers=layers),
        lambda: caa.logit_lens(tiny_llama, own, layers=layers),
        lambda: caa.steered_lens(tiny_llama, "Why?", own, layer=0, layers=layers),
        lambda: caa.token_similarity(tiny_llama, "Why?", own, layers=layers),
        lambda: caa.cosine_similarity(own, layers=layers),
        lambda: caa.project(activations, layers=layers),
        lambda: caa.reliability(activations, layers=layers),
        lambda: caa.analysis.transfer(tiny_llama, own, pairs, source_layers=layers),
        lambda: caa.analysis.weight_alignment(tiny_llama, own, layer=0, layers=layers),
        lambda: caa.export_vector(own, "v.npz", layers=layers),
    ]
    for call in calls:
        with pytest.raises(caa.InputError, match=said):
            call()


def test_arithmetic_keeps_the_metadata_that_both_agree_on():
    total = vector(0, behavior="a", format="text") + vector(1, behavior="b", format="text")
    assert dict(total.metadata) == {"model": "m", "format": "text"}
    assert (2 * vector(0, behavior="a")).metadata["behavior"] == "a"


def test_a_vector_of_no_known_model_leaves_the_model_of_a_sum_known():
    known = {"model": "m", "model_revision": "a" * 64, "weight_processing": "centered"}
    bare = caa.SteeringVector(vector().values, (1, 4, 7), {"model_revision": None})
    for total in (vector(**known) + bare, bare + vector(**known), bare - vector(**known)):
        assert dict(total.metadata) == known
        with pytest.raises(caa.errors.VectorMismatchError, match=r"made from 'm' .*, but the model is 'n'"):
            total.check_fits(model("n"))
    assert (bare + bare).metadata == {"model_revision": None}
    alike = vector(weight_processing="none") + vector(weight_processing="folded")
    assert alike.metadata["weight_processing"] == "none"


def test_arithmetic_leaves_its_inputs_alone():
    one = vector(0)
    values = one.values.clone()
    _ = 3 * one - one
    assert torch.equal(one.values, values)


def test_vectors_of_different_shape_cannot_be_added():
    for other in (vector(layers=(1, 4, 6)), vector(width=8), vector(layers=(1, 4))):
        with pytest.raises(caa.errors.VectorMismatchError, match=r"differ in layers or width. Extract both from one"):
            vector() + other


def test_the_sum_of_vectors_of_two_models_fits_neither():
    with pytest.raises(caa.errors.VectorMismatchError):
        (vector() + vector(model="other")).check_fits(model("m"))


def test_at_gives_the_row_of_a_layer():
    one = vector(layers=(1, 4, 7))
    for row, layer in enumerate((1, 4, 7)):
        assert torch.equal(one.at(layer), one.values[row])


@pytest.mark.parametrize("layer", [0, 2, 8, -1, 1.0, True])
def test_at_refuses_a_layer_that_it_does_not_have(layer):
    said = rf"layer {layer!r}: the vector has layers 1 to 7 .*namely \[1, 4, 7\]. Choose one of these"
    with pytest.raises(caa.InputError, match=said):
        vector(layers=(1, 4, 7)).at(layer)


def test_some_layers_are_taken_in_their_order(tiny_llama, pairs):
    one = vector(layers=(1, 4, 7))
    assert one.at_layers([7, 1]) == caa.SteeringVector(one.values[[2, 0]], (7, 1), one.metadata)
    assert one.at_layers(4).layers == (4,)
    assert one.at_layers(None) == one
    with pytest.raises(caa.InputError, match="layer 2: the vector has layers 1 to 7"):
        one.at_layers(2)
    activations = caa.collect_activations(tiny_llama, pairs, format="text", progress=False)
    some = activations.at_layers([3, 0])
    assert (some.layers, some.pairs, some.metadata) == ((3, 0), activations.pairs, activations.metadata)
    for layer in some.layers:
        for side, expected in zip(some.at(layer), activations.at(layer), strict=True):
            assert torch.equal(side, expected)
    with pytest.raises(caa.InputError, match="layer 9: the activations has layers 0 to 3"):
        activations.at_layers(9)


def test_norms_and_width():
    one = caa.SteeringVector(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), (0, 1))
    assert one.norms.tolist() == [5.0, 2.0]
    assert one.d_model == 2


@pytest.mark.parametrize("n_layers", [2, 4])
def test_values_of_other_layers(n_layers):
    with pytest.raises(caa.InputError, match=r"values: shape \(., 4\) with 3 layers; it must be \[n_layers, d_model\]"):
        caa.SteeringVector(torch.ones(n_layers, 4), (0, 1, 2))


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(3),
        torch.ones(3, 4, 1),
        torch.ones(0, 4),
        torch.ones(3, 0),
        torch.ones(3, 4).to_sparse(),
        torch.ones(3, 4, device="meta"),
        torch.ones(3, 4, dtype=torch.int64),
        torch.ones(3, 4, dtype=torch.complex64),
        torch.ones(3, 4).to(torch.float8_e5m2),
        np.ones((3, 4)),
        None,
    ],
    ids=repr,
)
def test_values_that_are_no_matrix_of_floats(values):
    said = r"values: .*; it must (be a tensor|hold floating-point numbers and have 2 axes)"
    with pytest.raises(caa.InputError, match=said):
        caa.SteeringVector(values, (0, 1, 2))
    said = r"positive: .*; it must (be a tensor|hold floating-point numbers and have 3 axes|be \[n_rows)"
    with pytest.raises(caa.InputError, match=said):
        Activations(values, values, (0, 1, 2), (caa.ContrastPair("Why?", "Yes.", "No."),), "text")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_of_half_precision_are_widened(dtype):
    one = caa.SteeringVector(torch.full((1, 4096), 1500.0, dtype=dtype), (0,))
    assert one.values.dtype == torch.float32
    assert one.norms.tolist() == pytest.approx([64 * float(one.values[0, 0])], rel=1e-4)
    torch.testing.assert_close(caa.match_norms({"a": one, "b": 3 * one})["a"].values, 2 * one.values)


def test_a_vector_owns_its_values():
    given = torch.ones(1, 4)
    one = caa.SteeringVector(given, (0,))
    given[0, 0] = float("nan")
    assert torch.equal(one.values, torch.ones(1, 4))


@pytest.mark.parametrize("kind", [caa.SteeringVector, Activations])
def test_what_was_loaded_is_not_changed_with_its_file(tmp_path, kind):
    """A file that is cut off would end Python where its pages are still mapped."""
    values = torch.randn(1, 2, 4096)
    made = {
        caa.SteeringVector: lambda values: caa.SteeringVector(values[0], (0, 1)),
        Activations: lambda values: Activations(
            values, values + 1, (0, 1), (caa.ContrastPair("Why?", "Yes.", "No."),), "text"
        ),
    }[kind]
    path = made(values).save(tmp_path / "v.safetensors")
    loaded = kind.load(path)
    other = made(-values).save(tmp_path / "other.safetensors")
    with path.open("r+b") as file:
        file.write(other.read_bytes())
    assert torch.equal(loaded.values if kind is caa.SteeringVector else loaded.positive[0], values[0])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(value):
    values = torch.ones(2, 4)
    values[1, 2] = value
    with pytest.raises(caa.InputError, match=r"values: there are NaN or infinite entries; .*must be finite"):
        caa.SteeringVector(values, (0, 1))
    with pytest.raises(caa.InputError, match="must be finite"):
        vector() * value


def test_match_norms_by_hand():
    one = caa.SteeringVector(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), (0, 1), {"behavior": "one"})
    other = caa.SteeringVector(torch.tensor([[0.0, 1.0], [0.0, 3.0]]), (0, 1), {"behavior": "other"})
    matched = caa.match_norms({"one": one, "other": other})
    torch.testing.assert_close(matched["one"].values, torch.tensor([[1.8, 2.4], [2.0, 0.0]]))
    torch.testing.assert_close(matched["other"].values, torch.tensor([[0.0, 3.0], [0.0, 2.0]]))
    assert matched["one"].metadata == {"behavior": "one"}


def test_match_norms_keeps_directions():
    vectors = {str(seed): vector(seed) * (seed + 1) for seed in range(4)}
    matched = caa.match_norms(vectors)
    mean = torch.stack([one.norms for one in vectors.values()]).mean(0)
    for name, one in vectors.items():
        torch.testing.assert_close(matched[name].norms, mean)
        cosine = torch.nn.functional.cosine_similarity(matched[name].values, one.values)
        torch.testing.assert_close(cosine, torch.ones(3))


def test_what_match_norms_refuses():
    with pytest.raises(caa.InputError, match="vectors: the mapping is empty; give at least one vector"):
        caa.match_norms({})
    with pytest.raises(caa.errors.VectorMismatchError, match="differ in layers or width"):
        caa.match_norms({"a": vector(), "b": vector(width=8)})
    with pytest.raises(caa.InputError, match=r"it is zero at some layer, so it has no direction to rescale"):
        caa.match_norms({"a": vector(), "b": 0 * vector()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_and_loaded_it_is_the_same_to_the_bit(tmp_path, dtype):
    metadata = {"model": "m", "n_pairs": 3, "versions": {"torch": "2"}, "note": "Ünï 🙂", "system_prompt": None}
    values = torch.randn(3, 16, dtype=dtype) / 3
    path = caa.SteeringVector(values, (1, 4, 7), metadata).save(tmp_path / "new" / "v.safetensors")
    loaded = caa.SteeringVector.load(path)
    assert torch.equal(loaded.values, values)
    assert loaded.values.dtype == dtype
    assert loaded.layers == (1, 4, 7)
    assert loaded.metadata == metadata


def test_a_slice_of_a_larger_tensor_is_saved_alone(tmp_path):
    values = torch.randn(100, 16).T
    loaded = caa.SteeringVector.load(caa.SteeringVector(values, tuple(range(16))).save(tmp_path / "v.safetensors"))
    assert torch.equal(loaded.values, values)


def test_the_last_save_counts_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "v.safetensors"
    vector(0).save(path)
    vector(1).save(str(path))
    assert torch.equal(caa.SteeringVector.load(str(path)).values, vector(1).values)
    assert os.listdir(tmp_path) == ["v.safetensors"]


@pytest.mark.parametrize("broken", ["os.replace", "os.fdopen"])
def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = vector(0).save(tmp_path / "v.safetensors")
    content = path.read_bytes()

    def fail(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(broken, fail)
    with pytest.raises(OSError, match="no space left"):
        vector(1).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["v.safetensors"]


@pytest.mark.parametrize(
    "note",
    [torch.ones(2), (1, 2), [{"a": (1,)}], {1: 2}, {True: 1}, float("nan"), [float("inf")], np.float32(1), b"a", {"a"}],
    ids=repr,
)
def test_metadata_that_does_not_come_back_from_json_leaves_the_old_file(tmp_path, note):
    path = vector(0).save(tmp_path / "v.safetensors")
    with pytest.raises(caa.InputError, match=r"metadata: it cannot be written as JSON .*Keep to texts, finite numbers"):
        vector(1, note=note).save(path)
    assert torch.equal(caa.SteeringVector.load(path).values, vector(0).values)


def test_a_path_with_another_ending(tmp_path):
    with pytest.raises(caa.InputError, match=r"path: '.*v.pt' must end in '.safetensors'"):
        vector().save(tmp_path / "v.pt")


@pytest.mark.parametrize("path", ["v.safetensors", "a" * 5000, "\0", "."])
def test_a_file_that_is_not_there(tmp_path, path):
    with pytest.raises(caa.InputError, match=r"vector file .*: there is no such file. Check the path"):
        caa.SteeringVector.load(f"{tmp_path}/{path}")


def test_what_is_no_path():
    with pytest.raises(caa.InputError, match=r"vector file None: .*Give a file written by SteeringVector.save"):
        caa.SteeringVector.load(None)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    content = vector().save(tmp_path / "v.safetensors").read_bytes()
    path = tmp_path / "cut.safetensors"
    for length in (0, 1, 8, 50, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(caa.InputError, match=r"vector file .*cut.safetensors: it is not a steering vector"):
            caa.SteeringVector.load(path)


class Exploding:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


@pytest.mark.parametrize("content", [b"\xff" * 100, b"{}" * 50, pickle.dumps(Exploding()), b"\x00" * 1000])
def test_bytes_that_are_no_vector(tmp_path, content):
    path = tmp_path / "v.safetensors"
    path.write_bytes(content)
    with pytest.raises(caa.InputError, match=r"it is not a steering vector of this package .*Give a file written by"):
        caa.SteeringVector.load(path)


def header(**changes):
    return json.dumps({"format": FORMAT, "layers": [0, 1], "metadata": {}, **changes})


def kept(text):
    """Metadata of a file with the header and with the checksum of its values."""
    return {"caa_interp": text, "sha256": checksum(text, torch.ones(2, 4))}


def raw(entries, data):
    """Content of a safetensors file with a header of one's own."""
    sealed = {"caa_interp": header(), "sha256": hashlib.sha256(header().encode() + data).hexdigest()}
    text = json.dumps({"__metadata__": sealed, **entries}).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"other": "x"},
        {"caa_interp": ""},
        {"caa_interp": "[1]"},
        {"caa_interp": "3"},
        {"caa_interp": "[" * 100_000},
        {"caa_interp": "{}"},
        {"caa_interp": header(format="caa_interp/vector/99")},
        {"caa_interp": header(format=None)},
        {"caa_interp": header(layers=None)},
        {"caa_interp": header(layers=3)},
        {"caa_interp": header(layers=[0])},
        {"caa_interp": header(layers=[0, 1, 2])},
        {"caa_interp": header(layers=["0", "1"])},
        {"caa_interp": header(layers=[0, 0.5])},
        {"caa_interp": header(layers=[0, -1])},
        {"caa_interp": header(layers=[1, 1])},
        {"caa_interp": header(layers="01")},
        {"caa_interp": header(layers={"0": 1, "1": 2})},
        {"caa_interp": header(metadata=None)},
        {"caa_interp": header(metadata=[1])},
        {"caa_interp": header(metadata="text")},
    ],
    ids=lambda metadata: str(metadata)[:80],
)
def test_a_hostile_header_is_refused(tmp_path, metadata):
    path = tmp_path / "v.safetensors"
    sealed = kept(metadata["caa_interp"]) if "caa_interp" in (metadata or {}) else metadata
    path.write_bytes(save({"values": torch.ones(2, 4)}, metadata=sealed))
    with pytest.raises(caa.InputError):
        caa.SteeringVector.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"other": torch.ones(2, 4)},
        {"values": torch.ones(8)},
        {"values": torch.ones(2, 4, 1)},
        {"values": torch.full((2, 4), float("nan"))},
        {"values": torch.ones(2, 4, dtype=torch.int64)},
        {"values": torch.ones(2, 4, dtype=torch.bool)},
    ],
)
def test_hostile_tensors_are_refused(tmp_path, tensors):
    path = tmp_path / "v.safetensors"
    path.write_bytes(save(tensors, metadata={"caa_interp": header()}))
    with pytest.raises(caa.InputError):
        caa.SteeringVector.load(path)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "C64", "U16"])
def test_types_that_no_vector_has(tmp_path, kind):
    size = {"C64": 8, "U16": 2}.get(kind, 1)
    path = tmp_path / "v.safetensors"
    entry = {"dtype": kind, "shape": [2, 4], "data_offsets": [0, 8 * size]}
    path.write_bytes(raw({"values": entry}, bytes(8 * size)))
    with pytest.raises(caa.InputError, match=f"vector file {path}: (values: a tensor of type|it is not a steering)"):
        caa.SteeringVector.load(path)


@pytest.mark.parametrize(
    "content",
    [
        (2**40).to_bytes(8, "little") + b"{}",
        (2**63).to_bytes(8, "little") + b"{}" * 100,
        raw({"values": {"dtype": "F32", "shape": [2, 2**37], "data_offsets": [0, 2**40]}}, b""),
        raw({"values": {"dtype": "F32", "shape": [2, 2**37], "data_offsets": [0, 8]}}, bytes(8)),
        raw({"values": {"dtype": "F32", "shape": [2**33, 2**33], "data_offsets": [0, 8]}}, bytes(8)),
        raw({"values": {"dtype": "F32", "shape": [2, 4], "data_offsets": [2**40, 2**40 + 32]}}, bytes(32)),
    ],
)
def test_sizes_that_the_file_does_not_have_are_refused_before_they_are_allocated(tmp_path, content):
    path = tmp_path / "v.safetensors"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(caa.InputError, match="it is not a steering vector of this package"):
        caa.SteeringVector.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("caa_interp/vector/2", "Install a newer caa_interp"),
        ("caa_interp/vector/99", "Install a newer caa_interp"),
        ("caa_interp/activations/1", "Give a file written by SteeringVector.save"),
        (None, "Give a file written by SteeringVector.save"),
    ],
)
def test_another_format_is_named(tmp_path, kind, advice):
    path = tmp_path / "v.safetensors"
    path.write_bytes(save({"values": torch.ones(2, 4)}, metadata=kept(header(format=kind))))
    said = f"vector file .*: its format is {kind!r}, and this version of caa_interp reads '{FORMAT}'. {advice}"
    with pytest.raises(caa.InputError, match=said):
        caa.SteeringVector.load(path)


def test_the_file_is_as_documented(tmp_path):
    path = vector(layers=(1, 4), note="n").save(tmp_path / "v.safetensors")
    with safe_open(path, framework="np") as file:
        values, found = file.get_tensor("values"), file.metadata()
    assert found["caa_interp"] == json.dumps(
        {"format": "caa_interp/vector/1", "layers": [1, 4], "metadata": {"model": "m", "note": "n"}}
    )
    assert found["sha256"] == hashlib.sha256(found["caa_interp"].encode() + values.tobytes()).hexdigest()
    assert set(found) == {"caa_interp", "sha256"}


def test_the_header_of_the_hostile_ones_is_right_but_for_one_thing(tmp_path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(save({"values": torch.ones(2, 4)}, metadata=kept(header())))
    assert torch.equal(caa.SteeringVector.load(path).values, torch.ones(2, 4))
    path.write_bytes(save({"values": torch.ones(2, 4)}, metadata={"caa_interp": header()}))
    with pytest.raises(caa.InputError, match="it was changed after it was saved"):
        caa.SteeringVector.load(path)


def test_a_changed_value_is_noticed(tmp_path):
    path = vector().save(tmp_path / "v.safetensors")
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(caa.InputError, match=r"vector file .*: it was changed after it was saved. Get it again"):
        caa.SteeringVector.load(path)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Bytes of a vector's file."""
    return vector(note="Ünï 🙂").save(tmp_path_factory.mktemp("whole") / "v.safetensors").read_bytes()


@settings(derandomize=True, deadline=None, max_examples=200)
@given(changes=st.lists(st.tuples(st.integers(0, 999), st.binary(max_size=3)), min_size=1, max_size=3))
def test_bytes_that_change_give_the_vector_or_an_input_error(tmp_path_factory, content, changes):
    changed = bytearray(content)
    for place, new in changes:
        place %= len(content)
        changed[place : place + 1] = new
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    path.write_bytes(changed)
    try:
        loaded = caa.SteeringVector.load(path)
    except caa.InputError:
        return
    assert torch.equal(loaded.values, vector().values)
    assert loaded.layers == (1, 4, 7)
    assert loaded.metadata == {"model": "m", "note": "Ünï 🙂"}


def test_the_file_is_safe_to_share(tmp_path):
    content = vector().save(tmp_path / "v.safetensors").read_bytes()
    assert str(tmp_path).encode() not in content
    assert os.stat(tmp_path / "v.safetensors").st_mode & 0o777 == 0o644


def test_a_vector_fits_its_own_model_only():
    vector().check_fits(model("m"))
    with pytest.raises(
        caa.errors.VectorMismatchError, match=r"made from 'm', but the model is 'n'.*transferred_to\(model\)"
    ):
        vector().check_fits(model("n"))
    with pytest.raises(
        caa.errors.VectorMismatchError, match="its width is 16, but the residual stream of 'm' is 8 wide"
    ):
        vector().check_fits(model("m", width=8))
    with pytest.raises(caa.errors.VectorMismatchError, match="it has layer 7, but 'm' has layers 0 to 6"):
        vector().check_fits(model("m", n_layers=7))


@pytest.mark.parametrize(
    ("made", "loaded", "fits"),
    [
        ({}, {}, True),
        ({"model_revision": "a" * 64}, {}, True),
        ({}, {"model_revision": "a" * 64}, True),
        ({"model_revision": "a" * 64}, {"model_revision": "a" * 64}, True),
        ({"model_revision": "a" * 64}, {"model_revision": "a" * 64, "model": "renamed"}, True),
        ({"model_revision": "a" * 64}, {"model_revision": "b" * 64}, False),
        ({"model_revision": "a" * 64}, {"model": "n"}, False),
        ({}, {"model": "n", "model_revision": "a" * 64}, False),
        ({"model": None}, {"model": "n"}, True),
        ({"model": "org/m"}, {}, True),
        ({}, {"model": "org/m", "model_revision": "a" * 64}, True),
        ({"model": "org/m"}, {"model": "other/m"}, False),
        ({"model": "org/m"}, {"model": "n"}, False),
        ({"weight_processing": "none"}, {"weight_processing": "folded"}, True),
        ({"weight_processing": "none"}, {"weight_processing": "centered"}, False),
        ({"weight_processing": "centered"}, {"weight_processing": "folded"}, False),
        ({"weight_processing": "centered"}, {"weight_processing": "centered"}, True),
        ({}, {"weight_processing": "centered"}, True),
    ],
)
def test_revision_and_weights_decide_with_the_name_what_fits(monkeypatch, made, loaded, fits):
    own = {"model": "m", "model_revision": None, "weight_processing": None, **loaded}
    monkeypatch.setattr("caa_interp.vectors.vector.identity", lambda _: own)
    one, other = vector(**made), vector(1, **own)
    if fits:
        one.check_fits(model(own["model"]))
        for total in (one + other, other + one):
            total.check_fits(model(own["model"]))
        return
    with pytest.raises(caa.errors.VectorMismatchError, match=r"it was made from .*, but the model is .*transferred_to"):
        one.check_fits(model(own["model"]))
    with pytest.raises(caa.errors.VectorMismatchError, match="so they cannot be added"):
        one + other
    one.transferred_to(model(own["model"])).check_fits(model(own["model"]))


def test_what_tells_two_models_apart_is_named(monkeypatch):
    own = {"model": "m", "model_revision": "b" * 64, "weight_processing": "centered"}
    monkeypatch.setattr("caa_interp.vectors.vector.identity", lambda _: own)
    with pytest.raises(caa.errors.VectorMismatchError, match=r"'m' at revision 'a{12}', but the model is 'm' at rev"):
        vector(model_revision="a" * 64).check_fits(model())
    said = "'m' with weight processing 'none', but the model is 'm' with weight processing 'centered'"
    with pytest.raises(caa.errors.VectorMismatchError, match=said):
        vector(weight_processing="none").check_fits(model())


# The wrong kind of thing


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("gpt2", r"model: str; it must be a TransformerLens model: load it: caa.load_model\('gpt2'\)"),
        ("plain", r"LlamaForCausalLM; .*caa.load_model\(.*TransformerBridge.boot_transformers\(name, hf_model=model"),
        ([1], r"model: list; it must be a TransformerLens model: use caa.load_model\(...\)"),
    ],
)
def test_what_is_no_model_is_refused_wherever_one_is_taken(plain_llama, pairs, given, said):
    no_model = plain_llama if given == "plain" else given
    for call in (
        lambda: caa.extract_vector(no_model, pairs),
        lambda: caa.collect_activations(no_model, pairs),
        lambda: vector().check_fits(no_model),
        lambda: vector().transferred_to(no_model),
        lambda: caa.sweep(no_model, vector(), pairs),
    ):
        with pytest.raises(caa.InputError, match=said):
            call()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda pairs: caa.Behavior("b", "", pairs, pairs), "pairs: Behavior; give its pairs, such as behavior.train"),
        (lambda pairs: pairs[0], "pairs: ContrastPair; give a list of ContrastPair, such as behavior.train"),
        (lambda pairs: "sycophancy", "pairs: str; give a list of ContrastPair"),
        (lambda pairs: {"a": pairs}, "pairs: dict; give a list of ContrastPair"),
        (lambda pairs: 3, "pairs: int; give a list of ContrastPair"),
    ],
)
def test_what_are_no_pairs_is_refused_wherever_they_are_taken(tiny_llama, pairs, make, said):
    for call in (caa.extract_vector, caa.collect_activations):
        with pytest.raises(caa.InputError, match=said):
            call(tiny_llama, make(pairs))


def test_a_behavior_in_place_of_its_name_is_refused_before_any_work(tiny_llama, pairs, monkeypatch):
    activations = caa.collect_activations(tiny_llama, pairs, format="text", layers=1, progress=False)
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_, **__: pytest.fail("the model ran"))
    behavior = caa.Behavior("likes", "", pairs, pairs)
    for call in (
        lambda **given: caa.extract_vector(tiny_llama, pairs, **given),
        lambda **given: caa.vectors.vector_from_activations(activations, **given),
        lambda **given: caa.vectors.head_vector(tiny_llama, pairs, **given),
    ):
        with pytest.raises(caa.InputError, match=r"behavior: Behavior; give its name, a text such as behavior\.name"):
            call(behavior=behavior)


def test_an_estimator_that_is_no_function_is_refused_before_any_work(tiny_llama, pairs, monkeypatch):
    activations = caa.collect_activations(tiny_llama, pairs, format="text", layers=1, progress=False)
    monkeypatch.setattr(type(tiny_llama), "forward", lambda *_, **__: pytest.fail("the model ran"))
    for call in (
        lambda **given: caa.extract_vector(tiny_llama, pairs, **given),
        lambda **given: caa.vectors.vector_from_activations(activations, **given),
        lambda **given: caa.analysis.influence(activations, **given),
        lambda **given: caa.analysis.data_curve(tiny_llama, activations, [OTHER], layer=1, **given),
    ):
        with pytest.raises(
            caa.InputError, match=r"estimator: 'logistic_probe'; it must be a function .*logistic_probe"
        ):
            call(estimator="logistic_probe")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"a": vector()}, r"v: dict; it must be one SteeringVector: give one of them, such as vs\['a'\]"),
        ([vector()], "v: list; it must be one SteeringVector: give one of them"),
        ("v.safetensors", r"v: str; it must be one SteeringVector: load it: SteeringVector.load\('v.safetensors'\)"),
        (torch.ones(3), r"v: Tensor; .*say which layers its rows are: SteeringVector\(values, layers\)"),
        (None, r"v: NoneType; .*make one with extract_vector\(model, behavior.train\)"),
    ],
)
def test_what_is_no_vector_says_what_to_give(given, said):
    with pytest.raises(caa.InputError, match=said):
        one_vector(given, "v")
    with pytest.raises(caa.InputError, match=r"vectors\['x'\]: .*; it must be one SteeringVector"):
        caa.match_norms({"x": given})


def test_several_vectors_are_a_mapping_with_names():
    one = vector(behavior="a")
    assert named_vectors(one) == {"a": one}
    assert named_vectors({"x": one}) == {"x": one}
    with pytest.raises(
        caa.InputError, match=r"^vectors: two of its names are '1' as text; give each a name of its own"
    ):
        named_vectors({1: one, "1": one})
    for wrong in ([one], (one, one)):
        with pytest.raises(caa.InputError, match=r"give a mapping such as \{v.name: v for v in vectors\}"):
            caa.match_norms(wrong)


@pytest.mark.parametrize("given", [torch.ones(2, 3), vector(), [1]])
def test_what_are_no_activations(given):
    with pytest.raises(caa.InputError, match=r"activations: \w+; give the result of caa_interp.collect_activations"):
        caa.vectors.vector_from_activations(given)


def test_layers_in_any_order_are_checked_against_the_model():
    with pytest.raises(caa.errors.VectorMismatchError, match="it has layer 9, but 'm' has layers 0 to 7"):
        vector(layers=(9, 1)).check_fits(model("m"))


def test_a_transfer_that_is_meant():
    moved = vector().transferred_to(model("n"))
    moved.check_fits(model("n"))
    assert moved.metadata["transferred_from"] == "m"
    assert torch.equal(moved.values, vector().values)
    with pytest.raises(caa.errors.VectorMismatchError, match="its width is 16"):
        vector().transferred_to(model("n", width=8))


def test_a_vector_of_another_model_is_refused_wherever_one_is_used(tiny_llama, pairs):
    foreign = vector(layers=(0, 1, 2, 3), width=64)
    said = "made from 'm', but the model is 'tiny-llama'"
    with pytest.raises(caa.errors.VectorMismatchError, match=said), caa.steer(tiny_llama, foreign, layer=1):
        pass
    with pytest.raises(caa.errors.VectorMismatchError, match=said):
        caa.sweep(tiny_llama, foreign, pairs)
    with pytest.raises(caa.errors.VectorMismatchError, match=said):
        caa.generate(tiny_llama, ["Why?"], vector=foreign, layer=1, multipliers=[1])


@pytest.mark.parametrize("form", ["choices", "text"])
def test_a_vector_from_activations_is_the_extracted_one(tiny_llama, pairs, form):
    activations = caa.collect_activations(tiny_llama, pairs, format=form)
    found = caa.vectors.vector_from_activations(activations, behavior="weather")
    extracted = caa.extract_vector(tiny_llama, pairs, format=form, behavior="weather")
    torch.testing.assert_close(found.values, extracted.values)
    assert found.layers == extracted.layers
    assert found.metadata == extracted.metadata
    assert list(found.metadata) == list(extracted.metadata)
    found.check_fits(tiny_llama)
    assert found.name == "weather"
    assert caa.vectors.vector_from_activations(activations).name == "vector"


@pytest.mark.parametrize("estimator", [caa.vectors.mean_difference, caa.vectors.principal_difference])
def test_a_vector_of_pairs_as_published_says_so(tiny_llama, pairs, estimator):
    kept = [PublishedPair(f"Is it {word}?\n\nChoices:\n (A) Yes\n (B) No", "(A)", "(B)") for word in ("wet", "dry")]
    for some, sides in ((kept, "as published"), (pairs, None)):
        made = caa.extract_vector(tiny_llama, some, layers=1, estimator=estimator, progress=False)
        assert (made.metadata.get("sides"), made.metadata["n_pairs"]) == (sides, len(some))


def test_letter_orders_that_are_kept_apart_give_the_same_vector(tiny_llama, pairs):
    apart = caa.collect_activations(tiny_llama, pairs, average_orders=False)
    found = caa.vectors.vector_from_activations(apart, estimator=caa.vectors.principal_difference)
    assert found.metadata["n_pairs"] == len(pairs)
    assert found.metadata["estimator"] == "principal_difference"
    torch.testing.assert_close(
        caa.vectors.vector_from_activations(apart).values, caa.extract_vector(tiny_llama, pairs).values
    )
