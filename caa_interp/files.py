"""The cache folder, checked reads, atomic writes, names of files, tables in parts, and digests of contents."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from caa_interp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

MAX_FILE_BYTES = 64 * 2**20


def cache_folder() -> Path:
    """Folder for files that can be made again: ``$CAA_INTERP_CACHE``, else the platform's cache folder."""
    given = os.environ.get("CAA_INTERP_CACHE")
    return Path(given).expanduser() if given else user_cache_path("caa_interp")


def read_text(path: Path, where: str) -> str:
    """Read a UTF-8 file of at most 64 MiB; every failure is an :class:`InputError` that begins with ``where``."""
    check_file(path, where)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 at byte {error.start}. Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{where}: it cannot be read ({error}). Check the file.") from error


def check_file(path: Path, where: str) -> None:
    """Raise :class:`InputError` unless there is a file of at most 64 MiB."""
    try:
        if not path.is_file():
            raise InputError(f"{where}: there is no file {path}. Check the path.")
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{where}: it cannot be read ({error}). Check the file.") from error
    if size > MAX_FILE_BYTES:
        raise InputError(f"{where}: {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Split the file.")


@contextmanager
def opened_parquet(path: Path) -> Iterator[Any]:
    """Give a ``pyarrow.parquet.ParquetFile``; whatever goes wrong with it is an :class:`InputError`."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path.name}: not a readable Parquet file ({error}). Write it again.") from error


def parse_json(text: str, where: str) -> Any:
    """Parse JSON text; a failure is an :class:`InputError` that begins with ``where``."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = " A file of JSON lines must end in .jsonl." if str(error).startswith("Extra data") else ""
        raise InputError(f"{where}: not valid JSON ({error}). Correct it there.{hint}") from error


def read_json(path: Path, where: str) -> Any:
    """Read a JSON file as :func:`read_text` does."""
    return parse_json(read_text(path, where), where)


def read_objects(path: Path, where: str) -> list[dict[str, Any]]:
    """Read a JSON file that is a list of objects, as :func:`read_text` does."""
    items = read_json(path, where)
    if not isinstance(items, list):
        raise InputError(f"{where}: the top level is {type(items).__name__}; it must be a list of objects.")
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise InputError(f"{where}: item {number} is {type(item).__name__}; it must be an object.")
    return items


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside its place, then rename it; a power cut leaves the old or the new."""
    _make_folder(path.parent)
    handle, partial = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    _keep(path.parent)


def slug(name: str) -> str:
    """Name of a file or folder for a model, a behavior or a vector: letters and digits of any script, and ``._-``."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "unnamed"


@contextmanager
def publish_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside a folder's place, and rename it to that when the ``with`` block ends.

    A power cut leaves all of it or nothing. With ``replace``, an old folder is moved aside first, and removed once the
    new one has its place: an interrupt between the two puts it back, and a kill leaves both, under hidden names.

    Raises :class:`OSError` if there is a folder by then that is not empty, without ``replace``. Then, and when the
    block raises, nothing is left behind.
    """
    _make_folder(folder.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    old = partial.with_name(f"{partial.name}-old")
    try:
        yield partial
        partial.chmod(0o755)
        for path in (*partial.rglob("*"), partial):
            _keep(path)
        if replace and folder.exists():
            folder.rename(old)
        partial.rename(folder)
        _keep(folder.parent)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for leftover in (old, partial):
            shutil.rmtree(leftover, ignore_errors=True)


class TableParts:
    """A table in a folder of Parquet files, written part by part, which Parquet readers read as one.

    Parameters
    ----------
    folder
        The folder; made when the first part is written.
    made_by
        All that determines the numbers, by name; JSON types only. Every part knows it.

    Raises
    ------
    InputError
        If the folder holds a part that something else determined, or one that cannot be read. The message names what.
    """

    def __init__(self, folder: Path, made_by: Mapping[str, Any]) -> None:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"output: {folder} is a file; parts are written into a folder. Name another one.")
        self.folder, self.made_by = folder, json.loads(json.dumps(made_by))
        for path in sorted(folder.glob("part-*.parquet")):
            then = self._read(path).attrs["made_by"]
            if differing := [name for name in {**then, **self.made_by} if then.get(name) != self.made_by.get(name)]:
                name = differing[0]
                raise InputError(
                    f"output: {folder} was computed with {name} {then.get(name)!r}, and this is "
                    f"{self.made_by.get(name)!r}. Name another folder, or remove this one to compute it again."
                )

    def get(self, number: int, contents: Sequence[Any]) -> pd.DataFrame | None:
        """Return a finished part; None if there is none, or one of the first of ``contents`` alone, which grew.

        Raises :class:`InputError` if it is one of other contents.
        """
        path = self._path(number)
        if not path.exists():
            return None
        table = self._read(path)
        about, table.attrs = table.attrs, {}
        if about["digest"] != fingerprint(contents[: about["n"]]):
            raise InputError(
                f"output: {path} holds other texts than those at its place now. Name another folder, or remove this "
                "one to compute it again."
            )
        return table if about["n"] == len(contents) else None

    def put(self, number: int, contents: Sequence[Any], table: pd.DataFrame) -> None:
        """Write a finished part."""
        table = table.copy(deep=False)
        table.attrs = {"made_by": self.made_by, "n": len(contents), "digest": fingerprint(contents)}
        write_atomically(self._path(number), table.to_parquet(index=False))

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06}.parquet"

    def _read(self, path: Path) -> pd.DataFrame:
        import pandas as pd

        try:
            table = pd.read_parquet(path)
            if not {"made_by", "n", "digest"} <= set(table.attrs):
                raise ValueError("it does not say what made it")
        except (OSError, ValueError) as error:
            raise InputError(
                f"output: {path} is not a part written here ({error}). Remove it, or name another folder."
            ) from error
        return table


def _make_folder(folder: Path) -> None:
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in missing:
        _keep(one.parent)


def _keep(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        # Some systems cannot open a folder, and some file systems cannot sync one.
        if not path.is_dir() or error.errno not in (errno.EACCES, errno.EBADF, errno.EINVAL, errno.EISDIR):
            raise


def fingerprint(value: Any) -> str:
    """Return the sha256 of numbers, texts, tensors and dataclasses of them, nested in lists and mappings.

    Two values share it exactly when they are equal; the order of a mapping counts, a list is equal to a tuple.
    """
    return hashlib.sha256(json.dumps(_content(value), allow_nan=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(folder: Path, files: Iterable[Path]) -> str:
    """Return the sha256 of files below a folder: of their names and contents, in the order of the names."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_digest(path)}\n".encode())
    return digest.hexdigest()


def _content(value: Any) -> Any:
    if is_dataclass(value):
        return {type(value).__name__: [[one.name, _content(getattr(value, one.name))] for one in fields(value)]}
    if hasattr(value, "numpy"):
        array = value.contiguous().cpu().numpy()
        return {str(array.dtype): [hashlib.sha256(array.tobytes()).hexdigest(), *array.shape]}
    if isinstance(value, Mapping):
        return [[name, _content(one)] for name, one in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_content(one) for one in value]
    return value
