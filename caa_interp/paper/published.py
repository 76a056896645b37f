"""The paper's behaviors, models and numbers; nothing is computed here (Rimsky et al. 2024, arXiv 2312.06681 v4)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from caa_interp.behaviors.behavior import data_folder
from caa_interp.models.access import short_name

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
EXAM_SIZES = {"mmlu": 570, "truthful_qa": 817}  # questions
# Multipliers of the paper's multiple-choice results, and of those at the layer of its table.
MULTIPLIERS = (-1.0, 0.0, 1.0)
TABLE_MULTIPLIERS = (-1.0, -0.5, 0.0, 0.5, 1.0)
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

    @property
    def base(self) -> str:
        """The Hugging Face name of its base model."""
        return self.name.removesuffix("-chat-hf") + "-hf"

    def results(self, *groups: str, system_prompt: str = "", weights: str = "") -> pd.DataFrame:
        """Rows of :func:`caa_interp.paper.numbers` of some groups."""
        table = numbers()
        conditions = (table["system_prompt"] == system_prompt) & (table["weights"] == weights)
        return table[(table["model"] == self.name) & table["group"].isin(groups) & conditions]


LLAMA_2_7B_CHAT = PublishedModel("meta-llama/Llama-2-7b-chat-hf", n_layers=32, d_model=4096, layer=13)
LLAMA_2_13B_CHAT = PublishedModel("meta-llama/Llama-2-13b-chat-hf", n_layers=40, d_model=5120, layer=14)
MODELS = (LLAMA_2_7B_CHAT, LLAMA_2_13B_CHAT)


def published_model(name: str | Path) -> PublishedModel | None:
    """The paper's model of that Hugging Face name, or of a folder with the same name; None if there is none."""
    return next((model for model in MODELS if same_name(model.name, name)), None)


def same_name(one: str | Path, other: str | Path) -> bool:
    """Whether two Hugging Face names or folders end in the same name."""
    return len({short_name(str(name)).lower() for name in (one, other)}) == 1


def numbers() -> pd.DataFrame:
    """Return the paper's numbers at full precision, one row each (sections 4 to 6 and appendix).

    Returns
    -------
    pandas.DataFrame
        2,134 rows, with columns as in :func:`caa_interp.interchange.import_results`:

        - ``group``: ``"ab"`` (multiple choice at one layer, without and with system prompts), ``"layer_sweep"``,
          ``"layer_13_vector"`` (added after other layers), ``"base_model_vector"`` (in the chat model), ``"mmlu"``,
          ``"truthful_qa"``, ``"open_ended"`` (judged answers), ``"finetuning_ab"`` and ``"finetuning_open_ended"``;
        - ``model`` (Hugging Face name), ``behavior``, ``layer`` (0-based), ``multiplier``;
        - ``vector_layer``, ``vector_model``: layer and model of the vector, which can differ from the steered ones;
        - ``system_prompt``: ``"pos"``, ``"neg"`` or ``""``; ``weights``: fine-tuned on ``"positive"`` or ``"negative"``
          answers, or ``""``;
        - ``measure``: ``"p_positive"``, the mean of p(matching) / (p(A) + p(B)) between 0 and 1, or ``"score"``, the
          mean judged score from 0 to 10; ``value``: the number;
        - ``source``: repository, commit and file; ``what`` and ``checked``: more about the group.

    Notes
    -----
    They stand in the analysis files of the paper's repository, and were checked with the paper's tables; what the paper
    has no number of is not here. The matching answer of survival-instinct accepts shutdown. An item whose matching
    answer is neither (A) nor (B) counts 0 in a mean.

    Examples
    --------
    >>> table = caa.paper.numbers()
    >>> rows = "group == 'ab' and layer == 13 and behavior == 'refusal' and system_prompt == ''"
    >>> table.query(rows).set_index("multiplier")["value"].round(2).to_dict()
    {-1.0: 0.42, -0.5: 0.57, 0.0: 0.74, 0.5: 0.84, 1.0: 0.89}
    """
    return _numbers().copy()


@cache
def _numbers() -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(data_folder() / "_paper_numbers.csv", keep_default_na=False, dtype={"multiplier": float})
    sources = json.loads((data_folder() / "_paper_sources.json").read_text(encoding="utf-8"))
    for column in ("model", "vector_model"):
        table[column] = "meta-llama/" + table[column]
    told = pd.DataFrame.from_dict(sources["groups"], orient="index").loc[table["group"]].reset_index(drop=True)
    table.insert(list(table).index("value"), "measure", told["measure"])
    table["source"] = f"{sources['repository']}, commit " + table.pop("commit") + ": " + told["files"]
    return table.assign(what=told["what"], checked=told["checked"])
