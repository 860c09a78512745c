"""What a caption may hold: text is normalised, what cannot be shown is taken out and said, the rest is refused."""

from __future__ import annotations

import re
import unicodedata

from ..errors import DataError

MAX_BYTES = 4096
"""UTF-8 bytes of the longest caption; text encoders read a few hundred at most."""

_LINE_ENDS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # Unicode UAX 9, 2.8
_INVISIBLE = frozenset("\u00ad\u200b\u2060\ufeff")


def clean(text: str, name: str) -> tuple[str, tuple[str, ...]]:
    """The caption as it is learned, and what was done to it in words. NFC, one line, single spaces.

    Raises: DataError naming `name` if it is longer than MAX_BYTES.
    """
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise DataError(f"{name}: a caption of {size:,} bytes; the limit is {MAX_BYTES:,}")
    changes = []
    lines = [line for line in _LINE_ENDS.split(text) if line.strip()]
    if len(lines) > 1:
        changes.append(f"{len(lines)} lines joined into one caption")
    spaced = " ".join(lines).replace("\t", " ")
    kept = []
    dropped: dict[str, int] = {}
    for char in spaced:
        word = _unwanted(char)
        if word:
            dropped[word] = dropped.get(word, 0) + 1
        else:
            kept.append(char)
    changes += [f"{count} {word} taken out" for word, count in dropped.items()]
    return " ".join(unicodedata.normalize("NFC", "".join(kept)).split()), tuple(changes)


def read(data: bytes, name: str) -> tuple[str, tuple[str, ...]]:
    """The clean caption of a .txt file, and what was done to it.

    Raises: DataError naming the file.
    """
    if len(data) > MAX_BYTES:
        raise DataError(f"{name}: a caption of {len(data):,} bytes; the limit is {MAX_BYTES:,}")
    return clean(decode(data, name), name)


def _unwanted(char: str) -> str:
    if char in _BIDI:
        return "text direction marks"
    if char in _INVISIBLE:
        return "invisible characters"
    return {"Cc": "control characters", "Cs": "broken characters"}.get(unicodedata.category(char), "")


def decode(data: bytes, name: str) -> str:
    """The text of a caption file, which is UTF-8 with or without a byte order mark.

    Raises: DataError naming the file, with the offset of the first byte that is not UTF-8.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: UTF-16 text, and not UTF-8 (byte 0); save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(f"{name}: byte {offset} (0x{data[offset]:02x}) is not UTF-8; save it as UTF-8") from None


def with_trigger(caption: str, trigger: str | None) -> str:
    """`caption` with `trigger` in front where it does not hold it as a word (in any case)."""
    if not trigger or re.search(rf"(?<!\w){re.escape(trigger)}(?!\w)", caption, re.IGNORECASE):
        return caption
    return f"{trigger}, {caption}" if caption else trigger
