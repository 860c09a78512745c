"""The card of the toybox: what its models are, how good they are, and the command that makes them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from .. import world

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

COMMAND = "python -m tuner.toybox.making STATE"
TEXT = """\
# The toybox's models

Small models of a small world, trained from nothing on pictures that code draws ({classes} classes of objects,
{colours} colours, {settings} settings, patterns, styles, pairs, counts, short words). No picture or weight of anyone
else is in them; their licence is the project's.

| folder | is | parameters | bytes |
|---|---|---|---|
{models}

Made by `{command}`: it trains, examines and writes this page, and goes on where it was stopped.

## What the models draw when they are told

Prompts describe scenes that were in no training. An examiner, a small network trained on drawn pictures alone, answers
what each picture shows; a picture counts when every answer is right.

{drawn}

An examiner that learned from shuffled answers is at chance on single objects: {shuffled}.

## What the judges can tell apart

| held-out drawn pictures | right |
|---|---|
{judges}
"""
FAMILY = """\
`{name}` ({sampler}, {steps} steps, guidance {guidance:g}):

| prompts | all right | {heads} | CLIP-T | CLIP-T of drawn pictures |
|---|---|{rules}|---|---|
{rows}

The examiner itself, on held-out drawn pictures after a round trip through this VAE: {round_trip}.
"""


def read(place: Path) -> dict[str, Any]:
    """The figures of the last time; none where there was none."""
    path = place / "figures.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write(place: Path, found: Mapping[str, Any]) -> None:
    """Write `README.md` and `figures.json` beside the models."""
    (place / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8", newline="\n")
    (place / "README.md").write_text(page(place, found), encoding="utf-8", newline="\n")


def page(place: Path, found: Mapping[str, Any]) -> str:
    """The card in Markdown; figures of SD1.5 lie at the top, those of each later model under its name."""
    chance = found["shuffled"]
    families = {"sd15": found} | {name: found[name] for name in LATER if name in found}
    return TEXT.format(
        classes=len(world.CLASSES),
        colours=len(world.COLOURS),
        settings=len(world.BACKGROUNDS) - len(world.COLOURS),
        models="\n".join(_model(path, place) for path in sorted(place.rglob("*.safetensors"))),
        command=COMMAND,
        drawn="\n".join(_drawn(name, own) for name, own in families.items()).rstrip(),
        judges="\n".join(f"| {question} | {share:.1%} |" for question, share in found["judges"].items()),
        shuffled=", ".join(
            f"{name} {share:.1%} (always the commonest answer: {chance['the commonest answer'][name]:.1%})"
            for name, share in chance["each"].items()
        ),
    )


def _drawn(name: str, found: Mapping[str, Any]) -> str:
    """What the model of a family draws."""
    parts = {title: found[title] for title in ("single objects", "compositions")}
    heads = list(dict.fromkeys(head for part in parts.values() for head in part["each"]))
    rows = [
        f"| {part['prompts']} {title} | **{part['right']:.1%}** | "
        + " | ".join(f"{part['each'][head]:.1%}" if head in part["each"] else "" for head in heads)
        + f" | {part['clip_t']:.3f} | {part['clip_t of drawn pictures']:.3f} |"
        for title, part in parts.items()
    ]
    trips = [
        f"{part['drawn pictures after a VAE round trip']['right']:.1%} of {title} all right"
        for title, part in parts.items()
    ]
    return FAMILY.format(
        name=name,
        sampler=found["sampler"],
        steps=found["steps"],
        guidance=found["guidance"],
        heads=" | ".join(heads),
        rules="|".join("---" for _ in heads),
        rows="\n".join(rows),
        round_trip=", ".join(trips),
    )


LATER = ("sd35",)
KINDS = {
    "clip": "CLIPModel: the judge of pictures and captions",
    "dino": "Dinov2Model: the judge of particular subjects",
    "sd15/text_encoder": "CLIPTextModel",
    "sd15/unet": "UNet2DConditionModel, epsilon",
    "sd15/vae": "AutoencoderKL, 4 channels, factor 4",
    "sd35/text_encoder": "CLIPTextModelWithProjection",
    "sd35/text_encoder_2": "CLIPTextModelWithProjection",
    "sd35/text_encoder_3": "T5EncoderModel",
    "sd35/transformer": "SD3Transformer2DModel, rectified flow",
    "sd35/vae": "AutoencoderKL, 16 channels, factor 4",
}


def _model(path: Path, place: Path) -> str:
    from ...formats.container import read_header

    header = read_header(path)
    count = sum((entry.end - entry.start) // 2 for entry in header.tensors.values())
    folder = path.parent.relative_to(place).as_posix()
    return f"| `{folder}` | {KINDS[folder]} | {count:,} | {header.size:,} |"
