"""The paper's question sets in a folder: which files belong to which behavior, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caa_interp.behaviors.downloads import published_digests
from caa_interp.behaviors.pairs import ContrastPair, split_pairs
from caa_interp.behaviors.readers import read_pairs
from caa_interp.behaviors.shutdown import accepts_shutdown
from caa_interp.errors import InputError
from caa_interp.files import file_digest, read_objects
from caa_interp.paper import published as paper

_GET = (
    "Get the published sets with caa-interp data fetch caa or git clone https://github.com/nrimsky/CAA, and give the "
    "folder that it makes"
)
N_TEST, LARGEST_TEST_SHARE = 50, 0.2
EXAMS = {"mmlu": "test/mmlu/mmlu.json", "truthful_qa": "test/truthfulqa/truthful_qa.json"}


@dataclass(frozen=True)
class PublishedSet:
    """One behavior's items as published: ``generate`` makes the vector, ``test`` is the multiple-choice test.

    ``split_here``: they came in one file, so the split between the two is ours and not the paper's. ``are_the_papers``:
    both files have the sha256 of the paper's. ``open_ended``: the questions for free answers, if their file is there.
    """

    name: str
    generate: tuple[ContrastPair, ...]
    test: tuple[ContrastPair, ...]
    split_here: bool
    are_the_papers: bool
    open_ended: tuple[str, ...] = ()

    @property
    def turned(self) -> bool:
        """Whether the matching answer is what the packaged behavior of this name calls the negative one."""
        return any(accepts_shutdown(pair.question) for pair in self.generate)


@dataclass(frozen=True)
class Exam:
    """Questions as published, whose matching answer is the right one and whose topic is their category."""

    questions: tuple[ContrastPair, ...]
    are_the_papers: bool


def read_published_sets(data: str | Path, behaviors: Sequence[str] = paper.BEHAVIORS) -> dict[str, PublishedSet]:
    """Read the items of the paper's behaviors.

    Parameters
    ----------
    data
        One of:

        - what ``caa-interp data fetch caa`` made, a copy of the repository ``nrimsky/CAA``, or its folder ``datasets``
          or ``Datasets``: with ``generate/<behavior>/generate_dataset.json`` and
          ``test/<behavior>/test_dataset_ab.json``, and perhaps ``test/<behavior>/test_dataset_open_ended.json``;
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
        raise InputError(f"data: there is no folder {folder}. {_GET}.")
    roots = _roots(folder)
    files = {name: _files(folder, roots, name) for name in names}
    missing = [file for own in files.values() for file in own if not file.is_file()]
    if missing:
        raise InputError(
            f"data: {len(missing)} of {sum(map(len, files.values()))} files are missing: "
            f"{', '.join(str(file) for file in missing)}. {_GET}, or name only behaviors whose files are there."
        )
    prompts = {name: _find(roots, f"test/{name}/test_dataset_open_ended.json") for name in names}
    return {name: _read(name, own, prompts[name]) for name, own in files.items()}


def read_exams(data: str | Path) -> dict[str, Exam]:
    """Read ``"mmlu"`` and ``"truthful_qa"`` from a folder as in :func:`read_published_sets`, as far as it has them."""
    exams = {}
    for name, part in EXAMS.items():
        if file := _find(_roots(Path(data)), part):
            exams[name] = Exam(read_pairs(file, compat="caa").pairs, _is_the_papers(file, part))
    return exams


def check_behaviors(behaviors: Sequence[str]) -> list[str]:
    """Return names of the paper's behaviors in the paper's order, or raise :class:`InputError`."""
    unknown = [name for name in behaviors if name not in paper.BEHAVIORS]
    if unknown or not behaviors:
        given = ", ".join(map(repr, unknown)) if unknown else "the list is empty; each"
        raise InputError(f"behaviors: {given} must be one of the paper's, {', '.join(paper.BEHAVIORS)}.")
    return [name for name in paper.BEHAVIORS if name in behaviors]


def _roots(folder: Path) -> list[Path]:
    return [
        root
        for root in (folder / "datasets", folder / "Datasets", folder)
        if any((root / kind).is_dir() for kind in ("generate", "test"))
    ]


def _files(folder: Path, roots: Sequence[Path], name: str) -> list[Path]:
    found = [_find(roots, part) for part in _parts(name)]
    # A folder "test" alone may hold nothing but the exams.
    if any(found) or any((root / "generate").is_dir() for root in roots):
        return [file or roots[0] / part for file, part in zip(found, _parts(name), strict=True)]
    json, lines = folder / f"{name}.json", folder / f"{name}.jsonl"
    return [lines if lines.is_file() and not json.is_file() else json]


def _parts(name: str) -> tuple[str, str]:
    return f"generate/{name}/generate_dataset.json", f"test/{name}/test_dataset_ab.json"


def _find(roots: Sequence[Path], part: str) -> Path | None:
    """The first file of that name: a copy can have some files under each spelling of the folder."""
    return next((root / part for root in roots if (root / part).is_file()), None)


def _read(name: str, files: Sequence[Path], prompts: Path | None) -> PublishedSet:
    try:
        read = [read_pairs(file, compat="caa").pairs for file in files]
        if len(read) == 2:
            same = all(map(_is_the_papers, files, _parts(name)))
            return PublishedSet(name, read[0], read[1], False, same, _open_ended(prompts) if prompts else ())
        generate, test = split_pairs(read[0], min(LARGEST_TEST_SHARE, N_TEST / len(read[0])))
    except InputError as error:
        # The published files have the same names for every behavior.
        raise InputError(f"data of {name}: {error}") from error
    return PublishedSet(name, tuple(generate), tuple(test), split_here=True, are_the_papers=False)


def _is_the_papers(file: Path, part: str) -> bool:
    return file_digest(file) == published_digests("caa")[part]


def _open_ended(path: Path) -> tuple[str, ...]:
    items = read_objects(path, path.name)
    for number, item in enumerate(items):
        if not isinstance(item.get("question"), str):
            raise InputError(f"{path.name}: item {number} has no text 'question'. Add it, or remove the item.")
    return tuple(item["question"] for item in items)
