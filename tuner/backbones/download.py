"""From what a recipe calls its model to a place on this machine: a path, or a Hub id that is fetched once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, TunerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REHEARSE = "or add --rehearse to try the recipe on the small model that ships here"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def locate(
    model: str,
    revision: str | None,
    patterns: Sequence[str],
    complete: Callable[[Path], bool] = lambda _: True,
    *,
    key: str = "backbone.model",
) -> Path:
    """The folder or single file that `model` names; a Hub id is downloaded unless the cache has it.

    Args:
        model: an existing path, else a Hub id.
        revision: branch, tag or commit of the Hub id.
        patterns: files to fetch, such as `unet/*.json`. Variants (`*.fp16.*`) are fetched only where `complete` says
            that the plain files are not enough.
        complete: whether a folder holds every weight.
        key: of the recipe, that says `model`.

    Raises: DataError with what to do next.
    """
    path = Path(model).expanduser()
    if path.exists():
        if revision is not None:
            raise DataError(
                f"backbone.revision: {revision!r} has no effect, for {model} is on this machine", "leave it out"
            )
        return path
    if not _HUB_ID.fullmatch(model) or model.startswith(".") or model.endswith(".safetensors"):
        raise DataError(
            f"{key}: {model}: no such file or folder, and not a Hub id (owner/name)",
            f"correct the path, {REHEARSE}",
        )
    folder = _fetch(key, model, revision, patterns, ["*.fp16.*", "*.fp16-*", "*.non_ema.*"])
    if not complete(folder):
        folder = _fetch(key, model, revision, patterns, ["*.non_ema.*"])
    return folder


def cached_folder(model: str, revision: str | None) -> Path | None:
    """The snapshot of a Hub id that is on this machine already, complete or not; None where there is none."""
    if not _HUB_ID.fullmatch(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "model_index.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _fetch(key: str, model: str, revision: str | None, patterns: Sequence[str], ignore: Sequence[str]) -> Path:
    import httpx2
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignore))
        )
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx2.HTTPError,
    ) as error:
        raise _explain(key, model, revision, error) from error
    except OSError as error:
        from ..atomic import storage_error

        raise storage_error(error, Path(error.filename or "the Hub's cache"), "cannot write") from error


def _explain(key: str, model: str, revision: str | None, error: Exception) -> TunerError:
    """What a failed download means for the user."""
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    url = f"https://huggingface.co/{model}"
    at = f" at revision {revision}" if revision else ""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else None
    if constants.HF_HUB_OFFLINE:
        return DataError(
            f"{key}: {model}{at} is not in the Hub's cache on this machine, and HF_HUB_OFFLINE is set",
            f"unset HF_HUB_OFFLINE to download it, give the path of a folder or .safetensors file, {REHEARSE}",
        )
    if isinstance(error, GatedRepoError) or status == 403:
        return DataError(
            f"{key}: {model} is gated: its licence has to be accepted first",
            f"accept it at {url}, then log in with `hf auth login` (or set HF_TOKEN) and start again, {REHEARSE}",
        )
    if isinstance(error, RevisionNotFoundError):
        return DataError(f"backbone.revision: {model} has no revision {revision!r}", f"look at {url}/tree/main")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return DataError(
            f"{key}: the Hub has no {model}, or it is private and you are not logged in",
            f"check the name at {url}; if it is private, log in with `hf auth login`; {REHEARSE}",
        )
    if isinstance(error, LocalEntryNotFoundError) or status is None:
        return DataError(
            f"{key}: {model}{at} is not on this machine and the Hub cannot be reached",
            f"check the network (or HF_ENDPOINT), give the path of a folder or .safetensors file, {REHEARSE}",
        )
    return DataError(
        f"{key}: the Hub answered {status} for {model}{at}",
        f"try again later; what is fetched already is kept; {REHEARSE}",
    )
