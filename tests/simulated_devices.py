"""A machine with GPUs, simulated on the CPU: tensors that say they are elsewhere, and errors where two devices meet.

Inside :class:`SimulatedDevices` a tensor can be sent to ``"cuda:1"`` or ``"mps"`` and made there. Its values stay in
the CPU's memory; the mode sees every function of torch, checks the devices as CUDA does, and hands the device on. There
are no gradients.
"""

import re
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from accelerate.utils import send_to_device
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
SIMULATED = ("cuda", "mps")
FREE_BYTES = 2**30
# Functions that wait for the device, because Python or the shape of the result depends on the values.
WAITING = {
    *("__bool__", "__contains__", "__float__", "__index__", "__int__", "allclose", "argwhere", "bincount", "equal"),
    *("is_nonzero", "item", "masked_select", "nonzero", "tolist", "unique"),
}


class Elsewhere(torch.Tensor):
    """A tensor that says it is on another device than the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: self.place)
    is_cuda = property(lambda self: self.place.type == "cuda")
    is_mps = property(lambda self: self.place.type == "mps")
    is_cpu = property(lambda self: False)


def put(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Let a tensor of the CPU say that it is on ``device``; it shares the memory."""
    if device.type == "cpu":
        return values
    if device.type == "mps" and values.dtype == torch.float64:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64.")
    placed = values.as_subclass(Elsewhere)
    placed.place = device
    return placed


