"""Steering in the weights: a vector as a bias, and a direction that no weight can write.

1. Adding ``m * v`` to the output of block L at every position is the same as adding it to the bias of the last matrix
   of block L, the MLP's output.
2. Directional ablation by weight orthogonalization (Arditi et al. 2024, section 4.1): with ``r`` the unit vector
   along ``v``, every matrix that writes to the residual stream (embeddings, attention outputs, MLP outputs) becomes
   ``W - r r^T W``, so that the stream never has a component along ``r``. Biases are treated the same.

Both give a plain Hugging Face model, which ``save_pretrained`` writes and any tool reads without this package.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from caa_interp.errors import InputError, ModelError
from caa_interp.models.access import check_unsteered, model_id, n_layers
from caa_interp.models.wrapping import block_outputs, module_of, plain_copy
from caa_interp.steering.context import steer
from caa_interp.steering.intervention import Steering, as_interventions, check_vectors
from caa_interp.steering.operators import add, name_of
from caa_interp.steering.positions import name_of_positions
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector


def bake(model: Any, vector: SteeringVector | Steering, *, layer: int | None = None, multiplier: float = 1.0) -> Any:
    """Build a Hugging Face model that is steered by its own weights, at every position.

    Parameters
    ----------
    model
        A ``TransformerBridge``, see :func:`caa_interp.load_model`; it is not changed.
    vector
        A vector made from this model; or an :class:`Intervention` that adds, or a list of them, of which vector, layer
        and multiplier are baked. Their positions are ``"all"`` or the default, and become ``"all"``.
    layer, multiplier
        0-based block index and any finite number, for a vector alone.

    Returns
    -------
    transformers.PreTrainedModel
        A copy whose block ``layer`` adds ``multiplier * vector``: the same logits as under
        ``steer(model, vector, layer, multiplier, positions="all")``. Its configuration lists
        the additions under ``steering``, after what was done to the weights before.

    Raises
    ------
    InputError
        If an intervention has another operator than addition, or other positions than ``"all"`` and the default;
        or if the model is being steered.
    ModelError
        If the architecture has no bias for it: neither one after the MLP (as GPT-2, GPT-NeoX, GPT-J, OPT and Phi
        have) nor a configuration that adds one (``mlp_bias``, as Llama has); or if the weights cannot be copied.
    VectorMismatchError
        If the vector was not made for this model.

    Notes
    -----
    The paper steers from the last token of the prompt on; weights know no positions, so all of it is steered here.
    A configuration with ``mlp_bias`` gives all three matrices of every MLP a bias; all but one are zero.
    """
    interventions = as_interventions(vector, layer, multiplier)
    if not interventions:
        raise InputError("vector: it is None; give a vector or an Intervention.")
    if any(one.operator is not add for one in interventions):
        names = ", ".join(name_of(one.operator) for one in interventions)
        raise InputError(f"operator: {names}; weights can only add. For ablation see caa.interchange.orthogonalize.")
    if other := [one.positions for one in interventions if one.positions not in ("all", "from_last_prompt_token")]:
        raise InputError(f"positions: {name_of_positions(other[0])}; weights steer every position. Give 'all'.")
    check_vectors(model, (one.vector for one in interventions))
    check_unsteered(model, "Bake it")
    plain = plain_copy(model)
    unsteered = _bridge_logits(model)
    with steer(model, [replace(one, positions="all") for one in interventions]):
        steered = _bridge_logits(model)
    for one in interventions:
        output = _matrix(plain, model, f"blocks.{one.layer}.mlp.out")
        if output is None or (output.bias is None and not hasattr(plain.config, "mlp_bias")):
            raise _unsupported(model, plain, "no bias is added to the output of its MLP")
        if output.bias is None:
            _add_biases(plain, model)
        with torch.no_grad():
            output.bias += (one.multiplier * one.vector.at(one.layer)).to(output.bias)
    # A hundredth of the change, beside rounding: what is changed after the MLP would be far more.
    allowed = 0.01 * (steered - unsteered).norm() + _tolerance(plain) * steered.norm()
    if not bool((_logits(plain) - steered).norm() <= allowed):
        raise _unsupported(model, plain, "what its MLP writes is changed before it is added to the residual stream")
    _check_saved_form(plain, model)
    done = [
        {
            "operation": "add",
            "layer": one.layer,
            "multiplier": one.multiplier,
            "behavior": one.vector.metadata.get("behavior"),
        }
        for one in interventions
    ]
    plain.config.steering = [*getattr(plain.config, "steering", []), *done]
    return plain


def orthogonalize(model: Any, vector: SteeringVector, *, layer: int) -> Any:
    """Build a Hugging Face model whose weights cannot write along a vector (Arditi et al. 2024, section 4.1).

    Parameters
    ----------
    model
        As in :func:`bake`.
    vector
        A vector made from this model.
    layer
        The layer whose vector gives the direction, which is removed from all that blocks and embeddings write.

    Returns
    -------
    transformers.PreTrainedModel
        A copy, equivalent to ablating the direction after every write. An unembedding that shared the embedding's
        weights keeps a copy of the old ones. Its configuration lists the ablation as in :func:`bake`.

    Raises
    ------
    InputError
        If the vector is zero at that layer, or the model is being steered.
    ModelError
        If the architecture writes to the residual stream by other modules than embeddings, attention outputs and MLP
        outputs (mixtures of experts, norms after them, embeddings of another width), or its weights are quantized.
    VectorMismatchError
        If the vector was not made for this model.
    """
    one_vector(vector).check_fits(model)
    check_unsteered(model, "Orthogonalize it")
    direction = direction_at(vector, layer, what_to_do="Choose another layer.")
    plain = plain_copy(model)
    embedding, unembedding = plain.get_input_embeddings(), plain.get_output_embeddings()
    if embedding.weight.shape[1] != len(direction):
        raise _unsupported(model, plain, "its embeddings are narrower than its residual stream")
    if unembedding is not None and unembedding.weight is embedding.weight:
        unembedding.weight = torch.nn.Parameter(embedding.weight.detach().clone())
        plain.config.tie_word_embeddings = False
    positions = _matrix(plain, model, "pos_embed")
    for module in (embedding, *([] if positions is None else [positions])):
        _remove(module.weight, direction, axis=1)
    for name in ("attn.o", "mlp.out"):
        for module in [_matrix(plain, model, f"blocks.{number}.{name}") for number in range(n_layers(model))]:
            if module is None:
                raise _unsupported(model, plain, f"what {name!r} of a block writes is not the output of one matrix")
            # A Conv1D keeps its matrix the other way round than a Linear.
            _remove(module.weight, direction, axis=0 if isinstance(module, torch.nn.Linear) else 1)
            if module.bias is not None:
                _remove(module.bias, direction, axis=0)
    if not _free_of(plain, model, direction):
        raise _unsupported(model, plain, "other modules write to its residual stream")
    _check_saved_form(plain, model)
    done = {"operation": "ablate", "behavior": vector.metadata.get("behavior"), "layer": int(layer)}
    plain.config.steering = [*getattr(plain.config, "steering", []), done]
    return plain


def _remove(weight: torch.nn.Parameter, direction: torch.Tensor, axis: int) -> None:
    """Take ``direction`` out of ``weight`` along ``axis``, in float64 on the CPU."""
    with torch.no_grad():
        along = weight.cpu().double().movedim(axis, -1)
        weight.copy_((along - (along @ direction)[..., None] * direction).movedim(-1, axis).to(weight.dtype))


def _matrix(plain: Any, model: Any, path: str) -> Any:
    """Module that a bridge calls ``path``, if it holds one matrix; else None."""
    module = module_of(model, plain, path)
    return module if isinstance(getattr(module, "weight", None), torch.nn.Parameter) else None


def _add_biases(plain: Any, model: Any) -> None:
    """Give the MLPs the zero biases that ``config.mlp_bias`` stands for."""
    plain.config.mlp_bias = True
    for layer in range(n_layers(model)):
        for module in module_of(model, plain, f"blocks.{layer}.mlp").modules():
            if isinstance(module, torch.nn.Linear) and getattr(module, "bias", None) is None:
                module.bias = torch.nn.Parameter(module.weight.new_zeros(module.out_features))


def _check_saved_form(plain: Any, model: Any) -> None:
    """Raise unless the model that Hugging Face builds from the configuration has the same weights, by name."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(plain.config, trust_remote_code=False)
    if built.state_dict().keys() != plain.state_dict().keys():
        raise _unsupported(model, plain, "its configuration does not describe the biases that it would need")


