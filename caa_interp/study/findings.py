"""The findings of a study in plain words: from its tables to sentences, and to cells of the page's tables."""

from __future__ import annotations

import pandas as pd

from caa_interp.evaluation.summary import quantity
from caa_interp.evaluation.verdicts import VERDICTS
from caa_interp.plotting.theme import counts
from caa_interp.statistics import interval_text, number_text

# What a warning is given for, and why.
WARNINGS = {
    "pairs < 30": "The mean of few differences keeps much of the noise of each.",
    "agreement < 0.2": "The difference of a pair hardly points where the mean of the other pairs points.",
    "separation < 1": "The two sides overlap along the vector: of normally distributed answers more than 31 % lie on "
    "the wrong side of the midpoint.",
    "letter_share > 0.1": "More than a tenth of the variance along the vector is the answer's letter and not its "
    "content.",
    "abs(length_correlation) > 0.5": "More than a quarter of the variance along the vector goes with the lengths of "
    "the answers.",
}


def studied(layers: pd.DataFrame, effects: pd.DataFrame) -> str:
    """One paragraph: which behaviors and models, on how many pairs, and what was measured."""
    name, unit = quantity(effects, "logit_difference")
    is_control = effects["kind"] != "vector"
    n_controls = is_control.groupby([effects["model"], effects["behavior"]]).sum()
    chosen = (
        f"its layer was chosen on {counts(layers['n_validation'])} others"
        if layers["n_validation"].any()
        else "it was added at the one layer of the study"
    )
    beside = f"beside {counts(n_controls)} control vectors of the same norm" if is_control.any() else "without controls"
    return (
        f"Studied: {_listed(layers['behavior'])}, on {_listed(layers['model'])}. For each behavior a steering vector "
        f"was made from {counts(layers['n_train'])} contrast pairs, {chosen}, and its effect was measured on "
        f"{counts(layers['n_test'])} held-out pairs, {beside}. The effect is the slope of the {name} over the "
        f"multiplier, in {unit} for each unit of the multiplier, given with its 95 % interval."
    )


def conclusions(found: pd.DataFrame) -> str:
    """One paragraph on the vectors of one model, from their :func:`caa_interp.evaluation.verdicts`: steepest first."""
    found = found.sort_values("slope", ascending=False)
    found["estimate"] = found["behavior"] + " " + estimates(found, "slope")
    by_verdict = {verdict: rows["estimate"] for verdict, rows in found.groupby("verdict")}
    sentences = [
        f"{verdict.capitalize()} ({len(by_verdict[verdict])} of {len(found)}): {'; '.join(by_verdict[verdict])}."
        for verdict in VERDICTS
        if verdict in by_verdict
    ]
    if found["n_controls"].any():
        least, most = number_text(found["control_low"].min()), number_text(found["control_high"].max())
        sentences.append(typeset(f"The slopes of the controls lie between {least} and {most}."))
    largest = found[["control_low", "control_high"]].abs().max(axis=1)
    reaches = (found["verdict"] == "steers") & (found["slope_low"] <= largest)
    if reaches.any():
        sentences.append(
            f"The interval of {_listed(found.loc[reaches, 'behavior'])} reaches into the range of its controls."
        )
    return " ".join(sentences)


def findings_table(found: pd.DataFrame) -> pd.DataFrame:
    """Verdicts with what they are made from, as texts."""
    ranges = zip(found["control_low"], found["control_high"], found["n_controls"], strict=True)
    texts = {
        "slope (95 % interval)": estimates(found, "slope"),
        "controls": [
            typeset(f"{number_text(low)} to {number_text(high)} ({n})") if n else "none" for low, high, n in ranges
        ],
        "opposite (% of pairs)": estimates((100 * found.filter(like="share_against")).round(), "share_against", ".0f"),
    }
    return found[["behavior", "layer"]].assign(**texts, n=found["n"], verdict=found["verdict"])


def warnings(reliability: pd.DataFrame) -> list[str]:
    """Reasons to distrust vectors: a sentence for each row of their reliability for which a warning is given."""
    given = pd.DataFrame({spaced(condition): reliability.eval(condition) for condition in WARNINGS})
    rows = zip(reliability["behavior"], reliability["layer"], given.to_numpy(), strict=True)
    return [f"{name} (layer {layer}): {', '.join(given.columns[is_so])}." for name, layer, is_so in rows if is_so.any()]


def spaced(name: str) -> str:
    """Name of a column in words."""
    return name.replace("_", " ")


def estimates(rows: pd.DataFrame, name: str, form: str = "+.3f") -> list[str]:
    """Each row's mean and interval as text, empty where there is none."""
    columns = (rows[f"{name}{end}"] for end in ("", "_low", "_high"))
    return [typeset(interval_text(mean, low, high, form)) for mean, low, high in zip(*columns, strict=True)]


def typeset(text: str) -> str:
    """With a minus sign, and so that no range is broken at the end of a line."""
    return text.replace("-", "\N{MINUS SIGN}").replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _listed(names: pd.Series[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last
