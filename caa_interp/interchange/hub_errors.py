"""What can go wrong with the Hugging Face hub, in words that say what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from caa_interp.errors import CAAError, InputError, ModelError, causes

_LOG_IN = "run `hf auth login`, set HF_TOKEN, or give token"


def check_repo_id(repo_id: object) -> None:
    """Raise :class:`InputError` unless this can be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented, not listed

    try:
        if not isinstance(repo_id, str):
            raise HFValidationError(f"it is {type(repo_id).__name__}")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(
            f"repo_id: {repo_id!r} is no name of a repository, which is 'owner/name' of letters, digits, '-', '_' "
            "and '.', at most 96 long. Correct it."
        ) from error


@contextlib.contextmanager
def explained(repo_id: str, revision: str | None, filename: str | None = None) -> Iterator[None]:
    """Turn the failures of Hugging Face's client into an :class:`InputError` or a :class:`ModelError`.

    Parameters
    ----------
    repo_id, revision
        What was asked for.
    filename
        The file that is downloaded; None where a repository is written.
    """
    from huggingface_hub import errors as hub

    # That of the client's own HTTP library, of which there was more than one.
    transport: type[Exception] = hub.HfHubHTTPError.__bases__[0]
    try:
        yield
    except (OSError, ValueError, RuntimeError, transport) as error:
        if isinstance(error, CAAError):
            raise
        chain = list(causes(error))
        kinds = [type(cause) for cause in chain]

        def among(*wanted: type[BaseException]) -> bool:
            return any(issubclass(kind, wanted) for kind in kinds)

        answers = [cause.response.status_code for cause in chain if isinstance(cause, hub.HfHubHTTPError)]
        status = answers[0] if answers else None
        verb = "read" if filename else "write to"
        if any(isinstance(cause, OSError) and cause.errno == errno.ENOSPC for cause in chain):
            what = "there is no space left on the disk. Free some, or point HF_HOME to another disk"
        elif among(hub.OfflineModeIsEnabled):
            what = "Hugging Face's client is set to work offline" + (
                f", and {filename!r} is not in its cache. Unset HF_HUB_OFFLINE, or give a local folder"
                if filename
                else ". Unset HF_HUB_OFFLINE, or write the folder with save_for_hub"
            )
        elif among(hub.RevisionNotFoundError):
            raise InputError(
                f"revision: {revision!r} is not in {repo_id!r}. Check the branch, tag or commit on its page."
            ) from error
        elif among(hub.RemoteEntryNotFoundError):
            raise InputError(
                f"filename: {filename!r} is not in {repo_id!r}. Check its files on its page, and give the vector's."
            ) from error
        elif among(hub.LocalTokenNotFoundError):
            what = f"no access token is stored here. Log in: {_LOG_IN}"
        elif among(hub.GatedRepoError):
            what = f"it is gated. Accept its conditions on its page; then {_LOG_IN}"
        elif among(hub.RepositoryNotFoundError):
            what = (
                "there is no such repository, or it is private and the token (if any) may not see it. Check the "
                f"name; for a private one {_LOG_IN}"
            )
        elif status == 401:
            what = f"the hub does not accept the token, or none was sent. Log in: {_LOG_IN}"
        elif status == 403:
            what = f"the token may not {verb} it. Give one that may, or ask its owner"
        elif status == 429:
            what = "the hub counts too many requests. Wait some minutes, and call again"
        elif status is not None and status >= 500:
            what = f"the hub answers with an error of its own ({status}). Call again later"
        elif status is None and among(transport, ConnectionError, TimeoutError):
            what = "the hub cannot be reached, or the connection broke. Check the network, and HF_ENDPOINT if it is set"
            what += "" if filename else "; save_for_hub writes the folder without it"
        elif "Consistency check failed" in str(error):
            what = f"{filename!r} did not arrive whole, and was thrown away. Call again"
        else:
            what = f"it cannot be {'read' if filename else 'written'}: {' '.join(str(error).split()).rstrip('.')}"
        raise ModelError(f"repository {repo_id!r}: {what}.") from error
