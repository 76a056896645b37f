"""Vectors in the features of a sparse autoencoder: planted, against scikit-learn, from files, and as a figure."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import orthogonal_mp

import caa_interp as caa
from caa_interp.plotting.theme import NEGATIVE, POSITIVE


def steering_vector(values, layer=13, **metadata):
    return caa.SteeringVector(torch.as_tensor(values, dtype=torch.float32)[None], (layer,), metadata)


def random_sae(n_features=40, d_model=12, seed=0, **keywords):
    generator = torch.Generator().manual_seed(seed)
    decoder = torch.randn(n_features, d_model, generator=generator)
    return caa.analysis.SparseAutoencoder(decoder, torch.randn(d_model, generator=generator), **keywords)


@pytest.fixture(scope="module")
def trained():
    """Autoencoder trained on sparse sums of 40 known directions in 32 dimensions, its encoder, and the directions."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(torch.randn(40, 32, generator=generator), dim=1)
    offset = torch.randn(32, generator=generator)
    start = torch.nn.functional.normalize(torch.randn(80, 32, generator=generator), dim=1)
    weights = [start.T.clone(), torch.zeros(80), start.clone(), torch.zeros(32)]
    encoder, encoder_bias, decoder, bias = (weight.requires_grad_() for weight in weights)
    optimizer = torch.optim.Adam(weights, lr=1e-2)

    def encode(given):
        return torch.relu((given - bias) @ encoder + encoder_bias)

    for _ in range(1000):
        active = torch.rand(128, 40, generator=generator) < 0.05
        given = (active * (0.5 + torch.rand(128, 40, generator=generator))) @ truth + offset
        features = encode(given)
        error = (features @ decoder + bias - given).square().sum(1).mean()
        optimizer.zero_grad()
        (error + 0.3 * (features * decoder.norm(dim=1)).sum(1).mean()).backward()
        optimizer.step()
    return caa.analysis.SparseAutoencoder(decoder.detach(), bias.detach()), encode, truth


# What is found


def test_planted_features_of_a_trained_autoencoder_are_found_with_their_signs(trained):
    sae, _, truth = trained
    planted = {3: 2.0, 17: -1.5, 29: 1.0, 35: -0.7}
    vector = sum(strength * truth[number] for number, strength in planted.items())
    table = caa.analysis.decompose(steering_vector(vector), sae, layer=13, n_features=4)
    overlap = torch.nn.functional.normalize(sae.decoder[table["feature"].tolist()], dim=1) @ truth.T
    assert overlap.max(1).values.min() > 0.97
    found = dict(zip(overlap.argmax(1).tolist(), table["coefficient"], strict=True))
    assert found == pytest.approx(planted, abs=0.15)
    assert table["error"].iloc[-1] < 0.1
    assert table["random_error"].iloc[-1] > 0.4


def test_the_encoder_misses_what_the_vector_takes_away(trained):
    """Why the vector is not put through the encoder: a feature that is taken away cannot show there."""
    sae, encode, truth = trained
    vector = truth[5] - truth[9]
    table = caa.analysis.decompose(steering_vector(vector), sae, layer=13, n_features=2)
    added, taken = ((sae.decoder @ truth[number]).argmax().item() for number in (5, 9))
    assert dict(zip(table["feature"], np.sign(table["coefficient"]), strict=True)) == {added: 1, taken: -1}
    with torch.no_grad():
        features = encode(vector)
    assert features[taken] == 0
    encoder_error = (features @ sae.decoder + sae.bias - vector).norm() / vector.norm()
    assert encoder_error > 2 * table["error"].iloc[-1]


