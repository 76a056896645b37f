"""Loading ``HookedTransformer``, which TransformerLens has until version 3."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.errors import ModelError
from caa_interp.models.wrapping import difference

if TYPE_CHECKING:
    import torch


def transformer_lens_major() -> int:
    """Major version of the installed TransformerLens."""
    return int(version("transformer-lens").split(".")[0])


def listed_by_hooked(source: str) -> bool:
    """Whether ``HookedTransformer`` is installed and loads this name without code from its repository."""
    if transformer_lens_major() >= 4 or Path(source).exists():
        return False
    from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS, get_official_model_name

    try:
        return not get_official_model_name(source).startswith(NEED_REMOTE_CODE_MODELS)
    except ValueError:
        return False


def load_hooked(source: str, device: str | None, dtype: torch.dtype, revision: str | None) -> Any:
    """Load a listed name or a local folder, with unprocessed weights."""
    from transformer_lens import HookedTransformer
    from transformers import AutoTokenizer, GenerationConfig

    options: dict[str, Any] = {"revision": revision} if revision else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        if Path(source).is_dir():
            model = _hooked_from_folder(source, device, dtype)
        elif listed_by_hooked(source):
            if revision:  # TransformerLens does not pass it to the tokenizer
                options["tokenizer"] = AutoTokenizer.from_pretrained(source, revision=revision)
            model = HookedTransformer.from_pretrained_no_processing(source, device=device, dtype=dtype, **options)
        else:
            raise ModelError(
                f"model {source!r}: it is not on HookedTransformer's list, or needs code from its own "
                "repository, which is never run here. Use backend='bridge', or give a local folder."
            )
    with contextlib.suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    return model


def _hooked_from_folder(source: str, device: str | None, dtype: torch.dtype) -> Any:
    """Convert the model in a folder, which HookedTransformer.from_pretrained cannot, and check its logits."""
    from transformer_lens import HookedTransformer, loading_from_pretrained as loading
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    with tempfile.TemporaryDirectory() as neutral:  # a path with a word such as "llama" would select another config
        shutil.copy(Path(source) / "config.json", neutral)
        cfg = loading.get_pretrained_model_config(neutral, device=device, dtype=dtype)
    cfg.tokenizer_name = source
    weights = loading.get_pretrained_state_dict(source, cfg, original, dtype=dtype)
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(source))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    # Converters silently drop what they do not know, such as biases or a scaled rotary embedding.
    if difference(model, original) is not None:
        raise ModelError(
            f"model {source!r}: its logits as a HookedTransformer differ from the original's. Use backend='bridge'."
        )
    return model
