"""The file that keeps a steering vector: safetensors with a JSON header and a checksum, which activations share.

What is in it, and what other formats keep of it, is written down in ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caa_interp.errors import InputError

if TYPE_CHECKING:
    import torch

FORMAT = "caa_interp/vector/1"
_ADVICE = "Give a file written by SteeringVector.save."


def write_header(layers: Sequence[int], metadata: Mapping[str, Any]) -> str:
    """Layers and metadata as JSON text.

    Raises
    ------
    InputError
        If the metadata holds what JSON does not.
    """
    try:
        return json.dumps({"format": FORMAT, "layers": list(layers), "metadata": dict(metadata)})
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"metadata: it cannot be written as JSON ({error}). Keep to texts, numbers, lists and mappings."
        ) from error


def read_header(text: str) -> tuple[tuple[Any, ...], Any]:
    """Layers and metadata of a header, as they are written there.

    Raises
    ------
    InputError
        If the text is no such header, or of a version that is not known here.
    """
    try:
        fields = json.loads(text)
        kind = fields["format"]
        if kind != FORMAT:
            other_version = isinstance(kind, str) and re.fullmatch(r"caa_interp/vector/[0-9]+", kind)
            raise InputError(
                f"its format is {kind!r}, and this version of caa_interp reads {FORMAT!r}. "
                + ("Install a newer caa_interp." if other_version else _ADVICE)
            )
        layers, metadata = fields["layers"], fields["metadata"]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"its header is not that of a steering vector ({error}). {_ADVICE}") from error
    if not isinstance(layers, list):
        raise InputError(f"its layers are no list. {_ADVICE}")
    return tuple(layers), metadata


def checksum(header: str, *values: torch.Tensor) -> str:
    """Return the sha256 of a header and of the bytes of contiguous values, as hexadecimal digits."""
    import torch

    digest = hashlib.sha256(header.encode())
    for some in values:
        digest.update(some.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def sealed(header: str, *values: torch.Tensor) -> dict[str, str]:
    """Return what a safetensors file keeps beside contiguous values: the header and the checksum of it all."""
    return {"caa_interp": header, "sha256": checksum(header, *values)}


def check_unchanged(kept: Mapping[str, str], *values: torch.Tensor) -> None:
    """Raise :class:`InputError` unless a file keeps what :func:`sealed` gave, or no checksum, as old files do."""
    if len(kept) > 1 and kept != sealed(kept["caa_interp"], *values):
        raise InputError("it was changed after it was saved. Get it again, or save it again.")


def to_bytes(values: torch.Tensor, layers: Sequence[int], metadata: Mapping[str, Any]) -> bytes:
    """Content of the file that keeps a vector."""
    from safetensors.torch import save

    values = values.contiguous()
    return save({"values": values}, metadata=sealed(write_header(layers, metadata), values))


def from_file(path: Path) -> tuple[torch.Tensor, tuple[Any, ...], Any]:
    """Values, layers and metadata of a file; safetensors checks declared sizes against the file's before it reads.

    Raises
    ------
    InputError
        If the file is not what :func:`to_bytes` made; the message leaves it to the caller to name the file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError("there is no such file. Check the path.")
    try:
        with safe_open(path, framework="pt") as file:
            kept = file.metadata() or {}
            layers, metadata = read_header(kept["caa_interp"])
            values = file.get_tensor("values")
        check_unchanged(kept, values)
    except InputError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"it is not a steering vector of this package ({error}). {_ADVICE}") from error
    if not values.is_floating_point() or values.dtype.itemsize < 2:
        raise InputError(f"its values are of type {values.dtype}. {_ADVICE}")
    return values, layers, metadata
