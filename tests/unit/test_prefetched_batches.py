"""Micro-batches come one by one from a thread: in order, as they would be without it, and few of them at a time."""

from __future__ import annotations

import threading
import weakref
from collections import Counter

import pytest
import torch

from tuner.data.batches import Batches, Recital
from tuner.data.order import Entry, Order
from tuner.data.scan import Example
from tuner.draws import Draws
from tuner.loop import prefetched
from tuner.types import Batch, Cond, Draw, Posterior, Role

CPU = torch.device("cpu")
NEEDS = {"noise": Draw("normal", "latent"), "level": Draw("uniform", "scalar")}


class Pictures:
    """Posteriors of nothing; it keeps count of the latents that are alive."""

    def __init__(self, counted: Alive) -> None:
        self.counted = counted

    def posteriors(self, looks):
        width, height = looks[0].bucket
        zeros = torch.zeros(len(looks), 4, height // 8, width // 8)
        self.counted.see(zeros)
        return Posterior(zeros, self.counted.see(torch.zeros_like(zeros)))


class Alive:
    """Bytes of the tensors that it was shown and that are still there."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.lock = threading.Lock()

    def see(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.nbytes
        weakref.finalize(tensor, self._gone, size)
        with self.lock:
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor

    def _gone(self, size: int) -> None:
        with self.lock:
            self.now -= size


class Counted(Batches):
    """Batches whose every tensor is counted while it lives."""

    def __init__(self, *args, alive: Alive, **keys) -> None:
        super().__init__(*args, **keys)
        self.alive = alive

    def _batch(self, micro, totals) -> Batch:
        batch = super()._batch(micro, totals)
        for tensor in (batch.latents, *batch.draws.values(), *batch.text.tensors.values(), batch.weight):
            self.alive.see(tensor)
        return batch


def example(name: str) -> Example:
    fields = {"uid": name, "name": f"{name}.png", "captions": ("a dog",), "weight": 1.0, "caption_weights": ()}
    return type("Picture", (), fields)()


def made(accumulate: int, *, batch: int = 1, process=(0, 1)) -> tuple[Counted, Alive]:
    alive, draws = Alive(), Draws(0)
    examples = {"images": [example(f"p{i}") for i in range(4)]}
    entries = {"images": [Entry(e.uid, 32, (32, 32)) for e in examples["images"]]}
    order = Order(draws, entries, batch=batch, unit_count=batch * accumulate * process[1])
    sources = (Pictures(alive), lambda captions: Cond({"text": torch.zeros(len(captions), 7, 5)}), Recital(0.0, {}))
    batches = Counted(order, [Role("images")], examples, sources, NEEDS, draws, process=process, alive=alive)
    return batches, alive


def values(batch: Batch) -> list[torch.Tensor]:
    return [batch.latents, *batch.draws.values(), *batch.text.tensors.values(), batch.weight]


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def test_they_are_those_that_are_made_without_a_thread():
    batches, _ = made(6, batch=2)
    seen = [(step, list(micro)) for step, micro in prefetched(batches, range(3, 9), CPU)]
    assert [step for step, _ in seen] == list(range(3, 9))
    for step, micro in seen:
        assert len(micro) == 6
        assert all(same(a, b) for a, b in zip(micro, batches[step], strict=True))


def test_the_short_last_step_of_an_epoch_is_short_and_goes_on():
    batches, _ = made(50)  # an epoch has 128 units
    counts = Counter({step: len(list(micro)) for step, micro in prefetched(batches, range(6), CPU)})
    assert sorted(counts.values()) == [28, 28, 50, 50, 50, 50]


def test_a_process_without_a_share_of_a_step_goes_through_none():
    batches, _ = made(30, process=(1, 2))
    whole = {step: len(batches[step]) for step in range(6)}
    parts = {step: len(list(micro)) for step, micro in prefetched(batches, range(6), CPU)}
    assert parts == whole
    alone = Counted(
        Order(Draws(0), {"images": [Entry("p0", 1, (32, 32))]}, batch=1, unit_count=2),
        batches.roles, {"images": batches.examples["images"][:1]}, (batches.pictures, batches.texts, batches.recital),
        NEEDS, Draws(0), process=(1, 2), alive=Alive(),
    )  # fmt: skip
    assert [(step, list(micro)) for step, micro in prefetched(alone, range(3), CPU)] == [(0, []), (1, []), (2, [])]


def test_a_fault_in_the_thread_reaches_the_loop_at_its_micro_batch():
    batches, _ = made(4)
    real = batches.texts
    calls = iter(range(100))

    def texts(captions):
        if next(calls) == 6:
            raise OSError("the disk is gone")
        return real(captions)

    batches.texts = texts
    went = []

    def go() -> None:
        for _, micro in prefetched(batches, range(3), CPU):
            went.extend(1 for _ in micro)

    with pytest.raises(OSError, match="the disk is gone"):
        go()
    assert len(went) == 6


def peak(accumulate: int) -> int:
    batches, alive = made(accumulate)
    for _, micro in prefetched(batches, range(3), CPU):
        for _ in micro:
            pass
    return alive.peak


def test_memory_does_not_grow_with_accumulation():
    one = sum(tensor.nbytes for tensor in values(next(iter(made(1)[0][0]))))
    posterior = 2 * 4 * 4 * 4 * 4
    for accumulate in (1, 4, 128):
        # the one that trains, the one that follows and the one that is being made as the two change places
        assert peak(accumulate) <= 3 * one + posterior, accumulate


def test_the_next_one_is_made_while_this_one_trains():
    """Of a step with a single micro-batch, too: the thread is at the next step meanwhile."""
    batches, _ = made(1)
    begun = [threading.Event() for _ in range(4)]
    real, number = batches.texts, iter(range(100))

    def texts(captions):
        if (at := next(number)) < len(begun):
            begun[at].set()
        return real(captions)

    batches.texts = texts
    for step, micro in prefetched(batches, range(3), CPU):
        for _ in micro:
            if step < 2:
                assert begun[step + 1].wait(20), "nothing was made ahead"


def test_an_epoch_is_ordered_once_a_step_not_once_a_micro_batch(monkeypatch):
    """A large step would else take the square of its size."""
    batches, _ = made(64)
    calls = []
    real = batches.order.step
    monkeypatch.setattr(batches.order, "step", lambda step: calls.append(step) or real(step))
    assert sum(len(list(micro)) for _, micro in prefetched(batches, range(2), CPU)) == 128
    assert calls == [0, 1]
