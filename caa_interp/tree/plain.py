"""The plain path: every branch as a row of a right-padded batch, after a prefix that is read once.

Slower than the tree, and right for every causal model: masks and positions are the model's own, and the prefix's
keys and values are repeated for the rows of the batch. A model without such a cache reads everything in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from caa_interp.models.access import n_layers, on_cpu, reading, unembed
from caa_interp.models.attention import rotary_boundary, takes_tree_masks
from caa_interp.models.decoding import Decoder
from caa_interp.models.memory import cache_bytes, rows_that_fit
from caa_interp.tree.branches import Branch, TreeResult
from caa_interp.tree.edits import edited_rows
from caa_interp.tree.prefix import shared_length

_ROWS_AT_ONCE = 32
_SHARE_OF_FREE_MEMORY = 0.1


def run_plain(model: Any, branches: Sequence[Branch], layers: Sequence[int]) -> TreeResult:
    """Run branches in batches of similar length; ``reads`` are averaged at ``layers``."""
    order = sorted(range(len(branches)), key=lambda index: len(branches[index].tokens))
    found: dict[int, tuple[torch.Tensor, ...]] = {}
    longest = max(len(branch.tokens) for branch in branches)
    size = _branches_at_once(model, branches, longest)
    boundary = rotary_boundary(model) or longest
    n_within = sum(len(branch.tokens) <= boundary for branch in branches)
    starts = [*range(0, n_within, size), *range(n_within, len(order), size), len(order)]
    for begin, end in pairwise(starts):
        chosen = order[begin:end]
        batch = [branches[index] for index in chosen]
        log_probs, residual, steered, averaged = _run_batch(model, batch, layers)
        divergences = [torch.zeros(len(branch.compared), dtype=residual[0].dtype) for branch in batch]
        if any(branch.compared and branch.applied for branch in batch):
            _, _, unsteered, _ = _run_batch(model, [replace(branch, edits=()) for branch in batch], layers)
            divergences = on_cpu(
                [(here.exp() * (here - there)).sum(1) for here, there in zip(unsteered, steered, strict=True)]
            )
        found |= dict(zip(chosen, zip(log_probs, residual, divergences, averaged, strict=True), strict=True))
    answers, means, compared, distributions = zip(*(found[index] for index in range(len(branches))), strict=True)
    return TreeResult(list(answers), torch.stack(means), list(compared), list(distributions), "plain")


def _branches_at_once(model: Any, branches: Sequence[Branch], longest: int) -> int:
    """Number of branches whose keys, values and logits fit the memory."""
    first_asked = min(at for branch in branches for at in (*_asked(branch), len(branch.tokens) - 1))
    n_logits = longest - first_asked if Decoder(model, longest).takes_keep else longest
    # Log-probabilities are a copy of the logits.
    row_bytes = longest * cache_bytes(model) + 2 * 4 * n_logits * int(model.cfg.d_vocab)
    return min(_ROWS_AT_ONCE, rows_that_fit(model, row_bytes, _SHARE_OF_FREE_MEMORY))


def _asked(branch: Branch) -> list[int]:
    """Positions after which a branch asks for the next token."""
    return [*branch.compared, *branch.averaged, *(at for at, _ in branch.targets)]


@torch.no_grad()
def _run_batch(
    model: Any, branches: Sequence[Branch], layers: Sequence[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities of the targets, mean residual streams, distributions after ``compared``, and their means."""
    decoder = Decoder(model, max(len(branch.tokens) for branch in branches))
    prefix = shared_length(branches) if decoder.cached else 0
    lengths = [len(branch.tokens) - prefix for branch in branches]
    tokens = torch.zeros(len(branches), max(lengths), dtype=torch.long)
    for row, branch in enumerate(branches):
        tokens[row, : lengths[row]] = torch.tensor(branch.tokens[prefix:])
    found = torch.zeros(len(branches), len(layers), int(model.cfg.d_model), dtype=torch.float64)
    edits = [branch.edits for branch in branches]

    last: list[torch.Tensor] = []
    places: list[tuple[int, int]] = []
    read_there: list[torch.Tensor] = []

    def read(layer: int, activation: torch.Tensor) -> None:
        if layer == n_layers(model) - 1:
            last.append(activation)
        for row, branch in enumerate(branches):
            if branch.reads and layer in layers:
                places.append((row, layers.index(layer)))
                read_there.append(activation[row, [position - prefix for position in branch.reads]])

    asked = [at - prefix for branch in branches for at in _asked(branch)]
    keep = max(lengths) - min(asked, default=max(lengths) - 1)
    read_layers = {n_layers(model) - 1, *(layers if any(branch.reads for branch in branches) else ())}
    if prefix:
        first = torch.tensor([branches[0].tokens[:prefix]])
        decoder.forward(first, torch.ones_like(first))
        decoder.select(torch.zeros(len(branches), dtype=torch.long))
    with edited_rows(model, edits, prefix, prefix + max(lengths)), reading(model, read_layers, read):
        logits = decoder.forward(tokens, torch.ones_like(tokens), keep, [branch.label for branch in branches])
    logits = _finer(model, logits, last[0][:, -keep:])
    dtype = torch.promote_types(logits.dtype, torch.float32)
    begin = prefix + max(lengths) - keep  # position of the first logits
    log_probs, compared, means = [], [], []
    for row, branch in enumerate(branches):
        ids = torch.tensor([token for _, token in branch.targets], dtype=torch.long, device=logits.device)
        log_probs.append(target_log_probs(logits[row, [at - begin for at, _ in branch.targets]], ids))
        compared.append(logits[row, [at - begin for at in branch.compared]].to(dtype).log_softmax(-1))
        averaged = logits[row, [at - begin for at in branch.averaged]].to(dtype).log_softmax(-1)
        means.append(torch.stack([averaged.mean(0), averaged.exp().mean(0)]) if branch.averaged else averaged)
    for place, values in zip(places, on_cpu(read_there), strict=True):
        found[place] = values.double().mean(0)
    moved = on_cpu([*log_probs, *means])  # both in one wait
    return moved[: len(branches)], list(found.to(dtype)), compared, moved[len(branches) :]


def _finer(model: Any, logits: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """Compute logits again from the last residual stream, in float32; not in rows where the model has more between."""
    if logits.dtype.itemsize >= 4 or not takes_tree_masks(model):
        return logits
    finer = unembed(model, residual.flatten(0, 1)).view(logits.shape).to(logits.device)
    rounding = 0.02 * logits.abs().amax((1, 2), keepdim=True)
    alike = ((finer - logits).abs() <= rounding).all(2, keepdim=True).all(1, keepdim=True)
    return torch.where(alike, finer, logits.to(finer))


def target_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of ``ids`` ``[n]`` under ``logits`` ``[n, d_vocab]``, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