class SimulatedDevices(TorchFunctionMode):
    """Context in which there are devices.

    Attributes
    ----------
    waits
        Names of the calls so far that brought a value from a device to the CPU.
    uploads
        Names of those that brought a tensor from the CPU to a device, for which CUDA waits too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.uploads: list[str] = []
        self._memory = patch.object(torch.cuda, "mem_get_info", lambda device=None: (FREE_BYTES, FREE_BYTES))

    def __enter__(self) -> "SimulatedDevices":
        self._memory.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._memory.stop()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.__name__
        if name in ("to", "cpu", "cuda", "type_as"):
            return self._moved(func, *args, **kwargs)
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        wanted = None if kwargs.get("device") is None else _device(kwargs["device"])
        if any(isinstance(value, Elsewhere) for value in given):
            if name in _SPECIAL:
                return _SPECIAL[name](*args)
            if name in WAITING or (name == "where" and len(given) == len(args) == 1):
                self.waits.append(name)
        elif wanted is None or wanted.type not in SIMULATED:
            return func(*args, **kwargs)
        elif name in ("tensor", "as_tensor") and torch.as_tensor(args[0]).numel():
            self.uploads.append(name)
        # What is made like something that is elsewhere (zeros_like, new_tensor) does not meet it.
        device = wanted or self._meeting(name, args, given)
        return _run_here(func, args, kwargs if wanted is None else {**kwargs, "device": CPU}, device)

    def _moved(self, func: Any, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """``to``, ``cpu``, ``cuda`` and ``type_as``."""
        device, dtype = kwargs.get("device"), kwargs.get("dtype") or tensor.dtype
        if func.__name__ in ("cpu", "cuda"):
            device = func.__name__
        for value in args:
            if isinstance(value, torch.Tensor):
                device, dtype = value.device, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, torch.device | str):
                device = value
        target = tensor.device if device is None else _device(device)
        if not isinstance(tensor, Elsewhere) and target.type not in SIMULATED:
            return func(tensor, *args, **kwargs)
        if target == tensor.device and dtype == tensor.dtype and not kwargs.get("copy"):
            return tensor
        changed = tensor.as_subclass(torch.Tensor).to(dtype=dtype, copy=True)
        put(changed, tensor.device)  # MPS has no float64, also on the way to the CPU
        if target != tensor.device and CPU in (target, tensor.device):
            (self.waits if target == CPU else self.uploads).append(func.__name__)
        return put(changed, target)

    def _meeting(self, name: str, args: Any, given: Sequence[torch.Tensor]) -> torch.device:
        """Return the device of the result, or raise where CUDA does."""
        if name == "copy_":
            if args[0].device == CPU:
                self.waits.append(name)
            elif args[1].device == CPU:
                self.uploads.append(name)
            return args[0].device
        if name in ("__getitem__", "__setitem__"):
            return self._indexed(name, *args)
        found = {value.device for value in given if value.ndim or value.device != CPU}
        if len(found) > 1:
            raise RuntimeError(
                f"{name}: expected all tensors to be on the same device, but found at least two devices, "
                f"{' and '.join(sorted(map(str, found)))}!"
            )
        return found.pop()

    def _indexed(self, name: str, tensor: torch.Tensor, index: Any, value: Any = None) -> torch.device:
        entries = index if isinstance(index, tuple) else (index,)
        tensors = [one for one in entries if isinstance(one, torch.Tensor)]
        for one in tensors:
            if one.device not in (CPU, tensor.device):
                raise RuntimeError(
                    f"{name}: indices should be either on cpu or on the same device as the indexed tensor "
                    f"({tensor.device}), not on {one.device}"
                )
        value_device = value.device if isinstance(value, torch.Tensor) and value.ndim else tensor.device
        if value_device != tensor.device and any(isinstance(one, torch.Tensor | list) for one in entries):
            raise RuntimeError(f"{name}: values on {value_device} cannot be put into a tensor on {tensor.device}")
        masks = any(one.dtype == torch.bool and one.ndim and one.device != CPU for one in tensors)
        filled = name == "__setitem__" and not (isinstance(value, torch.Tensor) and value.ndim)
        if (masks and not filled) or (value_device != CPU and tensor.device == CPU):
            self.waits.append(name)
        if tensor.device != CPU and (value_device == CPU or any(_on_cpu(one) for one in entries)):
            self.uploads.append(name)
        return tensor.device


def _run_here(func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
    """Run a function on the CPU, and put what it returns on ``device``."""
    if func.__name__ == "__set__":
        return func(*args, **kwargs)
    origin = {}

    def here(value: Any) -> Any:
        if not isinstance(value, Elsewhere):
            return value
        plain = value.as_subclass(torch.Tensor)
        origin[id(plain)] = value
        return plain

    def back(value: Any) -> Any:
        if id(value) in origin:  # changed in place
            return origin[id(value)]
        return put(value, device) if isinstance(value, torch.Tensor) else value

    plain_args, plain_kwargs = tree_map(here, (args, kwargs))
    return tree_map(back, func(*plain_args, **plain_kwargs))


def _copied(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    copied = put(tensor.as_subclass(torch.Tensor).clone(), tensor.device)
    copied.__dict__.update(tensor.__dict__)  # a parameter stays one
    return copied


def _no_array(*_: Any) -> None:
    raise TypeError("can't convert a tensor on a device to numpy. Use Tensor.cpu() first.")


_SPECIAL = {
    "__array__": _no_array,
    "__deepcopy__": _copied,
    "__iter__": lambda tensor: iter(tensor.unbind(0)),
    # Module.to makes new parameters where it otherwise changes their data.
    "_has_compatible_shallow_copy_type": lambda *_: False,
    "numpy": _no_array,
}


def _on_cpu(index: Any) -> bool:
    return isinstance(index, list | np.ndarray) or (
        isinstance(index, torch.Tensor) and bool(index.ndim) and index.device == CPU
    )


def place(model: Any, of_blocks: Sequence[str]) -> Any:
    """Put a bridge's model on devices as a ``device_map`` does: one device per block.

    The embedding is on the first block's device, the final norm and the unembedding on the last one's. As with
    accelerate, every part first moves what it is given to its own device, and the whole model returns its result where
    it got its input.
    """
    devices = [_device(name) for name in of_blocks]

    def device_of(name: str) -> torch.device:
        if block := re.search(r"\b(?:layers|blocks)\.(\d+)\b", name):
            return devices[int(block[1])]
        return devices[-1 if re.search(r"\b(?:norm|ln_final|lm_head|unembed)\b", name) else 0]

    for name, module in list(model.named_modules()):
        for kept in (module._parameters, module._buffers):
            for key, tensor in kept.items():
                if tensor is not None and not isinstance(tensor, Elsewhere):
                    kept[key] = put(tensor.detach(), device_of(name))
                    kept[key]._is_param = kept is module._parameters
    parts = {f"blocks.{index}": block for index, block in enumerate(model.blocks)}
    parts |= {name: getattr(model, name) for name in ("embed", "rotary_emb", "ln_final", "unembed")}
    for name, part in parts.items():
        add_hook_to_module(part.original_component, _Moving(device_of(name)))
    add_hook_to_module(model.original_model, _Moving(devices[0], result_too=True))
    model.cfg.device = str(devices[0])
    return model


class _Moving(ModelHook):
    """What accelerate's own hook does, which here would move the weights."""

    def __init__(self, device: torch.device, result_too: bool = False) -> None:
        self.device, self.result_too = device, result_too

    def pre_forward(self, module: Any, *args: Any, **kwargs: Any) -> Any:
        return send_to_device(args, self.device), send_to_device(kwargs, self.device, skip_keys="past_key_values")

    def post_forward(self, module: Any, output: Any) -> Any:
        return send_to_device(output, self.device) if self.result_too else output


def _device(name: Any) -> torch.device:
    device = torch.device(name)
    return torch.device(device.type, 0) if device.index is None and device.type in SIMULATED else device
