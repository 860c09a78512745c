"""Every tensor of an adapter file sorted by layer and role, however odd the file: nothing is refused here; no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..formats.families import FAMILIES
from ..formats.spellings import SPELLINGS, respelled, spelling_of
from . import model_layers

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ..formats.container import Header

ROLES: tuple[tuple[str, str], ...] = (
    (r"lora_A(?:\.default)?\.weight|lora_down\.weight|lora(?:_linear_layer)?\.down\.weight", "down"),
    (r"lora_B(?:\.default)?\.weight|lora_up\.weight|lora(?:_linear_layer)?\.up\.weight", "up"),
    (r"alpha", "alpha"),
    (r"dora_scale|lora_magnitude_vector(?:\.default)?(?:\.weight)?", "magnitude"),
    (r"lora_mid\.weight", "mid"),
    (r"hada_\w+", "loha"),
    (r"lokr_\w+", "lokr"),
    (r"diff|diff_b|w_norm|b_norm", "whole weights"),
)
"""What the end of a key says of a tensor."""
MANY = ("loha", "lokr", "whole weights")
"""Roles of which a layer has several, told apart by the end itself."""
_ENDS = re.compile(rf"(?P<stem>.+?)[._](?P<end>{'|'.join(pattern for pattern, _ in ROLES)})")
_KOHYA = re.compile(r"lora_(unet|te|te1|te2|te3)_(.+)")
_DIFFUSERS = re.compile(r"(unet|transformer|text_encoder_2|text_encoder_3|text_encoder)\.(.+)")


@dataclass(slots=True)
class Layer:
    """What a file holds of one layer, or of several that share a name."""

    component: str
    """diffusers' name; empty where the key names none."""
    name: str
    """As the model's files spell it; where several share it, the first's with the number of the others."""
    layers: tuple[str, ...]
    """The layers of the model; empty where no model of the family has it."""
    spelled: set[str] = field(default_factory=set)
    """Whose keys they are: kohya, diffusers, or a name of `SPELLINGS`."""
    roles: dict[str, list[str]] = field(default_factory=dict)
    """Keys by role; more than one where the file holds a tensor twice."""

    @property
    def label(self) -> str:
        return ".".join(filter(None, (self.component, self.name)))

    def one(self, role: str) -> str | None:
        """The first key of a role."""
        return self.roles[role][0] if role in self.roles else None


@dataclass(frozen=True, slots=True)
class Sorted:
    """An adapter file's tensors."""

    family: str
    layers: tuple[Layer, ...]
    strange: tuple[str, ...]
    """Keys that are of no layer."""


def sort(file: Path, header: Header) -> Sorted:
    """Sort a file's tensors; what is no adapter's has only strange keys."""
    family = _family(header)
    found: dict[tuple[str, str], Layer] = {}
    strange = []
    for key, name, spelled in _spelled(file, header.tensors):
        match = _ENDS.fullmatch(name)
        place = _place(match["stem"], family) if match else None
        if match is None or place is None:
            strange.append(key)
            continue
        component, layer, layers = place
        own = found.setdefault((component, layer), Layer(component, layer, layers))
        own.spelled.add(spelled)
        own.roles.setdefault(_role(match["end"]), []).append(key)
    return Sorted(family, tuple(found.values()), tuple(strange))


def _role(end: str) -> str:
    for pattern, role in ROLES:
        if re.fullmatch(pattern, end):
            return f"{role} {end}" if role in MANY else role
    raise ValueError(f"{end}: no end of an adapter's key")


def _spelled(file: Path, keys: Iterable[str]) -> list[tuple[str, str, str]]:
    """(key, what diffusers or kohya calls it, whose key it is)."""
    names = list(keys)
    whole = spelling_of(names)
    found = []
    for key in names:
        name, spelled = key, ""
        for spelling in filter(None, (whole, *SPELLINGS)):
            ours = spelling is whole or re.match(spelling.sign, key)
            if ours and (other := next(iter(respelled(file, [key], spelling)))) != key:
                name, spelled = other, spelling.name
                break
        found.append((key, name, spelled or ("kohya" if _KOHYA.match(key) else "diffusers")))
    return found


def _place(stem: str, family: str) -> tuple[str, str, tuple[str, ...]] | None:
    """Component, name and the model's layers of a key without its end; None where it names no component."""
    if match := _KOHYA.fullmatch(stem):
        prefixes = FAMILIES[family].names.prefixes
        kinds = {prefix.removeprefix("lora_"): component for component, prefix in prefixes.items()}
        kinds |= {"te": "text_encoder", "te1": "text_encoder", "te2": "text_encoder_2", "te3": "text_encoder_3"}
        component = kinds.get(match[1], "unet")
        if match[1] == "te3":
            return component, match[2], (match[2],)
        known = model_layers.by_kohya_key(family).get(f"{prefixes.get(component, 'lora_' + match[1])}_{match[2]}")
        if known is None:
            return component, match[2], ()
        first, *others = known[1]
        return component, first + (f" and {len(others)} more" if others else ""), known[1]
    if match := _DIFFUSERS.fullmatch(stem):
        component, layer = match.groups()
        layer = re.sub(r"\.processor\.(to_\w+)$", r".\1", layer)
        layer = re.sub(r"\.to_out$", ".to_out.0", layer) if component == "unet" else layer
        known = component == "text_encoder_3" or layer in model_layers.layers(family).get(component, ())
        return component, layer, (layer,) if known else ()
    return None


def _family(header: Header) -> str:
    """The backbone whose layers most of the keys name; the header's own word where none tells."""
    joint = re.compile(r"^transformer\.|joint_blocks|^lora_transformer_|add_q_proj")
    unet = re.compile(r"^unet\.|^lora_unet_(down|up|mid|input|output|middle)|(down|up)_blocks")
    joint_votes, unet_votes = (sum(map(bool, map(mark.search, header.tensors))) for mark in (joint, unet))
    told = header.metadata.get("tuner_backbone", "")
    if joint_votes == unet_votes:
        return told if told in FAMILIES else "sd15"
    return "sd35" if joint_votes > unet_votes else "sd15"
