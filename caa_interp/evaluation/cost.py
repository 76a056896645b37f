"""What steering costs: prose that becomes less likely, words that drift from the unsteered model's, questions missed.

1. Perplexity of neutral prose, and how far the next-token distributions move on it.
2. The same distance on what the unsteered model itself would answer: KL(unsteered || steered), in nats per token.
   At equal distance vectors, layers and operators can be compared, whatever the lengths of their vectors
   (:mod:`caa_interp.evaluation.strength`).
3. Capability: two-option questions with a right answer (Rimsky et al. 2024, section 5, on MMLU).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError
from caa_interp.evaluation.sweep import check_vectors, described, sweep
from caa_interp.models.access import end_of_text_ids
from caa_interp.progress import track
from caa_interp.prompts.format import Format, PromptFormat, common_prefix
from caa_interp.steering.context import check_multipliers
from caa_interp.steering.generation import generate
from caa_interp.steering.operators import Operator, add
from caa_interp.tree import Branch, Edit, run_trees
from caa_interp.vectors.vector import SteeringVector


def perplexity(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    passages: Sequence[str],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    max_tokens: int = 256,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how likely passages of text are under steering.

    The text stands by itself, without a chat form. It is steered from its second token on: the first, which is the
    BOS token where a tokenizer puts one, is what models rest their attention on.

    Parameters
    ----------
    model
        The model.
    vector
        A steering vector, or several by name.
    passages
        Texts, such as those of :func:`caa_interp.load_prose`; at least three tokens each.
    layers
        0-based block indices; default: all of the vector's.
    multipliers
        Finite numbers; 0 is the unsteered model, exactly.
    operator
        See :mod:`caa_interp.steering.operators`; default: addition.
    max_tokens
        Passages are cut to this many tokens.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per passage, vector, layer and multiplier: ``item``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens`` (that are predicted), ``nats_per_token`` (mean negative log-probability; perplexity is its
        exponential) and ``divergence`` (mean of KL(unsteered || steered) over the same places, nats per token);
        ``kind``, ``operator``, ``model`` and ``path`` as in :func:`caa_interp.sweep`.
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
        sequences.append((tokens, 1))
    table = measured(model, vector, sequences, layers, multipliers, operator, progress)
    surprise = -table.pop("log_p")
    table.insert(list(table.columns).index("divergence"), "nats_per_token", surprise)
    return table


def divergence(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    prompts: Sequence[str],
    *,
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    n_tokens: int = 32,
    system_prompt: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure how far steering moves the model from its own answers.

    The unsteered model answers each prompt; along that answer the steered model's next-token distributions are
    compared with the unsteered ones.

    Parameters
    ----------
    model, vector, layers, multipliers, operator, progress
        As in :func:`perplexity`.
    prompts
        What the user says; put into the model's chat form.
    n_tokens
        Longest answer, in tokens.
    system_prompt
        Optional system prompt.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, vector, layer and multiplier: ``item``, ``prompt``, ``vector``, ``layer``, ``multiplier``,
        ``n_tokens`` and ``divergence`` (mean of KL(unsteered || steered) over the answer, nats per token); ``kind``,
        ``operator``, ``model`` and ``path`` as in :func:`caa_interp.sweep`.
    """
    check_vectors(model, vector, layers)
    check_multipliers(multipliers)
    sequences = own_answers(model, prompts, n_tokens, system_prompt)
    table = measured(model, vector, sequences, layers, multipliers, operator, progress)
    table.insert(1, "prompt", [prompts[item] for item in table["item"]])
    return table.drop(columns="log_p")


def capability(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    questions: Iterable[ContrastPair],
    *,
    format: Format = "choices",
    layers: int | Sequence[int] | None = None,
    multipliers: Sequence[float] = (-1.0, 0.0, 1.0),
    operator: Operator = add,
    system_prompt: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Answer two-option questions under steering (Rimsky et al. 2024, section 5).

    Parameters
    ----------
    model, vector, format, layers, multipliers, operator, system_prompt, progress
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
        system_prompt=system_prompt,
        progress=progress,
    )
    return table.assign(correct=(table["logit_difference"] > 0).astype(float))


def own_answers(
    model: Any, prompts: Sequence[str], n_tokens: int, system_prompt: str | None
) -> list[tuple[tuple[int, ...], int]]:
    """The unsteered model's greedy answers, as sequences and the first position that is steered.

    An answer without any text counts as its end, the one token that is compared then.
    """
    answers = generate(model, prompts, max_new_tokens=n_tokens, system_prompt=system_prompt)["answer"]
    form, sequences = PromptFormat.of(model), []
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        what = f"prompts[{number}]"
        asked, answered = (form.encode(prompt, text, system_prompt, what) for text in ("", answer))
        if not answer:
            answered = (*asked, min(end_of_text_ids(model), default=asked[-1]))
        sequences.append((answered, min(common_prefix(asked, answered), len(answered) - 1) - 1))
    return sequences


def measured(
    model: Any,
    vector: SteeringVector | Mapping[str, SteeringVector],
    sequences: Sequence[tuple[tuple[int, ...], int]],
    layers: int | Sequence[int] | None,
    multipliers: Sequence[float],
    operator: Operator,
    progress: bool,
) -> pd.DataFrame:
    """Log-probability and divergence at every predicted token of sequences that are steered from a position on."""
    vectors, chosen = check_vectors(model, vector, layers)
    values = check_multipliers(multipliers)
    conditions = [(name, layer, m) for name in vectors for layer in chosen[name] for m in values]

    def branches(tokens: tuple[int, ...], start: int) -> list[Branch]:
        places = tuple(range(start, len(tokens) - 1))
        targets = tuple((at, tokens[at + 1]) for at in places)
        return [
            Branch(
                tokens[:-1],
                (Edit(layer, vectors[name].at(layer), start, m, operator),) if m else (),
                targets,
                compared=places,
            )
            for name, layer, m in conditions
        ]

    frames = []
    results = run_trees(model, (branches(*sequence) for sequence in sequences))
    for number, result in enumerate(track(results, "Measuring", progress, total=len(sequences))):
        frame = pd.DataFrame(conditions, columns=["vector", "layer", "multiplier"])
        frame.insert(0, "item", number)
        frames.append(
            frame.assign(
                n_tokens=[len(answers) for answers in result.log_probs],
                log_p=[float(answers.double().mean()) for answers in result.log_probs],
                divergence=[float(found.double().mean()) for found in result.divergences],
                path=result.path,
            )
        )
    return described(pd.concat(frames, ignore_index=True), model, vectors, operator)
