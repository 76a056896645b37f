"""Parts and positions through which a vector acts, with HookedTransformer (TransformerLens 3 only).

Run these in an environment with TransformerLens 3.9: ``python -m pytest tests/hooked``.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from importlib.metadata import version

import pandas as pd
import pytest
import torch

import caa_interp as caa
from tests.tiny_models import save_tiny

if int(version("transformer-lens").split(".")[0]) >= 4:
    pytest.skip(
        f"HookedTransformer left TransformerLens with version 4 (installed: {version('transformer-lens')}); "
        "these tests need transformer-lens>=3.9,<4",
        allow_module_level=True,
    )

VALUES = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
VECTOR = caa.SteeringVector(3 * VALUES / VALUES.norm(dim=1, keepdim=True), (0, 1, 2, 3), {"format": "text"})


@pytest.fixture(scope="module", params=["llama", "pythia"])
def both(request, tmp_path_factory):
    """The same weights as HookedTransformer and as TransformerBridge."""
    folder = save_tiny(tmp_path_factory.mktemp("models") / "tiny", request.param)
    return tuple(caa.load_model(folder, backend=backend, device="cpu") for backend in ("hooked", "bridge"))


@pytest.mark.parametrize("per", ["component", "head"])
def test_parts_are_those_of_a_bridge(both, pairs, per):
    options = {"layer": 1, "per": per, "progress": False}
    found, expected = (caa.analysis.effect_attribution(model, VECTOR, pairs, **options) for model in both)
    assert expected[["contribution", "restored"]].abs().max().min() > 1e-2
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)


def test_positions_are_those_of_a_bridge(both, pairs):
    found, expected = (caa.analysis.position_map(one, VECTOR, pairs, layer=1, progress=False) for one in both)
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=1e-4)
