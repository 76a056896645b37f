"""Hooks that somebody has put on a model's modules, apart from those by which TransformerLens joins them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def has_hooks(modules: Iterable[Any]) -> bool:
    """Whether somebody hooks one of the modules, before or after it."""
    return any(_is_hooked(module) for module in modules)


def wiring(point: Any) -> int:
    """Number of a hook point's hooks by which TransformerLens itself joins it to others, as in OPT."""
    return sum(_is_own(getattr(handle, "user_hook", None)) for handle in getattr(point, "fwd_hooks", ()))


def _is_hooked(module: Any) -> bool:
    before, after = module._forward_pre_hooks.values(), module._forward_hooks.values()
    if not before and not after:
        return False
    if hasattr(module, "fwd_hooks"):  # a hook point registers a function of its own for each hook
        return len(after) > wiring(module) or not all(map(_is_own, before))
    return not all(map(_is_own, [*before, *after]))


def _is_own(hook: Any) -> bool:
    return getattr(hook, "__module__", "").startswith("transformer_lens.")
