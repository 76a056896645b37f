"""Activations and vectors on a plane: exact components, repeatable neighbor maps, and who lies where."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import caa_interp as caa

COLUMNS = ["behavior", "item", "id", "topic", "order", "side", "split", "layer", "x", "y", "x_share", "y_share"]
WIDTH = 24


def activations(n=6, layers=(2, 5), width=WIDTH, seed=0, shift=0.0, **changes):
    """Random activations of which no two points are alike, the sides ``shift`` apart along the first axis."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(3, 0.5, width)
    sides = torch.randn(2, n, len(layers), width, generator=generator) * scales + seed
    sides[0, ..., 0] += shift
    pairs = tuple(
        caa.ContrastPair(f"Why {seed} {number}?", "Yes.", "No.", id=f"{seed}-{number}", topic=f"topic {number % 2}")
        for number in range(n)
    )
    given = {"positive": sides[0], "negative": sides[1], "layers": layers, "pairs": pairs, "format": "choices"}
    metadata = {"model": changes.pop("model", "m")}
    return caa.Activations(**{**given, "metadata": metadata, **changes})


def vector(seed=0, layers=(1, 4, 7), width=WIDTH, **metadata):
    values = torch.randn(len(layers), width, generator=torch.Generator().manual_seed(seed)) * (1 + seed)
    return caa.SteeringVector(values, tuple(layers), {"model": "m", **metadata})


def points(acts, layer):
    """Both sides at a layer, positive first, ``[2 * n, d_model]``."""
    index = acts.layers.index(layer)
    return torch.cat([acts.positive[:, index], acts.negative[:, index]]).double().numpy()


def components(some, further=None):
    """Principal components by their definition: the full singular value decomposition of the centered points."""
    mean = some.mean(0)
    _, singular, axes = np.linalg.svd(some - mean, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2][[0, 1], np.abs(axes[:2]).argmax(1)])[:, None]
    placed = [(one - mean) @ axes.T for one in (some, *([] if further is None else [further]))]
    return placed, singular[:2] ** 2 / (singular**2).sum()


# Principal components


def test_each_layer_has_the_principal_components_of_its_points():
    acts = activations()
    table = caa.project(acts)
    assert list(table.columns) == [*COLUMNS, "method", "fit", "seed", "format", "model"]
    assert len(table) == 2 * 2 * 6
    for layer in (2, 5):
        rows = table[table["layer"] == layer]
        (placed,), shares = components(points(acts, layer))
        np.testing.assert_allclose(rows[["x", "y"]], placed, atol=1e-8)
        np.testing.assert_allclose(rows[["x_share", "y_share"]].drop_duplicates(), [shares], atol=1e-10)


