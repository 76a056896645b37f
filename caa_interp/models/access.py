"""What the rest of the package needs from a model, for both of TransformerLens's model classes."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.errors import InputError, ModelError, VectorMismatchError, is_count, listed

if TYPE_CHECKING:
    import torch

HOOK = "blocks.{layer}.hook_resid_post"
CENTERED = "centered"
# GPT-1's blocks return lists, on which TransformerBridge's hooks do not fire.
_NO_STREAM = {"OpenAIGPTLMHeadModel"}

# Models that are being steered by hooks, and whether the hooks know which positions to steer in any sequence.
steered: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()
revisions: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()
_locks: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def lock_of(model: Any) -> Any:
    """Lock of a model, for one thread at a time, which may take it again."""
    return _locks.setdefault(model, threading.RLock())


def model_id(model: Any) -> str:
    """Name under which a model was loaded, as in a vector's metadata."""
    return str(model.cfg.model_name)


def short_name(name: str) -> str:
    """Last part of a model's name or path."""
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def model_revision(model: Any) -> str | None:
    """Commit of a Hugging Face model, sha256 of a GGUF file, or :func:`folder_digest` of a folder; None if unknown."""
    return revisions.get(model)


def folder_digest(folder: Path) -> str:
    """Digest of the names and contents of a model's files; above 64 MiB, 4 KiB of every MiB are read, to save time.

    Vectors keep it as their model's revision, so it must stay as it is.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin", ".model", ".txt", ".jinja") and path.is_file():
            size = path.stat().st_size
            digest.update(f"{path.name}\0{size}\n".encode())
            with path.open("rb") as file:
                for start in range(0, size, 2**20):
                    file.seek(start)
                    digest.update(file.read(2**20 if size <= 64 * 2**20 else 4096))
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
    """Raise :class:`InputError` unless ``model`` is a TransformerLens model, or an error if it shows no stream."""
    if type(getattr(model, "original_model", None)).__name__ in _NO_STREAM:
        raise ModelError(
            f"model {model_id(model)!r}: TransformerLens does not show the residual stream of this architecture, so it "
            "can be neither read nor steered. Use another model, such as GPT-2."
        )
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


def check_unsteered(model: Any, task: str) -> None:
    """Raise :class:`InputError` if a steer context is open; ``task`` is what it stands in the way of."""
    if model in steered:
        raise InputError(f"model: it is being steered. {task} outside the steer context.")


def n_layers(model: Any) -> int:
    """Return the number of transformer blocks."""
    return int(model.cfg.n_layers)


def is_bridge(model: Any) -> bool:
    """Whether a model is a ``TransformerBridge``, not a ``HookedTransformer``."""
    return hasattr(model, "adapter")


def hook_name(layer: int) -> str:
    """Name of the hook on the residual stream after block ``layer``, the only one that this package uses."""
    return HOOK.format(layer=layer)


def check_layers(layers: Any, available: Sequence[int], what: str) -> list[int]:
    """Return ``layers`` as a list (None: all of ``available``), or raise :class:`InputError`."""
    if layers is None:
        return list(available)
    chosen = listed(layers)
    if not chosen:
        raise InputError("layers: the list is empty; give at least one layer, or None for all.")
    for layer in chosen:
        if isinstance(layer, bool) or not hasattr(layer, "__index__") or layer not in available:
            raise InputError(
                f"layer {layer!r}: {what} has layers {available[0]} to {available[-1]} (0-based block indices)"
                + ("" if len(available) == available[-1] - available[0] + 1 else f", namely {list(available)}")
                + f". Choose one of these as an int, such as {available[-1]}."
            )
    if len(set(chosen)) < len(chosen):
        raise InputError(f"layers: {chosen} names a layer twice; name each once.")
    return [int(layer) for layer in chosen]


def shared_layers(layers: Any, held: Mapping[str, Sequence[int]]) -> list[int]:
    """Return ``layers`` if all of several have them (None: those that all have), see :func:`check_layers`.

    ``held`` are the layers of each, by what messages call it; :class:`VectorMismatchError` if they have none in common.
    """
    first, *others = [check_layers(layers, own, label) for label, own in held.items()]
    shared = [layer for layer in first if all(layer in other for other in others)]
    if not shared:
        listing = "; ".join(f"{label}: {list(own)}" for label, own in held.items())
        raise VectorMismatchError(f"layers: there is none that all have ({listing}). Make all at the same layers.")
    return shared


def check_layer(layer: Any, available: Sequence[int], what: str) -> int:
    """Return one layer, or raise :class:`InputError`; see :func:`check_layers`."""
    chosen = check_layers(layer, available, what)
    if layer is None or len(chosen) > 1:
        raise InputError(
            f"layer: {layer!r}; give one layer as an int, such as {available[-1]}. For several, give a list of "
            "interventions, one for each."
        )
    return chosen[0]


def block_indices(layers: Any) -> tuple[int, ...]:
    """Return the layers of a vector or of activations as a tuple, or raise :class:`InputError`."""
    given = listed(layers)
    if not all(is_count(n, 0) for n in given) or len(set(given)) < len(given):
        raise InputError(f"layers: {layers!r}; they must be different 0-based block indices, such as (14, 15).")
    return tuple(int(n) for n in given)


def text_config(model: Any) -> Any:
    """Hugging Face's configuration of a bridge's language model."""
    return model.original_model.config.get_text_config(decoder=True)


def float_type(model: Any) -> torch.dtype:
    """Floating-point type of a model's weights, of which some may be quantized."""
    return next(weight.dtype for weight in model.parameters() if weight.is_floating_point())


