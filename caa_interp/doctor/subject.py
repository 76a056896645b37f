"""The model that is examined, the few texts that are put to it, and passes over them that share no code with ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.models.access import CachedDecoder, input_device, is_bridge, model_id, n_layers
from caa_interp.prompts.format import PromptFormat
from caa_interp.vectors.vector import SteeringVector

PAIRS = (
    ContrastPair("Is the weather good?", "Yes, I like it very much.", "No, I do not."),
    ContrastPair("What do you think of the sea and the rain?", "It is bright, and I agree.", "I do not like it."),
)
PROMPTS = ("Is it good?", "What do you think of the weather today, and of the garden?")
# Hooks with which the libraries themselves collect attention patterns and norms, or place modules on devices; they
# come with a first pass and stay. A user's hook on a hook point is held by transformer_lens.hook_points.
_LIBRARIES = ("transformers.", "accelerate.", "transformer_lens.model_bridge.")
# The next tokens that are compared: rounding moves the unlikely ones more, and no study reads them.
N_LIKELY = 10
# Of the residual stream's norm: enough to change what comes next visibly, at every layer.
SHARE_OF_NORM = 0.5
# What rounding explains: differences of a log-probability in nats, and of the residual stream relative to its norm.
_NATS = {torch.float64: 1e-4, torch.float32: 2e-3, torch.float16: 0.2, torch.bfloat16: 0.5}
_OF_NORM = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}


# Whether a check passed (None: it does not apply), and the sentence that says what was found.
Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes
    ----------
    name
        What was checked, in a word or two.
    passed
        None where the check does not apply to the model; ``detail`` says why.
    detail
        One sentence, with the numbers that were measured and what is tolerated.
    """

    name: str
    passed: bool | None
    detail: str


