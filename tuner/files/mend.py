"""A LoRA file without what is wrong with it: the same update under one tool's keys, every change told, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError, UsageError
from .check import check
from .faults import FLOATS, hidden_scales
from .readers import whole
from .writing import require_new, write_lora

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..formats.convert import Style
    from ..formats.fusing import Update
    from .check import Checked
    from .keys import Layer

HOPELESS = ("types", "family", "empty", "magnitude", "mid", "whole weights")
"""Findings that nothing here can do anything about."""
PLAIN = {"down", "up", "alpha"}


@dataclass(frozen=True, slots=True)
class Mended:
    """What `mend` wrote."""

    out: Path
    style: str
    done: Sequence[str]
    """Each thing that was changed, in a sentence."""
    dropped: Sequence[str]
    """Layers and keys that are not in the new file."""
    after: Checked
    """What is still found in it."""


def mend(checked: Checked, out: Path, *, drop: bool) -> Mended:
    """Write a mended file.

    Args:
        checked: of `check`.
        out: a .safetensors file that is not there yet.
        drop: whether what cannot be kept may be left out; every name of it is told.

    Raises: UsageError where nothing is to be mended, something would have to be left out and `drop` was not said, or
        `out` is there; DataError where the file cannot be mended; StorageError.
    """
    from ..formats.container import read_header

    require_new(out)
    found = checked.sorted
    mendable = [finding for finding in checked.findings if finding.mended]
    if found is None:
        raise DataError(f"{checked.file}: cannot be mended", "only the files of a LoRA are; get this one anew")
    hopeless = [finding for finding in checked.findings if finding.what in HOPELESS]
    if hopeless or any(set(layer.roles) - PLAIN for layer in found.layers):
        said = hopeless[0].said if hopeless else "its layers hold more than two factors, as a LoHa's or LoKr's do"
        raise DataError(f"{checked.file}: cannot be mended: {said}", "let the tool that made it save it anew")
    if not mendable:
        raise UsageError(f"{checked.file}: nothing in it is to be mended", "leave out --fix")
    loss = [finding for finding in mendable if finding.dropped]
    if loss and not drop:
        names = list(dict.fromkeys(name for finding in loss for name in finding.names))
        raise UsageError(
            f"{checked.file}: to mend it, {len(names)} things have to be left out, such as {', '.join(names[:4])}",
            "say --drop to leave them out; `tuner check-adapter FILE` names each",
        )
    out_of = _Mending(checked)
    updates = out_of.updates()
    style: Style = "kohya" if found.family == "sd15" else "diffusers"
    metadata = {key: text for key, text in read_header(checked.file).metadata.items() if key != "lora_adapter_metadata"}
    write_lora(out, updates, family=found.family, style=style, metadata=metadata, source=checked.file)
    after = check(out)
    done = [*(f"{finding.said}: {finding.mended}" for finding in mendable), *out_of.notes]
    if checked.keys != after.keys:
        done.append(f"the keys of {', '.join(checked.keys)} are those of {style} now")
    return Mended(out, style, done, out_of.dropped, after)


class _Mending:
    """The updates of a file's layers, and what had to go.

    Args:
        checked: the file.
    """

    def __init__(self, checked: Checked) -> None:
        from ..formats.container import read_header

        assert checked.sorted is not None
        self.file, self.sorted = checked.file, checked.sorted
        self.header = read_header(checked.file)
        hidden = hidden_scales(self.file, self.header, self.sorted)
        self.scales = hidden if isinstance(hidden, dict) else {}
        self.dropped: list[str] = list(self.sorted.strange)
        self.notes: list[str] = []

    def updates(self) -> list[Update]:
        """Raises: DataError where nothing is left, or two tensors of one layer differ."""
        found: list[Update] = []
        for layer in self.sorted.layers:
            own = self._updates(layer)
            if not own:
                self.dropped.append(layer.label)
            found += own
        if not found:
            raise DataError(
                f"{self.file}: nothing of it is left once it is mended", "let the tool that made it save it anew"
            )
        return found

    def _updates(self, layer: Layer) -> list[Update]:
        """Of each of diffusers' layers that this one stands for; none where it has to go."""
        import torch

        from ..formats.families import FAMILIES
        from ..formats.fusing import Update, halves_swapped, split

        if not layer.layers or not {"down", "up"} <= layer.roles.keys() or not whole(layer):
            return []
        down, up = self._tensor(layer, "down"), self._tensor(layer, "up")
        sizes = len(down.shape) == len(up.shape) and down.ndim in (2, 4) and down.shape[0] == up.shape[1]
        if not sizes or not down.numel() or not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
            return []
        scale = self.scales.get(layer.label, 1.0)
        if layer.one("alpha") is not None:
            alpha = self._tensor(layer, "alpha")
            if alpha.numel() != 1 or not bool(torch.isfinite(alpha).all()):
                return []
            scale = float(alpha) / down.shape[0]
        names = FAMILIES[self.sorted.family].names
        try:
            parts = split(down, up, len(layer.layers))
        except ValueError:
            return []
        found = []
        for name, part in zip(layer.layers, parts, strict=True):
            if part is not None:
                update = Update(layer.component, name, *part, scale)
                turned = layer.spelled == {"kohya"} and names.swaps(name, part[1].shape[0], part[0].shape[1])
                found.append(halves_swapped(update) if turned else update)
        return found

    def _tensor(self, layer: Layer, role: str) -> Tensor:
        """The one tensor of a role. Raises: DataError where it stands there twice with other values."""
        import torch

        from .faults import tensors

        own = [
            value for key, value in tensors(self.file, layer.roles[role]) if self.header.tensors[key].dtype in FLOATS
        ]
        if not own or any(not torch.equal(own[0], other) for other in own[1:]):
            raise DataError(
                f"{self.file}: {layer.label} stands there twice with other values ({', '.join(layer.roles[role])})",
                "which of them is meant cannot be told",
            )
        return own[0]
