"""Run folder of a study that nobody did: made-up scores with known slopes, in the tables of a real run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import caa_interp as caa
from caa_interp.files import slug

MULTIPLIERS = (-2.0, -1.0, 0.0, 1.0, 2.0)
WIDTH = 16


def write_study(
    folder: Path,
    slopes: Mapping[str, float],
    *,
    models: Sequence[str] = ("tiny",),
    layers: Sequence[int] = (1, 3),
    n_pairs: int = 12,
    n_controls: int = 2,
    format: str = "text",
    name: str = "made up",
    answer: str = "An answer.",
    token: str = "␣good",
    leave_out: Sequence[str] = (),
    reliability: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Write the folder; ``slopes`` are those of each behavior at its chosen layer, which is the last one."""
    generator = np.random.default_rng(0)
    tables: dict[str, list[pd.DataFrame]] = {}

    def add(table: str, model: str, behavior: str, rows: pd.DataFrame) -> None:
        about = pd.DataFrame({"model": model, "behavior": behavior}, index=rows.index)
        joined = pd.concat([about, rows.drop(columns=["behavior", "model"], errors="ignore")], axis=1)
        tables.setdefault(table, []).append(joined)

    def scored(vectors: Mapping[str, float], at: Sequence[int], n: int = n_pairs) -> pd.DataFrame:
        rows = pd.MultiIndex.from_product(
            [range(n), [""], list(vectors), at, MULTIPLIERS], names=["item", "order", "vector", "layer", "multiplier"]
        ).to_frame(index=False)
        own = rows["vector"].map(vectors) * (1 + rows["layer"] - max(at)) / (1 + len(at))
        own = own.where(rows["layer"] < max(at), rows["vector"].map(vectors))
        spread = generator.normal(0, 0.05, n)[rows["item"]]
        rows["logit_difference"] = (own + spread) * rows["multiplier"] - 0.5
        rows["log_p_positive"], rows["log_p_negative"] = rows["logit_difference"] - 2, -2.0
        rows["p_positive"] = 1 / (1 + np.exp(-rows["logit_difference"]))
        rows.insert(1, "id", None)
        kinds = rows["vector"].str.extract(r"^(random|shuffled) \d+$")[0].fillna("vector")
        applied = {"operator": "add", "positions": "from_last_prompt_token"}
        return rows.assign(kind=kinds, **applied, format=format, model="tiny", path="tree")

    def costs(measures: Mapping[str, float], layer: int, behavior: str, controls: Sequence[str] = ()) -> pd.DataFrame:
        rows = pd.MultiIndex.from_product(
            [range(4), [behavior, *controls], [layer], MULTIPLIERS], names=["item", "vector", "layer", "multiplier"]
        ).to_frame(index=False)
        rows["kind"] = rows["vector"].str.extract(r"^(random|shuffled) \d+$")[0].fillna("vector")
        for measure, size in measures.items():
            noise = generator.normal(1, 0.1, 4)[rows["item"]]
            rows[measure] = (rows["item"] % 2) if measure == "correct" else size * rows["multiplier"].abs() * noise
        return rows

    for model in models:
        for behavior, slope in slopes.items():
            layer = max(layers)
            values = torch.from_numpy(generator.normal(0, 1, (len(layers), WIDTH)).astype(np.float32))
            vector = caa.SteeringVector(values, tuple(layers), {"behavior": behavior, "model": model})
            vector.save(folder / "vectors" / slug(model) / f"{slug(behavior)}.safetensors")
            counts = {"n_train": [40], "n_validation": [8], "n_test": [n_pairs]}
            add("layers", model, behavior, pd.DataFrame({"layer": [layer]} | counts))
            pairs = [
                {"question": f"{number}?", "positive": f"Yes, {number}.", "negative": "No."} for number in range(3)
            ]
            add("examples", model, behavior, pd.DataFrame(pairs))
            add("validation", model, behavior, scored({behavior: slope}, layers, 8))
            swept = scored({behavior: slope}, layers)
            add("sweep", model, behavior, swept)
            controls = {
                f"{kind} {one}": 0.02 * (-1) ** one for kind in ("random", "shuffled") for one in range(n_controls)
            }
            parts = [swept[swept["layer"] == layer], *([scored(controls, [layer])] if controls else [])]
            dose = pd.concat(parts, ignore_index=True)
            add("dose_response", model, behavior, dose)
            add("effects", model, behavior, caa.steerability(dose))
            measured = {"agreement": 0.4, "split_half": 0.8, "separation": 2.0, "probe_accuracy": 0.9}
            measured |= {"variance_share": 0.2, "length_correlation": 0.1, "pairwise_cosine": 0.15}
            measured |= {"letter_cosine": np.nan, "letter_share": np.nan, **(reliability or {}).get(behavior, {})}
            row = {
                "layer": list(layers),
                "n": int(measured.pop("n", 40)),
                "norm": 2.0,
                "residual_norm": 20.0,
                "confidence": 0.95,
            }
            for column, value in measured.items():
                row |= {column: value, f"{column}_low": value - 0.1, f"{column}_high": value + 0.1}
            add("reliability", model, behavior, pd.DataFrame(row | {"relative_norm": 0.1}))
            add("projection", model, behavior, projected(generator, n_pairs, sorted({0, layer}), behavior))
            add("separation", model, behavior, separated(vector, n_pairs, layer))
            ranks = [
                {"layer": layer, "side": side, "rank": rank, "token": token, "token_id": rank, "logit": 1.0}
                for side in ("promoted", "suppressed")
                for rank in (1, 2, 3)
            ]
            add("logit_lens", model, behavior, pd.DataFrame(ranks))
            read = {"effect": 0.5, "effect_low": 0.4, "effect_high": 0.6, "probability": 0.01, "n": 4}
            read |= {"ranked_by": "effect", "at": "answer", "format": "own answers"}
            said = [
                {"vector": vector, "kind": kind, "layer": layer, "side": side, "rank": rank, "token": token, **read}
                for vector, kind in ((behavior, "vector"), ("random 0", "random"))
                for side in ("raised", "lowered")
                for rank in (1, 2, 3)
            ]
            add("effect_lens", model, behavior, pd.DataFrame(said))
            answers = [
                {
                    "item": item,
                    "sample": 0,
                    "prompt": f"Question {item}?",
                    "layer": layer,
                    "multiplier": multiplier,
                    "answer": f"{answer} ({multiplier:+g})",
                    "n_tokens": 4,
                    "finished": item == 0,
                }
                for item in range(2)
                for multiplier in (-4.0, 0.0, 4.0)
            ]
            add("answers", model, behavior, pd.DataFrame(answers))
            prose = costs({"nats_per_token": 0.1, "divergence": 0.2}, layer, behavior)
            add("perplexity", model, behavior, prose)
            add(
                "divergence",
                model,
                behavior,
                costs({"divergence": 0.3, "divergence_tail": 0.9}, layer, behavior, list(controls)),
            )
            add("capability", model, behavior, costs({"correct": 1.0}, layer, behavior))
            others = {other: slope if other == behavior else 0.01 for other in slopes}
            add("side_effects", model, behavior, scored(others, [layer], 5))

    for table, frames in tables.items():
        if table not in leave_out:
            joined = pd.concat(frames, ignore_index=True)
            (folder / "tables").mkdir(parents=True, exist_ok=True)
            joined.to_parquet(folder / "tables" / f"{table}.parquet", index=False)
    config = f"name = {json.dumps(name)}\nbehaviors = {json.dumps(list(slopes))}\nformat = {json.dumps(format)}\n"
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest(models, slopes), indent=2), encoding="utf-8")
    return folder


