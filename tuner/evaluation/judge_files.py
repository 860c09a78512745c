"""Where a judge's files are: a folder, or a Hub id that is fetched once."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import DataError

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
WORDS = ("tokenizer.json", "vocab.json")
FILES = ("*.json", "merges.txt", "vocab.txt", "model.safetensors", "model-*-of-*.safetensors")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def find(source: str | Path, option: str, *, reads: bool) -> Path:
    """The folder that holds a judge; the network is asked only where this machine does not have it whole.

    Args:
        source: a folder, else a Hub id.
        option: of the command, for messages.
        reads: whether it has to read text.

    Raises: DataError.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        _require(folder, str(source), option, reads)
        return folder
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source) or folder.exists():
        raise DataError(
            f"{option} {source}: the judge cannot be loaded: there is no such folder, and it is no Hub id (owner/name)",
            f"give {option} the folder that holds config.json and model.safetensors, or a Hub id",
        )
    kept = _kept(source)
    if kept is None or _lacking(kept, reads):
        kept = _fetch(source, option)
    _require(kept, source, option, reads)
    return kept


def _lacking(folder: Path, reads: bool) -> list[str]:
    """What a judge needs and the folder does not have."""
    needed = [("config.json",), ("preprocessor_config.json",), WEIGHTS, *([WORDS] if reads else [])]
    return [" or ".join(names) for names in needed if not any((folder / name).is_file() for name in names)]


def _require(folder: Path, source: str, option: str, reads: bool) -> None:
    lacking = _lacking(folder, reads)
    if lacking:
        raise DataError(
            f"{option} {source}: the judge cannot be loaded: it has no {', no '.join(lacking)}",
            f"give {option} a model of transformers published as safetensors; other formats of weights can run code "
            "and are not read",
        )


def _kept(source: str) -> Path | None:
    """The snapshot on this machine, complete or not."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def _fetch(source: str, option: str) -> Path:
    import httpx2
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx2.HTTPError,
        OSError,
    ) as error:
        why = "and HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"and cannot be fetched: {_first(error)}"
        raise DataError(
            f"{option} {source}: the judge cannot be loaded: it is not on this machine, {why}",
            f"where there is a network: `hf download {source}`; or give {option} a folder that holds such a model",
        ) from error


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
