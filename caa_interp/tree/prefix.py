"""The tokens before several trees (the chat form, a system prompt, examples), read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from caa_interp.models.access import input_device
from caa_interp.models.blocks import KeysValues, Rows, run_trunk
from caa_interp.prompts.rendering import common_prefix
from caa_interp.tree.branches import Branch

# A pass over a shorter prefix costs more than it saves.
_LEAST_TOKENS = 16


@dataclass(frozen=True)
class Prefix:
    """Leading tokens and, for each block, their keys and values, ``[1, n_heads, n_tokens, d_head]``."""

    tokens: tuple[int, ...] = ()
    keys_values: tuple[KeysValues, ...] = ()

    @classmethod
    def read(cls, model: Any, tokens: tuple[int, ...]) -> Prefix:
        """Run a model over ``tokens``."""
        if not tokens:
            return cls()
        ids = torch.tensor([tokens], device=input_device(model))
        causal = torch.ones(1, len(tokens), len(tokens), dtype=torch.bool, device=ids.device).tril()
        rows = Rows(torch.arange(len(tokens))[None].to(ids), causal)
        return cls(tokens, tuple(run_trunk(model, ids, rows).keys_values))

    def cut(self, length: int) -> Prefix:
        """Return the first ``length`` tokens of this prefix."""
        if length == 0:
            return Prefix()
        return Prefix(
            self.tokens[:length],
            tuple((keys[:, :, :length], values[:, :, :length]) for keys, values in self.keys_values),
        )

    def fitted_to(self, model: Any, trees: Sequence[Sequence[Branch]]) -> Prefix:
        """Return the part of this prefix that all ``trees`` begin with, or a new prefix if they share far more."""
        branches = [branch for tree in trees for branch in tree]
        shared = branches[0].tokens[: shared_length(branches)]
        kept = common_prefix(self.tokens, shared)
        # A single tree shares its whole question with itself: that is its trunk, not a prefix.
        if len(trees) > 1 and len(shared) >= max(_LEAST_TOKENS, 2 * kept):
            return Prefix.read(model, shared)
        return self.cut(kept)


def shared_length(branches: Sequence[Branch]) -> int:
    """Number of leading tokens that all branches share, and that none edits, reads or asks about."""
    # The first and the last in lexical order differ no later than any other two.
    first, last = min(branch.tokens for branch in branches), max(branch.tokens for branch in branches)
    untouched = min(
        min(
            *(branch.start, len(branch.tokens) - 1),
            *(*branch.reads, *branch.compared, *branch.averaged),
            *(at for at, _ in branch.targets),
        )
        for branch in branches
    )
    return min(common_prefix(first, last), untouched)
