"""Numbers, units and names as the words of a figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

import pandas as pd

from caa_interp.evaluation.summary import interval_texts, quantity
from caa_interp.plotting.theme import escape
from caa_interp.statistics import number_text

_ACROSS = 70  # letters of a line of hover text


def intervals(rows: pd.DataFrame, name: str, form: str = "+.3f") -> list[str]:
    """Each row's mean and interval as the hover text has it."""
    ends = rows[[name, f"{name}_low", f"{name}_high"]].apply(pd.to_numeric).astype(float)  # without pd.NA
    return list(map(with_minus, interval_texts(ends, name, form)))


def estimates(rows: pd.DataFrame, name: str, unit: str, *, n: str = "n") -> list[str]:
    """Each row's mean with its interval, unit and number of items (column ``n``), as the hover text has them."""
    texts = zip(intervals(rows, name), rows[n], strict=True)
    return [f"{text} {unit}, n = {number:g}" if text else "not measured" for text, number in texts]


def numbers(values: Iterable[float], form: str = "+.3f") -> list[str]:
    """Numbers as the hover text has them: Plotly's own formats write a hyphen for a minus sign."""
    floats = pd.to_numeric(pd.Series(list(values), dtype=object)).astype(float)
    return [with_minus(number_text(value, form)) for value in floats]


def with_minus(text: str) -> str:
    """Text of numbers whose hyphens are minus signs."""
    return text.replace("-", "\N{MINUS SIGN}")


def interval(table: pd.DataFrame) -> str:
    """What the intervals of a table are, such as ``"95 % interval"``, or that it has none."""
    if (table["n"] < 2).all():
        return "one item gives no interval"
    confidence = table["confidence"].iloc[0] if "confidence" in table else 0.95
    joint = "simultaneous" in table and table["simultaneous"].iloc[0]
    return f"{100 * confidence:g} % {'simultaneous ' if joint else ''}interval"


def counts(numbers: Iterable[float]) -> str:
    """Counts that may differ, as one number or as the least and the largest."""
    ordered = sorted({int(number) for number in numbers})
    return str(ordered[0]) if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def controls(rows: pd.DataFrame, each: Sequence[str] = ()) -> str:
    """How many controls of each kind there are, such as ``"2 random vectors of the same norm"``.

    With columns ``each``: how many stand beside each of their values, in the figure's rows or panels.
    """
    n_of = n_controls(rows, each)
    found = {str(kind): counts(every) for kind, every in n_of.groupby(level="kind", sort=False)}
    named = " and ".join(f"{n} {kind}" for kind, n in found.items())
    return f"{named} {'vector' if [*found.values()] == ['1'] else 'vectors'} of the same norm"


def n_controls(rows: pd.DataFrame, each: Sequence[str] = ()) -> pd.Series[int]:
    """Number of controls of each kind, beside each value of ``each`` if given.

    Those of two behaviors are two, even by one name.
    """
    own = [name for name in ("behavior", "vector", "kind") if name in rows and name not in each]
    return rows.drop_duplicates([*each, *own]).groupby([*each, "kind"], sort=False, dropna=False).size()


def gray(rows: pd.DataFrame) -> str:
    """What a gray band or line of controls is, such as ``"; gray: range of 2 random vectors of the same norm"``.

    Empty without controls.
    """
    if rows.empty:
        return ""
    return f"; gray: {'range of ' if rows['vector'].nunique() > 1 else ''}{controls(rows)}"


def without_zero(number: str) -> str:
    """A number as a narrow cell has room for it, without the 0 before its point."""
    return re.sub(r"(?<!\d)0\.", ".", number)


def factor(multiplier: float, form: str = "g") -> str:
    """A multiplier as text, with a minus sign."""
    return with_minus(format(multiplier, form if multiplier else "g"))


def dose(multiplier: float) -> str:
    """Name of a condition by its multiplier, such as "multiplier +2"."""
    return f"multiplier {factor(multiplier, '+g')}" if multiplier else "unsteered"


def slope_title(table: pd.DataFrame) -> str:
    """Title of an axis of slopes over the multiplier."""
    return with_unit(f"slope of the {quantity(table, 'logit_difference')[0]}", slope_unit(table))


def slope_unit(table: pd.DataFrame) -> str:
    """Unit of a slope over the multiplier."""
    return f"{quantity(table, 'logit_difference')[1]} per multiplier"


def effect_unit(table: pd.DataFrame) -> str:
    """Unit of an effect, or of a part of it, divided by its multiplier."""
    return f"{quantity(table, 'logit_difference')[1]} per unit"


def unit(table: pd.DataFrame, measure: str) -> str:
    """Unit of a measure of scored pairs, in words that can follow a number."""
    return quantity(table, measure)[1] or "probability"


def with_unit(name: str, unit: str) -> str:
    """Title of an axis, its unit below."""
    return f"{name}<br>({unit})" if unit else name


def cut(token: str, longest: int) -> str:
    """A token in at most so many letters."""
    return token if len(token) <= longest else token[: longest - 1] + "…"


def label(name: object, longest: int = 24) -> str:
    """A name as an axis or a panel has room for it, cut in the middle, since endings tell names apart."""
    text = str(name)
    half = (longest - 1) // 2
    return escape(text if len(text) <= longest else f"{text[:half]}…{text[-half:]}")


def pair_text(pair: Any) -> list[str]:
    """Lines of hover text for a pair's question and both answers (attributes or columns of these names)."""
    marked = (("", pair.question), ("+ ", pair.positive), ("\N{MINUS SIGN} ", pair.negative))
    return [mark + "<br>".join(map(escape, wrap(" ".join(text.split()), _ACROSS))) for mark, text in marked]
