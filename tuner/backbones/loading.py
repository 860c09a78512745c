"""Weights from safetensors files into modules of pinned classes: every key accounted for, nothing left at random."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

STEMS = ("diffusion_pytorch_model", "model")
"""File names of weights without their ending, in diffusers' and in transformers' layout."""

PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")

Module = TypeVar("Module", bound="nn.Module")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises: DataError naming the file.
    """
    try:
        tree = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: the base model lacks this file", "download the whole model again") from None
    except (OSError, ValueError) as error:  # a JSON or encoding fault is a ValueError
        raise DataError(f"{path}: not readable as JSON: {error}", "download this file again") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: not a JSON object", "download this file again")
    return tree


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of one component: plain before shards before the fp16 variant; none where there is none."""
    for variant in ("", ".fp16"):
        for stem in STEMS:
            whole = folder / f"{stem}{variant}.safetensors"
            if whole.is_file():
                return (whole,)
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if index.is_file():
                shards = read_json(index).get("weight_map")
                if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
                    raise DataError(f"{index}: has no `weight_map` of file names", "download this file again")
                return tuple(folder / Path(name).name for name in sorted(set(shards.values())))
    return ()


def require_weights(folder: Path) -> tuple[Path, ...]:
    """As `weight_files`.

    Raises: DataError where there are none, or only formats that can run code when they are read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: the base model lacks this component", "download the whole model again")
    files = weight_files(folder)
    if files:
        return files
    unsafe = sorted(found.name for pattern in PICKLES for found in folder.glob(pattern))
    if unsafe:
        raise DataError(
            f"{folder}: holds weights only as {', '.join(unsafe)}, a format that can run code when it is read",
            "take the .safetensors files of this model; or, if you trust its author, load it in diffusers and write it "
            "again with `pipeline.save_pretrained(folder, safe_serialization=True)`",
        )
    raise DataError(f"{folder}: holds no .safetensors weights", "download the whole model again")


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Every tensor of the files by key, memory-mapped.

    Raises: DataError naming the file that is absent or damaged.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - not a mapping
                    tensors[key] = file.get_tensor(key)
        except FileNotFoundError:
            raise DataError(f"{path}: the base model lacks this file", "download the whole model again") from None
        except (SafetensorError, OSError) as error:
            raise DataError(
                f"{path}: damaged or not a safetensors file: {error}", "delete this file and download it again"
            ) from error
    return tensors


def fill(
    module: Module,
    tensors: Mapping[str, Tensor],
    source: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    surplus: Sequence[str] = (),
) -> Module:
    """Give a module without storage its weights; it comes back frozen, in eval mode.

    Args:
        module: built under `empty`.
        tensors: by parameter name.
        source: file or folder to name in errors.
        device: where the weights go.
        dtype: what floating-point weights are cast to.
        surplus: endings of keys that old files carry and nothing needs.

    Raises: DataError as `require_fit`.
    """
    found = require_fit(module, tensors, source, surplus)
    placed = {
        name: value.to(
            device, dtype if value.is_floating_point() else None, copy=True
        )  # a copy, for the file may change
        for name, value in found.items()
    }
    module.load_state_dict(placed, assign=True)
    for name, buffer in module.named_buffers():
        if name not in placed:
            module.get_submodule(name.rpartition(".")[0]).register_buffer(
                name.rpartition(".")[2], buffer.to(device), persistent=False
            )
    return module.requires_grad_(requires_grad=False).eval()


def require_fit(
    module: nn.Module, tensors: Mapping[str, Tensor], source: Path, surplus: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors that a module needs, by parameter name.

    Args:
        module: built under `empty`.
        tensors: by parameter name.
        source: file or folder to name in errors.
        surplus: endings of keys that old files carry and nothing needs.

    Raises: DataError with the number of missing, unknown and misshapen weights.
    """
    expected = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    found = {
        name: value
        for name, value in tensors.items()
        if name in expected or not name.endswith(tuple(surplus) or ("\0",))
    }
    missing = sorted(expected.keys() - found.keys())
    unknown = sorted(found.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != tuple(found[name].shape))
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(expected)} weights are missing, such as {missing[0]}")
    if unknown:
        faults.append(f"{len(unknown)} weights are unknown, such as {unknown[0]}")
    if wrong:
        first = wrong[0]
        faults.append(
            f"{len(wrong)} weights have another shape than config.json says, such as {first}: "
            f"{tuple(found[first].shape)} instead of {expected[first]}"
        )
    if faults:
        raise DataError(
            f"{source}: does not fit {type(module).__name__}: {'; '.join(faults)}",
            "this is another kind of model, or files of two models are mixed; download the whole model again",
        )
    return found


def empty() -> Any:
    """Within it, modules are built without storage for their parameters; buffers are real."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)
