"""``python -m benchmarks.gpu``: all that needs a GPU, in one command and one table.

A Llama of exactly 7B shape with random weights in bfloat16: the paper's figure 3 (7 behaviors x 50 questions x 32
layers x 3 multipliers, both letter orders) against one hooked forward a cell, steered answers against ``generate`` of
transformers, memory, loading time, and what bfloat16 does to scores. ``--size toy`` does the same with a small model.
"""

import argparse
import importlib.util
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

if importlib.util.find_spec("datasets") is None:
    # TransformerLens names two of its classes and a function, which nothing here uses; with pyarrow it is 50 MB.
    names = {"datasets": "load_dataset", "datasets.load": "load_dataset", "datasets.arrow_dataset": "Dataset"}
    for module, attribute in {**names, "datasets.iterable_dataset": "IterableDataset"}.items():
        sys.modules[module] = ModuleType(module)
        setattr(sys.modules[module], attribute, object)

import caa_interp as caa
from benchmarks import models
from benchmarks.measuring import Peak, described, show, timed
from benchmarks.rows import sweep_row
from caa_interp.prompts.format import PromptFormat

FIGURE_3 = (
    "coordinate-other-ais",
    "corrigible-neutral-HHH",
    "hallucination",
    "myopic-reward",
    "refusal",
    "survival-instinct",
    "sycophancy",
)


def generation_row(model: Any, vector: caa.SteeringVector, prompts: Sequence[str], n_new: int) -> dict[str, Any]:
    """Steered answers, tokens a second, against ``generate`` of transformers with a hook, one prompt after another."""
    layer, form = vector.layers[len(vector.layers) // 2], PromptFormat.of(model)
    options = {"vector": vector, "layer": layer, "progress": False}
    caa.generate(model, prompts[:1], max_new_tokens=2, **options)
    with Peak() as peak:
        seconds, answers = timed(lambda: caa.generate(model, prompts, max_new_tokens=n_new, **options))
    plain, sample = model.original_model, prompts[:4]
    ends = {"eos_token_id": sorted(form.end_ids), "pad_token_id": model.tokenizer.pad_token_id}
    hook = added(vector.at(layer).to(plain.device, plain.dtype))
    handle = model.blocks[layer].original_component.register_forward_hook(hook)
    naive_seconds, n_tokens = 0.0, 0
    for prompt in sample:
        ids = torch.tensor([form.tokens(prompt).tokens], device=plain.device)
        taken, out = timed(lambda i=ids: plain.generate(i, max_new_tokens=n_new, do_sample=False, **ends))
        naive_seconds, n_tokens = naive_seconds + taken, n_tokens + out.shape[1] - ids.shape[1]
    handle.remove()
    ours, naive = answers["n_tokens"].sum() / seconds, n_tokens / naive_seconds
    return {
        "task": f"{len(prompts)} steered answers: {ours:.0f} tokens a second, transformers' generate {naive:.0f}",
        "naive (s)": naive_seconds / len(sample) * len(prompts),
        "caa_interp (s)": seconds,
        "ratio": ours / naive,
        "peak (MB)": peak.megabytes,
    }


def added(vector: torch.Tensor) -> Callable[..., Any]:
    """Hook that adds a vector at the last position, as one writes it for Hugging Face's models."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        residual = output[0] if isinstance(output, tuple) else output
        residual[:, -1] += vector
        return output

    return hook


def precision_row(
    folder: str, device: str, table: pd.DataFrame, vector: caa.SteeringVector, pairs: Sequence[caa.ContrastPair]
) -> dict[str, Any]:
    """How far scores in bfloat16 are from those in float32, with the same weights."""
    model = caa.load_model(folder, device=device, dtype="float32", progress=False)
    seconds, exact = timed(lambda: caa.sweep(model, vector, pairs, format="choices", progress=False))
    difference = (exact["logit_difference"] - table["logit_difference"]).abs()
    return {
        "task": f"float32 against bfloat16: scores differ by {difference.mean():.4f} nats on average",
        "caa_interp (s)": seconds,
        "largest difference": float(difference.max()),
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=main.__doc__)
    parser.add_argument("--size", choices=["7b", "toy"], default="7b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    n_each, n_prompts, n_new, behaviors, rate_seconds = (
        (50, 256, 64, FIGURE_3, 1.5) if chosen.size == "7b" else (1, 2, 8, FIGURE_3[:2], 0.1)
    )
    pairs = [pair for name in behaviors for pair in caa.load_behavior(name).test[:n_each]]
    with tempfile.TemporaryDirectory() as folder:
        models.save(models.llama(chosen.size), folder, chosen.device, torch.bfloat16)
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        seconds, model = timed(lambda: caa.load_model(folder, device=chosen.device, dtype="bfloat16", progress=False))
        rows: list[dict[str, Any]] = [{"task": f"load_model: {size:.0f} MB from disk", "caa_interp (s)": seconds}]
        n_layers, width = model.cfg.n_layers, model.cfg.d_model
        values = torch.randn(n_layers, width, generator=torch.Generator().manual_seed(0)) / width**0.5
        vector = caa.SteeringVector(values, tuple(range(n_layers)), {"behavior": "any"})
        rows.append(sweep_row(model, vector, pairs, "choices", 24, (-1.0, 0.0, 1.0), rate_seconds))
        rows.append(generation_row(model, vector, [pair.question for pair in pairs[:n_prompts]], n_new))
        few = pairs[:: max(1, len(pairs) // 7)]
        table = caa.sweep(model, vector, few, format="choices", progress=False)
        heading = f"A Llama of the shape {chosen.size} with random weights, {described(model, rate_seconds)}"
        del model
        rows.append(precision_row(folder, chosen.device, table, vector, few))
    print(heading)
    print()
    print(show(rows))


if __name__ == "__main__":
    main()
