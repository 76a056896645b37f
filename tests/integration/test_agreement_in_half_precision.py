"""The check of token trees on the embedded model: right ones are taken in bfloat16, too, and wrong ones never."""

import warnings

import numpy as np
import pytest
import torch

import caa_interp as caa
import caa_interp.tree.agreement as tree_agreement
from caa_interp.models.blocks import Rows

WINDOW = 64


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def model(request):
    return caa.load_model(device="cpu", dtype=request.param, progress=False)


def swept(model, monkeypatch):
    """(paths, warnings) of a sweep over one question, with a model whose trees were not compared yet."""
    monkeypatch.setattr(tree_agreement, "_trust", type(tree_agreement._trust)())
    values = 0.5 * torch.randn(30, 576, generator=torch.Generator().manual_seed(0))
    vector = caa.SteeringVector(values, tuple(range(30)), {"behavior": "any"})
    pairs = caa.load_behavior("hallucination").test[1:2]
    options = {"format": "choices", "layers": [2, 28], "multipliers": (0.0, 1.0), "progress": False}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = caa.sweep(model, vector, pairs, **options)
    return set(table["path"]), [str(one.message) for one in told if "token tree" in str(one.message)]


def test_a_right_tree_is_taken(model, monkeypatch):
    assert swept(model, monkeypatch) == ({"tree"}, [])


def test_a_mask_that_is_banded_by_row_is_found(model, monkeypatch):
    """As in GPT-Neo: rows see as far back as their place in the tree says, not their position."""
    right = Rows.mask

    def banded(self, window, n_rows, device):
        mask = right(self, window, n_rows, device)
        places = np.arange(mask.shape[2])
        band = places[mask.shape[2] - mask.shape[1] :, None] - places < WINDOW
        return mask & torch.as_tensor(band, device=device)

    monkeypatch.setattr(Rows, "mask", banded)
    paths, (told,) = swept(model, monkeypatch)
    assert paths == {"plain"}
    assert "the token tree does not agree with plain forward passes" in told
