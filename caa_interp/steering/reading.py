"""Sequences that a model reads under several conditions, each with what is asked of it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from caa_interp.steering.context import ambient
from caa_interp.steering.intervention import Condition, Intervention, warn_of_idle
from caa_interp.tree.branches import Branch, TreeResult
from caa_interp.tree.edits import Edit
from caa_interp.tree.run import run_trees


class Read(NamedTuple):
    """A sequence and what is asked of it, without edits; what resolves the steered positions on it.

    Sequences of an item that agree in all but ``asked`` hold the same edits, and so share their computation; ``order``
    keeps those apart that share no prompt.
    """

    asked: Branch
    n_prompt: int
    thinking_end: float | None = None
    order: str = ""


def read_under(
    model: Any, items: Sequence[Sequence[Read]], asked: Sequence[Condition], what: str
) -> Generator[TreeResult]:
    """Yield the answers of each item's sequences: of the first one under every condition, then of the next.

    Interventions of open contexts act first. ``what`` is what an error calls the items, such as ``"pairs"``. Close the
    generator where the loop over it may end early: it holds the model's lock.
    """
    with ambient(model) as outer:
        sequences = {(len(one.asked.tokens), one.n_prompt, one.thinking_end) for item in items for one in item}
        warn_of_idle([outer, *(condition.interventions for condition in asked)], sequences)
        yield from run_trees(
            model, (_branches(f"{what}[{number}]", item, asked, outer) for number, item in enumerate(items))
        )


def _branches(
    name: str, item: Sequence[Read], asked: Sequence[Condition], outer: Sequence[Intervention]
) -> list[Branch]:
    branches = []
    edits: dict[tuple[int, float | None, str], list[tuple[Edit, ...]]] = {}
    for one in item:
        key = (one.n_prompt, one.thinking_end, one.order)
        if key not in edits:
            edits[key] = [condition.edits(one.n_prompt, one.thinking_end, outer) for condition in asked]
        branches += [
            replace(one.asked, edits=own, label=f"{name}, {condition}")
            for condition, own in zip(asked, edits[key], strict=True)
        ]
    return branches
