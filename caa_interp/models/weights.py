"""Weights of one block, in the same form for both of TransformerLens's model classes.

As in TransformerLens, a matrix reads from its second-to-last axis and writes to its last one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_interp.errors import ModelError
from caa_interp.models.access import is_bridge, model_id

if TYPE_CHECKING:
    import torch

# In these, HookedTransformer calls the norms after attention and MLP by the names of those before.
_HOOKED_POST_NORM = {"Olmo2ForCausalLM", "Olmo3ForCausalLM"}


@dataclass(frozen=True)
class BlockWeights:
    """What one block reads from the residual stream and writes to it: float32 copies on the CPU.

    The linear part of each norm is folded into the matrix after it (or before it, for norms on a block's output):
    LayerNorm removes the mean, and the norm's weight scales every coordinate. What remains of a norm, the division
    by the length, is one factor for all directions.

    Attributes
    ----------
    queries, outputs
        ``[n_heads, d_model, d_head]`` and ``[n_heads, d_head, d_model]``.
    keys, values
        ``[n_key_value_heads, d_model, d_head]``. With grouped-query attention, head ``k`` serves the query heads
        ``k * g`` to ``(k + 1) * g - 1``, where ``g = n_heads / n_key_value_heads``.
    neuron_inputs, neuron_gates
        ``[d_model, d_mlp]``. Gates are None in an MLP without a gate, else they multiply the inputs.
    neuron_outputs
        ``[d_mlp, d_model]``.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    outputs: torch.Tensor
    neuron_inputs: torch.Tensor
    neuron_gates: torch.Tensor | None
    neuron_outputs: torch.Tensor


def block_weights(model: Any, layer: int) -> BlockWeights:
    """Copy the weights of block ``layer``, or raise :class:`ModelError` if it is not attention and one dense MLP."""
    block = model.blocks[layer]
    try:
        attention, mlp = block.attn, block.mlp
        n_heads = int(model.cfg.n_heads)
        keys, values = attention.W_K, attention.W_V
        if not is_bridge(model):  # HookedTransformer repeats them for every query head
            repeats = n_heads // int(model.cfg.n_key_value_heads or n_heads)
            keys, values = keys[::repeats], values[::repeats]
        queries, outputs = attention.W_Q, attention.W_O
        inputs, gates, neuron_outputs = mlp.W_in, getattr(mlp, "W_gate", None), mlp.W_out
    except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise _unreadable(model, layer, str(error)) from error
    before_heads, before_neurons, after_heads, after_neurons = _norms(model, layer)
    weights = BlockWeights(
        queries=before_heads.read(queries),
        keys=before_heads.read(keys),
        values=before_heads.read(values),
        outputs=after_heads.written(outputs),
        neuron_inputs=before_neurons.read(inputs),
        neuron_gates=None if gates is None else before_neurons.read(gates),
        neuron_outputs=after_neurons.written(neuron_outputs),
    )
    _check_shapes(model, layer, weights)
    return weights


class _Norm:
    """Linear part of a norm over ``width`` coordinates, up to one factor: ``weight * x``, with LayerNorm's centering.

    It is measured on probes, because models store it in different ways (Gemma's weight is an offset from 1).
    """

    def __init__(self, norm: Any, width: int) -> None:
        import torch

        self.weight, self.centers = torch.ones(width), False
        if norm is None:
            return
        plain = copy.deepcopy(getattr(norm, "original_component", norm)).float().cpu()
        probe = torch.linspace(1.0, 2.0, width) * torch.tensor([1.0, -1.0]).repeat(width)[:width]
        probe -= probe.mean()
        with torch.no_grad():
            up, down, shifted = (plain(x[None, None]).flatten() for x in (probe, -probe, probe + 1))
        self.weight = (up - down) / (2 * probe)
        self.centers = bool((shifted - up).norm() < 1e-3 * (up - down).norm())

    def read(self, matrix: torch.Tensor) -> torch.Tensor:
        """Fold the norm into a copy of a matrix ``[..., d_model, n]`` after it."""
        folded = self.weight[:, None] * matrix.detach().float().cpu()
        return folded - folded.mean(-2, keepdim=True) if self.centers else folded

    def written(self, matrix: torch.Tensor) -> torch.Tensor:
        """Fold the norm into a copy of a matrix ``[..., n, d_model]`` before it."""
        matrix = matrix.detach().float().cpu()
        return self.weight * (matrix - matrix.mean(-1, keepdim=True) if self.centers else matrix)


def _norms(model: Any, layer: int) -> list[_Norm]:
    """Norms before the heads and the MLP, and after them; in a parallel block, heads and MLP may share one."""
    block = model.blocks[layer]
    first, second, *after = (getattr(block, name, None) for name in ("ln1", "ln2", "ln1_post", "ln2_post"))
    if not is_bridge(model) and getattr(model.cfg, "original_architecture", None) in _HOOKED_POST_NORM:
        first, second, after = None, None, [first, second]
    elif first is None and after[0] is None:
        raise _unreadable(model, layer, "its norms are not where they are expected")
    elif second is None and after[1] is None:
        second = first
    return [_Norm(norm, int(model.cfg.d_model)) for norm in (first, second, *after)]


def _check_shapes(model: Any, layer: int, weights: BlockWeights) -> None:
    n_heads, width = int(model.cfg.n_heads), int(model.cfg.d_model)
    n_shared = len(weights.keys)
    heads_fit = (
        weights.queries.shape[:2] == (n_heads, width)
        and weights.outputs.shape[::2] == (n_heads, width)
        and weights.keys.shape[:2] == weights.values.shape[:2] == (n_shared, width)
        and n_heads % n_shared == 0
    )
    neurons_fit = weights.neuron_inputs.ndim == 2 and weights.neuron_inputs.shape == weights.neuron_outputs.T.shape
    gates_fit = weights.neuron_gates is None or weights.neuron_gates.shape == weights.neuron_inputs.shape
    if not (heads_fit and neurons_fit and gates_fit and len(weights.neuron_inputs) == width):
        raise _unreadable(model, layer, "its matrices do not have the shapes of attention heads and one MLP")


def _unreadable(model: Any, layer: int, why: str) -> ModelError:
    return ModelError(
        f"model {model_id(model)!r}: the weights of block {layer} cannot be read as attention heads and one MLP "
        f"({' '.join(why.split()).rstrip('.')}). Use a dense, unquantized transformer."
    )
