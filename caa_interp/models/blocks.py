"""Running a model over rows that are no plain sequence: what a token tree asks of either of TransformerLens's classes.

A *trunk* is one pass over the unsteered rows of several trees; it keeps, for every block, keys and values and whatever
else the block was called with. :func:`run_block` then runs one block over other rows on top of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from caa_interp.models.access import float_type, is_bridge, n_layers, runner
from caa_interp.models.attention import Window, attention_windows, layer_kinds

KeysValues = tuple[torch.Tensor, torch.Tensor]


class Rows:
    """Rows of a batch as attention sees them.

    Parameters
    ----------
    positions
        Position of every key in its own sequence, ``[batch, n_keys]``; the rows themselves are the last keys.
    sees
        Which keys a row attends to where there is no window, boolean ``[batch, n_rows, n_keys]``.
    """

    def __init__(self, positions: torch.Tensor, sees: torch.Tensor) -> None:
        self.positions, self.sees = positions, sees
        self._masks: dict[tuple[Window | None, torch.device], torch.Tensor] = {}

    def mask(self, window: Window | None, n_rows: int, device: torch.device) -> torch.Tensor:
        """Which keys the first ``n_rows`` rows attend to in a layer with that window: ``[batch, n_rows, n_keys]``."""
        if (window, device) not in self._masks:
            sees = self.sees
            if window is not None:
                queries = self.positions[:, -sees.shape[1] :]
                sees = sees & window.reaches(queries[:, :, None], self.positions[:, None])
            self._masks[window, device] = sees.to(device)
        return self._masks[window, device][:, :n_rows, : self.n_keys(n_rows)]

    def n_keys(self, n_rows: int) -> int:
        """Number of keys when the first ``n_rows`` rows are there."""
        return self.sees.shape[2] - self.sees.shape[1] + n_rows


class _Call(NamedTuple):
    block: nn.Module
    device: torch.device
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass
class Trunk:
    """What the pass over the unsteered rows keeps.

    ``residual`` is ``{layer: [batch, n_rows, d_model]}``, and ``keys_values`` are per block ``[batch, n_heads,
    n_before + n_rows, d_head]``: those of the rows and of what was there before. ``calls`` are a bridge's blocks, each
    with its device and its arguments after the stream.
    """

    n_rows: int
    windows: list[Window | None]
    residual: dict[int, torch.Tensor] = field(default_factory=dict)
    keys_values: list[KeysValues] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)


@torch.no_grad()
def run_trunk(
    model: Any,
    tokens: torch.Tensor,
    rows: Rows,
    before: Sequence[KeysValues] = (),
    keep_layers: Sequence[int] = (),
    stop: int | None = None,
    continued: bool = True,
) -> Trunk:
    """Run ``tokens``, ``[batch, n_rows]``, through the first ``stop`` blocks (default: all).

    ``before`` are keys and values of each block that come before all rows, ``[1, n_heads, n_before, d_head]``. The
    residual stream is kept after the blocks ``keep_layers``. If nothing is to be ``continued`` from the trunk, keys and
    values are not kept.
    """
    trunk = Trunk(tokens.shape[1], attention_windows(model))
    before = [(keys.expand(len(tokens), -1, -1, -1), values.expand(len(tokens), -1, -1, -1)) for keys, values in before]
    positions = rows.positions[:, -trunk.n_rows :]
    stop = n_layers(model) if stop is None else stop
    if is_bridge(model):
        cache = _cache_of(before)
        masks = {
            kind: _additive(rows.mask(window, trunk.n_rows, tokens.device), float_type(model))
            for kind, window in dict(zip(layer_kinds(model), trunk.windows, strict=True)).items()
        }
        # Models whose layers are of several kinds take one mask for each.
        mask = masks if len(masks) > 1 else masks.popitem()[1]
        options: dict[str, Any] = {"past_key_values": cache} if continued or before else {}
        blocks = list(model.blocks)[:stop]  # without wrappers, if these are taken away
        with _watched(trunk, blocks, keep_layers), suppress(_StopError):
            runner(model)(tokens, attention_mask=mask, position_ids=positions, **options)
        if continued:
            trunk.keys_values = [(layer.keys, layer.values) for layer in cache.layers]
        return trunk
    residual = model.hook_embed(model.embed(tokens))
    if model.cfg.positional_embedding_type == "standard":
        residual = residual + model.hook_pos_embed(model.pos_embed.W_pos[positions])
    for layer in range(stop):
        past = before[layer] if before else None
        residual, keys_values = _hooked_block(model, layer, residual, rows, past, trunk.windows[layer])
        if layer in keep_layers:
            trunk.residual[layer] = residual
        if continued:
            trunk.keys_values.append(keys_values)
    return trunk


@torch.no_grad()
def run_block(
    model: Any,
    layer: int,
    residual: torch.Tensor,
    trunk: Trunk,
    rows: Rows,
    before: KeysValues,
    place: torch.Tensor,
    twins: torch.Tensor,
) -> torch.Tensor:
    """Run one block over ``residual``, ``[n_lanes, n_rows, d_model]``.

    They are the first of ``rows``; ``before`` are the keys and values before all of these, ``[n_lanes, n_heads,
    n_before, d_head]``. The trunk has, at index ``place`` ``[n_lanes]`` of its batch, rows ``twins``
    ``[n_lanes, n_rows]`` with the same positions.
    """
    if not is_bridge(model):
        return _hooked_block(model, layer, residual, rows, before, trunk.windows[layer])[0]
    block, device, args, kwargs = trunk.calls[layer]
    residual = residual.to(device)
    mask = _additive(rows.mask(trunk.windows[layer], residual.shape[1], residual.device), residual.dtype)
    cache = _cache_of([before])
    cache.layers *= layer + 1  # the block asks for the one of its own index
    own = (trunk.n_rows, place, twins, mask, cache)
    args = tuple(_replaced(value, *own) for value in args)
    kwargs = {name: _replaced(value, *own) for name, value in kwargs.items()}
    return _stream(block(residual, *args, **kwargs))


def _cache_of(keys_values: Sequence[KeysValues]) -> DynamicCache:
    """Hugging Face's cache of the keys and values of each layer, which are not copied."""
    cache = DynamicCache()
    for keys, values in keys_values:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _stream(output: Any) -> torch.Tensor:
    """Residual stream from what a block returns."""
    return output[0] if isinstance(output, tuple) else output


