"""Sections of a study's page, made from the tables and vectors of one model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from caa_interp.analysis.similarity import cosine_similarity
from caa_interp.evaluation.summary import COSTS, shown_column, steerability, summarize
from caa_interp.plotting.cost import plot_cost
from caa_interp.plotting.dose_response import plot_dose_responses
from caa_interp.plotting.layer_choice import plot_layer_choice
from caa_interp.plotting.projection import plot_projection
from caa_interp.plotting.reliability import plot_reliability
from caa_interp.plotting.side_effects import plot_side_effects
from caa_interp.plotting.similarity import plot_cosine_similarity
from caa_interp.plotting.sweep import plot_sweep
from caa_interp.plotting.theme import escape, factor
from caa_interp.report.page import Section
from caa_interp.study.findings import THRESHOLDS, estimate, warnings
from caa_interp.vectors.vector import SteeringVector

N_DRAWN = 200  # pairs of a behavior whose activations are drawn; more would cover one another, and make a heavy page
_COST_NAMES = {
    "nats_per_token": "surprise at prose (nats per token)",
    "divergence": "divergence from unsteered (KL, nats per token)",
    "correct": "share of right answers",
}
_RELIABILITY_NAMES = {
    "agreement": "agreement",
    "split_half": "split halves",
    "separation": "separation d'",
    "probe_accuracy": "probe accuracy",
    "letter_share": "letter share",
    "length_correlation": "length correlation",
}


@dataclass(frozen=True)
class Results:
    """A run's nonempty tables by name, with one model's rows, and this model's vectors by behavior."""

    tables: Mapping[str, pd.DataFrame]
    vectors: Mapping[str, SteeringVector]

    @property
    def chosen(self) -> dict[str, int]:
        """The chosen layer of each behavior, in the order of the study."""
        layers = self.tables["layers"]
        return {str(name): int(layer) for name, layer in zip(layers["behavior"], layers["layer"], strict=True)}

    def each(self, name: str) -> Iterator[tuple[str, int, pd.DataFrame]]:
        """Each behavior with rows in a table, its chosen layer, and these rows."""
        for behavior, layer in self.chosen.items():
            rows = rows_of(self.tables[name], "behavior", behavior) if name in self.tables else pd.DataFrame()
            if len(rows):
                yield behavior, layer, rows


