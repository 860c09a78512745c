"""What is measured of a model in the step that ends a log interval, and in no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .backbones import DiffusionModel
    from .sections import Log


class Gauge(Protocol):
    """Looks at a model between `begin` and `end`. It changes no bit of the training and waits for no device."""

    name: str
    """Of the number in metrics.jsonl."""

    def begin(self) -> None:
        """Look from now on; what was seen before is forgotten."""
        ...

    def end(self) -> Tensor | None:
        """Stop looking; a scalar on the device, None where there was nothing to see."""
        ...


def gauges(log: Log, model: DiffusionModel) -> Sequence[Gauge]:
    """Those that a recipe asks for, or that a model needs."""
    wanted = model.logits_may_grow if log.attention_logit is None else log.attention_logit
    if not wanted:
        return ()
    from .attention_logits import LargestLogit

    return (LargestLogit(model.denoiser),)