def test_components_of_points_that_lie_on_two_axes():
    """Four points on the first axis at -3, -1, 1 and 3, the same on the second at a third of that."""
    places = torch.tensor([-3.0, -1.0, 1.0, 3.0])
    sides = torch.zeros(2, 4, 1, 3)
    sides[0, :, 0, 0], sides[1, :, 0, 1] = places, -places / 3
    table = caa.project(activations(4, (0,), 3, positive=sides[0], negative=sides[1]))
    np.testing.assert_allclose(table["x"], [-3, -1, 1, 3, 0, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(table["y"], [0, 0, 0, 0, 1, 1 / 3, -1 / 3, -1], atol=1e-12)
    np.testing.assert_allclose(table.iloc[0][["x_share", "y_share"]].astype(float), [0.9, 0.1], atol=1e-12)


def test_rows_say_whose_points_they_are():
    pair, other = (caa.ContrastPair(f"Why {n}?", "Yes.", "No.", id=f"id {n}", topic=f"topic {n}") for n in range(2))
    orders = ("AB", "BA", "AB", "BA")
    acts = activations(4, layers=(3,), pairs=(pair, pair, other, other), orders=orders)
    table = caa.project({"refusal": acts}, held_out={"refusal": activations(1, layers=(3,), seed=1)})
    fitted, held_out = table[table["split"] == "fit"], table[table["split"] == "held out"]
    assert fitted["item"].tolist() == [0, 0, 1, 1] * 2
    assert fitted["id"].tolist() == ["id 0", "id 0", "id 1", "id 1"] * 2
    assert fitted["topic"].tolist() == ["topic 0", "topic 0", "topic 1", "topic 1"] * 2
    assert fitted["order"].tolist() == list(orders) * 2
    assert fitted["side"].tolist() == ["positive"] * 4 + ["negative"] * 4
    assert held_out[["item", "id", "order", "side"]].values.tolist() == [
        [0, "1-0", "", "positive"],
        [0, "1-0", "", "negative"],
    ]
    assert set(table["behavior"]) == {"refusal"}
    assert set(caa.project(acts)["behavior"]) == {""}


def test_the_sign_of_a_component_does_not_hang_on_the_seed_or_on_the_order_of_points():
    acts = activations(8)
    one, other = caa.project(acts, seed=0), caa.project(acts, seed=7)
    np.testing.assert_allclose(one[["x", "y"]], other[["x", "y"]], atol=1e-9)
    turned = activations(8, positive=acts.positive.flip(0), negative=acts.negative.flip(0), pairs=acts.pairs[::-1])
    both = [table.sort_values(["layer", "side", "id"]) for table in (one, caa.project(turned))]
    np.testing.assert_allclose(both[0][["x", "y"]], both[1][["x", "y"]], atol=1e-9)


def test_small_differences_between_large_activations_are_seen():
    sides = torch.randn(2, 50, 1, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-3 + 1e4
    acts = activations(50, (0,), 8, positive=sides[0], negative=sides[1])
    (placed,), _ = components(points(acts, 0))
    np.testing.assert_allclose(caa.project(acts)[["x", "y"]], placed, atol=1e-9)


def test_one_dominant_coordinate_leaves_the_second_component_exact():
    acts = activations(40, (0,))
    acts.positive[:, :, 3] *= 1e4
    (placed,), shares = components(points(acts, 0))
    table = caa.project(acts)
    np.testing.assert_allclose(table[["x", "y"]], placed, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(table[["x_share", "y_share"]].iloc[0], shares, rtol=1e-6)


def test_points_on_a_line_have_no_second_component():
    line = torch.arange(8.0).reshape(2, 4, 1, 1) * torch.ones(5)
    table = caa.project(activations(4, (0,), 5, positive=line[0], negative=line[1]))
    np.testing.assert_allclose(table["x"], (np.arange(8) - 3.5) * 5**0.5, atol=1e-12)
    np.testing.assert_allclose(table["y"], 0, atol=1e-12)
    np.testing.assert_allclose(table[["x_share", "y_share"]].iloc[0], [1, 0], atol=1e-12)


def test_a_planted_difference_is_the_first_component():
    acts = activations(30, shift=40.0)
    table = caa.project(acts)
    sides = table.groupby(["layer", "side"])["x"].agg(["min", "max"]).unstack()
    assert bool((sides["min"]["positive"] > sides["max"]["negative"]).all())
    assert (table["x_share"] > 0.8).all()


# One map for several


def test_behaviors_share_the_map():
    named = {"refusal": activations(5, seed=1), "optimism": activations(3, seed=2)}
    table = caa.project(named)
    together = np.concatenate([points(acts, 5) for acts in named.values()])
    (placed,), _ = components(together)
    rows = table[table["layer"] == 5]
    np.testing.assert_allclose(rows[["x", "y"]], placed, atol=1e-8)
    assert rows["behavior"].tolist() == ["refusal"] * 10 + ["optimism"] * 6


def test_layers_share_the_map_if_that_is_asked():
    acts = activations(layers=(2, 5, 9))
    table = caa.project(acts, fit="shared", layers=[9, 2])
    (placed,), shares = components(np.concatenate([points(acts, layer) for layer in (2, 9)]))
    assert table["layer"].tolist() == [2] * 12 + [9] * 12
    np.testing.assert_allclose(table[["x", "y"]], placed, atol=1e-8)
    np.testing.assert_allclose(table[["x_share", "y_share"]].drop_duplicates(), [shares], atol=1e-10)
    assert set(table["fit"]) == {"shared"}


@pytest.mark.parametrize("fit", ["each", "shared"])
def test_held_out_points_have_no_part_in_the_map(fit):
    acts, others = activations(8), activations(3, layers=(5, 2), seed=5)
    alone, table = caa.project(acts, fit=fit), caa.project(acts, fit=fit, held_out=others)
    fitted = table[table["split"] == "fit"].reset_index(drop=True)
    pd.testing.assert_frame_equal(fitted, alone)
    batches = [(2,), (5,)] if fit == "each" else [(2, 5)]
    for batch in batches:
        some, further = (np.concatenate([points(one, layer) for layer in batch]) for one in (acts, others))
        (_, placed), _ = components(some, further)
        rows = table[(table["split"] == "held out") & table["layer"].isin(batch)]
        np.testing.assert_allclose(rows[["x", "y"]], placed, atol=1e-8)
    assert table["layer"].is_monotonic_increasing


def test_a_behavior_that_is_only_held_out():
    table = caa.project({"refusal": activations(8)}, held_out={"optimism": activations(3, seed=5)})
    assert table.groupby("behavior")["split"].unique().map(list).to_dict() == {
        "refusal": ["fit"],
        "optimism": ["held out"],
    }


def test_the_table_says_how_it_was_made():
    table = caa.project(activations())
    about = table[["method", "fit", "seed", "format", "model"]].drop_duplicates()
    assert about.to_dict("records") == [{"method": "pca", "fit": "each", "seed": 0, "format": "choices", "model": "m"}]
    assert not table.attrs


def test_the_table_can_be_kept(tmp_path):
    table = caa.project(activations(), held_out=activations(2, seed=3))
    table.to_parquet(tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(read, table)


def test_activations_of_a_model(tiny_llama, pairs):
    acts = caa.collect_activations(tiny_llama, pairs, average_orders=False)
    table = caa.project(acts, layers=[1, 3])
    (placed,), _ = components(points(acts, 3))
    np.testing.assert_allclose(table[table["layer"] == 3][["x", "y"]], placed, atol=1e-6)
    letters = table["order"].str[0].where(table["side"] == "positive", table["order"].str[1])
    (first,) = table[(letters == "A") & (table["layer"] == 3)]["x"].gt(0).unique()
    (second,) = table[(letters == "B") & (table["layer"] == 3)]["x"].gt(0).unique()
    assert first != second


# Maps of neighbors


@pytest.fixture(scope="module")
def far():
    """Two behaviors far apart, and more of the second."""
    named = {"refusal": activations(20, (4,), seed=1), "optimism": activations(20, (4,), seed=40)}
    return named, {"optimism": activations(4, (4,), seed=40, positive=named["optimism"].positive[:4] + 0.1)}


@pytest.fixture(scope="module")
def umap(far):
    """Made where PyTorch has more threads than there are cores, which is how many Numba sets for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads := (os.cpu_count() or 1) + 1)
    table = caa.project(far[0], method="umap", held_out=far[1])
    assert torch.get_num_threads() == n_threads
    torch.set_num_threads(before)
    return table


def assert_apart(table):
    """All points are nearer to the mean of their own behavior than to the other's."""
    means = table.groupby("behavior")[["x", "y"]].mean()
    distances = pd.DataFrame(
        {name: np.hypot(*(table[["x", "y"]] - mean).T.to_numpy()) for name, mean in means.iterrows()}
    )
    assert distances.idxmin(axis=1).tolist() == table["behavior"].tolist()


def test_umap_keeps_apart_what_is_far_apart(umap):
    assert_apart(umap)
    assert umap[["x", "y"]].map(np.isfinite).all(axis=None)
    assert umap[["x_share", "y_share"]].isna().all(axis=None)
    assert set(umap["method"]) == {"umap"}
    assert set(umap["n_neighbors"]) == {15}
    assert (umap["split"] == "held out").sum() == 8


def test_umap_repeats_to_the_bit_and_hangs_on_its_seed(umap, far):
    pd.testing.assert_frame_equal(caa.project(far[0], method="umap", held_out=far[1]), umap, check_exact=True)
    other = caa.project(far[0], method="umap", held_out=far[1], seed=1)
    assert not np.allclose(other[["x", "y"]], umap[["x", "y"]])


def test_umap_of_as_few_points_as_it_takes():
    table = caa.project(activations(8, (1,)), method="umap")
    assert len(table) == 16
    assert len(table[["x", "y"]].drop_duplicates()) == 16


def test_tsne_keeps_apart_what_is_far_apart_and_repeats(far):
    table = caa.project(far[0], method="tsne")
    assert_apart(table)
    assert table[["x_share", "y_share"]].isna().all(axis=None)
    assert set(table["perplexity"]) == {30}
    pd.testing.assert_frame_equal(caa.project(far[0], method="tsne"), table, check_exact=True)


def test_nothing_warns_where_warnings_are_shown(far):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for method in ("pca", "umap", "tsne"):
            caa.project(far[0], method=method)
    assert [str(one.message) for one in said] == []


# What is refused


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "lda"}, "method: 'lda' is not one of 'pca', 'umap', 'tsne'"),
        ({"fit": "all"}, "fit: 'all' is not one of 'each', 'shared'"),
        ({"layers": 3}, r"layer 3: activations has layers 2 to 5"),
        (
            {"method": "tsne"},
            "activations: 12 points; method 'tsne' needs at least 31. Give more, or use method='pca'",
        ),
        (
            {"held_out": {"a": activations()}},
            "held_out: give it as activations are given, either one of them or a map",
        ),
        (
            {"held_out": activations(width=8)},
            "held_out: its width is 8, but that of activations is 24. Points of one",
        ),
        ({"held_out": activations(format="text")}, "held_out: its format is 'text', but that of activations is 'cho"),
        ({"held_out": activations(model="n")}, "held_out: its model is 'n', but that of activations is 'm'"),
        (
            {"held_out": activations(layers=(3, 6))},
            r"layers: there is none that all have \(activations: \[2, 5\]; held_out: \[3, 6\]\)\. Make all at the",
        ),
        ({"held_out": activations(layers=(5,)), "layers": 2}, "layer 2: held_out has layers 5 to 5"),
    ],
    ids=str,
)
def test_what_cannot_be_projected_is_said(given, said):
    with pytest.raises(caa.InputError, match=said):
        caa.project(activations(), **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "activations: int; give the result of caa_interp.collect_activations"),
        ({}, "activations: the mapping is empty; give at least one"),
        ({"a": 3}, r"activations\['a'\]: int; give the result of caa_interp.collect_activations"),
        (
            {"a": activations(), "b": activations(width=8)},
            r"activations\['b'\]: its width is 8, but that of activations\[",
        ),
        (
            {"a": activations(), "b": activations(layers=(1,))},
            r"layers: there is none that all have \(activations\['a'\]: \[2, 5\]; activations\['b'\]: \[1\]\)",
        ),
    ],
)
def test_what_is_no_set_of_activations_is_said(given, said):
    with pytest.raises(caa.InputError, match=said):
        caa.project(given)


