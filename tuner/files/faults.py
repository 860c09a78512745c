"""What can be wrong with a LoRA file, one function each; the names of the layers it is about go with every finding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError
from .readers import whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from ..formats.container import Header
    from .keys import Layer, Sorted
    from .readers import Reading

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    what: str
    """A word for programs: orphan, twice, values, dead, alpha ..."""
    said: str
    """In a sentence."""
    names: Sequence[str] = ()
    """Layers or keys that it is about."""
    problem: bool = True
    """Whether something is wrong; else it is only worth knowing."""
    mended: str = ""
    """What `--fix` does about it; empty where it does nothing."""
    dropped: bool = False
    """Whether that takes something away, so that `--drop` has to be said, too."""


def of_lora(file: Path, header: Header, found: Sorted, tools: Sequence[Reading]) -> list[Finding]:
    """Everything that is found, the gravest first."""
    findings = [*values(file, header, tuple(header.tensors))]
    findings += [*shapes(header, found), *orphans(found), *twice(found), *strange(found), *unknown(found)]
    findings += mixed(found)
    findings += [*dead(file, found), *alphas(file, header, found), *family(header, found), *kinds(found)]
    findings += lost(found, tools)
    if not any(finding.problem for finding in findings):
        findings += refused(file, header)
    return findings


def tensors(file: Path, keys: Sequence[str]) -> Iterator[tuple[str, Tensor]]:
    """Tensors one by one. Raises: DataError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for key in keys:
                yield key, opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def values(file: Path, header: Header, keys: Sequence[str]) -> list[Finding]:
    """Values that are not finite, and types that are no numbers to compute with."""
    import torch

    odd = [key for key in keys if header.tensors[key].dtype not in FLOATS]
    floats = [key for key in keys if header.tensors[key].dtype in FLOATS]
    bad = [key for key, tensor in tensors(file, floats) if not bool(torch.isfinite(tensor).all())]
    found = []
    if not header.tensors:
        found.append(Finding("empty", "it holds no tensors, so it changes nothing"))
    if bad:
        said = f"{len(bad)} tensors hold values that are not finite: every picture with them is broken"
        found.append(Finding("values", said, bad, mended="their layers are left out", dropped=True))
    if odd:
        types = ", ".join(sorted({header.tensors[key].dtype for key in odd}))
        found.append(Finding("types", f"{len(odd)} tensors hold {types} numbers; F32, F16 or BF16 are read", odd))
    return found


def shapes(header: Header, found: Sorted) -> list[Finding]:
    """Factors that do not go together."""
    bad = []
    for layer in found.layers:
        down, up, alpha = (layer.one(role) for role in ("down", "up", "alpha"))
        if alpha and header.tensors[alpha].shape not in ((), (1,)):
            bad.append(layer.label)
        if not down or not up:
            continue
        a, b = header.tensors[down].shape, header.tensors[up].shape
        if len(a) != len(b) or len(a) not in (2, 4) or 0 in (*a, *b) or a[0] != b[1]:
            bad.append(layer.label)
    said = f"{len(bad)} layers have factors that do not fit together: no tool can multiply them"
    return [Finding("shapes", said, bad, mended="they are left out", dropped=True)] if bad else []


def orphans(found: Sorted) -> list[Finding]:
    """Layers with one factor of two, or with an alpha alone."""
    bad = [layer.label for layer in found.layers if not whole(layer) and not _weights(layer)]
    said = f"{len(bad)} layers have only one of their two factors, or an alpha alone: they do nothing, or stop a loader"
    return [Finding("orphan", said, bad, mended="they are left out", dropped=True)] if bad else []


def _weights(layer: Layer) -> bool:
    return any(role.startswith("whole weights") for role in layer.roles)


def twice(found: Sorted) -> list[Finding]:
    """Tensors that stand in the file under two names."""
    bad = [layer.label for layer in found.layers if any(len(keys) > 1 for keys in layer.roles.values())]
    said = f"{len(bad)} layers stand in the file twice, under two names: which of them acts depends on the reader"
    return [Finding("twice", said, bad, mended="the first is kept where both are equal")] if bad else []


