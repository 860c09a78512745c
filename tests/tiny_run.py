"""A few steps of a LoRA on the tiny SD3.5-shaped model, without the engine: batches, thread, loop and optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tiny_sd35 import load_sd35

from tuner.adapters.lora import LoRA
from tuner.data.batches import Batches, Recital
from tuner.data.order import Entry, Order
from tuner.draws import Draws
from tuner.loop import fit, prefetched
from tuner.objectives import Objective
from tuner.processes import Processes
from tuner.sections import Train
from tuner.student import Student
from tuner.tasks import Task
from tuner.training import Training
from tuner.types import Cond, Posterior, Role

CPU = torch.device("cpu")
REPEATS = 512
CAPTIONS = ("a photo of a dog", "a red cup", "a cat on grass")
WEIGHTS = (1.0, 0.5, 2.0)
"""Of the pictures: a mean of means would be another step than their weighted sum."""


@dataclass(frozen=True)
class Picture:
    uid: str
    captions: tuple[str, ...]
    weight: float
    name: str = ""
    caption_weights: tuple[float, ...] = ()


class Pictures:
    """Latents of 4 x 4 that follow from the picture."""

    def posteriors(self, looks):
        means = [Draws(5).normal((16, 4, 4), "picture", look.example.uid) for look in looks]
        mean = torch.stack([torch.from_numpy(m) for m in means])
        return Posterior(mean, torch.full_like(mean, -6.0))


class TinyRun:
    """A LoRA on the tiny model, its numbers so far, and steps of any division."""

    def __init__(
        self, folder: Path, *, batch: int, accumulate: int, dtype: torch.dtype | None = None, **lora: object
    ) -> None:
        model = load_sd35(folder, t5_length=8)
        del model.denoiser.transformer_blocks[:-1]  # one is enough, and 512 of them take seconds
        cond = {caption: model.read([caption], CPU).tensors for caption in CAPTIONS}
        if dtype:
            for parameter in model.denoiser.parameters():
                parameter.data = parameter.data.to(dtype)
        draws, roles = Draws(0), [Role("images")]
        pictures = [Picture(f"p{i}", (c,), w) for i, (c, w) in enumerate(zip(CAPTIONS, WEIGHTS, strict=True))]
        entries = [Entry(picture.uid, REPEATS, (32, 32)) for picture in pictures]
        order = Order(draws, {"images": entries}, batch=batch, unit_count=batch * accumulate)
        texts = lambda said: Cond({name: torch.cat([cond[c][name] for c in said]) for name in cond[said[0]]})  # noqa: E731
        objective = Objective.read("rectified_flow")
        sources = (Pictures(), texts, Recital(0.0, {}))
        self.batches = Batches(order, roles, {"images": pictures}, sources, objective.needs(), draws)
        attachment = LoRA(**{"rank": 2, **lora}).attach(model, keep_base=False, draws=draws)
        self.task, self.draws = Task.read("finetune"), draws
        self.settings = Train(steps=4, batch=batch, accumulate=accumulate, lr=1e-3)
        self.student = Student(model, [attachment], objective.bind(model.scheduler, CPU), dtype)
        self.training = Training.of([attachment], self.settings, CPU, (), scaled=False)

    def go(self, steps: int, *, start: int = 0) -> None:
        batches = prefetched(self.batches, range(start, steps), CPU)
        fit(
            self.student, self.task, self.training, batches, steps=steps, settings=self.settings, draws=self.draws,
            processes=Processes(), boundary=lambda done: False,
        )  # fmt: skip

    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the first step, clipped: a tenth of it is Adam's first moment."""
        moments = self.training.tensors()["optimizer"]
        return {name: moment * 10 for name, moment in moments.items() if name.endswith("exp_avg")}
