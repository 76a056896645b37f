"""What the parts of a reproduction share: the items, the model's shape, the vectors, and the paper's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from caa_interp.behaviors.behavior import load_behavior
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.errors import InputError
from caa_interp.evaluation.baselines import SIDES
from caa_interp.evaluation.judge_requests import Judge
from caa_interp.files import read_json
from caa_interp.paper import published as paper
from caa_interp.paper.sets import Exam, PublishedSet, read_exams, read_published_sets
from caa_interp.paper.table import OTHER, SAME, claims, compare, printable
from caa_interp.plotting.reproduction import plot_reproduction
from caa_interp.report.page import Section
from caa_interp.study.config import ExperimentConfig
from caa_interp.study.tasks import Splits, Task, score_portions
from caa_interp.vectors.vector import SteeringVector

# Tables of a part by their names.
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Items:
    """What is asked: the sets, the exams, and ``"positive"`` and ``"negative"`` system prompts of each behavior."""

    sets: Mapping[str, PublishedSet]
    exams: Mapping[str, Exam]
    system_prompts: Mapping[str, Mapping[str, str]]
    judge: Judge | None = None

    @property
    def are_the_papers(self) -> bool:
        """Whether vectors are made and scores are taken by the paper's own items."""
        return all(one.are_the_papers for one in self.sets.values())

    @property
    def splits(self) -> Splits:
        """The items as a study has them."""
        return {name: (list(one.generate), [], list(one.test)) for name, one in self.sets.items()}


def read_items(
    data: str | Path, behaviors: Sequence[str], judge: Judge | None = None, system_prompts: str | Path | None = None
) -> Items:
    """What is asked of the model."""
    sets = read_published_sets(data, behaviors)
    prompts: dict[str, Mapping[str, str]] = {}
    for name, one in sets.items():
        own = load_behavior(name).system_prompts
        prompts[name] = {"positive": own["negative"], "negative": own["positive"]} if one.turned else own
    if system_prompts is not None:
        prompts |= _read_prompts(Path(system_prompts), list(sets))
    return Items(sets, read_exams(data), prompts, judge)


def _read_prompts(path: Path, behaviors: Sequence[str]) -> dict[str, Mapping[str, str]]:
    what = f"system_prompts: {path}"
    given = read_json(path, what)
    for name, own in given.items() if isinstance(given, dict) else [(None, given)]:
        texts = [own.get(side) for side in SIDES] if isinstance(own, dict) else []
        if name not in behaviors or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise InputError(
                f"{what}: {name or own!r}; the file must be an object that holds, for one or more of "
                f"{', '.join(behaviors)}, an object with texts 'positive' and 'negative'."
            )
    return given


@dataclass(frozen=True)
class Setting:
    """What parts are measured with.

    ``swept`` are the layers of sweeps, ``layer`` is that of the tables. ``raw`` holds the vectors as they are,
    ``vectors`` those with norms matched over behaviors, and ``base`` such ones of the model ``base_name``, if there is
    one.
    """

    config: ExperimentConfig
    items: Items
    n_layers: int
    swept: Sequence[int]
    layer: int
    published: paper.PublishedModel | None
    raw: Mapping[str, SteeringVector]
    vectors: Mapping[str, SteeringVector]
    base: Mapping[str, SteeringVector] = field(default_factory=dict)
    base_name: str | Path | None = None

    def scored(
        self, table: str, behavior: str, pairs: Sequence[ContrastPair], kind: str = "sweep", **asked: Any
    ) -> Iterator[Task]:
        """Tasks that score pairs, steered as in the tables or as ``asked``."""
        for task in score_portions(self.config, table, behavior, pairs, {**self.steered(behavior), **asked}):
            yield replace(task, kind=kind)

    def steered(self, behavior: str) -> dict[str, Any]:
        """The behavior's vector as in the tables."""
        given = {"vector": {behavior: self.vectors.get(behavior)}, "layers": [self.layer]}
        return {**given, "multipliers": paper.MULTIPLIERS}

    def beside(
        self,
        summary: pd.DataFrame,
        group: str,
        *,
        system_prompt: str = "",
        weights: str = "",
        basis: str | None = None,
        **options: Any,
    ) -> pd.DataFrame:
        """Measured means beside those of a group of the paper's numbers, whose name and conditions come first."""
        conditions = {"system_prompt": system_prompt, "weights": weights}
        theirs = self.published.results(group, **conditions) if self.published else None
        cells = compare(summary, theirs, basis or (SAME if self.items.are_the_papers else OTHER), **options)
        for place, (name, value) in enumerate({"group": group, **conditions}.items()):
            cells.insert(place, name, value)
        return cells


@dataclass(frozen=True)
class Shown:
    """A part on the page, its cells beside the paper's (see :meth:`Setting.beside`), and further tables to keep."""

    sections: list[Section]
    cells: list[pd.DataFrame] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)


def result(heading: str, text: str, cells: pd.DataFrame, level: int = 2, **drawn: Any) -> Section:
    """What was measured beside the paper's: what is claimed of it, the figure, and the table."""
    figure = plot_reproduction(cells, title=heading, **drawn)
    return Section(heading, text, figure, printable(cells), points=list(map(str, claims(cells))), level=level)


def placeholders(names: Sequence[str], n_layers: int, d_model: int) -> dict[str, SteeringVector]:
    """Vectors of the right shape, by which the work is counted and timed before there are any."""
    values = torch.full((n_layers, d_model), 1e-3)
    return {name: SteeringVector(values, tuple(range(n_layers)), {"behavior": name}) for name in names}
