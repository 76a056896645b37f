"""``python -m benchmarks.hooked``: the sweep of a HookedTransformer, which needs TransformerLens 3."""

import torch

import caa_interp as caa
from benchmarks.measuring import described, show
from benchmarks.rows import questions, sweep_row
from caa_interp.models.gguf import converted
from caa_interp.models.loading import embedded_file


def main() -> None:
    """Run the benchmark and print its row."""
    folder, _ = converted(embedded_file())
    model = caa.load_model(folder, backend="hooked", device="cpu", progress=False)
    torch.manual_seed(0)
    vector = caa.extract_vector(model, caa.load_behavior("optimism").train[:10], format="text", behavior="optimism")
    row = sweep_row(model, vector, questions(4), "choices", 21)
    print(f"HookedTransformer of smollm2-135m-instruct in {described(model)}")
    print()
    print(show([row]))


if __name__ == "__main__":
    main()
