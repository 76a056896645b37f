"""The findings of a study in plain words: from its tables to sentences, and to cells of the page's tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from caa_interp.evaluation.audit import ITSELF
from caa_interp.evaluation.interference import ALONE, BOTH, QUESTIONS
from caa_interp.evaluation.summary import COSTS, quantity, shown_column
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.plotting.words import counts, factor, intervals as hover_texts, with_minus
from caa_interp.statistics import ends_text, interval_text, number_text

# Warnings, and the reason for each.
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
        else "it was applied at the one layer of the study"
    )
    beside = f"beside {counts(n_controls)} control vectors of the same norm" if is_control.any() else "without controls"
    return (
        f"Studied: {_listed(layers['behavior'])}, on {_listed(layers['model'])}. For each behavior a steering vector "
        f"was made from {counts(layers['n_train'])} contrast pairs, {chosen}, and its effect was measured on "
        f"{counts(layers['n_test'])} held-out pairs, {beside}. The effect is the slope of the {name} over the "
        f"multiplier, in {unit} for each unit of the multiplier, given with its 95 % interval."
    )


def findings(found: pd.DataFrame) -> list[str]:
    """What each vector does, a sentence for each row of :func:`caa_interp.evaluation.verdicts`."""
    return [_finding(row, _per_unit(found)) for row in _records(found)]


def _finding(row: dict[str, Any], unit: str) -> str:
    largest = max(abs(row["control_low"]), abs(row["control_high"]))
    controls = f"controls at most {number_text(largest, '.3f')}" if row["n_controls"] else "no controls at this layer"
    if row["verdict"] in ("steers", "opposite") and min(abs(row["slope_low"]), abs(row["slope_high"])) <= largest:
        controls += ", within the interval"
    responds = "responds" if row["slope"] > 0 else "moves in the opposite direction"
    does = {
        "within controls": f"{responds}, but no more than controls do,",
        "no clear effect": "shows no clear effect",
        "no interval": "rests on one pair",
    }.get(row["verdict"], responds)
    return f"{_capital(row['behavior'])} {does} at layer {row['layer']}: {_estimate(row, 'slope', unit)}; {controls}"


def overall(found: pd.DataFrame) -> str:
    """How many of a model's vectors steer, and which; without controls, how many slopes are clearly above 0."""
    if len(found) == 1:
        return findings(found)[0]
    if (found["verdict"] == "no interval").all():
        return f"Each of {len(found)} behaviors rests on one pair, which gives no interval"
    verdict, one, some = (
        ("steers", "responds to its vector beyond every control", "respond to their vectors beyond every control")
        if found["n_controls"].any()
        else (
            "no controls",
            "has a slope above 0 whose interval excludes 0, without controls",
            "have slopes above 0 whose intervals exclude 0, without controls",
        )
    )
    clear = found[(found["verdict"] == verdict) & (found["slope"] > 0)]
    steer = clear.sort_values("slope", ascending=False)["behavior"]
    if steer.empty:
        return f"None of {len(found)} behaviors {one}"
    return f"{len(steer)} of {len(found)} behaviors {one if len(steer) == 1 else some}: {_listed(steer)}"


def largest(multipliers: Iterable[float]) -> float:
    """The largest multiplier; where none is positive, the one farthest from 0."""
    return max(multipliers, key=lambda one: (one > 0, abs(one)))


def largest_change(summary: pd.DataFrame, among: str = "") -> str:
    """The largest change from unsteered in a summary of scores; empty if there is none."""
    if (shown := shown_column(summary, "logit_difference")) == "logit_difference":
        return ""
    row = _records(summary.iloc[[int(summary[shown].abs().argmax())]])[0]
    at = f"layer {row['layer']} and multiplier {factor(row['multiplier'], '+g')}"
    change = _estimate(row, shown, quantity(summary, "logit_difference")[1])
    return f"{_capital(row['vector'])} changes most at {at}{among}: {change}"


def chosen_again(chosen: pd.DataFrame, held_out: pd.DataFrame) -> str:
    """For how many behaviors the chosen layer is the steepest on held-out pairs too."""
    best = held_out.loc[held_out.groupby("behavior")["slope"].idxmax(), ["behavior", "layer"]]
    n = len(chosen.merge(best))
    return f"The chosen layer is also the steepest one on held-out pairs for {n} of {len(chosen)} behaviors"


