"""Scoring contrast pairs under steering (Rimsky et al. 2024, section 4.1).

1. Choices: softmax over the vocabulary after ``(``; an item's score is p(matching letter) / (p(A) + p(B)).
2. Text: the score is the difference of the mean log-probability per token of the two answers.
3. Both are measured for every layer and multiplier, on held-out pairs.

Where this differs from the paper: every choices item is scored in both letter orders, and both are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.models.access import check_layers, model_id
from caa_interp.progress import track
from caa_interp.prompts.format import Format, PromptFormat, Rendering, check_format
from caa_interp.steering.context import check_multipliers
from caa_interp.steering.operators import Operator, add, name_of
from caa_interp.tree import Branch, Edit, run_trees
from caa_interp.vectors.vector import SteeringVector


def sweep(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    pairs: Iterable[ContrastPair],
    *,
    format: Format = "choices",
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    system_prompt: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score contrast pairs at every layer and multiplier, in about one forward pass an item.

    Parameters
    ----------
    model
        The model.
    vector
        A steering vector, or several by name (a vector beside its controls, say), which share the work.
    pairs
        Pairs to score, usually a behavior's ``test``.
    format
        ``"choices"`` (default, the paper's) or ``"text"``.
    layers
        0-based block indices; default: all of the vector's.
    multipliers
        Finite numbers; 0 is the unsteered model, exactly.
    operator
        What is done with vector and multiplier, see :mod:`caa_interp.steering.operators`; default: addition.
    system_prompt
        Optional system prompt.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per item, order, vector, layer and multiplier:

        - ``item`` (0-based), ``id``, ``order`` (``"AB"``, ``"BA"``, or ``""`` for text), ``vector``, ``layer``,
          ``multiplier``;
        - ``log_p_positive``, ``log_p_negative``: log-probability of each answer, in nats: of the letter, or the
          mean per token of the text;
        - ``logit_difference``: their difference; ``p_positive``: its logistic function, which for choices is the
          paper's p(matching) / (p(A) + p(B)).

        - ``kind`` of the vector (``"vector"``, or that of a control, such as ``"random"``), ``operator``, ``format``,
          ``model``, and ``path``: the one that the item's forward passes took, ``"tree"`` or ``"plain"``.
    """
    check_format(format)
    checked = check_pairs(pairs)
    vectors, chosen = check_vectors(model, vector, layers)
    values = check_multipliers(multipliers)
    prompts = PromptFormat.of(model)
    rendered = [
        prompts.render(pair, format, system_prompt, what=f"pairs[{number}]") for number, pair in enumerate(checked)
    ]
    conditions = [(name, layer, m) for name in vectors for layer in chosen[name] for m in values]
    steps = {(name, layer, m): (layer, vectors[name].at(layer), m) for name, layer, m in conditions}
    frames = []
    trees = (
        [
            branch
            for rendering in renderings
            for branch in _condition_branches(rendering, format, steps.values(), operator)
        ]
        for renderings in rendered
    )
    results = track(run_trees(model, trees), "Sweeping", progress, total=len(rendered))
    for number, (renderings, result) in enumerate(zip(rendered, results, strict=True)):
        scores = np.array([float(answers.mean()) for answers in _answers(result.log_probs, format)])
        scores = scores.reshape(len(renderings), len(conditions), 2)
        for rendering, (positive, negative) in zip(renderings, scores.transpose(0, 2, 1), strict=True):
            frame = pd.DataFrame(conditions, columns=["vector", "layer", "multiplier"])
            frame.insert(0, "item", number)
            frame.insert(1, "id", checked[number].id)
            frame.insert(2, "order", rendering.order)
            frames.append(frame.assign(log_p_positive=positive, log_p_negative=negative, path=result.path))
    table = pd.concat(frames, ignore_index=True)
    table["logit_difference"] = table["log_p_positive"] - table["log_p_negative"]
    table["p_positive"] = 1 / (1 + np.exp(-table["logit_difference"]))
    # The published code leaves an item whose matching answer is neither (A) nor (B) in the mean, as 0.
    unscored = [n for n, pair in enumerate(checked) if isinstance(pair, PublishedPair) and not pair.scored]
    if unscored:
        table.loc[table["item"].isin(unscored), ["log_p_positive", "log_p_negative", "logit_difference"]] = np.nan
        table.loc[table["item"].isin(unscored), "p_positive"] = 0.0
    return described(table, model, vectors, operator, format=format)


def described(
    table: pd.DataFrame, model: Any, vectors: Mapping[str, SteeringVector], operator: Operator, **columns: str
) -> pd.DataFrame:
    """Return a table with what it is in its last columns, so that it is lost neither by joining nor in a file."""
    kinds = {name: str(vector.metadata.get("kind", "vector")) for name, vector in vectors.items()}
    facts = {"operator": name_of(operator), **columns, "model": model_id(model)}
    path = table.pop("path")
    return table.assign(kind=table["vector"].map(kinds), **facts, path=path)


def _condition_branches(
    rendering: Rendering, format: Format, steps: Iterable[tuple[int, Any, float]], operator: Operator
) -> list[Branch]:
    """Branches of one rendering: one a condition for choices, one a condition and answer for text."""
    branches = []
    for layer, vector, multiplier in steps:
        edits = (Edit(layer, vector, rendering.start, multiplier, operator),) if multiplier else ()
        if format == "choices":
            targets = tuple((len(rendering.asked) - 1, letter) for letter in rendering.letters)
            branches.append(Branch(rendering.asked, edits, targets))
        else:
            for tokens in (rendering.positive, rendering.negative):
                targets = tuple((p - 1, tokens[p]) for p in range(rendering.n_prompt, len(tokens)))
                branches.append(Branch(tokens[:-1], edits, targets))
    return branches


def _answers(log_probs: Sequence[Any], format: Format) -> Iterable[Any]:
    """One tensor of log-probabilities per condition and answer."""
    if format == "text":
        return log_probs
    return [letter for both in log_probs for letter in both]


def check_vectors(
    model: Any, vector: SteeringVector | Mapping[str, SteeringVector], layers: int | Sequence[int] | None
) -> tuple[dict[str, SteeringVector], dict[str, list[int]]]:
    """Return vectors by name, and the layers of each, or raise if one of them does not fit the model."""
    given = vector if isinstance(vector, Mapping) else {vector.name: vector}
    if not given:
        raise InputError("vector: the mapping is empty; give at least one vector.")
    for one in given.values():
        one.check_fits(model)
    return dict(given), {name: check_layers(layers, one.layers, "the vector") for name, one in given.items()}
