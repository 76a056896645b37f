"""Everything that is wrong with a study, one line each: which field, what was given, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from caa_interp.errors import InputError

MOST_LINES = 50
MOST_CHARACTERS = 120


def explained(kind: type[BaseModel], error: ValidationError, source: str) -> InputError:
    """Make one error of all problems that pydantic found in ``kind``, from ``source``."""
    problems = error.errors(include_url=False)
    lines = [_line(kind, one) for one in problems[:MOST_LINES]]
    if len(problems) > MOST_LINES:
        lines.append(f"... and {len(problems) - MOST_LINES:,} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems):,} problems"
    return InputError("\n  ".join([f"{source}: {count}. Correct each of these:", *lines]))


def shown(value: object) -> str:
    """Write a value in at most 120 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes out no number of thousands of digits, and no very deep table
        return f"{type(value).__name__} that is too large to be shown"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."


def nearest(given: str, names: Iterable[str]) -> str:
    """Return ``"; did you mean 'name'?"`` for the most similar name, or nothing if none is similar."""
    by_lower = {name.lower(): name for name in names}
    close = difflib.get_close_matches(given[:MOST_CHARACTERS].lower(), by_lower, n=1)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def dotted(location: Sequence[int | str]) -> str:
    """Return the name of a field as it is written: ``models[0].dtype``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part:.{MOST_CHARACTERS}}" for part in location]
    return "".join(parts).removeprefix(".")


def _line(kind: type[BaseModel], problem: Any) -> str:
    where, given, message = dotted(problem["loc"]), problem["input"], problem["msg"]
    if problem["type"] == "extra_forbidden":
        told = _unknown(kind, problem["loc"])
    elif problem["type"] == "value_error":
        told = str(problem["ctx"]["error"]).removeprefix(f"{where}: ")
    else:
        hint = nearest(given, re.findall(r"'([^']*)'", message)) if isinstance(given, str) else ""
        message = message.replace("tuple", "list").replace("dictionary", "table")  # as TOML calls them
        told = f"{shown(given)}. {message}{hint or '.'}"
    # A name or a path may hold line breaks, or what a terminal would obey.
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in f"{where}: {told}")


def _unknown(kind: type[BaseModel], location: Sequence[int | str]) -> str:
    """Say that there is no such field, and which one may be meant, here or in another table."""
    *above, last = [part for part in location if isinstance(part, str)]
    tables = dict(_tables(kind))
    here = tables[tuple(above)].model_fields
    # In TOML, everything below a table's header belongs to it.
    places = [
        repr(dotted([*place, last])) if place else f"{last!r} above the first [table]"
        for place, table in tables.items()
        if last in table.model_fields
    ]
    hint = f"; did you mean {' or '.join(places)}?" if places else nearest(last, here)
    return f"there is no such field{hint or '.'} Allowed here: {', '.join(here)}."


def _tables(kind: type[BaseModel], *place: str) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield each kind of table with the names that lead to it."""
    yield place, kind
    for name, field in kind.model_fields.items():
        for inner in _models(field.annotation):
            yield from _tables(inner, *place, name)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield each kind of table within a type, such as that of a list or of an optional table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
