"""A whole fine-tuned model into a pipeline of its base, at any strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..backbones.loading import read_tensors, require_weights
from ..errors import DataError
from .model_kind import pipeline_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from diffusers.pipelines.pipeline_utils import DiffusionPipeline
    from torch import Tensor, nn


def load_model(pipe: DiffusionPipeline, file: Path, trained: Sequence[str], strength: float) -> Callable[[], None]:
    """Move the pipeline's weights towards the trained ones: base + strength x (trained - base).

    Args:
        pipe: of the base that the model was trained from.
        file: the single file, whose folder lies beside it.
        trained: names of the trained components.
        strength: 1.0 is the trained model, 0.0 the base.

    Returns: what puts the base's weights back.

    Raises: DataError where the folder is not there or does not fit.
    """
    folder = pipeline_of(file)
    if folder == file:
        raise DataError(
            f"{file}: a whole model, which goes on top of no other; its folder in diffusers' layout is not beside it",
            f"draw with it as the base: --base {file}",
        )
    moves: list[tuple[Tensor, Tensor]] = []
    for component in trained:
        module: Any = pipe.components.get(component)
        if module is None:
            raise DataError(f"{file}: trains the {component}, which this pipeline does not have")
        tensors = read_tensors(require_weights(folder / component))
        moves += _pairs(file, component, module, tensors)
    before = [target.detach().clone() for target, _ in moves]
    for target, value in moves:
        _move(target, value, strength)

    def take_off() -> None:
        for (target, _), old in zip(moves, before, strict=True):
            target.detach().copy_(old)

    return take_off


def _pairs(file: Path, component: str, module: nn.Module, tensors: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(the pipeline's tensor, the file's) of a component. Raises: DataError."""
    from .whole_model import file_key

    own = {
        file_key(component, name.replace(".base_layer.", ".")): value
        for name, value in module.state_dict().items()
        if value.is_floating_point() and ".lora_" not in name
    }
    wrong = sorted(own.keys() ^ tensors.keys()) or sorted(n for n in own if own[n].shape != tensors[n].shape)
    if wrong:
        raise DataError(
            f"{file}: this pipeline's {component} is another one: the first difference is {wrong[0]}",
            "load the folder beside the file as a pipeline of its own",
        )
    return [(own[name], tensors[name]) for name in own]


def _move(target: Tensor, value: Tensor, strength: float) -> None:
    import torch

    with torch.no_grad():
        new = value.to(target.device, torch.float32)
        mixed = new if strength == 1 else target.float().lerp(new, strength)
        target.copy_(mixed)