def test_features_coefficients_and_errors_are_those_of_scikit_learn():
    sae = random_sae()
    vector = torch.randn(12, generator=torch.Generator().manual_seed(1))
    table = caa.analysis.decompose(steering_vector(vector, model="m"), sae, layer=13, n_features=6)
    directions = (sae.decoder / sae.decoder.norm(dim=1, keepdim=True)).double().numpy()
    target = vector.double().numpy()
    path = orthogonal_mp(directions.T, target, n_nonzero_coefs=6, return_path=True)
    for rank, coefficients in enumerate(path.T, start=1):
        assert set(np.flatnonzero(coefficients)) == set(table["feature"][:rank])
        error = np.linalg.norm(target - coefficients @ directions) / np.linalg.norm(target)
        assert table["error"][rank - 1] == pytest.approx(error, rel=1e-5)
    np.testing.assert_allclose(table["coefficient"], path[table["feature"], -1], rtol=1e-4)
    assert (table["coefficient"] < 0).any()
    cosines = directions[table["feature"]] @ target / np.linalg.norm(target)
    np.testing.assert_allclose(table["cosine"], cosines, rtol=1e-5)
    assert table["rank"].tolist() == [1, 2, 3, 4, 5, 6]
    described = ["vector", "layer", "norm"]
    assert list(table) == [
        *described,
        "rank",
        "feature",
        "coefficient",
        "cosine",
        "error",
        "random_error",
        "n_features",
        "model",
    ]
    assert set(table["model"]) == {"m"}
    (about,) = table[[*described, "n_features"]].drop_duplicates().itertuples(index=False)
    assert tuple(about) == ("vector", 13, pytest.approx(vector.norm()), 40)
    assert not table.attrs


def test_a_hand_computed_fit():
    """The second fit corrects the coefficient of the first feature, since the two overlap."""
    sae = caa.analysis.SparseAutoencoder(torch.tensor([[5.0, 0.0], [3.0, 4.0]]), torch.zeros(2))
    table = caa.analysis.decompose(steering_vector([2.0, -1.0]), sae, layer=13, n_features=2)
    assert table["feature"].tolist() == [0, 1]
    # (2, -1) = 2.75 (1, 0) - 1.25 (0.6, 0.8); the first feature alone leaves (0, -1).
    np.testing.assert_allclose(table["coefficient"], [2.75, -1.25], rtol=1e-6)
    np.testing.assert_allclose(table["cosine"], [2 / 5**0.5, 0.4 / 5**0.5], rtol=1e-6)
    np.testing.assert_allclose(table["error"], [1 / 5**0.5, 0], atol=1e-6)


def test_the_scale_of_a_feature_and_of_the_vector_change_no_choice():
    sae = random_sae()
    vector = torch.randn(12, generator=torch.Generator().manual_seed(1))
    scaled = dataclasses.replace(sae, decoder=sae.decoder * torch.logspace(-3, 3, 40)[:, None])
    one = caa.analysis.decompose(steering_vector(vector), sae, layer=13)
    other = caa.analysis.decompose(steering_vector(-100 * vector), scaled, layer=13)
    assert one["feature"].tolist() == other["feature"].tolist()
    np.testing.assert_allclose(-100 * one["coefficient"], other["coefficient"], rtol=1e-3)
    np.testing.assert_allclose(one["error"], other["error"], atol=1e-5)


def test_the_bias_plays_no_part():
    sae = random_sae()
    without = dataclasses.replace(sae, bias=torch.zeros(12))
    vector = steering_vector(torch.arange(12.0))
    one, other = (caa.analysis.decompose(vector, each, layer=13) for each in (sae, without))
    pd.testing.assert_frame_equal(one, other)


def test_a_vector_that_is_a_feature_needs_no_second_one():
    sae = random_sae()
    table = caa.analysis.decompose(steering_vector(-3 * sae.decoder[7]), sae, layer=13, n_features=5)
    assert table["feature"].tolist() == [7]
    assert table["coefficient"].item() == pytest.approx(-3 * sae.decoder[7].norm())
    assert table["error"].item() == pytest.approx(0, abs=1e-6)
    assert table["random_error"].item() > 0.3


