"""Files of lm-evaluation-harness: what its model ``steered`` does with them, what is read back, and damaged files."""

import pytest
import torch
from hypothesis import given, settings, strategies as st

import caa_interp as caa
from caa_interp.interchange.exchange import export_vector, import_vector


def vector(layers=(1, 2), width=5, **metadata):
    values = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(0))
    return caa.SteeringVector(values, tuple(layers), {"model": "tiny-llama", **metadata})


def steered_by_harness(model, path, tokens):
    """Logits as ``lm_eval.models.hf_steered`` 0.4.13 makes them, for the action ``add``."""
    handles = []
    for hook, entry in torch.load(path, weights_only=True).items():
        assert entry["action"] == "add"
        assert entry["bias"] is None
        assert entry["head_index"] is None
        addition = entry["steering_vector"].to(model.dtype) * float(entry["steering_coefficient"])
        modules = [module for name, module in model.base_model.named_modules() if name == hook]
        assert len(modules) == 1
        handles.append(modules[0].register_forward_hook(lambda _, __, output, addition=addition: output + addition))
    try:
        with torch.no_grad():
            return model(tokens).logits
    finally:
        for handle in handles:
            handle.remove()


def test_the_harness_steers_as_we_do_at_every_position(tmp_path, tiny_llama, plain_llama):
    one = vector(layers=(0, 1, 2, 3), width=64)
    tokens = torch.arange(5, 25)[None]
    path = export_vector(one, tmp_path / "v.pt", layers=2, multiplier=-1.5)
    with caa.steer(tiny_llama, one, 2, -1.5, positions="all"):
        expected = tiny_llama(tokens)
    found = steered_by_harness(plain_llama, path, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((found - plain_llama(tokens).logits.detach()).abs().max()) > 0.1


@pytest.mark.parametrize("ending", [".pt", ".pth"])
def test_round_trip_to_the_bit(tmp_path, ending):
    one = vector(layers=(2,), note="Ünï 🙂")
    found = import_vector(export_vector(one, tmp_path / f"v{ending}", multiplier=2))
    assert torch.equal(found.values, one.values)
    assert found.layers == (2,)
    assert found.metadata == {**one.metadata, "steering_coefficients": {"2": 2.0}}


def test_the_file_is_as_its_reader_wants_it(tmp_path):
    one = vector()
    entries = torch.load(export_vector(one, tmp_path / "v.pt", layers=1, hook="h.{layer}"), weights_only=True)
    assert list(entries) == ["h.1"]
    entry = entries["h.1"]
    assert torch.equal(entry.pop("steering_vector"), one.at(1))
    assert entry.pop("caa_interp")
    assert entry == {"steering_coefficient": 1.0, "action": "add", "bias": None, "head_index": None}


def test_one_layer_a_file(tmp_path):
    with pytest.raises(caa.InputError, match=r"layers: \[1, 2\]; a file of lm-evaluation-harness steers one layer"):
        export_vector(vector(), tmp_path / "v.pt")


@pytest.mark.parametrize("hook", ["layers", "layers.3", "{layer}", "layers.{layer}.mlp", "x{layer}", "layers.{layer}0"])
def test_hooks_that_are_no_block(tmp_path, hook):
    with pytest.raises(caa.InputError, match=r"hook: .* it must be the name of the model's blocks"):
        export_vector(vector(), tmp_path / "v.pt", layers=1, hook=hook)


@pytest.mark.parametrize("multiplier", [float("nan"), "2", True, None])
def test_multipliers_that_are_no_number(tmp_path, multiplier):
    with pytest.raises(caa.InputError, match="is not a finite number"):
        export_vector(vector(), tmp_path / "v.pt", layers=1, multiplier=multiplier)


def entry(**changes):
    return {"steering_vector": torch.ones(3), "steering_coefficient": 2, "action": "add", "bias": None, **changes}


@pytest.mark.parametrize("hook", ["layers.11", "h.11", "model.layers.11", "decoder.layers.11", "transformer.h.11"])
def test_files_of_others_are_read(tmp_path, hook):
    path = tmp_path / "v.pt"
    torch.save({hook: entry(), "layers.3": entry(steering_vector=torch.zeros(3, dtype=torch.bfloat16))}, path)
    found = import_vector(path, model="m")
    assert found.layers == (3, 11)
    assert found.values.tolist() == [[0, 0, 0], [1, 1, 1]]
    assert found.metadata["steering_coefficients"] == {"3": 2.0, "11": 2.0}
    assert found.metadata["model"] == "m"


@pytest.mark.parametrize("shape", [(1, 3), (1, 1, 3)])
def test_a_vector_with_leading_axes_of_length_1_is_read(tmp_path, shape):
    torch.save({"layers.2": entry(steering_vector=torch.arange(3.0).reshape(shape))}, tmp_path / "v.pt")
    assert import_vector(tmp_path / "v.pt").values.tolist() == [[0, 1, 2]]


def test_a_file_without_the_optional_fields(tmp_path):
    path = tmp_path / "v.pt"
    torch.save({"layers.1": {"steering_vector": torch.ones(3), "action": "add"}}, path)
    assert import_vector(path).metadata["steering_coefficients"] == {"1": 1.0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "list; it must be a dictionary of hooks"),
        ({}, "dict; it must be a dictionary of hooks"),
        ({3: entry()}, "hook '3' is not the output of one block"),
        ({"layers.1.mlp": entry()}, "hook 'layers.1.mlp' is not the output of one block"),
        ({"layers.1": entry(), "h.1": entry()}, "hook 'h.1' is not the output of one block"),
        ({"layers.1": torch.ones(3)}, "Tensor; it must be a dictionary"),
        ({"layers.1": entry(action="clamp")}, "'action': 'clamp'.*only a vector that is added"),
        ({"layers.1": {"steering_vector": torch.ones(3)}}, "'action': None"),
        ({"layers.1": entry(bias=torch.ones(3))}, "'bias': tensor"),
        ({"layers.1": entry(head_index=0)}, "'head_index': 0"),
        ({"layers.1": entry(steering_coefficient="2")}, "field 'steering_coefficient' is '2'"),
        ({"layers.1": entry(steering_vector=[1.0])}, "list; it must be a tensor"),
        ({"layers.1": entry(steering_vector=torch.ones(2, 3))}, r"shape \(2, 3\)"),
        ({"layers.1": entry(steering_vector=torch.ones(1, 2, 3))}, r"shape \(2, 3\)"),
        ({"layers.1": entry(), "h.2": entry(steering_vector=torch.ones(4))}, "all must be of one model"),
        ({"layers.1": entry(caa_interp="{}")}, "its header is not that of a steering vector"),
        (
            {"layers.1": entry(caa_interp='{"format": "caa_interp/vector/7", "layers": [1], "metadata": {}}')},
            "vector/7",
        ),
        ({"layers.1": entry(caa_interp='{"format": "caa_interp/vector/1", "layers": [2], "metadata": {}}')}, "says"),
        (
            {"layers.1": entry(caa_interp='{"format": "caa_interp/vector/1", "layers": [1], "metadata": []}')},
            "its metadata must not be list",
        ),
    ],
)
def test_contents_that_are_no_steering_vectors(tmp_path, content, said):
    path = tmp_path / "v.pt"
    torch.save(content, path)
    with pytest.raises(caa.InputError, match=f"{path}: .*{said}"):
        import_vector(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return export_vector(vector(), tmp_path_factory.mktemp("harness") / "v.pt", layers=1).read_bytes()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(places=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), min_size=1, max_size=3))
def test_bytes_that_change_give_the_vector_or_an_input_error(tmp_path_factory, written, places):
    changed = bytearray(written)
    for place, new in places:
        at = int(place * (len(written) - 1))
        changed[at : at + 1] = new
    path = tmp_path_factory.getbasetemp() / "changed.pt"
    path.write_bytes(changed)
    try:
        found = import_vector(path)
    except caa.InputError:
        return
    assert torch.equal(found.values, vector().values[:1])
    assert found.layers == (1,)
