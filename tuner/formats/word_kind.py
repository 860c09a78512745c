"""Textual inversion files as one kind of adapter file: what their header tells; imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from .families import FAMILIES
from .file_kind import FileKind
from .kinds import WIDTHS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from .container import Entry, Header

TOKEN = "tuner_token"
"""The header's key that holds the word, where the tensors' keys cannot."""
NAMELESS = ("emb_params", "emp_params", "*")
"""Keys under which sd-scripts, OneTrainer (as it spells it) and A1111 write a word without its name."""
MOST = 256
"""Above this many vectors a file is refused; a caption has fewer places."""
_FLOATS = {"F32", "F16", "BF16"}
_JOINT = re.compile(r"clip_l|clip_g|t5xxl|t5")
_OUTPUT = re.compile(r"(clip_l|clip_g|t5|t5xxl|emp_params)_out")
"""OneTrainer's vectors that take the place of a text encoder's output."""
_LAYER = re.compile(r"lora|(^|\.)(weight|bias|alpha)$")


@dataclass(frozen=True, slots=True)
class Word:
    """What a header says of a word."""

    family: str
    """The backbone's name."""
    token: str
    keys: Mapping[str, str]
    """By text encoder, the tensor of its vectors."""
    count: int
    """Vectors of the word."""


class WordKind(FileKind):
    """Files that hold the vectors of one word."""

    name = "textual_inversion"
    label = "a textual inversion"
    scales = False

    def claims(self, header: Header) -> bool:
        keys = list(header.tensors)
        if TOKEN in header.metadata or any(map(_OUTPUT.fullmatch, keys)) or (keys and all(map(_JOINT.fullmatch, keys))):
            return True
        return len(keys) == 1 and len(header.tensors[keys[0]].shape) in (1, 2) and not _LAYER.search(keys[0])

    def facts(self, file: Path, header: Header) -> dict[str, Any]:
        word = describe(file, header)
        return {
            "format": "textual inversion",
            "backbone": word.family,
            "family": _family(word, header),
            "token": word.token,
            "vectors": word.count,
            "targets": None,
            "loads_in": loads_in(word.family, file.stem),
        }

    def load(
        self, pipe: DiffusionPipeline, file: Path, header: Header, strength: float, name: str
    ) -> Callable[[], None]:
        from .load_word import load_word

        return load_word(pipe, file, header, name)

    def unload(self, pipe: DiffusionPipeline, name: str) -> bool:
        from .load_word import unload_word

        return unload_word(pipe, name)


def describe(file: Path, header: Header) -> Word:
    """The word in a file.

    Raises: DataError with the reason, where it is none, or one for a base that tuner does not know.
    """
    tensors = header.tensors
    if not tensors:
        raise DataError(f"{file}: holds no tensors, so it would change nothing")
    if output := next(filter(_OUTPUT.fullmatch, tensors), None):
        raise DataError(f"{file}: {output!r} stands for a text encoder's output, as OneTrainer alone applies it")
    joint = all(map(_JOINT.fullmatch, tensors))
    family = "sd35" if joint else "sd15"
    if joint:
        by_name = {key: component for component, key in FAMILIES[family].word_keys.items()}
        if "t5" in tensors and "t5xxl" in tensors:
            raise DataError(f"{file}: holds T5's vectors twice, as 't5' and 't5xxl'")
        keys = {by_name.get(key, by_name["t5xxl"]): key for key in tensors}
    elif len(tensors) == 1:
        keys = {"text_encoder": next(iter(tensors))}
    else:
        raise DataError(f"{file}: holds {len(tensors)} tensors, where the vectors of one word are expected")
    counts = {_count(file, key, tensors[key]) for key in keys.values()}
    if len(counts) > 1:
        raise DataError(f"{file}: its text encoders have different numbers of vectors: {sorted(counts)}")
    width = tensors[keys["text_encoder"]].shape[-1] if family == "sd15" else 768
    if width in WIDTHS and width != 768:
        raise DataError(f"{file}: is for {WIDTHS[width]}: its vectors have {width} values, not 768")
    return Word(family, _token(file, header, keys), keys, counts.pop())


def _family(word: Word, header: Header) -> str:
    """A word of CLIP-L and CLIP-G alone is for SDXL as often, and only our own files say which."""
    label = FAMILIES[word.family].label
    both = {"text_encoder", "text_encoder_2"}
    return f"{label}, or SDXL" if word.keys.keys() == both and "tuner_backbone" not in header.metadata else label


def _count(file: Path, key: str, entry: Entry) -> int:
    """Raises: DataError where a tensor cannot be a word's vectors."""
    if len(entry.shape) not in (1, 2) or 0 in entry.shape:
        raise DataError(f"{file}: {key[:80]!r} has shape {list(entry.shape)}; vectors are expected")
    if entry.dtype not in _FLOATS:
        raise DataError(f"{file}: {key[:80]!r} holds {entry.dtype} numbers; F32, F16 or BF16 are expected")
    count = entry.shape[0] if len(entry.shape) == 2 else 1
    if count > MOST:
        raise DataError(f"{file}: {key[:80]!r} holds {count} vectors; at most {MOST} are read")
    return count


def _token(file: Path, header: Header, keys: Mapping[str, str]) -> str:
    """What the word is called: as its header says, its key, or its file."""
    told = header.metadata.get(TOKEN)
    if told is None:
        key = keys.get("text_encoder", "")
        nameless = key in NAMELESS or _JOINT.fullmatch(key) or not key
        told = file.stem if nameless else key
    if not told.strip() or len(told.split()) != 1 or len(told) > 100 or not told.isprintable():
        raise DataError(f"{file}: its word {told[:60]!r} cannot be one: it must be printable, without spaces")
    return told


def loads_in(family: str, stem: str) -> dict[str, str]:
    """What each tool does with the file."""
    if family != "sd15":
        return {
            "diffusers": "all of it by tuner.load_adapter; its pipeline has no loader for words",
            "ComfyUI": f"from models/embeddings; write embedding:{stem} in the prompt",
        }
    return {
        "diffusers": "all of it by load_textual_inversion",
        "AUTOMATIC1111": f"from embeddings; write {stem} in the prompt",
        "Forge": f"from embeddings; write {stem} in the prompt",
        "ComfyUI": f"from models/embeddings; write embedding:{stem} in the prompt",
        "InvokeAI": f"through its model manager; write <{stem}> in the prompt",
    }
