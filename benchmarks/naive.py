"""The same work, written the way a TransformerLens user would write it: one hooked forward at a time."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from caa_interp.prompts.rendering import Rendering


def steering_hook(vector: torch.Tensor, start: int) -> Callable[..., torch.Tensor]:
    """Add ``vector`` at every position from ``start`` on."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        activation[:, start:] += vector
        return activation

    return hook


@torch.no_grad()
def sweep_cell(model: Any, rendering: Rendering, format: str, layer: int, vector: torch.Tensor) -> tuple[float, float]:
    """Scores of both answers at one layer with one (already multiplied) vector: one forward, or two for texts."""
    hooks = [(f"blocks.{layer}.hook_resid_post", steering_hook(vector, rendering.start))]
    if format == "choices":
        tokens = torch.tensor([rendering.positive[: rendering.n_shared]], device=model.cfg.device)
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1].float().log_softmax(-1)
        return tuple(float(logits[side[rendering.n_shared]]) for side in (rendering.positive, rendering.negative))
    scores = []
    for side in (rendering.positive, rendering.negative):
        tokens = torch.tensor([side], device=model.cfg.device)
        logits = model.run_with_hooks(tokens[:, :-1], fwd_hooks=hooks)[0].float().log_softmax(-1)
        targets = tokens[0, rendering.n_prompt :]
        scores.append(float(logits[rendering.n_prompt - 1 :].gather(1, targets[:, None]).mean()))
    return scores[0], scores[1]


@torch.no_grad()
def difference_at_all_layers(model: Any, rendering: Rendering, format: str) -> torch.Tensor:
    """Positive minus negative activation ``[n_layers, d_model]`` of one pair: two full forwards with a cache."""
    sides = []
    names = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    for side in (rendering.positive, rendering.negative):
        end = rendering.n_shared + 1 if format == "choices" else len(side)
        tokens = torch.tensor([side[:end]], device=model.cfg.device)
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
        states = torch.stack([cache[name][0] for name in names])
        sides.append(states[:, -1] if format == "choices" else states[:, rendering.n_prompt :].mean(1))
    return sides[0] - sides[1]


@torch.no_grad()
def generate_one(model: Any, prompt: Sequence[int], layer: int, vector: torch.Tensor, max_new_tokens: int) -> list[int]:
    """Greedy answer to one prompt with one vector, through the model's own generation with a key-value cache."""
    tokens = torch.tensor([prompt], device=model.cfg.device)

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        activation[:, -1:] += vector
        return activation

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", hook)]):
        out = model.generate(
            tokens,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            stop_at_eos=True,
            verbose=False,
            return_type="tokens",
        )
    return out[0, len(prompt) :].tolist()


def cells(n_layers: int, multipliers: Sequence[float]) -> Iterator[tuple[int, float]]:
    """Every layer with every multiplier."""
    for layer in range(n_layers):
        for multiplier in multipliers:
            yield layer, multiplier
