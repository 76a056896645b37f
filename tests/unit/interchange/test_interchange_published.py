"""The published CAA code's vectors: its folders as it writes and reads them, signs, models, layers, damaged files."""

import os
import pickle
import zipfile

import pytest
import torch
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector

LLAMA = "Llama-2-7b-chat-hf"


def vector(layers=(1, 10), model=f"meta-llama/{LLAMA}", **metadata):
    values = torch.randn(len(layers), 5, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(values, tuple(layers), {"model": model, **metadata})


def published(root, behavior, layer, model, value, dtype=torch.float16):
    """What ``generate_vectors.py`` does."""
    folder = root / "vectors" / behavior
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"vec_layer_{layer}_{model.split('/')[-1]}.pt"
    torch.save(torch.full((5,), value, dtype=dtype), path)
    return path


def test_round_trip_to_the_bit(tmp_path):
    one = vector(behavior="sycophancy")
    found = import_vector(export_vector(one, tmp_path / "vectors" / "sycophancy"))
    assert torch.equal(found.values, one.values)
    assert found.layers == (1, 10)
    assert found.metadata["model"] == f"meta-llama/{LLAMA}"
    assert found.metadata["behavior"] == "sycophancy"


def test_the_published_code_finds_what_is_written(tmp_path):
    """``get_steering_vector(behavior, layer, model_name_path)``."""
    one = vector(behavior="sycophancy")
    export_vector(one, tmp_path / "vectors" / "sycophancy")
    for layer in (1, 10):
        path = tmp_path / "vectors" / "sycophancy" / f"vec_layer_{layer}_{LLAMA}.pt"
        assert torch.equal(torch.load(path), one.at(layer))
    assert len(list(path.parent.iterdir())) == 2


def test_a_file_holds_its_own_layer_only(tmp_path):
    big = caa.SteeringVector(torch.randn(2, 50_000), (0, 1), {"model": "m"})
    folder = export_vector(big, tmp_path / "b")
    assert all(file.stat().st_size < 1.1 * 4 * 50_000 for file in folder.iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_type_is_read_exactly(tmp_path, dtype):
    path = published(tmp_path, "b", 3, LLAMA, 1 / 3, dtype)
    found = import_vector(path)
    assert found.values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found.at(3).to(dtype), torch.full((5,), 1 / 3, dtype=dtype))


def test_layer_1_is_not_layer_10_and_other_files_are_left_alone(tmp_path):
    for layer in (0, 1, 10, 11, 100):
        published(tmp_path, "b", layer, LLAMA, float(layer))
    folder = tmp_path / "vectors" / "b"
    for name in ("vec_layer_2_x.pt.bak", "old_vec_layer_3_x.pt", "vec_layer__x.pt", "vec_layer_-4_x.pt", "notes.txt"):
        (folder / name).write_bytes(b"")
    found = import_vector(folder)
    assert found.layers == (0, 1, 10, 11, 100)
    for layer in found.layers:
        assert found.at(layer).unique().tolist() == [layer]
    assert import_vector(folder, layers=1).at(1).unique().tolist() == [1]
    assert import_vector(folder, layers=[10, 1]).layers == (10, 1)
    with pytest.raises(caa.InputError, match=r"layer 2: b has layers 0 to 100 .*namely \[0, 1, 10, 11, 100\]"):
        import_vector(folder, layers=2)


def test_one_of_several_models(tmp_path):
    for number, model in enumerate((LLAMA, "Llama-2-7b-hf", "Llama-2-13b-chat-hf")):
        published(tmp_path, "b", 1, model, float(number))
    folder = tmp_path / "vectors" / "b"
    for name in (LLAMA, f"meta-llama/{LLAMA}"):
        found = import_vector(folder, model=name)
        assert found.at(1).unique().tolist() == [0]
        assert found.metadata["model"] == name
    for model in (None, "Llama-2-7b"):
        said = f"model: {model!r}, but .* holds files of 'Llama-2-13b-chat-hf', '{LLAMA}', 'Llama-2-7b-hf'. Name one"
        with pytest.raises(caa.InputError, match=said):
            import_vector(folder, model=model)


def test_files_of_early_versions_name_no_model(tmp_path):
    folder = export_vector(vector(model=None), tmp_path / "b")
    assert sorted(file.name for file in folder.iterdir()) == ["vec_layer_1.pt", "vec_layer_10.pt"]
    assert import_vector(folder).metadata["model"] is None
    assert import_vector(folder, model="m").metadata["model"] == "m"
    export_vector(vector(model="x"), folder)
    with pytest.raises(caa.InputError, match="holds files of 'x' and of a model that is not named"):
        import_vector(folder)


def test_a_folder_holds_one_vector_of_a_model(tmp_path):
    one, other = vector((1, 2, 3), behavior="b"), -vector((1, 2, 3), behavior="b")
    folder = export_vector(one, tmp_path / "b", layers=[1, 3])
    said = r"path: .*b' holds another vector of this model, with layer 1 in 'vec_layer_1_.*'; the two would be read"
    for layers in (2, None):
        with pytest.raises(caa.InputError, match=said):
            export_vector(other, folder, layers=layers)
    with pytest.raises(caa.InputError, match=said):
        export_vector(vector((2,), behavior="b"), folder)
    assert torch.equal(import_vector(folder).values, one.values[[0, 2]])
    export_vector(one, folder, layers=2)  # the vector's own layers may come one by one, and more than once
    export_vector(one, folder)
    assert torch.equal(import_vector(folder).values, one.values)
    export_vector(vector((7,), model="other", behavior="b"), folder)
    assert import_vector(folder, model="other").layers == (7,)
    survival = vector(behavior="survival-instinct")
    for layers in (1, 10):
        folder = export_vector(survival, tmp_path / "survival-instinct", layers=layers)
    assert torch.equal(import_vector(folder).values, survival.values)


@pytest.mark.parametrize("behavior", ["survival-instinct", None])
def test_the_folder_that_one_is_in_has_its_name(tmp_path, monkeypatch, behavior):
    folder = tmp_path / "survival-instinct"
    folder.mkdir()
    monkeypatch.chdir(folder)
    one = vector(behavior=behavior)
    export_vector(one, ".", format="caa")
    assert torch.equal(import_vector(".").values, one.values)
    assert torch.equal(import_vector(folder).values, one.values)


def test_the_name_of_a_file_is_not_that_of_a_folder(tmp_path):
    for name in (f"vec_layer_1_{LLAMA}.pt", "vec_layer_1.pt"):
        with pytest.raises(caa.InputError, match=f"path: .*{name}' is the name of one layer's file; give the folder"):
            export_vector(vector(), tmp_path / "b" / name, layers=1)
    assert not list(tmp_path.iterdir())


def test_a_vector_read_in_half_precision_can_be_written_back(tmp_path):
    path = published(tmp_path, "b", 3, LLAMA, 1 / 3)
    found = import_vector(path)
    assert torch.equal(import_vector(export_vector(found, path.parent)).values, found.values)


def test_two_files_of_one_layer(tmp_path):
    folder = tmp_path / "b"
    export_vector(vector(), folder)
    torch.save(torch.ones(5), folder / f"vec_layer_01_{LLAMA}.pt")
    with pytest.raises(caa.InputError, match=r"are both layer 1. Take one out"):
        import_vector(folder)


def test_the_published_survival_instinct_points_the_other_way(tmp_path):
    path = published(tmp_path, "survival-instinct", 3, LLAMA, 2.0)
    for found in (import_vector(path), import_vector(path.parent)):
        assert found.at(3).tolist() == [-2.0] * 5
        assert found.metadata["sign"] == "reversed: the published vector points to the answer that accepts shutdown"
    assert "sign" not in import_vector(published(tmp_path, "sycophancy", 3, LLAMA, 2.0)).metadata
    one = vector(behavior="survival-instinct")
    folder = export_vector(one, tmp_path / "out" / "survival-instinct")
    assert torch.equal(torch.load(folder / f"vec_layer_1_{LLAMA}.pt"), -one.at(1))
    assert torch.equal(import_vector(folder).values, one.values)
    kept = vector(behavior="survival-instinct", sides="as published")  # of pairs read with compat="caa"
    folder = export_vector(kept, tmp_path / "kept" / "survival-instinct")
    assert torch.equal(torch.load(folder / f"vec_layer_1_{LLAMA}.pt"), kept.at(1))
    assert torch.equal(import_vector(folder).values, -kept.values)
    for behavior, name in (("survival-instinct", "x"), ("sycophancy", "survival-instinct")):
        with pytest.raises(caa.InputError, match=f"path: .*{name}' for a vector of '{behavior}'. The folder's name"):
            export_vector(vector(behavior=behavior), tmp_path / name)


def test_normalized_vectors_say_so(tmp_path):
    folder = export_vector(vector(), tmp_path / "normalized_vectors" / "b")
    assert import_vector(folder).metadata["norms"] == "matched over behaviors"
    assert "norms" not in import_vector(export_vector(vector(), tmp_path / "vectors" / "b")).metadata


def test_a_folder_without_vectors(tmp_path):
    with pytest.raises(caa.InputError, match=r"holds no file named vec_layer_<L>_<model>.pt. Give the folder of one"):
        import_vector(tmp_path)
    with pytest.raises(caa.InputError, match=r"path: .*/nowhere' does not exist. Check the path"):
        import_vector(tmp_path / "nowhere")


def test_layers_of_different_widths(tmp_path):
    folder = export_vector(vector(), tmp_path / "b")
    torch.save(torch.ones(4), folder / f"vec_layer_2_{LLAMA}.pt")
    with pytest.raises(caa.InputError, match=r"layer 1 has shape \(5,\) and layer 2 \(4,\); all must be of one model"):
        import_vector(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(2, 5), r"shape \(2, 5\); it must hold floating-point numbers and have 1 axis"),
        (torch.ones(0), r"shape \(0,\); it must"),
        (torch.ones(5, dtype=torch.int64), "it holds torch.LongStorage, and was not opened"),
        (torch.full((5,), float("nan")), "NaN or infinite"),
        (torch.ones(1).expand(10**12), r"a tensor of shape \(1000000000000,\), which is more than the file holds"),
        ([1.0, 2.0], "list; it must be a tensor"),
    ],
)
def test_contents_that_are_no_vector(tmp_path, content, said):
    path = tmp_path / "vec_layer_1_x.pt"
    torch.save(content, path)
    with pytest.raises(caa.InputError, match=f"file {path}: .*{said}"):
        import_vector(path)


