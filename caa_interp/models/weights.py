"""Weights of one block, the same way for both of TransformerLens's model classes.

Orientation and heads are TransformerLens's: a matrix reads from its second last axis and writes to its last one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caa_interp.errors import ModelError
from caa_interp.models.access import is_bridge, model_id

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BlockWeights:
    """What one block reads from the residual stream and writes to it: float32 copies on the CPU.

    What is linear in the norms is folded in. A norm in front of a matrix scales every coordinate of the stream by
    its weight, and LayerNorm removes the mean first; a norm after a matrix, where there is one, does the same to
    what is written. What remains of a norm, the division by the length, is one factor for all directions.

    Attributes
    ----------
    queries
        ``[n_heads, d_model, d_head]``.
    keys, values
        ``[n_key_value_heads, d_model, d_head]``. With fewer of them than query heads (grouped-query attention)
        head ``k`` serves the query heads ``k * g`` to ``(k + 1) * g - 1``, where ``g = n_heads /
        n_key_value_heads``.
    outputs
        ``[n_heads, d_head, d_model]``.
    neuron_inputs
        ``[d_model, d_mlp]``; in a gated MLP what the gate multiplies.
    neuron_gates
        ``[d_model, d_mlp]``, or None without a gate.
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
    """Copy the weights of block ``layer``.

    Raises
    ------
    ModelError
        If the block is not attention heads and one MLP (mixtures of experts, recurrent or convolutional blocks),
        or if its weights cannot be read as numbers (quantized ones).
    """
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
    before_heads, before_neurons, behind_heads, behind_neurons = _norms(model, layer)
    found = BlockWeights(
        queries=before_heads.read(_copied(queries)),
        keys=before_heads.read(_copied(keys)),
        values=before_heads.read(_copied(values)),
        outputs=behind_heads.written(_copied(outputs)),
        neuron_inputs=before_neurons.read(_copied(inputs)),
        neuron_gates=None if gates is None else before_neurons.read(_copied(gates)),
        neuron_outputs=behind_neurons.written(_copied(neuron_outputs)),
    )
    _check_shapes(model, layer, found)
    return found


class _Norm:
    """The linear part of a norm, up to one factor: ``weight * x``, for LayerNorm of ``x`` less its mean.

    It is measured on probes, not read, because models store it in different ways (Gemma's weight is an offset
    from 1).

    Parameters
    ----------
    norm
        Module of a model, or None for no norm.
    width
        ``d_model``.
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
        """Fold the norm into a matrix ``[..., d_model, n]`` after it."""
        folded = self.weight[:, None] * matrix
        return folded - folded.mean(-2, keepdim=True) if self.centers else folded

    def written(self, matrix: torch.Tensor) -> torch.Tensor:
        """Fold the norm into a matrix ``[..., n, d_model]`` in front of it."""
        return self.weight * (matrix - matrix.mean(-1, keepdim=True) if self.centers else matrix)


def _norms(model: Any, layer: int) -> list[_Norm]:
    """Norms in front of the heads and the MLP, and after them; heads and MLP of a parallel block may share one."""
    block = model.blocks[layer]
    first, second, *after = (getattr(block, name, None) for name in ("ln1", "ln2", "ln1_post", "ln2_post"))
    if first is None and after[0] is None:
        raise _unreadable(model, layer, "its norms are not where they are expected")
    if second is None and after[1] is None:
        second = first
    return [_Norm(norm, int(model.cfg.d_model)) for norm in (first, second, *after)]


def _copied(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().float().cpu().clone()


def _check_shapes(model: Any, layer: int, found: BlockWeights) -> None:
    n_heads, width = int(model.cfg.n_heads), int(model.cfg.d_model)
    n_shared = len(found.keys)
    heads_fit = (
        found.queries.shape[:2] == (n_heads, width)
        and found.outputs.shape[::2] == (n_heads, width)
        and found.keys.shape[:2] == found.values.shape[:2] == (n_shared, width)
        and n_heads % n_shared == 0
    )
    neurons_fit = found.neuron_inputs.ndim == 2 and found.neuron_inputs.shape == found.neuron_outputs.T.shape
    gates_fit = found.neuron_gates is None or found.neuron_gates.shape == found.neuron_inputs.shape
    if not (heads_fit and neurons_fit and gates_fit and len(found.neuron_inputs) == width):
        raise _unreadable(model, layer, "its matrices do not have the shapes of attention heads and one MLP")


def _unreadable(model: Any, layer: int, why: str) -> ModelError:
    return ModelError(
        f"model {model_id(model)!r}: the weights of block {layer} cannot be read as attention heads and one MLP "
        f"({' '.join(why.split()).rstrip('.')}). Use a dense, unquantized transformer."
    )
