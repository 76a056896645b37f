"""The two forward passes of trees: the unsteered rows, and the steered rows on top of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from caa_interp.models.access import input_device
from caa_interp.models.blocks import KeysValues, Rows, Trunk, run_block, run_trunk
from caa_interp.tree.edits import Change, gather
from caa_interp.tree.plan import BaseRows, Lanes, Plan, Variant
from caa_interp.tree.prefix import Prefix


@dataclass(frozen=True)
class Part:
    """Variants of one tree, by rising ``join``, as lanes; the tree has index ``place`` in the trunk's batch."""

    place: int
    base: BaseRows
    variants: Sequence[Variant]
    lanes: Lanes

    @property
    def n_rows(self) -> int:
        """Number of steered rows."""
        return len(self.lanes.lane)


def run_base(model: Any, plans: Sequence[Plan], keep_layers: set[int], stop: int, prefix: Prefix) -> Trunk:
    """Run the unsteered rows of several trees through the first ``stop`` blocks, as one padded batch.

    The residual stream is kept after the blocks ``keep_layers``; the rows of ``prefix`` are not run again.
    """
    n_before = len(prefix.tokens)
    sizes = [len(plan.base.tokens) - n_before for plan in plans]
    n_padded = max(sizes)
    tokens = np.zeros((len(plans), n_padded), dtype=np.int64)
    positions = np.zeros((len(plans), n_before + n_padded), dtype=np.int64)
    sees = np.zeros((len(plans), n_padded, n_before + n_padded), dtype=bool)
    sees[:, :, n_before:] = np.eye(n_padded, dtype=bool)
    for row, (plan, size) in enumerate(zip(plans, sizes, strict=True)):
        tokens[row, :size] = plan.base.tokens[n_before:]
        positions[row, : n_before + size] = plan.base.positions
        sees[row, :size, : n_before + size] = plan.base.sees[n_before:]
    device = input_device(model)
    rows = Rows(torch.as_tensor(positions, device=device), torch.as_tensor(sees, device=device))
    continued = any(plan.variants for plan in plans)
    ids = torch.as_tensor(tokens, device=device)
    return run_trunk(model, ids, rows, prefix.keys_values, sorted(keep_layers), stop, continued)


def run_variants(
    model: Any, trunk: Trunk, parts: Sequence[Part], n_before: int, stop: int, layers: set[int]
) -> Iterator[tuple[int, list[torch.Tensor]]]:
    """Run the steered rows of ``parts``, whose lanes have equal ``joins``, through ``stop`` blocks, side by side.

    The first ``n_before`` rows of every tree are not in the trunk: they are the prefix. Yields each of ``layers`` that
    is not before the first join, with the residual stream of each part, ``[n_joined, d_model]``: the first of its
    variants' rows, one variant after the other.
    """
    joins = parts[0].lanes.joins
    lanes = _Lanes(parts, n_before, trunk)
    changes = _changes(parts)
    some = next(iter(trunk.residual.values()))
    residual = some.new_empty(len(lanes.index.place), 0, some.shape[-1])
    for layer in range(int(joins[0]), stop):
        if present := residual.shape[1]:
            before, index = lanes.before(trunk, layer), lanes.on(residual.device)
            twins = index.twins[:, :present]
            residual = run_block(model, layer, residual, trunk, lanes.rows, before, index.place, twins)
        joined = int(np.searchsorted(joins, layer, side="right"))
        if joined > present:
            kept = trunk.residual[layer]
            index = lanes.on(kept.device)
            new = kept[index.place[:, None], index.twins[:, present:joined]]
            residual = torch.cat([residual.to(new.device), new], dim=1)
        for change in changes.get(layer, ()):
            at = lanes.index.lane[change.rows] * residual.shape[1] + lanes.index.slot[change.rows]
            residual = change.apply(residual.flatten(0, 1), at).view_as(residual)
        if layer in layers:
            yield layer, [residual[lane, slot] for lane, slot in lanes.of_parts(joined, residual.device)]


class _Index(NamedTuple):
    """Where the rows of lanes are.

    For each lane: the index of its trunk (``place``), the unsteered rows that it attends to (``columns``) and its own
    ``twins``. For each row, variant by variant: its ``lane`` and ``slot``.
    """

    place: torch.Tensor
    columns: torch.Tensor
    twins: torch.Tensor
    lane: torch.Tensor
    slot: torch.Tensor


