"""Where files are kept, and how they are written so that none is ever half there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Folder for files that can be made again: ``$CAA_INTERP_CACHE``, else the platform's cache folder."""
    given = os.environ.get("CAA_INTERP_CACHE")
    return Path(given).expanduser() if given else user_cache_path("caa_interp")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a name never stands for less than its content, also after a power cut
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside a folder's place, and rename it to that when the ``with`` block ends.

    Raises
    ------
    OSError
        If there is a folder by then that is not empty. Then, and when the block raises, nothing is left behind.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        partial.chmod(0o755)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
