"""The model being trained, as a task sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .types import Cond

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .adapters import Attachment
    from .backbones import DiffusionModel
    from .objectives import BoundObjective
    from .types import Noised, Tokens


@dataclass(frozen=True, slots=True)
class Student:
    """A loaded model, what is attached to it, and the objective: all that a task needs to compute a loss."""

    model: DiffusionModel
    attachments: Sequence[Attachment]
    objective: BoundObjective
    autocast: torch.dtype | None = None
    """Compute dtype of the forward pass; None computes in the weights' own."""

    def predict(self, noised: Noised, text: Cond | Tokens) -> Tensor:
        """What the denoiser says about x_t, (B, C, h, w)."""
        import torch

        device = noised.x_t.device.type
        with torch.autocast(device, dtype=self.autocast, enabled=self.autocast is not None):
            cond = text if isinstance(text, Cond) else self.model.encode_text(text)
            return self.model.denoise(noised.x_t, noised.timestep, cond)

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Within it the model is the pretrained one, without its adapters, and nothing has a gradient."""
        import torch

        with ExitStack() as stack:
            for attachment in self.attachments:
                stack.enter_context(attachment.disabled())
            stack.enter_context(torch.no_grad())
            yield

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is the one that the run began with, and nothing has a gradient.

        That is the pretrained one with what its adapters began as (`init_from`), if anything.
        """
        import torch

        with ExitStack() as stack:
            for attachment in self.attachments:
                stack.enter_context(attachment.at_start())
            stack.enter_context(torch.no_grad())
            yield