def test_layers_that_all_have_are_mapped():
    named = {"a": activations(layers=(2, 5)), "b": activations(layers=(5, 9), seed=1)}
    pd.testing.assert_frame_equal(caa.project(named), caa.project(named, layers=5))
    assert set(caa.project(named["a"], held_out=named["b"])["layer"]) == {5}
    with pytest.raises(caa.InputError, match=r"layer 2: activations\['b'\] has layers 5 to 9"):
        caa.project(named, layers=[5, 2])


def test_an_unknown_model_fits_every_model():
    for model in (None, "org/m"):  # TransformerLens 3 leaves the organization out
        assert len(caa.project({"a": activations(), "b": activations(model=model, seed=1)})) == 48


@pytest.mark.parametrize("models", [(None, "m", "n"), ("m", "one/m", "other/m")])
def test_models_are_compared_with_one_another_whichever_is_first(models):
    named = {str(seed): activations(model=model, seed=seed) for seed, model in enumerate(models)}
    said = rf"activations\['2'\]: its model is '{models[2]}', but that of activations\['1'\] is '{models[1]}'"
    with pytest.raises(caa.InputError, match=said):
        caa.project(named)
    first, second, third = named.values()
    with pytest.raises(caa.InputError, match=said.replace(r"activations\['2'\]", r"held_out\['2'\]")):
        caa.project({"0": first, "1": second}, held_out={"2": third})


