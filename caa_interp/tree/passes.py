"""The two forward passes of a tree: the unsteered rows, and the steered rows on top of them.

The first is the model's own forward under a tree mask. While it runs, the call of every block is recorded;
the second repeats those calls with other rows, masks and positions, so that whatever a model passes to its
blocks (rotary embeddings, position ids, ...) is passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import Cache, DynamicCache

from caa_interp.models.access import input_device, n_layers, reading
from caa_interp.tree.edits import Change, gather
from caa_interp.tree.plan import BaseRows, Lanes, Plan, Variant, deal
from caa_interp.tree.prefix import Prefix

# Lanes with fewer rows than this spend more on copies of the shared keys and values than they save.
_LANE_ROWS = 64


@dataclass
class Base:
    """What the pass over the unsteered rows keeps for the steered ones.

    The tree has place ``index`` in the batch of that pass, which padded every tree to ``n_padded`` rows and left out
    the first ``n_before``, the prefix of all trees. ``calls`` are each block's positional and keyword arguments,
    ``residual`` is ``{layer: [n_rows - n_before, d_model]}``, and ``keys_values`` are per block ``[1, n_heads, n_rows,
    d_head]``.
    """

    index: int
    n_padded: int
    n_before: int
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    residual: dict[int, torch.Tensor] = field(default_factory=dict)
    keys_values: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)


def run_base(model: Any, plans: Sequence[Plan], keep_layers: set[int], n_blocks: int, prefix: Prefix) -> list[Base]:
    """Run the unsteered rows of several trees through the first ``n_blocks`` blocks, as one padded batch.

    The residual stream is kept after the blocks ``keep_layers``; the rows of ``prefix`` are not run again.
    """
    device, dtype = input_device(model), next(model.original_model.parameters()).dtype
    n_before = len(prefix.tokens)
    sizes = [len(plan.base.tokens) - n_before for plan in plans]
    n_padded = max(sizes)
    bases = [Base(index, n_padded, n_before) for index in range(len(plans))]
    tokens, positions = np.zeros((2, len(plans), n_padded), dtype=np.int64)
    sees = np.zeros((len(plans), n_padded, n_before + n_padded), dtype=bool)
    sees[:, :, n_before:] = np.eye(n_padded, dtype=bool)
    for row, (plan, size) in enumerate(zip(plans, sizes, strict=True)):
        tokens[row, :size], positions[row, :size] = plan.base.tokens[n_before:], plan.base.positions[n_before:]
        sees[row, :size, : n_before + size] = plan.base.sees[n_before:]
    mask = _additive(torch.as_tensor(sees, device=device), dtype)
    options: dict[str, Any] = {"logits_to_keep": 1} if n_blocks == n_layers(model) else {"stop_at_layer": n_blocks}
    cache = DynamicCache()
    for layer, (keys, values) in enumerate(prefix.keys_values):
        cache.update(*(kept.expand(len(plans), -1, -1, -1) for kept in (keys, values)), layer)
    steering = any(plan.variants for plan in plans)
    if steering or n_before:
        options["past_key_values"] = cache
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def keep(layer: int, activation: torch.Tensor) -> None:
        for base, size in zip(bases, sizes, strict=True):
            base.residual[layer] = activation[base.index, :size]

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(reading(model, sorted(keep_layers), keep))
        if steering:
            stack.enter_context(_recorded_calls(model, calls))
        ids, places = (torch.as_tensor(values, device=device) for values in (tokens, positions))
        model(ids, attention_mask=mask, position_ids=places, **options)
    if steering:
        for base in bases:
            one = slice(base.index, base.index + 1)
            base.calls = calls
            base.keys_values = [(layer.keys[one], layer.values[one]) for layer in cache.layers]
    return bases


@contextmanager
def _recorded_calls(model: Any, calls: list[tuple[tuple[Any, ...], dict[str, Any]]]) -> Iterator[None]:
    """Record what every block is called with."""

    def record(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))

    handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in model.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_variants(
    model: Any, rows: BaseRows, base: Base, variants: Sequence[Variant], stop: int, layers: set[int]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Run the steered rows of variants (by rising ``join``) through ``stop`` blocks, on top of the unsteered ``base``.

    Yields each of ``layers`` that is not before the first join, with the residual stream ``[n_joined, d_model]`` of the
    rows that have joined: the first of the variants' rows, one variant after the other.
    """
    lanes = deal(variants, _LANE_ROWS)
    some = next(iter(base.residual.values()))
    lane, slot, twins = (
        torch.as_tensor(values, device=some.device) for values in (lanes.lane, lanes.slot, lanes.twins)
    )
    sees, columns = _variant_mask(rows, lanes)
    mask = _additive(torch.as_tensor(sees, device=some.device), some.dtype)
    changes = _changes(variants, rows.positions)
    run_at = twins - base.n_before  # where the unsteered pass has them
    residual = some.new_empty(len(lanes.twins), 0, some.shape[-1])
    for layer in range(int(lanes.joins[0]), stop):
        if present := residual.shape[1]:
            seen = mask[..., :present, : columns.shape[1] + present]
            cache = _prefix_cache(base, columns, layer)
            replace = _Replacement(base.index, base.n_padded, run_at[:, :present], seen, cache)
            args, kwargs = base.calls[layer]
            with torch.no_grad():
                output = model.blocks[layer](
                    residual.to(args[0].device),
                    *map(replace, args[1:]),
                    **{name: replace(value) for name, value in kwargs.items()},
                )
            residual = output[0] if isinstance(output, tuple) else output
        joined = int(np.searchsorted(lanes.joins, layer, side="right"))
        if joined > present:
            new = base.residual[layer][run_at[:, present:joined]]
            residual = torch.cat([residual.to(new.device), new], dim=1)
        for change in changes.get(layer, ()):
            at = change.rows.to(lane.device)
            flat = change.apply(residual.flatten(0, 1), lane[at] * residual.shape[1] + slot[at])
            residual = flat.view_as(residual)
        if layer in layers:
            n_rows = joined * len(lanes.twins)
            yield layer, residual[lane[:n_rows].to(residual.device), slot[:n_rows].to(residual.device)]


