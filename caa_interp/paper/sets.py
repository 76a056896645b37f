"""The paper's question sets in a folder: which files belong to which behavior, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caa_interp.behaviors.pairs import ContrastPair, split_pairs
from caa_interp.behaviors.readers import read_pairs
from caa_interp.errors import InputError
from caa_interp.paper import published as paper

REPOSITORY = "https://github.com/nrimsky/CAA"
N_TEST, LARGEST_TEST_SHARE = 50, 0.2


@dataclass(frozen=True)
class PublishedSet:
    """One behavior's items as published: ``generate`` makes the vector, ``test`` is the multiple-choice test.

    ``split_here``: they came in one file, so the split between the two is ours and not the paper's.
    """

    name: str
    generate: tuple[ContrastPair, ...]
    test: tuple[ContrastPair, ...]
    split_here: bool


def read_published_sets(data: str | Path, behaviors: Sequence[str] = paper.BEHAVIORS) -> dict[str, PublishedSet]:
    """Read the items of the paper's behaviors.

    Parameters
    ----------
    data
        One of:

        - a copy of the repository ``nrimsky/CAA``, or its folder ``datasets``: with
          ``generate/<behavior>/generate_dataset.json`` and ``test/<behavior>/test_dataset_ab.json``;
        - a folder with one file for each behavior, ``<behavior>.json`` or else ``<behavior>.jsonl``, such as the
          Anthropic evaluations. From each, 50 items (a fifth, if that is less) are drawn with a fixed seed as the test.
    behaviors
        Names among :data:`caa_interp.paper.published.BEHAVIORS`.

    Raises
    ------
    InputError
        If a name is not one of the paper's, or the folder or files are missing (all are named at once) or malformed.
    """
    names = check_behaviors(behaviors)
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(
            f"data: there is no folder {folder}. Get the published sets with git clone {REPOSITORY} and give the "
            "folder that it makes."
        )
    roots = [root for root in (folder / "datasets", folder) if (root / "generate").is_dir()]
    files = {name: _files(folder, roots, name) for name in names}
    missing = [file for own in files.values() for file in own if not file.is_file()]
    if missing:
        raise InputError(
            f"data: {len(missing)} of {sum(map(len, files.values()))} files are missing: "
            f"{', '.join(str(file) for file in missing)}. Get them with git clone {REPOSITORY} and give the folder "
            "that it makes, or name only behaviors whose files are there."
        )
    return {name: _read(name, own) for name, own in files.items()}


def check_behaviors(behaviors: Sequence[str]) -> list[str]:
    """Return names of the paper's behaviors in the paper's order, or raise :class:`InputError`."""
    unknown = [name for name in behaviors if name not in paper.BEHAVIORS]
    if unknown or not behaviors:
        given = ", ".join(map(repr, unknown)) if unknown else "the list is empty; each"
        raise InputError(f"behaviors: {given} must be one of the paper's, {', '.join(paper.BEHAVIORS)}.")
    return [name for name in paper.BEHAVIORS if name in behaviors]


def _files(folder: Path, roots: Sequence[Path], name: str) -> list[Path]:
    if roots:
        return [
            roots[0] / "generate" / name / "generate_dataset.json",
            roots[0] / "test" / name / "test_dataset_ab.json",
        ]
    json, lines = folder / f"{name}.json", folder / f"{name}.jsonl"
    return [lines if lines.is_file() and not json.is_file() else json]


def _read(name: str, files: Sequence[Path]) -> PublishedSet:
    try:
        read = [read_pairs(file, compat="caa").pairs for file in files]
        if len(read) == 2:
            return PublishedSet(name, read[0], read[1], split_here=False)
        generate, test = split_pairs(read[0], min(LARGEST_TEST_SHARE, N_TEST / len(read[0])))
    except InputError as error:
        # The published files have the same two names for every behavior.
        raise InputError(f"data of {name}: {error}") from error
    return PublishedSet(name, tuple(generate), tuple(test), split_here=True)
