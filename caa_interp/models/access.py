"""What the rest of the package needs from a model, for both of TransformerLens's model classes."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caa_interp.errors import InputError, ModelError

if TYPE_CHECKING:
    import torch

HOOK = "blocks.{layer}.hook_resid_post"
CENTERED = "centered"

# Models that are being steered by hooks, and whether the hooks know which positions to steer in any sequence.
steered: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
revisions: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()


def model_id(model: Any) -> str:
    """Name under which a model was loaded, as in a vector's metadata."""
    return str(model.cfg.model_name)


def model_revision(model: Any) -> str | None:
    """Commit of a Hugging Face model, sha256 of a GGUF file, or :func:`folder_digest` of a folder; None if unknown."""
    return revisions.get(model)


def folder_digest(folder: Path) -> str:
    """Digest of the names and contents of a model's files; above 64 MiB, 4 KiB of every MiB are read, to save time."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\n".encode())
            with path.open("rb") as file:
                if size <= 64 * 2**20:
                    digest.update(file.read())
                    continue
                for start in range(0, size, 2**20):
                    file.seek(start)
                    digest.update(file.read(4096))
    return digest.hexdigest()


def weight_processing(model: Any) -> str:
    """Say how TransformerLens has processed a model's weights.

    ``"none"``; ``"folded"``: mostly norms folded into the matrices after them, with the same residual stream; or
    ``"centered"``: the residual stream has lost its mean over d_model. Models with RMSNorm are never centered.
    """
    normalization = str(getattr(model.cfg, "normalization_type", None))
    if normalization.startswith("LN") and _writes_centered(model):
        return CENTERED
    folded = getattr(model, "_weights_processed", False) if is_bridge(model) else normalization.endswith("Pre")
    return "folded" if folded else "none"


def _writes_centered(model: Any) -> bool:
    """Whether the embeddings have no mean; neither model class records this in its configuration."""
    try:
        rows = model.W_E[:64].detach().float()
    except (AttributeError, RuntimeError):
        return False
    # A mean that was not removed is about 1 / sqrt(d_model) of the spread.
    return not rows.is_meta and bool(rows.mean(-1).abs().max() < 1e-3 * rows.std())


def identity(model: Any) -> dict[str, Any]:
    """What identifies a model in the metadata of vectors and activations."""
    return {
        "model": model_id(model),
        "model_revision": model_revision(model),
        "weight_processing": weight_processing(model),
    }


def check_model(model: Any) -> None:
    """Raise :class:`InputError` unless ``model`` is a TransformerLens model."""
    if hasattr(getattr(model, "cfg", None), "n_layers"):
        return
    if isinstance(model, str | Path):
        what = f"load it: caa.load_model({str(model)!r})"
    elif hasattr(model, "config"):
        what = (
            "use caa.load_model(name_or_folder), or TransformerBridge.boot_transformers(name, hf_model=model, "
            "tokenizer=tokenizer)"
        )
    else:
        what = "use caa.load_model(...)"
    raise InputError(f"model: {type(model).__name__}; it must be a TransformerLens model: {what}.")


def n_layers(model: Any) -> int:
    """Return the number of transformer blocks."""
    return int(model.cfg.n_layers)


def is_bridge(model: Any) -> bool:
    """Whether a model is a ``TransformerBridge``, not a ``HookedTransformer``."""
    return hasattr(model, "adapter")


def hook_name(layer: int) -> str:
    """Name of the hook on the residual stream after block ``layer``, the only one that this package uses."""
    return HOOK.format(layer=layer)


def check_layers(layers: int | Sequence[int] | np.ndarray | None, available: Sequence[int], what: str) -> list[int]:
    """Return ``layers`` as a list (None: all of ``available``), or raise :class:`InputError`."""
    if layers is None:
        return list(available)
    if isinstance(layers, str | bytes):
        raise InputError(
            f"layer {layers!r}: it is text, and {what} has layers {available[0]} to {available[-1]} (0-based block "
            f"indices). Choose one of these as an int, such as {available[-1]}, or a list of ints."
        )
    if isinstance(layers, np.ndarray):
        layers = np.atleast_1d(layers).tolist()
    chosen = list(layers) if isinstance(layers, Sequence) else [layers]
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


def block_indices(layers: Any) -> tuple[int, ...]:
    """Return the layers of a vector or of activations as a tuple, or raise :class:`InputError`."""
    given = tuple(layers) if isinstance(layers, Sequence | np.ndarray) and not isinstance(layers, str) else None
    if (
        given is None
        or not all(hasattr(n, "__index__") and not isinstance(n, bool) and n >= 0 for n in given)
        or len(set(given)) < len(given)
    ):
        raise InputError(f"layers: {layers!r}; they must be different 0-based block indices, such as (14, 15).")
    return tuple(int(n) for n in given)


def input_device(model: Any) -> torch.device:
    """Device on which the model takes its tokens."""
    import torch

    return torch.device(model.cfg.device or "cpu")


@contextlib.contextmanager
def reading(model: Any, layers: Iterable[int], read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call ``read(layer, residual)`` with the stream ``[batch, position, d_model]`` after each of ``layers``.

    The hooks are removed when the context closes, even if the body raises.
    """

    def hook_at(layer: int) -> Callable[..., None]:
        return lambda activation, hook: read(layer, activation)

    with model.hooks(fwd_hooks=[(hook_name(layer), hook_at(layer)) for layer in layers]):
        yield


def unembed(model: Any, residual: torch.Tensor) -> torch.Tensor:
    """Logits ``[n, d_vocab]`` of a bridge from the last block's output ``[n, d_model]``: norm, unembedding, cap."""
    return model.adapter.apply_output_logits_transform(model.unembed(model.ln_final(residual[None])))[0]


def takes_tree_masks(model: Any) -> bool:
    """Whether one custom attention mask is right for every layer of a model.

    ``HookedTransformer`` takes no such mask; sliding-window, recurrent and chunked layers need masks of their own.
    """
    if not is_bridge(model):
        return False
    config = model.original_model.config.get_text_config(decoder=True)
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    stateful = bool(getattr(model.cfg, "is_stateful", False))
    return not windowed and kinds == {"full_attention"} and not stateful and _takes_logits_to_keep(model)


class CachedDecoder:
    """Step-by-step forward passes over a batch of left-padded rows that share one key-value cache."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.takes_keep = is_bridge(model) and _takes_logits_to_keep(model)
        self.cache: Any = None
        self.mask: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor, keep: int = 1) -> torch.Tensor:
        """Append ``tokens`` ``[batch, new position]`` and return the last logits ``[batch, keep, d_vocab]``.

        ``mask`` has the shape of ``tokens`` and is 0 at padding. Raises :class:`ModelError` if a logit is NaN.
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
        """Replace the cached rows with those at the indices ``rows``, which may repeat or omit some."""
        if is_bridge(self.model):
            self.cache.batch_select_indices(rows)
            self.mask = None if self.mask is None else self.mask[rows]
            return
        for entry in self.cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]


def _takes_logits_to_keep(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(model.original_model.forward).parameters
