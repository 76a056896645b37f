"""Similarity of a vector to every token of a text (Rimsky et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import check_layers, input_device, model_id, not_numbers, on_cpu, reading
from caa_interp.models.readout import special_ids, token_texts
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, PromptTokens, form_of, token_ids
from caa_interp.steering.context import steered_sequence
from caa_interp.steering.intervention import check_vectors
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector


def token_similarity(
    model: Any,
    text: Prompt,
    vector: SteeringVector,
    *,
    layers: int | Sequence[int] | None = None,
    answer: str | None = None,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
) -> pd.DataFrame:
    r"""Cosine and projection of every token's residual stream on a vector.

    Parameters
    ----------
    model
        The model that the vector was made from.
    text
        Without ``answer``: a plain text, with the BOS token if the tokenizer adds one. With ``answer``: the prompt, put
        into the model's chat form. A conversation that ends with the user is put into it with and without ``answer``.
    vector
        The vector; zero at none of the layers.
    layers
        0-based block indices; default: all of the vector's. The vector of layer L is compared with the residual stream
        after block L.
    answer
        The model's answer; ``""`` for the prompt in chat form alone.
    system_prompt
        Optional system prompt, with ``answer`` only.
    prompt_format
        As in :func:`caa_interp.sweep`.

    Returns
    -------
    pandas.DataFrame
        One row per token and layer: ``vector`` (its name), ``position`` (from 0), ``token`` (as in
        :func:`caa_interp.logit_lens`), ``token_id``, ``part`` (``"answer"``, or ``"prompt"`` for a prompt and for all
        of a plain text), ``layer``, ``cosine`` (-1 to 1), ``projection`` (dot product with the unit vector, in units of
        the residual stream), ``special`` (whether it is BOS or another special token), ``model`` and
        ``prompt_digest`` (missing for a plain text).

    Raises
    ------
    InputError
        If the text is empty or longer than the model's context, or an argument is not one of those above.
    VectorMismatchError
        If the vector was not made for this model.

    Notes
    -----
    The residual stream at the first position is often hundreds of times longer than elsewhere (an attention sink), and
    so are its projections; leave it out, or use the cosine.
    """
    form = form_of(model, prompt_format)
    if not isinstance(text, str) and answer is None:
        answer = ""
    check_vectors(model, [one_vector(vector)], None if answer is None else form)
    chosen = check_layers(layers, vector.layers, "the vector")
    directions = [direction_at(vector, layer) for layer in chosen]
    tokens, n_prompt = _tokens(form, text, answer, system_prompt)
    residuals: dict[int, torch.Tensor] = {}
    ids = torch.tensor([tokens], device=input_device(model))
    steered = steered_sequence(model, form, PromptTokens(tuple(tokens), n_prompt - 1))
    with torch.no_grad(), steered, reading(model, chosen, residuals.__setitem__):
        model(ids, attention_mask=torch.ones_like(ids))
    streams = on_cpu([residuals[layer][0] for layer in chosen])
    # Layer by layer, ``[n_layers * n_tokens]``: all streams at once in float64 would take much memory.
    lengths = torch.cat([stream.double().norm(dim=1) for stream in streams])
    projections = torch.cat([stream.double() @ unit for stream, unit in zip(streams, directions, strict=True)])
    if bool(projections.isnan().any()):
        raise not_numbers(model, f"text {text!r:.60}")
    special = special_ids(form.tokenizer)
    return pd.DataFrame(
        {
            "vector": vector.name,
            "position": np.tile(np.arange(len(tokens)), len(chosen)),
            "token": token_texts(form.tokenizer, tokens) * len(chosen),
            "token_id": tokens * len(chosen),
            "part": (["prompt"] * n_prompt + ["answer"] * (len(tokens) - n_prompt)) * len(chosen),
            "layer": np.repeat(chosen, len(tokens)),
            "cosine": (projections / lengths).numpy(),
            "projection": projections.numpy(),
            "special": [token in special for token in tokens] * len(chosen),
            "model": model_id(model),
            "prompt_digest": None if answer is None else form.digest(system_prompt),
        }
    )


def _tokens(form: PromptFormat, text: Prompt, answer: str | None, system_prompt: str | None) -> tuple[list[int], int]:
    """Token ids, and the number of them that belong to the prompt."""
    if answer is not None:
        if not isinstance(answer, str):
            raise InputError(f"answer: {answer!r} is not a text; give a string, or None for a plain text.")
        whole = form.tokens(text, answer, system_prompt, what="text")
        return list(whole.tokens), whole.start + 1
    if not str(text).strip():
        raise InputError(f"text: {text!r} is not a text; give a non-empty string, or a conversation.")
    if system_prompt is not None:
        raise InputError(
            "system_prompt: a plain text has no place for it. Give answer, or answer='' to put the text into the "
            "model's chat form."
        )
    plain = token_ids(form.tokenizer, str(text), "text")
    if len(plain) > form.n_ctx:
        raise InputError(f"text: {len(plain)} tokens, but the model's context holds {form.n_ctx}. Shorten it.")
    return plain, len(plain)
