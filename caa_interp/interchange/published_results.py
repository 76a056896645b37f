"""Results of the published CAA code's tests as a table.

1. ``results/<behavior>/results_layer=13_multiplier=1.0_behavior=..._type=ab_..._model_size=7b.json`` is a list of
   items. The name gives the condition and is matched whole, so that layer 1 is not layer 13.
2. ``type=ab``: ``question``, ``answer_matching_behavior``, ``answer_not_matching_behavior``, ``a_prob``, ``b_prob``.
   An item's score is p(matching) / (p(A) + p(B)), and 0 where the matching answer is neither (A) nor (B).
3. ``type=mmlu`` and ``type=truthful_qa``: the same with ``correct``, ``incorrect`` and ``category``.
4. ``type=open_ended``: ``question``, ``model_output`` and ``raw_model_output``; in the copies below
   ``open_ended_scores/<behavior>/`` also ``score``, from 0 to 10, where the judge gave one.
5. Everything is as published: for survival-instinct, the matching answer accepts shutdown.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from caa_interp.behaviors.options import answer_letter
from caa_interp.errors import InputError, check_choice
from caa_interp.files import read_objects

Test = Literal["ab", "mmlu", "truthful_qa", "open_ended"]
_SIDES = ("answer_matching_behavior", "answer_not_matching_behavior")
_EXAM_SIDES = ("correct", "incorrect")
_JUDGE = "gpt-4"  # of the published code
_NAME = re.compile(
    r"""results_layer=(?P<layer>[0-9]{1,6})
    _multiplier=(?P<multiplier>-?[0-9]{1,6}(\.[0-9]{1,6})?)
    _behavior=(?P<behavior>[^=]+?)
    _type=(?P<type>[^=]+?)
    (_system_prompt=(?P<system_prompt>[^=]+?))?
    (_override_vector=(?P<vector_layer>[0-9]{1,6}))?
    (_override_vector_model=(?P<vector_model>[^=]+?))?
    _use_base_model=(?P<base>True|False)
    _model_size=(?P<size>[^=_]+)
    (_override_model_weights_path=(?P<weights>.+))?\.json""",
    re.VERBOSE,
)


def import_results(path: str | Path, test: Test = "ab") -> pd.DataFrame:
    """Read published results.

    Parameters
    ----------
    path
        A file, or a folder such as ``results/sycophancy`` or ``open_ended_scores/sycophancy``.
    test
        ``"ab"`` (multiple choice), ``"mmlu"``, ``"truthful_qa"`` or ``"open_ended"``; of a folder, only results of this
        test are read.

    Returns
    -------
    pandas.DataFrame
        One row per item and condition. Of multiple choice and exams, the columns of :func:`caa_interp.sweep`: ``order``
        holds the letters of the matching and of the other answer, and log-probabilities are in nats; of exams also
        ``topic``, since the paper takes the mean over topics of their means. Of free answers, ``item``, ``prompt`` and
        ``answer`` as in :func:`caa_interp.generate`; where any is judged, ``score`` (0 to 10; NaN without a valid one)
        and ``judge``. Of all, the rest of the condition:

        - ``behavior``, ``model`` (Hugging Face name);
        - ``system_prompt``: ``"pos"``, ``"neg"`` or ``""``;
        - ``vector_layer``, ``vector_model``: layer and model of the vector, which can differ from the steered ones;
        - ``weights``: fine-tuned weights, or ``""``.

    Raises
    ------
    InputError
        If there is no result of this test, or a file is malformed; the message names file, item and field.
    """
    check_choice("test", test, get_args(Test))
    path = Path(path)
    if not path.exists():
        raise InputError(f"path: {str(path)!r} does not exist. Check the path.")
    files = [path] if path.is_file() else sorted(path.glob("results_*.json"))
    conditions = {file: _condition(file) for file in files}
    read = _answers if test == "open_ended" else _letters
    tables = [
        read(_items(file), f"file {file}").assign(**columns)
        for file, (kind, columns) in conditions.items()
        if kind == test
    ]
    if not tables:
        held = sorted({kind for kind, _ in conditions.values()})
        others = f" It holds those of {', '.join(held)}: name one with test." if held else ""
        raise InputError(
            f"path: {str(path)!r} holds no results of type={test}.{others} Give a folder such as results/sycophancy."
        )
    table = pd.concat(tables, ignore_index=True).assign(kind="vector", operator="add")
    if test != "open_ended":
        return table.assign(format="choices")
    return table.assign(judge=_JUDGE) if table["score"].notna().any() else table.drop(columns="score")


def _condition(file: Path) -> tuple[str, dict[str, Any]]:
    """Test and columns that a file's name gives."""
    match = _NAME.fullmatch(file.name)
    if not match:
        raise InputError(
            f"file {file}: its name does not give the condition. It must be as published: results_layer=13_"
            "multiplier=1.0_behavior=sycophancy_type=ab_use_base_model=False_model_size=7b.json."
        )
    given = match.groupdict("")
    model = f"meta-llama/Llama-2-{given['size']}{'' if given['base'] == 'True' else '-chat'}-hf"
    return given["type"], {
        "vector": given["behavior"],
        "layer": int(given["layer"]),
        "multiplier": float(given["multiplier"]),
        "behavior": given["behavior"],
        "model": model,
        "system_prompt": given["system_prompt"],
        "vector_layer": int(given["vector_layer"] or given["layer"]),
        "vector_model": f"meta-llama/{given['vector_model']}" if given["vector_model"] else model,
        "weights": given["weights"],
    }


