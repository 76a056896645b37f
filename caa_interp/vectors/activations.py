"""Residual-stream activations of contrast pairs (Rimsky et al. 2024, section 3).

1. Put the pair to the model as two sequences that differ in the answer.
2. Read the residual stream after every block at the answer: in the choices form at the answer letter, in the
   text form as the mean over the answer's tokens.
3. Both letter orders of a pair are averaged (the paper has one), so that no letter direction remains; or they are
   kept apart, to look at what the letters do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.models.access import check_layers, model_id, n_layers
from caa_interp.progress import track
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format, Rendering, check_format
from caa_interp.tree import Branch, run_trees
from caa_interp.vectors.files import check_unchanged, sealed

if TYPE_CHECKING:
    import torch

FORMAT = "caa_interp/activations/1"


@dataclass(frozen=True)
class Activations:
    """Residual-stream activations of contrast pairs.

    Attributes
    ----------
    positive, negative
        ``[n_rows, n_layers, d_model]``, float32 (float64 for a float64 model), on the CPU. A row is a pair, or a pair
        in one letter order.
    layers
        The block index of each entry of the second axis.
    pairs
        The pair of each row; one after the other for the two letter orders of a pair.
    format
        ``"choices"`` or ``"text"``.
    orders
        The letter order of each row: the letters of the positive and of the negative answer, ``"AB"`` or ``"BA"``;
        ``""`` (default for all rows) where both orders are averaged, and for text.
    model
        Name of the model, if it is known.
    """

    positive: torch.Tensor
    negative: torch.Tensor
    layers: tuple[int, ...]
    pairs: tuple[ContrastPair, ...]
    format: Format
    orders: tuple[str, ...] = ()
    model: str | None = None

    def __post_init__(self) -> None:
        check_pairs(self.pairs)
        check_format(self.format)
        if not self.orders:
            object.__setattr__(self, "orders", ("",) * len(self.pairs))
        layers = self.layers
        if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in layers) or len(set(layers)) < len(
            layers
        ):
            raise InputError(f"layers: {layers}; they must be different 0-based block indices.")
        expected = (len(self.pairs), len(layers))
        for name, values in (("positive", self.positive), ("negative", self.negative)):
            if values.ndim != 3 or values.shape[:2] != expected or not values.numel():
                raise InputError(
                    f"{name}: shape {tuple(values.shape)} with {expected[0]} pairs and {expected[1]} layers; it must "
                    "be [n_rows, n_layers, d_model] with one row a pair, and no axis may be empty."
                )
            if not values.is_floating_point():
                raise InputError(f"{name}: of type {values.dtype}; it must hold floating-point numbers.")
            if not bool(values.isfinite().all()):
                raise InputError(f"{name}: there are NaN or infinite entries; activations must be finite.")
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
        if not isinstance(self.model, str | None):
            raise InputError(f"model: {type(self.model).__name__}; it must be the name of a model, or None.")

    def __repr__(self) -> str:
        apart = ", letter orders apart" if any(self.orders) else ""
        return (
            f"Activations({len(self.pairs)} rows{apart}, {self.format}, layers {self.layers[0]} to "
            f"{self.layers[-1]}, d_model {self.d_model}, model {self.model})"
        )

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

    def save(self, path: str | Path) -> Path:
        """Write a ``.safetensors`` file; the old one, if any, is replaced only when the new one is whole."""
        from safetensors.torch import save

        path = Path(path)
        if path.suffix != ".safetensors":
            raise InputError(f"path: {str(path)!r} must end in '.safetensors'.")
        header = {
            "format": FORMAT,
            "form": self.format,
            "model": self.model,
            "layers": list(self.layers),
            "orders": list(self.orders),
            "pairs": [vars(pair) for pair in self.pairs],
        }
        sides = {"positive": self.positive.contiguous(), "negative": self.negative.contiguous()}
        write_atomically(path, save(sides, metadata=sealed(json.dumps(header), *sides.values())))
        return path

    @classmethod
    def load(cls, path: str | Path) -> Activations:
        """Read a file written by :meth:`save`."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise InputError(f"activations file: there is no file {path}. Check the path.")
        try:
            with safe_open(path, framework="pt") as file:
                kept = file.metadata() or {}
                header = json.loads(kept["caa_interp"])
                if header["format"] != FORMAT:
                    raise InputError(
                        f"its format is {header['format']!r}, this version reads {FORMAT!r}. "
                        "Install a version of caa_interp that reads it."
                    )
                for name in ("layers", "orders", "pairs"):
                    if not isinstance(header[name], list):
                        raise InputError(f"its {name} are no list. Give a file of Activations.save.")
                positive, negative = (file.get_tensor(name) for name in ("positive", "negative"))
                check_unchanged(kept, positive, negative)
                pairs = tuple(_pair(fields, number) for number, fields in enumerate(header["pairs"]))
                layers, orders = tuple(header["layers"]), tuple(header["orders"])
                return cls(positive, negative, layers, pairs, header["form"], orders, header["model"])
        except InputError as error:
            raise InputError(f"activations file {path}: {error}") from None
        except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(
                f"activations file {path}: not activations of this package ({error}). "
                "Give a file written by Activations.save."
            ) from error


