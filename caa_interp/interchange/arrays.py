"""numpy archives: ``values`` ``[n_layers, d_model]``, ``layers`` ``[n_layers]``, the metadata as JSON; no pickle."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch

from caa_interp.errors import InputError
from caa_interp.files import write_atomically
from caa_interp.interchange.tensors import metadata_of, read_members
from caa_interp.vectors.files import write_header
from caa_interp.vectors.vector import SteeringVector

_MEMBERS = ("values.npy", "layers.npy", "caa_interp.npy")


def write_npz(vector: SteeringVector, path: Path) -> None:
    """Write an uncompressed ``.npz`` archive."""
    buffer = io.BytesIO()
    header = np.array(write_header("vector", vector.layers, vector.metadata))
    np.savez(buffer, values=vector.values.numpy(), layers=np.array(vector.layers, dtype=np.int64), caa_interp=header)
    write_atomically(path, buffer.getvalue())


def read_npz(path: Path) -> SteeringVector:
    """Read an archive of :func:`write_npz`, or one with ``values`` and ``layers`` alone."""
    arrays = {name: _array(content, name) for name, content in read_members(path, _MEMBERS).items()}
    values, layers, header = map(arrays.get, _MEMBERS)
    if values is None or layers is None or layers.ndim != 1 or layers.dtype.kind not in "iu":
        raise InputError(
            "it must hold arrays 'values' [n_layers, d_model] and 'layers' [n_layers], whole numbers. Save it with "
            "np.savez(path, values=..., layers=...)."
        )
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(f"'values' are of type {values.dtype}; they must be floating-point numbers.")
    metadata = metadata_of(None if header is None else str(header), layers.tolist(), "npz")
    return SteeringVector(torch.from_numpy(values), tuple(layers.tolist()), metadata)


def _array(content: bytes, name: str) -> np.ndarray:
    """Array of one member; its declared size is compared with the real one before it is allocated."""
    stream = io.BytesIO(content)
    try:
        major, _ = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - stream.tell():
            raise ValueError(f"{dtype} of shape {shape} is not what it holds")
        stream.seek(0)
        return np.load(stream, allow_pickle=False)
    except Exception as error:  # numpy evaluates the header as a literal, which can raise anything
        raise InputError(f"{name}: not an array of plain numbers or text ({error}). Get it again.") from error
