"""What a study found on one model, as the sections of its page read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from caa_interp.vectors.vector import SteeringVector


@dataclass(frozen=True)
class Results:
    """What a run found on one model.

    Attributes
    ----------
    tables
        The run's tables by name, of this model's rows.
    vectors
        Steering vectors by behavior.
    """

    tables: Mapping[str, pd.DataFrame]
    vectors: Mapping[str, SteeringVector]

    @property
    def chosen(self) -> dict[str, int]:
        """The chosen layer of each behavior, in the order of the study."""
        layers = self.tables["layers"]
        return {str(name): int(layer) for name, layer in zip(layers["behavior"], layers["layer"], strict=True)}

    def of(self, name: str, behavior: str) -> pd.DataFrame:
        """Rows of a table about one behavior."""
        return rows_of(self.tables[name], "behavior", behavior)


def rows_of(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Rows of a table that have a value in a column."""
    return table[table[column] == value].reset_index(drop=True)


def row_where(table: pd.DataFrame, column: str, value: object) -> dict[str, Any]:
    """The one row of a table that has a value in a column."""
    (row,) = table[table[column] == value].to_dict("records")
    return {str(name): cell for name, cell in row.items()}
