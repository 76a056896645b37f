"""Names of the fields of an item: this project's, the published ones, or those that the caller names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caa_interp.errors import InputError

PUBLISHED = {
    "question": "question",
    "positive": "answer_matching_behavior",
    "negative": "answer_not_matching_behavior",
}
OWN = {"question": "question", "positive": "positive", "negative": "negative"}
LABELS = {"id": "id", "topic": "topic"}
EXAM = {"question": "prompt", "positive": "correct", "negative": "incorrect", "topic": "category"}  # CAA's MMLU
RESPONSES = {"question": "prompt", "positive": "positive_response", "negative": "negative_response"}  # steering-bench
PROMPTS = ("instruction", "prompt", "text")  # of one prompt in refusal_direction's and others' lists


def check_columns(columns: Mapping[str, str] | None) -> dict[str, str] | None:
    """``columns`` as a dictionary, or None; raise :class:`InputError` unless they name all three fields, each once."""
    if columns is None:
        return None
    if not isinstance(columns, Mapping) or not all(isinstance(value, str) for value in columns.values()):
        raise InputError(f"columns: {columns!r} must map 'question', 'positive' and 'negative' to names of columns.")
    if not set(OWN) <= set(columns) <= {*OWN, *LABELS}:
        raise InputError(
            f"columns: its keys are {sorted(map(str, columns))}; they must be 'question', 'positive' and 'negative', "
            "optionally 'id' and 'topic'. Name the column of each."
        )
    if len(set(columns.values())) < len(columns):
        raise InputError(f"columns: {dict(columns)} names one column twice; give each its own.")
    return dict(columns)


def fields_of(item: Mapping[str, Any], name: str) -> dict[str, str]:
    """Names of the fields, from the first item: this project's, or the published ones."""
    for known in (OWN, PUBLISHED):
        if not item or known["positive"] in item or known["negative"] in item:
            return {**known, **LABELS}
    for known in (EXAM, RESPONSES):
        if set(known.values()) <= set(item):
            return {**LABELS, **known}
    if any(field in item for field in PROMPTS):
        raise InputError(
            f"{name}: its fields are {', '.join(map(repr, item))}: it seems to be one side of the pairs. Give the "
            "files of both, {'positive': 'harmful.json', 'negative': 'harmless.json'}, with pairing and question. "
            "If its items have both answers, give columns={'question': ..., 'positive': ..., 'negative': ...}."
        )
    raise InputError(
        f"{name}: its fields are {', '.join(map(repr, item))}; expected {', '.join(map(repr, OWN.values()))}, or "
        f"{', '.join(map(repr, PUBLISHED.values()))}. Name others with "
        "columns={'question': ..., 'positive': ..., 'negative': ...}."
    )
