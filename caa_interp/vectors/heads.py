"""A direction from the attention heads that tell the two sides apart, after inference-time intervention.

1. Find the heads whose output at the answers separates the two sides best (Li et al. 2023, "Inference-Time
   Intervention: Eliciting Truthful Answers from a Language Model", section 3).
2. Shift the output of these heads alone, each by the mean difference of its output.

Here the shifts are taken through the output matrix and summed for each block, and the sum is added after the block,
like everything that this package adds: the MLP of the same block does not see it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, ModelError, check_count
from caa_interp.models.access import check_model, check_unsteered, input_device, model_id, n_layers, on_cpu
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, check_format, render_pairs
from caa_interp.vectors.activations import origin
from caa_interp.vectors.estimators import check_name
from caa_interp.vectors.extraction import vector_metadata
from caa_interp.vectors.vector import SteeringVector

_FOLDS = 5


def head_vector(
    model: Any,
    pairs: Iterable[ContrastPair],
    *,
    n_heads: int = 16,
    format: Format = "choices",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    behavior: str | None = None,
    progress: bool = True,
) -> SteeringVector:
    """Make a steering vector of the attention heads that tell positive from negative answers best.

    Parameters
    ----------
    model, pairs, format, system_prompt, prompt_format, behavior, progress
        As in :func:`caa_interp.extract_vector`; at least five pairs.
    n_heads
        Number of heads, those in whose output a logistic probe is right most often on pairs that it was not fitted on
        (5 folds; of heads that are equally good, the earlier). Default: 16.

    Returns
    -------
    SteeringVector
        At the layers of the chosen heads, to be added at all of them at once:
        ``[caa.Intervention(vector, layer) for layer in vector.layers]``. ``metadata["heads"]`` lists
        ``[layer, head]``.

    Raises
    ------
    InputError
        If there are too few pairs or heads, or the model is being steered.
    ModelError
        If the model does not show its heads, or a norm or a factor follows them, as in Gemma 2 and Granite.
    """
    check_model(model)
    check_unsteered(model, "Extract from it")
    checked = check_pairs(pairs)
    check_format(format)
    check_name(behavior)
    shape = n_layers(model), int(model.cfg.n_heads)
    check_count("n_heads", n_heads, 1, shape[0] * shape[1])
    if len(checked) < _FOLDS:
        raise InputError(f"pairs: {len(checked)}; probes are checked in {_FOLDS} folds. Give at least {_FOLDS} pairs.")
    head_hooks(model)
    form = form_of(model, prompt_format)
    rendered = render_pairs(form, checked, format, system_prompt)
    outputs = _outputs(model, rendered, format, progress)
    accuracy = np.array([_accuracy(one) for one in track(outputs.flatten(0, 1), "Probing heads", progress)])
    chosen = sorted(divmod(int(place), shape[1]) for place in np.argsort(-accuracy, kind="stable")[:n_heads])
    layers = sorted({layer for layer, _ in chosen})
    values = torch.zeros(len(layers), int(model.cfg.d_model), dtype=torch.float64)
    for layer, head in chosen:
        written = model.blocks[layer].attn.W_O[head].detach().cpu().double()
        shift = (outputs[layer, head, :, 0].double() - outputs[layer, head, :, 1].double()).mean(0)
        values[layers.index(layer)] += shift @ written
    made_from = origin(model, system_prompt, form)
    metadata = vector_metadata(behavior, made_from, format, "mean difference of attention heads", checked)
    metadata["heads"] = [list(one) for one in chosen]
    return SteeringVector(values.float(), tuple(layers), metadata)


def head_hooks(model: Any, layers: Iterable[int] | None = None, what_to_do: str = "Use extract_vector.") -> list[str]:
    """Name the hook of each layer that shows its heads' outputs, by default of all layers.

    Raises :class:`ModelError` unless what each head writes to the residual stream is its output times its matrix.
    """
    names, width = [], (int(model.cfg.n_heads), int(model.cfg.d_head))
    for layer in range(n_layers(model)) if layers is None else layers:
        name, block = f"blocks.{layer}.attn.hook_z", model.blocks[layer]
        if name not in model.hook_dict:
            why = f"it has no {name!r}, so its heads cannot be told apart"
        elif tuple(block.attn.W_O.shape[:2]) != width:
            why = (
                f"the values of its heads in block {layer} are not as wide as its queries, and TransformerLens does "
                "not tell the heads apart"
            )
        elif getattr(block, "ln1_post", None) is not None or getattr(model.cfg, "residual_multiplier", 1.0) != 1.0:
            why = f"a norm or a factor follows its attention in block {layer}, which is no head's own"
        else:
            names.append(name)
            continue
        raise ModelError(f"model {model_id(model)!r}: {why}. {what_to_do}")
    return names


def _outputs(model: Any, rendered: Sequence[Sequence[Rendering]], format: Format, progress: bool) -> torch.Tensor:
    """Mean output of every head at the answers, positive side first.

    ``[n_layers, n_heads, n_pairs, 2, d_head]``, float32, since there are gigabytes of them.
    """
    names = head_hooks(model)
    outputs = torch.empty(len(names), int(model.cfg.n_heads), len(rendered), 2, int(model.cfg.d_head))
    for number, renderings in enumerate(track(rendered, "Reading heads", progress)):
        sides = []
        for tokens, places in (side for one in renderings for side in one.read(format)):
            ids = torch.tensor([tokens], device=input_device(model))
            _, cache = model.run_with_cache(ids, names_filter=names, return_cache_object=False)
            kept = on_cpu([cache[name][0, places[0] :] for name in names])
            sides.append(torch.stack(kept).double().mean(1))
        both = torch.stack(sides).unflatten(0, (-1, 2)).mean(0)  # both letter orders of a pair
        outputs[:, :, number] = both.permute(1, 2, 0, 3)
    return outputs


def _accuracy(outputs: torch.Tensor) -> float:
    """How often a probe tells the sides of ``[n_pairs, 2, d_head]`` apart, in pairs that it was not fitted on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n_pairs = len(outputs)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    sides, items = np.tile([1, 0], n_pairs), np.repeat(np.arange(n_pairs), 2)
    folds = GroupKFold(_FOLDS)
    return float(cross_val_score(probe, outputs.flatten(0, 1).double().numpy(), sides, groups=items, cv=folds).mean())
