"""The one place where a residual stream is changed.

An :class:`Edit` is one change of one sequence: after which block, at which positions, by which operator. Whatever
steers becomes edits first (:class:`caa_interp.Intervention`) and is applied here:

1. the edits of many rows are gathered into one :class:`Change` per layer, turn and operator;
2. a token tree applies the changes to its steered rows, between two blocks (:mod:`caa_interp.tree.passes`);
3. everything else runs the model as it is, with the hooks of :func:`editing`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import hooking

# (residual, vector, multiplier) -> residual; a multiplier is a number, or one per row, [..., 1].
Operator = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | float], torch.Tensor]
# Positions of a sequence as half-open ranges in rising order; a stop may be infinite.
Spans = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Edit:
    """Change of the residual stream of one sequence after one block.

    Edits are compared by identity: branches that hold the same ``Edit`` objects share their computation.

    Attributes
    ----------
    layer
        0-based index of the block whose output is changed.
    vector
        Steering vector, ``[d_model]``.
    multiplier
        How much of it; 0 changes nothing, whatever the operator.
    operator
        What is done with them, see :mod:`caa_interp.steering.operators`.
    spans
        Changed positions of the sequence, as half-open ranges in rising order.
    """

    layer: int
    vector: torch.Tensor
    multiplier: float
    operator: Operator
    spans: Spans

    def covers(self, positions: np.ndarray) -> np.ndarray:
        """Tell which of some ``positions`` are changed; same shape, boolean."""
        inside = [(positions >= start) & (positions < stop) for start, stop in self.spans if self.multiplier]
        return np.logical_or.reduce(inside) if inside else np.zeros(positions.shape, dtype=bool)

    def first(self, n_tokens: int) -> int:
        """First changed position of a sequence of that many tokens; ``n_tokens`` if none is."""
        return next((start for start, _ in self.spans if self.multiplier and start < n_tokens), n_tokens)


@dataclass(frozen=True)
class Change:
    """What one operator does to some ``rows``, ``[n_edited]``, after one block.

    ``vectors`` are ``[n_edits, d_model]``, ``multipliers`` ``[n_edits, 1]``; ``edits``, ``[n_edited]``, says which of
    them are each row's. They are sent once to a residual stream's device, and repeated there: there is less to send.
    """

    operator: Operator
    rows: torch.Tensor
    edits: torch.Tensor
    vectors: torch.Tensor
    multipliers: torch.Tensor
    _there: dict[Any, tuple[torch.Tensor, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def apply(self, residual: torch.Tensor, at: torch.Tensor | None = None) -> torch.Tensor:
        """Return a changed copy of a residual stream ``[n_rows, d_model]``; ``at``: where its rows are by now.

        The operator works in float32 at least.
        """
        work = torch.promote_types(residual.dtype, torch.float32)
        if at is None:
            if (residual.device, work) not in self._there:
                self._there[residual.device, work] = self._sent(self.rows, residual.device, work)
            rows, vectors, multipliers = self._there[residual.device, work]
        else:
            rows, vectors, multipliers = self._sent(at, residual.device, work)
        edited = _applied(self.operator, residual[rows].to(work), vectors, multipliers).to(residual)
        return residual.index_copy(0, rows, edited)

    def _sent(self, at: torch.Tensor, device: torch.device, work: torch.dtype) -> tuple[torch.Tensor, ...]:
        rows, which = torch.stack([at, self.edits]).to(device)
        vectors, multipliers = (values.to(work).to(device)[which] for values in (self.vectors, self.multipliers))
        return rows, vectors, multipliers


def gather(owners: Iterable[Iterable[tuple[Edit, np.ndarray]]]) -> dict[int, list[Change]]:
    """Put together what is done after each layer, in turn: the first edit of every sequence, then the second, ...

    ``owners`` holds, for each sequence, its edits in order, each with the indices of the rows that it changes.
    """
    found: dict[tuple[int, int, int], list[tuple[Edit, np.ndarray]]] = {}
    for edits in owners:
        turns: Counter[int] = Counter()
        for edit, rows in edits:
            if len(rows):
                found.setdefault((edit.layer, turns[edit.layer], id(edit.operator)), []).append((edit, rows))
            turns[edit.layer] += 1
    changes: dict[int, list[Change]] = {}
    for (layer, _, _), edited in sorted(found.items(), key=lambda item: item[0][:2]):
        at = torch.as_tensor(np.concatenate([rows for _, rows in edited]))
        which = torch.as_tensor(np.repeat(np.arange(len(edited)), [len(rows) for _, rows in edited]))
        vectors = torch.stack([edit.vector for edit, _ in edited])
        multipliers = torch.tensor([[edit.multiplier] for edit, _ in edited], dtype=torch.float64)
        changes.setdefault(layer, []).append(Change(edited[0][0].operator, at, which, vectors, multipliers))
    return changes


class EditedBatch:
    """A batch that is edited while a model runs over it, some positions at a time; ``edits`` are in order, per row."""

    def __init__(self, edits: Sequence[Sequence[Edit]]) -> None:
        self.edits = [tuple(some) for some in edits]
        self.layers = sorted({edit.layer for some in self.edits for edit in some})
        self._changes: dict[int, list[Change]] = {}
        self._acting: dict[int, set[int]] = {}
        self._placed: list[list[bytes]] | None = None

    def place(self, positions: np.ndarray) -> None:
        """Say where the next forward pass stands: the position ``[n_rows, n_new]`` of each column in its sequence.

        Where the same columns are edited as in the pass before, as in most passes of generation, nothing is done.
        """
        width = positions.shape[1]
        covered = [[edit.covers(at) for edit in edits] for edits, at in zip(self.edits, positions, strict=True)]
        placed = [[inside.tobytes() for inside in some] for some in covered]
        if placed != self._placed:
            self._placed, self._acting = placed, {}
            self._changes = gather(
                [(edit, row * width + np.flatnonzero(inside)) for edit, inside in zip(edits, some, strict=True)]
                for row, (edits, some) in enumerate(zip(self.edits, covered, strict=True))
            )
            for edits, some in zip(self.edits, covered, strict=True):
                for number, (edit, inside) in enumerate(zip(edits, some, strict=True)):
                    if inside.any():
                        self._acting.setdefault(edit.layer, set()).add(number)

    def apply(self, layer: int, activation: torch.Tensor) -> torch.Tensor:
        """Edit the residual stream ``[n_rows, n_new, d_model]`` after one block."""
        residual = activation.flatten(0, 1)
        for change in self._changes.get(layer, ()):
            residual = change.apply(residual)
        return residual.view_as(activation)

    def acting(self, layer: int) -> set[int]:
        """Which edits, by their number in the row, change anything after that block in the present forward pass."""
        return self._acting.get(layer, set())


@contextmanager
def editing(model: Any, layers: Iterable[int], edited: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Replace the residual stream after each of ``layers`` by ``edited(layer, residual)`` while the context is open.

    No other hooks of this package edit the stream. They are removed at the end, also when the body raises.
    """
    with hooking(model, layers, edited):
        yield


@contextmanager
def edited_rows(model: Any, rows: Sequence[Sequence[Edit]], begin: int, end: int) -> Iterator[None]:
    """Edit sequences, each with its own edits, of which a forward pass holds the positions from ``begin`` to ``end``.

    The rows begin together: what pads the shorter ones is on the right. ``end`` is exclusive.
    """
    batch = EditedBatch(rows)
    batch.place(np.tile(np.arange(begin, end), (len(rows), 1)))
    with editing(model, batch.layers, batch.apply):
        yield


def _applied(operator: Operator, residual: torch.Tensor, vectors: torch.Tensor, multipliers: torch.Tensor) -> Any:
    """Apply an operator, and check that it returns the shape that it got."""
    edited = operator(residual, vectors, multipliers)
    shape = getattr(edited, "shape", None)
    if shape != residual.shape:
        raise InputError(
            f"operator: {operator!r} returned shape {shape}; it must return what it got, {residual.shape}."
        )
    return edited
