"""Checks that the model gives the same results however this package runs it."""

from __future__ import annotations

import functools
from typing import Any

import torch

from caa_interp.doctor.subject import (
    N_LIKELY,
    N_NEW,
    PAIRS,
    PROMPTS,
    Subject,
    Verdict,
    largest,
    likely_difference,
    parts_of,
    post,
    relative_difference,
    wide,
)
from caa_interp.errors import ModelError
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import input_device, model_id, n_layers
from caa_interp.models.attention import takes_tree_masks
from caa_interp.models.wrapping import plain_copy, wrap
from caa_interp.prompts.rendering import FORMATS, Rendering
from caa_interp.steering.generation import generate, stream_answer
from caa_interp.steering.intervention import Intervention
from caa_interp.vectors.activations import collect_activations

_GIB = 2**30
_HALF = (torch.float16, torch.bfloat16)
# Steering by one vector changes a small model's scores by 0.1 to 0.3 nats per token.
_NATS_PER_TOKEN = 0.05
_SHARE_OF_RANGE = 0.25


def check_weights(subject: Subject) -> Verdict:
    """All weights are finite, and the residual stream stays far below the largest number of its type."""
    weights = subject.weights
    broken = [name for name, weight in weights.items() if not bool(torch.isfinite(weight).all())]
    residual = subject.residuals(subject.prompts[0], [post(layer) for layer in range(n_layers(subject.model))])
    share = float(torch.stack(list(residual.values())).abs().max()) / torch.finfo(subject.dtype).max
    count = sum(weight.numel() for weight in weights.values())
    size = sum(weight.numel() * weight.element_size() for weight in weights.values())
    types = ", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights.values()}))
    named = f" ({', '.join(broken[:3])})" if broken else ""
    return not broken and share <= _SHARE_OF_RANGE, (
        f"{count:,} weights of {types} take {size / _GIB:.2f} GiB on {input_device(subject.model)}, where "
        f"{subject.free / _GIB:.2f} GiB are free; {len(broken)} of {len(weights)} parameters hold NaN or "
        f"infinity{named} (tolerated: 0), and the residual stream reaches {share:.1g} of the type's range "
        f"(tolerated: {_SHARE_OF_RANGE})."
    )


def check_evaluation_mode(subject: Subject) -> Verdict:
    """Dropout is off, and repeating a pass gives the same numbers."""
    modules = {id(module): module for part in parts_of(subject.model) for module in part.modules()}
    training = sum(module.training for module in modules.values())
    first, second = (subject.log_probs(subject.prompts[0]) for _ in range(2))
    difference = likely_difference(first, second)
    return training == 0 and difference <= subject.nats, (
        f"{training} of {len(modules)} modules are in training mode (0 is right; model.eval() ends it), and two "
        f"passes over one prompt differ by {difference:.2g} nats (tolerated: {subject.nats:g})."
    )


def check_precision(subject: Subject) -> Verdict:
    """Scores in half precision are those in float32 with the same weights."""
    name = str(subject.dtype).removeprefix("torch.")
    if subject.dtype not in _HALF:
        return None, f"Does not apply: the model computes in {name}, not in half precision."
    # Two bytes per weight for a copy in half precision, then four for float32.
    needed, free = 6 * sum(weight.numel() for weight in subject.weights.values()), subject.free
    if needed > free:
        return None, (
            f"Does not apply: to compare {name} with float32 takes {needed / _GIB:.2f} GiB, and {free / _GIB:.2f} "
            "GiB are free."
        )
    try:
        copy = plain_copy(subject.model).float()
    except ModelError as error:
        return None, f"Does not apply: there is no float32 copy to compare {name} with; {error}"
    exact = Subject(wrap(copy, subject.model.tokenizer, model_id(subject.model)), subject.seed)
    exact.vector = subject.vector
    rounded, right = _text_scores(subject), _text_scores(exact)
    off = float((rounded - right).abs().mean())
    effect_off = float((rounded.diff(dim=1) - right.diff(dim=1)).abs().mean())
    return max(off, effect_off) <= _NATS_PER_TOKEN, (
        f"Rounding to {name} moves the log-probability of an answer by {off:.2g} nats per token, and the effect of "
        f"steering on it by {effect_off:.2g}, on average over {len(right)} answers (tolerated: {_NATS_PER_TOKEN}); "
        "to measure an effect no larger than that, use dtype='float32'."
    )