def agreement(rows: pd.DataFrame, n_warned: int) -> str:
    """How well pairs agree at the chosen layers, and how many vectors have a warning."""
    at = f"The agreement of pairs at the chosen layers is {_range(rows['agreement'])}"
    return f"{at}; {n_warned} of {len(rows)} vectors {'has' if n_warned == 1 else 'have'} a warning"


def cosines(table: pd.DataFrame) -> str:
    """Which of several vectors are most alike or most opposed, or how alike neighboring layers are."""
    apart = table[table["first"] != table["second"]].dropna(subset="cosine")
    if len(apart):
        row = apart.iloc[int(apart["cosine"].abs().argmax())]
        which = (
            f"The cosine farthest from 0 is that of {row['first']} and {row['second']} at layer {row['first_layer']}"
        )
        return f"{which}: {typeset(number_text(row['cosine'], '.2f'))}"
    after = table["first_layer"].map(dict(pairwise(sorted(set(table["first_layer"])))))
    return f"Cosines between neighboring layers: {_range(table.loc[table['second_layer'] == after, 'cosine'])}"


def components(behavior: str, table: pd.DataFrame) -> str:
    """How much of the variance a projection shows at its last layer."""
    row = table.iloc[int(table["layer"].argmax())]
    share = 100 * (row["x_share"] + row["y_share"])
    return f"{_capital(behavior)}: two components explain {share:.0f} % of the variance at layer {row['layer']}"


def apart(behavior: str, table: pd.DataFrame) -> str:
    """How far a vector sets the two sides of held-out pairs apart, from their separation at one layer."""
    d_prime, auc = (intervals(table.head(1), name, ".2f")[0] or "unknown" for name in ("d_prime", "auc"))
    layer, n = table["layer"].iloc[0], table["n"].iloc[0]
    return f"{_capital(behavior)}: along the vector of layer {layer}, d' is {d_prime} and the AUC {auc}, n = {n}"


def said(behavior: str, table: pd.DataFrame) -> str:
    """The tokens that a vector raises and lowers most."""
    first = table[(table["kind"] == "vector") & (table["rank"] == 1)].drop_duplicates("side")
    unit = "nats" if table["ranked_by"].iloc[0] == "effect" else ""
    parts = [
        f"{row['token']} is {row['side']} most, {_estimate(row, row['ranked_by'], unit)}" for row in _records(first)
    ]
    return f"{_capital(behavior)}: {'; '.join(parts)}"


def cost_range(summaries: Sequence[pd.DataFrame]) -> str:
    """How much the first of several costs changes at the largest multiplier."""
    summary = summaries[0]
    measure = next(name for name in COSTS if name in summary)
    rows = summary[(summary["multiplier"] == largest(summary["multiplier"])) & (summary["kind"] == "vector")]
    name = {"nats_per_token": "loss on prose", "correct": "share of right answers"}.get(measure, measure)
    changes = rows[shown_column(rows, measure)]
    return (
        f"At multiplier {factor(rows['multiplier'].iloc[0], '+g')}, the change in {name} is {_range(changes, '+.3f')}"
    )


def largest_effect(found: pd.DataFrame, controls: pd.DataFrame, cost: str) -> str:
    """The largest of the effects at one cost, and what the controls of that behavior do there."""
    row = _records(found.iloc[[int(found["effect"].argmax())]])[0]
    unit = quantity(found, "logit_difference")[1]
    effect = f"{typeset(interval_text(row['effect'], row['effect_low'], row['effect_high']))} {unit}"
    beside = reached(controls, row["behavior"])
    controls_do = f"; its controls, {beside}" if beside else ""
    return f"At a cost of {cost} nats per token, {row['behavior']} has the largest effect: {effect}{controls_do}"


def reached(controls: pd.DataFrame, behavior: str) -> str:
    """The lowest and the highest effect of a behavior's controls at one cost; empty if none reaches it."""
    own = controls.loc[controls["behavior"] == behavior, "effect"]
    return _range(own, "+.3f") if len(own) else ""


def side_effect(slopes: pd.DataFrame) -> str:
    """The largest slope of a behavior under a vector of another; empty if there is no other."""
    others = slopes[slopes["vector"] != slopes["behavior"]]
    if others.empty:
        return ""
    row = _records(others.iloc[[int(others["slope"].abs().argmax())]])[0]
    moved = f"The largest slope off the diagonal is that of {row['behavior']} under the vector of {row['vector']}"
    return f"{moved}: {_estimate(row, 'slope', _per_unit(slopes))}"


