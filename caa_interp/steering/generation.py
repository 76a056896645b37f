"""Answers to prompts, unsteered or steered, written token by token (Rimsky et al. 2024, section 3).

1. Each prompt is read once, without its last token, for all conditions that change nothing before it.
2. From the last token of the prompt on, every pass holds one token of every answer, and each answer's own
   interventions are applied to it.
3. An answer that the model ends leaves the batch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from caa_interp.errors import InputError
from caa_interp.models.access import CachedDecoder, check_model, input_device, model_id
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, split_thinking
from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Condition, Intervention, Steering, as_interventions, check_fit, conditions
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.tree.edits import EditedBatch, Operator, editing
from caa_interp.vectors.vector import SteeringVector

_ROWS_AT_ONCE = 64
_BROKEN = "\N{REPLACEMENT CHARACTER}"


def generate(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    steering: Sequence[Steering] | Any = None,
    vector: SteeringVector | None = None,
    layer: int | None = None,
    multipliers: Sequence[float] = (1.0,),
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    n: int = 1,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Generate answers to prompts, unsteered or under one or several conditions.

    Parameters
    ----------
    model
        The model.
    prompts
        Texts that the user says, or conversations: lists of ``{"role": ..., "content": ...}`` that end with the user.
    steering
        Conditions, in a list or by name: None (the unsteered model), an :class:`Intervention`, or a list of them that
        are applied in turn.
    vector, layer, multipliers, operator, positions
        The short form: a steering vector at one layer, with each of the multipliers (default: 1), see
        :class:`Intervention`.
    n
        Number of samples per prompt and condition; more than 1 needs a temperature.
    max_new_tokens
        Longest answer in tokens; default 100, as in the paper.
    temperature
        0 (default) is greedy; else tokens are sampled at this temperature.
    top_p
        Sample among the likeliest tokens that together have this probability, above 0 and at most 1 (default).
    seed
        Seed of the sampling. What is drawn for a prompt depends on the seed, the prompt and the number of the sample,
        and on nothing else; all conditions draw the same numbers.
    system_prompt
        Optional system prompt.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per prompt, condition and sample: ``item``, ``prompt`` (a conversation as JSON), ``sample``,
        ``vector``, ``kind``, ``layer``, ``multiplier``, ``operator``, ``positions``, ``answer``, ``thinking`` (for
        models that think first), ``blank`` (whether the model wrote tokens that show no text), ``n_tokens``,
        ``finished`` (whether the model ended the answer itself), ``model`` and ``prompt_digest``.

    Examples
    --------
    >>> up = caa.Intervention(vector, layer=15, multiplier=2)
    >>> answers = caa.generate(model, ["How was your day?"], steering=[None, up], max_new_tokens=8)
    >>> list(answers["multiplier"])
    [0.0, 2.0]
    """
    if isinstance(prompts, str) or not len(prompts):
        raise InputError(f"prompts: {prompts!r}; give a non-empty list of texts or conversations.")
    if isinstance(prompts[0], dict):
        raise InputError("prompts: a single conversation; give a list of conversations, [[...]].")
    _check_sampling(n, max_new_tokens, temperature, top_p)
    check_model(model)
    form = prompt_format or PromptFormat.of(model)
    ids = [
        encode_prompt(form, prompt, max_new_tokens, system_prompt, f"prompts[{number}]")
        for number, prompt in enumerate(prompts)
    ]
    with ambient(model) as outer:
        asked = _conditions(model, form, steering, vector, layer, multipliers, operator, positions)
        at_once = max(1, _ROWS_AT_ONCE // (len(asked) * n))
        portions = [range(begin, min(begin + at_once, len(ids))) for begin in range(0, len(ids), at_once)]
        answers: dict[tuple[int, int, int], list[int]] = {}
        steps = _write_all(model, form, ids, portions, asked, outer, n, max_new_tokens, temperature, top_p, seed)
        for step in track(steps, "Generating", progress, total=len(portions) * max_new_tokens):
            for which, token in step.items():
                answers.setdefault(which, []).append(token)
    rows = []
    for number, prompt in enumerate(prompts):
        shown = prompt if isinstance(prompt, str) else json.dumps([dict(turn) for turn in prompt], ensure_ascii=False)
        for place, condition in enumerate(asked):
            for sample in range(n):
                tokens = answers.get((number, place, sample), [])
                thinking, answer = split_thinking(form, tokens)
                columns = {"item": number, "prompt": shown, "sample": sample, **condition.columns, "answer": answer}
                columns |= {} if form.thinking_end is None else {"thinking": thinking}
                columns |= {"blank": bool(tokens) and not (answer or thinking), "n_tokens": len(tokens)}
                rows.append({**columns, "finished": len(tokens) < max_new_tokens})
    return pd.DataFrame(rows).assign(model=model_id(model), prompt_digest=form.digest(system_prompt))


@dataclass(frozen=True)
class Answer:
    """An answer, or its beginning while it is being written.

    Attributes
    ----------
    text
        What is written so far. A character whose bytes are spread over several tokens appears with the last
        of them.
    tokens
        Ids of the tokens so far.
    finished
        Whether the model ended the answer itself.
    """

    text: str
    tokens: tuple[int, ...]
    finished: bool


def stream_answer(
    model: Any,
    prompt: Prompt,
    steering: Steering = None,
    *,
    max_new_tokens: int = 100,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
) -> Iterator[Answer]:
    """Write the greedy answer to one prompt, and hand it out after every token.

    Parameters
    ----------
    model, prompt, max_new_tokens, system_prompt, prompt_format
        As in :func:`generate`; checked at once, not when the first token is asked for.
    steering
        One condition: None, an :class:`Intervention`, or several in a list.

    Returns
    -------
    Iterator of Answer
        The answer so far after every token, then the whole answer, which is the one that :func:`generate` gives.

    Notes
    -----
    Hooks are on the model only while a token is computed. Between two tokens it is as it was, so that several
    streams may take turns.
    """
    interventions = as_interventions(steering)
    check_fit(model, interventions)
    _check_sampling(1, max_new_tokens, 0.0, 1.0)
    form = prompt_format or PromptFormat.of(model)
    ids = encode_prompt(form, prompt, max_new_tokens, system_prompt, "prompt")

    def written() -> Iterator[Answer]:
        tokens: tuple[int, ...] = ()
        with ambient(model) as outer:
            writing = _Writing(model, form, [ids], [_Row(0, (*outer, *interventions))])
        while len(tokens) < max_new_tokens:
            with ambient(model), writing.hooks():
                step = writing.step()
            if not step:
                break
            tokens += tuple(step.values())
            yield Answer(_text(form, tokens).rstrip(_BROKEN), tokens, finished=False)
        yield Answer(_text(form, tokens), tokens, finished=len(tokens) < max_new_tokens)

    return written()


def encode_prompt(
    form: PromptFormat, prompt: Prompt, max_new_tokens: int, system_prompt: str | None, what: str
) -> tuple[int, ...]:
    """Token ids of a prompt after which an answer has room."""
    ids = form.tokens(prompt, "", system_prompt, what).tokens
    if len(ids) + max_new_tokens > form.n_ctx:
        raise InputError(
            f"{what}: {len(ids)} tokens and {max_new_tokens} new ones do not fit the model's context of "
            f"{form.n_ctx}. Shorten it, or lower max_new_tokens."
        )
    return ids


def greedy_answers(
    model: Any, form: PromptFormat, prompts: Sequence[tuple[int, ...]], max_new_tokens: int
) -> list[tuple[int, ...]]:
    """Tokens of the unsteered greedy answers to prompts, without the token that ends them."""
    at_once = [
        range(begin, min(begin + _ROWS_AT_ONCE, len(prompts))) for begin in range(0, len(prompts), _ROWS_AT_ONCE)
    ]
    answers: list[list[int]] = [[] for _ in prompts]
    unsteered = conditions(model, None)
    for step in _write_all(model, form, prompts, at_once, unsteered, (), 1, max_new_tokens, 0.0, 1.0, 0):
        for (number, _, _), token in step.items():
            answers[number].append(token)
    return [tuple(tokens) for tokens in answers]


def _conditions(
    model: Any,
    form: PromptFormat,
    steering: Any,
    vector: SteeringVector | None,
    layer: int | None,
    multipliers: Sequence[float],
    operator: Operator,
    positions: Positions,
) -> list[Condition]:
    if vector is None:
        if layer is not None:
            raise InputError("vector: it is missing, but a layer is given. Give both, or neither.")
        return conditions(model, steering, form=form)
    if steering is not None:
        raise InputError("steering and vector: both are given. Give conditions in steering, or the short form.")
    if not isinstance(vector, SteeringVector):
        raise InputError(f"vector: {type(vector).__name__}; give one SteeringVector, or conditions in steering.")
    if layer is None and len(vector.layers) > 1:
        raise InputError(f"layer: {vector!r} needs one. Give layer=, one of the vector's.")
    return conditions(model, vector, layer, multipliers, operator, positions, form)


def _check_sampling(n: int, max_new_tokens: int, temperature: float, top_p: float) -> None:
    if isinstance(n, bool) or not hasattr(n, "__index__") or n < 1:
        raise InputError(f"n: {n!r}; give a whole number of samples, at least 1.")
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens}; it must be at least 1.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature: {temperature}; it must be 0 (greedy) or a positive number.")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p: {top_p}; it must be above 0 and at most 1.")
    if temperature == 0 and (n > 1 or top_p < 1):
        raise InputError("temperature: it is 0, so every sample would be the same. Give one above 0, such as 0.7.")


