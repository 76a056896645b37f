"""All checks of a model, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from caa_interp.doctor.passes import (
    check_cache,
    check_evaluation_mode,
    check_extraction,
    check_left_padding,
    check_precision,
    check_token_tree,
    check_weights,
)
from caa_interp.doctor.prompting import check_bos, check_letters, check_prompt_form
from caa_interp.doctor.steered import check_hooks, check_multiplier_zero, check_opposites, check_positions
from caa_interp.doctor.subject import Check, Subject, Verdict
from caa_interp.errors import InputError
from caa_interp.models.access import steered
from caa_interp.progress import track

CHECKS: dict[str, Callable[[Subject], Verdict]] = {
    "weights": check_weights,
    "evaluation mode": check_evaluation_mode,
    "precision": check_precision,
    "BOS token": check_bos,
    "prompt form": check_prompt_form,
    "answer letters": check_letters,
    "token tree": check_token_tree,
    "extraction": check_extraction,
    "key-value cache": check_cache,
    "left padding": check_left_padding,
    "steered positions": check_positions,
    "multiplier 0": check_multiplier_zero,
    "opposite vectors": check_opposites,
    "hooks left behind": check_hooks,
}


def self_test(model: Any, *, seed: int = 0, progress: bool = True) -> list[Check]:
    """Check on a model what silently ruins a steering study.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    seed
        Seed of the directions with which it is steered; they have half the norm of the residual stream.
    progress
        Show a progress bar.

    Returns
    -------
    list of Check
        Always the same checks, in the same order. One that meets an unexpected exception has failed, and its
        ``detail`` says with what.

    Raises
    ------
    InputError
        If ``model`` is no TransformerLens model, or is being steered.

    Notes
    -----
    What is tolerated is what rounding explains: for log-probabilities 0.002 nats in float32 and 0.5 in bfloat16. The
    largest cost is some 60 short passes, and in half precision a copy of the weights in float32. The random state is
    left as it is.
    """
    if not hasattr(model, "hook_dict") or not hasattr(model, "run_with_hooks"):
        raise InputError(
            f"model: {type(model).__name__} is no TransformerLens model, so it cannot be steered. Load one with "
            "load_model."
        )
    if model in steered:
        raise InputError("model: it is being steered, so nothing could be compared. Leave the steer context.")
    subject = Subject(model, seed)
    checks = []
    for name, check in track(CHECKS.items(), "Checking", progress):
        checks.append(_examine(name, check, subject))
    return checks


def _examine(name: str, check: Callable[[Subject], Verdict], subject: Subject) -> Check:
    """Run one check; what it warns of is added to what it says."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            passed, detail = check(subject)
        # Whatever a model or its tokenizer raises is a finding about them, and must not hide those of other checks.
        except Exception as error:
            passed, detail = False, f"It stopped with {type(error).__name__}: {' '.join(str(error).split())}"
    said = dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)
    return Check(name, passed, " ".join([detail, *(f"Warning: {text}" for text in said)]))
