"""From an exception to what the user reads and the shell gets.

Exit codes: 0 done; 1 a fault of tuner; 2 recipe or usage; 3 `check-adapter` found something wrong; 65 data unusable or
numbers not finite; 74 input or output; 75 locked; 130, 143 stopped by a signal with the state saved; 141 the reader of
our output went away.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

import typer

from ..errors import Stopped, TunerError
from ..redact import redact

FAULT, USAGE, IO, INTERRUPTED, PIPE = 1, 2, 74, 130, 141


def report(error: BaseException, *, as_json: bool) -> int:
    """Say what happened, on stderr (or as one JSON document on stdout), and give the exit code."""
    if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
        return error.code if isinstance(error.code, int) else FAULT
    if isinstance(error, BrokenPipeError | SystemExit):  # typer turns the first into the second
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush has where to go
        return PIPE
    kind, message, hint, code = expected(error) or unexpected(error)
    return tell(kind, message, hint, code, as_json)


Words = tuple[str, str, str, int]
"""Kind, message, hint and exit code."""


def expected(error: BaseException) -> Words | None:
    """What to say of a fault that a user can do something about; None for any other."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return "stopped", "interrupted", "", INTERRUPTED
    if isinstance(error, TunerError):
        code = error.status if isinstance(error, Stopped) else error.exit_code
        return error.kind, error.message, error.hint, code
    if is_usage(error):
        return "usage", *misuse(error), USAGE
    if is_out_of_memory(error):
        return "memory", f"out of memory: {first_line(error)}", MEMORY_HINT, FAULT
    return None


def unexpected(error: BaseException) -> Words:
    """What to say of any other: one line, and where the traceback is."""
    if os.environ.get("TUNER_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, OSError):
        place = "input or output" if error.filename is None else error.filename
        message = f"{place}: {(error.strerror or first_line(error)).lower()}"
        return "storage", message, f"details in {write_details(error)}", IO
    message = f"{type(error).__name__}: {first_line(error)}"
    return "fault", message, f"this is a fault of tuner; details in {write_details(error)}", FAULT


MEMORY_HINT = (
    "set train.gradient_checkpointing=true, lower train.batch (and raise train.accumulate) or data.resolution; "
    "`tuner plan` shows what takes how much"
)


def tell(kind: str, message: str, hint: str, code: int, as_json: bool) -> int:
    """Print one fault; no token ever gets out."""
    message, hint = redact(message), redact(hint)
    with suppress(OSError):  # nobody is left to read it; the exit code still says it
        if as_json:
            typer.echo(json.dumps({"error": {"kind": kind, "message": message, "hint": hint}}, ensure_ascii=False))
        else:
            sys.stdout.flush()
            typer.echo(message if code == 0 or kind == "stopped" else f"error: {message}", err=True)
            if hint:
                typer.echo(f"  -> {hint}", err=True)
    return code


def is_usage(error: BaseException) -> bool:
    """Whether the command line itself is wrong: typer's own exceptions carry how to show themselves."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def misuse(error: BaseException) -> tuple[str, str]:
    """An unknown command or option, in typer's words, and where to look."""
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "tuner"
    return first_lower(message.rstrip(".")), f"`{path} --help` lists what there is"


def is_out_of_memory(error: BaseException) -> bool:
    """Torch's own class is asked for by name, so that torch need not be imported."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else "no message"


def first_lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def write_details(error: BaseException) -> Path | str:
    """The traceback in a file of its own, tokens removed; where it is."""
    text = redact("".join(traceback.format_exception(error)))
    try:
        handle, name = tempfile.mkstemp(prefix="tuner-fault-", suffix=".log")
        with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return "no file, for none could be written; TUNER_DEBUG=1 prints them"
    return Path(name)
