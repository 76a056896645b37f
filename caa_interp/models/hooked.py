"""Loading ``HookedTransformer``, which TransformerLens has up to version 3."""

from __future__ import annotations

import contextlib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.errors import ModelError

if TYPE_CHECKING:
    import torch


def transformer_lens_major() -> int:
    """First number of the installed TransformerLens's version."""
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
    """Load a listed name or a folder, with unprocessed weights."""
    import warnings

    from transformer_lens import HookedTransformer
    from transformers import AutoTokenizer, GenerationConfig

    options: dict[str, Any] = {"revision": revision} if revision else {}
    with warnings.catch_warnings(), contextlib.redirect_stdout(None):
        warnings.filterwarnings("ignore", message="HookedTransformer", category=DeprecationWarning)
        if Path(source).is_dir():
            model = _hooked_from_folder(source, device, dtype)
        elif listed_by_hooked(source):
            if revision:  # which does not reach the tokenizer otherwise
                options["tokenizer"] = AutoTokenizer.from_pretrained(source, revision=revision)
            model = HookedTransformer.from_pretrained_no_processing(source, device=device, dtype=dtype, **options)
        else:
            raise ModelError(
                f"model {source!r}: it is not on HookedTransformer's list, or is there with code from its own "
                "repository, which is never run here. Use backend='bridge', or give a local folder."
            )
    with contextlib.suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(source, revision=revision)
    return model


def _hooked_from_folder(source: str, device: str | None, dtype: torch.dtype) -> Any:
    """Convert a folder's model, which HookedTransformer.from_pretrained does not take, and check the result."""
    import shutil
    import tempfile

    import torch
    from transformer_lens import HookedTransformer, loading_from_pretrained as loading
    from transformers import AutoModelForCausalLM, AutoTokenizer

    original = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    with tempfile.TemporaryDirectory() as neutral:  # words such as "llama" in a path would choose another config
        shutil.copy(Path(source) / "config.json", neutral)
        cfg = loading.get_pretrained_model_config(neutral, device=device, dtype=dtype)
    cfg.tokenizer_name = source
    weights = loading.get_pretrained_state_dict(source, cfg, original, dtype=dtype)
    model = HookedTransformer(cfg, AutoTokenizer.from_pretrained(source))
    model.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    tokens = torch.arange(min(64, cfg.d_vocab, cfg.n_ctx))[None]
    with torch.no_grad():
        expected, found = original(tokens).logits.float(), model(tokens).float().cpu()
    # Converters leave out what they do not know, such as biases or a scaled rotary embedding, without a word.
    if float((found - expected).norm() / expected.norm()) > (1e-3 if dtype.itemsize >= 4 else 0.1):
        raise ModelError(
            f"model {source!r}: HookedTransformer does not compute what the original does. Use backend='bridge'."
        )
    return model
