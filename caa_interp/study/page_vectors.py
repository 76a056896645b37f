"""Sections of a study's page on what the vectors are: made from the tables and vectors of one model.

Each function takes the model's results and the level of the sections' headings, 2 or 3; behaviors are one below.
"""

from __future__ import annotations

import pandas as pd

from caa_interp.analysis.similarity import cosine_similarity
from caa_interp.plotting.projection import plot_projection
from caa_interp.plotting.reliability import plot_reliability
from caa_interp.plotting.similarity import plot_cosine_similarity
from caa_interp.plotting.theme import escape
from caa_interp.report.page import Section
from caa_interp.study.findings import THRESHOLDS, estimate, warnings
from caa_interp.study.page_results import Results, row_where, rows_of

N_DRAWN = 200  # pairs of a behavior whose activations are drawn; more would cover one another, and make a heavy page
_RELIABILITY_NAMES = {
    "agreement": "agreement",
    "split_half": "split halves",
    "separation": "separation d'",
    "probe_accuracy": "probe accuracy",
    "letter_share": "letter share",
    "length_correlation": "length correlation",
}


def reliability(results: Results, level: int) -> list[Section]:
    """How far the vectors can be trusted, with warnings."""
    table = results.tables["reliability"]
    told = warnings(table, results.tables["layers"])
    rows = []
    for behavior, layer in results.chosen.items():
        row = row_where(results.of("reliability", behavior), "layer", layer)
        shown = {
            label: estimate(row, name, ".2f") for name, label in _RELIABILITY_NAMES.items() if row[name] == row[name]
        }
        vector = results.vectors.get(behavior)
        norm = float(vector.at(layer).norm()) if vector is not None else row["norm"]
        shown |= {"norm of the vector": f"{norm:.3g}", "share of activation norm": f"{row['relative_norm']:.3g}"}
        rows.append({"behavior": behavior, "layer": layer, "pairs": int(row["n"]), **shown})
    return [
        Section(
            "Reliability of the vectors",
            "A mean difference exists for any set of pairs. These statistics of the train pairs' activations tell "
            "whether the pairs share a direction, and whether it is one of letters or lengths.\n\n"
            + ("Warnings at the chosen layers:" if told else "There is no warning at any chosen layer."),
            plot_reliability({behavior: results.of("reliability", behavior) for behavior in results.chosen}),
            pd.DataFrame(rows).fillna(""),
            points=told,
            caption="The table shows the chosen layers, with the same intervals.",
            level=level,
        ),
        Section(
            "What a warning is given for",
            "",
            table=pd.DataFrame(THRESHOLDS, columns=["statistic", "threshold", "reason"]),
            level=level + 1,
        ),
    ]


def similarity(results: Results, level: int) -> list[Section]:
    """Cosines of the vectors, between behaviors and between layers."""
    vectors = {name: results.vectors[name] for name in results.chosen if name in results.vectors}
    sections = []
    if len(vectors) > 1:
        table = cosine_similarity(vectors, between="vectors")
        sections.append(
            Section(
                "Between behaviors",
                "",
                plot_cosine_similarity(table),
                caption="At each layer on its own"
                + (", which the slider chooses" if table["first_layer"].nunique() > 1 and len(vectors) > 2 else "")
                + ". A cosine is of two given vectors, so it has no n; the gray range is that of random directions "
                "and not a sampling interval.",
                level=level + 1,
            )
        )
    if vectors and max(len(vector.layers) for vector in vectors.values()) > 1:
        sections.append(
            Section(
                "Across layers",
                "",
                plot_cosine_similarity(cosine_similarity(vectors, between="layers")),
                caption="Every two layers of the same behavior's vector"
                + ("; the slider chooses the behavior." if len(vectors) > 1 else "."),
                level=level + 1,
            )
        )
    text = "Whether vectors point the same way, whatever their lengths: 1 the same direction, 0 none in common."
    return [Section("Cosine similarity of the vectors", text, level=level), *sections] if sections else []


def projections(results: Results, level: int) -> list[Section]:
    """Activations of held-out answers in two dimensions, a figure for each behavior."""
    sections = []
    for behavior in results.chosen:
        table = results.of("projection", behavior)
        if table.empty:
            continue
        items = table["item"].drop_duplicates()
        shown = table[table["item"].isin(items[:N_DRAWN])]
        caption = (
            "Each panel is one layer with components of its own, fitted to the answers it shows. One mark is the "
            "activation of one answer; there are no intervals."
        )
        if len(items) > N_DRAWN:
            caption += f" The components are fitted to {len(items)} pairs, of which the first {N_DRAWN} are drawn."
        fig = plot_projection(shown, title=escape(f"Activations of held-out answers: {behavior}"))
        sections.append(Section(behavior, "", fig, caption=caption, level=level + 1))
    text = (
        "Held-out answers at an early layer, at a third of the depth and at the chosen layer. The first components "
        "hold what differs most between the answers, which need not be the behavior."
    )
    return [Section("Activations", text, level=level), *sections]


def logit_lens(results: Results, level: int) -> list[Section]:
    """The tokens that each vector writes towards and away from."""
    rows = []
    for behavior, layer in results.chosen.items():
        table = rows_of(results.of("logit_lens", behavior), "layer", layer).sort_values("rank")
        tokens = {side: " · ".join(table.loc[table["side"] == side, "token"]) for side in ("promoted", "suppressed")}
        rows.append({"behavior": behavior, "layer": layer, **tokens})
    return [
        Section(
            "Vectors as tokens (logit lens)",
            "The tokens that each vector promotes and suppresses most, read through the final norm and the "
            "unembedding as if it were the whole state; the most extreme first. ␣ is a space. Later blocks change "
            "what an early layer's vector writes, so at early layers this says little.",
            table=pd.DataFrame(rows),
            level=level,
        )
    ]
