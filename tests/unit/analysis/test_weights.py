"""Heads and neurons along a vector: planted ones are found, norms and shared heads are taken into account."""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    MixtralConfig,
    Olmo2Config,
    PhiConfig,
)

import caa_interp as caa
from caa_interp.analysis.weights import _aligned
from caa_interp.models.weights import block_weights
from caa_interp.statistics import chance_alignment
from tests.tiny_models import random_llama, small_tokenizer

WIDTH, N_HEADS, D_HEAD = 64, 4, 16
SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": N_HEADS, "max_position_embeddings": 64}
DENSE = {**SHAPE, "intermediate_size": 96}
SHARED = {**DENSE, "num_key_value_heads": 2}


def direction(seed=5):
    drawn = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def steering(values, layer=1, model=None):
    return caa.SteeringVector(values[None].float(), (layer,), {"model": model})


def loaded(config, folder):
    """(Hugging Face's model, the same one as a user loads it), with random weights and norms."""
    tokenizer = small_tokenizer()
    config.vocab_size = len(tokenizer)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 1, 2
    original = AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in original.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            weight.copy_(drawn / weight.shape[-1] ** 0.5 if weight.ndim > 1 else 1 + 0.3 * drawn)
    return original, saved(original, tokenizer, folder)


def saved(original, tokenizer, folder):
    original.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return caa.load_model(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """(model, direction): the small Llama, with components that write along a direction or read from it."""
    tokenizer = small_tokenizer()
    original = random_llama(tokenizer)
    v, spread = direction(), torch.linspace(-1, 2, D_HEAD)
    with torch.no_grad():
        blocks = original.model.layers
        blocks[1].mlp.down_proj.weight[:, 5] = 3 * v
        blocks[1].mlp.down_proj.weight[:, 6] = -0.1 * v
        blocks[3].mlp.gate_proj.weight[7] = -v / blocks[3].post_attention_layernorm.weight
        blocks[2].mlp.up_proj.weight[11] = v / blocks[2].post_attention_layernorm.weight
        blocks[0].self_attn.o_proj.weight[:, 3 * D_HEAD :] = torch.outer(v, spread)
        through_norm = v / blocks[3].input_layernorm.weight
        blocks[3].self_attn.q_proj.weight[D_HEAD : 2 * D_HEAD] = torch.outer(spread, through_norm)
        blocks[3].self_attn.k_proj.weight[:D_HEAD] = torch.outer(spread, through_norm)
        blocks[3].self_attn.v_proj.weight[D_HEAD:] = torch.outer(spread, through_norm)
    return saved(original, tokenizer, tmp_path_factory.mktemp("weights") / "planted"), v


def test_planted_components_are_found_with_their_signs(planted):
    model, v = planted
    table = caa.analysis.weight_alignment(model, steering(20 * v), top_k=3)
    found = table[table["alignment"].abs() > 0.99]
    expected = {
        (1, "neuron", 5, "", "writes", 1.0),
        (1, "neuron", 6, "", "writes", -1.0),
        (3, "neuron", 7, "", "reads gate", -1.0),
        (2, "neuron", 11, "", "reads input", 1.0),
        (0, "head", 3, "3", "writes", 1.0),
        (3, "head", 1, "1", "reads query", 1.0),
        (3, "head", 0, "0-1", "reads key", 1.0),
        (3, "head", 1, "2-3", "reads value", 1.0),
    }
    rows = found[["layer", "component", "index", "query_heads", "role", "alignment"]].round(4)
    assert set(rows.itertuples(index=False, name=None)) == expected
    assert (found["alignment"].abs() > found["chance"]).all()


def test_every_number_equals_a_slow_oracle(tiny_llama, plain_llama):
    v = direction().double().numpy()
    table = caa.analysis.weight_alignment(tiny_llama, steering(torch.tensor(v)), top_k=128)
    weights = {name: weight.double().numpy() for name, weight in plain_llama.state_dict().items()}
    expected = {}
    for block in range(4):
        own = {name.split(f"layers.{block}.")[1]: w for name, w in weights.items() if f"layers.{block}." in name}
        attention, mlp = own["input_layernorm.weight"], own["post_attention_layernorm.weight"]
        for neuron in range(128):
            for role, row in (
                ("writes", own["mlp.down_proj.weight"][:, neuron]),
                ("reads gate", own["mlp.gate_proj.weight"][neuron] * mlp),
                ("reads input", own["mlp.up_proj.weight"][neuron] * mlp),
            ):
                expected[block, "neuron", role, neuron] = row @ v / np.linalg.norm(row)
        for head in range(N_HEADS):
            part = slice(head * D_HEAD, (head + 1) * D_HEAD)
            for role, matrix in (
                ("writes", own["self_attn.o_proj.weight"].T[part]),
                ("reads query", own["self_attn.q_proj.weight"][part] * attention),
                ("reads key", own["self_attn.k_proj.weight"][part] * attention),
                ("reads value", own["self_attn.v_proj.weight"][part] * attention),
            ):
                if len(matrix):  # two key and value heads
                    expected[block, "head", role, head] = np.linalg.norm(matrix @ v) / np.linalg.norm(matrix)
    found = {(row.layer, row.component, row.role, row.index): row.alignment for row in table.itertuples(index=False)}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-6), key


