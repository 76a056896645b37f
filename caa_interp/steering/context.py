"""Steering every call of a model within a ``with`` block (Rimsky et al. 2024, section 3).

1. Choose a layer L, a multiplier m and the vector v of that layer.
2. At every position from the last token of the prompt on, generated tokens included, the output of block L
   becomes ``output + m * v``.
3. Positions before the last token of the prompt are left as they are.

Calls of TransformerLens are steered by hooks. This package's own functions know where each prompt ends: inside the
block they take the hooks off and add the interventions to their own (:func:`ambient`). Those that extract or train
refuse a model that is being steered, if not always then where its prompts' ends would be a guess.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from caa_interp.errors import InputError, is_count, listed
from caa_interp.models.access import is_bridge, lock_of, steered, text_config
from caa_interp.prompts.format import PromptFormat, PromptTokens
from caa_interp.steering.intervention import Intervention, Steering, as_interventions, check_vectors, warn_of_idle
from caa_interp.steering.operators import add
from caa_interp.steering.positions import Positions, end_of_thinking
from caa_interp.tree.edits import EditedBatch, Operator, edited_rows, editing
from caa_interp.vectors.vector import SteeringVector

_PATTERN = "blocks.0.attn.hook_pattern"
_contexts: weakref.WeakKeyDictionary[Any, list[_Context]] = weakref.WeakKeyDictionary()


@contextmanager
def steer(
    model: Any,
    vector: SteeringVector | Steering,
    layer: int | None = None,
    multiplier: float = 1.0,
    *,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
    prompt_length: int | Sequence[int] | None = None,
) -> Iterator[None]:
    """Steer every call of ``model`` while the context is open.

    Parameters
    ----------
    model
        The model.
    vector
        An :class:`Intervention`, or several in a list, applied in turn; or a steering vector, with ``layer``.
    layer, multiplier, operator, positions
        Those of the intervention, if a vector is given; see :class:`Intervention`.
    prompt_length
        How many tokens of what the model is given are the prompt's (padding in front included): one number, or one
        per row. Default: all of them, as in ``model.generate(prompt)``. Give it when the model is given prompt and
        answer together, and where there is no key-value cache, as in ``model.generate(use_past_kv_cache=False)``.

    Raises
    ------
    InputError
        If an intervention or a length is not usable; or, when the model runs, if a prompt is padded on the right,
        takes turns with another, or grows by a token at a time, and no ``prompt_length`` says where it ends.
    VectorMismatchError
        If a vector was not made for this model.

    Warns
    -----
    UserWarning
        When the block ends, of every intervention with a multiplier other than 0 that changed no position. Functions
        of this package say so themselves.

    Notes
    -----
    Contexts can be nested; the outer one acts first. Hooks are removed at the end, even if the body raises.
    Positions count from each row's own first token, so that a prompt in a batch that is padded on the left is steered
    where it would be alone.

    Examples
    --------
    >>> with caa.steer(model, caa.Intervention(vector, layer=15, multiplier=2)):
    ...     text = model.generate("How was your day?", max_new_tokens=5, verbose=False)
    """
    interventions = as_interventions(vector, layer, multiplier, operator, positions)
    check_vectors(model, (one.vector for one in interventions))
    rules = [one.positions for one in interventions]
    if "after_thinking" in rules and model.tokenizer and PromptFormat.of(model).thinking_end is not None:
        raise InputError(
            "positions: 'after_thinking', but steer does not know when the model ends its thinking. Give the "
            "intervention to caa.generate(model, prompts, steering=[...]), or choose other positions."
        )
    context = _Context(model, interventions, None if prompt_length is None else _checked_lengths(prompt_length))
    with ExitStack() as stack:
        with lock_of(model):  # what another thread computes is not steered from its middle on
            stack.callback(_close, context)
            _contexts.setdefault(model, []).append(context)
            _note(model)
            stack.enter_context(context.hooks())
        yield
    idle = [one for number, one in enumerate(interventions) if one.multiplier and number not in context.used]
    if idle:
        warnings.warn(
            f"steer: no position was changed by {', '.join(map(repr, idle))}. Either the model did not run in the "
            "block, its hooks were removed there (model.reset_hooks()), or the positions lie outside what it was "
            "given.",
            stacklevel=3,
        )


def _close(context: _Context) -> None:
    with lock_of(context.model):
        _contexts[context.model].remove(context)
        _note(context.model)


@contextmanager
def ambient(model: Any) -> Iterator[tuple[Intervention, ...]]:
    """Interventions of all open contexts, outermost first; inside, their hooks do nothing, and other threads wait."""
    with lock_of(model):
        contexts = [context for context in _contexts.get(model, []) if not context.suspended]
        for context in contexts:
            context.suspended = True
            context.used |= set(range(len(context.interventions)))  # whoever applies them says which are idle
        _note(model)
        try:
            yield tuple(one for context in contexts for one in context.interventions)
        finally:
            for context in contexts:
                context.suspended = False
            _note(model)


@contextmanager
def steered_sequence(
    model: Any, form: PromptFormat, sequence: PromptTokens, interventions: Sequence[Intervention] = ()
) -> Iterator[None]:
    """Steer a model that reads one whole sequence, by interventions of open contexts first."""
    n_prompt, n_tokens = sequence.start + 1, len(sequence.tokens)
    thinking_end = end_of_thinking(form, sequence.tokens, n_prompt, growing=True)
    with ambient(model) as outer:
        every = (*outer, *interventions)
        warn_of_idle([every], [(n_tokens, n_prompt, thinking_end)])
        with edited_rows(model, [[one.edit(n_prompt, thinking_end) for one in every]], 0, n_tokens):
            yield


def _note(model: Any) -> None:
    """Tell those below who run the model themselves whether hooks act on it, and know where any sequence is steered."""
    acting = [context for context in _contexts[model] if not context.suspended] if model in _contexts else []
    steered.pop(model, None)
    if acting:
        steered[model] = all(context.knows_positions for context in acting)


class _Context:
    """One open context: what it does, and where the present forward pass of the model stands."""

    def __init__(self, model: Any, interventions: Sequence[Intervention], lengths: list[int] | None) -> None:
        self.model, self.interventions, self.lengths = model, tuple(interventions), lengths
        self.suspended = False
        self.used: set[int] = set()  # numbers of the interventions that changed a position
        self.batch = EditedBatch([])
        self.placed: tuple[int, ...] = ()  # shape and cached positions of the pass for which the batch is placed
        self.cached = 0  # positions that the key-value cache held before the present pass
        self.tokens: torch.Tensor | None = None  # what the model was given before
        self.prompt: tuple[int, ...] = ()  # length of each row's prompt, padding in front included
        self.padding: tuple[int, ...] = ()  # tokens of padding in front of each row's prompt
        self.padding_given: tuple[int, ...] = ()  # those of the present pass, should it be a prompt's
        # The first attention pattern tells what is cached; where block 0 has none, single positions are counted.
        self.pattern = _PATTERN if _PATTERN in model.hook_dict else None
        config = text_config(model) if is_bridge(model) else None
        self.window = getattr(config, "sliding_window", None) or 0

    @property
    def knows_positions(self) -> bool:
        """Whether positions are known for sequences that are no prompts, such as those with an answer."""
        return self.lengths is not None or all(
            one.positions == "all" or isinstance(one.positions, tuple) for one in self.interventions
        )

    @contextmanager
    def hooks(self) -> Iterator[None]:
        layers = sorted({one.layer for one in self.interventions})
        handle = self.model.embed.register_forward_pre_hook(self.begin)
        looking = [] if self.pattern is None else [(self.pattern, self.notice_cache)]
        try:
            with self.model.hooks(fwd_hooks=looking), editing(self.model, layers, self.edited):
                yield
        finally:
            handle.remove()

    def notice_cache(self, pattern: torch.Tensor, hook: Any) -> None:
        self.cached = pattern.shape[-1] - pattern.shape[-2]
        if self.cached == self.window - 1:  # a sliding window forgets the rest, so what came before is counted
            self.cached = sum(self.placed[1:])

    def begin(self, _: Any, args: tuple[Any, ...]) -> None:
        """Before a pass: without patterns, count what came before; refuse prompts whose end cannot be known."""
        tokens = args[0] if args else None
        if self.suspended or not isinstance(tokens, torch.Tensor) or tokens.ndim != 2:
            return
        self.padding_given = padding_in_front(tokens, self.model.tokenizer)
        if self.pattern is None:
            self.cached = sum(self.placed[1:]) if tokens.shape[1] == 1 else 0
        if tokens.shape[1] > 1:
            before, self.tokens = self.tokens, tokens
            if not self.knows_positions and before is not None and torch.equal(before, tokens[:, :-1]):
                raise InputError(
                    "prompt_length: the model is given the same tokens and one more, as when it writes an answer "
                    "without a key-value cache, so its prompt may have ended earlier. Give prompt_length."
                )
        padding = getattr(self.model.tokenizer, "pad_token_id", None)
        ends_in_padding = padding is not None and bool((tokens[:, -1] == padding).any())
        if not self.knows_positions and ends_in_padding and tokens.shape[1] > 1:
            raise InputError(
                "prompt_length: a prompt is padded on the right, so its last position is not where it ends. Pad on "
                "the left, or give prompt_length with one number per row."
            )

    def edited(self, layer: int, activation: torch.Tensor) -> torch.Tensor:
        if self.suspended:
            return activation
        n_rows, n_new = activation.shape[:2]
        another = self.cached == 0 and self.padding_given != self.padding
        if another or self.placed != (n_rows, n_new, self.cached):
            self.place(n_rows, n_new)
        self.used |= self.batch.acting(layer)
        return self.batch.apply(layer, activation)

    def place(self, n_rows: int, n_new: int) -> None:
        if self.lengths is not None and len(self.lengths) not in (1, n_rows):
            raise InputError(
                f"prompt_length: {len(self.lengths)} numbers for a batch of {n_rows} rows; give one per row, or one."
            )
        if self.cached == 0 or len(self.prompt) != n_rows:
            first = self.cached == 0 or (not self.prompt and n_new > 1)  # the cache may have been filled before
            given = self.lengths or [self.cached + n_new if first else self.cached]
            self.prompt = tuple(given * n_rows if len(given) == 1 else given)
            explicit = [one.positions for one in self.interventions if isinstance(one.positions, tuple)]
            if self.cached and any(self.padding) and explicit:
                raise InputError(
                    f"positions: {explicit[0]!s:.60}, but the batch was padded in front and goes on with other rows, "
                    "so where each begins is not known. Give a rule such as 'answer', or one prompt at a time."
                )
            self.padding = self.padding_given if self.cached == 0 else (0,) * n_rows
            own = [n - padding for n, padding in zip(self.prompt, self.padding, strict=True)]
            self.batch = EditedBatch([[one.edit(n) for one in self.interventions] for n in own])
        elif not self.knows_positions and not max(self.prompt) <= self.cached <= sum(self.placed[1:]):
            raise InputError(
                f"prompt_length: the model goes on after {self.cached} tokens, with an answer that is not the last "
                "prompt's. Finish one answer before the next prompt, or give prompt_length."
            )
        columns = np.arange(self.cached, self.cached + n_new)
        self.batch.place(columns - np.array(self.padding)[:, None])
        self.placed = (n_rows, n_new, self.cached)


def padding_in_front(tokens: torch.Tensor, tokenizer: Any) -> tuple[int, ...]:
    """Number of tokens of padding in front of each row of ``tokens`` ``[n_rows, n_tokens]``, as far as they tell.

    Where the BOS token pads, one row has no padding, and begins with as many of that token as are each row's own.
    """
    padding = getattr(tokenizer, "pad_token_id", None)
    if padding is None or tokens.shape[1] == 1:
        return (0,) * len(tokens)
    begins_with = (tokens == padding).long().cumprod(1).sum(1)
    own = begins_with.min() if padding == tokenizer.bos_token_id else 0
    return tuple((begins_with - own).tolist())


def _checked_lengths(prompt_length: Any) -> list[int]:
    lengths = listed(prompt_length)
    if not lengths or not all(map(is_count, lengths)):
        raise InputError(f"prompt_length: {prompt_length!r}; give a number of tokens of at least 1, or one per row.")
    return [int(n) for n in lengths]
