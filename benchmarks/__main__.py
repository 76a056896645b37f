"""``python -m benchmarks``: every row is a ratio measured in this process, printed as one table."""

import argparse

import torch

import caa_interp as caa
from benchmarks.measuring import described, show
from benchmarks.rows import (
    extraction_row,
    generation_memory_row,
    generation_row,
    memory_row,
    overhead_row,
    questions,
    steered_row,
    sweep_row,
    windowed_row,
)


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
        sweep_row(model, vector, questions(n_items), "choices", 42),
        sweep_row(model, vector, questions(n_items), "text", 24),
        windowed_row(n_items, 21),
        overhead_row(4),
        overhead_row(2),
        extraction_row(model, "choices", 5 * n_items),
        extraction_row(model, "text", 5 * n_items),
        generation_row(model, vector, layer),
        steered_row(model, vector, layer),
        generation_memory_row(model, vector, layer),
        *memory,
    ]
    print(f"{chosen.model} in {described(model)}")
    print()
    print(show(rows))


if __name__ == "__main__":
    main()