# Norms, shared heads and layouts of other architectures, against Hugging Face's own modules


def gpt2(block, x, z, neurons):
    q, k, v = block.attn.c_attn(block.ln_1(x)).split(WIDTH, dim=-1)
    return (q, k, v, block.attn.c_proj(z)), (block.mlp.c_fc(block.ln_2(x)), None, block.mlp.c_proj(neurons))


def pythia(block, x, z, neurons):
    attention = block.attention
    joint = attention.query_key_value(block.input_layernorm(x)).reshape(-1, N_HEADS, 3, D_HEAD)
    heads = tuple(joint[:, :, number].flatten(1) for number in range(3))
    mlp = block.mlp
    inputs = mlp.dense_h_to_4h(block.post_attention_layernorm(x))
    return (*heads, attention.dense(z)), (inputs, None, mlp.dense_4h_to_h(neurons))


def phi(block, x, z, neurons):
    normed = block.input_layernorm(x)  # heads and MLP share it
    a, mlp = block.self_attn, block.mlp
    return (a.q_proj(normed), a.k_proj(normed), a.v_proj(normed), a.dense(z)), (
        mlp.fc1(normed),
        None,
        mlp.fc2(neurons),
    )


def gemma_2(block, x, z, neurons):
    a, mlp = block.self_attn, block.mlp
    normed, mlp_normed = block.input_layernorm(x), block.pre_feedforward_layernorm(x)
    written = block.post_attention_layernorm(a.o_proj(z)), block.post_feedforward_layernorm(mlp.down_proj(neurons))
    return (a.q_proj(normed), a.k_proj(normed), a.v_proj(normed), written[0]), (
        mlp.up_proj(mlp_normed),
        mlp.gate_proj(mlp_normed),
        written[1],
    )


def olmo_2(block, x, z, neurons):
    a, mlp = block.self_attn, block.mlp  # norms only after them
    written = block.post_attention_layernorm(a.o_proj(z)), block.post_feedforward_layernorm(mlp.down_proj(neurons))
    return (a.q_proj(x), a.k_proj(x), a.v_proj(x), written[0]), (mlp.up_proj(x), mlp.gate_proj(x), written[1])


