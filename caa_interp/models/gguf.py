"""Conversion of a GGUF model file into a folder that Hugging Face loads in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caa_interp.files import cache_folder, file_digest, publish_folder

# Version of the converted form; a folder of another version is not used.
_VERSION = 2
_ADD_BOS = "gguf_add_bos_token"


def converted(file: Path) -> tuple[Path, str]:
    """Convert a GGUF file of an architecture that ``transformers`` reads, unless that was done before.

    Returns a folder in Hugging Face's layout with float32 weights, in :func:`caa_interp.files.cache_folder`, and the
    file's sha256, which names the folder. The folder appears whole or not at all.
    """
    folder, digest = conversion(file)
    if not folder.is_dir():
        try:
            with publish_folder(folder) as partial:
                _convert(file, partial)
        except OSError:
            # Another process may have finished first; its result is used.
            if not folder.is_dir():
                raise
    return folder, digest


def conversion(file: Path) -> tuple[Path, str]:
    """Folder of a GGUF file's converted form, whether or not it is there, and the file's sha256."""
    digest = file_digest(file)
    return cache_folder() / "models" / f"{file.stem}-{digest[:16]}.{_VERSION}", digest


def set_bos(model: Any) -> None:
    """Prepend BOS or not, as a model's GGUF file says; TransformerLens prepends it wherever a tokenizer has one."""
    add_bos = getattr(model.tokenizer, "init_kwargs", {}).get(_ADD_BOS)
    if add_bos is not None and model.tokenizer.bos_token is not None:
        model.tokenizer.add_bos_token = add_bos
        model.cfg.tokenizer_prepends_bos = add_bos


def _convert(file: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # A model read from GGUF keeps its quantizer, which cannot be saved, so copy the weights into one without it.
    config = source.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict(), assign=True)
    model.save_pretrained(folder)
    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    tokenizer.init_kwargs[_ADD_BOS] = None if field is None else bool(field.contents())
    tokenizer.save_pretrained(folder)
