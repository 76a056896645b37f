"""Rows of the table: the same work by this package, and as a TransformerLens user would write it.

The naive side of a sweep is timed on a sample of its cells, spread evenly over layers and multipliers, and scaled
to all of them: the cells cost the same, and all of them would take minutes a question.
"""

import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import torch

import caa_interp as caa
from benchmarks import floor, models, naive
from benchmarks.measuring import Peak, timed
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Rendering

MULTIPLIERS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
N_ROUNDS = 3


def questions(n: int) -> list[caa.ContrastPair]:
    """Pairs of the package's own data, each after a conversation of its own, as long as real questions."""
    behavior = caa.load_behavior("optimism")
    return [
        caa.ContrastPair(
            f"Earlier I asked: {before.question} You said: {before.positive} Now tell me: {pair.question}",
            pair.positive,
            pair.negative,
        )
        for before, pair in zip(behavior.train[:n], behavior.test, strict=False)
    ]


def sweep_row(
    model: Any,
    vector: caa.SteeringVector,
    pairs: Sequence[caa.ContrastPair],
    format: str,
    n_cells: int,
    multipliers: Sequence[float] = MULTIPLIERS,
    rate_seconds: float = 1.5,
) -> dict[str, Any]:
    """Layers x multipliers on several questions, against one hooked forward per cell (sampled on the first four)."""
    prompts, layers = PromptFormat.of(model), range(model.cfg.n_layers)
    options = {"format": format, "multipliers": multipliers, "progress": False}
    # The first trees, and longer ones, are compared with plain passes: once a model, and not what is timed here.
    longest = max(pairs, key=lambda pair: len(pair.question + pair.positive + pair.negative))
    caa.sweep(model, vector, [longest, longest], layers=[0, layers[-1]], **options)
    rate = floor.matmul_rate(model, seconds=rate_seconds)
    with Peak() as peak:
        ours, table = timed(lambda: caa.sweep(model, vector, pairs, **options))
    # A shared machine's speed drifts within minutes: the floor is at the mean of the rates right before and after.
    rate = (rate + floor.matmul_rate(model, seconds=rate_seconds)) / 2
    every = list(naive.cells(len(layers), multipliers))
    sample = every[:: max(1, len(every) // n_cells)]
    total, cells, worst = 0.0, 0, 0.0
    indexed = table.set_index(["item", "order", "layer", "multiplier"])
    rendered = [prompts.render(pair, format) for pair in pairs]
    for item, renderings in enumerate(rendered[:4]):
        for rendering in renderings:
            for layer, multiplier in sample[item % 3 :: 3]:
                addition = multiplier * vector.at(layer).to(model.cfg.device, model.cfg.dtype)
                seconds, scores = timed(
                    lambda r=rendering, at=layer, v=addition: naive.sweep_cell(model, r, format, at, v)
                )
                total, cells = total + seconds, cells + 1
                row = indexed.loc[(item, rendering.order, layer, multiplier)]
                worst = max(worst, abs(row["log_p_positive"] - scores[0]), abs(row["log_p_negative"] - scores[1]))
    lengths = [rendering.n_prompt for renderings in rendered for rendering in renderings]
    naive_seconds = total / cells * len(every) * len(lengths)
    n_steered = len([multiplier for multiplier in multipliers if multiplier])
    operations = sum(floor_operations(model, renderings, format, n_steered) for renderings in rendered)
    return {
        "task": f"sweep, {format}: {len(layers)} layers x {len(multipliers)} multipliers, {len(pairs)} questions",
        "tokens": f"{min(lengths)} to {max(lengths)}",
        "naive (s)": naive_seconds,
        "caa_interp (s)": ours,
        "ratio": naive_seconds / ours,
        "x floor": ours * rate / operations,
        "peak (MB)": peak.megabytes,
        "largest difference": worst,
    }


def floor_operations(model: Any, renderings: Sequence[Rendering], format: str, n_steered: int) -> int:
    """Operations that a sweep of one question needs, every shared token computed once."""
    trunk: set[tuple[int, ...]] = set()
    branches = []
    for rendering in renderings:
        start = rendering.n_prompt - 1
        trunk |= {rendering.positive[: end + 1] for end in range(start)}
        if format == "choices":
            branches.append((rendering.n_shared - start, 1, rendering.n_shared))
        else:
            ends = {
                side[:end] for side in (rendering.positive, rendering.negative) for end in range(start + 1, len(side))
            }
            branches.append((len(ends), len(ends), start + len(ends) // 4))
    return floor.sweep_operations(model.cfg, len(trunk), branches, n_steered)


def extraction_row(model: Any, format: str, n_pairs: int) -> dict[str, Any]:
    """All layers of one vector, against two full forwards per pair; three rounds each, in turn."""
    pairs, prompts = questions(n_pairs), PromptFormat.of(model)
    caa.extract_vector(model, pairs[:1], format=format)
    renderings = [rendering for pair in pairs for rendering in prompts.render(pair, format)]
    naive.difference_at_all_layers(model, renderings[0], format)
    ours = naive_seconds = peak_megabytes = 0.0
    for _ in range(N_ROUNDS):
        with Peak() as peak:
            seconds, vector = timed(lambda: caa.extract_vector(model, pairs, format=format))
        ours, peak_megabytes = ours + seconds / N_ROUNDS, max(peak_megabytes, peak.megabytes)
        seconds, differences = timed(lambda: [naive.difference_at_all_layers(model, r, format) for r in renderings])
        naive_seconds += seconds / N_ROUNDS
    mean = torch.stack(differences).double().mean(0).cpu()
    return {
        "task": f"extraction, {format}: {n_pairs} pairs, all layers",
        "tokens": f"{min(r.n_prompt for r in renderings)} to {max(r.n_prompt for r in renderings)}",
        "naive (s)": naive_seconds,
        "caa_interp (s)": ours,
        "ratio": naive_seconds / ours,
        "peak (MB)": peak_megabytes,
        "largest difference": float((mean - vector.values.double()).abs().max()),
    }


def generation_row(model: Any, vector: caa.SteeringVector, layer: int) -> dict[str, Any]:
    """5 multipliers x 4 prompts x 60 tokens, against one after the other."""
    prompts = list(caa.load_behavior("optimism").open_ended[:4])
    multipliers, form = (-4.0, -2.0, 0.0, 2.0, 4.0), PromptFormat.of(model)
    options = {"vector": vector, "layer": layer, "max_new_tokens": 60, "progress": False}
    caa.generate(model, prompts[:1], multipliers=(1.0,), vector=vector, layer=layer, max_new_tokens=3, progress=False)
    with Peak() as peak:
        ours, table = timed(lambda: caa.generate(model, prompts, multipliers=multipliers, **options))
    answers, naive_seconds = [], 0.0
    for prompt in prompts:
        for multiplier in multipliers:
            addition = (multiplier * vector.at(layer)).to(model.cfg.device)
            ids = form.tokens(prompt).tokens
            seconds, tokens = timed(lambda i=ids, v=addition: naive.generate_one(model, i, layer, v, 60))
            naive_seconds += seconds
            answers.append(form.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    same = sum(a == b for a, b in zip(answers, table["answer"], strict=True))
    return {
        "task": f"generation: {len(multipliers)} multipliers x {len(prompts)} prompts x 60 tokens ({same}/20 equal)",
        "naive (s)": naive_seconds,
        "caa_interp (s)": ours,
        "ratio": naive_seconds / ours,
        "peak (MB)": peak.megabytes,
    }


def steered_row(model: Any, vector: caa.SteeringVector, layer: int) -> dict[str, Any]:
    """One steered answer against one unsteered answer of the same length, best of ten each, in turn."""
    prompt = [caa.load_behavior("optimism").open_ended[0]]
    best = {0.0: float("inf"), 1e-6: float("inf")}
    for _ in range(10):
        for multiplier in best:
            options = {"vector": vector, "layer": layer, "multipliers": (multiplier,), "max_new_tokens": 40}
            options["progress"] = False
            best[multiplier] = min(best[multiplier], timed(lambda o=options: caa.generate(model, prompt, **o))[0])
    return {
        "task": "one steered answer (right) against one unsteered (left), 40 tokens",
        "naive (s)": best[0.0],
        "caa_interp (s)": best[1e-6],
        "ratio": best[0.0] / best[1e-6],
    }


def memory_row(model: Any, n_pairs: int) -> dict[str, Any]:
    """Peak memory of extracting from many pairs."""
    some = questions(50)
    pairs = (some * (n_pairs // 50 + 1))[:n_pairs]
    with Peak() as peak:
        seconds, _ = timed(lambda: caa.extract_vector(model, pairs, format="text"))
    return {
        "task": f"extraction, text: memory for {n_pairs} pairs",
        "caa_interp (s)": seconds,
        "peak (MB)": peak.megabytes,
    }


def generation_memory_row(model: Any, vector: caa.SteeringVector, layer: int) -> dict[str, Any]:
    """Peak memory of 64 answers to prompts of 1,000 tokens where 1 GB is free."""
    text = " ".join(pair.question for pair in caa.load_behavior("optimism").train)
    words = text.split()
    prompts = [" ".join(words[begin : begin + 700]) for begin in range(0, 800, 100)]
    prompts = [prompt[: round(len(prompt) * 1000 / len(model.tokenizer(prompt)["input_ids"]))] for prompt in prompts]
    options = {"vector": vector, "layer": layer, "multipliers": tuple(range(-4, 4)), "max_new_tokens": 4}
    with patch("caa_interp.models.memory.free_memory", return_value=10**9), Peak() as peak:
        seconds, _ = timed(lambda: caa.generate(model, prompts, progress=False, **options))
    return {
        "task": "generation: 64 answers after 1,000 tokens each, where 1 GB is free",
        "caa_interp (s)": seconds,
        "peak (MB)": peak.megabytes,
    }


def overhead_row(n_heads: int = 4) -> dict[str, Any]:
    """Processor time of one A/B question, 32 layers x 3 multipliers, beside one forward; one thread, little arithmetic.

    On a GPU that one thread feeds, this is the least time that a question takes.
    """
    model = models.narrow_llama(n_heads)
    vector = caa.SteeringVector(torch.randn(32, 32), tuple(range(32)), {"behavior": "any"})
    pairs = caa.load_behavior("refusal").test[:20]
    renderings = [rendering for pair in pairs for rendering in PromptFormat.of(model).render(pair, "choices")]
    lengths = [len(rendering.asked) for rendering in renderings]
    tokens = torch.tensor([renderings[lengths.index(sorted(lengths)[len(lengths) // 2])].asked])
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        forward = ours = float("inf")
        for _ in range(2 + N_ROUNDS):  # the first ones compare the trees with plain passes
            begin = time.process_time()
            caa.sweep(model, vector, pairs, format="choices", progress=False)
            ours = min(ours, (time.process_time() - begin) / len(pairs))
            for _ in range(5):
                begin = time.process_time()
                with torch.no_grad():
                    model(tokens)
                forward = min(forward, time.process_time() - begin)
    finally:
        torch.set_num_threads(n_threads)
    return {
        "task": f"overhead: one question in choices form (right) against one forward (left), {n_heads} heads",
        "tokens": f"{min(lengths)} to {max(lengths)}",
        "naive (s)": forward,
        "caa_interp (s)": ours,
        "ratio": forward / ours,
    }


def windowed_row(n_items: int, n_cells: int) -> dict[str, Any]:
    """A sweep of a model with sliding windows, which most prompts are longer than."""
    model = models.windowed_gemma()
    n_layers, width = model.cfg.n_layers, model.cfg.d_model
    vector = caa.SteeringVector(torch.randn(n_layers, width), tuple(range(n_layers)), {"behavior": "any"})
    row = sweep_row(model, vector, questions(n_items), "choices", n_cells)
    return row | {"task": f"Gemma 3's shape, windows of 64: {row['task']}"}
