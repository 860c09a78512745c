"""Proof that a saved model is the trained one: loaded by diffusers' own loader, and by tuner's from the single file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import StorageError, TunerError
from .container import read_header
from .loaders import quiet_loaders
from .original import ORIGINALS
from .whole_model import configs, file_key, stored

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from ..backbones import DiffusionModel

VOLATILE = (
    *("_diffusers_version", "_name_or_path", "_use_default_values", "transformers_version", "dtype", "architectures"),
    "eos_token_id",  # the base's file keeps its own, which tuner may read otherwise (`sd35_loading.build`)
)
"""Keys of a configuration that are not compared: they do not change what the weights compute."""


def verify_model(model: DiffusionModel, trained: Mapping[str, Mapping[str, Tensor]], files: Sequence[Path]) -> None:
    """Load the folder and the single file back and compare each trained tensor, bit for bit, and each configuration.

    Equal weights in a module of equal configuration predict the same.

    Args:
        model: what was trained; it is not touched.
        trained: every tensor of each trained component, under its module's names.
        files: from `write_model`.

    Raises: StorageError naming the file, the loader and the difference.
    """
    index, single = files[0], files[1]
    dtype = _dtype(single)
    verify_folder(index.parent, model, trained, dict.fromkeys(trained, dtype))
    verify_single(single, model, trained, dtype)


def verify_folder(
    folder: Path,
    model: DiffusionModel,
    changed: Mapping[str, Mapping[str, Tensor]],
    dtypes: Mapping[str, torch.dtype],
) -> None:
    """The part of `verify_model` about the folder; arguments as `write_folder`. Raises: StorageError."""
    for component, tensors in changed.items():
        _verify_component(folder, component, model.components[component], tensors, dtypes[component])
    _verify_whole(folder, model)


def _dtype(single: Path) -> torch.dtype:
    """The type of the files' numbers."""
    import torch

    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    try:
        return names[next(iter(read_header(single).tensors.values())).dtype]
    except (TunerError, StopIteration, KeyError) as error:
        raise _fault(single, "its header", f"cannot be read back: {error}") from error


def _verify_component(
    folder: Path, component: str, module: nn.Module, tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    from safetensors import SafetensorError

    kind: Any = type(module)
    place, loader = folder / component, f"{kind.__name__}.from_pretrained"
    faults = (ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, OSError, SafetensorError)
    try:
        with quiet_loaders():
            loaded = kind.from_pretrained(place, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    except faults as error:
        raise _fault(place, loader, f"refuses it: {str(error)[:300]}") from error
    _compare(place, loader, tensors, loaded.state_dict(), dtype)
    for key, want in _settled(module).items():
        found = _settled(loaded).get(key)
        if found != want:
            raise _fault(place, loader, f"gives a model whose {key} is {found!r}, not {want!r}")


def _settled(module: Any) -> dict[str, Any]:
    tree = module.config.to_dict() if hasattr(module.config, "to_dict") else dict(module.config)
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in tree.items() if key not in VOLATILE
    }


def _verify_whole(folder: Path, model: DiffusionModel) -> None:
    """Every component is there, whole, in its shapes. Raises: StorageError."""
    import torch

    backbone = model.backbone.model_copy(update={"model": str(folder), "revision": None})
    try:
        backbone.load(device=torch.device("cpu"), dtype=torch.float32, read=())
    except TunerError as error:
        raise _fault(folder, "tuner", f"refuses it: {error}") from error


def verify_single(
    path: Path, model: DiffusionModel, trained: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype
) -> None:
    """The part of `verify_model` about the single file. Raises: StorageError."""
    original = ORIGINALS[model.backbone.key]
    try:
        found = original.read(path, configs(model))
    except TunerError as error:
        raise _fault(path, "tuner's single-file reader", f"refuses it: {error}") from error
    for component, tensors in found.items():
        want = trained[component] if component in trained else stored(model, component)
        named = {file_key(component, name): value for name, value in want.items() if value.is_floating_point()}
        _compare(path, "tuner's single-file reader", named, tensors, dtype)


def _compare(
    path: Path, loader: str, want: Mapping[str, Tensor], found: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    import torch

    expected = {name: value for name, value in want.items() if value.is_floating_point()}
    present = {name: value for name, value in found.items() if value.is_floating_point()}
    odd = sorted(expected.keys() ^ present.keys())
    if odd:
        counts = f"{len(present)} tensors, {len(expected)} were saved"
        raise _fault(path, loader, f"finds {counts}; the first odd one is {odd[0]}")
    for name, value in expected.items():
        saved = value.detach().to("cpu", dtype)
        back = present[name].to("cpu", dtype)
        if back.shape != saved.shape or not torch.equal(saved, back):
            raise _fault(path, loader, f"gives other values for {name} than were trained")


def _fault(path: Path, loader: str, what: str) -> StorageError:
    return StorageError(
        f"{path}: loaded back, {loader} {what}",
        "do not use these files; start the same command again to write them anew from the checkpoint",
    )
