"""What the rest of the package needs of a model, for both of TransformerLens's model classes."""

from __future__ import annotations

import contextlib
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caa_interp.errors import InputError, ModelError
from caa_interp.files import files_digest

if TYPE_CHECKING:
    import torch

HOOK = "blocks.{layer}.hook_resid_post"

# Models that hooks steer at present, and whether these know the steered positions of any sequence.
steered: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
revisions: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()


def model_id(model: Any) -> str:
    """Name under which a model was loaded; what a vector's metadata calls its model."""
    return str(model.cfg.model_name)


def model_revision(model: Any) -> str | None:
    """Return the commit of a Hugging Face model, or the sha256 of a GGUF file; None if neither is known."""
    return revisions.get(model)


def folder_digest(folder: Path) -> str | None:
    """Return the sha256 of what a local model consists of, which has no revision; None if ``folder`` is none."""
    if not folder.is_dir():
        return None
    endings = (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja")
    return files_digest(folder, (path for path in folder.iterdir() if path.suffix in endings and path.is_file()))


def n_layers(model: Any) -> int:
    """Return the number of transformer blocks."""
    return int(model.cfg.n_layers)


def is_bridge(model: Any) -> bool:
    """Whether a model is a ``TransformerBridge`` (else it is a ``HookedTransformer``)."""
    return hasattr(model, "adapter")


def hook_name(layer: int) -> str:
    """Name of the hook on the residual stream after block ``layer``; all hooks of this package go there."""
    return HOOK.format(layer=layer)


def check_layers(layers: int | Sequence[int] | None, available: Sequence[int], what: str) -> list[int]:
    """Return ``layers`` as a list (None: all of ``available``), or raise :class:`InputError`."""
    if layers is None:
        return list(available)
    chosen = list(layers) if isinstance(layers, Sequence | np.ndarray) else [layers]
    if not chosen:
        raise InputError("layers: the list is empty; give at least one layer, or None for all.")
    for layer in chosen:
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or layer not in available:
            raise InputError(
                f"layer {layer!r}: {what} has layers {available[0]} to {available[-1]} (0-based block indices)"
                + ("" if len(available) == available[-1] - available[0] + 1 else f", namely {list(available)}")
                + ". Choose one of these."
            )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"layers: {chosen} names a layer twice; name each once.")
    return [int(layer) for layer in chosen]


def input_device(model: Any) -> torch.device:
    """Device on which the model takes its tokens."""
    import torch

    return torch.device(model.cfg.device or "cpu")


@contextlib.contextmanager
def reading(model: Any, layers: Iterable[int], read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call ``read(layer, residual)`` after each of ``layers`` while the context is open.

    The residual stream is ``[batch, position, d_model]``. Hooks are removed at the end, also when the body raises.
    """

    def looking(layer: int) -> Callable[..., None]:
        return lambda activation, hook: read(layer, activation)

    with model.hooks(fwd_hooks=[(hook_name(layer), looking(layer)) for layer in layers]):
        yield


def unembed(model: Any, residual: torch.Tensor) -> torch.Tensor:
    """Logits ``[n, d_vocab]`` of a bridge from the last block's output ``[n, d_model]``: norm, unembedding, cap."""
    return model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(residual[None])))[0]


def takes_tree_masks(model: Any) -> bool:
    """Whether a mask of our own is right for every layer of a model.

    It is not for ``HookedTransformer``, which takes no such mask, and for architectures with sliding-window,
    recurrent or chunked layers, whose own masks differ from layer to layer.
    """
    if not is_bridge(model):
        return False
    config = model.original_model.config.get_text_config(decoder=True)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    stateful = bool(getattr(model.cfg, "is_stateful", False))
    return not windowed and kinds == {"full_attention"} and not stateful and _takes_logits_to_keep(model)


class CachedDecoder:
    """Step-by-step forward passes of a batch of left-padded rows that share one key-value cache.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.takes_keep = is_bridge(model) and _takes_logits_to_keep(model)
        self.cache: Any = None
        self.mask: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, keep: int = 1) -> torch.Tensor:
        """Append tokens to every row and return the logits after the last ones.

        Parameters
        ----------
        tokens
            ``[batch, new position]``.
        mask
            Same shape; 0 at padding, which is on the left.
        keep
            Number of last positions whose logits are returned.

        Returns
        -------
        torch.Tensor
            ``[batch, keep, d_vocab]``.

        Raises
        ------
        ModelError
            If a logit is not a number.
        """
        import torch

        if is_bridge(self.model):
            from transformers import DynamicCache

            if self.cache is None:
                self.cache = DynamicCache()
            self.mask = mask if self.mask is None else torch.cat([self.mask, mask], dim=1)
            positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
            options = {"logits_to_keep": keep} if self.takes_keep else {}
            logits = self.model(
                tokens, attention_mask=self.mask, position_ids=positions, past_key_values=self.cache, **options
            )
        else:
            from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

            if self.cache is None:
                self.cache = TransformerLensKeyValueCache.init_cache(
                    self.model.cfg, self.model.cfg.device, tokens.shape[0]
                )
            logits = self.model(tokens, attention_mask=mask, past_kv_cache=self.cache)
        logits = logits[:, -keep:]
        if bool(logits.isnan().any()):
            raise ModelError(
                f"model {model_id(self.model)!r}: its logits are not numbers. In float16 a large residual stream "
                "overflows: load it in bfloat16 or float32. In float64 Hugging Face's masks do not fit a batch of "
                "prompts of different lengths: give one prompt at a time, or load it in float32."
            )
        return logits

    def select(self, rows: torch.Tensor) -> None:
        """Replace the cached rows by those at the indices ``rows``, which may repeat or leave out some."""
        if is_bridge(self.model):
            self.cache.batch_select_indices(rows)
            self.mask = None if self.mask is None else self.mask[rows]
            return
        for entry in self.cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]


def _takes_logits_to_keep(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.original_model.forward).parameters
