"""One call for all formats: how the format is told, and what does not go together."""

import pytest
import torch

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector

PATHS = {"gguf": "v.gguf", "lm-eval": "v.pt", "npz": "v.npz", "caa": "folder"}


def vector(layers=(1, 2, 3)):
    values = torch.randn(len(layers), 5, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(values, tuple(layers), {"model": "m"})


@pytest.mark.parametrize("format", PATHS)
def test_the_path_tells_the_format_and_the_format_goes_before_it(tmp_path, format):
    told = export_vector(vector(), tmp_path / PATHS[format], layers=2)
    named = export_vector(vector(), str(tmp_path / "other.name"), layers=2, format=format)
    assert import_vector(str(told)).at(2).tolist() == vector().at(2).tolist()
    assert torch.equal(import_vector(named, format=format).values, import_vector(told).values)
    assert told == tmp_path / PATHS[format]


@pytest.mark.parametrize("format", ["gguf", "npz", "caa"])
def test_layers_are_chosen_on_either_side(tmp_path, format):
    path = export_vector(vector(), tmp_path / PATHS[format], layers=[3, 1])
    found = import_vector(path)
    assert sorted(found.layers) == [1, 3]
    assert import_vector(path, layers=[3]).values.tolist() == [vector().at(3).tolist()]
    with pytest.raises(caa.InputError, match=r"layer 2: .* has layers"):
        import_vector(path, layers=2)


@pytest.mark.parametrize("format", ["gguf", "npz", "caa"])
@pytest.mark.parametrize("given", [{"multiplier": 2.0}, {"hook": "h.{layer}"}])
def test_what_a_format_has_no_place_for(tmp_path, format, given):
    with pytest.raises(caa.InputError, match=f"a file of format '{format}' has no place for them"):
        export_vector(vector(), tmp_path / PATHS[format], **given)


def test_formats_that_are_not_known(tmp_path):
    with pytest.raises(caa.InputError, match="format: 'onnx' is not one of 'caa', 'gguf', 'lm-eval', 'npz'"):
        export_vector(vector(), tmp_path / "v", format="onnx")
    with pytest.raises(caa.InputError, match=r"path: .*v.bin' ends in none of '.gguf', '.npz', '.pt'.*Name it"):
        export_vector(vector(), tmp_path / "v.bin")
    with pytest.raises(caa.InputError, match=r"written by vector.save and read by SteeringVector.load"):
        import_vector(vector().save(tmp_path / "v.safetensors"))


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(caa.InputError, match="is a folder, and 'gguf' is a file"):
        import_vector(tmp_path, format="gguf")


@pytest.mark.parametrize("format", ["gguf", "lm-eval", "npz"])
def test_the_model_that_a_file_names_is_kept(tmp_path, format):
    one = caa.SteeringVector(torch.ones(1, 5), (1,), {"model": "org/m"})
    path = export_vector(one, tmp_path / PATHS[format])
    assert import_vector(path).metadata["model"] == "org/m"
    assert import_vector(path, model="m").metadata["model"] == "m"
    for other in ("n", "other/m"):
        with pytest.raises(caa.errors.VectorMismatchError, match=f"model: '{other}', but .* was made from 'org/m'"):
            import_vector(path, model=other)


def test_an_imported_vector_steers_its_model(tmp_path, tiny_llama, pairs):
    one = caa.extract_vector(tiny_llama, pairs)
    tokens = torch.arange(5, 20)[None]
    with caa.steer(tiny_llama, one, 2, 1.5):
        expected = tiny_llama(tokens)
    for path in PATHS.values():
        found = import_vector(export_vector(one, tmp_path / path, layers=2), model=tiny_llama)
        with caa.steer(tiny_llama, found, 2, 1.5):
            assert torch.equal(tiny_llama(tokens), expected)
