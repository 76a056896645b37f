"""A bridge's Hugging Face model as it is, without the hook points around its modules.

A bridge puts hook points around each of about ten modules per block and computes attention step by step, so that one
can look inside. Where nobody looks, that only takes time: more than half of it in a narrow model, or on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn

from caa_interp.models.access import lock_of


class Wrapper(NamedTuple):
    """A module ``outer`` of a bridge that stands for a Hugging Face module ``inner``, as ``owner.name``."""

    owner: nn.Module
    name: str
    outer: nn.Module
    inner: nn.Module


def wrappers(module: nn.Module) -> list[Wrapper]:
    """Wrappers inside a Hugging Face module of a bridge, at any depth."""
    found, waiting, seen = [], [module], set()
    while waiting:
        owner = waiting.pop()
        if owner in seen:
            continue
        seen.add(owner)
        for name, child in owner._modules.items():
            if child is None:
                continue
            inner = getattr(child, "original_component", None)
            if inner is not None:
                found.append(Wrapper(owner, name, child, inner))
            waiting.append(child if inner is None else inner)
    return found


def changes_nothing(model: Any, found: Sequence[Wrapper]) -> bool:
    """Whether a bridge computes the same without its wrappers: nobody hooks them, and they hold no weights."""
    if getattr(model, "compatibility_mode", False) or getattr(model, "_weights_processed", False):
        return False
    return not any(
        len(module._forward_hooks) > wiring(module)
        for wrapper in found
        for module in (wrapper.outer, *wrapper.outer.children())
        if module is not wrapper.inner
    )


def wiring(module: nn.Module) -> int:
    """Number of a hook point's hooks by which TransformerLens itself joins it to others, as in OPT."""
    hooks = (getattr(handle, "user_hook", None) for handle in getattr(module, "fwd_hooks", ()))
    return sum(getattr(hook, "__module__", "").startswith("transformer_lens.") for hook in hooks)


@contextmanager
def unwrapped(model: Any, found: Sequence[Wrapper]) -> Iterator[None]:
    """Take wrappers away while the context is open, and let attention be computed in one step where it can be.

    Meanwhile no other thread of this package runs the model, for its hooks would not be called.
    """
    config = model.original_model.config
    with lock_of(model):
        asked = config._attn_implementation
        try:
            for owner, name, _, inner in found:
                owner._modules[name] = inner
            if found and fuses_attention(model):
                config._attn_implementation = "sdpa"
            yield
        finally:
            config._attn_implementation = asked
            for owner, name, outer, _ in found:
                owner._modules[name] = outer


def fuses_attention(model: Any) -> bool:
    """Whether a Hugging Face model's attention is that of PyTorch's ``scaled_dot_product_attention``."""
    capped = getattr(model.original_model.config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    return bool(getattr(model.original_model, "_supports_sdpa", False)) and not capped
