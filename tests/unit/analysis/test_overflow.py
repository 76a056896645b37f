"""What the model computes is not a number: the pair and the condition are named."""

import pytest
import torch

import caa_interp as caa
from caa_interp.analysis import effect_attribution, position_map


@pytest.mark.parametrize("function", [effect_attribution, position_map])
def test_a_condition_that_overflows_is_named(tiny_folder, function):
    model = caa.load_model(tiny_folder, device="cpu", dtype="float16", progress=False)
    far = caa.SteeringVector(torch.full((4, 64), 5e4) * torch.tensor([1, -1] * 32), (0, 1, 2, 3), {"behavior": "any"})
    pairs = [caa.ContrastPair("Is it good?", "I like it.", "I do not like it.")]
    with pytest.raises(caa.errors.ModelError, match=r"^pairs\[0\], Intervention\(8 of .*, layer 1, .*is not a number"):
        function(model, far, pairs, layer=1, multiplier=8.0, format="text", progress=False)
