"""Sections of a study's page, made from the tables and vectors of one model."""

from __future__ import annotations

from typing import Any

import pandas as pd

from caa_interp import plotting
from caa_interp.analysis.similarity import cosine_similarity
from caa_interp.evaluation.response import steerability
from caa_interp.evaluation.verdicts import VERDICTS, verdicts
from caa_interp.plotting.words import dose
from caa_interp.report.page import Section
from caa_interp.study import findings as words
from caa_interp.study.maps import maps
from caa_interp.study.results import Results, shown_answers

N_DRAWN = 200  # pairs of a behavior whose activations are drawn; more would cover one another, and make a heavy page
N_LINES = 30  # pairs of a behavior whose responses are drawn, for the same reasons
_RELIABILITY = ("agreement", "split_half", "separation", "probe_accuracy", "letter_share", "length_correlation")


def responses(results: Results) -> list[Section]:
    """How scores respond: the verdicts, the multiplier beside controls, the layers, and how one was chosen."""
    return [*_findings(results), *_examples(results), *_response(results), *maps(results), *_layer_choice(results)]


def vectors(results: Results) -> list[Section]:
    """How far vectors can be trusted, and how alike they are."""
    return _reliability(results) + similarity(results)


def _findings(results: Results) -> list[Section]:
    """The verdict on each vector, as a figure and as a table."""
    effects = results.tables["effects"]
    caption = "Right of each row: the verdict, the share of pairs that move in the opposite direction, and n."
    meaning = (
        "The slope is the mean over held-out pairs of how much the score rises for each unit of the multiplier, with "
        "a bootstrap interval over pairs. Controls are vectors of the same norm: their lowest and highest slope, and "
        "their number. Opposite is the share of pairs whose slope is negative, with Wilson's 95 % "
        "interval.\n\n"
        "Each interval holds for one behavior by itself: of twenty vectors without any effect, about one would be "
        "expected to exclude 0 by chance."
    )
    verdict_words = pd.DataFrame(VERDICTS.items(), columns=["verdict", "meaning"])
    found = verdicts(effects)
    shown: dict[str, Any] = {"caption": caption, "finding": words.overall(found), "data": effects}
    return [
        Section("Findings", "", plotting.plot_steerability(effects), words.findings_table(found), **shown),
        Section("What a verdict means", meaning, table=verdict_words, level=3),
    ]


def _examples(results: Results) -> list[Section]:
    """Some pairs of each behavior, to see what it is about."""
    text = "The first held-out pairs of each behavior: the answer that shows it, and the one that does not."
    sections = []
    for behavior, table in results.each("examples"):
        pairs = table[["question", "positive", "negative"]]
        sections.append(Section(behavior, "", table=pairs, folded=True, level=3))
    return headed("Example pairs", text, sections)


def _response(results: Results) -> list[Section]:
    """The response to the multiplier beside that of controls."""
    summary, scores = results.responses, results.tables["dose_response"]
    operator, positions = scores[["operator", "positions"]].iloc[0]
    how = "added" if operator == "add" else f"applied with the operator {operator!r}"
    from_last = positions == "from_last_prompt_token"
    where = "from the last token of the prompt on" if from_last else f"at the positions {positions!r}"
    text = (
        f"Each behavior's vector is {how} at its chosen layer, {where}. A response that is the vector's own leaves the "
        "gray bands and has opposite signs on the two sides of 0."
    )
    caption = (
        "Upright bars are bootstrap intervals over pairs, each for its own multiplier; a gray band goes from the "
        "lowest mean of a kind of control to the highest. A thin line is one pair, of the first "
        f"{N_LINES} at most; hover over it to see which."
    )
    shown: dict[str, Any] = {"finding": words.largest_change(summary[summary["kind"] == "vector"]), "data": summary}
    each: dict[str, Any] = {"scores": scores[scores["item"] < N_LINES], "pairs": results.pairs}
    figure = plotting.plot_dose_responses(summary, effects=results.tables["effects"], **each)
    return [Section("Response to the multiplier", text, figure, caption=caption, **shown)]


