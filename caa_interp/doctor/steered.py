"""Checks that steering reaches the right positions, cancels out when it should, and leaves nothing behind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from caa_interp.doctor.subject import (
    N_LIKELY,
    N_NEW,
    PAIRS,
    PROMPTS,
    SHARE_OF_NORM,
    Subject,
    Verdict,
    hooks_on,
    largest,
    likely_difference,
    post,
    wide,
)
from caa_interp.evaluation.sweep import sweep
from caa_interp.models.access import n_layers
from caa_interp.models.decoding import Decoder
from caa_interp.steering.context import steer
from caa_interp.steering.generation import generate
from caa_interp.vectors.extraction import extract_vector


def check_positions(subject: Subject) -> Verdict:
    """The vector is added at the last token of the prompt and at every generated one, and not before."""
    model, layer, prompt = subject.model, subject.middle, subject.prompts[0]
    if n_layers(model) < 2:
        return None, "Does not apply: what is added after a block is seen before the next, and there is only one."
    added = {}
    # A model without a cache is given all tokens each time, so it cannot be known where its prompt ends.
    length = None if Decoder(model).cached else len(prompt)
    with _observed(model, layer) as differences:
        generate(model, PROMPTS[:1], vector=subject.vector, layer=layer, max_new_tokens=N_NEW, progress=False)
        added["caa_interp.generate"] = differences()
    with _observed(model, layer) as differences:
        with torch.no_grad(), steer(model, subject.vector, layer, prompt_length=length):
            model.generate(
                subject.batch([prompt]),
                max_new_tokens=N_NEW,
                do_sample=False,
                stop_at_eos=False,
                use_past_kv_cache=True,
                verbose=False,
            )
        added["steer around model.generate"] = differences()
    # The sum is rounded like the residual stream, which is larger than the vector.
    tolerated = subject.of_norm * float(subject.vector.at(layer).norm()) / SHARE_OF_NORM
    right, findings = True, []
    for name, difference in added.items():
        before, after = difference[: len(prompt) - 1], difference[len(prompt) - 1 :]
        early = int((before.norm(dim=1) > tolerated).sum())
        late = int(((after - subject.vector.at(layer)).norm(dim=1) <= tolerated).sum())
        right = right and early == 0 and late == len(after) > 0
        findings.append(
            f"{name} adds the vector at {late} of {len(after)} positions from the prompt's last token on (all is "
            f"right) and something at {early} of {len(before)} before (0 is right)"
        )
    tolerance = f"{subject.of_norm:g} of the residual stream's norm"
    return right, f"At layer {layer}, {'; '.join(findings)}; tolerated: {tolerance}."


@contextlib.contextmanager
def _observed(model: Any, layer: int) -> Iterator[Callable[[], torch.Tensor]]:
    """Record what later hooks add between the output of a block and the input of the next, ``[position, d_model]``."""
    out: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []

    def keep(pieces: list[torch.Tensor]) -> Callable[..., None]:
        return lambda residual, hook: pieces.append(wide(residual[0].detach().clone()).cpu())

    with model.hooks(fwd_hooks=[(post(layer), keep(out)), (f"blocks.{layer + 1}.hook_resid_pre", keep(taken))]):
        # Without a cache, the last pass holds all positions.
        yield lambda: taken[-1] - out[-1] if len(out[-1]) > 1 else torch.cat(taken) - torch.cat(out)


def check_multiplier_zero(subject: Subject) -> Verdict:
    """Steering with multiplier 0 changes no bit."""
    prompt = subject.prompts[0]
    unsteered = subject.log_probs(prompt)
    differences = []
    for layer in subject.some_layers:
        with steer(subject.model, subject.vector, layer, 0.0):
            differences.append(float((subject.log_probs(prompt) - unsteered).abs().max()))
    worst = largest(differences)
    layers = ", ".join(map(str, subject.some_layers))
    return worst == 0, (
        f"Steered with multiplier 0 at layers {layers}, log-probabilities differ by {worst:.2g} nats from those of "
        "the unsteered model (tolerated: 0)."
    )


def check_opposites(subject: Subject) -> Verdict:
    """Steering with v and then with -v has no effect."""
    prompt = subject.prompts[0]
    unsteered = subject.log_probs(prompt)[-1]
    both, alone = [], []
    for layer in subject.some_layers:
        with steer(subject.model, subject.vector, layer):
            alone.append(likely_difference(subject.log_probs(prompt)[-1], unsteered))
            with steer(subject.model, subject.vector, layer, -1.0):
                both.append(likely_difference(subject.log_probs(prompt)[-1], unsteered))
    worst = largest(both)
    return worst <= subject.nats, (
        f"Steered with a vector and its opposite, the log-probabilities of the {N_LIKELY} most likely next tokens "
        f"differ by at most {worst:.2g} nats from those of the unsteered model (tolerated: {subject.nats:g}); the "
        f"vector alone moves them by {min(alone):.2g} or more."
    )


class _Interruption(Exception):  # noqa: N818 - not an error
    """Interrupts a pass."""


def check_hooks(subject: Subject) -> Verdict:
    """Nothing that this package does leaves a hook on the model, even when interrupted."""
    model, layer = subject.model, subject.middle
    options: dict[str, Any] = {"vector": subject.vector, "layer": layer, "max_new_tokens": 2, "progress": False}

    def steered_pass() -> None:
        with steer(model, subject.vector, layer):
            subject.log_probs(subject.prompts[0])

    actions: dict[str, Callable[[], Any]] = {
        "extract_vector": lambda: extract_vector(model, PAIRS[:1], format="text", progress=False),
        "sweep": lambda: sweep(model, subject.vector, PAIRS[:1], format="text", layers=layer, progress=False),
        "generate": lambda: generate(model, PROMPTS[:1], **options),
        "steer": steered_pass,
    }

    def interrupt(residual: torch.Tensor, hook: Any) -> None:
        raise _Interruption

    left: dict[str, int] = {}
    for name, act in actions.items():
        n_before = sum(hooks_on(model).values())
        act()
        left[name] = sum(hooks_on(model).values()) - n_before
        with contextlib.suppress(_Interruption), model.hooks(fwd_hooks=[(post(n_layers(model) - 1), interrupt)]):
            act()
        left[f"an interrupted {name}"] = sum(hooks_on(model).values()) - n_before - left[name]
    there = ", ".join([name or "the model" for name in subject.hooks][:3])
    before = f" ({there}; model.reset_hooks() removes TransformerLens's)" if there else ""
    leaving = "".join(f", {count} of them by {name}" for name, count in left.items() if count)
    return not there and not leaving, (
        f"{sum(subject.hooks.values())} hooks were on the model before{before}, and {sum(map(abs, left.values()))} "
        f"were left by {', '.join(actions)}, each whole and interrupted{leaving} (0 is right)."
    )
