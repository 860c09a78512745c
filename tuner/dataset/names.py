"""What a file that somebody drops is called, what it is by its name, and which captions belong to it."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

from ..data import metadata, picture_kinds
from ..data.listing import shown

Kind = Literal["picture", "caption", "table", "zip", "system"]

MAX_SHOWN = 120
"""Characters of a name that are kept for showing."""
_MAX_KEY = 600
_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "icon\r", ".ds_store"}


def parts(name: str) -> list[str]:
    """Folders and file of a name that came from anywhere, with either slash; what leads nowhere or upwards is gone."""
    found = [part for part in re.split(r"[/\\]+", name) if part.strip(" \0") not in ("", ".", "..")]
    return found if len(found) < 2 or not re.fullmatch(r"[A-Za-z]:", found[0]) else found[1:]


def display(name: str) -> str:
    """The file's own name, safe to show: one line, no text direction marks or control characters, not too long."""
    found = parts(name)
    text = shown(unicodedata.normalize("NFC", found[-1])) if found else "a file without a name"
    if len(text) <= MAX_SHOWN:
        return text
    tail = MAX_SHOWN // 4
    return f"{text[: MAX_SHOWN - tail - 3]}...{text[-tail:]}"


def suffix(name: str) -> str:
    """Lower case, with its dot; '' where there is none."""
    found = parts(name)
    return f".{found[-1].rpartition('.')[2].lower()}" if found and "." in found[-1][1:] else ""


def key(name: str) -> str:
    """Folders and stem, folded: dog.TXT belongs to Dog.jpg, and a/1.txt to a/1.jpg but not to b/1.jpg."""
    found = parts(name)
    if found and (ending := suffix(name)):
        found[-1] = found[-1][: -len(ending)]
    return shown(unicodedata.normalize("NFC", "/".join(found)).casefold())[-_MAX_KEY:]


def last(key: str) -> str:
    """A key without its folders."""
    return key.rpartition("/")[2]


def kind(name: str) -> Kind:
    """What a file is by its name; whether it really is a picture or a zip is decided by its bytes."""
    found = parts(name)
    if any(part.startswith(".") or part.lower() in _SYSTEM for part in found):
        return "system"
    if found and found[-1].lower() in metadata.NAMES:
        return "table"
    ending = suffix(name)
    if ending == ".txt":
        return "caption"
    return "zip" if ending == ".zip" else "picture"


def why_not(name: str) -> str:
    """Why a file of that name is no picture, '' where the name does not say."""
    ending = suffix(name)
    if ending in (".jsonl", ".csv", ".json"):
        return "not a picture; captions in one file come as metadata.jsonl or metadata.csv"
    if ending == ".caption":
        return "not a picture; captions beside pictures come as .txt"
    if ending in (".rar", ".7z", ".tar", ".gz", ".tgz", ".xz", ".zst"):
        return "this kind of archive is not read; pack the pictures as .zip"
    return picture_kinds.UNREAD_SUFFIXES.get(ending, "")
