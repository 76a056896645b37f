"""The findings of a study in plain words: from its tables to rows and sentences.

A behavior is said to respond to its vector only if

1. the interval of its slope excludes 0, and
2. its slope is larger than that of every control. Controls have no direction of their own (the negative of a random
   vector is as random), so sizes are compared, not signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from caa_interp.evaluation.summary import quantity
from caa_interp.plotting.theme import counts
from caa_interp.statistics import interval_text, number_text

# What a warning is given for: column, name, threshold, whether a value is beyond it, what is said, and why.
_WARNINGS: tuple[tuple[str, str, str, Callable[[float], bool], str, str], ...] = (
    (
        "n",
        "pairs",
        "fewer than 30",
        lambda n: n < 30,
        "few pairs ({value:.0f})",
        "The mean of few differences keeps much of the noise of each.",
    ),
    (
        "agreement",
        "agreement",
        "below 0.2",
        lambda agreement: agreement < 0.2,
        "the pairs hardly agree (agreement {text})",
        "The difference of a pair hardly points where the mean of the other pairs points.",
    ),
    (
        "separation",
        "separation d'",
        "below 1",
        lambda separation: separation < 1,
        "the two sides overlap (separation {text})",
        "The two sides overlap along the vector: of normally distributed answers more than 31 % lie on the wrong "
        "side of the midpoint.",
    ),
    (
        "letter_share",
        "letter share",
        "above 0.1",
        lambda share: share > 0.1,
        "part of the vector is the answer's letter (letter share {text})",
        "More than a tenth of the variance along the vector is the answer's letter and not its content.",
    ),
    (
        "length_correlation",
        "length correlation",
        "beyond ±0.5",
        lambda correlation: abs(correlation) > 0.5,
        "it goes with the length of the answers (correlation {text})",
        "More than a quarter of the variance along the vector goes with the lengths of the answers.",
    ),
)
_ENDS = ("", "_low", "_high")
THRESHOLDS = tuple((name, threshold, why) for _, name, threshold, _, _, why in _WARNINGS)


@dataclass(frozen=True)
class Finding:
    """How one behavior of one model responds to its vector at the chosen layer.

    ``slope`` is the mean over ``n`` held-out pairs, per unit of multiplier, with its interval ``low`` to ``high`` (NaN
    for one pair). ``against`` is the share of pairs that move the wrong way and its interval; ``controls`` holds the
    slopes of the controls.
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
    def overlaps_controls(self) -> bool:
        """Whether the slope may be, within its interval, no larger than a control's."""
        least = min(abs(self.low), abs(self.high))
        return any(abs(control) >= least for control in self.controls)

    @property
    def fault(self) -> str:
        """Why the behavior does not respond to its vector as it should; empty if it does."""
        if self.low != self.low:
            return "one pair gives no interval"
        if self.low <= 0 <= self.high:
            return "the interval includes 0"
        if any(abs(self.slope) <= abs(control) for control in self.controls):
            return "no more than its controls"
        return "the wrong way" if self.slope < 0 else ""

    @property
    def responds(self) -> bool:
        """Whether the vector does what it was made for."""
        return not self.fault

    @property
    def verdict(self) -> str:
        """The finding in a few words."""
        if self.low != self.low:
            return f"not decided: {self.fault}"
        if self.fault not in ("", "the wrong way"):
            return f"does not respond: {self.fault}"
        verdict = f"responds {self.fault}".strip()
        if not self.controls:
            return f"{verdict}; there are no controls"
        if self.overlaps_controls:
            return f"{verdict}, but the interval reaches into the range of the controls"
        return verdict

    @property
    def estimate(self) -> str:
        """The slope and its interval."""
        return _typeset(interval_text(self.slope, self.low, self.high))


