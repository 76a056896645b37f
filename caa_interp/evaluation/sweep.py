"""Scoring contrast pairs under steering (Rimsky et al. 2024, section 4.1).

1. Choices: softmax over the vocabulary after ``(``; an item's score is p(matching letter) / (p(A) + p(B)).
2. Text: the score is the difference of the mean log-probability per token of the two answers.
3. Both are measured for every layer and multiplier, on held-out pairs.

Where this differs from the paper: every choices item is scored in both letter orders, and both are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, warn
from caa_interp.models.access import model_id
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, check_format
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Condition, Intervention, Steered, conditions, warn_of_idle
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Operator
from caa_interp.tree.run import run_trees


def sweep(
    model: Any,
    vector: Steered,
    pairs: Iterable[ContrastPair],
    *,
    format: Format | None = None,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score contrast pairs at every layer and multiplier, in about one forward pass per item.

    Parameters
    ----------
    model, pairs
        The model, and the pairs to score, usually a behavior's ``test``.
    vector
        A steering vector, or several by name (a vector beside its controls, say), which share the work. Or
        interventions: one, or conditions in a list or by name, each of them None, an :class:`Intervention`, or a list
        of them that are applied in turn.
    format
        ``"choices"`` (the paper's) or ``"text"``. Default: the form that the vector was made in; if it holds none,
        ``"choices"``, with a warning.
    layers
        0-based block indices; default: all of the vector's.
    multipliers
        Finite numbers, by default -1, 0 and 1; 0 is the unsteered model, exactly.
    operator, positions
        What is done with vector and multiplier, and where: see :class:`Intervention`.
    system_prompt, prompt_format
        Optional system prompt; how the model is addressed, by default ``PromptFormat.of(model)``.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per item, order, vector, layer and multiplier:

        - ``item`` (0-based), ``id``, ``topic``, ``order`` (``"AB"``, ``"BA"``, or ``""`` for text), ``vector``,
          ``kind``, ``layer``, ``multiplier``, ``operator``, ``positions``;
        - ``log_p_positive``, ``log_p_negative``: log-probability of each answer, in nats: of the letter, or the
          mean per token of the text;
        - ``logit_difference``: their difference; ``p_positive``: its logistic function, which for choices is the
          paper's p(matching) / (p(A) + p(B));
        - ``format``, ``model``, ``prompt_digest``, and ``path``, the way that the forward passes took.

    Examples
    --------
    >>> table = caa.sweep(model, vector, behavior.test[:2], layers=15)
    >>> sorted(set(table["multiplier"]))
    [-1.0, 0.0, 1.0]
    """
    checked = check_pairs(pairs)
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, form, layers, multipliers, operator, positions)
    format = scoring_format(format, asked)
    rendered = [
        form.render(pair, format, system_prompt, what=f"pairs[{number}]") for number, pair in enumerate(checked)
    ]
    labels = dict.fromkeys(("item", "id", "topic", "order"), "")
    described = pd.DataFrame([{**labels, **condition.columns} for condition in asked])
    frames = []
    with ambient(model) as outer:
        warn_of_idle([outer, *(condition.interventions for condition in asked)], longest_of(rendered, format))
        trees = (
            [
                branch
                for rendering in some
                for branch in _condition_branches(f"pairs[{number}]", form, rendering, format, asked, outer)
            ]
            for number, some in enumerate(rendered)
        )
        results = track(run_trees(model, trees), "Sweeping", progress, total=len(rendered))
        for number, (pair, renderings, result) in enumerate(zip(checked, rendered, results, strict=True)):
            # For choices a branch scores both letters, for text a branch scores one answer.
            lengths = [1] * (2 * len(result.log_probs)) if format == "choices" else [*map(len, result.log_probs)]
            sums = np.add.reduceat(torch.cat(result.log_probs).double().numpy(), np.cumsum([0, *lengths[:-1]]))
            scores = (sums / lengths).reshape(len(renderings), len(asked), 2)
            for rendering, (positive, negative) in zip(renderings, scores.transpose(0, 2, 1), strict=True):
                about: dict[str, Any] = {"item": number, "id": pair.id, "topic": pair.topic, "order": rendering.order}
                about |= {"log_p_positive": positive, "log_p_negative": negative, "path": result.path}
                frames.append(described.assign(**about))
    table = pd.concat(frames, ignore_index=True)
    path = table.pop("path")
    table["logit_difference"] = table["log_p_positive"] - table["log_p_negative"]
    table["p_positive"] = 1 / (1 + np.exp(-table["logit_difference"]))
    # The published code leaves an item whose matching answer is neither (A) nor (B) in the mean, as 0.
    unscored = [n for n, pair in enumerate(checked) if isinstance(pair, PublishedPair) and not pair.scored]
    if unscored:
        table.loc[table["item"].isin(unscored), ["log_p_positive", "log_p_negative", "logit_difference"]] = np.nan
        table.loc[table["item"].isin(unscored), "p_positive"] = 0.0
    return table.assign(
        format=format, model=model_id(model), prompt_digest=form.digest(system_prompt), path=path.to_numpy()
    )