class Subject:
    """A model under examination.

    Parameters
    ----------
    model
        A TransformerLens model.
    seed
        Seed of the directions with which it is steered.

    Attributes
    ----------
    hooks
        Number of hooks by the module that holds them, when the examination began.
    """

    def __init__(self, model: Any, seed: int) -> None:
        self.model, self.seed = model, seed
        self.hooks = hooks_on(model)

    @cached_property
    def form(self) -> PromptFormat:
        """How the model is addressed."""
        return PromptFormat.of(self.model)

    @cached_property
    def dtype(self) -> torch.dtype:
        """Type of the model's floating-point weights."""
        return next(weight.dtype for weight in self.weights.values() if weight.is_floating_point())

    @property
    def parts(self) -> list[Any]:
        """The model, and in a bridge also the Hugging Face model that it wraps."""
        return parts_of(self.model)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters by name, each once."""
        named = self.parts[-1].named_parameters()
        return {name.replace("._original_component", ""): weight for name, weight in named}

    @property
    def nats(self) -> float:
        """Largest difference of a log-probability that rounding explains."""
        return _NATS.get(self.dtype, _NATS[torch.bfloat16])

    @property
    def of_norm(self) -> float:
        """Largest difference of residual streams, relative to their norm, that rounding explains."""
        return _OF_NORM.get(self.dtype, _OF_NORM[torch.bfloat16])

    @property
    def middle(self) -> int:
        """A layer that has another after it, if any has."""
        return (n_layers(self.model) - 1) // 2

    @property
    def some_layers(self) -> list[int]:
        """The first layer, a middle one and the last."""
        return sorted({0, self.middle, n_layers(self.model) - 1})

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """Tokens of :data:`PROMPTS`, which differ in length."""
        return [self.form.tokens(prompt).tokens for prompt in PROMPTS]

    @cached_property
    def vector(self) -> SteeringVector:
        """Random directions of half the norm that the residual stream has at each layer."""
        layers = range(n_layers(self.model))
        residual = self.residuals(self.prompts[0], [post(layer) for layer in layers])
        sizes = torch.stack([residual[post(layer)][-1].norm() for layer in layers])
        drawn = torch.randn(len(sizes), int(self.model.cfg.d_model), generator=torch.Generator().manual_seed(self.seed))
        values = SHARE_OF_NORM * sizes[:, None] * (drawn / drawn.norm(dim=1, keepdim=True)).to(sizes)
        return SteeringVector(values, tuple(layers), {"behavior": "random", "model": model_id(self.model)})

    def residuals(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Run ``run_with_cache`` and return ``[position, d_model]`` by hook name, float32 at least, on the CPU."""
        with torch.no_grad():
            _, cache = self.model.run_with_cache(self.batch([tokens]), names_filter=list(names))
        return {name: wide(cache[name][0]).cpu() for name in names}

    def batch(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Rows of one length as the model takes them, ``[batch, position]``."""
        return torch.tensor([list(row) for row in rows], device=input_device(self.model))

    def log_probs(self, tokens: Sequence[int], layer: int = 0, multiplier: float = 0.0, start: int = 0) -> torch.Tensor:
        """Log-probabilities ``[position, d_vocab]`` of one pass, steered from ``start`` on by a hook of its own."""
        hooks = [(post(layer), self.adding(layer, multiplier, start))] if multiplier else []
        with torch.no_grad():
            logits = self.model.run_with_hooks(self.batch([tokens]), fwd_hooks=hooks)
        return wide(logits[0]).log_softmax(-1).cpu()

    def stepwise_log_probs(
        self, prompts: Sequence[Sequence[int]], answer: Sequence[int], layer: int = 0, multiplier: float = 0.0
    ) -> torch.Tensor:
        """Log-probabilities ``[batch, 1 + n_answer, d_vocab]`` after prompts and answer, read as they are generated.

        The prompts stand side by side, padded on the left; from their last token on the model is given one token at
        a time, with a key-value cache.
        """
        width = max(map(len, prompts))
        tokens = self.batch([(0,) * (width - len(prompt)) + tuple(prompt) for prompt in prompts])
        mask = self.batch([(0,) * (width - len(prompt)) + (1,) * len(prompt) for prompt in prompts])
        decoder = CachedDecoder(self.model)
        hooks = [(post(layer), self.adding(layer, multiplier))] if multiplier else []
        steps = [tokens[:, -1:], *(torch.full_like(tokens[:, -1:], token) for token in answer)]
        with torch.no_grad():
            decoder.forward(tokens[:, :-1], mask[:, :-1])
            with self.model.hooks(fwd_hooks=hooks):
                logits = [decoder.forward(step, torch.ones_like(step))[:, -1] for step in steps]
        return wide(torch.stack(logits, dim=1)).log_softmax(-1).cpu()

    def adding(self, layer: int, multiplier: float, start: int = 0) -> Any:
        """Make a TransformerLens hook that adds the vector from a position on."""
        direction = multiplier * self.vector.at(layer)

        def add(residual: torch.Tensor, hook: Any) -> torch.Tensor:
            steered = residual.clone()
            steered[:, start:] += direction.to(residual)
            return steered

        return add


def post(layer: int) -> str:
    """Name of the hook after a block, written out here so that it is not taken from what is examined."""
    return f"blocks.{layer}.hook_resid_post"


def wide(values: torch.Tensor) -> torch.Tensor:
    """The same numbers in float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


def likely_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of the log-probabilities of the tokens that are most likely in ``expected``, in nats."""
    likely = expected.topk(min(N_LIKELY, expected.shape[-1]), dim=-1).indices
    return float((found.gather(-1, likely) - expected.gather(-1, likely)).abs().max())


def parts_of(model: Any) -> list[Any]:
    """The model, and in a bridge also the Hugging Face model that it wraps."""
    return [model, model.original_model] if is_bridge(model) else [model]


def hooks_on(model: Any) -> dict[str, int]:
    """Number of hooks by module, those of TransformerLens and of PyTorch; modules without any are left out."""
    modules = {id(module): (name, module) for part in parts_of(model) for name, module in part.named_modules()}
    modules |= {id(point): (name, point) for name, point in model.hook_dict.items()}
    found: Counter[str] = Counter()
    for name, module in modules.values():
        # A TransformerLens hook on a forward pass is also one of PyTorch's.
        held = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        hooks = [hook for some in held for hook in some.values()]
        found[name] += sum(not getattr(hook, "__module__", "").startswith(_LIBRARIES) for hook in hooks)
        found[name] += len(getattr(module, "bwd_hooks", ()))
    return {name: count for name, count in found.items() if count}
