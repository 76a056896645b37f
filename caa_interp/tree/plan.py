"""From branches to rows: which positions have to be computed, and what each may look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Edit


@dataclass(frozen=True)
class BaseRows:
    """The unsteered rows: a forest in which equal token paths are one path.

    ``tokens`` and ``positions`` (each in its own sequence) are ``[n_rows]``; ``sees`` is ``[n_rows, n_rows]``, true for
    a row's ancestors and itself; ``paths`` are the rows of each branch, ``[n_tokens]``.
    """

    tokens: np.ndarray
    positions: np.ndarray
    sees: np.ndarray
    paths: list[np.ndarray]


@dataclass(frozen=True)
class Variant:
    """The steered rows of all branches that have the same edits; ``start`` and ``join`` as in :class:`Branch`.

    The twin of a row is the unsteered row that equals it below the layer ``join``.
    """

    edits: tuple[Edit, ...]
    start: int
    join: int
    twins: list[int]


@dataclass(frozen=True)
class Plan:
    """Rows of a set of branches: unsteered, and steered by rising ``join``, variants of equal paths as neighbors.

    For each branch, ``variant_of`` is the index of its variant, or -1. ``twins`` and ``rows`` are those of the tokens
    of all branches, one branch after the other, each from its index in ``begins``: the unsteered row, and the steered
    one within the variant, or -1.
    """

    base: BaseRows
    variants: list[Variant]
    variant_of: np.ndarray
    begins: np.ndarray
    twins: np.ndarray
    rows: np.ndarray

    def places(self, positions: Sequence[Sequence[int]]) -> Places:
        """Find the rows of some ``positions`` of every branch."""
        branch = np.repeat(np.arange(len(positions)), [len(some) for some in positions])
        at = self.begins[branch] + np.fromiter(chain.from_iterable(positions), dtype=np.int64, count=len(branch))
        row = self.rows[at]
        return Places(branch, self.twins[at], np.where(row < 0, -1, self.variant_of[branch]), row)


@dataclass(frozen=True)
class Places:
    """Positions of branches as rows, ``[n_places]`` each: index of the branch, and unsteered row (``twin``).

    ``variant`` and ``row`` are the variant's index and the row within it; -1 if the position is not steered.
    """

    branch: np.ndarray
    twin: np.ndarray
    variant: np.ndarray
    row: np.ndarray


@dataclass(frozen=True)
class Lanes:
    """Steered rows as a batch: rows of different lanes cannot attend to each other, which saves that work.

    Every lane holds whole variants, and at every layer equally many rows join each lane. ``twins``, and the ``starts``
    and indices (``owners``) of the variants, are ``[n_lanes, n_slots]``; ``joins`` is ``[n_slots]``; ``lane`` and
    ``slot`` are ``[n_rows]``, variant by variant.
    """

    twins: np.ndarray
    starts: np.ndarray
    owners: np.ndarray
    joins: np.ndarray
    lane: np.ndarray
    slot: np.ndarray


def deal(variants: Sequence[Variant], least: int) -> Lanes:
    """Distribute variants, by rising ``join``, over as many evenly filled lanes of at least ``least`` rows as fit."""
    sizes = np.array([len(variant.twins) for variant in variants])
    joins = np.array([variant.join for variant in variants])
    _, first, group, counts = np.unique(joins, return_index=True, return_inverse=True, return_counts=True)
    most = max(1, int(sizes.sum()) // least) if len(set(sizes)) == 1 else 1
    n_lanes = max(n for n in range(1, most + 1) if not (counts % n).any())
    # Neighbors at one layer mostly share their twins, so a lane needs few unsteered rows.
    rank = np.arange(len(variants)) - first[group]
    lane = np.repeat(rank * n_lanes // counts[group], sizes)
    slot = np.empty(len(lane), dtype=np.int64)
    for index in range(n_lanes):
        slot[lane == index] = np.arange((lane == index).sum())
    shape = (n_lanes, len(lane) // n_lanes)

    def laid_out(values: np.ndarray) -> np.ndarray:
        placed = np.empty(shape, dtype=np.int64)
        placed[lane, slot] = values
        return placed

    twins = laid_out(np.concatenate([variant.twins for variant in variants]))
    starts = laid_out(np.repeat([variant.start for variant in variants], sizes))
    owners = laid_out(np.repeat(np.arange(len(variants)), sizes))
    return Lanes(twins, starts, owners, joins[owners[0]], lane, slot)


def make_plan(branches: Sequence[Branch]) -> Plan:
    """Merge what branches share."""
    base = _base_rows(branches)
    found: dict[tuple[Edit, ...], tuple[Branch, dict[int, int]]] = {}
    rows = []
    for branch, path in zip(branches, base.paths, strict=True):
        own = np.full(len(path), -1)
        if branch.applied:
            _, row_of = found.setdefault(branch.applied, (branch, {}))
            own[branch.start :] = [row_of.setdefault(twin, len(row_of)) for twin in path[branch.start :].tolist()]
        rows.append(own)
    variants = [Variant(edits, first.start, first.join, list(row_of)) for edits, (first, row_of) in found.items()]
    variants.sort(key=lambda variant: (variant.join, variant.start, variant.twins[0]))
    place = {variant.edits: index for index, variant in enumerate(variants)} | {(): -1}
    variant_of = np.array([place[branch.applied] for branch in branches])
    begins = np.cumsum([0, *map(len, base.paths)])[:-1]
    return Plan(base, variants, variant_of, begins, np.concatenate(base.paths), np.concatenate(rows))


def _base_rows(branches: Sequence[Branch]) -> BaseRows:
    children: dict[tuple[int, int], int] = {}
    tokens: list[int] = []
    parents: list[int] = []
    paths: dict[tuple[int, ...], np.ndarray] = {}
    for branch in branches:
        if branch.tokens in paths:
            continue
        parent, path = -1, []
        for token in branch.tokens:
            row = children.setdefault((parent, token), len(tokens))
            if row == len(tokens):
                tokens.append(token)
                parents.append(parent)
            path.append(row)
            parent = row
        paths[branch.tokens] = np.array(path)
    sees = np.eye(len(tokens), dtype=bool)
    positions = np.zeros(len(tokens), dtype=np.int64)
    for row, parent in enumerate(parents):
        if parent >= 0:
            sees[row] |= sees[parent]
            positions[row] = positions[parent] + 1
    return BaseRows(np.array(tokens), positions, sees, [paths[branch.tokens] for branch in branches])