def scoring_format(format: Format | None, asked: Sequence[Condition]) -> Format:
    """Return ``format``, or else the form that the vectors were made in; raise :class:`InputError` if these differ.

    Vectors made by hand or imported may hold none: then it is ``"choices"``, with a warning.
    """
    if format is None:
        vectors = [one.vector for condition in asked for one in condition.interventions]
        found = sorted({str(vector.metadata["format"]) for vector in vectors if vector.metadata.get("format")})
        if len(found) > 1:
            raise InputError(f"format: the vectors were made in different forms, {found}. Give one of these.")
        if not found:
            warn(
                "format: no vector says in which form it was made, so the pairs are put as 'choices', two options with "
                "letters. Give format='choices' or format='text' to say which."
            )
        format = cast(Format, found[0]) if found else "choices"
    check_format(format)
    return format


def scored_renderings(
    form: PromptFormat, pairs: Iterable[ContrastPair], format: Format, system_prompt: str | None
) -> list[list[Rendering]]:
    """Renderings of pairs, all of which have a score, or raise :class:`InputError`."""
    rendered = []
    for number, pair in enumerate(check_pairs(pairs)):
        if isinstance(pair, PublishedPair) and not pair.scored:
            raise InputError(
                f"pairs[{number}]: its matching answer is neither (A) nor (B), so it has no score. Leave it out."
            )
        rendered.append(form.render(pair, format, system_prompt, what=f"pairs[{number}]"))
    return rendered


def check_renderings(
    form: PromptFormat,
    pairs: Mapping[str, Iterable[ContrastPair]],
    format: Format,
    system_prompt: str | None = None,
    what: str = "behaviors",
) -> None:
    """Raise :class:`InputError` if a pair cannot be put to the model, before others are scored."""
    for name, some in pairs.items():
        for pair in some:
            form.render(pair, format, system_prompt, what=f"{what}[{name!r}]: {pair.question!r:.60}")


def longest_of(rendered: Iterable[Sequence[Rendering]], format: Format) -> int:
    """Number of tokens of the longest sequence that is scored."""
    return max(len(one.tokens) for some in rendered for rendering in some for one in rendering.scored(format))


def _condition_branches(
    item: str,
    form: PromptFormat,
    rendering: Rendering,
    format: Format,
    asked: Sequence[Condition],
    outer: Sequence[Intervention],
) -> list[Branch]:
    """Branches of one rendering: one per condition for choices, one per condition and answer for text."""
    scored = rendering.scored(format)
    thinking = [end_of_thinking(form, one.tokens, rendering.n_prompt) for one in scored]
    branches = []
    for condition in asked:
        # Branches that hold the same edits share their computation.
        edits = {end: condition.edits(rendering.start + 1, end, outer) for end in thinking}
        branches += [
            Branch(one.tokens, edits[end], one.targets, label=f"{item}, {condition}")
            for one, end in zip(scored, thinking, strict=True)
        ]
    return branches
