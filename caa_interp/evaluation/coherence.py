"""A gate for answers that have broken down: only coherent ones keep their score, and what is left is counted."""

from __future__ import annotations

import pandas as pd

from caa_interp.errors import InputError, check_table, is_number, warn
from caa_interp.evaluation.ratings import ratings_of, scale_of, score_columns
from caa_interp.evaluation.summary import CONDITIONS, conditions_of

_MOST_SHOWN = 5  # conditions in the message


def coherence_gate(judged: pd.DataFrame, least: float) -> pd.DataFrame:
    """Take the score from answers that are not coherent, and say how many each condition has left.

    No row is removed, so that a condition without a coherent answer stays in sight, with a missing mean. A summary of
    the result is about the answers that are left. Steering decides which these are, so it is no estimate of the
    effect on all answers: report it beside the ungated one.

    Parameters
    ----------
    judged
        Result of :func:`caa_interp.judge_answers` with ``coherence=True``.
    least
        Lowest coherence that passes, from 0 to the table's scale, such as half of it.

    Returns
    -------
    pandas.DataFrame
        The table with ``incoherent``, whether an answer's coherence lies below ``least``. Its ``score`` is NaN then,
        under each wording, too, as it is where no coherence could be read. :func:`caa_interp.summarize` counts both, as
        ``n_incoherent`` and ``n_unparseable``. If an answer loses its score, a warning names the conditions that have
        the fewest left.

    Raises
    ------
    InputError
        If the table has no scores and coherence, or went through a gate before, or ``least`` is not on its scale.

    Examples
    --------
    >>> judged = pd.DataFrame({"item": [0, 1], "layer": 13, "multiplier": 4.0, "score": [9, 5], "coherence": [8, 6]})
    >>> caa.evaluation.coherence_gate(judged, least=5)["incoherent"].sum()
    0
    """
    needed = {"layer", "multiplier", "score", "coherence"}
    check_table(judged, needed, "caa_interp.judge_answers with coherence=True", "judged")
    most = scale_of(judged)
    if not is_number(least) or not 0 <= least <= most:
        raise InputError(f"least: {least!r}; it must be a number from 0 to {most}, the scale of the table.")
    if "incoherent" in judged:
        raise InputError("judged: it went through a gate already, which took scores away. Gate the table from before.")
    coherence = ratings_of(judged, "coherence", "judged")
    incoherent, kept = coherence < least, coherence >= least
    if not kept.all():
        names = [name for name in CONDITIONS if name in judged]
        number, conditions = conditions_of(judged.reset_index(drop=True), names)
        counts = pd.DataFrame({"left": kept.to_numpy(), "of": True}).groupby(number).sum()
        fewest = counts[counts["left"] < counts["of"]].sort_values("left", kind="stable")
        varied = [name for name in names if conditions[name].nunique(dropna=False) > 1]
        named = conditions.loc[fewest.index, varied].to_dict("records")
        shown = [
            f"{', '.join(f'{name} {value}' for name, value in one.items()) or 'all'}: {left} of {of}"
            for one, left, of in zip(named, fewest["left"], fewest["of"], strict=True)
        ]
        more = f"; and {len(shown) - _MOST_SHOWN} more conditions" if len(shown) > _MOST_SHOWN else ""
        warn(
            f"judged: {len(judged) - kept.sum()} of {len(judged)} answers keep no score: {incoherent.sum()} with a "
            f"coherence below {least:g} (of {most}), {coherence.isna().sum()} without one. An effect on the rest is "
            "not one on all. Left by condition: "
            f"{'; '.join(shown[:_MOST_SHOWN])}{more}."
        )
    scores = {name: judged[name].where(kept) for name in score_columns(judged)}
    return judged.assign(**scores, incoherent=incoherent)