def input_device(model: Any) -> torch.device:
    """Device on which the model takes its tokens."""
    import torch

    return torch.device(model.cfg.device or "cpu")


def on_cpu(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Bring tensors of one type to the CPU at once: the program waits for the device once, not for each of them."""
    import torch

    if all(values.device.type == "cpu" for values in tensors):
        return list(tensors)
    device = tensors[-1].device
    joined = torch.cat([values.to(device).flatten() for values in tensors]).cpu()
    parts = joined.split([values.numel() for values in tensors])
    return [part.view(values.shape) for part, values in zip(parts, tensors, strict=True)]


def runner(model: Any) -> Any:
    """The module that runs a model's blocks: itself, or its Hugging Face model while a bridge's wrappers are away."""
    away = is_bridge(model) and not hasattr(model.blocks[0], "original_component")
    return model.original_model if away else model


@contextlib.contextmanager
def hooking(model: Any, layers: Iterable[int], act: Callable[[int, torch.Tensor], Any]) -> Iterator[None]:
    """Call ``act(layer, residual)`` with the stream ``[batch, position, d_model]`` after each of ``layers``.

    What it returns, unless it is None, takes the stream's place. The hooks are removed when the context closes, even if
    the body raises. Without wrappers they are on the blocks, and act on passes of this thread only.
    """
    if runner(model) is model:
        with model.hooks(fwd_hooks=[(hook_name(layer), _at_hook_point(layer, act)) for layer in layers]):
            yield
        return
    handles: list[Any] = []
    try:
        handles += [model.blocks[layer].register_forward_hook(_at_block(layer, act)) for layer in layers]
        yield
    finally:
        for handle in handles:
            handle.remove()


def _at_hook_point(layer: int, act: Callable[[int, torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda activation, hook: act(layer, activation)


def _at_block(layer: int, act: Callable[[int, torch.Tensor], Any]) -> Callable[..., Any]:
    thread = threading.get_ident()

    def acting(_: Any, __: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        is_tuple = isinstance(output, tuple)
        changed = act(layer, output[0] if is_tuple else output)
        return (changed, *output[1:]) if is_tuple and changed is not None else changed

    return acting


@contextlib.contextmanager
def reading(model: Any, layers: Iterable[int], read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call ``read(layer, residual)`` as in :func:`hooking`; it changes nothing."""
    with hooking(model, layers, read):
        yield


def not_numbers(model: Any, label: str) -> ModelError:
    """Return the error for logits that are NaN, or a residual stream that is; ``label`` says under which condition."""
    return ModelError(
        f"{label or f'model {model_id(model)!r}'}: what the model computes is not a number. A large multiplier, or "
        "float16, makes the residual stream overflow: take a smaller one, or load the model in bfloat16 or float32. In "
        "float64 Hugging Face's masks do not fit a batch of prompts of different lengths: give one prompt at a time, "
        "or load it in float32."
    )