class _StopError(Exception):
    """The last block that is wanted has run."""


@contextmanager
def _watched(trunk: Trunk, blocks: Sequence[Any], keep_layers: Sequence[int]) -> Iterator[None]:
    """Record what each block is called with and what it returns; end the pass after the last one."""
    thread = threading.get_ident()  # a user may run the model in another one meanwhile

    def record_call(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # The stream itself is not held: that of every block at once may be gigabytes.
        if threading.get_ident() == thread:
            trunk.calls.append(_Call(block, args[0].device, args[1:], kwargs))

    def record_output(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if threading.get_ident() != thread:
            return
        layer = len(trunk.calls) - 1
        if layer in keep_layers:
            trunk.residual.update({layer: _stream(output)})
        if layer == len(blocks) - 1:
            raise _StopError

    handles = [block.register_forward_pre_hook(record_call, with_kwargs=True) for block in blocks]
    handles += [block.register_forward_hook(record_output) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replaced(
    value: Any, n_rows: int, place: torch.Tensor, twins: torch.Tensor, mask: torch.Tensor, cache: Cache
) -> Any:
    """Replace, in an argument of a block, what belongs to the trunk's rows by what belongs to other rows.

    The trunk has ``n_rows`` rows, and a tensor of that length belongs to them. ``place`` and ``twins`` are as in
    :func:`run_block`.
    """
    if isinstance(value, Cache):
        return cache
    if isinstance(value, tuple | list):
        return type(value)(_replaced(one, n_rows, place, twins, mask, cache) for one in value)
    if isinstance(value, torch.Tensor):
        if value.ndim == 4 and value.shape[-2] == n_rows:
            return mask.to(value)
        twins = twins.to(value.device)
        if value.ndim >= 2 and value.shape[1] == n_rows:
            place = place if len(value) > 1 else torch.zeros_like(place)
            return value[place.to(value.device)[:, None], twins]
        if value.ndim == 1 and len(value) == n_rows:
            return value[twins[0]]
    return value


def _additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Attention mask ``[batch, 1, query, key]``: 0 where allowed, the type's lowest value elsewhere."""
    zero = torch.zeros((), dtype=dtype, device=allowed.device)
    return torch.where(allowed, zero, torch.finfo(dtype).min)[:, None]


def _hooked_block(
    model: Any, layer: int, residual: torch.Tensor, rows: Rows, before: KeysValues | None, window: Window | None
) -> tuple[torch.Tensor, KeysValues]:
    """Run one block; also return the keys and values of everything it attended to, in the layout of a bridge."""
    from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

    block = model.blocks[layer]
    device = next(block.parameters()).device
    entry = TransformerLensKeyValueCacheEntry.init_cache_entry(model.cfg, device, len(residual))
    if before is not None:
        entry.past_keys, entry.past_values = (some.transpose(1, 2) for some in before)
    # TransformerLens counts positions from a mask as cumsum(mask) - 1: this one yields the rows' own positions.
    positions = rows.positions[:, : rows.n_keys(residual.shape[1])]
    steps = torch.diff(positions, dim=1, prepend=torch.full_like(positions[:, :1], -1)).to(device)
    mask = rows.mask(window, residual.shape[1], device)[:, None]
    with _causal_mask_replaced(block.attn, mask):
        residual = block(residual.to(device), past_kv_cache_entry=entry, attention_mask=steps)
    return residual, (entry.past_keys.transpose(1, 2), entry.past_values.transpose(1, 2))


@contextmanager
def _causal_mask_replaced(attention: Any, mask: torch.Tensor) -> Iterator[None]:
    """Let an attention module use ``mask``, boolean ``[batch, 1, query, key]``, where it would build a causal one."""
    thread, own = threading.get_ident(), attention.apply_causal_mask

    def apply(scores: torch.Tensor, *others: Any) -> torch.Tensor:
        if threading.get_ident() != thread:
            return own(scores, *others)
        return torch.where(mask, scores, attention.IGNORE.to(scores.device))

    attention.apply_causal_mask = apply
    try:
        yield
    finally:
        del attention.apply_causal_mask
