"""Vectors and activations in the file layout of the published CAA code: one ``.pt`` file per layer.

1. ``vectors/<behavior>/vec_layer_<L>_<model>.pt`` holds the vector of block L's output, ``[d_model]``; ``<model>`` is
   the last part of the model's name, and is missing in early versions. ``normalized_vectors`` has the same layout.
2. The published survival-instinct vector points to the answer that ACCEPTS shutdown, ours away from it: in a folder
   of that name the sign is reversed, in reading and in writing. A vector of pairs that are kept as published points
   there already, and is written as it is.
3. ``activations/<behavior>/activations_{pos|neg}_<L>_<model>.pt`` holds block L's output at the answer letter,
   ``[n_pairs, d_model]``, one row per item of that behavior's ``generate_dataset.json``, in its order. Both sides are
   as published: ``pos`` is the answer that matches the behavior.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.interchange.tensors import read_tensor, write_tensors
from caa_interp.models.access import HOOK, check_layers, short_name
from caa_interp.vectors.activations import Activations
from caa_interp.vectors.extraction import AS_PUBLISHED
from caa_interp.vectors.vector import SteeringVector

SURVIVAL = "survival-instinct"
VECTORS, _POSITIVE, _NEGATIVE = "vec_layer", "activations_pos", "activations_neg"  # how names of files begin
_LLAMA_2 = re.compile(r"Llama-2-[0-9]+b(-chat)?-hf")


def write_folder(vector: SteeringVector, layers: Iterable[int], folder: Path) -> None:
    """Write one file per layer; other files stay, but none of another vector that would be read back with these."""
    if layer_file(folder.name, VECTORS):
        raise InputError(f"path: {str(folder)!r} is the name of one layer's file; give the folder that is to hold it.")
    folder = folder.absolute()  # "." has a name, too
    behavior, model = vector.metadata.get("behavior"), vector.metadata.get("model")
    if behavior is not None and (behavior == SURVIVAL) != (folder.name == SURVIVAL):
        raise InputError(
            f"path: {str(folder)!r} for a vector of {behavior!r}. The folder's name tells the behavior, and with it "
            f"the sign: the folder of {SURVIVAL!r}, and no other, must have that name."
        )
    owner = short_name(str(model)) if model else None
    values = vector.values if vector.metadata.get("sides") == AS_PUBLISHED else _signed(vector.values, folder)
    rows = dict(zip(vector.layers, values, strict=True))
    for name, layer, file in _files(folder, VECTORS) if folder.is_dir() else []:
        if name == owner and not (layer in rows and torch.equal(read_tensor(file, 1).double(), rows[layer].double())):
            raise InputError(
                f"path: {str(folder)!r} holds another vector of this model, with layer {layer} in {file.name!r}; the "
                "two would be read back as one. Give another folder, or take its files out."
            )
    for layer in layers:
        ending = f"_{owner}.pt" if owner else ".pt"
        write_tensors(rows[layer].clone(), folder / f"{VECTORS}_{layer}{ending}")


def read_folder(path: Path, model: str | None) -> SteeringVector:
    """Read all layers of one model from a folder, or the one layer of a file."""
    values, layers, name = _read_layers(path, VECTORS, 1, model, None)
    folder = path.absolute().parent if path.is_file() else path.absolute()
    metadata = {"behavior": folder.name, "model": name, "hook": HOOK, "imported_from": "caa"}
    if folder.parent.name == "normalized_vectors":
        metadata["norms"] = "matched over behaviors"
    if folder.name == SURVIVAL:
        metadata["sign"] = "reversed: the published vector points to the answer that accepts shutdown"
    return SteeringVector(_signed(values, folder), tuple(layers), metadata)


def import_activations(
    folder: str | Path,
    pairs: Iterable[ContrastPair],
    *,
    model: str | None = None,
    layers: int | Sequence[int] | None = None,
) -> Activations:
    """Read the activations that the published CAA code saved for one behavior.

    Parameters
    ----------
    folder
        Such as ``activations/sycophancy``.
    pairs
        The items that they were read from, as published:
        ``read_pairs("datasets/generate/sycophancy/generate_dataset.json", compat="caa").pairs``.
    model
        Name of the model, where the folder holds activations of several.
    layers
        Which layers to read; default: all.

    Returns
    -------
    Activations
        float32. Sides are as published, also those of survival-instinct, whose positive answer accepts shutdown.

    Raises
    ------
    InputError
        If a file is missing or damaged, or does not have one row per pair. No code in a file is run.
    """
    folder, checked = Path(folder), check_pairs(pairs)
    if not folder.is_dir():
        raise InputError(f"folder: {str(folder)!r} is not a folder. Give one such as activations/sycophancy.")
    if not all(isinstance(pair, PublishedPair) for pair in checked):
        raise InputError(
            "pairs: they must be the published items, letters included. Read them with read_pairs(..., compat='caa')."
        )
    (positive, layers_of_one, name), (negative, layers_of_other, _) = (
        _read_layers(folder, kind, 2, model, layers) for kind in (_POSITIVE, _NEGATIVE)
    )
    if layers_of_one != layers_of_other:
        raise InputError(
            f"folder: {str(folder)!r} has layers {layers_of_one} of one side and {layers_of_other} of the other. "
            "Name layers that both have."
        )
    for values in (positive, negative):
        if values.shape[1] != len(checked):
            raise InputError(
                f"pairs: there are {len(checked)}, but the files in {str(folder)!r} have {values.shape[1]} rows. "
                "Give the items that these activations were read from."
            )
    orders = tuple(pair.order for pair in checked if isinstance(pair, PublishedPair))
    metadata = {"model": name, "hook": HOOK}
    positive, negative = (values.transpose(0, 1).contiguous() for values in (positive, negative))
    return Activations(positive, negative, tuple(layers_of_one), tuple(checked), "choices", orders, metadata)


def stack_rows(rows: Mapping[int, torch.Tensor], where: str) -> torch.Tensor:
    """Stack one tensor per layer, or raise if their shapes differ; ``where`` begins the message."""
    first = next(iter(rows))
    for layer, row in rows.items():
        if row.shape != rows[first].shape:
            raise InputError(
                f"{where}: layer {first} has shape {tuple(rows[first].shape)} and layer {layer} {tuple(row.shape)}; "
                "all must be of one model. Take one of them out."
            )
    dtype = torch.float64 if any(row.dtype == torch.float64 for row in rows.values()) else torch.float32
    return torch.stack([row.to(dtype) for row in rows.values()])


def layer_file(name: str, kind: str) -> re.Match[str] | None:
    """Layer and model, if any, in the name of a file whose name begins with a kind."""
    return re.fullmatch(rf"{kind}_([0-9]{{1,6}})(?:_(.+))?\.pt", name)


def _files(path: Path, kind: str) -> list[tuple[str | None, int, Path]]:
    """``(model, layer, file)`` of the files of a kind in a folder, or of one file."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return [(match[2], int(match[1]), file) for file in files if (match := layer_file(file.name, kind))]


