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

## What the model draws when it is told

Prompts describe scenes that were in no training. An examiner, a small network trained on drawn pictures alone, answers
what each picture shows; a picture counts when every answer is right ({sampler}, {steps} steps, guidance {guidance:g}).

| prompts | all right | {heads} | CLIP-T | CLIP-T of drawn pictures |
|---|---|{rules}|---|---|
{rows}

The examiner itself, on held-out drawn pictures after a round trip through the VAE: {round_trip}. One that learned from
shuffled answers is at chance on single objects: {shuffled}.

## What the judges can tell apart

| held-out drawn pictures | right |
|---|---|
{judges}
"""


def write(place: Path, found: Mapping[str, Any]) -> None:
    """Write `README.md` and `figures.json` beside the models."""
    (place / "figures.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8", newline="\n")
    (place / "README.md").write_text(page(place, found), encoding="utf-8", newline="\n")


def page(place: Path, found: Mapping[str, Any]) -> str:
    """The card in Markdown."""
    parts = {name: found[name] for name in ("single objects", "compositions")}
    heads = list(dict.fromkeys(head for part in parts.values() for head in part["each"]))
    rows = [
        f"| {part['prompts']} {name} | **{part['right']:.1%}** | "
        + " | ".join(f"{part['each'][head]:.1%}" if head in part["each"] else "" for head in heads)
        + f" | {part['clip_t']:.3f} | {part['clip_t of drawn pictures']:.3f} |"
        for name, part in parts.items()
    ]
    trips = [
        f"{part['drawn pictures after a VAE round trip']['right']:.1%} of {name} all right"
        for name, part in parts.items()
    ]
    chance = found["shuffled"]
    return TEXT.format(
        classes=len(world.CLASSES),
        colours=len(world.COLOURS),
        settings=len(world.BACKGROUNDS) - len(world.COLOURS),
        models="\n".join(_model(path, place) for path in sorted(place.rglob("*.safetensors"))),
        command=COMMAND,
        sampler=found["sampler"],
        steps=found["steps"],
        guidance=found["guidance"],
        heads=" | ".join(heads),
        rules="|".join("---" for _ in heads),
        rows="\n".join(rows),
        round_trip=", ".join(trips),
        judges="\n".join(f"| {question} | {share:.1%} |" for question, share in found["judges"].items()),
        shuffled=", ".join(
            f"{name} {share:.1%} (always the commonest answer: {chance['the commonest answer'][name]:.1%})"
            for name, share in chance["each"].items()
        ),
    )


KINDS = {
    "unet": "UNet2DConditionModel, epsilon",
    "vae": "AutoencoderKL, 4 channels, factor 4",
    "text_encoder": "CLIPTextModel",
    "clip": "CLIPModel: the judge of pictures and captions",
    "dino": "Dinov2Model: the judge of particular subjects",
}


def _model(path: Path, place: Path) -> str:
    from ...formats.container import read_header

    header = read_header(path)
    count = sum((entry.end - entry.start) // 2 for entry in header.tensors.values())
    folder = path.parent
    return f"| `{folder.relative_to(place).as_posix()}` | {KINDS[folder.name]} | {count:,} | {header.size:,} |"
