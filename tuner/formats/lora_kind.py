"""LoRA files as one kind of adapter file: what their header tells, and which tool loads them; imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .container import read_header
from .families import FAMILIES
from .file_kind import Exported, FileKind
from .fusing import PEFT_NORMS
from .kinds import JOINT_WIDTHS, WIDTHS, Found, axis_of, cross_width, joint_width, read_by_diffusers, recognise
from .readers import READERS, answer
from .scales import adapter_config, number_of
from .tool_keys import TOOLS, keys_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Header
    from .deltas import Delta
    from .fusing import Axis

SEVERAL_ALPHAS = (
    "NOT its scales: it gives layers of the attention the alpha of others; tuner.load_adapter loads all of it, and "
    "`tuner export FILE --to diffusers` writes a file that loads anywhere"
)
"""What diffusers does with kohya's keys where alphas differ."""
DROPPED = "NOT its norms, which it drops with a warning or breaks off; tuner.load_adapter loads all of it"
"""What diffusers does with a DoRA's `dora_scale`."""
BARE = "NOT the norms of text encoders, which it looks for under another name; tuner.load_adapter loads all of it"
"""What diffusers 0.42.1 does with peft's own names of norms."""
DIVIDES_BY_BASE = ("ComfyUI", "Forge")
NEARLY = "it divides by the norms of the base's weight, not of the changed one; dora: input is read exactly"
"""What ComfyUI and Forge do with norms of outputs, as their `weight_decompose` is written."""
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers' loader looks for in a folder."""


class LoRAKind(FileKind):
    """Files with diffusers' or kohya's keys."""

    name = "lora"
    label = "a LoRA"
    exports = {word: f"_{word}.safetensors" for word in ("kohya", "diffusers", *TOOLS)}

    def claims(self, header: Header) -> bool:
        return True  # the last in the table: `recognise` names what is wrong with a file that is none

    def chosen(self, files: Sequence[Path]) -> Sequence[Path]:
        # a DoRA of inputs has no file for diffusers' own loader
        return [file for file in files if file.name == DIFFUSERS_FILE] or list(files)[:1]

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

        keys = to
        if to in TOOLS:
            keys = keys_for(to, file, recognise(file, read_header(file)))
        made = convert(file, keys, out)  # type: ignore[arg-type]
        warnings = []
        if keys == "kohya" and not made.family.kohya_in_diffusers:
            warnings.append(
                f"DIFFUSERS IGNORES THIS FILE: load_lora_weights passes over kohya's keys of {made.family.label} with "
                f"no more than a warning and changes nothing. For diffusers take {made.source.name}, which you have"
            )
        if to == "diffusers" and made.drops_norms:
            warnings.append(
                "DIFFUSERS DROPS ITS NORMS, which are of inputs: it loads no more than the update. Load it by "
                "tuner.load_adapter"
            )
        if made.widened:
            warnings.append(f"{made.widened} tensors are fp32 now: in 16 bit their scale would have been rounded")
        counts = ", ".join(f"{count} in the {component}" for component, count in made.layers.items())
        said = f"the keys of {keys}, {counts}; read back, the update is the same"
        return Exported(made.file, made.source, said, {"layers": made.layers}, warnings)


def _facts(file: Path, header: Header, found: Found) -> dict[str, Any]:
    ranks = {header.tensors[f.down].shape[0] for layers in found.components.values() for f in layers.values()}
    alphas = {
        number_of(file, header, factors.alpha) if factors.alpha else None
        for layers in found.components.values()
        for factors in layers.values()
    }
    axes: set[Axis | None] = {
        axis_of(header, f) for own in found.components.values() for f in own.values() if f.magnitude
    }
    one_alpha = len(alphas) == 1
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
        **_dora_facts(axes),
        "loads_in": loads_in(found, header.tensors, axes, one_alpha=one_alpha, folded=folded or found.style == "kohya"),
    }


def _dora_facts(axes: Collection[Axis | None]) -> dict[str, Any]:
    return {"dora": " and ".join(sorted(filter(None, axes)))} if axes else {}


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


def loads_in(
    found: Found,
    keys: Collection[str] = (),
    axes: Collection[Axis | None] = (),
    *,
    one_alpha: bool = True,
    folded: bool = True,
) -> dict[str, str]:
    """What each tool does with the file.

    Args:
        found: its layers.
        keys: names of its tensors, which tell whose norms a DoRA has.
        axes: of what a DoRA's norms are; none where it is none.
        one_alpha: whether all layers have the same.
        folded: as in `readers.answer`.
    """
    others = {reader.tool: answer(reader, found, folded=folded) for reader in READERS}
    plain = {"diffusers": _in_diffusers(found), **others}
    if axes:
        peft = any(PEFT_NORMS in key for key in keys)
        bare = any(key.startswith("text_encoder") and key.endswith(PEFT_NORMS) for key in keys)
        return dora_loads_in(plain, axes, peft=peft, bare=bare)
    if found.style == "kohya" and read_by_diffusers(found) and not one_alpha:
        return plain | {"diffusers": SEVERAL_ALPHAS}
    return plain


def dora_loads_in(
    plain: Mapping[str, str], axes: Collection[Axis | None], *, peft: bool, bare: bool = False
) -> dict[str, str]:
    """What each tool does with a DoRA's file, as read in their sources, and measured for diffusers 0.42.1.

    Args:
        plain: of a LoRA with the same keys.
        axes: of what its norms are.
        peft: whether the norms have peft's name.
        bare: whether a text encoder's have it without `.weight`.
    """
    told = {}
    for tool, what in plain.items():
        if what.lower().startswith("not"):
            told[tool] = what
        elif tool == "diffusers":
            told[tool] = (BARE if bare else what) if peft else DROPPED
        elif peft:
            lost = "NOT its norms, whose name it does not know; take the file beside it"
            told[tool] = f"{what}; and {lost}" if what.startswith("PART") else lost
        elif set(axes) == {"input"}:
            told[tool] = what
        elif tool in DIVIDES_BY_BASE:
            told[tool] = f"nearly: {NEARLY}"
        else:
            told[tool] = "WRONG: it takes the norms of outputs for those of inputs; train with dora: input for it"
    return told


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
