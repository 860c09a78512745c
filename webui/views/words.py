"""Numbers and times as a person says them, and foreign text made fit to be shown."""

from __future__ import annotations

import math
import re
import unicodedata

MOST_CHARACTERS = 2000
"""Longer texts are cut before they are shown."""
_UNFIT = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, halves of characters, and marks that turn the text around them."""
_UNITS = ("bytes", "KB", "MB", "GB", "TB")


def shown(text: object, most: int = MOST_CHARACTERS) -> str:
    """A foreign text that any page can hold: characters that are none become U+FFFD, and a long one ends in `…`."""
    said = text if isinstance(text, str) else str(text)
    cut = said if len(said) <= most else said[: most - 1] + "…"
    return _UNFIT.sub("\ufffd", cut)


def as_id(name: str) -> str:
    """A directory's name as a page can send it back; empty where it is none that a page can hold."""
    return "" if re.search("[\0\ud800-\udfff]", name) else name


def one_line(text: object, most: int = MOST_CHARACTERS) -> str:
    """`shown` with every run of white space as one space."""
    return " ".join(shown(text, most).split())


def number(value: object) -> float | None:
    """A finite number, or None for whatever else stands in its place."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond what a float holds
        return None
    return found if math.isfinite(found) else None


def whole(value: int) -> int:
    """A count that a page has room for: not below 0, at most a million millions."""
    return min(max(value, 0), 10**12)


def total(value: int | None) -> int | None:
    """`whole`, where somebody knows it."""
    return None if value is None else whole(value)


def span(seconds: float) -> str:
    """'less than a second', '45 seconds', '3 minutes', '2 h 5 min', '4 days 3 h'."""
    if seconds < 1:
        return "less than a second"
    if seconds >= 1000 * 86400:  # also what is beyond any number
        return "more than 1,000 days"
    if seconds < 90:
        return count(round(seconds), "second")
    minutes = round(seconds / 60)
    if minutes < 90:
        return count(minutes, "minute")
    if minutes < 48 * 60:
        return _two(minutes, 60, "h", "min")
    hours = round(seconds / 3600)
    return _two(hours, 24, "days", "h")


def _two(amount: int, size: int, large: str, small: str) -> str:
    whole, rest = divmod(amount, size)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def left(seconds: float | None) -> str:
    """'3 minutes left'; empty where nobody knows."""
    value = number(seconds)
    if value is None or value < 0:
        return ""
    return "almost done" if value < 2 else f"{span(value)} left"


def ago(seconds: float | None) -> str:
    """'just now', '4 minutes ago', '2 days ago'; empty where nobody knows."""
    value = number(seconds)
    if value is None:
        return ""
    if value < 10:  # a clock that runs ahead of ours counts as now
        return "just now"
    return f"{span(value)} ago" if value < 86400 * 2 else f"{count(min(round(value / 86400), 10**6), 'day')} ago"


def size(num_bytes: float | None) -> str:
    """'512 bytes', '12 KB', '1.2 GB' (powers of 1000, as disks and downloads count); empty where nobody knows."""
    value = number(num_bytes)
    if value is None or value < 0:
        return ""
    place = 0
    while value >= 999.5 and place < len(_UNITS) - 1:
        value, place = value / 1000, place + 1
    if value >= 1e6:
        return "more than a million TB"
    if place == 0:
        return count(round(value), "byte")
    return f"{value:.1f} {_UNITS[place]}" if value < 9.95 else f"{value:,.0f} {_UNITS[place]}"


def memory(megabytes: float | None) -> str:
    """Megabytes of 2^20 bytes, as status.json counts them: '820 MB', '3.4 GB'."""
    value = number(megabytes)
    return "" if value is None or value < 0 else size(value * 2**20)


def pace(per_second: float | None, noun: str = "step") -> str:
    """'12 steps a second', '2.5 steps a second', '4 seconds a step'; empty where nobody knows."""
    value = number(per_second)
    if value is None or value <= 0:
        return ""
    if value >= 0.95:
        said = figure(round(value, 0 if value >= 9.95 else 1)).removesuffix(".0")
        return f"1 {noun} a second" if said == "1" else f"{said} {noun}s a second"
    seconds = 1 / value
    if seconds >= 90:
        return f"{span(seconds)} a {noun}"
    said = f"{seconds:.0f}" if seconds >= 9.95 else f"{seconds:.1f}".removesuffix(".0")
    return f"{said} {'second' if said == '1' else 'seconds'} a {noun}"


def count(amount: int, noun: str) -> str:
    """'1 step', '1,200 steps'."""
    plural = noun[:-1] + "ies" if noun.endswith("y") and noun[-2:-1] not in "aeiou" else noun + "s"
    return f"1 {noun}" if amount == 1 else f"{amount:,} {plural}"


def of(done: int, total: int | None, noun: str) -> str:
    """'12 of 20 pictures'; '12 pictures' where nobody knows how many there are."""
    if total is None:
        return count(done, noun)
    return f"{done:,} of {count(total, noun)}"


def figure(value: float | None) -> str:
    """A measured number: '0.0812', '1.2e-05', '12,400'; empty for None, 'not finite' for what is none."""
    if value is None:
        return ""
    if not math.isfinite(value):
        return "not finite"
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.4g}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.1e}"


def sort_key(text: str) -> str:
    """Sorts names as a person looks them up, capitals and accents aside."""
    return unicodedata.normalize("NFKD", text).casefold()