@pytest.mark.parametrize(("method", "least"), [("pca", 3), ("umap", 16)])
def test_one_pair_is_too_few(method, least):
    said = f"activations: 2 points; method '{method}' needs at least {least}. Give more"
    with pytest.raises(caa.InputError, match=said):
        caa.project(activations(1), method=method)


@pytest.mark.parametrize("method", ["pca", "umap", "tsne"])
def test_points_that_are_all_the_same(method):
    same = torch.ones(20, 1, 4)
    with pytest.raises(caa.InputError, match="activations at layer 7: all 40 points are the same"):
        caa.project(activations(20, (7,), 4, positive=same, negative=same), method=method)


def test_tsne_takes_no_held_out_points():
    with pytest.raises(
        caa.InputError, match=r"held_out: t-SNE cannot place further points. Use method='pca' or 'umap'"
    ):
        caa.project(activations(20), method="tsne", held_out=activations(2))


# Vectors


def test_vectors_of_all_layers_are_one_map_of_directions():
    named = {"refusal": vector(0), "mine": vector(1)}
    table = caa.analysis.project_vectors(named)
    assert list(table.columns) == [
        "vector",
        "layer",
        "norm",
        "x",
        "y",
        "x_share",
        "y_share",
        "method",
        "normalize",
        "seed",
        "model",
    ]
    assert table["vector"].tolist() == ["refusal"] * 3 + ["mine"] * 3
    assert table["layer"].tolist() == [1, 4, 7] * 2
    values = torch.cat([one.values for one in named.values()]).double()
    norms = values.norm(dim=1)
    np.testing.assert_allclose(table["norm"], norms)
    (placed,), shares = components((values / norms[:, None]).numpy())
    np.testing.assert_allclose(table[["x", "y"]], placed, atol=1e-10)
    np.testing.assert_allclose(table[["x_share", "y_share"]].drop_duplicates(), [shares], atol=1e-10)
    assert table[["method", "normalize", "seed"]].drop_duplicates().values.tolist() == [["pca", True, 0]]


