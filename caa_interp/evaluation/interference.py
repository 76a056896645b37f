"""Two vectors at once: what each still does beside the other, at the same distance from the unsteered model.

1. Find each vector's multiplier at which it moves the model a given distance from its own answers.
2. Add two of them, each at its multiplier, and scale the two together until both move it that far.
3. The same with each vector's part along the other taken out, and with the sum of the raw vectors as one.
4. Score both behaviors under each of these, and ask questions that have a right answer.

Together they pay what one of them paid alone. So where they do not disturb each other, each keeps about 1/√2 of its
effect: the divergence of small steps that are independent adds up, and grows with the square of each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from caa_interp.behaviors.behavior import Behavior
from caa_interp.behaviors.pairs import ContrastPair, check_pairs
from caa_interp.errors import InputError, check_table
from caa_interp.evaluation.answers import own_answers
from caa_interp.evaluation.cost import capability, crossed
from caa_interp.evaluation.strength import at_target, check_target
from caa_interp.evaluation.summary import items_of, summarize
from caa_interp.evaluation.sweep import check_renderings, scoring_format, sweep
from caa_interp.evaluation.verdicts import excludes_zero
from caa_interp.progress import track
from caa_interp.prompts.conversation import Prompt
from caa_interp.prompts.format import PromptFormat, form_of
from caa_interp.prompts.rendering import Format
from caa_interp.statistics import bootstrap_ratio
from caa_interp.steering.intervention import Intervention, conditions
from caa_interp.steering.positions import Positions
from caa_interp.vectors.vector import SteeringVector, named_vectors, without

ALONE, UNSTEERED, BOTH, ORTHOGONALIZED, MERGED = "alone", "unsteered", "both", "orthogonalized", "merged"
QUESTIONS = "questions with a right answer"  # what they are called among the behaviors


def interference(
    model: Any,
    vectors: Mapping[str, SteeringVector],
    behaviors: Mapping[str, Behavior | Sequence[ContrastPair]],
    prompts: Sequence[Prompt],
    *,
    layers: int | Mapping[str, int],
    questions: Sequence[ContrastPair] | None = None,
    target: float = 0.1,
    n_pairs: int | None = None,
    format: Format | None = None,
    positions: Positions = "from_last_prompt_token",
    n_tokens: int = 32,
    system_prompt: str | None = None,
    prompt_format: PromptFormat | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Score behaviors under one vector and under every two, all at the same divergence from the unsteered model.

    Parameters
    ----------
    model, format, positions, system_prompt, prompt_format, progress
        As in :func:`caa_interp.sweep`; the vectors are added.
    vectors
        At least two steering vectors by the names of their behaviors; of two that are combined, each has the layer of
        the other.
    behaviors
        Behaviors by name, whose ``test`` pairs are scored, or the pairs themselves. One that has a vector is scored
        under that vector and each two with it; any other under all.
    prompts, n_tokens
        Prompts on whose answers, of at most ``n_tokens`` tokens, the divergence is measured; see
        :func:`caa_interp.evaluation.calibrate`.
    layers, n_pairs
        As in :func:`caa_interp.evaluation.side_effects`.
    questions
        Questions whose positive answer is the right one, such as ``load_questions("capability")``, asked under all
        conditions as by :func:`caa_interp.capability`; all of them, whatever ``n_pairs`` is. Default: none.
    target
        Mean divergence of every condition, in nats per token; above 0.

    Returns
    -------
    pandas.DataFrame
        The tables of :func:`caa_interp.sweep`, one row per item and condition, for :func:`caa_interp.summarize` and
        :func:`caa_interp.plotting.plot_interference`, with ``behavior`` (the measured one, or ``"questions with a right
        answer"``) and

        - ``correct`` (of questions): 1 where the right answer is the likelier one, else 0;
        - ``first``, ``second``: names of the vectors, the same if there is one, empty for none;
        - ``combination``: ``"unsteered"``, ``"alone"``, ``"both"`` (both are added, in the proportion in which each
          alone reaches the target), ``"orthogonalized"`` (each without its part along the other, in the same
          proportion) or ``"merged"`` (the sum of both as they are, added as one vector at the first one's layer);
        - ``second_multiplier``: multiplier of the second vector where there are two; ``multiplier`` is the first's;
        - ``target``, as given.

        What reaches the target at no multiplier, such as the orthogonalized vectors of two that are parallel, has no
        rows. :func:`caa_interp.evaluation.summarize_interference` gives the share of each effect that is kept.
    """
    check_target(target)
    if not isinstance(vectors, Mapping) or len(vectors) < 2 or UNSTEERED in vectors:
        raise InputError(f"vectors: give a mapping of at least two vectors by name, none of them {UNSTEERED!r}.")
    vectors = named_vectors(vectors)
    chosen, pairs = crossed(vectors, behaviors, layers, n_pairs)
    if questions:
        if QUESTIONS in {*vectors, *pairs}:
            raise InputError(f"behaviors: {QUESTIONS!r} are the questions. Give that one another name.")
        pairs[QUESTIONS] = check_pairs(questions, "questions")
    form = form_of(model, prompt_format)
    alone = {name: Intervention(one, chosen[name], positions=positions) for name, one in vectors.items()}
    format = scoring_format(format, conditions(model, alone, form))
    others = [name for name in pairs if name not in vectors]
    together = [two for two in combinations(vectors, 2) if others or {*two} & {*pairs}]
    for one, other in [*together, *(two[::-1] for two in together)]:
        if chosen[other] not in vectors[one].layers:
            raise InputError(
                f"layers: {one!r} has no layer {chosen[other]}, at which {other!r} is added; vectors that are combined "
                "need each other's layer. Extract both at all layers, or give one layer for all."
            )
    names = [*vectors, *(_name(*two, way) for two in together for way in (BOTH, ORTHOGONALIZED, MERGED))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"vectors: {twice[0]!r} would be the name of two conditions. Give the vectors other names.")
    check_renderings(form, pairs, format, system_prompt)
    sequences = own_answers(model, form, prompts, n_tokens, system_prompt)
    asked: dict[str, list[Intervention]] = {UNSTEERED: []}
    about = [{"vector": UNSTEERED, "first": "", "second": "", "combination": UNSTEERED, "second_multiplier": math.nan}]

    def ask(name: str, first: str, second: str, combination: str, several: Sequence[Intervention]) -> None:
        if own := at_target(model, several, sequences, target):
            asked[name] = own
            other = own[1].multiplier if len(own) > 1 else math.nan
            told = {"first": first, "second": second, "combination": combination, "second_multiplier": other}
            about.append({"vector": name, **told})

    for name in vectors:
        ask(name, name, name, ALONE, [alone[name]])
    for first, second in track(together, "Calibrating", progress):
        if first in asked and second in asked:
            for combination, several in _combined(asked[first][0], asked[second][0]).items():
                ask(_name(first, second, combination), first, second, combination, several)
    told = pd.DataFrame(about)
    tables = {}
    for name, scored in track(pairs.items(), "Measuring", progress):
        own = told[(told["first"] == name) | (told["second"] == name) | (name in others) | (told["first"] == "")]
        given = {one: asked[one] or None for one in own["vector"]}
        options: dict[str, Any] = {"format": format, "system_prompt": system_prompt, "prompt_format": prompt_format}
        ask_about = capability if questions and name == QUESTIONS else sweep
        tables[name] = own.merge(ask_about(model, given, scored, progress=False, **options), on="vector")
    return pd.concat(tables, names=["behavior"]).reset_index("behavior").reset_index(drop=True).assign(target=target)