def projected(generator: np.random.Generator, n_pairs: int, layers: Sequence[int], behavior: str) -> pd.DataFrame:
    rows = pd.MultiIndex.from_product(
        [range(n_pairs), ["positive", "negative"], layers], names=["item", "side", "layer"]
    ).to_frame(index=False)
    rows = rows.assign(behavior=behavior, id=None, topic=None, order="", split="fit", x_share=0.5, y_share=0.2)
    places = generator.normal(0, 1, (len(rows), 2))
    return rows.assign(x=places[:, 0], y=places[:, 1], method="pca", fit="each", seed=0, format="text", model="tiny")


def separated(vector: caa.SteeringVector, n_pairs: int, layer: int) -> pd.DataFrame:
    """Answers of each side around a point, two standard deviations along the vector from the other side's."""
    pairs = tuple(caa.ContrastPair(f"{number}?", f"Yes, {number}.", "No.") for number in range(n_pairs))
    noise = torch.randn(2, n_pairs, 1, vector.d_model, generator=torch.Generator().manual_seed(0))
    direction = vector.at(layer) / vector.at(layer).norm()
    at = caa.Activations(noise[0] + direction, noise[1] - direction, (layer,), pairs, "text", metadata=vector.metadata)
    return caa.analysis.separation(at, vector)


def manifest(models: Sequence[str], behaviors: Mapping[str, float]) -> dict[str, object]:
    facts = {"revision": None, "backend": "TransformerBridge", "dtype": "float32", "device": "cpu", "n_layers": 4}
    shards = [
        {"key": f"{name}-sweep", "kind": "sweep", "label": name, "seconds": 2.0, "path": "tree", "reused": False}
        for name in behaviors
    ]
    return {
        "caa_interp": "0.1.0",
        "python": "3.12.1",
        "platform": "Linux",
        "packages": {"torch": "2.9.0", "transformers": "5.1.0"},
        "commit": "0123456789abcdef",
        "dirty": True,
        "devices": [{"name": "cpu", "description": "Some CPU", "memory_bytes": 24 * 10**9}],
        "models": {model: {"id": model, **facts} for model in models},
        "data": dict.fromkeys(behaviors, "f" * 64),
        "seed": 0,
        "sessions": [{"started": "2026-11-24T09:00:00+00:00", "finished": "2026-11-24T09:05:00+00:00"}],
        "seconds": 300.0,
        "peak_memory_bytes": 2**30,
        "paths": {"sweep": ["tree"]},
        "shards": shards,
    }
