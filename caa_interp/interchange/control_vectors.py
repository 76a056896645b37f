"""GGUF control vectors, the file format of repeng and llama.cpp.

1. ``general.architecture`` is ``controlvector``; every tensor is named ``direction.N``, float32, with one axis.
2. N is the 0-based index of the block after which llama.cpp and repeng add the direction, so N is our layer. (That
   llama.cpp's loader keeps ``direction.N`` at place N - 1 is undone when it is applied.)
3. llama.cpp refuses a file with ``direction.0``: it never edits block 0.
4. Both add the direction at EVERY position; the paper and ``steer`` begin at the last token of the prompt.
5. Some architectures of llama.cpp do not add it, or refuse the file (:data:`_BROKEN`).

Files written here also keep the vector's layers and metadata, under a key that the others ignore.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from caa_interp.errors import InputError, warn
from caa_interp.files import write_atomically
from caa_interp.interchange.tensors import metadata_of
from caa_interp.vectors.files import checksum, write_header
from caa_interp.vectors.vector import SteeringVector

_DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")
_ARCHITECTURE = "general.architecture"
_OURS = "caa_interp.vector"
_CHECKSUM = "caa_interp.vector.sha256"
_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _FLOAT32 = 8, 9, 0
# What llama.cpp does with control vectors for some models, by a part of the model's name (pull request 20653, issue
# 16908 of ggml-org/llama.cpp).
_IGNORED = "builds of llama.cpp from before March 2026 ignore control vectors for this model"
_BROKEN = {
    "qwen3.5": _IGNORED,
    "qwen3-next": _IGNORED,
    "qwen3-coder-next": _IGNORED,
    "qwen3-vl": "llama.cpp refuses control vectors of this model's width",
    "plamo-2": "llama.cpp does not add control vectors in this model",
}


def write_gguf(vector: SteeringVector, path: Path) -> None:
    """Write a control vector; its values are rounded to float32."""
    import gguf

    if 0 in vector.layers:
        others = [layer for layer in vector.layers if layer]
        raise InputError(
            "layers: 0 is among them, and llama.cpp refuses a control vector with layer 0, since it never edits that "
            + (f"block. Give those from {others[0]} to {others[-1]}." if others else "block. Choose another format.")
        )
    values = vector.values.float().contiguous()
    if not bool(values.isfinite().all()):
        raise InputError("vector: an entry is larger than float32 can hold. Rescale the vector.")
    model = str(vector.metadata.get("model") or "")
    if said := next((said for name, said in _BROKEN.items() if name in model.lower()), None):
        warn(f"model {model!r}: {said}. Check that answers change before you use the file.")
    header = write_header("vector", vector.layers, vector.metadata)
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(partial, "controlvector")
        writer.add_string("controlvector.model_hint", model)
        writer.add_uint32("controlvector.layer_count", len(vector.layers))
        writer.add_string(_OURS, header)
        writer.add_string(_CHECKSUM, checksum(header, values))
        for layer, row in zip(vector.layers, values, strict=True):
            writer.add_tensor(f"direction.{layer}", row.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_atomically(path, partial.read_bytes())


def read_gguf(path: Path) -> SteeringVector:
    """Read a control vector of this package, repeng or llama.cpp; another file is refused by its header alone.

    The reader of the ``gguf`` package trusts declared counts, so a file of a few bytes can keep it busy forever.
    """
    with path.open("rb") as file:
        if _take(file, 4) != b"GGUF" or _number(file, "I") not in (2, 3):
            raise InputError("it does not begin as a GGUF file of version 2 or 3 does. Get it again.")
        n_tensors, n_fields = _number(file, "Q"), _number(file, "Q")
        fields = _fields(file, n_fields)
        rows = _directions(file, n_tensors, fields.get("general.alignment", 32))
    ours = {name for name in fields if name.startswith("caa_interp")}
    if ours not in (set(), {_OURS, _CHECKSUM}) or not isinstance(fields.get(_OURS, ""), str):
        raise InputError(f"its fields of this package are {sorted(ours)}. Get it again, or export the vector again.")
    layers = tuple(rows if ours else sorted(rows))
    values = torch.from_numpy(np.stack([rows[layer] for layer in layers]))
    metadata = metadata_of(fields.get(_OURS), layers, "gguf")
    if not ours:
        metadata["model_hint"] = fields.get("controlvector.model_hint") or None
    elif fields[_CHECKSUM] != checksum(fields[_OURS], values):
        raise InputError("it was changed after it was written. Get it again, or export the vector again.")
    return SteeringVector(values, layers, metadata)


def _fields(file: BinaryIO, n: int) -> dict[str, Any]:
    """Key-value pairs of a control vector."""
    fields: dict[str, Any] = {}
    for _ in range(n):
        name = _text(file)
        if name in fields:
            raise InputError(f"it has two fields {name[:80]!r}. Get it again.")
        fields[name] = _value(file)
        if name == _ARCHITECTURE and fields[name] != "controlvector":
            break  # a model has long fields
    if fields.get(_ARCHITECTURE) != "controlvector":
        given = fields.get(_ARCHITECTURE)
        raise InputError(f"its architecture is {given!r}, not 'controlvector'. Give a control vector, not a model.")
    return fields


def _directions(file: BinaryIO, n: int, alignment: Any) -> dict[int, np.ndarray]:
    """Directions by layer, in the order of the file."""
    places: dict[int, int] = {}
    widths = set()
    for _ in range(n):
        name, n_axes = _text(file), _number(file, "I")
        match = _DIRECTION.fullmatch(name)
        if not match or int(match[1]) in places:
            raise InputError(f"its tensor {name[:80]!r} is not one 'direction.N' per layer. Give another file.")
        width, kind = (_number(file, "Q"), _number(file, "I")) if n_axes == 1 else (0, None)
        if kind != _FLOAT32 or not width:
            raise InputError(f"its tensor {name!r} has not one axis of float32 numbers. Give another file.")
        widths.add(width)
        places[int(match[1])] = _number(file, "Q")
    if len(widths) != 1:
        raise InputError("its directions have different widths." if widths else "it has no tensor 'direction.N'.")
    n_bytes = 4 * widths.pop()
    if any(after - before < n_bytes for before, after in pairwise(sorted(places.values()))):
        raise InputError("its directions overlap. Get it again.")
    if not isinstance(alignment, int) or alignment < 1:
        raise InputError(f"its alignment is {alignment!r}; it must be a positive number. Get it again.")
    start = -(-file.tell() // alignment) * alignment
    return {layer: np.frombuffer(_take(file, n_bytes, start + at), "<f4") for layer, at in places.items()}


def _take(file: BinaryIO, n: int, at: int | None = None) -> bytes:
    """Read n bytes, from a place or from here on; a number that exceeds the file is refused."""
    at, size = file.tell() if at is None else at, os.fstat(file.fileno()).st_size
    if at + n > size:
        raise InputError(f"it ends at byte {size:,}, and more is declared. Get it again.")
    file.seek(at)
    return file.read(n)


def _number(file: BinaryIO, code: str) -> Any:
    (value,) = struct.unpack(f"<{code}", _take(file, struct.calcsize(f"<{code}")))
    return value


def _text(file: BinaryIO) -> str:
    return _take(file, _number(file, "Q")).decode()


def _value(file: BinaryIO) -> Any:
    """A number or a text; None for an array, which no control vector needs."""
    kind = _number(file, "I")
    if kind == _STRING:
        return _text(file)
    if kind in _SIZES:
        return _number(file, _SIZES[kind])
    if kind != _ARRAY:
        raise InputError(f"it has a value of type {kind}, which GGUF does not define. Get it again.")
    item, n = _number(file, "I"), _number(file, "Q")
    if item == _STRING:
        for _ in range(n):
            _take(file, _number(file, "Q"))
    elif item in _SIZES:
        _take(file, n * struct.calcsize(f"<{_SIZES[item]}"))
    else:
        raise InputError(f"it has an array of values of type {item}, which no control vector has. Get it again.")
    return None
