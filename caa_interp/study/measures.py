"""Measurements of a study that are no single call of another room: whether all fits, vectors with controls, others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from caa_interp.analysis.projection import project
from caa_interp.analysis.reliability import reliability
from caa_interp.analysis.separation import separation
from caa_interp.analysis.tokens import token_similarity
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import CAAError, InputError
from caa_interp.evaluation.controls import vector_with_controls
from caa_interp.evaluation.divergence import divergence
from caa_interp.evaluation.finetuning import fine_tune
from caa_interp.evaluation.learned import learned_vector
from caa_interp.evaluation.persistence import check_conversations, persistence
from caa_interp.evaluation.summary import NO_BASELINE, UNSTEERED
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format
from caa_interp.steering.generation import encode_prompt, generate
from caa_interp.steering.intervention import Intervention, condition_of
from caa_interp.steering.operators import operator_named
from caa_interp.steering.positions import Positions, positions_named
from caa_interp.tree.edits import Operator
from caa_interp.vectors.activations import collect_activations
from caa_interp.vectors.estimators import Estimator
from caa_interp.vectors.heads import head_hooks, head_vector
from caa_interp.vectors.vector import SteeringVector

MOST_HEADS = 16  # of a rival; a small model has fewer


def check_fit(
    model: Any,
    *,
    pairs: Sequence[ContrastPair],
    prompts: Mapping[str, int],
    conversations: Sequence[Sequence[ContrastPair]],
    max_new_tokens: int,
    format: Format,
    system_prompt: str | None,
    prompt_format: PromptFormat,
) -> pd.DataFrame:
    """Raise an error if a pair, a prompt or a conversation does not fit the model; else the table is empty.

    ``prompts`` have their greatest number of new tokens, ``conversations`` that of an answer, ``max_new_tokens``.
    """
    for number, pair in enumerate(pairs):
        what = f"pair {pair.id or number} ({pair.question[:60]!r})"
        prompt_format.render(pair, format, system_prompt, what=what)
    for prompt, n_new in prompts.items():
        encode_prompt(prompt_format, prompt, n_new, system_prompt, f"prompt {prompt[:60]!r}")
    if conversations:
        check_conversations(prompt_format, conversations, max_new_tokens, system_prompt)
    return pd.DataFrame()


def make_vectors(
    model: Any,
    *,
    behavior: str,
    pairs: Sequence[ContrastPair],
    controls: Mapping[str, int],
    estimator: Estimator,
    seed: int,
    **asked: Any,
) -> pd.DataFrame:
    """Make a vector and its controls: a row for each and layer; the vector's own also hold how reliable it is there."""
    activations = collect_activations(model, pairs, **asked)
    numbers = {f"n_{kind}": n for kind, n in controls.items()}
    vectors = vector_with_controls(activations, behavior, estimator=estimator, seed=seed, **numbers)
    rows = [
        {"vector": name, "layer": layer, "values": one.at(layer).numpy(), "metadata": json.dumps(dict(one.metadata))}
        for name, one in vectors.items()
        for layer in one.layers
    ]
    statistics = reliability(activations, seed=seed).assign(vector=behavior)
    return pd.DataFrame(rows).merge(statistics, on=["vector", "layer"], how="left")


def vectors_of(table: pd.DataFrame) -> dict[str, SteeringVector]:
    """Vectors of a table of :func:`make_vectors`, by name."""
    vectors = {}
    for name, rows in table.groupby("vector", sort=False):
        values = torch.from_numpy(np.stack(rows["values"].tolist()))
        metadata = json.loads(rows["metadata"].iloc[0])
        vectors[str(name)] = SteeringVector(values, tuple(int(n) for n in rows["layer"]), metadata)
    return vectors


def project_pairs(model: Any, *, behavior: str, **asked: Any) -> pd.DataFrame:
    """Project the activations of both sides of each pair."""
    return project({behavior: collect_activations(model, **asked)})


def separate_pairs(model: Any, *, vector: SteeringVector, layer: int, **asked: Any) -> pd.DataFrame:
    """Place both sides of each pair along a vector at a layer."""
    return separation(collect_activations(model, layers=[layer], **asked), vector)


def converse(
    model: Any,
    *,
    vector: Mapping[str, SteeringVector],
    layer: int,
    multiplier: float,
    operator: Operator,
    positions: Positions,
    **asked: Any,
) -> pd.DataFrame:
    """Measure a vector and its controls over the turns of conversations."""
    steering = {name: Intervention(one, layer, multiplier, operator, positions) for name, one in vector.items()}
    return persistence(model, steering, **asked)


def measure_combined(
    model: Any,
    *,
    combinations: Mapping[str, Sequence[Mapping[str, Any]]],
    pairs: Sequence[ContrastPair],
    prompts: Sequence[str],
    n_tokens: int,
    format: Format,
    **asked: Any,
) -> pd.DataFrame:
    """Score pairs under several interventions at once, by the fields of each, and measure the divergence along answers.

    The rows of answers have a ``divergence``.
    """
    steering: dict[str, Any] = {name: [_intervention(**one) for one in parts] for name, parts in combinations.items()}
    steering = {UNSTEERED: [], **steering}
    tables = [sweep(model, steering, pairs, format=format, **asked).assign(divergence=np.nan)]
    if prompts:
        tables.append(divergence(model, steering, prompts, n_tokens=n_tokens, **asked))
    return pd.concat(tables, ignore_index=True)


