"""Everything that a study can measure, in the order of its page.

A new measurement is a function that makes its table, one that makes its part of the page, a line here, and the tasks
that ask for it (:mod:`caa_interp.study.tasks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from caa_interp.analysis.effect import effect_lens
from caa_interp.analysis.lens import logit_lens, steered_lens
from caa_interp.evaluation.cost import capability, perplexity, side_effects
from caa_interp.evaluation.divergence import divergence
from caa_interp.evaluation.interference import interference
from caa_interp.evaluation.sweep import sweep
from caa_interp.report.page import Section
from caa_interp.steering.generation import generate
from caa_interp.study import measures, sections
from caa_interp.study.results import Results


@dataclass(frozen=True)
class Kind:
    """One measurement.

    Parameters
    ----------
    run
        Called with the model and a task's arguments, and with ``prompt_format`` and ``progress`` if it takes them;
        returns a table.
    section
        Summarizes and plots the tables of one model for the page; returns no sections if they are not in the study.
    name
        What the page says is not part of a study without it; empty for what every study has.
    """

    run: Callable[..., pd.DataFrame]
    section: Callable[[Results], list[Section]] = lambda _: []
    name: str = ""


KINDS = {
    "tokens": Kind(measures.count_tokens),
    "sweep": Kind(sweep, sections.responses),
    "vectors": Kind(measures.make_vectors, sections.vectors),
    "projection": Kind(measures.project_pairs, sections.projections, "activations"),
    "logit_lens": Kind(logit_lens, sections.logit_lens, "the logit lens"),
    "effect_lens": Kind(effect_lens, sections.effect_lens, "the effect lens"),
    "answers": Kind(generate, sections.answers, "steered answers"),
    "perplexity": Kind(perplexity, sections.costs, "neutral prose"),  # one section for the three costs
    "divergence": Kind(divergence, sections.frontiers, "divergence from the unsteered model"),
    "capability": Kind(capability, name="questions with a right answer"),
    "side_effects": Kind(side_effects, sections.side_effects, "side effects"),
    "interference": Kind(interference, sections.interference, "interference of vectors"),
    # Off by default, both: a page does not miss them.
    "safety_audit": Kind(measures.audit, sections.safety_audits),
    "persistence": Kind(measures.converse, sections.conversations),
    # What the paper measures beyond a study (:mod:`caa_interp.paper`); these have no part of a study's page.
    "transferred": Kind(measures.sweep_transferred),
    "tuned": Kind(measures.measure_tuned),
    "steered_lens": Kind(steered_lens),
    "token_similarity": Kind(measures.answered_similarity),
}
