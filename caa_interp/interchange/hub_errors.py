"""What can go wrong with the Hugging Face Hub, in words that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from caa_interp.errors import CAAError, InputError, ModelError, caused_by, causes

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
            f"repo_id: {repo_id!r} is not a name of a repository, which is 'owner/name' of letters, digits, '-', '_' "
            "and '.', at most 96 long. Correct it."
        ) from error


@contextlib.contextmanager
def hub_errors(repo_id: str, revision: str | None, filename: str | None = None) -> Iterator[None]:
    """Turn failures of Hugging Face's client into this package's errors; ``filename``: the file to download, if any."""
    from huggingface_hub import errors as hub

    # The error of the client's own HTTP library, which differs between its versions.
    transport: type[Exception] = hub.HfHubHTTPError.__bases__[0]
    try:
        yield
    except CAAError:
        raise
    except (OSError, ValueError, RuntimeError, transport) as error:
        status = next((one.response.status_code for one in causes(error) if isinstance(one, hub.HfHubHTTPError)), 0)
        to_read = filename is not None
        if caused_by(error, hub.RevisionNotFoundError):
            raise InputError(
                f"revision: {revision!r} is not in {repo_id!r}. Check the branch, tag or commit on its page."
            ) from error
        if caused_by(error, hub.RemoteEntryNotFoundError):
            raise InputError(f"filename: {filename!r} is not in {repo_id!r}. Check its files on its page.") from error
        if caused_by(error, hub.OfflineModeIsEnabled):
            there = f", and {filename!r} is not in its cache. Give a local folder, or unset" if to_read else ". Unset"
            what = f"Hugging Face's client is set to work offline{there} HF_HUB_OFFLINE"
        elif caused_by(error, hub.LocalTokenNotFoundError):
            what = f"no access token is stored here. Log in: {_LOG_IN}"
        elif caused_by(error, hub.GatedRepoError):
            what = f"it is gated. Accept its conditions on its page; then {_LOG_IN}"
        elif caused_by(error, hub.RepositoryNotFoundError):
            what = (
                "there is no such repository, or it is private and the token (if any) may not see it. Check the name; "
                f"for a private one {_LOG_IN}"
            )
        elif status == 401:
            what = f"the hub does not accept the token, or none was sent. Log in: {_LOG_IN}"
        elif status == 403:
            what = f"the token may not {'read' if to_read else 'write to'} it. Give one that may, or ask its owner"
        elif status == 429:
            what = "the hub counts too many requests. Wait some minutes, and call again"
        elif status >= 500:
            what = f"the hub answers with an error of its own ({status}). Call again later"
        elif not status and caused_by(error, transport, ConnectionError, TimeoutError):
            what = "the hub cannot be reached, or the connection broke. Check the network, and HF_ENDPOINT if it is set"
        elif "Consistency check failed" in str(error):
            what = f"{filename!r} did not arrive whole, and was thrown away. Call again"
        else:
            what = f"it cannot be {'read' if to_read else 'written'}: {' '.join(str(error).split()).rstrip('.')}"
        raise ModelError(f"repository {repo_id!r}: {what}.") from error
