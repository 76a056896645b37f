"""What can go wrong with the Hugging Face Hub, in words that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from caa_interp.errors import CAAError, InputError, ModelError, causes

Reasons = dict[type[BaseException], str]
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
        status = next((one.response.status_code for one in chain if isinstance(one, hub.HfHubHTTPError)), 0)
        to_read = filename is not None
        missing: Reasons = {
            hub.RevisionNotFoundError: f"revision: {revision!r} is not in {repo_id!r}. Check the branch, tag or commit",
            hub.RemoteEntryNotFoundError: f"filename: {filename!r} is not in {repo_id!r}. Check its files",
        }
        kinds: Reasons = {
            hub.OfflineModeIsEnabled: "Hugging Face's client is set to work offline"
            + (f", and {filename!r} is not in its cache. Give a local folder, or unset" if to_read else ". Unset")
            + " HF_HUB_OFFLINE",
            hub.LocalTokenNotFoundError: f"no access token is stored here. Log in: {_LOG_IN}",
            hub.GatedRepoError: f"it is gated. Accept its conditions on its page; then {_LOG_IN}",
            hub.RepositoryNotFoundError: "there is no such repository, or it is private and the token (if any) may not "
            f"see it. Check the name; for a private one {_LOG_IN}",
        }
        statuses = {
            401: f"the hub does not accept the token, or none was sent. Log in: {_LOG_IN}",
            403: f"the token may not {'read' if to_read else 'write to'} it. Give one that may, or ask its owner",
            429: "the hub counts too many requests. Wait some minutes, and call again",
            500: f"the hub answers with an error of its own ({status}). Call again later",
        }
        if what := _first(missing, chain):
            raise InputError(f"{what} on its page.") from error
        what = _first(kinds, chain) or statuses.get(min(status, 500))
        if (
            not what
            and not status
            and any(isinstance(one, transport | ConnectionError | TimeoutError) for one in chain)
        ):
            what = "the hub cannot be reached, or the connection broke. Check the network, and HF_ENDPOINT if it is set"
        elif not what and "Consistency check failed" in str(error):
            what = f"{filename!r} did not arrive whole, and was thrown away. Call again"
        elif not what:
            what = f"it cannot be {'read' if to_read else 'written'}: {' '.join(str(error).split()).rstrip('.')}"
        raise ModelError(f"repository {repo_id!r}: {what}.") from error


def _first(reasons: Reasons, chain: Sequence[BaseException]) -> str | None:
    """Reason of the first kind of error that is in a chain."""
    return next((what for kind, what in reasons.items() if any(isinstance(one, kind) for one in chain)), None)
