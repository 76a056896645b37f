"""Scoring contrast pairs under steering (Rimsky et al. 2024, section 4.1).

1. Choices: softmax over the vocabulary after ``(``; an item's score is p(matching letter) / (p(A) + p(B)).
2. Text: the score is the difference of the mean log-probability per token of the two answers.
3. Both are measured for every layer and multiplier, on held-out pairs.

Where this differs from the paper: every choices item is scored in both letter orders, and both are reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, warn
from caa_interp.models.access import model_id
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, check_format, render_pairs
from caa_interp.steering.intervention import Condition, Steered, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.steering.reading import Read, read_under
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Operator


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
    rendered = render_pairs(form, checked, format, system_prompt)
    labels = dict.fromkeys(("item", "id", "topic", "order"), "")
    described = pd.DataFrame([{**labels, **condition.columns} for condition in asked])
    reads = [[read for rendering in some for read in _reads(form, rendering, format)] for some in rendered]
    frames = []
    with closing(read_under(model, reads, asked, "pairs")) as results:
        tracked = track(results, "Sweeping", progress, total=len(rendered))
        for number, (pair, renderings, result) in enumerate(zip(checked, rendered, tracked, strict=True)):
            scores = _scores(result.log_probs, format, len(renderings), len(asked))
            for rendering, (positive, negative) in zip(renderings, scores, strict=True):
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


def _reads(form: PromptFormat, rendering: Rendering, format: Format) -> Iterator[Read]:
    for one in rendering.scored(format):
        end = end_of_thinking(form, one.tokens, rendering.n_prompt)
        yield Read(Branch(one.tokens, targets=one.targets), rendering.start + 1, end, rendering.order)


def _scores(log_probs: list[torch.Tensor], format: Format, n_renderings: int, n_conditions: int) -> np.ndarray:
    """Log-probability of each answer of a pair, ``[n_renderings, 2, n_conditions]``, the positive one first."""
    if format == "choices":  # a branch scores both letters
        letters = torch.stack(log_probs).double().numpy()
        return letters.reshape(n_renderings, n_conditions, 2).transpose(0, 2, 1)
    lengths = [*map(len, log_probs)]  # a branch scores one answer
    sums = np.add.reduceat(torch.cat(log_probs).double().numpy(), np.cumsum([0, *lengths[:-1]]))
    return (sums / lengths).reshape(n_renderings, 2, n_conditions)


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
    checked = check_pairs(pairs)
    for number, pair in enumerate(checked):
        if isinstance(pair, PublishedPair) and not pair.scored:
            raise InputError(
                f"pairs[{number}]: its matching answer is neither (A) nor (B), so it has no score. Leave it out."
            )
    return render_pairs(form, checked, format, system_prompt)


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


def sequences_of(rendered: Iterable[Sequence[Rendering]], format: Format) -> set[tuple[int, int, None]]:
    """Of each sequence that is scored its tokens and those of its prompt, as ``warn_of_idle`` takes them."""
    every = (rendering for some in rendered for rendering in some)
    return {(len(one.tokens), rendering.start + 1, None) for rendering in every for one in rendering.scored(format)}
