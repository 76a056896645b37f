"""Steering vectors on the Hugging Face Hub: a repository of one vector and its card.

1. :func:`save_for_hub` writes a folder: ``vector.safetensors`` (this package's own file format), ``README.md`` (the
   card) and, if one is given, a figure.
2. :func:`push_to_hub` uploads that folder as one commit, whole or not at all.
3. :func:`from_hub` downloads the one ``.safetensors`` file that is named; the vector remembers the commit.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior, check_behavior
from caa_interp.errors import InputError, warn
from caa_interp.files import publish_folder
from caa_interp.interchange.hub_errors import check_repo_id, hub_errors
from caa_interp.interchange.model_card import model_card
from caa_interp.interchange.tensors import MAX_BYTES
from caa_interp.vectors.vector import SteeringVector, one_vector

VECTOR, CARD, PICTURE, DRAWING = "vector.safetensors", "README.md", "figure.png", "figure.json"
_FILENAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def save_for_hub(
    vector: SteeringVector,
    folder: str | Path,
    *,
    repo_id: str | None = None,
    reliability: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    audit: pd.DataFrame | None = None,
    figure: Any = None,
    behavior: Behavior | None = None,
) -> Path:
    """Write a steering vector and its model card to a folder, without any network.

    Parameters
    ----------
    vector
        The vector.
    folder
        Folder to write; it appears whole or not at all. An existing folder is replaced if it holds only files that
        this function writes, and is removed only when the new one is in its place.
    repo_id
        ``"owner/name"``: the repository that the card's example loads; default: a placeholder.
    reliability
        Result of :func:`caa_interp.reliability`, for the card.
    effects
        Result of :func:`caa_interp.steerability` or :func:`caa_interp.summarize`, controls included; of several
        behaviors, only the vector's own is shown.
    audit
        Result of :func:`caa_interp.evaluation.summarize_audit`, for the card.
    figure
        Plotly figure, for the card. It is drawn as PNG; where kaleido or its browser is missing, it is written as
        Plotly JSON, with a warning.
    behavior
        Gives the card its description and its license.

    Returns
    -------
    pathlib.Path
        ``folder``, which :func:`push_to_hub` uploads and :func:`from_hub` reads.

    Raises
    ------
    InputError
        If an argument is not one of those above, or the folder holds other files.
    """
    one_vector(vector)
    if behavior is not None:
        check_behavior(behavior)
    if figure is not None and not (hasattr(figure, "write_image") and hasattr(figure, "to_json")):
        raise InputError(f"figure: {type(figure).__name__}; give a Plotly figure, such as a plot_* function returns.")
    folder = Path(folder)
    _check_folder(folder)
    with publish_folder(folder, replace=True) as new:
        vector.save(new / VECTOR)
        drawn = None if figure is None else _draw(figure, new)
        tables = {"reliability": reliability, "effects": effects, "audit": audit}
        card = model_card(vector, repo_id=repo_id, **tables, figure=drawn, behavior=behavior)
        (new / CARD).write_text(card, encoding="utf-8", newline="\n")
    return folder


def push_to_hub(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Steering vector, made with caa_interp",
) -> str:
    """Upload a folder of :func:`save_for_hub` to the Hugging Face Hub, as one commit.

    Parameters
    ----------
    folder
        The folder. Its card can be edited before; nothing but the card, the vector and the figure is uploaded.
    repo_id
        ``"owner/name"``. A repository that does not exist is created; in an existing one, the vector, the card and
        the figure are replaced, and all other files stay.
    private
        Whether a new repository is private (default: public). An existing one stays what it is, and must be private
        if this is true.
    token
        Access token with write permission; default: the one of ``hf auth login`` or ``HF_TOKEN``.
    revision
        Existing branch to commit to; default: ``main``.
    commit_message
        Message of the commit.

    Returns
    -------
    str
        Address of the commit; its last part is the ``revision`` to give :func:`from_hub`. If nothing changed, no
        commit is made, and this is the address of the last one.

    Raises
    ------
    InputError
        If an argument is not one of those above, before anything is sent.
    ModelError
        If the hub cannot be reached, or refuses; the message says what to do.

    Examples
    --------
    >>> folder = caa.interchange.save_for_hub(vector, "sycophancy", behavior=b)  # doctest: +SKIP
    >>> caa.interchange.push_to_hub(folder, "you/sycophancy")  # doctest: +SKIP
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo_id(repo_id)
    if "/" not in repo_id:
        raise InputError(f"repo_id: {repo_id!r} has no owner. Give 'you/{repo_id}', with your name on the hub.")
    if not commit_message.strip():
        raise InputError("commit_message: it is empty. Say what the commit is.")
    if not isinstance(folder, str | Path):
        raise InputError(f"folder: {type(folder).__name__}; give a folder that save_for_hub wrote.")
    folder = Path(folder)
    names = _check_folder(folder)
    if not {VECTOR, CARD} <= names:
        raise InputError(f"folder: {str(folder)!r} does not hold {VECTOR} and {CARD}. Write it with save_for_hub.")
    SteeringVector.load(folder / VECTOR)
    with hub_errors(repo_id, revision):
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        there = api.model_info(repo_id, revision=revision)
        if private and not there.private:
            raise InputError(
                f"private: {repo_id!r} already exists and is public. Nothing was sent. Make it private in its "
                "settings on the hub, or name another repository."
            )
        existing = {file.rfilename for file in there.siblings or []}
        # The new card does not name an earlier figure of the other kind.
        stale = ({PICTURE, DRAWING} & existing) - names
        added = [CommitOperationAdd(name, folder / name) for name in sorted(names)]
        deleted = [CommitOperationDelete(name) for name in sorted(stale)]
        commit = api.create_commit(repo_id, added + deleted, commit_message=commit_message, revision=revision)
    return str(commit.commit_url)


