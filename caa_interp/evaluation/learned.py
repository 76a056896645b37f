"""A vector that is trained to be preferred: what the best addition at one layer does, as an upper bound.

1. Start from a steering vector v, such as the mean difference.
2. Under d v, with d = 1 and d = -1, read both answers of some pairs. The gain is how far the difference of their
   log-probabilities moves from the unsteered model, in the direction d.
3. Minimize -log sigmoid(beta * gain) over pairs and both directions (Cao et al. 2024, "Personalized Steering of Large
   Language Models: Versatile Steering Vectors Through Bi-directional Preference Optimization", section 3).

Here the log-probabilities are those that :func:`caa_interp.sweep` scores, per token, where theirs are sums over the
answer, so that beta is larger (Meng et al. 2024, "SimPO", on the length of answers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count, is_number
from caa_interp.evaluation.sweep import scored_renderings, scoring_format
from caa_interp.models.access import check_unsteered, input_device, n_layers, not_numbers, reading
from caa_interp.models.readout import unembed
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering
from caa_interp.steering.intervention import conditions, one_layer
from caa_interp.steering.operators import add
from caa_interp.steering.positions import resolve
from caa_interp.tree.edits import Edit, edited_rows
from caa_interp.vectors.activations import origin
from caa_interp.vectors.extraction import vector_metadata
from caa_interp.vectors.vector import SteeringVector


def learned_vector(
    model: Any,
    vector: SteeringVector,
    pairs: Iterable[ContrastPair],
    *,
    layer: int | None = None,
    format: Format | None = None,
    epochs: int = 3,
    batch_size: int = 4,
    learning_rate: float = 0.1,
    beta: float = 5.0,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    seed: int = 0,
    progress: bool = True,
) -> SteeringVector:
    """Train a steering vector at one layer on the preference for the positive answers, in both directions.

    No mean of activations is likely to do better at this layer on pairs like these, so it says how much of what an
    addition can do a steering vector does. Compare the two on held-out pairs, at equal cost
    (:func:`caa_interp.evaluation.compare_at_equal_divergence`).

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`. Its weights stay as they are.
    vector
        Where training starts; its size sets that of the steps. Its metadata are kept, except for what training
        changes: a vector that was learned from a control is not one.
    pairs, system_prompt
        Pairs to train on, usually those of ``vector``, and an optional system prompt for all of them.
    layer
        0-based index of the block after which the vector is added; needed if ``vector`` has several layers.
    format
        ``"choices"`` or ``"text"``; default: the form that ``vector`` was made in.
    epochs, batch_size
        How often every pair is read (default 3), and pairs per step (default 4).
    learning_rate
        Step of AdamW in units of the root mean square of ``vector`` at the layer; it falls to zero along a cosine.
        Default 0.1.
    beta
        Slope of the loss per nat per token. Default 5.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    seed
        Seed of the order of pairs.
    progress
        Show a progress bar.

    Returns
    -------
    SteeringVector
        At the one layer, from the last prompt token on, like any other. Its metadata say in which prompt form it was
        trained.

    Raises
    ------
    InputError
        If an argument is not one of those above, ``vector`` is zero at the layer, or the model is being steered.
    VectorMismatchError
        If ``vector`` was not made for this model.
    """
    form = form_of(model, prompt_format)
    check_unsteered(model, "Train a vector")
    for name, value in {"epochs": epochs, "batch_size": batch_size}.items():
        check_count(name, value)
    check_count("seed", seed, least=0)
    for name, number in {"learning_rate": learning_rate, "beta": beta}.items():
        if not (is_number(number) and number > 0):
            raise InputError(f"{name}: {number!r}; it must be a positive number.")
    layer = one_layer(vector, layer)
    format = scoring_format(format, conditions(model, vector, form, layer, [1.0]))
    checked = check_pairs(pairs)
    rendered = scored_renderings(form, checked, format, system_prompt)
    values = vector.at(layer).clone().float()
    size = float(values.square().mean().sqrt())
    if size == 0:
        raise InputError(f"vector: it is zero at layer {layer}, so steps have no size. Start from another vector.")
    values.requires_grad_()
    steps = epochs * -(-len(rendered) // batch_size)
    optimizer = torch.optim.AdamW([values], lr=learning_rate * size, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    order = [
        some for _ in range(epochs) for some in torch.randperm(len(rendered), generator=generator).split(batch_size)
    ]
    with _frozen(model), torch.enable_grad():
        with torch.no_grad():
            parts = [rendered[n : n + batch_size] for n in range(0, len(rendered), batch_size)]
            unsteered = torch.cat([_scores(model, part, format, layer, values, 0.0) for part in parts])
        for batch in track(order, "Learning", progress):
            optimizer.zero_grad()
            loss = _loss(model, [rendered[n] for n in batch], format, unsteered[batch], layer, values, beta)
            if not bool(loss.isfinite()):
                raise not_numbers(model, f"vector learned at layer {layer}")
            loss.backward()
            optimizer.step()
            schedule.step()
    made_from, behavior = origin(model, system_prompt, form), vector.metadata.get("behavior")
    made = vector_metadata(behavior, made_from, format, "learned by preference", checked)
    kept = {name: value for name, value in vector.metadata.items() if name != "sides"}  # of other pairs
    return SteeringVector(values.detach()[None], (layer,), {**kept, **made, "kind": "vector", "seed": seed})


def _loss(
    model: Any,
    pairs: Sequence[Sequence[Rendering]],
    format: Format,
    unsteered: torch.Tensor,
    layer: int,
    values: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Mean over pairs and directions d of -log sigmoid(beta * d * (score under d v - score of the unsteered model))."""
    gains = torch.stack([d * (_scores(model, pairs, format, layer, values, d) - unsteered) for d in (1.0, -1.0)])
    return -torch.nn.functional.logsigmoid(beta * gains).mean()


def _scores(
    model: Any,
    pairs: Sequence[Sequence[Rendering]],
    format: Format,
    layer: int,
    values: torch.Tensor,
    multiplier: float,
) -> torch.Tensor:
    """Score of each pair, ``[n_pairs]``: the difference of its answers' log-probabilities per token."""
    rows = [
        (index, one.start, 1 / len(some), scored)
        for index, some in enumerate(pairs)
        for one in some
        for scored in one.scored(format)
    ]
    tokens = pad_sequence([torch.tensor(scored.tokens) for *_, scored in rows], batch_first=True)
    spans = [resolve("from_last_prompt_token", start + 1) for _, start, *_ in rows]
    edits = [[Edit(layer, values, multiplier, add, some)] for some in spans]
    states: list[torch.Tensor] = []
    with (
        edited_rows(model, edits, 0, tokens.shape[1]),  # padded on the right, which nothing sees
        reading(model, [n_layers(model) - 1], lambda _, residual: states.append(residual)),
    ):
        model(tokens.to(input_device(model)))
    scores = torch.zeros(len(pairs), dtype=torch.float64)
    for state, (index, _, share, scored) in zip(states[0], rows, strict=True):
        at, targets = torch.tensor(scored.targets).T
        log_probs = unembed(model, state[at.to(state.device)]).log_softmax(-1)
        chosen = log_probs.gather(1, targets.to(log_probs.device)[:, None])[:, 0].cpu().double()
        score = share * (chosen @ torch.tensor(scored.weights, dtype=torch.float64))
        scores = scores.index_add(0, torch.tensor([index]), score[None])
    return scores


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Take gradients of no weights meanwhile, which would keep every block's states."""
    weights = [one for one in model.parameters() if one.requires_grad]
    for one in weights:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in weights:
            one.requires_grad_(True)
