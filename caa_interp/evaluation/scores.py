"""From judged answers to mean scores with intervals over the prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from caa_interp.errors import InputError
from caa_interp.statistics import bootstrap_mean, check_confidence

# Columns that tell one series of multipliers from another, as far as a table has them.
SERIES = ("behavior", "vector", "judge", "layer")


def summarize_scores(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Mean score per condition.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.judge_answers`, or several of them one below the other, told apart by a column
        ``behavior`` or ``vector`` (or by ``judge`` or ``layer``).
    confidence
        Confidence of the intervals, between 0 and 1.
    seed
        Seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per condition: ``behavior`` and ``vector`` (where the table has them), ``judge``, ``layer``,
        ``multiplier``;

        - ``score``, ``score_low``, ``score_high``: mean over the ``n`` prompts whose reply holds a score, 0 to 10,
          and its bootstrap interval over these; ``n_unparseable`` prompts have none and are left out;
        - ``score_change``, ``score_change_low``, ``score_change_high``: mean change from multiplier 0 over the
          ``n_paired`` prompts that have a score in both; NaN where there is no multiplier 0.
    """
    missing = {"item", "layer", "multiplier", "score"} - set(table.columns)
    if missing or table.empty:
        what = f"columns {sorted(missing)} are missing" if missing else "it has no rows"
        raise InputError(f"table: {what}; give the result of caa_interp.judge_answers.")
    check_confidence(confidence)
    series = [name for name in SERIES if name in table]
    twice = table[table.duplicated([*series, "multiplier", "item"])]
    if len(twice):
        first = twice.iloc[0]
        raise InputError(
            f"table: item {first['item']} occurs twice at multiplier {first['multiplier']:g}. Tell tables that are "
            "put together apart by a column 'behavior' or 'vector'."
        )
    rows = []
    for names, group in table.groupby(series, sort=False, dropna=False):
        items = group.pivot(index="item", columns="multiplier", values="score").astype(float)
        unsteered = items[0.0] if 0.0 in items else pd.Series(np.nan, index=items.index)
        for multiplier, scores in items.items():
            row = {**dict(zip(series, names, strict=True)), "multiplier": multiplier}
            for name, values in (("score", scores), ("score_change", scores - unsteered)):
                generator = np.random.default_rng(seed)
                mean, low, high = bootstrap_mean(values.dropna().to_numpy(), generator, confidence)
                row |= {name: float(mean), f"{name}_low": float(low), f"{name}_high": float(high)}
            asked = group[group["multiplier"] == multiplier]
            row |= {
                "n": int(scores.notna().sum()),
                "n_paired": int((scores - unsteered).notna().sum()),
                "n_unparseable": int(asked["score"].isna().sum()),
            }
            rows.append(row)
    result = pd.DataFrame(rows)
    result.attrs = {**table.attrs, "confidence": confidence}
    return result
