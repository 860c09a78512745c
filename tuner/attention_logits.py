"""The largest attention logit of a denoiser's forward pass, which grows before 16-bit training diverges.

Without normalised queries and keys attention logits can grow until bfloat16 no longer resolves them and the loss
diverges (Dehghani et al. 2023, sec. 2; Esser et al. 2024, sec. 5.3.2 and fig. 5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

LOGITS_AT_ONCE = 2**25
"""Values of q k^T that are in memory at a time."""


class LargestLogit:
    """The maximum of q . k / sqrt(d) over all attentions, heads and pairs of tokens, exact up to the rounding of q k^T.

    Queries and keys are those that attention is computed from, so both streams of a joint attention and any
    normalisation are in them. It looks between `begin` and `end` at the forward passes of the denoiser that have a
    gradient: not at those of a teacher, a sample or a validation, and not again where a checkpointed block is computed
    a second time. Several processes each see their own share. Nothing here has a gradient, draws a number or waits for
    the device. A step that is watched computes q k^T once more, by count of operations a twentieth of the step on
    SD3 medium at 1024 px; `LOGITS_AT_ONCE` values of it are in memory at a time.
    """

    name = "attention_logit_max"

    def __init__(self, denoiser: nn.Module) -> None:
        self.denoiser = denoiser
        self._found: Tensor | None = None
        self._hooks: list[RemovableHandle] = []
        self._eye = _Eye(self)
        self._looking = False

    def begin(self) -> None:
        """Look from now on; what was seen before is forgotten."""
        self._found = None
        if not self._hooks:
            self._hooks = [
                self.denoiser.register_forward_pre_hook(self._open),
                self.denoiser.register_forward_hook(self._close, always_call=True),
            ]

    def end(self) -> Tensor | None:
        """Stop looking. What was seen: a scalar on the device, float32; None where no attention was computed."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        found, self._found = self._found, None
        return found

    def see(self, query: Tensor, key: Tensor, scale: float | None) -> None:
        """Take an attention into account."""
        found = largest(query, key, scale)
        self._found = found if self._found is None else torch.maximum(self._found, found)

    def _open(self, *_: Any) -> None:
        if torch.is_grad_enabled() and not self._looking:
            self._looking = True
            self._eye.__enter__()

    def _close(self, *_: Any) -> None:
        if self._looking:
            self._looking = False
            self._eye.__exit__(None, None, None)


class _Eye(TorchFunctionMode):
    """Sees every call of torch's attention and leaves it as it is."""

    def __init__(self, owner: LargestLogit) -> None:
        super().__init__()
        self.owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            query, key = (args[i] if len(args) > i else kwargs[name] for i, name in enumerate(("query", "key")))
            self.owner.see(query, key, kwargs.get("scale"))
        return func(*args, **kwargs)


def largest(query: Tensor, key: Tensor, scale: float | None = None) -> Tensor:
    """The maximum of scale * q . k over everything, a float32 scalar without gradient.

    Args:
        query: (B, H, Lq, d).
        key: (B, H, Lk, d).
        scale: None stands for 1 / sqrt(d).
    """
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        # float16 ends at 65504, which q . k may pass while the attention, computed in float32, does not.
        kind = torch.float32 if query.dtype == torch.float16 else query.dtype
        columns = key.detach().to(kind).transpose(-2, -1)
        rows = max(1, LOGITS_AT_ONCE // max(1, columns.numel() // columns.shape[-2]))
        parts = [(part.to(kind) @ columns).amax() for part in query.detach().split(rows, dim=-2)]
        return torch.stack(parts).amax().float() * (query.shape[-1] ** -0.5 if scale is None else scale)
