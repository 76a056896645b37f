"""One change of the residual stream, as one object; whatever steers takes one or several of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caa_interp.errors import InputError, is_number, listed, warn
from caa_interp.models.access import check_layer, check_layers, check_model
from caa_interp.prompts.format import PromptFormat, check_prompt
from caa_interp.steering.operators import add, check_operator, name_of
from caa_interp.steering.positions import Positions, check_positions, name_of_positions, resolve
from caa_interp.tree.edits import Edit, Operator
from caa_interp.vectors.vector import SteeringVector, one_vector

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Intervention:
    """A change of the residual stream after one block: vector, layer, multiplier, operator and positions.

    The paper's is ``x + multiplier * vector`` from the last prompt token on (Rimsky et al. 2024, section 3).
    Several are applied in turn: in a list, the first one first.

    Parameters
    ----------
    vector
        The steering vector.
    layer
        0-based block index, one of the vector's layers.
    multiplier
        Any finite number; 0 changes nothing. Default: 1.
    operator
        What is done with vector and multiplier, see :mod:`caa_interp.steering.operators`. Default: addition.
    positions
        Where, see :mod:`caa_interp.steering.positions`. Default: from the last token of the prompt on.

    Raises
    ------
    InputError
        If one of these is not usable.

    Examples
    --------
    >>> up = caa.Intervention(vector, layer=15, multiplier=1.5)
    >>> capped = caa.Intervention(vector, layer=15, operator=caa.Cap(high=4.0))
    >>> with caa.steer(model, [up, capped]):
    ...     _ = model.generate("How was your day?", max_new_tokens=5, verbose=False)
    """

    vector: SteeringVector
    layer: int
    multiplier: float = 1.0
    operator: Operator = add
    positions: Positions = "from_last_prompt_token"

    def __post_init__(self) -> None:
        layer = check_layer(self.layer, one_vector(self.vector).layers, "the vector")
        (multiplier,) = check_multipliers((self.multiplier,))
        check_operator(self.operator)
        checked = {"layer": layer, "multiplier": multiplier, "positions": check_positions(self.positions)}
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        what = f"{self.multiplier:g} of {self.vector.name}, layer {self.layer}"
        return f"Intervention({what}, {name_of(self.operator)}, {name_of_positions(self.positions)})"

    def __mul__(self, factor: float) -> Intervention:
        (checked,) = check_multipliers((factor,))
        return replace(self, multiplier=self.multiplier * checked)

    __rmul__ = __mul__

    def edit(self, n_prompt: int, thinking_end: float | None = None) -> Edit:
        """Resolve the positions on a prompt of ``n_prompt`` tokens; see :func:`resolve` in the module of positions."""
        spans = resolve(self.positions, n_prompt, thinking_end)
        return Edit(self.layer, self._direction, self.multiplier, self.operator, spans)

    @cached_property
    def _direction(self) -> torch.Tensor:
        return self.vector.at(self.layer)


# What may stand wherever a model is steered: nothing, one intervention, or several, applied in turn.
Steering = None | Intervention | Sequence[Intervention]


@dataclass(frozen=True)
class Condition:
    """What rows of a table are measured under.

    Attributes
    ----------
    interventions
        What is done, in turn; none for the unsteered model.
    vector, kind, layer, multiplier, operator, positions
        What the columns of these names say. Of several interventions, layer and multiplier are the first one's, and
        operator has one part for each, with `` + `` in between.
    """

    interventions: tuple[Intervention, ...]
    vector: str
    kind: str
    layer: int | None
    multiplier: float
    operator: str
    positions: str

    def __str__(self) -> str:
        return ", then ".join(map(repr, self.interventions)) or "unsteered"

    @property
    def columns(self) -> dict[str, Any]:
        """Columns of a table and their values."""
        return {name: value for name, value in vars(self).items() if name != "interventions"}

    def transferred_to(self, model: Any) -> Condition:
        """Return the same condition for another model of the same width, see :meth:`SteeringVector.transferred_to`."""
        moved = tuple(replace(one, vector=one.vector.transferred_to(model)) for one in self.interventions)
        return replace(self, interventions=moved)

    def edits(
        self, n_prompt: int, thinking_end: float | None = None, outer: Sequence[Intervention] = ()
    ) -> tuple[Edit, ...]:
        """Resolve all interventions on a prompt, those of open contexts first; see :meth:`Intervention.edit`."""
        return tuple(one.edit(n_prompt, thinking_end) for one in (*outer, *self.interventions))


# What a table can be measured under: vectors, with layers and multipliers, or conditions.
Steered = SteeringVector | Mapping[str, Any] | Steering | Sequence[Steering] | Sequence[Condition]


def condition_of(several: Sequence[Intervention], name: str | None = None) -> Condition:
    """Describe interventions for a table, under a name or under those of their vectors."""
    if not several:
        return Condition((), name or "unsteered", "unsteered", None, 0.0, "", "")
    first = several[0]
    layers: dict[str, list[str]] = {}
    for one in several:
        own = one.vector.name if one.operator is add else f"{one.vector.name} ({name_of(one.operator)})"
        layers.setdefault(own, []).append(str(one.layer))
    names = [own if len(at) == 1 else f"{own} (layers {', '.join(at)})" for own, at in layers.items()]
    return Condition(
        tuple(several),
        name or " + ".join(names),
        first.vector.kind,
        first.layer,
        first.multiplier,
        " + ".join(name_of(one.operator) for one in several),
        " + ".join(dict.fromkeys(name_of_positions(one.positions) for one in several)),
    )


def one_layer(vector: SteeringVector, layer: int | None) -> int:
    """Return the layer at which a vector is applied: the given one, or a vector's only one."""
    held = one_vector(vector).layers
    if layer is None and len(held) > 1:
        raise InputError(f"layer: {vector!r} needs one. Give one of its layers.")
    return held[0] if layer is None else check_layer(layer, held, "the vector")


