"""Do two raters of the same answers agree: two judges, a judge and a person's labels, or a judge's own wordings.

1. Ratings are joined by behavior (where both have one), prompt and answer.
2. Agreement has three sides: order (Spearman), level (mean difference), and both in one number, Krippendorff's alpha
   for an interval scale (Hayes and Krippendorff 2007, Communication Methods and Measures 1). Alpha is very nearly
   Cohen's kappa with quadratic weights, and takes fractions.
3. Raters who share a bias agree as well. So each one's rank correlation with the length of the answer stands beside.
4. Intervals resample prompts, each with all of its answers. They are percentiles, a little farther out than usual as
   Student's t asks with few prompts (Hesterberg 2015, The American Statistician 69, "expanded percentile").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from caa_interp.errors import InputError, check_table
from caa_interp.evaluation.ratings import ratings_of, scale_of
from caa_interp.statistics import N_RESAMPLES, check_resampling, rank_correlations

_STATISTICS = ("spearman", "alpha", "difference", "length_first", "length_second")


def judge_agreement(
    first: pd.DataFrame, second: pd.DataFrame | None = None, *, confidence: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Measure how far two raters agree on the same answers, and how far each of them follows their length.

    Parameters
    ----------
    first
        Result of :func:`caa_interp.judge_answers`, or a table of labels: ``prompt``, ``answer`` and ``score`` (empty
        or NaN where there is none), and ``scale`` if that is not 10.
    second
        Another such table, on the same scale. Several scores of an answer are averaged. Default: the wordings of
        ``first``, judged with several ``wordings``, are compared with each other.
    confidence, seed
        Confidence of the intervals, between 0 and 1; seed of the bootstrap.

    Returns
    -------
    pandas.DataFrame
        One row per two raters:

        - ``first``, ``second``: the judge's name, if the table has one; ``"wording 1"`` and so on for wordings;
        - ``spearman``: rank correlation of their scores, -1 to 1; 0 where one rates all answers alike;
        - ``alpha``: Krippendorff's alpha, at most 1; 0 is agreement by chance; NaN where nothing differs;
        - ``difference``: mean of the second's score minus the first's, in points of the scale;
        - ``length_first``, ``length_second``: rank correlation of each one's scores with the number of words, -1 to 1;
        - ``_low`` and ``_high`` of each: the ends of its interval, NaN with one prompt;
        - ``n``, ``n_prompts``: numbers of answers that both rated, and of their prompts; ``n_unmatched``: different
          answers that only one of the two rated; ``confidence``.

    Notes
    -----
    The intervals are somewhat too narrow with fewer than 20 prompts: with 8, those of alpha contain it about 9 times
    in 10, at a confidence of 0.95.

    Raises
    ------
    InputError
        If a table lacks a column, a score is no number on its scale, the scales differ, or no answer was rated by both.

    Examples
    --------
    >>> labels = pd.DataFrame({"prompt": ["a", "b", "c"], "answer": ["x", "y", "z"], "score": [1, 5, 9]})
    >>> judged = labels.assign(score=[2, 6, 10])
    >>> caa.evaluation.judge_agreement(labels, judged)[["spearman", "difference"]].to_numpy().tolist()
    [[1.0, 1.0]]
    """
    check_resampling(confidence, seed)
    rows = []
    for names, one, other in _raters(first, second):
        both = pd.concat([one, other], axis=1, keys=["first", "second"])
        joined = both.dropna()
        if joined.empty:
            raise InputError(
                "second: no answer in it has a score in first, too; they are joined by "
                f"{', '.join(map(str, one.index.names))}. Give two ratings of the same answers."
            )
        prompts = joined.index.get_level_values("prompt")
        words = np.array([len(str(answer).split()) for answer in joined.index.get_level_values("answer")])
        values = np.column_stack([joined, words])
        found = _with_intervals(values, pd.factorize(prompts)[0], confidence, np.random.default_rng(seed))
        counts = {
            "n": len(joined),
            "n_prompts": prompts.nunique(),
            "n_unmatched": int(both.notna().sum(axis=1).eq(1).sum()),
        }
        rows.append({**dict(zip(("first", "second"), names, strict=True)), **found, **counts})
    return pd.DataFrame(rows).assign(confidence=confidence)