def find(effects: pd.DataFrame, layers: pd.DataFrame) -> list[Finding]:
    """Findings in the order of ``layers``, from the tables ``effects`` and ``layers`` of a run."""
    findings = []
    for model, behavior, layer in layers[["model", "behavior", "layer"]].itertuples(index=False, name=None):
        rows = effects[(effects["model"] == model) & (effects["behavior"] == behavior)]
        is_own = rows["kind"] == "vector"
        own = rows[is_own].iloc[0]
        slope, low, high = (float(own[f"slope{end}"]) for end in _ENDS)
        against = tuple(float(own[f"share_against{end}"]) for end in _ENDS)
        controls = tuple(rows.loc[~is_own, "slope"].astype(float))
        findings.append(
            Finding(str(model), str(behavior), int(layer), slope, low, high, against, int(own["n"]), controls)
        )
    return findings


def findings_table(findings: Sequence[Finding]) -> pd.DataFrame:
    """Findings as a table of texts; the model is named where there are several."""
    several = len({one.model for one in findings}) > 1
    return pd.DataFrame(
        {
            **({"model": one.model} if several else {}),
            "behavior": one.behavior,
            "layer": one.layer,
            "slope (95 % interval)": one.estimate,
            "controls": f"{_span(one.controls)} ({len(one.controls)})" if one.controls else "none",
            "wrong way": "{} ({} to {})".format(*map(_percent, one.against)),
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


def conclusions(findings: Sequence[Finding]) -> list[str]:
    """Paragraphs on the findings of one model: what responds, the strongest first, and what does not."""
    responding = sorted((one for one in findings if one.responds), key=lambda one: -one.slope)
    others = [one for one in findings if not one.responds]
    n, total = len(responding), len(findings)
    paragraphs = []
    if responding:
        count = "The behavior responds" if total == 1 else f"{n} of {total} behaviors respond{'s' * (n == 1)}"
        estimates = "; ".join(f"{one.behavior} {one.estimate}" for one in responding)
        text = f"{count} to {'its vector' if n == 1 else 'their vectors'} (slope and 95 % interval): {estimates}."
        if controls := [slope for one in responding for slope in one.controls]:
            text += f" The slopes of the controls lie between {signed(min(controls))} and {signed(max(controls))}."
        if near := [one.behavior for one in responding if one.overlaps_controls]:
            text += f" The interval of {_listed(near)} reaches into the range of the controls."
        paragraphs.append(text)
    if others:
        count = f"None of the {total} behaviors responds to its vector"
        if responding:
            count = f"{len(others)} {'does' if len(others) == 1 else 'do'} not"
        elif total == 1:
            count = "The behavior does not respond to its vector"
        faults = [
            f"{one.behavior} {one.estimate}, {one.fault}"
            + (f" ({_span(one.controls)})" if one.fault == "no more than its controls" else "")
            for one in others
        ]
        paragraphs.append(f"{count}: {'; '.join(faults)}.")
    return paragraphs


def warnings(reliability: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    """Reasons to distrust the vectors of one model at their chosen layers, from two tables of a run."""
    sentences = []
    for row in layers[["behavior", "layer"]].merge(reliability, on=["behavior", "layer"]).to_dict("records"):
        faults = [
            text.format(value=row[column], text=_typeset(number_text(row[column], ".2f")))
            for column, _, _, is_beyond, text, _ in _WARNINGS
            if is_beyond(row[column])
        ]
        if faults:
            sentences.append(f"{row['behavior']} (layer {row['layer']}): {', '.join(faults)}.")
    return sentences


def signed(value: float) -> str:
    """A number with its sign and three decimals, or as many as show it at all; empty if it is missing."""
    return _typeset(number_text(value))


def estimate(row: Mapping[str, float], name: str, form: str = "+.3f") -> str:
    """A mean of a row and its interval."""
    return _typeset(interval_text(row[name], row[f"{name}_low"], row[f"{name}_high"], form))


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def _span(values: Sequence[float]) -> str:
    return _typeset(f"{signed(min(values))} to {signed(max(values))}")


def _typeset(text: str) -> str:
    """With a minus sign, and so that no range is broken at the end of a line."""
    return text.replace("-", "\N{MINUS SIGN}").replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