def _read_layers(
    path: Path, kind: str, n_axes: int, model: str | None, layers: int | Sequence[int] | None
) -> tuple[torch.Tensor, list[int], str | None]:
    """Values ``[n_layers, ...]`` of one model in a folder or a file, their layers, and the model's full name."""
    name, files = _files_of_model(path, kind, model)
    chosen = check_layers(layers, sorted(files), f"{path.name} ({kind})")
    rows = {layer: read_tensor(files[layer], n_axes) for layer in chosen}
    return stack_rows(rows, f"folder {path}"), chosen, name


def _files_of_model(path: Path, kind: str, model: str | None) -> tuple[str | None, dict[int, Path]]:
    """Full name, if known, and ``{layer: file}`` of one model."""
    by_model: dict[str | None, dict[int, Path]] = {}
    for owner, layer, file in _files(path, kind):
        layers = by_model.setdefault(owner, {})
        if layer in layers:
            raise InputError(f"path: {layers[layer].name!r} and {file.name!r} are both layer {layer}. Take one out.")
        layers[layer] = file
    if not by_model:
        raise InputError(
            f"path: {str(path)!r} holds no file named {kind}_<L>_<model>.pt. Give the folder of one behavior."
        )
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


def _signed(values: torch.Tensor, folder: Path) -> torch.Tensor:
    return -values if folder.name == SURVIVAL else values
