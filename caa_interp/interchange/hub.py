"""Steering vectors on the Hugging Face hub: a repository of one vector and its card, out and in.

1. A folder is written first: ``vector.safetensors`` (this package's own format), ``README.md`` (the card) and, if
   there is one, a figure. Nothing else is ever uploaded.
2. It becomes one commit, whole or not at all.
3. Of a repository, the one ``.safetensors`` file that is named is downloaded; the vector remembers the commit.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from caa_interp.behaviors.behavior import Behavior
from caa_interp.errors import InputError
from caa_interp.interchange.hub_errors import check_repo_id, explained
from caa_interp.interchange.model_card import model_card
from caa_interp.vectors.vector import SteeringVector

VECTOR, CARD, PICTURE, DRAWING = "vector.safetensors", "README.md", "figure.png", "figure.json"
MAX_BYTES = 2**30
_FILENAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*\.safetensors")


def push_to_hub(
    vector: SteeringVector,
    repo_id: str,
    *,
    reliability: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    figure: Any = None,
    behavior: Behavior | None = None,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Steering vector, made with caa_interp",
) -> str:
    """Upload a steering vector with a model card to the Hugging Face hub, as one commit.

    Parameters
    ----------
    vector
        The vector.
    repo_id
        ``"owner/name"``. The repository is made if it is not there; of one that is, the vector, the card and the
        figure are replaced, and all other files stay.
    reliability
        Result of :func:`caa_interp.reliability`, for the card.
    effects
        Result of :func:`caa_interp.steerability` or :func:`caa_interp.summarize`, controls included; of several
        behaviors, the vector's own is shown.
    figure
        Plotly figure, for the card. It is drawn as PNG; where kaleido or its browser is missing, it is written as
        Plotly JSON, and a warning says so.
    behavior
        Where the card takes the description and the license from.
    private
        Whether a new repository is private; default: public.
    token
        Access token that may write; default: the one of ``hf auth login`` or ``HF_TOKEN``.
    revision
        Branch to commit to, which must be there; default: ``main``.
    commit_message
        Message of the commit.

    Returns
    -------
    str
        Address of the commit; its last part is the ``revision`` to give :func:`from_hub`. If all files are
        there already, that of the last commit, and no new one is made.

    Raises
    ------
    InputError
        If an argument is not one of those above, before anything is sent.
    ModelError
        If the hub cannot be reached, or refuses; the message says what to do.

    Examples
    --------
    >>> effects = caa.steerability(table)  # doctest: +SKIP
    >>> caa.interchange.push_to_hub(vector, "you/sycophancy", effects=effects, behavior=b)  # doctest: +SKIP
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    check_repo_id(repo_id)
    if "/" not in repo_id:
        raise InputError(f"repo_id: {repo_id!r} has no owner. Give 'you/{repo_id}', with your name on the hub.")
    if not commit_message.strip():
        raise InputError("commit_message: it is empty. Say what the commit is.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write(vector, folder, repo_id, reliability, effects, figure, behavior)
        names = sorted(file.name for file in folder.iterdir())
        with explained(repo_id, revision):
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            there = {file.rfilename for file in api.model_info(repo_id, revision=revision).siblings or []}
            # An earlier figure of the other kind would stand beside the card that does not name it.
            stale = sorted({PICTURE, DRAWING} & there - set(names))
            commit = api.create_commit(
                repo_id,
                [CommitOperationAdd(name, folder / name) for name in names] + [CommitOperationDelete(n) for n in stale],
                commit_message=commit_message,
                revision=revision,
            )
    return str(commit.commit_url)


def save_for_hub(
    vector: SteeringVector,
    folder: str | Path,
    *,
    reliability: pd.DataFrame | None = None,
    effects: pd.DataFrame | None = None,
    figure: Any = None,
    behavior: Behavior | None = None,
) -> Path:
    """Write the folder that :func:`push_to_hub` uploads, without any network.

    Parameters
    ----------
    vector, reliability, effects, figure, behavior
        As in :func:`push_to_hub`.
    folder
        Folder to write; it appears whole or not at all. One that is there is replaced, if it holds nothing but what
        this function writes.

    Returns
    -------
    pathlib.Path
        ``folder``, which :func:`from_hub` reads.

    Raises
    ------
    InputError
        If an argument is not one of those above, or the folder holds other files.
    """
    folder = Path(folder)
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    strange = sorted(found - {VECTOR, CARD, PICTURE, DRAWING})
    if strange or (folder.exists() and not folder.is_dir()):
        what = f"holds {', '.join(strange[:3])}" if strange else "is a file"
        raise InputError(f"folder: {str(folder)!r} {what}. Give a new folder, or an empty one.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new, old = Path(temporary) / "new", Path(temporary) / "old"
        new.mkdir()
        _write(vector, new, None, reliability, effects, figure, behavior)
        if folder.exists():
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    return folder


def from_hub(
    repo_id: str | Path,
    *,
    revision: str | None = None,
    filename: str = VECTOR,
    token: str | bool | None = None,
    model: Any = None,
) -> SteeringVector:
    """Load a steering vector from the Hugging Face hub, or from a folder of :func:`save_for_hub`.

    Parameters
    ----------
    repo_id
        ``"owner/name"``, or a local folder, which goes before a repository of that name.
    revision
        Branch, tag or commit; default: the newest commit of ``main``. Name a commit where a result must stay.
    filename
        Which file of the repository, ``/`` between folders; it must end in ``.safetensors``. No other is downloaded.
    token
        Access token for a private or gated repository; default: the one of ``hf auth login`` or ``HF_TOKEN``.
    model
        A loaded model that the vector must fit, see :meth:`SteeringVector.check_fits`.

    Returns
    -------
    SteeringVector
        With ``metadata["hub"] = {"repo": ..., "revision": commit}``, which tells exactly what was loaded.

    Raises
    ------
    InputError
        If an argument is not one of those above, or the file is missing, damaged or no steering vector. Without a
        network, a file that was downloaded before is found in Hugging Face's cache.
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
            f"filename: {filename!r}; it must be the path of a .safetensors file inside of the repository, such as "
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
                f"{filename!r} of {str(repo_id)!r}: {error} It was kept; to download it anew, delete {kept}."
            ) from error
        hub = {"repo": str(repo_id), "revision": commit.name}
        vector = replace(vector, metadata={**vector.metadata, "hub": hub})
    if model is not None:
        vector.check_fits(model)
    return vector


def _download(repo_id: str, revision: str | None, filename: str, token: str | bool | None) -> Path:
    """File of a repository, in Hugging Face's cache."""
    from huggingface_hub import HfApi

    if repo_id.startswith((".", "/", "~")) or repo_id.count("/") > 1:
        raise InputError(f"repo_id: {repo_id!r} is no folder. Check the path, or give a repository 'owner/name'.")
    check_repo_id(repo_id)
    with explained(repo_id, revision, filename):
        api = HfApi(token=token)
        size = api.hf_hub_download(repo_id, filename, revision=revision, dry_run=True).file_size
        if size is not None and size > MAX_BYTES:
            raise InputError(
                f"filename: {filename!r} of {repo_id!r} has {size:,} bytes; at most {MAX_BYTES:,} are read. It was "
                "not downloaded; give the file of a vector."
            )
        return Path(api.hf_hub_download(repo_id, filename, revision=revision))


def _write(
    vector: SteeringVector,
    folder: Path,
    repo_id: str | None,
    reliability: pd.DataFrame | None,
    effects: pd.DataFrame | None,
    figure: Any,
    behavior: Behavior | None,
) -> None:
    """Write all files of a repository into an empty folder."""
    if not isinstance(vector, SteeringVector):
        raise InputError(f"vector: {type(vector).__name__}; it must be a SteeringVector.")
    if behavior is not None and not isinstance(behavior, Behavior):
        raise InputError(f"behavior: {type(behavior).__name__}; give a Behavior, see caa_interp.load_behavior.")
    if figure is not None and not (hasattr(figure, "write_image") and hasattr(figure, "to_json")):
        raise InputError(f"figure: {type(figure).__name__}; give a Plotly figure, such as a plot_* function returns.")
    tables: dict[str, Any] = {"reliability": reliability, "effects": effects}
    write_card = partial(model_card, vector, repo_id=repo_id, behavior=behavior, **tables)
    card = write_card()  # before anything is drawn, so that a wrong table is told at once
    if figure is not None:
        card = write_card(figure=_draw(figure, folder))
    (folder / CARD).write_text(card, encoding="utf-8", newline="\n")
    vector.save(folder / VECTOR)


def _draw(figure: Any, folder: Path) -> str:
    """Write a figure as PNG if it can be drawn here, else as JSON; return the file's name."""
    try:
        figure.write_image(str(folder / PICTURE), scale=2)
        return PICTURE
    except RuntimeError as error:  # kaleido or its browser is missing, or does not start
        (reason, *_) = str(error).strip().splitlines() or [type(error).__name__]
        warnings.warn(
            f"figure: no PNG can be drawn here ({reason}), so it was written as {DRAWING}, which the hub does not "
            "show. Install a Chrome or Chromium browser and caa-interp[figures] for a PNG.",
            stacklevel=4,
        )
    (folder / PICTURE).unlink(missing_ok=True)
    (folder / DRAWING).write_text(figure.to_json(), encoding="utf-8")
    return DRAWING
