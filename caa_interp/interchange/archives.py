"""Members of a zip archive as numpy and torch write it: stored as they are, checked, and no larger than the file."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

from caa_interp.errors import InputError


def read_members(path: Path) -> dict[str, bytes]:
    """Read every member of an archive.

    Parameters
    ----------
    path
        The archive. Nothing is allocated beyond twice its size, whatever it declares.

    Returns
    -------
    dict
        ``{name: content}``.

    Raises
    ------
    InputError
        If the file is no zip archive, is damaged, or has members that are compressed, encrypted or named twice.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or len(names) < len(entries) or sum(entry.file_size for entry in entries) > len(content):
                raise InputError(
                    f"file {path}: its parts are compressed, named twice or larger than the file, as neither "
                    "numpy nor torch writes them. Get it from its source again."
                )
            return {entry.filename: archive.read(entry) for entry in entries}
    except InputError:
        raise
    except (zipfile.BadZipFile, ArithmeticError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise InputError(
            f"file {path}: it is not a whole zip archive ({error}), which numpy and torch (since 1.6) write. "
            "Get it from its source again."
        ) from error
