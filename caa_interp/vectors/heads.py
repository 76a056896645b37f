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
from caa_interp.models.access import check_model, check_unsteered, input_device, model_id, n_layers
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, check_format
from caa_interp.vectors.activations import origin
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
        If the model does not show its heads.
    """
    check_model(model)
    check_unsteered(model, "Extract from it")
    checked = check_pairs(pairs)
    check_format(format)
    shape = n_layers(model), int(model.cfg.n_heads)
    check_count("n_heads", n_heads, 1, shape[0] * shape[1])
    if len(checked) < _FOLDS:
        raise InputError(f"pairs: {len(checked)}; probes are checked in {_FOLDS} folds. Give at least {_FOLDS} pairs.")
    form = form_of(model, prompt_format)
    rendered = [form.render(pair, format, system_prompt, what=f"pairs[{n}]") for n, pair in enumerate(checked)]
    outputs = _outputs(model, rendered, format, progress)
    accuracy = np.array([_accuracy(one) for one in track(outputs.flatten(0, 1), "Probing heads", progress)])
    chosen = sorted(divmod(int(place), shape[1]) for place in np.argsort(-accuracy, kind="stable")[:n_heads])
    shifts = (outputs[..., 0, :] - outputs[..., 1, :]).mean(2)  # [n_layers, n_heads, d_head]
    layers = sorted({layer for layer, _ in chosen})
    values = torch.zeros(len(layers), int(model.cfg.d_model), dtype=torch.float64)
    for layer, head in chosen:
        written = model.blocks[layer].attn.W_O[head].detach().cpu().double()
        values[layers.index(layer)] += shifts[layer, head] @ written
    made_from = origin(model, system_prompt, form)
    metadata = vector_metadata(behavior, made_from, format, "mean difference of attention heads", len(checked))
    metadata["heads"] = [list(one) for one in chosen]
    return SteeringVector(values.float(), tuple(layers), metadata)


def head_hooks(model: Any) -> list[str]:
    """Name the hook of each layer that shows its heads' outputs, or raise :class:`ModelError` if one is missing."""
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers(model))]
    if missing := [name for name in names if name not in model.hook_dict]:
        raise ModelError(
            f"model {model_id(model)!r}: it has no {missing[0]!r}, so its heads cannot be told apart. Use "
            "extract_vector."
        )
    return names


def _outputs(model: Any, rendered: Sequence[Sequence[Rendering]], format: Format, progress: bool) -> torch.Tensor:
    """Mean output of every head at the answers: ``[n_layers, n_heads, n_pairs, 2, d_head]``, positive side first."""
    names, read = head_hooks(model), []
    for renderings in track(rendered, "Reading heads", progress):
        sides = []
        for tokens, places in (side for one in renderings for side in one.read(format)):
            ids = torch.tensor([tokens], device=input_device(model))
            _, cache = model.run_with_cache(ids, names_filter=names, return_cache_object=False)
            sides.append(torch.stack([cache[name][0, places[0] :].double().mean(0).cpu() for name in names]))
        read.append(torch.stack(sides).unflatten(0, (-1, 2)).mean(0))  # both letter orders of a pair
    return torch.stack(read).permute(2, 3, 0, 1, 4)


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
    return float(cross_val_score(probe, outputs.flatten(0, 1).numpy(), sides, groups=items, cv=folds).mean())
