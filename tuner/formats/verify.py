"""Proof that a saved LoRA is the trained one: loaded by diffusers' own loader, each file must predict the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..adapters.lora import ADAPTER
from ..draws import Draws
from ..errors import StorageError, TunerError
from .container import read_header
from .convert import as_diffusers
from .kinds import recognise
from .load_lora import load_tensors, lora_layers
from .loaders import quiet_loaders
from .prediction import predict, undrawn
from .shadow import shadow_model, strip_adapters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import torch
    from peft.tuners.lora.layer import LoraLayer
    from torch import Tensor, nn

    from ..adapters.lora import LoRAAttachment
    from ..backbones import DiffusionModel

LOADED = "loaded_back"
"""peft's name of the adapter that a file becomes."""
FILE_TOLERANCE: Mapping[str, float] = {"F32": 1e-5, "F16": 4e-3, "BF16": 3e-2}
"""Allowed difference of one layer's update, relative to its largest value: some steps of rounding of both factors."""
COMPUTE_TOLERANCE: Mapping[str, float] = {"torch.float32": 1e-5, "torch.float16": 2e-2, "torch.bfloat16": 1e-1}
"""Allowed difference of the prediction, relative to its largest value; in half precision the order of two roundings
already costs this much, and the comparison by layer decides."""
HALF_STEP: Mapping[str, float] = {"F32": 0.0, "F16": 2.0**-25, "BF16": 0.0}
"""Half of the type's smallest step: what rounding may cost a tiny value of B beyond the relative tolerance."""
STEP: Mapping[str, float] = {"F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
"""One rounding step of the type, relative."""
STEPS = 16
"""A prediction may be off by this many times what one such step in every factor does to it."""


def verify_lora(attachment: LoRAAttachment, files: Sequence[Path], state: Mapping[str, Tensor]) -> None:
    """Load every `.safetensors` of `files` by `load_lora_weights` and compare with the model that holds `state`.

    Compared are the number of layers, each layer's update on a drawn input, and the prediction on a fixed input. The
    live model is not touched: the comparison runs on a shadow over the same memory (`shadow.py`).

    Raises: StorageError naming the file, the loader and the difference.
    """
    with undrawn():
        shadow = shadow_model(attachment.model, state, _parameters(attachment))
        updates, want = _updates(shadow, ADAPTER), predict(shadow)
        _strip(shadow)
        trained = _Trained(attachment, state, updates, want, predict(shadow))
        for file in files:
            if file.suffix == ".safetensors":
                _verify(trained, shadow, file)
                _strip(shadow)


@dataclass(frozen=True, slots=True)
class _Update:
    """What one layer adds to a drawn input x."""

    value: Tensor
    """scale * B A x, (out,) float32 on the CPU."""
    size: Tensor
    """scale * |B| |A| |x|, (out,): what the value would be if nothing cancelled; rounding is relative to this."""
    spread: float
    """How much an error of 1 in every value of the stored B would add."""
    norms: Tensor | None = None
    """Those of a DoRA, float32 on the CPU."""


@dataclass(frozen=True, slots=True)
class _Trained:
    """What a file is held against."""

    attachment: LoRAAttachment
    state: Mapping[str, Tensor]
    updates: Mapping[tuple[str, str], _Update]
    """By component and layer, the update of a drawn input."""
    prediction: Tensor
    plain: Tensor
    """The base's prediction without the adapter."""


def _verify(trained: _Trained, base: DiffusionModel, file: Path) -> None:
    """Load a file into the base and compare; the base holds the file's adapter afterwards."""
    try:
        dtype = next(entry.dtype for entry in read_header(file).tensors.values() if len(entry.shape) > 1)
    except (TunerError, StopIteration) as error:
        raise _fault(file, f"its header cannot be read back: {error}") from error
    _load(base, file)
    found = _updates(base, LOADED)
    if found.keys() != trained.updates.keys():
        odd = sorted(".".join(place) for place in found.keys() ^ trained.updates.keys())
        counts = f"{len(found)} layers were loaded, {len(trained.updates)} were trained"
        raise _fault(file, f"{counts}; the first to differ is {odd[0]}")
    for (component, layer), update in trained.updates.items():
        kind = max(dtype, _held_in(_modules(base)[component]), key=FILE_TOLERANCE.__getitem__)
        _compare_update(file, f"{component}.{layer}", found[component, layer], update, kind)
    _compare_prediction(file, predict(base), trained, dtype)


def _load(model: DiffusionModel, file: Path) -> None:
    from safetensors import SafetensorError

    pipeline = model.pipeline()
    pipeline.register_modules(vae=None)  # the live one: loading would take its offload hooks off
    faults = (
        *(ValueError, KeyError, TypeError, RuntimeError, AttributeError, IndexError, OSError, SafetensorError),
        TunerError,
    )
    try:
        header = read_header(file)
        with quiet_loaders():
            if any(key.endswith(".dora_scale") for key in header.tensors):  # which diffusers' loader drops
                load_tensors(pipeline, as_diffusers(file, header, recognise(file, header)), LOADED)
                return
            pipeline.load_lora_weights(  # type: ignore[attr-defined]
                str(file.parent),
                weight_name=file.name,
                adapter_name=LOADED,
                local_files_only=True,
                use_safetensors=True,
            )
    except faults as error:
        raise _fault(file, f"the loader refuses it: {error}") from error


def _compare_update(file: Path, layer: str, found: _Update, want: _Update, dtype: str) -> None:
    largest = float(want.value.abs().max())
    # Both factors are rounded once: each value may be off by one step of what it is made of, and a little for the sums.
    bound = 2 * STEP[dtype] * want.size + FILE_TOLERANCE["F32"] * largest + HALF_STEP[dtype] * want.spread
    excess = (found.value - want.value).abs() - bound
    worst = int(excess.argmax())
    if not float(excess[worst]) <= 0:
        difference, allowed = float((found.value - want.value)[worst].abs()), float(bound[worst])
        raise _fault(file, f"the update of {layer} differs by {difference:.3g}, {allowed:.3g} is allowed")
    if want.norms is not None:
        gap = None if found.norms is None or len(found.norms) != len(want.norms) else (found.norms - want.norms).abs()
        if gap is None or not bool((gap <= 2 * STEP[dtype] * want.norms.abs() + HALF_STEP[dtype]).all()):
            raise _fault(file, f"the norms of {layer} are others, or gone")


def _held_in(module: nn.Module) -> str:
    """The format's name of the dtype that the loaders cast an adapter to: the module's own."""
    return {"torch.float16": "F16", "torch.bfloat16": "BF16"}.get(str(_dtype(module)), "F32")


def _compare_prediction(file: Path, found: Tensor, trained: _Trained, dtype: str) -> None:
    compute = max(COMPUTE_TOLERANCE[str(_dtype(module))] for module in _modules(trained.attachment.model).values())
    allowed = max(FILE_TOLERANCE[dtype], compute) * float(trained.prediction.abs().max())
    difference = float((found - trained.prediction).abs().max())
    if not difference <= allowed:
        allowed = max(allowed, STEPS * _rounding(trained, dtype))
    if not difference <= allowed:
        limit = f"{allowed:.3g} is allowed"
        raise _fault(file, f"its prediction differs from the trained model's by {difference:.3g}, {limit}")
    effect = float((trained.prediction - trained.plain).abs().max())
    if effect > 2 * allowed and float((found - trained.plain).abs().max()) <= allowed:
        raise _fault(file, f"it changes nothing, though the trained adapter changes the prediction by {effect:.3g}")


def _rounding(trained: _Trained, dtype: str) -> float:
    """How much the prediction moves when every factor is off by up to one rounding step of the file's type.

    An adapter that was trained far out makes the model answer the last bit of a factor with a large change; the files
    differ from the trained factors by just that bit, for one of them holds the scale within B.
    """
    import torch

    near = {}
    for name, factor in trained.state.items():
        drawn = Draws(0).normal(tuple(factor.shape), "verify_rounding", name).clip(-1, 1)
        near[name] = factor * (1 + STEP[dtype] * torch.from_numpy(drawn).to(factor.device))
    attachment = trained.attachment
    moved = predict(shadow_model(attachment.model, near, _parameters(attachment)))
    return float((moved - trained.prediction).abs().max())


def _fault(file: Path, what: str) -> StorageError:
    return StorageError(
        f"{file}: loaded back by diffusers' load_lora_weights, {what}",
        "do not use this file; start the same command again to write it anew from the checkpoint",
    )


def _parameters(attachment: LoRAAttachment) -> dict[str, nn.Parameter]:
    return {name: parameter for group in attachment.param_groups() for name, parameter in group.params.items()}


def _strip(shadow: DiffusionModel) -> None:
    for module in _modules(shadow).values():
        strip_adapters(module)


def _updates(model: DiffusionModel, name: str) -> dict[tuple[str, str], _Update]:
    """What each layer of the adapter adds to an input of its own, by component and layer."""
    return {
        (component, layer): _update(part, name, component, layer)
        for component, module in _modules(model).items()
        for layer, part in lora_layers(module, name).items()
    }


def _update(part: LoraLayer, name: str, component: str, layer: str) -> _Update:
    import torch

    down, up = (factor[name].weight.detach().cpu().float().flatten(1) for factor in (part.lora_A, part.lora_B))  # type: ignore[index]
    x = torch.from_numpy(Draws(0).normal((down.shape[1],), "verify_layer", component, layer))
    inner, scale = down @ x, part.scaling[name]
    # the scale lies in B of diffusers' file and outside of it in kohya's
    size = scale * (up.abs() @ (down.abs() @ x.abs()))
    spread = float(inner.abs().sum()) * max(scale, 1.0)
    norms = part.lora_magnitude_vector[name].weight if name in part.lora_magnitude_vector else None  # type: ignore[union-attr]
    norms = None if norms is None else norms.detach().cpu().float().flatten()  # type: ignore[operator]
    return _Update(scale * (up @ inner), size, spread, norms)


def _modules(model: DiffusionModel) -> dict[str, nn.Module]:
    return {model.denoiser_name: model.denoiser, **model.text_encoders}


def _dtype(module: nn.Module) -> torch.dtype:
    """Of the frozen weights."""
    return next(p.dtype for name, p in module.named_parameters() if p.is_floating_point() and ".lora_" not in name)
