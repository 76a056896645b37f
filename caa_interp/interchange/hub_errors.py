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
        chain = list(causes(error))

        def among(*kinds: type[BaseException]) -> bool:
            return any(isinstance(cause, kinds) for cause in chain)

        if among(hub.RevisionNotFoundError):
            raise InputError(
                f"revision: {revision!r} is not in {repo_id!r}. Check the branch, tag or commit on its page."
            ) from error
        if among(hub.RemoteEntryNotFoundError):
            raise InputError(
                f"filename: {filename!r} is not in {repo_id!r}. Check its files on its page, and give the vector's."
            ) from error
        status = next((one.response.status_code for one in chain if isinstance(one, hub.HfHubHTTPError)), 0)
        full = any(isinstance(one, OSError) and one.errno == errno.ENOSPC for one in chain)
        cut = "Consistency check failed" in str(error)
        offline = "Hugging Face's client is set to work offline"
        reasons = [
            (full, "there is no space left on the disk. Free some, or point HF_HOME to another disk"),
            (among(hub.OfflineModeIsEnabled) and not filename, f"{offline}. Unset HF_HUB_OFFLINE"),
            (
                among(hub.OfflineModeIsEnabled),
                f"{offline}, and {filename!r} is not in its cache. Unset HF_HUB_OFFLINE, or give a local folder",
            ),
            (among(hub.LocalTokenNotFoundError), f"no access token is stored here. Log in: {_LOG_IN}"),
            (among(hub.GatedRepoError), f"it is gated. Accept its conditions on its page; then {_LOG_IN}"),
            (
                among(hub.RepositoryNotFoundError),
                "there is no such repository, or it is private and the token (if any) may not see it. Check the "
                f"name; for a private one {_LOG_IN}",
            ),
            (status == 401, f"the hub does not accept the token, or none was sent. Log in: {_LOG_IN}"),
            (
                status == 403,
                f"the token may not {'read' if filename else 'write to'} it. Give one that may, or ask its owner",
            ),
            (status == 429, "the hub counts too many requests. Wait some minutes, and call again"),
            (status >= 500, f"the hub answers with an error of its own ({status}). Call again later"),
            (
                not status and among(transport, ConnectionError, TimeoutError),
                "the hub cannot be reached, or the connection broke. Check the network, and HF_ENDPOINT if it is set",
            ),
            (cut, f"{filename!r} did not arrive whole, and was thrown away. Call again"),
            (True, f"it cannot be {'read' if filename else 'written'}: {' '.join(str(error).split()).rstrip('.')}"),
        ]
        what = next(reason for holds, reason in reasons if holds)
        raise ModelError(f"repository {repo_id!r}: {what}.") from error