def strange(found: Sorted) -> list[Finding]:
    """Keys that are of no layer."""
    bad = list(found.strange)
    said = f"{len(bad)} keys are none that any tool reads"
    return [Finding("strange", said, bad, mended="they are left out", dropped=True)] if bad else []


def mixed(found: Sorted) -> list[Finding]:
    """Keys of several tools in one file."""
    spelled = spellings(found)
    if len(spelled) < 2:
        return []
    said = f"it mixes the keys of {', '.join(spelled)}: most tools read one of them and pass over the others"
    return [Finding("mixed", said, mended="all keys are rewritten")]


def spellings(found: Sorted) -> list[str]:
    """Whose keys the file has, the most frequent first."""
    counts: dict[str, int] = {}
    for layer in found.layers:
        for name in layer.spelled:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))


def unknown(found: Sorted) -> list[Finding]:
    """Layers that no model of the family has."""
    from ..formats.families import FAMILIES

    bad = [layer.label for layer in found.layers if not layer.layers]
    label = FAMILIES[found.family].label
    said = f"{len(bad)} of {len(found.layers)} layers are none that a model of {label} has: they do nothing"
    return [Finding("unknown", said, bad, mended="they are left out", dropped=True)] if bad else []


def dead(file: Path, found: Sorted) -> list[Finding]:
    """Layers whose update is zero."""
    keys = {key: layer for layer in found.layers for role in ("down", "up") if (key := layer.one(role))}
    zero = dict.fromkeys(keys[key].label for key, tensor in tensors(file, tuple(keys)) if not bool(tensor.any()))
    pairs = [layer.label for layer in found.layers if whole(layer)]
    if not zero:
        return []
    if len(zero) >= len(pairs):
        return [Finding("dead", "every layer's update is zero: the file changes nothing", list(zero))]
    said = f"{len(zero)} of {len(pairs)} layers have an update of zero: they were not trained"
    return [Finding("dead", said, list(zero), problem=False)]


def alphas(file: Path, header: Header, found: Sorted) -> list[Finding]:
    """A scale that some readers do not see."""
    pairs = [layer for layer in found.layers if {"down", "up"} <= layer.roles.keys()]
    without = [layer for layer in pairs if layer.one("alpha") is None]
    findings = []
    if without and len(without) < len(pairs):
        said = f"{len(without)} of {len(pairs)} layers have no alpha, so that readers take alpha = rank for them alone"
        mended = "their alpha is written as the rank, which is what readers take"
        findings.append(Finding("alpha missing", said, [layer.label for layer in without], mended=mended))
    hidden = hidden_scales(file, header, found)
    if isinstance(hidden, str):
        return [*findings, Finding("configuration", hidden)]
    if hidden:
        factor = ", ".join(f"{value:g}" for value in sorted(set(hidden.values()))[:4])
        said = (
            f"alpha / rank is {factor} in {len(hidden)} layers, and only the header says so: diffusers reads it there, "
            "every other tool multiplies by 1"
        )
        findings.append(Finding("alpha in the header", said, list(hidden), mended="it is multiplied into the factors"))
    stored = {layer.label: value for layer in pairs if (value := _alpha(file, layer)) is not None}
    if len(set(stored.values())) > 1 and found.family == "sd15" and spellings(found) == ["kohya"]:
        said = f"{len(set(stored.values()))} different alphas: diffusers gives most layers of the UNet the commonest"
        findings.append(Finding("several alphas", said, mended="one alpha, the rest multiplied into the factors"))
    zero = [name for name, value in stored.items() if not 0 < value < 1e6]
    if zero:
        findings.append(Finding("alpha", f"{len(zero)} layers have an alpha that is no positive number", zero))
    return findings


