"""The folder of a run: that it is this study's, and that nobody else is writing there."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.study.config import ExperimentConfig


def check_same_study(config: ExperimentConfig, folder: Path) -> None:
    """Raise :class:`InputError` if a folder holds another study, or something that is not a run."""
    path = folder / "config.toml"
    if path.is_file():
        try:
            kept = ExperimentConfig.load(path)
        except InputError as error:
            raise InputError(
                f"folder: the study that {folder} holds cannot be read; if it is this one, delete {path}: the shards "
                f"stay. {error}"
            ) from error
        different = kept.differences(config)
        if different:
            raise InputError(
                f"folder: {folder} holds a run of another study ({'; '.join(different)}). Name another folder; what "
                "the two have in common is taken from the cache."
            )
    elif folder.is_file():
        raise InputError(f"folder: {str(folder)!r} is a file. Name a folder.")
    elif folder.is_dir() and not (folder / "shards").is_dir() and any(folder.glob("[!.]*")):
        raise InputError(f"folder: {folder} is not empty, and holds no run. Name a new folder.")


def manifest_in(folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
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


def check_same_data(folder: Path, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Raise :class:`InputError` if the digest of a behavior differs from that of an earlier session."""
    changed = [name for name, digest in after.items() if before.get(name, digest) != digest]
    if changed:
        raise InputError(
            f"folder: {folder} holds a run on other data: {', '.join(changed)} changed since. Name another folder."
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


def now() -> str:
    """Time as it is written in manifests, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
