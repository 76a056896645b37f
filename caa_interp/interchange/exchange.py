"""Steering vectors in the files of other tools, one call for all file formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from caa_interp.errors import InputError, VectorMismatchError, check_choice
from caa_interp.interchange.arrays import read_npz, write_npz
from caa_interp.interchange.control_vectors import read_gguf, write_gguf
from caa_interp.interchange.harness import read_harness, write_harness
from caa_interp.interchange.published import VECTORS, layer_file, read_folder, write_folder
from caa_interp.interchange.tensors import reading
from caa_interp.models.access import check_layers, check_model, model_id
from caa_interp.steering.intervention import check_multipliers
from caa_interp.vectors.vector import SteeringVector, one_vector, same_model

FileFormat = Literal["caa", "gguf", "lm-eval", "npz"]
_ENDINGS: dict[str, FileFormat] = {".gguf": "gguf", ".npz": "npz", ".pt": "lm-eval", ".pth": "lm-eval", "": "caa"}


def export_vector(
    vector: SteeringVector,
    path: str | Path,
    *,
    format: FileFormat | None = None,
    layers: int | Sequence[int] | None = None,
    multiplier: float = 1.0,
    hook: str = "layers.{layer}",
) -> Path:
    """Write a steering vector in another tool's file format; for this package's own, see ``vector.save``.

    Parameters
    ----------
    vector
        The vector.
    path
        Where to write it; its ending chooses the file format.
    format
        - ``"gguf"`` (``.gguf``): control vector of llama.cpp and repeng; float32, and never layer 0;
        - ``"lm-eval"`` (``.pt``, ``.pth``): for lm-evaluation-harness's ``--model steered``; one layer;
        - ``"npz"`` (``.npz``): numpy arrays ``values`` and ``layers``;
        - ``"caa"`` (a folder): the published CAA code's, one file per layer; the folder's name is the behavior, and
          one named ``survival-instinct`` points to the answer that accepts shutdown, as in that code: the sign is
          reversed, unless the vector was made of pairs with their sides as published (``compat="caa"``). A folder
          holds one vector of a model: its layers can be written one by one, those of another vector not beside them.
    layers
        Which of the vector's layers to write; default: all.
    multiplier
        ``"lm-eval"`` only: the coefficient.
    hook
        ``"lm-eval"`` only: the model's name for its blocks, e.g. ``"h.{layer}"`` for GPT-2.

    Returns
    -------
    pathlib.Path
        ``path``.

    Raises
    ------
    InputError
        If the file format cannot hold the vector, or is not known, or the folder holds another vector of the model.

    Notes
    -----
    llama.cpp, repeng and lm-evaluation-harness add a vector at every position, the prompt included, as
    ``steer(..., positions="all")`` does. The paper begins at the last token of the prompt.
    """
    one_vector(vector)
    path = Path(path)
    chosen = _format(path, format)
    if chosen != "lm-eval" and (multiplier != 1.0 or hook != "layers.{layer}"):
        raise InputError(
            f"multiplier and hook: {multiplier!r} and {hook!r}; a file of format {chosen!r} has no place for them. "
            "Leave them out, and give the multiplier when the vector is used."
        )
    part = vector.at_layers(layers)
    if chosen == "lm-eval":
        (coefficient,) = check_multipliers(multiplier)
        write_harness(part, path, coefficient, hook)
    elif chosen == "caa":
        write_folder(vector, part.layers, path)
    else:
        {"gguf": write_gguf, "npz": write_npz}[chosen](part, path)
    return path


def import_vector(
    path: str | Path,
    *,
    format: FileFormat | None = None,
    model: Any = None,
    layers: int | Sequence[int] | None = None,
) -> SteeringVector:
    """Read a steering vector from another tool's files; for this package's own, see ``SteeringVector.load``.

    Parameters
    ----------
    path
        A file or, for ``"caa"``, a folder such as ``vectors/sycophancy`` or one file ``vec_layer_<L>_<model>.pt``.
    format
        See :func:`export_vector`; default: by the path.
    model
        The model that the vector was made from, loaded or by name; needed where the file does not name it, or where a
        folder holds vectors of several. The vector must fit a loaded one.
    layers
        Which layers to keep; default: all.

    Returns
    -------
    SteeringVector
        float32, or float64 if the file is, with the metadata that the file keeps. From a folder named
        ``survival-instinct``, the sign is reversed to be that of this package; ``-vector`` is the published one.

    Raises
    ------
    InputError
        If the file is damaged or of another format, or the layers or the model are missing. No code in a file is run.
    VectorMismatchError
        If the vector does not fit ``model``, or the file names another.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"path: {str(path)!r} does not exist. Check the path.")
    chosen = _format(path, format)
    is_loaded = not (model is None or isinstance(model, str))
    if is_loaded:
        check_model(model)
    name = model_id(model) if is_loaded else model
    if chosen == "caa":
        vector = read_folder(path, name)
    else:
        if not path.is_file():
            raise InputError(f"path: {str(path)!r} is a folder, and {chosen!r} is a file. Give the file.")
        with reading(path):
            vector = {"gguf": read_gguf, "lm-eval": read_harness, "npz": read_npz}[chosen](path)
        made_from = vector.metadata.get("model")
        if name is not None and made_from is not None and not same_model(str(made_from), name):
            raise VectorMismatchError(
                f"model: {name!r}, but {path.name} was made from {made_from!r}. Leave it out, and if the transfer is "
                "meant, use vector.transferred_to(model)."
            )
        if name is not None:
            vector = replace(vector, metadata={**vector.metadata, "model": name})
    vector = vector.at_layers(check_layers(layers, vector.layers, path.name))
    if is_loaded:
        vector.check_fits(model)
    return vector


def _format(path: Path, given: FileFormat | None) -> FileFormat:
    if given is not None:
        check_choice("format", given, get_args(FileFormat))
        return given
    if path.is_dir() or layer_file(path.name, VECTORS):
        return "caa"
    if path.suffix not in _ENDINGS:
        own = " That of this package is written by vector.save and read by SteeringVector.load."
        raise InputError(
            f"path: {str(path)!r} ends in none of '.gguf', '.npz', '.pt', and is not a folder, so its format is not "
            f"known. Name it: format='gguf', say.{own if path.suffix == '.safetensors' else ''}"
        )
    return _ENDINGS[path.suffix]
