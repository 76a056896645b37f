"""Whether a vector's effect can be told before it is measured, from the activations that it was made from.

How well pairs agree, and how far apart their sides lie, goes along with how reliably a vector steers (Tan et al. 2024,
Braun et al. 2025). Here that is put to the test:

1. For each behavior and layer, take what :func:`caa_interp.reliability` measures, and the depth of the layer.
2. Leave out one behavior with all of its layers. Fit a ridge regression of the slope on the others; its penalty is
   the one that predicts each of these best from the rest of them.
3. Predict the slopes of the behavior that was left out, and compare with the measured ones, and with a prediction that
   knows no activations: the mean slope of the other behaviors at the same layer.

Layers of one behavior are alike, so that to leave out single layers would let the fit see the answer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from caa_interp.errors import InputError, check_table

FEATURES = ("agreement", "split_half", "separation", "variance_share", "relative_norm", "norm")
_EFFECTS = ("layer", "slope", "slope_low", "slope_high", "n", "format")
_PENALTIES = np.logspace(-2, 4, 13)


def predict_steerability(
    reliabilities: Mapping[str, pd.DataFrame], effects: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Predict the effect of each behavior's vector from its activations, by what holds for the other behaviors.

    Parameters
    ----------
    reliabilities
        Results of :func:`caa_interp.reliability` by behavior, at least three, on train pairs.
    effects
        Results of :func:`caa_interp.steerability` by behavior, of sweeps over held-out pairs at several layers, of one
        vector each and of pairs of one form. Layers that one of the two lacks are left out.

    Returns
    -------
    pandas.DataFrame
        One row per behavior and layer:

        - ``behavior``, ``layer``, ``slope`` with ``slope_low`` and ``slope_high``, ``n`` (held-out pairs) and
          ``format``: as measured;
        - ``predicted``: slope, in nats per token per unit of multiplier (for choices nats), from this behavior's
          activations, and measurements of the other behaviors alone;
        - ``baseline``: mean measured slope of the other behaviors at this layer; missing if they lack it;
        - ``rank_correlation`` (-1 to 1): Spearman's, of predicted and measured slopes over the layers of this behavior;
          missing with fewer than three layers;
        - ``skill`` (up to 1), the same in all rows: 1 minus the squared error of all predictions divided by that of
          the baselines. 0 is no better than to know the layer alone, and below 0 is worse.

    Raises
    ------
    InputError
        If fewer than three behaviors have a layer with all numbers, if the two do not hold the same ones, or a table is
        another.

    Notes
    -----
    A fit over eight behaviors is a weak one, and tells of behaviors, pairs and models like these. A large error for one
    behavior is no fault of its vector. Predictions are of raw vectors, whose norm is among the features.
    """
    _check(reliabilities, effects)
    rows = pd.concat(
        [
            effects[name][list(_EFFECTS)]
            .merge(reliabilities[name][["layer", *FEATURES]], on="layer")
            .assign(behavior=name)
            for name in effects
        ],
        ignore_index=True,
    ).dropna(subset=["slope", *FEATURES])
    if len(left := set(rows["behavior"])) < 3:
        lost = ", ".join(name for name in effects if name not in left)
        raise InputError(
            f"effects: {len(left)} behaviors are left, and to predict one from others takes at least 3: {lost} have no "
            "layer with all numbers in both tables. Measure both at the same layers."
        )
    depth = rows["layer"] / max(1, rows["layer"].max())
    known = rows[list(FEATURES)].assign(depth=depth, depth_squared=depth**2).to_numpy()
    rows["predicted"] = _left_out(known, rows["slope"].to_numpy(), rows["behavior"].to_numpy())
    totals, counts = (rows.groupby("layer")["slope"].transform(how) for how in ("sum", "count"))
    rows["baseline"] = ((totals - rows["slope"]) / (counts - 1)).where(counts > 1)
    rows["rank_correlation"] = rows["behavior"].map(
        {name: spearmanr(own["predicted"], own["slope"])[0] for name, own in rows.groupby("behavior") if len(own) > 2}
    )
    both = rows.dropna(subset="baseline")
    errors = [float(((both[name] - both["slope"]) ** 2).sum()) for name in ("predicted", "baseline")]
    rows["skill"] = 1 - errors[0] / errors[1] if errors[1] else np.nan
    return rows[["behavior", *_EFFECTS, "predicted", "baseline", "rank_correlation", "skill"]].reset_index(drop=True)


def _left_out(known: np.ndarray, slopes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Prediction of each row by a fit that has seen no row of its group."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import LeaveOneGroupOut
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    predicted, by_group = np.empty(len(slopes)), LeaveOneGroupOut()
    for others, mine in by_group.split(known, slopes, groups):
        folds = list(by_group.split(known[others], slopes[others], groups[others]))
        fit = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES, scoring="neg_mean_squared_error", cv=folds))
        predicted[mine] = fit.fit(known[others], slopes[others]).predict(known[mine])
    return predicted


def _check(reliabilities: Mapping[str, pd.DataFrame], effects: Mapping[str, pd.DataFrame]) -> None:
    if not isinstance(reliabilities, Mapping) or not isinstance(effects, Mapping):
        raise InputError("reliabilities, effects: give tables by behavior, such as {'refusal': caa.reliability(...)}.")
    if set(reliabilities) != set(effects):
        odd = sorted(set(reliabilities) ^ set(effects))
        raise InputError(f"effects: {odd[0]!r} is in one of the two only. Give both tables of every behavior.")
    if len(effects) < 3:
        raise InputError(f"effects: {len(effects)} behaviors; to predict one from others takes at least 3. Add some.")
    for source, needed, tables in (
        ("caa_interp.reliability", ("layer", *FEATURES), reliabilities),
        ("caa_interp.steerability", _EFFECTS, effects),
    ):
        for name, table in tables.items():
            check_table(table, needed, source, repr(name))
            if table["layer"].duplicated().any():
                raise InputError(f"{name!r}: a layer is there twice; give a result of {source} for one vector.")
    forms = {str(form) for table in effects.values() for form in table["format"]}
    if len(forms) > 1:
        raise InputError(f"effects: their slopes mix units, of the forms {sorted(forms)}. Give those of one form.")
