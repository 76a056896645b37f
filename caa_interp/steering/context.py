"""Adding a steering vector while a model runs (Rimsky et al. 2024, section 3).

1. Choose a layer L, a multiplier m and the vector v of that layer.
2. At every position from the last token of the prompt on, generated tokens included, the output of block L
   becomes ``output + m * v``.
3. Positions before the last token of the prompt are left as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError
from caa_interp.models.access import residual_hooks, steered
from caa_interp.steering.operators import Operator, add, apply_operator
from caa_interp.vectors.vector import SteeringVector


@contextmanager
def steer(
    model: Any,
    vector: SteeringVector,
    layer: int,
    multiplier: float = 1.0,
    *,
    operator: Operator = add,
    start: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Steer every TransformerLens call on ``model`` while the context is open.

    Parameters
    ----------
    model
        The model.
    vector
        A vector made from this model.
    layer
        0-based block index, one of the vector's layers.
    multiplier
        Any finite number; 0 leaves the model as it is.
    operator
        What is done with vector and multiplier, see :mod:`caa_interp.steering.operators`; default: addition.
    start
        First steered position, as an index into the sequence that the model is given; one number, or one a
        row. Default: the last position of each prompt, which is the paper's rule when the model is given
        prompts, as in ``model.generate``. Give it when the model is given prompt and answer together; 0
        steers everything. Tokens that follow with a key-value cache are always steered; without a cache, as in
        ``model.generate(use_past_kv_cache=False)``, every step is a new prompt and ``start`` is needed.

    Raises
    ------
    InputError
        If the multiplier or a start is not usable, or, when the model runs, if a batch of prompts is padded
        on the right and no ``start`` says where they end.
    VectorMismatchError
        If the vector was not made for this model.

    Notes
    -----
    Contexts can be nested, and then add up. Hooks are removed at the end, also when the body raises.
    """
    (multiplier,) = check_multipliers((multiplier,))
    vector.check_fits(model)
    direction = vector.at(layer)
    starts = None if start is None else _check_starts(start)
    padding = getattr(model.tokenizer, "pad_token_id", None)
    cached = 0  # positions that the key-value cache held before the present call
    # The first attention pattern tells it; where block 0 has none, a single position is taken for a next token.
    patterns = [name for name in ("blocks.0.attn.hook_pattern",) if name in model.hook_dict]

    def notice_cache(pattern: torch.Tensor, hook: Any) -> None:
        nonlocal cached
        cached = pattern.shape[-1] - pattern.shape[-2]

    def refuse_right_padding(_: Any, args: tuple[Any, ...]) -> None:
        tokens = args[0] if args else None
        if starts is not None or padding is None or not isinstance(tokens, torch.Tensor) or tokens.ndim != 2:
            return
        ends_in_padding = tokens[:, -1] == padding
        if len(tokens) > 1 and tokens.shape[1] > 1 and bool(ends_in_padding.any() & ~ends_in_padding.all()):
            raise InputError(
                "start: some prompts of the batch are padded on the right, so their last position is not where "
                "they end. Pad on the left, or give start with one position a row."
            )

    def edit(activation: torch.Tensor) -> torch.Tensor:
        if multiplier == 0:
            return activation
        n_positions = activation.shape[1]
        at = torch.arange(cached, cached + n_positions, device=activation.device)[None]
        if starts is None:
            chosen = at >= (n_positions - 1 if cached == 0 else 0)
        else:
            begin = torch.tensor(starts, device=activation.device)
            if len(starts) not in (1, len(activation)):
                raise InputError(
                    f"start: {len(starts)} positions for a batch of {len(activation)} rows; give one a row, or one."
                )
            chosen = at >= begin[:, None]
            if not patterns and n_positions == 1:
                chosen = torch.ones_like(chosen)
        edited = apply_operator(operator, activation, direction, multiplier)
        return torch.where(chosen[..., None], edited, activation)

    with ExitStack() as stack:
        steered.setdefault(model, []).append(starts)
        stack.callback(steered[model].pop)
        handle = model.embed.register_forward_pre_hook(refuse_right_padding)
        stack.callback(handle.remove)
        stack.enter_context(model.hooks(fwd_hooks=[(name, notice_cache) for name in patterns]))
        stack.enter_context(residual_hooks(model, {layer: edit}))
        yield


def check_multipliers(multipliers: float | Sequence[float]) -> list[float]:
    """Return multipliers as floats, or raise :class:`InputError` if one is no finite number or given twice."""
    checked = []
    value: Any
    for value in multipliers if isinstance(multipliers, Sequence | np.ndarray) else [multipliers]:
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise InputError(f"multiplier: {value!r} is not a finite number; give one such as -1, 0 or 1.5.")
        checked.append(float(value))
    if not checked:
        raise InputError("multipliers: the list is empty; give at least one number.")
    if len(set(checked)) < len(checked):
        raise InputError(f"multipliers: {checked} names one twice; name each once.")
    return checked


def _check_starts(start: int | Sequence[int]) -> list[int]:
    starts: list[Any] = list(start) if isinstance(start, Sequence | np.ndarray) else [start]
    if not starts or not all(isinstance(s, Integral) and int(s) >= 0 for s in starts):
        raise InputError(f"start: {start!r}; give a position of at least 0, or one a row.")
    return [int(s) for s in starts]
