"""Proof that a saved hypernetwork is the trained one: loaded by `load_adapter`'s loader, it must predict the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import StorageError, TunerError
from .container import read_header
from .hypernetwork import ENDING, PREFIX, describe, read_weights
from .load_hypernetwork import load_hypernetwork
from .prediction import predict, undrawn
from .shadow import shadow_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor

    from ..adapters.hypernetwork import HypernetworkAttachment
    from ..backbones import DiffusionModel

LOADED = "loaded_back"
"""Name of what a file becomes."""
TOLERANCE = 1e-6
"""Allowed difference of the prediction, relative to its largest value: the networks are equal bit for bit, and only the
order of sums may differ from one call to the next."""


def verify_hypernetwork(attachment: HypernetworkAttachment, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
    """Load the file back and compare its structure, each weight bit for bit, and the prediction on a fixed input.

    The live model is not touched: the comparison runs on a shadow over the same memory (`shadow.py`), where whatever
    else is attached acts in both predictions.

    Raises: StorageError naming the file, the loader and the difference.
    """
    from ..adapters.hypernetwork import ADAPTER
    from ..nn.key_value_hooks import detach

    file = next(path for path in files if path.name.endswith(ENDING))
    _compare_structure(attachment, file)
    rounded = {name: value.to(_dtype(file)).float() for name, value in state.items()}
    with undrawn():
        shadow = shadow_model(attachment.model, rounded, attachment.params)
        want = predict(shadow)
        detach(shadow.denoiser, ADAPTER)
        plain = predict(shadow)
        _load(shadow, file)
        _compare_weights(file, rounded)
        found = predict(shadow)
    allowed = TOLERANCE * float(want.abs().max())
    difference = float((found - want).abs().max())
    if not difference <= allowed:
        raise _fault(file, f"its prediction differs from the trained model's by {difference:.3g}")
    effect = float((want - plain).abs().max())
    if effect > 2 * allowed and float((found - plain).abs().max()) <= allowed:
        raise _fault(file, f"it changes nothing, though the trained one changes the prediction by {effect:.3g}")


def _compare_structure(attachment: HypernetworkAttachment, file: Path) -> None:
    try:
        found = describe(file, read_header(file))
    except TunerError as error:
        raise _fault(file, f"it cannot be read: {error.message}") from error
    if (found.structure, found.family) != (attachment.adapter.structure, attachment.model.backbone.key):
        raise _fault(file, "its header tells of other networks than were trained")


def _dtype(file: Path) -> torch.dtype:
    """Of the file's numbers."""
    import torch

    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return names[next(iter(read_header(file).tensors.values())).dtype]


def _load(shadow: DiffusionModel, file: Path) -> None:
    pipeline = shadow.pipeline()
    try:
        load_hypernetwork(pipeline, file, read_header(file), 1.0, LOADED)
    except TunerError as error:
        raise _fault(file, f"the loader refuses it: {error.message}") from error


def _compare_weights(file: Path, rounded: Mapping[str, Tensor]) -> None:
    import torch

    found = {f"{PREFIX}{name}": value for name, value in read_weights(file).items()}
    if odd := sorted(found.keys() ^ rounded.keys()):
        raise _fault(file, f"{odd[0]} is in one of the two alone")
    for name, value in rounded.items():
        if not torch.equal(found[name], value.cpu()):
            raise _fault(file, f"{name} differs from what was trained")


def _fault(file: Path, what: str) -> StorageError:
    return StorageError(
        f"{file}: loaded back by tuner.load_adapter, {what}",
        "do not use this file; start the same command again to write it anew from the checkpoint",
    )
