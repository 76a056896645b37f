"""Models on several devices, and without float64: the same numbers as on the CPU, and few waits for them."""

import dataclasses

import pandas as pd
import pytest
import torch

import caa_interp as caa
import caa_interp.tree.agreement as tree_agreement
import caa_interp.tree.readout as readout
import caa_interp.tree.run as tree_run
from caa_interp.analysis import attribution, effect_attribution, position_map
from caa_interp.evaluation.judges import _fingerprint
from caa_interp.interchange.baking import bake, orthogonalize
from caa_interp.models.access import on_cpu
from caa_interp.vectors import head_vector
from tests.simulated_devices import SimulatedDevices, place

# Whatever fails on one GPU, where it meets the CPU, fails on the first of two.
SETTINGS = {
    "two GPUs": ["cuda:0", "cuda:0", "cuda:1", "cuda:1"],
    "no float64": ["mps"] * 4,
}
PROMPTS = ["Is it good?", "Do you agree with me about the sea and the garden?", "Rain"]


@pytest.fixture(scope="module", params=SETTINGS)
def spread(request, tiny_folder):
    """The small random Llama on simulated devices."""
    return place(caa.load_model(tiny_folder, device="cpu", dtype="float32"), SETTINGS[request.param])


@pytest.fixture(scope="module")
def on_two(tiny_folder):
    return place(caa.load_model(tiny_folder, device="cpu", dtype="float32"), SETTINGS["two GPUs"])


@pytest.fixture(scope="module")
def vector(tiny_llama, pairs):
    return caa.extract_vector(tiny_llama, pairs, format="text", progress=False)


@pytest.fixture(scope="module")
def pairs():
    return [
        caa.ContrastPair("Is the weather good?", "Yes, I like it very much.", "No, I do not.", id="weather"),
        caa.ContrastPair("What do you think of the sea?", "It is bright.", "It is a short text about rain.", id="sea"),
        caa.ContrastPair("Do you agree with me?", "I agree with you, it is good.", "I do not agree.", id="agree"),
    ]


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Every test starts with models whose paths have not been compared yet."""
    monkeypatch.setattr(tree_agreement, "_trust", type(tree_agreement._trust)())


def assert_same(ask, model, reference):
    """Ask a model on simulated devices and the same model on the CPU; return the first one's table."""
    with SimulatedDevices():
        table = ask(model)
    pd.testing.assert_frame_equal(table, ask(reference), rtol=1e-5, atol=1e-5)
    return table


def numbers(tensor):
    return pd.DataFrame(tensor.detach().flatten(0, -2).numpy())


# The devices themselves.


@pytest.fixture
def devices():
    with SimulatedDevices() as entered:
        yield entered


def test_two_devices_that_meet_are_an_error(devices):
    here, there = torch.ones(2, device="cuda:0"), torch.ones(2, device="cuda:1")
    for meet in (
        lambda: here + there,
        lambda: here * torch.ones(2),
        lambda: torch.cat([here, there]),
        lambda: torch.nn.functional.linear(here, there[None]),
        lambda: here[torch.zeros(1, dtype=torch.long, device="cuda:1")],
        lambda: torch.ones(2)[torch.zeros(1, dtype=torch.long, device="cuda:1")],
        lambda: here.index_select(0, torch.zeros(1, dtype=torch.long)),
        lambda: here.__setitem__([0], torch.ones(1)),
        lambda: torch.where(here > 0, here, there),
    ):
        with pytest.raises(RuntimeError, match=r"device|cuda"):
            meet()
    with pytest.raises(TypeError, match="numpy"):
        here.numpy()


def test_what_may_meet(devices):
    here, there = torch.arange(4.0, device="cuda"), torch.zeros(4, device="cuda:1")
    assert str((here * torch.tensor(2.0)).device) == "cuda:0"
    assert here[torch.tensor([1, 2])].tolist() == here[[1, 2]].tolist() == [1.0, 2.0]
    there.copy_(here)
    there[0] = torch.tensor(7.0)
    there[2:] = torch.ones(2)
    assert there.cpu().tolist() == [7.0, 1.0, 1.0, 1.0]
    assert here.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_the_device_is_handed_on(devices):
    here = torch.ones(2, 3, device="cuda:1")
    results = [here @ here.T, here.new_zeros(2), torch.zeros_like(here), here.double(), here[0], here.T, *here]
    results += [here.topk(1).values, torch.nn.Linear(3, 2).to("cuda:1")(here), here.to("cpu").to(here)]
    assert {str(result.device) for result in results} == {"cuda:1"}
    assert {str(one.device) for one in (here.cpu(), here.to("cpu"), torch.ones_like(here, device="cpu"))} == {"cpu"}


