"""LoHa and LoKr files as kinds of adapter file: what their header tells; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .families import FAMILIES
from .file_kind import FileKind
from .header_numbers import number
from .kinds import JOINT_WIDTHS, WIDTHS
from .lycoris import MARKS, cross_width, joint_width, recognise
from .lycoris_shapes import LABELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header
    from .deltas import Delta
    from .lycoris import Factors, Found
    from .lycoris_shapes import Method

OURS = "all of it by tuner.load_adapter; diffusers has no loader of its own for it"
INVOKE_LOKR = (
    "not recognised: it finds the base of a LoKr by whole matrices in the cross-attention's keys and values alone"
)
"""As read in the source of InvokeAI's `lora_token_vector_length`."""


class LycorisKind(FileKind):
    """Files with LyCORIS' tensor names, of one method."""

    def __init__(self, method: Method) -> None:
        self.mark = MARKS[method]
        self.name = method  # type: ignore[misc]  # one object a method, as one class a kind elsewhere
        self.label = f"a {LABELS[method]}"  # type: ignore[misc]

    def claims(self, header: Header) -> bool:
        return any(self.mark in key for key in header.tensors)

    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        found = recognise(file, header)
        every = [own for layers in found.components.values() for own in layers.values()]
        alphas = {number(file, header, own.names["alpha"]) for own in every if "alpha" in own.names and own.rank}
        return {
            "format": "lycoris",
            "backbone": found.family,
            "family": _family(header, found),
            "rank": _one(own.rank for own in every if own.rank),
            "alpha": _one(alphas),
            "targets": {
                part: sum(len(own.layers) for own in layers.values()) for part, layers in found.components.items()
            },
            "loads_in": loads_in(found),
        }

    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        from .load_lycoris import load_lycoris

        return load_lycoris(pipe, file, header, strength, name)

    def set_strength(self, pipe: DiffusionPipeline, name: str, strength: float) -> bool:
        from .load_lycoris import strengthen_lycoris

        return strengthen_lycoris(pipe, name, strength)

    def unload(self, pipe: DiffusionPipeline, name: str) -> bool:
        from .load_lycoris import unload_lycoris

        return unload_lycoris(pipe, name)

    def deltas(self, file: Path, header: Header) -> Sequence[Delta]:
        from .loaders import check_values
        from .lycoris_delta import read_products

        found = recognise(file, header)
        check_values(file)
        return read_products(file, found)


def loads_in(found: Found) -> dict[str, str]:
    """What each tool does with the file, as read in its source."""
    every = [(key, own) for layers in found.components.values() for key, own in layers.items()]
    told = {"diffusers": OURS, "ComfyUI": "all of it"}
    if found.family != "sd15":
        return told
    if all(key.startswith("lora_") for key, _ in every):
        told |= dict.fromkeys(("AUTOMATIC1111", "Forge"), "all of it")
        told["InvokeAI"] = "all of it" if _seen_by_invoke(every) else INVOKE_LOKR
    return told


def _seen_by_invoke(every: Iterable[tuple[str, Factors]]) -> bool:
    """Whether a layer is there by which it finds the base."""
    return any(
        own.method == "loha" or {"lokr_w1", "lokr_w2"} <= own.names.keys()
        for key, own in every
        if key.endswith(("attn2_to_k", "attn2_to_v")) or (key.startswith("lora_te_") and "_self_attn_" in key)
    )


def _family(header: Header, found: Found) -> str:
    """The base's name as far as its layers tell."""
    label = FAMILIES[found.family].label
    width, names = cross_width(found), WIDTHS
    if found.family == "sd35":
        width, names = joint_width(found), JOINT_WIDTHS
    if width is None:
        return label
    own = header.metadata.get("tuner_backbone") == found.family
    return names.get(width, f"{label}'s layout, width {width}" if own else f"another base, width {width}")


def _one(values: Iterable[Any]) -> Any:
    """The one value, a list of several, None for none."""
    known = sorted(set(values))
    return known[0] if len(known) == 1 else known or None
