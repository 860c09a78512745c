"""The lines of a card's code that say how the run drew: the pipeline's call, its scheduler and what it leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .card import base_lines, example
from .families import FAMILIES
from .flow_facts import PARTS, in_words

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .about import About


def left_out(about: About) -> str:
    """Arguments of `from_pretrained` for text encoders that the run did without."""
    return ", text_encoder_3=None, tokenizer_3=None" if about.facts.get("t5") is False else ""


def scheduler_line(about: About) -> str:
    """The line that makes the pipeline's scheduler draw as the run did, its end included; empty where it does."""
    if not about.sampler:
        return ""
    return f"pipe.scheduler = pipe.scheduler.from_config(pipe.scheduler.config, {_keywords(about.sampler)})\n"


def call(about: About, prompt: str) -> str:
    """The code that draws a picture.

    Args:
        prompt: code of the prompt, and of other arguments that belong to it.
    """
    if len(about.call) < 2:
        return f"image = pipe({prompt}, {_keywords(about.call)}).images[0]"
    lines = "".join(f"    {name}={value!r},\n" for name, value in about.call.items())
    return f"image = pipe(\n    {prompt},\n{lines}).images[0]"


def as_trained(about: About) -> str:
    """What else a prompt's reading and a picture's sampling have to be like, where that is a choice, as a paragraph."""
    facts, lines = about.facts, []
    if "t5_length" in facts:
        reads = f"T5 read {facts['t5_length']} tokens of a caption" if facts.get("t5") else "T5 read nothing"
        zeros = "" if facts.get("t5") else f" and {facts['t5_length']} zeros stood in its place"
        lines.append(f"In training {reads}{zeros}: `max_sequence_length` above says the same.")
    if all(name in facts for name in PARTS):
        words = f"Its noise levels were drawn from {in_words(facts['levels'])} at the shift {in_words(facts['shift'])}"
        lines.append(f"{words}, weighting {in_words(facts['weighting'])}; where a tool asks for a shift, give it this.")
    return "\n".join(["", *lines, ""]) if lines else ""


def through_tuner(about: About, file: str) -> str:
    """The code that draws with a file for which diffusers has no loader, and what `as_trained` says.

    Args:
        file: its name; the code runs beside it.
    """
    family = FAMILIES[about.family]
    return f"""```python
import torch
import tuner
from diffusers import {family.pipeline}

{base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {family.pipeline}.from_pretrained(base, torch_dtype=dtype{left_out(about)}).to(device)
{scheduler_line(about)}tuner.load_adapter(pipe, {file!r}, strength=1.0)

{call(about, repr(example(about)))}
image.save("picture.png")
```
{as_trained(about)}""".rstrip()


def _keywords(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items())