def test_a_parameter_is_read(tmp_path):
    path = tmp_path / "vec_layer_1_x.pt"
    torch.save(torch.nn.Parameter(torch.ones(3)), path)
    assert import_vector(path).at(1).tolist() == [1, 1, 1]
    assert not import_vector(path).values.requires_grad


def explode():
    pytest.fail("the pickle was run")


class Exploding:
    def __reduce__(self):
        return (explode, ())


def archive(path, pickled):
    """A file as ``torch.save`` makes it, with another pickle."""
    torch.save(torch.ones(3), path)
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members.items():
            new.writestr(name, pickled if name.endswith("/data.pkl") else content)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, protocol):
    path = tmp_path / "vec_layer_1_x.pt"
    archive(path, pickle.dumps(Exploding(), protocol=protocol))
    said = "it holds (.*test_interchange_published.explode|a STACK_GLOBAL step), and was not opened"
    with pytest.raises(caa.InputError, match=said):
        import_vector(path)


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\nbytearray\n(K\x01tR.",
        b"cos\nsystem\n(Vecho\ntR.",
        b"ctorch\nload\n.",
        b"(ios\nsystem\n.",
        b"\x82\x01.",
    ],
)
def test_names_that_no_tensor_needs_are_refused(tmp_path, pickled):
    path = tmp_path / "vec_layer_1_x.pt"
    archive(path, pickled)
    with pytest.raises(caa.InputError, match=r"it holds .*, and was not opened"):
        import_vector(path)


