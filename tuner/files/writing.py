"""New files that are there only once they were read back: none is overwritten, none is left half."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from .. import atomic
from ..errors import NumbersError, StorageError, TunerError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import torch

    from ..formats.convert import Style
    from ..formats.fusing import Update

ENDING = ".safetensors"
DTYPES = ("fp32", "fp16", "bf16")


def require_new(out: Path, *, folder: bool = False) -> None:
    """Raises: UsageError where `out` is there already, or its ending is that of a format that is not written.

    Args:
        out: what is to be made.
        folder: whether a name without an ending is a folder to make.
    """
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already", "choose another name with --out")
    if out.suffix != ENDING and not (folder and not out.suffix):
        wanted = f"a name that ends in {ENDING}" + (", or one without an ending for a folder" if folder else "")
        raise UsageError(f"--out {out}: no such format is written", f"give {wanted}")


@contextlib.contextmanager
def new_file(out: Path) -> Iterator[Path]:
    """Write and read back a file of this name elsewhere; it comes to `out` if the block ends well, and goes if not.

    Raises: StorageError; UsageError where `out` came to be meanwhile. Faults in the block name `out`.
    """
    with _scratch(out) as folder:
        scratch = folder / out.name
        yield scratch
        atomic.sync_file(scratch)
        _take_place(scratch, out)


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """As `new_file`, for a folder, which is there and empty within the block."""
    with _scratch(out) as folder:
        scratch = folder / out.name
        scratch.mkdir()
        yield scratch
        atomic.sync_tree(scratch)
        _take_place(scratch, out)


@contextlib.contextmanager
def _scratch(out: Path) -> Iterator[Path]:
    """A folder beside `out` for the time of the block."""
    with atomic.storage(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = atomic.temporary(out)
        folder.mkdir()
    try:
        with atomic.storage(out):
            yield folder
    except TunerError as error:
        error.message = error.message.replace(str(folder / out.name), str(out))
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _take_place(scratch: Path, out: Path) -> None:
    """Raises: OSError; UsageError where something is there."""
    if os.path.lexists(out):
        raise UsageError(f"{out} is there already", "another program made it; choose another name with --out")
    os.rename(scratch, out)
    atomic.sync_folder(out.parent)


def torch_dtype(name: str) -> torch.dtype:
    """Raises: UsageError for a name that is none of `DTYPES`."""
    import torch

    if name not in DTYPES:
        raise UsageError(f"--dtype {name!r} is no type that is written", f"there is {', '.join(DTYPES)}")
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def cast(update: Update, dtype: torch.dtype) -> Update:
    """The update with factors of this type. Raises: NumbersError where a value does not fit into it."""
    import torch

    down, up = update.down.to(dtype), update.up.to(dtype)
    if not bool(torch.isfinite(down).all() and torch.isfinite(up).all()):
        raise NumbersError(
            f"{update.component}.{update.layer}: its values are not finite in {dtype}", "take --dtype fp32 or bf16"
        )
    return replace(update, down=down, up=up)


def write_lora(
    out: Path, updates: Sequence[Update], *, family: str, style: Style, metadata: Mapping[str, str], source: Path
) -> None:
    """Write a LoRA, read it back by what reads any LoRA here, and compare each layer's update of a drawn input.

    Args:
        out: a file that is not there yet.
        updates: of each of diffusers' layers, once.
        family: name of the backbone.
        style: the keys.
        metadata: what the header says besides what the keys need.
        source: what it is made of, for messages.

    Raises: DataError where a layer has no name in the style; StorageError where what was written is not what was meant.
    """
    from ..formats import container
    from ..formats.convert import first_difference, keyed
    from ..formats.families import FAMILIES
    from ..formats.fusing import Update as LowRank
    from ..formats.lora import Pair
    from ..formats.lora_kind import LoRAKind
    from ..formats.metadata import converted_header

    tensors = keyed(updates, FAMILIES[family], style, source)
    layers = [Pair(update.component, update.layer, update.down, update.up) for update in updates]
    content = container.pack(tensors, converted_header(tensors, metadata, style, layers, family))
    with new_file(out) as scratch:
        scratch.write_bytes(content)
        try:
            found = LoRAKind().deltas(scratch, container.read_header(scratch))
            back = {(u.component, u.layer): u for u in found if isinstance(u, LowRank)}
            fault = first_difference(updates, back)
        except TunerError as error:
            fault = f"it cannot be read: {error.message}"
        if fault is not None:
            raise StorageError(f"{out}: read back, {fault}", "nothing was kept; try again, or take other --keys")
