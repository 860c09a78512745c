"""What may become a job: words that a process can be given, files of its own, and no token in any of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tuner.errors import UsageError
from tuner.redact import redact

from .job import LOG, RESULT, run_dir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from webui.workspace import Workspace

LONGEST_BYTES = 100_000
"""Of one word: the system takes no argument above 128 KiB."""
MOST_BYTES = 1_000_000
"""Of all words together."""
_PLAIN = re.compile(r"[A-Za-z0-9_][\w.+-]{0,120}", re.ASCII)


def check_words(words: Sequence[str]) -> None:
    """Raises: UsageError for text that no command can be given; ValueError where the caller forgot something."""
    end = words.index("--") if "--" in words else len(words)
    if "--json" not in words[:end]:
        raise ValueError("a job's answer is read by a program: its words need --json")
    for word in words:
        _check_text(word)
    if sum(len(word.encode()) for word in words) > MOST_BYTES:
        raise UsageError("the command is too long", "use fewer or shorter prompts")


def check_title(title: str) -> str:
    """The title on one line, at most 200 characters. Raises: UsageError."""
    _check_text(title)
    return " ".join(title.split())[:200]


def check_files(files: Mapping[str, str]) -> None:
    """Raises: UsageError where a token is in one; ValueError for a name that is not the caller's to give."""
    for name, text in files.items():
        if _PLAIN.fullmatch(name) is None or name in (RESULT, LOG):
            raise ValueError(f"no name for a file of a job: {name!r}")
        _check_text(text, LONGEST_BYTES * 10)


def run_name(workspace: Workspace, words: Sequence[str], run: str | None) -> str | None:
    """The run that a job is about: of a training the one after `--run-dir`, which lies in the workspace.

    Raises: ValueError where the words and the name disagree, or lead elsewhere.
    """
    if words[0] in ("run", "quickstart"):
        path = run_dir(words)
        if path is None or path.parent != workspace.runs or run not in (None, path.name):
            raise ValueError(f"a training job writes to a directory right below {workspace.runs}")
        run = path.name
    if run is not None and (run.startswith(".") or "/" in run or "\\" in run or "\0" in run or not run):
        raise ValueError(f"no name for a run: {run!r}")
    return run


def _check_text(text: str, longest: int = LONGEST_BYTES) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise UsageError("the text holds a broken character", "type it anew") from None
    if "\0" in text:
        raise UsageError("the text holds a null character", "remove it")
    if size > longest:
        raise UsageError(f"the text is too long: {size:,} bytes of {longest:,}", "shorten it")
    if redact(text) != text:
        raise UsageError(
            "an access token of the Hub is in the text", "take it out: the server has its own, from HF_TOKEN or `hf`"
        )
