"""How far a long loop is, its rate and the time left: a bar in a terminal and in Jupyter, lines in a log.

tqdm says it, on stderr (in Jupyter: as an output of the cell), since stdout is for results.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ipywidgets, the bar in Jupyter is text
    from tqdm.auto import tqdm

T = TypeVar("T")
BETWEEN_LINES = 30.0  # seconds, in a log
# Held by the loop that is shown. Loops within it are not: neither a terminal nor a reader follows two at once.
_shown = threading.Lock()


def track(items: Iterable[T], description: str, show: bool, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items``; with ``show``, show how far it is, the rate and the time left.

    Within a loop that is shown, nothing is. An item is done when the next is asked for. ``description`` is such as
    ``"Sweeping"``; ``total`` is the number of items, if ``items`` does not know it.
    """
    with counting(len(items) if isinstance(items, Sized) else total, description, show) as bar:
        for item in items:
            yield item
            if bar is not None:
                bar.update()


@contextmanager
def counting(total: int | None, description: str, show: bool, *, unit: str = "it") -> Iterator[tqdm | None]:
    """Show how far work is that is not one loop, within a ``with`` block; arguments as in :func:`track`.

    ``unit`` is what is counted, in the singular, such as ``"piece"``. Yields a bar, or None if nothing is shown:
    ``update(n)`` counts ``n`` more as done. Add those that were done before to its ``initial`` first: neither the rate
    nor the time left counts them.
    """
    if not show or not _shown.acquire(blocking=False):
        yield None
        return
    try:
        log: dict[str, Any] = {}
        if not (sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules):
            log = {"file": _Lines(), "mininterval": BETWEEN_LINES, "ncols": 0}
        # Without smoothing, the rate is the average of all that was done here.
        with tqdm(total=total, desc=description, unit=unit, smoothing=0, miniters=1, position=0, **log) as bar:
            yield bar
    finally:
        _shown.release()


class _Lines:
    """A file for tqdm in which each state is a line of its own, instead of being drawn over the one before."""

    latest = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.latest:
            print(line, file=sys.stderr, flush=True)
            self.latest = line
