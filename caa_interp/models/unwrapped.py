"""A bridge's Hugging Face model as it is, without the hook points around its modules.

A bridge puts hook points around each of about ten modules per block and computes attention step by step, so that one
can look inside. Where nobody looks, that only takes time: more than half of it in a narrow model, or on a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from caa_interp.models.access import is_bridge, lock_of, runner, text_config
from caa_interp.models.attention import takes_tree_masks
from caa_interp.models.hooks import has_hooks

# A module of a bridge that stands for a Hugging Face module, as ``owner.name``: owner, name and the module.
_Wrapper = tuple[nn.Module, str, Any]


@contextmanager
def bare(model: Any) -> Iterator[Any]:
    """Run a model's blocks without wrappers while the context is open, if it takes trees and computes the same so.

    Yields the module to call, as :func:`caa_interp.models.access.runner` tells it meanwhile.
    Attention is then computed in one step where it can be. Meanwhile no other thread of this package runs the model,
    for its hooks would not be called.
    """
    with lock_of(model):
        wrappers, plain = _wrappers(model.original_model) if is_bridge(model) else ([], set())
        if not (wrappers and takes_tree_masks(model) and changes_nothing(model, plain)):
            yield runner(model)
            return
        config = text_config(model)
        inside = {module for block in model.blocks for module in block.modules()} & plain
        attentions = [module for module in inside if getattr(module, "config", None) is config]
        with ExitStack() as undo:  # each of these is undone, whatever interrupts another
            undo.callback(_put_back, wrappers)
            undo.callback(_configure, attentions, config)
            for owner, name, outer in wrappers:
                owner._modules[name] = outer.original_component
            if fuses_attention(model):
                # The model keeps its own configuration, by which it makes its masks: what a user computes in another
                # thread meanwhile has a mask that is right for either kind of attention.
                fused = copy.copy(config)
                fused._attn_implementation = "sdpa"
                _configure(attentions, fused)
            yield model.original_model


def _configure(attentions: Sequence[Any], config: Any) -> None:
    for attention in attentions:
        attention.config = config


def _wrappers(module: nn.Module) -> tuple[list[_Wrapper], set[nn.Module]]:
    """Wrappers inside a Hugging Face module of a bridge, at any depth, and the plain modules."""
    found: list[_Wrapper] = []
    waiting, plain = [module], set()
    while waiting:
        owner = waiting.pop()
        if owner in plain:
            continue
        plain.add(owner)
        for name, child in owner._modules.items():
            inner = getattr(child, "original_component", None)
            if child is not None and inner is not None:
                found.append((owner, name, child))
            if child is not None:
                waiting.append(child if inner is None else inner)
    return found, plain


def changes_nothing(model: Any, plain: set[nn.Module]) -> bool:
    """Whether a bridge computes the same without what is around its ``plain`` modules.

    That is so where nobody hooks it, and where it holds no weights of its own.
    """
    holds_weights = getattr(model, "compatibility_mode", False) or getattr(model, "_weights_processed", False)
    return not holds_weights and not has_hooks({*model.modules(), *model.hook_dict.values()} - plain)


def _put_back(wrappers: Sequence[_Wrapper]) -> None:
    try:
        for owner, name, outer in wrappers:
            owner._modules[name] = outer
    except KeyboardInterrupt:
        _put_back(wrappers)
        raise


def fuses_attention(model: Any) -> bool:
    """Whether a Hugging Face model's attention is that of PyTorch's ``scaled_dot_product_attention``."""
    capped = getattr(text_config(model), "attn_logit_softcapping", None)
    return bool(getattr(model.original_model, "_supports_sdpa", False)) and not capped
