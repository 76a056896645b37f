"""What steering costs: less likely prose, drift from the unsteered model, wrong answers, other behaviors moved.

1. Perplexity of neutral prose, and how far the next-token distributions move on it.
2. The same distance on what the unsteered model itself would answer: KL(unsteered || steered), in nats per token.
   At equal distance vectors, layers and operators can be compared, whatever the lengths of their vectors
   (:mod:`caa_interp.evaluation.strength`). The tail is the mean over the worst 5 % of each answer's tokens: a few
   broken words hardly move the mean of a long answer.
3. Capability: two-option questions with a right answer (Rimsky et al. 2024, section 5, on MMLU).
4. Side effects: steer one behavior, measure the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import torch

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_count
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import model_id
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, form_of, token_ids
from caa_interp.steering.context import ambient
from caa_interp.steering.generation import encode_prompts
from caa_interp.steering.intervention import Condition, Steered, conditions, warn_of_idle
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.steering.writing import write_all
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Operator
from caa_interp.tree.run import run_trees
from caa_interp.vectors.vector import SteeringVector

_TAIL = 20  # one token in so many is in the tail of an answer

# Tokens of a prompt and what follows it, the length of the prompt, and where the thinking ends (:func:`resolve`).
Known = tuple[tuple[int, ...], int, float | None]


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
    if isinstance(passages, str) or not len(passages):
        raise InputError(f"passages: {passages!r}; give a non-empty list of texts.")
    check_count("max_tokens", max_tokens, least=3)
    limit = min(max_tokens, int(model.cfg.n_ctx))
    sequences: list[Known] = []
    for number, passage in enumerate(passages):
        ids = token_ids(model.tokenizer, passage, f"passages[{number}]")[:limit] if isinstance(passage, str) else []
        if len(ids) < 3:
            raise InputError(f"passages[{number}]: {passage!r} has fewer than three tokens; give a longer text.")
        sequences.append((tuple(ids), 2, None))
    asked = conditions(model, vector, layers, multipliers, operator, positions)
    table = measured(model, asked, sequences, progress)
    table.insert(list(table).index("n_tokens") + 1, "nats_per_token", -table.pop("log_p"))
    return table


def divergence(
    model: Any,
    vector: Steered,
    prompts: Sequence[Prompt],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    n_tokens: int = 32,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how far steering moves the model from its own answers.

    The unsteered model answers each prompt; along that answer the steered model's next-token distributions are
    compared with the unsteered ones.

    Parameters
    ----------
    model, vector, layers, multipliers, operator, positions, progress
        As in :func:`caa_interp.sweep`.
    prompts, system_prompt, prompt_format
        As in :func:`caa_interp.generate`.
    n_tokens
        Longest answer, in tokens.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, vector, layer and multiplier: ``item``, ``prompt``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens``, ``divergence`` (mean of KL(unsteered || steered) over the answer, nats per token) and
        ``divergence_tail`` (the same over the 5 % of the answer's tokens with the largest, at least one).
    """
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, layers, multipliers, operator, positions, form)
    table = measured(model, asked, own_answers(model, form, prompts, n_tokens, system_prompt), progress)
    table.insert(1, "prompt", [prompts[item] for item in table["item"]])
    return table.drop(columns="log_p").assign(prompt_digest=form.digest(system_prompt))


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
    table = sweep(model, vector, questions, **options)
    likelier = table["logit_difference"]
    return table.assign(correct=(likelier > 0).astype(float).where(likelier.notna()))


def side_effects(
    model: Any,
    vectors: Mapping[str, SteeringVector],
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
        Steering vectors by name; :func:`caa_interp.match_norms` makes their multipliers comparable.
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
    conditions(model, vectors, None, multipliers)
    if not behaviors:
        raise InputError("behaviors: the mapping is empty; give at least one behavior.")
    if len(set(multipliers)) < 2:
        raise InputError(f"multipliers: {list(multipliers)}; an effect needs at least two. Give two or more.")
    if n_pairs is not None:
        check_count("n_pairs", n_pairs)
    chosen = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(vectors, layers)
    if missing := [name for name in vectors if name not in chosen]:
        raise InputError(f"layers: there is none for {missing[0]!r}. Give one for each of {list(vectors)}.")
    single = {
        name: replace(vector, values=vector.at(chosen[name])[None], layers=(int(chosen[name]),))
        for name, vector in vectors.items()
    }
    pairs = {
        name: check_pairs(one.test if isinstance(one, Behavior) else one, f"behaviors[{name!r}]")[:n_pairs]
        for name, one in behaviors.items()
    }
    tables = {}
    for name, scored in track(pairs.items(), "Measuring", progress, total=len(pairs)):
        tables[name] = sweep(model, single, scored, multipliers=multipliers, progress=False, **options)
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)


def own_answers(
    model: Any, form: PromptFormat, prompts: Sequence[Prompt], n_tokens: int, system_prompt: str | None
) -> list[Known]:
    """The unsteered model's greedy answers; an empty one is its end token."""
    asked = encode_prompts(form, prompts, n_tokens, system_prompt)
    with ambient(model):
        answers = write_all(model, form, asked, [()], max_new_tokens=n_tokens)
    whole = [((*ids, *(answers[n, 0, 0] or [min(form.end_ids, default=0)])), len(ids)) for n, ids in enumerate(asked)]
    return [(*known, end_of_thinking(form, *known, growing=True)) for known in whole]


def measured(model: Any, asked: Sequence[Condition], sequences: Sequence[Known], progress: bool) -> pd.DataFrame:
    """Log-probability and divergence at every token after a prompt, for sequences that each begin with their prompt."""
    with ambient(model) as outer:
        longest = max(len(tokens) for tokens, _, _ in sequences) - 1
        warn_of_idle([outer, *(condition.interventions for condition in asked)], longest)

        def branches(item: int, tokens: tuple[int, ...], n_prompt: int, thinking_end: float | None) -> list[Branch]:
            places = tuple(range(n_prompt - 1, len(tokens) - 1))
            targets = tuple((at, tokens[at + 1]) for at in places)
            return [
                Branch(
                    tokens[:-1],
                    condition.edits(n_prompt, thinking_end, outer),
                    targets,
                    compared=places,
                    label=f"text {item}, {condition}",
                )
                for condition in asked
            ]

        described = pd.DataFrame([{"item": 0, **condition.columns} for condition in asked])
        frames = []
        results = run_trees(model, (branches(item, *sequence) for item, sequence in enumerate(sequences)))
        for number, result in enumerate(track(results, "Measuring", progress, total=len(sequences))):
            frame = described.assign(
                item=number,
                n_tokens=[len(answers) for answers in result.log_probs],
                log_p=[float(answers.double().mean()) for answers in result.log_probs],
                divergence=[float(each.double().mean()) for each in result.divergences],
                divergence_tail=[_tail(each) for each in result.divergences],
                model=model_id(model),
                path=result.path,
            )
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _tail(divergences: torch.Tensor) -> float:
    """Mean of the largest 5 % of ``[n_tokens]``, rounded up."""
    return float(divergences.double().topk(math.ceil(len(divergences) / _TAIL)).values.mean())