def test_there_is_no_float64_on_mps(devices):
    here = torch.ones(2, device="mps")
    for make in (here.double, lambda: here.to("cpu", torch.float64), lambda: torch.ones(2).double().to("mps")):
        with pytest.raises(TypeError, match="float64"):
            make()
    assert here.cpu().double().dtype == torch.float64


def test_waits_are_counted(devices):
    here = torch.arange(3.0, device="cuda")
    assert devices.waits == []
    bool((here > 0).any())
    here[here > 0]
    here.sum().item()
    float(here[1])
    torch.zeros(3).copy_(here)
    here.cpu()
    here.to("cuda:1")
    assert devices.waits == ["__bool__", "__getitem__", "item", "__float__", "copy_", "cpu"]


def test_tensors_of_several_devices_come_to_the_cpu_at_once(devices):
    given = [
        torch.ones(2, 3, device="cuda:0"),
        torch.zeros(0, 4, device="cuda:1"),
        torch.full((2,), 5.0, device="cuda:1"),
    ]
    moved = on_cpu(given)
    assert devices.waits == ["cpu"]
    assert [values.tolist() for values in moved] == [[[1.0] * 3] * 2, [], [5.0, 5.0]]
    assert on_cpu([]) == []


# The same numbers as on the CPU.


@pytest.mark.parametrize("form", ["choices", "text"])
def test_extraction(spread, tiny_llama, pairs, form):
    assert_same(
        lambda model: numbers(caa.extract_vector(model, pairs, format=form, progress=False).values), spread, tiny_llama
    )


@pytest.mark.parametrize("form", ["choices", "text"])
@pytest.mark.parametrize("path", ["tree", "plain"])
def test_sweep(spread, tiny_llama, vector, pairs, form, path, monkeypatch):
    if path == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)
    table = assert_same(
        lambda model: caa.sweep(model, vector, pairs, format=form, multipliers=(-2, 0, 2), progress=False),
        spread,
        tiny_llama,
    )
    assert set(table["path"]) == {path}


@pytest.mark.parametrize("path", ["tree", "plain"])
def test_extraction_and_sweep_in_bfloat16(tiny_folder, pairs, path, monkeypatch):
    """In half precision logits are computed again, in float32, on the device of the unembedding."""
    if path == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)
    reference, model = (caa.load_model(tiny_folder, device="cpu", dtype="bfloat16") for _ in range(2))
    place(model, SETTINGS["two GPUs"])

    def ask(model):
        vector = caa.extract_vector(model, pairs, format="text", progress=False)
        return caa.sweep(model, vector, pairs, progress=False)

    assert set(assert_same(ask, model, reference)["path"]) == {path}


@pytest.mark.parametrize("operator", [caa.ablate, caa.Cap(high=1.0)])
def test_operators(spread, tiny_llama, vector, pairs, operator):
    options = {"operator": operator, "positions": "all", "progress": False}
    assert_same(lambda model: caa.sweep(model, vector, pairs[:1], **options), spread, tiny_llama)


@pytest.mark.parametrize("positions", ["from_last_prompt_token", "all"])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "top_p": 0.9, "n": 2}], ids=["greedy", "sampled"])
def test_generation_with_answers_of_different_lengths(spread, tiny_llama, vector, sampling, positions):
    # About every fifth token ends an answer, so that rows leave the batch one after the other.
    form = dataclasses.replace(caa.PromptFormat.of(tiny_llama), generation_ends=frozenset(range(0, 384, 5)))
    steering = [None, caa.Intervention(vector, 1, 3.0, positions=positions), caa.Intervention(vector, 3, -2.0)]
    options = {"steering": steering, "max_new_tokens": 8, "prompt_format": form, "progress": False, **sampling}
    table = assert_same(lambda model: caa.generate(model, PROMPTS, **options), spread, tiny_llama)
    assert table["n_tokens"].nunique() > 2


