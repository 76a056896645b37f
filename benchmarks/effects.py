"""``python -m benchmarks.effects``: what the vectors of the packaged sets do, written to ``data/_effects.csv``.

For each behavior, as :func:`caa_interp.dose_response` does it: whole topics of the train pairs are set apart for
validation, the vector is made of the rest, its layer is the one with the largest mean slope on the validation pairs,
and effects are measured at that layer on test pairs, beside controls of the same norm. The published test pairs are
measured too where ``--published`` names the folder ``datasets`` of https://github.com/nrimsky/CAA. A behavior that is
in the table already is not measured again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import caa_interp as caa
from caa_interp.evaluation import relative_multiplier, side_effects, validation_split
from caa_interp.evaluation.controls import vector_with_controls
from caa_interp.files import write_atomically

N_VALIDATION, N_RANDOM, N_SHUFFLED = 20, 20, 3
N_COMPARED, N_SIDE_EFFECTS = 24, 8  # test pairs of each set: the first ones
SHARE = 0.1  # of the norm of the residual stream
TEXT: dict[str, Any] = {"format": "text", "progress": False, "multipliers": (-1, 1)}


def main() -> None:
    """Measure the packaged behaviors that the table does not have."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.effects", description=main.__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--published", type=Path, help="folder of the published sets")
    parser.add_argument("--behaviors", nargs="*", default=sorted(caa.load_behaviors()))
    parser.add_argument("--table", type=Path, default=Path("data/_effects.csv"))
    chosen = parser.parse_args()
    model = caa.load_model(chosen.model)
    n_layers = model.cfg.n_layers
    layers = range(n_layers // 4, n_layers * 9 // 10, max(1, n_layers // 12))
    known = pd.read_csv(chosen.table) if chosen.table.exists() else pd.DataFrame({"model": [], "behavior": []})
    for name in chosen.behaviors:
        if not ((known["model"] == Path(chosen.model).name) & (known["behavior"] == name)).any():
            effects = effects_of(model, name, layers, chosen.published).assign(model=Path(chosen.model).name)
            known = pd.concat([known, effects], ignore_index=True)
            write_atomically(chosen.table, known.to_csv(index=False, float_format="%.5g").encode())
            print(effects[~effects["kind"].isin(["random", "shuffled"])].to_string(), flush=True)


def effects_of(model: Any, name: str, layers: Sequence[int], published: Path | None) -> pd.DataFrame:
    """Steerability of one behavior's vector and its controls on its own, the published and all other test pairs."""
    behaviors = caa.load_behaviors()
    train, validation = validation_split(behaviors[name].train, N_VALIDATION)
    activations = caa.collect_activations(model, train, format="text", layers=layers, progress=False)
    vectors = vector_with_controls(activations, name, n_random=N_RANDOM, n_shuffled=N_SHUFFLED)
    layer = caa.choose_layer(caa.sweep(model, vectors[name], validation, **TEXT))
    vector = vectors[name]
    share = relative_multiplier(vector, activations, layer=layer, share=SHARE)
    tests = {"packaged": behaviors[name].test}
    if published is not None and (found := published / "test" / name / "test_dataset_ab.json").exists():
        tests["published"] = caa.read_pairs(found)
    tables = {}
    for pairs, test in tests.items():
        # Controls are compared on some of the pairs, the vector is measured on all.
        compared = caa.sweep(model, vectors, test[:N_COMPARED], layers=layer, **TEXT)
        tables[f"{pairs}, first {N_COMPARED}"] = caa.steerability(compared)
        others = caa.sweep(model, vector, test[N_COMPARED:], layers=layer, **TEXT)
        others["item"] += N_COMPARED
        tables[pairs] = caa.steerability(pd.concat([compared[compared["vector"] == name], others]))
    scaled = {name: share * vector}
    others = side_effects(model, scaled, behaviors, layers=layer, n_pairs=N_SIDE_EFFECTS, **TEXT)
    for other, rows in others.groupby("behavior"):
        tables[f"{other}, at equal norm"] = caa.steerability(rows.drop(columns="behavior"))
    table = pd.concat(tables, names=["pairs"]).reset_index("pairs")
    columns = ["pairs", "vector", "kind", "layer", "slope", "slope_low", "slope_high", "share_against", "n"]
    norm = float(vector.at(layer).norm())
    return table[columns].assign(behavior=name, n_train=len(train), norm=norm, residual_norm=share * norm / SHARE)


if __name__ == "__main__":
    main()
