"""``python -m benchmarks``: every row is a ratio measured in this process, printed as one table.

The naive side of a sweep is timed on a sample of its cells, spread evenly over layers and multipliers, and scaled
to all of them: the cells cost the same, and all of them would take minutes a question.
"""

import argparse
import platform
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import psutil
import torch

import caa_interp as caa
from benchmarks import floor, naive
from caa_interp.prompts.format import PromptFormat
from caa_interp.prompts.rendering import Rendering

MULTIPLIERS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)
N_ROUNDS = 3


class Peak:
    """Peak of this process's memory beyond what it held at the start, in MB; on a GPU, of the GPU's memory."""

    def __enter__(self) -> "Peak":
        self.cuda = torch.cuda.is_available()
        self.process = psutil.Process()
        self.before = self.top = self.process.memory_info().rss
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before_cuda = torch.cuda.memory_allocated()
        self.running = True
        self.watcher = threading.Thread(target=self._watch)
        self.watcher.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.top = max(self.top, self.process.memory_info().rss)
            time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.watcher.join()
        used = torch.cuda.max_memory_allocated() - self.before_cuda if self.cuda else self.top - self.before
        self.megabytes = max(0.0, used / 1e6)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of one call."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    begin = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def questions(n: int) -> list[caa.ContrastPair]:
    """Pairs of the package's own data, each behind a conversation of its own, as long as real questions."""
    behavior = caa.load_behavior("optimism")
    return [
        caa.ContrastPair(
            f"Earlier I asked: {before.question} You said: {before.positive} Now tell me: {pair.question}",
            pair.positive,
            pair.negative,
        )
        for before, pair in zip(behavior.train[:n], behavior.test, strict=False)
    ]


def sweep_row(model: Any, vector: caa.SteeringVector, format: str, n_items: int, n_cells: int) -> dict[str, Any]:
    """Layers x multipliers on several questions, against one hooked forward per cell."""
    pairs, prompts = questions(n_items), PromptFormat.of(model)
    layers = range(model.cfg.n_layers)
    options = {"format": format, "multipliers": MULTIPLIERS, "progress": False}
    caa.sweep(model, vector, pairs[:1], layers=[0], **options)
    rate = floor.matmul_rate(model)
    with Peak() as peak:
        ours, table = timed(lambda: caa.sweep(model, vector, pairs, **options))
    # A shared machine's speed drifts within minutes: the floor is at the mean of the rates right before and after.
    rate = (rate + floor.matmul_rate(model)) / 2
    every = list(naive.cells(len(layers), MULTIPLIERS))
    sample = every[:: max(1, len(every) // n_cells)]
    total, cells, worst, least = 0.0, 0, 0.0, 0.0
    indexed = table.set_index(["item", "order", "layer", "multiplier"])
    lengths = []
    for item, pair in enumerate(pairs):
        renderings = prompts.render(pair, format)
        lengths += [rendering.n_prompt for rendering in renderings]
        least += floor_seconds(model, renderings, format, rate)
        for rendering in renderings:
            for layer, multiplier in sample[item % 3 :: 3]:
                addition = multiplier * vector.at(layer).to(model.cfg.device)
                seconds, scores = timed(
                    lambda r=rendering, at=layer, v=addition: naive.sweep_cell(model, r, format, at, v)
                )
                total, cells = total + seconds, cells + 1
                row = indexed.loc[(item, rendering.order, layer, multiplier)]
                worst = max(worst, abs(row["log_p_positive"] - scores[0]), abs(row["log_p_negative"] - scores[1]))
    naive_seconds = total / cells * len(every) * len(lengths)
    return {
        "task": f"sweep, {format}: {len(layers)} layers x {len(MULTIPLIERS)} multipliers, {n_items} questions",
        "tokens": f"{min(lengths)} to {max(lengths)}",
        "naive (s)": naive_seconds,
        "caa_interp (s)": ours,
        "ratio": naive_seconds / ours,
        "x floor": ours / least,
        "peak (MB)": peak.megabytes,
        "largest difference": worst,
    }


def floor_seconds(model: Any, renderings: Sequence[Rendering], format: str, rate: float) -> float:
    """Least seconds for the sweep of one question, every shared token computed once."""
    config = model.original_model.config
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
    steered = len([m for m in MULTIPLIERS if m])
    return floor.sweep_operations(config, len(trunk), branches, int(model.cfg.n_layers), steered) / rate


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


def show(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as a Markdown table."""
    columns = ["task", "tokens", "naive (s)", "caa_interp (s)", "ratio", "x floor", "peak (MB)", "largest difference"]
    digits = {"largest difference": "{:.1e}", "peak (MB)": "{:.0f}", "ratio": "{:.2f}", "x floor": "{:.2f}"}
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [
            digits.get(name, "{:.2f}").format(row[name]) if isinstance(row.get(name), float) else str(row.get(name, ""))
            for name in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--quick", action="store_true", help="fewer questions, for a look")
    chosen = parser.parse_args()
    model = caa.load_model(chosen.model)
    torch.manual_seed(0)
    layer = model.cfg.n_layers * 3 // 5
    vector = caa.extract_vector(model, caa.load_behavior("optimism").train[:10], format="text", behavior="optimism")
    n_items = 2 if chosen.quick else 4
    memory = [memory_row(model, 50), memory_row(model, 100 if chosen.quick else 1000)]  # before anything grows
    rows = [
        sweep_row(model, vector, "choices", n_items, 42),
        sweep_row(model, vector, "text", n_items, 24),
        extraction_row(model, "choices", 5 * n_items),
        extraction_row(model, "text", 5 * n_items),
        generation_row(model, vector, layer),
        steered_row(model, vector, layer),
        *memory,
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    names = ("transformer-lens", "transformers", "torch")
    print(f"{chosen.model} in {str(model.cfg.dtype).removeprefix('torch.')} on {platform.machine()} {device};")
    print(f"{floor.matmul_rate(model) / 1e9:.0f} GFLOP/s; " + ", ".join(f"{n} {version(n)}" for n in names))
    print()
    print(show(rows))


if __name__ == "__main__":
    main()