def test_features_that_are_equal_or_dead_are_not_chosen_twice_or_at_all():
    sae = random_sae(n_features=3, d_model=8)
    decoder = torch.cat([sae.decoder, sae.decoder, torch.zeros(4, 8)])
    table = caa.analysis.decompose(
        steering_vector(torch.arange(8.0)), dataclasses.replace(sae, decoder=decoder), layer=13, n_features=8
    )
    assert len(table) == 3
    assert {feature % 3 for feature in table["feature"]} == {0, 1, 2}
    assert table["feature"].max() < 6
    assert table["error"].iloc[-1] > 0.1


def test_nothing_to_choose_is_an_empty_table():
    sae = caa.analysis.SparseAutoencoder(torch.tensor([[1.0, 0.0]]), torch.zeros(2))
    assert caa.analysis.decompose(steering_vector([0.0, 1.0]), sae, layer=13, n_features=1).empty


def test_random_directions_show_what_any_vector_would():
    sae = random_sae(n_features=64, d_model=32)
    vector = torch.randn(32, generator=torch.Generator().manual_seed(9))
    table = caa.analysis.decompose(steering_vector(vector), sae, layer=13, n_features=10)
    np.testing.assert_allclose(table["error"], table["random_error"], atol=0.12)
    planted = steering_vector(sae.decoder[0] - sae.decoder[1] + 0.5 * sae.decoder[2])
    assert caa.analysis.decompose(planted, sae, layer=13)["error"][2] < 0.1 * table["random_error"][2]
    again, other = (caa.analysis.decompose(steering_vector(vector), sae, layer=13, seed=seed) for seed in (0, 1))
    pd.testing.assert_frame_equal(table, again)
    assert (table["random_error"] != other["random_error"]).all()
    pd.testing.assert_series_equal(table["error"], other["error"])


def test_half_precision_weights_are_fitted_in_more():
    sae = random_sae()
    half = dataclasses.replace(sae, decoder=sae.decoder.bfloat16(), bias=sae.bias.bfloat16())
    vector = steering_vector(half.decoder[4].float() - half.decoder[30].float())
    table = caa.analysis.decompose(vector, half, layer=13, n_features=12)
    assert table["feature"].tolist()[:2] == [4, 30] or table["feature"].tolist()[:2] == [30, 4]
    assert table["error"].iloc[1] < 1e-5


# The same place under other names


@pytest.mark.parametrize(
    "hook", [None, "blocks.13.hook_resid_post", "blocks.13.hook_out", "blocks.14.hook_resid_pre", "blocks.14.hook_in"]
)
def test_the_output_of_a_block_goes_by_several_names(hook):
    assert len(caa.analysis.decompose(steering_vector(torch.arange(12.0)), random_sae(hook=hook), layer=13)) == 10


@pytest.mark.parametrize("hook", ["blocks.12.hook_resid_post", "blocks.13.hook_resid_pre", "blocks.13.hook_mlp_out"])
def test_an_autoencoder_of_another_place_is_refused(hook):
    with pytest.raises(
        caa.errors.VectorMismatchError,
        match=rf"sae: it is of '{hook}', and the vector of layer 13 belongs to 'blocks\.13\.hook_resid_post'.*hook=N",
    ):
        caa.analysis.decompose(steering_vector(torch.arange(12.0)), random_sae(hook=hook), layer=13)


# What is refused


def test_another_width():
    with pytest.raises(caa.errors.VectorMismatchError, match="sae: its width is 12, that of the vector 13"):
        caa.analysis.decompose(steering_vector(torch.arange(13.0)), random_sae(), layer=13)


def test_a_layer_without_a_vector():
    with pytest.raises(caa.InputError, match="layer 2: the vector has layers 13 to 13"):
        caa.analysis.decompose(steering_vector(torch.arange(12.0)), random_sae(), layer=2)


def test_what_is_no_vector():
    with pytest.raises(caa.InputError, match="vector: dict; it must be one SteeringVector"):
        caa.analysis.decompose({"a": steering_vector([1.0])}, random_sae(), layer=13)


