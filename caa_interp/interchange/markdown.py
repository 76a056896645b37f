"""Any text and number as Markdown that is shown as it is and has no effect."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

_LONGEST = 300


def line(value: object) -> str:
    """One line, without invisible characters, such as marks that reverse the direction of writing."""
    return "".join(character for character in " ".join(str(value).split()) if character.isprintable()).strip()


def shown(value: object) -> str:
    """One line of Markdown that shows a text as it is: none of it is markup, HTML, a formula, a mention or a link."""
    text = re.sub(r"[&<>\\$]", lambda found: f"&#{ord(found[0])};", line(value))
    # Colons and dots make links only inside of words, and some signs a list or a rule only where a line begins.
    text = re.sub(r"([`*_{}\[\]|~@]|(?<!&)#|:(?=\S)|(?<=\w)\.(?=[^\W\d]))", r"\\\1", text)
    return re.sub(r"^([0-9]*)([-+=.)])", r"\1\\\2", text) or "(empty)"


def code(value: object) -> str:
    """A text as a span of code, cut where it is very long."""
    text = line(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}…"
    # A span ends at as many backticks as it began with.
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else "(empty)"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, ["---"] * len(titles), *rows])


def number(value: float) -> str:
    """A number with three digits."""
    return f"{value:.3g}" if math.isfinite(value) else "undefined"


def counted(n: int, what: str) -> str:
    """A number of things, in singular or plural."""
    return f"{n} {what}" if n == 1 else f"{n} {what}s"
