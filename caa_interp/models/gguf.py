"""Conversion of a GGUF model file into a folder that Hugging Face loads in a second."""

from __future__ import annotations

import hashlib
from pathlib import Path

from caa_interp.files import cache_folder, publish_folder


def converted(file: Path) -> tuple[Path, str]:
    """Return the converted form of a GGUF file, and make it if it is not there.

    Parameters
    ----------
    file
        A GGUF file of an architecture that ``transformers`` reads.

    Returns
    -------
    folder, digest
        A folder in Hugging Face's layout with float32 weights, below :func:`caa_interp.files.cache_folder`, and
        the file's sha256, by which the folder is named. The folder appears whole or not at all.
    """
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:16]}"
    if not folder.is_dir():
        try:
            with publish_folder(folder) as partial:
                _convert(file, partial)
        except OSError:
            # Another process may have been quicker: then its work is kept.
            if not folder.is_dir():
                raise
    return folder, digest


def _convert(file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # Weights that were read from GGUF keep their quantizer, which refuses to be saved: copy them into a
    # model that has none.
    config = source.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(source.state_dict(), assign=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
