"""Hooks that somebody has put on a model's modules, apart from those by which TransformerLens joins them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_WIRING = ("transformer_lens.",)
# Of these, Transformers' only collect what a model computes, Accelerate's place it, and ours know a tree's positions.
_HARMLESS = (*_WIRING, "transformers.", "accelerate.", "caa_interp.")


def has_hooks(modules: Iterable[Any], makers: tuple[str, ...] = _WIRING) -> bool:
    """Whether one of the modules has a hook, before or after it, whose code is in none of the packages ``makers``."""
    return any(_is_hooked(module, makers) for module in modules)


def is_hooked_by_user(model: Any) -> bool:
    """Whether a model has hooks that are neither its libraries' nor this package's, which know plain sequences only."""
    return has_hooks({*model.modules(), *model.hook_dict.values()}, _HARMLESS)


def wiring(point: Any, makers: tuple[str, ...] = _WIRING) -> int:
    """Number of a hook point's hooks by which TransformerLens itself joins it to others, as in OPT."""
    return sum(_is_of(makers, getattr(handle, "user_hook", None)) for handle in getattr(point, "fwd_hooks", ()))


def _is_hooked(module: Any, makers: tuple[str, ...]) -> bool:
    before, after = module._forward_pre_hooks.values(), module._forward_hooks.values()
    if not before and not after:
        return False
    if hasattr(module, "fwd_hooks"):  # a hook point registers a function of its own for each hook
        return len(after) > wiring(module, makers) or not all(_is_of(makers, hook) for hook in before)
    return not all(_is_of(makers, hook) for hook in (*before, *after))


def _is_of(makers: tuple[str, ...], hook: Any) -> bool:
    return (getattr(hook, "__module__", None) or "").startswith(makers)