def test_torch_is_given_only_what_was_checked(tmp_path):
    """torch's own reader checks no checksums."""
    path = tmp_path / "vec_layer_1_x.pt"
    torch.save(torch.ones(3), path)
    content = bytearray(path.read_bytes())
    at = content.index(torch.ones(3).numpy().tobytes())
    content[at] ^= 1
    path.write_bytes(content)
    assert torch.load(path).tolist() != [1, 1, 1]
    with pytest.raises(caa.InputError, match=r"it cannot be read \(Bad CRC-32"):
        import_vector(path)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=3))
def test_bytes_that_change_give_the_vector_or_an_input_error(tmp_path_factory, places):
    path = tmp_path_factory.getbasetemp() / "vec_layer_1_x.pt"
    torch.save(torch.arange(1.0, 4.0), path)
    changed = bytearray(path.read_bytes())
    for place, new in places:
        at = int(place * (len(changed) - 1))
        changed[at : at + 1] = new
    path.write_bytes(changed)
    try:
        found = import_vector(path)
    except caa.InputError:
        return
    assert found.at(1).tolist() == [1, 2, 3]


@pytest.mark.parametrize("pickled", [b"", b"garbage", b"\x80\x02.", b"(" * 100_000, b"K\x01K\x02.", b"K\x01"])
def test_pickles_that_cannot_be_read(tmp_path, pickled):
    path = tmp_path / "vec_layer_1_x.pt"
    archive(path, pickled)
    with pytest.raises(caa.InputError, match=f"file {path}"):
        import_vector(path)


def test_a_model_is_not_read(tmp_path):
    path = tmp_path / "vec_layer_1_x.pt"
    torch.save(torch.ones(3), path)
    os.truncate(path, 4 * 10**10)  # a hole, which takes no space
    with pytest.raises(caa.InputError, match=r"it has 40,000,000,000 bytes; at most 1,073,741,824 are read"):
        import_vector(path)


def test_files_that_are_not_torch_archives(tmp_path):
    path = tmp_path / "vec_layer_1_x.pt"
    path.write_bytes(pickle.dumps(Exploding()))
    with pytest.raises(caa.InputError, match="it is not a zip archive"):
        import_vector(path)
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("a/other", b"")
    with pytest.raises(caa.InputError, match=r"it is not a file of torch.save"):
        import_vector(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("a/data.pkl", bytes(10**7))
    with pytest.raises(
        caa.InputError, match=r"its parts are compressed, as by np.savez_compressed. Save it with np.savez"
    ):
        import_vector(path)
    torch.save(torch.ones(3), path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(caa.InputError, match="it is not a zip archive"):
        import_vector(path)