def test_raw_vectors_if_that_is_asked():
    named = {"refusal": vector(0), "mine": vector(1)}
    table = caa.analysis.project_vectors(named, normalize=False, layers=[7, 1])
    (placed,), _ = components(np.concatenate([one.values[[2, 0]].double().numpy() for one in named.values()]))
    np.testing.assert_allclose(table[["x", "y"]], placed, atol=1e-10)
    assert table["layer"].tolist() == [7, 1] * 2
    assert not table["normalize"].any()


def test_a_longer_vector_is_at_the_same_place_of_a_map_of_directions():
    named = {"refusal": vector(0), "mine": vector(1)}
    one = caa.analysis.project_vectors(named)
    other = caa.analysis.project_vectors({"refusal": 100 * named["refusal"], "mine": named["mine"]})
    np.testing.assert_allclose(other[["x", "y"]], one[["x", "y"]], atol=1e-6)
    np.testing.assert_allclose(other["norm"], one["norm"] * np.repeat([100, 1], 3), rtol=1e-6)


@pytest.mark.parametrize("method", ["umap", "tsne"])
def test_maps_of_neighbors_of_vectors(method):
    named = {str(seed): vector(seed, layers=range(9)) for seed in range(4)}
    table = caa.analysis.project_vectors(named, method=method)
    assert set(table["method"]) == {method}
    assert len(table[["x", "y"]].drop_duplicates()) == 36
    pd.testing.assert_frame_equal(caa.analysis.project_vectors(named, method=method), table, check_exact=True)


def test_one_vector_is_a_map_of_its_layers():
    alone, named = caa.analysis.project_vectors(vector()), caa.analysis.project_vectors({"vector": vector()})
    pd.testing.assert_frame_equal(alone, named, check_exact=True)


def test_vectors_of_different_layers_are_mapped_at_those_that_all_have():
    table = caa.analysis.project_vectors({"a": vector(), "b": vector(1, layers=(7, 1, 9))})
    assert table[["vector", "layer"]].values.tolist() == [["a", 1], ["a", 7], ["b", 1], ["b", 7]]


def test_vectors_of_different_models_can_be_compared():
    table = caa.analysis.project_vectors({"base": vector(0), "chat": vector(1, model="n")})
    assert table["model"].tolist() == ["m"] * 3 + ["n"] * 3


@pytest.mark.parametrize(
    ("vectors", "options", "error", "said"),
    [
        ({}, {}, caa.InputError, "vectors: the mapping is empty; give at least one"),
        ({"a": torch.ones(2, 3)}, {}, caa.InputError, r"vectors\['a'\]: Tensor; it must be one SteeringVector"),
        ({"a": vector()}, {"method": "lda"}, caa.InputError, "method: 'lda' is not one of 'pca', 'umap', 'tsne'"),
        ({"a": vector()}, {"layers": 2}, caa.InputError, r"layer 2: vectors\['a'\] has layers 1 to 7"),
        ({"a": vector()}, {"layers": [1, 4]}, caa.InputError, "vectors: 2 points; method 'pca' needs at least 3"),
        ({"a": vector()}, {"method": "tsne"}, caa.InputError, "vectors: 3 points; method 'tsne' needs at least 31"),
        (
            {"a": vector(), "b": vector(layers=(2, 5))},
            {},
            caa.errors.VectorMismatchError,
            r"layers: there is none that all have \(vectors\['a'\]: \[1, 4, 7\]; vectors\['b'\]: \[2, 5\]\)",
        ),
        (
            {"a": vector(), "b": vector(width=8)},
            {},
            caa.errors.VectorMismatchError,
            r"vectors: their widths differ \('a': 24, 'b': 8\)",
        ),
        (
            {"a": caa.SteeringVector(torch.ones(3, 4) * torch.tensor([[1.0], [0.0], [1.0]]), (1, 4, 7))},
            {},
            caa.InputError,
            r"vectors\['a'\]: it is zero at layer 4, so it has no direction there. Leave it out, or give normalize=F",
        ),
        ({"a": 0 * vector()}, {"normalize": False}, caa.InputError, "vectors: all 3 points are the same"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_is_no_map_of_vectors_is_said(vectors, options, error, said):
    with pytest.raises(error, match=said):
        caa.analysis.project_vectors(vectors, **options)
