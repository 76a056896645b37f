"""Vectors and steered states as tokens, through the final norm and unembedding: the logit lens (nostalgebraist 2020).

As in Rimsky et al. (2024), :func:`steered_lens` decodes the states inside a steered model, here at every layer.
:func:`logit_lens` decodes a steering vector itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from caa_interp.errors import InputError, check_count
from caa_interp.models.access import check_layers, model_id, n_layers
from caa_interp.models.readout import component_states, read_logits, token_texts
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.steering.context import steered_sequence
from caa_interp.steering.intervention import Steered, conditions, one_layer, short_form
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.vector import SteeringVector, direction_at, one_vector

_COLUMNS = (
    *("vector", "kind", "steered_layer", "multiplier", "operator", "positions", "layer", "component", "rank"),
    *("token", "token_id", "logit", "probability", "read_at", "model", "prompt_digest"),
)


def logit_lens(
    model: Any, vector: SteeringVector, *, layers: int | Sequence[int] | None = None, top_k: int = 10
) -> pd.DataFrame:
    r"""Tokens that a vector promotes and suppresses, read through the final norm and unembedding.

    Parameters
    ----------
    model
        The model that the vector was made from.
    vector
        The vector; zero at none of the layers.
    layers
        0-based block indices; default: all of the vector's.
    top_k
        Number of tokens per side, at least 1.

    Returns
    -------
    pandas.DataFrame
        One row per layer, side and rank: ``vector`` (its name), ``layer``, ``side`` (``"promoted"``: the highest
        logits, ``"suppressed"``: the lowest ones of the same readout), ``rank`` (from 1, the most extreme), ``token``,
        ``token_id``, ``logit``, ``n_pairs`` (that the vector was made from; missing if it does not say) and ``model``.

        ``logit`` is the logit minus the mean over the vocabulary, on which no probability depends; 0 is the average
        token. ``token`` shows a space as ``␣`` and other invisible characters as in Python (``\n``, ``\xe2`` for part
        of a character).

    Raises
    ------
    InputError
        If an argument is not one of those above, or the vector is zero at a layer.
    VectorMismatchError
        If the vector was not made for this model.
    ModelError
        If the model does not make its logits by a final norm and an unembedding.

    Notes
    -----
    The final norm removes the length of the vector, so ``v`` and ``2 * v`` have the same logits, and layers can be
    compared although later vectors are longer. (The vector is scaled to root mean square 1 first, so that the norm's
    epsilon does not matter.) In steering, the vector is added to a much longer state, and later blocks change its
    effect, so early layers say little. A LayerNorm (GPT-2, Pythia) also removes the mean of the vector's entries and
    adds a bias, the same for every vector, so ``v`` and ``-v`` do not mirror each other as they do with RMSNorm.
    """
    one_vector(vector).check_fits(model)
    chosen = check_layers(layers, vector.layers, "the vector")
    check_count("top_k", top_k, 1, int(model.cfg.d_vocab))
    tokenizer = PromptFormat.of(model).tokenizer
    directions = torch.stack([direction_at(vector, layer) for layer in chosen])
    logits = read_logits(model, (directions * vector.d_model**0.5).to(vector.values))
    frames = []
    for layer, row in zip(chosen, logits - logits.mean(dim=1, keepdim=True), strict=True):
        for side in ("promoted", "suppressed"):
            values, ids = row.topk(top_k, largest=side == "promoted")
            frames.append(_ranks(tokenizer, ids, {"logit": values}).assign(layer=layer, side=side))
    table = pd.concat(frames, ignore_index=True).assign(vector=vector.name, model=model_id(model))
    table["n_pairs"] = pd.array([vector.metadata.get("n_pairs")] * len(table), dtype="Int64")
    return table[["vector", "layer", "side", "rank", "token", "token_id", "logit", "n_pairs", "model"]]


def steered_lens(
    model: Any,
    prompt: Prompt,
    vector: Steered,
    *,
    layer: int | None = None,
    multipliers: float | Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    layers: int | Sequence[int] | None = None,
    top_k: int = 5,
    answer: str = "",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Tokens to which the states inside the blocks decode while the model is steered.

    The states are read at the last token: of the prompt, or of the answer if there is one.

    Parameters
    ----------
    model
        The model that the vector was made from.
    prompt
        What the user says, or a conversation that ends with the user; put into the model's chat form.
    vector
        A steering vector, several by name, or interventions, as in :func:`caa_interp.sweep`.
    layer
        0-based index of the block after which a vector is added; needed if the vector has several layers.
    multipliers, operator, positions
        For a vector, see :class:`Intervention`; multipliers are -1, 0 and 1 by default, and 0 is the unsteered model.
    layers
        0-based block indices to decode; default: all.
    top_k
        Number of tokens per state, at least 1.
    answer
        Start of the model's answer; default: none.
    system_prompt, prompt_format, progress
        As in :func:`caa_interp.generate`.

    Returns
    -------
    pandas.DataFrame
        One row per condition, layer, component and rank: ``vector``, ``kind``, ``steered_layer``, ``multiplier``,
        ``operator``, ``positions``, ``layer``, ``component``, ``rank`` (from 1, the most likely), ``token`` and
        ``token_id`` as in :func:`logit_lens`, ``logit`` (minus the mean over the vocabulary), ``probability`` (0 to 1,
        softmax over the vocabulary), ``read_at`` (the last token), ``model`` and ``prompt_digest``.

        ``component`` is ``"attention output"``, ``"MLP output"``, ``"mid residual"`` (the residual stream between the
        two; absent if they are parallel, as in Pythia and GPT-J) or ``"block output"`` (the stream after the block; at
        ``layer`` with the vector added). The block output of the last layer gives the model's own next token.

    Raises
    ------
    InputError, VectorMismatchError, ModelError
        As in :func:`logit_lens`.

    Notes
    -----
    Each state goes through the final norm unscaled, as in the paper. The outputs of attention and MLP are only parts of
    the stream: they say what the part writes, not what the model would answer.
    """
    if vectors := short_form(vector):
        layer = one_layer(vectors[0], layer)
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, form, layer, multipliers, operator, positions)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    check_count("top_k", top_k, 1, int(model.cfg.d_vocab))
    if not isinstance(answer, str):
        raise InputError(f"answer: {answer!r} is not a text; give a string, or leave it out for the prompt alone.")
    sequence = form.tokens(prompt, answer, system_prompt)
    (read_at,) = token_texts(form.tokenizer, sequence.tokens[-1:])
    frames = []
    for condition in track(asked, "Reading states", progress):
        with steered_sequence(model, form, sequence, condition.interventions):
            states = component_states(model, sequence.tokens, chosen)
        logits = read_logits(model, torch.stack(list(states.values())), str(condition))
        for (at, component), row in zip(states, logits, strict=True):
            values, ids = row.topk(top_k)
            columns = {"logit": values - row.mean(), "probability": row.softmax(-1)[ids]}
            ranks = _ranks(form.tokenizer, ids, columns).assign(component=component)
            frames.append(ranks.assign(**condition.columns | {"steered_layer": condition.layer, "layer": at}))
    table = pd.concat(frames, ignore_index=True).assign(
        read_at=read_at, model=model_id(model), prompt_digest=form.digest(system_prompt)
    )
    return table[list(_COLUMNS)]


def _ranks(tokenizer: Any, ids: torch.Tensor, columns: dict[str, torch.Tensor]) -> pd.DataFrame:
    """Rows of one ranking, in order."""
    listed = ids.tolist()
    numbers = {name: values.tolist() for name, values in columns.items()}
    ranks = range(1, len(listed) + 1)
    return pd.DataFrame({"rank": ranks, "token": token_texts(tokenizer, listed), "token_id": listed, **numbers})