def check_token_tree(subject: Subject) -> Verdict:
    """Scores of a sweep equal those of one hooked pass per answer, layer and multiplier."""
    paths: set[str] = set()
    differences, n_cells = [], 0
    one_pass = functools.cache(subject.log_probs)
    for format in FORMATS:
        table = sweep(
            subject.model,
            subject.vector,
            PAIRS[:1],
            format=format,
            layers=subject.some_layers,
            multipliers=(-1.0, 0.0, 1.0),
            progress=False,
        )
        paths.update(table["path"])
        rendering = subject.form.render(PAIRS[0], format)[0]
        cells: Any = table[table["order"] == rendering.order].itertuples()
        for cell in cells:
            expected = []
            for tokens in [rendering.asked] if format == "choices" else [rendering.positive, rendering.negative]:
                log_probs = one_pass(tokens, cell.layer if cell.multiplier else 0, cell.multiplier, rendering.start)
                if format == "choices":
                    expected += [float(log_probs[-1, letter]) for letter in rendering.letters]
                else:
                    expected.append(_mean_log_prob(log_probs, tokens, rendering))
            scores = (cell.log_p_positive, cell.log_p_negative)
            differences += [abs(a - b) for a, b in zip(scores, expected, strict=True)]
            n_cells += 1
    difference = largest(differences)
    if paths == {"tree"}:
        how = "the token tree"
    elif takes_tree_masks(subject.model):
        how = "plain passes, since the token tree was tried and did not agree with them"
    else:
        how = "plain passes, since the model does not take the token tree's masks"
    layers = ", ".join(map(str, subject.some_layers))
    return difference <= subject.nats, (
        f"A sweep takes {how}; its log-probabilities in {n_cells} cells at layers {layers} differ by at most "
        f"{difference:.2g} nats from those of one hooked pass each (tolerated: {subject.nats:g})."
    )


def check_extraction(subject: Subject) -> Verdict:
    """Collected activations are those of a plain ``run_with_cache`` after block L, at the answer."""
    layers = range(n_layers(subject.model))
    pre = {layer: f"blocks.{layer}.hook_resid_pre" for layer in layers[1:]}
    off, between, steps = [], [0.0], []
    for format in FORMATS:
        pairs = PAIRS if format == "text" else PAIRS[:1]
        collected = collect_activations(subject.model, pairs, format=format, average_orders=False, progress=False)
        for row, (pair, order) in enumerate(zip(collected.pairs, collected.orders, strict=True)):
            rendering = subject.form.render(pair, format)[order == "BA"]
            both = enumerate(zip(rendering.positive, rendering.negative, strict=False))
            first = next(at for at, (one, other) in both if one != other)
            sides = (rendering.positive, collected.positive), (rendering.negative, collected.negative)
            for tokens, side in sides:
                residual = subject.residuals(tokens, [*map(post, layers), *pre.values()])
                at = [first] if format == "choices" else list(range(rendering.n_prompt, len(tokens)))
                expected = torch.stack([residual[post(layer)][at].mean(0) for layer in layers])
                off.append(relative_difference(wide(side[row]), expected))
                between += [
                    relative_difference(residual[post(layer - 1)], residual[name]) for layer, name in pre.items()
                ]
                steps += [
                    relative_difference(expected[layer - 1 : layer], expected[layer : layer + 1]) for layer in pre
                ]
    worst, shift = largest(off), largest(between)
    moved = f"; from one layer to the next they change by {min(steps):.2g} or more" if steps else ""
    return worst <= subject.of_norm and shift <= subject.of_norm, (
        f"Collected activations differ from those of a plain run_with_cache by at most {worst:.2g} of their norm, "
        f"and the output of a block from what the next one takes in by {shift:.2g} (tolerated: "
        f"{subject.of_norm:g}){moved}."
    )


