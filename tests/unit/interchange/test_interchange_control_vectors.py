"""GGUF control vectors: what llama.cpp and repeng find in them, what is read of theirs, and damaged files."""

import os
import struct
import warnings
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector

WIDTH = 6


def vector(layers=(1, 4, 10), dtype=torch.float32, **metadata):
    values = torch.randn(len(layers), WIDTH, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return caa.SteeringVector(values, tuple(layers), {"model": "org/m", "behavior": "b", **metadata})


def llama_cpp(path, n_layers):
    """Literally what llama.cpp does with the file: ``{block: what is added to its output}``.

    ``common_control_vector_load_one`` puts ``direction.N`` at offset ``n_embd * (N - 1)`` of a buffer, and
    ``llama_adapter_cvec::apply`` fills the tensor of block ``il`` from offset ``n_embd * (il - 1)``, from 1 on.
    """
    buffer = np.zeros(0, dtype=np.float32)
    for tensor in gguf.GGUFReader(path).tensors:
        kind, number = tensor.name.split(".")
        assert kind == "direction"
        assert int(number) > 0
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [WIDTH]
        end = WIDTH * int(number)
        buffer = np.concatenate([buffer, np.zeros(max(0, end - len(buffer)), dtype=np.float32)])
        buffer[end - WIDTH : end] += tensor.data
    blocks = {il: buffer[WIDTH * (il - 1) : WIDTH * il] for il in range(1, n_layers) if WIDTH * il <= len(buffer)}
    return {il: values for il, values in blocks.items() if values.any()}


def repeng(path):
    """Literally what ``ControlVector.import_gguf`` does with the file: model hint and directions."""
    reader = gguf.GGUFReader(path)
    assert bytes(reader.get_field("general.architecture").parts[-1]).decode() == "controlvector"
    hint = bytes(reader.get_field("controlvector.model_hint").parts[-1]).decode()
    named = [tensor for tensor in reader.tensors if tensor.name.startswith("direction.")]
    return hint, {int(tensor.name.split(".")[1]): tensor.data for tensor in named}


def written_by_repeng(path, directions, hint="llama", architecture="controlvector"):
    """Literally what ``ControlVector.export_gguf`` does."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", hint)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_round_trip_to_the_bit(tmp_path):
    one = vector(note="Ünï 🙂")
    found = import_vector(export_vector(one, tmp_path / "new" / "v.gguf"))
    assert torch.equal(found.values, one.values)
    assert found.layers == one.layers
    assert found.metadata == one.metadata


def test_float64_is_rounded_to_float32(tmp_path):
    one = vector(dtype=torch.float64)
    found = import_vector(export_vector(one, tmp_path / "v.gguf"))
    assert torch.equal(found.values, one.values.float())
    with pytest.raises(caa.InputError, match=r"an entry is larger than float32 can hold. Rescale"):
        export_vector(1e300 * one, tmp_path / "w.gguf")
    assert not (tmp_path / "w.gguf").exists()


@pytest.mark.parametrize("layer", [1, 4, 10])
def test_a_planted_layer_is_edited_by_llama_cpp_at_that_block(tmp_path, layer):
    one = vector(layers=(layer,))
    found = llama_cpp(export_vector(one, tmp_path / "v.gguf"), n_layers=12)
    assert list(found) == [layer]
    assert np.array_equal(found[layer], one.values[0].numpy())


def test_repeng_reads_what_is_written(tmp_path):
    one = vector(layers=(10, 1))
    hint, directions = repeng(export_vector(one, tmp_path / "v.gguf"))
    assert hint == "org/m"
    assert {layer: values.tolist() for layer, values in directions.items()} == {
        layer: one.at(layer).tolist() for layer in (1, 10)
    }


def test_what_repeng_writes_is_read(tmp_path):
    directions = {layer: np.random.default_rng(layer).normal(size=WIDTH).astype(np.float32) for layer in (11, 2, 1)}
    found = import_vector(written_by_repeng(tmp_path / "v.gguf", directions), model="org/m")
    assert found.layers == (1, 2, 11)
    for layer in found.layers:
        assert np.array_equal(found.at(layer).numpy(), directions[layer])
    assert found.metadata["model"] == "org/m"
    assert found.metadata["model_hint"] == "llama"
    assert import_vector(tmp_path / "v.gguf").metadata["model"] is None


def test_layer_0_cannot_be_written_and_is_told(tmp_path):
    said = r"layers: 0 is among them, and llama.cpp refuses .*Give those from 1 to 3\."
    with pytest.raises(caa.InputError, match=said):
        export_vector(vector(layers=(0, 1, 2, 3)), tmp_path / "v.gguf")
    with pytest.raises(caa.InputError, match=r"Give those from 5 to 5\."):
        export_vector(vector(layers=(0, 5)), tmp_path / "v.gguf")
    with pytest.raises(caa.InputError, match="Choose another format"):
        export_vector(vector(layers=(0,)), tmp_path / "v.gguf")
    assert not list(tmp_path.iterdir())
    found = import_vector(export_vector(vector(layers=(0, 1, 2)), tmp_path / "v.gguf", layers=range(1, 3)))
    assert found.layers == (1, 2)


def test_a_layer_0_of_another_tool_is_read(tmp_path):
    path = written_by_repeng(tmp_path / "v.gguf", {0: np.ones(WIDTH, np.float32)})
    assert import_vector(path).layers == (0,)


def test_a_loaded_model_is_checked(tmp_path):
    def model(name, width=WIDTH):
        return type("Model", (), {"cfg": SimpleNamespace(model_name=name, d_model=width, n_layers=12)})()

    path = export_vector(vector(), tmp_path / "v.gguf")
    assert import_vector(path, model=model("org/m")).metadata["model"] == "org/m"
    with pytest.raises(caa.errors.VectorMismatchError, match=r"model: 'other', but v.gguf was made from 'org/m'"):
        import_vector(path, model=model("other"))
    with pytest.raises(caa.errors.VectorMismatchError, match="its width is 6, but the residual stream of 'org/m' is 8"):
        import_vector(path, model=model("org/m", width=8))


def content(tensors, architecture=b"controlvector", n_tensors=None, n_fields=1, magic=b"GGUF", version=3):
    """A GGUF file byte by byte: ``tensors`` is ``[(name, axes, type, offset)]``; 64 bytes of data follow."""
    parts = [magic, struct.pack("<IQQ", version, len(tensors) if n_tensors is None else n_tensors, n_fields)]
    parts += [text(b"general.architecture"), struct.pack("<I", 8), text(architecture)]
    for name, axes, kind, offset in tensors:
        parts += [text(name), struct.pack(f"<I{len(axes)}Q", len(axes), *axes), struct.pack("<IQ", kind, offset)]
    joined = b"".join(parts)
    return joined + bytes(-len(joined) % 32) + np.arange(16, dtype="<f4").tobytes()


def text(value):
    return struct.pack("<Q", len(value)) + value


def test_the_bytes_of_these_tests_are_a_control_vector(tmp_path):
    path = tmp_path / "v.gguf"
    path.write_bytes(content([(b"direction.1", [8], 0, 0), (b"direction.2", [8], 0, 32)]))
    assert torch.equal(import_vector(path).values, torch.arange(16.0).reshape(2, 8))
    assert llama_8(path) == {1: list(range(8)), 2: list(range(8, 16))}


def llama_8(path):
    return {int(t.name.split(".")[1]): t.data.tolist() for t in gguf.GGUFReader(path).tensors}


ONE = [(b"direction.1", [8], 0, 0)]


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (content(ONE, magic=b"GGUX"), "it does not begin as a GGUF file"),
        (content(ONE, version=0x03000000), "it does not begin as a GGUF file"),
        (b"", "it ends at byte 0"),
        (content(ONE)[:60], "it ends at byte 60, and more is declared"),
        (content(ONE)[:-40], "it ends at byte"),
        (content(ONE, architecture=b"llama"), "its architecture is 'llama', not 'controlvector'"),
        (content([]), "it has no tensor 'direction.N'"),
        (content([(b"direction.1", [8, 2], 0, 0)]), "has not one axis of float32"),
        (content([(b"direction.1", [], 0, 0)]), "has not one axis of float32"),
        (content([(b"direction.1", [0], 0, 0)]), "has not one axis of float32"),
        (content([(b"direction.1", [8], 1, 0)]), "has not one axis of float32"),
        (content([(b"direction.01", [8], 0, 0)]), "'direction.01' is not one 'direction.N' per layer"),
        (content([(b"direction.-1", [8], 0, 0)]), "'direction.-1' is not one"),
        (content([(b"direction.1.x", [8], 0, 0)]), "is not one 'direction.N' per layer"),
        (content([(b"blk.1", [8], 0, 0)]), "'blk.1' is not one 'direction.N' per layer"),
        (content([*ONE, *ONE]), "is not one 'direction.N' per layer"),
        (content([*ONE, (b"direction.2", [8], 0, 28)]), "its directions overlap"),
        (content([*ONE, (b"direction.2", [8], 0, 0)]), "its directions overlap"),
        (content([*ONE, (b"direction.2", [4], 0, 32)]), "its directions have different widths"),
        (content([(b"direction.1", [2**40], 0, 0)]), "it ends at byte .*and more is declared"),
        (content([(b"direction.1", [8], 0, 2**62)]), "it ends at byte .*and more is declared"),
        (content(ONE, n_tensors=2**62), "it ends at byte|is not one 'direction.N'"),
        (content(ONE, n_fields=2**62), "it ends at byte|not define|UTF|two fields"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 2**62), "it ends at byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 2**62), "it ends at byte"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 2**62), "it ends at byte"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"k") + struct.pack("<IIQ", 9, 9, 2**62),
            "an array of values",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"k") + struct.pack("<I", 77), "value of type 77"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"\xff") + struct.pack("<IB", 0, 1), "codec can't decode"),
        (content(ONE).replace(np.float32(1).tobytes(), np.float32(np.nan).tobytes()), "NaN or infinite"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, damaged, said):
    path = tmp_path / "v.gguf"
    path.write_bytes(damaged)
    with pytest.raises(caa.InputError, match=rf"file .*v.gguf: .*({said})"):
        import_vector(path)


def test_directions_that_share_their_bytes_are_not_read(tmp_path, at_most):
    path, width = tmp_path / "v.gguf", 2**18
    path.write_bytes(content([(f"direction.{layer}".encode(), [width], 0, 0) for layer in range(1, 400)]))
    os.truncate(path, path.stat().st_size + 4 * width)
    with at_most(4 * width), pytest.raises(caa.InputError, match="its directions overlap"):
        import_vector(path)


def test_a_model_is_refused_by_its_header_alone(tmp_path, at_most):
    path = tmp_path / "model.gguf"
    path.write_bytes(content(ONE, architecture=b"llama"))
    os.truncate(path, 10**9)  # a hole, which takes no space
    with at_most(10**6), pytest.raises(caa.InputError, match=r"'llama', not 'controlvector'. Give a control vector"):
        import_vector(path)


def test_an_array_in_the_header_is_skipped(tmp_path):
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + text(b"general.architecture") + struct.pack("<I", 8)
    head += text(b"controlvector") + text(b"a") + struct.pack("<IIQ", 9, 4, 2) + struct.pack("<II", 1, 2)
    head += text(b"b") + struct.pack("<IIQ", 9, 8, 2) + text(b"x") + text(b"y")
    head += text(b"direction.3") + struct.pack("<IQIQ", 1, 2, 0, 0)
    path = tmp_path / "v.gguf"
    path.write_bytes(head + bytes(-len(head) % 32) + np.array([1, 2], "<f4").tobytes())
    assert import_vector(path).at(3).tolist() == [1, 2]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return export_vector(vector(), tmp_path_factory.mktemp("gguf") / "v.gguf").read_bytes()


@pytest.mark.parametrize("name", [b"caa_interp.vector.sha256", b"caa_interp.vector"])
def test_a_field_of_ours_alone_is_damage(tmp_path, written, name):
    path = tmp_path / "v.gguf"
    path.write_bytes(written.replace(text(name), text(b"x" + name[1:])))
    with pytest.raises(caa.InputError, match=r"its fields of this package are \['caa_interp.vector.*'\]. Get it again"):
        import_vector(path)


def test_a_changed_value_is_noticed(tmp_path, written):
    path = tmp_path / "v.gguf"
    path.write_bytes(written.replace(vector().values[1].numpy().tobytes(), bytes(4 * WIDTH)))
    with pytest.raises(caa.InputError, match="it was changed after it was written"):
        import_vector(path)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=3))
def test_bytes_that_change_give_the_vector_or_an_input_error(tmp_path_factory, written, places):
    changed = bytearray(written)
    for place, new in places:
        at = int(place * (len(written) - 1))
        changed[at : at + 1] = new
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.write_bytes(changed)
    try:
        found = import_vector(path)
    except caa.InputError:
        return
    assert torch.equal(found.values, vector().values)
    assert found.layers == vector().layers


@pytest.mark.parametrize("model", ["Qwen/Qwen3.5-9B", "Qwen/Qwen3-Next-80B-A3B-Instruct", "Qwen/Qwen3-VL-8B-Instruct"])
def test_models_whose_control_vectors_llama_cpp_ignores_are_named(tmp_path, model):
    one = vector(model=model)
    with pytest.warns(UserWarning, match=f"{model}.*llama.cpp"):
        export_vector(one, tmp_path / "v.gguf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_vector(vector(model="Qwen/Qwen3-8B"), tmp_path / "w.gguf")