ARCHITECTURES = {
    "gpt-2": (GPT2Config(n_embd=WIDTH, n_layer=2, n_head=N_HEADS, n_positions=64, n_inner=96), "transformer.h", gpt2),
    "pythia": (GPTNeoXConfig(**DENSE), "gpt_neox.layers", pythia),
    "phi": (PhiConfig(**DENSE), "model.layers", phi),
    "gemma 2": (Gemma2Config(**SHARED, head_dim=D_HEAD), "model.layers", gemma_2),
    "olmo 2": (Olmo2Config(**SHARED), "model.layers", olmo_2),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_do_what_the_models_own_modules_do(name, tmp_path):
    config, blocks, modules = ARCHITECTURES[name]
    original, model = loaded(config, tmp_path / "model")
    weights = block_weights(model, 1)
    generator = torch.Generator().manual_seed(1)
    x, z, neurons = (torch.randn(6, width, generator=generator) for width in (WIDTH, WIDTH, 96))
    x += 0.7  # so that it matters whether a norm takes the mean away
    block = original.get_submodule(blocks)[1]
    with torch.no_grad():  # what is odd in the input, so that no bias takes part
        signs = [modules(block, sign * x, sign * z, sign * neurons) for sign in (1, -1)]
    (heads, mlp), (other_heads, other_mlp) = signs
    expected = [None if a is None else a - b for a, b in zip(heads + mlp, other_heads + other_mlp, strict=True)]
    found = [
        torch.einsum("nd,hde->nhe", x, weights.queries),
        torch.einsum("nd,hde->nhe", x, weights.keys),
        torch.einsum("nd,hde->nhe", x, weights.values),
        torch.einsum("nhe,hed->nd", z.reshape(6, N_HEADS, D_HEAD), weights.outputs),
        x @ weights.neuron_inputs,
        None if weights.neuron_gates is None else x @ weights.neuron_gates,
        neurons @ weights.neuron_outputs,
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:  # up to one factor a row: a norm divides by the length
            torch.testing.assert_close(
                torch.cosine_similarity(ours.flatten(1), theirs.flatten(1)), torch.ones(6), rtol=0, atol=1e-5
            )


def test_a_key_value_head_serves_the_query_heads_it_says(tmp_path):
    """Without a value head, exactly the query heads that it serves pass nothing on."""
    tokenizer, original = small_tokenizer(), random_llama(small_tokenizer())
    with torch.no_grad():
        original.model.layers[1].self_attn.v_proj.weight[D_HEAD:] = 0
    model = saved(original, tokenizer, tmp_path / "model")
    _, cache = model.run_with_cache(torch.arange(20, 30)[None])
    silent = cache["blocks.1.attn.hook_z"].reshape(10, N_HEADS, D_HEAD).abs().amax((0, 2)) == 0
    table = caa.analysis.weight_alignment(model, steering(direction()), layers=1)
    values = table[table["role"] == "reads value"].set_index("index")
    assert np.isnan(values.loc[1, "alignment"])
    assert values.loc[0, "alignment"] > 0
    assert values.loc[1, "query_heads"] == "2-3"
    assert silent.tolist() == [False, False, True, True]


def test_hooked_transformers_repeated_keys_and_values_are_taken_once(tiny_llama):
    """HookedTransformer gives every query head its own copy of the key and value head that serves it."""
    block = tiny_llama.blocks[1]
    attention = SimpleNamespace(
        W_Q=block.attn.W_Q,
        W_K=block.attn.W_K.repeat_interleave(2, dim=0),
        W_V=block.attn.W_V.repeat_interleave(2, dim=0),
        W_O=block.attn.W_O,
    )
    mlp = SimpleNamespace(W_in=block.mlp.W_in, W_gate=block.mlp.W_gate, W_out=block.mlp.W_out)
    norms = {name: getattr(block, name).original_component for name in ("ln1", "ln2")}
    config = SimpleNamespace(n_heads=4, n_key_value_heads=2, d_model=WIDTH, model_name="hooked")
    hooked = SimpleNamespace(cfg=config, blocks={1: SimpleNamespace(attn=attention, mlp=mlp, **norms)})
    found, expected = vars(block_weights(hooked, 1)), vars(block_weights(tiny_llama, 1))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_without_a_gate_there_is_no_role_for_it(tmp_path):
    _, model = loaded(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=N_HEADS, n_positions=64), tmp_path / "model")
    table = caa.analysis.weight_alignment(model, steering(direction()))
    assert set(table.loc[table["component"] == "neuron", "role"]) == {"writes", "reads input"}
    assert set(table.loc[table["role"] == "reads key", "query_heads"]) == {"0", "1", "2", "3"}
    assert {trace.type for trace in caa.plotting.plot_weight_alignment(table).data} == {"heatmap", "scatter"}


def test_a_mixture_of_experts_is_refused(tmp_path):
    config = MixtralConfig(**SHARED, num_local_experts=2, num_experts_per_tok=1)
    _, model = loaded(config, tmp_path / "mixture")
    with pytest.raises(caa.errors.ModelError, match=r"'mixture': the weights of block 0 cannot be read .*Use a dense"):
        caa.analysis.weight_alignment(model, steering(direction()))


# Chance


@pytest.mark.parametrize("decay", [0.0, 0.2, 1.0])
def test_one_random_direction_in_twenty_lies_above_the_bound_of_chance(decay):
    generator = torch.Generator().manual_seed(0)
    matrices = torch.randn(6, D_HEAD, WIDTH, generator=generator, dtype=torch.float64)
    matrices *= torch.exp(-decay * torch.arange(D_HEAD))[:, None]
    directions = torch.nn.functional.normalize(torch.randn(3000, WIDTH, generator=generator, dtype=torch.float64))
    first, chance = _aligned(matrices, directions[0])
    written = torch.einsum("hrd,nd->nhr", matrices, directions)
    alignments = written.norm(dim=2) / matrices.flatten(1).norm(dim=1)
    np.testing.assert_allclose(first, alignments[0])
    above = (alignments > torch.tensor(chance)).any(dim=1).double().mean()
    assert 0.035 < above < 0.065


def test_the_bound_of_chance_for_a_single_row_is_that_of_the_cosine_of_two_random_directions():
    for width in (3, 64, 4096):
        t = stats.t.ppf(0.975, width - 1)  # cosine = t / sqrt(t² + width - 1)
        assert chance_alignment(width) == pytest.approx(t / np.sqrt(t**2 + width - 1), rel=1e-6)
    assert chance_alignment(64, 100) > chance_alignment(64, 10) > chance_alignment(64)


@pytest.mark.parametrize("width", [1, 2, 3, 48, 64, 4096])
def test_where_all_directions_are_aligned_alike_the_bound_of_chance_is_that_alignment(width):
    for concentration in (1 / width, *np.nextafter(1 / width, [0, 1])):
        assert chance_alignment(width, 3, concentration) == pytest.approx(width**-0.5)


@pytest.mark.parametrize("width", [3, 48, 64])
def test_a_head_that_is_a_rotation_is_aligned_with_all_directions_alike(width):
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    v = torch.nn.functional.normalize(torch.randn(width, generator=generator, dtype=torch.float64), dim=0)
    for alignment_or_chance in _aligned(2 * rotation[None].double(), v):
        np.testing.assert_allclose(alignment_or_chance, [width**-0.5], rtol=1e-5)


def test_a_random_direction_finds_about_as_many_as_chance(tiny_llama):
    above = []
    for seed in range(12):
        table = caa.analysis.weight_alignment(tiny_llama, steering(direction(seed)), top_k=1)
        table = table.assign(above=table["alignment"].abs() > table["chance"])
        above.append(table.groupby(["layer", "component", "role"])["above"].any().mean())
    assert 0.01 < np.mean(above) < 0.1


# The table


def test_columns_rows_and_sides(tiny_llama):
    table = caa.analysis.weight_alignment(tiny_llama, steering(direction(), layer=2), layers=[3, 1, 2], top_k=5)
    assert list(table.columns) == [
        "vector",
        "vector_layer",
        "layer",
        "where",
        "component",
        "index",
        "query_heads",
        "role",
        "alignment",
        "chance",
        "model",
    ]
    assert table[["vector", "model"]].drop_duplicates().values.tolist() == [["vector", "tiny-llama"]]
    assert list(table["layer"].unique()) == [3, 1, 2]
    assert set(table["vector_layer"]) == {2}
    assert table.groupby("layer")["where"].unique().map(list).to_dict() == {
        1: ["before"],
        2: ["before"],
        3: ["after"],
    }
    counts = table[table["layer"] == 1].groupby(["component", "role"]).size().to_dict()
    assert counts == {
        ("head", "writes"): 4,
        ("head", "reads query"): 4,
        ("head", "reads key"): 2,
        ("head", "reads value"): 2,
        ("neuron", "writes"): 5,
        ("neuron", "reads gate"): 5,
        ("neuron", "reads input"): 5,
    }


def test_the_neurons_kept_are_the_largest_in_order(tiny_llama):
    some, every = (
        caa.analysis.weight_alignment(tiny_llama, steering(direction()), layers=2, top_k=k) for k in (4, 128)
    )
    for role in ("writes", "reads gate", "reads input"):
        kept, whole = (t.loc[(t["component"] == "neuron") & (t["role"] == role), "alignment"] for t in (some, every))
        assert list(kept) == list(whole)[:4]
        assert list(whole.abs()) == sorted(whole.abs(), reverse=True)
        assert len(whole) == 128
    chances = [t.loc[t["component"] == "neuron", "chance"].unique() for t in (some, every)]
    assert chances[0] == chances[1]  # of all neurons, not of those kept


def test_length_does_not_matter_and_the_opposite_changes_signs_of_neurons_only(tiny_llama):
    one, long, opposite = (
        caa.analysis.weight_alignment(tiny_llama, steering(factor * direction())) for factor in (1, 1000, -1)
    )
    pd.testing.assert_frame_equal(one, long, rtol=1e-6)
    signs = np.where(one["component"] == "neuron", -1, 1)
    pd.testing.assert_series_equal(one["alignment"] * signs, opposite["alignment"])


def test_the_layer_of_a_vector_of_several_must_be_named(tiny_llama):
    vector = caa.SteeringVector(torch.stack([direction(1), direction(2)]), (0, 3))
    with pytest.raises(caa.InputError, match=r"layer: .* needs one\. Give one of its layers"):
        caa.analysis.weight_alignment(tiny_llama, vector)
    named = caa.analysis.weight_alignment(tiny_llama, vector, layer=3)
    pd.testing.assert_frame_equal(named, caa.analysis.weight_alignment(tiny_llama, steering(direction(2), layer=3)))


def test_the_model_is_left_as_it_was(tiny_llama):
    before = copy.deepcopy(tiny_llama.original_model.state_dict())
    caa.analysis.weight_alignment(tiny_llama, steering(direction()))
    after = tiny_llama.original_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"top_k": 0}, caa.InputError, "top_k: 0; it must be a whole number of at least 1"),
        ({"top_k": 2.5}, caa.InputError, r"top_k: 2\.5; it must be a whole number"),
        ({"layers": 9}, caa.InputError, "layer 9: the model has layers 0 to 3"),
        ({"layer": 2}, caa.InputError, "layer 2: the vector has layers 1 to 1"),
        ({"vector": "optimism"}, caa.InputError, "vector: str; it must be one SteeringVector"),
        (
            {"vector": steering(torch.zeros(WIDTH))},
            caa.InputError,
            "vector: it is zero at layer 1, so it has no direction there. Choose another layer",
        ),
        ({"vector": steering(torch.ones(32))}, caa.errors.VectorMismatchError, "vector: its width is 32"),
        (
            {"vector": steering(direction(), model="x")},
            caa.errors.VectorMismatchError,
            "vector: it was made from 'x'",
        ),
    ],
)
def test_bad_input_is_named(tiny_llama, changes, error, message):
    with pytest.raises(error, match=message):
        caa.analysis.weight_alignment(**{"model": tiny_llama, "vector": steering(direction()), **changes})


