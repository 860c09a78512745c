"""The model card: a README.md that the Hub can read and whose code runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..atomic import storage
from .about import is_hub_id
from .families import FAMILIES, TURNED_IN_COMFY, turned_in_comfy
from .flow_facts import PARTS, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .about import About
    from .lora import Pair

LICENCES: Mapping[str, str] = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m"}
"""The Hub's name of a base's licence, which its adapters inherit; of other bases we do not know it."""

TABLE: Mapping[str, str] = {
    "task": "task",
    "step": "optimizer steps",
    "epoch": "epochs",
    "images": "pictures",
    "prior_images": "class pictures",
    "prior_weight": "weight of the class pictures",
    "lr": "learning rate",
    "text_encoder_lr": "learning rate of the text encoder",
    "schedule": "schedule",
    "optimizer": "optimizer",
    "batch": "batch",
    "accumulate": "micro-batches a step",
    "precision": "precision of the frozen model",
    "ema_decay": "EMA decay",
    "min_snr_gamma": "min-SNR gamma",
    "noise_offset": "noise offset",
    "levels": "noise levels, before the shift",
    "shift": "shift of the noise levels",
    "weighting": "weighting of the noise levels",
    "t5": "T5 reads, too",
    "t5_length": "tokens that T5 reads",
    "caption_dropout": "caption dropout",
    "encoder_dropout": "dropout of single text encoders",
    "seed": "seed",
    "validation_loss": "validation loss",
    "best": "best checkpoint so far",
    "trained_parameters": "trained parameters",
    "seconds": "seconds",
    "device": "device",
}
"""Facts that the card lists, with their names there."""


def write_card(folder: Path, about: About, *, rank: int, alpha: float, layers: Sequence[Pair]) -> Path:
    """Write `README.md`.

    Raises: StorageError.
    """
    path = folder / "README.md"
    parts = [
        _front_matter(about, preview=about.preview is not None),
        _opening(about, layers),
        *(["<Gallery />"] if about.preview else []),
        _use_in_diffusers(about, layers),
        _use_elsewhere(about, layers),
        _training(about, rank=rank, alpha=alpha),
    ]
    with storage(path):
        path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
    return path


def _front_matter(about: About, *, preview: bool) -> str:
    """The Hub's metadata, https://huggingface.co/docs/hub/model-cards."""
    lines = ["---"]
    if is_hub_id(about.base):
        lines += [f"base_model: {quoted(about.base)}", "base_model_relation: adapter"]
        known = LICENCES.get(about.base)
        lines += [f"license: {known}"] if known else ["license: other", "license_name: same-as-base-model"]
    lines += ["library_name: diffusers", "pipeline_tag: text-to-image"]
    if about.activation:
        lines.append(f"instance_prompt: {quoted(about.activation)}")
    lines += ["tags:", "- text-to-image", "- diffusers", "- lora", "- template:sd-lora"]
    lines += [f"- {FAMILIES[about.family].tag}", "- tuner"]
    if preview:
        lines += [
            "widget:",
            f"- text: {quoted(_example(about))}",
            "  output:",
            f"    url: {quoted(f'{about.name}.png')}",
        ]
    return "\n".join([*lines, "---"])


def _opening(about: About, layers: Sequence[Pair]) -> str:
    names = sorted({pair.component for pair in layers}, key=lambda name: name.startswith("text_encoder"))
    parts = " and the ".join(map(_noun, names))
    text = [f"# {escaped(about.title)}", "", f"A LoRA for the {parts} of {code(about.base or about.family)}."]
    if about.activation:
        text.append(f"Write {code(about.activation)} in the prompt to call what it learned.")
    if about.weights == "ema":
        text.append("The files hold the moving average (EMA) of the trained weights, not the last step's.")
    if is_hub_id(about.base):
        text.append("The base model's licence applies to this adapter as well; check it before sharing.")
    return "\n".join(text)


def _use_in_diffusers(about: About, layers: Sequence[Pair]) -> str:
    family = FAMILIES[about.family]
    pipeline, denoiser = family.pipeline, family.denoiser
    text_trained = any(pair.component.startswith("text_encoder") for pair in layers)
    left_out = ", text_encoder_3=None, tokenizer_3=None" if about.facts.get("t5") is False else ""
    shifted = _scheduler_line(about)
    alone = ", without the text encoder's part, so here the pipeline is better" if text_trained else ""
    return f"""## In diffusers

Run this beside the files, or put the repository's name on the Hub in place of `"."`.

```python
import torch
from diffusers import {pipeline}

{_base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {pipeline}.from_pretrained(base, torch_dtype=dtype{left_out}).to(device)
{shifted}pipe.load_lora_weights(".", weight_name="pytorch_lora_weights.safetensors", adapter_name="learned")
pipe.set_adapters("learned", 1.0)  # the strength

{_call(about)}
image.save("picture.png")
```
{_as_trained(about)}
On the {_noun(denoiser)} alone{alone}:

```python
import torch
from diffusers import {pipeline}

{_base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {pipeline}.from_pretrained(base, torch_dtype=dtype{left_out}).to(device)
pipe.{denoiser}.load_lora_adapter(".", weight_name="pytorch_lora_weights.safetensors", prefix="{denoiser}")
```{_old_loader(denoiser)}"""


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _call(about: About) -> str:
    """The code that draws the example."""
    prompt = repr(_example(about))
    if len(about.call) < 2:
        return f"image = pipe({prompt}, {_keywords(about.call)}).images[0]"
    lines = "".join(f"    {name}={value!r},\n" for name, value in about.call.items())
    return f"image = pipe(\n    {prompt},\n{lines}).images[0]"


