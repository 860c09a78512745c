"""Where a run computes, and in what precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import UsageError

if TYPE_CHECKING:
    import torch

    from .sections import Train


@dataclass(frozen=True, slots=True)
class Place:
    """A device and what is computed on it."""

    device: torch.device
    precision: str
    """fp32, bf16 or fp16."""

    @property
    def name(self) -> str:
        """For people."""
        import torch

        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type.upper()

    @property
    def memory(self) -> int:
        """Bytes of the device's memory; main memory where it computes there."""
        import torch

        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        import psutil

        return psutil.virtual_memory().total

    @property
    def weights(self) -> torch.dtype:
        """Dtype of the frozen denoiser and text encoders."""
        import torch

        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    @property
    def autocast(self) -> torch.dtype | None:
        """Dtype that the forward pass computes in around the fp32 adapters; None where everything is fp32."""
        return None if self.precision == "fp32" else self.weights

    @property
    def scaled(self) -> bool:
        """Whether the loss needs a scale: fp16 gradients vanish below 6e-8."""
        return self.precision == "fp16"


def choose(train: Train) -> Place:
    """The device and precision that the recipe asks for, or the best there is.

    Raises: UsageError where the recipe names what this machine lacks.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    found = [name for name, present in there.items() if present]
    name = found[0] if train.device == "auto" else train.device
    if name not in found:
        hint = f"there is {', '.join(found)}; `tuner doctor` says more"
        raise UsageError(f"train.device: {name} is not on this machine", hint)
    precision = train.precision
    if precision == "auto":
        wide = name == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if wide else "fp16" if name == "cuda" else "fp32"
    return Place(torch.device(name), precision)
