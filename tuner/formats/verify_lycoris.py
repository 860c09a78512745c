"""Proof that a saved LoHa or LoKr is the trained one: loaded by `load_adapter`'s loader, it must predict the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import StorageError, TunerError
from .container import read_header
from .load_lycoris import load_lycoris
from .lycoris_files import DTYPES, key_and_leaf
from .peft_layers import lycoris_layers
from .prediction import predict, undrawn
from .shadow import shadow_model, strip_adapters
from .verify import COMPUTE_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from ..adapters.injected import InjectedAttachment
    from ..backbones import DiffusionModel

LOADED = "loaded_back"
"""peft's name of what a file becomes."""
SCALE_TOLERANCE = 1e-6
"""Allowed difference of what a layer's update is multiplied by, relative: float32's rounding of alpha."""


def verify_lycoris(attachment: InjectedAttachment, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
    """Load the file back and compare each factor bit for bit, each scale, and the prediction on a fixed input.

    The live model is not touched: the comparison runs on a shadow over the same memory (`shadow.py`).

    Raises: StorageError naming the file, the loader and the difference.
    """
    file = next(path for path in files if path.suffix == ".safetensors")
    dtype = _dtype_of(file)
    rounded = {name: factor.to(dtype).float() for name, factor in state.items()}
    parameters = {name: p for own in attachment.params.values() for name, p in own.items()}
    with undrawn():
        _compare_factors(attachment, file, rounded, dtype)
        shadow = shadow_model(attachment.model, rounded, parameters)
        want = predict(shadow)
        _strip(shadow)
        plain = predict(shadow)
        _load(shadow, file)
        _compare_scales(attachment, shadow, file)
        found = predict(shadow)
    widest = max(COMPUTE_TOLERANCE[str(_computes_in(module))] for module in attachment.modules)
    allowed = widest * float(want.abs().max())
    difference = float((found - want).abs().max())
    if not difference <= allowed:
        limit = f"{allowed:.3g} is allowed"
        raise _fault(file, f"its prediction differs from the trained model's by {difference:.3g}, {limit}")
    effect = float((want - plain).abs().max())
    if effect > 2 * allowed and float((found - plain).abs().max()) <= allowed:
        raise _fault(file, f"it changes nothing, though the trained one changes the prediction by {effect:.3g}")


def _dtype_of(file: Path) -> torch.dtype:
    """Of the factors in the file. Raises: StorageError where its header cannot be read."""
    import torch

    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    try:
        kinds = {entry.dtype for entry in read_header(file).tensors.values() if len(entry.shape) > 1}
    except TunerError as error:
        raise _fault(file, f"its header cannot be read back: {error}") from error
    if len(kinds) != 1 or names.get(min(kinds)) not in DTYPES.values():
        raise _fault(file, f"its factors are {', '.join(sorted(kinds)) or 'not there'}")
    return getattr(torch, names[kinds.pop()])


def _compare_factors(
    attachment: InjectedAttachment, file: Path, rounded: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as error:
        raise _fault(file, f"it cannot be read: {error}") from error
    family = attachment.model.backbone.key
    alphas = {}
    for name, factor in rounded.items():
        key, leaf = key_and_leaf(family, name)
        held = stored.pop(f"{key}.{leaf}", None)
        if held is None or held.shape != factor.shape or not bool((held == factor.cpu().to(dtype)).all()):
            raise _fault(file, f"{key}.{leaf} is not what was trained")
        alphas[f"{key}.alpha"] = stored.get(f"{key}.alpha")
    if odd := sorted(stored.keys() - alphas.keys()):
        raise _fault(file, f"it holds {odd[0]}, which was not trained")
    if lost := sorted(key for key, alpha in alphas.items() if alpha is None):
        raise _fault(file, f"it lacks {lost[0]}")


def _load(shadow: DiffusionModel, file: Path) -> None:
    pipeline = shadow.pipeline()
    pipeline.register_modules(vae=None)  # the live one has no part in this
    try:
        load_lycoris(pipeline, file, read_header(file), 1.0, LOADED)
    except TunerError as error:
        raise _fault(file, f"the loader refuses it: {error.message}") from error


def _compare_scales(attachment: InjectedAttachment, shadow: DiffusionModel, file: Path) -> None:
    from ..adapters.injected import ADAPTER

    modules = {shadow.denoiser_name: shadow.denoiser, **shadow.text_encoders}
    loaded = {part: lycoris_layers(module, LOADED) for part, module in modules.items()}
    trained = {(part, layer): own.scaling[ADAPTER] for part, layer, own in attachment.injected()}
    if (count := sum(map(len, loaded.values()))) != len(trained):
        raise _fault(file, f"{count} layers were loaded, {len(trained)} were trained")
    for (part, layer), scale in trained.items():
        held = loaded[part][layer].scaling[LOADED] if layer in loaded[part] else None
        if held is None or abs(held - scale) > SCALE_TOLERANCE * scale:
            raise _fault(file, f"the update of {part}.{layer} is multiplied by {held}, not {scale:g}")


def _strip(shadow: DiffusionModel) -> None:
    for module in (shadow.denoiser, *shadow.text_encoders.values()):
        strip_adapters(module)


def _computes_in(module: nn.Module) -> torch.dtype:
    """Of the frozen weights."""
    from .lycoris import MARKS

    weights = ((name, p.dtype) for name, p in module.named_parameters() if p.is_floating_point())
    return next(dtype for name, dtype in weights if not any(mark in name for mark in MARKS.values()))


def _fault(file: Path, what: str) -> StorageError:
    return StorageError(
        f"{file}: loaded back by tuner.load_adapter, {what}",
        "do not use this file; start the same command again to write it anew from the checkpoint",
    )
