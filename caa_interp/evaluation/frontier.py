"""Effects against costs: what is gained for what is paid, in one plane for vectors, prompts and tuned models.

1. Join a table of effects and one of costs by the conditions that both hold; no model is run.
2. :func:`frontier`: effect and cost of every condition, and whether another does as much for less.
3. :func:`at_equal_cost`: follow each vector from no steering to its largest multiplier, and read the effect off where
   the cost is the one asked for.

The divergence of a small step grows with its square and the effect with the step itself, so between two measured
multipliers the effect is taken as linear in the square root of the cost.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pandas as pd
from scipy import stats

from caa_interp.errors import InputError, check_choice, check_count, is_number
from caa_interp.evaluation.summary import CONDITIONS, NO_BASELINE, SERIES, UNSTEERED, items_of, range_of
from caa_interp.statistics import LEAST_SPREAD, N_RESAMPLES, bootstrap_means, check_confidence

Effect = Literal["logit_difference", "p_positive", "score"]
Cost = Literal["divergence", "divergence_tail", "nats_per_token", "correct"]
# What is read from a table of costs, and its unit.
_COSTS = {
    "divergence": ("divergence", "nats per token"),
    "divergence_tail": ("divergence_tail", "nats per token"),
    "nats_per_token": ("nats_per_token_change", "nats per token"),
    "correct": ("correct_change", "share"),
}


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
        the same conditions. A table without ``baseline`` is one of the model without any.
    measure
        ``"logit_difference"`` (default, nats), ``"p_positive"`` (0 to 1) or ``"score"`` (of judged answers, 0 to 10):
        the effect is its change from unsteered.
    cost_measure
        ``"divergence"`` (default) or ``"divergence_tail"``; ``"nats_per_token"``, whose increase is the cost, or
        ``"correct"``, whose decrease is.
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
    check_confidence(confidence)
    check_count("seed", seed, least=0)
    table, *both = _joined(effects, costs, measure, cost_measure)
    names = ("effect", "n", f"{measure}_change"), ("cost", "n_cost", _COSTS[cost_measure][0])
    for values, (name, n, limits) in zip(both, names, strict=True):
        mean, low, high, count = bootstrap_means(values, confidence, seed=seed)
        low, high = np.clip([low, high], *range_of(limits))
        table = table.assign(**{name: mean, f"{name}_low": low, f"{name}_high": high, n: count.astype(int)})
    table["dominated"] = False
    alike = _same(table, ("behavior", "judge", "format", *(() if "baseline" in table else ("model",))))
    for _, rows in table.groupby(alike, sort=False):
        table.loc[rows.index, "dominated"] = _dominated(rows)
    return table.assign(
        measure=measure, cost_measure=cost_measure, cost_unit=_COSTS[cost_measure][1], confidence=confidence
    )


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
    check_confidence(confidence)
    check_count("seed", seed, least=0)
    if not is_number(cost) or cost <= 0:
        raise InputError(f"cost: {cost!r}; it must be a number above 0, such as 0.1.")
    table, gained, paid = _joined(effects, costs, measure, cost_measure)
    rows = []
    single = ~table["operator"].str.contains(" + ", regex=False) if "operator" in table else table["vector"].notna()
    for _, path in table[single].groupby(_same(table[single], SERIES), sort=False):
        for side, sign in (("positive", 1), ("negative", -1)):
            own = path[path["multiplier"] * sign >= 0].sort_values("multiplier", key=abs)
            if not (own["multiplier"] * sign > 0).any():
                continue
            items, prompts = (values[:, own.index] for values in (gained, paid))
            doses = own["multiplier"].to_numpy()
            if doses[0] and own.get("baseline", pd.Series([NO_BASELINE])).iloc[0] == NO_BASELINE:
                # No steering has no effect and no cost, whether it was measured or not.
                items, prompts = (np.pad(values, ((0, 0), (1, 0))) for values in (items, prompts))
                doses = np.append(0.0, doses)
            items, prompts = (values[~np.isnan(values).any(axis=1)] for values in (items, prompts))
            found = crossing(items, prompts, doses, cost, np.random.default_rng(seed), confidence)
            ends = np.clip(found[2:], *range_of(f"{measure}_change"))
            shared = own[[name for name in SERIES if name in own]].iloc[0]
            rows.append(
                {
                    **shared,
                    "side": side,
                    "reached": not np.isnan(found[1]),
                    **dict(zip(("multiplier", "effect"), found[:2], strict=True)),
                    **dict(zip(("effect_low", "effect_high"), ends, strict=True)),
                    "n": len(items),
                    "n_cost": len(prompts),
                }
            )
    if not rows:
        raise InputError("effects: no single intervention has a multiplier other than 0 in both tables. Measure some.")
    about = {"cost": cost, "measure": measure, "cost_measure": cost_measure, "cost_unit": _COSTS[cost_measure][1]}
    return pd.DataFrame(rows).assign(**about, confidence=confidence)


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
    if min(n, m) == 0 or effects.shape[1] < 2:
        return np.nan, np.nan, np.nan, np.nan
    # The first row is the sample itself.
    draws = [
        np.vstack([np.full(size, 1 / size), generator.multinomial(size, np.full(size, 1 / size), N_RESAMPLES) / size])
        for size in (n, m)
    ]
    means, roots = draws[0] @ effects, np.sqrt(np.maximum(draws[1] @ costs, 0))
    goal = np.sqrt(cost)
    beyond = roots[:, 1:] >= goal
    if roots[0, 0] >= goal or not beyond[0].any():
        return np.nan, np.nan, np.nan, np.nan
    end = 1 + np.where(beyond.any(axis=1), beyond.argmax(axis=1), roots[:, 1:].argmax(axis=1))
    every = np.arange(len(end))
    with np.errstate(divide="ignore", invalid="ignore"):
        width = roots[every, end] - roots[every, end - 1]
        share = (goal - roots[every, end - 1]) / width
        slope = (means[every, end] - means[every, end - 1]) / width
        found = means[every, end - 1] + slope * (goal - roots[every, end - 1])
        # How much each item and each prompt moves the result; where the path begins, at no cost, none does.
        weights = [np.stack([1 - share, share])]
        steep = np.stack([np.where(at > 0, 0.5 / at, 0) for at in (roots[every, end - 1], roots[every, end])])
        weights.append(-slope * weights[0] * steep)
        variances = 0.0 * found
        parts = []
        for values, drawn, (before, after) in zip((effects, costs), draws, weights, strict=True):
            moved = before[:, None] * values.T[end - 1] + after[:, None] * values.T[end]
            spread = (drawn * moved**2).sum(axis=1) - (drawn * moved).sum(axis=1) ** 2
            parts.append(np.maximum(spread, 0) / (len(values) - 1))
            variances = variances + parts[-1]
        errors = np.sqrt(variances)
        t = np.abs(found[1:] - found[0]) / np.maximum(errors[1:], LEAST_SPREAD * errors[0])
        # Welch's degrees of freedom, since items and prompts are two samples.
        freedom = variances[0] ** 2 / (parts[0][0] ** 2 / (n - 1) + parts[1][0] ** 2 / (m - 1))
    dose = multipliers[end[0] - 1] + share[0] * (multipliers[end[0]] - multipliers[end[0] - 1])
    if min(n, m) < 2:
        return dose, found[0], np.nan, np.nan
    reach = 0.0
    if errors[0] > 0:
        least = stats.t.ppf((1 + confidence) / 2, freedom)
        reach = max(np.nanquantile(t, confidence), least) * errors[0]
    return dose, found[0], found[0] - reach, found[0] + reach


def _joined(
    effects: pd.DataFrame, costs: pd.DataFrame, measure: str, cost_measure: str
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Conditions of both tables, with the effects ``[n_items, n]`` and the costs ``[n_prompts, n]`` of each."""
    check_choice("measure", measure, get_args(Effect))
    check_choice("cost_measure", cost_measure, _COSTS)
    (_, _, left, gained), (_, _, right, paid) = items_of(effects), items_of(costs)
    needed = {"effects": (f"{measure}_change", gained), "costs": (_COSTS[cost_measure][0], paid)}
    for name, (column, values) in needed.items():
        if column not in values:
            what = column.removesuffix("_change")
            raise InputError(
                f"{name}: it has no column {what!r}"
                + (", or no unsteered rows from which it could have changed" if column != what else "")
                + ". Measure it, with multiplier 0 among the conditions."
            )
    if ("baseline" in left) != ("baseline" in right):
        left, right = (one if "baseline" in one else one.assign(baseline=NO_BASELINE) for one in (left, right))
    keys = [name for name in CONDITIONS if name in left and name in right]
    if right.duplicated(keys).any():
        raise InputError(
            f"costs: several of its conditions agree in {keys}, the columns that both tables have. Give one's rows."
        )
    table = left.assign(_left=range(len(left))).merge(right[keys].assign(_right=range(len(right))), on=keys)
    if not (table["multiplier"] != 0).any():
        raise InputError(
            f"costs: no steered condition is in both tables; they are joined by {keys}. Measure both under the same "
            "vectors, layers and multipliers."
        )
    of_items, of_prompts = (values[column] for column, values in needed.values())
    sign = -1 if cost_measure == "correct" else 1
    return table, of_items[:, table.pop("_left")], sign * of_prompts[:, table.pop("_right")]


def _same(table: pd.DataFrame, names: tuple[str, ...]) -> pd.Series[int]:
    """Number of the rows that agree in those of the columns that the table has."""
    there = [name for name in names if name in table]
    if not there:
        return pd.Series(0, index=table.index)
    return table.groupby(there, sort=False, dropna=False).ngroup()


def _dominated(rows: pd.DataFrame) -> np.ndarray:
    """Whether some condition that is no control moves the score as far for at most the cost, ``[n]``."""
    effect, cost = (rows[name].to_numpy()[:, None] for name in ("effect", "cost"))
    rival = rows["kind"].isin(["vector", UNSTEERED]).to_numpy() if "kind" in rows else np.full(len(rows), True)
    size, asked = np.where(effect >= 0, 1, -1) * effect.T, np.abs(effect)
    better = (size >= asked) & (cost >= cost.T) & ((size > asked) | (cost > cost.T))
    return (better & rival).any(axis=1)
