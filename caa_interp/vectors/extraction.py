"""From contrast pairs, or their activations, to a steering vector (Rimsky et al. 2024, section 3).

At every layer, the mean over pairs of (positive - negative), which is not normalized.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.models.access import check_layers, check_model, n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format, check_format
from caa_interp.vectors.activations import (
    Activations,
    check_activations,
    collect_activations,
    iterate_activations,
    origin,
)
from caa_interp.vectors.estimators import Estimator, check_estimator, check_name, mean_difference
from caa_interp.vectors.vector import SteeringVector

AS_PUBLISHED = "as published"  # what the metadata say of the sides of pairs that are kept so


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
    progress: bool = True,
) -> SteeringVector:
    """Extract a steering vector at every layer from contrast pairs.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    pairs
        At least one :class:`ContrastPair`, usually a behavior's ``train``.
    format
        ``"choices"`` (default, as in the paper): at the answer letter. ``"text"``: mean over the answer's tokens.
    layers
        0-based block indices; default: all.
    estimator
        ``(positive, negative) -> vector`` over tensors ``[n_pairs, n_layers, d_model]``. With the default, memory
        does not grow with the number of pairs.
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

    Warns
    -----
    UserWarning
        In the choices format, if the model chooses the same letter whichever answer it stands for.

    Examples
    --------
    >>> made = caa.extract_vector(model, behavior.train[:4], format="text", layers=[14, 15])
    >>> made.values.shape
    torch.Size([2, 576])
    """
    check_model(model)
    checked = check_pairs(pairs)
    check_format(format)
    check_name(behavior)
    check_estimator(estimator)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    if estimator is not mean_difference:
        activations = collect_activations(
            model,
            checked,
            format=format,
            layers=chosen,
            system_prompt=system_prompt,
            prompt_format=prompt_format,
            progress=progress,
        )
        return vector_from_activations(activations, estimator=estimator, behavior=behavior)
    total: Any = 0.0
    dtype = torch.float32
    read = iterate_activations(model, checked, format, chosen, True, system_prompt, prompt_format, progress)
    for _, ((positive, negative),) in read:
        total = total + (positive.double() - negative.double())
        dtype = positive.dtype
    metadata = vector_metadata(behavior, origin(model, system_prompt, prompt_format), format, estimator, checked)
    return SteeringVector((total / len(checked)).to(dtype), tuple(chosen), metadata)


def vector_from_activations(
    activations: Activations, *, estimator: Estimator = mean_difference, behavior: str | None = None
) -> SteeringVector:
    """Estimate a steering vector from activations that were collected before.

    Parameters
    ----------
    activations
        Result of :func:`caa_interp.collect_activations`.
    estimator, behavior
        As in :func:`extract_vector`.

    Returns
    -------
    SteeringVector
        With the metadata of the activations, the estimator and the number of pairs.
    """
    check_activations(activations)
    check_name(behavior)
    check_estimator(estimator)
    values = estimator(activations.positive, activations.negative)
    pairs = list(dict(zip(activations.items, activations.pairs, strict=True)).values())
    metadata = vector_metadata(behavior, activations.metadata, activations.format, estimator, pairs)
    return SteeringVector(values, activations.layers, metadata)


def vector_metadata(
    behavior: str | None,
    origin: Mapping[str, Any],
    format: Format,
    estimator: Estimator | str,
    pairs: Sequence[ContrastPair],
) -> dict[str, Any]:
    """Metadata of a vector: what it was made from, and how."""
    return {
        "behavior": behavior,
        **origin,
        "format": format,
        "position": "answer letter" if format == "choices" else "mean over the answer's tokens",
        "estimator": getattr(estimator, "__name__", str(estimator)),
        "n_pairs": len(pairs),
        **({"sides": AS_PUBLISHED} if any(isinstance(pair, PublishedPair) for pair in pairs) else {}),
    }
