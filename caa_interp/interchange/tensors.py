"""Files of ``torch.save``, read so that no code in them can run, and what other file formats share with them.

1. The pickle may name only floating-point tensors, numbers, texts, lists and dictionaries; anything else is refused
   by its name before the pickle is opened.
2. The pickle is then read with ``torch.load(weights_only=True)``.
3. A tensor may be no larger than its part of the file.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.models.access import HOOK
from caa_interp.vectors.files import finite_floats, read_header

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


def write_tensors(content: Any, path: Path) -> None:
    """Write tensors, or lists and dictionaries of them, as ``torch.save`` does."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def read_tensors(path: Path) -> Any:
    """Read a ``torch.save`` file of floating-point tensors, numbers, texts, lists and dictionaries; refuse others."""
    if not path.is_file():
        raise InputError(f"file {path}: there is no such file. Check the path.")
    members = read_members(path)
    pickles = [content for name, content in members.items() if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"file {path}: it is not a file of torch.save. Get it from its source again.")
    _check_names(pickles[0], path)
    # torch checks no checksums, and can find other members in a damaged archive: give it those that were checked.
    checked = io.BytesIO()
    with zipfile.ZipFile(checked, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    checked.seek(0)
    try:
        return torch.load(checked, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"file {path}: it cannot be read ({error}). Get it from its source again.") from error


def metadata_of(header: str | None, layers: Sequence[int], imported_from: str) -> Any:
    """Metadata that a header keeps, which must be of these layers; without a header, what is known."""
    if header is None:
        return {"behavior": None, "model": None, "hook": HOOK, "imported_from": imported_from}
    kept, metadata = read_header(header, "vector")
    if list(kept) != list(layers):
        raise InputError(f"its layers are {list(layers)}, its header says {list(kept)}. Get it again.")
    return metadata


def floats(content: Any, n_axes: int, where: str) -> torch.Tensor:
    """Return a tensor of a file as :func:`finite_floats` does; ``where`` begins messages."""
    is_dense = isinstance(content, torch.Tensor) and content.layout == torch.strided
    if is_dense and content.numel() * content.dtype.itemsize > content.untyped_storage().nbytes():
        raise InputError(f"{where}: a tensor of shape {tuple(content.shape)}, which is more than the file holds.")
    return finite_floats(content, n_axes, where)


def _check_names(content: bytes, path: Path) -> None:
    try:
        steps = [(step.name, argument) for step, argument, _ in pickletools.genops(content)]
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"file {path}: it cannot be read ({error}). Get it from its source again.") from error
    for step, argument in steps:
        if step in _OTHER_NAMING or (step == "GLOBAL" and argument not in _NAMES):
            name = str(argument).replace(" ", ".") if step == "GLOBAL" else f"a {step} step"
            raise InputError(
                f"file {path}: it holds {name[:80]}, and was not opened: only floating-point tensors, numbers, "
                "texts, lists and dictionaries are read, since others can run code. Ask for a .safetensors file."
            )


def read_members(path: Path) -> dict[str, bytes]:
    """Return ``{name: content}`` of a zip archive of numpy or torch, allocating at most twice the file's size.

    Archives whose members are compressed, encrypted or named twice are refused.
    """
    content = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            names = {entry.filename for entry in entries}
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
            if not stored or len(names) < len(entries) or sum(entry.file_size for entry in entries) > len(content):
                raise zipfile.BadZipFile("its parts are compressed, named twice or larger than the file")
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, ArithmeticError, EOFError, RuntimeError, ValueError, struct.error) as error:
        raise InputError(
            f"file {path}: it is not a whole zip archive ({error}), as numpy and torch (since 1.6) write it. "
            "Get it from its source again."
        ) from error