def _probe(plain: Any) -> torch.Tensor:
    """A few different tokens, ``[1, position]``."""
    return torch.arange(min(32, int(plain.config.get_text_config().vocab_size)), device=plain.device)[None]


def _logits(plain: Any) -> torch.Tensor:
    with torch.no_grad():
        return plain(_probe(plain)).logits.cpu().double()


def _bridge_logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(_probe(model.original_model)).cpu().double()


def _free_of(plain: Any, model: Any, direction: torch.Tensor) -> bool:
    """Whether no block's output has a component along a direction, up to rounding."""
    blocks = [module_of(model, plain, f"blocks.{layer}") for layer in range(n_layers(model))]
    streams = block_outputs(plain, blocks, _probe(plain))
    along = [stream @ direction / stream.norm(dim=-1) for stream in streams]
    return max(float(part.abs().max()) for part in along) < _tolerance(plain)


def _tolerance(plain: Any) -> float:
    """How much of a result may be rounding."""
    return 1e-4 if plain.dtype.itemsize >= 4 else 0.05


def _unsupported(model: Any, plain: Any, why: str) -> ModelError:
    return ModelError(
        f"model {model_id(model)!r}: a vector cannot be made part of the weights of {type(plain).__name__}: {why}. "
        "It can for Llama, GPT-2, GPT-NeoX, GPT-J, OPT and Phi; steer other models while they run, with caa.steer."
    )
