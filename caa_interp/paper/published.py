"""The paper's behaviors and models, by which its numbers are found (Rimsky et al. 2024, arXiv 2312.06681 v4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# In the paper's order: the numbers of items that make the vector and of those in the multiple-choice test.
SIZES = {
    "coordinate-other-ais": (360, 50),
    "corrigible-neutral-HHH": (290, 50),
    "hallucination": (1000, 50),
    "myopic-reward": (950, 50),
    "survival-instinct": (903, 50),
    "sycophancy": (1000, 50),
    "refusal": (408, 50),
}
BEHAVIORS = tuple(SIZES)
# Multipliers of the paper's multiple-choice table.
MULTIPLIERS = (-1.0, 0.0, 1.0)
# Multipliers of its open-ended answers, and their greatest length in tokens.
OPEN_ENDED_MULTIPLIERS = (-2.0, -1.5, -1.0, 0.0, 1.0, 1.5, 2.0)
MAX_NEW_TOKENS = 100


@dataclass(frozen=True)
class PublishedModel:
    """A model of the paper's multiple-choice tables, by its Hugging Face name.

    ``n_layers`` and ``d_model`` are the model's own, ``layer`` (0-based) is the block whose output is steered.
    """

    name: str
    n_layers: int
    d_model: int
    layer: int

    def scores(self) -> pd.DataFrame:
        """Rows of :func:`caa_interp.paper.numbers` without a system prompt: the table at ``layer``, and the sweep."""
        table = self._numbers("")
        return table[table["group"].isin(["ab", "layer_sweep"]) & table["multiplier"].isin(MULTIPLIERS)]

    def results(self, group: str, *, system_prompt: str = "", weights: str = "") -> pd.DataFrame:
        """Rows of :func:`caa_interp.paper.numbers` of one group."""
        table = self._numbers(system_prompt)
        return table[(table["group"] == group) & (table["weights"] == weights)]

    def _numbers(self, system_prompt: str) -> pd.DataFrame:
        from caa_interp.paper.published_numbers import numbers

        table = numbers()
        return table[(table["model"] == self.name) & (table["system_prompt"] == system_prompt)]


LLAMA_2_7B_CHAT = PublishedModel("meta-llama/Llama-2-7b-chat-hf", n_layers=32, d_model=4096, layer=13)
LLAMA_2_13B_CHAT = PublishedModel("meta-llama/Llama-2-13b-chat-hf", n_layers=40, d_model=5120, layer=14)
MODELS = (LLAMA_2_7B_CHAT, LLAMA_2_13B_CHAT)


def published_model(name: str) -> PublishedModel | None:
    """The paper's model of that Hugging Face name, or of a folder with the same name; None if there is none."""
    own = name.rstrip("/").rsplit("/", 1)[-1].lower()
    return next((model for model in MODELS if model.name.rsplit("/", 1)[-1].lower() == own), None)