def short_form(given: Any) -> list[SteeringVector]:
    """Vectors of the short form, which is one vector or several by name; none if conditions are given."""
    several = list(given.values()) if isinstance(given, Mapping) else [given]
    return several if all(isinstance(one, SteeringVector) for one in several) else []


def as_interventions(
    steering: Any,
    layer: int | None = None,
    multiplier: float = 1.0,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
) -> tuple[Intervention, ...]:
    """One condition as a tuple; a vector becomes one, with the other arguments. :class:`InputError` for all else."""
    if isinstance(steering, SteeringVector):
        return (Intervention(steering, one_layer(steering, layer), multiplier, operator, positions),)
    several = _in_turn(steering)
    _check_left_out(operator, positions, layer=layer is not None, multiplier=check_multipliers(multiplier) != [1.0])
    return several


def _in_turn(steering: Any) -> tuple[Intervention, ...]:
    """None, an intervention or several in a list, as a tuple; :class:`InputError` for all else."""
    several: tuple[Any, ...] = () if steering is None else (steering,)
    if isinstance(steering, Sequence) and not isinstance(steering, str):
        several = tuple(steering)
    for one in several:
        if isinstance(one, SteeringVector):
            raise InputError(
                f"vector: {one!r} stands in a list or beside conditions, without a layer. Give it one, "
                "caa.Intervention(vector, layer=...); or give the vector by itself, or for a table {name: vector, ...}."
            )
        if not isinstance(one, Intervention):
            raise InputError(
                f"vector: {type(one).__name__}; give a SteeringVector with its layer, an Intervention, several "
                "Interventions in a list, or None."
            )
    return several