class _Lanes:
    """The lanes of several parts, one after the other; ``index`` is on the CPU."""

    def __init__(self, parts: Sequence[Part], n_before: int, trunk: Trunk) -> None:
        device = next(iter(trunk.residual.values())).device
        masks = [_variant_mask(part.base, part.lanes) for part in parts]
        n_columns = max(columns.shape[1] for _, columns in masks)
        sees, positions, columns = [], [], []
        for part, (seen, own) in zip(parts, masks, strict=True):
            missing = n_columns - own.shape[1]
            # Shorter lanes are filled up with a row that the mask hides.
            filled = np.pad(own, ((0, 0), (0, missing)))
            seen = np.insert(seen, [own.shape[1]] * missing, False, axis=2)
            columns.append(filled)
            sees.append(seen)
            positions.append(part.base.positions[np.concatenate([filled, part.lanes.twins], axis=1)])
        self.rows = Rows(*(torch.as_tensor(np.concatenate(values), device=device) for values in (positions, sees)))
        self._parts = parts
        sizes = [len(part.lanes.twins) for part in parts]
        offsets = np.cumsum([0, *sizes])
        found = (
            np.repeat([part.place for part in parts], sizes),
            np.concatenate(columns),
            np.concatenate([part.lanes.twins for part in parts]) - n_before,
            np.concatenate([part.lanes.lane + offset for part, offset in zip(parts, offsets, strict=False)]),
            np.concatenate([part.lanes.slot for part in parts]),
        )
        self.index = _Index(*map(torch.as_tensor, found))
        self._moved: dict[torch.device, _Index] = {}

    def on(self, device: torch.device) -> _Index:
        """Return the indices on a device, to which they are moved once, not in every block."""
        if device not in self._moved:
            self._moved[device] = _Index(*(values.to(device) for values in self.index))
        return self._moved[device]

    def before(self, trunk: Trunk, layer: int) -> KeysValues:
        """Keys and values of the unsteered rows that the lanes attend to, ``[n_lanes, n_heads, n_columns, d_head]``."""
        keys, values = trunk.keys_values[layer]
        index = self.on(keys.device)
        place, columns = index.place[:, None], index.columns
        return keys[place, :, columns].transpose(1, 2), values[place, :, columns].transpose(1, 2)

    def of_parts(self, joined: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Lane and slot of the rows of each part that have joined when every lane has ``joined`` of them."""
        index, begin = self.on(device), 0
        for part in self._parts:
            mine = slice(begin, begin + joined * len(part.lanes.twins))
            yield index.lane[mine], index.slot[mine]
            begin += part.n_rows


def _changes(parts: Sequence[Part]) -> dict[int, list[Change]]:
    """Changes of the variants' rows, which are counted one variant after the other, part by part."""
    variants = [(part, variant) for part in parts for variant in part.variants]
    begins = np.cumsum([0, *(len(variant.twins) for _, variant in variants)])
    return gather(
        [(edit, begin + np.flatnonzero(edit.covers(part.base.positions[variant.twins]))) for edit in variant.edits]
        for begin, (part, variant) in zip(begins, variants, strict=False)
    )


def _variant_mask(rows: BaseRows, lanes: Lanes) -> tuple[np.ndarray, np.ndarray]:
    """Which row attends to which: unsteered ancestors before the steering, then steered ancestors of the same variant.

    Returns ``[n_lanes, n_slots, n_columns + n_slots]``, and each lane's unsteered rows, ``[n_lanes, n_columns]``.
    """
    twins = lanes.twins
    unsteered = rows.sees[twins] & (rows.positions < lanes.starts[..., None])
    steered = rows.sees[twins[:, :, None], twins[:, None]] & (lanes.owners[:, :, None] == lanes.owners[:, None])
    seen = unsteered.any(1)
    # The rows that a lane attends to come first; shorter lanes are filled up with rows that the mask hides.
    columns = np.argsort(~seen, axis=1, kind="stable")[:, : seen.sum(1).max()]
    return np.concatenate([np.take_along_axis(unsteered, columns[:, None], axis=2), steered], axis=2), columns
