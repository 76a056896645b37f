"""Several answers written side by side, one token per step.

Each prompt is read once, without its last token, unless a row is steered there. From the last token of the prompt on,
every pass holds one token of every answer, and each row's own edits are applied to it. An answer that the model ends
leaves the batch.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from caa_interp.models.access import input_device, not_numbers
from caa_interp.models.attention import rotary_boundary
from caa_interp.models.decoding import Decoder
from caa_interp.models.memory import cache_bytes, rows_that_fit
from caa_interp.models.unwrapped import bare
from caa_interp.progress import counting
from caa_interp.prompts.format import PromptFormat
from caa_interp.steering.intervention import Intervention
from caa_interp.steering.positions import end_of_thinking
from caa_interp.tree.edits import EditedBatch, editing

# Answers that are written side by side, on a processor and on a GPU, if the memory holds them.
ROWS_ON_CPU, ROWS_ON_GPU = 64, 256
_SHARE_OF_FREE_MEMORY = 0.5
# An answer: the index of its prompt, that of its condition, and the number of the sample.
Place = tuple[int, int, int]


def write_all(
    model: Any,
    form: PromptFormat,
    prompts: Sequence[tuple[int, ...]],
    asked: Sequence[Sequence[Intervention]],
    max_new_tokens: int,
    n: int = 1,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    progress: bool = False,
    own: Sequence[Sequence[Intervention]] | None = None,
) -> dict[Place, list[int]]:
    """Write the answers to all ``prompts`` (token ids) under all conditions, each the interventions applied in turn.

    Options as in :func:`caa_interp.generate`; ``own`` are interventions of single prompts, which act first. Returns
    ``{(prompt, condition, sample): tokens}``, without the token that ends an answer.
    """
    every = [(number, place, k) for number in range(len(prompts)) for place in range(len(asked)) for k in range(n)]
    answers: dict[Place, list[int]] = {place: [] for place in every}
    portions = _portions(model, [len(prompt) + max_new_tokens for prompt in prompts], every)
    with counting(len(portions) * max_new_tokens, "Generating", progress) as bar:
        for places in portions:
            numbers = list(dict.fromkeys(number for number, _, _ in places))
            rows = []
            for number, place, k in places:
                applied = (*(own[number] if own else ()), *asked[place])
                label = f"prompts[{number}], {', then '.join(map(repr, applied)) or 'unsteered'}"
                rows.append(Row(numbers.index(number), applied, _generator(seed, prompts[number], k), label))
            chosen = [prompts[number] for number in numbers]
            longest = max(map(len, chosen)) + max_new_tokens
            with bare(model):
                writing = Writing(model, form, chosen, rows, temperature, top_p, longest)
                for _ in range(max_new_tokens):
                    step = writing.step()
                    if not step:
                        break
                    for row, token in step.items():
                        answers[places[row]].append(token)
                    if bar is not None:
                        bar.update()
    return answers


def _portions(model: Any, lengths: Sequence[int], every: Sequence[Place]) -> list[list[Place]]:
    """Cut answers into portions that fit the memory; ``lengths`` are those of prompts with the longest answer.

    A portion holds whole prompts, or some answers to one.
    """
    logits_bytes = 4 * int(model.cfg.d_vocab)
    row_bytes = max(lengths) * cache_bytes(model) + 4 * logits_bytes  # sampling sorts copies of them
    if not Decoder(model, max(lengths)).cached:
        row_bytes += max(lengths) * logits_bytes
    most = ROWS_ON_CPU if input_device(model).type == "cpu" else ROWS_ON_GPU
    at_once = min(most, rows_that_fit(model, row_bytes, _SHARE_OF_FREE_MEMORY))
    n_beside = max(1, at_once * len(lengths) // len(every))
    boundary = rotary_boundary(model) or math.inf
    usual = [number for number, length in enumerate(lengths) if length <= boundary]
    groups = [usual[begin : begin + n_beside] for begin in range(0, len(usual), n_beside)]
    groups += [[number] for number, length in enumerate(lengths) if length > boundary]
    places = [[place for place in every if place[0] in group] for group in groups]
    return [some[begin : begin + at_once] for some in places for begin in range(0, len(some), at_once)]


@dataclass(frozen=True)
class Row:
    """One answer: the index of its prompt, its interventions, and the source of its random numbers, if it needs any.

    ``label`` is what an error calls it.
    """

    prompt: int
    interventions: tuple[Intervention, ...]
    generator: torch.Generator | None = None
    label: str = ""


class Writing:
    """Answers that are being written side by side; rows of one prompt stand together, and equally many per prompt."""

    def __init__(
        self,
        model: Any,
        form: PromptFormat,
        prompts: Sequence[tuple[int, ...]],
        rows: Sequence[Row],
        temperature: float = 0.0,
        top_p: float = 1.0,
        longest: int = 0,
    ) -> None:
        self.model, self.form, self.rows = model, form, rows
        self.tokens = [list(prompts[row.prompt]) for row in rows]
        self.n_prompt = [len(tokens) for tokens in self.tokens]
        self.alive = list(range(len(rows)))
        self.warpers = [TemperatureLogitsWarper(float(temperature))] if temperature else []
        self.warpers += [TopPLogitsWarper(float(top_p))] if top_p < 1 else []
        self.layers = sorted({one.layer for row in rows for one in row.interventions if one.multiplier})
        self.decoder = Decoder(model, longest)
        self._resolve()
        self._read(prompts)

    def _resolve(self) -> None:
        """Find the steered positions of the rows that are still being written."""
        batch = []
        for row in self.alive:
            end = end_of_thinking(self.form, self.tokens[row], self.n_prompt[row], growing=True)
            batch.append([one.edit(self.n_prompt[row], end) for one in self.rows[row].interventions])
        self.batch = EditedBatch(batch)

    @torch.no_grad()
    def _read(self, prompts: Sequence[tuple[int, ...]]) -> None:
        """Read the prompts without their last tokens: once each, unless a row is steered there."""
        n_each = len(self.rows) // len(prompts)
        before = [n - 1 for n in self.n_prompt]
        early = any(edit.first(n) < n for n, edits in zip(before, self.batch.edits, strict=True) for edit in edits)
        each = [prompt for prompt in prompts for _ in range(n_each)] if early else list(prompts)
        tokens, mask = (
            pad_sequence(list(map(torch.tensor, some)), batch_first=True, padding_side="left")
            for some in (each, [[1] * len(prompt) for prompt in each])
        )
        if tokens.shape[1] > 1:
            if early:
                self.batch.place(self.decoder.positions(mask[:, :-1]))
            with editing(self.model, self.layers if early else (), self.batch.apply):
                self.decoder.forward(tokens[:, :-1], mask[:, :-1])
            if not early:
                self.decoder.select(torch.arange(len(prompts)).repeat_interleave(n_each))

    @torch.no_grad()
    def step(self) -> dict[int, int]:
        """Write the next token of every row; a row whose answer the model has ended is in no further step."""
        if not self.alive:
            return {}
        last = torch.tensor([[self.tokens[row][-1]] for row in self.alive])
        mask = torch.ones_like(last)
        self.batch.place(self.decoder.positions(mask))
        with editing(self.model, self.layers, self.batch.apply):
            logits = self.decoder.forward(last, mask)[:, -1]
        chosen = self._choose(logits)
        written = {row: token for row, token in zip(self.alive, chosen, strict=True) if token not in self.form.end_ids}
        if len(written) < len(self.alive):
            kept = [place for place, row in enumerate(self.alive) if row in written]
            self.alive = list(written)
            if kept:
                self.decoder.select(torch.tensor(kept))
            self.batch = EditedBatch([self.batch.edits[place] for place in kept])
        for row, token in written.items():
            self.tokens[row].append(token)
        if any(one.positions == "after_thinking" for row in self.alive for one in self.rows[row].interventions):
            self._resolve()
        return written

    def _choose(self, logits: torch.Tensor) -> list[int]:
        """Next token of every row: the most likely, or one drawn with the row's own generator."""
        if not self.warpers:
            tokens = logits.argmax(-1)
            chosen, bad = torch.stack([tokens, logits.isnan().any(-1).to(tokens)]).tolist()  # in one wait
            self._check(bad)
            return chosen
        scores: Any = logits.float()
        for warper in self.warpers:
            scores = warper(None, scores)
        likely = scores.softmax(-1).cpu()
        self._check(likely.isnan().any(-1).tolist())
        return [
            int(torch.multinomial(row, 1, generator=self.rows[alive].generator))
            for alive, row in zip(self.alive, likely, strict=True)
        ]

    def _check(self, bad: Sequence[int]) -> None:
        """Raise :class:`ModelError` for the first row whose logits are not numbers."""
        if any(bad):
            raise not_numbers(self.model, self.rows[self.alive[bad.index(True)]].label)


def _generator(seed: int, prompt: Sequence[int], sample: int) -> torch.Generator:
    """Random numbers that depend on the seed, the prompt and the number of the sample only."""
    digest = hashlib.sha256(json.dumps([int(seed), list(prompt), sample]).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
