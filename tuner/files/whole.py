"""Whole models as files: opened without their weights in memory, written as a folder or as one file, read back."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError, StorageError, UsageError
from .writing import ENDING, new_file, new_folder, require_new

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from ..backbones import Backbone, DiffusionModel

TOYBOX = "toybox"


def open_model(place: str, family: str | None = None, *, option: str = "--base") -> DiffusionModel:
    """A model whose weights stay on disk (`DiffusionModel.weights`), its files checked.

    Args:
        place: a folder in diffusers' layout, a single file, a Hub id, `toybox`, or a run of `adapters: [full]`.
        family: the backbone's name, where it is known; else the files tell.
        option: where the user named it, for messages.

    Raises: DataError where it cannot be read or is no whole model; UsageError where its family cannot be told.
    """
    from ..backbones import Backbone
    from ..backbones.recognise import recognise

    if family is not None and family not in Backbone.family:
        raise UsageError(f"unknown backbone {family!r}", f"there is {', '.join(Backbone.family)}")
    place = _model_in(place, option)
    if family is None and place == TOYBOX:
        raise UsageError(f"{option} toybox: there is one for each family", "name it: --backbone sd15 or sd35")
    name = family or recognise(place)
    if name is None:
        raise UsageError(f"{option} {place}: nothing in it tells its family", "name it: --backbone sd15 or sd35")
    return opened(Backbone.read({"name": name, "model": place}))


def opened(backbone: Backbone) -> DiffusionModel:
    """The model of a backbone, its weights on disk. Raises: DataError."""
    import torch

    return backbone.load(device=torch.device("cpu"), dtype=torch.float32, read=())


def _model_in(place: str, option: str) -> str:
    """Where the whole model lies that a name stands for. Raises: DataError."""
    from ..formats.container import read_header
    from ..formats.find import PICKLES, find_files, kind_of
    from ..formats.model_kind import ModelKind, pipeline_of

    path = Path(place).expanduser()
    if path.suffix.lower() in PICKLES:
        raise DataError(
            f"{option} {path}: {path.suffix} files can run code when they are loaded, so they are refused",
            "take the .safetensors version of this model",
        )
    if path.is_file():
        header = read_header(path)
        kind = kind_of(header)
        if kind.name == ModelKind.name:
            return str(pipeline_of(path))
        with contextlib.suppress(DataError):  # a whole checkpoint is no file of the other kinds, and they say so
            kind.facts(path, header)
            raise UsageError(f"{option} {path}: is {kind.label}, and no whole model", "give the model's folder or file")
        return str(path)
    if not path.is_dir() or (path / "model_index.json").is_file():
        return str(path) if path.exists() else place
    for file in find_files(path):
        if kind_of(read_header(file)).name == ModelKind.name:
            return str(pipeline_of(file))
    raise DataError(
        f"{option} {path}: holds no whole model, but an adapter", "give a model, or a run of `adapters: [full]`"
    )


def own_dtype(model: DiffusionModel, component: str) -> torch.dtype:
    """The type that a component's numbers have on disk, the widest where there are several.

    Raises: UsageError where it is none that is written.
    """
    from functools import reduce

    import torch

    from ..formats.whole_model import stored

    kinds = {value.dtype for value in stored(model, component).values() if value.is_floating_point()}
    widest = reduce(torch.promote_types, kinds)
    if widest not in (torch.float32, torch.float16, torch.bfloat16):
        raise UsageError(f"the base's {component} is held as {widest}, which is not written", "say --dtype")
    return widest


def write_model(
    out: Path,
    model: DiffusionModel,
    changed: Mapping[str, Mapping[str, Tensor]],
    dtypes: Mapping[str, torch.dtype],
    header: Mapping[str, str],
) -> None:
    """Write a model and read it back: a folder for `from_pretrained`, or one file where `out` ends in .safetensors.

    Args:
        out: what is not there yet.
        model: gives configurations and what is not in `changed`.
        changed: every tensor of each changed component, under its module's names.
        dtypes: of the numbers of each changed component; the single file has the denoiser's.
        header: texts of the single file.

    Raises: NumbersError for values that do not fit into their type; StorageError where what was read back is another
        model; UsageError where `out` is there.
    """
    from ..formats.verify_model import verify_folder, verify_single
    from ..formats.whole_model import write_folder, write_single

    require_new(out, folder=True)
    if out.suffix == ENDING:
        dtype = dtypes.get(model.denoiser_name) or own_dtype(model, model.denoiser_name)
        with new_file(out) as scratch:
            write_single(scratch, model, changed, header, dtype)
            verify_single(scratch, model, changed, dtype)
            _verify_numbers(scratch, model, changed, dtype)
        return
    with new_folder(out) as scratch:
        write_folder(scratch, model, changed, dtypes)
        verify_folder(scratch, model, changed, dtypes)


def _verify_numbers(
    path: Path, model: DiffusionModel, changed: Mapping[str, Mapping[str, Tensor]], dtype: torch.dtype
) -> None:
    """Every tensor that should be in a single file is there, bit for bit; no reader of ours reads all of SD3's.

    Raises: StorageError.
    """
    import torch
    from safetensors import safe_open

    from ..formats.original import ORIGINALS
    from ..formats.whole_model import configs, stored

    original = ORIGINALS[model.backbone.key]
    components = {**{name: stored(model, name) for name in original.needs}, **changed}
    with safe_open(path, framework="pt", device="cpu") as opened:
        there = set(opened.keys())
        for name, parts in original.pieces(components, configs(model)).items():
            there.discard(name)
            if not torch.equal(opened.get_tensor(name), torch.cat([part.to(dtype) for part in parts])):
                raise StorageError(f"{path}: read back, {name} holds other numbers", "nothing was kept; try again")
    if there:
        raise StorageError(f"{path}: read back, it holds {min(there)}, too", "nothing was kept; try again")


def single_file(place: str, out: Path, family: str | None, dtype: torch.dtype | None) -> DiffusionModel:
    """Write a model as one file in its makers' own layout, and give the model.

    Args:
        place, family: as `open_model`.
        out: a .safetensors file that is not there yet.
        dtype: of the numbers; None is the denoiser's own.

    Raises: as `open_model` and `write_model`.
    """
    require_new(out)
    model = open_model(place, family, option="FILE")
    kinds = {} if dtype is None else {model.denoiser_name: dtype}
    write_model(out, model, {}, kinds, whole_header(model, ()))
    return model


def whole_header(model: DiffusionModel, changed: tuple[str, ...], **told: str) -> dict[str, str]:
    """Text of a single file's header, without path and date."""
    from ..formats.model_kind import KIND, TRAINED, ModelKind
    from ..formats.original import ORIGINALS

    known = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": ORIGINALS[model.backbone.key].architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "tuner_backbone": model.backbone.key,
        KIND: ModelKind.name,
        TRAINED: ",".join(sorted(changed)),
    }
    return known | told
