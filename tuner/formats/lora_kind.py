"""LoRA files as one kind of adapter file: what their header tells, and which tool loads them; imports no torch."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from .families import FAMILIES
from .file_kind import Exported, FileKind
from .kinds import JOINT_WIDTHS, WIDTHS, Found, cross_width, joint_width, read_by_diffusers, recognise
from .readers import READERS, answer
from .scales import adapter_config

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header
    from .deltas import Delta

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers' loader looks for in a folder."""


class LoRAKind(FileKind):
    """Files with diffusers' or kohya's keys."""

    name = "lora"
    label = "a LoRA"
    exports = {"kohya": "_kohya.safetensors", "diffusers": "_diffusers.safetensors"}

    def claims(self, header: Header) -> bool:
        return True  # the last in the table: `recognise` names what is wrong with a file that is none

    def chosen(self, files: Sequence[Path]) -> Sequence[Path]:
        return [file for file in files if file.name == DIFFUSERS_FILE]

    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        return _facts(file, header, recognise(file, header))

    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        from .load_lora import load_lora

        return load_lora(pipe, file, header, strength, name)

    def set_strength(self, pipe: DiffusionPipeline, name: str, strength: float) -> bool:
        from .load_lora import strengthen_lora

        return strengthen_lora(pipe, name, strength)

    def unload(self, pipe: DiffusionPipeline, name: str) -> bool:
        from .load_lora import unload_lora

        return unload_lora(pipe, name)

    def deltas(self, file: Path, header: Header) -> Sequence[Delta]:
        from .convert import read_updates
        from .loaders import check_values

        found = recognise(file, header)
        check_values(file)
        return read_updates(file, header, found)

    def export(self, file: Path, to: str, out: Path) -> Exported:
        from .convert import convert

        made = convert(file, to, out)  # type: ignore[arg-type]
        warnings = []
        if to == "kohya" and not made.family.kohya_in_diffusers:
            warnings.append(
                f"DIFFUSERS IGNORES THIS FILE: load_lora_weights passes over kohya's keys of {made.family.label} with "
                f"no more than a warning and changes nothing. For diffusers take {made.source.name}, which you have"
            )
        if made.widened:
            warnings.append(f"{made.widened} tensors are fp32 now: in 16 bit their scale would have been rounded")
        counts = ", ".join(f"{count} in the {component}" for component, count in made.layers.items())
        said = f"the keys of {to}, {counts}; read back, the update is the same"
        return Exported(made.file, made.source, said, {"layers": made.layers}, warnings)


def _facts(file: Path, header: Header, found: Found) -> dict[str, Any]:
    ranks = {header.tensors[f.down].shape[0] for layers in found.components.values() for f in layers.values()}
    alphas = {
        _number(file, header, factors.alpha) if factors.alpha else None
        for layers in found.components.values()
        for factors in layers.values()
    }
    rank = ranks.pop() if len(ranks) == 1 else sorted(ranks)
    alpha = alphas.pop() if len(alphas) == 1 else sorted(alphas, key=str)
    folded = alpha is not None
    if alpha is None and found.style == "diffusers":
        alpha = _adapter_alpha(file, header) or rank
        folded = alpha == rank
    return {
        "format": found.spelling,
        "backbone": found.family,
        "family": _family(header, found),
        "rank": rank,
        "alpha": alpha,
        "targets": {component: len(layers) for component, layers in found.components.items()},
        "loads_in": loads_in(found, folded=folded or found.style == "kohya"),
    }


def _family(header: Header, found: Found) -> str:
    """The base's name as far as its layers tell."""
    label, own = FAMILIES[found.family].label, header.metadata.get("tuner_backbone") == found.family
    base = f"{label}'s layout" if own else "another base"
    if found.family == "sd35":
        width, dual = joint_width(header, found), any("attn2" in key for key in found.components.get("transformer", ()))
        if width == 1536 and dual:  # only MMDiT-X has a second attention
            return "Stable Diffusion 3.5, medium"
        return label if width is None else JOINT_WIDTHS.get(width, f"{base}, width {width}")
    width = cross_width(header, found)
    return label if width is None else WIDTHS.get(width, f"{base}, text width {width}")


def loads_in(found: Found, *, folded: bool = True) -> dict[str, str]:
    """What each tool does with the file; `folded` as in `readers.answer`."""
    others = {reader.tool: answer(reader, found, folded=folded) for reader in READERS}
    return {"diffusers": _in_diffusers(found), **others}


def _in_diffusers(found: Found) -> str:
    family = FAMILIES[found.family]
    if not read_by_diffusers(found):
        return "NOTHING: load_lora_weights knows none of these keys; `tuner export FILE --to diffusers`"
    if not any(component.startswith("text_encoder") for component in found.components):
        return "all of it"
    if found.spelling == "kohya":
        return "all of it, text encoder included"
    part = {"unet": "UNet"}.get(family.denoiser, family.denoiser)
    return f"all of it by load_lora_weights; {family.denoiser}.load_lora_adapter takes the {part}'s part"


def _adapter_alpha(file: Path, header: Header) -> float | int | None:
    """Alpha as peft's configuration states it, where all components agree. Raises: DataError."""
    config = adapter_config(file, header)
    values = {value for key, value in config.items() if key.endswith(".lora_alpha") and isinstance(value, int | float)}
    return values.pop() if len(values) == 1 else None


def _number(file: Path, header: Header, key: str) -> float:
    """The one number of a small tensor."""
    entry = header.tensors[key]
    with file.open("rb") as data:
        data.seek(entry.start)
        raw = data.read(entry.end - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry.dtype], raw)[0])
