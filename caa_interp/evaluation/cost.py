"""What steering costs: less likely prose, drift from the unsteered model, wrong answers, other behaviors moved.

1. Perplexity of neutral prose, and how far the next-token distributions move on it.
2. The same distance on what the unsteered model itself would answer (:mod:`caa_interp.evaluation.divergence`).
3. Capability: two-option questions with a right answer (Rimsky et al. 2024, section 5, on MMLU).
4. Side effects: steer one behavior, measure the others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, check_behaviors
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, by_text, check_count
from caa_interp.evaluation.answers import AnswerTokens
from caa_interp.evaluation.divergence import measured
from caa_interp.evaluation.sweep import check_renderings, scoring_format, sweep
from caa_interp.progress import track
from caa_interp.prompts.format import form_of, token_ids, tokenizer_of
from caa_interp.steering.intervention import Steered, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.edits import Operator
from caa_interp.vectors.vector import SteeringVector, named_vectors


def perplexity(
    model: Any,
    vector: Steered,
    passages: Sequence[str],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    max_tokens: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how likely passages of text are under steering.

    The text is given without a chat template. Its first two tokens count as the prompt, so it is steered from its
    second token on: the first, often the BOS token, is an attention sink.

    Parameters
    ----------
    model, vector, layers, multipliers, operator, positions, progress
        As in :func:`caa_interp.sweep`.
    passages
        Texts, such as those of :func:`caa_interp.load_prose`; at least three tokens each.
    max_tokens
        Passages are cut to this many tokens.

    Returns
    -------
    pandas.DataFrame
        One row per passage, vector, layer and multiplier: ``item``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens`` (that are predicted), ``nats_per_token`` (mean negative log-probability; perplexity is its
        exponential), ``divergence`` and ``divergence_tail`` (KL(unsteered || steered) over the same places, as in
        :func:`caa_interp.divergence`).
    """
    asked = conditions(model, vector, None, layers, multipliers, operator, positions)
    if isinstance(passages, str) or not isinstance(passages, Collection) or not len(passages):
        raise InputError(f"passages: {passages!r:.100}; give a non-empty list of texts.")
    check_count("max_tokens", max_tokens, least=3)
    limit = min(max_tokens, int(model.cfg.n_ctx))
    tokenizer, sequences = tokenizer_of(model), []
    for number, passage in enumerate(passages):
        ids = token_ids(tokenizer, passage, f"passages[{number}]")[:limit] if isinstance(passage, str) else []
        if len(ids) < 3:
            raise InputError(f"passages[{number}]: {passage!r} has fewer than three tokens; give a longer text.")
        sequences.append(AnswerTokens(tuple(ids), tuple(range(1, len(ids) - 1)), 2, None))
    table = measured(model, asked, sequences, progress)
    table.insert(list(table).index("n_tokens") + 1, "nats_per_token", -table.pop("log_p"))
    return table


def capability(
    model: Any,
    vector: Steered,
    questions: Iterable[ContrastPair],
    **options: Any,
) -> pd.DataFrame:
    """Answer two-option questions under steering (Rimsky et al. 2024, section 5).

    Parameters
    ----------
    model, vector, **options
        As in :func:`caa_interp.sweep`.
    questions
        Questions whose positive answer is the right one, see :func:`caa_interp.load_questions`.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep` and ``correct``: 1 where the right answer is the likelier one, else 0;
        NaN where there is no score. The paper's measure, the mean probability of the right letter, is ``p_positive``.
    """
    table = sweep(model, vector, check_pairs(questions, "questions"), **options)
    likelier = table["logit_difference"]
    return table.assign(correct=(likelier > 0).astype(float).where(likelier.notna()))


def side_effects(
    model: Any,
    vectors: Mapping[str, SteeringVector] | SteeringVector,
    behaviors: Mapping[str, Behavior | Sequence[ContrastPair]],
    *,
    layers: int | Mapping[str, int],
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    n_pairs: int | None = None,
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """Score the held-out pairs of every behavior under every vector, in one sweep per behavior.

    Parameters
    ----------
    model, multipliers, progress, **options
        As in :func:`caa_interp.sweep`; at least two multipliers, for a slope.
    vectors
        Steering vectors by name, or one; :func:`caa_interp.match_norms` makes their multipliers comparable.
    behaviors
        Behaviors by name, whose ``test`` pairs are scored, or the pairs themselves.
    layers
        0-based block index at which all vectors are added, or one for each name of ``vectors``.
    n_pairs
        Score this many pairs of each behavior, the first ones; default: all.

    Returns
    -------
    pandas.DataFrame
        The tables of :func:`caa_interp.sweep` and a first column ``behavior``, the measured one; ``vector`` is the
        one that steers. :func:`caa_interp.steerability` of it is the matrix of effects with intervals.
    """
    vectors = named_vectors(vectors)
    asked = conditions(model, vectors, None, multipliers=multipliers)
    if len(set(multipliers)) < 2:
        raise InputError(f"multipliers: {list(multipliers)}; an effect needs at least two. Give two or more.")
    chosen, pairs = crossed(vectors, behaviors, layers, n_pairs)
    format = scoring_format(options.pop("format", None), asked)
    form = form_of(model, options.get("prompt_format"))
    check_renderings(form, pairs, format, options.get("system_prompt"))
    single = {name: vector.at_layers(chosen[name]) for name, vector in vectors.items()}
    options |= {"multipliers": multipliers, "format": format, "progress": progress}
    return scored_each(model, single, pairs, **options)


def scored_each(
    model: Any,
    vectors: Mapping[str, SteeringVector],
    pairs: Mapping[str, Sequence[ContrastPair]],
    progress: bool = True,
    **options: Any,
) -> pd.DataFrame:
    """The tables of a sweep of each behavior's pairs, with ``behavior`` in front; options as in a sweep."""
    tables = {}
    for name, scored in track(pairs.items(), "Measuring", progress, total=len(pairs)):
        tables[name] = sweep(model, vectors, scored, progress=False, **options)
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)


def crossed(
    vectors: Mapping[str, SteeringVector],
    behaviors: Mapping[str, Behavior | Sequence[ContrastPair]],
    layers: int | Mapping[str, int],
    n_pairs: int | None,
) -> tuple[dict[str, int], dict[str, list[ContrastPair]]]:
    """Layer of each vector, and the pairs of each behavior, the first ``n_pairs``; arguments as in side_effects."""
    check_behaviors(behaviors)
    if n_pairs is not None:
        check_count("n_pairs", n_pairs)
    chosen = by_text(layers, "layers") if isinstance(layers, Mapping) else dict.fromkeys(vectors, layers)
    if missing := [name for name in vectors if name not in chosen]:
        raise InputError(f"layers: there is none for {missing[0]!r}. Give one for each of {list(vectors)}.")
    return chosen, {
        name: check_pairs(one.test if isinstance(one, Behavior) else one, f"behaviors[{name!r}]")[:n_pairs]
        for name, one in behaviors.items()
    }