def conditions(
    model: Any,
    given: Any,
    form: PromptFormat | None,
    layers: int | Sequence[int] | None = None,
    multipliers: float | Sequence[float] | None = None,
    operator: Operator = add,
    positions: Positions = "from_last_prompt_token",
) -> list[Condition]:
    """Spell out what a table is to be measured under, and check that all of it fits the model.

    ``given`` is the short form (a vector, or several by name, each with every multiplier, by default -1, 0 and 1, and
    every one of ``layers``, by default the vector's own), or one intervention, or a list or mapping (by name) of
    conditions: None, an Intervention or a list of them; a table must be able to tell them apart. A vector that was made
    under another prompt form than ``form`` gets a warning; None where nothing is put into one.
    """
    if isinstance(given, SteeringVector):
        given = {given.name: given}
    if isinstance(given, Mapping | Sequence) and not given:
        raise InputError("vector: it is empty; give at least one vector or condition.")
    if short_form(given):
        doses = check_multipliers((-1.0, 0.0, 1.0) if multipliers is None else multipliers)
        found = [
            condition_of([Intervention(vector, layer, dose, operator, positions)], str(name))
            for name, vector in given.items()
            for layer in check_layers(layers, vector.layers, "the vector")
            for dose in doses
        ]
    else:
        several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        named = given.items() if isinstance(given, Mapping) else ((None, one) for one in several)
        found = [
            one if isinstance(one, Condition) else condition_of(_in_turn(one), None if name is None else str(name))
            for name, one in named
        ]
        _check_left_out(operator, positions, layers=layers is not None, multipliers=multipliers is not None)
    operators: dict[str, Operator] = {}
    for one in (one for condition in found for one in condition.interventions):
        if operators.setdefault(name_of(one.operator), one.operator) != one.operator:
            raise InputError(
                f"operator: two different ones are both {name_of(one.operator)!r} in a table. Define each with def, "
                "under a name of its own."
            )
    ((shown, number),) = Counter(tuple(one.columns.items()) for one in found).most_common(1)
    if number > 1:
        alike = ", ".join(f"{name} {value}" for name, value in shown if value not in (None, ""))
        raise InputError(f"vector: {number} conditions look alike in a table, {alike}. Name them: {{name: condition}}.")
    check_vectors(model, (one.vector for condition in found for one in condition.interventions), form)
    return found


def _check_left_out(operator: Operator, positions: Positions, **given: bool) -> None:
    """Raise :class:`InputError` if what describes a vector is given, or not the default, where there is none."""
    given |= {"operator": operator is not add, "positions": name_of_positions(positions) != "from_last_prompt_token"}
    if idle := [name for name, there in given.items() if there]:
        raise InputError(
            f"{idle[0]}: only a vector needs it; interventions have their own. Leave it out, or give a vector."
        )


def check_acts(asked: Iterable[Condition]) -> None:
    """Raise :class:`InputError` for a condition that changes nothing: all its multipliers or vectors are zero."""
    for condition in asked:
        if not any(one.multiplier and one.vector.at(one.layer).any() for one in condition.interventions):
            raise InputError(
                f"vector: {condition.vector!r} changes nothing, so it has no effect to read: {condition}. Leave it "
                "out, or give a layer at which the vector is not zero, and a multiplier other than 0."
            )


def warn_of_idle(every: Iterable[Sequence[Intervention]], sequences: Iterable[tuple[int, int, float | None]]) -> None:
    """Warn of positions that no sequence has; of each the tokens read, those of the prompt, and the end of thinking."""
    places = set(sequences)
    for at in dict.fromkeys(one.positions for several in every for one in several if one.multiplier):
        if all(start >= read for read, n_prompt, end in places for start, _ in resolve(at, n_prompt, end)):
            longest = max(read for read, _, _ in places)
            warn(
                f"positions: {name_of_positions(at):.60}: nothing is steered: the model reads at most {longest} "
                "tokens, none of them there."
            )


def check_vectors(model: Any, vectors: Iterable[SteeringVector], form: PromptFormat | None = None) -> None:
    """Raise :class:`VectorMismatchError` unless all vectors were made for ``model``; warn if under another ``form``."""
    check_model(model)
    for vector in {id(one): one for one in vectors}.values():
        vector.check_fits(model)
        if form is not None:
            check_prompt(vector.metadata, form)


def check_multipliers(multipliers: Any) -> list[float]:
    """Return multipliers as floats, or raise :class:`InputError` if one is no finite number or given twice."""
    given = listed(multipliers)
    if wrong := [value for value in given if not is_number(value)]:
        raise InputError(f"multiplier: {wrong[0]!r} is not a finite number; give one such as -1, 0 or 1.5.")
    checked = [float(value) + 0.0 for value in given]  # -0.0 is 0.0
    if not checked:
        raise InputError("multipliers: the list is empty; give at least one number.")
    if len(set(checked)) < len(checked):
        raise InputError(f"multipliers: {checked} lists one twice; list each once.")
    return checked