def test_a_vector_of_zero():
    with pytest.raises(
        caa.InputError, match=r"vector: it is zero at layer 13, so it has no direction there\. Choose another"
    ):
        caa.analysis.decompose(steering_vector(torch.zeros(12)), random_sae(), layer=13)


@pytest.mark.parametrize("n_features", [0, -1, 13, 2.5, True])
def test_a_number_of_features_out_of_range(n_features):
    with pytest.raises(caa.InputError, match=f"n_features: {n_features}; it must be a whole number from 1 to 12"):
        caa.analysis.decompose(steering_vector(torch.arange(12.0)), random_sae(), layer=13, n_features=n_features)


def test_a_decoder_that_is_not_one():
    with pytest.raises(caa.InputError, match=r"decoder: shape \(12, 40\) with a bias of shape \(12,\).*Transpose"):
        caa.analysis.SparseAutoencoder(torch.zeros(12, 40), torch.zeros(12))
    with pytest.raises(
        caa.InputError, match=r"decoder: of type torch\.int64; it must hold finite floating-point numbers"
    ):
        caa.analysis.SparseAutoencoder(torch.zeros(40, 12, dtype=torch.int64), torch.zeros(12))
    with pytest.raises(caa.InputError, match=r"bias: .* finite floating-point numbers"):
        caa.analysis.SparseAutoencoder(torch.zeros(40, 12), torch.full((12,), torch.nan))


# Files


