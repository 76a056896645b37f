"""How far a long loop is, its rate and the time left: a bar on a terminal, a widget in Jupyter, lines in a log.

All three say the same words, and go to stderr (in Jupyter: one output of the cell), since stdout is for results.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_FIRST_LINE, _BETWEEN_LINES = 10.0, 30.0  # seconds
_BETWEEN_MESSAGES = 0.2  # seconds, from the kernel to the notebook's page
# Held by the loop that is shown. Loops within it are not: neither a terminal nor a reader follows two at once.
_shown = threading.Lock()


def track(items: Iterable[T], description: str, show: bool, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items``; with ``show``, show how far it is, the rate and the time left.

    Parameters
    ----------
    items
        What to iterate over; one is done when the next is asked for.
    description
        What is being done, such as ``"Sweeping"``.
    show
        Whether anything is shown. Within a loop that is shown, nothing is.
    total
        Number of items, if ``items`` does not know it.
    """
    if not show:
        yield from items
        return
    with counting(len(items) if isinstance(items, Sized) else total, description, show) as count:
        for item in items:
            yield item
            count.advance()


@contextmanager
def counting(total: int | None, description: str, show: bool, *, unit: str = "") -> Iterator[Count]:
    """Show how far work is that is not one loop, within a ``with`` block.

    Parameters
    ----------
    total
        How many there are, or None.
    description
        What is being done, such as ``"Sweeping"``.
    show
        Whether anything is shown. Within a loop that is shown, nothing is.
    unit
        What is counted, such as ``"shards"``.

    Yields
    ------
    Count
        To be told what is done. When the block raises, the bar stays where it is and nothing more is said.
    """
    count = Count(total, description, unit)
    if not show or not _shown.acquire(blocking=False):
        yield count
        return
    try:
        with _display(count) as count.changed:
            yield count
    finally:
        _shown.release()


class Count:
    """What is done of some work, at which rate, and how long the rest takes.

    Attributes
    ----------
    done
        How many are done, those that were there before included.
    before
        How many were there before: neither the rate nor the time left counts them.
    changed
        Called after each change.
    """

    def __init__(self, total: int | None, description: str, unit: str = "") -> None:
        self.total, self.description, self.unit = total, description, unit
        self.done = self.before = 0
        self.note = ""
        self.began = self.latest = monotonic()
        self.changed: Callable[[], None] = lambda: None

    def advance(self, n: int = 1, *, note: str = "") -> None:
        """Count ``n`` more as done now; ``note`` says which, until the next ones."""
        self.done += n
        self.note = note
        self.latest = monotonic()
        self.changed()

    def already(self, n: int) -> None:
        """Count ``n`` more that were done before, such as those that an earlier run left."""
        self.done += n
        self.before += n
        self.changed()

    @property
    def rate(self) -> float | None:
        """How many are done in a second, on average, until the latest one; None before that."""
        seconds = self.latest - self.began
        return (self.done - self.before) / seconds if self.done > self.before and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds until all are done, at the rate so far; None if that is not known."""
        if self.total is None or self.rate is None:
            return None
        return max(0.0, self.latest + (self.total - self.done) / self.rate - monotonic())

    def amount(self) -> str:
        """Say how many are done: ``"12 of 40 shards"``."""
        return f"{self.done}{'' if self.total is None else f' of {self.total}'} {self.unit}".rstrip()

    def speed(self) -> list[str]:
        """Say the rate and the time left, as far as they are known: ``["3.1 a minute", "about 9 min left"]``."""
        said = [] if self.rate is None else [_per_time(self.rate)]
        if self.left is not None and self.total is not None and self.done < self.total:
            said.append(f"about {_duration(max(1.0, self.left))} left")
        return said

    def line(self) -> str:
        """Say how far it is, for a log."""
        share = f" ({100 * self.done // self.total} %)" if self.total else ""
        said = ", ".join([f"{self.description}: {self.amount()}{share}", *self.speed()])
        return f"{said}; {self.note}" if self.note else said

    def result(self) -> str:
        """Say what was done in which time, when no more is."""
        said = [f"{self.description}: {self.amount()} in {_duration(monotonic() - self.began)}"]
        if self.rate is not None:
            said.append(_per_time(self.rate))
        if self.before:
            said.append(f"{self.before} done before")
        return ", ".join(said)


def _display(count: Count) -> AbstractContextManager[Callable[[], None]]:
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_jupyter and importlib.util.find_spec("ipywidgets"):
        return _widget(count)
    # FORCE_COLOR lets rich take any file for a terminal, and a log is none.
    if console.is_interactive and console.file.isatty():
        return _bar(count, console)
    return _lines(count)


@contextmanager
def _bar(count: Count, console: Console) -> Iterator[Callable[[], None]]:
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
    from rich.table import Column
    from rich.text import Text

    class Words(ProgressColumn):
        """What there is to say at this moment; where the line is short, its end, which is the note, is cut."""

        def render(self, task: Task) -> Text:
            elapsed = timedelta(seconds=int(monotonic() - count.began))
            said = [count.amount(), str(elapsed), ", ".join(count.speed()), count.note]
            return Text("  ".join(filter(None, said)), no_wrap=True, overflow="ellipsis")

    columns = (
        TextColumn("{task.description}", markup=False),  # others' texts may hold brackets
        BarColumn(bar_width=20 if console.width >= 100 else 10, table_column=Column(no_wrap=True)),
        Words(Column()),
    )
    # What is printed meanwhile goes above the bar, unless it goes elsewhere than to the terminal.
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as bar:
        task = bar.add_task(count.description, total=count.total)
        yield lambda: bar.update(task, completed=count.done)


@contextmanager
def _widget(count: Count) -> Iterator[Callable[[], None]]:
    from IPython.display import display
    from ipywidgets import HBox, IntProgress, Label

    bar = IntProgress(max=count.total or 1, bar_style="" if count.total else "info")
    words = Label(count.amount())
    box = HBox([Label(count.description), bar, words])
    output = display(box, display_id=True)
    due = 0.0

    def changed() -> None:
        nonlocal due
        # Few messages for a quick loop, and no stale number when some come at once and then none for long.
        if count.latest >= due or 100 * (count.done - bar.value) >= (count.total or 0):
            due = count.latest + _BETWEEN_MESSAGES
            bar.value = count.done
            words.value = ", ".join([count.amount(), *count.speed(), *([count.note] if count.note else [])])

    try:
        yield changed
    finally:
        # A saved notebook keeps no widgets: what it shows is this text.
        output.update({"text/plain": count.result()}, raw=True)
        for part in (box, *box.children):
            for owned in (part, part.layout, getattr(part, "style", None)):
                if owned is not None:
                    owned.close()


@contextmanager
def _lines(count: Count) -> Iterator[Callable[[], None]]:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    due = count.began + _FIRST_LINE

    def changed() -> None:
        nonlocal due
        if count.latest >= due and count.done != count.total:
            due = count.latest + _BETWEEN_LINES
            say(count.line())

    say(f"{count.description}: {count.amount()}")
    yield changed
    say(count.result())


def _per_time(rate: float) -> str:
    """A rate in a unit of time in which it is at least one, if there is such a unit."""
    units = ((1, "a second"), (60, "a minute"), (3600, "an hour"))
    seconds, unit = next((one for one in units if rate * one[0] >= 1), units[-1])
    return f"{rate * seconds:.{0 if rate * seconds >= 9.95 else 1}f} {unit}"


def _duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{round(seconds)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