def _layer_choice(results: Results) -> list[Section]:
    """Slopes by layer on validation pairs, and whether they hold on held-out pairs."""
    if "validation" not in results.tables:
        return []
    chosen, validation, scores = results.chosen, results.tables["validation"], results.tables["dose_response"]
    controls = scores[scores["kind"] != "vector"]
    scores = pd.concat([results.tables["sweep"], controls])
    # Slopes over other multipliers are other slopes.
    scores = scores[scores["multiplier"].isin(validation["multiplier"].unique())]
    before, held_out = (steerability(table, seed=results.seed) for table in (validation, scores))
    own = held_out[held_out["kind"] == "vector"]
    texts = {
        f"slope on {pairs} pairs (95 % interval)": words.intervals(chosen.merge(table), "slope")
        for pairs, table in {"validation": before, "held-out": own}.items()
    }
    text = (
        "For each behavior, the layer with the steepest mean response between the outermost multipliers on validation "
        "pairs: train pairs that the vector is not made from. If it is the steepest by chance, its slope is "
        "smaller on the held-out pairs, here over the same multipliers."
    )
    marked: dict[str, Any] = {"chosen": dict(chosen.itertuples(index=False)), "validation": before}
    figure = plotting.plot_layer_profile(held_out, **marked, title="Slope on both sets of pairs")
    table = chosen.rename(columns={"layer": "chosen layer"}).assign(**texts)
    caption = (
        "Lines with bands are slopes on held-out pairs, thin lines those on validation pairs. Intervals are bootstrap "
        "intervals over pairs."
    )
    if len(controls):
        caption += " Gray bars: controls on held-out pairs, which were measured at the chosen layers alone."
    data = pd.concat([before.assign(pairs="validation"), held_out.assign(pairs="held-out")])
    finding = words.chosen_again(chosen, own)
    return [Section("How the layer was chosen", text, figure, table, caption=caption, finding=finding, data=data)]


def _reliability(results: Results) -> list[Section]:
    """How far the vectors can be trusted, with warnings."""
    rows = results.chosen.merge(results.tables["reliability"]).rename(columns={"n": "pairs"})
    points = words.warnings(rows)
    texts = {
        words.spaced(name): words.intervals(rows, name, ".2f") for name in _RELIABILITY if rows[name].notna().any()
    }
    norm = [float(results.vectors[name].at(layer).norm()) for name, layer in results.chosen.itertuples(index=False)]
    norms: dict[str, Any] = {"norm of the vector": norm, "share of activation norm": rows["relative_norm"]}
    table = rows[["behavior", "layer", "pairs"]].assign(**texts, **norms)
    text = (
        "A mean difference exists for any set of pairs. These statistics of the train pairs' activations tell "
        "whether the pairs share a direction, and whether it is one of letters or lengths.\n\n"
        + ("Warnings at the chosen layers:" if points else "There is no warning at any chosen layer.")
    )
    figure = plotting.plot_reliability(dict(results.each("reliability")))
    caption = "The table shows the chosen layers, with the same intervals."
    reasons = pd.DataFrame({"warning": map(words.spaced, words.WARNINGS), "reason": words.WARNINGS.values()})
    shown: dict[str, Any] = {"caption": caption, "finding": words.agreement(rows, len(points))}
    shown["data"] = results.tables["reliability"]
    return [
        Section("Reliability of the vectors", text, figure, table, points=points, **shown),
        Section("Reasons for a warning", "", table=reasons, level=3),
    ]


def similarity(results: Results) -> list[Section]:
    """Cosines of the vectors, between behaviors and between layers."""
    text = "Whether vectors point in the same direction, whatever their norms: 1 is the same direction, 0 is unrelated."
    sections = []
    if len(results.vectors) > 1:
        table = cosine_similarity(results.vectors, between="vectors")
        shown: dict[str, Any] = {"finding": words.cosines(table), "data": table, "level": 3}
        caption = (
            "At each layer on its own; where there are several, a slider chooses one. A cosine is of two given "
            "vectors, so it has no n; the gray range is that of random directions and not a sampling interval."
        )
        sections.append(
            Section("Between behaviors", "", plotting.plot_cosine_similarity(table), caption=caption, **shown)
        )
    if max(len(vector.layers) for vector in results.vectors.values()) > 1:
        table = cosine_similarity(results.vectors, between="layers")
        shown = {"finding": words.cosines(table), "data": table, "level": 3}
        caption = "Every two layers of the same behavior's vector; where there are several, the slider chooses one."
        sections.append(Section("Across layers", "", plotting.plot_cosine_similarity(table), caption=caption, **shown))
    return headed("Cosine similarity of the vectors", text, sections)


