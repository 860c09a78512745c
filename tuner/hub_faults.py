"""What a failed call of the Hugging Face Hub means for the user, and what to do; no token gets into it."""

from __future__ import annotations

import json
import re
from typing import ClassVar
from urllib.parse import urlsplit

from .errors import TunerError, UsageError
from .redact import redact

TOKENS = "https://huggingface.co/settings/tokens"
LONGEST = 300
"""Characters that are repeated of what the Hub says."""

_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})\b")
"""How hf_xet, which uploads large files, quotes an answer of the Hub's; its errors have no number of their own."""


class HubError(TunerError):
    """The Hub cannot be reached, or does not take what is sent to it."""

    exit_code: ClassVar[int] = 74
    kind: ClassVar[str] = "hub"


def expected() -> tuple[type[Exception], ...]:
    """Every exception that a call of huggingface_hub may end in."""
    import httpx2
    from huggingface_hub.errors import DeviceCodeError, OIDCError

    # ValueError and KeyError: an answer that is none of the Hub's; RuntimeError: what an upload ends in
    return httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, KeyError, RuntimeError, OIDCError, DeviceCodeError


def explain(error: Exception, repo: str, token: str | None) -> TunerError:
    """The fault to show for an exception from `expected`.

    Args:
        error: what was raised.
        repo: the repository that it was about, `owner/name`.
        token: what was sent, to be taken out of everything that is repeated.
    """
    from huggingface_hub.errors import HfHubHTTPError

    while isinstance(error, RuntimeError) and isinstance(error.__cause__, expected()):
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _answered(error.response.status_code, error, repo, _said(error, token))
    reason = scrub(" ".join(str(error).split()) or type(error).__name__, token)
    if (quoted := _STATUS.search(reason)) or type(error).__name__ == "XetAuthenticationError":
        return _answered(int(quoted[1]) if quoted else 403, error, repo, "")
    return _of_this_machine(error) or _unanswered(error, repo, reason)


def _unanswered(error: Exception, repo: str, reason: str) -> TunerError:
    """Where the Hub said nothing, or nothing that can be understood."""
    if _is_network(error):
        return HubError(
            f"the Hub cannot be reached at {place()}: {reason}",
            "check the network (or HF_ENDPOINT), then start the same command again; what is up already is kept",
        )
    if isinstance(error, KeyError | json.JSONDecodeError):
        return HubError(f"{place()} does not answer as the Hub does", "is HF_ENDPOINT right, or is a proxy between?")
    if isinstance(error, ValueError) and "README.md" in reason:
        return UsageError(f"the Hub does not take the card: {reason}", "correct the first lines of README.md")
    return HubError(f"uploading to {repo} failed: {reason}", "start the same command again; what is up already is kept")


def _of_this_machine(error: Exception) -> TunerError | None:
    """A file here that cannot be read is no fault of the Hub."""
    from .atomic import storage_error

    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError) and error.filename:
        from pathlib import Path

        return storage_error(error, Path(str(error.filename)), "cannot read")
    return None


def _is_network(error: Exception) -> bool:
    import httpx2

    return isinstance(error, httpx2.HTTPError | httpx2.InvalidURL | OSError)


def _answered(status: int, error: Exception, repo: str, said: str) -> TunerError:
    """What an answer other than success means."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    url, owner = f"{endpoint()}/{repo}", repo.partition("/")[0]
    if isinstance(error, GatedRepoError):
        return HubError(f"{repo} is gated, and this account has no access", f"ask for it at {url}{_quoted(said)}")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return HubError(
            f"the Hub has no {repo}, or this token may not see it",
            f"check the name, and that the token may write to {owner}",
        )
    known = {
        401: (
            "the Hub does not take the token",
            f"log in anew with `hf auth login`, or set HF_TOKEN to a valid one: {TOKENS}",
        ),
        402: (f"the Hub asks for a payment before it takes {repo}", f"look at {endpoint()}/settings/billing"),
        403: (
            f"this token may not write to {repo}",
            f"is {owner} your name, or an organisation that you may write to? A token needs write access: {TOKENS}",
        ),
        409: (f"{repo} changed at the same time", "start the same command again"),
        413: (f"a file is larger than the Hub takes in {repo}", "publish without it"),
        429: (
            "the Hub takes no more requests from here for now",
            "wait some minutes, then start the same command again",
        ),
    }
    if status in known:
        message, hint = known[status]
    elif status >= 500:
        message, hint = f"the Hub answered {status}", "try again later; what is up already is kept"
    else:
        message, hint = f"the Hub refuses {repo} ({status})", "correct what it names, then start the same command again"
    return HubError(f"{message}{_quoted(said)}", hint)


def _quoted(said: str) -> str:
    return f"; it says: {said}" if said else ""


def _said(error: Exception, token: str | None) -> str:
    """The Hub's own words on one line."""
    from huggingface_hub.errors import HfHubHTTPError

    words = error.server_message if isinstance(error, HfHubHTTPError) else None
    text = scrub(" ".join((words or "").split()), token)
    return text if len(text) <= LONGEST else text[:LONGEST] + "..."


def scrub(text: str, token: str | None) -> str:
    """`text` without the token, whatever it looks like."""
    return redact(text.replace(token, "hf_***") if token else text)


def endpoint() -> str:
    """The Hub's address without a name and password that may be in it."""
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def place() -> str:
    """The Hub's host."""
    return urlsplit(endpoint()).netloc or endpoint()
