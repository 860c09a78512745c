"""The one training loop. It knows no backbone, adapter or task by name, and waits for no device between boundaries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from .training import Training, parts_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .draws import Draws
    from .processes import Processes
    from .sections import Train
    from .student import Student
    from .tasks import Task
    from .types import Batch


class MicroBatches(Protocol):
    """A step's micro-batches of this process. Each may be made when its turn comes, and let go after it."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


class Steps(Protocol):
    """The micro-batches of each step."""

    def __getitem__(self, step: int) -> MicroBatches: ...


def fit(
    student: Student,
    task: Task,
    training: Training,
    batches: Iterable[tuple[int, Iterable[Batch]]],
    *,
    steps: int,
    settings: Train,
    draws: Draws,
    processes: Processes,
    boundary: Callable[[int], bool],
) -> None:
    """Train over `batches`, (step, micro-batches) in order.

    `boundary(done)` is called after each step with the number of steps done; where it says so the loop ends. It alone
    logs, samples and saves, and it alone may wait for the device.
    """
    for step, micro_batches in batches:
        training.freeze_pivots(step, steps)
        factor = settings.schedule.factor(step, steps)
        for group, peak in zip(training.optimizer.param_groups, training.peaks, strict=True):
            group["lr"] = peak * factor
        sums = accumulate(student, task, training, micro_batches, step=step, draws=draws, processes=processes)
        update(training, sums, step=step, max_grad_norm=settings.max_grad_norm)
        if boundary(step + 1):
            return


def accumulate(
    student: Student,
    task: Task,
    training: Training,
    micro_batches: Iterable[Batch],
    *,
    step: int,
    draws: Draws,
    processes: Processes,
) -> dict[str, Tensor]:
    """Forward and backward over a step's micro-batches; gives the step's numbers, summed over all processes.

    The losses only add up: their weights already sum to 1 over the whole step.
    """
    import torch

    scale = training.guard.scale
    sums = {name: torch.zeros_like(scale) for name in training.tally.parts}
    for index, batch in enumerate(micro_batches):
        # Dropout draws from torch's own generator: its state is a function of the step too.
        seed = draws.torch_seed("model", step, processes.rank + index * processes.count)
        torch.manual_seed(seed)
        with student.model.varied(seed):
            loss = task.loss(student, batch)
        (loss.total * scale if training.guard.scaled else loss.total).backward()
        for name, value in parts_of(loss).items():
            sums[name] += value
    if processes.count > 1:
        active = training.active()
        for p in active:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        processes.add_up([*(p.grad for p in active if p.grad is not None), *sums.values()])
    return sums


def update(training: Training, sums: dict[str, Tensor], *, step: int, max_grad_norm: float | None) -> None:
    """Check, clip, update. A step whose loss or gradient is not finite moves nothing."""
    import torch

    guard = training.guard
    grads = training.gradients()
    norm = guard.check(sums["loss"], grads, step)
    if max_grad_norm is not None:
        clip(grads, norm, max_grad_norm)
    training.optimizer.found_inf = guard.found  # type: ignore[attr-defined]  # honoured by torch's fused optimizers
    training.optimizer.step()
    training.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        if training.average:
            training.average.update(step, guard.found)
        training.tally.add({**sums, "grad_norm": norm}, guard.found)


def clip(grads: Sequence[Tensor], norm: Tensor, largest: float) -> None:
    """Scale the gradients so that their common norm is at most `largest`, in place and without a host sync."""
    import torch

    if grads:
        # The same small constant as torch.nn.utils.clip_grad_norm_.
        torch._foreach_mul_(list(grads), (largest / (norm + 1e-6)).clamp(max=1.0))  # pyright: ignore[reportPrivateImportUsage]


def prefetched(batches: Steps, steps: range, device: torch.device) -> Iterator[tuple[int, Iterator[Batch]]]:
    """(step, its micro-batches on the device), the next micro-batch made in a thread while this one trains.

    No others are in memory, however many make up a step; each step's must be gone through before the next step is asked
    for. They are a pure function of its number, so being early changes nothing.
    """

    def made() -> Iterator[tuple[Batch | None, bool]]:
        """Each micro-batch, and whether it is the last of its step; None where this process has none of a step."""
        for step in steps:
            left = len(micro_batches := batches[step])
            if not left:
                yield None, True
            for batch in micro_batches:
                left -= 1
                yield pinned(batch) if device.type == "cuda" else batch, not left

    with ThreadPoolExecutor(1, "batches") as pool:
        line, end = made(), (None, True)
        ahead = pool.submit(next, line, end)

        def of_step() -> Iterator[Batch]:
            nonlocal ahead
            last = False
            while not last:
                batch, last = ahead.result()
                ahead = pool.submit(next, line, end)
                if batch is not None:
                    yield batch.to(device)

        for step in steps:
            yield step, of_step()


def pinned(batch: Batch) -> Batch:
    """The same batch in page-locked memory, from which copies to the GPU do not wait."""
    from dataclasses import replace

    from .types import Cond, Tokens

    text = batch.text
    if isinstance(text, Cond):
        text = Cond({k: v.pin_memory() for k, v in text.tensors.items()})
    else:
        text = Tokens({k: v.pin_memory() for k, v in text.ids.items()}, text.cut)
    return replace(
        batch,
        latents=batch.latents.pin_memory(),
        draws={k: v.pin_memory() for k, v in batch.draws.items()},
        text=text,
        weight=batch.weight.pin_memory(),
    )
