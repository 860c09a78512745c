"""From values to the arguments of `tuner`, and to the line that a page shows. Nothing here ever meets a shell."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Value = str | int | float | bool | None
Words = tuple[str, ...]


def train(
    recipe: Path | str, run_dir: Path, *, changes: Sequence[str] = (), rehearse: bool = False, new: bool = False
) -> Words:
    """`tuner run`.

    Args:
        recipe: a file, or the name of one that ships.
        run_dir: where; an unfinished run there goes on.
        changes: `key=value` each.
        rehearse: on the small model.
        new: start over where a run is.
    """
    return (
        "run", "--json", *_flag("--rehearse", on=rehearse), *_flag("--new", on=new), "--run-dir", str(run_dir), "--",
        str(recipe), *changes,
    )  # fmt: skip


def quickstart(run_dir: Path, *, backbone: str | None = None, changes: Sequence[str] = ()) -> Words:
    """`tuner quickstart`."""
    return ("quickstart", "--json", *_options({"backbone": backbone}), "--run-dir", str(run_dir), "--", *changes)


def generate(prompts: Sequence[str], out: Path, adapters: Sequence[tuple[Path, float]] = (), **options: Value) -> Words:
    """`tuner generate`.

    Args:
        prompts: one picture or more for each.
        out: folder, or a .png for one picture.
        adapters: files or runs, each with its strength.
        options: others by name: base, backbone, negative, count, seed, steps, guidance, size, scheduler, device;
            None leaves the command's own default.
    """
    put_on = [f"--adapter={path}:{strength:g}" for path, strength in adapters]
    return ("generate", "--json", *put_on, *_options(options), f"--out={out}", "--", *prompts)


def export(file: Path, to: str, out: Path) -> Words:
    """`tuner export`."""
    return ("export", "--json", *_options({"to": to}), f"--out={out}", "--", str(file))


def evaluate(run_dir: Path, **options: Value) -> Words:
    """`tuner eval`; options by name, such as step, count, seed."""
    return ("eval", "--json", *_options(options), "--", str(run_dir))


def command_line(words: Sequence[str]) -> str:
    """The same for a terminal, quoted for its shell; without `--json`, which is for programs."""
    end = words.index("--") if "--" in words else len(words)
    shown = [word for word in words[:end] if word != "--json"]
    rest = list(words[end:])
    if rest[:1] == ["--"] and not any(word.startswith("-") for word in rest[1:]):
        del rest[0]  # it only keeps what begins with a dash from being taken for an option
    return shlex.join(["tuner", *shown, *rest])


def _options(values: Mapping[str, Value]) -> list[str]:
    """`--name=value` each: joined, so that a value that begins with a dash is no option."""
    return [
        f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
        for name, value in values.items()
        if value is not None and value is not False
    ]


def _flag(name: str, *, on: bool) -> tuple[str, ...]:
    return (name,) if on else ()
