"""Where the user's token for the Hugging Face Hub is taken from. It is never an option, printed or written."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import UsageError
from .hub_faults import TOKENS, HubError, expected

LOGIN = f"log in with `hf auth login`, or set HF_TOKEN to a token with write access: {TOKENS}"


def token_place() -> str | None:
    """Where a token would be taken from, without asking anybody; None where there is none."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name, "").strip():
            return name
    stored = Path(constants.HF_TOKEN_PATH)
    try:
        return "hf auth login" if stored.is_file() and stored.read_text("utf-8").strip() else None
    except (OSError, UnicodeDecodeError):
        return None


def find_token() -> str:
    """The user's token. Raises: UsageError where there is none, or nothing may be sent at all."""
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UsageError(
            "HF_HUB_OFFLINE is set, so nothing can be published", "unset it, then start the same command again"
        )
    try:
        token = get_token()
    except expected() as error:
        raise HubError("the token that is stored here cannot be used", LOGIN) from error
    if not token:
        raise UsageError("there is no Hugging Face token on this machine", LOGIN)
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise UsageError("the Hugging Face token on this machine is no token: it has characters that none has", LOGIN)
    return token
