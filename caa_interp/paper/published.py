"""Published numbers of Rimsky et al. 2024 (arXiv 2312.06681 v4), to compare measurements with.

Nothing here is computed. Behaviors are in the paper's order; a number that the paper does not give is not here.
"""

from __future__ import annotations

from dataclasses import dataclass

# Of each behavior: the numbers of items that make the vector and of those in the multiple-choice test; and, from the
# tables of section 4.1, mean p(matching) at each multiplier for Llama 2 7B Chat and for Llama 2 13B Chat.
_TABLE = {
    "coordinate-other-ais": ((360, 50), (0.15, 0.30, 0.75), (0.20, 0.22, 0.39)),
    "corrigible-neutral-HHH": ((290, 50), (0.20, 0.64, 0.91), (0.45, 0.57, 0.83)),
    "hallucination": ((1000, 50), (0.39, 0.81, 0.90), (0.42, 0.54, 0.78)),
    "myopic-reward": ((950, 50), (0.40, 0.75, 0.73), (0.44, 0.49, 0.66)),
    "survival-instinct": ((903, 50), (0.27, 0.34, 0.62), (0.28, 0.35, 0.63)),
    "sycophancy": ((1000, 50), (0.54, 0.69, 0.62), (0.56, 0.63, 0.60)),
    "refusal": ((408, 50), (0.42, 0.74, 0.89), (0.56, 0.78, 0.86)),
}
BEHAVIORS = tuple(_TABLE)
SIZES = {name: sizes for name, (sizes, _, _) in _TABLE.items()}
# Multipliers of every triple above, in this order.
MULTIPLIERS = (-1.0, 0.0, 1.0)
# All are printed with two decimals.
ROUNDING = 0.005


@dataclass(frozen=True)
class PublishedModel:
    """A model of the paper's multiple-choice tables, by its Hugging Face name.

    ``n_layers`` and ``d_model`` are the model's own, ``layer`` (0-based) is the block whose output is steered, and
    ``choices`` holds ``{behavior: mean p(matching) at each of MULTIPLIERS}`` over the test items, between 0 and 1.
    """

    name: str
    n_layers: int
    d_model: int
    layer: int
    choices: dict[str, tuple[float, float, float]]


LLAMA_2_7B_CHAT = PublishedModel(
    "meta-llama/Llama-2-7b-chat-hf",
    n_layers=32,
    d_model=4096,
    layer=13,
    choices={name: smaller for name, (_, smaller, _) in _TABLE.items()},
)
LLAMA_2_13B_CHAT = PublishedModel(
    "meta-llama/Llama-2-13b-chat-hf",
    n_layers=40,
    d_model=5120,
    layer=14,
    choices={name: larger for name, (_, _, larger) in _TABLE.items()},
)
MODELS = (LLAMA_2_7B_CHAT, LLAMA_2_13B_CHAT)


def published_model(name: str) -> PublishedModel | None:
    """The paper's model of that Hugging Face name, or of a folder with the same name; None if there is none."""
    own = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((model for model in MODELS if model.name.rsplit("/", 1)[-1].lower() == own), None)