def projections(results: Results) -> list[Section]:
    """Activations of held-out answers in two dimensions, a figure for each behavior."""
    text = (
        "Held-out answers at an early layer, at a third of the depth and at the chosen layer. The first components "
        "show what differs most between the answers, which need not be the behavior."
    )
    sections = []
    for behavior, table in results.each("projection"):
        items = table["item"].drop_duplicates()
        caption = (
            "Each panel is one layer with components of its own, fitted to the answers it shows. One mark is the "
            "activation of one answer; there are no intervals."
        )
        if len(items) > N_DRAWN:
            caption += f" The components are fitted to {len(items)} pairs, of which the first {N_DRAWN} are drawn."
        drawn = table[table["item"].isin(items[:N_DRAWN])]
        figure = plotting.plot_projection(drawn, title=f"Activations of held-out answers: {behavior}")
        shown: dict[str, Any] = {"finding": words.components(behavior, table), "data": drawn, "level": 3}
        sections.append(Section(behavior, "", figure, caption=caption, **shown))
    return headed("Activations", text, sections)


def separations(results: Results) -> list[Section]:
    """Activations of held-out answers along each vector, a figure for each behavior."""
    text = "The activations of held-out answers at the chosen layer, along the vector, which was not made from them."
    caption = (
        "0 is halfway between the means of both sides. d' is how far these are apart, in standard deviations of the "
        "answers, with a jackknife interval over pairs. The AUC is the chance that a positive answer lies farther "
        "along the vector than a negative one, 0.5 where it tells nothing, with Wilson's interval."
    )
    sections = []
    for behavior, table in results.each("separation"):
        shown: dict[str, Any] = {"finding": words.apart(behavior, table), "data": table, "level": 3}
        sections.append(Section(behavior, "", plotting.plot_separation(table), caption=caption, **shown))
    return headed("Answers along the vectors", text, sections)


def logit_lens(results: Results) -> list[Section]:
    """The tokens that each vector writes toward and away from."""
    if "logit_lens" not in results.tables:
        return []
    ranked = results.chosen.merge(results.tables["logit_lens"]).sort_values("rank")
    tokens = ranked.groupby(["behavior", "side"])["token"].agg(" · ".join).unstack()
    text = (
        "The tokens that each vector promotes and suppresses most, read through the final norm and the unembedding "
        "as if it were the whole state; the most extreme first. ␣ is a space. Later blocks change what an early "
        "layer's vector writes, so at early layers this says little."
    )
    table = results.chosen.join(tokens, on="behavior")
    return [Section("Vectors as tokens (logit lens)", text, table=table, data=results.tables["logit_lens"])]


def effect_lens(results: Results) -> list[Section]:
    """The tokens that each vector makes the model expect more and less, a figure for each behavior."""
    text = (
        "The unsteered model's own answers to open-ended questions, read under multipliers \N{MINUS SIGN}1 and 1 "
        "(0 and 1 for an operator that is complete at 1) at the chosen layer: the tokens whose log-probability rises "
        "and falls most. They need not be those that the model writes more often: many stay rare."
    )
    caption = "Intervals are Student's t over questions, each token by itself; the tokens are the most extreme of all."
    sections = []
    for behavior, table in results.each("effect_lens"):
        shown: dict[str, Any] = {"finding": words.said(behavior, table), "data": table, "level": 3}
        sections.append(Section(behavior, "", plotting.plot_effect_lens(table), caption=caption, **shown))
    return headed("What each vector makes the model say (effect lens)", text, sections)


def answers(results: Results) -> list[Section]:
    """Steered and unsteered answers side by side, a table for each behavior."""
    text = (
        "Answers to the behavior's first open-ended questions. Nothing was selected. […] marks an answer that was cut "
        "at the study's greatest length."
    )
    sections = []
    for behavior, table in results.each("answers"):
        wide = table.assign(answer=shown_answers(table))
        wide = wide.pivot(index=["item", "sample", "prompt"], columns="multiplier", values="answer")
        wide = wide.rename(columns=dose)
        at = f"At layer {table['layer'].iloc[0]}."
        sections.append(Section(behavior, at, table=wide.reset_index("prompt"), data=table, level=3))
    return headed("Steered answers", text, sections)


def headed(heading: str, text: str, parts: list[Section]) -> list[Section]:
    """Parts of a section under its heading; nothing if there are none."""
    return [Section(heading, text), *parts] if parts else []
