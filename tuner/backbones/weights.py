"""One component's weights: on disk until they are wanted, in its module while they are, and away again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import loading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    import torch
    from torch import Tensor, nn


def read_now(weights: Mapping[str, Weights], names: Collection[str] | None, device: torch.device) -> None:
    """Read the weights of some components onto a device, None of all, and check the files of the others.

    Raises: DataError as `Weights.check`.
    """
    for name, own in weights.items():
        if names is None or name in names:
            own.fetch(device)
        else:
            own.check()


class Weights:
    """Gives a module its weights and takes them away; the module itself, and all that was set up on it, stays.

    A module without weights has its parameters on the device `meta`, in the type that they will have: it can be
    counted and copied, and to compute with it is an error.

    Args:
        module: built under `loading.empty`.
        read: gives its tensors by parameter name, memory-mapped.
        source: file or folder to name in errors.
        dtype: what floating-point weights are cast to.
        surplus: endings of keys that old files carry and nothing needs.
        finish: called with the tensors and the device when the weights are in.
    """

    def __init__(
        self,
        module: nn.Module,
        read: Callable[[], Mapping[str, Tensor]],
        source: Path,
        *,
        dtype: torch.dtype,
        surplus: Sequence[str] = (),
        finish: Callable[[Mapping[str, Tensor], torch.device], None] | None = None,
    ) -> None:
        self.module, self.source, self.dtype, self.surplus = module, source, dtype, surplus
        self._read, self._finish = read, finish
        self.release()

    @property
    def present(self) -> bool:
        """Whether the module can compute."""
        return next(self.module.parameters()).device.type != "meta"

    def check(self) -> None:
        """Look at the files' headers. Raises: DataError unless each weight is there in its shape."""
        loading.require_fit(self.module, self._read(), self.source, self.surplus)

    def tensors(self) -> Mapping[str, Tensor]:
        """Its tensors as they lie on disk, memory-mapped, by parameter name. Raises: DataError as `check`."""
        return loading.require_fit(self.module, self._read(), self.source, self.surplus)

    def fetch(self, device: torch.device) -> None:
        """Read the weights onto a device, frozen and in eval mode. Raises: DataError as `check`."""
        tensors = self._read()
        loading.fill(self.module, tensors, self.source, device=device, dtype=self.dtype, surplus=self.surplus)
        if self._finish:
            self._finish(tensors, device)

    def release(self) -> None:
        """Take the weights out of memory."""
        import torch

        on_gpu = any(p.device.type == "cuda" for p in self.module.parameters())
        for part in self.module.modules():
            for name, value in list(part.named_parameters(recurse=False)):
                kind = self.dtype if value.is_floating_point() else value.dtype
                hollow = torch.empty(value.shape, dtype=kind, device="meta")
                setattr(part, name, torch.nn.Parameter(hollow, requires_grad=False))
            for name, buffer in list(part.named_buffers(recurse=False)):
                kept = name not in part._non_persistent_buffers_set
                part.register_buffer(name, buffer.to("meta" if kept else "cpu"), persistent=kept)
        self.module.requires_grad_(requires_grad=False).eval()
        if on_gpu:
            torch.cuda.empty_cache()
