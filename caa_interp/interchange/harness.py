"""Files of lm-evaluation-harness's model ``steered``: one layer's vector and multiplier, for one run.

1. A ``.pt`` dictionary ``{hook: {steering_vector, steering_coefficient, action, bias, head_index}}``; a hook is the
   name of a module of the Hugging Face model without its head, such as ``layers.13``. The vector is ``[d_model]`` or
   ``[1, d_model]``.
2. ``action`` is ``"add"``: coefficient times vector is added to the module's output at EVERY position; the paper and
   ``steer`` begin at the last token of the prompt.

One layer per file: up to version 0.4.9 its reader added the last entry's vector at all hooks. The vector's metadata
has a field of its own, which the reader ignores.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from caa_interp.errors import InputError
from caa_interp.interchange.published import stack_rows
from caa_interp.interchange.tensors import floats, metadata_of, read_tensors, write_tensors
from caa_interp.vectors.files import write_header
from caa_interp.vectors.vector import SteeringVector

_HOOK = re.compile(r"(?:[A-Za-z_]+\.)*(?:layers|h|blocks)\.([0-9]{1,6})")
_OURS = "caa_interp"


def write_harness(vector: SteeringVector, path: Path, multiplier: float, hook: str) -> None:
    """Write the one layer of a vector."""
    if len(vector.layers) != 1:
        raise InputError(
            f"layers: {list(vector.layers)}; a file of lm-evaluation-harness steers one layer. Give layers=13, say."
        )
    name = hook.replace("{layer}", str(vector.layers[0]))
    match = _HOOK.fullmatch(name)
    if not match or int(match[1]) != vector.layers[0]:
        raise InputError(
            f"hook: {hook!r}; it must be the name of the model's blocks below its base model, with {{layer}} for the "
            "number: 'layers.{layer}' (Llama, Mistral, Qwen, Gemma, Pythia), 'h.{layer}' (GPT-2), or another."
        )
    entry = {
        "steering_vector": vector.values[0].clone(),
        "steering_coefficient": multiplier,
        "action": "add",
        "bias": None,
        "head_index": None,
        _OURS: write_header("vector", vector.layers, vector.metadata),
    }
    write_tensors({name: entry}, path)


def read_harness(path: Path) -> SteeringVector:
    """Read the vectors of a file, as they are; their coefficients go into ``metadata["steering_coefficients"]``."""
    entries = read_tensors(path)
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{type(entries).__name__}; it must be a dictionary of hooks. Give another file.")
    rows, coefficients, header = {}, {}, None
    for hook, entry in entries.items():
        where = f"hook {str(hook)[:80]!r}"
        match = _HOOK.fullmatch(hook) if isinstance(hook, str) else None
        if not match or int(match[1]) in rows:
            raise InputError(f"{where} is not the output of one block, such as 'layers.13'. Leave it out.")
        if not isinstance(entry, dict):
            raise InputError(f"{where}: {type(entry).__name__}; it must be a dictionary. Give another file.")
        given = {"action": entry.get("action"), "bias": entry.get("bias"), "head_index": entry.get("head_index")}
        if given != {"action": "add", "bias": None, "head_index": None}:
            raise InputError(f"{where}: it has {given}; only a vector that is added to a whole block's output is read.")
        coefficient = entry.get("steering_coefficient", 1.0)
        if not isinstance(coefficient, int | float):
            raise InputError(f"{where}: field 'steering_coefficient' is {coefficient!r}; it must be a number.")
        layer, header = int(match[1]), entry.get(_OURS)
        rows[layer] = floats(_one_row(entry.get("steering_vector")), 1, where)
        coefficients[layer] = float(coefficient)
    layers = tuple(sorted(rows))
    metadata = metadata_of(header if len(rows) == 1 and isinstance(header, str) else None, layers, "lm-eval")
    metadata["steering_coefficients"] = {str(layer): coefficients[layer] for layer in layers}
    return SteeringVector(stack_rows({layer: rows[layer] for layer in layers}, "hooks"), layers, metadata)


def _one_row(content: Any) -> Any:
    """A vector that is kept as ``[1, d_model]``, as in the examples of the harness, as ``[d_model]``."""
    while isinstance(content, torch.Tensor) and content.ndim > 1 and len(content) == 1:
        content = content[0]
    return content
