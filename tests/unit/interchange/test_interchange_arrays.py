"""numpy archives: what numpy finds in them, what is read of others', and damaged files."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector


def vector(dtype=torch.float32, **metadata):
    values = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return caa.SteeringVector(values, (7, 1), {"model": "m", **metadata})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_to_the_bit(tmp_path, dtype):
    one = vector(dtype, note="Ünï 🙂")
    found = import_vector(export_vector(one, tmp_path / "new" / "v.npz"))
    assert torch.equal(found.values, one.values)
    assert found.values.dtype == dtype
    assert found.layers == (7, 1)
    assert found.metadata == one.metadata


def test_numpy_finds_values_and_layers(tmp_path):
    with np.load(export_vector(vector(), tmp_path / "v.npz"), allow_pickle=False) as arrays:
        assert np.array_equal(arrays["values"], vector().values.numpy())
        assert arrays["layers"].tolist() == [7, 1]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_archives_of_others_are_read(tmp_path, dtype):
    values = np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3) / 3)
    np.savez(tmp_path / "v.npz", values=values, layers=np.array([3, 5], dtype=np.int32))
    found = import_vector(tmp_path / "v.npz", model="m")
    assert found.layers == (3, 5)
    assert np.array_equal(found.values.numpy().astype(dtype), values)
    assert found.metadata["model"] == "m"
    assert import_vector(tmp_path / "v.npz").metadata["model"] is None


def saved(path, **arrays):
    np.savez(path, **{"values": np.ones((2, 3), np.float32), "layers": np.array([1, 2]), **arrays})


HEADER = '{"format": "caa_interp/vector/1", "layers": [1, 2], "metadata": {}}'


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"layers": np.array([1.0, 2.0])}, "'layers' \\[n_layers\\], whole numbers"),
        ({"layers": np.array([[1, 2]])}, "'layers' \\[n_layers\\], whole numbers"),
        ({"layers": np.array([1])}, "one row per layer"),
        ({"layers": np.array([1, 1])}, "different 0-based block indices"),
        ({"layers": np.array([-1, 1])}, "different 0-based block indices"),
        ({"values": np.ones((2, 3), np.int64)}, "'values' are of type int64"),
        ({"values": np.ones((2, 3), np.complex64)}, "'values' are of type complex64"),
        ({"values": np.ones((2, 3), ">f4")}, "'values' are of type >f4"),
        ({"values": np.ones(2, np.float32)}, r"values: .*shape \(2,\); it must .*have 2 axes"),
        ({"values": np.full((2, 3), np.inf, np.float32)}, "NaN or infinite"),
        ({"values": np.array([[None] * 3] * 2)}, "not an array of plain numbers or text"),
        ({"caa_interp": np.array("{}")}, "its header is not that of a steering vector"),
        ({"caa_interp": np.array(HEADER.replace("/1", "/8"))}, "caa_interp/vector/8.*Install a newer"),
        ({"caa_interp": np.array(HEADER.replace("[1, 2]", "[2, 1]"))}, r"its layers are \[1, 2\], its header says"),
        ({"caa_interp": np.array(HEADER.replace("{}", "[]"))}, "its metadata must not be list"),
    ],
)
def test_contents_that_are_no_vector(tmp_path, arrays, said):
    saved(tmp_path / "v.npz", **arrays)
    with pytest.raises(caa.InputError, match=f"file .*v.npz: .*{said}"):
        import_vector(tmp_path / "v.npz")


def test_an_array_that_is_missing(tmp_path):
    np.savez(tmp_path / "v.npz", values=np.ones((2, 3)))
    with pytest.raises(caa.InputError, match=r"it must hold arrays 'values' .* Save it with np.savez"):
        import_vector(tmp_path / "v.npz")


def with_values(path, content, kind=zipfile.ZIP_STORED):
    saved(path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", kind) as new:
        for name, given in {**members, "values.npy": content}.items():
            new.writestr(name, given)


def npy(shape, dtype="<f4", data=b""):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    "content",
    [
        npy((2, 2**40)),
        npy((2**33, 2**33)),
        npy((2, 3), data=bytes(23)),
        npy((2, 3), data=bytes(25)),
        npy((2, 3), "|O", bytes(48)),
        b"",
        b"\x93NUMPY\x07\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\xff\xff{" + b"(" * 1000,
        npy((2, 3), data=bytes(24)).replace(b"False", b"f()  "),
    ],
)
def test_arrays_that_declare_what_they_do_not_hold(tmp_path, content, at_most):
    with_values(tmp_path / "v.npz", content)
    with at_most(10**7), pytest.raises(caa.InputError, match=r"values.npy: not an array of plain numbers or text"):
        import_vector(tmp_path / "v.npz")


def test_a_compressed_archive_is_refused_unread(tmp_path):
    with_values(tmp_path / "v.npz", npy((2, 10**7), data=bytes(8 * 10**7)), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "v.npz").stat().st_size < 10**6
    with pytest.raises(
        caa.InputError, match=r"its parts are compressed, as by np.savez_compressed. Save it with np.savez"
    ):
        import_vector(tmp_path / "v.npz")


def test_of_an_archive_only_a_vectors_arrays_are_read(tmp_path, at_most):
    saved(tmp_path / "v.npz", weights=np.zeros(10**7, np.float32))
    with at_most(10**6):
        assert import_vector(tmp_path / "v.npz").layers == (1, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return export_vector(vector(), tmp_path_factory.mktemp("npz") / "v.npz").read_bytes()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=3))
def test_bytes_that_change_give_the_vector_or_an_input_error(tmp_path_factory, written, places):
    changed = bytearray(written)
    for place, new in places:
        at = int(place * (len(written) - 1))
        changed[at : at + 1] = new
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(changed)
    try:
        found = import_vector(path)
    except caa.InputError:
        return
    assert torch.equal(found.values, vector().values)
    assert found.layers == (7, 1)
