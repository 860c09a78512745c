"""What is to be published, checked as far as it can be without the Hub: names, files, card and licence."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .atomic import storage
from .errors import UsageError
from .outcome import adapter_folder, files_of, title_of
from .package import CARD, check_files

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_FRONT = re.compile(r"\A---\r?\n(.*?\n)---\r?\n", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Upload:
    """What is to be published, checked as far as it can be without the Hub."""

    repo: str
    """`owner/name`."""
    folder: Path
    title: str
    files: tuple[Path, ...]
    """Relative to `folder`, which are also their names on the Hub."""
    size: int
    """Bytes."""
    licence: str
    card: bytes
    """The card as it is uploaded."""
    public: bool


def card_licence(card: str) -> str | None:
    """The licence that a card's front matter names, if any."""
    from .yaml_text import parse

    front = _FRONT.match(card)
    tree = parse(front[1]).value if front else None
    found = tree.get("license") if isinstance(tree, dict) else None
    if isinstance(found, list):
        found = ", ".join(map(str, found))
    return str(found).strip() or None if found is not None else None


def prepare(
    run: Path, repo: str, *, step: int | None = None, public: bool = False, licence: str | None = None
) -> Upload:
    """Check what can be checked here.

    Args:
        run: a run directory.
        repo: `owner/name`.
        step: take what this checkpoint saved instead of the final files.
        public: whether everybody may see it.
        licence: of the base, for a card that names none.

    Raises: UsageError, DataError, StorageError.
    """
    check_name(repo)
    folder = adapter_folder(run, step)
    files = files_of(folder)
    check_files(folder, files)
    with storage(folder, "cannot read"):
        size = sum((folder / path).stat().st_size for path in files)
        raw = (folder / CARD).read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{folder / CARD} is not UTF-8 text", "save it as UTF-8") from error
    card, named = _with_licence(folder / CARD, text, licence)
    return Upload(repo, folder, title_of(run, step), tuple(files), size, named, card.encode(), public)


def check_name(repo: str) -> None:
    """Raises: UsageError where the Hub would take no such name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise UsageError(f"{repo[:80]!r} is no repository", "write OWNER/NAME, such as anna/sks-dog")
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UsageError(
            f"{repo[:80]!r} cannot name a repository",
            "letters, digits, -, _ and . are allowed, at most 96 of them, no -- or .. and none of these at an end",
        ) from error


def _with_licence(path: Path, text: str, licence: str | None) -> tuple[str, str]:
    """The card with its licence. Raises: UsageError where there is none, or another one is named."""
    named = card_licence(text)
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UsageError(
            f"--license {licence[:60]!r} is no licence of the Hub's", "such as creativeml-openrail-m or other"
        )
    if named is None and licence is None:
        raise UsageError(
            f"{path} names no licence; that of the base model holds for what was trained from it",
            "say which: --license creativeml-openrail-m for Stable Diffusion 1.5, --license other for most others",
        )
    if named is not None:
        if licence not in (None, named):
            raise UsageError(
                f"{path} names the licence {named}, not {licence}", "leave out --license, or edit the card"
            )
        return text, named
    assert licence is not None
    front = _FRONT.match(text)
    if front is None:
        return f"---\nlicense: {licence}\n---\n\n{text}", licence
    return f"{text[: front.end(1)]}license: {licence}\n{text[front.end(1) :]}", licence
