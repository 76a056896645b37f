"""How far a long loop is, its rate and the time left: a bar in a terminal and in Jupyter, lines in a log.

tqdm says it, on stderr (in Jupyter: as an output of the cell), since stdout is for results.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ipywidgets, the bar in Jupyter is text
    from tqdm.auto import tqdm

T = TypeVar("T")
BETWEEN_LINES = 30.0  # seconds, in a log
# The loop that is shown: its thread, and the frame that it runs in. Loops within it are not shown: neither a terminal
# nor a reader follows two at once. A loop that an error left stays here while somebody holds the error.
_shown: list[tuple[int, int]] = []
_lock = threading.Lock()


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
def steps(description: str, show: bool) -> Iterator[Callable[[str], None]]:
    """Say what is being done where it cannot be counted; yields a function that takes what comes next."""
    with counting(None, description, show, layout="{desc} [{elapsed}]") as bar:
        yield lambda step: None if bar is None else bar.set_description_str(f"{description}: {step}")


@contextmanager
def counting(
    total: int | None, description: str, show: bool, *, unit: str = "it", layout: str | None = None
) -> Iterator[tqdm | None]:
    """Show progress where work is not one loop, within a ``with`` block; arguments as in :func:`track`.

    ``unit`` is what is counted, in the singular, such as ``"piece"``; ``layout`` is tqdm's ``bar_format``. Yields a
    bar, or None if nothing is shown: ``update(n)`` counts ``n`` more as done. Add those that were done before to its
    ``initial`` first: neither the rate nor the time left counts them.
    """
    mine = (threading.get_ident(), _frames()[0])
    with _lock:
        show = show and not _is_within()
        if show:
            _shown[:] = [mine]
    if not show:
        yield None
        return
    try:
        log: dict[str, Any] = {}
        if not is_drawn():
            log = {"file": _Lines(), "mininterval": BETWEEN_LINES, "ncols": 0}
        # Without smoothing, the rate is the average of all that was done here.
        with tqdm(
            total=total, desc=description, unit=unit, smoothing=0, miniters=1, position=0, bar_format=layout, **log
        ) as bar:
            yield bar
    finally:
        with _lock:
            if _shown == [mine]:
                _shown.clear()


def is_drawn() -> bool:
    """Whether bars are drawn, in a terminal or in Jupyter; else they are lines in a log."""
    return sys.stderr.isatty() or "ipykernel.zmqshell" in sys.modules


def _is_within() -> bool:
    """Whether this is called from inside of the loop that is shown, or while another thread shows one."""
    for thread, frame in _shown:
        if thread == threading.get_ident():
            return frame in _frames()
        return any(one.ident == thread for one in threading.enumerate())
    return False


def _frames() -> list[int]:
    """Ids of the frames that led here, the latest first, without those of this module and of contextlib."""
    found: list[int] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") not in (__name__, "contextlib"):
            found.append(id(frame))
        frame = frame.f_back
    return found


class _Lines:
    """A file for tqdm in which each state is a line of its own, instead of being drawn over the one before."""

    latest = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self.latest:
            print(line, file=sys.stderr, flush=True)
            self.latest = line
