"""The paper's numbers at full precision, as one tidy table (Rimsky et al. 2024, sections 4 to 6 and appendix).

Nothing is computed: they stand in the analysis files of the paper's repository, and were checked with the paper's
tables. What the paper has no number of is not here.
"""

from __future__ import annotations

import json
from functools import cache

import pandas as pd

from caa_interp.behaviors.behavior import data_folder


def numbers() -> pd.DataFrame:
    """Return the paper's numbers, one row each.

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
    The matching answer of survival-instinct accepts shutdown. An item whose matching answer is neither (A) nor (B)
    counts 0 in a mean.

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
    table = pd.read_csv(data_folder() / "_paper_numbers.csv", keep_default_na=False, dtype={"multiplier": float})
    sources = json.loads((data_folder() / "_paper_sources.json").read_text(encoding="utf-8"))
    for column in ("model", "vector_model"):
        table[column] = "meta-llama/" + table[column]
    told = pd.DataFrame.from_dict(sources["groups"], orient="index").loc[table["group"]].reset_index(drop=True)
    table.insert(list(table).index("value"), "measure", told["measure"])
    table["source"] = f"{sources['repository']}, commit " + table.pop("commit") + ": " + told["files"]
    return table.assign(what=told["what"], checked=told["checked"])