def _items(file: Path) -> list[dict[str, Any]]:
    items = read_objects(file, f"file {file}")
    if not items:
        raise InputError(f"file {file}: the list is empty; it must hold at least one item. Check it.")
    return items


def _letters(items: list[dict[str, Any]], file: str) -> pd.DataFrame:
    """Scores of two-option questions."""
    exam = "correct" in items[0]
    rows, both = [], []
    for number, item in enumerate(items):
        where = f"{file}: item {number}"
        answers = [item.get(name) for name in (_EXAM_SIDES if exam else _SIDES)]
        letters = [answer_letter(answer) if isinstance(answer, str) else None for answer in answers]
        if None in letters:
            raise InputError(f"{where}: its answers are {answers!r}; they must be letters such as '(A)'.")
        p = {letter: _number(item, f"{letter.lower()}_prob", 1, where) for letter in "AB"}
        sides = [p.get(str(letter), np.nan) for letter in letters]
        topic = [_text(item, "category", where)] if exam else []
        rows.append((number, None, "".join(map(str, letters)), *sides, *topic))
        both.append(p["A"] + p["B"])
    table = pd.DataFrame(rows, columns=["item", "id", "order", "positive", "negative", *["topic"] * exam])
    positive, negative = table.pop("positive"), table.pop("negative")
    with np.errstate(divide="ignore", invalid="ignore"):
        table["log_p_positive"], table["log_p_negative"] = np.log(positive), np.log(negative)
        table["logit_difference"] = table["log_p_positive"] - table["log_p_negative"]
        # Where the matching answer is neither (A) nor (B), the published mean counts 0.
        table["p_positive"] = (positive / both).where(positive.notna(), 0.0)
    return table


def _answers(items: list[dict[str, Any]], file: str) -> pd.DataFrame:
    """Free answers, and their judged scores."""
    rows = []
    for number, item in enumerate(items):
        where = f"{file}: item {number}"
        # The published code leaves the field out where the judge's reply is no number.
        score = _number(item, "score", 10, where) if "score" in item else np.nan
        rows.append((number, _text(item, "question", where), _text(item, "model_output", where), score))
    return pd.DataFrame(rows, columns=["item", "prompt", "answer", "score"])


def _text(item: dict[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise InputError(f"{where}: field {name!r} is {value!r}; it must be a text.")
    return value


def _number(item: dict[str, Any], name: str, most: int, where: str) -> float:
    value = item.get(name)
    if not isinstance(value, int | float) or not 0 <= value <= most:
        raise InputError(f"{where}: field {name!r} is {value!r}; it must be between 0 and {most}.")
    return float(value)
