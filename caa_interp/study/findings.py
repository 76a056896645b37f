"""What a study found, in plain words: from its tables to rows and sentences.

A behavior is said to respond to its vector only if

1. the interval of its slope leaves out 0, and
2. its slope is larger than that of every control. Controls have no direction of their own (the negative of a random
   vector is as random), so sizes are compared, not signs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from caa_interp.evaluation.summary import quantity
from caa_interp.plotting.theme import counts
from caa_interp.statistics import interval_text, number_text

FEW_PAIRS = 30
LOW_AGREEMENT = 0.2
LOW_SEPARATION = 1.0
HIGH_LETTER_SHARE = 0.1
HIGH_LENGTH_CORRELATION = 0.5
# What a warning is given for, and why.
THRESHOLDS = (
    ("pairs", f"fewer than {FEW_PAIRS}", "The mean of few differences keeps much of the noise of each."),
    (
        "agreement",
        f"below {LOW_AGREEMENT}",
        "The difference of a pair hardly points where the mean of the other pairs points.",
    ),
    (
        "separation d'",
        f"below {LOW_SEPARATION:g}",
        "The two sides overlap along the vector: of normally distributed answers more than 31 % lie on the wrong "
        "side of the midpoint.",
    ),
    (
        "letter share",
        f"above {HIGH_LETTER_SHARE}",
        "More than a tenth of the variance along the vector is the answer's letter and not its content.",
    ),
    (
        "length correlation",
        f"beyond ±{HIGH_LENGTH_CORRELATION}",
        "More than a quarter of the variance along the vector goes with the lengths of the answers.",
    ),
)


@dataclass(frozen=True)
class Finding:
    """How one behavior of one model responds to its vector.

    Attributes
    ----------
    model, behavior
        Their names.
    layer
        The chosen layer.
    slope, low, high
        Mean slope over held-out pairs and its interval, per unit of multiplier; NaN where one pair has no interval.
    against
        Share of pairs that move the wrong way, and its interval.
    n
        Number of held-out pairs.
    controls
        The controls' slopes.
    """

    model: str
    behavior: str
    layer: int
    slope: float
    low: float
    high: float
    against: tuple[float, ...]
    n: int
    controls: tuple[float, ...]

    @property
    def moves(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def beyond_controls(self) -> bool:
        """Whether the slope is larger than that of every control; true if there is none."""
        return all(abs(self.slope) > abs(control) for control in self.controls)

    @property
    def overlaps_controls(self) -> bool:
        """Whether the slope may be, within its interval, no larger than a control's."""
        least = min(abs(self.low), abs(self.high))
        return any(abs(control) >= least for control in self.controls)

    @property
    def responds(self) -> bool:
        """Whether the vector does what it was made for."""
        return self.moves and self.beyond_controls and self.slope > 0

    @property
    def reversed(self) -> bool:
        """Whether the vector does the opposite."""
        return self.moves and self.beyond_controls and self.slope < 0

    @property
    def verdict(self) -> str:
        """The finding in a few words."""
        if self.low != self.low:
            return "not decided: one pair gives no interval"
        if not self.moves:
            return "does not respond: the interval holds 0"
        if not self.beyond_controls:
            return "does not respond: no more than its controls"
        verdict = "responds" if self.slope > 0 else "responds the wrong way"
        if not self.controls:
            return f"{verdict}; there are no controls"
        if self.overlaps_controls:
            return f"{verdict}, but the interval reaches into the range of the controls"
        return verdict


