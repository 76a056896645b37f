"""What steering does to the residual stream: the paper's addition, and what others have put in its place.

An operator is a function ``(residual, vector, multiplier) -> residual`` over the steered positions. ``vector`` is the
raw steering vector v; where an operator speaks of the projection, it is that of the residual stream x on the unit
vector u = v / |v|, in units of the residual stream. Multiplier 0 is the unsteered model for every operator.
``ablate``, ``ProjectTo`` and ``Cap`` set or bound the projection and are complete at 1: give them multipliers between
0 and 1. Above 1 they overshoot, and a negative multiplier moves the projection away from where they would put it.

=====================  ==============================================================================
``add``                x + m v (Rimsky et al. 2024, section 3)
``add_keeping_norm``   (x + m v) |x| / |x + m v|
``slerp``              x turned toward v by an arc of length m |v|, at most as far as v itself
``ablate``             x - m (x . u) u: directional ablation (Arditi et al. 2024, section 2.4)
``ProjectTo(value)``   x + m (value - x . u) u
``Cap(low=, high=)``   x + m (clip(x . u, low, high) - x . u) u: activation capping
``AddIf(threshold)``   x + m v where x . u is below (or above) a threshold: conditional steering
=====================  ==============================================================================
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from caa_interp.errors import InputError, check_choice, is_number, listed
from caa_interp.tree.edits import Operator


def add(residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
    """Add the vector, times the multiplier (Rimsky et al. 2024, section 3); the default everywhere.

    Parameters
    ----------
    residual
        ``[..., d_model]``.
    vector
        ``[d_model]``, or one per row, ``[..., d_model]``.
    multiplier
        A number, or one per row, ``[..., 1]``.
    """
    return residual + multiplier * vector


def add_keeping_norm(residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
    """Add the vector and scale the sum back to the norm that the residual stream had; arguments as in :func:`add`."""
    moved = residual + multiplier * vector
    norms = moved.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(moved.dtype).tiny)
    return moved * (residual.norm(dim=-1, keepdim=True) / norms)


def slerp(residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
    """Turn the residual stream toward the vector along a great circle, keeping its norm; arguments as in :func:`add`.

    The arc is as long as the step that :func:`add` takes, the multiplier times the vector's norm, and ends at the
    vector's direction; with a negative multiplier it leads away from it, and ends at the opposite direction.
    """
    tiny = torch.finfo(residual.dtype).tiny
    unit, along = _along(residual, vector)
    norm = residual.norm(dim=-1, keepdim=True).clamp(min=tiny)
    own = residual / norm
    tangent = unit - along / norm * own
    sine = tangent.norm(dim=-1, keepdim=True)
    between = torch.atan2(sine, along / norm)
    arc = multiplier * vector.norm(dim=-1, keepdim=True) / norm
    arc = arc.minimum(between).maximum(between - math.pi)
    turned = norm * (arc.cos() * own + arc.sin() * tangent / sine.clamp(min=tiny))
    return torch.where(sine > 0, turned, residual)


def ablate(residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
    """Remove the projection on the vector (Arditi et al. 2024, section 2.4); arguments as in :func:`add`."""
    unit, along = _along(residual, vector)
    return residual - multiplier * along * unit


@dataclass(frozen=True)
class ProjectTo:
    """Move the projection on the vector to a chosen value.

    Parameters
    ----------
    value
        In units of the residual stream, along the vector; a negative one lies on the other side.
    """

    value: float

    def __post_init__(self) -> None:
        _check_finite("value", self.value)
        _keep_plain(self, "value")

    def __call__(self, residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
        """Arguments as in :func:`add`."""
        unit, along = _along(residual, vector)
        return residual + multiplier * (self.value - along) * unit


@dataclass(frozen=True, kw_only=True)
class Cap:
    """Keep the projection on the vector within a range, and leave what lies inside it alone.

    Parameters
    ----------
    low, high
        Range in units of the residual stream, along the vector; one of them may be left out.
    """

    low: float = -math.inf
    high: float = math.inf

    def __post_init__(self) -> None:
        numbers = all(is_number(one) or one in (-math.inf, math.inf) for one in (self.low, self.high))
        if not numbers or self.low > self.high:
            raise InputError(f"low and high: {self.low!r} and {self.high!r}; give numbers, low at most high.")
        if math.isinf(self.low) and math.isinf(self.high):
            raise InputError("low and high: neither is given, so nothing would be capped. Give one of them.")
        _keep_plain(self, "low", "high")

    def __call__(self, residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
        """Arguments as in :func:`add`."""
        unit, along = _along(residual, vector)
        return residual + multiplier * (along.clamp(self.low, self.high) - along) * unit


@dataclass(frozen=True)
class AddIf:
    """Add the vector where the projection on it is below a threshold, or above one.

    Each position decides for itself, by its own residual stream at the steered layer.

    Parameters
    ----------
    threshold
        In units of the residual stream, along the vector.
    side
        ``"below"`` (default) adds where the projection is below the threshold, ``"above"`` where it is above.
    """

    threshold: float
    side: Literal["below", "above"] = "below"

    def __post_init__(self) -> None:
        _check_finite("threshold", self.threshold)
        check_choice("side", self.side, ("below", "above"))
        _keep_plain(self, "threshold")

    def __call__(self, residual: torch.Tensor, vector: torch.Tensor, multiplier: torch.Tensor | float) -> torch.Tensor:
        """Arguments as in :func:`add`."""
        _, along = _along(residual, vector)
        chosen = along < self.threshold if self.side == "below" else along > self.threshold
        return torch.where(chosen, residual + multiplier * vector, residual)


OPERATORS: dict[str, Operator] = {one.__name__: one for one in (add, add_keeping_norm, slerp, ablate)}
WITH_PARAMETERS: dict[str, Any] = {one.__name__: one for one in (ProjectTo, Cap, AddIf)}


def check_operator(operator: Any) -> Operator:
    """Return an operator, or raise :class:`InputError` for what is none, such as its name or its class."""
    if not callable(operator) or isinstance(operator, type):
        raise InputError(f"operator: {operator!r}; give one such as caa.add, caa.ablate or caa.Cap(high=3).")
    return operator


def grows(operator: Operator) -> bool:
    """Whether a larger multiplier does more of the same; what sets or bounds the projection is complete at 1."""
    return operator is not ablate and not isinstance(operator, ProjectTo | Cap)


def ends(operators: Iterable[Operator]) -> tuple[float, float]:
    """Multipliers between which an effect is measured: -1 and 1, or 0 and 1 if one of the operators does not grow."""
    return (-1.0, 1.0) if all(map(grows, operators)) else (0.0, 1.0)


def name_of(operator: Operator) -> str:
    """Name of an operator, with its parameters, for tables, where `` + `` stands between several and in none."""
    return (getattr(operator, "__name__", None) or repr(operator)).replace(" + ", "+")


def operator_named(text: str) -> Operator:
    """Return the operator of a name as :func:`name_of` gives it, such as ``"ablate"`` or ``"Cap(high=3.0)"``.

    Raises
    ------
    InputError
        If it names none, or its parameters cannot be used.
    """
    name, _, arguments = text.strip().partition("(")
    if name in OPERATORS and not arguments:
        return OPERATORS[name]
    try:
        call = ast.parse(f"f({arguments}", mode="eval").body if name in WITH_PARAMETERS else None
        if isinstance(call, ast.Call):
            numbers = [_literal(node) for node in call.args]
            named = {str(one.arg): _literal(one.value) for one in call.keywords}
            return WITH_PARAMETERS[name](*numbers, **named)
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
    raise InputError(
        f"operator: {text!r:.100}; give one of {', '.join(OPERATORS)}, ProjectTo(2.0), Cap(low=-1.0, high=3.0), or "
        "AddIf(1.5, side='below'), with numbers of yours."
    )


def _literal(node: ast.expr) -> Any:
    """A number or text; infinity is written ``inf``."""
    text = ast.unparse(node)
    return float(text) if text in ("inf", "-inf") else ast.literal_eval(node)


def _along(residual: torch.Tensor, vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vector (zero for a zero vector), and the projection ``[..., 1]`` of the residual stream on it."""
    unit = vector / vector.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vector.dtype).tiny)
    return unit, (residual * unit).sum(-1, keepdim=True)


def _keep_plain(operator: Any, *names: str) -> None:
    """Keep parameters as Python's own numbers, as which they stand in names and are read from these."""
    for name in names:
        (value,) = listed(getattr(operator, name))
        object.__setattr__(operator, name, value)


def _check_finite(name: str, value: float) -> None:
    if not is_number(value):
        raise InputError(f"{name}: {value!r} is not a finite number; give one such as 0 or 2.5.")