def test_a_forward_pass_inside_steer(spread, tiny_llama, vector):
    tokens = torch.tensor([[0, 40, 41, 42, 43], [0, 50, 51, 52, 53]])

    def ask(model):
        with caa.steer(model, [caa.Intervention(vector, 0, 2.0), caa.Intervention(vector, 3, operator=caa.ablate)]):
            return numbers(model(tokens.to(model.cfg.device)).cpu())

    assert_same(ask, spread, tiny_llama)


def test_lenses_and_tokens(spread, tiny_llama, vector):
    assert_same(lambda model: caa.logit_lens(model, vector), spread, tiny_llama)
    assert_same(lambda model: caa.steered_lens(model, PROMPTS[0], vector, layer=1), spread, tiny_llama)
    options = {"layers": 1, "n_tokens": 4, "top_k": 5}
    assert_same(lambda model: caa.effect_lens(model, vector, PROMPTS, **options), spread, tiny_llama)
    assert_same(lambda model: caa.token_similarity(model, PROMPTS[0], vector), spread, tiny_llama)


@pytest.mark.parametrize("per", ["component", "head"])
def test_parts_and_positions(spread, tiny_llama, vector, pairs, per, monkeypatch):
    # Simulated devices have no gradients; any other readout passes through the same devices.
    monkeypatch.setattr(attribution, "_mean_gradient", lambda *given: given[-1].cpu().double())
    options = {"layer": 1, "format": "text", "progress": False}
    assert_same(lambda model: effect_attribution(model, vector, pairs[:2], per=per, **options), spread, tiny_llama)
    assert_same(lambda model: position_map(model, vector, pairs[:2], n_tokens=3, **options), spread, tiny_llama)


def test_attention_heads(spread, tiny_llama, pairs):
    options = {"n_heads": 3, "format": "text", "progress": False}
    assert_same(lambda model: numbers(head_vector(model, 2 * pairs, **options).values), spread, tiny_llama)


def test_costs(spread, tiny_llama, vector):
    passages = ["The weather is good and bright today.", "I like the sea very much"]
    assert_same(lambda model: caa.perplexity(model, vector, passages, progress=False), spread, tiny_llama)
    assert_same(lambda model: caa.divergence(model, vector, PROMPTS, n_tokens=5, progress=False), spread, tiny_llama)


@pytest.mark.slow
def test_the_doctor_finds_nothing(on_two):
    with SimulatedDevices():
        checks = caa.doctor.self_test(on_two, progress=False)
    assert [check for check in checks if check.passed is False] == []


def test_changed_weights(tiny_folder, tiny_llama, vector):
    model = place(caa.load_model(tiny_folder, device="cpu", dtype="float32"), SETTINGS["no float64"])

    def weights(plain):
        return pd.DataFrame({name: [float(weight.detach().sum())] for name, weight in plain.named_parameters()})

    assert_same(lambda model: weights(bake(model, vector, layer=2)), model, tiny_llama)
    assert_same(lambda model: weights(orthogonalize(model, vector, layer=2)), model, tiny_llama)
    assert_same(lambda model: pd.DataFrame([_fingerprint(model)]), model, tiny_llama)


def test_an_autoencoder_on_a_device_without_float64(vector):
    generator = torch.Generator().manual_seed(0)
    decoder, bias = torch.randn(100, 64, generator=generator), torch.zeros(64)

    def ask(device):
        sae = caa.analysis.SparseAutoencoder(decoder.to(device), bias.to(device))
        return caa.analysis.decompose(vector, sae, layer=1, n_features=5)

    assert_same(ask, "mps", "cpu")


# How often the program waits for a device.


def second_time(ask):
    """Ask twice, since the first time compares the paths; return the devices of the second time."""
    with SimulatedDevices():
        ask()
    with SimulatedDevices() as devices:
        ask()
    return devices


def waits(ask):
    return second_time(ask).waits