def _raters(
    first: pd.DataFrame, second: pd.DataFrame | None
) -> list[tuple[tuple[str, str], pd.Series[float], pd.Series[float]]]:
    """Names and scores, by what an answer is known by, of every two raters."""
    tables = [("first", first)] + ([] if second is None else [("second", second)])
    for name, table in tables:
        check_table(table, {"prompt", "answer", "score"}, "caa_interp.judge_answers", name)
    keys = [name for name in ("behavior",) if all(name in table for _, table in tables)] + ["prompt", "answer"]
    if second is None:
        wordings = [name for name in map(str, first) if re.fullmatch("score_[0-9]+", name)]
        if not wordings:
            raise InputError("second: there is none, and first has one wording. Give it, or judge with wordings=3.")
        by_wording = {name.replace("score_", "wording "): _by_answer("first", first, name, keys) for name in wordings}
        return [((one, other), by_wording[one], by_wording[other]) for one, other in combinations(by_wording, 2)]
    scales = {scale_of(table) for _, table in tables}
    if len(scales) > 1:
        raise InputError(
            f"second: the scales of the two tables are {sorted(scales)}. Give scores on one scale; a table without a "
            "column 'scale' is taken to have 10."
        )
    one, other = (
        str(table["judge"].iloc[0]) if "judge" in table and table["judge"].nunique() == 1 else name
        for name, table in tables
    )
    rated = [_by_answer(name, table, "score", keys) for name, table in tables]
    return [((one, other), rated[0], rated[1])]


def _by_answer(name: str, table: pd.DataFrame, column: str, keys: Sequence[str]) -> pd.Series[float]:
    """Scores of a column; rounded, since the means of equal scores may differ in their last digits."""
    known = [table[key].astype(object).fillna("") for key in keys]  # a CSV file keeps no empty text
    return ratings_of(table, column, name).groupby(known).mean().round(9)


def _with_intervals(
    values: np.ndarray, prompts: np.ndarray, confidence: float, generator: np.random.Generator
) -> dict[str, float]:
    """Each statistic with its interval, from scores and lengths ``[n, 3]`` and the prompt of each answer ``[n]``."""
    estimates, members = _statistics(values), [np.flatnonzero(prompts == one) for one in range(prompts.max() + 1)]
    ends = np.full((2, len(_STATISTICS)), np.nan)
    if len(members) > 1:
        draws = generator.integers(len(members), size=(N_RESAMPLES, len(members)))
        resampled = np.array([_statistics(values[np.concatenate([members[one] for one in draw])]) for draw in draws])
        known = ~np.isnan(estimates)
        n = len(members)
        tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
        ends[:, known] = np.nanquantile(resampled[:, known], [tail, 1 - tail], axis=0)
    named = zip(_STATISTICS, estimates, *ends, strict=True)
    ending = ("", "_low", "_high")
    return {f"{name}{end}": float(one) for name, *three in named for end, one in zip(ending, three, strict=True)}


def _statistics(values: np.ndarray) -> np.ndarray:
    """The ``_STATISTICS`` of two raters' scores and the answers' lengths, ``[n, 3]``."""
    first, second, words = values.T
    ratings = values[:, :2]
    # Mean squared difference of any two of the ratings; of equal ones, rounding may leave more than 0.
    expected = 2 * ratings.var(ddof=1) if np.ptp(ratings) else 0.0
    alpha = 1 - ((first - second) ** 2).mean() / expected if expected else np.nan
    spearman, of_second = rank_correlations(second, np.stack([first, words]))
    return np.array([spearman, alpha, (second - first).mean(), rank_correlations(words, first), of_second])
