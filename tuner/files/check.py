"""Everything that is wrong with an adapter file, and what each tool would take of it without a word about the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from . import faults
from .keys import Sorted, sort
from .readers import Reading, readings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..formats.container import Header
    from .faults import Finding


@dataclass(frozen=True, slots=True)
class Checked:
    """What a file is, and what is wrong with it."""

    file: Path
    kind: str
    """lora, textual_inversion, hypernetwork, full; empty where it cannot be read."""
    family: str | None
    keys: Sequence[str]
    """Whose keys it has: kohya, diffusers, onetrainer ..."""
    ranks: Sequence[int]
    alpha: str
    """Where the scale comes from, in words."""
    components: dict[str, int]
    """By diffusers' name, how many layers."""
    text_prefix: str
    """How the text encoder's keys begin; empty where none is trained."""
    findings: Sequence[Finding]
    readers: Sequence[Reading]
    sorted: Sorted | None = field(default=None, repr=False)

    @property
    def problems(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.problem]


def check(path: Path) -> Checked:
    """Look at every tensor of an adapter file.

    Raises: DataError where there is no such file, or it is of a kind that can run code.
    """
    from ..formats.container import read_header
    from ..formats.find import find_file, kind_of

    try:
        file = find_file(path)
        header = read_header(file)
    except DataError as error:
        if not path.is_file() or path.suffix != ".safetensors":
            raise
        return _unreadable(path, error)
    kind = kind_of(header)
    if kind.name != "lora":
        return _other(file, header, kind.name)
    return _lora(file, header)


def _unreadable(file: Path, error: DataError) -> Checked:
    said = error.message.removeprefix(f"{file}: ")
    return Checked(file, "", None, (), (), "", {}, "", [faults.Finding("container", said)], ())


def _other(file: Path, header: Header, name: str) -> Checked:
    """A word, hypernetwork or whole model: its kind knows what is wrong; its values are looked at here."""
    from ..formats.find import kind_of

    found: list[Finding] = []
    facts: dict[str, Any] = {}
    try:
        facts = kind_of(header).facts(file, header)
    except DataError as error:
        found.append(faults.Finding("refused", error.message.removeprefix(f"{file}: ")))
    found += faults.values(file, header, tuple(header.tensors))
    return Checked(file, name, facts.get("backbone"), [str(facts.get("format", ""))], (), "", {}, "", found, ())


def _lora(file: Path, header: Header) -> Checked:
    found = sort(file, header)
    tools = readings(found)
    findings = faults.of_lora(file, header, found, tools)
    components: dict[str, int] = {}
    for layer in found.layers:
        components[layer.component] = components.get(layer.component, 0) + 1
    ranks = sorted(
        {
            header.tensors[key].shape[0]
            for layer in found.layers
            if (key := layer.one("down")) and header.tensors[key].shape
        }
    )
    spelled = faults.spellings(found)
    alpha = faults.alpha_rule(file, header, found)
    prefix = faults.text_prefix(found)
    family = found.family if found.layers else None
    return Checked(file, "lora", family, spelled, ranks, alpha, components, prefix, findings, tools, found)