def _scheduler_line(about: About) -> str:
    """The code that makes the pipeline's scheduler draw as the run did."""
    if not about.sampler:
        return ""
    return f"pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, {_keywords(about.sampler)})\n"


def _as_trained(about: About) -> str:
    """What else a prompt's reading and a picture's sampling have to be like, where that is a choice."""
    facts, lines = about.facts, []
    if "t5_length" in facts:
        reads = f"T5 read {facts['t5_length']} tokens of a caption" if facts.get("t5") else "T5 read nothing"
        zeros = "" if facts.get("t5") else f" and {facts['t5_length']} zeros stood in its place"
        lines.append(f"In training {reads}{zeros}: `max_sequence_length` above says the same.")
    if all(name in facts for name in PARTS):
        words = f"Its noise levels were drawn from {in_words(facts['levels'])} at the shift {in_words(facts['shift'])}"
        lines.append(f"{words}, weighting {in_words(facts['weighting'])}; where a tool asks for a shift, give it this.")
    return "\n".join(["", *lines, ""]) if lines else ""


def _old_loader(denoiser: str) -> str:
    """What to say of the loader that old instructions for a UNet name."""
    if denoiser != "unet":
        return ""
    return "\n\n`unet.load_attn_procs` no longer loads LoRA files; use one of the two above."


def _noun(component: str) -> str:
    return {"unet": "UNet"}.get(component, component.replace("_", " "))


def _base_lines(about: About) -> str:
    if about.base == "toybox":
        shipped = f'str(toybox.folder("{about.family}"))  # the small model that ships with tuner'
        return f"from tuner import toybox\n\nbase = {shipped}"
    if is_hub_id(about.base):
        return f"base = {about.base!r}"
    return f"base = {'path/to/' + about.base!r}  # folder of the base model"


def _use_elsewhere(about: About, layers: Sequence[Pair]) -> str:
    named = code(f"{about.name}.safetensors")
    if not FAMILIES[about.family].kohya_in_diffusers:
        turned = any(turned_in_comfy(about.family, p.layer, p.up.shape[0], p.down.shape[1]) for p in layers)
        return f"""## Which file for which tool

| tool | file |
|---|---|
| diffusers | `pytorch_lora_weights.safetensors` or {cell(named)} |
| ComfyUI | {cell(named)} in `models/loras` |

Both files are equal, byte for byte. When they were saved, each was loaded into diffusers and compared with the trained
model. A tool that wants kohya's keys takes what `tuner export FILE --to kohya` writes of it; diffusers would
pass over that one.{f" ComfyUI takes all of this file but {TURNED_IN_COMFY}." if turned else ""}"""
    return f"""## Which file for which tool

| tool | file |
|---|---|
| diffusers | `pytorch_lora_weights.safetensors` (the other one loads as well) |
| AUTOMATIC1111, Forge | {cell(named)} in `models/Lora` |
| ComfyUI | {cell(named)} in `models/loras` |
| InvokeAI | {cell(named)}, through its model manager |

Both files hold the same update. When they were saved, each was loaded into diffusers and compared with the trained
model."""


def _training(about: About, *, rank: int, alpha: float) -> str:
    if about.metadata == "none":
        return ""
    rows: list[tuple[str, Any]] = [("rank", rank), ("alpha", f"{alpha:g}"), ("resolution", about.resolution)]
    if about.metadata == "full":
        rows += [(label, about.facts[fact]) for fact, label in TABLE.items() if about.facts.get(fact) is not None]
    rows += [
        ("prediction", about.prediction),
        ("tensors", about.dtype),
        *([("made", about.made)] if about.made else []),
    ]
    table = "\n".join(f"| {label} | {cell(escaped(_shown(value)))} |" for label, value in rows)
    text = f"## Training\n\n| | |\n|---|---|\n{table}"
    if about.metadata == "full" and about.recipe:
        fence = _fence(about.recipe, least=3)
        text += f"\n\nThe recipe:\n\n{fence}yaml\n{about.recipe.rstrip()}\n{fence}"
    return text


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return in_words(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _example(about: About) -> str:
    """A prompt that shows what was learned."""
    word = about.activation
    first = next((prompt for prompt in about.sample_prompts if word and word in prompt), None)
    return first or word or next(iter(about.sample_prompts), "a photo")


def quoted(text: str) -> str:
    """A YAML double-quoted scalar on one line; everything that is not printable is escaped."""
    simple = {'"': '\\"', "\\": "\\\\"}

    def escape(char: str) -> str:
        if char in simple:
            return simple[char]
        number = ord(char)
        if char.isprintable() and number != 0xFEFF and not 0xD800 <= number < 0xE000:
            return char
        return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

    return '"' + "".join(escape(char) for char in text) + '"'


def escaped(text: str) -> str:
    """Markdown that shows `text` as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&$])", r"\\\1", " ".join(text.split()))


def code(text: str) -> str:
    """Inline code that shows `text` on one line, whatever backticks it holds."""
    text = " ".join(text.split())
    fence = _fence(text, least=1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def cell(markdown: str) -> str:
    """Markdown inside a table: a bar would end the cell."""
    return re.sub(r"(?<!\\)\|", r"\\|", markdown)


def _fence(text: str, *, least: int) -> str:
    """More backticks than any run of them in `text`."""
    runs: Iterable[int] = (len(run) for run in re.findall(r"`+", text))
    return "`" * max(least, max(runs, default=0) + 1)