def collect_activations(
    model: Any,
    pairs: Iterable[ContrastPair],
    *,
    format: Format = "choices",
    layers: int | Sequence[int] | None = None,
    average_orders: bool = True,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = False,
) -> Activations:
    """Collect the activations of contrast pairs at all layers in one pass a pair.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    pairs
        At least one :class:`ContrastPair`.
    format
        ``"choices"`` (default, the paper's): at the answer letter. ``"text"``: mean over the answer's tokens.
    layers
        0-based block indices; default: all.
    average_orders
        In the choices form, average both letter orders of a pair (default), or give each pair two rows, ``"AB"`` and
        ``"BA"``. The mean over rows is the same. Text and pairs kept as published have one row either way.
    system_prompt
        Optional system prompt for every pair.
    prompt_format
        How the model is addressed; default: ``PromptFormat.of(model)``.
    progress
        Show a progress bar.

    Returns
    -------
    Activations
        Memory grows with the number of pairs; :func:`caa_interp.extract_vector` needs no such list.
    """
    import torch

    checked = check_pairs(pairs)
    chosen = check_layers(layers, range(n_layers(model)), "the model")
    rendered = _render(model, checked, format, system_prompt, prompt_format)
    rows: list[torch.Tensor] = []
    orders: list[str] = []
    repeated: list[ContrastPair] = []
    for pair, renderings, residual in zip(
        checked, rendered, _read(model, rendered, format, chosen, progress), strict=True
    ):
        averaged = average_orders and len(renderings) > 1
        rows.extend([_mean(residual)] if averaged else residual)
        orders.extend([""] if averaged else [_order(pair, rendering) for rendering in renderings])
        repeated.extend([pair] * (1 if averaged else len(renderings)))
    positive, negative = torch.stack(rows, dim=1)
    return Activations(positive, negative, tuple(chosen), tuple(repeated), format, tuple(orders), model_id(model))


def iterate_activations(
    model: Any,
    pairs: Sequence[ContrastPair],
    format: Format,
    layers: Sequence[int],
    system_prompt: str | None = None,
    progress: bool = False,
    prompt_format: PromptFormat | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield positive and negative activations, ``[n_layers, d_model]`` each, pair by pair, orders averaged."""
    rendered = _render(model, pairs, format, system_prompt, prompt_format)
    for residual in _read(model, rendered, format, layers, progress):
        positive, negative = _mean(residual)
        yield positive, negative


def _render(
    model: Any,
    pairs: Sequence[ContrastPair],
    format: Format,
    system_prompt: str | None,
    prompt_format: PromptFormat | None,
) -> list[list[Rendering]]:
    check_format(format)
    prompts = prompt_format or PromptFormat.of(model)
    return [prompts.render(pair, format, system_prompt, what=f"pairs[{number}]") for number, pair in enumerate(pairs)]


def _read(
    model: Any, rendered: Sequence[Sequence[Rendering]], format: Format, layers: Sequence[int], progress: bool
) -> Iterator[torch.Tensor]:
    """Yield the residual streams of each pair, ``[n_renderings, 2, n_layers, d_model]``, positive side first."""
    trees = ([branch for rendering in some for branch in _sides(rendering, format)] for some in rendered)
    for result in track(run_trees(model, trees, layers), "Reading activations", progress, total=len(rendered)):
        yield result.residual.unflatten(0, (-1, 2))


def _mean(residual: torch.Tensor) -> torch.Tensor:
    """Mean over renderings, summed in float64."""
    return residual.double().mean(0).to(residual.dtype)


def _sides(rendering: Rendering, format: Format) -> list[Branch]:
    """Branches of the positive and the negative answer, read where the form says."""
    if format == "choices":
        letter = rendering.n_shared
        return [Branch(tokens[: letter + 1], reads=(letter,)) for tokens in (rendering.positive, rendering.negative)]
    return [
        Branch(tokens, reads=tuple(range(rendering.n_prompt, len(tokens))))
        for tokens in (rendering.positive, rendering.negative)
    ]


def _order(pair: ContrastPair, rendering: Rendering) -> str:
    """Letters of the positive and the negative answer; a published pair's own may be others than A and B."""
    if isinstance(pair, PublishedPair):
        return pair.positive.strip("()") + pair.negative.strip("()")
    return rendering.order


def _is_order(order: Any) -> bool:
    return order == "" or (isinstance(order, str) and len(order) == 2 and order.isalpha() and order[0] != order[1])


def _pair(fields: Any, number: int) -> ContrastPair:
    """Build the pair that a file holds."""
    if not isinstance(fields, dict):
        raise InputError(f"pairs[{number}] is {type(fields).__name__}; it must be an object.")
    for name in ("id", "topic"):
        if not isinstance(fields.get(name), str | None):
            raise InputError(f"pairs[{number}]: field {name!r} must be a text.")
    if "n_options" not in fields:
        return ContrastPair(**fields)
    if not isinstance(fields["n_options"], int):
        raise InputError(f"pairs[{number}]: field 'n_options' must be a whole number.")
    return PublishedPair(**fields)
