"""What the model card says of a LoRA: which file is for which tool, with code that runs as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .card import base_lines, cell, code, example, introduced, put_card
from .card_code import as_trained, call, left_out, scheduler_line
from .families import FAMILIES
from .lora_kind import DIVIDES_BY_BASE, NEARLY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .about import About
    from .lora import Pair


def write_card(folder: Path, about: About, *, rank: int, alpha: float, layers: Sequence[Pair]) -> Path:
    """Write the card of a LoRA. Raises: StorageError."""
    return put_card(
        folder,
        about,
        name="LoRA",
        tags=("lora", "template:sd-lora"),
        opening=_opening(about, layers),
        sections=[_use_in_diffusers(about, layers), _use_elsewhere(about, layers)],
        rows=[("rank", _ranks(rank, layers)), ("alpha", f"{alpha:g}"), *_kinds(layers)],
    )


def _ranks(rank: int, layers: Sequence[Pair]) -> str:
    """The rank, and those of layers that have others."""
    others = sorted({pair.down.shape[0] for pair in layers} - {rank})
    return f"{rank}, of some layers {', '.join(map(str, others))}" if others else str(rank)


def _kinds(layers: Sequence[Pair]) -> list[tuple[str, object]]:
    """What makes it more than a LoRA of linear layers."""
    rows: list[tuple[str, object]] = []
    if convs := sum(pair.down.ndim == 4 for pair in layers):
        rows.append(("convolutions", convs))
    if dora := _dora(layers):
        rows.append(("DoRA", f"norms of {dora}s"))
    return rows


def _dora(layers: Sequence[Pair]) -> str:
    return next((pair.axis for pair in layers if pair.magnitude is not None), "")


def _opening(about: About, layers: Sequence[Pair]) -> str:
    names = sorted({pair.component for pair in layers}, key=lambda name: name.startswith("text_encoder"))
    parts = " and the ".join(map(_noun, names))
    return introduced(about, f"A LoRA for the {parts} of {code(about.base or about.family)}.")


def _use_in_diffusers(about: About, layers: Sequence[Pair]) -> str:
    family, dora = FAMILIES[about.family], _dora(layers)
    pipeline, denoiser = family.pipeline, family.denoiser
    if dora == "input":
        return _use_through_tuner(about)
    shifted = scheduler_line(about)
    text_trained = any(pair.component.startswith("text_encoder") for pair in layers)
    alone = ", without the text encoder's part, so here the pipeline is better" if text_trained else ""
    return f"""## In diffusers

Run this beside the files, or put the repository's name on the Hub in place of `"."`.

```python
import torch
from diffusers import {pipeline}

{base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {pipeline}.from_pretrained(base, torch_dtype=dtype{left_out(about)}).to(device)
{shifted}pipe.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors", adapter_name="learned")
pipe.set_adapters("learned", 1.0)  # the strength

{call(about, repr(example(about)))}
image.save("picture.png")
```
{as_trained(about)}
On the {_noun(denoiser)} alone{alone}:

```python
import torch
from diffusers import {pipeline}

{base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {pipeline}.from_pretrained(base, torch_dtype=dtype{left_out(about)}).to(device)
pipe.{denoiser}.load_lora_adapter(".", weight_name="pytorch_lora_weights.safetensors", prefix="{denoiser}")
```{_old_loader(denoiser)}"""


def _use_through_tuner(about: About) -> str:
    """How a DoRA of inputs gets into diffusers, whose own loader would drop its norms."""
    family = FAMILIES[about.family]
    return f"""## In diffusers

Its norms are of each layer's inputs, which diffusers has no name for: `load_lora_weights` would drop them with a
warning and draw something else. tuner puts it in as it was trained; run this beside the files.

```python
import torch
import tuner
from diffusers import {family.pipeline}

{base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {family.pipeline}.from_pretrained(base, torch_dtype=dtype{left_out(about)}).to(device)
{scheduler_line(about)}tuner.load_adapter(pipe, {f"{about.name}.safetensors"!r}, strength=1.0)  # the strength

{call(about, repr(example(about)))}
image.save("picture.png")
```
{as_trained(about)}"""


def _old_loader(denoiser: str) -> str:
    """What to say of the loader that old instructions for a UNet name."""
    if denoiser != "unet":
        return ""
    return "\n\n`unet.load_attn_procs` no longer loads LoRA files; use one of the two above."


def _noun(component: str) -> str:
    return {"unet": "UNet"}.get(component, component.replace("_", " "))


def _use_elsewhere(about: About, layers: Sequence[Pair]) -> str:
    named, dora = code(f"{about.name}.safetensors"), _dora(layers)
    if dora:
        return _use_dora_elsewhere(about, cell(named), dora)
    if not FAMILIES[about.family].kohya_in_diffusers:
        return f"""## Which file for which tool

| tool | file |
|---|---|
| diffusers | `pytorch_lora_weights.safetensors` or {cell(named)} |
| ComfyUI | {cell(named)} in `models/loras` |

Both files are equal, byte for byte. When they were saved, each was loaded into diffusers and compared with the trained
model. A tool that wants kohya's keys takes what `tuner export FILE --to kohya` writes of it; diffusers would
pass over that one."""
    return f"""## Which file for which tool

| tool | file |
|---|---|
| diffusers | `pytorch_lora_weights.safetensors` (the other one loads as well) |
| AUTOMATIC1111, Forge | {cell(named)} in `models/Lora` |
| ComfyUI | {cell(named)} in `models/loras` |
| InvokeAI | {cell(named)}, through its model manager |

Both files hold the same update. When they were saved, each was loaded into diffusers and compared with the trained
model."""


def _use_dora_elsewhere(about: About, named: str, dora: str) -> str:
    """Which tool reads a DoRA's norms, as its source says."""
    family = FAMILIES[about.family]
    tools = ["AUTOMATIC1111", "Forge", "ComfyUI", "InvokeAI"] if family.kohya_in_diffusers else ["ComfyUI"]
    if dora == "input":
        rows = [("diffusers", f"{named} through `tuner.load_adapter`"), *((tool, named) for tool in tools)]
    else:
        rows = [("diffusers", "`pytorch_lora_weights.safetensors`")]
        for tool in tools:
            nearly = tool in DIVIDES_BY_BASE
            said = f"{named}, nearly: {NEARLY}" if nearly else "none: it takes norms of outputs for those of inputs"
            rows.append((tool, said))
        if family.kohya_in_diffusers:
            rows.append(("LyCORIS, OneTrainer", named))
    table = "\n".join(f"| {tool} | {file} |" for tool, file in rows)
    return f"""## Which file for which tool

| tool | file |
|---|---|
{table}

This is a DoRA: beside each layer's update it holds the norms of the changed weight. When it was saved, each file was
loaded back and compared with the trained model; what other tools do is read from their sources."""
