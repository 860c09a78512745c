"""Writes docs/formats.md from the code: python docs/formats_page.py > docs/formats.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.backbones import Backbone
from tuner.backbones.bundled import configs
from tuner.formats import hypernetwork_kind, word_kind
from tuner.formats.compvis import unet_key
from tuner.formats.container import Entry, Header
from tuner.formats.families import FAMILIES
from tuner.formats.find import KINDS, PICKLES
from tuner.formats.kinds import OTHERS, recognise
from tuner.formats.lora_kind import dora_loads_in, loads_in
from tuner.formats.original import ORIGINALS
from tuner.formats.readers import READERS
from tuner.formats.spellings import SPELLINGS

if TYPE_CHECKING:
    from tuner.formats.fusing import Axis

TOOLS = ("diffusers", *(reader.tool for reader in READERS))
LISTS = Path(__file__).parents[1] / "tests" / "fixtures" / "keys"
UP_DOWN, A_B = (".lora_down.weight", ".lora_up.weight", ".alpha"), (".lora_A.weight", ".lora_B.weight")
HEAD = """# Which file loads where

Made from the code by `make schema`. What is said of other tools is what `tuner inspect` answers, and that answer is
held by `tests/unit/test_key_lists.py` against the names that each tool's own code maps for the true models. The lists
lie under `tests/fixtures/keys`, printed by the mapping code of:

"""
LORA = """
## LoRA

A file that trains every linear layer of the denoiser and, where the keys have names for them, the text encoders'
attention. `all`: the tool takes every layer; `part`: it leaves some out, mostly without a word; `no`: it takes nothing.
Of a file that trains less, a tool may take all where it takes a part here: `tuner inspect FILE` counts its own layers.
A file that is none of the tool's loads in diffusers all the same by `tuner.load_adapter`, which converts it in memory.

"""
SIZES = {"sd15": "Stable Diffusion 1.5", "sd35": "Stable Diffusion 3.5 and 3"}


def page() -> str:
    """The whole page as Markdown."""
    parts = [
        HEAD,
        _sources(),
        LORA,
        *(make(family) for make in (_lora, _dora) for family in FAMILIES),
        _words(),
        _others(),
        _read(),
        _pickles(),
    ]
    return "".join(parts)


def _sources() -> str:
    told = [json.loads(path.read_text("utf-8")) for path in sorted(LISTS.glob("*.json"))]
    rows = (
        f"| {one['repository']} | `{one['commit'][:12]}` | {', '.join(f'`{p}`' for p in one['paths'])} |"
        for one in told
    )
    return "| repository | commit | read in |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def _lora(family: str) -> str:
    notes: list[str] = []
    rows = []
    for name, said in (
        ("diffusers", "diffusers' keys"),
        ("kohya", "kohya's keys"),
        *((s.name, s.said) for s in SPELLINGS),
    ):
        header = _file(name, family)
        if header is None:
            continue
        answers = loads_in(recognise(Path("FILE"), header), folded=name != "peft")
        rows.append(f"| {said} | {' | '.join(_cell(answers[tool], notes) for tool in TOOLS)} |\n")
    head = f"### {SIZES[family]}\n\n| file | {' | '.join(TOOLS)} |\n|---|{'---|' * len(TOOLS)}\n"
    return head + "".join(rows) + "\n" + "".join(f"{n}. {note}\n" for n, note in enumerate(notes, 1)) + "\n"


DORA: tuple[tuple[str, str, Axis, bool], ...] = (
    ("`dora: output`, diffusers' keys", "diffusers", "output", True),
    ("`dora: output`, kohya's keys", "kohya", "output", False),
    ("`dora: input`, kohya's keys", "kohya", "input", False),
)
"""What a file is called, its spelling, of what its norms are, and whether they have peft's name."""


def _dora(family: str) -> str:
    notes: list[str] = []
    rows = []
    for said, name, axis, peft in DORA:
        header = _file(name, family)
        assert header is not None
        answers = dora_loads_in(loads_in(recognise(Path("FILE"), header)), {axis}, peft=peft)
        rows.append(f"| {said} | {' | '.join(_cell(answers[tool], notes) for tool in TOOLS)} |\n")
    head = f"### DoRA, {SIZES[family]}\n\n| file | {' | '.join(TOOLS)} |\n|---|{'---|' * len(TOOLS)}\n"
    return head + "".join(rows) + "\n" + "".join(f"{n}. {note}\n" for n, note in enumerate(notes, 1)) + "\n"


WORDS = (
    ("all", "all"),
    ("PART", "part"),
    ("nearly", "nearly"),
    ("NOT its", "part"),
    ("NOT the", "part"),
    ("WRONG", "wrong"),
)
"""How an answer begins, and the word for it; `no` for the others."""


def _cell(answer: str, notes: list[str]) -> str:
    """One word, and the number of what else is said."""
    word = next((short for begins, short in WORDS if answer.startswith(begins)), "no")
    if answer.removeprefix("all of it").removeprefix(", text encoder included") == "" or answer == "not these keys":
        return word
    if answer not in notes:
        notes.append(answer)
    return f"{word} ({notes.index(answer) + 1})"