@dataclass(frozen=True)
class _Replacement:
    """Replace, in the arguments of a block, what belongs to the unsteered rows by what belongs to other rows.

    The unsteered pass had ``n_rows`` rows, and a tensor of that length belongs to them; the tree has place ``index`` in
    its batch. ``twins``, ``[n_lanes, n_slots]``, are the indices of the new rows' twins, which have their positions.
    """

    index: int
    n_rows: int
    twins: torch.Tensor
    mask: torch.Tensor
    cache: Cache

    def __call__(self, value: Any) -> Any:
        if isinstance(value, Cache):
            return self.cache
        if isinstance(value, tuple | list):
            return type(value)(map(self, value))
        if isinstance(value, torch.Tensor):
            if value.ndim == 4 and value.shape[-2] == self.n_rows:
                return self.mask.to(value)
            if value.ndim >= 2 and value.shape[1] == self.n_rows:
                return value[self.index if len(value) > 1 else 0][self.twins.to(value.device)]
            if value.ndim == 1 and len(value) == self.n_rows:
                return value[self.twins[0].to(value.device)]
        return value


def _prefix_cache(base: Base, columns: np.ndarray, layer: int) -> DynamicCache:
    """Keys and values of the unsteered rows ``columns``, ``[n_lanes, n_columns]``, in one block."""
    cache = DynamicCache()
    keys, values = base.keys_values[layer]
    at = torch.as_tensor(columns, device=keys.device)
    cache.update(keys[0][:, at].transpose(0, 1), values[0][:, at].transpose(0, 1), layer)
    return cache


def _changes(variants: Sequence[Variant], positions: np.ndarray) -> dict[int, list[Change]]:
    """Changes of the variants' rows, which are counted one variant after the other."""
    begins = np.cumsum([0, *(len(variant.twins) for variant in variants)])
    return gather(
        [(edit, begin + np.flatnonzero(edit.covers(positions[variant.twins]))) for edit in variant.edits]
        for begin, variant in zip(begins, variants, strict=False)
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


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Attention mask ``[batch, 1, query, key]``: 0 where allowed, the type's lowest value elsewhere."""
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)[:, None]
