"""Everything that a study can measure, in the order of its page.

A new measurement is a line here, and a module with a function that makes its table, one for the tasks that ask for it,
one for its part of the page and, if it has one, its sentence on the first screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pandas as pd

from caa_interp.analysis.effect import effect_lens
from caa_interp.analysis.lens import logit_lens, steered_lens
from caa_interp.evaluation.audit import safety_audit
from caa_interp.evaluation.cost import capability, perplexity, side_effects
from caa_interp.evaluation.divergence import divergence
from caa_interp.evaluation.interference import interference
from caa_interp.evaluation.sweep import sweep
from caa_interp.report.page import Section
from caa_interp.steering.generation import generate
from caa_interp.study import chosen, combinations, consequences, findings as words, measures, rivals, sections
from caa_interp.study.chosen import Study
from caa_interp.study.results import Results
from caa_interp.study.tasks import Task, score_tasks, vector_tasks


@dataclass(frozen=True)
class Kind:
    """One measurement.

    Parameters
    ----------
    run
        Called with the model and a task's arguments, and with ``prompt_format`` and ``progress`` if it takes them;
        returns a table.
    tasks
        What is asked once vectors and layers are chosen; none of a kind that belongs to an earlier stage.
    section
        Summarizes and plots the tables of one model for the page; returns no sections if they are not in the study.
    name
        What the page says is not part of a study without it; empty for what every study has.
    sentence
        What the first screen says of it; empty if it is not in the study.
    """

    run: Callable[..., pd.DataFrame]
    tasks: Callable[[Study], Iterable[Task]] = lambda _: ()
    section: Callable[[Results], list[Section]] = lambda _: []
    name: str = ""
    sentence: Callable[[Results], str] = lambda _: ""


KINDS = {
    "tokens": Kind(measures.check_fit),
    "rival_tokens": Kind(measures.check_rival),
    "sweep": Kind(sweep, chosen.controls, sections.responses),
    "vectors": Kind(measures.make_vectors, section=sections.vectors),
    "projection": Kind(measures.project_pairs, chosen.projection, sections.projections, "activations"),
    "separation": Kind(
        measures.separate_pairs, chosen.separation, sections.separations, "held-out answers along the vector"
    ),
    "logit_lens": Kind(logit_lens, chosen.logit_lens, sections.logit_lens, "the logit lens"),
    "effect_lens": Kind(effect_lens, chosen.effect_lens, sections.effect_lens, "the effect lens"),
    "answers": Kind(generate, chosen.answers, sections.answers, "steered answers"),
    # One section for all costs.
    "perplexity": Kind(perplexity, chosen.perplexity, consequences.costs, "neutral prose"),
    "divergence": Kind(divergence, chosen.divergence, consequences.frontiers, "divergence from the unsteered model"),
    "capability": Kind(capability, chosen.capability, name="questions with a right answer"),
    "side_effects": Kind(side_effects, chosen.side_effects, consequences.side_effects, "side effects"),
    "interference": Kind(
        interference,
        chosen.interference,
        consequences.interference,
        "interference of vectors",
        lambda results: words.kept_beside(results.interference),
    ),
    # Off by default, all of these: a page does not miss them.
    "combinations": Kind(measures.measure_combined, combinations.measurements, combinations.section),
    "rivals": Kind(measures.measure_rival, rivals.measurements, rivals.section),
    "safety_audit": Kind(
        safety_audit,
        chosen.safety_audit,
        consequences.safety_audits,
        sentence=lambda results: words.audits(results.audits),
    ),
    "persistence": Kind(
        measures.converse,
        chosen.persistence,
        consequences.conversations,
        sentence=lambda results: words.conversations(results.conversations),
    ),
    # What the paper measures beyond a study (:mod:`caa_interp.paper`); these have no part of a study's page.
    "transferred": Kind(measures.sweep_transferred),
    "tuned": Kind(measures.measure_tuned),
    "steered_lens": Kind(steered_lens),
    "token_similarity": Kind(measures.answered_similarity),
}


def remaining_tasks(study: Study) -> list[Task]:
    """Tasks of all measurements at the chosen layers."""
    return [task for kind in KINDS.values() for task in kind.tasks(study)]


def every_task(study: Study) -> list[Task]:
    """Tasks of all stages but :func:`~caa_interp.study.tasks.check_tasks`."""
    return [
        *vector_tasks(study.config, study.splits, study.layers),
        *score_tasks(study.config, study.splits, study.layers, study.vectors),
        *remaining_tasks(study),
    ]
