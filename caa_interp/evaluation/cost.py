"""What steering costs: prose that becomes less likely, words that drift from the unsteered model's, questions missed.

1. Perplexity of neutral prose, and how far the next-token distributions move on it.
2. The same distance on what the unsteered model itself would answer: KL(unsteered || steered), in nats per token.
   At equal distance vectors, layers and operators can be compared, whatever the lengths of their vectors
   (:mod:`caa_interp.evaluation.strength`).
3. Capability: two-option questions with a right answer (Rimsky et al. 2024, section 5, on MMLU).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import model_id
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format
from caa_interp.steering.context import ambient
from caa_interp.steering.generation import encode_prompt, greedy_answers
from caa_interp.steering.intervention import Condition, Steered, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions
from caa_interp.tree.branches import Branch
from caa_interp.tree.edits import Operator
from caa_interp.tree.run import run_trees


def perplexity(
    model: Any,
    vector: Steered,
    passages: Sequence[str],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    max_tokens: int = 256,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how likely passages of text are under steering.

    The text stands by itself, without a chat form; its first two tokens count as the prompt, so that it is steered
    from its second token on. The first, which is the BOS token where a tokenizer puts one, is what models rest their
    attention on.

    Parameters
    ----------
    model
        The model.
    vector
        A steering vector, several by name, or interventions, as in :func:`caa_interp.sweep`.
    passages
        Texts, such as those of :func:`caa_interp.load_prose`; at least three tokens each.
    layers
        0-based block indices; default: all of the vector's.
    multipliers
        Finite numbers; 0 is the unsteered model, exactly.
    operator, positions
        What is done with vector and multiplier, and where, see :class:`Intervention`.
    max_tokens
        Passages are cut to this many tokens.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per passage, vector, layer and multiplier: ``item``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens`` (that are predicted), ``nats_per_token`` (mean negative log-probability; perplexity is its
        exponential) and ``divergence`` (mean of KL(unsteered || steered) over the same places, nats per token).
    """
    if isinstance(passages, str) or not len(passages):
        raise InputError(f"passages: {passages!r}; give a non-empty list of texts.")
    if max_tokens < 3:
        raise InputError(f"max_tokens: {max_tokens}; it must be at least 3.")
    limit = min(max_tokens, int(model.cfg.n_ctx))
    sequences = []
    for number, passage in enumerate(passages):
        tokens = tuple(model.tokenizer(passage)["input_ids"][:limit]) if isinstance(passage, str) else ()
        if len(tokens) < 3:
            raise InputError(f"passages[{number}]: {passage!r} has fewer than three tokens; give a longer text.")
        sequences.append((tokens, 2))
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
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
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
        As in :func:`perplexity`.
    prompts
        What the user says, see :func:`caa_interp.generate`.
    n_tokens
        Longest answer, in tokens.
    system_prompt, prompt_format
        As in :func:`caa_interp.generate`.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, vector, layer and multiplier: ``item``, ``prompt``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens`` and ``divergence`` (mean of KL(unsteered || steered) over the answer, nats per token).
    """
    form = prompt_format or PromptFormat.of(model)
    asked = conditions(model, vector, layers, multipliers, operator, positions, form)
    table = measured(model, asked, own_answers(model, form, prompts, n_tokens, system_prompt), progress)
    table.insert(1, "prompt", [prompts[item] for item in table["item"]])
    return table.drop(columns="log_p").assign(prompt_digest=form.digest(system_prompt))


def capability(
    model: Any,
    vector: Steered,
    questions: Iterable[ContrastPair],
    *,
    format: Format | None = None,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Answer two-option questions under steering (Rimsky et al. 2024, section 5).

    Parameters
    ----------
    model, vector, format, layers, multipliers, operator, positions, system_prompt, prompt_format, progress
        As in :func:`caa_interp.sweep`.
    questions
        Questions whose positive answer is the right one, see :func:`caa_interp.load_questions`.

    Returns
    -------
    pandas.DataFrame
        The table of :func:`caa_interp.sweep` and ``correct``: 1 where the right answer is the likelier one, else 0.
        The paper's measure, the mean probability of the right letter, is ``p_positive``.
    """
    table = sweep(
        model,
        vector,
        questions,
        format=format,
        layers=layers,
        multipliers=multipliers,
        operator=operator,
        positions=positions,
        system_prompt=system_prompt,
        prompt_format=prompt_format,
        progress=progress,
    )
    return table.assign(correct=(table["logit_difference"] > 0).astype(float))


def own_answers(
    model: Any, form: PromptFormat, prompts: Sequence[Prompt], n_tokens: int, system_prompt: str | None
) -> list[tuple[tuple[int, ...], int]]:
    """The unsteered model's greedy answers, as sequences of the model's own tokens and the length of their prompts.

    An answer without a token counts as its end, the one token that is compared then.
    """
    if isinstance(prompts, str) or not len(prompts):
        raise InputError(f"prompts: {prompts!r}; give a non-empty list of texts or conversations.")
    asked = [encode_prompt(form, prompt, n_tokens, system_prompt, f"prompts[{n}]") for n, prompt in enumerate(prompts)]
    with ambient(model):
        answers = greedy_answers(model, form, asked, n_tokens)
    end = (min(form.end_ids, default=0),)
    return [(ids + (answer or end), len(ids)) for ids, answer in zip(asked, answers, strict=True)]


def measured(
    model: Any, asked: Sequence[Condition], sequences: Sequence[tuple[tuple[int, ...], int]], progress: bool
) -> pd.DataFrame:
    """Log-probability and divergence at every token after a prompt, for sequences that each begin with their prompt."""
    with ambient(model) as outer:

        def branches(tokens: tuple[int, ...], n_prompt: int) -> list[Branch]:
            places = tuple(range(n_prompt - 1, len(tokens) - 1))
            targets = tuple((at, tokens[at + 1]) for at in places)
            return [
                Branch(tokens[:-1], condition.edits(n_prompt, None, outer), targets, compared=places)
                for condition in asked
            ]

        described = pd.DataFrame([condition.columns for condition in asked])
        frames = []
        results = run_trees(model, (branches(*sequence) for sequence in sequences))
        for number, result in enumerate(track(results, "Measuring", progress, total=len(sequences))):
            frame = described.assign(
                n_tokens=[len(answers) for answers in result.log_probs],
                log_p=[float(answers.double().mean()) for answers in result.log_probs],
                divergence=[float(found.double().mean()) for found in result.divergences],
                model=model_id(model),
                path=result.path,
            )
            frame.insert(0, "item", number)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)
