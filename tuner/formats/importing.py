"""Adapters that lie in pickles (.pt, .bin, .ckpt) made safetensors files: the one way in, and no code runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import atomic
from ..errors import DataError, StorageError, TunerError, UsageError
from . import container
from .container import MAX_TENSORS, read_header
from .find import kind_of
from .hypernetwork import ENDING
from .hypernetwork_pt import PLAIN, import_tree, is_hypernetwork
from .pickles import read_pickle
from .word_kind import TOKEN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from .file_kind import FileKind

READS = "A1111's embeddings and hypernetworks, and LoRA files that hold tensors by name, are imported"
_WHOLE = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
_WRAPPERS = ("state_dict", "lora_state_dict")
"""Under which training programs put a table of tensors."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import left."""

    file: Path
    source: Path
    kind: str
    """As in a recipe's `adapters`."""
    said: str
    """What is in it, in a line."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What `--json` tells besides."""
    warnings: Sequence[str] = ()


def import_file(path: Path, out: Path | None) -> Imported:
    """Write what a pickle holds as a safetensors file, and read it back.

    Args:
        path: a hypernetwork or an embedding of A1111, or a LoRA of any tool whose keys are read.
        out: a file that is not there yet; None for one of the pickle's name, in the current folder.

    Raises: DataError where the file asks for more than numbers and texts, or holds no adapter that can be used;
        UsageError where `out` is there; StorageError where what was written is not what was read.
    """
    from pathlib import Path

    tree = read_pickle(path)
    hypernetwork = is_hypernetwork(tree)
    out = out or Path(f"{path.stem}{ENDING if hypernetwork else '.safetensors'}")
    if out.exists():
        raise UsageError(f"{out} is there already", "choose another name with --out")
    if hypernetwork:
        made = import_tree(path, tree, out)
        widths = ", ".join(map(str, made.found.widths))
        facts = {"sizes": list(made.found.widths)}
        return Imported(out, path, "hypernetwork", f"a hypernetwork, widths {widths}", facts, made.warnings)
    tensors, metadata = _named(path, tree)
    return _written(path, tensors, metadata, out)


def _named(path: Path, tree: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and what a file says of them. Raises: DataError."""
    if isinstance(tree, list | tuple):
        raise DataError(f"{path}: holds a list without names, as the first LoRA trainers wrote", READS)
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{path}: holds no table of tensors", READS)
    if "string_to_param" in tree:
        return _word(path, tree)
    for wrapper in _WRAPPERS:
        if isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    if len(tree) > MAX_TENSORS:
        raise DataError(f"{path}: holds {len(tree):,} entries; at most {MAX_TENSORS:,} are read")
    tensors: dict[str, Tensor] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise DataError(f"{path}: {str(key)[:40]!r} is no name of a tensor", READS)
        if key.startswith(_WHOLE):
            raise DataError(f"{path}: is a whole checkpoint, not an adapter (key {key[:80]!r})", READS)
        tensors[key] = _checked(path, key, value)
    return tensors, {"format": "pt"}


def _word(path: Path, tree: Mapping[Any, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A1111's embedding, whose word is the file's name there. Raises: DataError."""
    params = tree["string_to_param"]
    if not isinstance(params, dict) or len(params) != 1:
        raise DataError(f"{path}: is an embedding of {_size(params)} words, where one is expected", READS)
    if strange := [key for key in tree if key not in ("string_to_param", "string_to_token") and not _plain(tree[key])]:
        raise DataError(f"{path}: its {str(strange[0])[:40]!r} is no number, text or list")
    vectors = _checked(path, "string_to_param", next(iter(params.values())))
    metadata = {"format": "pt", TOKEN: "_".join(path.stem.split())}
    step = tree.get("step")
    if type(step) is int and 0 <= step < 10**15:
        metadata["ss_steps"] = str(step)
    return {"emb_params": vectors}, metadata


def _size(params: object) -> str:
    return str(len(params)) if isinstance(params, dict) else "no"


def _plain(value: object) -> bool:
    return isinstance(value, PLAIN)


def _checked(path: Path, key: str, value: object) -> Tensor:
    """A tensor of its own memory. Raises: DataError where it is none, or claims more than the file holds."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise DataError(f"{path}: {key[:80]!r} is no tensor", READS)
    floats = (torch.float32, torch.float16, torch.bfloat16)
    if value.dtype not in floats or value.layout != torch.strided or value.device.type != "cpu":
        raise DataError(f"{path}: {key[:80]!r} holds {value.dtype} numbers; 16 or 32 bit floats are expected")
    if value.untyped_storage().nbytes() < value.numel() * value.element_size():
        raise DataError(f"{path}: {key[:80]!r} claims more numbers than the file holds")
    if not bool(torch.isfinite(value).all()):
        raise DataError(f"{path}: {key[:80]!r} holds values that are not finite")
    return value.detach().clone(memory_format=torch.contiguous_format)


def _written(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], out: Path) -> Imported:
    """Raises: DataError where it is no adapter; UsageError; StorageError."""
    import torch
    from safetensors.torch import load_file

    atomic.write(out, container.pack(tensors, metadata))
    try:
        header = read_header(out)
        kind = kind_of(header)
        facts = kind.facts(out, header)
    except DataError as error:
        out.unlink(missing_ok=True)
        raise DataError(f"{path}: {error.message.removeprefix(f'{out}: ')}", error.hint or READS) from error
    except TunerError:
        out.unlink(missing_ok=True)
        raise
    back = load_file(out)
    if back.keys() != tensors.keys() or any(not torch.equal(back[name], tensors[name]) for name in tensors):
        out.unlink(missing_ok=True)
        raise StorageError(
            f"{out}: read back after it was written, it differs from {path}", "it was removed; try again"
        )
    return Imported(out, path, kind.name, _said(kind, facts), {"format": facts.get("format")})


def _said(kind: FileKind, facts: Mapping[str, Any]) -> str:
    if facts.get("token"):
        return f"{kind.label} for {facts['family']}, the word {facts['token']}, {facts['vectors']} vectors"
    form = f" with {facts['format']} keys" if facts.get("format") else ""
    return f"{kind.label} for {facts['family']}{form}"
