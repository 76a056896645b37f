"""From rows of the last residual stream to what is asked of the next token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from caa_interp.models.readout import unembed

# Logits are computed in blocks that keep the matrix product long, and normalized in parts that fit a processor's
# cache (log_softmax is many times faster there than logsumexp).
_LOGITS_BYTES, _SOFTMAX_BYTES = 128 * 2**20, 12 * 2**20


def log_probs_of(model: Any, residual: torch.Tensor, rows: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
    """Log-probability of each of ``tokens`` after its row of the last residual stream ``[n_rows, d_model]``.

    ``rows``, which may repeat, ``tokens`` and the result, on the model's last device, are ``[n_targets]``.
    """
    used, index = np.unique(rows, return_inverse=True)
    order = np.argsort(index, kind="stable")
    found = []
    for first, log_probs in _all_log_probs(model, residual, used):
        mine = order[slice(*np.searchsorted(index[order], (first, first + len(log_probs))))]
        at, ids = (torch.as_tensor(x, device=log_probs.device) for x in (index[mine] - first, tokens[mine]))
        found.append(log_probs[at, ids])
    return _put_back(found, order)


def divergences_of(
    model: Any, steered: torch.Tensor, rows: np.ndarray, unsteered: torch.Tensor, twins: np.ndarray
) -> torch.Tensor:
    """Kullback-Leibler divergence of next tokens, KL(unsteered || steered), in nats: ``[n_compared]``.

    On the model's last device. Compares ``rows`` with ``twins``, ``[n_compared]``, of two last residual streams,
    ``[n_rows, d_model]`` each.
    """
    dtype = torch.promote_types(steered.dtype, torch.float32)
    found = []
    size = max(1, _LOGITS_BYTES // (4 * int(model.cfg.d_vocab)))
    order = np.argsort(twins, kind="stable")  # rows with the same twin are neighbors
    for begin in range(0, len(order), size):
        mine = order[begin : begin + size]
        used, index = np.unique(twins[mine], return_inverse=True)
        with torch.no_grad():
            here, there = (
                unembed(model, residual[torch.as_tensor(at, device=residual.device)]).to(dtype).log_softmax(1)
                for residual, at in ((unsteered, used), (steered, rows[mine]))
            )
        here = here[torch.as_tensor(index, device=here.device)]
        found.append((here.exp() * (here - there)).sum(1))
    return _put_back(found, order)


def distributions_of(
    model: Any, residual: torch.Tensor, rows: np.ndarray, owners: np.ndarray, shares: np.ndarray
) -> torch.Tensor:
    """Sum of the next token's log-probabilities and probabilities over rows of the last residual stream, by owner.

    ``rows``, ``owners`` (numbers, in rising order) and ``shares`` (how much of each row) are ``[n]``; the result is
    ``[n_owners, 2, d_vocab]``.
    """
    used, index = np.unique(owners, return_inverse=True)
    shape = (len(used), 2, int(model.cfg.d_vocab))
    totals = torch.zeros(shape, dtype=torch.promote_types(residual.dtype, torch.float32), device=residual.device)
    for first, log_probs in _all_log_probs(model, residual, rows):
        mine = index[first : first + len(log_probs)]
        at = slice(mine[0], mine[-1] + 1)
        weights = np.zeros((at.stop - at.start, len(mine)))
        weights[mine - at.start, np.arange(len(mine))] = shares[first : first + len(mine)]
        by_owner = torch.as_tensor(weights).to(log_probs)
        totals[at, 0] += (by_owner @ log_probs).to(totals)
        totals[at, 1] += (by_owner @ log_probs.exp_()).to(totals)
    return totals


def _all_log_probs(model: Any, residual: torch.Tensor, rows: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
    """Log-probabilities of all next tokens, ``[n, d_vocab]``, after some ``rows`` at a time, from a first one on."""
    size, part = (max(1, n_bytes // (4 * int(model.cfg.d_vocab))) for n_bytes in (_LOGITS_BYTES, _SOFTMAX_BYTES))
    for begin in range(0, len(rows), size):
        with torch.no_grad():
            logits = unembed(model, residual[torch.as_tensor(rows[begin : begin + size], device=residual.device)])
        for first, some in zip(range(begin, len(rows), part), logits.split(part), strict=False):
            yield first, some.to(torch.promote_types(residual.dtype, torch.float32)).log_softmax(1)


def _put_back(found: list[torch.Tensor], order: np.ndarray) -> torch.Tensor:
    """Join values that were computed in ``order``, and return them in the order in which they were asked for."""
    values = torch.cat(found)
    return values[torch.as_tensor(np.argsort(order), device=values.device)]