def hidden_scales(file: Path, header: Header, found: Sorted) -> dict[str, float] | str:
    """By layer, a scale other than 1 that the header alone states; a text says what is wrong with the header."""
    from ..formats.scales import scale_of

    scales = {}
    try:
        for layer in found.layers:
            down = layer.one("down")
            if down is None or layer.one("alpha") or not header.tensors[down].shape:
                continue
            rank = header.tensors[down].shape[0]
            value = scale_of(file, header, layer.component, layer.label, rank, None) if rank else 1.0
            if abs(value - 1) > 1e-6:
                scales[layer.label] = value
    except DataError as error:
        return error.message.removeprefix(f"{file}: ")
    return scales


def alpha_rule(file: Path, header: Header, found: Sorted) -> str:
    """Where readers find the scale, in words."""
    pairs = [layer for layer in found.layers if {"down", "up"} <= layer.roles.keys()]
    stored = [value for layer in pairs if (value := _alpha(file, layer)) is not None]
    if not pairs:
        return ""
    if len(stored) == len(pairs):
        return "stored: " + ", ".join(f"{value:g}" for value in sorted(set(stored))[:6])
    if stored:
        return f"stored for {len(stored)} of {len(pairs)} layers"
    hidden = hidden_scales(file, header, found)
    if hidden and not isinstance(hidden, str):
        return "in the header alone"
    return "none stored: every reader takes alpha = rank"


def _alpha(file: Path, layer: Layer) -> float | None:
    key = layer.one("alpha")
    if key is None:
        return None
    tensor = next(tensors(file, (key,)))[1]
    return float(tensor) if tensor.numel() == 1 else None


def family(header: Header, found: Sorted) -> list[Finding]:
    """Widths of another family."""
    from ..formats.kinds import WIDTHS

    for layer in found.layers:
        down = layer.one("down")
        if down and layer.component == "unet" and layer.name.endswith(("attn2.to_k", "attn2.to_v")):
            width = (*header.tensors[down].shape, 0, 0)[1]
            if WIDTHS.get(width, "Stable Diffusion 1") != "Stable Diffusion 1":
                said = f"it is for {WIDTHS[width]}: its cross-attention reads {width} values a token, not 768"
                return [Finding("family", said)]
    return []


def kinds(found: Sorted) -> list[Finding]:
    """What a layer holds besides two factors, and who drops it."""
    findings = []
    for role, said in (
        ("magnitude", "are of a DoRA, whose norms not every tool reads as they are meant: `tuner inspect` says which"),
        ("mid", "have a middle factor, which diffusers drops"),
        ("whole weights", "hold whole weights or biases, which diffusers does not read"),
    ):
        own = [layer.label for layer in found.layers if any(name.startswith(role) for name in layer.roles)]
        if own:
            findings.append(Finding(role, f"{len(own)} layers {said}", own, problem=role != "magnitude"))
    return findings


def text_prefix(found: Sorted) -> str:
    """How the keys of the first text encoder begin."""
    keys = [
        key
        for layer in found.layers
        if layer.component == "text_encoder"
        for own in layer.roles.values()
        for key in own
    ]
    known = ("lora_te1_", "lora_te_", "text_encoder.")
    return ", ".join(prefix for prefix in known if any(key.startswith(prefix) for key in keys))


def lost(found: Sorted, tools: Sequence[Reading]) -> list[Finding]:
    """What tools take in part: the rest is gone without a word. A file that is for other tools is no fault."""
    findings = []
    for_others = "kohya" not in spellings(found) and len(spellings(found)) < 2
    for tool in tools:
        if tool.layers == tool.of:
            continue
        part = tool.layers > 0
        problem = part and not for_others
        said = f"{tool.tool} takes {tool.layers} of {tool.of} layers: {tool.note}"
        mended = "the keys are rewritten" if problem else ""
        findings.append(Finding("partly" if part else "not read", said, (tool.tool,), problem, mended))
    return findings


def refused(file: Path, header: Header) -> list[Finding]:
    """What the strict reader says of a file in which nothing else was found."""
    from ..formats.find import kind_of

    try:
        kind_of(header).facts(file, header)
    except DataError as error:
        return [Finding("refused", error.message.removeprefix(f"{file}: "))]
    return []