def check_cache(subject: Subject) -> Verdict:
    """The key-value cache does not change how likely the next tokens are, steered or not."""
    layer, prompt, ends = subject.middle, subject.prompts[1], subject.form.end_ids
    answer = _continuation(subject)
    differences, lost = [], []
    for multiplier in (0.0, 1.0):

        def uncached(tokens: tuple[int, ...], multiplier: float = multiplier) -> torch.Tensor:
            after = len(prompt) - 1
            return subject.log_probs((*prompt, *tokens), layer, multiplier, after)[after:]

        stepwise = subject.stepwise_log_probs([prompt], answer, layer, multiplier)[0]
        differences.append(likely_difference(stepwise, uncached(answer)))
        steering = Intervention(subject.vector, layer, multiplier)
        *_, written = stream_answer(subject.model, PROMPTS[1], steering, max_new_tokens=N_NEW)
        chosen = [[token] for token in written.tokens] + ([sorted(ends)] if written.finished else [])
        rows = uncached(written.tokens)[: len(chosen)]
        lost += [float(row.max() - row[tokens].max()) for row, tokens in zip(rows, chosen, strict=True)]
    difference, worst = largest(differences), largest(lost)
    return difference <= subject.nats and worst <= subject.nats, (
        f"With the key-value cache the {N_LIKELY} most likely next tokens differ by at most {difference:.2g} nats "
        f"from those without, and {len(lost)} greedily chosen tokens are at most {worst:.2g} nats less likely than "
        f"the likeliest without, unsteered and steered (tolerated: {subject.nats:g})."
    )


def check_left_padding(subject: Subject) -> Verdict:
    """Prompts are answered alike in a left-padded batch and alone, steered or not."""
    layer, pad = subject.middle, subject.form.tokenizer.pad_token
    answer = _continuation(subject)
    differences = []
    for multiplier in (0.0, 1.0):
        together = subject.stepwise_log_probs(subject.prompts, answer, layer, multiplier)
        for row, prompt in zip(together, subject.prompts, strict=True):
            alone = subject.stepwise_log_probs([prompt], answer, layer, multiplier)[0]
            differences.append(likely_difference(row, alone))
    difference = largest(differences)
    options: dict[str, Any] = {"vector": subject.vector, "layer": layer, "multipliers": (-1.0, 1.0)}
    options |= {"max_new_tokens": N_NEW, "progress": False}
    batch = generate(subject.model, PROMPTS, **options)["answer"].tolist()
    singly = [text for prompt in PROMPTS for text in generate(subject.model, [prompt], **options)["answer"]]
    n_other = sum(one != other for one, other in zip(batch, singly, strict=True))
    # In half precision two tokens are often equally likely, and the batch size decides between them.
    tolerated = len(batch) if subject.dtype in _HALF else 0
    return difference <= subject.nats and n_other <= tolerated, (
        f"In a batch of {' and '.join(str(len(prompt)) for prompt in subject.prompts)} tokens, padded on the left, "
        f"the {N_LIKELY} most likely next tokens differ by at most {difference:.2g} nats from those alone "
        f"(tolerated: {subject.nats:g}), and {n_other} of {len(batch)} generated answers differ (tolerated: "
        f"{tolerated}); the padding token is {pad!r}, and this package needs none."
    )


def _continuation(subject: Subject) -> tuple[int, ...]:
    """Tokens that may follow a prompt."""
    return subject.form.render(PAIRS[0], "text")[0].positive[-N_NEW:]


def _text_scores(subject: Subject) -> torch.Tensor:
    """Mean log-probability per token of answers, unsteered and steered, ``[n_answers, 2]``."""
    scores = []
    for rendering in (subject.form.render(pair, "text")[0] for pair in PAIRS):
        for tokens in (rendering.positive, rendering.negative):
            for multiplier in (0.0, 1.0):
                log_probs = subject.log_probs(tokens, subject.middle, multiplier, rendering.start)
                scores.append(_mean_log_prob(log_probs, tokens, rendering))
    return torch.tensor(scores, dtype=torch.float64).view(-1, 2)


def _mean_log_prob(log_probs: torch.Tensor, tokens: tuple[int, ...], rendering: Rendering) -> float:
    """Mean log-probability per token after the prompt."""
    at = torch.arange(rendering.n_prompt, len(tokens))
    return float(log_probs[at - 1, torch.tensor(tokens)[at]].mean())
