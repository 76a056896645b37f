"""Two-option questions with a right answer, neutral prose, harmless requests: what steering must not break.

A question is a :class:`ContrastPair` whose positive answer is the right one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caa_interp.behaviors.behavior import data_folder, parse_pairs
from caa_interp.behaviors.pairs import ContrastPair
from caa_interp.behaviors.readers import read_pairs
from caa_interp.errors import InputError, check_count, check_installed
from caa_interp.files import read_json

FORMAT = "caa_interp/questions/1"
PACKAGED = ("capability", "misconceptions")
# Name: Hugging Face data set, configuration, split.
HUB = {
    "mmlu": ("cais/mmlu", "all", "test"),
    "truthfulqa": ("truthfulqa/truthful_qa", "multiple_choice", "validation"),
}


def load_questions(name_or_path: str | Path, *, per_subject: int | None = None, seed: int = 0) -> list[ContrastPair]:
    """Load two-option questions.

    Parameters
    ----------
    name_or_path
        ``"capability"`` (240 general-knowledge questions over 12 subjects, in MMLU's form) or
        ``"misconceptions"`` (80, in TruthfulQA's form), which come with the package; ``"mmlu"`` or
        ``"truthfulqa"``, read from the Hugging Face Hub through ``datasets``; or a JSON file like the packaged ones or
        the published CAA code's ``mmlu.json`` and ``truthful_qa.json``.
    per_subject
        At most this many questions of each subject, drawn at random; default: all. The paper takes 10 of each of
        MMLU's 57 subjects (Rimsky et al. 2024, section 5).
    seed
        Seed of the draw, and of the wrong option that is kept where a question has several.

    Returns
    -------
    list of ContrastPair
        ``positive`` is the right answer; ``topic`` the subject.
    """
    name = str(name_or_path)
    generator = np.random.default_rng(seed)
    if name in HUB:
        pairs = _from_hub(name, generator)
    elif name in PACKAGED:
        pairs = _from_file(data_folder() / f"_{name}.json", name)
    elif name.endswith(".json"):
        pairs = _from_file(Path(name), name)
    else:
        raise InputError(
            f"questions: {name!r} is not one of {', '.join([*PACKAGED, *HUB])}. Give one of these, or a .json file."
        )
    if per_subject is None:
        return pairs
    check_count("per_subject", per_subject)
    by_subject: dict[str | None, list[ContrastPair]] = {}
    for pair in pairs:
        by_subject.setdefault(pair.topic, []).append(pair)
    return [
        group[index]
        for group in by_subject.values()
        for index in sorted(generator.permutation(len(group))[:per_subject])
    ]


def load_prose() -> list[str]:
    """Passages of neutral expository prose, about 6,000 tokens in all, for perplexity."""
    text = (data_folder() / "_neutral_prose.txt").read_text(encoding="utf-8")
    return [passage.strip() for passage in text.split("\n---\n")]


def load_requests() -> dict[str, list[str]]:
    """Requests that an assistant has no reason to refuse, for :func:`caa_interp.evaluation.safety_audit`.

    Returns
    -------
    dict
        ``"harmless"``: 30 that sound harmless; ``"borderline"``: 30 that hold a word which sounds alarming, such as
        the zombie of a zombie process.
    """
    data = read_json(data_folder() / "_requests.json", "requests")
    return {kind: list(data[kind]) for kind in ("harmless", "borderline")}


def _from_file(path: Path, name: str) -> list[ContrastPair]:
    where = f"questions {name!r}"
    data = read_json(path, where)
    if isinstance(data, list):
        return list(read_pairs(path))
    if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("items"), list):
        raise InputError(
            f"{where}: the file must be an object of format {FORMAT!r} with a list 'items', or a list of pairs."
        )
    return list(parse_pairs(data["items"], f"{where}: items", ("question", "correct", "incorrect"), "subject"))


def _from_hub(name: str, generator: np.random.Generator) -> list[ContrastPair]:
    check_installed("datasets", f"questions {name!r}", "datasets")
    import datasets

    repository, configuration, split = HUB[name]
    try:
        rows = datasets.load_dataset(repository, configuration, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"questions {name!r}: {repository} cannot be read from the Hugging Face Hub ({str(error)[:200]}). Check "
            f"the network, or use one of {', '.join(PACKAGED)}, which come with the package."
        ) from error
    pairs = []
    for number, row in enumerate(rows):
        if name == "mmlu":
            options, right, subject = row["choices"], int(row["answer"]), row["subject"]
        else:
            options, right, subject = row["mc1_targets"]["choices"], row["mc1_targets"]["labels"].index(1), None
        wrong = [option for option in options if option.strip() and option.strip() != options[right].strip()]
        if wrong:
            kept = wrong[int(generator.integers(len(wrong)))]
            pairs.append(ContrastPair(row["question"], options[right], kept, id=f"{name}-{number}", topic=subject))
    return pairs
