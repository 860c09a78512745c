"""The layers that models of a family have, by the names that files spell them with; imports no torch."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..backbones import bundled, mmdit_layout, unet_layout
from ..formats.families import FAMILIES
from ..formats.lora import on_disk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..backbones.layout import Layout

T5_LENGTH = 256


@cache
def layers(family: str) -> dict[str, frozenset[str]]:
    """By component, every layer of any model of the family whose configuration is known: the real ones, and ours."""
    found: dict[str, set[str]] = {}
    for layout in _layouts(family):
        for component, own in layout.layers.items():
            if component != "vae":
                found.setdefault(component, set()).update(on_disk(component, layer) for layer in own)
    return {component: frozenset(names) for component, names in found.items()}


@cache
def by_kohya_key(family: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """From kohya's key to the component and the layers that it stands for."""
    names = FAMILIES[family].names
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for component, own in layers(family).items():
        for layer in sorted(own):
            key = names.key(component, layer)
            if key is not None:
                parts = names.layers(key)
                several = parts is not None and len(parts[1]) > 1
                found[key] = (component, parts[1]) if parts and several else (component, (layer,))
    return found


def _layouts(family: str) -> Iterator[Layout]:
    from .. import toybox

    if family == "sd15":
        yield unet_layout.layout(bundled.configs())
        yield unet_layout.layout(toybox.configs(family))
        return
    for size in ("medium", "large", "sd3_medium"):
        yield mmdit_layout.layout(mmdit_layout.configs(size), t5_length=T5_LENGTH)
    yield mmdit_layout.layout(toybox.configs(family), t5_length=T5_LENGTH)
