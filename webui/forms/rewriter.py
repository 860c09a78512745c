"""The edits that bring one YAML text from the values it has to others, each in its own place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from tuner.errors import UsageError

from . import yaml_render as render
from . import yaml_spans as spans

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from tuner.yaml_text import Path

ROOM = 2
"""Spaces that stay between a value and its comment."""


class CannotEditError(UsageError):
    """A text that the form cannot change."""


def same(one: Any, other: Any) -> bool:
    """Equal as a recipe reads them: 1 and 1.0 are, 1 and true are not."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and one == other


@dataclass(slots=True)
class Rewriter:
    """The edits of one text, gathered first and made together."""

    source: str
    order: Callable[[Path], Sequence[str]]
    said: Mapping[Path, str]
    edits: list[tuple[int, int, str]] = field(default_factory=list)

    def text(self) -> str:
        """The text with all edits. Those at one place follow each other in the order that they were asked for."""
        made, at = [], 0
        gone = [(start, end) for start, end, new in self.edits if end > start and not new]
        placed = []
        for start, end, new in self.edits:
            here = self._clear(start, gone) if start == end else start
            placed.append((here, here if start == end else end, new))
        for start, end, new in sorted(placed, key=lambda edit: edit[:2]):
            if start < at:
                raise CannotEditError("two changes of the recipe meet in one place", "change it in the YAML text")
            made += [self.source[at:start], new]
            at = end
        return "".join([*made, self.source[at:]])

    def _clear(self, at: int, gone: Sequence[tuple[int, int]]) -> int:
        """Where lines are put in that were to follow one that goes: at the end of the line before it."""
        while (inside := next((start for start, end in gone if start < at < end), None)) is not None:
            at = spans.line_end(self.source, spans.line_start(self.source, inside - 1))
        return at

    @property
    def newline(self) -> str:
        return "\r\n" if "\r\n" in self.source else "\n"

    def edit(self, start: int, end: int, new: str) -> None:
        self.edits.append((start, end, new))

    def value(self, node: Node, old: Any, new: Any, path: Path, *, holder: Node, after: int) -> None:
        """Bring a value to `new`. `after` is where its key's colon or its dash ends."""
        if same(old, new):
            return
        whole = path in self.said and spans.in_brackets(node)
        if isinstance(node, MappingNode) and isinstance(new, dict) and set(new) & set(old) and not whole:
            self.mapping(node, old, new, path)
        elif isinstance(node, SequenceNode) and spans.is_block(node) and isinstance(new, (list, tuple)) and new:
            self.sequence(node, old, new, path)
        elif spans.in_brackets(holder):
            self.edit(spans.start(node), spans.end(self.source, node), self._spaced(render.flow(new), node, after))
        else:
            self.replace(node, new, path, holder=holder, after=after)

    def _spaced(self, new: str, node: Node, after: int) -> str:
        return f" {new}" if spans.start(node) == after and self.source[after - 1 : after] in (":", "-") else new

    def replace(self, node: Node, new: Any, path: Path, *, holder: Node, after: int) -> None:
        """Write a value anew behind its key or dash; a comment on that line stays, one inside the old value goes."""
        end = spans.end(self.source, node)
        column = holder.start_mark.column
        lines: list[str] = []
        if isinstance(holder, SequenceNode):
            first, *rest = render.item(new)
            written, lines = first[2:], rest
        elif render.one_line(new) and not (path in self._sections and isinstance(new, dict) and new):
            written = render.flow(new) if isinstance(new, (dict, list, tuple)) else render.word(new)
        else:
            written, lines = "", ["  " + line for line in render.block(new)]
        tail = "".join(self.newline + " " * column + line for line in lines)
        if spans.line_start(self.source, spans.start(node)) > after:  # the old one begins on a line below
            head = spans.line_end(self.source, after)
            self.edit(after, after, f" {written}" if written else "")
            self.edit(head, spans.line_end(self.source, end), tail)
            return
        if not written:
            gap = spans.comment_after(self.source, end)
            keep = spans.line_end(self.source, end) if gap else end
            self.edit(after, end, "")
            self.edit(keep, keep, tail)
            return
        self._with_comment(spans.start(node), end, self._spaced(written, node, after), path)
        if tail:
            here = spans.line_end(self.source, end)
            self.edit(here, here, tail)

    @property
    def _sections(self) -> Collection[Path]:
        return {(key,) for key in self.order(())} | {("data", key) for key in self.order(("data",))}

    def _with_comment(self, start: int, end: int, written: str, path: Path) -> None:
        """Replace a value on its line; its comment stays in its column where there is room."""
        found = spans.comment_after(self.source, end)
        new = self.said.get(path)
        if found is None:
            if new and self.source[end : spans.line_end(self.source, end)].strip() == "":
                written += f"  # {new}"
            self.edit(start, end, written)
            return
        gap = found["gap"]
        if len(gap) > 1 and "\t" not in gap:
            gap = " " * max(ROOM, len(gap) - (len(written) - (end - start)))
        comment = f"# {new}" if new else found["comment"]
        self.edit(start, found.end(), written + gap + comment)

    def mapping(self, node: MappingNode, old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
        """Change, take away and add the keys of a section that keeps at least one of its own."""
        there = spans.pairs(node)
        for key, key_node, value_node in there:
            if key in new:
                after = self._colon(key_node, value_node)
                self.value(value_node, old[key], new[key], (*path, key), holder=node, after=after)
        kept = [number for number, (key, _, _) in enumerate(there) if key in new]
        gone = [number for number, (key, _, _) in enumerate(there) if key not in new]
        if spans.in_brackets(node):
            self._take_from_brackets(there, gone, kept)
        else:
            for number in gone:
                self._take_line(there, number, kept)
        self._add(node, there, [key for key in new if key not in old], new, path)

    def _colon(self, key: Node, value: Node) -> int:
        """Where the colon behind a key ends."""
        at = self.source.find(":", key.end_mark.index)
        return at + 1 if at >= 0 else spans.start(value)

    def _take_line(self, there: Sequence[tuple[str, Node, Node]], number: int, kept: Sequence[int]) -> None:
        _, key, value = there[number]
        start, last = spans.start(key), spans.end(self.source, value)
        line = spans.line_start(self.source, start)
        if self.source[line:start].strip():  # the first key of a list's entry, behind its dash
            behind = next((n for n in kept if n > number), None)
            if behind is None or any(n < behind and n not in kept for n in range(number + 1, behind)):
                raise CannotEditError("the first key of an entry cannot be taken away", "change it in the YAML text")
            self.edit(start, spans.start(there[behind][1]), "")
            return
        end = spans.next_line(self.source, last)
        before = self.source[:line]
        if (before == "" or before.endswith(("\n\n", "\n\r\n"))) and self.source[end:].startswith(("\n", "\r\n")):
            end = spans.next_line(self.source, end)  # of the empty lines around it one is enough
        self.edit(line, end, "")

    def _take_from_brackets(
        self, there: Sequence[tuple[str, Node, Node]], gone: Sequence[int], kept: Sequence[int]
    ) -> None:
        for number in gone:
            _, key, value = there[number]
            if number > kept[0]:
                self.edit(spans.end(self.source, there[number - 1][2]), spans.end(self.source, value), "")
            else:
                self.edit(spans.start(key), spans.start(there[number + 1][1]), "")

    def _add(
        self,
        node: MappingNode,
        there: Sequence[tuple[str, Node, Node]],
        fresh: Sequence[str],
        new: Mapping[str, Any],
        path: Path,
    ) -> None:
        """Put keys that are not there yet behind the nearest one that goes before them."""
        known = [key for key in self.order(path) if key in fresh]
        kept = [(key, key_node, value) for key, key_node, value in there if key in new]
        for key in [*known, *(key for key in fresh if key not in known)]:
            earlier = self._earlier(key, path)
            beside = [entry for entry in kept if entry[0] in earlier] or (kept[-1:] if key not in known else [])
            nested = isinstance(new[key], dict) and bool(new[key])
            section = nested and (path in ((), ("data",)))
            if spans.in_brackets(node):
                written = f"{render.flow(key)}: {render.flow(new[key])}"
                if beside:
                    at = spans.end(self.source, beside[-1][2])
                    self.edit(at, at, f", {written}")
                else:
                    at = spans.start(kept[0][1])
                    self.edit(at, at, f"{written}, ")
                continue
            first = spans.start(kept[0][1])
            behind_dash = self.source[spans.line_start(self.source, first) : first].strip() != ""
            column = " " * node.start_mark.column
            lines = [column + line for line in render.pair(key, new[key], section=section)]
            if not beside and not behind_dash:
                at = spans.line_start(self.source, first)
                self.edit(at, at, "".join(line + self.newline for line in lines))
                continue
            after = (beside or kept[:1])[-1][2]
            at = spans.line_end(self.source, spans.end(self.source, after))
            apart = self.newline if not path and self._airy() else ""
            self.edit(at, at, apart + "".join(self.newline + line for line in lines))

    def _earlier(self, key: str, path: Path) -> set[str]:
        keys = list(self.order(path))
        return set(keys[: keys.index(key)]) if key in keys else set()

    def _airy(self) -> bool:
        """Whether empty lines stand between the sections of this text."""
        return "\n\n" in self.source.strip() or "\r\n\r\n" in self.source.strip()

    def sequence(self, node: SequenceNode, old: Sequence[Any], new: Sequence[Any], path: Path) -> None:
        """Change a list entry by entry: those at both ends that are the same stay with their comments."""
        nodes, column = spans.items(node), node.start_mark.column
        head = 0
        while head < min(len(old), len(new)) and same(old[head], new[head]):
            head += 1
        tail = 0
        while tail < min(len(old), len(new)) - head and same(old[-1 - tail], new[-1 - tail]):
            tail += 1
        changed = min(len(old), len(new)) - head - tail
        for n in range(head, head + changed):
            after = spans.dash_of(self.source, nodes[n], column) + 1
            self.value(nodes[n], old[n], new[n], (*path, n), holder=node, after=after)
        for n in range(head + changed, len(old) - tail):
            dash = spans.dash_of(self.source, nodes[n], column)
            line = spans.line_start(self.source, dash)
            if self.source[line:dash].strip():
                raise CannotEditError("the first entry of this list cannot be taken away", "change it in the YAML text")
            self.edit(line, spans.next_line(self.source, spans.end(self.source, nodes[n])), "")
        fresh = new[head + changed : len(new) - tail]
        lines = [" " * column + line for entry in fresh for line in render.item(entry)]
        if not lines:
            return
        if head + changed:
            at = spans.line_end(self.source, spans.end(self.source, nodes[head + changed - 1]))
            self.edit(at, at, "".join(self.newline + line for line in lines))
        else:
            at = spans.line_start(self.source, spans.dash_of(self.source, nodes[0], column))
            self.edit(at, at, "".join(line + self.newline for line in lines))
