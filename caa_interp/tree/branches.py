"""What can be asked of a tree, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from caa_interp.tree.edits import Edit

Path = Literal["tree", "plain"]


@dataclass(frozen=True)
class Branch:
    """One token sequence, its edits, and what is asked of it.

    Attributes
    ----------
    tokens
        Token ids of the whole sequence.
    edits
        Edits that apply to this branch.
    targets
        Pairs (position, token id): the log-probability of the token after that position.
    reads
        Positions over which the residual stream is averaged at every layer that :func:`run_tree` is asked for.
    compared
        Positions after which the distribution of the next token is compared with that of the unedited sequence.
    averaged
        Positions over which the distribution of the next token is averaged.
    label
        What an error about this branch calls it, such as its item and condition.
    """

    tokens: tuple[int, ...]
    edits: tuple[Edit, ...] = ()
    targets: tuple[tuple[int, int], ...] = ()
    reads: tuple[int, ...] = ()
    compared: tuple[int, ...] = ()
    averaged: tuple[int, ...] = ()
    label: str = field(default="", compare=False)

    @cached_property
    def applied(self) -> tuple[Edit, ...]:
        """Edits that reach a position of this branch."""
        return tuple(edit for edit in self.edits if edit.first(len(self.tokens)) < len(self.tokens))

    @cached_property
    def start(self) -> int:
        """First position that differs from the same sequence without edits."""
        return min((edit.first(len(self.tokens)) for edit in self.edits), default=len(self.tokens))

    @cached_property
    def join(self) -> int:
        """Layer whose output is the first to differ from the same sequence without edits."""
        return min(edit.layer for edit in self.applied)


@dataclass(frozen=True)
class TreeResult:
    """Answers of one call of :func:`run_tree`, in the order of its branches, on the CPU.

    Attributes
    ----------
    log_probs
        One tensor ``[n_targets]`` a branch, in nats; float32, or float64 for a float64 model.
    residual
        ``[n_branches, n_layers, d_model]``, the mean over each branch's ``reads``; zeros where there are none.
    divergences
        One tensor ``[n_compared]`` a branch: KL(unedited || edited) of the next token, in nats; type as ``log_probs``.
    distributions
        One tensor ``[2, d_vocab]`` a branch, the means over its ``averaged`` of every token's log-probability (nats)
        and probability (0 to 1) as the next one; ``[0, d_vocab]`` where there are none. Type as ``log_probs``.
    path
        ``"tree"``, or ``"plain"`` where the model does not take a tree mask.
    """

    log_probs: list[torch.Tensor]
    residual: torch.Tensor
    divergences: list[torch.Tensor]
    distributions: list[torch.Tensor]
    path: Path

    def not_numbers(self) -> list[int]:
        """Indices of branches that have an answer that is NaN."""
        import torch

        every = (self.log_probs, self.divergences, self.distributions, [self.residual])
        if not any(bool(torch.cat(some).isnan().any()) for some in every):
            return []
        answers = zip(self.log_probs, self.divergences, self.distributions, self.residual, strict=True)
        return [index for index, some in enumerate(answers) if any(bool(answer.isnan().any()) for answer in some)]
