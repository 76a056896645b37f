"""Exceptions. Every message names the input, what was given, what is allowed and what to do."""

from collections.abc import Iterator


class CAAError(Exception):
    """Base class of all errors that this package raises on purpose."""


class InputError(CAAError, ValueError):
    """An argument or a file has a value that cannot be used."""


class ModelError(CAAError, RuntimeError):
    """A model cannot be loaded or cannot be used for steering."""


class VectorMismatchError(InputError):
    """A steering vector does not fit the model, layer or vector that it is used with."""


class MissingDependencyError(CAAError, ImportError):
    """An optional package is needed and not installed; the message holds its install line."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from or while handling, and so on to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