# The figure


@pytest.fixture(scope="module")
def table(planted):
    model, v = planted
    return caa.analysis.weight_alignment(model, steering(v, layer=1), top_k=6)


def panel(fig, title):
    """Traces below the title of a role, such as ``"heads: writes"``: a map of heads, or dots of neurons."""
    component, role = title.split(": ")
    axes = [
        name
        for one in fig.layout.annotations
        for name in fig.layout
        if one.text == role and name.startswith("xaxis") and is_below(one, fig, name)
    ]
    panels = [[trace for trace in fig.data if trace.xaxis == name.replace("axis", "")] for name in axes]
    (found,) = [traces for traces in panels if (traces[0].type == "heatmap") == (component == "heads")]
    return found


def is_below(title, fig, name):
    low, high = fig.layout[name].domain
    top = fig.layout[name.replace("x", "y", 1)].domain[1]
    return low < title.x < high and abs(title.y - top) < 0.02


@pytest.mark.parametrize("role", ["writes", "reads query", "reads key", "reads value"])
def test_maps_show_every_head_at_its_block_and_mark_those_above_chance(table, role):
    rows = table[(table["component"] == "head") & (table["role"] == role)]
    heatmap, marks = panel(caa.plotting.plot_weight_alignment(table.sample(frac=1, random_state=0)), f"heads: {role}")
    shown = {(block, head): heatmap.z[i][j] for i, block in enumerate(heatmap.y) for j, head in enumerate(heatmap.x)}
    assert shown == {(row.layer, row.query_heads): row.alignment for row in rows.itertuples()}
    above = rows[rows["alignment"] > rows["chance"]]
    assert set(zip(marks.y, marks.x, strict=True)) == set(zip(above["layer"], above["query_heads"], strict=True))
    assert len(above) < len(rows)