def kept_beside(effects: pd.DataFrame) -> str:
    """How much of their effects vectors keep two at a time, from a summary of interference; empty if that is."""
    if effects.empty:
        return ""
    both = effects[effects["combination"] == BOTH]
    beside = both.dropna(subset="kept")
    if beside.empty:
        why = "none has a clear effect alone at" if len(both) else "no two of them reach"
        return f"Two vectors at once were not compared: {why} this divergence"
    row = _records(beside.nsmallest(1, "kept"))[0]
    kept = f"keep {_range(100 * beside['kept'], '.0f')}\N{NO-BREAK SPACE}% of the effect that each has alone"
    return (
        f"Two vectors at once, at the divergence of one, {kept}; {row['behavior']} keeps the least, beside "
        f"{_other(row)}: {_kept(beside.nsmallest(1, 'kept'))[0]}{_right(effects)}"
    )


def _right(effects: pd.DataFrame) -> str:
    """What two vectors at once, and one alone, do to the share of right answers; empty if no question was asked."""
    asked = effects[effects["behavior"] == QUESTIONS]
    if asked.empty:
        return ""
    lowest = asked[asked["combination"] == BOTH].nsmallest(1, "correct_change")
    together = [
        f"{change}, n = {n}, under the two with the lowest, and by "
        for change, n in zip(intervals(lowest, "correct_change", "+.2f"), lowest["n"], strict=True)
    ]
    alone = _range(asked.loc[asked["combination"] == ALONE, "correct_change"], "+.2f")
    return f". The share of right answers changes by {''.join(together)}{alone} under one alone"


def kept_table(effects: pd.DataFrame) -> pd.DataFrame:
    """How much of its effect each vector keeps beside each other one, as texts, from a summary of interference."""
    found = effects[(effects["combination"] != ALONE) & effects["kept"].notna()]
    table = found[["behavior", "combination"]].assign(beside=list(map(_other, _records(found))), kept=_kept(found))
    order = ["behavior", "beside"]
    wide = table.pivot(index=order, columns="combination", values="kept").fillna("")
    return wide.reindex(pd.MultiIndex.from_frame(table[order].drop_duplicates())).reset_index()


def right_table(effects: pd.DataFrame) -> pd.DataFrame:
    """The share of right answers under each vector and each two, as texts; empty if no question was asked."""
    asked = effects[(effects["behavior"] == QUESTIONS) & effects["combination"].isin([ALONE, BOTH])]
    if asked.empty:
        return pd.DataFrame()
    return asked[["vector"]].assign(
        **{"share of right answers (95 % interval)": intervals(asked, "correct", ".2f")},
        change=intervals(asked, "correct_change", "+.2f"),
        n=asked["n"],
    )


def _other(row: Mapping[str, Any]) -> str:
    """The vector beside a behavior's own."""
    return str(row["second"] if row["first"] == row["behavior"] else row["first"])


def _kept(rows: pd.DataFrame) -> list[str]:
    """Each row's share of the effect alone that is kept, in percent, with its interval."""
    return [f"{text}\N{NO-BREAK SPACE}%" for text in intervals(100 * rows.filter(like="kept"), "kept", ".0f")]


_REFUSES = {
    "steers": "more likely",
    "opposite": "less likely",
    "within controls": "moved no more than by controls",
    "no controls": "measured without controls",
    "no clear effect": "not clearly moved",
    "no interval": "measured on one request",
}


def audited(behavior: str, audit: pd.DataFrame) -> str:
    """How likely replies begin with a refusal under a vector, from the summary of its audit."""
    parts = [
        f"{_REFUSES[row['verdict']]} for {row['measured']} ({_estimate(row, 'estimate', 'nats per token per unit')})"
        for row in _records(_openings(behavior, audit))
    ]
    itself = " is the refusal vector" if ITSELF in set(audit["verdict"]) else ""
    return f"{_capital(behavior)}{itself}: openings that refuse are {_listed(parts)}"


