"""Download of published question sets, each checked against its known size and sha256.

A file is written as ``.part``, so that an interrupted download goes on where it stopped, and renamed only when it
is whole and right.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

from caa_interp.errors import CAAError, InputError
from caa_interp.files import cache_folder

BASE_URL_VARIABLE = "CAA_INTERP_PUBLISHED_URL"
BASE_URL = "https://raw.githubusercontent.com"
TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3
_CHUNK = 2**16


class DownloadError(CAAError, OSError):
    """A published file cannot be downloaded, or is not the file that is expected."""


@dataclass(frozen=True)
class PublishedFile:
    """A file in a public GitHub repository, as it was at one commit.

    Attributes
    ----------
    repository
        ``owner/name``.
    commit
        Full commit id.
    path
        Path in the repository.
    size
        Length in bytes.
    sha256
        Hexadecimal digest of the content.
    """

    repository: str
    commit: str
    path: str
    size: int
    sha256: str


_EVALS = ("anthropics/evals", "f6059a593f6feb0a500e8fe01f422a8ccfbdac09")
_HUMAN = "advanced-ai-risk/human_generated_evals"

# A file is listed only with the size and hash of a copy that was read: one that is not listed is not downloaded.
FILES: dict[str, dict[str, PublishedFile]] = {
    "anthropic": {
        "corrigible-neutral-HHH": PublishedFile(
            *_EVALS,
            f"{_HUMAN}/corrigible-neutral-HHH.jsonl",
            101_545,
            "875632869abd5b1e70cccc130dbb6ed2ff6b1b1c7eb50b835a2cfdc02f3daac7",
        ),
        "survival-instinct": PublishedFile(
            *_EVALS,
            f"{_HUMAN}/survival-instinct.jsonl",
            332_009,
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
        The file, below ``published`` in :func:`caa_interp.files.cache_folder`. Its size and sha256 are right,
        also if it was there before.

    Raises
    ------
    InputError
        If the collection or the set is not known.
    DownloadError
        If the file cannot be downloaded, or has another size or hash. What has arrived is kept, and the next call
        goes on from there.

    Notes
    -----
    The environment variable ``CAA_INTERP_PUBLISHED_URL`` names a mirror of ``https://raw.githubusercontent.com``.

    Examples
    --------
    >>> from caa_interp.behaviors.readers import read_pairs
    >>> result = read_pairs(fetch("anthropic", "survival-instinct"))  # doctest: +SKIP
    """
    file = _known(collection, behavior)
    target = cache_folder() / "published" / collection / file.path
    if target.is_file() and _is_right(target, file):
        return target
    base = os.environ.get(BASE_URL_VARIABLE) or BASE_URL
    if not base.startswith(("https://", "http://")):
        raise InputError(f"{BASE_URL_VARIABLE}: {base!r} must begin with https:// or http://. Correct or unset it.")
    url = f"{base.rstrip('/')}/{file.repository}/{file.commit}/{quote(file.path)}"
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            resumed = part.exists()
            _complete(url, part, file)
            if _is_right(part, file):
                break
            size = part.stat().st_size
            part.unlink()
            if not resumed:
                raise DownloadError(
                    f"{url}: {size:,} bytes that are not the expected {file.size:,} with sha256 {file.sha256}. They "
                    f"were removed. Try again; if it stays so, download the file from {_WHERE[collection]} and give "
                    "its path to read_pairs."
                )
        os.replace(part, target)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{target}: it cannot be written ({error}). Make room, or set CAA_INTERP_CACHE to another folder."
        ) from error
    return target


def _known(collection: str, behavior: str) -> PublishedFile:
    if collection not in FILES:
        raise InputError(f"collection: {collection!r} is not one of {', '.join(map(repr, FILES))}.")
    if behavior not in FILES[collection]:
        known = ", ".join(f"fetch({group!r}, {name!r})" for group, names in FILES.items() for name in names)
        raise InputError(
            f"behavior: the size and hash of {behavior!r} in {collection!r} are not known. Known are {known}. "
            f"Download another file from {_WHERE[collection]} and give its path to read_pairs."
        )
    return FILES[collection][behavior]


def _is_right(path: Path, file: PublishedFile) -> bool:
    if path.stat().st_size != file.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _complete(url: str, part: Path, file: PublishedFile) -> None:
    """Bring ``part`` to the expected length, in a few attempts, each from where the last one stopped."""
    failure: Exception | None = None
    for _ in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        if have == file.size:
            return
        try:
            _receive(url, part, have, file.size)
        except HTTPError as error:
            error.close()
            if error.code == 416:  # the range is refused: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DownloadError(
                    f"{url}: the server answers {error.code} {error.reason}. The file may have moved: download it "
                    "yourself and give its path to read_pairs, or unset a wrong "
                    f"{BASE_URL_VARIABLE}."
                ) from error
            failure = error
        except (URLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            failure = error
        else:
            failure = None
    have = part.stat().st_size if part.exists() else 0
    if have >= file.size:
        return
    raise DownloadError(
        f"{url}: {have:,} of {file.size:,} bytes arrived ({failure or 'the connection closed early'}). Check the "
        "network and call fetch again, which goes on from there; without a network, copy the file to this machine "
        "and give its path to read_pairs."
    ) from failure


def _receive(url: str, part: Path, have: int, size: int) -> None:
    """Append to ``part`` what one request brings, or write it anew if the server ignores the range."""
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urlopen(request, timeout=TIMEOUT_SECONDS) as response:
        resumed = have > 0 and response.status == 206
        if resumed and not str(response.headers.get("Content-Range", "")).startswith(f"bytes {have}-"):
            part.unlink()
            raise http.client.HTTPException("the server sent another range than was asked for")
        with part.open("ab" if resumed else "wb") as out:
            _copy(response, out, size + 1 - (have if resumed else 0))


def _copy(response: Any, out: IO[bytes], limit: int) -> None:
    """Copy at most ``limit`` bytes: one more than expected shows that the file is too long."""
    while limit > 0:
        try:
            chunk = response.read(min(_CHUNK, limit))
        except OSError as error:  # apart from one in writing, which no further attempt would mend
            raise URLError(error) from error
        if not chunk:
            return
        out.write(chunk)
        limit -= len(chunk)
