"""Residual-stream activations of contrast pairs (Rimsky et al. 2024, section 3).

1. Write each pair as two sequences that differ in the answer.
2. Read the residual stream after every block: in the choices format at the answer letter, in the text format as the
   mean over the answer's tokens.
3. Average both letter orders of a pair (the paper has one), so that no letter direction remains, or keep them apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError, warn
from caa_interp.models.access import (
    HOOK,
    block_indices,
    check_layer,
    check_layers,
    check_model,
    identity,
    is_bridge,
    n_layers,
)
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format, Rendering, check_format, render_pairs
from caa_interp.tree import Branch, run_trees
from caa_interp.vectors.files import finite_floats, opened, save

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

# Number of pairs on which the choice of letter is scored too, and how many are needed to judge it.
_ASKED_PAIRS, _LEAST_PAIRS = 32, 10


@dataclass(frozen=True, eq=False)
class Activations:
    """Residual-stream activations of contrast pairs.

    Attributes
    ----------
    positive, negative
        ``[n_rows, n_layers, d_model]``, float32 (float64 for a float64 model), on the CPU; not copied where they are
        given as such, since they are large. A row is a pair, or one of its letter orders.
    layers
        The block index of each entry of the second axis.
    pairs
        The pair of each row; the two letter orders of a pair are consecutive rows.
    format
        ``"choices"`` or ``"text"``.
    orders
        Letters of the positive and the negative answer in each row, ``"AB"`` or ``"BA"``; ``""`` (default) where both
        orders are averaged, and for text.
    metadata
        Model id and revision, weight processing, prompt style, system prompt and library versions; JSON types only.
        Vectors made from the activations keep it.
    """

    positive: torch.Tensor
    negative: torch.Tensor
    layers: tuple[int, ...]
    pairs: tuple[ContrastPair, ...]
    format: Format
    orders: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_format(self.format)
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata: {type(self.metadata).__name__}; it must be a mapping.")
        if not self.orders:
            object.__setattr__(self, "orders", ("",) * len(self.pairs))
        object.__setattr__(self, "layers", block_indices(self.layers))
        expected = (len(self.pairs), len(self.layers))
        for name in ("positive", "negative"):
            values = finite_floats(getattr(self, name), 3, name)
            if values.shape[:2] != expected:
                raise InputError(
                    f"{name}: shape {tuple(values.shape)} with {expected[0]} pairs and {expected[1]} layers; it must "
                    "be [n_rows, n_layers, d_model] with one row per pair."
                )
            object.__setattr__(self, name, values)
        if self.positive.shape != self.negative.shape:
            raise InputError(
                f"negative: its width is {self.negative.shape[2]}, but that of positive is {self.d_model}; "
                "both must come from one model."
            )
        if len(self.orders) != len(self.pairs) or not all(map(_is_order, self.orders)):
            raise InputError(
                f"orders: {self.orders}; there must be one for each of the {len(self.pairs)} rows, either empty or "
                "two different letters such as 'AB'."
            )

    def __repr__(self) -> str:
        apart = ", letter orders apart" if any(self.orders) else ""
        return (
            f"Activations({len(self.pairs)} rows{apart}, {self.format}, layers {self.layers[0]} to "
            f"{self.layers[-1]}, d_model {self.d_model}, model {self.model})"
        )

    @property
    def model(self) -> str | None:
        """Name of the model, or None if the metadata does not have it."""
        return self.metadata.get("model")

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.positive.shape[2])

    @property
    def items(self) -> tuple[int, ...]:
        """0-based number of each row's pair; the two letter orders of a pair share one."""
        numbers: list[int] = []
        for row, (pair, order) in enumerate(zip(self.pairs, self.orders, strict=True)):
            second = row > 0 and (self.orders[row - 1], order) == ("AB", "BA") and pair == self.pairs[row - 1]
            numbers.append(numbers[-1] + (not second) if numbers else 0)
        return tuple(numbers)

    def at(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the positive and the negative side at one layer, ``[n_rows, d_model]`` each, in float64."""
        layer = check_layer(layer, self.layers, "the activations")
        place = self.layers.index(layer)
        return self.positive[:, place].double(), self.negative[:, place].double()

    def at_layers(self, layers: int | Sequence[int] | None) -> Activations:
        """Return the activations at some layers, in their order; at all for None."""
        chosen = check_layers(layers, self.layers, "the activations")
        places = [self.layers.index(layer) for layer in chosen]
        positive, negative = self.positive[:, places], self.negative[:, places]
        return replace(self, positive=positive, negative=negative, layers=tuple(chosen))

    @property
    def different_pairs(self) -> list[ContrastPair]:
        """The pairs, each once."""
        return list(dict.fromkeys(self.pairs))

    @property
    def pair_numbers(self) -> tuple[int, ...]:
        """0-based number of each row's pair among the different pairs; rows of equal pairs share one."""
        numbers: dict[ContrastPair, int] = {}
        return tuple(numbers.setdefault(pair, len(numbers)) for pair in self.pairs)

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file; an existing file is replaced only once the new one is complete."""
        pairs = [vars(pair) for pair in self.pairs]
        fields = (self.format, self.metadata, self.layers, self.orders, pairs)
        return save(path, "activations", (self.positive, self.negative), *fields)

    @classmethod
    def load(cls, path: str | Path) -> Activations:
        """Read a file written by :meth:`save`."""
        with opened(path, "activations") as (fields, (positive, negative)):
            form, metadata, layers, orders, items = fields
            pairs = tuple((PublishedPair if "n_options" in item else ContrastPair)(**item) for item in items)
            return cls(positive, negative, layers, pairs, form, tuple(orders), metadata)


def check_activations(activations: Any, name: str = "activations", n_pairs: int = 1) -> Activations:
    """Return ``activations`` if they are some, of at least ``n_pairs`` different pairs, or raise an error."""
    if not isinstance(activations, Activations):
        raise InputError(f"{name}: {type(activations).__name__}; give the result of caa_interp.collect_activations.")
    if (n := len(activations.different_pairs)) < n_pairs:
        held = f"{n} different pair{'' if n == 1 else 's'}"
        raise InputError(f"{name}: they hold {held}, and {n_pairs} are needed. Collect more.")
    return activations


def mean_by_pair(values: torch.Tensor, numbers: torch.Tensor) -> np.ndarray:
    """Mean ``[n_pairs, ...]`` over the rows of each pair, of ``values`` ``[n_rows, ...]`` by :attr:`pair_numbers`."""
    counts = numbers.bincount()
    totals = values.new_zeros(len(counts), *values.shape[1:]).index_add_(0, numbers, values)
    return (totals / counts.reshape(-1, *[1] * (values.ndim - 1))).numpy()


def pair_texts(activations: Activations) -> pd.DataFrame:
    """What the different pairs say, a row each: ``id``, ``topic``, ``question``, ``positive`` and ``negative``."""
    import pandas as pd

    return pd.DataFrame(activations.different_pairs)[["id", "topic", "question", "positive", "negative"]]


def collect_activations(
    model: Any,
    pairs: Iterable[ContrastPair],
    *,
    format: Format = "choices",
    layers: int | Sequence[int] | None = None,
    average_orders: bool = True,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> Activations:
    """Collect the activations of contrast pairs at all layers in one pass per pair.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    pairs
        At least one :class:`ContrastPair`.
    format
        ``"choices"`` (default, as in the paper): at the answer letter. ``"text"``: mean over the answer's tokens.
    average_orders
        In the choices format, average both letter orders of a pair (default), or give each pair two rows, ``"AB"`` and
        ``"BA"``. The mean over rows is the same. Text and published pairs have one row either way.
    layers, system_prompt, prompt_format, progress
        As in :func:`caa_interp.extract_vector`.

    Returns
    -------
    Activations
        Memory grows with the number of pairs, which :func:`caa_interp.extract_vector` avoids.
    """
    import torch

    check_model(model)
    checked = check_pairs(pairs)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    rows: list[torch.Tensor] = []
    orders: list[str] = []
    repeated: list[ContrastPair] = []
    read = iterate_activations(model, checked, format, chosen, average_orders, system_prompt, prompt_format, progress)
    for pair, (own, residual) in zip(checked, read, strict=True):
        rows.extend(residual)
        orders.extend(own)
        repeated.extend([pair] * len(own))
    positive, negative = torch.stack(rows, dim=1)
    metadata = origin(model, system_prompt, prompt_format)
    return Activations(positive, negative, tuple(chosen), tuple(repeated), format, tuple(orders), metadata)


def origin(model: Any, system_prompt: str | None, prompt_format: PromptFormat | None = None) -> dict[str, Any]:
    """Metadata of activations and vectors: their model, and how it was addressed."""
    prompts = form_of(model, prompt_format)
    return {
        **identity(model),
        "backend": "TransformerBridge" if is_bridge(model) else "HookedTransformer",
        "hook": HOOK,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
        "prompt_style": prompts.style,
        "template_arguments": dict(prompts.template_arguments),
        "prompt_digest": prompts.digest(system_prompt),
        "system_prompt": system_prompt,
        "versions": {name: version(name) for name in ("caa-interp", "transformer-lens", "transformers", "torch")},
    }


def iterate_activations(
    model: Any,
    pairs: Sequence[ContrastPair],
    format: Format,
    layers: Sequence[int],
    average_orders: bool,
    system_prompt: str | None,
    prompt_format: PromptFormat | None,
    progress: bool,
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Yield the letter orders of each pair's rows and their activations, ``[n_rows, 2, n_layers, d_model]``.

    The positive side is first; averaged orders are one row, ``""``. All pairs are rendered before the first is read.
    """
    check_format(format)
    form = form_of(model, prompt_format)
    rendered = render_pairs(form, pairs, format, system_prompt)
    for pair, some, residual in zip(pairs, rendered, _read(model, rendered, format, layers, progress), strict=True):
        if average_orders and len(some) > 1:
            yield [""], residual.double().mean(0, keepdim=True).to(residual.dtype)
        else:
            yield [pair.order if isinstance(pair, PublishedPair) else one.order for one in some], residual


def _read(
    model: Any, rendered: Sequence[Sequence[Rendering]], format: Format, layers: Sequence[int], progress: bool
) -> Iterator[torch.Tensor]:
    """Yield the residual streams of each pair, ``[n_renderings, 2, n_layers, d_model]``, positive side first."""
    trees = (
        [
            replace(branch, label=f"pairs[{number}]")
            for rendering in some
            for branch in _sides(rendering, format, asks=number < _ASKED_PAIRS)
        ]
        for number, some in enumerate(rendered)
    )
    follows: list[bool] = []  # whether the model chooses the same answer in both letter orders
    for result in track(run_trees(model, trees, layers), "Reading activations", progress, total=len(rendered)):
        likelier = [
            float(positive) > float(negative)
            for positive, negative in zip(result.log_probs[::2], result.log_probs[1::2], strict=True)
            if len(positive) == len(negative) == 1
        ]
        if len(likelier) == 2:
            follows.append(likelier[0] == likelier[1])
        yield result.residual.unflatten(0, (-1, 2))
    if len(follows) >= _LEAST_PAIRS and sum(follows) < len(follows) / 2:
        warn(
            f"format='choices': asked about {len(follows)} pairs in both orders, the model chose the same letter "
            f"for {len(follows) - sum(follows)} of them, whatever it stood for. It does not read letters, so a "
            "vector made from them will hardly steer. Use format='text'."
        )


def _sides(rendering: Rendering, format: Format, asks: bool) -> list[Branch]:
    """Branches of the positive and the negative answer; with ``asks``, their letters are scored too."""
    branches = []
    for tokens, places in rendering.read(format):
        letter = places[0]
        asked = ((letter - 1, tokens[letter]),) if asks and format == "choices" else ()
        branches.append(Branch(tokens, targets=asked, reads=tuple(places)))
    return branches


def _is_order(order: Any) -> bool:
    return order == "" or (isinstance(order, str) and len(order) == 2 and order.isalpha() and order[0] != order[1])
