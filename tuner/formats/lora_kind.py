"""LoRA files as one kind of adapter file: what their header tells, and which tool loads them; imports no torch."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

from .families import FAMILIES, TURNED_IN_COMFY, turned_in_comfy
from .file_kind import Exported, FileKind
from .kinds import JOINT_WIDTHS, WIDTHS, Found, cross_width, joint_width, recognise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
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
    if found.style == "diffusers":
        alpha = _adapter_alpha(header.metadata) or rank
    return {
        "format": found.style,
        "backbone": found.family,
        "family": _family(header, found),
        "rank": rank,
        "alpha": alpha,
        "targets": {component: len(layers) for component, layers in found.components.items()},
        "loads_in": loads_in(header, found),
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


def loads_in(header: Header, found: Found) -> dict[str, str]:
    """What each tool does with the file."""
    family = FAMILIES[found.family]
    text = any(component.startswith("text_encoder") for component in found.components)
    whole = "all of it" if not text else "all of it, text encoder included"
    part = {"unet": "UNet"}.get(family.denoiser, family.denoiser)
    alone = f"all of it by load_lora_weights; {family.denoiser}.load_lora_adapter takes the {part}'s part"
    if not family.kohya_in_diffusers:
        ignored = "NOTHING: it passes over these keys with no more than a warning; `tuner export FILE --to diffusers`"
        kohya = found.style == "kohya"
        comfy = whole if kohya or not _turned(header, found) else f"all of it, but {TURNED_IN_COMFY}"
        return {"diffusers": ignored if kohya else alone if text else "all of it", "ComfyUI": comfy}
    others = ("AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI")
    if found.style == "kohya":
        return dict.fromkeys(("diffusers", *others), whole)
    note = "not these keys; take the file beside it with kohya's, or `tuner export FILE --to kohya`"
    return {"diffusers": alone if text else "all of it", **dict.fromkeys(others, note)}


def _turned(header: Header, found: Found) -> bool:
    """Whether a file with diffusers' keys trains a layer that ComfyUI takes the wrong way round."""
    return any(
        turned_in_comfy(found.family, key.removeprefix("transformer."), header.tensors[factors.up].shape[0], width)
        for key, factors in found.components.get("transformer", {}).items()
        for width in header.tensors[factors.down].shape[1:]
    )


def _adapter_alpha(metadata: Mapping[str, str]) -> float | int | None:
    """Alpha as peft's configuration in the header states it, where all components agree."""
    try:
        config = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return None
    values = (
        {value for key, value in config.items() if key.endswith(".lora_alpha")} if isinstance(config, dict) else set()
    )
    value = values.pop() if len(values) == 1 else None
    return value if isinstance(value, int | float) else None


def _number(file: Path, header: Header, key: str) -> float:
    """The one number of a small tensor."""
    entry = header.tensors[key]
    with file.open("rb") as data:
        data.seek(entry.start)
        raw = data.read(entry.end - entry.start)
    if entry.dtype == "BF16":  # the upper half of a float32
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry.dtype], raw)[0])
