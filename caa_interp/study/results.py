"""What a run holds of one model, as the sections of its page take it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.evaluation.audit import summarize_audit
from caa_interp.evaluation.interference import summarize_interference
from caa_interp.evaluation.persistence import summarize_persistence
from caa_interp.evaluation.summary import shown_column, summarize
from caa_interp.plotting.words import dose
from caa_interp.study.findings import intervals
from caa_interp.vectors.vector import SteeringVector

# Each cost in words: its table, and the measure in it.
_COSTS = {
    "loss on neutral prose (nats per token)": ("perplexity", "nats_per_token"),
    "divergence on neutral prose (KL, nats per token)": ("perplexity", "divergence"),
    "divergence on own answers (KL, nats per token)": ("divergence", "divergence"),
    "divergence at the worst 5 % of tokens of own answers (KL, nats per token)": ("divergence", "divergence_tail"),
    "share of right answers": ("capability", "correct"),
}
# Those that the beginning of a page tells.
MAIN_COSTS = ("loss on neutral prose (nats per token)", "share of right answers")
# What a figure of effects over costs shows.
ON_THE_PLANE = "Bars are bootstrap intervals over pairs and over questions; numbers are multipliers."


@dataclass(frozen=True)
class Results:
    """A run's nonempty tables by name, with one model's rows, and this model's vectors by behavior."""

    tables: Mapping[str, pd.DataFrame]
    vectors: Mapping[str, SteeringVector]
    seed: int

    @property
    def chosen(self) -> pd.DataFrame:
        """The chosen ``layer`` of each ``behavior``, in the order of the study."""
        return self.tables["layers"][["behavior", "layer"]]

    @cached_property
    def responses(self) -> pd.DataFrame:
        """Summary of the scores of each behavior's vector and controls at its layer."""
        return summarize(self.tables["dose_response"], seed=self.seed)

    @cached_property
    def interference(self) -> pd.DataFrame:
        """Summary of two vectors at once; empty if they are not in the study."""
        table = self.tables.get("interference")
        return pd.DataFrame() if table is None else summarize_interference(table, seed=self.seed)

    @cached_property
    def audits(self) -> dict[str, pd.DataFrame]:
        """Findings of each behavior's safety audit."""
        return {name: summarize_audit(table, seed=self.seed) for name, table in self.each("safety_audit")}

    @cached_property
    def conversations(self) -> dict[str, pd.DataFrame]:
        """Summary of the conversations of each behavior."""
        return {name: summarize_persistence(table, seed=self.seed) for name, table in self.each("persistence")}

    @cached_property
    def cost_summaries(self) -> dict[str, pd.DataFrame]:
        """Summary of each table of costs."""
        names = [name for name in dict.fromkeys(name for name, _ in _COSTS.values()) if name in self.tables]
        return {name: summarize(self.tables[name], seed=self.seed) for name in names}

    @cached_property
    def costs(self) -> pd.DataFrame:
        """Changes from unsteered with intervals, as texts: a column per cost, empty where it was not measured."""
        columns = []
        for label, (name, measure) in _COSTS.items():
            if name in self.cost_summaries:
                summary = self.cost_summaries[name]
                rows = summary[(summary["multiplier"] != 0) & (summary["kind"] == "vector")]
                index = pd.MultiIndex.from_frame(rows[["behavior", "layer", "multiplier"]])
                columns.append(pd.Series(intervals(rows, shown_column(rows, measure)), index, name=label))
        return pd.concat(columns, axis=1).fillna("").reset_index() if columns else pd.DataFrame()

    @property
    def pairs(self) -> dict[str, list[ContrastPair]]:
        """The test pairs of each behavior by their items, where the run holds the text of each."""
        first = {name: table[table["side"] == "positive"] for name, table in self.each("separation")}
        n_test = self.tables["layers"].set_index("behavior")["n_test"]
        return {
            name: [ContrastPair(*texts) for texts in rows[["question", "positive", "negative"]].to_numpy()]
            for name, rows in first.items()
            if len(rows) == n_test[name]  # equal pairs are one row
        }

    def each(self, name: str) -> Iterator[tuple[Any, pd.DataFrame]]:
        """Each behavior with its rows of a table; none if the table is not in the study."""
        if name in self.tables:
            yield from self.tables[name].groupby("behavior", sort=False)

    def price(self, behavior: str, multiplier: float, costs: Iterable[str] = tuple(_COSTS)) -> list[str]:
        """What a behavior's vector costs at the nearest multiplier of that sign at which it was measured, in words."""
        own = self.costs[self.costs["behavior"] == behavior] if len(self.costs) else self.costs
        if own.empty or multiplier == 0:
            return []
        at = nearest(own["multiplier"], multiplier)
        row = own[own["multiplier"] == at].iloc[0]
        texts = [_with_unit(label, row[label]) for label in costs if label in own and row[label]]
        return [dose(at), *texts] if texts else []


def scores_and_costs(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of pairs, and those of answers, which have a ``divergence``, from a table that holds both."""
    is_cost = table["divergence"].notna()
    return table[~is_cost].dropna(axis=1, how="all"), table[is_cost].dropna(axis=1, how="all")


def common_cost(plane: pd.DataFrame) -> float:
    """A cost that every vector of a plane reaches at a positive multiplier: nearly the largest, in two digits.

    Two digits of a number that is 5 % smaller are no larger than it. NaN without a positive multiplier.
    """
    most = plane[plane["multiplier"] > 0].groupby("vector")["cost"].max()
    return float(f"{0.95 * most.min():.2g}")


def nearest(multipliers: Iterable[float], wanted: float) -> float:
    """The nearest multiplier of the same sign, else the nearest one."""
    return min(multipliers, key=lambda one: (np.sign(one) != np.sign(wanted), abs(one - wanted)))


def shown_answers(table: pd.DataFrame) -> pd.Series[str]:
    """Answers without the space around them, with a mark on those that were cut."""
    return table["answer"].str.strip() + table["finished"].map({True: "", False: " […]"})


def _with_unit(label: str, estimate: str) -> str:
    """An estimate between its name and its unit, from a label such as ``"loss (nats)"``."""
    name, _, unit = label.removesuffix(")").partition(" (")
    return f"{name} {estimate} {unit.removeprefix('KL, ')}".strip()
