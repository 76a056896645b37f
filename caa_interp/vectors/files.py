"""Files of steering vectors and activations: safetensors with a JSON header and a checksum; see ``docs/formats``."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from caa_interp.errors import InputError, check_ending
from caa_interp.files import write_atomically

if TYPE_CHECKING:
    import torch

Kind = Literal["vector", "activations"]
# Tensors in a file, fields of its header, and its name in messages.
_TENSORS = {"vector": ("values",), "activations": ("positive", "negative")}
_FIELDS = {"vector": ("layers", "metadata"), "activations": ("form", "metadata", "layers", "orders", "pairs")}
_NAMES = {"vector": ("a steering vector", "SteeringVector"), "activations": ("activations", "Activations")}


def write_header(kind: Kind, *fields: Any) -> str:
    """Write the fields of a header, in the order of ``_FIELDS``, as JSON, or raise :class:`InputError`."""
    named = {
        name: dict(field) if isinstance(field, Mapping) else field
        for name, field in zip(_FIELDS[kind], fields, strict=True)
    }
    try:
        if json.loads(json.dumps(named["metadata"], allow_nan=False)) != named["metadata"]:
            raise ValueError("it would be read back differently, as would a tuple or a non-text key")
        return json.dumps({"format": f"caa_interp/{kind}/1", **named})
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata: it cannot be written as JSON ({error}). Keep to texts, finite numbers, lists, and mappings "
            "whose keys are texts."
        ) from error


def read_header(text: str, kind: Kind) -> list[Any]:
    """Read the fields of a header, in the order of ``_FIELDS``, or raise :class:`InputError`; types are checked."""
    expected, (what, _) = f"caa_interp/{kind}/1", _NAMES[kind]
    try:
        content = json.loads(text)
        given = content["format"]
        if given == expected:
            fields = {name: content[name] for name in _FIELDS[kind]}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"its header is not that of {what} ({error}). {_advice(kind)}") from error
    if given != expected:
        other_version = isinstance(given, str) and re.fullmatch(rf"caa_interp/{kind}/[0-9]+", given)
        raise InputError(
            f"its format is {given!r}, and this version of caa_interp reads {expected!r}. "
            + ("Install a newer caa_interp." if other_version else _advice(kind))
        )
    for name, field in fields.items():
        if not isinstance(field, {"form": str, "metadata": dict}.get(name, list)):
            raise InputError(f"its {name} must not be {type(field).__name__}. {_advice(kind)}")
    return list(fields.values())


def finite_floats(values: Any, n_axes: int, name: str) -> torch.Tensor:
    """Return a tensor as contiguous float32 on the CPU, or float64 if it is that, or raise :class:`InputError`."""
    import torch

    if not isinstance(values, torch.Tensor):
        raise InputError(f"{name}: {type(values).__name__}; it must be a tensor.")
    is_plain = values.layout == torch.strided and values.is_floating_point() and values.dtype.itemsize >= 2
    if not is_plain or values.is_meta or values.ndim != n_axes or not values.numel():
        raise InputError(
            f"{name}: a tensor of type {values.dtype} ({values.layout}, {values.device}) and shape "
            f"{tuple(values.shape)}; it must hold floating-point numbers and have {n_axes} "
            f"{'axis' if n_axes == 1 else 'axes'}, none of them empty. Sparse and meta tensors are not taken."
        )
    values = values.detach().to("cpu", torch.promote_types(values.dtype, torch.float32)).contiguous()
    if not bool(values.isfinite().all()):
        raise InputError(f"{name}: there are NaN or infinite entries; all of them must be finite.")
    return values


def checksum(header: str, *values: torch.Tensor) -> str:
    """Sha256 of a header and of the bytes of contiguous tensors, as hexadecimal digits."""
    import torch

    digest = hashlib.sha256(header.encode())
    for tensor in values:
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(path: str | Path, kind: Kind, tensors: tuple[torch.Tensor, ...], *fields: Any) -> Path:
    """Write a ``.safetensors`` file; an existing file is replaced only once the new one is complete."""
    from safetensors.torch import save as to_bytes

    path = Path(path)
    check_ending(path, ".safetensors")
    header = write_header(kind, *fields)
    kept = {"caa_interp": header, "sha256": checksum(header, *tensors)}
    write_atomically(path, to_bytes(dict(zip(_TENSORS[kind], tensors, strict=True)), metadata=kept))
    return path


@contextmanager
def opened(path: str | Path, kind: Kind) -> Iterator[tuple[list[Any], list[torch.Tensor]]]:
    """Give the fields and tensors of a file that :func:`save` wrote; declared sizes are checked before it is read.

    The tensors are copies: what happens to the file later does not change them.

    Raises :class:`InputError`, with the file's path, if it is another kind of file, if it was changed, or if the body
    rejects its content.
    """
    from safetensors import SafetensorError, safe_open

    what, _ = _NAMES[kind]
    try:
        if not os.path.isfile(path):
            raise InputError("there is no such file. Check the path.")
        with safe_open(path, framework="pt") as file:
            kept = file.metadata() or {}
            fields = read_header(kept["caa_interp"], kind)
            tensors = [file.get_tensor(name).clone() for name in _TENSORS[kind]]
        if kept != {"caa_interp": kept["caa_interp"], "sha256": checksum(kept["caa_interp"], *tensors)}:
            raise InputError("it was changed after it was saved. Get it again, or save it again.")
        yield fields, tensors
    except InputError as error:
        raise InputError(f"{kind} file {path}: {error}") from error.__cause__
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{kind} file {path}: it is not {what} of this package ({error}). {_advice(kind)}") from error


def _advice(kind: Kind) -> str:
    return f"Give a file written by {_NAMES[kind][1]}.save."
