"""Download of published question sets, each checked against its known sha256."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import pooch

from caa_interp.errors import CAAError, InputError
from caa_interp.files import cache_folder

BASE_URL_VARIABLE = "CAA_INTERP_PUBLISHED_URL"
BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 30.0


class DownloadError(CAAError, OSError):
    """A published file cannot be downloaded, or is not the file that is expected."""


_EVALS = "anthropics/evals/f6059a593f6feb0a500e8fe01f422a8ccfbdac09"
_HUMAN = "advanced-ai-risk/human_generated_evals"

# Repository, commit and path, as in an address, and the sha256 of a copy that was read.
FILES: dict[str, dict[str, tuple[str, str]]] = {
    "anthropic": {
        "corrigible-neutral-HHH": (
            f"{_EVALS}/{_HUMAN}/corrigible-neutral-HHH.jsonl",
            "875632869abd5b1e70cccc130dbb6ed2ff6b1b1c7eb50b835a2cfdc02f3daac7",
        ),
        "survival-instinct": (
            f"{_EVALS}/{_HUMAN}/survival-instinct.jsonl",
            "0831782a9e0462f137eb9c4884edd19f248e18f17770f7a4540c67937b3af0e8",
        ),
    },
    "caa": {},
}
_WHERE = {
    "anthropic": f"https://github.com/anthropics/evals ({_HUMAN}/<behavior>.jsonl)",
    "caa": "https://github.com/nrimsky/CAA (datasets/generate/<behavior>/generate_dataset.json)",
}


def fetch(collection: Literal["caa", "anthropic"], behavior: str) -> Path:
    """Download a published question set, unless it is already there.

    Parameters
    ----------
    collection
        ``"anthropic"``: the human-written evaluations of ``anthropics/evals``. ``"caa"``: the sets of
        ``nrimsky/CAA``; none of them is known yet.
    behavior
        Name of the set there, e.g. ``"survival-instinct"``.

    Returns
    -------
    pathlib.Path
        The file, in ``published/<collection>`` of :func:`caa_interp.files.cache_folder`, its sha256 checked.

    Raises
    ------
    InputError
        If the collection or the set is not known.
    DownloadError
        If the file cannot be downloaded or written, or has another hash. Nothing is left behind.

    Notes
    -----
    The environment variable ``CAA_INTERP_PUBLISHED_URL`` names a mirror of ``https://raw.githubusercontent.com``.

    Examples
    --------
    >>> from caa_interp.behaviors.readers import read_pairs
    >>> result = read_pairs(fetch("anthropic", "survival-instinct"))  # doctest: +SKIP
    """
    if collection not in FILES:
        raise InputError(f"collection: {collection!r} is not one of {', '.join(map(repr, FILES))}.")
    yourself = f"download the file from {_WHERE[collection]} and give its path to read_pairs"
    if behavior not in FILES[collection]:
        known = ", ".join(f"fetch({group!r}, {name!r})" for group, names in FILES.items() for name in names)
        raise InputError(
            f"behavior: the hash of {behavior!r} in {collection!r} is not known. Known: {known}. For another, "
            f"{yourself}."
        )
    path, sha256 = FILES[collection][behavior]
    base = os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if not base.startswith(("https://", "http://")):
        raise InputError(f"{BASE_URL_VARIABLE}: {base!r} must begin with https:// or http://. Correct or unset it.")
    url = f"{base.rstrip('/')}/{path}"
    target = cache_folder() / "published" / collection / f"{behavior}{Path(path).suffix}"
    pooch.get_logger().setLevel("WARNING")  # what goes wrong is said below
    try:
        pooch.retrieve(
            url,
            known_hash=f"sha256:{sha256}",
            fname=target.name,
            path=target.parent,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT_SECONDS),
        )
    except OSError as error:
        raise DownloadError(
            f"{url}: the file did not arrive in {target.parent} ({error}). Check the network, {BASE_URL_VARIABLE} if "
            "you set it, and that the folder can be written (CAA_INTERP_CACHE names another), and try again. "
            f"On a machine without a network, {yourself}."
        ) from error
    except ValueError as error:
        raise DownloadError(
            f"{url}: what arrived is not the expected file, with sha256 {sha256}, and was removed. Try again; if "
            f"that fails, {yourself}."
        ) from error
    return target
