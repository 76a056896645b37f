"""From contrast pairs, or their activations, to a steering vector (Rimsky et al. 2024, section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import torch

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.models.access import HOOK, check_layers, is_bridge, model_id, model_revision, n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format, check_format
from caa_interp.vectors.activations import Activations, collect_activations, iterate_activations
from caa_interp.vectors.estimators import Estimator, mean_difference
from caa_interp.vectors.vector import SteeringVector


def extract_vector(
    model: Any,
    pairs: Iterable[ContrastPair],
    *,
    format: Format = "choices",
    layers: int | Sequence[int] | None = None,
    estimator: Estimator = mean_difference,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    behavior: str | None = None,
    progress: bool = False,
) -> SteeringVector:
    """Extract a steering vector at every layer from contrast pairs.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    pairs
        At least one :class:`ContrastPair`, usually a behavior's ``train``.
    format
        ``"choices"`` (default, the paper's) reads the answer letter, ``"text"`` the mean over the answer's
        tokens.
    layers
        0-based block indices; default: all.
    estimator
        ``(positive, negative) -> vector`` over tensors ``[n_pairs, n_layers, d_model]``. For the default the
        sums are streamed, so that memory does not grow with the number of pairs.
    system_prompt
        Optional system prompt for every pair.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    behavior
        Name to keep in the metadata.
    progress
        Show a progress bar.

    Returns
    -------
    SteeringVector
        With the metadata needed to apply it.
    """
    checked = check_pairs(pairs)
    check_format(format)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    if estimator is mean_difference:
        total: Any = 0.0
        dtype = torch.float32
        activations = iterate_activations(model, checked, format, chosen, system_prompt, progress, prompt_format)
        for positive, negative in activations:
            total = total + (positive.double() - negative.double())
            dtype = positive.dtype
        values = (total / len(checked)).to(dtype)
    else:
        found = collect_activations(
            model,
            checked,
            format=format,
            layers=chosen,
            system_prompt=system_prompt,
            prompt_format=prompt_format,
            progress=progress,
        )
        values = estimator(found.positive, found.negative)
    metadata = {
        "behavior": behavior,
        **origin(model, system_prompt, prompt_format),
        **_recipe(format, estimator, len(checked)),
    }
    return SteeringVector(values, tuple(chosen), metadata)


def origin(model: Any, system_prompt: str | None, prompt_format: PromptFormat | None = None) -> dict[str, Any]:
    """What a vector's metadata say of the model that it was made from, and of how the model was addressed."""
    form = prompt_format or PromptFormat.of(model)
    return {
        "model": model_id(model),
        "model_revision": model_revision(model),
        "backend": "TransformerBridge" if is_bridge(model) else "HookedTransformer",
        "weight_processing": "none",
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "prompt_style": form.style,
        "template_arguments": dict(form.template_arguments),
        "prompt_digest": form.digest(system_prompt),
        "system_prompt": system_prompt,
    }


def vector_from_activations(
    activations: Activations, *, estimator: Estimator = mean_difference, behavior: str | None = None
) -> SteeringVector:
    """Estimate a steering vector from activations that are there already, such as saved ones.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations`.
    estimator, behavior
        As in :func:`extract_vector`.

    Returns
    -------
    SteeringVector
        With what the activations know of their origin: model, format, number of pairs.
    """
    values = estimator(activations.positive, activations.negative)
    recipe = _recipe(activations.format, estimator, len(set(activations.items)))
    return SteeringVector(values, activations.layers, {"behavior": behavior, "model": activations.model, **recipe})


def _recipe(format: Format, estimator: Estimator, n_pairs: int) -> dict[str, Any]:
    return {
        "hook": HOOK,
        "format": format,
        "position": "answer letter" if format == "choices" else "mean over the answer's tokens",
        "estimator": getattr(estimator, "__name__", str(estimator)),
        "n_pairs": n_pairs,
        "versions": {name: version(name) for name in ("caa-interp", "transformer-lens", "transformers", "torch")},
    }
