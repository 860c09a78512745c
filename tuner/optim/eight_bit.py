"""AdamW that remembers its moments in 8 bits, block by block (Dettmers et al. 2022), through bitsandbytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from .one_by_one import SteadyAdamW

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 256
"""Numbers that share a scale, as in bitsandbytes' own optimizers."""
SMALL = 4096
"""Smaller tensors keep their moments in float32, as there: they weigh nothing and some of them need the precision."""
INSTALL = "install it: pip install 'diffusion-tuner[cuda]' (or pip install bitsandbytes)"


def _functional() -> Any:
    """Bitsandbytes' functions. Raises: UsageError where it is not installed or does not run here."""
    try:
        import bitsandbytes.functional as functional  # pyright: ignore[reportMissingImports]  # an extra
    except (ImportError, RuntimeError, OSError) as error:  # its library may lack this machine's kernels
        raise UsageError(f"train.optimizer: adamw8bit needs bitsandbytes: {error}", INSTALL) from error
    return functional


class EightBitAdamW(SteadyAdamW):
    """AdamW whose moments are bytes and a scale a block; the arithmetic is float32.

    Args:
        groups, betas, eps, seed, in_backward: as in the base class.

    Raises: UsageError where bitsandbytes is not there.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], eps: float, seed: int, in_backward: bool
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, seed=seed, in_backward=in_backward)
        self.functional = _functional()
        self.maps: dict[tuple[str, torch.device], Tensor] = {}

    def _map(self, name: str, device: torch.device) -> Tensor:
        """What each of the 256 bytes stands for; the second moment has no sign."""
        if (name, device) not in self.maps:
            self.maps[name, device] = self.functional.create_dynamic_map(signed=name == "exp_avg").to(device)
        return self.maps[name, device]

    def store(self, name: str, moment: Tensor) -> dict[str, Tensor]:
        if moment.numel() < SMALL:
            return {name: moment}
        code = self._map(name, moment.device)
        flat = moment.contiguous().view(-1)
        quantised, state = self.functional.quantize_blockwise(flat, code=code, blocksize=BLOCK)
        return {name: quantised, f"{name}_scale": state.absmax}

    def recall(self, name: str, state: Mapping[str, Tensor], like: Tensor) -> Tensor:
        if f"{name}_scale" not in state:
            return state[name]
        code = self._map(name, like.device)
        flat = self.functional.dequantize_blockwise(
            state[name], absmax=state[f"{name}_scale"], code=code, blocksize=BLOCK
        )
        return flat.view_as(like)
