"""A vector's direction in texts, conversations and whole data sets.

1. Read the residual stream after one block at every token of a text, or of each turn of a conversation.
2. Project its mean over these tokens on the unit vector.
3. Subtract the mean, and divide by the standard deviation, of the same number for passages of neutral prose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.behaviors.questions import load_prose
from caa_interp.behaviors.texts import Text, iterate_texts
from caa_interp.errors import InputError
from caa_interp.files import TableParts, fingerprint
from caa_interp.models.access import check_layers, check_unsteered, model_id
from caa_interp.models.readout import special_ids
from caa_interp.progress import counting
from caa_interp.prompts.format import PromptFormat, form_of, token_ids
from caa_interp.prompts.turns import Turn, read_turns
from caa_interp.steering.intervention import check_vectors
from caa_interp.tree import Branch, run_trees
from caa_interp.vectors.activations import origin
from caa_interp.vectors.vector import SteeringVector, direction_at, named_vectors

_PER_PART = 256  # texts
_EXCERPT = 300  # letters of a text that the table keeps
_IDENTITY = ("model", "model_revision", "weight_processing", "dtype", "prompt_digest")
_COLUMNS = (
    *("item", "turn", "role", "vector", "kind", "layer", "projection", "z", "n_tokens", "cut", "text"),
    *("baseline_mean", "baseline_sd", "model", "prompt_digest", "path"),
)


def monitor(
    model: Any,
    vectors: SteeringVector | Mapping[str, SteeringVector],
    texts: Any,
    *,
    layer: int,
    column: str | None = None,
    output: str | Path | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Project texts, or the turns of conversations, on vectors, in standard deviations of neutral prose.

    Parameters
    ----------
    model
        The model that the vectors were made from.
    vectors
        A steering vector, or several by name, none zero at the layer. They share the passes.
    texts
        Texts, conversations (lists of ``{"role": ..., "content": ...}``), or both: a list or any other iterable of
        them, or of rows such as those of a ``datasets.Dataset``; a pandas or polars table; or the path of a
        ``.jsonl`` or ``.parquet`` file. They are read as they are needed, 256 at a time, and only the result grows with
        their number. A text is read as it is, with the BOS token if the tokenizer adds one; a conversation in the
        model's chat form.
    layer
        0-based block index; the vectors of this layer are compared with the residual stream after this block.
    column
        Field of a row that holds the text or the conversation; default: ``"text"``, else ``"messages"``.
    output
        Folder for the result, such as ``"chats.parquet"``: Parquet files of 256 texts each, which readers of Parquet
        take for one table. Each is written as soon as it is computed. If there are some, the same call goes on where
        they end. Default: nothing is written.
    prompt_format
        How the model is addressed in conversations; default: ``PromptFormat.of(model)``.
    progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        One row per text, or turn, and vector:

        - ``item`` (0-based row), ``turn`` (0-based; 0 for a text), ``role`` (``"system"``, ``"user"``,
          ``"assistant"``, or ``""`` for a text), ``vector``, its ``kind`` (``"vector"`` or that of a control),
          ``layer``;
        - ``projection``: dot product of the unit vector and the mean residual stream over the text's tokens, in units
          of the residual stream;
        - ``z``: ``projection`` minus ``baseline_mean``, divided by ``baseline_sd``: mean and standard deviation of
          ``projection`` over the passages of :func:`caa_interp.load_prose`, each read as a text by the same model;
        - ``n_tokens``: number of tokens that were read, without special tokens, the marks of the chat form, and the
          first of all, an attention sink; ``cut``: whether the text goes on beyond the model's context;
        - ``text``: the first 300 letters; ``baseline_mean``, ``baseline_sd``; ``model``, ``prompt_digest``, ``path``.

        ``projection`` and ``z`` are NaN where no token is left to read.

    Raises
    ------
    InputError
        If a vector is zero at the layer or does not have it, or the source is none of these; at its row, if one holds
        neither a text nor a conversation, or the chat template does not show it as it is (what was written before stays
        in ``output``). If ``output`` was computed by another model, vector, layer, prompt form or library version, or
        from other texts; the message names what differs. If ``output`` is given within a steer context.
    VectorMismatchError
        If a vector was not made for this model.

    Notes
    -----
    A high ``z`` says that the text's mean lies farther along the direction than neutral prose does. It does not show
    that the text has the behavior, nor that the model acts on it: topic, style, language and the chat form move the
    projection, too. Compare texts of one kind. A short text averages few tokens, so that its ``z`` spreads more than
    that of passages of some 350 tokens; ``n_tokens`` tells. A random vector (:func:`caa_interp.random_vectors`) beside
    the others shows how far texts lie from prose in any direction.
    """
    named = named_vectors(vectors)
    form = form_of(model, prompt_format)
    check_vectors(model, named.values(), form)
    for name, vector in named.items():
        (layer,) = check_layers([layer], vector.layers, f"the vector {name!r}")
    rows = iterate_texts(texts, column)
    reader = _Reader(model, form, layer, named)
    parts = None
    if output is not None:
        check_unsteered(model, "Write into output")
        parts = TableParts(Path(output).expanduser(), reader.identity())
    tables: list[pd.DataFrame] = []
    total = len(texts) if isinstance(texts, Sized) and not isinstance(texts, str) else None
    with counting(total, "Monitoring", progress, unit=" texts") as bar:
        while block := list(islice(rows, _PER_PART)):
            contents = [text for _, text in block]
            table = parts.get(len(tables), contents) if parts else None
            if table is None:
                table = reader.read(block, len(tables) * _PER_PART)
                if parts:
                    parts.put(len(tables), contents, table)
            tables.append(table)
            if bar is not None:
                bar.update(len(block))
    if not tables:
        raise InputError("texts: there are none; give at least one.")
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True)
class _Sequence:
    """Token ids of a text or a conversation, its turns, and the positions that are read of each turn."""

    ids: tuple[int, ...]
    turns: list[Turn]
    reads: list[tuple[int, ...]]