def audits(summaries: Mapping[str, pd.DataFrame]) -> str:
    """Which vectors move refusal beyond every control, from the summaries of their audits."""
    moved = [
        f"{_REFUSES[str(verdict)]} for {_listed(rows['measured'])} under {behavior}"
        for behavior, audit in summaries.items()
        for verdict, rows in _openings(behavior, audit).groupby("verdict")
        if verdict in ("steers", "opposite")
    ]
    if not summaries:
        return ""
    if all((_openings(behavior, audit)["verdict"] == "no interval").all() for behavior, audit in summaries.items()):
        return "Safety audit: one request of a kind gives no interval"
    if not moved:
        return "Safety audit: no vector makes openings that refuse more or less likely beyond every control"
    return f"Safety audit: openings that refuse become {_listed(moved)}, beyond every control"


def _openings(behavior: str, audit: pd.DataFrame) -> pd.DataFrame:
    """How likely a vector makes openings that refuse, for each kind of request."""
    return audit[(audit["part"] == "requests") & (audit["vector"] == behavior)].astype({"n": int})


def lasting(behavior: str, summary: pd.DataFrame) -> str:
    """What is left in the last turn of steering the first one, from a summary of conversations."""
    changes = [_estimate(row, "change", "nats per token") for row in _first_and_last(summary)]
    turns = f"in turn 1 ({changes[0]}) and in turn {summary['turn'].max()} ({changes[1]})"
    return f"{_capital(behavior)}, applied in turn 1 alone: the change {turns}"


def conversations(summaries: Mapping[str, pd.DataFrame]) -> str:
    """Which vectors still act in the last turn when they were applied in the first one."""
    if not summaries:
        return ""
    last = pd.DataFrame({name: _first_and_last(summary)[1] for name, summary in summaries.items()}).T
    if last["change_low"].isna().all():
        left = f"what is left in turn {last['turn'].max()} has no interval, which one conversation does not give"
        return f"Applied in turn 1 alone, {left}"
    clear = last.index[excludes_zero(last, "change")]
    left = f"{_listed(clear)} still {'has' if len(clear) == 1 else 'have'}" if len(clear) else "no vector still has"
    at = f"in turn {last['turn'].max()} (n = {counts(last['n'])} conversations)"
    return f"Applied in turn 1 alone, {left} a clear effect {at}"


def _first_and_last(summary: pd.DataFrame) -> list[dict[Any, Any]]:
    """The first and the last turn of a vector that was applied in turn 1 alone."""
    own = summary[(summary["kind"] == "vector") & (summary["condition"] == "turn 1")].sort_values("turn")
    return _records(own.iloc[[0, -1]])


def _estimate(row: Mapping[str, Any], name: str, unit: str) -> str:
    """A mean with unit, interval and number of items."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    interval = "95\N{NO-BREAK SPACE}% CI " * (low == low) + ends_text(low, high)
    return f"{typeset(number_text(row[name]))} {unit}, {typeset(interval)}, n = {row['n']}".replace(" ,", ",")


def _range(values: pd.Series[float], form: str = ".2f") -> str:
    low, high = (number_text(one, form) for one in (values.min(), values.max()))
    return typeset(low if low == high else f"{low} to {high}")


def _per_unit(slopes: pd.DataFrame) -> str:
    _, unit = quantity(slopes, "logit_difference")
    return f"{unit} per unit"


def _records(table: pd.DataFrame) -> list[dict[Any, Any]]:
    return table.to_dict("records")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def findings_table(found: pd.DataFrame) -> pd.DataFrame:
    """Verdicts with what they are made from, as texts."""
    ranges = zip(found["control_low"], found["control_high"], found["n_controls"], strict=True)
    texts = {
        "slope (95 % interval)": intervals(found, "slope"),
        "controls": [
            typeset(f"{number_text(low)} to {number_text(high)} ({n})") if n else "none" for low, high, n in ranges
        ],
        "opposite (% of pairs)": intervals((100 * found.filter(like="share_against")).round(), "share_against", ".0f"),
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


def intervals(rows: pd.DataFrame, name: str, form: str = "+.3f") -> list[str]:
    """Each row's mean and interval as a figure's hover text has it, which no line breaks; empty where there is none."""
    return list(map(typeset, hover_texts(rows, name, form)))


def typeset(text: str) -> str:
    """With a minus sign, and so that no range is broken at the end of a line."""
    return with_minus(text).replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def _listed(names: Iterable[str]) -> str:
    *others, last = dict.fromkeys(names)
    return f"{', '.join(others)} and {last}" if others else last
