"""What the model card says of a new word: how to call it in each tool, with code that runs as it stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..backbones import new_words
from .card import base_lines, cell, code, example, introduced, put_card
from .card_code import as_trained, call, left_out, scheduler_line
from .families import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from .about import About

T5 = "text_encoder_3"
PLACES = {
    "text_encoder": "(pipe.tokenizer, pipe.text_encoder)",
    "text_encoder_2": "(pipe.tokenizer_2, pipe.text_encoder_2)",
    T5: "(pipe.tokenizer_3, pipe.text_encoder_3)",
}


def write_card(folder: Path, about: About, token: str, file: str, components: Sequence[str], count: int) -> Path:
    """Write the card, or this adapter's part of it.

    Args:
        token: the word.
        file: name of its file.
        components: text encoders that it was taught to.
        count: its vectors.

    Raises: StorageError.
    """
    use = _by_loader(about, token, file) if about.family == "sd15" else _by_hand(about, token, file, components, count)
    return put_card(
        folder,
        about,
        name="The word",
        tags=("textual_inversion",),
        opening=_opening(about, token, count),
        sections=[use, _elsewhere(about, token, file)],
        rows=[("word", token), ("vectors of the word", count)],
    )


def _opening(about: About, token: str, count: int) -> str:
    base, size = code(about.base or about.family), "one vector" if count == 1 else f"{count} vectors"
    text = introduced(about, f"A new word for {base}: {code(token)}, of {size} (textual inversion).")
    if not about.alone:
        text += (
            "\nThe run taught the word together with another adapter, and they belong together: "
            '`tuner.load_adapter(pipe, ".")` loads both; without `tuner`, do both of what follows.'
        )
    return text


def _start(about: About, extra: str = "") -> str:
    family = FAMILIES[about.family]
    return f"""import torch
from diffusers import {family.pipeline}{extra}

{base_lines(about)}
device, dtype = ("cuda", torch.{family.half}) if torch.cuda.is_available() else ("cpu", torch.float32)
pipe = {family.pipeline}.from_pretrained(base, torch_dtype=dtype{left_out(about)}).to(device)
{scheduler_line(about)}""".rstrip()


def _prompt(about: About, token: str) -> str:
    """A prompt that holds the word."""
    first = example(about)
    return first if token in first else f"a photo of {token}"


def _by_loader(about: About, token: str, file: str) -> str:
    return f"""## The word in diffusers

Run this beside the file, or put the repository's name on the Hub in place of `"."`.

```python
{_start(about)}
pipe.load_textual_inversion(".", weight_name={file!r})

{call(about, repr(_prompt(about, token)))}
image.save("picture.png")
```
{as_trained(about)}""".rstrip()


def _by_hand(about: About, token: str, file: str, components: Sequence[str], count: int) -> str:
    keys = FAMILIES[about.family].word_keys
    parts = ", ".join(f'"{keys[component]}": {PLACES[component]}' for component in components)
    names = new_words.names(token, count)
    third = "" if T5 in components else ", prompt_3=prompt"
    written = f'prompt.replace({token!r}, " ".join(names)){third}'
    kept = "" if T5 in components else "; T5 was not taught it and reads its letters"
    return f"""## The word in diffusers

`{FAMILIES[about.family].pipeline}` has no loader for words. With `tuner` beside it:

```python
import tuner

{_start(about)}
tuner.load_adapter(pipe, {file!r})

{call(about, repr(_prompt(about, token)))}
image.save("picture.png")
```

Without `tuner`, the same by hand{kept}:

```python
{_start(about, chr(10) + "from safetensors.torch import load_file")}
names = {names!r}
parts = {{{parts}}}
for key, rows in load_file({file!r}).items():
    tokenizer, encoder = parts[key]
    tokenizer.add_tokens(names)
    size = max(len(tokenizer), encoder.get_input_embeddings().num_embeddings)
    encoder.resize_token_embeddings(size, mean_resizing=False)
    encoder.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids(names)] = rows.to(device, dtype)
    if key != "t5xxl":
        encoder.text_model.eos_token_id = tokenizer.eos_token_id  # else the new word is taken for the prompt's end

prompt = {_prompt(about, token)!r}
{call(about, written)}
image.save("picture.png")
```
{as_trained(about)}""".rstrip()


def _elsewhere(about: About, token: str, file: str) -> str:
    stem = file.removesuffix(".safetensors")
    rows = [("ComfyUI", "`models/embeddings`", code(f"embedding:{stem}"))]
    if about.family == "sd15":
        rows = [
            ("AUTOMATIC1111, Forge", "`embeddings`", code(stem)),
            *rows,
            ("InvokeAI", "its model manager", code(f"<{stem}>")),
        ]
    table = "\n".join(f"| {tool} | {place} | {cell(how)} |" for tool, place, how in rows)
    return f"""## The word in other tools

They call it by the file's name, not by {code(token)}.

| tool | folder | in the prompt |
|---|---|---|
{table}"""
