"""What a step changes: weights, optimizer, average, counters. A checkpoint holds all of it, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .optim.ema import Average
from .optim.guard import Guard

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from .adapters import Attachment
    from .sections import Train
    from .types import Loss, ParamGroup

Tensors = Mapping[str, Mapping[str, "Tensor"]]


class Tally:
    """Sums over the steps of a log interval, on the device; `read` is the one place that waits for it."""

    def __init__(self, device: torch.device, names: Sequence[str]) -> None:
        import torch

        self.parts = ("loss", *names)
        """What a step's micro-batches add up to."""
        self.sums = {name: torch.zeros((), device=device) for name in ("steps", "loss", "grad_norm", *names)}

    def add(self, values: Mapping[str, Tensor], found: Tensor) -> None:
        """One step's numbers; a step that moved nothing does not count."""
        import torch

        kept = 1 - found
        self.sums["steps"] += kept
        for name, value in values.items():
            self.sums[name] += torch.where(found > 0, 0.0, value.float())

    def read(self, *, interval_ends: bool = True) -> dict[str, float]:
        """Means over the interval so far; empty where every step was bad. Starts the next one where it ends."""
        import torch

        values = dict(zip(self.sums, torch.stack(list(self.sums.values())).tolist(), strict=True))
        for total in self.sums.values() if interval_ends else ():
            total.zero_()
        steps = values.pop("steps")
        return {name: value / steps for name, value in values.items()} if steps else {}


@dataclass(frozen=True)
class Training:
    """Everything that moves while training."""

    attachments: Sequence[Attachment]
    groups: Sequence[ParamGroup]
    optimizer: torch.optim.Optimizer
    guard: Guard
    average: Average | None
    tally: Tally
    peaks: Sequence[float] = field(default=())
    """Peak learning rate of each group."""
    in_backward: bool = False
    """Whether the backward pass uses its gradients up."""

    @classmethod
    def of(
        cls,
        attachments: Sequence[Attachment],
        train: Train,
        device: torch.device,
        parts: Sequence[str],
        *,
        scaled: bool,
    ) -> Training:
        """Fresh optimizer, average and counters for what the attachments train.

        Args:
            parts: names of the numbers that the task logs beside the total.
            scaled: whether the loss is scaled (fp16).

        Raises: UsageError where the optimizer cannot do what is asked here.
        """
        groups = [group for attachment in attachments for group in attachment.param_groups()]
        if train.optimizer_in_backward and scaled:
            raise UsageError(
                "train.optimizer_in_backward cannot scale the loss, which fp16 needs and this GPU trains in",
                "set train.precision: fp32, or optimizer_in_backward: false",
            )
        live = {name: p for group in groups for name, p in group.params.items()}
        ema = train.ema
        return cls(
            attachments,
            groups,
            train.optimizer.build(groups, train.lr, seed=train.seed, in_backward=train.optimizer_in_backward),
            Guard(device, scaled=scaled),
            Average(live, decay=ema.decay, every=ema.every) if ema else None,
            Tally(device, parts),
            tuple(group.peak(train.lr) for group in groups),
            train.optimizer_in_backward,
        )

    def active(self) -> list[nn.Parameter]:
        """Parameters that still train."""
        return [p for group in self.groups for p in group.params.values() if p.requires_grad]

    def gradients(self) -> list[Tensor]:
        """The gradients of what still trains; where they were used up, one number with their common norm."""
        if self.in_backward:
            return self.optimizer.used_up()  # type: ignore[attr-defined]  # what `in_backward` builds has it
        return [p.grad for p in self.active() if p.grad is not None]

    def freeze_pivots(self, step: int, steps: int) -> None:
        """Take groups past their `until` out of the gradient, the norm and the update."""
        for group in self.groups:
            if step >= group.until * steps:
                for p in group.params.values():
                    p.requires_grad_(False)
                    p.grad = None

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """The state by group, live tensors."""
        out: dict[str, dict[str, Tensor]] = {}
        for i, attachment in enumerate(self.attachments):
            out[f"adapter.{i}"] = attachment.state_dict()
        moments = self.optimizer.state_dict()["state"]
        out["optimizer"] = {f"{i}.{name}": value for i, own in moments.items() for name, value in own.items()}
        if self.average:
            out["ema"] = dict(self.average.tensors)
        out["counters"] = {
            **{f"guard.{name}": value for name, value in self.guard.state().items()},
            **{f"tally.{name}": value for name, value in self.tally.sums.items()},
        }
        return out

    def restore(self, tensors: Tensors) -> None:
        """Put back what `tensors` gave, bit for bit.

        Raises: ValueError where the state does not fit what is being trained.
        """
        for i, attachment in enumerate(self.attachments):
            attachment.load_state_dict(tensors[f"adapter.{i}"])
        moments: dict[int, dict[str, Any]] = {}
        for key, value in tensors["optimizer"].items():
            index, _, name = key.partition(".")
            moments.setdefault(int(index), {})[name] = value
        described = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": described["param_groups"]})
        if self.average:
            self.average.restore(tensors["ema"])
        counters = tensors["counters"]
        self.guard.restore({key.removeprefix("guard."): value for key, value in counters.items()})
        for name, total in self.tally.sums.items():
            total.copy_(counters[f"tally.{name}"])


def parts_of(loss: Loss) -> dict[str, Tensor]:
    """A loss's detached numbers by the name they are logged under."""
    return {"loss": loss.total.detach(), **loss.parts}
