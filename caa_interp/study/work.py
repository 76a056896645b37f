"""What a worker does: load a model once, and turn shards into tables."""

from __future__ import annotations

import inspect
import io
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch

from caa_interp.analysis.lens import logit_lens
from caa_interp.analysis.projection import project
from caa_interp.analysis.reliability import reliability
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError
from caa_interp.evaluation.controls import orthogonal_vectors, random_vectors, shuffled_vectors
from caa_interp.evaluation.cost import capability, divergence, perplexity, side_effects
from caa_interp.evaluation.sweep import sweep
from caa_interp.models import load_model
from caa_interp.models.access import model_id, model_revision, n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Format
from caa_interp.steering.generation import encode_prompt, generate
from caa_interp.steering.operators import operator_named
from caa_interp.steering.positions import positions_named
from caa_interp.study.config import ModelConfig, PromptConfig
from caa_interp.study.shards import Shard, code_digest
from caa_interp.vectors.activations import collect_activations
from caa_interp.vectors.estimators import Estimator, estimator_named
from caa_interp.vectors.extraction import vector_from_activations
from caa_interp.vectors.vector import SteeringVector

_LIBRARIES = ("torch", "transformers", "transformer-lens", "tokenizers", "numpy", "scipy", "scikit-learn")


class Worker:
    """Does shards, one after the other, and keeps the last model that it loaded."""

    def __init__(self) -> None:
        self._config: ModelConfig | None = None
        self._model: Any = None

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """Load a model, and describe all in it and in the code that a result may depend on, in JSON types."""
        model = self._loaded(config)
        form = _form(model, config)
        device = torch.device(model.cfg.device or "cpu")
        return {
            "id": model_id(model),
            "revision": model_revision(model),
            "backend": type(model).__name__,
            "dtype": str(model.cfg.dtype).removeprefix("torch."),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "n_layers": n_layers(model),
            "d_model": int(model.cfg.d_model),
            "prompt_style": form.style,
            "prompt_digest": form.digest(),
            "template_arguments": dict(form.template_arguments),
            "code": code_digest(),
            "versions": {name: version(name) for name in _LIBRARIES},
        }

    def work(self, shard: Shard) -> bytes:
        """Do a shard; returns the Parquet file of its table, with its time, threads and the process's peak memory."""
        model = self._loaded(shard.model)
        start = time.perf_counter()
        function = KINDS[shard.kind]
        taken = inspect.signature(function).parameters
        passes_on = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        arguments = {name: _NAMED.get(name, lambda given: given)(value) for name, value in shard.arguments.items()}
        own = {"progress": False, "prompt_format": _form(model, shard.model)}
        table = function(model, **arguments, **{name: own[name] for name in own if passes_on or name in taken})
        took = {
            "seconds": time.perf_counter() - start,
            "threads": torch.get_num_threads(),
            "peak_memory_bytes": _peak_memory(),
        }
        return encode(table, took)

    def _loaded(self, config: ModelConfig) -> Any:
        if config != self._config:
            self._config = self._model = None  # two models may not fit side by side
            self._model = load_model(config.name, **config.model_dump(exclude={"name", "prompt"}), progress=False)
            self._config = config
        return self._model


# Arguments that a shard holds by their names.
_NAMED: dict[str, Callable[[str], Any]] = {
    "estimator": estimator_named,
    "operator": operator_named,
    "positions": positions_named,
}


def _form(model: Any, config: ModelConfig) -> PromptFormat:
    prompt = config.prompt or PromptConfig()
    return PromptFormat.of(model, style=prompt.style, **dict(prompt.template_arguments))


def encode(table: pd.DataFrame, took: Mapping[str, Any]) -> bytes:
    """Parquet file of a table, with what it took to make."""
    table = table.copy(deep=False)
    table.attrs = {**table.attrs, "took": dict(took)}
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def decode(content: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Table and what it took, from :func:`encode`."""
    table = pd.read_parquet(io.BytesIO(content))
    return table, table.attrs.pop("took")


def vectors_of(table: pd.DataFrame) -> dict[str, SteeringVector]:
    """Vectors of a table of kind ``vectors``, by name."""
    vectors = {}
    for name, rows in table.groupby("vector", sort=False):
        values = torch.from_numpy(np.stack(rows["values"].tolist()))
        metadata = json.loads(rows["metadata"].iloc[0])
        vectors[str(name)] = SteeringVector(values, tuple(int(n) for n in rows["layer"]), metadata)
    return vectors


def _make_vectors(
    model: Any,
    *,
    behavior: str,
    pairs: Sequence[ContrastPair],
    estimator: Estimator,
    n_random: int,
    n_orthogonal: int,
    n_shuffled: int,
    seed: int,
    **asked: Any,
) -> pd.DataFrame:
    """One row per vector and layer; the behavior's own rows also hold how reliable it is there."""
    activations = collect_activations(model, pairs, **asked)
    vector = vector_from_activations(activations, estimator=estimator, behavior=behavior)
    vectors = {behavior: vector}
    for control, n in ((random_vectors, n_random), (orthogonal_vectors, n_orthogonal)):
        if n:
            vectors |= control(vector, n, seed=seed)
    if n_shuffled:
        vectors |= shuffled_vectors(activations, n_shuffled, seed=seed)
    if vectors[behavior] is not vector:
        raise InputError(f"behaviors: {behavior!r} is also the name of one of its controls. Give it another name.")
    rows = [
        {"vector": name, "layer": layer, "values": one.at(layer).numpy(), "metadata": json.dumps(dict(one.metadata))}
        for name, one in vectors.items()
        for layer in one.layers
    ]
    statistics = reliability(activations, seed=seed).assign(vector=behavior)
    return pd.DataFrame(rows).merge(statistics, on=["vector", "layer"], how="left")


def _count_tokens(
    model: Any,
    *,
    pairs: Sequence[ContrastPair],
    prompts: Sequence[str],
    format: Format,
    system_prompt: str | None,
    max_new_tokens: int,
    prompt_format: PromptFormat,
) -> pd.DataFrame:
    """Number of tokens of each pair and prompt; raises an error if one does not fit the model."""
    rows = []
    for number, pair in enumerate(pairs):
        what = f"pair {pair.id or number} ({pair.question[:60]!r})"
        renderings = prompt_format.render(pair, format, system_prompt, what=what)
        longest = max(len(tokens) for one in renderings for tokens in (one.positive, one.negative))
        rows.append(("pair", number, longest))
    for number, prompt in enumerate(prompts):
        what = f"open-ended prompt {prompt[:60]!r}"
        tokens = encode_prompt(prompt_format, prompt, max_new_tokens, system_prompt, what)
        rows.append(("prompt", number, len(tokens)))
    return pd.DataFrame(rows, columns=["what", "number", "n_tokens"])


def _project(model: Any, *, behavior: str, **asked: Any) -> pd.DataFrame:
    return project({behavior: collect_activations(model, **asked)})


# Everything that a shard can be: the function is called with the model and the shard's arguments.
KINDS: dict[str, Callable[..., pd.DataFrame]] = {
    "tokens": _count_tokens,
    "vectors": _make_vectors,
    "sweep": sweep,
    "projection": _project,
    "logit_lens": logit_lens,
    "answers": generate,
    "perplexity": perplexity,
    "divergence": divergence,
    "capability": capability,
    "side_effects": side_effects,
}


def _peak_memory() -> int:
    """Most bytes that this process has held so far: on the GPU if it used one, else in main memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(most if sys.platform == "darwin" else most * 1024)
