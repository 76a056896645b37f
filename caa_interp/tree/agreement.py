"""The check that trees agree with plain passes: on a model's first tree, and on every longer one."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from caa_interp.errors import warn
from caa_interp.models.access import float_type, model_id
from caa_interp.models.unwrapped import bare
from caa_interp.tree.branches import Branch, TreeResult
from caa_interp.tree.plain import run_plain

# Two paths differ by rounding: by a small multiple of what another order of the same arithmetic does to the model, and
# at least by this, in nats and relative to the size of the residual stream (models take their softmax in float32 at
# most). Noise of more than a few times that is no rounding.
_LEAST_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.05}
_TIMES_NOISE, _TIMES_LEAST = 5, 6


@dataclass
class _Trust:
    """What comparing a model's tree with plain passes has shown so far.

    ``longest`` is the number of tokens of the longest tree that was compared, without and with edits; ``noise`` is the
    largest that was found, see :func:`_noise`.
    """

    longest: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    noise: float = 0.0
    agrees: bool = True


_trust: weakref.WeakKeyDictionary[Any, _Trust] = weakref.WeakKeyDictionary()


def agreed_so_far(model: Any) -> bool:
    """Whether no tree of a model has disagreed with plain passes."""
    return _trust.setdefault(model, _Trust()).agrees


def agree(model: Any, trees: Sequence[Sequence[Branch]], results: Sequence[TreeResult], layers: Sequence[int]) -> bool:
    """Compare results with plain passes where a tree is longer than any that was compared before; remember it."""
    trust = _trust.setdefault(model, _Trust())
    for edited in (False, True):
        mine = [index for index, tree in enumerate(trees) if any(branch.applied for branch in tree) == edited]
        if not mine:
            continue
        longest = max(mine, key=lambda index: length(trees[index]))
        if length(trees[longest]) > trust.longest[edited]:
            trust.agrees &= _close(model, trust, trees[longest], results[longest], layers)
            trust.longest[edited] = length(trees[longest])
    return trust.agrees


def length(tree: Sequence[Branch]) -> int:
    """Number of tokens of a tree's longest branch."""
    return max(len(branch.tokens) for branch in tree)


def _close(model: Any, trust: _Trust, branches: Sequence[Branch], result: TreeResult, layers: Sequence[int]) -> bool:
    """Whether a few branches of a tree, the longest ones, agree with plain passes."""
    order = sorted(range(len(branches)), key=lambda at: -len(branches[at].tokens))
    by_join = sorted((at for at in order if branches[at].applied), key=lambda at: branches[at].join)
    some = [*[at for at in order if not branches[at].applied][:1], *by_join[:1], *by_join[1:][-1:]]
    probes = [branches[at] for at in some]
    plain = run_plain(model, probes, layers)
    difference = max(_difference(plain, at, result, index) for at, index in enumerate(some))
    least = _LEAST_TOLERANCE.get(float_type(model), max(_LEAST_TOLERANCE.values()))
    close = difference <= least
    if not close and difference <= _TIMES_LEAST * least:
        trust.noise = max(trust.noise, _noise(model, probes))
        close = difference <= _TIMES_NOISE * trust.noise
    if not close:
        warn(
            f"model {model_id(model)!r}: the token tree does not agree with plain forward passes (they differ by "
            f"{difference:.2g}); plain passes are used, which are slower but right."
        )
    return close


def _noise(model: Any, branches: Sequence[Branch]) -> float:
    """Root mean square of what another order of the arithmetic changes in a model's log-probabilities, in nats.

    The later half of each sequence's own tokens is read in one pass with the bridge's wrappers, which compute attention
    step by step, and after a cached first half without them, as a tree does. Nothing is a tree in either.
    """
    own = [
        replace(branch, targets=tuple(enumerate(branch.tokens[1:])), reads=(), compared=(), averaged=())
        for branch in branches
    ]
    late = [replace(branch, targets=branch.targets[len(branch.targets) // 2 :]) for branch in own]
    whole = run_plain(model, own, ())
    with bare(model):
        halves = run_plain(model, late, ())
    pairs = zip(whole.log_probs, halves.log_probs, strict=True)
    return float(torch.cat([one[len(one) - len(other) :] - other for one, other in pairs]).square().mean().sqrt())


def _difference(one: TreeResult, at: int, other: TreeResult, index: int) -> float:
    """Largest difference of two answers to one branch: in nats, or relative to the size of the residual stream."""
    found = [
        float((ours[at] - theirs[index]).abs().max())
        for ours, theirs in ((one.log_probs, other.log_probs), (one.divergences, other.divergences))
        if len(ours[at])
    ]
    # Weighted by probability: tokens that the model hardly ever writes have the largest rounding errors.
    ours, theirs = one.distributions[at], other.distributions[index]
    found += [float((ours[1] * (ours[0] - theirs[0]).abs()).sum())] if len(ours) else []
    here, there = one.residual[at], other.residual[index]
    if len(here):
        found.append(float(((here - there).norm(dim=-1) / here.norm(dim=-1).clamp(min=1e-9)).max()))
    return float(np.max(found)) if found else 0.0  # NaN if one of them is
