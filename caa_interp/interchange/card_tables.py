"""What a model card shows of the tables that come with a vector: its reliability, and its effects and controls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from caa_interp.errors import InputError, check_table
from caa_interp.interchange.markdown import counted, number, shown, table
from caa_interp.statistics import interval_text
from caa_interp.vectors.vector import SteeringVector

_RELIABILITY = {
    "agreement": "agreement of the pairs",
    "split_half": "cosine of two halves",
    "separation": "separation (d')",
    "probe_accuracy": "probe accuracy",
}
_EFFECTS = {
    "slope": "slope, nats per unit of multiplier",
    "rank_correlation": "rank correlation",
    "share_against": "share of items moved in the opposite direction",
    "p_positive": "p(positive answer)",
    "logit_difference": "logit difference, nats",
    "logit_difference_change": "its change from multiplier 0",
}
_AUDIT = {
    "cosine": "cosine with the {}",
    "requests": "{}: slope toward openings that refuse, nats per token",
    "behaviors": "{}: slope",
    "answers": "{}: change of the share of refusals at multiplier {:g}",
}
# What tells rows of one vector apart, beside layer and multiplier.
CONDITION = (
    "baseline",
    "judge",
    "scale",
    "source_layer",
    "operator",
    "positions",
    "condition",
    "turn",
    "format",
    "model",
)
_OF_THIS = "Give the table of this vector."


def reliability_table(vector: SteeringVector, given: pd.DataFrame) -> str:
    """Result of :func:`caa_interp.reliability` as a Markdown table; it must be of the vector's layers."""
    statistics = {f"{name}{end}" for name in _RELIABILITY for end in ("", "_low", "_high")}
    check_table(given, {"layer", "n", "relative_norm", *statistics}, "caa_interp.reliability", "reliability")
    _check_layers(vector, given, "reliability")
    rows = [
        [_plain(row["layer"]), _plain(row["n"]), *_intervals(row, _RELIABILITY), number(row["relative_norm"])]
        for row in given.to_dict("records")
    ]
    return table(["layer", "pairs", *_RELIABILITY.values(), "norm / norm of activations"], rows)


def effects_table(vector: SteeringVector, given: pd.DataFrame) -> tuple[str, bool]:
    """Result of :func:`caa_interp.steerability` or :func:`caa_interp.summarize` as a Markdown table.

    Shows the rows of this vector, at least one, and the range of the means of each kind of control, with the columns
    that tell them apart; nothing else. Also returns whether there are controls.
    """
    source = "caa_interp.steerability or caa_interp.summarize"
    check_table(given, {"vector", "kind", "layer", "n"}, source, "effects")
    measures = {
        name: title for name, title in _EFFECTS.items() if {name, f"{name}_low", f"{name}_high"} <= set(given.columns)
    }
    if not measures:
        raise InputError(f"effects: no column of it is a mean with an interval; give the result of {source}.")
    rows = given[given["behavior"] == vector.name] if "behavior" in given else given
    own = rows[(rows["vector"] == vector.name) & (rows["kind"] == "vector")]
    if own.empty:
        there = sorted({str(name) for name in given["vector"]})
        raise InputError(f"effects: no row is of the vector {vector.name!r}; its vectors are {there}. {_OF_THIS}")
    _check_layers(vector, own, "effects")
    by = [name for name in CONDITION if name in own and own[name].nunique(dropna=False) > 1]
    by += ["layer", "multiplier"] if "multiplier" in rows else ["layer"]
    lines = [
        [shown(vector.name), *(_plain(row[key]) for key in [*by, "n"]), *_intervals(row, measures)]
        for row in own.to_dict("records")
    ]
    controls = rows[~rows["kind"].isin(["vector", "unsteered"])]
    for (kind, *condition), group in controls.groupby(["kind", *by], sort=False, dropna=False):
        ranges = (f"{number(group[name].min())} to {number(group[name].max())}" for name in measures)
        name = counted(group["vector"].nunique(), f"{kind} vector")
        lines.append([name, *map(_plain, condition), _plain(group["n"].max()), *ranges])
    return table(["vector", *by, "items", *measures.values()], lines), len(controls) > 0


def audit_table(vector: SteeringVector, given: pd.DataFrame) -> str:
    """Result of :func:`caa_interp.evaluation.summarize_audit` as a Markdown table; it must be of this vector."""
    needed = {"part", "measured", "vector", "layer", "multiplier", "estimate", "estimate_low", "estimate_high", "n"}
    needed |= {"control_low", "control_high", "n_controls", "verdict"}
    check_table(given, needed, "caa_interp.evaluation.summarize_audit", "audit")
    if vector.name not in set(given["vector"]):
        raise InputError(f"audit: it is of {given['vector'].iloc[0]!r}, and the vector is {vector.name!r}. {_OF_THIS}")
    _check_layers(vector, given, "audit")
    rows = []
    for row in given.to_dict("records"):
        what = _AUDIT[row["part"]].format(shown(row["measured"]), row["multiplier"])
        controls = f"{number(row['control_low'])} to {number(row['control_high'])}" if row["n_controls"] else "none"
        (interval,) = _intervals(row, ["estimate"])
        estimate = number(row["estimate"]) if row["part"] == "cosine" else interval
        verdict = row["verdict"] if isinstance(row["verdict"], str) else ""
        rows.append([what, shown(row["vector"]), estimate, _plain(row["n"]) if row["n"] > 0 else "", controls, verdict])
    return table(["measured", "vector", "estimate", "items", "controls", "in a word"], rows)


def _check_layers(vector: SteeringVector, given: pd.DataFrame, name: str) -> None:
    layers = sorted(set(given["layer"].tolist()))
    if not set(layers) <= set(vector.layers):
        raise InputError(f"{name}: its layers are {layers}, and the vector's {list(vector.layers)}. {_OF_THIS}")


def _intervals(row: dict[Any, Any], names: Iterable[str]) -> list[str]:
    return [interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], ".3g") or "undefined" for name in names]


def _plain(value: Any) -> str:
    return shown(value) if isinstance(value, str) else f"{float(value):g}"
