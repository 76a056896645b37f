"""Files of ``torch.save``, read so that no code in them can run, and what other file formats share with them.

1. The pickle may name only floating-point tensors, numbers, texts, lists and dictionaries; anything else is refused
   by its name before the pickle is opened.
2. The pickle is then read with ``torch.load(weights_only=True)``.
3. A tensor may be no larger than its part of the file.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.models.access import HOOK
from caa_interp.vectors.files import finite_floats, read_header

MAX_BYTES = 2**30  # what a vector, or the activations of one layer, stays far below
_NAMES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch BFloat16Storage",
    "torch DoubleStorage",
    "torch FloatStorage",
    "torch HalfStorage",
}
# Everything else that can bring a name into a pickle; torch.save uses none of them.
_OTHER_NAMING = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Raise an :class:`InputError` with the file's path for whatever goes wrong while it is read."""
    try:
        yield
    except InputError as error:
        raise InputError(f"file {path}: {error}") from error.__cause__
    except Exception as error:  # with a damaged file, libraries can raise anything
        raise InputError(f"file {path}: it cannot be read ({error}). Get it from its source again.") from error


def write_tensors(content: Any, path: Path) -> None:
    """Write tensors, or lists and dictionaries of them, as ``torch.save`` does."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_tensors(path: Path) -> Any:
    """Read a ``torch.save`` file of floating-point tensors, numbers, texts, lists and dictionaries; refuse others."""
    members = read_members(path)
    pickles = [content for name, content in members.items() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError("it is not a file of torch.save. Get it from its source again.")
    for step, argument, _ in pickletools.genops(pickles[0]):
        if step.name in _OTHER_NAMING or (step.name == "GLOBAL" and argument not in _NAMES):
            name = str(argument).replace(" ", ".") if step.name == "GLOBAL" else f"a {step.name} step"
            raise InputError(
                f"it holds {name[:80]}, and was not opened: only floating-point tensors, numbers, texts, lists and "
                "dictionaries are read, since others can run code. Ask for a .safetensors file."
            )
    # torch checks no checksums, and can find other members in a damaged archive: give it those that were checked.
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    checked.seek(0)
    return torch.load(checked, map_location="cpu", weights_only=True)


def read_tensor(path: Path, n_axes: int) -> torch.Tensor:
    """Read a ``torch.save`` file of one tensor, as :func:`finite_floats` gives it."""
    with reading(path):
        return floats(read_tensors(path), n_axes, "tensor")


def floats(content: Any, n_axes: int, name: str) -> torch.Tensor:
    """Return a tensor of a file as :func:`finite_floats` does, if the file holds all of it."""
    is_dense = isinstance(content, torch.Tensor) and content.layout == torch.strided
    if is_dense and content.numel() * content.dtype.itemsize > content.untyped_storage().nbytes():
        raise InputError(f"{name}: a tensor of shape {tuple(content.shape)}, which is more than the file holds.")
    return finite_floats(content, n_axes, name)


def read_members(path: Path, names: Collection[str] | None = None) -> dict[str, bytes]:
    """Return ``{name: content}`` of a zip archive of numpy or torch, or of those of its members that are named.

    An archive is refused by its size, or by its directory if members are compressed, or named twice.
    """
    if (n_bytes := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"it has {n_bytes:,} bytes; at most {MAX_BYTES:,} are read. Give the file of a vector.")
    if not zipfile.is_zipfile(path):
        raise InputError("it is not a zip archive, as numpy and torch (since 1.6) write it. Get it again.")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError(
                "its parts are compressed, as by np.savez_compressed. Save it with np.savez, or torch.save."
            )
        named_once = len(set(archive.namelist())) == len(entries)
        if not (named_once and sum(entry.file_size for entry in entries) <= n_bytes):
            raise InputError("its parts are named twice or larger than the file. Get it again.")
        return {entry.filename: archive.read(entry) for entry in entries if names is None or entry.filename in names}


def metadata_of(header: str | None, layers: Sequence[int], imported_from: str) -> Any:
    """Metadata that a header keeps, which must be of these layers; without a header, what is known."""
    if header is None:
        return {"behavior": None, "model": None, "hook": HOOK, "imported_from": imported_from}
    kept, metadata = read_header(header, "vector")
    if list(kept) != list(layers):
        raise InputError(f"its layers are {list(layers)}, its header says {list(kept)}. Get it again.")
    return metadata
