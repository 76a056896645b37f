"""Everything that is wrong with a study, one line each: which field, what was given, what is allowed."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from caa_interp.errors import InputError

MOST_LINES = 50
# What a value must be, by pydantic's name for the error.
_RULES = {
    "int_type": "a whole number",
    "float_type": "a finite number",
    "finite_number": "a finite number",
    "greater_than_equal": "at least {ge:,}",
    "greater_than": "above {gt:,}",
    "less_than_equal": "at most {le:,}",
    "string_type": "a text",
    "tuple_type": "a list",
    "too_short": "a list that is not empty",
    "model_type": "a table",
    "literal_error": "{expected}",
    "invalid_key": "a text, as names are",
}


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100
        self.maxtuple = self.maxlist = 12

    def repr_int(self, x: int, level: int) -> str:
        """Digits of a number; Python refuses to write out those of a very large one."""
        return repr(x) if x.bit_length() < 128 else f"a number of {x.bit_length():,} bits"


shown = _Short().repr


def explained(kind: type[BaseModel], error: ValidationError, source: str) -> InputError:
    """Make one error of all problems that pydantic found in ``kind``, from ``source``."""
    problems = error.errors(include_url=False)
    lines = [f"  {_line(kind, one)}" for one in problems[:MOST_LINES]]
    if len(problems) > MOST_LINES:
        lines.append(f"  ... and {len(problems) - MOST_LINES:,} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    return InputError("\n".join([f"{source}: {count}. Correct each of these:", *lines]))


def nearest(given: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``"; did you mean 'name'?"`` for the most similar name, or nothing if none is similar."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given[:200].lower(), by_lower, n=1, cutoff=cutoff)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def dotted(location: Sequence[int | str]) -> str:
    """Return the name of a field as it is written: ``models[0].dtype``."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        else:
            # A name that TOML would put in quotes may hold anything, line breaks too.
            bare = part if re.fullmatch(r"[A-Za-z0-9_-]{1,100}", part) else shown(part)
            name += f".{bare}" if name else bare
    return name


def flat(part: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field that holds no others, by its dotted name."""
    for name in type(part).model_fields:
        value = getattr(part, name)
        if isinstance(value, BaseModel):
            yield from flat(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, one in enumerate(value):
                yield from flat(one, f"{prefix}{name}[{number}].")
        else:
            yield f"{prefix}{name}", value


def _line(kind: type[BaseModel], problem: Mapping[str, Any]) -> str:
    location, given, context = problem["loc"], problem["input"], problem.get("ctx", {})
    where = dotted(location)
    if problem["type"] == "extra_forbidden":
        return f"{where}: {_unknown(kind, location)}"
    if problem["type"] == "value_error":
        # A path in it may hold line breaks, or what a terminal would obey.
        told = " ".join(str(context["error"]).split())
        return f"{where}: {''.join(one if one.isprintable() else repr(one)[1:-1] for one in told)}"
    rule = _RULES.get(problem["type"])
    if rule is None:
        return f"{where}: {shown(given)}; {problem['msg']}."
    line = f"{where}: {shown(given)}; it must be {rule.format(**context)}"
    if problem["type"] == "literal_error" and isinstance(given, str):
        hint = nearest(given, re.findall(r"'([^']*)'", context["expected"]))
        return f"{line}{hint or '.'}"
    return f"{line}."


def _unknown(kind: type[BaseModel], location: Sequence[int | str]) -> str:
    """Say that there is no such field, and which one may be meant, here or in another table."""
    *above, last = location
    tables = dict(_tables(kind, ()))
    here = tables[tuple(part for part in above if isinstance(part, str))]
    hint = nearest(str(last), here.model_fields)
    # In TOML, everything below a table's header belongs to it.
    places = [
        repr(dotted([*place, last])) if place else f"{last!r} above the first [table]"
        for place, table in tables.items()
        if last in table.model_fields
    ]
    if places:
        hint = f"; did you mean {' or '.join(places)}?"
    return f"there is no such field{hint or '.'} Allowed here: {', '.join(here.model_fields)}."


def _tables(kind: type[BaseModel], place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield each kind of table with the names that lead to it."""
    yield place, kind
    for name, field in kind.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _tables(inner, (*place, name))