def test_a_layer_between_others_that_was_not_asked_for_is_a_blank_row(planted):
    model, v = planted
    table = caa.analysis.weight_alignment(model, steering(v, layer=1), layers=(0, 2), top_k=6)
    heatmap, _ = panel(caa.plotting.plot_weight_alignment(table), "heads: writes")
    assert list(heatmap.y) == [0, 1, 2]
    assert np.isnan(heatmap.z[1]).all()
    assert not np.isnan(heatmap.z[[0, 2]]).any()
    assert heatmap.hoverongaps is False


@pytest.mark.parametrize("role", ["writes", "reads gate", "reads input"])
def test_neurons_are_dots_by_block_beside_the_band_of_chance(table, role):
    rows = table[(table["component"] == "neuron") & (table["role"] == role)]
    band, acting, others = panel(caa.plotting.plot_weight_alignment(table), f"neurons: {role}")
    chance = rows["chance"].iloc[0]
    np.testing.assert_allclose(band.y, [chance] * 4 + [-chance] * 4)
    for trace, where in ((acting, role == "writes"), (others, role != "writes")):
        expected = rows[(rows["where"] == "before") == where]
        points = set(zip(trace.x, [index for index, _ in trace.customdata], trace.y, strict=True))
        assert points == set(zip(expected["layer"], expected["index"], expected["alignment"], strict=True))
    assert (acting.marker.symbol, others.marker.symbol) == ("circle", "circle-open")


