"""Check of the residual stream against Hugging Face, without TransformerLens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from caa_interp.doctor.subject import Subject, Verdict, post, wide
from caa_interp.models.access import input_device, is_bridge, model_revision, n_layers, weight_processing

_GIB = 2**30


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
    tokens = subject.prompts[1]
    expected = _block_outputs(plain, subject.batch([tokens]), n_layers(model))
    del plain
    if expected is None:
        return None, f"Does not apply: no {n_layers(model)} blocks were found in Hugging Face's model of {source!r}."
    names = [post(layer) for layer in range(n_layers(model))]
    found = subject.residuals(tokens, names)
    off = torch.stack(
        [
            (found[name] - state).norm(dim=-1).max() / state.norm(dim=-1).max()
            for name, state in zip(names, expected, strict=True)
        ]
    )
    return bool((off <= subject.of_norm).all()), (
        f"The residual stream after {len(names)} blocks differs from that of the same weights in Hugging Face's own "
        f"model by at most {float(off.max()):.2g} of its norm, at layer {int(off.argmax())} (tolerated: "
        f"{subject.of_norm:g})."
    )


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


@torch.no_grad()
def _block_outputs(plain: Any, tokens: torch.Tensor, n_blocks: int) -> list[torch.Tensor] | None:
    """Outputs of all blocks, ``[position, d_model]`` each, at least float32 and on the CPU; None if there are none."""
    lists = (module for module in plain.modules() if isinstance(module, torch.nn.ModuleList))
    blocks = next((module for module in lists if len(module) == n_blocks), None)
    if blocks is None:
        return None
    caught: list[torch.Tensor] = []

    def catch(_: Any, __: Any, output: Any) -> None:
        caught.append(wide((output[0] if isinstance(output, tuple | list) else output)[0]).cpu())

    for block in blocks:
        block.register_forward_hook(catch)
    plain(tokens, use_cache=False)
    return caught


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
