"""The folder of a run: that it is this study's, that nobody else is writing there, and what its manifest tells."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caa_interp.errors import InputError, MissingDependencyError
from caa_interp.files import write_atomically
from caa_interp.study.config import ExperimentConfig, ModelConfig


def check_same_study(config: ExperimentConfig, folder: Path) -> None:
    """Raise :class:`InputError` if a folder holds another study, or something that is not a run."""
    check_same_data(folder, read_manifest(folder, lambda line: None).get("data", {}), config.data)
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
    elif folder.is_file():
        raise InputError(f"folder: {str(folder)!r} is a file. Name a folder.")
    elif folder.is_dir() and not (folder / "shards").is_dir() and any(folder.glob("[!.]*")):
        raise InputError(f"folder: {folder} is not empty, and holds no run. Name a new folder.")


def check_same_data(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise :class:`InputError` if the behaviors or their digests differ from those of an earlier session, if any."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if before and changed:
        raise InputError(
            f"folder: {folder} holds a run on other data: {', '.join(changed)} changed since, or is in one of the two "
            "only. Name another folder."
        )


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


def remove_results(folder: Path) -> None:
    """Remove page, figures, tables and vectors, which can all be put together again from shards."""
    (folder / "report.html").unlink(missing_ok=True)
    for name in ("figures", "tables", "vectors"):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def revision_now(model: ModelConfig) -> str | None:
    """Revision of a model as loading it would tell, found without that; None if only loading tells."""
    from caa_interp.models.access import folder_digest
    from caa_interp.models.loading import EMBEDDED, embedded_file

    try:
        path = embedded_file() if model.name == EMBEDDED else Path(model.name)
    except MissingDependencyError:
        return None  # machines that do the work may have it
    if path.suffix == ".gguf":
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if path.is_dir():
        return folder_digest(path)
    from huggingface_hub import try_to_load_from_cache

    kept = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    return Path(kept).parent.name if isinstance(kept, str) else None  # its folder is named by the commit


def now() -> str:
    """Time as it is written in manifests, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
