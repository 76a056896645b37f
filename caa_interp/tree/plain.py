"""The plain path: every branch as a row of a right-padded batch, after a prefix that is read once.

Slower than the tree, and right for every causal model: masks and positions are the model's own, and all batches of the
branches that share a prefix go on from its keys and values. A model without such a cache reads everything in one pass,
and so does one with hooks of the user's own: they see whole sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from caa_interp.models.access import n_layers, not_numbers, on_cpu, reading
from caa_interp.models.attention import rotary_boundary
from caa_interp.models.decoding import Decoder
from caa_interp.models.hooks import is_hooked_by_user
from caa_interp.models.memory import cache_bytes, rows_that_fit
from caa_interp.models.readout import can_unembed, unembed
from caa_interp.tree.branches import Branch, TreeResult
from caa_interp.tree.edits import edited_rows
from caa_interp.tree.prefix import shared_length

_ROWS_AT_ONCE = 128
_SHARE_OF_FREE_MEMORY = 0.1


def run_plain(model: Any, branches: Sequence[Branch], layers: Sequence[int]) -> TreeResult:
    """Run branches with the same prefix in batches of similar length; ``reads`` are averaged at ``layers``."""
    # Steering with multiplier 0, for one, is the same branch at every layer.
    same = [replace(branch, edits=branch.applied) for branch in branches]
    found: dict[Branch, tuple[torch.Tensor, ...]] = {}
    whole = is_hooked_by_user(model)
    for some in _groups(list(dict.fromkeys(same)), rotary_boundary(model)):
        longest = len(some[-1].tokens)
        decoder = Decoder(model, longest)
        prefix = shared_length(some) if decoder.cached and len(some) > 1 and not whole else 0
        if prefix:
            first = torch.tensor([some[0].tokens[:prefix]])
            decoder.forward(first, torch.ones_like(first))
        size = _branches_at_once(model, some, longest)
        for begin in range(0, len(some), size):
            batch = some[begin : begin + size]
            log_probs, residual, steered, averaged = _run_batch(model, batch, layers, decoder, prefix)
            divergences = [torch.zeros(len(branch.compared), dtype=residual[0].dtype) for branch in batch]
            if any(branch.compared and branch.applied for branch in batch):
                unedited = [replace(branch, edits=()) for branch in batch]
                _, _, unsteered, _ = _run_batch(model, unedited, layers, decoder, prefix)
                divergences = on_cpu(
                    [(here.exp() * (here - there)).sum(1) for here, there in zip(unsteered, steered, strict=True)]
                )
            each = zip(log_probs, residual, divergences, averaged, strict=True)
            found |= dict(zip(batch, each, strict=True))
    answers, means, compared, distributions = zip(*(found[branch] for branch in same), strict=True)
    result = TreeResult(list(answers), torch.stack(means), list(compared), list(distributions), "plain")
    if bad := result.not_numbers():
        raise not_numbers(model, branches[bad[0]].label)
    return result


def _groups(branches: Sequence[Branch], boundary: int | None) -> list[list[Branch]]:
    """Put together branches that begin with the same tokens, which none edits, reads or asks about, and the others.

    Short sequences first; no group has sequences on both sides of the ``boundary``.
    """
    found: dict[tuple[bool, tuple[int, ...]], list[Branch]] = {}
    for branch in branches:
        beyond = boundary is not None and len(branch.tokens) > boundary
        found.setdefault((beyond, branch.tokens[: shared_length([branch])]), []).append(branch)
    groups: dict[tuple[bool, tuple[int, ...]], list[Branch]] = {}
    for (beyond, own), group in sorted(found.items(), key=lambda item: len(item[0][1])):
        # Unsteered branches, say, ask later than where others are steered: a few tokens cost less than a prefix.
        fitting = [
            key
            for key in groups
            if key[0] == beyond and own[: len(key[1])] == key[1] and (len(own) - len(key[1])) * len(group) < len(own)
        ]
        alone = (beyond, own if len(group) > 1 else ())
        groups.setdefault(max(fitting, key=lambda key: len(key[1]), default=alone), []).extend(group)
    return [sorted(group, key=lambda branch: len(branch.tokens)) for group in groups.values()]


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
    model: Any, branches: Sequence[Branch], layers: Sequence[int], decoder: Decoder, prefix: int
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities of the targets, mean residual streams, distributions after ``compared``, and their means.

    ``decoder`` has read the ``prefix`` tokens with which all branches begin.
    """
    lengths = [len(branch.tokens) - prefix for branch in branches]
    tokens = pad_sequence([torch.tensor(branch.tokens[prefix:]) for branch in branches], batch_first=True)
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
    reads_states = can_unembed(model)  # else logits are the model's own
    with edited_rows(model, edits, prefix, prefix + max(lengths)), reading(model, read_layers, read):
        logits = decoder.fork(len(branches)).forward(tokens, torch.ones_like(tokens), 1 if reads_states else keep)
    if reads_states:
        logits = unembed(model, last[0][:, -keep:].flatten(0, 1)).unflatten(0, (len(branches), keep))
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


def target_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probability of ``ids`` ``[n]`` under ``logits`` ``[n, d_vocab]``, in float32 at least."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits.gather(1, ids[:, None])[:, 0] - logits.logsumexp(1)