def _file(spelling: str, family: str) -> Header | None:
    """The header of a file in this spelling; None where the spelling has no names for the family."""
    names, denoiser = FAMILIES[family].names, FAMILIES[family].denoiser
    backbone = Backbone.read({"name": family, "model": "nobody/nothing-like-this"})
    linears = backbone.layout().linears
    unet, endings, keys = family == "sd15", UP_DOWN, []
    number = {"text_encoder": "" if unet else "1", "text_encoder_2": "2"}
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    for part in names.prefixes:
        for own in linears[part] if part == denoiser else backbone.matching_text(linears[part]):
            layer = own if part == denoiser or own.startswith("text_") else f"text_model.{own}"
            flat, inside = layer.replace(".", "_"), part == denoiser
            original = unet_key(f"{layer}.weight", configs()["unet"])[:-7] if unet and inside else names.original(layer)
            match spelling:
                case "diffusers":
                    keys, endings = [*keys, f"{part}.{layer}"], A_B
                case "kohya":
                    keys.append(str(names.key(part, layer)))
                case "onetrainer" if not unet:
                    keys.append(f"lora_transformer_{flat}" if inside else f"lora_te{number[part]}_{flat}")
                case "lycoris" if inside:
                    keys.append(f"lycoris_{flat}")
                case "comfyui":
                    prefix = "diffusion_model." if inside else f"text_encoders.{clip[part]}.transformer."
                    keys.append(prefix + (str(original) if inside else layer))
                case "original" if inside:
                    keys.append(str(original))
                case "peft" if inside:
                    keys, endings = [*keys, f"base_model.model.{layer}"], A_B
                case "attention processors" if inside and unet and ".to_" in layer:
                    keys.append(layer.replace(".to_", ".processor.to_").removesuffix(".0") + "_lora")
                    endings = (".down.weight", ".up.weight")
    shapes = {".alpha": (), endings[0]: (4, 12), endings[1]: (12, 4)}
    tensors = {
        f"{key}{ending}": Entry("F32", shapes[ending], 0, 0) for key in dict.fromkeys(keys) for ending in endings
    }
    return Header({}, tensors, 0) if tensors else None


def _words() -> str:
    rows = []
    for family in FAMILIES:
        answers = word_kind.loads_in(family, "NAME")
        rows += [f"| {SIZES[family]} | {tool} | {answers.get(tool, 'no')} |\n" for tool in TOOLS]
    keys = "\n".join(f"- {text}" for text in WORD_KEYS)
    return (
        "## A new word (textual inversion)\n\n| base | tool | the file that `tuner` writes |\n|---|---|---|\n"
        + "".join(rows)
        + f"\nRead are words under these keys:\n\n{keys}\n\n"
    )


NAMELESS = ", ".join(f"`{key}`" for key in word_kind.NAMELESS)
WORD_KEYS = (
    "the word itself: `tuner`, diffusers;",
    f"{NAMELESS} (sd-scripts, OneTrainer, A1111): the word is the file's name;",
    "`clip_l`, `clip_g`, `t5xxl` (ComfyUI) or `t5` (OneTrainer) for SD3.5 and SD3. A file of `clip_l` and `clip_g` "
    "alone is for SDXL as often, and only ours say which; `inspect` says so;",
    "`clip_l_out` and its like (OneTrainer's vectors in place of a text encoder's output) are refused.",
)


def _others() -> str:
    rows = []
    for family in FAMILIES:
        answers = hypernetwork_kind.loads_in(family)
        rows.append(
            f"| hypernetwork | {SIZES[family]} | " + " | ".join(answers.get(tool, "no") for tool in TOOLS) + " |\n"
        )
        folders = ORIGINALS[family].folders
        taken = {one for tools in folders for one in tools.split(", ")}
        cells = ["the folder, by from_pretrained", *("all" if tool in taken else "no" for tool in TOOLS[1:])]
        rows.append(f"| whole model, one file | {SIZES[family]} | {' | '.join(cells)} |\n")
    head = (
        f"## Hypernetworks and whole models\n\n| file | base | {' | '.join(TOOLS)} |\n|---|---|{'---|' * len(TOOLS)}\n"
    )
    return head + "".join(rows) + "\n" + _kinds()


def _kinds() -> str:
    """What `tuner export` writes of each kind."""
    rows = (f"| {kind.label} | {', '.join(f'`--to {to}`' for to in kind.exports) or 'as it is'} |\n" for kind in KINDS)
    return "| kind | `tuner export` |\n|---|---|\n" + "".join(rows) + "\n"


def _read() -> str:
    """Whose LoRA keys are read, and what is refused."""
    own = [f"- {one.said}: `{one.sign}`\n" for one in SPELLINGS]
    refused = [f"- {what}\n" for what in dict.fromkeys(what for _, what in OTHERS)]
    return f"""## What is read

`inspect`, `load_adapter`, `generate --adapter`, `export` and `init_from` read LoRA files with diffusers' and kohya's
keys, and with these (each by how a name begins that no other has):

{"".join(own)}
A file of `peft` has its alpha in `adapter_config.json`, which has to lie beside it. Conversions there and back give
every factor bit for bit where alpha / rank is a power of two, and within float32's rounding otherwise.

Refused with the reason, since it would load in part or not at all:

{"".join(refused)}
"""


def _pickles() -> str:
    endings = ", ".join(f"`{ending}`" for ending in sorted(PICKLES))
    return f"""## Pickles

{endings} files can run code when they are loaded, so everything refuses them but `tuner import FILE`, which
reads numbers and texts alone (torch's weights-only reader) and writes a `.safetensors` file: a LoRA with any keys from
above, an embedding of A1111 (`string_to_param`), of diffusers or of ComfyUI, a hypernetwork of A1111. The one pickle
that is ever written is a hypernetwork's, by `tuner export --to a1111`.
"""


if __name__ == "__main__":
    print(page(), end="")