def test_the_figure_names_layer_number_and_units_and_has_one_legend(table):
    fig = caa.plotting.plot_weight_alignment(table, title="Optimism")
    assert fig.layout.title.text.startswith("Optimism<br>")
    assert "vector of layer 1 (dotted line); neurons: the 6 of each block" in fig.layout.title.text
    assert [one.name for one in fig.data if one.showlegend] == [
        "head above chance (95 %)",
        "random directions (95 %)",
        "writes before the vector, reads after it",
        "cannot act on the vector",
    ]
    titles = {fig.layout[name].title.text for name in fig.layout if name[:5] in ("xaxis", "yaxis")}
    assert titles == {"block of the head", "head", "query heads", "block", "cosine of the neuron", None}
    lines = [shape for shape in fig.layout.shapes if shape.line.dash == "dot"]
    assert len(lines) == 7
    assert {line.y0 if line.y0 == line.y1 else line.x0 for line in lines} == {1.5}


def test_the_titles_of_panels_stay_apart_in_a_narrow_figure(table):
    fig = caa.plotting.plot_weight_alignment(table)
    inner, letter = 700 - 200, 0.57 * fig.layout.annotations[0].font.size  # pixels
    rows = {one.y: [other for other in fig.layout.annotations if other.y == one.y] for one in fig.layout.annotations}
    assert sorted(map(len, rows.values())) == [3, 4]
    for titles in rows.values():
        for one, other in itertools.pairwise(sorted(titles, key=lambda title: title.x)):
            assert inner * (other.x - one.x) - letter * (len(one.text) + len(other.text)) / 2 > 2 * letter


def test_a_head_without_weights_is_left_blank(table):
    dead = table.copy()
    dead.loc[(dead["role"] == "reads value") & (dead["layer"] == 2) & (dead["index"] == 0), "alignment"] = np.nan
    heatmap, _ = panel(caa.plotting.plot_weight_alignment(dead), "heads: reads value")
    assert np.isnan(heatmap.z).sum() == 1
    assert np.isnan(heatmap.z[2][0])


def test_heads_or_neurons_alone_can_be_shown(table):
    heads, neurons = (
        caa.plotting.plot_weight_alignment(table[table["component"] == name]) for name in ("head", "neuron")
    )
    assert {trace.type for trace in neurons.data} == {"scatter"}
    assert sum(trace.type == "heatmap" for trace in heads.data) == 4


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"vector": "other"},
            r"it holds several, with vector \['vector', 'other'\]\. Draw one at a time, such as table\[",
        ),
        ({"vector_layer": 3}, r"it holds several, with vector_layer \[1, 3\]"),
        ({"model": "other"}, "it holds several, with model"),
        ({}, "it holds a row of .* twice"),
    ],
)
def test_a_figure_shows_one_vector_of_one_layer_in_one_model(table, changes, said):
    both = pd.concat([table, table.assign(**changes)], ignore_index=True)
    assert len(both.drop_duplicates()) == (1 + bool(changes)) * len(table)
    with pytest.raises(caa.InputError, match=said):
        caa.plotting.plot_weight_alignment(both)


def test_a_table_of_something_else_is_refused(table):
    with pytest.raises(
        caa.InputError, match=r"columns \['role'\] are missing; give the result of caa_interp.analysis.weight_al"
    ):
        caa.plotting.plot_weight_alignment(table.drop(columns="role"))
    before = table.copy(deep=True)
    caa.plotting.plot_weight_alignment(table)
    pd.testing.assert_frame_equal(table, before)
