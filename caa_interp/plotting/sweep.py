"""Figure of a sweep: every layer and multiplier at once."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from caa_interp.errors import InputError
from caa_interp.evaluation.summary import by_series, quantity, summarized
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.plotting import checks, theme, words
from caa_interp.plotting.grid import cell_marks, missing, name_multipliers, signed_map, thinned
from caa_interp.plotting.theme import Measure


def plot_sweep(
    table: pd.DataFrame,
    *,
    measure: Measure = "logit_difference",
    vector: str | None = None,
    limit: float | None = None,
) -> go.Figure:
    """Map of the mean score over layers and multipliers, as the change from the unsteered model.

    Conditions of several interventions, with no single layer and multiplier, are left out.

    Parameters
    ----------
    table
        Result of :func:`caa_interp.sweep` or :func:`caa_interp.summarize`.
    measure
        ``"logit_difference"`` (nats) or ``"p_positive"`` (0 to 1).
    vector
        Name of the vector to show; default: the first.
    limit
        Value at which the colors end on both sides, larger than 0, to give several maps one scale; default: the
        largest of the vector and of the controls in the table.

    Returns
    -------
    plotly.graph_objects.Figure
        Heatmap centered on zero, the unsteered model; without multiplier 0 or unsteered rows, the score itself
        centered on indifference. Multipliers stand to scale. A dot marks cells whose change has an interval that
        excludes zero, each by itself; a cross, cells that were not measured.
    """
    if limit is not None and not limit > 0:
        raise InputError(f"limit: {limit!r}; it must be larger than 0, such as the largest change of all your maps.")
    summary = pd.concat(by_series(summarized(table, measure)))
    names = list(summary["vector"].unique())
    if vector is not None and vector not in names:
        raise InputError(f"vector: {vector!r} is not in the table; it holds {names}.")
    name = str(vector if vector is not None else names[0])
    rows = summary[summary["vector"] == name].sort_values("layer")
    if rows[measure].isna().all():
        raise InputError(f"table: {name!r} has no value of {measure!r}; give a vector that was scored.")
    checks.check_once(rows, ("layer", "multiplier"), "caa_interp.sweep")
    unit = words.with_unit(*quantity(rows, measure))
    column = checks.shown(rows, measure)
    is_change = column != measure
    middle = 0.5 if measure == "p_positive" and not is_change else 0.0
    cells = rows.assign(
        value=rows[column] - middle,
        certain=excludes_zero(rows, column) & is_change,
        known=words.estimates(rows, column, words.unit(rows, measure)),
    )
    shown, certain, known = (
        cells.pivot(index="layer", columns="multiplier", values=one).rename(index="{:g}".format)
        for one in ("value", "certain", "known")
    )
    certain = certain.eq(True)
    kinds = summary.get("kind", pd.Series("vector", summary.index))
    values = pd.concat([rows[column], summary.loc[kinds != "vector", column]])
    largest = float((values - middle).abs().max())
    unsteered = rows.loc[rows["multiplier"] == 0, measure].dropna()
    crosses, lacking = missing(shown)
    fig = theme.figure(
        f"{name}: effect by layer and multiplier",
        f"mean over {words.counts(rows['n'])} pairs"
        + (f"; unsteered: {words.factor(unsteered.iloc[0], '.2f')}" if len(unsteered) else "")
        + (f"; dots: {words.interval(rows)} excludes 0" if certain.any(axis=None) else "")
        + lacking,
        height=min(900, max(420, 90 + 17 * len(shown))),
    )
    what = "change from unsteered" if is_change else "from indifference"
    hover = "layer %{y}, multiplier %{x}: %{customdata}<extra></extra>"
    told = {"x": list(shown.columns), "customdata": known.to_numpy(), "hovertemplate": hover}
    drawn = signed_map(shown, f"{what}<br>{unit}", limit=limit or largest, **told)
    fig.add_traces([drawn, cell_marks(certain), crosses])
    name_multipliers(fig, list(map(float, shown.columns)))
    fig.update_xaxes(showgrid=False)
    fig.update_yaxes(title_text=theme.LAYER, type="category", tickvals=thinned(list(shown.index)), showgrid=False)
    return fig
