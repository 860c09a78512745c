"""The card of a whole fine-tuned model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .card import cell, code, example, introduced, put_card
from .card_code import as_trained, call, left_out, scheduler_line
from .families import FAMILIES
from .original import ORIGINALS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .about import About

NOUNS = {"unet": "UNet", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
"""What people call a component."""


def write_model_card(folder: Path, about: About, trained: Sequence[str]) -> Path:
    """Write `README.md`.

    Args:
        folder: where.
        about: what the files say of the run.
        trained: names of the trained components.

    Raises: StorageError.
    """
    ordered = sorted(trained, key=lambda name: name.startswith("text_encoder"))
    parts = " and the ".join(NOUNS.get(name, name) for name in ordered)
    what = f"{code(about.base or about.family)} with its {parts} trained further: a whole model, not an adapter."
    return put_card(
        folder,
        about,
        name="The model",
        tags=["full-finetune"],
        opening=introduced(about, what),
        sections=[_in_diffusers(about), _elsewhere(about, text=len(ordered) > 1)],
        rows=[("trained", parts)],
        relation="finetune",
    )


def _in_diffusers(about: About) -> str:
    family = FAMILIES[about.family]
    return f"""## In diffusers

Run this beside the folder `model`.

```python
import torch
from diffusers import {family.pipeline}

device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {family.pipeline}.from_pretrained("model", torch_dtype=dtype{left_out(about)}).to(device)
{scheduler_line(about)}
{call(about, repr(example(about)))}
image.save("picture.png")
```
{as_trained(about)}""".rstrip()


def _elsewhere(about: About, *, text: bool) -> str:
    original = ORIGINALS[about.family]
    named = cell(code(f"{about.name}.safetensors"))
    rows = "\n".join(f"| {tool} | {named} in {cell(code(place))} |" for tool, place in original.folders.items())
    held = (
        "whole"
        if "text_encoder" in original.needs
        else "transformer and VAE" + (", and the trained CLIPs" if text else "")
    )
    return f"""## Which file for which tool

| tool | file |
|---|---|
| diffusers | the folder `model` |
{rows}

The single file is the {held}, under the names of the original layout. When they were saved, the folder was loaded back
by diffusers and the file by tuner's reader, and every weight was compared with the trained one."""
