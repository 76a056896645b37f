"""GGUF control vectors, the file format of repeng and llama.cpp.

1. ``general.architecture`` is ``controlvector``; every tensor is named ``direction.N``, float32, with one axis.
2. N is the 0-based index of the block after which llama.cpp and repeng add the direction, so N is our layer. (That
   llama.cpp's loader keeps ``direction.N`` at place N - 1 is undone when it is applied.)
3. llama.cpp refuses a file with ``direction.0``: it never edits block 0.
4. Both add the direction at EVERY position; the paper and ``steer`` begin at the last token of the prompt.

Files written here also keep the vector's layers and metadata, under a key that the others ignore.
"""

from __future__ import annotations

import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.interchange.tensors import metadata_of
from caa_interp.vectors.files import checksum, write_header
from caa_interp.vectors.vector import SteeringVector

_DIRECTION = re.compile(r"direction\.(0|[1-9][0-9]{0,5})")
_OURS = "caa_interp.vector"
_CHECKSUM = "caa_interp.vector.sha256"
_SIZES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY, _FLOAT32 = 8, 9, 0


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
    header = write_header("vector", vector.layers, vector.metadata)
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "vector.gguf"
        writer = gguf.GGUFWriter(partial, "controlvector")
        writer.add_string("controlvector.model_hint", str(vector.metadata.get("model") or ""))
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
    """Read a control vector of this package, repeng or llama.cpp."""
    try:
        fields, rows = _parse(_Bytes(path.read_bytes()))
        if fields.get("general.architecture") != "controlvector":
            raise InputError(
                f"its architecture is {fields.get('general.architecture')!r}, not 'controlvector'. "
                "Give a control vector, not a model."
            )
        return _vector(fields, rows)
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"file {path}: not a control vector: {error}") from error.__cause__


def _vector(fields: dict[str, Any], rows: dict[int, torch.Tensor]) -> SteeringVector:
    widths = {len(row) for row in rows.values()}
    if len(widths) != 1:
        raise InputError("its directions have different widths. " if widths else "it has no tensor 'direction.N'.")
    ours = {name for name in fields if name.startswith("caa_interp")}
    if ours not in (set(), {_OURS, _CHECKSUM}) or not isinstance(fields.get(_OURS, ""), str):
        raise InputError(f"its fields of this package are {sorted(ours)}. Get it again, or export the vector again.")
    layers = tuple(rows if ours else sorted(rows))
    values = torch.stack([rows[layer] for layer in layers])
    metadata = metadata_of(fields.get(_OURS), layers, "gguf")
    if not ours:
        metadata["model_hint"] = fields.get("controlvector.model_hint") or None
    elif fields[_CHECKSUM] != checksum(fields[_OURS], values):
        raise InputError("it was changed after it was written. Get it again, or export the vector again.")
    return SteeringVector(values, layers, metadata)


@dataclass
class _Bytes:
    """Content of a file and the place up to which it was read; counts that exceed the file are refused.

    The reader of the ``gguf`` package trusts declared counts, so a file of a few bytes can keep it busy forever.
    """

    content: bytes
    at: int = 0

    def take(self, n: int) -> bytes:
        if n > len(self.content) - self.at:
            raise InputError(f"it ends at byte {len(self.content):,}, and more is declared. Get it again.")
        self.at += n
        return self.content[self.at - n : self.at]

    def number(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return value

    def text(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self) -> Any:
        kind = self.number("I")
        if kind == _STRING:
            return self.text()
        if kind in _SIZES:
            return self.number(_SIZES[kind])
        if kind != _ARRAY:
            raise InputError(f"it has a value of type {kind}, which GGUF does not define. Get it again.")
        item, n = self.number("I"), self.number("Q")
        if item == _STRING:
            return [self.text() for _ in range(n)]
        if item not in _SIZES:
            raise InputError(f"it has an array of values of type {item}, which no control vector has. Get it again.")
        return self.take(n * struct.calcsize(f"<{_SIZES[item]}"))


def _parse(file: _Bytes) -> tuple[dict[str, Any], dict[int, torch.Tensor]]:
    """Key-value pairs, and the directions by layer."""
    if file.take(4) != b"GGUF" or file.number("I") not in (2, 3):
        raise InputError("it does not begin as a GGUF file of version 2 or 3 does. Get it again.")
    n_tensors, n_fields = file.number("Q"), file.number("Q")
    fields: dict[str, Any] = {}
    for _ in range(n_fields):
        name = file.text()
        if name in fields:
            raise InputError(f"it has two fields {name[:80]!r}. Get it again.")
        fields[name] = file.value()
    places: dict[int, tuple[int, int]] = {}
    for _ in range(n_tensors):
        name, axes = file.text(), [file.number("Q") for _ in range(file.number("I"))]
        kind, offset = file.number("I"), file.number("Q")
        match = _DIRECTION.fullmatch(name)
        if not match or int(match[1]) in places:
            raise InputError(f"its tensor {name[:80]!r} is not one 'direction.N' per layer. Give another file.")
        if kind != _FLOAT32 or len(axes) != 1 or not axes[0]:
            raise InputError(f"its tensor {name!r} has not one axis of float32 numbers. Give another file.")
        places[int(match[1])] = (axes[0], offset)
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise InputError(f"its alignment is {alignment!r}; it must be a positive number. Get it again.")
    start = -(-file.at // alignment) * alignment
    rows = {}
    for layer, (width, offset) in places.items():
        file.at = start + offset
        rows[layer] = torch.frombuffer(bytearray(file.take(4 * width)), dtype=torch.float32).clone()
    return fields, rows
