"""Packaged pairs as files that lie as in the paper's repository, for a notebook that is to run without the paper's.

python -m tests.integration.packaged_sets FOLDER
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import caa_interp as caa

QUESTION = "What is the capital of France?"
EXAMS = {"mmlu/mmlu.json": "capability", "truthfulqa/truthful_qa.json": "misconceptions"}


def write_packaged_sets(folder: Path, n_generate: int = 4, n_test: int = 2) -> Path:
    """Write a few items of all the paper's behaviors, a question with a short answer, and two exams."""
    for name in caa.paper.numbers()["behavior"].unique():
        packaged = caa.load_behavior(name)
        _write(folder / "generate" / name / "generate_dataset.json", _shortest(packaged.train, n_generate))
        _write(folder / "test" / name / "test_dataset_ab.json", _shortest(packaged.test, n_test))
        _write(folder / "test" / name / "test_dataset_open_ended.json", [{"question": QUESTION}])
    for file, name in EXAMS.items():
        items = [
            {"prompt": item["question"], "correct": item["answer_matching_behavior"], "category": pair.topic}
            | {"incorrect": item["answer_not_matching_behavior"]}
            for number, pair in enumerate(caa.load_questions(name, per_subject=1)[:4])
            for item in [_item(number, pair)]
        ]
        _write(folder / "test" / file, items)
    return folder


def _shortest(pairs: Sequence[caa.ContrastPair], n: int) -> list[dict[str, str]]:
    """The shortest ones, which are read soonest."""
    chosen = sorted(pairs, key=lambda pair: len(pair.question + pair.positive + pair.negative))[:n]
    return [_item(number, pair) for number, pair in enumerate(chosen)]


def _item(number: int, pair: caa.ContrastPair) -> dict[str, str]:
    """A pair as published; its matching answer is by turns (A) and (B)."""
    matching, other = ("(A)", "(B)") if number % 2 else ("(B)", "(A)")
    options = sorted([(matching, pair.positive), (other, pair.negative)])
    return {
        "question": f"{pair.question}\n\nChoices:" + "".join(f"\n {letter} {text}" for letter, text in options),
        "answer_matching_behavior": matching,
        "answer_not_matching_behavior": other,
    }


def _write(path: Path, content: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    write_packaged_sets(Path(sys.argv[1]))
