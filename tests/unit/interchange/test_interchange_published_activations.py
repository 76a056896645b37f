"""Activations that the published CAA code saved, with the items that they were read from."""

import pytest
import torch

import caa_interp as caa
from caa_interp.behaviors.pairs import PublishedPair
from caa_interp.interchange.published import import_activations

PAIRS = [
    PublishedPair("Yes?\n\nChoices:\n (A) Yes\n (B) No", "(A)", "(B)"),
    PublishedPair("No?\n\nChoices:\n (A) Yes\n (B) No", "(B)", "(A)"),
    PublishedPair("Why?\n\nChoices:\n (A) Yes\n (B) No\n (C) So", "(C)", "(A)", n_options=3),
]


def published(root, layer, model="Llama-2-7b-chat-hf", sides=("pos", "neg"), n=3, width=4, dtype=torch.float16):
    """What ``generate_vectors.py --save_activations`` does; entries tell side, layer and row."""
    folder = root / "activations" / "b"
    folder.mkdir(parents=True, exist_ok=True)
    for side in sides:
        rows = 1000 * (side == "pos") + 10 * layer + torch.arange(n)[:, None].expand(n, width)
        torch.save(rows.to(dtype).clone(), folder / f"activations_{side}_{layer}_{model}.pt")
    return folder


def test_sides_layers_and_rows_are_where_they_belong(tmp_path):
    for layer in (1, 10, 2):
        folder = published(tmp_path, layer)
    (folder / "activations_pos_3_x.pt.bak").write_bytes(b"")
    found = import_activations(folder, PAIRS)
    assert found.layers == (1, 2, 10)
    assert found.positive.shape == (3, 3, 4)
    assert found.positive[:, :, 0].tolist() == [[1010 + n, 1020 + n, 1100 + n] for n in range(3)]
    assert found.negative[:, :, 3].tolist() == [[10 + n, 20 + n, 100 + n] for n in range(3)]
    assert found.pairs == tuple(PAIRS)
    assert found.orders == ("AB", "BA", "CA")
    assert found.model == "meta-llama/Llama-2-7b-chat-hf"
    assert (found.format, found.positive.dtype) == ("choices", torch.float32)
    assert import_activations(folder, PAIRS, layers=[10, 1]).positive[0, :, 0].tolist() == [1100, 1010]


def test_their_mean_difference_is_the_published_vector(tmp_path):
    positive, negative = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    for side, values in (("pos", positive), ("neg", negative)):
        torch.save(values, tmp_path / f"activations_{side}_5_m.pt")
    found = import_activations(tmp_path, PAIRS)
    vector = caa.vectors.mean_difference(found.positive, found.negative)
    torch.testing.assert_close(vector[0], (positive - negative).mean(dim=0))
    assert caa.vectors.vector_from_activations(found).metadata["sides"] == "as published"


def test_one_of_several_models(tmp_path):
    published(tmp_path, 1)
    folder = published(tmp_path, 2, model="Llama-2-7b-hf")
    assert import_activations(folder, PAIRS, model="meta-llama/Llama-2-7b-hf").layers == (2,)
    with pytest.raises(caa.InputError, match=r"holds files of 'Llama-2-7b-chat-hf', 'Llama-2-7b-hf'. Name one"):
        import_activations(folder, PAIRS)


def test_what_is_refused(tmp_path):
    folder = published(tmp_path, 1)
    with pytest.raises(caa.InputError, match=r"pairs: there are 2, but the files in .* have 3 rows"):
        import_activations(folder, PAIRS[:2])
    with pytest.raises(caa.InputError, match="pairs: they must be the published items"):
        import_activations(folder, [caa.ContrastPair("Yes?", "Yes", "No")] * 3)
    with pytest.raises(caa.InputError, match=r"folder: .* is not a folder. Give one such as activations/sycophancy"):
        import_activations(folder / "activations_pos_1_x.pt", PAIRS)
    with pytest.raises(caa.InputError, match=r"layer 2: b \(activations_pos\) has layers 1 to 1"):
        import_activations(folder, PAIRS, layers=2)
    with pytest.raises(caa.InputError, match=r"holds no file named activations_pos_<L>_<model>.pt"):
        import_activations(tmp_path, PAIRS)
    published(tmp_path, 2, sides=["pos"])
    with pytest.raises(caa.InputError, match=r"has layers \[1, 2\] of one side and \[1\] of the other. Name layers"):
        import_activations(folder, PAIRS)
    assert import_activations(folder, PAIRS, layers=1).layers == (1,)
    published(tmp_path, 2, width=5)
    with pytest.raises(caa.InputError, match=r"layer 1 has shape \(3, 4\) and layer 2 \(3, 5\)"):
        import_activations(folder, PAIRS)
    torch.save(torch.ones(4), folder / "activations_pos_2_Llama-2-7b-chat-hf.pt")
    with pytest.raises(caa.InputError, match=r"activations_pos_2_.*shape \(4,\); it must .*have 2 axes"):
        import_activations(folder, PAIRS)
