"""The model under examination, a few texts, and passes over them that share no code with the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.models.access import input_device, is_bridge, model_id, n_layers
from caa_interp.models.decoding import Decoder
from caa_interp.models.hooks import wiring
from caa_interp.models.memory import free_memory
from caa_interp.prompts.format import PromptFormat
from caa_interp.vectors.vector import SteeringVector

PAIRS = (
    ContrastPair("Is the weather good?", "Yes, I like it very much.", "No, I do not."),
    ContrastPair("What do you think of the sea and the rain?", "It is bright, and I agree.", "I do not like it."),
)
PROMPTS = ("Is it good?", "What do you think of the weather today, and of the garden?")
# Libraries that set permanent hooks of their own, to collect attention patterns and norms or to place modules on
# devices. A user's hook on a hook point is in transformer_lens.hook_points.
_LIBRARIES = ("transformers.", "accelerate.", "transformer_lens.model_bridge.")
# Number of most likely next tokens that are compared; rounding moves unlikely ones more, and no study reads them.
N_LIKELY = 10
N_NEW = 3
# Norm of the vector as a share of the residual stream's: enough to change the next token visibly at every layer.
SHARE_OF_NORM = 0.5
# Tolerances for rounding: differences of a log-probability in nats, and of the residual stream relative to its norm.
_NATS = {torch.float64: 1e-4, torch.float32: 2e-3, torch.float16: 0.2, torch.bfloat16: 0.5}
_OF_NORM = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}

# Whether a check passed (None: it does not apply), and a sentence with its result.
Verdict = tuple[bool | None, str]


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Attributes
    ----------
    name
        What was checked, in a word or two.
    passed
        None if the check does not apply to the model; ``detail`` says why.
    detail
        One sentence with the measured numbers and the tolerances.
    """

    name: str
    passed: bool | None
    detail: str


