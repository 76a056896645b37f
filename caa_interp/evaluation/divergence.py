"""How far steering moves a model from its own answers: KL(unsteered || steered), in nats per token.

1. The unsteered model answers each prompt.
2. Along that answer, the next-token distributions of every condition are compared with the unsteered ones.
3. The mean over the answer is its divergence. The tail is the mean over the worst 5 % of its tokens: a few broken
   words hardly move the mean of a long answer.

At equal divergence vectors, layers and operators can be compared, whatever the lengths of their vectors
(:mod:`caa_interp.evaluation.strength`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import pandas as pd
import torch

from caa_interp.errors import InputError
from caa_interp.evaluation.answers import AnswerTokens, own_answers
from caa_interp.evaluation.summary import NO_BASELINE
from caa_interp.models.access import check_model, model_id
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt, shown_prompt
from caa_interp.prompts.format import PromptFormat, form_of, tokenizer_of
from caa_interp.steering.context import ambient
from caa_interp.steering.generation import encode_prompts
from caa_interp.steering.intervention import Condition, Steered, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.steering.reading import Read, read_under
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Edit, Operator
from caa_interp.tree.run import run_tree

_TAIL = 20  # one token in so many is in the tail of an answer


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
        such as those of :func:`caa_interp.baselines`, to which ``system_prompt`` and ``prompt_format`` apply as well.
        Each is measured along the same answers, those of ``model`` without steering, alone or steered as the conditions
        say.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, vector, layer and multiplier: ``item``, ``prompt`` (a conversation as JSON), ``vector``,
        ``layer``, ``multiplier``, ``n_tokens``, ``divergence`` (mean of KL(unsteered || steered) over the answer, nats
        per token) and ``divergence_tail`` (the same over the 5 % of the answer's tokens with the largest, at least
        one). With ``baselines`` also ``baseline``: ``"none"`` for ``model`` itself, or one of the names given, whose
        divergence is KL(unsteered ``model`` || the model with that prompt, or the tuned one, each steered as the row
        says).
    """
    form = form_of(model, prompt_format)
    asked = conditions(model, vector, form, layers, multipliers, operator, positions)
    bare = _Baseline(model, form, system_prompt, asked)
    others = {name: _baseline(bare, name, one, prompt_format) for name, one in (baselines or {}).items()}
    began = {name: encode_prompts(one.form, prompts, n_tokens, one.system_prompt) for name, one in others.items()}
    sequences = own_answers(model, form, prompts, n_tokens, system_prompt)
    tables = {NO_BASELINE: measured(model, asked, sequences, progress).assign(prompt_digest=form.digest(system_prompt))}
    for name, one in others.items():
        table = _measured_elsewhere(model, sequences, one, began[name])
        tables[name] = table.assign(prompt_digest=one.form.digest(one.system_prompt))
    table = pd.concat(tables, names=["baseline"]).reset_index("baseline").reset_index(drop=True)
    table.insert(list(table).index("item") + 1, "prompt", [shown_prompt(prompts[item]) for item in table["item"]])
    return table.drop(columns="log_p" if baselines else ["log_p", "baseline"])


def measured(model: Any, asked: Sequence[Condition], sequences: Sequence[AnswerTokens], progress: bool) -> pd.DataFrame:
    """Log-probability and divergence at every token of some answers."""
    items = []
    for one in sequences:
        targets = tuple((at, one.tokens[at + 1]) for at in one.places)
        asks = Branch(one.tokens[:-1], targets=targets, compared=one.places)
        items.append([Read(asks, one.n_prompt, one.thinking_end)])
    frames = []
    with closing(read_under(model, items, asked, "texts")) as results:
        for number, result in enumerate(track(results, "Measuring", progress, total=len(sequences))):
            frame = _frame(asked, number, result.divergences, model, result.path)
            frames.append(frame.assign(log_p=[float(answers.double().mean()) for answers in result.log_probs]))
    return pd.concat(frames, ignore_index=True)


class _Baseline(NamedTuple):
    """A model, how it is addressed, and the conditions there."""

    model: Any
    form: PromptFormat
    system_prompt: str | None
    asked: Sequence[Condition]


def _baseline(bare: _Baseline, name: str, given: Any, prompt_format: PromptFormat | None) -> _Baseline:
    if name == NO_BASELINE:
        raise InputError(f"baselines: {NO_BASELINE!r} is the bare model. Leave it out, or give another name.")
    if isinstance(given, str):
        return bare._replace(system_prompt=given)
    check_model(given)
    if tokenizer_of(given).get_vocab() != bare.model.tokenizer.get_vocab():
        raise InputError(
            f"baselines[{name!r}]: its tokenizer is not the model's, so their next tokens cannot be compared. Give a "
            "system prompt, or a model that was tuned from this one."
        )
    asked = [condition.transferred_to(given) for condition in bare.asked]
    return bare._replace(model=given, form=form_of(given, prompt_format), asked=asked)


def _measured_elsewhere(
    model: Any, sequences: Sequence[AnswerTokens], other: _Baseline, began: Sequence[tuple[int, ...]]
) -> pd.DataFrame:
    """Divergence as in :func:`measured`, of another model, or after other prompts, along the same answers."""
    frames = []
    for number, (one, prompt) in enumerate(zip(sequences, began, strict=True)):
        with ambient(model):
            here, _ = _log_probs(model, one.tokens, one.n_prompt, ())
        whole = (*prompt, *one.tokens[one.n_prompt :])
        thinking_end = end_of_thinking(other.form, whole, len(prompt), growing=True)
        divergences = []
        with ambient(other.model) as outer:
            # One by one, since whole distributions of all conditions would take too much memory.
            for condition in other.asked:
                edits = condition.edits(len(prompt), thinking_end, outer)
                there, path = _log_probs(other.model, whole, len(prompt), edits)
                divergences.append((here.exp() * (here - there)).sum(1))
        frames.append(_frame(other.asked, number, divergences, other.model, path))
    return pd.concat(frames, ignore_index=True)


def _log_probs(model: Any, tokens: tuple[int, ...], n_prompt: int, edits: tuple[Edit, ...]) -> tuple[torch.Tensor, str]:
    """Log-probability of every token at each place of an answer, ``[n_tokens, d_vocab]``."""
    # The mean over one place is the distribution there.
    branches = [Branch(tokens[:-1], edits, averaged=(at,)) for at in range(n_prompt - 1, len(tokens) - 1)]
    result = run_tree(model, branches)
    return torch.stack([one[0].double() for one in result.distributions]), result.path


def _frame(
    asked: Sequence[Condition], item: int, divergences: Sequence[torch.Tensor], model: Any, path: str
) -> pd.DataFrame:
    """Rows of one text: for each condition its divergences ``[n_tokens]`` in a mean and the mean of their tail."""
    return pd.DataFrame([{"item": item, **condition.columns} for condition in asked]).assign(
        n_tokens=[len(each) for each in divergences],
        divergence=[float(each.double().mean()) for each in divergences],
        divergence_tail=[_tail(each) for each in divergences],
        model=model_id(model),
        path=path,
    )


def _tail(divergences: torch.Tensor) -> float:
    """Mean of the largest 5 % of ``[n_tokens]``, rounded up."""
    return float(divergences.double().topk(math.ceil(len(divergences) / _TAIL)).values.mean())
