"""The choice of TransformerLens's model class, where HookedTransformer is gone (TransformerLens 4)."""

from importlib.metadata import version

import pytest

import caa_interp as caa

INSTALLED = version("transformer-lens")


@pytest.mark.skipif(INSTALLED.startswith("3."), reason="TransformerLens 3 has HookedTransformer; see tests/hooked")
@pytest.mark.parametrize("name", ["meta-llama/Llama-2-7b-chat-hf", "./no-such-folder", "smollm2-135m-instruct"])
def test_hooked_needs_transformer_lens_3(name):
    with pytest.raises(caa.errors.ModelError, match="backend='hooked'") as caught:
        caa.load_model(name, backend="hooked")
    message = str(caught.value)
    assert INSTALLED in message
    assert "backend='bridge'" in message
    assert "transformer-lens>=3.9,<4" in message