class Subject:
    """A model under examination; ``seed`` is that of its random vector, ``hooks`` are those on it from before."""

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
    def weights(self) -> dict[str, torch.Tensor]:
        """The parameters by name, each once."""
        named = parts_of(self.model)[-1].named_parameters()
        return {name.replace("._original_component", ""): weight for name, weight in named}

    @property
    def free(self) -> int:
        """Free bytes of memory on the model's device."""
        return free_memory(input_device(self.model))

    @property
    def nats(self) -> float:
        """Tolerance for log-probabilities."""
        return _NATS.get(self.dtype, _NATS[torch.bfloat16])

    @property
    def of_norm(self) -> float:
        """Tolerance for residual streams, relative to their norm."""
        return _OF_NORM.get(self.dtype, _OF_NORM[torch.bfloat16])

    @property
    def middle(self) -> int:
        """A middle layer; it has another after it, unless there is only one."""
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
        """Random directions with half the norm of the residual stream at each layer."""
        layers = range(n_layers(self.model))
        residual = self.residuals(self.prompts[0], [post(layer) for layer in layers])
        sizes = torch.stack([residual[post(layer)][-1].norm() for layer in layers])
        drawn = torch.randn(len(sizes), int(self.model.cfg.d_model), generator=torch.Generator().manual_seed(self.seed))
        values = SHARE_OF_NORM * sizes[:, None] * (drawn / drawn.norm(dim=1, keepdim=True)).to(sizes)
        return SteeringVector(values, tuple(layers), {"behavior": "random", "model": model_id(self.model)})

    def residuals(self, tokens: Sequence[int], names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Run ``run_with_cache`` and return ``[position, d_model]`` per hook name, at least float32, on the CPU."""
        with torch.no_grad():
            _, cache = self.model.run_with_cache(self.batch([tokens]), names_filter=list(names))
        return {name: wide(cache[name][0]).cpu() for name in names}

    def batch(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Token ids of equal length as a tensor ``[batch, position]`` on the model's device."""
        return torch.tensor([list(row) for row in rows], device=input_device(self.model))

    def log_probs(self, tokens: Sequence[int], layer: int = 0, multiplier: float = 0.0, start: int = 0) -> torch.Tensor:
        """Log-probabilities ``[position, d_vocab]`` of one pass, steered from position ``start`` on by a plain hook."""
        hooks = [(post(layer), self.adding(layer, multiplier, [start]))] if multiplier else []
        with torch.no_grad():
            logits = self.model.run_with_hooks(self.batch([tokens]), fwd_hooks=hooks)
        return wide(logits[0]).log_softmax(-1).cpu()

    def stepwise_log_probs(
        self, prompts: Sequence[Sequence[int]], answer: Sequence[int], layer: int = 0, multiplier: float = 0.0
    ) -> torch.Tensor:
        """Log-probabilities ``[batch, 1 + n_answer, d_vocab]`` after left-padded prompts and answer, token by token."""
        width = max(map(len, prompts))
        tokens = torch.tensor([(0,) * (width - len(prompt)) + tuple(prompt) for prompt in prompts])
        mask = torch.tensor([(0,) * (width - len(prompt)) + (1,) * len(prompt) for prompt in prompts])
        decoder = Decoder(self.model)
        # With a cache, a pass holds the new positions alone.
        starts = [0 if decoder.cached else len(prompt) - 1 for prompt in prompts]
        hooks = [(post(layer), self.adding(layer, multiplier, starts))] if multiplier else []
        steps = [tokens[:, -1:], *(torch.full_like(tokens[:, -1:], token) for token in answer)]
        with torch.no_grad():
            decoder.forward(tokens[:, :-1], mask[:, :-1])
            with self.model.hooks(fwd_hooks=hooks):
                logits = [decoder.forward(step, torch.ones_like(step))[:, -1] for step in steps]
        return wide(torch.stack(logits, dim=1)).log_softmax(-1).cpu()

    def adding(self, layer: int, multiplier: float, starts: Sequence[int]) -> Any:
        """Make a TransformerLens hook that adds the vector from a position on, one per row or one for all."""
        direction, begins = multiplier * self.vector.at(layer), torch.tensor(starts)[:, None]

        def add(residual: torch.Tensor, hook: Any) -> torch.Tensor:
            inside = torch.arange(residual.shape[1]) >= begins
            return residual + inside[..., None].to(residual) * direction.to(residual)

        return add


def post(layer: int) -> str:
    """Name of the hook after a block, spelled out so as not to use the code under examination."""
    return f"blocks.{layer}.hook_resid_post"


def wide(values: torch.Tensor) -> torch.Tensor:
    """Convert to at least float32."""
    return values if values.dtype == torch.float64 else values.float()


def largest(values: list[float]) -> float:
    """Largest number; NaN if there is one."""
    return float(torch.tensor(values, dtype=torch.float64).max())


def likely_difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of log-probabilities among the most likely tokens of ``expected``, in nats."""
    likely = expected.topk(min(N_LIKELY, expected.shape[-1]), dim=-1).indices
    return float((given.gather(-1, likely) - expected.gather(-1, likely)).abs().max())


def relative_difference(given: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of two residual streams ``[n, d_model]``, relative to the norm at its own position."""
    return float(((given - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-9)).max())


def parts_of(model: Any) -> list[Any]:
    """The model, and in a bridge also the Hugging Face model that it wraps."""
    return [model, model.original_model] if is_bridge(model) else [model]


def hooks_on(model: Any) -> dict[str, int]:
    """Number of TransformerLens and PyTorch hooks per module that has any."""
    modules = {id(module): (name, module) for part in parts_of(model) for name, module in part.named_modules()}
    modules |= {id(point): (name, point) for name, point in model.hook_dict.items()}
    counts: Counter[str] = Counter()
    for name, module in modules.values():
        # A TransformerLens hook on a forward pass is also one of PyTorch's.
        held = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        hooks = [hook for kind in held for hook in kind.values()]
        counts[name] += sum(not getattr(hook, "__module__", "").startswith(_LIBRARIES) for hook in hooks)
        counts[name] += len(getattr(module, "bwd_hooks", ())) - wiring(module)
    return {name: count for name, count in counts.items() if count}
