"""The page of a study: everything that its folder holds."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.evaluation.verdicts import verdicts
from caa_interp.files import file_digest, slug, write_atomically
from caa_interp.report.page import Section, anchors, write_report
from caa_interp.study.findings import findings, largest, overall, studied
from caa_interp.study.folder import PAGE, remove, write_manifest, written
from caa_interp.study.kinds import KINDS
from caa_interp.study.maps import one_scale
from caa_interp.study.results import MAIN_COSTS, Results
from caa_interp.vectors.vector import SteeringVector

NEEDED = {"layers", "effects", "sweep", "dose_response", "reliability"}


def write_page(folder: str | Path) -> Path:
    """Write the page of a finished run, ``report.html`` in its folder, and return its path; no model is needed.

    Beside it every figure is written as ``figures/<section>.json``, which :func:`plotly.io.read_json` reads; those of
    an earlier page are removed. Raises :class:`InputError` if a file of the run is missing or cannot be read.
    """
    folder = Path(folder)
    config, record = _read(folder, "config.toml"), json.loads(_read(folder, "manifest.json"))
    try:
        made, seed = _made(record), int(record["seed"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"run folder {folder}: manifest.json is of another version, or damaged ({error!r}). Run the study again; "
            "what is finished is kept."
        ) from error
    files = written(folder, record)
    names = sorted({Path(name).stem for name in files if name.startswith("tables/")} | NEEDED)
    tables = {name: _read(folder, f"tables/{name}.parquet") for name in names}
    models = list(dict.fromkeys(tables["layers"]["model"]))
    several = len(models) > 1
    lead = [studied(tables["layers"], tables["effects"])]
    sections: list[Section] = []
    points: list[str] = []
    for model in models:
        results = _results(folder, model, tables, seed)
        found = verdicts(results.tables["effects"]).sort_values("slope", ascending=False)
        if several or len(found) > 1:
            lead.append(f"{model}: " * several + f"{overall(found)}.")
        beyond = [f"{told}." for kind in KINDS.values() if (told := kind.sentence(results))]
        points += [f"{model}: " * several + one for one in [*_found(results, found), *beyond]]
        own = [section for kind in KINDS.values() for section in kind.section(results)]
        if several:
            own = [Section(model, ""), *(replace(one, level=one.level + 1) for one in own)]
        sections += own
    parts = {
        "controls": (tables["effects"]["kind"] != "vector").any(),
        "a choice of the layer": "validation" in tables,
        **{kind.name: name in tables for name, kind in KINDS.items() if kind.name},
    }
    if absent := [name for name, is_there in parts.items() if not is_there]:
        lead.append(f"Not part of this study: {', '.join(absent)}.")
    known = {name: one for name, one in record.items() if name not in ("files", "made_of")}  # these include the page
    manifest = json.dumps(known, indent=2, ensure_ascii=False)
    sections += [
        Section("Configuration", "The whole study. Run again with this file, it gives the same results.", code=config),
        Section("How it was made", "", table=made),
        Section("Manifest", "The whole record of the run, piece by piece.", code=manifest, folded=True, level=3),
    ]
    one_scale(sections)
    figures = {
        f"figures/{name}.json": section.figure
        for name, section in zip(anchors(sections), sections, strict=True)
        if section.figure is not None
    }
    for name, figure in figures.items():
        write_atomically(folder / name, figure.to_json(engine="json").encode("utf-8"))
    title = str(tomllib.loads(config).get("name", "study"))
    first: dict[str, Any] = {"subtitle": _subtitle(record, tables), "lead": "\n\n".join(lead), "points": points}
    page = write_report(folder / PAGE, title, sections, **first, contents=3 if several else 2)
    stale = {name for name in files if name.startswith("figures/")} - set(figures)
    remove(folder, stale)
    record["files"] = {name: file_digest(folder / name) for name in sorted({*files, *figures, PAGE} - stale)}
    write_manifest(folder, record)
    return page


def _read(folder: Path, name: str) -> Any:
    """A table of a run, or the text of a file that can be parsed."""
    path = folder / name
    if not path.is_file():
        raise InputError(
            f"run folder {folder}: it has no {name}. Give the folder of a run. If it is not finished, run the study "
            "again in it."
        )
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        text = path.read_text(encoding="utf-8")
        (tomllib if path.suffix == ".toml" else json).loads(text)
        return text
    except (OSError, ValueError) as error:
        raise InputError(
            f"run folder {folder}: {name} cannot be read ({error}). Run the study again; what is finished is kept."
        ) from error


def _results(folder: Path, model: str, tables: Mapping[str, pd.DataFrame], seed: int) -> Results:
    """What a run holds of one model."""
    own = {name: table[table["model"] == model].reset_index(drop=True) for name, table in tables.items()}
    behaviors = own["layers"]["behavior"]
    files = {name: folder / "vectors" / slug(model) / f"{slug(name)}.safetensors" for name in behaviors}
    return Results(
        {name: table for name, table in own.items() if len(table)},
        {name: SteeringVector.load(path) for name, path in files.items()},
        seed,
    )


def _subtitle(record: Mapping[str, Any], tables: Mapping[str, pd.DataFrame]) -> str:
    """Model, date and size of a study in one line."""
    swept, last = tables["sweep"], record["sessions"][-1]
    date = datetime.fromisoformat(last["finished"] or last["started"])
    sizes = {"behavior": swept["behavior"], "layer": swept["layer"], "multiplier": swept["multiplier"]}
    run = [f"{n} {name}{'' if n == 1 else 's'}" for name, values in sizes.items() for n in [values.nunique()]]
    return f"{', '.join(record['models'])} · {date.day} {date:%B %Y} · {', '.join(run)}"


def _found(results: Results, found: pd.DataFrame) -> list[str]:
    """What each vector does and at what price, in one line."""
    most = largest(results.tables["sweep"]["multiplier"].unique())
    lines = []
    for behavior, finding in zip(found["behavior"], findings(found), strict=True):
        at, *price = results.price(behavior, most, MAIN_COSTS) or [""]
        lines.append(f"{finding}. Price at {at}: {'; '.join(price)}." if price else f"{finding}.")
    return lines


def _made(manifest: Mapping[str, Any]) -> pd.DataFrame:
    """What a reader asks about how a run was made."""
    shards, memory = manifest["shards"], manifest["peak_memory_bytes"]
    changed = ", with uncommitted changes" if manifest["dirty"] else ""
    facts = {
        "caa_interp": f"{manifest['caa_interp']}, commit {manifest['commit'] or 'not known'}{changed}",
        "Python": manifest["python"],
        "platform": manifest["platform"],
        "packages": _named(manifest["packages"]),
        "devices": ", ".join(one["description"] for one in manifest["devices"]),
        **{f"model {name}": _named(known) for name, known in manifest["models"].items()},
        **{f"data of {name} (sha256)": digest for name, digest in manifest["data"].items()},
        "seed": manifest["seed"],
        "sessions": "; ".join(
            f"{one['started']} to {one['finished'] or 'its interruption'}" for one in manifest["sessions"]
        ),
        "time of the work": f"{timedelta(seconds=round(manifest['seconds']))} (hours:minutes:seconds)",
        "peak memory": f"{memory / 2**30:.2f} GiB",
        "paths of the forward passes": "; ".join(f"{kind}: {', '.join(of)}" for kind, of in manifest["paths"].items()),
        "pieces of work": f"{len(shards)}, of which {sum(one['reused'] for one in shards)} were reused",
    }
    return pd.DataFrame({"what": list(facts), "value": [str(value) for value in facts.values()]})


def _named(facts: Mapping[str, Any]) -> str:
    """Facts in one line; a mapping within them is left to the raw manifest."""
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value and not isinstance(value, Mapping))