def from_hub(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    filename: str = VECTOR,
    token: str | bool | None = None,
    model: Any = None,
) -> SteeringVector:
    """Load a steering vector from the Hugging Face Hub, or from a folder of :func:`save_for_hub`.

    Parameters
    ----------
    repo_id
        ``"owner/name"``, or a local folder, which comes first. Offline, Hugging Face's cache is used.
    revision
        Branch, tag or commit; default: the newest commit of ``main``. Name a commit to make a result reproducible.
    filename
        Path of the file in the repository, which must end in ``.safetensors``; only this file is downloaded.
    token
        Access token for a private or gated repository; default: the one of ``hf auth login`` or ``HF_TOKEN``.
    model
        A loaded model that the vector must fit, see :meth:`SteeringVector.check_fits`.

    Returns
    -------
    SteeringVector
        With ``metadata["hub"] = {"repo": ..., "revision": commit}`` if it was downloaded.

    Raises
    ------
    InputError
        If an argument is not one of those above, or the file is missing, damaged or not a steering vector.
    ModelError
        If the hub cannot be reached, or refuses; the message says what to do.
    VectorMismatchError
        If the vector does not fit ``model``.

    Examples
    --------
    >>> vector = caa.interchange.from_hub("you/sycophancy", revision="1f0c...", model=model)  # doctest: +SKIP
    """
    if not isinstance(filename, str) or not _FILENAME.fullmatch(filename):
        raise InputError(
            f"filename: {filename!r}; it must be the path of a .safetensors file inside the repository, such as "
            "'vector.safetensors'. Other kinds of files are not downloaded: they can hold code."
        )
    if not isinstance(repo_id, str | Path):
        raise InputError(f"repo_id: {type(repo_id).__name__}; give 'owner/name', or a folder.")
    local = Path(os.path.expanduser(repo_id))
    if local.is_dir():
        if revision is not None:
            raise InputError(
                f"revision: {revision!r} was given for the folder {str(local)!r}, which has none. Drop it."
            )
        vector = SteeringVector.load(local / filename)
    else:
        path = _download(str(repo_id), revision, filename, token)
        # Hugging Face's cache keeps it as <repository>/snapshots/<commit>/<filename>.
        commit, _, kept = path.parents[filename.count("/") :][:3]
        try:
            vector = SteeringVector.load(path)
        except InputError as error:
            raise InputError(
                f"{filename!r} of {str(repo_id)!r}: {error} It was kept; to download it again, delete {kept}."
            ) from error
        hub = {"repo": str(repo_id), "revision": commit.name}
        vector = replace(vector, metadata={**vector.metadata, "hub": hub})
    if model is not None:
        vector.check_fits(model)
    return vector


def _download(repo_id: str, revision: str | None, filename: str, token: str | bool | None) -> Path:
    """Download a file, unless it is in Hugging Face's cache, and return its path there."""
    from huggingface_hub import HfApi

    if repo_id.startswith((".", "/", "~")) or repo_id.count("/") > 1:
        raise InputError(f"repo_id: {repo_id!r} is not a folder. Check the path, or give a repository 'owner/name'.")
    check_repo_id(repo_id)
    with hub_errors(repo_id, revision, filename):
        api = HfApi(token=token)
        size = api.hf_hub_download(repo_id, filename, revision=revision, dry_run=True).file_size
        if size is not None and size > MAX_BYTES:
            raise InputError(
                f"filename: {filename!r} of {repo_id!r} has {size:,} bytes; at most {MAX_BYTES:,} are read. It was "
                "not downloaded; give the file of a vector."
            )
        return Path(api.hf_hub_download(repo_id, filename, revision=revision))


def _check_folder(folder: Path) -> set[str]:
    """Names of the files in a folder, or none; raise unless :func:`save_for_hub` writes files of these names."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names - {VECTOR, CARD, PICTURE, DRAWING})
    if others or (folder.exists() and not folder.is_dir()):
        what = f"holds {', '.join(others[:3])}" if others else "is a file"
        raise InputError(f"folder: {str(folder)!r} {what}. Give a new folder, or an empty one.")
    return names


def _draw(figure: Any, folder: Path) -> str:
    """Write a figure as PNG if it can be drawn here, else as JSON; return the file's name."""
    try:
        figure.write_image(str(folder / PICTURE), scale=2)
        return PICTURE
    except RuntimeError as error:  # kaleido or its browser is missing, or does not start
        (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
        warn(
            f"figure: no PNG can be drawn here ({reason}), so it was written as {DRAWING}, which the hub does not "
            "show. Install a Chrome or Chromium browser and caa-interp[figures] for a PNG."
        )
    (folder / PICTURE).unlink(missing_ok=True)
    (folder / DRAWING).write_text(figure.to_json(), encoding="utf-8")
    return DRAWING
