"""How much of a batch fits the memory that is free."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caa_interp.models.access import float_type, n_layers

if TYPE_CHECKING:
    import torch


def free_memory(device: torch.device) -> int:
    """Free bytes of memory of a device, with those that PyTorch holds there and does not use."""
    import psutil
    import torch

    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def rows_that_fit(model: Any, row_bytes: int, share: float) -> int:
    """Number of rows that take a ``share`` of the memory that is free, at least 1.

    Of a model's devices it is the one with the least.
    """
    free = min(free_memory(device) for device in {parameter.device for parameter in model.parameters()})
    return max(1, int(share * free) // row_bytes)


def cache_bytes(model: Any) -> int:
    """Bytes of one token's keys and values in all layers."""
    n_heads = getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads
    return 2 * n_layers(model) * int(n_heads) * int(model.cfg.d_head) * float_type(model).itemsize