def _text(form: PromptFormat, tokens: Sequence[int]) -> str:
    return str(form.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


def _write_all(
    model: Any,
    form: PromptFormat,
    prompts: Sequence[tuple[int, ...]],
    portions: Sequence[range],
    asked: Sequence[Condition],
    outer: tuple[Intervention, ...],
    n: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
) -> Iterator[dict[tuple[int, int, int], int]]:
    """Write the answers portion by portion, and yield ``{(prompt, condition, sample): token}`` step by step."""
    for portion in portions:
        places = [(number, place, k) for number in portion for place in range(len(asked)) for k in range(n)]
        rows = [
            _Row(
                number - portion.start,
                (*outer, *asked[place].interventions),
                _generator(seed, prompts[number], k) if temperature else None,
            )
            for number, place, k in places
        ]
        writing = _Writing(model, form, [prompts[number] for number in portion], rows, temperature, top_p)
        with writing.hooks():
            for _ in range(max_new_tokens):
                step = writing.step()
                if not step:
                    break
                yield {places[row]: token for row, token in step.items()}


@dataclass(frozen=True)
class _Row:
    """One answer: the number of its prompt, what is done while it is written, and where its random numbers are from."""

    prompt: int
    interventions: tuple[Intervention, ...]
    generator: torch.Generator | None = None


class _Writing:
    """Answers that are being written side by side; rows of one prompt stand together, and equally many per prompt."""

    def __init__(
        self,
        model: Any,
        form: PromptFormat,
        prompts: Sequence[tuple[int, ...]],
        rows: Sequence[_Row],
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        self.model, self.form, self.rows, self.device = model, form, rows, input_device(model)
        self.tokens = [list(prompts[row.prompt]) for row in rows]
        self.n_prompt = [len(tokens) for tokens in self.tokens]
        self.alive = list(range(len(rows)))
        self.warpers = [TemperatureLogitsWarper(temperature)] if temperature else []
        self.warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
        self.layers = sorted({one.layer for row in rows for one in row.interventions if one.multiplier})
        self.decoder = CachedDecoder(model)
        self._resolve()
        self._read(prompts)

    def hooks(self) -> Any:
        """Context in which the model must be while a step is taken."""
        return editing(self.model, self.layers, lambda layer, activation: self.batch.apply(layer, activation))

    def _resolve(self) -> None:
        """Find the steered positions of the rows that are still being written."""
        self.batch = EditedBatch(
            [
                [one.edit(self.n_prompt[row], self._thinking_end(row)) for one in self.rows[row].interventions]
                for row in self.alive
            ]
        )

    def _thinking_end(self, row: int) -> float | None:
        return end_of_thinking(self.form, self.tokens[row], self.n_prompt[row], growing=True)

    @torch.no_grad()
    def _read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read the prompts without their last tokens: once each, unless a row is steered there."""
        width, n_each = max(map(len, prompts)), len(self.rows) // len(prompts)
        early = any(
            edit.first(n - 1) < n - 1
            for n, edits in zip(self.n_prompt, self.batch.edits, strict=True)
            for edit in edits
        )
        each = [prompt for prompt in prompts for _ in range(n_each)] if early else list(prompts)
        tokens = torch.zeros(len(each), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(each):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        if width > 1:
            if early:
                self.batch.place(np.arange(width - 1) - (width - np.array([len(one) for one in each]))[:, None])
            with editing(self.model, self.layers if early else (), self.batch.apply):
                self.decoder.forward(tokens[:, :-1].to(self.device), mask[:, :-1].to(self.device))
            if not early:
                at = torch.arange(len(prompts), device=self.device).repeat_interleave(n_each)
                self.decoder.select(at)

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """Write the next token of every row; a row whose answer the model has ended is in no further step."""
        if not self.alive:
            return {}
        self.batch.place(np.array([[len(self.tokens[row]) - 1] for row in self.alive]))
        last = torch.tensor([[self.tokens[row][-1]] for row in self.alive], device=self.device)
        logits = self.decoder.forward(last, torch.ones_like(last))[:, -1]
        chosen = self._choose(logits)
        written = {row: token for row, token in zip(self.alive, chosen, strict=True) if token not in self.form.end_ids}
        if len(written) < len(self.alive):
            kept = [place for place, row in enumerate(self.alive) if row in written]
            self.alive = list(written)
            if kept:
                self.decoder.select(torch.tensor(kept, device=self.device))
            self.batch = EditedBatch([self.batch.edits[place] for place in kept])
        for row, token in written.items():
            self.tokens[row].append(token)
        if any(one.positions == "after_thinking" for row in self.alive for one in self.rows[row].interventions):
            self._resolve()
        return written

    def _choose(self, logits: torch.Tensor) -> list[int]:
        """Next token of every row: the most likely, or one drawn with the row's own generator."""
        if not self.warpers:
            return logits.argmax(-1).tolist()
        scores: Any = logits.float()
        for warper in self.warpers:
            scores = warper(None, scores)
        probabilities = scores.softmax(-1).cpu()
        return [
            int(torch.multinomial(row, 1, generator=self.rows[alive].generator))
            for alive, row in zip(self.alive, probabilities, strict=True)
        ]


def _generator(seed: int, prompt: Sequence[int], sample: int) -> torch.Generator:
    """Random numbers of one sample of one prompt, which nothing else has a part in."""
    digest = hashlib.sha256(json.dumps([int(seed), list(prompt), sample]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