def rows_of(table: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    """Rows of a table that have a value in a column."""
    return table[table[column] == value].reset_index(drop=True)


def _row(table: pd.DataFrame, column: str, value: object) -> dict[str, Any]:
    """The one row of a table that has a value in a column."""
    (row,) = table[table[column] == value].to_dict("records")
    return {str(name): cell for name, cell in row.items()}


def responses(results: Results) -> list[Section]:
    """How scores respond: to the multiplier beside controls, to the layer, and on which pairs it was chosen."""
    return _response(results) + _sweeps(results) + _layer_choice(results)


def vectors(results: Results) -> list[Section]:
    """How far vectors can be trusted, and how alike they are."""
    return _reliability(results) + _similarity(results)


def _response(results: Results) -> list[Section]:
    return [
        Section(
            "Response to the multiplier",
            "Each behavior's vector is added at its chosen layer, from the last token of the prompt on. A response "
            "that is the vector's own leaves the gray bands and has opposite signs on the two sides of 0.",
            plot_dose_responses(results.tables["dose_response"]),
            caption="Change from the unsteered model, paired over pairs. Upright bars are bootstrap intervals over "
            "pairs, each for its own multiplier; a gray band goes from the lowest mean of a kind of control to the "
            "highest.",
        )
    ]


def _sweeps(results: Results) -> list[Section]:
    """A map of layers and multipliers for each behavior."""
    text = (
        "The vector of every layer is added after that layer, with every multiplier, and scored on the held-out "
        "pairs. The layer was not chosen on these maps."
    )
    caption = (
        "Mean change from the unsteered model, whose own mean is given as unsteered; blue is towards the behavior. A "
        "map shows no intervals: those of the chosen layer, {layer}, are in the figure before."
    )
    return [Section("Layers and multipliers", text)] + [
        Section(
            behavior,
            "",
            plot_sweep(summarize(table), vector=behavior),
            caption=caption.format(layer=layer),
            level=3,
            half=True,
        )
        for behavior, layer, table in results.each("sweep")
    ]


def _layer_choice(results: Results) -> list[Section]:
    """Slopes by layer on validation pairs, and whether they hold on held-out pairs."""
    if "validation" not in results.tables:
        return []
    swept = results.tables["sweep"]
    # Slopes over other multipliers are other slopes.
    same = swept["multiplier"].isin(results.tables["validation"]["multiplier"].unique())
    slopes = {"validation": steerability(results.tables["validation"]), "held-out": steerability(swept[same])}
    rows = []
    for behavior, layer in results.chosen.items():
        own = {pairs: rows_of(table, "behavior", behavior) for pairs, table in slopes.items()}
        estimates = {
            f"slope on {pairs} pairs (95 % interval)": estimate(_row(table, "layer", layer), "slope")
            for pairs, table in own.items()
        }
        steepest = own["held-out"]["layer"].iloc[own["held-out"]["slope"].argmax()]
        rows.append(
            {
                "behavior": behavior,
                "chosen layer": layer,
                **estimates,
                "steepest layer of held-out pairs": int(steepest),
            }
        )
    return [
        Section(
            "How the layer was chosen",
            "For each behavior, the layer with the steepest mean response between the outermost multipliers on "
            "validation pairs: train pairs that the vector is not made from. Where it is the steepest by chance, its "
            "slope is smaller on the held-out pairs, here over the same multipliers.",
            plot_layer_choice(slopes["validation"], slopes["held-out"], results.chosen),
            pd.DataFrame(rows),
            caption="Intervals are bootstrap intervals over pairs.",
        )
    ]


def _reliability(results: Results) -> list[Section]:
    """How far the vectors can be trusted, with warnings."""
    points = warnings(results.tables["reliability"], results.tables["layers"])
    rows = []
    for behavior, layer, table in results.each("reliability"):
        row = _row(table, "layer", layer)
        estimates = {
            label: estimate(row, name, ".2f") for name, label in _RELIABILITY_NAMES.items() if row[name] == row[name]
        }
        vector = results.vectors.get(behavior)
        norm = float(vector.at(layer).norm()) if vector is not None else row["norm"]
        norms = {"norm of the vector": f"{norm:.3g}", "share of activation norm": f"{row['relative_norm']:.3g}"}
        rows.append({"behavior": behavior, "layer": layer, "pairs": int(row["n"]), **estimates, **norms})
    return [
        Section(
            "Reliability of the vectors",
            "A mean difference exists for any set of pairs. These statistics of the train pairs' activations tell "
            "whether the pairs share a direction, and whether it is one of letters or lengths.\n\n"
            + ("Warnings at the chosen layers:" if points else "There is no warning at any chosen layer."),
            plot_reliability({behavior: table for behavior, _, table in results.each("reliability")}),
            pd.DataFrame(rows).fillna(""),
            points=points,
            caption="The table shows the chosen layers, with the same intervals.",
        ),
        Section(
            "What a warning is given for",
            "",
            table=pd.DataFrame(THRESHOLDS, columns=["statistic", "threshold", "reason"]),
            level=3,
        ),
    ]


def _similarity(results: Results) -> list[Section]:
    """Cosines of the vectors, between behaviors and between layers."""
    vectors = {name: results.vectors[name] for name in results.chosen if name in results.vectors}
    sections = []
    if len(vectors) > 1:
        table = cosine_similarity(vectors, between="vectors")
        slider = ", which the slider chooses" if table["first_layer"].nunique() > 1 and len(vectors) > 2 else ""
        caption = (
            f"At each layer on its own{slider}. A cosine is of two given vectors, so it has no n; the gray range is "
            "that of random directions and not a sampling interval."
        )
        sections.append(Section("Between behaviors", "", plot_cosine_similarity(table), caption=caption, level=3))
    if vectors and max(len(vector.layers) for vector in vectors.values()) > 1:
        slider = "; the slider chooses the behavior" if len(vectors) > 1 else ""
        figure = plot_cosine_similarity(cosine_similarity(vectors, between="layers"))
        caption = f"Every two layers of the same behavior's vector{slider}."
        sections.append(Section("Across layers", "", figure, caption=caption, level=3))
    text = "Whether vectors point the same way, whatever their lengths: 1 the same direction, 0 none in common."
    return [Section("Cosine similarity of the vectors", text), *sections] if sections else []


def projections(results: Results) -> list[Section]:
    """Activations of held-out answers in two dimensions, a figure for each behavior."""
    text = (
        "Held-out answers at an early layer, at a third of the depth and at the chosen layer. The first components "
        "hold what differs most between the answers, which need not be the behavior."
    )
    sections = [Section("Activations", text)] if "projection" in results.tables else []
    for behavior, _, table in results.each("projection"):
        items = table["item"].drop_duplicates()
        caption = (
            "Each panel is one layer with components of its own, fitted to the answers it shows. One mark is the "
            "activation of one answer; there are no intervals."
        )
        if len(items) > N_DRAWN:
            caption += f" The components are fitted to {len(items)} pairs, of which the first {N_DRAWN} are drawn."
        drawn = table[table["item"].isin(items[:N_DRAWN])]
        figure = plot_projection(drawn, title=escape(f"Activations of held-out answers: {behavior}"))
        sections.append(Section(behavior, "", figure, caption=caption, level=3))
    return sections


def logit_lens(results: Results) -> list[Section]:
    """The tokens that each vector writes towards and away from."""
    rows = []
    for behavior, layer, table in results.each("logit_lens"):
        ranked = rows_of(table, "layer", layer).sort_values("rank")
        tokens = {side: " · ".join(rows_of(ranked, "side", side)["token"]) for side in ("promoted", "suppressed")}
        rows.append({"behavior": behavior, "layer": layer, **tokens})
    if not rows:
        return []
    return [
        Section(
            "Vectors as tokens (logit lens)",
            "The tokens that each vector promotes and suppresses most, read through the final norm and the "
            "unembedding as if it were the whole state; the most extreme first. ␣ is a space. Later blocks change "
            "what an early layer's vector writes, so at early layers this says little.",
            table=pd.DataFrame(rows),
        )
    ]


def answers(results: Results) -> list[Section]:
    """Steered and unsteered answers side by side, a table for each behavior."""
    text = (
        "Answers to the behavior's first open-ended questions. Nothing was selected. […] marks an answer that was cut "
        "at the study's greatest length."
    )
    sections = [Section("Steered answers", text)] if "answers" in results.tables else []
    for behavior, layer, table in results.each("answers"):
        cut = table["finished"].map({True: "", False: " […]"})
        table = table.assign(answer=table["answer"].str.strip() + cut)
        wide = table.pivot(index=["item", "sample", "prompt"], columns="multiplier", values="answer")
        multipliers = sorted(table["multiplier"].unique())
        wide.columns = pd.Index([f"multiplier {factor(one, '+g')}" if one else "unsteered" for one in multipliers])
        sections.append(Section(behavior, f"At layer {layer}.", table=wide.reset_index("prompt"), level=3))
    return sections


def costs(results: Results) -> list[Section]:
    """What steering costs: a table of all behaviors, and a figure for each layer that was chosen."""
    kinds = ("perplexity", "divergence", "capability")
    summaries: dict[str, dict[str, pd.DataFrame]] = {}
    for kind in kinds:
        for behavior, _, table in results.each(kind):
            summaries.setdefault(behavior, {})[kind] = summarize(table)
    if not summaries:
        return []
    rows = []
    for behavior, layer in results.chosen.items():
        own = list(summaries.get(behavior, {}).values())
        multipliers = sorted(set(own[0]["multiplier"]) - {0.0}) if own else []
        for multiplier in sorted({*multipliers[:1], *multipliers[-1:]}):
            row = {"behavior": behavior, "layer": layer, "multiplier": factor(multiplier, "+g")}
            for summary in own:
                at = _row(summary, "multiplier", multiplier)
                row |= {_COST_NAMES[name]: estimate(at, shown_column(at, name)) for name in COSTS if name in at}
            rows.append(row)
    text = (
        "What else changes when the vector is added at the chosen layer: how surprising the model finds neutral "
        "prose, how far its words move from those that it would have answered unsteered, and how many two-option "
        "questions it answers right. The table shows the outermost multipliers, as changes from unsteered, with "
        "95 % intervals."
    )
    sections = [Section("What steering costs", text, table=pd.DataFrame(rows).fillna(""))]
    for layer in sorted(set(results.chosen.values())):
        behaviors = [behavior for behavior, at_layer in results.chosen.items() if at_layer == layer]
        parts = [[summaries[name][kind] for name in behaviors if kind in summaries.get(name, {})] for kind in kinds]
        if any(parts):
            figure = plot_cost(*(pd.concat(part) for part in parts if part))
            caption = (
                f"{', '.join(behaviors)}. Upright bars are bootstrap intervals over items: passages, prompts and "
                "questions."
            )
            sections.append(Section(f"Layer {layer}", "", figure, caption=caption, level=3))
    return sections


def side_effects(results: Results) -> list[Section]:
    """Every behavior under every vector."""
    if "side_effects" not in results.tables:
        return []
    return [
        Section(
            "Side effects",
            "Each behavior's vector steers, and every behavior is measured. Off the diagonal a vector moves what it "
            "was not made for.",
            plot_side_effects(results.tables["side_effects"]),
            caption="Mean slope over held-out pairs of the measured behavior, each vector at its own chosen layer. "
            "Intervals are bootstrap intervals over pairs, each cell by itself.",
        )
    ]
