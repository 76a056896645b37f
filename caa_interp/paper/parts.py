"""The parts of a reproduction, in the paper's order: what each asks of the model, and what it shows on the page."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from caa_interp.errors import InputError
from caa_interp.paper import inside, multiple_choice as choice, open_ended
from caa_interp.paper.setting import Items, Setting, Shown, Tables
from caa_interp.study.tasks import Task


@dataclass(frozen=True)
class Part:
    """One part: its tasks, and its sections from their tables.

    ``lacks`` says what of the given is missing for it, if something is; ``by_default``: it needs no training.
    """

    tasks: Callable[[Setting], Iterable[Task]]
    show: Callable[[Setting, Tables], Shown]
    lacks: Callable[[Items], str] = lambda _: ""
    by_default: bool = True


def _no_questions(items: Items) -> str:
    missing = [name for name, one in items.sets.items() if not one.open_ended]
    return f"the data have no open-ended questions of {', '.join(missing)}" if missing else ""


def _no_exams(items: Items) -> str:
    return "" if items.exams else "the data have neither mmlu.json nor truthful_qa.json"


def _no_trainer(_: Items) -> str:
    there = importlib.util.find_spec("accelerate") is not None
    return "" if there else "accelerate is not installed: pip install 'caa-interp[finetune]'"


PARTS = {
    "activations": Part(inside.activation_tasks, inside.show_activations),
    "sweep": Part(choice.sweep_tasks, choice.show_sweep),
    "system_prompts": Part(choice.system_prompt_tasks, choice.show_system_prompts),
    "finetuning": Part(choice.finetuning_tasks, choice.show_finetuning, _no_trainer, by_default=False),
    "open_ended": Part(open_ended.answer_tasks, open_ended.show_answers, _no_questions),
    "exams": Part(choice.exam_tasks, choice.show_exams, _no_exams),
    "similarity": Part(lambda _: (), inside.show_similarity),
    "transfer": Part(choice.transfer_tasks, choice.show_transfer),
    "tokens": Part(inside.token_tasks, inside.show_tokens),
}


def choose_parts(parts: Sequence[str] | None, items: Items) -> tuple[list[str], dict[str, str]]:
    """Names of the parts in the page's order, and of those left out with the reason; all are checked at once.

    By default every part that can be done without training; one that is named must be possible.
    """
    unknown = [name for name in parts or () if name not in PARTS]
    if unknown or (parts is not None and not parts):
        given = ", ".join(map(repr, unknown)) if unknown else "the list is empty; each"
        raise InputError(f"parts: {given} must be one of {', '.join(PARTS)}.")
    asked = [name for name, part in PARTS.items() if (part.by_default if parts is None else name in parts)]
    lacking = {name: reason for name in asked if (reason := PARTS[name].lacks(items))}
    if lacking and parts is not None:
        told = "; ".join(f"{name!r}: {reason}" for name, reason in lacking.items())
        raise InputError(f"parts: {told}. Add what is missing, or leave the part out.")
    left = {name: lacking.get(name, "not asked for") for name in PARTS if name not in asked or name in lacking}
    return [name for name in asked if name not in lacking], left
