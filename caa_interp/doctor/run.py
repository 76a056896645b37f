"""All checks of a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from caa_interp.doctor import outside, passes, prompting, steered
from caa_interp.doctor.subject import Check, Subject, Verdict
from caa_interp.errors import InputError
from caa_interp.models import access
from caa_interp.progress import track

CHECKS: dict[str, Callable[[Subject], Verdict]] = {
    "weights": passes.check_weights,
    "evaluation mode": passes.check_evaluation_mode,
    "precision": passes.check_precision,
    "residual stream": outside.check_outside,
    "BOS token": prompting.check_bos,
    "prompt form": prompting.check_prompt_form,
    "answer letters": prompting.check_letters,
    "token tree": passes.check_token_tree,
    "extraction": passes.check_extraction,
    "key-value cache": passes.check_cache,
    "left padding": passes.check_left_padding,
    "steered positions": steered.check_positions,
    "multiplier 0": steered.check_multiplier_zero,
    "opposite vectors": steered.check_opposites,
    "hooks left behind": steered.check_hooks,
}


def self_test(model: Any, *, seed: int = 0, progress: bool = True) -> list[Check]:
    """Check a model for faults that silently ruin a steering study.

    Parameters
    ----------
    model
        A TransformerLens model, see :func:`caa_interp.load_model`.
    seed
        Seed of the random vector for steering, with half the norm of the residual stream.
    progress
        Show a progress bar.

    Returns
    -------
    list of Check
        Always the same checks in the same order. A check that raises an unexpected exception has failed, and its
        ``detail`` names the exception.

    Raises
    ------
    InputError
        If ``model`` is not a TransformerLens model, or is being steered.

    Notes
    -----
    Tolerances are those of rounding: for log-probabilities 0.002 nats in float32 and 0.5 in bfloat16. The cost is about
    60 short passes, a second copy of the weights from the model's files, and in half precision one in float32. The
    random state does not change.
    """
    if not hasattr(model, "hook_dict") or not hasattr(model, "run_with_hooks"):
        raise InputError(
            f"model: {type(model).__name__} is no TransformerLens model, so it cannot be steered. Load one with "
            "load_model."
        )
    if model in access.steered:
        raise InputError("model: it is being steered, so nothing could be compared. Leave the steer context.")
    subject = Subject(model, seed)
    return [_examine(name, check, subject) for name, check in track(CHECKS.items(), "Checking", progress)]


def _examine(name: str, check: Callable[[Subject], Verdict], subject: Subject) -> Check:
    """Run one check, and add its warnings to its detail."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        try:
            passed, detail = check(subject)
        # An exception from a model or its tokenizer must not hide the results of the other checks.
        except Exception as error:
            passed, detail = False, f"It stopped with {type(error).__name__}: {' '.join(str(error).split())}"
    texts = dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught)
    return Check(name, passed, " ".join([detail, *(f"Warning: {text}" for text in texts)]))
