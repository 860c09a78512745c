"""512 micro-batches of one picture make the step of one batch of 512, in the memory of one."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import pytest
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
UNITS = 512
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


class Run:
    """A LoRA on the tiny model, its numbers so far, and steps of any division."""

    def __init__(self, folder, *, batch: int, accumulate: int, precision: torch.dtype | None = None) -> None:
        model = load_sd35(folder, t5_length=8)
        del model.denoiser.transformer_blocks[:-1]  # one is enough, and 512 of them take seconds
        cond = {caption: model.read([caption], CPU).tensors for caption in CAPTIONS}
        draws, roles = Draws(0), [Role("images")]
        pictures = [Picture(f"p{i}", (c,), w) for i, (c, w) in enumerate(zip(CAPTIONS, WEIGHTS, strict=True))]
        entries = [Entry(picture.uid, UNITS, (32, 32)) for picture in pictures]
        order = Order(draws, {"images": entries}, batch=batch, unit_count=batch * accumulate)
        texts = lambda said: Cond({name: torch.cat([cond[c][name] for c in said]) for name in cond[said[0]]})  # noqa: E731
        objective = Objective.read("rectified_flow")
        sources = (Pictures(), texts, Recital(0.0, {}))
        self.batches = Batches(order, roles, {"images": pictures}, sources, objective.needs(), draws)
        attachment = LoRA(rank=2).attach(model, keep_base=False, draws=draws)
        self.task, self.draws = Task.read("finetune"), draws
        self.settings = Train(steps=4, batch=batch, accumulate=accumulate, lr=1e-3)
        self.student = Student(model, [attachment], objective.bind(model.scheduler, CPU), precision)
        self.training = Training.of([attachment], self.settings, CPU, (), scaled=False)

    def go(self, steps: int) -> None:
        batches = prefetched(self.batches, range(steps), CPU)
        fit(
            self.student, self.task, self.training, batches, steps=steps, settings=self.settings, draws=self.draws,
            processes=Processes(), boundary=lambda done: False,
        )  # fmt: skip

    def gradients(self) -> dict[str, torch.Tensor]:
        """Of the first step, clipped: a tenth of it is Adam's first moment."""
        moments = self.training.tensors()["optimizer"]
        return {name: moment * 10 for name, moment in moments.items() if name.endswith("exp_avg")}


def test_accumulating_512_is_one_batch_of_512(sd35_folder):
    many = Run(sd35_folder, batch=1, accumulate=UNITS)
    one = Run(sd35_folder, batch=UNITS, accumulate=1)
    assert len(many.batches[0]) == UNITS
    assert len(one.batches[0]) == 1
    many.go(1)
    one.go(1)
    theirs, largest = one.gradients(), 0.0
    for name, gradient in many.gradients().items():
        largest = max(largest, float((gradient - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-30)))
    assert any(bool(g.any()) for g in theirs.values())
    assert largest < 2e-5, "they agree to float32's rounding"
    a, b = many.training.tally.read(), one.training.tally.read()
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
    assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-5)


class Held:
    """What autograd keeps for a backward pass, counted while it is kept."""

    now = peak = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Held.now += tensor.nbytes
        Held.peak = max(Held.peak, Held.now)
        weakref.finalize(self, Held.drop, tensor.nbytes)

    @staticmethod
    def drop(size: int) -> None:
        Held.now -= size


def kept(run: Run) -> int:
    Held.now = Held.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run.go(1)
    assert Held.now == 0
    return Held.peak


def test_activations_do_not_grow_with_accumulation(sd35_folder):
    two, many = (kept(Run(sd35_folder, batch=1, accumulate=count)) for count in (2, 24))
    assert two == many > 0
    assert kept(Run(sd35_folder, batch=24, accumulate=1)) > 10 * many, "the count would see a large batch"
