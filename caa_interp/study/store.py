"""Finished shards on disk, each in a file that is named by what it is the result of and by what it holds.

``<key>-<digest>.parquet``: ``key`` stands for all that determines the result, ``digest`` is the sha256 of the file.
A file that was cut short or changed is recognized by its own name. A run keeps its shards in its own
folder, and a copy of each goes to a cache that all runs of a user share.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from caa_interp.errors import InputError
from caa_interp.files import cache_folder, write_atomically

DEFAULT_LIMIT_GB = 5.0
_LIMIT = "CAA_INTERP_CACHE_LIMIT"
_UNFINISHED = re.compile(r"\..+\.(parquet|json|toml|html|safetensors)-[a-z0-9_]{8}")  # see files.write_atomically
# A half-written file in the cache counts as left by a killed process once it is this old.
_STALE_SECONDS = 24 * 3600


def shard_cache() -> Path:
    """Folder of the shards that all runs share."""
    return cache_folder() / "shards"


class ShardStore:
    """The shards of one run in ``folder``, which holds all that the run needs, and those of all runs in ``cache``.

    ``say`` is called with a line about each damaged file, and about a cache that cannot be written.
    """

    def __init__(self, folder: Path, cache: Path, say: Callable[[str], None]) -> None:
        self.folder, self.cache, self._say = folder, cache, say
        self._cache_works = True

    def __len__(self) -> int:
        """Number of shards of the run."""
        return len(list(self.folder.glob("*/*.parquet")))

    def get(self, key: str) -> bytes | None:
        """Content of a finished shard; None if there is none that is whole. A damaged file is removed."""
        for path in self._files(self.folder, key):
            content = path.read_bytes()
            if self._is_whole(path, content):
                return content
        for path in self._files(self.cache, key):
            try:
                content = path.read_bytes()
                if not self._is_whole(path, content):
                    continue
            except OSError:
                continue  # the cache is shared: others may remove or protect its files
            with contextlib.suppress(OSError):
                os.utime(path)  # the cache drops what was not used for longest
            write_atomically(self.folder / key[:2] / path.name, content)
            return content
        return None

    def put(self, key: str, content: bytes) -> None:
        """Keep a finished shard; a cache that cannot be written is reported once, then left alone."""
        place = Path(key[:2]) / f"{key}-{_digest(content)}.parquet"  # a folder with very many files is slow
        write_atomically(self.folder / place, content)
        if self._cache_works:
            try:
                if not self._files(self.cache, key):
                    write_atomically(self.cache / place, content)
            except OSError as error:
                self._cache_works = False
                self._say(f"The cache {self.cache} cannot be written ({error}). The run continues without it.")

    def _files(self, folder: Path, key: str) -> list[Path]:
        return sorted((folder / key[:2]).glob(f"{key}-*.parquet"))

    def _is_whole(self, path: Path, content: bytes) -> bool:
        whole = path.stem.endswith(f"-{_digest(content)}")
        if not whole:
            self._say(f"{path} is damaged. It is removed, and made again if there is no other copy.")
            path.unlink(missing_ok=True)
        return whole


def remove_unfinished(folder: Path, older_than: float = 0.0) -> None:
    """Remove what a killed process left half-written below ``folder``, if it is older than so many seconds."""
    for path in folder.rglob(".*-*"):
        if _UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                if time.time() - path.stat().st_mtime >= older_than:
                    path.unlink()


def cache_contents() -> dict[Path, int]:
    """Size in bytes of each shard in the cache, the one that was not used for longest first."""
    states = {}
    for path in shard_cache().glob("*/*.parquet"):
        with contextlib.suppress(FileNotFoundError):  # another process has just removed it
            states[path] = path.stat()
    return {path: states[path].st_size for path in sorted(states, key=lambda path: states[path].st_mtime)}


def clear_cache(*, keep_bytes: int = 0) -> list[Path]:
    """Remove the least recently used shards until at most ``keep_bytes`` are left; return the removed files.

    A run that is under way loses nothing: it has its own copies.
    """
    sizes = cache_contents()
    left, removed = sum(sizes.values()), []
    for path, n_bytes in sizes.items():
        if left <= keep_bytes:
            break
        path.unlink(missing_ok=True)
        left -= n_bytes
        removed.append(path)
    remove_unfinished(shard_cache(), _STALE_SECONDS)
    return removed


def cache_limit() -> int:
    """Size in bytes to which the cache is cut after each run: ``$CAA_INTERP_CACHE_LIMIT`` gigabytes, else 5."""
    given = os.environ.get(_LIMIT, str(DEFAULT_LIMIT_GB))
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise InputError(f"{_LIMIT}: {given!r}; it must be a number of gigabytes of at least 0, such as 5.")
    return int(limit * 1e9)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
