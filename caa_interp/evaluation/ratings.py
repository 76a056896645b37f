"""A judge's ratings as columns of a table: what they are called, their scale, and how many are missing, and why."""

from __future__ import annotations

import re

import pandas as pd

from caa_interp.errors import InputError

RATINGS = ("score", "coherence")  # a column "scale" holds their upper end, where it is not 10
_JUDGED = re.compile("(score|coherence)(_[0-9]+|_spread)?|(coherence_)?reply|judge|scale|incoherent")


def unjudged(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of answers without the columns that an earlier judgment left in it."""
    return table.drop(columns=[name for name in table if _JUDGED.fullmatch(str(name))])


def score_columns(table: pd.DataFrame) -> list[str]:
    """Columns that hold scores: the mean over wordings, the score under each wording, and their spread."""
    return [name for name in map(str, table) if re.fullmatch("score(_[0-9]+|_spread)?", name)]


def numbers_of(table: pd.DataFrame, column: str, name: str = "table") -> pd.Series[float]:
    """Return a column as float64. Empty text, as a CSV file may hold it, is a missing number."""
    given = table[column]
    if not pd.api.types.is_numeric_dtype(given):
        given = given.mask(given.astype(str).str.strip() == "")
    numbers: pd.Series[float] = pd.to_numeric(given, errors="coerce").astype(float)
    if (wrong := numbers.isna() & given.notna()).any():
        row = wrong.idxmax()
        raise InputError(f"{name}: {column} of row {row!r} is {given[wrong].iloc[0]!r}; it must be a number, or empty.")
    return numbers


def ratings_of(table: pd.DataFrame, column: str, name: str = "table") -> pd.Series[float]:
    """Return ratings as :func:`numbers_of` does; :class:`InputError` if one lies outside its scale."""
    numbers = numbers_of(table, column, name)
    most = numbers_of(table, "scale", name).fillna(10) if "scale" in table else pd.Series(10.0, table.index)
    if (wrong := (numbers < 0) | (numbers > most)).any():
        row = wrong.idxmax()
        raise InputError(
            f"{name}: {column} of row {row!r} is {numbers[wrong].iloc[0]:g}; it must lie on its scale, from 0 to "
            f"{most[wrong].iloc[0]:g}. Give the scale's upper end in a column 'scale'."
        )
    return numbers


def scale_of(table: pd.DataFrame) -> int:
    """Upper end of the ratings in a table, of items or of conditions; :class:`InputError` if there are several."""
    found = sorted(numbers_of(table, "scale").fillna(10).unique()) if "scale" in table else [10]
    if len(found) > 1:
        raise InputError(f"table: its ratings have the scales {list(map(int, found))}. Give those of one.")
    return int(found[0])


def counts_of(table: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """By name of a count, whether each judged answer is counted."""
    unread = table["score"].isna()
    if "coherence" in table:
        # Where tables are stacked, it was not asked for in all of them.
        asked = table["coherence_reply"].notna() if "coherence_reply" in table else True
        unread |= table["coherence"].isna() & asked
    found = {"n_unparseable": unread}
    if "incoherent" in table:
        found["n_incoherent"] = table["incoherent"].eq(True)
        found["n_unparseable"] &= ~found["n_incoherent"]
    if "answer" in table:
        found["n_empty"] = table["answer"].astype(object).fillna("").astype(str).str.strip().eq("")
    return found
