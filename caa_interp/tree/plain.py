"""The plain path: every branch as a row of a right-padded batch, behind a prefix that is read once.

Slower than the tree, and right for every causal model: masks and positions are the model's own, and the prefix's
keys and values are repeated for the rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caa_interp.models.access import CachedDecoder, input_device, residual_hooks
from caa_interp.operators import apply_operator
from caa_interp.tree.branches import Branch
from caa_interp.tree.prefix import shared_length

_MAX_LOGITS_BYTES = 256 * 2**20


def run_plain(
    model: Any, branches: Sequence[Branch], layers: Sequence[int]
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Run branches in batches of similar length.

    Parameters
    ----------
    model
        The model.
    branches
        Branches to run.
    layers
        Layers at which ``reads`` are averaged.

    Returns
    -------
    log_probs, residual
        As in :class:`TreeResult`; ``residual`` is ``[n_branches, len(layers), d_model]``.
    """
    order = sorted(range(len(branches)), key=lambda index: len(branches[index].tokens))
    log_probs: list[torch.Tensor] = [torch.empty(0)] * len(branches)
    residual: list[torch.Tensor] = [torch.empty(0)] * len(branches)
    longest = max(len(branch.tokens) for branch in branches)
    size = max(1, min(32, _MAX_LOGITS_BYTES // (4 * longest * int(model.cfg.d_vocab))))
    for begin in range(0, len(order), size):
        chosen = order[begin : begin + size]
        found = _run_batch(model, [branches[index] for index in chosen], layers)
        for index, row_log_probs, row_residual in zip(chosen, *found, strict=True):
            log_probs[index], residual[index] = row_log_probs, row_residual
    return log_probs, torch.stack(residual)


def _run_batch(
    model: Any, branches: Sequence[Branch], layers: Sequence[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    device = input_device(model)
    prefix = shared_length(branches)
    lengths = [len(branch.tokens) - prefix for branch in branches]
    tokens = torch.zeros(len(branches), max(lengths), dtype=torch.long, device=device)
    for row, branch in enumerate(branches):
        tokens[row, : lengths[row]] = torch.tensor(branch.tokens[prefix:])
    found = torch.zeros(len(branches), len(layers), int(model.cfg.d_model), dtype=torch.float64)
    edited = {edit.layer for branch in branches for edit in branch.edits}
    reading = set(layers) if any(branch.reads for branch in branches) else set()

    def hook(layer: int, activation: torch.Tensor) -> torch.Tensor | None:
        if layer in edited:
            activation = activation.clone()
            for row, branch in enumerate(branches):
                for edit in branch.edits:
                    if edit.layer == layer:
                        steered = activation[row, max(0, edit.start - prefix) :]
                        steered.copy_(apply_operator(edit.operator, steered, edit.vector, edit.multiplier))
        if layer in reading:
            for row, branch in enumerate(branches):
                if branch.reads:
                    mean = activation[row, [position - prefix for position in branch.reads]].double().mean(0)
                    found[row, layers.index(layer)] = mean.cpu()
        return activation if layer in edited else None

    targets = [position - prefix for branch in branches for position, _ in branch.targets]
    keep = max(lengths) - min(targets, default=max(lengths) - 1)
    hooks = {layer: (lambda a, layer=layer: hook(layer, a)) for layer in sorted(edited | reading)}
    decoder = CachedDecoder(model)
    with torch.no_grad():
        if prefix:
            first = torch.tensor([branches[0].tokens[:prefix]], device=device)
            decoder.forward(first, torch.ones_like(first))
            decoder.select(torch.zeros(len(branches), dtype=torch.long, device=device))
        with residual_hooks(model, hooks):
            logits = decoder.forward(tokens, torch.ones_like(tokens), keep)
    log_probs = []
    for row, branch in enumerate(branches):
        at = [position - prefix - (max(lengths) - keep) for position, _ in branch.targets]
        ids = torch.tensor([token for _, token in branch.targets], dtype=torch.long, device=logits.device)
        log_probs.append(target_log_probs(logits[row, at], ids).cpu())
    return log_probs, list(found.to(torch.float64 if logits.dtype == torch.float64 else torch.float32))


def target_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of ``ids`` ``[n]`` under ``logits`` ``[n, d_vocab]``, in float32 at least."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