def summarize_interference(table: pd.DataFrame, *, confidence: float = 0.95, seed: int = 0) -> pd.DataFrame:
    """Mean change under every condition, and the share of its effect alone that a vector keeps beside another.

    Parameters
    ----------
    table, confidence, seed
        Result of :func:`interference`; as in :func:`caa_interp.summarize`.

    Returns
    -------
    pandas.DataFrame
        The steered rows of :func:`caa_interp.summarize`, with ``first``, ``second``, ``combination`` and ``target``,
        and ``kept``: the change of the log-probability difference over that under the behavior's own vector alone, 1
        for no loss, with ``kept_low`` and ``kept_high``, whose interval is
        :func:`caa_interp.statistics.bootstrap_ratio` over the pairs that both have. Missing where the interval of the
        change alone includes 0, and for behaviors without a vector. What questions lose is in ``correct`` and
        ``correct_change``.
    """
    told = ["first", "second", "combination", "target"]
    check_table(table, {"behavior", "vector", *told}, "caa_interp.evaluation.interference")
    about = table[["vector", *told]].drop_duplicates()
    summary = summarize(table, confidence=confidence, seed=seed).merge(about, on="vector")
    change = "logit_difference_change"
    alone = (summary["combination"] == ALONE) & (summary["first"] == summary["behavior"])
    clear = np.flatnonzero(alone & excludes_zero(summary, change))
    own: dict[Any, int] = {summary["behavior"].iloc[row]: int(row) for row in clear}
    effects = items_of(table)[-1][change]  # of each item, in the order of the summary
    kept = np.full((len(summary), 3), np.nan)
    for row, behavior in enumerate(summary["behavior"]):
        if behavior in own:
            both = effects[:, [row, own[behavior]]]
            over, under = both[~np.isnan(both).any(axis=1)].T
            kept[row] = bootstrap_ratio(over, under, np.random.default_rng(seed), confidence)
    summary = summary.assign(kept=kept[:, 0], kept_low=kept[:, 1], kept_high=kept[:, 2])
    return summary[summary["combination"] != UNSTEERED].reset_index(drop=True)


def _name(first: str, second: str, combination: str) -> str:
    """What a table calls two vectors together."""
    return f"{first} + {second}" + (f", {combination}" if combination != BOTH else "")


def _combined(one: Intervention, other: Intervention) -> dict[str, list[Intervention]]:
    """Two calibrated interventions together, in each way."""
    both = one.vector.at(one.layer) + other.vector.at(one.layer).to(one.vector.values)
    return {
        BOTH: [one, other],
        ORTHOGONALIZED: [
            replace(each, vector=without(each.vector, rival.vector, each.layer))
            for each, rival in ((one, other), (other, one))
        ],
        MERGED: [replace(one, vector=replace(one.vector, values=both[None], layers=(one.layer,)), multiplier=1.0)],
    }
