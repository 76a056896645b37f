"""Answers to prompts, unsteered or steered, written token by token (Rimsky et al. 2024, section 3).

1. Each prompt is read once, without its last token: no multiplier changes what comes before that.
2. From the last token of the prompt on, every pass holds one token of every answer, and after block L the
   answer's own ``multiplier * vector`` is added (or another operator applied).
3. An answer that the model ends leaves the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import CachedDecoder, end_of_text_ids, input_device, model_id, residual_hooks
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat
from caa_interp.steering.context import check_multipliers
from caa_interp.steering.operators import Operator, add, apply_operator, name_of
from caa_interp.vectors.vector import SteeringVector

_ROWS_AT_ONCE = 64
_BROKEN = "\N{REPLACEMENT CHARACTER}"


def generate(
    model: Any,
    prompts: Sequence[str],
    *,
    vector: SteeringVector | None = None,
    layer: int | None = None,
    multipliers: Sequence[float] = (0.0,),
    operator: Operator = add,
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    seed: int = 0,
    system_prompt: str | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Generate answers to prompts, unsteered or steered with several multipliers.

    Each prompt is read once, without its last token, which no multiplier changes; then the answers to all
    prompts under all multipliers are written side by side, and those that are finished leave.

    Parameters
    ----------
    model
        The model.
    prompts
        What the user says; put into the model's chat form.
    vector, layer
        Steering vector and 0-based block index; needed unless all multipliers are 0.
    multipliers
        Finite numbers; 0 is the unsteered model.
    operator
        What is done with vector and multiplier, see :mod:`caa_interp.steering.operators`; default: addition.
    max_new_tokens
        Longest answer in tokens; default 100, as in the paper.
    temperature
        0 (default) is greedy; else tokens are sampled at this temperature.
    seed
        Seed of the sampling. A prompt's random numbers are the same for all multipliers and do not depend
        on the other prompts.
    system_prompt
        Optional system prompt.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per prompt and multiplier: item, prompt, vector (its name, or ``"unsteered"``), kind, layer,
        multiplier, answer, n_tokens, finished (whether the model ended the answer itself), operator, model, path.
    """
    multipliers = check_multipliers(multipliers)
    if isinstance(prompts, str) or not len(prompts):
        raise InputError(f"prompts: {prompts!r}; give a non-empty list of texts.")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise InputError(f"temperature: {temperature}; it must be 0 (greedy) or a positive number.")
    direction = _direction(model, vector, layer, multipliers)
    form = PromptFormat.of(model)
    named = {f"prompts[{number}]": prompt for number, prompt in enumerate(prompts)}
    ids = [encode_prompt(form, prompt, max_new_tokens, system_prompt, what) for what, prompt in named.items()]
    at_once = max(1, _ROWS_AT_ONCE // len(multipliers))
    portions = [range(begin, min(begin + at_once, len(ids))) for begin in range(0, len(ids), at_once)]
    rows = []
    for portion in track(portions, "Generating", progress):
        generators = [_generator(seed, number) for number in portion for _ in multipliers]
        edit = _Edit(operator, direction, torch.tensor([m for _ in portion for m in multipliers]))
        answers: list[list[int]] = [[] for _ in edit.multipliers]
        hooks, steps = _decode(
            model, [ids[n] for n in portion], edit, layer or 0, max_new_tokens, temperature, generators
        )
        with residual_hooks(model, hooks):
            for step in steps:
                for row, token in step.items():
                    answers[row].append(token)
        for index, tokens in enumerate(answers):
            number, multiplier = portion[index // len(multipliers)], multipliers[index % len(multipliers)]
            rows.append(
                {
                    "item": number,
                    "prompt": prompts[number],
                    "layer": layer,
                    "multiplier": multiplier,
                    "answer": _text(form, tokens),
                    "n_tokens": len(tokens),
                    "finished": len(tokens) < max_new_tokens,
                }
            )
    known = ("unsteered", "unsteered") if vector is None else (vector.name, vector.metadata.get("kind", "vector"))
    table = pd.DataFrame(rows)
    for place, name in enumerate(("vector", "kind")):
        table.insert(2 + place, name, known[place])
    # Answers are written token by token, which no tree does.
    return table.assign(operator=name_of(operator), model=model_id(model), path="plain")


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
    prompt: str,
    *,
    vector: SteeringVector,
    layer: int,
    multiplier: float,
    operator: Operator = add,
    max_new_tokens: int = 100,
    system_prompt: str | None = None,
) -> Iterator[Answer]:
    """Write the greedy answer to one prompt, and hand it out after every token.

    Parameters
    ----------
    model, prompt, vector, layer, multiplier, operator, max_new_tokens, system_prompt
        As in :func:`generate`; checked at once, not when the first token is asked for.

    Returns
    -------
    Iterator of Answer
        The answer so far after every token, then the whole answer, which is the one that :func:`generate` gives.

    Notes
    -----
    Hooks are on the model only while a token is computed. Between two tokens it is as it was, so that several
    streams may take turns.
    """
    (multiplier,) = check_multipliers((multiplier,))
    direction = _direction(model, vector, layer, [multiplier])
    form = PromptFormat.of(model)
    ids = encode_prompt(form, prompt, max_new_tokens, system_prompt, "prompt")

    def written() -> Iterator[Answer]:
        tokens: tuple[int, ...] = ()
        edit = _Edit(operator, direction, torch.tensor([multiplier]))
        hooks, steps = _decode(model, [ids], edit, layer, max_new_tokens)
        while True:
            with residual_hooks(model, hooks):
                step = next(steps, None)
            if step is None:
                break
            tokens += tuple(step.values())
            yield Answer(_text(form, tokens).rstrip(_BROKEN), tokens, finished=False)
        yield Answer(_text(form, tokens), tokens, finished=len(tokens) < max_new_tokens)

    return written()


@dataclass(frozen=True)
class _Edit:
    """What is done to a batch: an operator, a vector ``[d_model]``, and a multiplier for each row, ``[n_rows]``."""

    operator: Operator
    vector: torch.Tensor
    multipliers: torch.Tensor

    def of(self, rows: torch.Tensor) -> _Edit:
        return replace(self, multipliers=self.multipliers[rows])

    def __call__(self, activation: torch.Tensor) -> torch.Tensor:
        return apply_operator(self.operator, activation, self.vector, self.multipliers[:, None, None])


def _direction(
    model: Any, vector: SteeringVector | None, layer: int | None, multipliers: Sequence[float]
) -> torch.Tensor:
    """Vector ``[d_model]`` that is applied; zeros where none is needed."""
    if any(multipliers) and (vector is None or layer is None):
        raise InputError("vector and layer: both are needed for a multiplier other than 0. Give them.")
    if vector is not None:
        vector.check_fits(model)
    return vector.at(layer) if vector is not None and layer is not None else torch.zeros(int(model.cfg.d_model))


def encode_prompt(
    form: PromptFormat, prompt: str, max_new_tokens: int, system_prompt: str | None, what: str
) -> tuple[int, ...]:
    """Token ids of a prompt after which an answer has room."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {max_new_tokens}; it must be at least 1.")
    ids = form.encode(prompt, "", system_prompt, what=what)
    if len(ids) + max_new_tokens > form.n_ctx:
        raise InputError(
            f"{what}: {len(ids)} tokens and {max_new_tokens} new ones do not fit the model's context of "
            f"{form.n_ctx}. Shorten it, or lower max_new_tokens."
        )
    return ids


def _text(form: PromptFormat, tokens: Sequence[int]) -> str:
    return str(form.tokenizer.decode(tokens, skip_special_tokens=True)).strip()


@torch.no_grad()
def _decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    edit: _Edit,
    layer: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> tuple[dict[int, Callable[[torch.Tensor], torch.Tensor]], Iterator[dict[int, int]]]:
    """Read the prompts; return the steps of the answers and the hooks that must be on the model during a step.

    There are ``len(edit.multipliers) // len(prompts)`` rows a prompt. A step is ``{row: next token}``; a row whose
    answer the model has ended is in no further step.
    """
    device, n_rows = input_device(model), len(edit.multipliers)
    n_each = n_rows // len(prompts)
    width = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    decoder = CachedDecoder(model)
    if width > 1:
        decoder.forward(tokens[:, :-1].to(device), mask[:, :-1].to(device))
        decoder.select(torch.arange(len(prompts), device=device).repeat_interleave(n_each))
    last = tokens[:, -1].repeat_interleave(n_each).to(device)
    ends = end_of_text_ids(model)
    alive = list(range(n_rows))
    edit = replace(edit, vector=edit.vector.to(device), multipliers=edit.multipliers.to(device))

    def steer_rows(activation: torch.Tensor) -> torch.Tensor:
        return edit(activation)

    @torch.no_grad()
    def steps() -> Iterator[dict[int, int]]:
        nonlocal last, alive, edit
        for _ in range(max_new_tokens):
            logits = decoder.forward(last[:, None], torch.ones_like(last)[:, None])[:, -1]
            last = _choose(logits, temperature, [generators[row] for row in alive] if temperature else ())
            written = {row: token for row, token in zip(alive, last.tolist(), strict=True) if token not in ends}
            if not written:
                return
            if len(written) < len(alive):
                kept = torch.tensor([place for place, row in enumerate(alive) if row in written], device=device)
                decoder.select(kept)
                last, edit, alive = last[kept], edit.of(kept), list(written)
            yield written

    return {layer: steer_rows} if bool(edit.multipliers.any()) else {}, steps()


def _choose(logits: torch.Tensor, temperature: float, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Next token of every row: the most likely, or one drawn with the row's own generator."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / temperature).softmax(-1).cpu()
    drawn = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators, strict=True)]
    return torch.cat(drawn).to(logits.device)


def _generator(seed: int, item: int) -> torch.Generator:
    """Random numbers of one prompt, independent of those of the others."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, item]).generate_state(1)[0]))