def find(effects: pd.DataFrame, layers: pd.DataFrame) -> list[Finding]:
    """Findings in the order of ``layers``.

    Parameters
    ----------
    effects
        Table ``effects`` of a run: of every behavior, its own vector and the controls.
    layers
        Table ``layers`` of a run.
    """
    found = []
    for model, behavior, layer in layers[["model", "behavior", "layer"]].itertuples(index=False, name=None):
        rows = effects[(effects["model"] == model) & (effects["behavior"] == behavior)]
        is_own = rows["kind"] == "vector"
        own = rows[is_own].iloc[0]
        found.append(
            Finding(
                model=str(model),
                behavior=str(behavior),
                layer=int(layer),
                slope=float(own["slope"]),
                low=float(own["slope_low"]),
                high=float(own["slope_high"]),
                against=tuple(float(own[f"share_against{end}"]) for end in ("", "_low", "_high")),
                n=int(own["n"]),
                controls=tuple(rows.loc[~is_own, "slope"].astype(float)),
            )
        )
    return found


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a table of texts; the model is named where there are several."""
    several = len({one.model for one in findings}) > 1
    return pd.DataFrame(
        {
            **({"model": one.model} if several else {}),
            "behavior": one.behavior,
            "layer": one.layer,
            "slope (95 % interval)": _slope(one),
            "controls": f"{span(min(one.controls), max(one.controls))} ({len(one.controls)})"
            if one.controls
            else "none",
            "wrong way": f"{percent(one.against[0])} ({percent(one.against[1])} to {percent(one.against[2])})",
            "n": one.n,
            "verdict": one.verdict,
        }
        for one in findings
    )


def studied(layers: pd.DataFrame, effects: pd.DataFrame, findings: Sequence[Finding]) -> str:
    """One paragraph: which behaviors and models, on how many pairs, and what was measured."""
    models = list(dict.fromkeys(layers["model"]))
    behaviors = list(dict.fromkeys(layers["behavior"]))
    name, unit = quantity(effects, "logit_difference")
    n_controls = counts(len(one.controls) for one in findings)
    chosen = (
        f"its layer was chosen on {counts(layers['n_validation'])} others"
        if layers["n_validation"].any()
        else "it was added at the one layer of the study"
    )
    beside = "without controls" if n_controls == "0" else f"beside {n_controls} control vectors of the same norm"
    return (
        f"Studied: {_listed(behaviors)}, on {_listed(models)}. For each behavior a steering vector was made from "
        f"{counts(layers['n_train'])} contrast pairs, {chosen}, and its effect was measured on "
        f"{counts(layers['n_test'])} held-out pairs, {beside}. The effect is the slope of the {name} over the "
        f"multiplier: {unit} for each unit of the multiplier."
    )


def found(findings: Sequence[Finding]) -> list[str]:
    """Paragraphs on the findings of one model: what responds, the strongest first, and what does not."""
    responding = sorted((one for one in findings if one.responds), key=lambda one: -one.slope)
    others = [one for one in findings if not one.responds]
    n, total = len(responding), len(findings)
    paragraphs = []
    if responding:
        count = "The behavior responds" if total == 1 else f"{n} of {total} behaviors respond{'s' * (n == 1)}"
        told = f"{count} to {'its vector' if n == 1 else 'their vectors'} (slope and 95 % interval): "
        told += f"{'; '.join(map(_estimate, responding))}."
        if controls := [slope for one in responding for slope in one.controls]:
            told += f" The slopes of the controls lie between {signed(min(controls))} and {signed(max(controls))}."
        if near := [one.behavior for one in responding if one.overlaps_controls]:
            told += f" The interval of {_listed(near)} reaches into the range of the controls."
        paragraphs.append(told)
    if others:
        if responding:
            count = f"{len(others)} {'does' if len(others) == 1 else 'do'} not"
        elif total == 1:
            count = "The behavior does not respond to its vector"
        else:
            count = f"None of the {total} behaviors responds to its vector"
        paragraphs.append(f"{count}: {'; '.join(f'{_estimate(one)}, {_reason(one)}' for one in others)}.")
    return paragraphs


def warnings(reliability: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    """What speaks against trusting the vectors of one model at their chosen layers.

    Parameters
    ----------
    reliability, layers
        Tables of a run, of one model.
    """
    told = []
    for behavior, layer in layers[["behavior", "layer"]].itertuples(index=False, name=None):
        rows = reliability[(reliability["behavior"] == behavior) & (reliability["layer"] == layer)]
        for row in rows.to_dict("records"):
            faults = []
            if row["n"] < FEW_PAIRS:
                faults.append(f"few pairs ({row['n']:.0f})")
            if row["agreement"] < LOW_AGREEMENT:
                faults.append(f"the pairs hardly agree (agreement {plain(row['agreement'])})")
            if row["separation"] < LOW_SEPARATION:
                faults.append(f"the two sides overlap (separation {plain(row['separation'])})")
            if row["letter_share"] > HIGH_LETTER_SHARE:
                faults.append(f"part of the vector is the answer's letter (letter share {plain(row['letter_share'])})")
            if abs(row["length_correlation"]) > HIGH_LENGTH_CORRELATION:
                faults.append(
                    f"it goes with the length of the answers (correlation {plain(row['length_correlation'])})"
                )
            if faults:
                told.append(f"{behavior} (layer {layer}): {', '.join(faults)}.")
    return told


def signed(value: float) -> str:
    """A number with its sign and three decimals, or as many as show it at all; empty if it is missing."""
    return _typeset(number_text(value))


def percent(share: float) -> str:
    """A share, 0 to 1, in percent."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def plain(value: float) -> str:
    """A number with two decimals."""
    return _typeset(number_text(value, ".2f"))


def span(low: float, high: float) -> str:
    """A range of values in words."""
    return _typeset(f"{signed(low)} to {signed(high)}")


def estimate(row: Mapping[str, float], name: str, form: str = "+.3f") -> str:
    """A mean of a row and its interval."""
    return _typeset(interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], form))


def _slope(one: Finding) -> str:
    return _typeset(interval_text(one.slope, one.low, one.high))


def _typeset(text: str) -> str:
    """With a minus sign, and so that no range is parted at the end of a line."""
    return text.replace("-", "\N{MINUS SIGN}").replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _estimate(one: Finding) -> str:
    return f"{one.behavior} {_slope(one)}"


def _reason(one: Finding) -> str:
    if one.low != one.low:
        return "of a single pair"
    if not one.moves:
        return "an interval that holds 0"
    if not one.beyond_controls:
        return f"no more than its controls ({span(min(one.controls), max(one.controls))})"
    return "the wrong way"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
