"""What a model's attention does with its mask, as its class and its configuration declare it.

A token tree is right where attention knows a row by its mask and its position alone. Hugging Face's models declare
that (``_supports_attention_backend``: the mask is passed through to the attention function unchanged); windows are in
their configuration. A few older ones do not declare it, but add the mask as it is given. A model that bands its mask by
row (GPT-Neo), adds a bias by row (ALiBi) or carries a state from row to row (Mamba) takes plain passes.
``HookedTransformer`` is judged by its configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from caa_interp.models.access import is_bridge, n_layers, text_config

# Models whose attention adds the mask that it is given, and knows positions by their numbers alone.
_ADDS_MASK = {"codegen", "gptj", "stablelm", "xglm"}
_FULL, _SLIDING, _CHUNKED = "full_attention", "sliding_attention", "chunked_attention"


@dataclass(frozen=True)
class Window:
    """How far back a layer attends: to ``size`` positions, its own included, or (chunked) to the start of its chunk."""

    size: int
    chunked: bool = False

    def reaches(self, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Tell which keys are in the window of which queries; both are positions, in shapes that broadcast."""
        if self.chunked:
            return queries // self.size == keys // self.size
        return queries - keys < self.size


def attention_windows(model: Any) -> list[Window | None]:
    """Return the window of each layer; None for a layer that attends to everything before it."""
    if not is_bridge(model):
        kinds = (model.cfg.attn_types or ["global"]) if model.cfg.use_local_attn else ["global"]
        kinds = list(kinds) * (n_layers(model) // len(kinds))
        return [Window(int(model.cfg.window_size)) if kind == "local" else None for kind in kinds]
    config = text_config(model)
    sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    found: dict[str, Window | None] = {_FULL: None, _SLIDING: Window(sliding) if sliding else None}
    if chunk := getattr(config, "attention_chunk_size", None):
        found[_CHUNKED] = Window(chunk, chunked=True)
    return [found[kind] for kind in layer_kinds(model)]


def takes_tree_masks(model: Any) -> bool:
    """Whether a model's attention is right for rows that are no plain sequence, given their mask and positions."""
    if not is_bridge(model):
        cfg = model.cfg
        by_position = cfg.positional_embedding_type in ("standard", "rotary") and cfg.attention_dir == "causal"
        by_length = getattr(cfg, "use_dynamic_ntk_rope", False) or getattr(cfg, "use_logn_attn", False)
        simple = not by_length and not getattr(cfg, "post_embedding_ln", False)
        return by_position and simple and hasattr(model, "ln_final")
    # Layers that take another layer's keys and values cannot be run by themselves.
    shared = getattr(text_config(model), "num_kv_shared_layers", 0)
    declared = bool(getattr(model.original_model, "_supports_attention_backend", False))
    declared = declared or text_config(model).model_type in _ADDS_MASK
    # What is offloaded has its weights only while its own module runs.
    offloaded = any(weight.is_meta for weight in model.parameters())
    return declared and not shared and not offloaded and not carries_state(model) and hasattr(model, "ln_final")


def carries_state(model: Any) -> bool:
    """Whether a bridge's model has layers that carry more than keys and values from one token to the next."""
    kinds = set(layer_kinds(model))
    stateful = getattr(model.original_model, "_is_stateful", False) or getattr(model.cfg, "is_stateful", False)
    return bool(stateful) or not kinds <= {_FULL, _SLIDING, _CHUNKED}


def rotary_boundary(model: Any) -> int | None:
    """Length beyond which a model turns all positions of a sequence otherwise (LongRoPE, as in Phi-3), or None.

    What stands in one batch or cache with a longer sequence would be turned like it.
    """
    if not is_bridge(model):
        return None
    rope = getattr(text_config(model), "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return None
    within = rope.get("original_max_position_embeddings") or text_config(model).original_max_position_embeddings
    return int(within)


def layer_kinds(model: Any) -> list[str]:
    """Return what kind of attention each layer of a bridge has, in the words of Hugging Face's configurations."""
    config = text_config(model)
    everywhere = _SLIDING if getattr(config, "sliding_window", None) else _FULL
    return list(getattr(config, "layer_types", None) or [everywhere] * n_layers(model))
