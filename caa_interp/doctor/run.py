"""All checks of a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from caa_interp.doctor import outside, passes, prompting, steered
from caa_interp.doctor.subject import Check, Subject, Verdict
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

# What a failed check means for a study, and what to do.
ADVICE = {
    "weights": "Vectors and scores may be NaN or infinite. Load the model again, in bfloat16 or float32.",
    "evaluation mode": "Every pass gives other numbers, so no effect can be measured. Call model.eval().",
    "precision": "Effects of this size drown in rounding. Load the model with dtype='float32'.",
    "residual stream": "What is read and steered here is not the model that others run. Update TransformerLens, or use "
    "another model.",
    "BOS token": "The model reads prompts in a form it was not trained on. Correct the tokenizer's configuration.",
    "prompt form": "Steering would begin at another token than the paper's. Choose another PromptFormat, or text form.",
    "answer letters": "Scores in choices form compare something else than the letters. Use format='text'.",
    "token tree": "Scores of sweeps are wrong. Report this model to the makers of caa_interp, and use another one.",
    "extraction": "Vectors are not differences of this model's residual streams. Report it, and use another model.",
    "key-value cache": "Generated answers are not the model's. Update transformers and TransformerLens.",
    "left padding": "Answers depend on the prompts beside them. Generate one prompt at a time.",
    "steered positions": "Answers are steered at the wrong tokens. Remove your own hooks, or report it.",
    "multiplier 0": "Steered and unsteered answers differ although nothing is added. Remove your own hooks.",
    "opposite vectors": "The effect of a vector does not turn with its sign. Load the model in float32, and try again.",
    "hooks left behind": "What ran before still changes the model. Call model.reset_hooks(), or load it again.",
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
    access.check_model(model)
    access.check_unsteered(model, "Check it")
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
    advice = [ADVICE[name]] if passed is False else []
    return Check(name, passed, " ".join([detail, *advice, *(f"Warning: {text}" for text in texts)]))
