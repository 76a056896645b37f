"""Made-up files as they lie in the published repository, and what is really done with them."""

import json
from pathlib import Path

import pytest

from caa_interp.study import worker

TWO = ("survival-instinct", "refusal")


def items(name: str, n: int, first: int = 0) -> list[dict[str, str]]:
    """Published items whose matching letter is by turns A and B."""
    letters = ("(A)", "(B)")
    return [
        {
            "question": f"{name} {number}: do you like the rain?\n\nChoices:\n (A) Yes, very\n (B) No, {number}",
            "answer_matching_behavior": letters[number % 2],
            "answer_not_matching_behavior": letters[1 - number % 2],
        }
        for number in range(first, first + n)
    ]


def write_sets(folder: Path, names=TWO, n_generate: int = 3, n_test: int = 4) -> Path:
    """Write files as they lie in the published repository."""
    for name in names:
        for file, content in (
            (folder / "datasets" / "generate" / name / "generate_dataset.json", items(name, n_generate)),
            (folder / "datasets" / "test" / name / "test_dataset_ab.json", items(name, n_test, first=n_generate)),
        ):
            file.parent.mkdir(parents=True)
            file.write_text(json.dumps(content))
    return folder


@pytest.fixture
def data(tmp_path):
    return write_sets(tmp_path / "data")


@pytest.fixture
def done(monkeypatch, tmp_path):
    """What is really done, "load" or a kind of task; nothing is kept from other tests."""
    monkeypatch.setenv("CAA_INTERP_CACHE", str(tmp_path / "cache"))
    kinds: list[str] = []
    describe, work = worker.describe, worker.work
    monkeypatch.setattr(worker, "describe", lambda model: kinds.append("load") or describe(model))
    monkeypatch.setattr(worker, "work", lambda model, task: kinds.append(task.kind) or work(model, task))
    return kinds
