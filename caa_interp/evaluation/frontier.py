"""Effects against costs: what is gained for what is paid, in one plane for vectors, prompts and tuned models.

1. Join a table of effects and one of costs by the conditions that both hold; no model is run.
2. :func:`frontier`: effect and cost of every condition, and whether another does as much for less.
3. :func:`at_equal_cost`: follow each vector from no steering to its largest multiplier, and read the effect off where
   the cost is the one asked for.

The divergence of a small step grows with its square and the effect with the step itself, so between two measured
multipliers the effect is taken as linear in the square root of the cost.
"""

from __future__ import annotations

from itertools import product
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from caa_interp.errors import InputError, check_choice, is_number
from caa_interp.evaluation.summary import (
    CONDITIONS,
    NO_BASELINE,
    SERIES,
    UNSTEERED,
    are_several,
    by_series,
    items_of,
    range_of,
)
from caa_interp.statistics import bootstrap_means, check_resampling, resampled, studentized_reach

Effect = Literal["logit_difference", "p_positive", "score"]
Cost = Literal["divergence", "divergence_tail", "nats_per_token", "correct", "coherence"]
# What is read from a table of costs, and its unit.
_COSTS = {
    "divergence": ("divergence", "nats per token"),
    "divergence_tail": ("divergence_tail", "nats per token"),
    "nats_per_token": ("nats_per_token_change", "nats per token"),
    "correct": ("correct_change", "share"),
    "coherence": ("coherence_change", "points of the judge's scale"),
}
_LOSSES = ("correct", "coherence")  # whose decrease is the cost


