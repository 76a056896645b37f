"""Vectors as the published CAA code keeps them: one ``.pt`` file a layer, in a folder named after the behavior.

1. ``vectors/<behavior>/vec_layer_<L>_<model>.pt`` holds the vector of block L's output, ``[d_model]``; ``<model>`` is
   the last part of the model's name, and is missing in early versions. ``normalized_vectors`` is laid out the same.
2. The published survival-instinct vector points to the answer that ACCEPTS shutdown, ours away from it: in a folder
   of that name the sign is reversed, on the way in and on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from caa_interp.behaviors.readers import SURVIVAL
from caa_interp.errors import InputError
from caa_interp.interchange.tensors import floats, read_tensors, write_tensors
from caa_interp.models.access import HOOK
from caa_interp.vectors.vector import SteeringVector

VECTOR_FILE = re.compile(r"vec_layer_([0-9]{1,6})(?:_(.+))?\.pt")
_LLAMA_2 = re.compile(r"Llama-2-[0-9]+b(-chat)?-hf")


def write_folder(vector: SteeringVector, folder: Path) -> None:
    """Write one file a layer; files of other layers that are in the folder already stay there."""
    behavior = vector.metadata.get("behavior")
    if behavior is not None and (behavior == SURVIVAL) != (folder.name == SURVIVAL):
        raise InputError(
            f"path: {str(folder)!r} for a vector of {behavior!r}. The folder's name tells the behavior, and with it "
            f"the sign: the folder of {SURVIVAL!r}, and no other, must have that name."
        )
    model = vector.metadata.get("model")
    ending = f"_{short_name(str(model))}.pt" if model else ".pt"
    for layer, values in zip(vector.layers, _signed(vector.values, folder), strict=True):
        write_tensors(values.clone(), folder / f"vec_layer_{layer}{ending}")


def read_folder(path: Path, model: str | None) -> SteeringVector:
    """Read all layers of one model from a folder, or the one layer of a file."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    found = [(match[2], int(match[1]), file) for file in files if (match := VECTOR_FILE.fullmatch(file.name))]
    name, layers = choose_model(group_by_model(found, path, "vec_layer_<L>_<model>.pt"), model, path)
    rows = {layer: floats(read_tensors(file), 1, f"file {file}") for layer, file in sorted(layers.items())}
    folder = path.absolute().parent if path.is_file() else path.absolute()
    metadata = {"behavior": folder.name, "model": name, "hook": HOOK, "imported_from": "caa"}
    if folder.parent.name == "normalized_vectors":
        metadata["norms"] = "matched over behaviors"
    if folder.name == SURVIVAL:
        metadata["sign"] = "reversed: the published vector points to the answer that accepts shutdown"
    return SteeringVector(_signed(stack_rows(rows, path), folder), tuple(rows), metadata)


def stack_rows(rows: Mapping[int, torch.Tensor], path: Path) -> torch.Tensor:
    """Stack one tensor a layer, or raise if their shapes differ."""
    first = next(iter(rows))
    for layer, row in rows.items():
        if row.shape != rows[first].shape:
            raise InputError(
                f"{path}: layer {first} has shape {tuple(rows[first].shape)} and layer {layer} {tuple(row.shape)}; "
                "all must be of one model. Take one of them out."
            )
    dtype = torch.float64 if any(row.dtype == torch.float64 for row in rows.values()) else torch.float32
    return torch.stack([row.to(dtype) for row in rows.values()])


def group_by_model(
    found: Sequence[tuple[str | None, int, Path]], path: Path, pattern: str
) -> dict[str | None, dict[int, Path]]:
    """``{model: {layer: file}}`` of ``(model, layer, file)``; every layer of a model must be there once."""
    if not found:
        raise InputError(f"path: {str(path)!r} holds no file named {pattern}. Give the folder of one behavior.")
    by_model: dict[str | None, dict[int, Path]] = {}
    for model, layer, file in found:
        layers = by_model.setdefault(model, {})
        if layer in layers:
            raise InputError(f"path: {layers[layer].name!r} and {file.name!r} are both layer {layer}. Take one out.")
        layers[layer] = file
    return by_model


def choose_model(
    by_model: Mapping[str | None, dict[int, Path]], model: str | None, path: Path
) -> tuple[str | None, dict[int, Path]]:
    """Full name, if it is known, and files of the model that is meant; files that name none are anyone's."""
    named = sorted(name for name in by_model if name)
    wanted = short_name(model) if model else next(iter(by_model)) if len(by_model) == 1 else ""
    if wanted not in by_model and None in by_model and not named:
        wanted = None
    if wanted not in by_model:
        raise InputError(
            f"model: {model!r}, but {str(path)!r} holds files of {', '.join(map(repr, named))}"
            f"{' and of a model that is not named' if None in by_model else ''}. Name one of these."
        )
    full = f"meta-llama/{wanted}" if wanted and _LLAMA_2.fullmatch(wanted) else wanted
    return model or full, by_model[wanted]


def short_name(model: str) -> str:
    """Last part of a model's name, which stands in file names."""
    return model.rsplit("/", 1)[-1]


def _signed(values: torch.Tensor, folder: Path) -> torch.Tensor:
    return -values if folder.name == SURVIVAL else values
