"""Activations as the published CAA code keeps them: one ``.pt`` file a side and layer.

1. ``activations/<behavior>/activations_{pos|neg}_<L>_<model>.pt`` holds block L's output at the answer letter,
   ``[n_pairs, d_model]``, one row an item of that behavior's ``generate_dataset.json``, in its order.
2. Both sides are kept as published: ``pos`` is the answer that matches the behavior.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from caa_interp.behaviors.pairs import ContrastPair, PublishedPair, check_pairs
from caa_interp.errors import InputError
from caa_interp.interchange.published import choose_model, group_by_model, stack_rows
from caa_interp.interchange.tensors import floats, read_tensors
from caa_interp.models.access import HOOK, check_layers
from caa_interp.vectors.activations import Activations

_FILE = re.compile(r"activations_(pos|neg)_([0-9]{1,6})_(.+)\.pt")


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
        If a file is missing or damaged, or has not one row a pair. No code that is in a file is run.
    """
    folder, checked = Path(folder), check_pairs(pairs)
    if not folder.is_dir():
        raise InputError(f"folder: {str(folder)!r} is no folder. Give one such as activations/sycophancy.")
    if not all(isinstance(pair, PublishedPair) for pair in checked):
        raise InputError(
            "pairs: they must be the published items, letters included. Read them with read_pairs(..., compat='caa')."
        )
    (positive, layers_of_one, name), (negative, layers_of_other, _) = (
        _read_side(folder, side, model, layers) for side in ("pos", "neg")
    )
    if layers_of_one != layers_of_other:
        raise InputError(
            f"folder: {str(folder)!r} has layers {layers_of_one} of one side and {layers_of_other} of the other. "
            "Name layers that both have."
        )
    for values in (positive, negative):
        if len(values) != len(checked):
            raise InputError(
                f"pairs: there are {len(checked)}, but the files in {str(folder)!r} have {len(values)} rows. "
                "Give the items that these activations were read from."
            )
    orders = tuple(pair.positive.strip("()") + pair.negative.strip("()") for pair in checked)
    metadata = {"model": name, "hook": HOOK}
    return Activations(positive, negative, tuple(layers_of_one), tuple(checked), "choices", orders, metadata)


def _read_side(
    folder: Path, side: str, model: str | None, layers: int | Sequence[int] | None
) -> tuple[torch.Tensor, list[int], str | None]:
    """Values ``[n_pairs, n_layers, d_model]``, their layers, and the model's name."""
    matches = [(match, file) for file in sorted(folder.iterdir()) if (match := _FILE.fullmatch(file.name))]
    found = [(match[3], int(match[2]), file) for match, file in matches if match[1] == side]
    name, files = choose_model(group_by_model(found, folder, f"activations_{side}_<L>_<model>.pt"), model, folder)
    chosen = check_layers(layers, sorted(files), f"{folder.name} ({side})")
    rows = {layer: floats(read_tensors(files[layer]), 2, f"file {files[layer]}") for layer in chosen}
    return stack_rows(rows, folder).transpose(0, 1).contiguous(), chosen, name
