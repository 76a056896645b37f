"""Exceptions, warnings and common checks. Messages name the input, what was given, what is allowed and what to do."""

import importlib.util
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class CAAError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InputError(CAAError, ValueError):
    """An argument or a file has a value that cannot be used."""


class ModelError(CAAError, RuntimeError):
    """A model cannot be loaded or cannot be used for steering."""


class VectorMismatchError(InputError):
    """A steering vector does not fit the model, layer or vector that it is used with."""


class MissingDependencyError(CAAError, ImportError):
    """An optional package is needed but not installed; the message holds its install line."""


def listed(given: Any) -> list[Any]:
    """What was given, as a list: a sequence, array or tensor of plain values, or one value alone."""
    if hasattr(given, "tolist"):  # of numpy and torch, also where a list holds them
        given = given.tolist()
    several = given if isinstance(given, Sequence) and not isinstance(given, str | bytes) else [given]
    return [one.tolist() if hasattr(one, "tolist") else one for one in several]


def is_count(value: object, least: int = 1) -> bool:
    """Whether a value is a whole number of at least ``least``, and no truth value."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def check_count(name: str, value: Any, least: int = 1, most: int | None = None) -> None:
    """Raise :class:`InputError` unless ``value`` is a whole number of at least ``least``, and at most ``most``."""
    if not is_count(value, least) or (most is not None and value > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name}: {value!r}; it must be a whole number {allowed}.")


def is_number(value: Any) -> bool:
    """Whether a value is a finite real number that a float can hold, and no truth value."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


def check_ending(path: Path, ending: str) -> None:
    """Raise :class:`InputError` unless the name of a file to write ends as its format does, such as in ``".html"``."""
    if path.suffix != ending:
        raise InputError(f"path: {str(path)!r} must end in {ending!r}.")


def check_choice(name: str, given: object, allowed: Iterable[object]) -> None:
    """Raise :class:`InputError` unless an argument is one of those allowed."""
    allowed = list(allowed)
    if given not in allowed:
        raise InputError(f"{name}: {given!r} is not one of {', '.join(map(repr, allowed))}.")


def check_table(table: Any, columns: Iterable[str], source: str, name: str = "table") -> None:
    """Raise :class:`InputError` unless a table has rows and all ``columns``; ``source`` is what makes such tables."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{name}: {type(table).__name__}, not a pandas DataFrame; give the result of {source}.")
    if missing := sorted(set(columns) - set(table.columns)):
        raise InputError(f"{name}: columns {missing} are missing; give the result of {source}.")
    if table.empty:
        raise InputError(f"{name}: it has no rows; give the result of {source}.")


def check_installed(package: str, what: str, install: str) -> None:
    """Raise :class:`MissingDependencyError`, with pip's name for it, unless a package that ``what`` needs is there."""
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(f"{what}: it needs the package {package}; pip install {install}")


def by_text(given: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The mapping with its keys as texts; raise :class:`InputError` if two of them are one text."""
    named = {str(key): value for key, value in given.items()}
    if len(named) < len(given):
        texts = list(map(str, given))
        same = next(text for text in texts if texts.count(text) > 1)
        raise InputError(f"{name}: two of its names are {same!r} as text; give each a name of its own.")
    return named


def warn(text: str) -> None:
    """Give a warning that points to the line outside this package that led to it."""
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level)


def caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Whether an error, or one of its :func:`causes`, is of one of the kinds."""
    return any(isinstance(one, kinds) for one in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from or while handling, and so on to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