def written(folder, tensors, config=None):
    """Folder in SAELens's layout."""
    save_file(tensors, folder / "sae_weights.safetensors")
    if config is not None:
        (folder / "cfg.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def saelens_tensors(d_in=12, d_sae=40):
    """What SAELens's JumpReLU autoencoder saves."""
    shapes = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_enc": (d_sae,),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


SAELENS_6 = {
    "d_in": 12,
    "d_sae": 40,
    "dtype": "float32",
    "apply_b_dec_to_input": False,
    "normalize_activations": "none",
    "architecture": "jumprelu",
    "metadata": {"sae_lens_version": "6.21.0", "model_name": "gpt2", "hook_name": "blocks.7.hook_resid_post"},
}


@pytest.mark.parametrize("whole_folder", [True, False])
def test_a_folder_or_a_file_of_saelens_is_read(tmp_path, whole_folder):
    tensors = saelens_tensors()
    path = written(tmp_path, tensors, SAELENS_6)
    sae = caa.analysis.load_sae(path if whole_folder else path / "sae_weights.safetensors")
    torch.testing.assert_close(sae.decoder, tensors["W_dec"], rtol=0, atol=0)
    torch.testing.assert_close(sae.bias, tensors["b_dec"], rtol=0, atol=0)
    assert sae.hook == "blocks.7.hook_resid_post"
    assert sae.metadata == SAELENS_6
    assert repr(sae) == "SparseAutoencoder(40 features, d_model 12, hook blocks.7.hook_resid_post)"


@pytest.mark.parametrize(
    ("config", "hook"),
    [
        ({"d_in": 12, "d_sae": 40, "hook_name": "blocks.3.hook_resid_pre"}, "blocks.3.hook_resid_pre"),
        ({"d_in": 12, "d_sae": 40, "hook_point": "blocks.3.hook_resid_pre"}, "blocks.3.hook_resid_pre"),
        (
            {"d_in": 99, "d_out": 12, "d_sae": 40, "metadata": {"hook_name": "in", "hook_name_out": "out"}},
            "out",
        ),
        (None, None),
    ],
)
def test_older_files_transcoders_and_bare_weights(tmp_path, config, hook):
    assert caa.analysis.load_sae(written(tmp_path, saelens_tensors(), config)).hook == hook


def test_what_is_read_can_be_used(tmp_path):
    tensors = saelens_tensors()
    sae = caa.analysis.load_sae(written(tmp_path, tensors, SAELENS_6))
    vector = steering_vector(tensors["W_dec"][21] - 2 * tensors["W_dec"][3], layer=7)
    assert set(caa.analysis.decompose(vector, sae, layer=7, n_features=6)["feature"][:2]) == {3, 21}


def test_a_transposed_decoder_is_refused(tmp_path):
    tensors = saelens_tensors()
    tensors["W_dec"] = tensors["W_dec"].T.contiguous()
    with pytest.raises(
        caa.InputError, match=r"W_dec has shape \[12, 40\] and b_dec \[12\]; they must be .*save its transpose"
    ):
        caa.analysis.load_sae(written(tmp_path, tensors))


@pytest.mark.parametrize("wrong", [{"d_in": 13}, {"d_sae": 41}])
def test_shapes_that_the_configuration_does_not_tell_are_refused(tmp_path, wrong):
    with pytest.raises(caa.InputError, match=r"W_dec has shape \[40, 12\].*and cfg.json says \["):
        caa.analysis.load_sae(written(tmp_path, saelens_tensors(), {**SAELENS_6, **wrong}))


def test_shapes_are_checked_before_weights_are_read(tmp_path, monkeypatch):
    import safetensors

    read = []

    class Watched:
        def __init__(self, *arguments, **keywords):
            self.file = safe_open(*arguments, **keywords)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_slice(self, name):
            return self.file.get_slice(name)

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    safe_open = safetensors.safe_open
    monkeypatch.setattr(safetensors, "safe_open", Watched)
    path = written(tmp_path, saelens_tensors(), {**SAELENS_6, "d_in": 13})
    with pytest.raises(caa.InputError):
        caa.analysis.load_sae(path)
    assert read == []
    written(tmp_path, saelens_tensors(), SAELENS_6)
    caa.analysis.load_sae(path)
    assert read == ["W_dec", "b_dec"]


def test_a_square_decoder_needs_its_configuration(tmp_path):
    tensors = saelens_tensors(12, 12)
    with pytest.raises(caa.InputError, match=r"W_dec is square, \[12, 12\], so that its shape does not tell rows"):
        caa.analysis.load_sae(written(tmp_path, tensors))
    config = {"d_in": 12, "d_sae": 12}
    torch.testing.assert_close(caa.analysis.load_sae(written(tmp_path, tensors, config)).decoder, tensors["W_dec"])


@pytest.mark.parametrize("bias", [torch.zeros(3), torch.zeros(12, 1), torch.tensor(1.0)])
def test_a_bias_of_another_shape(tmp_path, bias):
    with pytest.raises(caa.InputError, match=r"and b_dec \[.*\]; they must be \[d_sae, d_in\] and \[d_in\]"):
        caa.analysis.load_sae(written(tmp_path, {"W_dec": torch.zeros(40, 12), "b_dec": bias}))


def test_a_file_of_something_else(tmp_path):
    with pytest.raises(caa.InputError, match=r"it holds \['values'\], and no W_dec and no b_dec"):
        caa.analysis.load_sae(written(tmp_path, {"values": torch.zeros(3)}))


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    path = tmp_path / "sae.pt"
    torch.save({"W_dec": torch.zeros(40, 12)}, path)
    with pytest.raises(caa.InputError, match=r"not a safetensors file .*pickled files \(\.pt\) are not read"):
        caa.analysis.load_sae(path)


def test_no_file(tmp_path):
    with pytest.raises(caa.InputError, match=r"there is no file .*sae_weights\.safetensors"):
        caa.analysis.load_sae(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", ", which must be as SAELens wrote it: not valid JSON"),
        ("[]", ": not an object .* Give the cfg.json that SAELens wrote"),
        ('{"metadata": 3}', ": not an object"),
        ("[" * 10**5, ", which must be as SAELens wrote it: not valid"),
    ],
)
def test_a_configuration_that_cannot_be_read(tmp_path, text, message):
    written(tmp_path, saelens_tensors())
    (tmp_path / "cfg.json").write_text(text, encoding="utf-8")
    with pytest.raises(caa.InputError, match=rf"cfg\.json{message}"):
        caa.analysis.load_sae(tmp_path)


