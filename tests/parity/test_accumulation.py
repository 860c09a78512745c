"""512 micro-batches of one picture make the step of one batch of 512, in the memory of one."""

from __future__ import annotations

import weakref

import pytest
import torch
from tiny_run import TinyRun

UNITS = 512


def test_accumulating_512_is_one_batch_of_512(sd35_folder):
    many = TinyRun(sd35_folder, batch=1, accumulate=UNITS)
    one = TinyRun(sd35_folder, batch=UNITS, accumulate=1)
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


def kept(run: TinyRun) -> int:
    Held.now = Held.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        run.go(1)
    assert Held.now == 0
    return Held.peak


def test_activations_do_not_grow_with_accumulation(sd35_folder):
    two, many = (kept(TinyRun(sd35_folder, batch=1, accumulate=count)) for count in (2, 24))
    assert two == many > 0
    assert kept(TinyRun(sd35_folder, batch=24, accumulate=1)) > 10 * many, "the count would see a large batch"
