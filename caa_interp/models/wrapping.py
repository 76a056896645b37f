"""From a TransformerLens model to a plain Hugging Face model with the same weights, and back.

A ``TransformerBridge`` puts its own modules into the Hugging Face model that it wraps, which can then neither be saved
nor trained with Hugging Face's tools. A copy without these modules can.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from caa_interp.errors import ModelError
from caa_interp.models.access import input_device, is_bridge, model_id, revisions
from caa_interp.models.gguf import set_bos

if TYPE_CHECKING:
    import torch


def plain_copy(model: Any) -> Any:
    """Copy the weights of a ``TransformerBridge`` into a new Hugging Face model, in evaluation mode.

    It has the type, device and configuration of the wrapped model. Raises :class:`ModelError` if the model is not a
    bridge, is spread over devices, or has processed or quantized weights.
    """
    import torch
    from transformers import AutoModelForCausalLM

    if not is_bridge(model):
        raise ModelError(
            f"model {model_id(model)!r}: it is a HookedTransformer, whose weights are not Hugging Face's. Load it "
            "with load_model(..., backend='bridge')."
        )
    wrapped = model.original_model
    if quantization := getattr(wrapped.config, "quantization_config", None):
        method = getattr(quantization, "quant_method", "")
        raise ModelError(
            f"model {model_id(model)!r}: its weights are quantized ({getattr(method, 'value', method)}), and what is "
            "added to them would be rounded away. Load the unquantized model."
        )
    if len({parameter.device for parameter in wrapped.parameters()}) > 1:
        raise ModelError(f"model {model_id(model)!r}: it is spread over devices. Load it on one, without device_map.")
    config = copy.deepcopy(wrapped.config)
    config.output_attentions = False
    # A new model draws initial weights, which must not change the user's random state.
    with torch.random.fork_rng(devices=[]):
        plain = AutoModelForCausalLM.from_config(config, dtype=wrapped.dtype, trust_remote_code=False)
    tensors = dict(wrapped.named_parameters(remove_duplicate=False))
    tensors |= dict(wrapped.named_buffers(remove_duplicate=False))
    weights = {name.replace("._original_component", ""): tensor for name, tensor in tensors.items()}
    names = plain.state_dict().keys()
    if not names <= weights.keys():
        raise _changed(model, f"there is no {sorted(names - weights.keys())[0]}")
    try:
        plain.load_state_dict({name: weights[name].detach() for name in names})
    except RuntimeError as error:
        raise _changed(model, str(error)) from error
    plain.generation_config = copy.deepcopy(wrapped.generation_config)
    plain = plain.to(input_device(model)).eval()
    if (off := difference(model, plain)) is not None:
        raise _changed(model, f"logits differ by {off:.2g} of their size")
    return plain


def wrap(plain: Any, tokenizer: Any, name: str) -> Any:
    """Put a Hugging Face model into a ``TransformerBridge`` called ``name``, as from :func:`caa_interp.load_model`.

    The bridge takes ``plain`` over, so do not use it afterwards; the tokenizer is copied.
    """
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(
        name, hf_model=plain, tokenizer=copy.deepcopy(tokenizer), device=plain.device, dtype=plain.dtype
    )
    model.eval()
    model.cfg.model_name = name
    set_bos(model)
    revisions[model] = None
    return model


def difference(model: Any, plain: Any) -> float | None:
    """Relative difference of the logits of a TransformerLens model and Hugging Face's; None if it may be rounding."""
    import torch

    tokens = torch.arange(min(64, int(model.cfg.d_vocab), int(model.cfg.n_ctx)), device=plain.device)[None]
    with torch.no_grad():
        found, expected = model(tokens).cpu().double(), plain(tokens).logits.cpu().double()
    share = float((found - expected).norm() / expected.norm())
    return None if share < (1e-3 if plain.dtype.itemsize >= 4 else 0.1) else share


def module_of(model: Any, plain: Any, path: str) -> Any:
    """Return the module of a copy that its bridge calls ``path``, such as ``"blocks.3.mlp.out"``, or None."""
    try:
        return plain.get_submodule(model.adapter.translate_transformer_lens_path(path))
    except (ValueError, AttributeError):
        return None


def block_outputs(plain: Any, blocks: Iterable[Any], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Residual stream ``[position, d_model]`` after each block for ``tokens`` ``[1, position]``, float64 on the CPU."""
    import torch

    outputs: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple | list) else output)[0].cpu().double())

    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        with torch.no_grad():
            plain(tokens, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _changed(model: Any, why: str) -> ModelError:
    return ModelError(
        f"model {model_id(model)!r}: its weights cannot be copied into a Hugging Face model "
        f"({' '.join(why.split()).rstrip('.')}). Load it again with load_model, which leaves them as they are, and "
        "from a checkpoint that is not quantized."
    )