# The figure


@pytest.fixture
def table():
    vector = steering_vector(torch.randn(12, generator=torch.Generator().manual_seed(1)), behavior="refusal")
    return caa.analysis.decompose(vector, random_sae(), layer=13, n_features=6)


def test_the_figure_shows_coefficients_and_errors(table):
    bars, vector, random = caa.plotting.plot_decomposition(table.sample(frac=1, random_state=0)).data
    np.testing.assert_allclose(bars.x, table["coefficient"])
    assert list(bars.y) == [1, 2, 3, 4, 5, 6]
    colors = [POSITIVE if coefficient > 0 else NEGATIVE for coefficient in table["coefficient"]]
    assert list(bars.marker.color) == colors
    assert [bool(shape) for shape in bars.marker.pattern.shape] == [color == NEGATIVE for color in colors]
    assert set(colors) == {POSITIVE, NEGATIVE}
    assert list(bars.text) == [f"cos {cosine:+.2f}".replace("-", "\N{MINUS SIGN}") for cosine in table["cosine"]]
    np.testing.assert_allclose(vector.y, table["error"])
    np.testing.assert_allclose(random.y, table["random_error"])
    assert list(vector.x) == list(random.x) == [1, 2, 3, 4, 5, 6]
    assert (vector.name, random.name) == ("this vector", "random directions (mean)")
    assert vector.line.dash != random.line.dash


def test_the_figure_names_features_units_and_what_it_is_of(table):
    fig = caa.plotting.plot_decomposition(table)
    assert fig.layout.title.text.startswith("refusal in features, layer 13<br>")
    assert (
        f"6 of 40 features, orthogonal matching pursuit; {100 * table['error'].iloc[-1]:.0f} % of the norm is left"
        in (fig.layout.title.text)
    )
    assert list(fig.layout.yaxis.ticktext) == [str(feature) for feature in table["feature"]]
    assert fig.layout.xaxis.title.text == "coefficient (units of the residual stream)"
    assert fig.layout.yaxis2.title.text == "left over (share of the norm)"
    low, high = fig.layout.xaxis.range
    assert low == -high
    assert high > table["coefficient"].abs().max()
    assert caa.plotting.plot_decomposition(table, title="a < b").layout.title.text.startswith("a &lt; b<br>")


def test_labels_are_shown_as_they_are(table):
    labeled = table.assign(label=["<b>apologies</b>", None, "money", "", "x", "y"])
    ticks = caa.plotting.plot_decomposition(labeled).layout.yaxis.ticktext
    assert ticks[0] == f"{table['feature'][0]}  &lt;b&gt;apologies&lt;/b&gt;"
    assert ticks[1] == str(table["feature"][1])


def test_a_table_of_something_else_is_refused(table):
    with pytest.raises(
        caa.InputError, match=r"columns \['cosine'\] are missing; give the result of caa_interp\.analysis\.decom"
    ):
        caa.plotting.plot_decomposition(table.drop(columns="cosine"))
    with pytest.raises(caa.InputError, match="no rows"):
        caa.plotting.plot_decomposition(table.iloc[:0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector": "optimism"}, r"it holds several, with vector \['refusal', 'optimism'\]"),
        ({"layer": 14}, r"it holds several, with layer \[13, 14\]"),
        ({"coefficient": 1.0}, r"a row of \['rank'\] twice"),
    ],
)
def test_two_sums_are_not_one_figure(table, change, message):
    with pytest.raises(caa.InputError, match=message):
        caa.plotting.plot_decomposition(pd.concat([table, table.assign(**change)]))


def test_the_table_is_left_as_it_was(table):
    before = table.copy(deep=True)
    caa.plotting.plot_decomposition(table)
    pd.testing.assert_frame_equal(table, before)
