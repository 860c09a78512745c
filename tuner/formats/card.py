"""The model card: a README.md that the Hub can read and whose code runs as it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..atomic import storage
from .about import AVERAGES, is_hub_id
from .families import FAMILIES
from .flow_facts import in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from .about import About

LICENCES: Mapping[str, str] = {"stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m"}
"""The Hub's name of a base's licence, which its adapters inherit; of other bases we do not know it."""

TABLE: Mapping[str, str] = {
    "task": "task",
    "step": "optimizer steps",
    "epoch": "epochs",
    "images": "pictures",
    "prior_images": "class pictures",
    "prior_weight": "weight of the class pictures",
    "beta": "beta of the preferences",
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


TABLE_HEAD = "## Training\n\n| | |\n|---|---|\n"
"""What stands before the first row of the table."""


def put_card(
    folder: Path,
    about: About,
    *,
    name: str,
    tags: Sequence[str],
    opening: str,
    sections: Sequence[str],
    rows: Sequence[tuple[str, Any]],
    relation: str = "adapter",
) -> Path:
    """Write `README.md`; where another adapter of the same run has written it, add to it.

    Args:
        name: what to call the adapter in a heading, where it is not the only one.
        tags: the Hub's, of this kind of adapter.
        opening: Markdown that says what it is.
        sections: Markdown, each with its own heading: how to use it.
        rows: of the table at the end, what is its own.
        relation: to the base, in the Hub's words: adapter or finetune.

    Raises: StorageError.
    """
    path = folder / "README.md"
    with storage(path):
        if path.exists():
            text = _added(path.read_text("utf-8"), name, tags, [opening, *sections], rows)
        else:
            preview = about.preview is not None
            front = _front_matter(about, tags, relation, preview=preview)
            gallery = ["<Gallery />"] if preview else []
            parts = [front, f"# {escaped(about.title)}\n\n{opening}", *gallery, *sections, _training(about, rows)]
            text = "\n\n".join(filter(None, parts)) + "\n"
        path.write_text(text, encoding="utf-8")
    return path


def _added(text: str, name: str, tags: Sequence[str], sections: Sequence[str], rows: Sequence[tuple[str, Any]]) -> str:
    """A card with the sections of another adapter before its table, and that adapter's tags and rows."""
    front, _, body = text.partition("\n---\n")
    missing = [line for tag in tags if (line := f"\n- {tag}") not in front]
    front = front.replace("\n- diffusers", "\n- diffusers" + "".join(missing), 1)
    section = "\n\n".join([f"## {name}", *sections])
    before, head, table = body.partition(TABLE_HEAD)
    if not head:
        return f"{front}\n---\n{body.rstrip()}\n\n{section}\n"
    return f"{front}\n---\n{before}{section}\n\n{head}{_rows(rows)}\n{table}"


def _front_matter(about: About, tags: Sequence[str], relation: str, *, preview: bool) -> str:
    """The Hub's metadata, https://huggingface.co/docs/hub/model-cards."""
    lines = ["---"]
    if is_hub_id(about.base):
        lines += [f"base_model: {quoted(about.base)}", f"base_model_relation: {relation}"]
        known = LICENCES.get(about.base)
        lines += [f"license: {known}"] if known else ["license: other", "license_name: same-as-base-model"]
    lines += ["library_name: diffusers", "pipeline_tag: text-to-image"]
    if about.activation:
        lines.append(f"instance_prompt: {quoted(about.activation)}")
    lines += ["tags:", "- text-to-image", "- diffusers", *(f"- {tag}" for tag in tags)]
    lines += [f"- {FAMILIES[about.family].tag}", "- tuner"]
    if preview:
        lines += [
            "widget:",
            f"- text: {quoted(example(about))}",
            "  output:",
            f"    url: {quoted(f'{about.name}.png')}",
        ]
    return "\n".join([*lines, "---"])


def introduced(about: About, what: str) -> str:
    """What an adapter is, how to call it, and whose licence applies."""
    text = [what]
    if about.activation:
        text.append(f"Write {code(about.activation)} in the prompt to call what it learned.")
    if about.weights in AVERAGES:
        text.append(f"The files hold {AVERAGES[about.weights]}, not the last step's.")
    if is_hub_id(about.base):
        text.append("The base model's licence applies to what was trained from it as well; check it before sharing.")
    return "\n".join(text)


def base_lines(about: About) -> str:
    """Code that names the base."""
    if about.base == "toybox":
        shipped = f'str(toybox.folder("{about.family}"))  # the small model that ships with tuner'
        return f"from tuner import toybox\n\nbase = {shipped}"
    if is_hub_id(about.base):
        return f"base = {about.base!r}"
    return f"base = {'path/to/' + about.base!r}  # folder of the base model"


def _training(about: About, own: Sequence[tuple[str, Any]]) -> str:
    if about.metadata == "none":
        return ""
    rows: list[tuple[str, Any]] = [*own, ("resolution", about.resolution)]
    if about.metadata == "full":
        rows += [(label, about.facts[fact]) for fact, label in TABLE.items() if about.facts.get(fact) is not None]
    rows += [
        ("prediction", about.prediction),
        ("tensors", about.dtype),
        *([("made", about.made)] if about.made else []),
    ]
    text = TABLE_HEAD + _rows(rows)
    if about.metadata == "full" and about.recipe:
        fence = _fence(about.recipe, least=3)
        text += f"\n\nThe recipe:\n\n{fence}yaml\n{about.recipe.rstrip()}\n{fence}"
    return text


def _rows(rows: Sequence[tuple[str, Any]]) -> str:
    return "\n".join(f"| {label} | {cell(escaped(_shown(value)))} |" for label, value in rows)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return in_words(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def example(about: About) -> str:
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
