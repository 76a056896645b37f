"""What :func:`caa_interp.read_pairs` returns: a list of pairs, with an account of every item that was read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from caa_interp.behaviors.pairs import ContrastPair


class ReadResult(list[ContrastPair]):
    """Result of :func:`~caa_interp.read_pairs`: a list of contrast pairs that knows what was skipped and changed.

    A part of it, or a sum with another list, is a plain list.

    Attributes
    ----------
    source
        Name of the file, or of the type of the object.
    skipped
        ``(item, reason)`` of every well-formed item that cannot be a pair; items count from 0.
    notes
        Changes, each with the number of items.
    """

    def __init__(
        self, source: str, pairs: Iterable[ContrastPair], skipped: Iterable[tuple[int, str]], notes: Iterable[str]
    ) -> None:
        super().__init__(pairs)
        self.source, self.skipped, self.notes = source, tuple(skipped), tuple(notes)

    @property
    def pairs(self) -> tuple[ContrastPair, ...]:
        """The contrast pairs, in the source's order."""
        return tuple(self)

    def summary(self) -> str:
        """Return a text that accounts for every item: read, skipped by reason, and the notes."""
        lines = [f"{self.source}: {len(self):,} read, {len(self.skipped):,} skipped"]
        lines += [f"  skipped {n:,}: {reason}" for reason, n in counted(self.skipped)]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def counted(skipped: Iterable[tuple[int, str]]) -> list[tuple[str, int]]:
    """Every reason with the number of items, the most frequent first."""
    return Counter(reason for _, reason in skipped).most_common()
