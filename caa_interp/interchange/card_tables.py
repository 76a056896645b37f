"""What a model card shows of the tables that come with a vector: its reliability, and its effects and controls."""

from __future__ import annotations

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
    "share_against": "share of items moved the other way",
    "p_positive": "p(positive answer)",
    "logit_difference": "logit difference, nats",
    "logit_difference_change": "its change from multiplier 0",
}
_OF_THIS = "Give the table of this vector."
_NO_CONTROLS = "No controls were given: any direction of this norm might do as much."
_CONTROLS = (
    "Controls have the vector's norm; theirs are the lowest and the highest mean among them. An effect within that "
    "range need not be the vector's own."
)


def reliability_text(vector: SteeringVector, given: pd.DataFrame) -> str:
    """Result of :func:`caa_interp.reliability` as Markdown; it must be of the vector's layers."""
    statistics = {f"{name}{end}" for name in _RELIABILITY for end in ("", "_low", "_high")}
    check_table(given, {"layer", "n", "relative_norm", *statistics}, "caa_interp.reliability", "reliability")
    _check_layers(vector, given, "reliability")
    rows = []
    for row in given.to_dict("records"):
        intervals = (_interval(row, name) for name in _RELIABILITY)
        rows.append([_plain(row["layer"]), _plain(row["n"]), *intervals, number(row["relative_norm"])])
    return (
        f"From the activations alone, without steering{_confidence(given)}.\n\n"
        + table(["layer", "pairs", *_RELIABILITY.values(), "norm / norm of activations"], rows)
        + "\n\nAgreement: mean cosine of a pair's difference with the mean of the other pairs' (0 if unrelated). "
        "Cosine of two halves: of the vectors that two random halves of the pairs give, with the range over splits. "
        "Separation and accuracy: of the two sides along the vector of the other pairs (chance is 0 and 0.5). High "
        "values say that the pairs share a direction, not that it is the behavior."
    )


def effects_text(vector: SteeringVector, given: pd.DataFrame) -> str:
    """Result of :func:`caa_interp.steerability` or :func:`caa_interp.summarize` as Markdown.

    Shows the rows of this vector, at least one, and the range of the means of each kind of control; nothing else.
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
    by = ["layer", "multiplier"] if "multiplier" in rows else ["layer"]
    lines = [
        [shown(vector.name), *(_plain(row[key]) for key in [*by, "n"]), *(_interval(row, name) for name in measures)]
        for row in own.to_dict("records")
    ]
    controls = rows[~rows["kind"].isin(["vector", "unsteered"])]
    for kind, of_kind in controls.groupby("kind", sort=False):
        for condition, group in of_kind.groupby(by, sort=False):
            ranges = (f"{number(group[name].min())} to {number(group[name].max())}" for name in measures)
            name = counted(group["vector"].nunique(), f"{kind} vector")
            lines.append([name, *map(_plain, condition), _plain(group["n"].max()), *ranges])
    per_token = "format" in given and (given["format"] == "text").any()
    note = " Logit differences are of log-probabilities per token." if per_token else ""
    return (
        f"Means over items{_confidence(given)}. Only the author knows whether these items also made the vector or "
        f"chose the layer.{note}\n\n"
        + table(["vector", *by, "items", *measures.values()], lines)
        + "\n\n"
        + (_CONTROLS if len(controls) else _NO_CONTROLS)
    )


def _check_layers(vector: SteeringVector, given: pd.DataFrame, name: str) -> None:
    layers = sorted(set(given["layer"].tolist()))
    if not set(layers) <= set(vector.layers):
        raise InputError(f"{name}: its layers are {layers}, and the vector's {list(vector.layers)}. {_OF_THIS}")


def _interval(row: dict[Any, Any], name: str) -> str:
    return interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], ".3g") or "undefined"


def _plain(value: Any) -> str:
    return f"{float(value):g}"


def _confidence(given: pd.DataFrame) -> str:
    known = f" of confidence {given['confidence'].iloc[0]:g}" if "confidence" in given else ""
    return f", with intervals{known}"
