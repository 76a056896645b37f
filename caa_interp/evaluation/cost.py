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
from caa_interp.evaluation.summary import NO_BASELINE
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import check_model, model_id
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
from caa_interp.tree.edits import Edit, Operator
from caa_interp.tree.run import run_tree, run_trees
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
    baselines: Mapping[str, Any] | None = None,
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
    baselines
        By name a system prompt (a text, in the place of ``system_prompt``) or a tuned model with the same tokenizer,
        such as those of :func:`caa_interp.baselines`. Each is measured along the same answers, those of ``model``
        without steering, alone or steered as the conditions say.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, vector, layer and multiplier: ``item``, ``prompt``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens``, ``divergence`` (mean of KL(unsteered || steered) over the answer, nats per token) and
        ``divergence_tail`` (the same over the 5 % of the answer's tokens with the largest, at least one). With
        ``baselines`` also ``baseline``: ``"none"`` for ``model`` itself, or one of the names given, whose divergence
        is KL(unsteered ``model`` || the model with that prompt, or the tuned one, each steered as the row says).
    """
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, layers, multipliers, operator, positions, form)
    others = {name: _baseline(model, form, name, one) for name, one in (baselines or {}).items()}
    began = {name: encode_prompts(own, prompts, n_tokens, prompt) for name, (_, own, prompt) in others.items()}
    sequences = own_answers(model, form, prompts, n_tokens, system_prompt)
    tables = {NO_BASELINE: measured(model, asked, sequences, progress).assign(prompt_digest=form.digest(system_prompt))}
    for name, (other, own, prompt) in others.items():
        table = _measured_elsewhere(model, sequences, other, own, began[name], asked)
        tables[name] = table.assign(prompt_digest=own.digest(prompt))
    table = pd.concat(tables, names=["baseline"]).reset_index("baseline").reset_index(drop=True)
    table.insert(list(table).index("item") + 1, "prompt", [prompts[item] for item in table["item"]])
    return table.drop(columns="log_p" if baselines else ["log_p", "baseline"])


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
    if len(set(multipliers)) < 2:
        raise InputError(f"multipliers: {list(multipliers)}; an effect needs at least two. Give two or more.")
    chosen, pairs = crossed(vectors, behaviors, layers, n_pairs)
    single = {
        name: replace(vector, values=vector.at(chosen[name])[None], layers=(int(chosen[name]),))
        for name, vector in vectors.items()
    }
    tables = {}
    for name, scored in track(pairs.items(), "Measuring", progress, total=len(pairs)):
        tables[name] = sweep(model, single, scored, multipliers=multipliers, progress=False, **options)
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True)


def crossed(
    vectors: Mapping[str, SteeringVector],
    behaviors: Mapping[str, Behavior | Sequence[ContrastPair]],
    layers: int | Mapping[str, int],
    n_pairs: int | None,
) -> tuple[dict[str, int], dict[str, list[ContrastPair]]]:
    """Layer of each vector, and the pairs of each behavior, the first ``n_pairs``; arguments as in side_effects."""
    if not behaviors:
        raise InputError("behaviors: the mapping is empty; give at least one behavior.")
    if n_pairs is not None:
        check_count("n_pairs", n_pairs)
    chosen = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(vectors, layers)
    if missing := [name for name in vectors if name not in chosen]:
        raise InputError(f"layers: there is none for {missing[0]!r}. Give one for each of {list(vectors)}.")
    return chosen, {
        name: check_pairs(one.test if isinstance(one, Behavior) else one, f"behaviors[{name!r}]")[:n_pairs]
        for name, one in behaviors.items()
    }


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


def _baseline(model: Any, form: PromptFormat, name: str, given: Any) -> tuple[Any, PromptFormat, str | None]:
    """Model, form and system prompt of a baseline."""
    if name == NO_BASELINE:
        raise InputError(f"baselines: {NO_BASELINE!r} is the model without any. Leave it out, or give another name.")
    if isinstance(given, str):
        return model, form, given
    check_model(given)
    if given.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise InputError(
            f"baselines[{name!r}]: its tokenizer is not the model's, so their next tokens cannot be compared. Give a "
            "system prompt, or a model that was tuned from this one."
        )
    return given, PromptFormat.of(given), None


def _measured_elsewhere(
    model: Any,
    sequences: Sequence[Known],
    other: Any,
    form: PromptFormat,
    began: Sequence[tuple[int, ...]],
    asked: Sequence[Condition],
) -> pd.DataFrame:
    """Divergence as in :func:`measured`, of another model, or after other prompts, along the same answers."""
    there = asked if other is model else [condition.transferred_to(other) for condition in asked]
    described = pd.DataFrame([{"item": 0, **condition.columns} for condition in there])
    frames = []
    for number, ((tokens, n_prompt, _), prompt) in enumerate(zip(sequences, began, strict=True)):
        whole = (*prompt, *tokens[n_prompt:])
        thinking_end = end_of_thinking(form, whole, len(prompt), growing=True)
        with ambient(model):
            ((here,), _) = _log_probs(model, tokens, n_prompt, [()])
        with ambient(other) as outer:
            edits = [condition.edits(len(prompt), thinking_end, outer) for condition in there]
            found, path = _log_probs(other, whole, len(prompt), edits)
        divergences = [(here.exp() * (here - one)).sum(1) for one in found]
        frame = described.assign(
            item=number,
            n_tokens=len(here),
            divergence=[float(each.mean()) for each in divergences],
            divergence_tail=[_tail(each) for each in divergences],
            model=model_id(other),
            path=path,
        )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _log_probs(
    model: Any, tokens: tuple[int, ...], n_prompt: int, every: Sequence[tuple[Edit, ...]]
) -> tuple[list[torch.Tensor], str]:
    """Log-probability of every token at each place of an answer, ``[n_tokens, d_vocab]``, under some edits each."""
    places = range(n_prompt - 1, len(tokens) - 1)
    # The mean over one place is the distribution there.
    branches = [Branch(tokens[:-1], edits, averaged=(at,)) for edits in every for at in places]
    result = run_tree(model, branches)
    log_probs = torch.stack([one[0].double() for one in result.distributions])
    return list(log_probs.split(len(places))), result.path


def _tail(divergences: torch.Tensor) -> float:
    """Mean of the largest 5 % of ``[n_tokens]``, rounded up."""
    return float(divergences.double().topk(math.ceil(len(divergences) / _TAIL)).values.mean())
