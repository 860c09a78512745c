"""The file of a new word: its vectors under the keys that each tool looks up, and what lies beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..atomic import storage
from ..errors import NumbersError
from . import container
from .families import FAMILIES
from .metadata import run_header
from .sidecar import write_sidecars
from .word_card import write_card
from .word_kind import TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from .about import About

RESERVED = frozenset(
    {"con", "prn", "aux", "nul", "pytorch_lora_weights"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)}
)
"""Names that Windows gives to devices, and the one that diffusers gives to a LoRA."""


def stem(token: str, about: About) -> str:
    """The file's name without its ending: the word without its brackets.

    Another adapter of the run may write a file of the run's own name, which a word of that name steps aside for.
    """
    name = token.strip("<>")
    taken = name in RESERVED or name.partition(".")[0] in RESERVED
    return f"{name}_word" if taken or (not about.alone and name == about.name) else name


def write_word(folder: Path, token: str, rows: Mapping[str, Tensor], about: About) -> Sequence[Path]:
    """Write the word into `folder`.

    Args:
        folder: may hold the files of the run's other adapters.
        token: the word.
        rows: by text encoder, (n, D) float32.
        about: name, dtype and metadata.

    Returns: the files; the `.safetensors` first.

    Raises: NumbersError for values that are not finite, or do not fit into the dtype; StorageError.
    """
    name = stem(token, about)
    path = folder / f"{name}.safetensors"
    content = container.pack(_tensors(token, rows, about), _header(token, about))
    with storage(path):
        path.write_bytes(content)
    named = replace(about, name=name)
    count = len(next(iter(rows.values())))
    return [
        path,
        *write_sidecars(folder, named, "Textual inversion"),
        write_card(folder, about, token, path.name, list(rows), count),
    ]


def _tensors(token: str, rows: Mapping[str, Tensor], about: About) -> dict[str, Tensor]:
    import torch

    dtype: torch.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[about.dtype]
    keys, tensors = FAMILIES[about.family].word_keys, {}
    for component, values in rows.items():
        if not bool(torch.isfinite(values).all()):
            text = f"{token}: its vectors in the {component} are not finite"
            raise NumbersError(text, "lower the learning rate, then start again")
        copy = values.detach().to("cpu", dtype, copy=True).contiguous()
        if not bool(torch.isfinite(copy).all()):
            raise NumbersError(f"{token}: its values do not fit into {about.dtype}", "set save.dtype to fp32 or bf16")
        tensors[keys[component] or token] = copy
    return tensors


def _header(token: str, about: About) -> dict[str, str]:
    header = run_header(about, "textual-inversion")
    header.pop("ss_tag_frequency", None)  # of thousands of captions it would be larger than the word
    return {**header, TOKEN: token, "tuner_backbone": about.family}
