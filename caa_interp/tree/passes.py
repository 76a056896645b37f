"""The two forward passes of trees: the unsteered rows, and the steered rows on top of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    residual = some.new_empty(len(lanes.place), 0, some.shape[-1])
    for layer in range(int(joins[0]), stop):
        if present := residual.shape[1]:
            before, twins = lanes.before(trunk, layer), lanes.twins[:, :present]
            residual = run_block(model, layer, residual, trunk, lanes.rows, before, lanes.place, twins)
        joined = int(np.searchsorted(joins, layer, side="right"))
        if joined > present:
            kept = trunk.residual[layer]
            new = kept[lanes.place[:, None].to(kept.device), lanes.twins[:, present:joined].to(kept.device)]
            residual = torch.cat([residual.to(new.device), new], dim=1)
        for change in changes.get(layer, ()):
            at = lanes.lane[change.rows] * residual.shape[1] + lanes.slot[change.rows]
            residual = change.apply(residual.flatten(0, 1), at).view_as(residual)
        if layer in layers:
            yield layer, [residual[lane, slot] for lane, slot in lanes.of_parts(joined)]


class _Lanes:
    """The lanes of several parts, one after the other; all tensors are on the CPU but those of ``rows``."""

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
        self.columns = torch.as_tensor(np.concatenate(columns))
        self.twins = torch.as_tensor(np.concatenate([part.lanes.twins for part in parts])) - n_before
        self.place = torch.as_tensor(
            np.repeat([part.place for part in parts], [len(part.lanes.twins) for part in parts])
        )
        self._sizes = [len(part.lanes.twins) for part in parts]
        offsets = np.cumsum([0, *self._sizes])
        self._lanes = [part.lanes.lane + offset for part, offset in zip(parts, offsets, strict=False)]
        self._slots = [part.lanes.slot for part in parts]
        self.lane, self.slot = (torch.as_tensor(np.concatenate(found)) for found in (self._lanes, self._slots))

    def before(self, trunk: Trunk, layer: int) -> KeysValues:
        """Keys and values of the unsteered rows that the lanes attend to, ``[n_lanes, n_heads, n_columns, d_head]``."""
        keys, values = trunk.keys_values[layer]
        place, columns = self.place[:, None].to(keys.device), self.columns.to(keys.device)
        return keys[place, :, columns].transpose(1, 2), values[place, :, columns].transpose(1, 2)

    def of_parts(self, joined: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Lane and slot of the rows of each part that have joined when every lane has ``joined`` of them."""
        for lane, slot, n_lanes in zip(self._lanes, self._slots, self._sizes, strict=True):
            n_rows = joined * n_lanes
            yield torch.as_tensor(lane[:n_rows]), torch.as_tensor(slot[:n_rows])


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
