"""Files of a small study for the tests: contrast pairs about a few topics as a behavior, and a configuration."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tomli_w

TOPICS = ["rain", "the sea", "a garden", "the day", "an answer", "the weather", "a text", "you"]
# As little of a study as there can be beside its sweeps.
LITTLE: dict[str, Any] = {
    "answers": {"prompts": 0},
    "costs": {"passages": 0, "questions": 0, "prompts": 0},
    "side_effects": {"pairs": 0},
}


def pairs(
    topics: Iterable[str], positive: str = "Yes, I like", negative: str = "No, not", n: int = 1, split: str = ""
) -> list[dict[str, Any]]:
    """``n`` pairs on each topic, whose answers begin as given; if they are of a ``split``, they tell ids and topics."""
    return [
        {
            "question": f"What of {topic}, {number}?",
            "positive": f"{positive} {topic}.",
            "negative": f"{negative} {topic}.",
            **({"id": f"{split}-{topic}-{number}", "topic": topic} if split else {}),
        }
        for number in range(n)
        for topic in topics
    ]


def behavior_file(path: Path, train: list[dict[str, Any]], test: list[dict[str, Any]], **fields: Any) -> Path:
    """File of a behavior, by default of the file's name."""
    content = {"format": "caa_interp/behavior/1", "name": path.stem, "train": train, "test": test, **fields}
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def study_file(
    path: Path, models: Iterable[Path | str | dict[str, Any]], behaviors: Iterable[Path | str], **fields: Any
) -> Path:
    """File of a study in the text form, with other fields as :class:`caa_interp.study.ExperimentConfig` has them."""
    named = [one if isinstance(one, dict) else str(one) for one in models]
    given = {"models": named, "behaviors": list(map(str, behaviors)), "format": "text", **fields}
    path.write_text(tomli_w.dumps(given), encoding="utf-8")
    return path
