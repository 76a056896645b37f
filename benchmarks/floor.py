"""The arithmetic floor: operations that the best known algorithm needs, over the rate of matrix products here."""

import time
from collections.abc import Sequence
from typing import Any

import torch


def matmul_rate(model: Any, rows: int = 256, seconds: float = 1.5) -> float:
    """Floating-point operations a second of the model's own matrix products, at the given number of rows.

    Measured on shapes of one block (attention projections and MLP), in the model's type, on its device.
    """
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    shapes = block_shapes(model.cfg)
    inputs = [torch.randn(rows, i, device=device, dtype=dtype) for i, _ in shapes]
    weights = [torch.randn(o, i, device=device, dtype=dtype) for i, o in shapes]
    operations = sum(2 * rows * i * o for i, o in shapes)

    def once() -> None:
        for x, w in zip(inputs, weights, strict=True):
            torch.nn.functional.linear(x, w)

    for _ in range(3):
        once()
    best = float("inf")
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds:
        synchronize(device)
        start = time.perf_counter()
        once()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return operations / best


def block_shapes(config: Any) -> list[tuple[int, int]]:
    """(in, out) of the weight matrices of one block of Llama's architecture."""
    width, inner = config.d_model, config.d_mlp
    queries = config.d_head * config.n_heads
    keys = config.d_head * (config.n_key_value_heads or config.n_heads)
    return [
        (width, queries),
        (width, keys),
        (width, keys),
        (queries, width),
        (width, inner),
        (width, inner),
        (inner, width),
    ]


def row_operations(config: Any) -> int:
    """Operations of one row in one block, without attention scores."""
    return sum(2 * i * o for i, o in block_shapes(config))


def attention_operations(config: Any, n_keys: int) -> int:
    """Operations of one row's attention over ``n_keys`` keys in one block."""
    return 4 * config.d_head * config.n_heads * n_keys


def readout_operations(config: Any) -> int:
    """Operations of the logits of one row."""
    return 2 * config.d_model * config.d_vocab


def sweep_operations(config: Any, trunk: int, branches: Sequence[tuple[int, int, int]], multipliers: int) -> int:
    """Operations of a sweep that computes each unsteered row once and each steered row from its layer on.

    Parameters
    ----------
    config
        TransformerLens's configuration.
    trunk
        Number of distinct unsteered rows in front of the steering.
    branches
        For each branch (one for choices with both letters, two for texts), the number of its steered rows, of those
        whose logits are needed, and of the keys that they attend to.
    multipliers
        Number of multipliers other than 0, at every layer.
    """
    operations = 0
    blocks = config.n_layers
    for rows, readouts, keys in branches:
        per_row = row_operations(config) + attention_operations(config, keys)
        operations += blocks * rows * per_row + readouts * readout_operations(config)
        for layer in range(blocks):
            operations += multipliers * ((blocks - 1 - layer) * rows * per_row + readouts * readout_operations(config))
    return operations + blocks * trunk * (row_operations(config) + attention_operations(config, trunk // 2))


def synchronize(device: torch.device) -> None:
    """Wait for a GPU; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