def _intervention(operator: str, positions: str, **fields: Any) -> Intervention:
    return Intervention(operator=operator_named(operator), positions=positions_named(positions), **fields)


def check_rival(model: Any, *, method: str, progress: bool = False, **asked: Any) -> pd.DataFrame:
    """As :func:`check_fit`, under the prompt of a rival; an error also tells where heads cannot be read.

    Nothing of it takes so long that it would show ``progress``.
    """
    try:
        if method == "attention heads":
            head_hooks(model)
        return check_fit(model, **asked)
    except CAAError as error:
        raise InputError(f"rivals.methods: {method!r} does not go with this model. {error}") from error


def measure_rival(
    model: Any,
    *,
    method: str,
    text: str | None,
    train: Sequence[ContrastPair],
    vector: Mapping[str, SteeringVector],
    layers: Sequence[int],
    multipliers: Sequence[float],
    pairs: Sequence[ContrastPair],
    prompts: Sequence[str],
    n_tokens: int,
    format: Format,
    seed: int,
    **asked: Any,
) -> pd.DataFrame:
    """Score pairs and measure the divergence along answers, under a system prompt, a ``text``, or else another vector.

    ``vector`` is one, by its name, and ``layers`` is one layer. The rows of answers have a ``divergence``.
    """
    ((name, own),), (layer,) = vector.items(), layers
    if text is not None:
        alone: Any = {"layers": layer, "multipliers": multipliers}
        scored = sweep(model, vector, pairs, format=format, **alone, **{**asked, "system_prompt": text})
        costs = divergence(model, vector, prompts, n_tokens=n_tokens, baselines={method: text}, **alone, **asked)
        return pd.concat([scored.assign(baseline=method), costs[costs["baseline"] == method]], ignore_index=True)
    if method == "learned vector":
        made = learned_vector(model, own, train, layer=layer, format=format, seed=seed, **asked)
    else:
        n_heads = min(MOST_HEADS, n_layers(model) * int(model.cfg.n_heads))
        made = head_vector(model, train, n_heads=n_heads, format=format, behavior=name, **asked)
    every = [condition_of([Intervention(made, at, dose) for at in made.layers], method) for dose in multipliers]
    doses = [replace(one, operator="add") for one in every]  # one path, since all layers have one multiplier
    scored = sweep(model, doses, pairs, format=format, **asked)
    costs = divergence(model, doses, prompts, n_tokens=n_tokens, **asked)
    return pd.concat([scored, costs], ignore_index=True).assign(baseline=NO_BASELINE)


def sweep_transferred(model: Any, *, vector: Mapping[str, SteeringVector], **asked: Any) -> pd.DataFrame:
    """Score pairs under vectors of another model, such as the base model."""
    return sweep(model, {name: one.transferred_to(model) for name, one in vector.items()}, **asked)


def answered_similarity(
    model: Any,
    *,
    text: str,
    vector: SteeringVector,
    layers: Sequence[int],
    max_new_tokens: int,
    prompt_format: PromptFormat,
) -> pd.DataFrame:
    """Compare a vector with every token of a prompt and of the model's unsteered answer."""
    answers = generate(model, [text], max_new_tokens=max_new_tokens, prompt_format=prompt_format, progress=False)
    given = {"answer": answers["answer"].item(), "prompt_format": prompt_format}
    return token_similarity(model, text, vector, layers=layers, **given)


def measure_tuned(
    model: Any,
    *,
    train: Sequence[ContrastPair],
    side: Literal["positive", "negative"],
    vector: Mapping[str, SteeringVector],
    layers: Sequence[int],
    multipliers: Sequence[float],
    pairs: Sequence[ContrastPair],
    prompts: Sequence[str],
    max_new_tokens: int,
    format: Format,
    **shown: Any,
) -> pd.DataFrame:
    """Score pairs and answer prompts in a copy of the model that was trained as in the paper, steered on top.

    ``vector`` is one, by its name, and ``layers`` is one layer. The rows of pairs have no ``answer``.
    """
    # Published items have one letter order, so that 4 pairs are the 4 sequences of a step of the paper's code.
    form = shown.get("prompt_format")
    tuned = fine_tune(model, train, side=side, method="full", batch_size=4, prompt_format=form, progress=False)
    ((name, own),), (layer,) = vector.items(), layers
    own = own.transferred_to(tuned)
    steered: dict[str, Any] = {"multipliers": multipliers, **shown}
    tables = [sweep(tuned, {name: own}, pairs, layers=layer, format=format, **steered).assign(answer=None)]
    if prompts:
        answers = generate(tuned, prompts, vector=own, layer=layer, max_new_tokens=max_new_tokens, **steered)
        tables.append(answers.assign(vector=name))
    return pd.concat(tables, ignore_index=True)
