"""Conversion of a GGUF model file into a folder that Hugging Face loads in a second."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from caa_interp.files import cache_folder, publish_folder

# Of what a conversion makes; others are made again.
_VERSION = 2
_ADD_BOS = "gguf_add_bos_token"


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
    folder = cache_folder() / "models" / f"{file.stem}-{digest[:16]}.{_VERSION}"
    if not folder.is_dir():
        try:
            with publish_folder(folder) as partial:
                _convert(file, partial)
        except OSError:
            # Another process may have been quicker: then its work is kept.
            if not folder.is_dir():
                raise
    return folder, digest


def begin_as_told(model: Any) -> None:
    """Make the tokenizer of a loaded model put BOS in front or not, as its GGUF file says.

    TransformerLens makes every tokenizer that knows a BOS token put it in front, also that of a model which was
    trained without. Models that come from no GGUF file, or from one that does not say, stay as TransformerLens has
    them.
    """
    told = getattr(model.tokenizer, "init_kwargs", {}).get(_ADD_BOS)
    if told is not None and model.tokenizer.bos_token is not None:
        model.tokenizer.add_bos_token = told
        model.cfg.tokenizer_prepends_bos = told


def _adds_bos(file: Path) -> bool | None:
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.add_bos_token")
    return None if field is None else bool(field.contents())


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
    tokenizer.init_kwargs[_ADD_BOS] = _adds_bos(file)
    tokenizer.save_pretrained(folder)
