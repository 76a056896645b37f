"""The folder of a run: that it is this study's, that nobody else is writing there, and what its manifest lists."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.errors import InputError
from caa_interp.files import file_digest, slug, write_atomically
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.store import ShardStore, cache_limit, clear_cache, remove_unfinished, shard_cache
from caa_interp.vectors.vector import SteeringVector

PAGE = "report.html"


def check_same_study(config: ExperimentConfig, folder: Path) -> None:
    """Raise :class:`InputError` if a folder holds another study, or something that is not a run."""
    data, before = config.data, read_manifest(folder, lambda line: None).get("data", {})
    changed = [name for name in {**before, **data} if before.get(name) != data.get(name)]
    if before and changed:
        raise InputError(
            f"folder: {folder} holds a run on other data: {', '.join(changed)} changed since, or is in one of the two "
            "only. Name another folder."
        )
    path = folder / "config.toml"
    if path.is_file():
        try:
            different = config.differences(path)
        except InputError as error:
            raise InputError(
                f"folder: the study that {folder} holds cannot be read; if it is this one, delete {path}: the shards "
                f"stay. {error}"
            ) from error
        if different:
            raise InputError(
                f"folder: {folder} holds a run of another study ({'; '.join(different)}). Name another folder; what "
                "the two have in common is taken from the cache."
            )
    else:
        check_place(folder)


def check_place(folder: Path) -> None:
    """Raise :class:`InputError` if a folder is a file, or is not empty and holds no run."""
    if folder.is_file():
        raise InputError(f"folder: {str(folder)!r} is a file. Name a folder.")
    is_run = (folder / "shards").is_dir() or read_manifest(folder, lambda line: None)
    if not is_run and folder.is_dir() and any(folder.glob("[!.]*")):
        raise InputError(f"folder: {folder} is not empty, and holds no run. Name a new folder.")


@contextlib.contextmanager
def opened(folder: Path, say: Callable[[str], None]) -> Iterator[tuple[dict[str, Any], ShardStore]]:
    """Keep other runs out of a folder, and give what its manifest tells and its shards.

    What a killed run left half-written is removed, and at the end the cache of all runs is cut to its limit.
    """
    limit = cache_limit()
    with locked(folder):
        remove_unfinished(folder)
        try:
            yield read_manifest(folder, say), ShardStore(folder / "shards", shard_cache(), say)
        finally:
            try:
                clear_cache(keep_bytes=limit)
            except OSError as error:
                say(f"The cache {shard_cache()} cannot be cut to its limit ({error}).")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the lock goes with the process, however that ends."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    holder = folder / ".running.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "unknown"
        raise InputError(
            f"folder: another run is writing to {folder} ({who}). Wait until it ends, or name another folder."
        ) from None
    try:
        who = json.dumps({"process": os.getpid(), "host": platform.node(), "since": now()})
        write_atomically(holder, who.encode())
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def read_manifest(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Manifest that earlier sessions left in a folder; empty if there is none."""
    path = folder / "manifest.json"
    if not path.is_file():
        return {}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(manifest["sessions"], list):
            raise ValueError("its sessions are no list")
    except (ValueError, KeyError, TypeError) as error:
        say(f"{path} is damaged ({error}). It is written again; the times of earlier sessions are lost.")
        return {}
    return dict(manifest)


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json``."""
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "manifest.json", text.encode("utf-8"))


def publish(
    folder: Path,
    before: Mapping[str, Any],
    manifest: dict[str, Any],
    tables: Mapping[str, pd.DataFrame],
    vectors: Mapping[tuple[str, str], SteeringVector],
) -> None:
    """Write tables by name and vectors by model and behavior, so that all in the folder belongs together at any moment.

    ``before`` is what the manifest told of the results that are there, ``manifest`` what it tells of these.
    """
    shards = manifest["shards"]
    manifest |= {
        "seconds": sum(one["seconds"] for one in shards),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in shards),
        "paths": {
            kind: sorted({one["path"] for one in shards if one["kind"] == kind and one["path"]})
            for kind in sorted({one["kind"] for one in shards if one["path"]})
        },
    }
    saved = {f"vectors/{slug(model)}/{slug(name)}.safetensors": one for (model, name), one in vectors.items()}
    files = {**saved, **table_files([tables])}
    stale = former = written(folder, before)
    if {one["key"] for one in before.get("shards", [])} == {one["key"] for one in shards}:
        stale = {name for name in former if name.startswith(("tables/", "vectors/"))} - set(files)
    remove(folder, stale)  # nothing that was made of other results may stand beside these
    manifest["files"] = dict.fromkeys(sorted(former - stale))
    write(folder, manifest, files)
    manifest["sessions"][-1]["finished"] = now()
    write_manifest(folder, manifest)


def table_files(several: Iterable[Mapping[str, pd.DataFrame]]) -> dict[str, pd.DataFrame | SteeringVector]:
    """Tables of several parts by the names of their files."""
    return {f"tables/{name}.parquet": table for tables in several for name, table in tables.items()}


def write(folder: Path, manifest: dict[str, Any], files: Mapping[str, pd.DataFrame | SteeringVector]) -> None:
    """Write tables and vectors, first into the manifest's list, by which a later run tells them from a user's files."""
    manifest["files"] |= dict.fromkeys(files)
    write_manifest(folder, manifest)
    for name, one in files.items():
        if isinstance(one, SteeringVector):
            one.save(folder / name)
        else:
            write_atomically(folder / name, one.to_parquet(index=False))


def written(folder: Path, manifest: Mapping[str, Any]) -> set[str]:
    """Names of the vectors, tables, figures and the page in a folder that its ``manifest`` lists.

    Of an older version, which listed none, all that are there; what a user has put there is not a study's.
    """
    places = ("vectors/**/*.safetensors", "tables/*.parquet", "figures/*.json", PAGE)
    there = {path.relative_to(folder).as_posix() for place in places for path in folder.glob(place)}
    return there & set(manifest.get("files", there))


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files of a folder, and the folders within it that are empty then."""
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        for above in path.relative_to(folder).parents[:-1]:
            with contextlib.suppress(OSError):  # something is in it
                (folder / above).rmdir()


def is_finished(folder: Path, manifest: Mapping[str, Any], made_of: str) -> bool:
    """Whether a folder holds a finished study that was made of just this, with all files as they were written."""
    files = manifest.get("files", {})
    return manifest.get("made_of") == made_of and all(
        (folder / name).is_file() and file_digest(folder / name) == digest for name, digest in files.items()
    )


def now() -> str:
    """Time as it is written in manifests, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
