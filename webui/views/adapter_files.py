"""The files that a save left: which is for which tool, what each says of itself, and the code that loads them."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuner.errors import DataError
from tuner.formats.container import read_header
from tuner.formats.find import kind_of
from tuner.formats.lora_kind import DIFFUSERS_FILE
from tuner.formats.model_kind import FOLDER

from .files import Mark, folder_mark, mark, names, text
from .words import one_line, shown, size

MOST_FILES = 200
"""Files of one folder that are told of."""
LARGEST_VALUE = 20_000
"""Characters of one value of a header that are shown."""
PLACES = {
    "AUTOMATIC1111": "in models/Lora",
    "Forge": "in models/Lora",
    "ComfyUI": "in models/loras",
    "InvokeAI": "through its model manager",
}
"""Where a tool wants a LoRA and its relatives, where what the file says of itself does not tell."""
_DIRECT = re.compile(r"all of it|from |through |the folder ")
"""How it begins what is said of a tool that reads a file as it is."""
_RELATIVES = {"lora": "LoRA", "loha": "LoHa", "lokr": "LoKr"}
_LABELS = {**_RELATIVES, "textual_inversion": "a word", "hypernetwork": "hypernetwork", "full": "whole model"}


@dataclass(frozen=True, slots=True)
class FileView:
    """One adapter file."""

    name: str
    path: Path
    num_bytes: int
    size: str
    kind: str
    """'LoRA', 'LoHa', 'LoKr', 'a word', 'hypernetwork', 'whole model'; empty where the file is broken."""
    base: str
    """The family of models it belongs to."""
    tools: tuple[tuple[str, str], ...]
    """(tool, what it does with the file)."""
    metadata: tuple[tuple[str, str], ...]
    """What the header says, by key."""
    problem: str = ""
    """Why the file cannot be used."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which file a tool takes."""

    tool: str
    file: str
    """A name in the folder; with a slash at its end it is a folder."""
    words: str
    """What to do with it."""


@dataclass(frozen=True, slots=True)
class Code:
    """Code that loads the files, as it stands on the card."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Folder:
    """The files of one save."""

    path: Path
    files: tuple[FileView, ...]
    choices: tuple[Choice, ...]
    """By tool; a tool that reads none of them is not there."""
    others: tuple[tuple[str, str], ...]
    """(name, size) of what lies beside: the card, the preview, words for A1111."""
    num_bytes: int
    size: str
    note: str = ""
    """What cannot be shown."""

    @property
    def empty(self) -> bool:
        return not self.files


def folder(path: Path) -> Folder:
    """What lies in the folder of a save."""
    found = names(path)
    files = tuple(
        _view(path / name, state) for name in found[:MOST_FILES] if _is_tensors(name) and (state := mark(path / name))
    )
    shown_names = {file.path.name for file in files}
    others = [
        (shown(name, 200), size(state.size))
        for name in found[:MOST_FILES]
        if name not in shown_names and not name.startswith(".") and (state := mark(path / name))
    ]
    whole = path / FOLDER
    if folder_mark(whole) and (inside := _total(whole)):
        others.insert(0, (f"{FOLDER}/", size(inside)))
    total = _total(path)
    note = f"Only {MOST_FILES} of {len(found):,} files are told of." if len(found) > MOST_FILES else ""
    return Folder(path, files, _choices(path, files), tuple(others), total, size(total), note)


def card(path: Path) -> str:
    """The card in a save's folder as Markdown; empty where there is none."""
    content = text(path / "README.md")
    return shown(content, 1 << 20) if content else ""


def code(path: Path) -> tuple[Code, ...]:
    """The code of the card; where there is none, the two lines that load any of our files."""
    found = []
    content = card(path)
    for match in re.finditer(r"^(`{3,})python[ \t]*\n(.*?)^\1[ \t]*$", content, re.MULTILINE | re.DOTALL):
        titles = re.findall(r"^##[ \t]+(.+)$", content[: match.start()], re.MULTILINE)
        title = one_line(titles[-1], 80) if titles else ""
        found.append(Code(title, match[2].rstrip() + "\n"))
    if found:
        return tuple(found)
    first = next((name for name in names(path) if _is_tensors(name)), None)
    if first is None:
        return ()
    lines = f"import tuner\n\ntuner.load_adapter(pipe, {shown(first, 200)!r})  # pipe: a pipeline of its base model\n"
    return (Code("With tuner", lines),)


def _is_tensors(name: str) -> bool:
    return name.endswith(".safetensors") and not name.startswith(".")


def _choices(path: Path, files: tuple[FileView, ...]) -> tuple[Choice, ...]:
    """The file for each tool: of several that it reads, diffusers' own for diffusers, else the run's own."""
    found: dict[str, Choice] = {}
    for file in sorted(files, key=lambda file: file.path.name != DIFFUSERS_FILE):
        for tool, words in file.tools:
            own = tool == "diffusers" or file.path.name != DIFFUSERS_FILE
            if not _DIRECT.match(words) or (tool in found and (tool == "diffusers" or not own)):
                continue
            if words.startswith("the folder "):
                if folder_mark(path / FOLDER):
                    found[tool] = Choice(tool, f"{FOLDER}/", words)
                continue
            place = PLACES.get(tool, "") if file.kind in _RELATIVES.values() else ""
            found[tool] = Choice(tool, file.name, f"{words}; {place}" if place else words)
    return tuple(found.values())


def _total(path: Path) -> int:
    """Bytes of the regular files below a folder."""
    total = seen = 0
    for where, _, here in os.walk(path):
        for name in here:
            seen += 1
            total += max(mark(Path(where, name)).size, 0)
        if seen > 10_000:
            break
    return total


@lru_cache(maxsize=512)
def _view(path: Path, state: Mark) -> FileView:
    name, told = shown(path.name, 200), size(state.size)
    try:
        header = read_header(path)
    except DataError as error:
        return FileView(name, path, state.size, told, "", "", (), (), _without(path, error))
    metadata = tuple((shown(key, 200), shown(value, LARGEST_VALUE)) for key, value in sorted(header.metadata.items()))
    kind = kind_of(header)
    try:
        facts: dict[str, Any] = kind.facts(path, header)
    except DataError as error:
        return FileView(name, path, state.size, told, "", "", (), metadata, _without(path, error))
    except (OSError, struct.error, ValueError, ArithmeticError, LookupError, TypeError):
        # The header is sound, and yet what it describes is none of our files.
        return FileView(name, path, state.size, told, "", "", (), metadata, "is not a file that tuner knows")
    tools = tuple((tool, shown(words, 300)) for tool, words in facts["loads_in"].items())
    base = shown(facts.get("family") or "", 100)
    return FileView(name, path, state.size, told, _LABELS.get(kind.name, kind.name), base, tools, metadata)


def _without(path: Path, error: DataError) -> str:
    """What is wrong, without the place, which a page does not show."""
    return shown(error.message.removeprefix(f"{path}: ").replace(str(path.parent) + os.sep, ""), 500)
