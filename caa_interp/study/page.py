"""The page of a study: everything that its folder holds."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.report.page import Section, anchors, write_report
from caa_interp.study.config import slug
from caa_interp.study.findings import conclusions, find, findings_table, studied
from caa_interp.study.kinds import KINDS
from caa_interp.study.sections import Results, rows_of
from caa_interp.vectors.vector import SteeringVector

NEEDED = ("layers", "effects", "sweep", "dose_response", "reliability")


def write_page(folder: str | Path) -> Path:
    """Write the page of a finished run, ``report.html`` in its folder, and return its path; no model is needed.

    Beside it every figure is written as ``figures/<section>.json``, which :func:`plotly.io.read_json` reads. Raises
    :class:`InputError` if a file of the run is missing or cannot be read.
    """
    folder = Path(folder)
    config, manifest = _read(folder, "config.toml"), _read(folder, "manifest.json")
    tables = _tables(folder)
    effects, layers = tables["effects"], tables["layers"]
    findings = find(effects, layers)
    models = list(dict.fromkeys(layers["model"]))
    several = len(models) > 1
    lead = [studied(layers, effects, findings)]
    sections = [Section("Findings", _READING, table=findings_table(findings))]
    for model in models:
        paragraphs = conclusions([one for one in findings if one.model == model])
        lead += [f"{model}: {one}" for one in paragraphs] if several else paragraphs
        own = {name: rows_of(table, "model", model) for name, table in tables.items()}
        results = Results(
            {name: table for name, table in own.items() if len(table)}, _vectors(folder, model, own["layers"])
        )
        made = [one for kind in KINDS.values() for one in kind.section(results)]
        if several:
            sections.append(Section(model, "\n\n".join(paragraphs)))
            made = [replace(one, level=one.level + 1) for one in made]
        sections += made
    parts = {
        "controls": any(one.controls for one in findings),
        "a choice of the layer": "validation" in tables,
        **{kind.name: name in tables for name, kind in KINDS.items() if kind.name},
    }
    absent = [name for name, is_there in parts.items() if not is_there]
    if absent:
        lead.append(f"Not part of this study: {', '.join(absent)}.")
    sections += [
        Section("Configuration", "The whole study: run again with this file, it gives these results.", code=config),
        Section("How it was made", "", table=_made(json.loads(manifest))),
        Section("Manifest", "The whole record of the run, piece by piece.", code=manifest, folded=True, level=3),
    ]
    for name, section in zip(anchors(sections), sections, strict=True):
        if section.figure is not None:
            write_atomically(folder / "figures" / f"{name}.json", section.figure.to_json(engine="json").encode("utf-8"))
    title = str(tomllib.loads(config).get("name", "study"))
    page = folder / "report.html"
    return write_report(page, title, sections, lead="\n\n".join(lead), contents=3 if several else 2)


_READING = (
    "The slope is the mean over held-out pairs of how much the score rises for each unit of the multiplier, with a "
    "bootstrap interval over pairs; controls are vectors of the same norm (the lowest slope to the highest, and how "
    "many they are); wrong way is the share of pairs whose slope is negative, with Wilson's 95 % interval; n is the "
    "number of held-out pairs.\n\n"
    "A behavior is said to respond if the interval excludes 0 and the slope is larger than that of every control, "
    "whatever the control's sign. Each interval holds for one behavior by itself: of twenty vectors without any "
    "effect, about one would be expected to pass the first condition by chance."
)


def _read(folder: Path, name: str) -> str:
    """Text of a file of a run, which can be parsed."""
    path = folder / name
    if not path.is_file():
        raise InputError(f"run folder {folder}: it has no {name}. Give the folder of a run.")
    try:
        text = path.read_text(encoding="utf-8")
        (tomllib if path.suffix == ".toml" else json).loads(text)
    except ValueError as error:  # of the encoding, of TOML and of JSON
        raise InputError(f"run folder {folder}: {name} cannot be read ({error}). Run the study again.") from error
    return text


def _tables(folder: Path) -> dict[str, pd.DataFrame]:
    """All tables of a run, by name."""
    paths = {path.stem: path for path in sorted((folder / "tables").glob("*.parquet"))}
    for name in NEEDED:
        if name not in paths:
            raise InputError(
                f"run folder {folder}: it has no tables/{name}.parquet, so the run is not finished. Run the study "
                "again in this folder; it continues where it stopped."
            )
    tables = {}
    for name, path in paths.items():
        try:
            tables[name] = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise InputError(
                f"table file {path}: not readable ({error}). Run the study again; what is finished is kept."
            ) from error
    return tables


def _vectors(folder: Path, model: str, layers: pd.DataFrame) -> dict[str, SteeringVector]:
    """Vectors of a model by behavior, as far as there are files of them."""
    paths = {name: folder / "vectors" / slug(model) / f"{slug(name)}.safetensors" for name in layers["behavior"]}
    return {name: SteeringVector.load(path) for name, path in paths.items() if path.is_file()}


def _made(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """What a reader asks about how a run was made."""
    shards, sessions = manifest.get("shards", []), manifest["sessions"]
    changed = ", with uncommitted changes" if manifest.get("dirty") else ""
    memory = manifest.get("peak_memory_bytes")
    facts = {
        "caa_interp": f"{manifest.get('caa_interp')}, commit {manifest.get('commit') or 'not known'}{changed}",
        "Python": manifest.get("python"),
        "platform": manifest.get("platform"),
        "packages": _named(manifest.get("packages", {})),
        "devices": ", ".join(one["description"] for one in manifest.get("devices", [])),
        **{f"model {name}": _named(known) for name, known in manifest.get("models", {}).items()},
        **{f"data of {name} (sha256)": digest for name, digest in manifest.get("data", {}).items()},
        "seed": manifest.get("seed"),
        "started": sessions[0]["started"],
        "finished": sessions[-1]["finished"],
        "sessions": f"{len(sessions)}" if len(sessions) > 1 else "",
        "time of the work": _duration(manifest.get("seconds")),
        "peak memory": "" if memory is None else f"{memory / 2**30:.2f} GiB",
        "paths of the forward passes": "; ".join(
            f"{kind}: {', '.join(paths)}" for kind, paths in manifest.get("paths", {}).items()
        ),
        "pieces of work": f"{len(shards)}, of which {sum(bool(one.get('reused')) for one in shards)} were reused",
    }
    return pd.DataFrame(
        [{"what": what, "value": str(value)} for what, value in facts.items() if value not in (None, "")]
    )


def _named(facts: Mapping[str, Any]) -> str:
    """Facts in one line; a mapping within them is left to the raw manifest."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value and not isinstance(value, Mapping))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
