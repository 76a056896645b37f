"""Step-by-step forward passes over a batch of sequences that grow."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from caa_interp.models.access import input_device, is_bridge, runner
from caa_interp.models.attention import carries_state, rotary_boundary


class Decoder:
    """A batch of left-padded rows that share one cache of keys and values.

    Tokens, masks and the indices of rows are given on the CPU, so that nobody waits for the device to know them.

    A model with a memory of another kind (Mamba and its hybrids), or with none, is run over the whole of every sequence
    at each step instead: slower, and right. So is one whose sequences of up to ``longest`` tokens pass its
    :func:`~caa_interp.models.attention.rotary_boundary`; their rows must be equally long.
    """

    def __init__(self, model: Any, longest: int = 0) -> None:
        self.model = model
        taken = inspect.signature(model.original_model.forward).parameters if is_bridge(model) else {}
        has_cache = not is_bridge(model) or (not carries_state(model) and "past_key_values" in taken)
        self.cached = has_cache and longest <= (rotary_boundary(model) or longest)
        self.takes_keep = self.cached and "logits_to_keep" in taken
        self.cache: Any = None
        self.mask: torch.Tensor | None = None  # of everything so far, on the CPU
        self._read: list[list[int]] = []

    def positions(self, mask: torch.Tensor) -> np.ndarray:
        """Position of each column of the next pass in its sequence, ``[batch, n_columns]``; negative at padding.

        ``mask`` is that of :meth:`forward`. The pass holds the new tokens alone, or, without a cache, all of them.
        """
        n_new = mask.sum(1).numpy()
        if self.cached:
            before = 0 if self.mask is None else self.mask.sum(1).numpy()
            return np.arange(mask.shape[1]) - (mask.shape[1] - n_new - before)[:, None]
        n_read = [len(tokens) for tokens in self._read] or [0] * len(mask)
        return np.tile(np.arange((n_read + n_new).max()), (len(mask), 1))

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, keep: int = 1) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new position]`` and return the last logits ``[batch, keep, d_vocab]``.

        ``mask`` has the shape of ``tokens`` and is 0 at padding, which is on the left.
        """
        if not self.cached:
            return self._whole(tokens, mask, keep)
        self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=1)
        logits = self._bridge(tokens, self.mask, keep) if is_bridge(self.model) else self._hooked(tokens, mask)
        return logits[:, -keep:]

    def _bridge(self, tokens: torch.Tensor, whole_mask: torch.Tensor, keep: int) -> torch.Tensor:
        from transformers import DynamicCache

        if self.cache is None:
            self.cache = DynamicCache()
        n_new = tokens.shape[1]
        positions = (whole_mask.cumsum(1) - 1).clamp(min=0)[:, -n_new:]
        together = torch.cat([tokens, positions, whole_mask], dim=1).to(input_device(self.model))
        tokens, positions, whole_mask = together.tensor_split([n_new, 2 * n_new], dim=1)
        return self._call(
            tokens,
            attention_mask=whole_mask,
            position_ids=positions,
            past_key_values=self.cache,
            **({"logits_to_keep": keep} if self.takes_keep else {}),
        )

    def _call(self, tokens: torch.Tensor, **options: Any) -> torch.Tensor:
        """Logits from the module that runs the model's blocks."""
        output = runner(self.model)(tokens, **options)
        return getattr(output, "logits", output)

    def _hooked(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        if self.cache is None:
            self.cache = TransformerLensKeyValueCache.init_cache(self.model.cfg, self.model.cfg.device, tokens.shape[0])
        device = input_device(self.model)
        return self.model(tokens.to(device), attention_mask=mask.to(device), past_kv_cache=self.cache)

    def _whole(self, tokens: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
        """Run whole sequences, padded on the right, where no causal model sees it."""
        new = [row[seen.bool()].tolist() for row, seen in zip(tokens, mask, strict=True)]
        self._read = [[*old, *some] for old, some in zip(self._read or [[]] * len(new), new, strict=True)]
        ids = pad_sequence([torch.tensor(own, dtype=torch.long) for own in self._read], batch_first=True)
        logits = self._call(ids.to(input_device(self.model)))
        return torch.stack([row[len(own) - keep : len(own)] for row, own in zip(logits, self._read, strict=True)])

    def fork(self, n_rows: int) -> Decoder:
        """Return a decoder with ``n_rows`` times the only row of this one, which stays as it is.

        Keys and values are shared, not copied.
        """
        other = copy.copy(self)
        if self.cache is not None and self.mask is not None:
            other.mask = self.mask.expand(n_rows, -1)
            other.cache = copy.copy(self.cache)
            name = "layers" if is_bridge(self.model) else "entries"
            setattr(other.cache, name, [copy.copy(layer) for layer in getattr(self.cache, name)])
            other._change(lambda kept: kept.expand(n_rows, *kept.shape[1:]))
        other._read = self._read * n_rows
        return other

    def select(self, rows: torch.Tensor) -> None:
        """Replace the rows with those at the indices ``rows``, which may repeat or omit some."""
        if not self.cached:
            self._read = [self._read[row] for row in rows.tolist()]
            return
        self.mask = None if self.mask is None else self.mask[rows]
        there: dict[torch.device, torch.Tensor] = {}

        def selected(kept: torch.Tensor) -> torch.Tensor:
            if kept.device not in there:
                there[kept.device] = rows.to(kept.device)
            return kept[there[kept.device]]

        self._change(selected)

    def _change(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace every tensor of the cache, whose first axis is the rows."""
        bridge = is_bridge(self.model)
        for layer in self.cache.layers if bridge else self.cache.entries:
            for name in ("keys", "values") if bridge else ("past_keys", "past_values"):
                setattr(layer, name, change(getattr(layer, name)))
        if not bridge:
            self.cache.previous_attention_mask = change(self.cache.previous_attention_mask)