def frontier(
    effects: pd.DataFrame,
    costs: pd.DataFrame,
    *,
    measure: Effect = "logit_difference",
    cost_measure: Cost = "divergence",
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Put the effect of every condition beside its cost, and say which conditions are dominated.

    Parameters
    ----------
    effects
        Result of :func:`caa_interp.sweep`, :func:`caa_interp.dose_response`, :func:`caa_interp.baselines` or
        :func:`caa_interp.judge_answers`, with unsteered rows.
    costs
        Result of :func:`caa_interp.divergence`, :func:`caa_interp.perplexity` or :func:`caa_interp.capability`, under
        the same conditions; or answers that were judged for coherence, such as the table of the effects itself. A
        table without ``baseline`` is one of the bare model.
    measure
        ``"logit_difference"`` (default, nats), ``"p_positive"`` (0 to 1) or ``"score"`` (of judged answers, on
        the judge's scale): the effect is its change from unsteered.
    cost_measure
        ``"divergence"`` (default) or ``"divergence_tail"``; ``"nats_per_token"``, whose increase is the cost; or
        ``"correct"`` or ``"coherence"``, whose decrease is.
    confidence, seed
        As in :func:`caa_interp.summarize`.

    Returns
    -------
    pandas.DataFrame
        One row per condition that both tables hold: its columns, as in :func:`caa_interp.summarize`;

        - ``effect``, ``effect_low``, ``effect_high``: mean over items, in the unit of the measure, with ``n``;
        - ``cost``, ``cost_low``, ``cost_high``: mean over prompts, passages or questions, with ``n_cost``;
        - ``dominated``: whether another condition of the same behavior, form and model moves the score at least as
          far in the same direction for at most the cost, and one of the two is strictly better;
        - ``measure``, ``cost_measure``, ``cost_unit`` and ``confidence``.

    Notes
    -----
    Controls dominate nothing: of many random vectors one will always do more than the others by chance. They can be
    dominated themselves. Domination compares means; where intervals overlap it may be chance. No steering has effect 0
    at cost 0, and so dominates whatever costs something and moves nothing.
    """
    table, gained, priced, paid = _joined(effects, costs, measure, cost_measure, confidence, seed)
    for conditions, values, column, name, n in (
        (table, gained, f"{measure}_change", "effect", "n"),
        (priced, paid, _COSTS[cost_measure][0], "cost", "n_cost"),
    ):
        mean, low, high, count = bootstrap_means(values, confidence, seed=seed)
        low, high = np.clip([low, high], *range_of(column, conditions))
        table = table.assign(**{name: mean, f"{name}_low": low, f"{name}_high": high, n: count.astype(int)})
    table["dominated"] = False
    alike = ["measure", "behavior", "judge", "scale", "format", *([] if "baseline" in table else ["model"])]
    for _, rows in table.groupby([name for name in alike if name in table], dropna=False):
        table.loc[rows.index, "dominated"] = _dominated(rows)
    return table


def at_equal_cost(
    effects: pd.DataFrame,
    costs: pd.DataFrame,
    *,
    cost: float = 0.1,
    measure: Effect = "logit_difference",
    cost_measure: Cost = "divergence",
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare vectors, layers, operators and baselines at the same cost, from multipliers that were measured.

    Parameters
    ----------
    effects, costs, measure, cost_measure, confidence, seed
        As in :func:`caa_interp.evaluation.frontier`, at several multipliers. Conditions of several interventions,
        which have no one multiplier, are left out.
    cost
        In the unit of ``cost_measure``; above 0.

    Returns
    -------
    pandas.DataFrame
        Two rows per path, one for each sign of the multiplier that was measured. A path is what conditions share that
        differ in nothing but the multiplier; it begins at multiplier 0, and takes the first crossing of the cost.

        - the columns of the path, and ``side``: ``"positive"`` or ``"negative"``, the sign of the multiplier;
        - ``reached``: whether the path reaches the cost. Where it does not, or begins beyond it as a costly system
          prompt does, what follows is NaN;
        - ``multiplier``: where it does, interpolated like the effect;
        - ``effect``, ``effect_low``, ``effect_high``: change from unsteered, with its interval;
        - ``n``, ``n_cost``: numbers of items and of prompts behind it; ``cost``, ``measure``, ``cost_measure``,
          ``cost_unit``, ``confidence``.

    Notes
    -----
    The interval is a symmetric bootstrap-t, as that of :func:`caa_interp.summarize`, in which items and prompts are
    resampled independently. It covers other items and other prompts, not the error of interpolating, so let the
    multipliers be close around the cost. Where a resample does not reach it, its last stretch is continued. To reach
    the cost exactly, see :func:`caa_interp.evaluation.compare_at_equal_divergence`.
    """
    if not is_number(cost) or cost <= 0:
        raise InputError(f"cost: {cost!r}; it must be a number above 0, such as 0.1.")
    table, gained, _, paid = _joined(effects, costs, measure, cost_measure, confidence, seed)
    table = table[~are_several(table)]
    if not table["multiplier"].any():
        raise InputError("effects: no single intervention has a multiplier other than 0 in both tables. Measure some.")
    rows: list[dict[Any, Any]] = []
    about = [*(name for name in SERIES if name in table), "measure", "cost_measure", "cost_unit", "confidence"]
    for points, (side, sign) in product(by_series(table), (("positive", 1), ("negative", -1))):
        own = points[points["multiplier"] * sign >= 0].sort_values("multiplier", key=abs)
        if own.empty or not own["multiplier"].iloc[-1]:
            continue
        doses, items, prompts = own["multiplier"].to_numpy(), gained[:, own.index], paid[:, own.index]
        if doses[0] and own.iloc[0].get("baseline", NO_BASELINE) == NO_BASELINE:
            # No steering has no effect and no cost, whether it was measured or not.
            doses, items, prompts = np.append(0.0, doses), *(np.pad(one, ((0, 0), (1, 0))) for one in (items, prompts))
        items, prompts = (values[~np.isnan(values).any(axis=1)] for values in (items, prompts))
        dose, *ends = crossing(items, prompts, doses, cost, np.random.default_rng(seed), confidence)
        effect = np.clip(ends, *range_of(f"{measure}_change", own.iloc[:1]))
        numbers = {"side": side, "reached": not np.isnan(dose), "multiplier": dose, "n": len(items)}
        numbers |= dict(zip(("effect", "effect_low", "effect_high"), effect, strict=True))
        rows.append({**own.iloc[0][about], **numbers, "n_cost": len(prompts), "cost": cost})
    return pd.DataFrame(rows)


def crossing(
    effects: np.ndarray,
    costs: np.ndarray,
    multipliers: np.ndarray,
    cost: float,
    generator: np.random.Generator,
    confidence: float = 0.95,
) -> tuple[float, float, float, float]:
    """Multiplier, effect and the ends of its interval where a path first crosses a cost; NaN where it does not.

    ``effects`` ``[n_items, n_points]`` and ``costs`` ``[n_prompts, n_points]`` are those of the ``multipliers``
    ``[n_points]``, in rising strength. The standard error, of the sample and of each resample, is the delta method's.
    """
    n, m = len(effects), len(costs)
    nowhere = (np.nan,) * 4
    if not n or not m:
        return nowhere
    shares = [resampled(size, generator) for size in (n, m)]
    means, roots = shares[0] @ effects, np.sqrt(np.maximum(shares[1] @ costs, 0))
    beyond = roots >= np.sqrt(cost)
    if beyond[0, 0] or not beyond[0].any():
        return nowhere
    end = np.maximum(1, np.where(beyond.any(axis=1), beyond.argmax(axis=1), roots.argmax(axis=1)))
    every = np.arange(len(end))
    (before, after), (low, high) = ((values[every, end - 1], values[every, end]) for values in (means, roots))
    with np.errstate(divide="ignore", invalid="ignore"):
        share, slope = (np.sqrt(cost) - low) / (high - low), (after - before) / (high - low)
        found = before + share * (after - before)
        # How much each item, and each prompt, moves the result; at the start, which costs nothing, no prompt does.
        of_items = (1 - share)[:, None] * effects.T[end - 1] + share[:, None] * effects.T[end]
        steep = [-slope * part * np.where(root > 0, 0.5 / root, 0) for part, root in ((1 - share, low), (share, high))]
        of_prompts = steep[0][:, None] * costs.T[end - 1] + steep[1][:, None] * costs.T[end]
        variances = np.stack([_variance(*one) for one in zip((of_items, of_prompts), shares, strict=True)])
        errors = np.sqrt(variances.sum(axis=0))
        # Welch's degrees of freedom, since items and prompts are two samples.
        freedom = variances[:, 0].sum() ** 2 / (variances[:, 0] ** 2 / (n - 1, m - 1)).sum()
    reach = studentized_reach(found, errors, freedom, confidence)  # NaN with one item or one prompt
    dose = multipliers[end[0] - 1] + share[0] * (multipliers[end[0]] - multipliers[end[0] - 1])
    return dose, found[0], found[0] - reach, found[0] + reach


def _variance(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Squared standard error of the mean of each resample, of ``values`` and ``shares`` ``[n_resamples, n]``."""
    spread = (shares * values**2).sum(axis=1) - (shares * values).sum(axis=1) ** 2
    return np.maximum(spread, 0) / (values.shape[1] - 1)


def _joined(
    effects: pd.DataFrame, costs: pd.DataFrame, measure: str, cost_measure: str, confidence: float, seed: int
) -> tuple[pd.DataFrame, np.ndarray, pd.DataFrame, np.ndarray]:
    """Conditions of both tables: as the effects have them, their effects ``[n_items, n]``; the same of the costs."""
    check_choice("measure", measure, get_args(Effect))
    check_choice("cost_measure", cost_measure, _COSTS)
    check_resampling(confidence, seed)
    column, unit = _COSTS[cost_measure]
    (_, _, left, gained), (_, _, right, paid) = items_of(effects, "effects"), items_of(costs, "costs")
    for name, values, wanted in (("effects", gained, f"{measure}_change"), ("costs", paid, column)):
        if wanted not in values:
            what = wanted.removesuffix("_change")
            change = "" if wanted == what else ", or no unsteered rows from which it could have changed"
            raise InputError(f"{name}: it has no column {what!r}{change}. Measure it, with multiplier 0 as well.")
    if ("baseline" in left) != ("baseline" in right):
        left, right = (one if "baseline" in one else one.assign(baseline=NO_BASELINE) for one in (left, right))
    keys = [name for name in CONDITIONS if name in left and name in right]
    if right.duplicated(keys).any():
        raise InputError(f"costs: several conditions agree in {keys}, the columns that both tables have. Give one's.")
    table = left.assign(_left=range(len(left))).merge(right[keys].assign(_right=range(len(right))), on=keys)
    if not (table["multiplier"].astype(bool) | are_several(table)).any():
        raise InputError(
            f"costs: no steered condition is in both tables; they are joined by {keys}. Measure both under the same "
            "vectors, layers and multipliers."
        )
    of_items, places = gained[f"{measure}_change"][:, table.pop("_left")], table.pop("_right")
    of_prompts = paid[column][:, places] * (-1 if cost_measure in _LOSSES else 1)
    table = table.assign(measure=measure, cost_measure=cost_measure, cost_unit=unit, confidence=confidence)
    return table, of_items, right.iloc[places], of_prompts


def _dominated(rows: pd.DataFrame) -> np.ndarray:
    """Whether some condition that is no control moves the score as far for at most the cost, ``[n]``."""
    effect, cost = (rows[name].to_numpy()[:, None] for name in ("effect", "cost"))
    rival = rows["kind"].isin(["vector", UNSTEERED]).to_numpy() if "kind" in rows else np.full(len(rows), True)
    size, asked = np.where(effect >= 0, 1, -1) * effect.T, np.abs(effect)
    better = (size >= asked) & (cost >= cost.T) & ((size > asked) | (cost > cost.T))
    return (better & rival).any(axis=1)
