"""Download of published question sets, each checked against its known sha256."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Literal

import pooch

from caa_interp.behaviors.behavior import data_folder
from caa_interp.errors import CAAError, InputError, check_choice
from caa_interp.files import cache_folder

BASE_URL_VARIABLE = "CAA_INTERP_PUBLISHED_URL"
BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 30.0
WHERE = {
    "anthropic": "https://github.com/anthropics/evals (advanced-ai-risk/human_generated_evals)",
    "caa": "https://github.com/nrimsky/CAA (datasets)",
}
_GIVE = {
    "anthropic": "the path of one to read_pairs",
    "caa": "their folder as --data of caa-interp reproduce, or the path of one to read_pairs",
}


class DownloadError(CAAError, OSError):
    """A published file cannot be downloaded, or is not the file that is expected."""


_CAA = "EleutherAI/rnngineering/b18a80e"
# Repository, commit and folder, as in an address; a file is in one of these folders.
ROOTS = {
    "anthropic": ("anthropics/evals/f6059a593f6feb0a500e8fe01f422a8ccfbdac09/advanced-ai-risk/human_generated_evals",),
    "caa": (f"{_CAA}/datasets", f"{_CAA}/Datasets"),  # a copy of the files of nrimsky/CAA, under two spellings
}


@cache
def published_digests(collection: str) -> dict[str, str]:
    """``{name: sha256}`` of the files of a collection, by their paths in its folder."""
    listed = (data_folder() / f"_published_{collection}.sha256").read_text(encoding="ascii")
    return {name: sha256 for sha256, name in map(str.split, listed.splitlines())}


def fetch(collection: Literal["caa", "anthropic"], name: str | None = None) -> Path:
    """Download published question sets, unless they are already there.

    Parameters
    ----------
    collection
        ``"caa"``: the 23 files of the paper (Rimsky et al. 2024) that make vectors and test them, MMLU and TruthfulQA
        included. ``"anthropic"``: two of the human-written evaluations (Perez et al. 2022).
    name
        One file, such as ``"survival-instinct"`` (its ending ``.jsonl`` can be left out) or ``"test/mmlu/mmlu.json"``;
        default: all.

    Returns
    -------
    pathlib.Path
        The file, or the folder of all: ``published/<collection>`` in :func:`caa_interp.files.cache_folder`. Of
        ``"caa"``, it is the ``data`` of :func:`caa_interp.paper.reproduce`.

    Raises
    ------
    InputError
        If the collection or the file is not known.
    DownloadError
        If a file cannot be downloaded or written, or has another sha256. Of this file nothing is left behind; those
        before it stay, and are not downloaded again.

    Notes
    -----
    Files that are there already are checked, too. The environment variable ``CAA_INTERP_PUBLISHED_URL`` names a mirror
    of ``https://raw.githubusercontent.com``.

    Examples
    --------
    >>> from caa_interp.behaviors.readers import read_pairs
    >>> result = read_pairs(fetch("anthropic", "survival-instinct"))  # doctest: +SKIP
    """
    check_choice("collection", collection, WHERE)
    digests = published_digests(collection)
    if name is not None and name not in digests:
        if f"{name}.jsonl" not in digests:
            raise InputError(
                f"name: {name!r} is not one of the files of {collection!r}: {', '.join(digests)}. For another, "
                f"download it from {WHERE[collection]} and give its path to read_pairs."
            )
        name = f"{name}.jsonl"
    base = os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if not base.startswith(("https://", "http://")):
        raise InputError(f"{BASE_URL_VARIABLE}: {base!r} must begin with https:// or http://. Correct or unset it.")
    folder = cache_folder() / "published" / collection
    yourself = f"get the files from {WHERE[collection]} and give {_GIVE[collection]}"
    for one in digests if name is None else [name]:
        urls = [f"{base.rstrip('/')}/{root}/{one}" for root in ROOTS[collection]]
        _download(urls, digests[one], folder / one, yourself)
    return folder if name is None else folder / name


def _download(urls: Sequence[str], sha256: str, target: Path, yourself: str) -> None:
    """Get a file from the first address that has one, unless it is there."""
    pooch.get_logger().setLevel("WARNING")  # what goes wrong is said below
    for url in urls:
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{sha256}",
                fname=target.name,
                path=target.parent,
                downloader=pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS),
            )
            return
        except OSError as error:
            if url != urls[-1] and _not_found(error):
                continue
            raise DownloadError(
                f"{url}: the file did not arrive in {target.parent} ({error}). Check the network, {BASE_URL_VARIABLE} "
                "if you set it, and that the folder can be written (CAA_INTERP_CACHE names another), and try again: "
                f"files that have arrived stay. On a machine without a network, {yourself}."
            ) from error
        except ValueError as error:
            raise DownloadError(
                f"{url}: what arrived is not the expected file, with sha256 {sha256}, and was removed. Try again; "
                f"if that fails, {yourself}."
            ) from error


def _not_found(error: OSError) -> bool:
    """Whether a server said that there is no such file."""
    return getattr(getattr(error, "response", None), "status_code", None) == HTTPStatus.NOT_FOUND