@pytest.mark.parametrize("form", ["choices", "text"])
@pytest.mark.parametrize("path", ["tree", "plain"])
def test_a_sweep_waits_as_often_whatever_its_layers_and_multipliers(on_two, vector, pairs, form, path, monkeypatch):
    if path == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)

    def swept(layers, multipliers):
        options = {"format": form, "layers": layers, "multipliers": multipliers, "progress": False}
        return waits(lambda: caa.sweep(on_two, vector, pairs[:1], **options))

    few, many = swept([1], [-1.0, 1.0]), swept([0, 1, 2, 3], [-2.0, -1.0, 0.5, 1.0][: 4 if path == "tree" else 2])
    assert len(many) == len(few) <= (1 if path == "tree" else 4)


@pytest.mark.parametrize("form", ["choices", "text"])
@pytest.mark.parametrize("path", ["tree", "plain"])
def test_an_extraction_waits_as_often_whatever_its_layers(on_two, pairs, form, path, monkeypatch):
    if path == "plain":
        monkeypatch.setattr(tree_run, "takes_tree_masks", lambda model: False)

    def extracted(layers):
        return waits(lambda: caa.extract_vector(on_two, pairs[:1], format=form, layers=layers, progress=False))

    few, many = extracted([1]), extracted([0, 1, 2, 3])
    assert len(many) == len(few) <= (1 if path == "tree" else 4)


def test_what_a_sweep_sends_to_the_devices_grows_with_the_steered_layers_only(on_two, vector, pairs):
    """Three tensors for every layer: which rows, the vectors and the multipliers. The rest is sent once per device."""

    def sent(layers, multipliers, form="choices"):
        options = {"format": form, "layers": layers, "multipliers": multipliers, "progress": False}
        return len(second_time(lambda: caa.sweep(on_two, vector, pairs[:1], **options)).uploads)

    assert sent([0, 2], [1.0]) == sent([0, 2], [-1.0, 1.0, 2.0]) == sent([0, 2], [1.0], "text")
    assert sent([0, 1, 2, 3], [1.0]) == sent([0, 2], [1.0]) + 2 * 3


@pytest.mark.parametrize("portions", ["one", "many"])
def test_trees_side_by_side_wait_once(on_two, vector, pairs, portions, monkeypatch):
    if portions == "many":
        monkeypatch.setattr(readout, "_LOGITS_BYTES", 1)
        monkeypatch.setattr(readout, "_SOFTMAX_BYTES", 1)
    assert len(waits(lambda: caa.extract_vector(on_two, pairs, format="text", progress=False))) == 1
    options = {"multipliers": [1.0, 2.0], "progress": False}
    assert len(waits(lambda: caa.sweep(on_two, vector, pairs, **options))) == 1


def test_a_divergence_waits_once(on_two, vector):
    passages = ["The weather is good and bright today."]
    options = {"multipliers": [-1.0, 1.0, 2.0], "progress": False}
    assert len(waits(lambda: caa.perplexity(on_two, vector, passages, **options))) == 1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "n": 3}], ids=["greedy", "sampled"])
def test_generation_waits_once_a_token_and_sends_one_tensor_however_many_rows(on_two, vector, sampling):
    form = dataclasses.replace(caa.PromptFormat.of(on_two), generation_ends=frozenset())
    options = {"prompt_format": form, "progress": False, **sampling}

    def generated(prompts, steering, n_tokens):
        return second_time(lambda: caa.generate(on_two, prompts, steering=steering, max_new_tokens=n_tokens, **options))

    several = [[caa.Intervention(vector, layer, multiplier) for layer in (0, 1, 3)] for multiplier in (-1.0, 1.0, 2.0)]
    for prompts, steering in ((PROMPTS[:1], [caa.Intervention(vector, 1)]), (PROMPTS, several)):
        few, many = (generated(prompts, steering, n_tokens) for n_tokens in (4, 12))
        assert len(many.waits) - len(few.waits) == 8
        assert len(many.uploads) - len(few.uploads) == 8


def test_a_steered_lens_waits_as_often_whatever_its_layers(on_two, vector):
    few, many = (
        waits(lambda some=layers: caa.steered_lens(on_two, PROMPTS[0], vector, layer=1, layers=some))
        for layers in ([2], [0, 1, 2, 3])
    )
    assert len(few) == len(many)
