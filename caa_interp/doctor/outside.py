"""Check of the residual stream against Hugging Face, without TransformerLens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from caa_interp.doctor.subject import Subject, Verdict, post, relative_difference
from caa_interp.models.access import input_device, is_bridge, model_revision, n_layers, weight_processing
from caa_interp.models.wrapping import block_outputs, module_of

_GIB = 2**30
# Hugging Face computes attention in another order, and what rounds in one block is carried through all the others.
_TIMES_TOLERANCE = 3


def check_outside(subject: Subject) -> Verdict:
    """After every block the residual stream is that of the same files in plain Hugging Face."""
    model = subject.model
    source = model.original_model.config._name_or_path if is_bridge(model) else model.tokenizer.name_or_path
    if weight_processing(model) != "none":
        return None, "Does not apply: TransformerLens has processed the weights, so that they are not Hugging Face's."
    needed = sum(weight.numel() * weight.element_size() for weight in subject.weights.values())
    if needed > subject.free:
        return None, (
            f"Does not apply: a second copy of the model takes {needed / _GIB:.2f} GiB, and {subject.free / _GIB:.2f} "
            "GiB are free."
        )
    try:
        plain = _load(source, model_revision(model), subject.dtype).to(input_device(model))
    except (OSError, ValueError) as error:
        return None, f"Does not apply: {source!r} cannot be read again without TransformerLens ({_first_line(error)})."
    if changed := _changed(plain, subject.weights):
        return None, (
            f"Does not apply: the weights are not those of {source!r} ({changed} differs); they were changed after the "
            "model was loaded."
        )
    blocks = _blocks(model, plain)
    if None in blocks:
        return None, f"Does not apply: no {n_layers(model)} blocks were found in Hugging Face's model of {source!r}."
    tokens = subject.prompts[1]
    expected = block_outputs(plain, blocks, subject.batch([tokens]))
    del plain, blocks
    names = [post(layer) for layer in range(n_layers(model))]
    found = subject.residuals(tokens, names)
    pairs = zip(names, expected, strict=True)
    off = torch.tensor([relative_difference(found[name], state) for name, state in pairs])
    tolerated = _TIMES_TOLERANCE * subject.of_norm
    return bool((off <= tolerated).all()), (
        f"The residual stream after {len(names)} blocks differs from that of the same weights in Hugging Face's own "
        f"model by at most {float(off.max()):.2g} of its norm, at layer {int(off.argmax())} (tolerated: "
        f"{tolerated:g})."
    )


def _blocks(model: Any, plain: Any) -> list[Any]:
    """Blocks of a Hugging Face model, by a bridge's paths, or its first list of as many modules; [None] if unknown."""
    if is_bridge(model):
        return [module_of(model, plain, f"blocks.{layer}") for layer in range(n_layers(model))]
    lists = (module for module in plain.modules() if isinstance(module, torch.nn.ModuleList))
    return next((list(module) for module in lists if len(module) == n_layers(model)), [None])


def _load(source: str, revision: str | None, dtype: torch.dtype) -> Any:
    """Load a model that is on this machine with transformers alone."""
    from transformers import AutoModelForCausalLM

    is_commit = revision is not None and len(revision) == 40
    return AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        revision=revision if is_commit else None,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    ).eval()


def _changed(plain: Any, weights: Mapping[str, torch.Tensor]) -> str | None:
    """Name of the first parameter of a Hugging Face model that differs in ``weights``, where it has that name."""
    for name, weight in plain.named_parameters():
        given = weights.get(name, weight).to(weight.device)
        if given.shape != weight.shape or not bool(((given == weight) | (given != given)).all()):
            return name
    return None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