class _Reader:
    """Reads texts with one model, at one layer, along vectors."""

    def __init__(self, model: Any, form: PromptFormat, layer: int, named: Mapping[str, SteeringVector]) -> None:
        self.model, self.form, self.layer = model, form, layer
        self.vectors = {name: vector.at(layer) for name, vector in named.items()}  # [d_model] each
        self.kinds = [vector.kind for vector in named.values()]
        advice = "Leave it out, or choose another layer."
        units = [direction_at(vector, layer, f"vectors[{name!r}]", advice) for name, vector in named.items()]
        self.units = torch.stack(units)  # [n_vectors, d_model]
        self.special = special_ids(form.tokenizer)

    def identity(self) -> dict[str, Any]:
        """All that determines the numbers, by name."""
        known = origin(self.model, None, self.form)
        digests = {f"vector {name!r}": fingerprint(values) for name, values in self.vectors.items()}
        return {**{name: known[name] for name in _IDENTITY}, **known["versions"], "layer": self.layer, **digests}

    @cached_property
    def baseline(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation ``[n_vectors]`` of the projections of passages of neutral prose."""
        projections, _ = self.project([self.sequence(passage, "prose") for passage in load_prose()])
        return projections.mean(0), projections.std(0, ddof=1)

    def read(self, block: Sequence[tuple[str, Text]], first: int) -> pd.DataFrame:
        """Table of rows, of which ``first`` is the number of the first one."""
        sequences = [self.sequence(text, where) for where, text in block]
        projections, paths = self.project(sequences)
        turns = pd.DataFrame(
            [
                {
                    "item": first + number,
                    "turn": at,
                    "role": turn.role,
                    "n_tokens": len(reads),
                    "cut": max(turn.positions, default=0) >= self.form.n_ctx,
                    "text": turn.content[:_EXCERPT],
                    "path": path,
                }
                for number, (sequence, path) in enumerate(zip(sequences, paths, strict=True))
                for at, (turn, reads) in enumerate(zip(sequence.turns, sequence.reads, strict=True))
            ]
        )
        mean, sd = self.baseline
        table = turns.loc[turns.index.repeat(len(self.vectors))].reset_index(drop=True)
        return table.assign(
            vector=list(self.vectors) * len(turns),
            kind=self.kinds * len(turns),
            layer=self.layer,
            projection=projections.ravel(),
            z=((projections - mean) / sd).ravel(),
            baseline_mean=np.tile(mean, len(turns)),
            baseline_sd=np.tile(sd, len(turns)),
            model=model_id(self.model),
            prompt_digest=self.form.digest(),
        )[list(_COLUMNS)]

    def sequence(self, text: Text, where: str) -> _Sequence:
        """Tokens of a text or a conversation; what lies beyond the context is not read."""
        if isinstance(text, str):
            ids = tuple(token_ids(self.form.tokenizer, text, where))
            turns = [Turn("", text, tuple(range(len(ids))))]
        else:
            ids, turns = read_turns(self.form, text, where)
        reads = [
            tuple(at for at in turn.positions if 0 < at < self.form.n_ctx and ids[at] not in self.special)
            for turn in turns
        ]
        return _Sequence(ids, turns, reads)

    def project(self, sequences: Sequence[_Sequence]) -> tuple[np.ndarray, list[str]]:
        """Projections ``[n_turns, n_vectors]``, NaN where nothing is read, and the path of each sequence."""
        begins = np.cumsum([0, *(len(sequence.turns) for sequence in sequences)])
        projections = np.full((begins[-1], len(self.vectors)), np.nan)
        paths = [""] * len(sequences)
        ends = [max((at for reads in sequence.reads for at in reads), default=0) for sequence in sequences]
        # Sequences of similar length share a pass without much padding.
        order = [index for index in np.argsort(ends, kind="stable") if ends[index]]
        trees = (
            [Branch(sequences[index].ids[: reads[-1] + 1], reads=reads) for reads in sequences[index].reads if reads]
            for index in order
        )
        for index, result in zip(order, run_trees(self.model, trees, [self.layer]), strict=True):
            there = begins[index] + np.flatnonzero([bool(reads) for reads in sequences[index].reads])
            projections[there] = (result.residual[:, 0].double() @ self.units.T).numpy()
            paths[index] = result.path
        return projections, paths
